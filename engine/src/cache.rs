//! Recent entries in memory, so that replication and apply read no disk.
//!
//! Each region has a cache of its own; all of a store share one budget. A cache evicts its own
//! oldest entries as soon as the budget is overdrawn, down to what was just appended: the busy
//! regions pay for what they take, and nothing is refused (contracts: C26).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flotilla_proto::raft::Entry;

/// The default budget of a store's entry caches, in bytes.
pub const ENTRY_CACHE_BYTES: u64 = 128 << 20;

/// Bytes that an entry takes in a cache beside its payload.
const ENTRY_BYTES: u64 = size_of::<Entry>() as u64;

/// Bytes that several owners may take together.
#[derive(Debug)]
pub struct ByteBudget {
    limit: u64,
    used: AtomicU64,
}

impl ByteBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            used: AtomicU64::new(0),
        }
    }

    /// Bytes taken at the moment.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes that may be taken.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// More is taken than may be: whoever can should give back.
    pub fn overdrawn(&self) -> bool {
        self.used() > self.limit
    }

    fn take(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: u64) {
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        assert!(before >= bytes, "{bytes} of {before} bytes given back");
    }
}

/// The newest entries of one region's log.
#[derive(Debug)]
pub struct EntryCache {
    /// Contiguous indexes. Invariant: a suffix of the region's log, or empty.
    entries: VecDeque<Entry>,
    /// What `entries` took from the budget.
    bytes: u64,
    budget: Arc<ByteBudget>,
}

impl EntryCache {
    /// An empty cache under a shared budget.
    pub fn new(budget: Arc<ByteBudget>) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            budget,
        }
    }

    /// Adds entries, in place of what stands at their indexes and after. If they leave a gap
    /// behind the newest entry held, what was held is dropped: the cache stays a suffix.
    ///
    /// # Panics
    /// If the indexes of `entries` are not contiguous.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first().map(|entry| entry.index) else {
            return;
        };
        if self.last_index().is_some_and(|last| first > last + 1) {
            self.clear();
        }
        self.cut(first);
        for (index, entry) in (first..).zip(entries) {
            assert_eq!(entry.index, index, "a gap between appended entries");
            self.take(entry);
        }
        let fresh = entries.len();
        while self.budget.overdrawn() && self.entries.len() > fresh {
            self.pop_front();
        }
    }

    /// Drops the entries from `index` on.
    pub fn cut(&mut self, index: u64) {
        while let Some(entry) = self.entries.pop_back_if(|entry| entry.index >= index) {
            self.give_back(&entry);
        }
    }

    /// Drops the entries below `index`.
    pub fn evict_below(&mut self, index: u64) {
        while self.first_index().is_some_and(|first| first < index) {
            self.pop_front();
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.budget.give_back(self.bytes);
        self.bytes = 0;
    }

    /// The entries [low, high), cut where their payload would pass `bytes_max`, but never before
    /// the first. `None` if `low` is not held; a `high` beyond the newest entry means up to it.
    pub fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Option<Vec<Entry>> {
        let skip = low.checked_sub(self.first_index()?)? as usize;
        if low >= high || skip >= self.entries.len() {
            return None;
        }
        let mut bytes = 0;
        let mut found = Vec::new();
        for entry in self
            .entries
            .range(skip..)
            .take_while(|entry| entry.index < high)
        {
            bytes += entry.data.len() as u64;
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Some(found)
    }

    /// The term at `index`, if it is held. Says nothing about any other index.
    pub fn term(&self, index: u64) -> Option<u64> {
        let position = index.checked_sub(self.first_index()?)?;
        self.entries.get(position as usize).map(|entry| entry.term)
    }

    /// The oldest index held.
    pub fn first_index(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.index)
    }

    /// The newest index held.
    pub fn last_index(&self) -> Option<u64> {
        self.entries.back().map(|entry| entry.index)
    }

    /// What this cache takes from the budget.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The shared budget.
    pub fn budget(&self) -> &ByteBudget {
        &self.budget
    }

    fn take(&mut self, entry: &Entry) {
        let bytes = cost(entry);
        self.budget.take(bytes);
        self.bytes += bytes;
        self.entries.push_back(entry.clone());
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.give_back(&entry);
        }
    }

    fn give_back(&mut self, entry: &Entry) {
        let bytes = cost(entry);
        self.budget.give_back(bytes);
        self.bytes -= bytes;
    }
}

impl Drop for EntryCache {
    fn drop(&mut self) {
        self.clear();
    }
}

