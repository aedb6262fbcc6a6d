//! The port: one listener for gRPC over HTTP/2 and for HTTP/1.1, told apart by the first bytes
//! (contracts: C29).
//!
//! | what could grow | bounded by | beyond it |
//! |---|---|---|
//! | connections | `network.connections-max` | closed at once |
//! | requests per connection | `network.streams-max` | the client waits (HTTP/2) |
//! | one request | `network.message-max` | `OUT_OF_RANGE` |
//! | requests under way, bytes | `network.requests-max` | `RESOURCE_EXHAUSTED` |
//! | answers not read, bytes | `network.unsent-max` per connection | the read is done again later |
//! | time without a word | handshake, keep-alive and stall time-outs | closed |

mod access;
mod body;
mod connection;
mod listener;
mod memory;
mod socket;
#[cfg(test)]
mod tests;
mod turn;

pub use access::{Access, Service, is_grpc};
pub use listener::{BindError, Bound, Limits, Server, bind};
pub use memory::{CONNECTION_SHARE, Client, Reserved};
