//! The gRPC services.
//!
//! `kv` carries a command of `flotilla-kv` out: checks, latches, local reads, proposals. `tikv` is
//! the service in front of it, `batch` the same calls over one stream. `pd` and `keyspace` hand
//! their calls to the placement driver.

mod batch;
mod deadline;
mod envelope;
mod keyspace;
mod kv;
mod pd;
mod stopping;
mod tikv;

pub use keyspace::KeyspaceService;
pub use kv::Kv;
pub use pd::PdService;
pub use stopping::{StopStreams, Stopping};
pub use tikv::TikvService;
