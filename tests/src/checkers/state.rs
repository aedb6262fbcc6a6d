//! What a store's state database must hold: exactly what the committed log makes of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use flotilla_engine::memory::MemoryState;
use flotilla_engine::row::{self, DROP_DELAY_SECONDS};
use flotilla_engine::{BIRTH, Cf, SnapshotKey, StateBatch, StateOp, StateReader, StateStore};
use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::Region;
use flotilla_proto::raft::EntryKind;
use flotilla_proto::store::{ApplyRecord, PeerState, RegionRecord};

use super::consensus::Consensus;
use super::log::Held;
use super::model::{Applied, Model, RowKey, within};
use super::{Oracle, SnapshotStep, StoreSeen};
use flotilla_raftstore::region::{META_REGION, peer_on};

use crate::rules::Rule;

/// What one store has applied and would lose, and since when a flush is owed for it.
#[derive(Debug, Default)]
pub struct Undurable {
    /// Log bytes ever appended.
    appended: u64,
    /// Of them, those that the durable cut covers.
    covered: u64,
    /// Of them, those that had been appended at the durable cut; at a start, those that were not
    /// replayed. A flush is due when half the replay bound has come since.
    before_cut: u64,
    /// Since when it is due.
    over_since: Option<Mono>,
    /// Batches with an admin change, by number, and when each was written in this life.
    admin: VecDeque<(u64, Mono)>,
    /// Seconds up to which a compaction may have dropped expired rows.
    compacted: u64,
    /// What was applied at the cuts of flushes, from the last that is known to be done on: a crash
    /// leaves one of them.
    cuts: Vec<(u64, Applied)>,
}

/// What a flush under way will make durable.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Log bytes that had been appended.
    appended: u64,
    /// Of them, those that were applied.
    covered: u64,
    /// The last state batch.
    cut: u64,
}

/// What a state batch touches.
#[derive(Default)]
pub(super) struct Touched {
    pub(super) rows: BTreeSet<RowKey>,
    pub(super) regions: bool,
}

/// Records of regions, without those of regions that end in the same batch: nobody ever sees them.
fn records_that_stay(batch: &StateBatch) -> impl Iterator<Item = &RegionRecord> {
    let ops = batch.ops.iter().enumerate();
    let records = ops.filter_map(|(at, op)| match op {
        StateOp::PutRegion { record } => Some((at, record)),
        _ => None,
    });
    let id = |record: &RegionRecord| record.region.as_ref().map(|region| region.id);
    records.clone().filter_map(move |(at, record)| {
        let mut later = records.clone().skip_while(move |(other, _)| *other <= at);
        let ends = later
            .any(|(_, other)| other.state() == PeerState::Tombstone && id(other) == id(record));
        (!ends).then_some(record)
    })
}

impl Oracle {
    /// A batch was written to the state of `store`, which now is `state`.
    pub fn state_written(
        &mut self,
        store: u64,
        number: u64,
        batch: &StateBatch,
        state: &MemoryState,
    ) {
        let mut touched = Touched::default();
        let mut progress = Vec::new();
        for op in &batch.ops {
            match op {
                StateOp::PutApplied { region, record } => progress.push((*region, *record)),
                StateOp::Put { cf, key, .. } | StateOp::Delete { cf, key } => {
                    touched.rows.insert((*cf as i32, key.clone()));
                }
                StateOp::DeleteRange { cf, start, end } => {
                    touched
                        .rows
                        .extend(self.model.rows_within(*cf as i32, start, end));
                }
                StateOp::PutRegion { record } => {
                    touched.regions = true;
                    let ends = record.state() == PeerState::Tombstone;
                    if let Some(region) = record.region.as_ref().filter(|_| ends) {
                        touched.rows.extend(self.model.rows_of(region));
                    }
                }
                StateOp::DeleteApplied { .. } => {}
            }
        }
        for (region, record) in progress {
            let installed = self.begins_anew(store, region, record);
            if installed {
                self.installs(store, region, &mut touched);
            }
            let here = self.stores[&store].applied.get(&region).copied();
            if !(installed && here == Some(record.index)) {
                self.advance(store, region, record, &mut touched);
            }
            let seen = self.store(store);
            if seen.terms.insert(region, record.term) != Some(record.term) {
                seen.terms_risen.push((region, record.term));
            }
        }
        for record in records_that_stay(batch) {
            self.region_written(store, record);
        }
        if batch.admin {
            let now = self.now;
            self.store(store).undurable.admin.push_back((number, now));
        }
        self.check_rows(store, touched.rows.iter(), state);
        self.compare_replicas(store, batch, state);
        if touched.regions {
            self.check_regions(store, state);
            self.check_children(store);
            self.check_merged(store);
        }
    }

