//! What the engine's tests share: dice, and scripts that make the same batches from the same seed.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod log_script;
pub(crate) mod state_script;
#[cfg(feature = "rocks")]
pub(crate) mod store;
pub(crate) mod transfer;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

/// The variable that makes a random test run one seed of your choice.
pub(crate) const SEED_VARIABLE: &str = "FLOTILLA_SEED";

/// Runs `test` with each of `seeds`, or with the one in [`SEED_VARIABLE`]. Says the seed first.
pub(crate) fn for_seeds(seeds: std::ops::Range<u64>, mut test: impl FnMut(u64)) {
    let chosen = std::env::var(SEED_VARIABLE).ok();
    let chosen = chosen.map(|seed| seed.parse::<u64>().expect("the seed is a number"));
    for seed in chosen.map_or(seeds, |seed| seed..seed + 1) {
        println!("{SEED_VARIABLE}={seed}");
        test(seed);
    }
}

/// Seeded randomness.
#[derive(Clone, Debug)]
pub(crate) struct Dice(Xoshiro256PlusPlus);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// A number below `bound`, 0 if that is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            0
        } else {
            self.0.next_u64() % bound
        }
    }

    /// A number in [low, high].
    pub(crate) fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in `percent` of all throws.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    pub(crate) fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length).map(|_| self.0.next_u64() as u8).collect()
    }
}
