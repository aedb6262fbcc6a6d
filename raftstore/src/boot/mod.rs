//! Opening a store: its first regions, the replay of all of them (contracts: C5), and the installs
//! that a crash has undone (contracts: C6).

mod installs;
mod merges;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use flotilla_engine::{
    ByteBudget, LogBatch, LogSpan, RaftLog, RegionLog, SnapshotFiles, SnapshotInstall, SnapshotKey,
    StateBatch, StateOp, StoredRegion,
};
use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::Region;
use flotilla_proto::raft::HardState;
use flotilla_proto::store::{ApplyRecord, PeerState};
use flotilla_router::Machine;

use crate::apply::Apply;
use crate::delegate::Delegates;
use crate::effects::{ApplyEffects, ApplyInput, Committed, RegionChange, Spawn};
use crate::log_view::PeerLog;
use crate::peer::{Peer, PeerParts};
use crate::planted::Planted;
use crate::region::{INITIAL_INDEX, INITIAL_TERM, peer_on};
use crate::store::{Shared, Store, born, born_with};
use crate::{Config, StartError};

/// A store that is ready to run.
#[derive(Debug)]
pub struct Boot {
    /// The machine for [`crate::STORE_ADDRESS`].
    pub store: Box<Store>,
    /// The regions' machines, ascending by region.
    pub regions: Vec<Spawn>,
    /// The doors for local reads.
    pub delegates: Arc<Delegates>,
    /// What the replay did.
    pub replayed: Replayed,
}

/// What a replay did, for the log and the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Entries applied again.
    pub entries: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// There was a change of the topology among them.
    pub admin: bool,
}

/// The state of a store that has just been created: `regions` with their peers on `store`, and the
/// first keys of the meta region. Written as one batch.
pub fn first_state(
    store: u64,
    regions: Vec<Region>,
    meta: Vec<(bytes::Bytes, bytes::Bytes)>,
) -> StateBatch {
    let regions = regions.into_iter().map(|region| StateOp::PutRegion {
        record: born(region, store),
    });
    let cf = flotilla_engine::Cf::CfMeta;
    let meta = meta
        .into_iter()
        .map(|(key, value)| StateOp::Put { cf, key, value });
    StateBatch {
        ops: regions.chain(meta).collect(),
        admin: true,
    }
}

