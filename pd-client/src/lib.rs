//! What a client, a store or a tool asks of PD, and what it remembers.
//!
//! Without features the crate is pure: the region cache ([`RegionCache`]) and what the stock clients do when a call fails ([`Attempts`]). A call of a
//! client is then a loop:
//!
//! 1. [`RegionCache::locate`]; on a miss ask PD and [`RegionCache::insert`].
//! 2. [`Route::context`] of the leader, to the store's address.
//! 3. On failure [`Attempts::failed`]: it corrects the cache and says when to begin again.
//!
//! The feature `transport` adds `PdClient`, the gRPC connection of a store to PD.

mod cache;
mod reopen;
pub mod retry;
#[cfg(feature = "transport")]
mod transport;

pub use cache::{RegionCache, Route};
pub use reopen::Reopen;
pub use retry::{Attempts, Certainty, Failure, Next, StockClient};
#[cfg(feature = "transport")]
pub use transport::*;
