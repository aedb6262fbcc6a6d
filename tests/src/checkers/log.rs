//! What a store's raft log must hold: followed batch by batch, apart from the engine that keeps it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use flotilla_engine::{BIRTH, ENTRY_OVERHEAD_BYTES, LogBatch, RegionLog, RegionWrite, SnapshotKey};
use flotilla_proto::raft::{Entry, HardState};
use flotilla_proto::store::{RaftRecord, SnapshotIntent, SnapshotManifest, TruncationRecord};

use super::consensus::Consensus;
use crate::rules::{Checks, Rule};

/// One region's part of the log.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// The hard state.
    pub record: Option<RaftRecord>,
    /// The truncation point, if the log was ever truncated.
    pub truncation: Option<TruncationRecord>,
    /// The snapshot intent that is open.
    pub intent: Option<SnapshotIntent>,
    /// The record before the log was cleared: what that peer had promised it keeps.
    pub cleared: Option<RaftRecord>,
    /// By index.
    pub entries: BTreeMap<u64, Entry>,
    /// Those that a snapshot took the place of. In this life apply may still have been handed them
    /// before it.
    pub replaced: BTreeMap<u64, Entry>,
    /// Index and term of entries that were cut off: what was true when a message was made stays so.
    pub cut_off: BTreeSet<(u64, u64)>,
}

impl Held {
    /// The truncation point, or where the region was born.
    pub fn truncated(&self) -> TruncationRecord {
        self.truncation.unwrap_or(BIRTH)
    }

    /// The last index held.
    pub fn last(&self) -> u64 {
        let last = self.entries.last_key_value().map(|(index, _)| *index);
        last.unwrap_or(self.truncated().index)
    }

    /// The hard state, or that of a region's birth.
    pub fn hard_state(&self) -> HardState {
        let found = self.record.and_then(|record| record.hard_state);
        found.unwrap_or(HardState {
            term: BIRTH.term,
            vote: 0,
            commit: BIRTH.index,
        })
    }

    /// A leader later than `term` has written over `index`, or over what came before it.
    pub fn was_cut(&self, index: u64, term: u64) -> bool {
        let mut upto = self.entries.range(..=index);
        upto.next_back().is_some_and(|(_, entry)| entry.term > term)
    }

    /// The entry at `index` was of `term` here, or a snapshot or truncation covers it.
    pub fn had(&self, index: u64, term: u64) -> bool {
        self.truncated().index >= index
            || self.term(index) == Some(term)
            || self.cut_off.contains(&(index, term))
    }

    /// The index and term of the snapshot that is to be installed.
    pub fn snapshot(&self) -> Option<(u64, u64)> {
        let manifest = self.intent.as_ref()?.manifest.as_ref()?;
        Some((manifest.index, manifest.term))
    }

    /// The entry at `index`, if apply may have it: it is held, or was until a snapshot came.
    pub fn handed(&self, index: u64) -> Option<&Entry> {
        self.entries
            .get(&index)
            .or_else(|| self.replaced.get(&index))
    }

    /// The term of an index that is held, or of the truncation point.
    pub fn term(&self, index: u64) -> Option<u64> {
        let truncated = self.truncated();
        if index == truncated.index {
            return Some(truncated.term);
        }
        self.entries.get(&index).map(|entry| entry.term)
    }
}

type Image = BTreeMap<u64, Held>;

/// The log of one store: as a reader sees it, and as a crash would leave it at least.
#[derive(Debug, Default)]
pub struct LogModel {
    held: Image,
    durable: Image,
    /// What the durable log of each peer held when it was cleared, by region and peer.
    formers: BTreeMap<(u64, u64), Held>,
    /// Written and not synced, by number.
    waiting: VecDeque<(u64, Vec<(u64, RegionWrite)>)>,
    /// Votes that have become durable and were not told yet: region, peer, hard state.
    votes: Vec<(u64, u64, HardState)>,
    /// Regions whose intents have become durable and were not told yet.
    intents: Vec<u64>,
}

