//! From a failing world to a small one: whatever the failure does not need is taken out.

use std::fmt;

use crate::run::{Failure, run_quietly};
use crate::world::World;

/// What can be taken out of a world, the large parts first; names of [`World::without`].
const PARTS: [&str; 33] = [
    "faults",
    "network",
    "operators",
    "members",
    "placement",
    "losses",
    "balance",
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

/// A world that breaks no rule: there is nothing to shrink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NothingFails {
    /// Its seed.
    pub seed: u64,
}

impl fmt::Display for NothingFails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seed = self.seed;
        write!(
            f,
            "seed {seed} breaks no rule here, so there is nothing to shrink: a seed belongs to a commit, and to the \
             variables in the line that replays it"
        )
    }
}

impl std::error::Error for NothingFails {}

/// The smallest world found in which the same rule breaks. `told` hears of what breaks, and of every step.
///
/// # Errors
/// If nothing breaks in `world`.
pub fn shrink(mut world: World, mut told: impl FnMut(&str)) -> Result<World, NothingFails> {
    let Err(failure) = run_quietly(world.clone(), 0) else {
        return Err(NothingFails { seed: world.seed });
    };
    told(&failure.what);
    let failure = &*failure;
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
    Ok(world)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Rule;
    use crate::world::Service;

    const SEED: u64 = 1;

    fn shrunk(bug: Service) -> (World, Vec<String>) {
        let mut world = World::draw(SEED);
        world.plants.service = Some(bug);
        let mut told = Vec::new();
        let smaller = shrink(world, |line| told.push(line.to_owned()));
        (smaller.expect("a planted bug breaks its rule"), told)
    }

    fn rule_of(world: &World) -> Option<Rule> {
        let failure = run_quietly(world.clone(), 0).expect_err("it fails again");
        failure.rule
    }

    fn is_without(world: &World, part: &str) -> bool {
        world.left_out.iter().any(|out| out == part)
    }

    #[test]
    fn a_smaller_world_breaks_the_same_rule_each_time() {
        let (world, told) = shrunk(Service::AnsweredTwice);
        assert_eq!(rule_of(&world), Some(Rule::AnsweredOnce));
        assert!(told[0].starts_with("AnsweredOnce: "), "{told:?}");
        // This bug needs no fault, and nothing of a world but a write.
        for part in ["faults", "network", "operators", "stalls"] {
            assert!(is_without(&world, part), "{part}: {:?}", world.left_out);
        }
        assert!(world.operations < World::draw(SEED).operations);

        let (again, told_again) = shrunk(Service::AnsweredTwice);
        assert_eq!(told_again, told);
        assert_eq!(format!("{again:?}"), format!("{world:?}"));
    }

    #[test]
    fn what_the_failure_needs_stays() {
        let (world, told) = shrunk(Service::OperatorTakesVoter);
        assert_eq!(rule_of(&world), Some(Rule::OperatorsKeepReplicas));
        assert!(!is_without(&world, "placement"), "{told:?}");
        assert!(is_without(&world, "network"), "{told:?}");
    }

    #[test]
    fn a_seed_that_does_not_fail_is_refused() {
        let refused = shrink(World::draw(SEED), |line| panic!("{line}"));
        let refused = refused.expect_err("it holds every rule");
        assert_eq!(refused, NothingFails { seed: SEED });
        assert!(refused.to_string().starts_with("seed 1 breaks no rule"));
    }
}