    /// `region` moves on to what `record` says, entry by entry.
    fn advance(&mut self, store: u64, region: u64, record: ApplyRecord, touched: &mut Touched) {
        let from = self
            .store(store)
            .applied
            .get(&region)
            .copied()
            .unwrap_or(BIRTH.index);
        self.checks
            .check(Rule::IndexesInOrder, record.index > from, || {
                format!(
                    "store {store} region {region}: applied {} after {from}",
                    record.index
                )
            });
        for index in from + 1..=record.index {
            let seen = self.stores.entry(store).or_default();
            let durable = seen.log.durable(region);
            let entry = durable.and_then(|held| held.handed(index)).cloned();
            let commit = durable.map_or(0, |held| held.hard_state().commit);
            self.checks.check(Rule::AppliedIsPersisted, entry.is_some(), || {
                format!("store {store} region {region}: applied {index}, the durable log ends at {:?}", durable.map(super::log::Held::last))
            });
            let Some(entry) = entry else { return };
            if entry.kind() != EntryKind::Data {
                self.checks.check(Rule::AdminCommitDurable, commit >= index, || {
                    format!("store {store} region {region}: applied the admin entry {index}, the durable commit is {commit}")
                });
            }
            if index == record.index {
                self.checks.check(Rule::StateIsLog, entry.term == record.term, || {
                    format!("store {store} region {region}: applied {record:?}, the entry has term {}", entry.term)
                });
            }
            if index <= self.model.applied(region) {
                self.check_same(region, index, &entry);
            } else {
                self.first_applied(region, &entry, touched);
            }
        }
        self.store(store).applied.insert(region, record.index);
    }

    /// The record does not follow from the log: the region was not here, or begins anew behind a
    /// snapshot.
    fn begins_anew(&self, store: u64, region: u64, record: ApplyRecord) -> bool {
        let seen = &self.stores[&store];
        let from = seen.applied.get(&region).copied().unwrap_or(0);
        let intent = seen.log.durable(region).and_then(Held::snapshot);
        intent.is_some_and(|(index, _)| from < index && index <= record.index)
    }

    /// A snapshot takes the place of what the region held. Its intent is durable, it was committed, and
    /// from now on the rows are those of the log at its index.
    fn installs(&mut self, store: u64, region: u64, touched: &mut Touched) {
        let seen = &self.stores[&store];
        let intent = seen.log.durable(region).and_then(Held::snapshot);
        let Some((index, term)) = intent else { return };
        let entry = self.model.committed(region, index);
        let is = entry.as_ref().map_or(BIRTH.term, |entry| entry.term);
        let committed =
            index <= self.consensus.commit(region) && index <= self.model.applied(region);
        self.checks
            .check(Rule::StateIsLog, committed && is == term, || {
                format!("store {store} region {region}: a snapshot at {index} of term {term} is installed, the log has {is}")
            });
        if let Some(shape) = self.model.shape(region, index) {
            touched.rows.extend(self.model.rows_of(shape));
        }
        touched.regions = true;
        // What its sender had dropped did not come along.
        let dropped = self.stores.values().map(|seen| seen.undurable.compacted);
        let dropped = dropped.max().unwrap_or(0);
        let seen = self.store(store);
        seen.undurable.compacted = dropped.max(seen.undurable.compacted);
        let before = seen.applied.insert(region, index);
        seen.replacing.retain(|(id, _), _| *id != region);
        seen.snapshot_steps.push((region, SnapshotStep::Recorded));
        let arrived = seen.arrived.entry(region).or_default();
        *arrived = index.max(*arrived);
        let before = before.and_then(|before| self.model.shape(region, before));
        touched.rows.extend(
            before
                .into_iter()
                .flat_map(|shape| self.model.rows_of(shape)),
        );
    }

