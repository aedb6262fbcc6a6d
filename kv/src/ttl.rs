//! The clock of expiry (contracts: C19): seconds that never go back within a process.

use std::sync::atomic::{AtomicU64, Ordering};

use flotilla_proto::clock::Wall;

/// The highest TTL time this process has used, so that a row once seen expired stays so even if
/// the wall clock jumps back. One per process; commands get its reading as an argument.
#[derive(Debug, Default)]
pub struct TtlClock {
    /// Seconds since the epoch. Never falls.
    highest: AtomicU64,
}

impl TtlClock {
    /// A clock that has not been used.
    pub const fn new() -> Self {
        Self {
            highest: AtomicU64::new(0),
        }
    }

    /// The TTL time of a command that starts at `wall`, in seconds since the epoch:
    /// max(`wall`, every time this clock told before).
    pub fn now(&self, wall: Wall) -> u64 {
        let seconds = wall.seconds();
        seconds.max(self.highest.fetch_max(seconds, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_goes_back_with_the_wall_clock() {
        let clock = TtlClock::new();
        //               wall ms   told s
        let table = [
            (1_000, 1),
            (5_999, 5),
            (2_000, 5), // the wall clock was set back
            (0, 5),
            (6_000, 6),
            (u64::MAX, u64::MAX / 1000),
            (7_000, u64::MAX / 1000),
        ];
        for (wall, told) in table {
            assert_eq!(clock.now(Wall(wall)), told, "wall {wall} ms");
        }
    }
}