/// What the log must be consistent with.
pub struct LogContext<'a> {
    /// Applied index by region that a crash now would leave in the state.
    pub survives: &'a BTreeMap<u64, u64>,
    /// Applied index of the regions that live in the state as it is.
    pub applied: &'a BTreeMap<u64, u64>,
    /// The highest peer of each region that has ended, as a crash now would leave it.
    pub buried: &'a BTreeMap<u64, u64>,
    /// The committed entry of a region at an index, once it was applied anywhere.
    pub committed: &'a dyn Fn(u64, u64) -> Option<Entry>,
}

impl LogModel {
    /// The log of `region` that a crash would leave, if the region ever wrote.
    pub fn durable(&self, region: u64) -> Option<&Held> {
        self.durable.get(&region)
    }

    /// The durable log of a peer as it was cleared, once another's may have taken its place.
    pub fn former(&self, region: u64, peer: u64) -> Option<&Held> {
        self.formers.get(&(region, peer))
    }

    /// Some entry that is durable, and which is up to `nth`: region and index.
    pub fn any_entry(&self, nth: u64) -> Option<(u64, u64)> {
        let of = |(region, held): (&u64, &Held)| {
            let region = *region;
            held.entries
                .keys()
                .map(move |index| (region, *index))
                .collect::<Vec<_>>()
        };
        let entries: Vec<(u64, u64)> = self.durable.iter().flat_map(of).collect();
        let nth = nth.checked_rem(entries.len() as u64)?;
        entries.get(nth as usize).copied()
    }

    /// An intent that a crash would leave, and that `applied` has not reached: its peer, its snapshot.
    pub fn open_intent(&self, applied: &BTreeMap<u64, u64>) -> Option<(u64, SnapshotManifest)> {
        self.durable.iter().find_map(|(region, held)| {
            let intent = held.intent.as_ref()?;
            let manifest = intent.manifest.clone()?;
            let done = applied.get(region).is_some_and(|at| *at >= manifest.index);
            (!done).then_some((intent.peer_id, manifest))
        })
    }

    /// The intent of the snapshot `key` that a crash would leave: its peer.
    pub fn durable_intent(&self, key: &SnapshotKey) -> Option<u64> {
        let intent = self.durable.get(&key.region)?.intent.as_ref()?;
        let same = SnapshotKey::incoming(intent.manifest.as_ref()?) == *key;
        same.then_some(intent.peer_id)
    }

    /// The intents that a crash would leave: region and index.
    pub fn durable_intents(&self) -> Vec<(u64, u64)> {
        let intents = self.durable.iter();
        let intents = intents.filter_map(|(region, held)| Some((*region, held.snapshot()?.0)));
        intents.collect()
    }

    /// The log of `region` as it is read.
    pub fn held(&self, region: u64) -> Option<&Held> {
        self.held.get(&region)
    }

