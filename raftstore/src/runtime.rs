//! A store that runs: its machines behind routers, and who carries out what they ask for.
//!
//! Nothing here starts a thread. Production gives the pollers and the log writer threads of their
//! own; the simulator steps them by a seed. What reaches the outside world (reads off the pollers,
//! PD) goes through [`World`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use flotilla_engine::{EngineError, FlushReason, Pressure, RaftLog, SnapshotError, StateStore};
use flotilla_proto::clock::Mono;
use flotilla_proto::raft::MessageKind;
use flotilla_proto::store::PeerMessage;
use flotilla_router::{
    Executor, Lane, LogConfig, LogSink, LogWriter, Outgoing, OutgoingConfig, Routed, Router,
    RouterConfig, SendError,
};

use crate::apply::Apply;
use crate::boot::Boot;
use crate::effects::{
    ApplyEffects, Fetch, LogWrite, MetaRole, Outbound, PdTask, PeerInput, RaftEffects, RaftInput,
    Release, Retired, SizeCheck, Spawn, StoreInput,
};
use crate::events::RegionEvent;
use crate::store::RaftMachine;
use crate::{Delegates, DurableWatch, PROBE_TARGET, STORE_ADDRESS, SnapshotTask, StartError};

/// Inputs that may wait in the mailbox of one machine.
pub const MAILBOX_INPUTS_MAX: usize = 4_096;

/// Bounds of what lies between the machines of a store.
#[derive(Clone, Debug)]
pub struct RuntimeLimits {
    /// Inputs that may wait in the mailbox of one machine.
    pub mailbox_inputs_max: usize,
    /// The mailboxes of raft machines together.
    pub raft: RouterConfig,
    /// The mailboxes of apply machines together.
    pub apply: RouterConfig,
    /// The log writer.
    pub log: LogConfig,
    /// Messages to other stores.
    pub outgoing: OutgoingConfig,
}

impl Default for RuntimeLimits {
    fn default() -> Self {
        Self {
            mailbox_inputs_max: MAILBOX_INPUTS_MAX,
            raft: RouterConfig::default(),
            apply: RouterConfig::default(),
            log: LogConfig::default(),
            outgoing: OutgoingConfig::default(),
        }
    }
}

/// Why the store must stop.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreFatal {
    /// The storage failed.
    #[error(transparent)]
    Engine(Arc<EngineError>),
    /// An entry cannot be applied (contracts: C36).
    #[error(transparent)]
    Entry(Arc<StartError>),
    /// A snapshot that was accepted cannot be put in place.
    #[error(transparent)]
    Snapshot(Arc<SnapshotError>),
    /// A replica contradicts what it had promised: raft's safety is broken.
    #[error("region {region}: {detail}; stop this store, keep its data folder, and report this")]
    Safety {
        /// The region.
        region: u64,
        /// What contradicts what.
        detail: String,
    },
}

impl From<EngineError> for StoreFatal {
    fn from(error: EngineError) -> Self {
        Self::Engine(Arc::new(error))
    }
}

/// The shared log as the log writer sees it.
#[derive(Debug)]
pub struct EngineLog<L>(pub Arc<L>);

impl<L: RaftLog> LogSink for EngineLog<L> {
    type Batch = LogWrite;
    type Error = StoreFatal;

    fn append(&self, batch: &LogWrite) -> Result<u64, StoreFatal> {
        Ok(self.0.append(&batch.0)?)
    }

    fn sync(&self) -> Result<u64, StoreFatal> {
        Ok(self.0.sync()?)
    }
}

/// What lies outside the store. Calls must not block.
pub trait World: Send {
    /// Read entries off the pollers by [`Fetch::read`]; what it gives goes to the peer.
    fn fetch(&mut self, fetch: Fetch);
    /// Work on a snapshot off the pollers by [`SnapshotTask::run`]; what it gives goes to the peer.
    fn snapshot(&mut self, task: SnapshotTask);
    /// Measure a region off the pollers; comes back as [`PeerInput::SizeChecked`].
    fn size_check(&mut self, check: SizeCheck);
    /// Ask or tell PD.
    fn pd(&mut self, task: PdTask);
    /// This store is PD from now on, or is not any more.
    fn meta_role(&mut self, role: MetaRole);
    /// Something happened to a region, for whoever watches the store.
    fn event(&mut self, _event: RegionEvent) {}
}

