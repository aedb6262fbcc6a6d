//! How fast: pauses between attempts, and bytes per second.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// The first pause after a failure; it doubles with each ...
const PAUSE_FIRST: Duration = Duration::from_millis(50);
/// ... up to this. A store that is back should be reached within an election.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A bandwidth that was not used is not saved up for longer than this.
const SAVED_MAX: Duration = Duration::from_millis(100);

/// Pauses between attempts that fail.
#[derive(Debug)]
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) fn new() -> Self {
        Self(PAUSE_FIRST)
    }

    /// An attempt succeeded.
    pub(super) fn reset(&mut self) {
        self.0 = PAUSE_FIRST;
    }

    /// The next pause: a random part of it, so that stores do not come back all at once.
    pub(super) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(PAUSE_MAX);
        let dice = u32::try_from(RandomState::new().hash_one(()) % 512).unwrap_or(0);
        pause * (512 + dice) / 1024
    }
}

/// Bytes per second, shared by whoever takes them.
#[derive(Debug)]
pub(super) struct Bandwidth {
    per_second: u64,
    /// When all that was taken has had its time.
    until: Mutex<Instant>,
}

impl Bandwidth {
    pub(super) fn new(per_second: u64) -> Self {
        Self {
            per_second: per_second.max(1),
            until: Mutex::new(Instant::now()),
        }
    }

    /// Waits until `bytes` more may be sent.
    pub(super) async fn take(&self, bytes: u64) {
        sleep_until(self.reserve(bytes, Instant::now())).await;
    }

    /// When they may.
    fn reserve(&self, bytes: u64, now: Instant) -> Instant {
        let micros = u128::from(bytes) * 1_000_000 / u128::from(self.per_second);
        let takes = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        let mut until = self.until.lock();
        let begins = (*until).max(now.checked_sub(SAVED_MAX).unwrap_or(now));
        *until = begins + takes;
        begins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew() {
        let mut backoff = Backoff::new();
        let mut check = |least_ms: u64, most_ms: u64| {
            let pause = backoff.next();
            let bounds = Duration::from_millis(least_ms)..=Duration::from_millis(most_ms);
            assert!(bounds.contains(&pause), "{pause:?} is not in {bounds:?}");
        };
        for (least, most) in [(25, 50), (50, 100), (100, 200), (200, 400), (400, 800)] {
            check(least, most);
        }
        check(500, 1_000);
        check(500, 1_000);
        backoff.reset();
        assert!(backoff.next() <= PAUSE_FIRST);
    }

    #[test]
    fn bytes_take_their_time_and_the_first_ones_none() {
        let bandwidth = Bandwidth::new(1_000);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        *bandwidth.until.lock() = start;
        assert_eq!(bandwidth.reserve(500, start), start);
        assert_eq!(bandwidth.reserve(1_500, start), at(500));
        assert_eq!(bandwidth.reserve(0, at(100)), at(2_000));
        // What was not used for long is mostly lost.
        assert_eq!(bandwidth.reserve(1, at(9_000)), at(9_000) - SAVED_MAX);
    }
}
