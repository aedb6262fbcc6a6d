//! A log view that keeps everything in memory: for tests and benchmarks, and as the plainest
//! statement of what a [`LogView`] owes.

use std::collections::VecDeque;

use flotilla_proto::raft::{Entry, Snapshot};

use crate::log_view::{FetchFor, LogView, Lookup};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct MemLog {
    /// The truncation point.
    truncated_index: u64,
    truncated_term: u64,
    /// Contiguous from `truncated_index + 1`.
    entries: VecDeque<Entry>,
    snapshot: Option<Snapshot>,
}

impl MemLog {
    /// An empty log behind the truncation point (`index`, `term`).
    pub fn starting_at(index: u64, term: u64) -> Self {
        Self {
            truncated_index: index,
            truncated_term: term,
            ..Self::default()
        }
    }

    /// Drops the entries up to `index`. Keeps at most what is there; falling back is not possible.
    pub fn truncate(&mut self, index: u64) {
        while let Some(entry) = self.entries.front().filter(|entry| entry.index <= index) {
            self.truncated_index = entry.index;
            self.truncated_term = entry.term;
            self.entries.pop_front();
        }
    }

    /// Sets what [`LogView::snapshot`] answers.
    pub fn set_snapshot(&mut self, snapshot: Option<Snapshot>) {
        self.snapshot = snapshot;
    }

    /// All entries held, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    fn position(&self, index: u64) -> Option<usize> {
        let offset = index.checked_sub(self.truncated_index + 1)?;
        usize::try_from(offset)
            .ok()
            .filter(|offset| *offset < self.entries.len())
    }
}

impl LogView for MemLog {
    fn first_index(&self) -> u64 {
        self.truncated_index + 1
    }

    fn last_index(&self) -> u64 {
        self.truncated_index + self.entries.len() as u64
    }

    fn term(&self, index: u64) -> Option<u64> {
        if index == self.truncated_index {
            return Some(self.truncated_term);
        }
        self.position(index)
            .and_then(|position| self.entries.get(position))
            .map(|entry| entry.term)
    }

    fn entries(&self, low: u64, high: u64, bytes_max: u64, _why: FetchFor) -> Lookup<Vec<Entry>> {
        let Some(start) = self.position(low) else {
            return Lookup::Compacted;
        };
        let count = usize::try_from(high - low)
            .unwrap_or(usize::MAX)
            .min(self.entries.len() - start);
        let mut bytes = 0;
        let cut = self
            .entries
            .range(start..start + count)
            .position(|entry| {
                bytes += entry.data.len() as u64;
                bytes > bytes_max
            })
            .map_or(count, |position| position.max(1));
        Lookup::Ready(self.entries.range(start..start + cut).cloned().collect())
    }

    fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first().map(|entry| entry.index) else {
            return;
        };
        assert!(
            first > self.truncated_index,
            "append at {first} below {}",
            self.truncated_index + 1
        );
        assert!(
            first <= self.last_index() + 1,
            "append at {first} after {}",
            self.last_index()
        );
        let keep = usize::try_from(first - self.truncated_index - 1).unwrap_or(usize::MAX);
        self.entries.truncate(keep);
        self.entries.extend(entries.iter().cloned());
    }

    fn restore(&mut self, index: u64, term: u64) {
        self.entries.clear();
        self.truncated_index = index;
        self.truncated_term = term;
        self.snapshot = None;
    }

    fn snapshot(&self) -> Option<Snapshot> {
        self.snapshot.clone()
    }
}
