//! Randomness that a seed decides.

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// The stream of `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The stream of `FLOTILLA_SEED`, or of a seed nobody has seen; printed first.
    pub(crate) fn from_env(test: &str) -> Self {
        let seed = match std::env::var("FLOTILLA_SEED") {
            Ok(text) => text.parse().expect("FLOTILLA_SEED is a number"),
            Err(_) => std::time::UNIX_EPOCH.elapsed().map_or(0, |since| {
                u64::try_from(since.as_nanos() & u128::from(u64::MAX)).expect("masked")
            }),
        };
        println!("{test}: FLOTILLA_SEED={seed}");
        Self::new(seed)
    }

    /// A stream of its own for `purpose`.
    pub(crate) fn fork(&self, purpose: u64) -> Self {
        let mut other = Self(self.0 ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93));
        other.any();
        other
    }

    /// Any number (splitmix64).
    pub(crate) fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `count`.
    pub(crate) fn below(&mut self, count: u64) -> u64 {
        assert!(count > 0, "nothing to choose from");
        self.any() % count
    }
}
