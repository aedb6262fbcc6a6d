//! Stores run, fail, die and start again.

use std::time::Duration;

use flotilla_engine::memory::{Fault, FaultKind, FaultPoint};
use flotilla_engine::row::Expiry;
use flotilla_engine::{
    EngineError, FlushReason, KeyRange, Pressure, RaftLog as _, SplitLimits, StateStore as _,
    split_check,
};
use flotilla_kv::KeyMode;
use flotilla_proto::metapb::Region;
use flotilla_raftstore::effects::{Fetch, PdTask, RegionSize, SizeCheck};
use flotilla_raftstore::runtime::StoreFatal;
use flotilla_raftstore::{PeerInput, RequestError, StartError, region};

use super::{Event, Phase, STEP_MICROS_MAX, Sim};
use crate::checkers::answers::Said;
use crate::client::Request;
use crate::disk::FlushDue;
use crate::faults::FaultPlan;
use crate::probe;
use crate::rules::Rule;
use crate::store::{Answered, Asked, LifeId, Next};

/// How often the durable point is looked at.
const OBSERVE_EVERY: Duration = Duration::from_millis(100);
/// A flush is asked for at most once a second, seen at the next look, and takes its time; so much
/// later than due it may be done.
const FLUSH_GRACE: Duration = Duration::from_millis(2_500);
/// Starts in a row that a fault cuts short, at most.
const FAILED_STARTS_MAX: u64 = 4;

impl Sim {
    /// One store's threads take a step. `false`: none of them can.
    pub(super) fn step_stores(&mut self) -> bool {
        let stores: Vec<u64> = self.nodes.keys().copied().collect();
        let first = self.rng.below(stores.len() as u64) as usize;
        (0..stores.len()).any(|nth| self.step_store(stores[(first + nth) % stores.len()]))
    }

    fn step_store(&mut self, store: u64) -> bool {
        let now = self.now();
        let Some(life) = self
            .nodes
            .get_mut(&store)
            .and_then(|node| node.life.as_mut())
        else {
            return false;
        };
        let id = life.id;
        match life.step(now) {
            Ok(None) => return false,
            Ok(Some(actor)) => {
                self.note(format_args!("store {store}: {actor}"));
                self.after_step(id);
                let cost = self.rng.micros(1..=STEP_MICROS_MAX);
                self.pass(cost);
                self.strike(id, actor);
            }
            Err(fatal) => self.fatal(id, &fatal),
        }
        true
    }

    /// Carries on what a step of a store left behind: questions, answers, traces.
    pub(super) fn after_step(&mut self, id: LifeId) {
        for name in probe::take_reached() {
            self.probe(&name);
        }
        self.ask_world(id);
        self.hear_answers(id);
        self.look(id);
        let Some(node) = self.nodes.get(&id.store) else {
            return;
        };
        let due = self
            .world
            .auto_flush_bytes
            .map(|bytes| node.disk.state.flush_due(bytes));
        if due == Some(FlushDue::Yes) {
            node.disk.state.begin_flush();
            self.probe("flush: by itself");
            self.flush_later(id, None);
        }
    }

    fn look(&mut self, id: LifeId) {
        let now = self.now();
        let Some(life) = self.nodes[&id.store].life.as_ref() else {
            return;
        };
        let mut oracle = self.oracle.lock();
        life.look_at_peers(|peer| {
            oracle.look_at_peer(id.store, peer);
            oracle.look_at_lease(id.store, peer, &life.runtime.delegates, now);
        });
        let queued = life.runtime.raft.queued_bytes();
        // Inputs that must not be lost come on top of the bound; their payloads count nothing.
        let limit = self.world.limits.raft.queued_bytes_max;
        oracle
            .checks
            .check(Rule::QueuesBounded, queued <= limit, || {
                format!(
                    "store {}: {queued} bytes wait in mailboxes, {limit} may",
                    id.store
                )
            });
    }