    /// A region's record goes to the state: of one that lives, or ended.
    fn region_written(&mut self, store: u64, record: &RegionRecord) {
        let Some(region) = &record.region else { return };
        let (id, peer) = (region.id, record.highest_peer_id);
        let seen = self.stores.entry(store).or_default();
        let ended = seen.tombstones.get(&id).copied();
        if record.state() == PeerState::Tombstone {
            self.checks
                .check(Rule::TombstoneStays, ended.is_none_or(|ended| ended <= peer), || {
                    format!("store {store} region {id}: the tombstone of {ended:?} becomes that of {peer}")
                });
            seen.applied.remove(&id);
            // Nothing of it is decided here any more.
            seen.terms.insert(id, u64::MAX);
            seen.terms_risen.push((id, u64::MAX));
            seen.tombstones.insert(id, peer);
            seen.keeps_log.remove(&id);
            let merged = self.model.gone(id).is_some();
            self.store(store).begins_to_die(record, merged);
            return;
        }
        self.check_lives_apart(store, region);
        let seen = self.stores.entry(store).or_default();
        self.checks.check(
            Rule::TombstoneStays,
            ended.is_none_or(|ended| ended < peer),
            || format!("store {store} region {id}: peer {peer} lives, {ended:?} has ended"),
        );
        seen.tombstones.remove(&id);
        if seen.applied.contains_key(&id) {
            return;
        }
        // Only a split makes a region that no snapshot brought.
        let born = self.model.born(id);
        let made = born.is_some_and(|(parent, index)| {
            seen.applied.get(&parent).is_some_and(|at| *at >= index)
        });
        self.checks.check(Rule::StateIsLog, made, || {
            format!("store {store}: region {id} appears, its birth was {born:?}")
        });
        seen.applied.insert(id, BIRTH.index);
    }

    /// Rows of a snapshot go into the state before the region's records, one column family at a time.
    pub fn rows_come(&mut self, store: u64, region: &Region, index: u64) {
        let seen = self.store(store);
        seen.replacing.insert((region.id, index), region.clone());
        seen.came.insert((region.id, index), region.clone());
    }

    /// Whatever was half in place is complete, or gone.
    pub fn rows_are_in_place(&mut self, store: u64) {
        self.store(store).replacing.clear();
    }

    fn check_same(&mut self, region: u64, index: u64, entry: &flotilla_proto::raft::Entry) {
        let first = self.model.committed(region, index);
        self.checks
            .check(Rule::CommittedStays, first.as_ref() == Some(entry), || {
                format!(
                    "region {region} index {index}: applied again as another entry, of term {}",
                    entry.term
                )
            });
    }

