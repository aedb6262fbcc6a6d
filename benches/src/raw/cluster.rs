//! The little of a client that the bare driver needs: who leads the region of a key, and
//! connections to its store. Looked up once and kept until a store says otherwise.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use flotilla_proto::{
    kvrpcpb, metapb,
    pdpb::{self, pd_client::PdClient},
    tikvpb::tikv_client::TikvClient,
};
use flotilla_tls::Dial;
use parking_lot::RwLock;
use thiserror::Error;
use tonic::transport::{Channel, Endpoint};

use super::batch;
use crate::measure::{Failure, grpc_failure};

/// Answers up to the longest value, with room around it.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// Of a single RPC.
const RPC_TIME_MAX: Duration = Duration::from_secs(10);

/// All splits together must be seen in PD within this.
const SPLIT_TIME_MAX: Duration = Duration::from_secs(120);
/// Between two looks whether splits have reached PD.
const SPLIT_POLL: Duration = Duration::from_millis(20);
/// Split keys of one call: a call has the time of one RPC.
const SPLIT_KEYS_MAX: usize = 64;

/// The cluster cannot be used. Nothing was measured.
#[derive(Debug, Error)]
pub(super) enum ClusterError {
    #[error("{address} is no address: {source}")]
    Address {
        address: String,
        source: tonic::transport::Error,
    },
    #[error("nothing answers at {address}: {reason}")]
    Connect { address: String, reason: String },
    #[error("{rpc}: {status}")]
    Rpc {
        rpc: &'static str,
        status: Box<tonic::Status>,
    },
    #[error("{rpc}: PD answered {message}")]
    Refused { rpc: &'static str, message: String },
    #[error("{rpc}: the answer has no {missing}")]
    Incomplete {
        rpc: &'static str,
        missing: &'static str,
    },
    #[error("after {} s, {missing} of {all} region boundaries are not there, the first is {first}",
        SPLIT_TIME_MAX.as_secs())]
    SplitsMissing {
        missing: usize,
        all: usize,
        first: String,
    },
}

impl From<ClusterError> for Failure {
    fn from(error: ClusterError) -> Self {
        match &error {
            ClusterError::Rpc { status, .. } => grpc_failure(status.code(), status.message()),
            ClusterError::Connect { .. } => Failure::new("transport", error.to_string()),
            _ => Failure::new("no-route", error.to_string()),
        }
    }
}

/// One connection to a server.
#[derive(Debug)]
pub(super) struct Connection {
    /// For single calls.
    pub(super) calls: TikvClient<Channel>,
    /// For many at once.
    pub(super) stream: batch::Stream,
}

/// How to reach the leader of a region.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) start: Bytes,
    /// Exclusive; empty at the end of the key space.
    end: Bytes,
    pub(super) context: kvrpcpb::Context,
    pub(super) connections: Arc<Vec<Connection>>,
}

impl Route {
    /// A route that fits every key: to a server without regions.
    pub(super) fn anywhere(connections: Arc<Vec<Connection>>) -> Self {
        let context = kvrpcpb::Context::default();
        Self {
            start: Bytes::new(),
            end: Bytes::new(),
            context,
            connections,
        }
    }

    fn holds(&self, key: &[u8]) -> bool {
        self.start <= key && (self.end.is_empty() || key < self.end)
    }
}

/// A cluster and what is known of its regions. Shared by all clients of a run.
#[derive(Debug)]
pub(super) struct Cluster {
    pd: PdClient<Channel>,
    cluster_id: u64,
    connections_per_store: usize,
    dial: Dial,
    /// By start key. Ranges may overlap after a split: the one that starts last before a key
    /// is the newest that can hold it.
    routes: RwLock<BTreeMap<Bytes, Arc<Route>>>,
    stores: tokio::sync::Mutex<BTreeMap<u64, Arc<Vec<Connection>>>>,
}

