//! The core's own side of the log: the tail not handed out yet, what is durable, what is committed,
//! what was handed out to apply.
//!
//! ```text
//!   view: handed out, durable or on its way          unstable: not handed out
//!   first ......... persisted ....................|  offset ........... last
//!        applied <= handed <= commit                 (commit may stand anywhere up to last)
//! ```
//!
//! Log writes are asynchronous: several Readys may be on their way to the disk, in order. Each is a
//! [`Flight`] that claims an index; when the log below that claim is replaced, the claim shrinks, so
//! that a late completion never counts for entries it did not write.

use std::collections::VecDeque;

use flotilla_proto::raft::{Entry, EntryKind, HardState, Snapshot};

use crate::log_view::{FetchFor, LogView, Lookup, Ticket};
use crate::planted::{Plant, Planted};

/// An entry that is more than data: applied only once its commit is durable (contracts: C4), and
/// between commit and apply there is no lease (contracts: C16).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Barrier {
    pub(crate) index: u64,
    pub(crate) conf_change: bool,
}

/// A Ready on its way to the disk.
#[derive(Debug)]
struct Flight {
    number: u64,
    /// Once it is durable, so is the log up to here.
    upto: u64,
    hard_state: Option<HardState>,
}

/// What one Ready asks to be written.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    pub(crate) hard_state: Option<HardState>,
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) must_sync: bool,
}

#[derive(Debug)]
pub(crate) struct Log<L> {
    pub(crate) view: L,
    /// Invariant: contiguous from `offset`.
    unstable: Vec<Entry>,
    offset: u64,
    /// Taken in, not handed out. Invariant: `offset` was its index + 1 when it came.
    incoming: Option<Snapshot>,
    /// Term of the last entry, or of the truncation point.
    last_term: u64,
    /// Invariant: never falls, `applied <= handed <= commit <= last`.
    commit: u64,
    /// Invariant: the log up to here is durable and equal to what this replica holds.
    persisted: u64,
    /// Handed out to be applied. Invariant: `handed <= persisted`, or it is a snapshot's index.
    handed: u64,
    applied: u64,
    /// Index of the last snapshot taken in; installed once `applied` reaches it.
    snapshot: u64,
    /// Those in the log above `applied`, ascending, without those the start found (`unscanned`).
    barriers: VecDeque<Barrier>,
    /// Entries up to here were in the log at start: any of them may be a barrier.
    unscanned: u64,
    /// A barrier found among them while fetching, waiting for its commit to be durable.
    found: u64,
    flights: VecDeque<Flight>,
    /// The newest hard state in any Ready, and the newest durable one.
    state_handed: HardState,
    state_durable: HardState,
    /// Handed out and not yet applied: (last index, payload bytes), and the sum of the bytes.
    applying: VecDeque<(u64, u64)>,
    applying_bytes: u64,
    applying_bytes_max: u64,
    /// Committed entries are being fetched.
    fetching: Option<Ticket>,
    pub(crate) plant: Plant,
}

impl<L: LogView> Log<L> {
    pub(crate) fn new(view: L, state: HardState, applied: u64, applying_bytes_max: u64) -> Self {
        let last = view.last_index();
        let last_term = view.term(last).unwrap_or_default();
        Self {
            unstable: Vec::new(),
            offset: last + 1,
            incoming: None,
            last_term,
            // Data is applied without waiting for its commit to be durable.
            commit: state.commit.max(applied),
            persisted: last,
            handed: applied,
            applied,
            snapshot: 0,
            barriers: VecDeque::new(),
            unscanned: last,
            found: 0,
            flights: VecDeque::new(),
            state_handed: state,
            state_durable: state,
            applying: VecDeque::new(),
            applying_bytes: 0,
            applying_bytes_max,
            fetching: None,
            plant: Plant::default(),
            view,
        }
    }

    // ---- reading ----

    pub(crate) fn first_index(&self) -> u64 {
        match self.incoming {
            Some(_) => self.offset,
            None => self.view.first_index(),
        }
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.offset + self.unstable.len() as u64 - 1
    }

    pub(crate) fn last_term(&self) -> u64 {
        self.last_term
    }

    pub(crate) fn commit(&self) -> u64 {
        self.commit
    }

    pub(crate) fn persisted(&self) -> u64 {
        self.persisted
    }

    pub(crate) fn handed(&self) -> u64 {
        self.handed
    }

    pub(crate) fn applied(&self) -> u64 {
        self.applied
    }

