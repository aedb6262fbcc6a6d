//! Wire types: the subset of TiKV's and PD's protocol that real clients use, and Flotilla's own
//! messages between stores and records on disk. Beside them what every crate must agree on: clocks
//! ([`clock`]) and keys ([`keys`]).
//!
//! Byte fields are [`bytes::Bytes`]: a value is not copied between socket and log. The gRPC services
//! are behind the feature `grpc`.
#![expect(
    missing_docs,
    reason = "generated; the .proto files carry the comments"
)]
#![allow(clippy::all, unreachable_pub, rustdoc::all)]

#[warn(clippy::all, missing_docs, unreachable_pub)]
pub mod clock;
#[warn(clippy::all, missing_docs, unreachable_pub)]
pub mod keys;

include!(concat!(env!("OUT_DIR"), "/all.rs"));

pub use flotilla::{admin::v1 as admin, raft::v1 as raft, store::v1 as store};