    fn first_applied(
        &mut self,
        region: u64,
        entry: &flotilla_proto::raft::Entry,
        touched: &mut Touched,
    ) {
        let (step, index) = (self.step, entry.index);
        let commit = self.consensus.commit(region);
        self.checks
            .check(Rule::CommitByQuorum, index <= commit, || {
                format!("region {region}: index {index} is applied, {commit} is committed")
            });
        let before = match entry.kind() {
            EntryKind::ConfChange => self.model.shape(region, u64::MAX).cloned(),
            _ => None,
        };
        let outcome = self.model.apply(region, entry, &mut self.checks);
        self.probes
            .hit_if(outcome.parts.len() > 1, "write: several in one entry");
        let by = self.consensus.committed_in(region, index);
        if by.is_some_and(|by| by > entry.term) {
            let (split, write) = (outcome.split.is_some(), !outcome.parts.is_empty());
            self.probes
                .hit_if(split, "split: committed by a later leader");
            self.probes
                .hit_if(write, "write: committed by a later leader");
        }
        for part in &outcome.parts {
            let late = self.answers.applied(step, part, &mut self.checks);
            self.probes
                .hit_if(late, "write: lost by a crash and applied later");
            self.probes.hit_if(
                part.skipped,
                "write: skipped at apply, its epoch had passed",
            );
            for change in part
                .mods
                .iter()
                .filter(|change| change.kind() != flotilla_proto::store::ModKind::DeleteRange)
            {
                touched.rows.insert((change.cf, change.key.clone()));
            }
        }
        self.probes.hit_if(
            outcome.split_refused,
            "split: refused, its epoch had passed",
        );
        if let Some(region) = outcome.members {
            self.note(format_args!(
                "region {} index {index}: now {:?}",
                region.id, region.peers
            ));
            self.check_peer_ids(&region);
            if let Some(before) = before {
                self.check_ids_of_new(&before, &region);
                Consensus::check_quorums(&before, &region, &mut self.checks);
            }
            touched.regions = true;
        }
        if let Some(step) = outcome.merge {
            self.merge_applied(region, index, step, touched);
        }
        if let Some(regions) = outcome.split {
            self.note(format_args!(
                "region {region} index {index} is a split into {}",
                regions.len()
            ));
            self.probes.hit("split: applied");
            self.probes
                .hit_if(regions.len() > 2, "split: in three or more");
            let children = regions.iter().take(regions.len() - 1);
            self.answers
                .split_applied(step, children.map(|child| child.end_key.clone()));
            regions
                .iter()
                .for_each(|region| self.check_peer_ids(region));
            touched.regions = true;
        }
    }

