//! Load drivers: they measure a running cluster from outside, as its users see it.
//!
//! - [`ycsb`]: the YCSB core workloads through the stock `tikv-client`, the way applications come
//!   in. Figures of this driver include the client's own cost.
//! - [`raw`]: bare unary `RawGet` and `RawPut` calls, routed once and then as cheap as a client can
//!   be, over any number of regions; alternated with an echo server, so that a ratio tells what
//!   the store costs on top of the RPC itself.
//! - [`echo`]: that echo server, and a driver of its own.
//! - [`report`]: what all of them measure and how it reads as JSON.
//!
//! None of them links the storage engine. All are closed loops: each client has one operation in
//! flight and issues the next when it is answered, so that a stall slows the load down instead
//! of queueing it. Latencies are those of answered operations; failed ones are counted by kind.

mod counters;
mod drive;
mod measure;
mod plot;
mod progress;
mod table;

pub mod echo;
pub mod raw;
pub mod report;
pub mod ycsb;
