//! Counters that prove the point of the router: how much work each round, write and sync carried.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Declares counters with their readings.
macro_rules! counters {
    ($(#[$doc:meta])* $counters:ident => $reading:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        #[derive(Debug, Default)]
        pub(crate) struct $counters { $(pub(crate) $field: Counter,)* }

        impl $counters {
            pub(crate) fn snapshot(&self) -> $reading {
                $reading { $($field: self.$field.get(),)* }
            }
        }

        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $reading { $($(#[$field_doc])* pub $field: u64,)* }
    };
}

counters! {
    /// A reading of a router's counters since it was made.
    RouterTally => RouterCounters {
        /// Rounds that served at least one machine.
        rounds,
        /// Machines served, each once per round it was in.
        turns,
        /// Of those, machines in the low-priority lane.
        heavy_turns,
        /// Inputs handled.
        inputs,
        /// Ticks handled.
        ticks,
        /// Inputs dropped because their machine was closed.
        dropped,
        /// Inputs refused because of a bound.
        refused_full,
        /// Inputs refused because no machine listened.
        refused_closed,
        /// Times a parked poller had to be woken.
        wakeups,
        /// Times a poller found its executor under pressure and waited.
        pauses,
        /// Machines registered.
        registered,
        /// Machines retired.
        retired,
    }
}

counters! {
    /// A reading of a log writer's counters since it was made.
    LogTally => LogCounters {
        /// Batches handed in.
        submissions,
        /// Writes: batches merged from what was handed in.
        batches,
        /// Syncs.
        syncs,
        /// Entries written.
        entries,
        /// Bytes written.
        bytes,
        /// Batches handed in whose durability was announced.
        durable,
    }
}

counters! {
    /// A reading of the counters of the outgoing queues since they were made.
    OutgoingTally => OutgoingCounters {
        /// Messages accepted, those included that replaced one.
        messages,
        /// Of those, messages that replaced one that still waited.
        coalesced,
        /// Messages refused because of a bound.
        refused,
        /// Bulk messages taken out.
        bulks,
        /// Messages in them.
        sent,
        /// Bytes in them.
        sent_bytes,
    }
}