    fn ask_world(&mut self, id: LifeId) {
        let Some(life) = self.nodes[&id.store].life.as_ref() else {
            return;
        };
        for asked in life.outside.take() {
            match asked {
                Asked::Fetch(fetch) => {
                    let wait = self.world.paces.fetch.wait(&mut self.rng);
                    self.events
                        .at(self.now() + wait, Event::Fetch { life: id, fetch });
                }
                Asked::SizeCheck(check) => {
                    let wait = self.world.paces.fetch.wait(&mut self.rng);
                    self.events
                        .at(self.now() + wait, Event::Size { life: id, check });
                }
                Asked::Pd(task) => self.pd_asked(id, task),
                Asked::MetaRole(role) => self.note(format_args!("store {}: {role:?}", id.store)),
            }
        }
    }

    fn pd_asked(&mut self, id: LifeId, task: PdTask) {
        match task {
            PdTask::RegionHeartbeat { region, .. } => self.reported(id, &[region]),
            PdTask::ReportSplit { regions } => self.reported(id, &regions),
            PdTask::StoreHeartbeat { .. } => {}
            PdTask::AskSplit {
                region,
                epoch,
                keys,
                answer,
            } => {
                let faulty = self.phase == Phase::Run;
                let ids = if faulty && self.fault_rng.chance(self.world.faults.pd_fails) {
                    self.probe("split: PD failed");
                    Err("PD has no leader".to_owned())
                } else {
                    Ok(self.pd.new_ids(&region, keys.len()))
                };
                let late = faulty && self.fault_rng.chance(self.world.faults.pd_late);
                let wait = if late {
                    self.rng.micros(0..=2_000_000)
                } else {
                    self.rng.micros(0..=2_000)
                };
                self.note(format_args!(
                    "PD: ids for region {}, {} parts: {ids:?} in {wait:?}",
                    region.id,
                    keys.len()
                ));
                let input = Box::new(PeerInput::SplitIds {
                    epoch,
                    keys,
                    ids,
                    answer,
                });
                let region = region.id;
                self.events.at(
                    self.now() + wait,
                    Event::Pd {
                        life: id,
                        region,
                        input,
                    },
                );
            }
        }
    }

    fn reported(&mut self, id: LifeId, regions: &[Region]) {
        for region in regions {
            self.oracle.lock().show(id.store, region);
            self.pd.told(region);
        }
    }

    pub(super) fn hear_answers(&mut self, id: LifeId) {
        let Some(life) = self.nodes[&id.store].life.as_ref() else {
            return;
        };
        for answered in life.inbox.take() {
            self.heard(id, answered);
        }
    }

    fn heard(&mut self, id: LifeId, answered: Answered) {
        let (op, said) = match &answered {
            Answered::Write(op, result) => (*op, Said::of(result)),
            Answered::Read(op, result) => (*op, Said::of(result)),
            Answered::Split(op, result) => (*op, Said::of(result)),
        };
        self.note(format_args!(
            "store {}: operation {op} is answered: {answered:?}",
            id.store
        ));
        {
            let mut oracle = self.oracle.lock();
            let oracle = &mut *oracle;
            let failed = oracle.stores[&id.store].failed;
            oracle
                .answers
                .answered(op, said, failed, &mut oracle.checks);
            let busy = matches!(&answered, Answered::Write(_, Err(RequestError::Busy { reason })) if reason.contains("waited too long"));
            oracle.probes.hit_if(busy, "write: waited too long");
            let large = matches!(
                &answered,
                Answered::Write(_, Err(RequestError::EntryTooLarge { .. }))
            );
            oracle.probes.hit_if(large, "write: too large for an entry");
            match &answered {
                Answered::Split(_, Ok(regions)) => regions
                    .iter()
                    .for_each(|region| oracle.show(id.store, region)),
                Answered::Split(_, Err(RequestError::EpochNotMatch { .. })) => {
                    oracle.probes.hit("split: ids came too late")
                }
                _ => {}
            }
        }
        let result = match answered {
            Answered::Write(_, result) => result.map(|()| None),
            Answered::Read(_, result) => result.map(Some),
            Answered::Split(..) => return,
        };
        let around = self.around();
        let Some(life) = self
            .nodes
            .get_mut(&id.store)
            .and_then(|node| node.life.as_mut())
        else {
            return;
        };
        let Some(running) = life.requests.get(&op) else {
            return;
        };
        let (client, request) = (running.client, running.request().clone());
        let next = life.answered(op, result, &around);
        self.went_on(id, op, (client, &request), next);
    }