    /// The newest durable hard state.
    pub(crate) fn durable(&self) -> HardState {
        self.state_durable
    }

    /// A snapshot was taken in and the state it stands for is not there yet.
    pub(crate) fn installing(&self) -> bool {
        self.applied < self.snapshot
    }

    /// The term at `index`; `None` below the truncation point and behind the end.
    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if index >= self.offset {
            return self
                .slot(index)
                .and_then(|slot| self.unstable.get(slot))
                .map(|entry| entry.term);
        }
        if index + 1 == self.offset && self.unstable.is_empty() {
            return Some(self.last_term);
        }
        match self
            .incoming
            .as_ref()
            .and_then(|snapshot| snapshot.meta.as_ref())
        {
            Some(meta) => (meta.index == index).then_some(meta.term),
            None => self.view.term(index),
        }
    }

    pub(crate) fn matches(&self, index: u64, term: u64) -> bool {
        self.term(index) == Some(term)
    }

    /// A log that ends at (`index`, `term`) is at least as complete as this one (paper 5.4.1).
    pub(crate) fn is_up_to_date(&self, index: u64, term: u64) -> bool {
        (term, index) >= (self.last_term, self.last_index())
    }

    /// Entries `[low, high)`, at least one, cut at `bytes_max` of payload. Where the range runs from
    /// the view into the unstable tail, only the view's part is answered.
    pub(crate) fn entries(
        &self,
        low: u64,
        high: u64,
        bytes_max: u64,
        why: FetchFor,
    ) -> Lookup<Vec<Entry>> {
        debug_assert!(low < high && high <= self.last_index() + 1);
        if let Some(start) = self.slot(low) {
            let tail = &self.unstable[start..start + (high - low) as usize];
            let mut bytes = 0;
            let fits = tail.iter().take_while(|entry| {
                bytes += entry.data.len() as u64;
                bytes <= bytes_max
            });
            let count = fits.count().max(1);
            return Lookup::Ready(tail[..count].to_vec());
        }
        if self.incoming.is_some() || low < self.view.first_index() {
            return Lookup::Compacted;
        }
        let found = self
            .view
            .entries(low, high.min(self.offset), bytes_max, why);
        if let Lookup::Ready(entries) = &found {
            assert!(
                entries.first().is_some_and(|entry| entry.index == low),
                "log view: wrong entries at {low}"
            );
        }
        found
    }

    /// Where in `unstable` an index stands.
    fn slot(&self, index: u64) -> Option<usize> {
        index
            .checked_sub(self.offset)
            .and_then(|slot| usize::try_from(slot).ok())
    }

    /// The largest index at or below `index` whose term is at most `term`, with its term: every entry
    /// after it is newer than the other log's, so the logs cannot agree there.
    pub(crate) fn agreement_hint(&self, index: u64, term: u64) -> (u64, Option<u64>) {
        let mut at = index.min(self.last_index());
        loop {
            match self.term(at) {
                Some(found) if found > term && at > 0 => at -= 1,
                found => return (at, found),
            }
        }
    }

    // ---- growing ----

    /// A leader's own entry.
    pub(crate) fn push(&mut self, entry: Entry) {
        debug_assert_eq!(entry.index, self.last_index() + 1);
        self.note(&entry);
        self.last_term = entry.term;
        self.unstable.push(entry);
    }

    /// Entries that follow `prev`, where the logs agree and not below the commit index: whatever
    /// contradicts them is cut, what is there already stays. Returns the last index at which this log
    /// now equals the sender's.
    pub(crate) fn append_after(&mut self, prev: u64, mut entries: Vec<Entry>) -> u64 {
        let last_new = prev + entries.len() as u64;
        if prev < self.last_index() {
            let known = entries
                .iter()
                .take_while(|entry| self.matches(entry.index, entry.term))
                .count();
            if known == entries.len() {
                return last_new;
            }
            entries.drain(..known);
            let from = prev + 1 + known as u64;
            if from <= self.last_index() {
                self.cut(from);
            }
        }
        let Some(last) = entries.last() else {
            return last_new;
        };
        self.last_term = last.term;
        for entry in &entries {
            self.note(entry);
        }
        if self.unstable.is_empty() {
            self.unstable = entries;
        } else {
            self.unstable.append(&mut entries);
        }
        last_new
    }

    /// Forgets everything from `from` on; new entries follow at once.
    fn cut(&mut self, from: u64) {
        assert!(
            from > self.commit,
            "entry {from} is committed ({}) and would be replaced",
            self.commit
        );
        match self.slot(from) {
            Some(keep) => self.unstable.truncate(keep),
            None => {
                self.unstable.clear();
                self.offset = from;
            }
        }
        self.persisted = self.persisted.min(from - 1);
        self.unscanned = self.unscanned.min(from - 1);
        let kept = self.plant.breaks(Planted::StaleWriteCounts);
        for flight in &mut self.flights {
            flight.upto = if kept {
                flight.upto
            } else {
                flight.upto.min(from - 1)
            };
        }
        while self
            .barriers
            .pop_back_if(|barrier| barrier.index >= from)
            .is_some()
        {}
    }

    fn note(&mut self, entry: &Entry) {
        if entry.kind != EntryKind::Data as i32 {
            let conf_change = entry.kind == EntryKind::ConfChange as i32;
            self.barriers.push_back(Barrier {
                index: entry.index,
                conf_change,
            });
        }
    }

    /// Replaces the whole log by a snapshot; the commit index follows it.
    pub(crate) fn restore(&mut self, snapshot: Snapshot, index: u64, term: u64) {
        assert!(
            index > self.commit,
            "a snapshot at {index} below commit {}",
            self.commit
        );
        self.persisted = self.persisted.min(self.commit);
        for flight in &mut self.flights {
            flight.upto = 0;
        }
        self.unstable.clear();
        self.offset = index + 1;
        self.last_term = term;
        self.commit = index;
        self.handed = index;
        self.snapshot = index;
        self.unscanned = 0;
        self.barriers.clear();
        self.fetching = None;
        self.incoming = Some(snapshot);
    }

    /// Raises the commit index. Returns whether it moved.
    pub(crate) fn commit_to(&mut self, index: u64) -> bool {
        if index <= self.commit {
            return false;
        }
        assert!(
            index <= self.last_index(),
            "commit {index} behind the last index {}",
            self.last_index()
        );
        self.commit = index;
        true
    }

    // ---- writing ----

    pub(crate) fn has_writes(&self, term: u64, vote: u64) -> bool {
        !self.unstable.is_empty() || self.incoming.is_some() || self.state_wanted(term, vote)
    }

    /// The hard state must be written though no entries are: the term or the vote moved, or a barrier
    /// is committed and its commit is not on its way to the disk (contracts: C4).
    fn state_wanted(&self, term: u64, vote: u64) -> bool {
        let committed = self
            .barriers
            .iter()
            .rev()
            .find(|barrier| barrier.index <= self.commit);
        let barrier = committed.map_or(0, |barrier| barrier.index).max(self.found);
        (term, vote) != (self.state_handed.term, self.state_handed.vote)
            || barrier > self.state_handed.commit
    }

    /// Hands the tail over to the view and says what must be written.
    pub(crate) fn take_writes(&mut self, number: u64, term: u64, vote: u64) -> Writes {
        let must_sync = self.has_writes(term, vote);
        if !must_sync {
            return Writes::default();
        }
        let state = HardState {
            term,
            vote,
            commit: self.commit,
        };
        let hard_state = (state != self.state_handed).then_some(state);
        self.state_handed = state;
        let snapshot = self.incoming.take();
        if let Some(meta) = snapshot
            .as_ref()
            .and_then(|snapshot| snapshot.meta.as_ref())
        {
            self.view.restore(meta.index, meta.term);
        }
        let upto = if self.unstable.is_empty() && snapshot.is_none() {
            0
        } else {
            self.last_index()
        };
        let entries = std::mem::take(&mut self.unstable);
        self.offset += entries.len() as u64;
        if !entries.is_empty() {
            self.view.append(&entries);
        }
        self.flights.push_back(Flight {
            number,
            upto,
            hard_state,
        });
        Writes {
            hard_state,
            snapshot,
            entries,
            must_sync,
        }
    }

    /// Some Ready with something to write is not durable yet.
    pub(crate) fn in_flight(&self) -> bool {
        !self.flights.is_empty()
    }

    /// All Readys up to `number` are durable.
    pub(crate) fn written(&mut self, number: u64) {
        while let Some(flight) = self.flights.pop_front_if(|flight| flight.number <= number) {
            self.persisted = self.persisted.max(flight.upto);
            if let Some(state) = flight.hard_state {
                self.state_durable = state;
            }
        }
    }

    // ---- applying ----

    /// The end (exclusive) of what may be handed out now.
    fn applicable_end(&self) -> u64 {
        let mut end = self.commit.min(self.persisted) + 1;
        if self.plant.breaks(Planted::ApplyNotPersisted) {
            end = (self.commit + 1).min(self.offset);
        }
        if self.plant.breaks(Planted::AdminNotDurable) {
            return end;
        }
        let held = self
            .barriers
            .iter()
            .find(|barrier| barrier.index > self.state_durable.commit)
            .map_or(u64::MAX, |barrier| barrier.index);
        let found = if self.found > self.state_durable.commit {
            self.found
        } else {
            u64::MAX
        };
        end.min(held).min(found)
    }

    pub(crate) fn has_committed(&self) -> bool {
        self.handed < self.commit
            && self.fetching.is_none()
            && (self.applying.is_empty() || self.applying_bytes < self.applying_bytes_max)
            && self.handed + 1 < self.applicable_end()
    }

    /// The next committed entries, within the limit of unapplied bytes.
    pub(crate) fn take_committed(&mut self) -> Vec<Entry> {
        if !self.has_committed() {
            return Vec::new();
        }
        let room = self.applying_bytes_max.saturating_sub(self.applying_bytes);
        let low = self.handed + 1;
        let mut entries = match self.entries(low, self.applicable_end(), room, FetchFor::Apply) {
            Lookup::Ready(entries) => entries,
            Lookup::Pending(ticket) => {
                self.fetching = Some(ticket);
                return Vec::new();
            }
            Lookup::Compacted => panic!("the log was truncated at {low}, which was never applied"),
        };
        if low <= self.unscanned {
            self.hold_back(&mut entries);
        }
        let Some(last) = entries.last() else {
            return entries;
        };
        self.handed = last.index;
        let bytes = entries.iter().map(|entry| entry.data.len() as u64).sum();
        self.applying.push_back((self.handed, bytes));
        self.applying_bytes += bytes;
        entries
    }

    /// Cuts before the first barrier whose commit is not durable.
    fn hold_back(&mut self, entries: &mut Vec<Entry>) {
        if self.plant.breaks(Planted::AdminNotDurable) {
            return;
        }
        let durable = self.state_durable.commit;
        let barrier = |entry: &Entry| entry.kind != EntryKind::Data as i32 && entry.index > durable;
        if let Some(position) = entries.iter().position(barrier) {
            self.found = entries[position].index;
            entries.truncate(position);
        }
    }

    /// Everything up to `index` is applied. Returns whether a barrier was among it.
    pub(crate) fn apply_to(&mut self, index: u64) -> bool {
        assert!(
            index <= self.handed,
            "applied {index}, handed out {}",
            self.handed
        );
        self.applied = self.applied.max(index);
        while let Some((_, bytes)) = self.applying.pop_front_if(|(last, _)| *last <= index) {
            self.applying_bytes -= bytes;
        }
        let mut barrier = false;
        while self
            .barriers
            .pop_front_if(|barrier| barrier.index <= index)
            .is_some()
        {
            barrier = true;
        }
        barrier
    }

    /// The fetch for committed entries is done, if `ticket` is its.
    pub(crate) fn fetched(&mut self, ticket: Ticket) -> bool {
        self.fetching
            .take_if(|fetching| *fetching == ticket)
            .is_some()
    }

    /// A barrier is committed and not applied yet.
    pub(crate) fn barrier_committed(&self) -> bool {
        self.barriers
            .front()
            .is_some_and(|barrier| barrier.index <= self.commit)
    }

    /// A committed change of the configuration may be waiting to be applied: this replica does not
    /// know its group's newest configuration.
    pub(crate) fn conf_unsettled(&self) -> bool {
        let known = |barrier: &Barrier| barrier.conf_change && barrier.index <= self.commit;
        self.barriers.iter().any(known) || self.applied < self.commit.min(self.unscanned)
    }

    /// What must hold between any two calls.
    pub(crate) fn check(&self) {
        assert!(
            self.applied <= self.handed && self.handed <= self.commit,
            "{}",
            self.picture()
        );
        assert!(
            self.commit <= self.last_index() && self.persisted < self.offset,
            "{}",
            self.picture()
        );
        let early = self.plant.breaks(Planted::ApplyNotPersisted);
        assert!(
            early || self.handed <= self.persisted.max(self.snapshot),
            "{}",
            self.picture()
        );
    }

    fn picture(&self) -> String {
        format!(
            "applied {} handed {} commit {} persisted {} offset {} last {}",
            self.applied,
            self.handed,
            self.commit,
            self.persisted,
            self.offset,
            self.last_index()
        )
    }
}
