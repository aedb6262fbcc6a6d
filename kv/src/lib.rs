//! The commands: RawKV as pure functions.
//!
//! A request comes in as the protocol has it. A [`Read`] becomes a response, read through a
//! [`flotilla_engine::StateReader`]; a [`Write`] becomes modifications to propose and the response
//! to give once they are applied; a [`ReadWrite`] (compare-and-swap) does both. No clock, lock
//! across IO or thread in here: the time is an argument, and [`Latches`] tells whom to wake.
//!
//! What the caller owes: the region's own checks first (leader, epoch, term); a reader that may
//! answer linearizable reads; the latches of [`Write::lock`] held from before the proposal until
//! its outcome is known, and handed to [`Latches::detain`] when it stays unknown; a proposal of a
//! [`ReadWrite`] made in the term of its read.

mod command;
mod counted;
mod failure;
mod latch;
pub mod limits;
mod raw;
pub mod region_error;
mod ttl;

pub use command::{
    Answer, Command, Kind, Outcome, Proposal, Read, ReadWrite, Scope, View, Write, answer,
    check_mode, required_mode,
};
pub use counted::{Counted, Seen};
pub use failure::{Failure, Refusal, StatusCode};
pub use flotilla_proto::keys::{self as key, KeyMode};
pub use latch::{Access, Latches, Lock};
pub use raw::split_keys;
pub use ttl::TtlClock;
