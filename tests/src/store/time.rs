//! The clocks of one node. The monotonic one runs at a rate of its own, the time of day jumps.

use std::time::Duration;

use flotilla_engine::row::DROP_DELAY_SECONDS;
use flotilla_proto::clock::{Mono, Wall};

use crate::rng::Rng;
use crate::world::START_SECONDS;

/// The rate of a clock that runs as time does.
const TRUE_RATE: u64 = 1_000_000;
/// Where monotonic clocks may stand at the start, nanoseconds: they begin anywhere.
const FIRST_MAX: u64 = 1 << 50;

/// A node's clocks.
#[derive(Clone, Debug)]
pub struct NodeClock {
    /// A moment of true time, and what the clock showed then.
    anchor: (Mono, Mono),
    /// In millionths of true time.
    rate: u64,
    /// The most that the rate is off, in thousandths.
    drift: u64,
    /// Seconds by which the time of day was moved.
    offset: i64,
    /// The latest time of day that the node has seen, seconds.
    latest: u64,
}

impl NodeClock {
    /// Clocks that stand anywhere and run within `drift` thousandths of true time.
    pub fn new(drift: u64, rng: &mut Rng) -> Self {
        let mut clock = Self {
            anchor: (Mono(0), Mono(rng.below(FIRST_MAX))),
            rate: TRUE_RATE,
            drift,
            offset: 0,
            latest: START_SECONDS,
        };
        clock.retune(Mono(0), rng);
        clock
    }

    /// What the monotonic clock shows at `now` of true time. Never falls.
    pub fn mono(&self, now: Mono) -> Mono {
        let (at, shown) = self.anchor;
        let since = u128::from((now.0).saturating_sub(at.0));
        let since = since * u128::from(self.rate) / u128::from(TRUE_RATE);
        Mono(shown.0 + u64::try_from(since).unwrap_or(u64::MAX))
    }

    /// From `now` on the monotonic clock runs at another rate: as slow or as fast as it may in half of
    /// the cases.
    pub fn retune(&mut self, now: Mono, rng: &mut Rng) {
        self.anchor = (now, self.mono(now));
        let most = self.drift * TRUE_RATE / 1_000;
        self.rate = match rng.below(4) {
            0 => TRUE_RATE - most,
            1 => TRUE_RATE + most,
            _ => TRUE_RATE - most + rng.below(2 * most + 1),
        };
    }

    /// The node was started anew: its monotonic clock stands anywhere.
    pub fn reboot(&mut self, now: Mono, rng: &mut Rng) {
        self.anchor = (now, Mono(rng.below(FIRST_MAX)));
    }

    /// The longest that `span` of this clock can last.
    pub fn longest(&self, span: Duration) -> Duration {
        span * 1_000 / (1_000 - u32::try_from(self.drift).unwrap_or(0))
    }

    /// The time of day.
    pub fn wall(&self, now: Mono) -> Wall {
        let seconds = START_SECONDS.saturating_add_signed(self.offset);
        Wall(seconds * 1000 + now.0 / 1_000_000)
    }

    /// The latest time of day that the node has seen, in seconds.
    pub fn latest(&self, now: Mono) -> u64 {
        self.latest.max(self.wall(now).seconds())
    }

    /// Moves the time of day, but never so far behind its latest that a row which a compaction dropped
    /// could be alive again.
    pub fn jump(&mut self, now: Mono, seconds: i64) {
        let shown = self.wall(now).seconds();
        self.latest = self.latest(now);
        let lowest = self.latest - DROP_DELAY_SECONDS / 2;
        let to = shown.saturating_add_signed(seconds).max(lowest);
        self.offset += to.cast_signed() - shown.cast_signed();
        self.latest = self.latest.max(to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_never_falls_and_drifts_within_its_bound() {
        for seed in 0..50 {
            let mut rng = Rng::new(seed);
            let mut clock = NodeClock::new(100, &mut rng);
            let (mut now, mut last) = (Mono(0), clock.mono(Mono(0)));
            for _ in 0..200 {
                let span = rng.micros(0..=1_000_000);
                now = now + span;
                let shown = clock.mono(now);
                let ran = (shown - last).as_nanos();
                let (least, most) = (span.as_nanos() * 9 / 10, span.as_nanos() * 11 / 10);
                assert!(
                    shown >= last && ran + 1 >= least && ran <= most + 1,
                    "seed {seed}"
                );
                last = shown;
                clock.retune(now, &mut rng);
                assert_eq!(clock.mono(now), shown, "another rate moves nothing");
            }
        }
    }

    #[test]
    fn the_time_of_day_falls_by_half_an_hour_at_most() {
        let mut clock = NodeClock::new(0, &mut Rng::new(1));
        clock.jump(Mono(0), 7_200);
        for _ in 0..10 {
            clock.jump(Mono(0), -900);
        }
        let shown = clock.wall(Mono(0)).seconds();
        assert_eq!(shown, START_SECONDS + 7_200 - DROP_DELAY_SECONDS / 2);
    }
}
