//! Randomness: one root seed, forked by purpose, so that a new draw in one place moves nothing elsewhere.

use std::ops::RangeInclusive;
use std::time::Duration;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng};

/// A stream of random numbers that a seed and a purpose decide.
#[derive(Clone, Debug)]
pub struct Rng {
    seed: u64,
    stream: Xoshiro256PlusPlus,
}

impl Rng {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            stream: Xoshiro256PlusPlus::seed_from_u64(seed),
        }
    }

    /// A stream of its own for `purpose`; does not depend on what was drawn here before.
    pub fn fork(&self, purpose: &str) -> Self {
        // FNV-1a: stable over builds, unlike the hasher of the standard library.
        let hash = purpose
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
        Self::new(self.seed ^ hash)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.stream.next_u64()
    }

    /// A number below `count`.
    ///
    /// # Panics
    /// If `count` is 0.
    pub fn below(&mut self, count: u64) -> u64 {
        assert!(count > 0, "nothing to choose from");
        // The bias of the remainder is of no weight here.
        self.any() % count
    }

    /// A number of the range.
    pub fn range(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    /// A number of the range, small ones as likely as large ones: uniform over orders of magnitude.
    pub fn log_range(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = (*range.start(), *range.end());
        let bits = |number: u64| u64::from(64 - number.leading_zeros());
        let bits = self.range(bits(low)..=bits(high));
        let top = 1u64.checked_shl(bits as u32).unwrap_or(u64::MAX);
        self.range((top / 2).clamp(low, high)..=top.clamp(low, high))
    }

    /// True with a chance of `permille` in a thousand.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// One of `items`.
    ///
    /// # Panics
    /// If there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// A duration from the range, in microseconds.
    pub fn micros(&mut self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_micros(self.range(range))
    }

    /// An index into `weights`, by weight.
    ///
    /// # Panics
    /// If all weights are 0.
    pub fn weighted(&mut self, weights: &[u64]) -> usize {
        let mut point = self.below(weights.iter().sum());
        for (index, weight) in weights.iter().enumerate() {
            if point < *weight {
                return index;
            }
            point -= weight;
        }
        unreachable!("the point lies below the sum")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forks_depend_on_the_seed_and_the_purpose_alone() {
        let root = Rng::new(7);
        let mut drawn = root.clone();
        drawn.any();
        assert_eq!(root.fork("disk").any(), drawn.fork("disk").any());
        assert_ne!(root.fork("disk").any(), root.fork("net").any());
        assert_ne!(root.fork("disk").any(), Rng::new(8).fork("disk").any());
    }

    #[test]
    fn ranges_are_hit_and_kept() {
        let mut rng = Rng::new(1);
        for (low, high) in [(0, 0), (3, 3), (1, 2), (5, 1000), (64, 1 << 20)] {
            let mut seen = (u64::MAX, 0);
            for _ in 0..2000 {
                let numbers = [rng.range(low..=high), rng.log_range(low..=high)];
                assert!(numbers.iter().all(|number| (low..=high).contains(number)));
                seen = (seen.0.min(numbers[1]), seen.1.max(numbers[1]));
            }
            assert!(
                seen.0 <= low * 2 && seen.1 >= high / 2,
                "{low}..={high}: {seen:?}"
            );
        }
        assert_eq!(rng.weighted(&[0, 3, 0]), 1);
    }
}
