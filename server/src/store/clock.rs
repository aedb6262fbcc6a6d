//! The only place that reads the clocks.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use flotilla_proto::clock::{Mono, Wall};

/// Where [`Mono`] begins: one second before the first look, so that no reading is 0.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);
const HEAD_START_NANOS: u64 = 1_000_000_000;

/// The monotonic time of this process.
pub fn mono() -> Mono {
    let elapsed = u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX);
    Mono(elapsed.saturating_add(HEAD_START_NANOS))
}

/// The time of day; 0 before 1970.
pub fn wall() -> Wall {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads it")]
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Wall(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