    /// Batches written and not synced.
    pub fn unsynced(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes of the entries that the log holds and `applied` has not reached.
    pub fn bytes_beyond(&self, applied: &BTreeMap<u64, u64>) -> u64 {
        let of_region = |(region, held): (&u64, &Held)| {
            let from = applied.get(region).copied().unwrap_or(BIRTH.index);
            let beyond = held.entries.range(from + 1..);
            beyond
                .map(|(_, entry)| entry.data.len() as u64 + ENTRY_OVERHEAD_BYTES)
                .sum::<u64>()
        };
        self.held.iter().map(of_region).sum()
    }

    /// A batch was written.
    pub fn appended(
        &mut self,
        number: u64,
        batch: &LogBatch,
        context: &LogContext<'_>,
        consensus: &mut Consensus,
        checks: &mut Checks,
    ) {
        let writes: Vec<_> = batch
            .regions()
            .map(|(region, write)| (region, write.clone()))
            .collect();
        for (region, write) in &writes {
            let held = self.held.entry(*region).or_default();
            if write.clear.is_some() {
                check_clear(*region, held, write, context, checks);
                drop(clear(held));
            }
            check_write(*region, held, write, context, checks);
            consensus.appended(*region, held, write, checks);
            apply(held, write);
            check_whole(*region, held, checks);
        }
        self.waiting.push_back((number, writes));
    }

    /// A write failed: what it wrote may be found after a crash all the same.
    pub fn append_failed(&mut self, batch: &LogBatch) {
        let number = self
            .waiting
            .back()
            .map_or(u64::MAX / 2, |(number, _)| number + 1);
        let writes = batch
            .regions()
            .map(|(region, write)| (region, write.clone()));
        self.waiting.push_back((number, writes.collect()));
    }

    /// Batches up to `number` are durable.
    pub fn synced(&mut self, number: u64) {
        while let Some((_, writes)) = self.waiting.pop_front_if(|(waiting, _)| *waiting <= number) {
            self.make_durable(&writes);
        }
    }

    /// A crash that `kept` so many of the unsynced batches.
    pub fn crashed(&mut self, kept: u64) {
        for (_, writes) in std::mem::take(&mut self.waiting)
            .into_iter()
            .take(kept as usize)
        {
            self.make_durable(&writes);
        }
        // Nothing was handed out in the life to come.
        let durable = self.durable.values_mut();
        durable.for_each(|held| held.replaced.clear());
        self.held = self.durable.clone();
    }

    fn make_durable(&mut self, writes: &[(u64, RegionWrite)]) {
        for (region, write) in writes {
            let held = self.durable.entry(*region).or_default();
            let installs = matches!(write.intent, Some(Some(_)));
            if let Some(record) = held.record.filter(|_| write.clear.is_some() && !installs) {
                self.formers.insert((*region, record.peer_id), held.clone());
            }
            apply(held, write);
            if matches!(write.intent, Some(Some(_))) {
                self.intents.push(*region);
            }
            if let Some(record) = &write.record
                && let Some(state) = record.hard_state
                && state.vote != 0
            {
                self.votes.push((*region, record.peer_id, state));
            }
        }
    }

    /// Votes that have become durable since the last call.
    pub fn take_votes(&mut self) -> Vec<(u64, u64, HardState)> {
        std::mem::take(&mut self.votes)
    }

    /// Regions whose intents have become durable since the last call.
    pub fn take_intents(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.intents)
    }

    /// What was found on disk is what this model says.
    pub fn found(&self, found: &BTreeMap<u64, RegionLog>, checks: &mut Checks) {
        for (region, held) in &self.held {
            let log = found.get(region).cloned().unwrap_or_default();
            let span = held
                .entries
                .first_key_value()
                .map(|(first, _)| (*first, held.last()));
            let same = log.span.map(|span| (span.first, span.last)) == span
                && log.record == held.record
                && log.truncation == held.truncation
                && log.intent == held.intent
                && log.terms == runs(held);
            checks.check(Rule::LogIsWhole, same, || {
                format!(
                    "region {region}: the disk holds {log:?}, written and kept was {span:?} {:?}",
                    held.record
                )
            });
        }
    }
}

/// Terms by run, as the engine tells them.
fn runs(held: &Held) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (index, entry) in &held.entries {
        if runs.last().is_none_or(|(_, term)| *term != entry.term) {
            runs.push((*index, entry.term));
        }
    }
    runs
}

