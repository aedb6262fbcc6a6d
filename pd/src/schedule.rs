//! How much is moved at once, and how long anything may take.

use std::time::Duration;

/// Settings of the operators. The defaults are a configuration's base: what was set online
/// (`settings.rs`) goes over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// A store that has not reported for this long gets nothing new.
    pub store_disconnected_after: Duration,
    /// A store that has not reported for this long, and is not heard by the leaders of its regions,
    /// is replaced.
    pub max_store_down_time: Duration,
    /// Operators that run at once and repair: replicas, rules, leaders to be evicted.
    pub operators_max: usize,
    /// Operators that run at once and even out leaders; 0: they stay where they are.
    pub leader_moves_max: usize,
    /// Operators that run at once and even out what stores hold; 0: peers stay where they are.
    pub region_moves_max: usize,
    /// Operators that run at once and spread load; 0: none.
    pub hot_moves_max: usize,
    /// Pairs of regions that merge at once; 0: none.
    pub merges_max: usize,
    /// Peers on their way to one store at once.
    pub adding_max: usize,
    /// Peers on their way from one store at once.
    pub removing_max: usize,
    /// A store that receives or applies so many snapshots gets no new peer.
    pub snapshots_max: u32,
    /// Stores may differ by so many leaders before one is moved.
    pub leaders_apart: u64,
    /// Stores may differ by so many bytes of regions before one is moved; a region weighs its size
    /// and a MiB.
    pub bytes_apart: u64,
    /// A larger region is not merged: bytes.
    pub merge_bytes_max: u64,
    /// Nor is one of more keys.
    pub merge_keys_max: u64,
    /// Nor one that was split, or came to be, less long ago.
    pub split_rest: Duration,
    /// A leader or peer that somebody moved by hand is left where it is for this long.
    pub asked_rest: Duration,
    /// How often the balancing planners look.
    pub balance_every: Duration,
    /// How often hot regions are looked for.
    pub hot_every: Duration,
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
            leader_moves_max: 4,
            region_moves_max: 16,
            hot_moves_max: 4,
            merges_max: 0,
            adding_max: 8,
            removing_max: 16,
            snapshots_max: 8,
            leaders_apart: 2,
            bytes_apart: 4 << 20,
            merge_bytes_max: 20 << 20,
            merge_keys_max: 200_000,
            split_rest: Duration::from_secs(60 * 60),
            asked_rest: Duration::from_secs(10 * 60),
            balance_every: Duration::from_secs(1),
            hot_every: Duration::from_secs(10),
            resend: Duration::from_secs(2),
            step_time_max: Duration::from_secs(60),
            add_time_max: Duration::from_secs(10 * 60),
            rest: Duration::from_secs(10),
        }
    }
}

impl Schedule {
    /// Nothing is moved that needs no repair.
    pub fn repairs_only(self) -> Self {
        Self {
            leader_moves_max: 0,
            region_moves_max: 0,
            hot_moves_max: 0,
            merges_max: 0,
            ..self
        }
    }
}