/// The parts of a running store. Cheap to clone; all clones are the same store.
pub struct Runtime<L: RaftLog, S> {
    /// Peers, and the store machine.
    pub raft: Router<RaftMachine>,
    /// Apply machines.
    pub apply: Router<Apply>,
    /// The log writer.
    pub log: LogWriter<EngineLog<L>, Vec<Release>>,
    /// The state database.
    pub state: Arc<S>,
    /// Messages to other stores.
    pub outgoing: Outgoing<Outbound>,
    /// The doors for local reads.
    pub delegates: Arc<Delegates>,
    /// The durable cut that the machines were told of last.
    told_cut: Arc<AtomicU64>,
    flush_wanted: Arc<AtomicBool>,
    mailbox_inputs_max: usize,
}

impl<L: RaftLog, S> Clone for Runtime<L, S> {
    fn clone(&self) -> Self {
        Self {
            raft: self.raft.clone(),
            apply: self.apply.clone(),
            log: self.log.clone(),
            state: Arc::clone(&self.state),
            outgoing: self.outgoing.clone(),
            delegates: Arc::clone(&self.delegates),
            told_cut: Arc::clone(&self.told_cut),
            flush_wanted: Arc::clone(&self.flush_wanted),
            mailbox_inputs_max: self.mailbox_inputs_max,
        }
    }
}

impl<L: RaftLog, S: StateStore> Runtime<L, S> {
    /// The store that was opened, ready to be stepped or given threads.
    pub fn new(boot: Boot, log: Arc<L>, state: Arc<S>) -> Self {
        Self::with_limits(boot, log, state, RuntimeLimits::default())
    }

    /// As [`Runtime::new`], with other bounds between the machines.
    pub fn with_limits(boot: Boot, log: Arc<L>, state: Arc<S>, limits: RuntimeLimits) -> Self {
        let Boot {
            store,
            regions,
            delegates,
            ..
        } = boot;
        let runtime = Self {
            raft: Router::new(limits.raft),
            apply: Router::new(limits.apply),
            log: LogWriter::new(Arc::new(EngineLog(log)), limits.log),
            state,
            outgoing: Outgoing::new(limits.outgoing),
            delegates,
            told_cut: Arc::default(),
            flush_wanted: Arc::default(),
            mailbox_inputs_max: limits.mailbox_inputs_max,
        };
        let capacity = runtime.mailbox_inputs_max;
        let store = RaftMachine::Store(store);
        let taken = runtime.raft.register(STORE_ADDRESS, store, capacity);
        assert!(taken.is_ok(), "the store's address is free");
        for spawn in regions {
            runtime.spawn(spawn);
        }
        runtime
    }

    /// Whether the state is to be flushed now, and why: looked at every 100 ms (contracts: C2).
    /// `appended_bytes` of log were written since the start; `None` while a flush runs that `watch` asked for.
    pub fn flush_due(
        &self,
        watch: &mut DurableWatch,
        now: Mono,
        appended_bytes: Option<u64>,
    ) -> Option<FlushReason> {
        watch.admin(now, self.state.first_undurable_admin().is_some());
        if self.flush_wanted.swap(false, Ordering::SeqCst) {
            watch.hurry();
        }
        watch.poll(now, appended_bytes?)
    }

    /// Carries out the effects of rounds of raft machines.
    pub fn raft_executor<W: World>(&self, world: W) -> RaftExecutor<L, S, W> {
        RaftExecutor {
            runtime: self.clone(),
            world,
        }
    }