impl Cluster {
    /// Finds the leader of PD by any of these addresses.
    pub(super) async fn connect(
        addresses: &[String],
        connections_per_store: usize,
        how: &Dial,
    ) -> Result<Self, ClusterError> {
        let mut last = ClusterError::Incomplete {
            rpc: "GetMembers",
            missing: "address to ask",
        };
        for address in addresses {
            match leader_of(address, how).await {
                Ok((pd, cluster_id)) => {
                    let (routes, stores) = Default::default();
                    return Ok(Self {
                        pd,
                        cluster_id,
                        connections_per_store,
                        dial: how.clone(),
                        routes,
                        stores,
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The route of a key, from memory or from PD.
    pub(super) async fn route(&self, key: &[u8]) -> Result<Arc<Route>, ClusterError> {
        match self.known(key) {
            Some(route) => Ok(route),
            None => self.locate(key).await,
        }
    }

    fn known(&self, key: &[u8]) -> Option<Arc<Route>> {
        let routes = self.routes.read();
        let upto = (Bound::Unbounded, Bound::Included(key));
        let (_, route) = routes.range::<[u8], _>(upto).next_back()?;
        route.holds(key).then(|| Arc::clone(route))
    }

    /// Forgets a route that a store did not accept.
    pub(super) fn forget(&self, route: &Arc<Route>) {
        let mut routes = self.routes.write();
        // Someone else may have found the new one already.
        if routes
            .get(&route.start)
            .is_some_and(|known| Arc::ptr_eq(known, route))
        {
            routes.remove(&route.start);
        }
    }

    /// Splits the key space at these keys, where it is not split yet, and returns when PD knows
    /// of all of them.
    pub(super) async fn split(&self, boundaries: &[Bytes]) -> Result<(), ClusterError> {
        let deadline = Instant::now() + SPLIT_TIME_MAX;
        loop {
            let mut missing = Vec::new();
            for boundary in boundaries {
                if self.region(boundary).await?.0.start_key != boundary {
                    missing.push(boundary.clone());
                }
            }
            let Some(first) = missing.first() else {
                return Ok(());
            };
            if Instant::now() >= deadline {
                let first = first.escape_ascii().to_string();
                let (missing, all) = (missing.len(), boundaries.len());
                return Err(ClusterError::SplitsMissing {
                    missing,
                    all,
                    first,
                });
            }
            for keys in missing.chunks(SPLIT_KEYS_MAX) {
                let request = pdpb::SplitRegionsRequest {
                    header: self.header(),
                    split_keys: keys.to_vec(),
                    retry_limit: 1,
                };
                let answer = self.pd.clone().split_regions(request).await;
                let answer = answer
                    .map_err(|status| rpc_error("SplitRegions", status))?
                    .into_inner();
                check_header("SplitRegions", answer.header.as_ref())?;
            }
            tokio::time::sleep(SPLIT_POLL).await;
        }
    }

    async fn locate(&self, key: &[u8]) -> Result<Arc<Route>, ClusterError> {
        let (region, leader) = self.region(key).await?;
        let connections = self.store(leader.store_id).await?;
        let context = kvrpcpb::Context {
            region_id: region.id,
            region_epoch: region.region_epoch,
            peer: Some(leader),
            ..Default::default()
        };
        let (start, end) = (region.start_key, region.end_key);
        let route = Arc::new(Route {
            start,
            end,
            context,
            connections,
        });
        self.routes
            .write()
            .insert(route.start.clone(), Arc::clone(&route));
        Ok(route)
    }

    async fn region(&self, key: &[u8]) -> Result<(metapb::Region, metapb::Peer), ClusterError> {
        const RPC: &str = "GetRegion";
        let request = pdpb::GetRegionRequest {
            header: self.header(),
            region_key: Bytes::copy_from_slice(key),
            need_buckets: false,
        };
        let answer = self.pd.clone().get_region(request).await;
        let answer = answer
            .map_err(|status| rpc_error(RPC, status))?
            .into_inner();
        check_header(RPC, answer.header.as_ref())?;
        let region = answer.region.ok_or(ClusterError::Incomplete {
            rpc: RPC,
            missing: "region",
        })?;
        let leader = answer.leader.filter(|leader| leader.store_id != 0);
        let leader = leader.ok_or(ClusterError::Incomplete {
            rpc: RPC,
            missing: "leader",
        })?;
        Ok((region, leader))
    }

    async fn store(&self, id: u64) -> Result<Arc<Vec<Connection>>, ClusterError> {
        const RPC: &str = "GetStore";
        let mut stores = self.stores.lock().await;
        if let Some(connections) = stores.get(&id) {
            return Ok(Arc::clone(connections));
        }
        let request = pdpb::GetStoreRequest {
            header: self.header(),
            store_id: id,
        };
        let answer = self.pd.clone().get_store(request).await;
        let answer = answer
            .map_err(|status| rpc_error(RPC, status))?
            .into_inner();
        check_header(RPC, answer.header.as_ref())?;
        let store = answer.store.ok_or(ClusterError::Incomplete {
            rpc: RPC,
            missing: "store",
        })?;
        let connections =
            connect_store(&store.address, self.connections_per_store, &self.dial).await?;
        stores.insert(id, Arc::clone(&connections));
        Ok(connections)
    }

    fn header(&self) -> Option<pdpb::RequestHeader> {
        Some(pdpb::RequestHeader {
            cluster_id: self.cluster_id,
            ..Default::default()
        })
    }
}

/// Several connections to one server, so that not all calls queue behind each other.
pub(super) async fn connect_store(
    address: &str,
    connections: usize,
    how: &Dial,
) -> Result<Arc<Vec<Connection>>, ClusterError> {
    let mut clients = Vec::with_capacity(connections);
    for _ in 0..connections {
        let calls = TikvClient::new(dial(address, how).await?);
        let calls = calls.max_decoding_message_size(MESSAGE_BYTES_MAX);
        let stream = batch::Stream::new(calls.clone());
        clients.push(Connection { calls, stream });
    }
    Ok(Arc::new(clients))
}

/// Asks one node who leads PD, and connects there.
async fn leader_of(address: &str, how: &Dial) -> Result<(PdClient<Channel>, u64), ClusterError> {
    const RPC: &str = "GetMembers";
    let mut asked = PdClient::new(dial(address, how).await?);
    let answer = asked.get_members(pdpb::GetMembersRequest::default()).await;
    let answer = answer
        .map_err(|status| rpc_error(RPC, status))?
        .into_inner();
    let cluster_id = check_header(RPC, answer.header.as_ref())?;
    let leader = answer.leader.ok_or(ClusterError::Incomplete {
        rpc: RPC,
        missing: "leader",
    })?;
    let url = leader.client_urls.first();
    let url = url.ok_or(ClusterError::Incomplete {
        rpc: RPC,
        missing: "client URL of the leader",
    })?;
    Ok((PdClient::new(dial(url, how).await?), cluster_id))
}

/// `HOST:PORT`, or a URL.
pub(super) async fn dial(address: &str, how: &Dial) -> Result<Channel, ClusterError> {
    let endpoint = Endpoint::from_shared(how.url(address))
        .map_err(|source| ClusterError::Address {
            address: address.into(),
            source,
        })?
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIME_MAX)
        .timeout(RPC_TIME_MAX);
    let connected = how.connect(&endpoint).await;
    connected.map_err(|error| ClusterError::Connect {
        address: address.into(),
        reason: innermost(&error),
    })
}

/// The first cause: each layer above it repeats it behind words of its own.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    cause.to_string()
}

fn rpc_error(rpc: &'static str, status: tonic::Status) -> ClusterError {
    ClusterError::Rpc {
        rpc,
        status: Box::new(status),
    }
}

/// The cluster's id, unless the header carries an error.
fn check_header(
    rpc: &'static str,
    header: Option<&pdpb::ResponseHeader>,
) -> Result<u64, ClusterError> {
    let header = header.ok_or(ClusterError::Incomplete {
        rpc,
        missing: "header",
    })?;
    match &header.error {
        None => Ok(header.cluster_id),
        Some(error) => Err(ClusterError::Refused {
            rpc,
            message: error.message.clone(),
        }),
    }
}