    /// These rows of the state are what the log makes of them.
    fn check_rows<'a>(
        &mut self,
        store: u64,
        rows: impl Iterator<Item = &'a RowKey>,
        state: &impl StateReader,
    ) {
        let seen = self.stores.entry(store).or_default();
        let compacted = seen.undurable.compacted;
        let owners = self.model.owners(&seen.applied);
        for key in rows {
            if seen.is_replaced(key, owners.of(key), &self.model) {
                continue;
            }
            let expected = self.model.at(key, &owners);
            let cf = Cf::try_from(key.0).unwrap_or(Cf::CfDefault);
            let found = state.get(cf, &key.1).unwrap_or_default();
            let same =
                expected == found.as_ref() || (found.is_none() && dropped(expected, cf, compacted));
            self.checks.check(Rule::StateIsLog, same, || {
                let owner = owners.of(key);
                format!("store {store}: {key:?} of region {owner:?} holds {found:?}, the log says {expected:?}")
            });
        }
    }

    /// All of the state is what the log makes of it.
    pub fn check_all_rows(&mut self, store: u64, state: &MemoryState) {
        let keys: Vec<RowKey> = self.model.keys().cloned().collect();
        let snapshot = state.frozen();
        self.check_rows(store, keys.iter(), &snapshot);
        let known: BTreeSet<&RowKey> = keys.iter().collect();
        for cf in [Cf::CfDefault, Cf::CfLock, Cf::CfWrite, Cf::CfMeta] {
            let everything = flotilla_engine::KeyRange {
                start: b"",
                end: b"",
            };
            let mut unknown = None;
            let scanned = snapshot.scan(cf, everything, false, &mut |key, _| {
                let key = (cf as i32, Bytes::copy_from_slice(key));
                if !known.contains(&key) {
                    unknown = Some(key);
                }
                true
            });
            self.checks.check(
                Rule::StateIsLog,
                scanned.is_ok() && unknown.is_none(),
                || format!("store {store}: the state holds {unknown:?}, which nobody wrote"),
            );
        }
    }

    /// What a crash leaves is one cut: no region, no row ahead of another.
    pub fn state_crashed(&mut self, store: u64, found: &MemoryState) {
        let (applied, tombstones) = (applied_of(found), tombstones_of(found));
        let before = std::mem::take(&mut self.store(store).survives);
        let first = before.is_empty();
        for (region, index) in &before {
            let left = applied.get(region).copied().unwrap_or(0);
            let ended = tombstones.contains_key(region);
            self.checks
                .check(Rule::DurableSurvives, left >= *index || ended, || {
                    format!(
                        "store {store} region {region}: {index} was durable, the crash left {left}"
                    )
                });
        }
        let behind = self.stores[&store].applied.keys().any(|region| {
            let born = self.model.born(*region);
            born.is_some_and(|(parent, index)| {
                applied.get(&parent).is_none_or(|left| *left < index)
            })
        });
        self.probes
            .hit_if(behind, "crash: the state fell behind a split");
        let seen = self.store(store);
        let cuts = std::mem::take(&mut seen.undurable.cuts);
        let is_cut = first || cuts.iter().any(|(_, cut)| *cut == applied);
        seen.undurable.cuts = vec![(0, applied.clone())];
        seen.survives.clone_from(&applied);
        seen.came.retain(|(region, index), _| {
            let left = applied.get(region);
            left.is_none_or(|left| left < index)
        });
        seen.replacing.clone_from(&seen.came);
        seen.applied = applied;
        let stay = seen
            .buried
            .iter()
            .all(|(region, peer)| tombstones.get(region).is_some_and(|left| left >= peer));
        let buried = std::mem::replace(&mut seen.buried, tombstones.clone());
        seen.tombstones = tombstones;
        seen.dying.clear();
        self.checks.check(Rule::TombstoneStays, stay, || {
            format!("store {store}: of the tombstones {buried:?} a crash has taken some")
        });
        self.checks.check(Rule::CrashIsPrefix, is_cut, || {
            format!("store {store}: the crash left what no flush had cut: {cuts:?}")
        });
        self.check_regions(store, found);
        self.check_merged(store);
        self.check_cut(store, found);
    }

    fn check_cut(&mut self, store: u64, found: &MemoryState) {
        let seen = &self.stores[&store];
        let hole = self.model.hole(&seen.applied, |child, born| {
            seen.may_lack(store, child, born)
        });
        self.checks.check(Rule::CrashIsPrefix, hole.is_none(), || {
            format!("store {store}: the crash left a hole: {hole:?}")
        });
        self.check_all_rows(store, found);
    }

    /// The store says how far its regions survive a crash.
    pub fn reported_durable(&mut self, store: u64, reported: &[(u64, u64)]) {
        let seen = &self.stores[&store];
        for (region, index) in reported {
            let survives = seen.survives.get(region).copied().unwrap_or(0);
            let holds = *index <= survives || seen.buried.contains_key(region);
            self.checks.check(Rule::DurableSurvives, holds, || {
                format!("store {store} region {region}: {index} is reported durable, a crash leaves {survives}")
            });
        }
    }

    // ---- what a flush is owed for ----

    /// Log bytes that a start of `store` would have to replay now, at most.
    pub fn owed(&self, store: u64) -> u64 {
        self.stores[&store].undurable.bytes()
    }

    /// A life of `store` begins after a replay of `bytes`, of which `owed` were due before.
    pub fn replayed(&mut self, store: u64, bytes: u64, owed: u64) {
        let now = self.now;
        let undurable = &mut self.store(store).undurable;
        undurable.over_since = None;
        undurable.before_cut = undurable.appended - bytes.min(undurable.appended);
        // What the replay itself wrote is younger than the start.
        undurable
            .admin
            .iter_mut()
            .for_each(|(_, since)| *since = now);
        self.checks.check(Rule::ReplayIsBounded, bytes <= owed, || {
            format!("store {store} replayed {bytes} bytes, {owed} came after the last durable cut")
        });
    }

    /// `bytes` were appended to the log of `store`.
    pub fn log_grew(&mut self, store: u64, bytes: u64) {
        self.store(store).undurable.appended += bytes;
    }

    /// A flush of `store` begins after batch `cut`.
    pub fn flush_begins(&mut self, store: u64, cut: u64) -> Cut {
        let seen = self.store(store);
        seen.undurable.cuts.push((cut, seen.applied.clone()));
        let appended = seen.undurable.appended;
        let covered = appended - seen.log.bytes_beyond(&seen.applied);
        Cut {
            appended,
            covered,
            cut,
        }
    }

    /// A flush is durable.
    pub fn flush_finished(&mut self, store: u64, cut: Cut, left_by_crash: &MemoryState) {
        let seen = self.store(store);
        seen.survives = applied_of(left_by_crash);
        seen.buried = tombstones_of(left_by_crash);
        seen.are_buried();
        let undurable = &mut seen.undurable;
        undurable.cuts.retain(|(number, _)| *number >= cut.cut);
        undurable.covered = undurable.covered.max(cut.covered);
        undurable.before_cut = undurable.before_cut.max(cut.appended);
        undurable.over_since = None;
        while undurable
            .admin
            .pop_front_if(|(number, _)| *number <= cut.cut)
            .is_some()
        {}
    }

    /// A flush is asked for in time: for the replay bound, for an admin change.
    pub fn check_flush_due(
        &mut self,
        store: u64,
        replay_bytes_max: u64,
        admin_max: Duration,
        grace: Duration,
    ) {
        let now = self.now;
        let undurable = &mut self.stores.entry(store).or_default().undurable;
        let bytes = undurable.appended - undurable.before_cut;
        if bytes > replay_bytes_max / 2 {
            undurable.over_since.get_or_insert(now);
        } else {
            undurable.over_since = None;
        }
        let over = undurable
            .over_since
            .map_or(Duration::ZERO, |since| now - since);
        self.checks.check(Rule::FlushInTime, over <= grace, || {
            format!("store {store}: {bytes} log bytes are not durable in the state, too many for {over:?}")
        });
        let admin = undurable
            .admin
            .front()
            .map_or(Duration::ZERO, |(_, since)| now - *since);
        self.checks
            .check(Rule::FlushInTime, admin <= admin_max + grace, || {
                format!("store {store}: an admin change is not durable in the state for {admin:?}")
            });
    }

    /// Time that the store could not use: it was stopped, or its clock jumped.
    pub fn excuse(&mut self, store: u64, time: Duration) {
        self.answers.excuse(store, time);
        let undurable = &mut self.store(store).undurable;
        undurable.over_since = undurable.over_since.map(|since| since + time);
        undurable
            .admin
            .iter_mut()
            .for_each(|(_, since)| *since = *since + time);
    }

    /// A crash forgets batches that were written after the last durable cut.
    pub fn undurable_crashed(&mut self, store: u64) {
        let seen = self.store(store);
        seen.undurable.admin.clear();
        seen.terms.clear();
        seen.terms_risen.clear();
    }

    /// A compaction may have dropped rows that had expired by `seconds`.
    pub fn compacted(&mut self, store: u64, seconds: u64) {
        let compacted = &mut self.store(store).undurable.compacted;
        *compacted = seconds.max(*compacted);
    }
}

