//! Which values a record may hold after a run: that of the last acknowledged write, or of one that no
//! acknowledged write surely followed.
//!
//! Writes of one record run at the same time and take effect in any order meanwhile. But a write
//! whose answer came before another one began cannot be the last any more once that other is
//! acknowledged. A write without an answer may take effect at any time after it began.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

/// Locks, so that clients rarely meet at one.
const SHARDS: u64 = 64;

/// What was written to each record in one run.
#[derive(Debug)]
pub(super) struct Ledger {
    records: Vec<Mutex<HashMap<u64, Vec<Write>>>>,
    /// Rises with every begin and every answer.
    clock: AtomicU64,
}

/// A write that may be the last of its record.
#[derive(Clone, Copy, Debug)]
struct Write {
    seed: u64,
    begun: u64,
    /// `None`: nobody has acknowledged it.
    acknowledged: Option<u64>,
}

/// A write under way.
#[derive(Debug)]
pub(super) struct Entry {
    record: u64,
    begun: u64,
}

impl Ledger {
    pub(super) fn new() -> Self {
        let records = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self {
            records,
            clock: AtomicU64::new(0),
        }
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn writes(&self, record: u64) -> &Mutex<HashMap<u64, Vec<Write>>> {
        &self.records[(record % SHARDS) as usize]
    }

    /// A write of the value with this seed is about to be sent. Without [`Self::acknowledge`] it stays
    /// one that may take effect at any time.
    pub(super) fn begin(&self, record: u64, seed: u64) -> Entry {
        let begun = self.tick();
        let write = Write {
            seed,
            begun,
            acknowledged: None,
        };
        let mut records = self.writes(record).lock();
        records.entry(record).or_default().push(write);
        Entry { record, begun }
    }

    /// It was acknowledged.
    pub(super) fn acknowledge(&self, entry: &Entry) {
        let now = self.tick();
        let mut records = self.writes(entry.record).lock();
        let writes = records.entry(entry.record).or_default();
        // What ended before this one began has been replaced by it, if by nothing else.
        writes.retain(|write| write.acknowledged.is_none_or(|at| at > entry.begun));
        for write in writes.iter_mut().filter(|write| write.begun == entry.begun) {
            write.acknowledged = Some(now);
        }
    }

    /// Whether the record may hold the value with this seed, now that no write is under way.
    pub(super) fn may_hold(&self, record: u64, seed: u64) -> bool {
        let records = self.writes(record).lock();
        let Some(writes) = records.get(&record) else {
            // Not written in this run: as it was before.
            return true;
        };
        let replaced = writes.iter().any(|write| write.acknowledged.is_some());
        !replaced || writes.iter().any(|write| write.seed == seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: u64 = 70;

    /// Plays `begin A`, `ack A`; then the record may hold the values of `may` and of no other write.
    #[track_caller]
    fn check(script: &str, may: &str) {
        let ledger = Ledger::new();
        let mut entries = HashMap::new();
        for step in script.split(", ") {
            let (what, name) = step.split_once(' ').expect("a step and a name");
            let seed = u64::from(name.as_bytes()[0]);
            match what {
                "begin" => drop(entries.insert(seed, ledger.begin(RECORD, seed))),
                "ack" => ledger.acknowledge(&entries[&seed]),
                other => panic!("{other}"),
            }
        }
        // `0` was there before.
        let all = ['0', 'A', 'B', 'C'].into_iter();
        let found: String = all
            .filter(|name| ledger.may_hold(RECORD, u64::from(*name as u32)))
            .collect();
        assert_eq!(found, may, "{script}");
    }

    #[test]
    fn the_last_acknowledged_write_counts_and_those_that_were_under_way_with_it() {
        check("begin A, ack A", "A");
        check("begin A, ack A, begin B, ack B", "B");
        check("begin A, begin B, ack B, ack A", "AB");
        check("begin A, begin B, ack A, begin C, ack B, ack C", "BC");
    }

    #[test]
    fn a_write_without_an_answer_may_come_at_any_time() {
        check("begin A", "0ABC");
        check("begin A, ack A, begin B", "AB");
        check("begin A, begin B, ack B, begin C, ack C", "AC");
    }

    #[test]
    fn a_record_that_was_not_written_holds_what_it_held() {
        assert!(Ledger::new().may_hold(RECORD, 7));
    }
}
