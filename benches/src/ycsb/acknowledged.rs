//! Record numbers of inserts, and which of them readers may ask for.
//!
//! Inserts run concurrently and finish out of order. A reader may ask only for records whose
//! insert was acknowledged: a record becomes visible when it and all before it are settled, as
//! with YCSB's acknowledged counter. An insert that failed settles as a hole: it may or may not
//! be there, so nobody asks for it.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use parking_lot::Mutex;

use super::distribution::Records;

/// The shared counter of one run.
#[derive(Debug)]
pub(super) struct Acknowledged {
    inserts: Mutex<Inserts>,
    /// A copy of `Inserts::visible` for readers. Invariant: never ahead of it.
    visible: AtomicU64,
    any_hole: AtomicBool,
}

#[derive(Debug)]
struct Inserts {
    /// The number the next insert gets.
    next: u64,
    /// All records below are settled. Invariant: `visible <= next`.
    visible: u64,
    /// Settled records above `visible`. Invariant: never contains `visible` itself.
    settled_ahead: BTreeSet<u64>,
    holes: BTreeSet<u64>,
}

impl Acknowledged {
    /// Records `0..records` are there already.
    pub(super) fn starting_at(records: u64) -> Self {
        Self {
            inserts: Mutex::new(Inserts {
                next: records,
                visible: records,
                settled_ahead: BTreeSet::new(),
                holes: BTreeSet::new(),
            }),
            visible: AtomicU64::new(records),
            any_hole: AtomicBool::new(false),
        }
    }

    /// The number of a new record, to be settled by [`Self::acknowledge`] or [`Self::fail`].
    pub(super) fn begin(&self) -> u64 {
        let mut inserts = self.inserts.lock();
        inserts.next += 1;
        inserts.next - 1
    }

    /// The insert was acknowledged.
    pub(super) fn acknowledge(&self, record: u64) {
        self.settle(record, false);
    }

    /// The insert failed; whether the record is there is unknown.
    pub(super) fn fail(&self, record: u64) {
        self.settle(record, true);
    }

    /// All visible records that are no holes, for a caller who wants each: how many there are
    /// below the visible bound, and the holes among them.
    pub(super) fn known(&self) -> (u64, BTreeSet<u64>) {
        let inserts = self.inserts.lock();
        (
            inserts.visible,
            inserts.holes.range(..inserts.visible).copied().collect(),
        )
    }

    fn settle(&self, record: u64, hole: bool) {
        let mut inserts = self.inserts.lock();
        assert!(record < inserts.next, "record {record} was never begun");
        assert!(
            record >= inserts.visible,
            "record {record} was settled before"
        );
        if hole {
            inserts.holes.insert(record);
            self.any_hole.store(true, Ordering::Release);
        }
        let first = inserts.settled_ahead.insert(record);
        assert!(first, "record {record} was settled before");
        while let Some(next) = inserts.settled_ahead.first().copied()
            && next == inserts.visible
        {
            inserts.settled_ahead.pop_first();
            inserts.visible += 1;
        }
        self.visible.store(inserts.visible, Ordering::Release);
    }
}

impl Records for Acknowledged {
    fn visible(&self) -> u64 {
        self.visible.load(Ordering::Acquire)
    }

    fn is_hole(&self, record: u64) -> bool {
        self.any_hole.load(Ordering::Acquire) && self.inserts.lock().holes.contains(&record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays `begin`, `ack N`, `fail N`; returns the visible bound after each step.
    #[track_caller]
    fn check(records: u64, script: &[(&str, u64)]) {
        let counter = Acknowledged::starting_at(records);
        for (step, expected) in script {
            match step.split_once(' ') {
                None => {
                    counter.begin();
                }
                Some(("ack", record)) => counter.acknowledge(record.parse().unwrap()),
                Some(("fail", record)) => counter.fail(record.parse().unwrap()),
                Some(other) => panic!("{other:?}"),
            }
            assert_eq!(counter.visible(), *expected, "after {step}");
        }
    }

    #[test]
    fn a_record_is_visible_once_all_before_it_are_settled() {
        check(
            3,
            &[
                ("begin", 3),
                ("begin", 3),
                ("begin", 3),
                ("ack 4", 3),
                ("ack 3", 5),
                ("ack 5", 6),
            ],
        );
    }

    #[test]
    fn a_failed_insert_does_not_hold_up_the_others() {
        check(
            0,
            &[("begin", 0), ("begin", 0), ("fail 0", 1), ("ack 1", 2)],
        );
    }

    #[test]
    fn a_failed_insert_is_a_hole() {
        let counter = Acknowledged::starting_at(10);
        let (failed, done) = (counter.begin(), counter.begin());
        counter.fail(failed);
        counter.acknowledge(done);
        assert!(counter.is_hole(failed) && !counter.is_hole(done) && !counter.is_hole(3));
        assert_eq!(counter.known(), (12, BTreeSet::from([10])));
    }

    #[test]
    fn numbers_are_given_once() {
        let counter = Acknowledged::starting_at(5);
        assert_eq!(
            [counter.begin(), counter.begin(), counter.begin()],
            [5, 6, 7]
        );
    }

    #[test]
    fn a_record_cannot_be_settled_twice_or_before_it_began() {
        for (begun, settled) in [(1, &[0, 0][..]), (2, &[1, 1]), (0, &[0])] {
            let counter = Acknowledged::starting_at(0);
            (0..begun).for_each(|_| {
                counter.begin();
            });
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                settled
                    .iter()
                    .for_each(|record| counter.acknowledge(*record));
            }));
            assert!(outcome.is_err(), "{settled:?} of {begun}");
        }
    }
}
