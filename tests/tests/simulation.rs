//! Seeds of the simulator. By default a fixed range and some hundreds of fresh ones;
//! `FLOTILLA_SIM_SEED=n` replays one with its transcript, `FLOTILLA_SIM_SEEDS=n` runs as many as
//! asked for.

use std::hash::{BuildHasher, RandomState};
use std::ops::RangeInclusive;

use flotilla_tests::run::{Summary, run_quietly, run_seed, world_of};

/// Seeds of every run: whoever breaks something sees it in the same way.
const FIXED: RangeInclusive<u64> = 1..=300;
/// Fresh seeds of an ordinary run.
const FRESH: u64 = 1_000;
/// Lines of its transcript that a replayed seed shows.
const REPLAY_LINES: usize = 1_000_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

/// A place among the seeds where nobody has been, probably. It is printed.
#[expect(
    clippy::disallowed_methods,
    reason = "fresh seeds are what finds something new"
)]
fn somewhere() -> u64 {
    RandomState::new().hash_one("seeds") >> 16
}

#[test]
fn every_rule_holds_in_every_world() {
    if let Some(seed) = number("FLOTILLA_SIM_SEED") {
        return replay(seed);
    }
    let first = somewhere();
    let fresh = number("FLOTILLA_SIM_SEEDS").unwrap_or(FRESH);
    println!("seeds {FIXED:?}, and {fresh} fresh ones from {first} on");
    let mut summary = Summary::default();
    for seed in FIXED.chain(first..first + fresh) {
        match run_seed(seed) {
            Ok(report) => summary.add(&report),
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{summary}");
    if fresh >= FRESH {
        assert_eq!(
            summary.missing(),
            [""; 0],
            "never checked, or never reached"
        );
    }
}

fn replay(seed: u64) {
    println!("seed {seed}: {}", world_of(seed));
    match run_quietly(world_of(seed), REPLAY_LINES) {
        Ok(report) => {
            println!("{}", report.transcript);
            println!("{:?}, trace {:016x}", report.counts, report.trace_hash);
        }
        Err(failure) => panic!("{failure}"),
    }
}

/// A difference here is a fault of the simulator, and goes before all others.
#[test]
fn a_seed_runs_the_same_twice() {
    for seed in 1..=8 {
        let [one, other] =
            [(); 2].map(|()| run_seed(seed).map(|report| (report.trace_hash, report.counts)));
        match (one, other) {
            (Ok(one), Ok(other)) => assert_eq!(one, other, "seed {seed}"),
            (Err(failure), _) | (_, Err(failure)) => panic!("{failure}"),
        }
    }
}