    /// A request went on to its next stage.
    pub(super) fn went_on(
        &mut self,
        id: LifeId,
        op: u64,
        (client, request): (u64, &Request),
        next: Next,
    ) {
        match next {
            Next::Wait => {}
            Next::Again => self.serve_later(id, op),
            Next::Done(reply, woken) => {
                woken.into_iter().for_each(|op| self.serve_later(id, op));
                self.replied(client, op, request, &reply);
            }
        }
    }

    pub(super) fn serve_later(&mut self, life: LifeId, op: u64) {
        let wait = self.world.paces.serve.wait(&mut self.rng);
        self.events.at(self.now() + wait, Event::Serve { life, op });
    }

    fn flush_later(&mut self, life: LifeId, forced: Option<FlushReason>) {
        let wait = self.world.paces.flush.wait(&mut self.rng);
        self.events
            .at(self.now() + wait, Event::FlushDone { life, forced });
    }

    // ---- events of a running store ----

    pub(super) fn observe(&mut self, id: LifeId) {
        let now = self.now();
        let Some(life) = self
            .nodes
            .get_mut(&id.store)
            .and_then(|node| node.life.as_mut())
        else {
            return;
        };
        match life.observe(now) {
            Ok(observed) => {
                if let Some(reason) = observed.flush {
                    self.probe(match reason {
                        FlushReason::Admin => "flush: for an admin change",
                        _ => "flush: for the replay bound",
                    });
                    self.flush_later(id, Some(reason));
                }
                let config = &self.world.config;
                let (bound, admin) = (config.replay_bytes_max, config.admin_durable_max);
                self.oracle
                    .lock()
                    .check_flush_due(id.store, bound, admin, FLUSH_GRACE);
                self.events.at(now + OBSERVE_EVERY, Event::Observe(id));
            }
            Err(error) => self.engine_failed(id, error),
        }
    }

    pub(super) fn flush_done(&mut self, id: LifeId, forced: bool) {
        let Some(life) = self
            .nodes
            .get_mut(&id.store)
            .and_then(|node| node.life.as_mut())
        else {
            return;
        };
        if let Err(error) = life.flush_done(forced) {
            self.probe("fault: flush failed");
            self.engine_failed(id, error);
        } else {
            life.runtime.apply.resume();
        }
    }

    pub(super) fn fetch(&mut self, id: LifeId, fetch: Fetch) {
        let Some(node) = self.nodes.get(&id.store) else {
            return;
        };
        let Some(life) = &node.life else { return };
        let Fetch {
            region,
            ticket,
            low,
            high,
            bytes_max,
        } = fetch;
        match node.disk.log.entries(region, low, high, bytes_max) {
            Ok(entries) => life.runtime.to_peer(
                region,
                PeerInput::Fetched {
                    ticket,
                    low,
                    entries,
                },
            ),
            Err(error) => {
                let planned = !matches!(error, EngineError::Corrupt { .. });
                self.oracle.lock().checks.check(Rule::LogIsWhole, planned, || {
                    format!("store {} region {region}: entries {low}..{high} were asked for: {error}", id.store)
                });
                self.probe("fault: log read failed");
                self.engine_failed(id, error);
            }
        }
    }

