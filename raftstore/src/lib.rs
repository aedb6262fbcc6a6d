//! The peers of a store, and the store itself, as pure machines.
//!
//! A region's work is done by two machines. [`peer::Peer`] owns the raft group: it takes proposals
//! and messages, hands over what is to be written and sent, and gives committed entries to
//! [`apply::Apply`], which turns them into changes of the state database and answers the callers.
//! [`store::Store`] creates peers and knows which ranges are taken. All three are
//! `handle(now, input, &mut effects)`: whoever runs them owes them four things.
//!
//! 1. `RaftEffects::log` is written, and synced, before its releases are carried out.
//! 2. `ApplyEffects::batch` is written before its answers and reports go out.
//! 3. Inputs that report progress (`Persisted`, `Applied`, `Fetched`) are never lost.
//! 4. A tick comes at a steady rate; no safety rule depends on it (contracts: C15).
//!
//! [`boot`] opens a store: it replays every region up to its durable commit before anything is
//! served (contracts: C5).

pub mod apply;
pub mod boot;
mod config;
mod delegate;
pub mod effects;
mod entry;
mod error;
pub mod events;
mod instruction;
mod load;
mod log_view;
pub mod merge;
mod meta;
pub mod peer;
mod planted;
pub mod recover;
pub mod region;
pub mod runtime;
mod snapshot_task;
pub mod store;
mod watch;

pub use config::{Config, ConfigError};
pub use delegate::{Begin, Delegate, Delegates, LocalRead, ReadContext, Serving};
pub use effects::{
    Answer, ApplyEffects, ApplyInput, LogWrite, PeerInput, RaftEffects, RaftInput, ReadPermit,
    Release, StoreInput, WriteProposal,
};
pub use entry::{Command, EntryError, decode_command};
pub use error::{RequestError, StartError};
pub use instruction::Instruction;
pub use load::{Load, Touched};
#[cfg(feature = "planted")]
pub use planted::Planted;
pub use planted::{PLANTED, Plant};
pub use snapshot_task::SnapshotTask;
pub use store::RaftMachine;
pub use watch::DurableWatch;

/// The address of the store machine among the raft machines; no region has this id.
pub const STORE_ADDRESS: u64 = 0;

/// The target of trace events that say a rare path was reached, for simulators to count. The
/// message is the path's name.
pub const PROBE_TARGET: &str = "flotilla::probe";
