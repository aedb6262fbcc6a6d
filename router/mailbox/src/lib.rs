//! The one place where the threads of a store meet: a mailbox per machine, and the queue of the
//! machines that have something to do.
//!
//! - [`Mailbox`]: a bounded queue plus the state of its owner. It says exactly once that its
//!   machine must be queued, whoever sends, closes or releases at the same moment.
//! - [`ReadyQueue`]: first in, first out, with a lane of low priority; it wakes a parked poller
//!   only when there is one.
//!
//! Atomics, mutexes and condition variables come from the module `sync`, which is `loom`'s under
//! `cfg(loom)`: the models in `tests/loom.rs` go through every interleaving (contracts: C28).

mod mailbox;
mod ready;
mod sync;

pub use mailbox::{Mailbox, Refused, Taken};
pub use ready::{Lane, ReadyQueue, Woken};
