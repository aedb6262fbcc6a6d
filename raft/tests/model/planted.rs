//! Does the net catch fish? Every planted bug breaks one rule; the network model must notice each,
//! and say what it saw (fault model, section 4).
//!
//! ```text
//! cargo test -p flotilla-raft --features planted --test model planted -- --nocapture
//! ```
//!
//! `FLOTILLA_RAFT_PLANTED=NoLoyalty` plants only that one.

use std::panic::{self, AssertUnwindSafe, catch_unwind};

use flotilla_raft::Planted;

use crate::reason_of;
use crate::world::World;

/// Seeds within which a bug must show: as many as an ordinary run of the model has. The rarest need a message
/// of one moment, a crash of the next and a network cut between two of three, all in one seed.
const SEEDS_MAX: u64 = 20_000;

/// The seed that caught `rule`, and what broke.
fn catch(rule: Planted) -> Option<(u64, String)> {
    (0..SEEDS_MAX).find_map(|seed| {
        let mut world = World::draw(seed, false);
        world.arm(move |raft| raft.plant(rule));
        let panic = catch_unwind(AssertUnwindSafe(|| world.run())).err()?;
        Some((seed, reason_of(panic.as_ref())))
    })
}

#[test]
fn every_planted_bug_is_caught() {
    panic::set_hook(Box::new(|_| {}));
    let only = std::env::var("FLOTILLA_RAFT_PLANTED").ok();
    let wanted = |rule: &Planted| {
        only.as_ref()
            .is_none_or(|only| *only == format!("{rule:?}"))
    };
    let mut caught = Vec::new();
    for rule in Planted::ALL.into_iter().filter(wanted) {
        let found = catch(rule);
        match &found {
            Some((seed, reason)) => {
                println!(
                    "{rule:?}: seed {seed}: {}",
                    reason.lines().next().unwrap_or_default()
                );
            }
            None => println!("{rule:?}: NOT CAUGHT in {SEEDS_MAX} seeds"),
        }
        caught.push((rule, found));
    }
    let _ = panic::take_hook();
    assert!(!caught.is_empty(), "no planted bug is called {only:?}");
    let missed: Vec<_> = caught
        .iter()
        .filter(|(_, found)| found.is_none())
        .map(|(rule, _)| rule)
        .collect();
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
