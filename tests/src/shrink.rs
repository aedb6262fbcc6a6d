//! From a failing world to a small one: whatever the failure does not need is taken out.

use crate::run::{Failure, run_quietly};
use crate::world::World;

/// What can be taken out of a world, the large parts first; names of [`World::without`].
const PARTS: [&str; 27] = [
    "faults",
    "network",
    "operators",
    "members",
    "cruelty",
    "at-snapshots",
    "away",
    "replica-reads",
    "crashes",
    "stops",
    "disk",
    "disk-stalls",
    "pauses",
    "pressure",
    "clock",
    "compaction",
    "pd",
    "partitions",
    "loss",
    "late",
    "duplicates",
    "overtaking",
    "call-loss",
    "delay",
    "drift",
    "stalls",
    "learners",
];

/// The smallest world found in which the same rule breaks, and the names of what it is without.
/// `told` hears of every step.
pub fn shrink(
    mut world: World,
    failure: &Failure,
    mut told: impl FnMut(&str),
) -> (World, Vec<String>) {
    let mut without = Vec::new();
    for part in PARTS {
        let mut smaller = world.clone();
        smaller.without(part);
        if still_fails(&smaller, failure) {
            told(&format!("without {part}: still fails"));
            world = smaller;
            without.push(part.to_owned());
        }
    }
    while world.operations > 1 || world.attempts_min > 1 {
        let mut smaller = world.clone();
        smaller.operations = (smaller.operations / 2).max(1);
        smaller.attempts_min /= 2;
        if !still_fails(&smaller, failure) {
            break;
        }
        told(&format!(
            "with {} operations, {} attempts: still fails",
            smaller.operations, smaller.attempts_min
        ));
        world = smaller;
    }
    (world, without)
}

/// By the same rule; two assertions count as the same.
fn still_fails(world: &World, failure: &Failure) -> bool {
    run_quietly(world.clone(), 0).is_err_and(|again| again.rule == failure.rule)
}