    /// Carries out the effects of rounds of apply machines.
    pub fn apply_executor(&self, limits: ApplyLimits) -> ApplyExecutor<L, S> {
        ApplyExecutor {
            runtime: self.clone(),
            limits,
            cut: 0,
        }
    }

    /// The log is durable up to here: what waited for it goes out.
    pub fn release(&self, releases: Vec<Vec<Release>>) {
        for Release {
            region,
            life,
            number,
            cleared,
            messages,
        } in releases.into_iter().flatten()
        {
            messages.into_iter().for_each(|message| self.send(message));
            if let Some(key) = cleared {
                self.to_peer(region, PeerInput::IntentCleared { key });
            } else if region == STORE_ADDRESS {
                self.to_store(StoreInput::Persisted { number });
            } else {
                self.to_peer(region, PeerInput::Persisted { life, number });
            }
        }
    }

    /// An input that must not be lost.
    pub fn to_peer(&self, region: u64, input: PeerInput) {
        self.tell(region, RaftInput::Peer(input));
    }

    /// Looks how far the state is durable and tells the machines what is new. Owed every 100 ms
    /// (contracts: C2).
    ///
    /// # Errors
    /// The state has failed.
    pub fn publish_durable(&self) -> flotilla_engine::Result<()> {
        let risen = self.state.refresh_durable()?;
        let cut = self.state.durable_cut();
        if self.told_cut.swap(cut, Ordering::SeqCst) != cut || !risen.is_empty() {
            self.to_store(StoreInput::Durable { cut, risen });
        }
        Ok(())
    }

    /// An input for a peer, or for the store machine at [`STORE_ADDRESS`], that must not be lost.
    /// A peer that is gone, or a store that is stopping, needs it no more.
    pub fn tell(&self, address: u64, input: RaftInput) {
        let _gone = self.raft.force_send(address, input);
    }

    /// An input for the store machine that must not be lost.
    pub fn to_store(&self, input: StoreInput) {
        self.tell(STORE_ADDRESS, RaftInput::Store(input));
    }

    /// A message of another store: for its peer, or for the store machine where there is none. One
    /// that finds no room is dropped, as the network may do.
    pub fn receive(&self, message: PeerMessage) {
        let region = message.region_id;
        let kind = message.message.as_ref().map(|inner| inner.kind());
        if kind == Some(MessageKind::Snapshot) {
            // It comes with its files, by way of the store machine, or not at all.
            tracing::trace!(target: PROBE_TARGET, "snapshot: a message without its files");
            return;
        }
        let input = RaftInput::Peer(PeerInput::Message(Box::new(message)));
        let Err(error) = self.raft.send(region, input) else {
            return;
        };
        if let SendError::Closed(RaftInput::Peer(PeerInput::Message(message))) = error {
            let input = RaftInput::Store(StoreInput::Message(message));
            let _full = self.raft.send(STORE_ADDRESS, input);
        }
    }

    fn spawn(&self, spawn: Spawn) {
        let Spawn {
            region,
            peer,
            apply,
        } = spawn;
        let machine = RaftMachine::Peer(peer);
        let fresh = self
            .apply
            .register(region, *apply, self.mailbox_inputs_max)
            .is_ok()
            && self
                .raft
                .register(region, machine, self.mailbox_inputs_max)
                .is_ok();
        assert!(fresh, "region {region} runs already");
        self.raft.tick(region);
    }

    /// Raft sends again what is lost; a full queue is told as an unreachable peer.
    fn send(&self, message: Outbound) {
        if let Err(refused) = self.outgoing.push(message) {
            let region = refused.message.region_id;
            let lane = refused.lane();
            if let Some(to) = refused.message.to_peer {
                let (peer, ok) = (to.id, false);
                if lane == Lane::Snapshot {
                    self.to_peer(region, PeerInput::SnapshotSent { peer, ok });
                }
                self.to_peer(region, PeerInput::Unreachable { peer });
            }
        }
    }
}

/// See [`Runtime::raft_executor`].
pub struct RaftExecutor<L: RaftLog, S, W> {
    runtime: Runtime<L, S>,
    world: W,
}