    pub(super) fn measure(&mut self, id: LifeId, check: &SizeCheck) {
        let Some(node) = self.nodes.get(&id.store) else {
            return;
        };
        let Some(life) = &node.life else { return };
        let config = &self.world.config;
        let limits = SplitLimits {
            size_max: config.split_bytes,
            size_split: (config.split_bytes / 3 * 2).max(1),
            keys_max: config.split_keys,
        };
        let region = &check.region;
        let range = KeyRange {
            start: &region.start_key,
            end: &region.end_key,
        };
        let found = split_check(&node.disk.state.snapshot(), range, limits)
            .expect("a snapshot in memory is always read");
        let boundaries = found
            .split_keys
            .iter()
            .filter_map(|key| self.world.mode.boundary(key));
        let mut keys: Vec<_> = boundaries
            .filter(|key| region::strictly_inside(region, key))
            .collect();
        keys.dedup();
        if !keys.is_empty() {
            self.probe("split: by size");
        }
        let size = RegionSize {
            bytes: found.bytes,
            keys: found.keys,
        };
        let epoch = region::epoch(region);
        life.runtime
            .to_peer(region.id, PeerInput::SizeChecked { epoch, keys, size });
    }

    // ---- faults ----

    fn strike(&mut self, id: LifeId, actor: &str) {
        if self.phase != Phase::Run || self.nodes[&id.store].life.is_none() {
            return;
        }
        let before_sync =
            actor == "append" && self.fault_rng.chance(self.world.faults.crash_before_sync);
        let plan = if before_sync {
            FaultPlan::Crash
        } else {
            self.world.faults.after_step(&mut self.fault_rng)
        };
        if plan != FaultPlan::Nothing {
            self.note(format_args!("store {}: {plan:?}", id.store));
        }
        match plan {
            FaultPlan::Nothing => {}
            FaultPlan::Crash => self.crash(id),
            FaultPlan::Stop => self.stop_in_order(id),
            FaultPlan::Disk(fault) => self.inject(id, fault),
            FaultPlan::Pause(time) => {
                self.oracle.lock().probes.hit_if(
                    time > self.world.config.lease,
                    "fault: paused beyond the lease",
                );
                self.oracle.lock().excuse(id.store, time);
                self.pass(time);
            }
            FaultPlan::Pressure(time) => {
                self.probe("fault: apply held back");
                let pressure = Pressure {
                    stopped: true,
                    ..Pressure::default()
                };
                self.nodes[&id.store]
                    .disk
                    .state
                    .force_pressure(Some(pressure));
                self.events.at(self.now() + time, Event::PressureOver(id));
            }
            FaultPlan::Clock(seconds) => self.move_clock(seconds),
            FaultPlan::Compaction => {
                // Rows are dropped an hour after they expired.
                let later = self.fault_rng.range(0..=7_200);
                self.move_clock(later.cast_signed());
                self.compact(id);
            }
        }
    }

    /// The time of day never falls so far behind its latest that a row which a compaction dropped
    /// could be alive again.
    fn move_clock(&mut self, seconds: i64) {
        let lowest = self.latest_seconds - flotilla_engine::row::DROP_DELAY_SECONDS / 2;
        let moved = self.wall().seconds().saturating_add_signed(seconds);
        let allowed = moved.max(lowest);
        let back = i64::try_from(allowed).unwrap_or(i64::MAX)
            - i64::try_from(self.wall().seconds()).unwrap_or(i64::MAX);
        self.clock_offset += back;
        self.pass(Duration::ZERO);
    }

    fn compact(&mut self, id: LifeId) {
        let expiry = Expiry::default();
        expiry.set_mode(match self.world.mode {
            KeyMode::Plain => flotilla_engine::row::KeyMode::Plain,
            KeyMode::Encoded => flotilla_engine::row::KeyMode::Encoded,
        });
        let seconds = self.wall().seconds();
        expiry.advance(seconds);
        let dropped = self.nodes[&id.store].disk.state.compact(&expiry, seconds);
        self.oracle
            .lock()
            .probes
            .hit_if(dropped > 0, "fault: compaction dropped a row");
    }

    fn inject(&mut self, id: LifeId, fault: Fault) {
        let disk = &self.nodes[&id.store].disk;
        match fault.point {
            FaultPoint::Append | FaultPoint::Sync | FaultPoint::Read => disk.log.inject(fault),
            FaultPoint::Write | FaultPoint::Flush => disk.state.inject(fault),
        }
    }

