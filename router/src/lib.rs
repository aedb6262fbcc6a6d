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
//!
//! ```
//! use flotilla_router::{Budget, Executor, Fifo, Machine, Poller, Router, RouterConfig};
//!
//! struct Sum(u64);
//!
//! impl Machine for Sum {
//!     type Input = u64;
//!     type Effects = Vec<u64>;
//!     type Now = ();
//!
//!     fn handle(&mut self, (): (), input: u64, _effects: &mut Vec<u64>) {
//!         self.0 += input;
//!     }
//!
//!     fn end_round(&mut self, (): (), effects: &mut Vec<u64>) {
//!         effects.push(self.0);
//!     }
//!
//!     fn retire(&mut self, (): (), _effects: &mut Vec<u64>) {}
//! }
//!
//! struct Print;
//!
//! impl Executor<Vec<u64>> for Print {
//!     type Fatal = std::convert::Infallible;
//!
//!     fn execute(&mut self, sums: &mut Vec<u64>) -> Result<(), Self::Fatal> {
//!         println!("{sums:?}"); // once per round, for all machines in it
//!         sums.clear();
//!         Ok(())
//!     }
//! }
//!
//! let router = Router::new(RouterConfig::default());
//! router.register(7, Sum(0), 1_024).ok().expect("a free address");
//! router.send(7, 40)?;
//! router.send(7, 2)?;
//! let mut poller = Poller::new(router, Print, Budget::default());
//! assert_eq!(poller.round((), &mut Fifo), Ok(1));
//! # Ok::<(), flotilla_router::SendError<u64>>(())
//! ```

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
pub use outgoing::{LaneLimits, OnReady, OnStore, Outgoing, OutgoingConfig};
pub use poller::{Budget, Choice, Fifo, Pick, Poller};
pub use router::{Handle, QUEUED_BYTES_MAX, Router, RouterConfig, SendError};
pub use seeded::{Actor, LogAppend, LogSync, Seeded, SeededPick};
#[cfg(feature = "threads")]
pub use threads::{Fatal, LogThreads, Pollers, spawn_log_writer, spawn_pollers};