/// Opens the store: every region applies up to its durable commit, cascading into children, before
/// anything is served, voted for or reported.
///
/// # Errors
/// Log and state do not belong together, or hold what this build cannot apply.
pub fn open(
    config: Config,
    store: u64,
    log: &impl RaftLog,
    state: &impl SnapshotInstall,
    files: &impl SnapshotFiles,
    now: Mono,
) -> Result<Boot, StartError> {
    config.validate()?;
    let shared = Shared::new(config, store);
    let mut logs = log.load()?;
    let stored = state.regions()?;
    remember(&shared, &stored, &logs);
    clear_ended(log, &stored, &mut logs)?;
    let mut replay = Replay {
        shared: Arc::clone(&shared),
        page_bytes: shared.config.replay_page_bytes,
        log,
        state,
        replayed: Replayed::default(),
        done: BTreeMap::new(),
        splits: BTreeMap::new(),
        waiting: BTreeMap::new(),
        ends: BTreeMap::new(),
        taken_in: Vec::new(),
        died: Vec::new(),
        cut: 0,
    };
    let mut intents = installs::open_intents(&stored, &logs);
    if shared.plants(Planted::IntentIgnoredAtStart) {
        intents.clear();
    }
    let forgets = shared.plants(Planted::ChildForgetsLog);
    let known_before: BTreeSet<u64> = stored.iter().map(id_of).collect();
    let live = |stored: &StoredRegion| stored.record.state() != PeerState::Tombstone;
    let queue: VecDeque<StoredRegion> = stored.into_iter().filter(live).collect();
    replay.all(queue, &logs, &mut intents)?;
    // Every region that may have had a part of their ranges has replayed past them now. In the order
    // of their ids, so that a parent comes before its children.
    let mut installed = BTreeMap::new();
    while let Some((region, open)) = installs::take_next(&mut intents) {
        let key = SnapshotKey::incoming(&open.manifest);
        let index = open.manifest.index;
        let children = replay.install(region, open, &logs, files)?;
        installed.insert(region, (index, key));
        replay.all(children.into(), &logs, &mut intents)?;
    }
    replay.check_waiting()?;
    let mut proposed = BTreeMap::new();
    for (region, apply) in replay.done.iter().filter(|(_, apply)| !apply.ended()) {
        proposed.extend(
            replay
                .proposed_merge(apply, logs.get(region))?
                .map(|found| (*region, found)),
        );
    }
    let Replay {
        replayed,
        mut done,
        splits,
        taken_in,
        died,
        cut,
        ..
    } = replay;
    let ended: BTreeMap<u64, Apply> = done.extract_if(.., |_, apply| apply.ended()).collect();
    let known: Vec<Region> = done.values().map(|apply| apply.region().clone()).collect();
    let needed: BTreeSet<SnapshotKey> = installed.values().map(|(_, key)| *key).collect();
    installs::clean_up(log, state, files, &logs, &needed, &known)?;
    let sleeping = logs
        .iter()
        .filter(|(region, _)| !done.contains_key(region) && !ended.contains_key(region))
        .filter(|(region, _)| shared.merged.fate(**region).is_none())
        .filter_map(|(region, found)| Some((*region, found.record?)));
    let sleeping = sleeping.collect();
    let mut machine = Store::new(Arc::clone(&shared), known, sleeping)?;
    for (region, apply) in ended {
        let span = logs.get(&region).and_then(|found| found.span);
        let files = installed.get(&region).map(|(_, key)| *key);
        machine.bury(apply.region().clone(), (span, files), cut);
    }
    let died = died.into_iter().map(|region| (region, 0));
    let taken_in = taken_in.into_iter().map(|taken| (taken.region, taken.last));
    for (region, last) in taken_in.chain(died) {
        let id = region.id;
        let span = logs.get(&id).and_then(|found| found.span);
        let known = span.unwrap_or(LogSpan { first: 1, last: 0 });
        let span = LogSpan {
            last: known.last.max(last),
            ..known
        };
        let files = installed.get(&id).map(|(_, key)| *key);
        machine.bury(region, (Some(span), files), cut);
    }
    let mut regions = Vec::with_capacity(done.len());
    for (region, mut apply) in done {
        let life = machine.next_life();
        apply.set_life(life);
        let found = logs.remove(&region);
        let found = found.filter(|_| !forgets || known_before.contains(&region));
        let (log, hard_state) = raft_state(&apply, found.as_ref(), &shared.entry_cache);
        let parts = PeerParts {
            shared: Arc::clone(&shared),
            life,
            meta: peer_on(apply.region(), store).copied(),
            region: apply.region().clone(),
            log: log.of_life(life),
            hard_state,
            applied: apply.applied(),
            // Nobody will tell a peer whose region stays quiet.
            durable: state.durable_applied(region),
            split_at: splits.get(&region).copied().unwrap_or(0),
            intent: installed.get(&region).copied(),
            made_at: None,
            campaign: false,
            merging: apply.merging().cloned().map(Box::new),
            proposed_merge: proposed.get(&region).copied(),
        };
        let peer = Box::new(Peer::new(parts, now)?);
        regions.push(Spawn {
            region,
            peer,
            apply: Box::new(apply),
        });
    }
    Ok(Boot {
        store: Box::new(machine),
        regions,
        delegates: Arc::clone(&shared.delegates),
        replayed,
    })
}

fn id_of(stored: &StoredRegion) -> u64 {
    stored.record.region.as_ref().map_or(0, |region| region.id)
}

/// Which peers were ever here: those of the state, and those that only their log knows.
fn remember(shared: &Shared, stored: &[StoredRegion], logs: &BTreeMap<u64, RegionLog>) {
    for StoredRegion { record, applied } in stored {
        let Some(region) = &record.region else {
            continue;
        };
        let (id, peer) = (region.id, record.highest_peer_id);
        if let Some(lineage) = &record.lineage {
            shared.merged.learn(id, lineage);
        }
        if record.state() == PeerState::Tombstone {
            shared.merged.ends(region);
        }
        match (record.state(), *applied) {
            (PeerState::Tombstone, Some(known)) => shared.seen.ends_knowing(id, peer, known),
            (PeerState::Tombstone, None) => shared.seen.ends(id, peer),
            _ => shared.seen.lives(id, peer),
        }
    }
    for (region, found) in logs {
        if let Some(record) = found.record {
            shared.seen.lives(*region, record.peer_id);
        }
    }
}