    fn engine_failed(&mut self, id: LifeId, error: EngineError) {
        self.fatal(id, &StoreFatal::from(error));
    }

    /// The store met what ends it: the process stops, and whatever it still owes it says now.
    pub(super) fn fatal(&mut self, id: LifeId, fatal: &StoreFatal) {
        self.note(format_args!("store {} stops: {fatal}", id.store));
        let text = fatal.to_string();
        let by_disk = matches!(fatal, StoreFatal::Engine(error) if !matches!(**error, EngineError::Corrupt { .. }));
        {
            let mut oracle = self.oracle.lock();
            oracle.checks.check(Rule::EndsByDiskOnly, by_disk, || {
                format!("store {} stops: {text}", id.store)
            });
            oracle
                .probes
                .hit_if(text.contains("no space"), "fault: disk full");
            oracle.probes.hit_if(
                text.contains("appending to the log"),
                "fault: append failed",
            );
            oracle
                .probes
                .hit_if(text.contains("syncing the log"), "fault: sync failed");
            oracle.probes.hit_if(
                text.contains("writing the state"),
                "fault: state write failed",
            );
            oracle.store(id.store).failed = true;
        }
        self.say_what_is_owed(id);
        self.die(id);
    }

    /// The process ends on its own feet: everything that it owes is answered by being dropped.
    pub(super) fn say_what_is_owed(&mut self, id: LifeId) {
        let Some(life) = self
            .nodes
            .get_mut(&id.store)
            .and_then(|node| node.life.take())
        else {
            return;
        };
        drop(self.events.purge(id));
        let (inbox, requests) = (
            life.inbox.clone(),
            life.requests.keys().copied().collect::<Vec<_>>(),
        );
        drop(life);
        for answered in inbox.take() {
            let (op, said) = match &answered {
                Answered::Write(op, result) => (*op, Said::of(result)),
                Answered::Read(op, result) => (*op, Said::of(result)),
                Answered::Split(op, result) => (*op, Said::of(result)),
            };
            self.note(format_args!("store {}, ending: {answered:?}", id.store));
            let mut oracle = self.oracle.lock();
            let oracle = &mut *oracle;
            let failed = oracle.stores[&id.store].failed;
            oracle
                .answers
                .answered(op, said, failed, &mut oracle.checks);
        }
        let pending = self.oracle.lock().answers.pending();
        self.oracle
            .lock()
            .checks
            .check(Rule::AnsweredAtAll, pending.is_empty(), || {
                format!(
                    "store {} has ended and never answered {pending:?} (it served {requests:?})",
                    id.store
                )
            });
    }

    pub(super) fn crash(&mut self, id: LifeId) {
        if let Some(life) = self
            .nodes
            .get(&id.store)
            .and_then(|node| node.life.as_ref())
        {
            life.inbox.kill();
        }
        drop(self.events.purge(id));
        if let Some(node) = self.nodes.get_mut(&id.store) {
            node.life = None;
        }
        self.die(id);
    }

    /// The process is gone; the disk is what it left, and a new one starts after a while.
    pub(super) fn die(&mut self, id: LifeId) {
        {
            let mut oracle = self.oracle.lock();
            let unsynced = oracle.stores[&id.store].log.unsynced() > 0;
            oracle
                .probes
                .hit_if(unsynced, "crash: between append and sync");
            oracle.answers.store_died(id.store);
        }
        self.disk_falls_back(id.store);
        self.hang_up(id);
        let wait = self.rng.micros(1_000..=200_000);
        self.events
            .at(self.now() + wait, Event::Start { store: id.store });
    }

