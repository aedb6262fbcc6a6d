//! The port: one listener for gRPC over HTTP/2 and for HTTP/1.1, told apart by the first bytes
//! (contracts: C29).
//!
//! | what could grow | bounded by | beyond it |
//! |---|---|---|
//! | connections | `network.connections-max` | closed at once |
//! | requests per connection | `network.streams-max` | the client waits (HTTP/2) |
//! | one request | `network.message-max` | `OUT_OF_RANGE` |
//! | requests under way, bytes | `network.requests-max`, a quarter of it per connection | a stream waits for its own requests, others get `RESOURCE_EXHAUSTED` |
//! | answers not written, bytes | `network.unsent-max` per connection, `network.answers-max` in all | reads of rows are done again later, others get `RESOURCE_EXHAUSTED` |
//! | small answers not written | nothing but their number | the stall time-out |
//! | handshakes (TLS) | a quarter of `network.connections-max` at once | the next waits, within its time-out |
//! | time without a word | handshake, keep-alive and stall time-outs | closed |

mod access;
mod body;
mod connection;
mod listener;
mod memory;
mod security;
mod seldom;
mod socket;
mod stream;
#[cfg(test)]
mod tests;
mod turn;

pub use access::is_grpc;
pub use listener::{BindError, Bound, Limits, Server, bind};
pub use memory::{CONNECTION_SHARE, Call, Client, Message, NoRoom, Outbox, Reserved};
pub use security::{Allowed, Role, Security};
