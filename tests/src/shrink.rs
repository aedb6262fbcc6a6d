//! From a failing world to a small one: whatever the failure does not need is taken out.

use crate::run::{Failure, run_quietly};
use crate::world::World;

/// What can be taken out of a world, the large parts first; names of [`World::without`].
const PARTS: [&str; 32] = [
    "faults",
    "network",
    "operators",
    "members",
    "placement",
    "losses",
    "cruelty",
    "at-snapshots",
    "away",
    "replica-reads",
    "crashes",
    "stops",
    "disk",
    "pauses",
    "disk-stalls",
    "damage",
    "clean-ups",
    "rot",
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

/// Each smaller world is tried with so many courses: whatever is left out changes the draws behind it, and a
/// rare moment may not come again by the first.
const COURSES: u64 = 12;

/// The smallest world found in which the same rule breaks. `told` hears of every step.
pub fn shrink(mut world: World, failure: &Failure, mut told: impl FnMut(&str)) -> World {
    let mut before = usize::MAX;
    // What was needed beside something else may not be needed without it.
    while before != world.left_out.len() {
        before = world.left_out.len();
        for part in PARTS {
            let mut smaller = world.clone();
            smaller.without(part);
            if is_same(&smaller, &world) {
                continue;
            }
            if let Some(smaller) = still_fails(smaller, failure) {
                told(&format!("without {part}: still fails"));
                world = smaller;
            }
        }
    }
    let halves: [fn(&mut World) -> &mut u64; 2] = [
        |world| &mut world.operations,
        |world| &mut world.attempts_min,
    ];
    for half in halves {
        while *half(&mut world) > 1 {
            let mut smaller = world.clone();
            *half(&mut smaller) /= 2;
            let Some(smaller) = still_fails(smaller, failure) else {
                break;
            };
            world = smaller;
            told(&format!(
                "with {} operations, {} attempts: still fails",
                world.operations, world.attempts_min
            ));
        }
    }
    world
}

/// Nothing of that name was there.
fn is_same(smaller: &World, world: &World) -> bool {
    let parts = |world: &World| {
        let left_out = Vec::new();
        let world = World {
            left_out,
            ..world.clone()
        };
        format!("{world:?}")
    };
    parts(smaller) == parts(world)
}

/// The world with a course in which it fails by the same rule; two assertions count as the same.
fn still_fails(mut world: World, failure: &Failure) -> Option<World> {
    let last = world.luck + COURSES;
    loop {
        let outcome = run_quietly(world.clone(), 0);
        if outcome.is_err_and(|again| again.rule == failure.rule) {
            return Some(world);
        }
        world.luck += 1;
        if world.luck == last {
            return None;
        }
    }
}
