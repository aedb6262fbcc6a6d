//! How much is moved at once, and how long anything may take.

use std::time::Duration;

/// Settings of the operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// A store that has not reported for this long gets nothing new.
    pub store_disconnected_after: Duration,
    /// A store that has not reported for this long, and is not heard by the leaders of its regions,
    /// is replaced.
    pub max_store_down_time: Duration,
    /// Operators that run at once.
    pub operators_max: usize,
    /// Peers on their way to one store at once.
    pub adding_max: usize,
    /// Peers on their way from one store at once.
    pub removing_max: usize,
    /// A store that receives or applies so many snapshots gets no new peer.
    pub snapshots_max: u32,
    /// An instruction that had no effect is sent again after this.
    pub resend: Duration,
    /// A step that copies no data may take this long.
    pub step_time_max: Duration,
    /// A new peer may take this long to catch up.
    pub add_time_max: Duration,
    /// A region whose operator ran out of time is left alone for this long.
    pub rest: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            store_disconnected_after: Duration::from_secs(20),
            max_store_down_time: Duration::from_secs(30 * 60),
            operators_max: 64,
            adding_max: 8,
            removing_max: 16,
            snapshots_max: 8,
            resend: Duration::from_secs(2),
            step_time_max: Duration::from_secs(60),
            add_time_max: Duration::from_secs(10 * 60),
            rest: Duration::from_secs(10),
        }
    }
}