impl<L: RaftLog, S: StateStore, W: World> Executor<RaftEffects> for RaftExecutor<L, S, W> {
    type Fatal = StoreFatal;

    fn may_run(&mut self) -> bool {
        !self.runtime.log.is_behind()
    }

    fn execute(&mut self, effects: &mut RaftEffects) -> Result<(), StoreFatal> {
        let runtime = &self.runtime;
        if let Some(fatal) = effects.fatal.take() {
            return Err(fatal);
        }
        effects
            .spawn
            .drain(..)
            .for_each(|spawn| runtime.spawn(spawn));
        for region in effects.stop.drain(..) {
            runtime.raft.close(region);
            runtime.apply.close(region);
        }
        effects
            .send_now
            .drain(..)
            .for_each(|message| runtime.send(message));
        let log = std::mem::take(&mut effects.log);
        let releases = std::mem::take(&mut effects.releases);
        if !flotilla_router::Merge::is_empty(&log) || !releases.is_empty() {
            // A log that has failed or stopped has said so itself, and the store is ending.
            let _ending = runtime.log.submit(log, releases);
        }
        if std::mem::take(&mut effects.flush) {
            runtime.flush_wanted.store(true, Ordering::SeqCst);
        }
        for (region, input) in effects.to_apply.drain(..) {
            // Its peer is handing out entries, so it is there; a region that stops owes no answers.
            let _gone = runtime.apply.force_send(region, input);
        }
        for (address, input) in effects.to_raft.drain(..) {
            let _gone = runtime.raft.force_send(address, input);
        }
        effects
            .fetches
            .drain(..)
            .for_each(|fetch| self.world.fetch(fetch));
        effects
            .snapshots
            .drain(..)
            .for_each(|task| self.world.snapshot(task));
        effects
            .size_checks
            .drain(..)
            .for_each(|check| self.world.size_check(check));
        effects.pd.drain(..).for_each(|task| self.world.pd(task));
        effects
            .meta_role
            .drain(..)
            .for_each(|role| self.world.meta_role(role));
        effects
            .events
            .drain(..)
            .for_each(|event| self.world.event(event));
        Ok(())
    }
}

/// When apply stops taking entries, before the state database would block (contracts: C25).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplyLimits {
    /// Bytes in memtables, those being flushed included.
    pub memtable_bytes_max: u64,
    /// Files in level 0 of any column family.
    pub level0_files_max: u64,
}

impl ApplyLimits {
    fn allow(&self, pressure: Pressure) -> bool {
        !pressure.stopped
            && pressure.memtable_bytes <= self.memtable_bytes_max
            && pressure.level0_files <= self.level0_files_max
    }
}

/// See [`Runtime::apply_executor`].
pub struct ApplyExecutor<L: RaftLog, S> {
    runtime: Runtime<L, S>,
    limits: ApplyLimits,
    /// The number of the last state batch.
    cut: u64,
}

impl<L: RaftLog, S: StateStore> Executor<ApplyEffects> for ApplyExecutor<L, S> {
    type Fatal = StoreFatal;

    fn may_run(&mut self) -> bool {
        self.limits.allow(self.runtime.state.pressure())
    }

    fn execute(&mut self, effects: &mut ApplyEffects) -> Result<(), StoreFatal> {
        if let Some(fatal) = effects.fatal.take() {
            return Err(StoreFatal::Entry(Arc::new(fatal)));
        }
        let batch = std::mem::take(&mut effects.batch);
        if !batch.is_empty() {
            self.cut = self.runtime.state.write(&batch)?;
        }
        for (answer, result) in effects.answers.drain(..) {
            answer.give(result);
        }
        for (region, mut report) in effects.reports.drain(..) {
            report.cut = self.cut;
            self.runtime.to_peer(region, PeerInput::Applied(report));
        }
        for region in effects.retired.drain(..) {
            let last = Retired::Apply { region };
            self.runtime.to_store(StoreInput::Retired(last));
        }
        Ok(())
    }
}
