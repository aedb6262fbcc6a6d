//! Mailboxes, batch pollers, the log writer and outgoing queues: turns effects into IO.
//!
//! Generic over the machines it runs and their effects (contracts: C27). Without the feature
//! `threads` nothing here starts a thread: the same pollers then run under a seeded driver.
//!
//! | part | what it bounds | where it is full |
//! |---|---|---|
//! | [`Router`] | inputs per machine, bytes over all machines | [`SendError::Full`] |
//! | [`Poller`] | machines and inputs per round | the rest waits for the next round |
//! | [`LogWriter`] | bytes per write; bytes not durable | [`LogWriter::is_behind`]: pollers wait |
//! | [`Outgoing`] | messages and bytes per store and lane, bytes over all | the message comes back |

mod counters;
mod log_writer;
mod loopback;
mod machine;
mod outgoing;
mod poller;
mod router;
mod seeded;
#[cfg(feature = "threads")]
mod threads;

pub use counters::{LogCounters, OutgoingCounters, RouterCounters};
pub use log_writer::{
    LOG_PENDING_BYTES_MAX, LOG_WRITE_BYTES_MAX, LogConfig, LogRefused, LogWriter,
};
pub use loopback::{Deliver, Loopback};
pub use machine::{Executor, Lane, LogSink, Machine, Merge, Routed};
pub use outgoing::{LaneLimits, OnReady, Outgoing, OutgoingConfig};
pub use poller::{Budget, Choice, Fifo, Pick, Poller};
pub use router::{Handle, QUEUED_BYTES_MAX, Router, RouterConfig, SendError};
pub use seeded::{Actor, LogAppend, LogSync, Seeded, SeededPick};
#[cfg(feature = "threads")]
pub use threads::{Fatal, LogThreads, Pollers, spawn_log_writer, spawn_pollers};