impl StoreSeen {
    /// The row may be of a snapshot that is being put in place. A crash may have taken back the split
    /// that made its region, too: then the range is a parent's once more.
    fn is_replaced(&self, key: &RowKey, owner: Option<u64>, model: &Model) -> bool {
        let covers = |((id, _), region): (&(u64, u64), &Region)| {
            let meta = *id == META_REGION;
            meta == (key.0 == Cf::CfMeta as i32)
                && (meta || within(region, &key.1))
                && owner.is_none_or(|owner| owner == *id || model.descends(*id, owner))
        };
        self.replacing.iter().any(covers)
    }

    /// The child has no peer here, or had one that has ended, or its parent came here divided.
    pub(super) fn may_lack(&self, store: u64, child: &Region, born: (u64, u64)) -> bool {
        let divided = self
            .arrived
            .get(&born.0)
            .is_some_and(|index| *index >= born.1);
        let own = peer_on(child, store).map(|peer| peer.id);
        let ended = self.tombstones.get(&child.id).copied();
        divided || own.is_none_or(|own| ended.is_some_and(|ended| ended >= own))
    }
}

impl Undurable {
    /// Log bytes that a crash now would have to replay, at most.
    fn bytes(&self) -> u64 {
        self.appended - self.covered
    }
}

/// The applied indexes that a state holds.
pub fn applied_of(state: &MemoryState) -> Applied {
    let regions = state.regions().unwrap_or_default();
    let live = regions
        .into_iter()
        .filter(|stored| stored.record.state() != PeerState::Tombstone);
    let applied = live.map(|stored| {
        let region = stored.record.region.unwrap_or_default().id;
        (
            region,
            stored.applied.map_or(BIRTH.index, |record| record.index),
        )
    });
    applied.collect::<BTreeMap<_, _>>()
}