    fn disk_falls_back(&mut self, store: u64) {
        let (faults, rng, probes) = (&self.world.faults, &mut self.fault_rng, &self.oracle);
        let node = self.nodes.get_mut(&store).expect("stores are not removed");
        let mut kept = (0, 0);
        let keep = |offered| {
            kept = (faults.kept(offered, rng), offered);
            kept.0
        };
        node.disk = node.disk.crash(store, &self.world, keep, &self.oracle);
        let mut oracle = probes.lock();
        oracle.note(format_args!(
            "store {store}: the crash kept {} of {} unsynced batches",
            kept.0, kept.1
        ));
        oracle
            .probes
            .hit_if(kept.0 < kept.1, "crash: the unsynced log was lost in part");
    }

    // ---- starts ----

    pub(super) fn start(&mut self, store: u64) {
        if self.nodes[&store].life.is_some() {
            return;
        }
        let moved_on = self.children_to_make(store);
        let owed = self.oracle.lock().owed(store);
        let node = self.nodes.get_mut(&store).expect("stores are not removed");
        let cut_short = self.phase == Phase::Run
            && node.failed_starts < FAILED_STARTS_MAX
            && self.fault_rng.chance(self.world.faults.crash_in_start);
        if cut_short {
            let fault = Fault {
                point: FaultPoint::Write,
                after: self.fault_rng.log_range(0..=6),
                kind: FaultKind::Io,
            };
            node.disk.state.inject(fault);
        }
        match node.start(&self.world, &self.clock, &self.root) {
            Ok((replayed, regions)) => {
                let (life, disk) = (node.life.as_ref().map(|life| life.id), node.disk.clone());
                let id = life.expect("it has just started");
                disk.state.auto_flush(None);
                {
                    let mut oracle = self.oracle.lock();
                    oracle.note(format_args!(
                        "store {store}: life {} starts, {replayed:?}, {} regions",
                        id.number,
                        regions.len()
                    ));
                    oracle.store(store).peers.clear();
                    oracle.replayed(store, replayed.bytes, owed);
                    oracle.check_barrier(store);
                    oracle.check_topology(store, &regions);
                    oracle
                        .probes
                        .hit_if(!moved_on.0.is_empty(), "replay: of a split");
                    oracle
                        .probes
                        .hit_if(moved_on.1, "replay: of a split whose child had moved on");
                }
                disk.state.check_all();
                self.events
                    .at(self.now() + self.world.config.tick, Event::Tick(id));
                self.events
                    .at(self.now() + OBSERVE_EVERY, Event::Observe(id));
                self.after_step(id);
            }
            Err(error) => self.start_failed(store, cut_short, &error),
        }
    }

    fn start_failed(&mut self, store: u64, cut_short: bool, error: &StartError) {
        self.note(format_args!("store {store}: the start fails: {error}"));
        let planned = matches!(error, StartError::Engine(error) if !matches!(error, EngineError::Corrupt { .. }));
        let node = self.nodes.get_mut(&store).expect("stores are not removed");
        node.failed_starts += 1;
        let again = node.failed_starts > 1;
        {
            let mut oracle = self.oracle.lock();
            oracle
                .checks
                .check(Rule::EndsByDiskOnly, planned && cut_short, || {
                    format!("store {store} does not start: {error}")
                });
            oracle.probes.hit("crash: in a replay");
            oracle.probes.hit_if(again, "crash: again before it served");
        }
        self.disk_falls_back(store);
        let wait = self.rng.micros(1_000..=200_000);
        self.events.at(self.now() + wait, Event::Start { store });
    }

    /// Regions that the replay has to make, and whether one of them has a log of its own already.
    fn children_to_make(&self, store: u64) -> (Vec<u64>, bool) {
        let oracle = self.oracle.lock();
        let seen = &oracle.stores[&store];
        let there = oracle.model.regions_at(&seen.applied);
        let missing = oracle
            .model
            .regions()
            .map(|region| region.id)
            .filter(|id| !there.contains_key(id));
        let missing: Vec<u64> = missing.collect();
        let moved = missing.iter().any(|id| {
            seen.log
                .durable(*id)
                .is_some_and(|held| !held.entries.is_empty())
        });
        (missing, moved)
    }
}
