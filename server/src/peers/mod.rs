//! The transport between stores: what waits in the outgoing queues goes to the other stores, and what
//! they send goes to the machines.
//!
//! ```text
//!  sender     one task per store: a stream of bulk messages, reconnected with back-off
//!  outbound   snapshots out: offer, chunks, within a bandwidth
//!  receiver   the gRPC service: who calls is checked once per stream
//!  inbound    snapshots in: offer, files, what is owed when one ends
//!  book       which store is where, asked of PD and remembered
//!  remembered `pd.peers`: where PD can be asked, for a start
//!  twin       whether another node has the same identity
//!  pace       back-off and bandwidth
//! ```
//!
//! The queues themselves belong to `flotilla-router`: they coalesce, bound and drop, so nothing here
//! waits in memory but what is on its way. A store that is slow or away has a task of its own, and
//! holds up nobody else.

mod book;
mod inbound;
mod outbound;
mod pace;
mod receiver;
pub mod remembered;
mod sender;
#[cfg(test)]
mod tests;
pub(crate) mod twin;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_engine::{RaftLog, SnapshotFiles, StateStore, StoreIds};
use flotilla_proto::raft::Hello;
use flotilla_proto::store::PeerMessage;
use flotilla_raftstore::PeerInput;
use flotilla_raftstore::effects::{Outbound, StoreInput};
use flotilla_raftstore::runtime::Runtime;
use flotilla_router::Outgoing;
use flotilla_tls::{Dial, why};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

pub use book::{Ask, Book, Found};
pub use receiver::Receiver;

use crate::metrics::PeersMetrics;
use crate::store::SnapshotCounts;
use inbound::Receiving;
use pace::Bandwidth;
use sender::Sender;

/// Of the protocol between stores. A higher one is refused ...
const VERSION: u32 = 1;
/// ... and a lower one than this.
const VERSION_MIN: u32 = 1;
/// One attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The other side of a new stream has this long to say who it is, or that it knows us.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that is silent this long is asked whether it lives ...
const KEEPALIVE_EVERY: Duration = Duration::from_secs(2);
/// ... and has this long to answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// The store's machines, as the transport sees them. No call waits.
pub trait Machines: Send + Sync + 'static {
    /// What waits for other stores.
    fn outgoing(&self) -> &Outgoing<Outbound>;
    /// A message came in. It may be dropped, as the network may do.
    fn receive(&self, message: PeerMessage);
    /// An input for a region's peer that is not lost while the peer lives.
    fn to_peer(&self, region: u64, input: PeerInput);
    /// An input for the store machine that is not lost.
    fn to_store(&self, input: StoreInput);
}

impl<L: RaftLog, S: StateStore> Machines for Runtime<L, S> {
    fn outgoing(&self) -> &Outgoing<Outbound> {
        &self.outgoing
    }

    fn receive(&self, message: PeerMessage) {
        Self::receive(self, message);
    }

    fn to_peer(&self, region: u64, input: PeerInput) {
        Self::to_peer(self, region, input);
    }

    fn to_store(&self, input: StoreInput) {
        Self::to_store(self, input);
    }
}

/// What the transport of a store consists of.
pub struct Parts {
    /// Whose it is.
    pub ids: StoreIds,
    /// Where this node listens.
    pub address: String,
    /// Who sends and receives.
    pub machines: Arc<dyn Machines>,
    /// The files of snapshots.
    pub files: Arc<dyn SnapshotFiles>,
    /// Where the other stores are.
    pub book: Arc<Book>,
    /// How to connect to them.
    pub dial: Dial,
    /// Why a snapshot of so many bytes has no room on the disk, if it has none.
    pub room: Arc<dyn Fn(u64) -> Option<String> + Send + Sync>,
    /// What is counted.
    pub metrics: Arc<PeersMetrics>,
    /// Bytes of snapshots that are sent in a second, to all stores together.
    pub snapshot_bandwidth: u64,
    /// Snapshots that are sent at once; as many again are received.
    pub snapshots_max: usize,
    /// Snapshots that are under way.
    pub snapshot_counts: Arc<SnapshotCounts>,
}

/// What sender and receiver share.
struct Shared {
    parts: Parts,
    bandwidth: Bandwidth,
    sending: Semaphore,
    receiving: Arc<Semaphore>,
    receptions: Receiving,
    /// Wakes the sender to a store that has called us: it can be reached, as likely as not.
    callers: Mutex<BTreeMap<u64, Arc<Notify>>>,
}

impl Shared {
    /// Told when `store` has opened a stream to us.
    fn called(&self, store: u64) -> Arc<Notify> {
        Arc::clone(self.callers.lock().entry(store).or_default())
    }

    fn hello(&self, to_store: u64) -> Hello {
        Hello {
            version: VERSION,
            cluster_id: self.parts.ids.cluster_id,
            from_store: self.parts.ids.store_id,
            to_store,
            address: self.parts.address.clone(),
        }
    }
}

/// The transport of a store. Cheap to clone.
#[derive(Clone)]
pub struct Transport(Arc<Shared>);

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport")
            .field("ids", &self.0.parts.ids)
            .finish_non_exhaustive()
    }
}

impl Transport {
    /// A transport that does not send yet.
    pub fn new(parts: Parts) -> Self {
        let shared = Shared {
            bandwidth: Bandwidth::new(parts.snapshot_bandwidth),
            sending: Semaphore::new(parts.snapshots_max),
            receiving: Arc::new(Semaphore::new(parts.snapshots_max)),
            receptions: Receiving::default(),
            callers: Mutex::default(),
            parts,
        };
        Self(Arc::new(shared))
    }

    /// Sends what waits for other stores, until it is dropped.
    pub async fn run(self) {
        let (tell, mut met) = mpsc::unbounded_channel();
        let outgoing = self.0.parts.machines.outgoing();
        outgoing.on_store(Arc::new(move |store| {
            // Nobody sends any more: the node stops.
            let _ = tell.send(store);
        }));
        let mut senders = JoinSet::new();
        let mut known = std::collections::BTreeSet::new();
        while let Some(store) = met.recv().await {
            if known.insert(store) {
                senders.spawn(Sender::new(Arc::clone(&self.0), store).run());
            }
        }
    }
}

/// How nodes connect to each other.
pub(crate) fn endpoint(address: &str, dial: &Dial) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(dial.url(address))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

/// A connection of its own to a store.
async fn connect(shared: &Shared, store: u64) -> Result<Channel, Broken> {
    let address = shared.parts.book.address(store).await?;
    let dial = &shared.parts.dial;
    let connecting = async { dial.connect(&endpoint(&address, dial)?).await };
    connecting.await.map_err(|error| Broken::Unreachable {
        address: address.clone(),
        why: why(&error),
    })
}

/// Why nothing can be sent to a store now. What waits is dropped; raft sends again what is needed.
#[derive(Debug, thiserror::Error)]
enum Broken {
    /// It has no address.
    #[error(transparent)]
    NoAddress(#[from] book::NoAddress),
    /// It does not answer.
    #[error("{address} cannot be reached: {why}")]
    Unreachable { address: String, why: String },
    /// It answered and refused, or ended the stream.
    #[error("{}", .0.message())]
    Refused(#[from] tonic::Status),
    /// It closed the stream, or said nothing in time.
    #[error("{0}")]
    Ended(&'static str),
    /// What was to be sent cannot be.
    #[error("{0}")]
    Snapshot(String),
}