/// The tombstones that a state holds: the highest peer by region.
fn tombstones_of(state: &MemoryState) -> BTreeMap<u64, u64> {
    let regions = state.regions().unwrap_or_default();
    let ended = regions
        .into_iter()
        .filter(|stored| stored.record.state() == PeerState::Tombstone);
    let peers = ended.map(|stored| {
        let region = stored.record.region.unwrap_or_default().id;
        (region, stored.record.highest_peer_id)
    });
    peers.collect()
}

/// A compaction at `seconds` may have dropped this row.
fn dropped(stored: Option<&Bytes>, cf: Cf, seconds: u64) -> bool {
    let row = stored
        .filter(|_| cf != Cf::CfMeta)
        .and_then(|stored| row::decode(stored).ok());
    let expiry = row.and_then(|row| row.expiry);
    expiry.is_some_and(|expiry| expiry.saturating_add(DROP_DELAY_SECONDS) <= seconds)
}

impl Oracle {
    /// A store removes the files of a snapshot.
    pub fn check_files_go(&mut self, store: u64, key: &SnapshotKey) {
        let seen = &self.stores[&store];
        let region = key.region;
        let needed = seen.log.durable_intent(key).is_some_and(|peer| {
            let survives = seen.survives.get(&region).copied().unwrap_or(0);
            let ended = seen.buried.get(&region).is_some_and(|ended| *ended >= peer);
            survives < key.index && !ended
        });
        self.checks.check(Rule::IntentHasFiles, !needed, || {
            format!(
                "store {store}: the files of {key} go, and a crash would leave its intent alone"
            )
        });
    }

    /// Files of received snapshots that a store has at rest: of open intents, and where a peer `lives`, which
    /// may be about to remove them, or its next start does.
    pub fn check_files_at_rest(
        &mut self,
        store: u64,
        mut left: Vec<SnapshotKey>,
        lives: impl Fn(u64) -> bool,
    ) {
        let log = &self.stores[&store].log;
        left.retain(|key| key.incoming && log.durable_intent(key).is_none() && !lives(key.region));
        self.checks.check(Rule::FilesInUse, left.is_empty(), || {
            format!("store {store}: nobody needs the files of {left:?}")
        });
    }
}