/// Clears the logs of peers whose tombstones are durable: the last stop came between the two
/// (contracts: C7).
fn clear_ended(
    log: &impl RaftLog,
    stored: &[StoredRegion],
    logs: &mut BTreeMap<u64, RegionLog>,
) -> Result<(), StartError> {
    let mut batch = LogBatch::default();
    for StoredRegion { record, .. } in stored {
        let (Some(region), PeerState::Tombstone) = (&record.region, record.state()) else {
            continue;
        };
        let of_the_dead = |found: &RegionLog| {
            found
                .record
                .is_none_or(|raft| raft.peer_id <= record.highest_peer_id)
        };
        if logs.get(&region.id).is_some_and(of_the_dead)
            && let Some(found) = logs.remove(&region.id)
        {
            tracing::trace!(target: crate::PROBE_TARGET, "destroy: the log is cleared at the start");
            let span = found.span.unwrap_or(LogSpan { first: 0, last: 0 });
            batch.clear(region.id, span);
        }
    }
    if !batch.is_empty() {
        log.append(&batch)?;
        log.sync()?;
    }
    Ok(())
}

struct Replay<'a, L, S> {
    shared: Arc<Shared>,
    page_bytes: u64,
    log: &'a L,
    state: &'a S,
    replayed: Replayed,
    /// Regions that are through, by id. A region is replayed once.
    done: BTreeMap<u64, Apply>,
    /// The last split that was applied again, by region: nothing of it is durable yet.
    splits: BTreeMap<u64, u64>,
    /// Regions whose next entry takes another in, by id.
    waiting: BTreeMap<u64, merges::Waiting>,
    /// Where the logs of regions end that their targets have brought further.
    ends: BTreeMap<u64, u64>,
    /// Regions that were taken in.
    taken_in: Vec<merges::TakenIn>,
    /// Regions that a snapshot of another one has ended.
    died: Vec<Region>,
    /// The number of the last state batch.
    cut: u64,
}

