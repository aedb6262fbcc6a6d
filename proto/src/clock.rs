//! The clocks, each a type of its own (contracts: C15). Nothing here reads one: a time is an argument.
//!
//! [`Mono`] decides leases, time-outs, elections and leader stickiness; [`Wall`] is for TTL and the
//! physical part of timestamps. Ticks have no type: a tick wakes a machine and carries no meaning.

use std::ops::{Add, Sub};
use std::time::Duration;

/// Nanoseconds of one process's monotonic clock, from an arbitrary start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

impl Add<Duration> for Mono {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

impl Sub for Mono {
    type Output = Duration;
    /// Zero when `earlier` is later: a span is never negative.
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Milliseconds since the Unix epoch, as the operating system tells it: it may jump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(pub u64);

impl Wall {
    /// Whole seconds since the epoch, the unit of TTL.
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }
}
