//! The flotilla node as a library: [`Flotilla`] is a node in another program.
//!
//! ```text
//!  net       one port: connections, limits, HTTP/1.1 and HTTP/2
//!  security  the certificate of the node, replaced while it runs
//!  http      /health, /metrics, PD's JSON API
//!  rpc       the gRPC services: Tikv, PD, Keyspace, health
//!  join      a new store joins a cluster
//!  placement PD: the machine's driver, and what the store tells and asks it
//!  peers     the transport between stores
//!  store     databases, machines and their threads
//!  ctl       `flotilla ctl`: shows and changes a cluster from outside
//!  node      all of it together: start, stop, what ends it
//!  embedded  a node on threads of its own, in another program
//!  local     its reads and writes without a socket
//!  program   the command line, and the code the process ends with
//! ```
//!
//! The only crate with sockets, the async runtime and command-line handling.

pub mod cli;
pub mod config;
pub mod ctl;
pub mod demo;
mod embedded;
mod gauges;
mod http;
pub mod join;
mod local;
pub mod logging;
pub mod metrics;
pub mod net;
pub mod node;
pub mod peers;
pub mod placement;
pub mod process;
pub mod program;
pub mod recover;
pub mod rpc;
mod security;
pub mod store;

pub use embedded::{EmbedError, Flotilla};
pub use local::LocalError;

const _: () = assert!(
    !flotilla_raftstore::PLANTED && !flotilla_engine::memory::PLANTED,
    "the feature `planted` breaks rules on purpose; a server is not built with it"
);
