//! How a world's network behaves.

use std::fmt;

use super::Link;
use crate::rng::Rng;
use crate::world::Pace;

/// The most that any link of a world does. Chances are per thousand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetRates {
    /// Microseconds on the way, at least.
    pub delay_min: u64,
    /// Microseconds on the way, at most.
    pub delay_max: u64,
    /// Bulks that take up to five seconds, per ten thousand.
    pub late: u64,
    /// Bulks that are lost as a whole.
    pub loss: u64,
    /// Messages that are lost alone.
    pub loss_single: u64,
    /// Bulks that arrive twice.
    pub duplicate: u64,
    /// Bulks that may overtake others.
    pub overtake: u64,
    /// Requests and replies that are lost.
    pub call_loss: u64,
    /// Losses that the sender is told of.
    pub noticed: u64,
    /// Milliseconds between two partitions on average; 0: none.
    pub partition_every_ms: u64,
    /// Milliseconds that a way is cut, at most.
    pub partition_ms_max: u64,
    /// Bytes of a bulk.
    pub bulk_bytes_max: u64,
    /// How soon a store's sender takes what waits.
    pub send: Pace,
}

impl NetRates {
    /// The network of a world.
    pub fn draw(rng: &mut Rng) -> Self {
        let mut rate = |most: u64, chance: u64| {
            if rng.chance(chance) {
                rng.log_range(1..=most)
            } else {
                0
            }
        };
        let (late, loss, loss_single) = (rate(20, 300), rate(300, 500), rate(100, 300));
        let (duplicate, overtake) = (rate(500, 400), rate(1_000, 400));
        let call_loss = rate(100, 500);
        let partition_every_ms = if rng.chance(600) {
            rng.log_range(200..=8_000)
        } else {
            0
        };
        let delay_max = *rng.pick(&[200, 200, 2_000, 20_000, 100_000]);
        Self {
            delay_min: if rng.chance(300) { delay_max } else { 20 },
            delay_max,
            late,
            loss,
            loss_single,
            duplicate,
            overtake,
            call_loss,
            noticed: *rng.pick(&[0, 300, 1_000]),
            partition_every_ms,
            // Or there would be nothing but partitions.
            partition_ms_max: rng
                .pick(&[200, 1_000, 5_000])
                .min(&(2 * partition_every_ms))
                .max(&10)
                .to_owned(),
            bulk_bytes_max: if rng.chance(300) {
                rng.log_range(64..=4_096)
            } else {
                1 << 20
            },
            send: *rng.pick(&[Pace::Swift, Pace::Swift, Pace::Short, Pace::Stalling]),
        }
    }

    /// Nothing is lost, late, or out of order.
    pub fn perfect() -> Self {
        Self {
            delay_min: 20,
            delay_max: 200,
            late: 0,
            loss: 0,
            loss_single: 0,
            duplicate: 0,
            overtake: 0,
            call_loss: 0,
            noticed: 1_000,
            partition_every_ms: 0,
            partition_ms_max: 0,
            bulk_bytes_max: 1 << 20,
            send: Pace::Swift,
        }
    }

    /// What one link draws.
    pub(super) fn link(&self, rng: &mut Rng) -> Link {
        let mut up_to = |most: u64| {
            if most == 0 || rng.chance(300) {
                0
            } else {
                rng.range(most / 8..=most)
            }
        };
        let (loss, loss_single) = (up_to(self.loss), up_to(self.loss_single));
        let (duplicate, overtake) = (up_to(self.duplicate), up_to(self.overtake));
        let late = up_to(self.late);
        // Constant, or anything in between.
        let constant = rng.chance(300);
        let delay = rng.range(self.delay_min..=self.delay_max);
        Link {
            delay: if constant {
                (delay, delay)
            } else {
                (self.delay_min, self.delay_max)
            },
            loss,
            loss_single,
            duplicate,
            overtake,
            late,
        }
    }
}

impl fmt::Display for NetRates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {} us", self.delay_min, self.delay_max)?;
        let named = [
            ("late", self.late),
            ("loss", self.loss),
            ("single loss", self.loss_single),
            ("duplicate", self.duplicate),
            ("overtake", self.overtake),
            ("call loss", self.call_loss),
            ("noticed", self.noticed),
            ("partition every ms", self.partition_every_ms),
        ];
        for (name, rate) in named.into_iter().filter(|(_, rate)| *rate > 0) {
            write!(f, ", {name} {rate}")?;
        }
        Ok(())
    }
}
