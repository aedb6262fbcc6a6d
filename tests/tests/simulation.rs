//! Seeds of the simulator. By default a fixed range, then fresh ones for a while;
//! `FLOTILLA_SIM_SEED=n` replays one with its transcript, `FLOTILLA_SIM_SECONDS=n` takes more or less
//! time for fresh ones.
#![expect(
    clippy::disallowed_methods,
    reason = "seeds run on all cores, fresh ones find something new, and how long it took is printed"
)]

use std::hash::{BuildHasher, RandomState};
use std::ops::RangeInclusive;
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use flotilla_tests::probe;
use flotilla_tests::run::{
    Failure, Summary, commit, long_world_of, run_quietly, run_world, world_of,
};
use flotilla_tests::world::World;

/// Seeds of every run: whoever breaks something sees it in the same way.
const FIXED: RangeInclusive<u64> = 1..=300;
/// How long an ordinary run looks at fresh seeds, in seconds. A slow machine looks at fewer.
const FRESH_SECONDS: u64 = 20;
/// Attempts of clients in each world, at least.
const ATTEMPTS: u64 = 2_000;
/// Of all runs so many of a thousand may end with fewer: in their worlds nothing moves for long.
const SHORT_PERMILLE: u64 = 10;
/// Of all rare paths so many percent are reached.
const PROBES_PERCENT: usize = 90;
/// Lines of its transcript that a replayed seed shows.
const REPLAY_LINES: usize = 1_000_000;
/// Seeds that are run more than once, and those of them that are run as long as the others of this test.
const REPEATED: RangeInclusive<u64> = 1..=8;
const REPEATED_LONG: RangeInclusive<u64> = 9..=10;
/// Tells a process that it is to print what it found for the repeated seeds.
const HASHES_WANTED: &str = "FLOTILLA_SIM_HASHES";

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

/// A place among the seeds where nobody has been, probably. It is printed.
fn somewhere() -> u64 {
    RandomState::new().hash_one("seeds") >> 16
}

#[test]
fn every_rule_holds_in_every_world() {
    if let Some(seed) = number("FLOTILLA_SIM_SEED") {
        return replay(seed);
    }
    let first = somewhere();
    let seconds = number("FLOTILLA_SIM_SECONDS").unwrap_or(FRESH_SECONDS);
    println!(
        "seeds {FIXED:?} at {}, and fresh ones from {first} on for {seconds} s",
        commit()
    );
    let began = Instant::now();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    // The slice of time begins with the first fresh seed.
    let mut until = None;
    let fresh = (first..).take_while(|_| {
        let until = until.get_or_insert_with(|| Instant::now() + Duration::from_secs(seconds));
        Instant::now() < *until
    });
    let summary = run_all(FIXED.chain(fresh), cores);
    println!("{summary}");
    let seconds = began.elapsed().as_secs_f64();
    let per_core = seconds * cores as f64;
    println!(
        "{:.0} seeds a minute; {:.0} operations a second and core, {:.0} served; {:.0} virtual seconds a second",
        summary.runs as f64 * 60.0 / seconds,
        summary.counts.operations as f64 / per_core,
        summary.counts.served as f64 / per_core,
        summary.counts.time.as_secs_f64() / seconds,
    );
    let (never, all) = (summary.never(), probe::ALL.len());
    println!(
        "{} of {all} rare paths reached; never: {never:#?}",
        all - never.len()
    );
    assert!(
        never.len() * 100 <= all * (100 - PROBES_PERCENT),
        "of {all} rare paths too few are reached"
    );
    assert_eq!(summary.missing(), [""; 0], "never checked, or not listed");
    let short = summary.shorter_than(ATTEMPTS / 1_000);
    assert!(
        short * 1_000 <= summary.runs * SHORT_PERMILLE,
        "{short} of {} runs have fewer than {ATTEMPTS} attempts",
        summary.runs
    );
}

/// Runs seeds on all cores, until the first that fails.
fn run_all(seeds: impl Iterator<Item = u64> + Send, cores: usize) -> Summary {
    let seeds = Mutex::new(seeds);
    let found: Mutex<(Summary, Option<Box<Failure>>)> = Mutex::default();
    let next = || seeds.lock().ok()?.next();
    let work = || {
        while let Some(seed) = next() {
            let outcome = run_world(long_world_of(seed, ATTEMPTS));
            let Ok(mut found) = found.lock() else { return };
            match outcome {
                _ if found.1.is_some() => return,
                Ok(report) => found.0.add(&report),
                Err(failure) => found.1 = Some(failure),
            }
        }
    };
    thread::scope(|scope| {
        (0..cores).for_each(|_| drop(scope.spawn(work)));
    });
    match found.into_inner() {
        Ok((summary, None)) => summary,
        Ok((_, Some(failure))) => panic!("{failure}"),
        Err(_) => panic!("a seed was run and nobody knows what it found"),
    }
}

fn replay(seed: u64) {
    let world = long_world_of(seed, ATTEMPTS);
    println!("seed {seed} at {}: {world}", commit());
    match run_quietly(world, REPLAY_LINES) {
        Ok(report) => {
            println!("{}", report.transcript);
            println!("{:?}, trace {:016x}", report.counts, report.trace_hash);
        }
        Err(failure) => panic!("{failure}"),
    }
}

/// One line per repeated seed: what must be the same whenever and wherever it runs.
fn hashes() -> Vec<String> {
    let line = |world: World| match run_world(world) {
        Ok(report) => format!(
            "seed {}: {:016x} {:?}",
            report.seed, report.trace_hash, report.counts
        ),
        Err(failure) => panic!("{failure}"),
    };
    let long = REPEATED_LONG.map(|seed| long_world_of(seed, ATTEMPTS));
    REPEATED.map(world_of).chain(long).map(line).collect()
}

/// A difference here is a fault of the simulator, and goes before all others. The other process is this
/// program once more, told to print what it finds.
#[test]
fn a_seed_runs_the_same_twice_and_in_two_processes() {
    let here = hashes();
    if std::env::var_os(HASHES_WANTED).is_some() {
        return here.iter().for_each(|line| println!("{line}"));
    }
    assert_eq!(here, hashes());
    let program = std::env::current_exe().expect("this program has a path");
    let there = Command::new(program)
        .args(["--exact", "--nocapture"])
        .arg("a_seed_runs_the_same_twice_and_in_two_processes")
        .env(HASHES_WANTED, "1")
        .output()
        .expect("this program runs once more");
    let text = String::from_utf8_lossy(&there.stdout);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("seed"))
        .collect();
    assert_eq!(here, lines, "{}", String::from_utf8_lossy(&there.stderr));
}
