//! What must be refused of a store's folder: damage, foreign and newer data, and every other reason
//! not to open it.

#[path = "../common/mod.rs"]
mod common;
mod damage;
mod opening;
mod snapshots;
