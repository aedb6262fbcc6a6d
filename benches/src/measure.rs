//! Counting what clients did: latencies and errors by kind of operation.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use crate::report::{CurvePoint, ErrorReport, Kind, KindReport, LatencyReport};

/// Significant decimal digits that a histogram keeps.
const LATENCY_DIGITS: u8 = 3;

/// Fractions at which the latency curve is sampled: evenly spaced in nines.
const CURVE_STEPS_PER_NINE: i32 = 10;
const CURVE_NINES_MAX: i32 = 6;

/// An operation that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// A stable name, lower case with hyphens: failures are counted by it.
    pub(crate) kind: Cow<'static, str>,
    /// What happened this time.
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(kind: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            message: message.into(),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

/// Names the region error of either protocol stack: the stock client and the workspace have the
/// same fields in different types.
macro_rules! region_failure {
    ($error:expr) => {{
        let error = $error;
        let kind = if error.not_leader.is_some() {
            "not-leader"
        } else if error.region_not_found.is_some() {
            "region-not-found"
        } else if error.key_not_in_region.is_some() {
            "key-not-in-region"
        } else if error.epoch_not_match.is_some() {
            "epoch-not-match"
        } else if error.server_is_busy.is_some() {
            "server-is-busy"
        } else if error.stale_command.is_some() {
            "stale-command"
        } else if error.store_not_match.is_some() {
            "store-not-match"
        } else if error.raft_entry_too_large.is_some() {
            "raft-entry-too-large"
        } else if error.disk_full.is_some() {
            "disk-full"
        } else if error.mismatch_peer_id.is_some() {
            "mismatch-peer-id"
        } else {
            "region-error"
        };
        $crate::measure::Failure::new(kind, error.message.clone())
    }};
}
pub(crate) use region_failure;

/// Names a gRPC status. Takes the code by its debug text, which both stacks share.
pub(crate) fn grpc_failure(code: impl std::fmt::Debug, message: &str) -> Failure {
    let mut kind = String::from("grpc");
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() {
            kind.push('-');
        }
        kind.push(letter.to_ascii_lowercase());
    }
    Failure::new(kind, message)
}

/// What happened so far, by kind of operation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    kinds: BTreeMap<Kind, KindTally>,
}

#[derive(Clone, Debug)]
struct KindTally {
    /// Microseconds of the successful operations.
    latencies: Histogram<u64>,
    errors: BTreeMap<Cow<'static, str>, (u64, String)>,
}

impl Default for KindTally {
    fn default() -> Self {
        let latencies = Histogram::new(LATENCY_DIGITS).expect("three digits are allowed");
        Self {
            latencies,
            errors: BTreeMap::new(),
        }
    }
}

impl Tally {
    pub(crate) fn succeeded(&mut self, kind: Kind, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let latencies = &mut self.kinds.entry(kind).or_default().latencies;
        latencies.record(us).expect("the histogram resizes itself");
    }

    pub(crate) fn failed(&mut self, kind: Kind, failure: Failure) {
        let errors = &mut self.kinds.entry(kind).or_default().errors;
        errors.entry(failure.kind).or_insert((0, failure.message)).0 += 1;
    }

    pub(crate) fn merge(&mut self, other: &Tally) {
        for (kind, theirs) in &other.kinds {
            let ours = self.kinds.entry(*kind).or_default();
            ours.latencies
                .add(&theirs.latencies)
                .expect("the histogram resizes itself");
            for (error, (count, example)) in &theirs.errors {
                ours.errors
                    .entry(error.clone())
                    .or_insert((0, example.clone()))
                    .0 += count;
            }
        }
    }

    /// Successful operations, of all kinds.
    pub(crate) fn operations(&self) -> u64 {
        self.kinds.values().map(|tally| tally.latencies.len()).sum()
    }

    /// Successful operations that write.
    pub(crate) fn writes(&self) -> u64 {
        let writing = self.kinds.iter().filter(|(kind, _)| kind.writes());
        writing.map(|(_, tally)| tally.latencies.len()).sum()
    }

    /// Failed operations, of all kinds.
    pub(crate) fn failures(&self) -> u64 {
        let errors = self.kinds.values().flat_map(|tally| tally.errors.values());
        errors.map(|(count, _)| count).sum()
    }

    pub(crate) fn report(&self) -> Vec<KindReport> {
        self.kinds
            .iter()
            .map(|(kind, tally)| KindReport {
                operation: *kind,
                count: tally.latencies.len(),
                latency: latency(&tally.latencies),
                errors: errors(&tally.errors),
            })
            .collect()
    }
}

fn errors(errors: &BTreeMap<Cow<'static, str>, (u64, String)>) -> Vec<ErrorReport> {
    let mut reports: Vec<_> = errors
        .iter()
        .map(|(kind, (count, example))| ErrorReport {
            kind: kind.to_string(),
            count: *count,
            example: example.clone(),
        })
        .collect();
    reports.sort_by_key(|report| std::cmp::Reverse(report.count));
    reports
}