/// The log of a peer goes once its tombstone survives a crash. What a peer only had promised goes when
/// another takes its place; and whoever installs a snapshot begins a new log in the same batch.
fn check_clear(
    region: u64,
    held: &Held,
    write: &RegionWrite,
    context: &LogContext<'_>,
    checks: &mut Checks,
) {
    let peer = held.record.map_or(0, |record| record.peer_id);
    let ended = context
        .buried
        .get(&region)
        .is_some_and(|ended| *ended >= peer);
    let installs = matches!(write.intent, Some(Some(_)));
    let blank = held.entries.is_empty() && held.truncation.is_none() && held.intent.is_none();
    let lives = context.applied.contains_key(&region);
    let may = ended || installs || (blank && !lives);
    checks.check(Rule::TombstoneStays, may, || {
        format!(
            "region {region}: the log of peer {peer} goes, a crash leaves the tombstones {:?}",
            context.buried
        )
    });
}

fn check_write(
    region: u64,
    held: &Held,
    write: &RegionWrite,
    context: &LogContext<'_>,
    checks: &mut Checks,
) {
    if let Some(record) = &write.record {
        let begins = write.clear.is_some();
        check_hard_state((region, begins), held, record, context, checks);
    }
    if let Some(truncation) = write.truncation {
        check_truncation(region, held, write, truncation, context, checks);
    }
    if let (Some(None), Some((index, _))) = (&write.intent, held.snapshot()) {
        let survives = context.survives.get(&region).copied().unwrap_or(0);
        let ended = context.buried.contains_key(&region);
        let may = survives >= index || ended;
        checks.check(Rule::IntentCoversState, may, || {
            format!("region {region}: the intent at {index} goes, a crash leaves the state at {survives}")
        });
    }
    for entry in &write.entries {
        let committed = (context.committed)(region, entry.index);
        // Who never had it may still write something else there, which will be cut off.
        if committed.is_none() || held.entries.get(&entry.index) != committed.as_ref() {
            continue;
        }
        let same = committed.as_ref() == Some(entry);
        checks.check(Rule::CommittedStays, same, || {
            format!(
                "region {region} index {}: term {} replaces the committed {committed:?}",
                entry.index, entry.term
            )
        });
    }
}

fn check_hard_state(
    (region, begins): (u64, bool),
    held: &Held,
    record: &RaftRecord,
    context: &LogContext<'_>,
    checks: &mut Checks,
) {
    let earlier = held.record.or(held.cleared);
    let ended = context.buried.get(&region).copied().unwrap_or(0);
    // What was on its way to a slow log when the tombstone was written still arrives, and is cleared.
    // A snapshot clears a log, too, whose peer lives on; or did when it was given to the log.
    let last = held.cleared.filter(|_| held.record.is_none() && !begins);
    let cleared = last.is_some_and(|last| record.peer_id <= last.peer_id);
    let back = record.peer_id <= ended && cleared;
    checks.check(Rule::TombstoneStays, !back, || {
        format!(
            "region {region}: peer {} has a log, {ended} has ended",
            record.peer_id
        )
    });
    let before = match earlier {
        Some(earlier) if earlier.peer_id == record.peer_id => {
            earlier.hard_state.unwrap_or_default()
        }
        // Another peer, or one that nothing is known of: a child is born with something.
        Some(earlier) => {
            checks.check(Rule::OneLivePeer, earlier.peer_id < record.peer_id, || {
                format!(
                    "region {region}: peer {} follows peer {}",
                    record.peer_id, earlier.peer_id
                )
            });
            HardState::default()
        }
        None if context.applied.contains_key(&region) => held.hard_state(),
        None => HardState::default(),
    };
    let after = record.hard_state.unwrap_or_default();
    let rises = after.term >= before.term && after.commit >= before.commit;
    let one_vote = after.term > before.term || before.vote == 0 || after.vote == before.vote;
    checks.check(Rule::HardStateRises, rises && one_vote, || {
        format!("region {region}: the hard state {before:?} became {after:?}")
    });
}