impl<L: RaftLog, S: SnapshotInstall> Replay<'_, L, S> {
    /// Brings these regions up to their durable commits, and the children that they make. Those that
    /// wait for a snapshot, born again by a replay or not, have no log to go on from.
    fn all(
        &mut self,
        mut queue: VecDeque<StoredRegion>,
        logs: &BTreeMap<u64, RegionLog>,
        intents: &mut BTreeMap<u64, installs::Open>,
    ) -> Result<(), StartError> {
        loop {
            while let Some(stored) = queue.pop_front() {
                match intents.get_mut(&id_of(&stored)) {
                    Some(open) => open.stored = Some(stored),
                    None => queue.extend(self.region(&stored, logs)?),
                }
            }
            match self.take_in(logs)? {
                Some(children) => queue.extend(children),
                None => return Ok(()),
            }
        }
    }

    /// Brings one region up to its durable commit; returns the children it made.
    fn region(
        &mut self,
        stored: &StoredRegion,
        logs: &BTreeMap<u64, RegionLog>,
    ) -> Result<Vec<StoredRegion>, StartError> {
        let applied = stored.applied.unwrap_or(ApplyRecord {
            index: INITIAL_INDEX,
            term: INITIAL_TERM,
        });
        let apply = Apply::new(Arc::clone(&self.shared), 0, &stored.record, applied);
        let region = apply.region().id;
        let birth = RegionLog::default();
        let found = logs.get(&region).unwrap_or(&birth);
        found.check_applied(region, applied.index)?;
        found.check_peer(self.shared.store, &stored.record)?;
        self.forward(apply, found)
    }

    /// Applies what is durably committed; returns the children that it makes.
    fn forward(
        &mut self,
        mut apply: Apply,
        found: &RegionLog,
    ) -> Result<Vec<StoredRegion>, StartError> {
        let region = apply.region().id;
        let hard_state = found.record.and_then(|record| record.hard_state);
        let commit = hard_state.map_or(0, |hard_state| hard_state.commit);
        let commit = commit.max(self.ends.get(&region).copied().unwrap_or(0));
        let mut children = Vec::new();
        while apply.applied() < commit && !apply.ended() {
            let low = apply.applied() + 1;
            let entries = self.log.entries(region, low, commit + 1, self.page_bytes)?;
            let (before, merge) = merges::up_to_merge(entries);
            let mut made = Vec::new();
            if !before.is_empty() {
                made = self.apply(&mut apply, before)?;
            }
            if !made.is_empty() {
                self.splits.insert(region, apply.applied());
            }
            children.extend(made);
            if let Some(merge) = merge.filter(|_| !apply.ended()) {
                let waits = self.wait_for_source(apply, &merge);
                let Some(goes_on) = waits else {
                    return Ok(children
                        .into_iter()
                        .map(|child| self.child(child))
                        .collect());
                };
                apply = goes_on;
                self.apply(&mut apply, vec![merge])?;
            }
            if apply.applied() < commit && !apply.ended() {
                tracing::trace!(target: crate::PROBE_TARGET, "replay: in several pages");
            }
        }
        if apply.ended() {
            tracing::trace!(target: crate::PROBE_TARGET, "replay: of the removal of a peer");
        }
        let twice = self.done.insert(region, apply);
        assert!(twice.is_none(), "region {region} was replayed twice");
        Ok(children
            .into_iter()
            .map(|child| self.child(child))
            .collect())
    }

    fn apply(
        &mut self,
        apply: &mut Apply,
        entries: Vec<flotilla_proto::raft::Entry>,
    ) -> Result<Vec<Region>, StartError> {
        self.replayed.entries += entries.len() as u64;
        let bytes = entries.iter().map(|entry| entry.data.len() as u64);
        self.replayed.bytes += bytes.sum::<u64>();
        let mut effects = ApplyEffects::default();
        let nobody = |entry| Committed {
            entry,
            answers: Vec::new(),
        };
        let input = ApplyInput::Committed(entries.into_iter().map(nobody).collect());
        apply.handle(Mono::default(), input, &mut effects);
        self.finish(apply, effects)
    }

    /// Writes what a round of the apply machine asks for; returns the children that it made.
    fn finish(
        &mut self,
        apply: &mut Apply,
        mut effects: ApplyEffects,
    ) -> Result<Vec<Region>, StartError> {
        apply.end_round(Mono::default(), &mut effects);
        if let Some(error) = effects.fatal {
            return Err(error);
        }
        if !effects.batch.is_empty() {
            self.cut = self.state.write(&effects.batch)?;
        }
        self.replayed.admin |= effects.batch.admin;
        let changes = effects
            .reports
            .into_iter()
            .flat_map(|(_, report)| report.changes);
        let made = changes.filter_map(|change| match change {
            RegionChange::Split {
                children,
                stillborn,
                ..
            } => Some((children, stillborn)),
            RegionChange::SplitRefused { .. }
            | RegionChange::MergePrepared { .. }
            | RegionChange::MergeRefused { .. }
            | RegionChange::MergeRolledBack { .. }
            | RegionChange::Merged { .. }
            | RegionChange::Members { .. }
            | RegionChange::Installed { .. }
            | RegionChange::Removed => None,
        });
        let living = |(children, stillborn): (Vec<Region>, Vec<u64>)| {
            let alive = move |child: &Region| !stillborn.contains(&child.id);
            children.into_iter().filter(alive)
        };
        let living = made.flat_map(living).collect();
        Ok(living)
    }

    fn child(&self, region: Region) -> StoredRegion {
        StoredRegion {
            record: self.shared.born(region),
            applied: None,
        }
    }
}

/// The log and hard state of a region that has been replayed.
fn raft_state(
    apply: &Apply,
    found: Option<&RegionLog>,
    budget: &Arc<ByteBudget>,
) -> (PeerLog, HardState) {
    let Some(found) = found else {
        return (PeerLog::fresh(apply.region().id, budget), born_with(None));
    };
    let log = PeerLog::open(apply.region().id, found, budget);
    let promised = found.record.and_then(|record| record.hard_state);
    let mut hard_state = born_with(promised);
    // What was applied was committed, also when the commit index of that time is not on disk.
    hard_state.commit = hard_state.commit.max(apply.applied());
    (log, hard_state)
}