fn latency(latencies: &Histogram<u64>) -> Option<LatencyReport> {
    if latencies.is_empty() {
        return None;
    }
    let at = |fraction| latencies.value_at_quantile(fraction).min(latencies.max());
    let steps = 0..=CURVE_NINES_MAX * CURVE_STEPS_PER_NINE;
    let curve = steps
        .map(|step| 1.0 - 10_f64.powf(f64::from(-step) / f64::from(CURVE_STEPS_PER_NINE)))
        // A curve beyond 1 - 1/n would draw the one largest value as a plateau.
        .take_while(|fraction| (1.0 - fraction) * latencies.len() as f64 >= 1.0)
        .map(|fraction| CurvePoint {
            fraction,
            us: at(fraction),
        })
        .collect();
    Some(LatencyReport {
        min_us: latencies.min(),
        mean_us: latencies.mean(),
        p50_us: at(0.5),
        p95_us: at(0.95),
        p99_us: at(0.99),
        p99_9_us: at(0.999),
        max_us: latencies.max(),
        curve,
    })
}

/// Tallies that many clients write to at once.
#[derive(Debug)]
pub(crate) struct Shards {
    shards: Vec<Mutex<Tally>>,
}

/// Enough that two clients seldom meet, few enough that the histograms stay small in sum.
const SHARDS: usize = 16;

impl Shards {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// The tally that the client with this number writes to.
    pub(crate) fn of(&self, client: usize) -> &Mutex<Tally> {
        &self.shards[client % SHARDS]
    }

    pub(crate) fn merged(&self) -> Tally {
        let mut sum = Tally::default();
        self.shards
            .iter()
            .for_each(|shard| sum.merge(&shard.lock()));
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn percentiles_of_a_known_series() {
        let mut tally = Tally::default();
        (1..=1_000).for_each(|ms| tally.succeeded(Kind::Read, millis(ms)));
        let [report] = &tally.report()[..] else {
            panic!("one kind")
        };
        let latency = report.latency.as_ref().unwrap();
        for (found, expected) in [
            (latency.min_us, 1_000),
            (latency.p50_us, 500_000),
            (latency.p95_us, 950_000),
            (latency.p99_us, 990_000),
            (latency.p99_9_us, 999_000),
            (latency.max_us, 1_000_000),
        ] {
            assert!(
                found.abs_diff(expected) <= expected / 1_000,
                "{found}, expected {expected}"
            );
        }
        assert!(
            (latency.mean_us - 500_500.0).abs() < 500.0,
            "{}",
            latency.mean_us
        );
    }

    #[test]
    fn the_curve_rises_and_ends_where_the_samples_end() {
        let mut tally = Tally::default();
        (1..=1_000).for_each(|ms| tally.succeeded(Kind::Read, millis(ms)));
        let report = tally.report().remove(0).latency.unwrap();
        assert!(
            report
                .curve
                .is_sorted_by(|a, b| a.fraction < b.fraction && a.us <= b.us)
        );
        let last = report.curve.last().unwrap().fraction;
        assert!(
            (last - 0.999).abs() < 1e-9,
            "1,000 samples show three nines, not {last}"
        );
    }

    #[test]
    fn errors_are_counted_by_kind_with_their_first_example() {
        let mut tally = Tally::default();
        tally.failed(Kind::Update, Failure::new("server-is-busy", "first"));
        tally.failed(Kind::Update, Failure::new("not-leader", "who"));
        tally.failed(Kind::Update, Failure::new("not-leader", "whom"));
        let [report] = &tally.report()[..] else {
            panic!("one kind")
        };
        assert_eq!((report.count, &report.latency), (0, &None));
        let expected = [("not-leader", 2, "who"), ("server-is-busy", 1, "first")];
        let found: Vec<_> = report
            .errors
            .iter()
            .map(|error| (error.kind.as_str(), error.count, error.example.as_str()))
            .collect();
        assert_eq!(found, expected);
        assert_eq!((tally.operations(), tally.failures()), (0, 3));
    }

    #[test]
    fn shards_add_up() {
        let shards = Shards::new();
        for client in 0..100 {
            let mut tally = shards.of(client).lock();
            tally.succeeded(Kind::Insert, millis(client as u64 + 1));
            tally.succeeded(Kind::Read, millis(1));
            tally.failed(Kind::Scan, Failure::new("timeout", "late"));
        }
        let merged = shards.merged();
        assert_eq!(
            (merged.operations(), merged.writes(), merged.failures()),
            (200, 100, 100)
        );
        assert_eq!(
            merged
                .report()
                .iter()
                .map(|kind| kind.count)
                .collect::<Vec<_>>(),
            [100, 100, 0]
        );
    }

    #[test]
    fn grpc_codes_read_like_the_other_kinds() {
        assert_eq!(
            grpc_failure(tonic::Code::DeadlineExceeded, "x").kind,
            "grpc-deadline-exceeded"
        );
        assert_eq!(
            grpc_failure(tonic::Code::Unavailable, "x").kind,
            "grpc-unavailable"
        );
    }
}