fn check_truncation(
    region: u64,
    held: &Held,
    write: &RegionWrite,
    to: TruncationRecord,
    context: &LogContext<'_>,
    checks: &mut Checks,
) {
    if let Some(Some(intent)) = &write.intent {
        let manifest = intent.manifest.as_ref();
        let is = manifest.map(|manifest| (manifest.index, manifest.term));
        let rises = to.index >= held.truncation.map_or(0, |held| held.index);
        checks.check(
            Rule::LogIsWhole,
            rises && is == Some((to.index, to.term)),
            || {
                format!(
                    "region {region}: truncated at {to:?} for a snapshot at {is:?}, before {:?}",
                    held.truncation
                )
            },
        );
        return;
    }
    let survives = context.survives.get(&region).copied().unwrap_or(0);
    // What was on its way to a slow log when the tombstone was written still arrives, and is cleared.
    let peer = held.record.map_or(0, |record| record.peer_id);
    let ended = context
        .buried
        .get(&region)
        .is_some_and(|ended| *ended >= peer);
    checks.check(
        Rule::TruncatedIsDurable,
        to.index <= survives || ended,
        || {
            format!(
                "region {region}: truncated up to {}, a crash leaves the state at {survives}",
                to.index
            )
        },
    );
    let replaced = write.entries.iter().find(|entry| entry.index == to.index);
    let term = replaced.map(|entry| entry.term).or(held.term(to.index));
    let rises = to.index >= held.truncated().index && term == Some(to.term);
    checks.check(Rule::LogIsWhole, rises, || {
        format!(
            "region {region}: truncated at {to:?}, the log has term {term:?} there, before {:?}",
            held.truncation
        )
    });
}

/// No gap, no leftover behind the last entry, terms that rise, commit within.
fn check_whole(region: u64, held: &Held, checks: &mut Checks) {
    let truncated = held.truncated();
    let mut before = (truncated.index, truncated.term);
    let mut whole = true;
    for entry in held.entries.values() {
        whole &= entry.index == before.0 + 1 && entry.term >= before.1;
        before = (entry.index, entry.term);
    }
    let hard_state = held.hard_state();
    // A peer that knows nothing yet is behind every birth.
    let blank = held.truncation.is_none() && held.entries.is_empty();
    whole &= hard_state.commit <= before.0 && (blank || before.1 <= hard_state.term);
    checks.check(Rule::LogIsWhole, whole, || {
        let indexes: Vec<_> = held
            .entries
            .values()
            .map(|entry| (entry.index, entry.term))
            .collect();
        format!("region {region}: truncated at {truncated:?}, then {indexes:?}, {hard_state:?}")
    });
}

/// As [`RegionWrite`] says it: clear, cut, entries, record, truncation.
fn apply(held: &mut Held, write: &RegionWrite) {
    if write.clear.is_some() {
        let cut_off = std::mem::take(&mut held.cut_off);
        let before = clear(held);
        if matches!(write.intent, Some(Some(_))) {
            held.cut_off = cut_off;
            held.cut_off
                .extend(before.values().map(|it| (it.index, it.term)));
            held.replaced = before;
        }
    }
    if let Some((first, last)) = write.cut() {
        let cut = held.entries.extract_if(first..=last, |_, _| true);
        held.cut_off
            .extend(cut.map(|(index, entry)| (index, entry.term)));
    }
    for entry in &write.entries {
        let before = held.entries.insert(entry.index, entry.clone());
        let other = before.filter(|before| before.term != entry.term);
        held.cut_off
            .extend(other.map(|before| (before.index, before.term)));
    }
    held.record = write.record.or(held.record);
    if let Some(truncation) = write.truncation {
        held.truncation = Some(truncation);
        held.entries.retain(|index, _| *index > truncation.index);
    }
    if let Some(intent) = &write.intent {
        held.intent.clone_from(intent);
    }
}

/// Answers the entries that were held.
fn clear(held: &mut Held) -> BTreeMap<u64, Entry> {
    let cleared = held.record.or(held.cleared);
    let before = std::mem::take(held);
    held.cleared = cleared;
    before.entries
}
