//! The figures of a run, as the JSON reports carry them.
//!
//! Units are in the names: `_s` seconds, `_us` microseconds, `_per_s` per second.

use serde::Serialize;

/// What the clients did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// YCSB: one record read
    Read,
    /// YCSB: one existing record replaced
    Update,
    /// YCSB: one new record written
    Insert,
    /// YCSB: a range read
    Scan,
    /// YCSB: one record read, then replaced; the time is that of both
    ReadModifyWrite,
    /// One bare `RawGet`
    Get,
    /// One bare `RawPut`
    Put,
}

impl Kind {
    /// As in the JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Read => "read",
            Kind::Update => "update",
            Kind::Insert => "insert",
            Kind::Scan => "scan",
            Kind::ReadModifyWrite => "read-modify-write",
            Kind::Get => "get",
            Kind::Put => "put",
        }
    }

    /// Whether an operation of this kind ends in a write.
    pub fn writes(self) -> bool {
        match self {
            Kind::Update | Kind::Insert | Kind::ReadModifyWrite | Kind::Put => true,
            Kind::Read | Kind::Scan | Kind::Get => false,
        }
    }
}

/// One phase: a stretch of time in which clients did one thing.
#[derive(Clone, Debug, Serialize)]
pub struct PhaseReport {
    /// From the first operation's start to the last one's end.
    pub elapsed_s: f64,
    /// Operations that succeeded.
    pub operations: u64,
    /// Operations that failed.
    pub failed: u64,
    /// Successful operations per second.
    pub throughput_per_s: f64,
    /// Processor time of the driver itself, all threads, per operation.
    pub driver_cpu_us_per_operation: Option<f64>,
    /// Why the phase ended before its time; absent when it did not.
    pub stopped: Option<String>,
    /// Per kind of operation, those that occurred.
    pub kinds: Vec<KindReport>,
    /// Throughput over time; points are at most [`TIMELINE_POINTS_MAX`].
    pub timeline: Vec<TimelinePoint>,
    /// The longest time without an acknowledged write, from the phase's start to its end; absent when
    /// nothing was written.
    pub without_writes: Option<SilenceReport>,
    /// The server's own counters over the phase.
    pub server: ServerReport,
}

/// A stretch of time in which no write was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SilenceReport {
    /// Its begin, from the start of the phase.
    pub from_s: f64,
    /// Its length in milliseconds.
    pub ms: f64,
}

/// A longer run's timeline is thinned out to this many points.
pub const TIMELINE_POINTS_MAX: usize = 1_200;

/// One kind of operation within a phase.
#[derive(Clone, Debug, Serialize)]
pub struct KindReport {
    /// Which.
    pub operation: Kind,
    /// Those that succeeded.
    pub count: u64,
    /// Of those; absent when none succeeded.
    pub latency: Option<LatencyReport>,
    /// Those that failed, by kind of error, most frequent first.
    pub errors: Vec<ErrorReport>,
}

/// Latencies of successful operations, in microseconds, three significant digits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LatencyReport {
    /// Smallest.
    pub min_us: u64,
    /// Arithmetic mean.
    pub mean_us: f64,
    /// Half of the operations took at most this.
    pub p50_us: u64,
    /// 95 of 100.
    pub p95_us: u64,
    /// 99 of 100.
    pub p99_us: u64,
    /// 999 of 1,000.
    pub p99_9_us: u64,
    /// Largest.
    pub max_us: u64,
    /// The curve, for plots: fraction of the operations, and what they took at most.
    pub curve: Vec<CurvePoint>,
}

/// A point of a latency curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CurvePoint {
    /// From 0 to 1.
    pub fraction: f64,
    /// Latency that this fraction did not exceed.
    pub us: u64,
}

/// Failed operations of one kind of error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorReport {
    /// A stable name, such as `server-is-busy`, `missing` or `grpc-unavailable`.
    pub kind: String,
    /// How many.
    pub count: u64,
    /// The first one in full.
    pub example: String,
}

/// A point of the throughput over time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TimelinePoint {
    /// End of the interval, from the start of the phase.
    pub at_s: f64,
    /// Successful operations per second in the interval.
    pub per_s: f64,
    /// Failed operations per second in the interval.
    pub failed_per_s: f64,
}

/// What the server's `/metrics` said it did during a phase, summed over the addresses asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ServerReport {
    /// Why there are no counters; absent when there are.
    pub unavailable: Option<String>,
    /// Syncs of the log, `flotilla_log_syncs_total`.
    pub log_syncs: Option<f64>,
    /// Log batches written, `flotilla_log_batches_total`.
    pub log_batches: Option<f64>,
    /// Raft entries in them, `flotilla_log_entries_total`.
    pub log_entries: Option<f64>,
    /// Bytes in them, `flotilla_log_bytes_total`.
    pub log_bytes: Option<f64>,
    /// Processor time of the server, `process_cpu_seconds_total`.
    pub cpu_s: Option<f64>,
    /// Raft messages in one bulk to another store, on average; absent when none was sent.
    pub messages_per_bulk: Option<f64>,
    /// The same, divided by the successful operations of the phase.
    pub per_operation: Option<ServerShares>,
    /// The same, divided by the successful operations that write; absent when there were none.
    pub per_write: Option<ServerShares>,
}

/// Server counters divided by a number of operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ServerShares {
    /// Syncs of the log.
    pub log_syncs: Option<f64>,
    /// Log batches.
    pub log_batches: Option<f64>,
    /// Raft entries.
    pub log_entries: Option<f64>,
    /// Bytes written to the log.
    pub log_bytes: Option<f64>,
    /// Processor time of the server, microseconds.
    pub cpu_us: Option<f64>,
    /// Raft messages to other stores.
    pub peer_messages: Option<f64>,
}
