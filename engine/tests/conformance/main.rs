//! One suite for both engines: what the traits promise, shown on the twin and on RocksDB, and both
//! compared under random operations and crashes (contracts: C32).

#[path = "../common/mod.rs"]
mod common;
mod facts;
#[cfg(feature = "rocks")]
mod rocks;
mod snapshot_facts;
#[cfg(feature = "rocks")]
mod snapshots;
mod twin;
mod twin_snapshots;