fn cost(entry: &Entry) -> u64 {
    ENTRY_BYTES + entry.data.len() as u64
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const PAYLOAD: u64 = 100;
    const COST: u64 = ENTRY_BYTES + PAYLOAD;

    fn entries(indexes: std::ops::RangeInclusive<u64>, term: u64) -> Vec<Entry> {
        let data = Bytes::from(vec![0; PAYLOAD as usize]);
        indexes
            .map(|index| Entry {
                term,
                index,
                kind: 0,
                data: data.clone(),
            })
            .collect()
    }

    fn cache(limit: u64) -> EntryCache {
        EntryCache::new(Arc::new(ByteBudget::new(limit)))
    }

    /// What the cache holds: first and last index, and that its bytes and the budget's agree.
    #[track_caller]
    fn check(cache: &EntryCache, holds: Option<(u64, u64)>) {
        assert_eq!(cache.first_index().zip(cache.last_index()), holds);
        let count = holds.map_or(0, |(first, last)| last - first + 1);
        assert_eq!(
            (cache.bytes(), cache.budget().used()),
            (count * COST, count * COST)
        );
    }

    #[test]
    fn an_append_replaces_the_conflicting_tail() {
        let mut cache = cache(u64::MAX);
        cache.append(&entries(6..=10, 5));
        cache.append(&entries(8..=9, 6));
        check(&cache, Some((6, 9)));
        assert_eq!(
            [7, 8, 9, 10, 5].map(|index| cache.term(index)),
            [Some(5), Some(6), Some(6), None, None]
        );
        cache.append(&entries(3..=4, 7));
        check(&cache, Some((3, 4)));
        cache.append(&[]);
        check(&cache, Some((3, 4)));
    }

    #[test]
    fn a_gap_drops_what_was_held() {
        let mut cache = cache(u64::MAX);
        cache.append(&entries(6..=10, 5));
        cache.append(&entries(12..=13, 5));
        check(&cache, Some((12, 13)));
    }

    #[test]
    fn reads_stay_inside_what_is_held() {
        let mut cache = cache(u64::MAX);
        assert_eq!(cache.entries(6, 7, u64::MAX), None, "empty");
        cache.append(&entries(6..=10, 5));
        let read = |low, high, bytes_max| {
            let found = cache.entries(low, high, bytes_max)?;
            Some(found.iter().map(|entry| entry.index).collect::<Vec<_>>())
        };
        assert_eq!(read(6, 9, u64::MAX), Some(vec![6, 7, 8]));
        assert_eq!(read(9, 99, u64::MAX), Some(vec![9, 10]));
        assert_eq!(read(5, 9, u64::MAX), None, "starts below");
        assert_eq!(read(11, 12, u64::MAX), None, "starts above");
        assert_eq!(read(7, 7, u64::MAX), None, "nothing asked");
        assert_eq!(read(6, 11, 2 * PAYLOAD), Some(vec![6, 7]));
        assert_eq!(read(6, 11, 0), Some(vec![6]), "never less than one");
    }

    #[test]
    fn eviction_gives_the_bytes_back() {
        let mut cache = cache(u64::MAX);
        cache.append(&entries(6..=10, 5));
        cache.evict_below(8);
        check(&cache, Some((8, 10)));
        cache.evict_below(8);
        check(&cache, Some((8, 10)));
        cache.evict_below(99);
        check(&cache, None);
    }

    #[test]
    fn an_overdrawn_budget_costs_the_appender_its_oldest_entries() {
        let mut cache = cache(3 * COST);
        cache.append(&entries(6..=8, 5));
        check(&cache, Some((6, 8)));
        cache.append(&entries(9..=9, 5));
        check(&cache, Some((7, 9)));
        cache.append(&entries(10..=14, 5));
        check(&cache, Some((10, 14)));
    }

    #[test]
    fn caches_share_their_budget_until_they_are_dropped() {
        let budget = Arc::new(ByteBudget::new(4 * COST));
        let mut one = EntryCache::new(Arc::clone(&budget));
        let mut other = EntryCache::new(Arc::clone(&budget));
        one.append(&entries(6..=8, 5));
        other.append(&entries(6..=7, 5));
        assert_eq!(
            (budget.used(), budget.overdrawn()),
            (5 * COST, true),
            "what was appended stays"
        );
        other.append(&entries(8..=8, 5));
        assert_eq!(other.first_index(), Some(8), "its own older entries go");
        drop(one);
        assert_eq!((budget.used(), budget.overdrawn()), (COST, false));
    }
}
