//! Mailboxes, batch pollers, the log writer and outgoing queues: turns effects into IO.
//!
//! Generic over the machines it runs and their effects (contracts: C27). Without the feature
//! `threads` nothing here starts a thread: the same pollers then run under a seeded driver.

mod machine;

pub use machine::{Executor, Lane, LogSink, Machine, Merge, Routed};
