//! The deterministic simulator: production machines under virtual time, checked after every step.
//!
//! | module | what is in it |
//! |---|---|
//! | [`world`] | what a seed draws: limits, sizes, paces, rates |
//! | [`sim`] | the run: events, steps, crashes, the end |
//! | [`store`] | a store: its process, and how it serves requests |
//! | [`disk`] | the in-memory engine, watched |
//! | [`client`] | requests, workloads, what clients believe |
//! | [`net`] | who reaches whom, what is lost and late on the way |
//! | [`faults`] | what goes wrong |
//! | [`checkers`] | what must hold, and the model of the committed log |
//! | [`history`] | what clients asked and heard, and a search for an order of it |
//! | [`rules`], [`probe`], [`trace`] | counters, rare paths, the transcript |
//! | [`run`] | a seed from start to end, and many of them |
//! | `planted` | bugs on purpose, behind the feature of that name |
//! | [`scenario`] | small clusters step by step, as texts |
//!
//! `docs/simulation.md` says how to replay a seed, and what is not simulated.

pub mod checkers;
pub mod client;
pub mod disk;
pub mod faults;
pub mod history;
pub mod net;
#[cfg(feature = "planted")]
pub mod planted;
pub mod probe;
pub mod rng;
pub mod rules;
pub mod run;
pub mod scenario;
pub mod shrink;
pub mod sim;
pub mod store;
pub mod trace;
pub mod world;
