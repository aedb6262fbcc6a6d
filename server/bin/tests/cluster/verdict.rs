//! What must hold in the end.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_kv::KeyMode;
use flotilla_tests::history::search::{Verdict, linearize, says_something, story};
use flotilla_tests::rules::Checks;

use crate::RUNTIME;
use crate::load::{Book, keys};
use crate::nodes::Cluster;

/// Where each region's rows begin and end that a round has written once.
const REGIONS: [&str; 4] = ["a", "c", "e", "g"];

/// What was found, over all rounds.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) calls: usize,
    pub(crate) acknowledged: u64,
    /// Histories of one key that have an order ...
    explained: u64,
    /// ... and those with too many orders to look at.
    undecided: u64,
    /// All rows that were acknowledged.
    rows: BTreeMap<Bytes, Bytes>,
}

impl Found {
    /// Holds a round against what is there now. Every node runs, and nothing is cut.
    #[track_caller]
    pub(crate) fn judge(&mut self, cluster: &Cluster, round: usize, book: &Book) {
        self.acknowledged += book.acknowledged();
        self.calls += book.history().len();
        self.has_an_order(round, book);
        let rows = book.rows();
        let there = REGIONS.map(|letter| {
            let (start, end) = (
                format!("{letter}w{round:05}/"),
                format!("{letter}w{round:05}~"),
            );
            RUNTIME.block_on(cluster.reach().content(&start, &end))
        });
        assert_lost_nothing(&rows, &there.into_iter().flatten().collect());
        self.rows.extend(rows);
        cluster.converge();
        for (region, sums) in RUNTIME.block_on(cluster.reach().checksums()) {
            assert_eq!(
                sums.len(),
                1,
                "replicas of region {region} differ: {sums:?}"
            );
        }
    }

    #[track_caller]
    fn has_an_order(&mut self, round: usize, book: &Book) {
        let (history, keys) = (book.history(), keys(round));
        let mut checks = Checks::default();
        history.check_sessions(KeyMode::Plain, &keys, &mut checks);
        assert!(checks.violation().is_none(), "{:?}", checks.violation());
        for ((_, key), ops) in history.by_key(KeyMode::Plain, &keys) {
            match linearize(&ops) {
                // Where nobody could see what another wrote any order will do.
                Verdict::Linearizable => self.explained += u64::from(says_something(&ops)),
                Verdict::Undecided => self.undecided += 1,
                Verdict::Broken(rest) => {
                    println!("no order explains {key:?}: {}", story(&ops));
                    panic!("no order explains what happened to {key:?} (above): {rest:?}");
                }
            }
        }
    }

    /// After the last round: everything that was ever acknowledged is there still.
    #[track_caller]
    pub(crate) fn end(self, cluster: &Cluster) {
        let there = REGIONS.map(|letter| {
            let (start, end) = (format!("{letter}w"), format!("{letter}x"));
            RUNTIME.block_on(cluster.reach().content(&start, &end))
        });
        assert_lost_nothing(&self.rows, &there.into_iter().flatten().collect());
        println!(
            "{} calls, {} acknowledged writes, {} rows looked for, 0 lost; {} histories with an order, {} undecided",
            self.calls,
            self.acknowledged,
            self.rows.len(),
            self.explained,
            self.undecided
        );
        assert!(self.undecided < self.explained, "too many were not decided");
    }
}

#[track_caller]
fn assert_lost_nothing(acknowledged: &BTreeMap<Bytes, Bytes>, there: &BTreeMap<Bytes, Bytes>) {
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|(key, row)| there.get(*key) != Some(row))
        .collect();
    assert!(lost.is_empty(), "{} lost: {lost:?}", lost.len());
}
