//! A random network around real cores: every seed draws a world (members, limits, fault rates),
//! drives it for some hundred steps and checks every raft invariant after each; then the faults stop
//! and the group must come together again.
//!
//! ```text
//! FLOTILLA_RAFT_SEEDS=1000000 cargo test -p flotilla-raft --test model    any number of seeds
//! FLOTILLA_RAFT_SEED=4711     cargo test -p flotilla-raft --test model    one seed, with its transcript
//! ```

#[path = "../common/mod.rs"]
mod common;

mod check;
mod odds;
mod people;
#[cfg(feature = "planted")]
mod planted;
mod rng;
mod world;

use std::any::Any;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use world::World;

/// Seeds of an ordinary test run.
const SEEDS: u64 = 20_000;
/// Lines of the transcript that a failing seed shows.
const TAIL_LINES: usize = 200;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text:?} is not a number")),
    )
}

/// Says it whether or not the test runner swallows what tests print.
fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("standard output takes a line");
}

/// What a panic said.
fn reason_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}

/// Runs one seed; the transcript comes back with the reason if an invariant breaks.
fn run(seed: u64, traced: bool) -> Result<World, (String, Vec<String>)> {
    let mut world = World::draw(seed, traced);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
    match outcome {
        Ok(()) => Ok(world),
        Err(panic) => Err((reason_of(panic.as_ref()), world.trace.take())),
    }
}

#[test]
fn every_invariant_holds_after_every_step() {
    let single = number("FLOTILLA_RAFT_SEED");
    let seeds = number("FLOTILLA_RAFT_SEEDS").unwrap_or(SEEDS);
    let range = single.map_or(0..seeds, |seed| seed..seed + 1);
    say(&format!("tier=T0 raft model seeds={range:?}"));
    let mut reached = check::Reached::default();
    for seed in range {
        match run(seed, single.is_some()) {
            Ok(world) => {
                reached.add(&world.check.reached);
                if single.is_some() {
                    world.trace.print(TAIL_LINES);
                }
            }
            Err((reason, _)) => {
                let (_, lines) = run(seed, true).err().unwrap_or_else(|| {
                    panic!("seed {seed} failed ({reason}) and then passed: the model is not deterministic")
                });
                let tail = lines.len().saturating_sub(TAIL_LINES);
                println!("{}", lines[tail..].join("\n"));
                panic!(
                    "seed {seed}: {reason}\nreplay: FLOTILLA_RAFT_SEED={seed} cargo test -p flotilla-raft --test model"
                );
            }
        }
    }
    say(&format!("{reached:?}"));
    if single.is_none() && seeds >= SEEDS {
        reached.check();
    }
}

#[test]
fn a_seed_runs_the_same_way_twice() {
    for seed in 0..20 {
        let once = run(seed, true)
            .map(|world| world.trace.take())
            .map_err(|(reason, _)| reason);
        let again = run(seed, true)
            .map(|world| world.trace.take())
            .map_err(|(reason, _)| reason);
        assert!(
            once.is_ok_and(|lines| !lines.is_empty() && again.is_ok_and(|others| lines == others)),
            "seed {seed}"
        );
    }
}
