//! The placement driver of this node, and what its store tells and asks PD.
//!
//! `driver` runs the machine of `flotilla-pd` while this node leads the meta region, and answers
//! for it while it does not. `reporter` carries the store's heartbeats and questions to PD over the
//! same protocol as a store elsewhere would, on loopback.

mod driver;
mod reporter;

pub use driver::{Driver, HeartbeatSender, Heartbeats, PdHandle};
pub use reporter::{Placement, Reporter, Unfit, WrongMode};
