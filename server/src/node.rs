//! A node: its store, its placement driver, its port.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flotilla_engine::{DataDir, EngineError};
use flotilla_pd_client::PdClient;
use flotilla_proto::admin::node_server::NodeServer;
use flotilla_proto::admin::placement_server::PlacementServer;
use flotilla_proto::keyspacepb::keyspace_server::KeyspaceServer;
use flotilla_proto::metapb::{Peer, PeerRole};
use flotilla_proto::pdpb::pd_server::PdServer;
use flotilla_proto::raft::peers_server::PeersServer;
use flotilla_proto::tikvpb::tikv_server::TikvServer;
use flotilla_raftstore::region::META_REGION;
use flotilla_raftstore::{PeerInput, Serving};
use flotilla_tls::Dial;
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::config::{Config, ConfigError, HostPort, Loaded};
use crate::http::{self, OwnName, Pages};
use crate::join::{self, JoinError, Joined};
use crate::local::Local;
use crate::metrics::Metrics;
use crate::net::{self, BindError, Bound, Limits, Security, Server};
use crate::peers::{self, Book, Receiver, Transport, remembered};
use crate::placement::{Driver, PdHandle, Reporter, Unfit};
use crate::rpc::{
    Forwarding, KeyspaceService, Kv, Leader, NodeService, PdService, PlacementService, StopStreams,
    TikvService,
};
use crate::security;
use crate::store::{self, Fatal, FatalSink, OpenError, Store, Threads};

/// How long a start waits for its own regions to elect their leaders.
const ELECTION_WAIT: Duration = Duration::from_secs(30);
/// How often a stop looks whether its leaders have gone, and asks again ...
const HAND_OVER_EVERY: Duration = Duration::from_millis(50);
/// ... and how long it waits for the next one to go: longer than a transfer may take.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(2);
/// How often samples are filed.
const UPKEEP: Duration = Duration::from_secs(1);

/// Why a node did not start. Nothing was lost.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The data folder and what is in it.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Joining.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The store does not fit its cluster.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// PD's address.
    #[error(transparent)]
    Placement(#[from] flotilla_pd_client::PdError),
    /// The store failed while it started.
    #[error("the store failed while it started: {0}")]
    Fatal(#[from] Fatal),
    /// No leader.
    #[error("the node's own regions did not elect leaders within {} s", ELECTION_WAIT.as_secs())]
    NoLeader,
    /// A task of the start was cancelled: the runtime is ending.
    #[error("the start was cancelled")]
    Cancelled(#[from] tokio::task::JoinError),
}

/// A node that serves.
pub struct Node {
    store: Arc<Store>,
    threads: Threads,
    server: Server,
    status_server: Option<Server>,
    addr: SocketAddr,
    advertised: HostPort,
    status_addr: Option<SocketAddr>,
    fatal: FatalSink,
    metrics: Arc<Metrics>,
    serving: Arc<AtomicBool>,
    health: HealthReporter,
    streams: StopStreams,
    pd: PdHandle,
    local: Local,
    tasks: Tasks,
    stop_timeout: Duration,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("addr", &self.addr)
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

/// Tasks that end with the node.
struct Tasks(Vec<JoinHandle<()>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

impl Node {
    /// Starts a node: takes its ports, opens or creates its store, replays its log, elects leaders,
    /// and serves. What is refused is refused before anything is created.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(loaded: &Loaded) -> Result<Self, StartError> {
        let config = loaded.config.clone();
        let path = loaded.data_dir()?.to_owned();
        let security = loaded.security()?.map(Arc::new);
        let dial: Dial = security
            .as_ref()
            .map(|security| security.tls.clone())
            .into();
        let bound = net::bind("addr", &config.addr).await?;
        let status_bound = match &config.status_addr {
            Some(addr) => Some(net::bind("status-addr", addr).await?),
            None => None,
        };
        let advertised = config.advertised(bound.addr().port());
        let metrics = Arc::new(Metrics::new());
        let fatal = FatalSink::default();
        let fresh = !DataDir::holds_store(&path).map_err(OpenError::from)?;
        let joined = match &config.join {
            Some(join) if fresh => Some(join::ask(join, bound.addr(), &advertised, &dial).await?),
            _ => None,
        };
        let (store, threads, queue) =
            open(&path, &config, &advertised, joined, &metrics, &fatal).await?;
        if let Some(join) = config.join.as_ref().filter(|_| !fresh) {
            join::check(join, bound.addr(), &advertised, store.ids, &dial).await?;
        }

        let (tasks, roles) = queue.split();
        let (driver, pd) = Driver::new(Arc::clone(&store), &advertised, dial.is_tls(), roles);
        let mut running = Tasks(vec![tokio::spawn(driver.run())]);
        running.0.push(tokio::spawn(upkeep(Arc::clone(&metrics))));
        let loopback = loopback(bound.addr());
        let own = dial.and_own(&loopback, &advertised.host);
        if let Some(security) = &security {
            let (tls, network) = (security.tls.clone(), Arc::clone(&metrics.network));
            running.0.push(tokio::spawn(security::watch(tls, network)));
        }
        let (reporter, placement) =
            Reporter::new(Arc::clone(&store), loopback, own, advertised.clone(), tasks)?;
        let asks = placement.client().clone();
        let book = book(&store, &asks);
        let transport = transport(&store, &advertised, &book, &dial, &config, &metrics);
        running.0.push(tokio::spawn(transport.clone().run()));
        let keeping = remembered::keep(Arc::clone(&store), Arc::clone(&book), asks);
        running.0.push(tokio::spawn(keeping));
        let join = config.join.as_ref().map(HostPort::to_string);
        let leader = Leader::new(Arc::clone(&store), pd.clone(), book, join, dial);

        let (health, health_service) = tonic_health::server::health_reporter();
        health
            .set_service_status("", ServingStatus::NotServing)
            .await;
        let serving = Arc::new(AtomicBool::new(false));
        let pages = Pages {
            leader: leader.clone(),
            metrics: Arc::clone(&metrics),
            store: Arc::clone(&store),
            own_name: OwnName {
                host: advertised.host.clone(),
                tls: security.is_some(),
            },
            serving: Arc::clone(&serving),
        };
        let (streams, stopping) = StopStreams::new();
        let message_max = config.message_max.memory();
        let kv = Arc::new(Kv::new(Arc::clone(&store), placement));
        let tikv = TikvService::new(kv, &metrics, stopping.clone());
        let local = Local::new(tikv.clone(), Arc::clone(&store));
        let grpc = Routes::new(
            TikvServer::new(tikv)
                .max_decoding_message_size(message_max)
                .max_encoding_message_size(usize::MAX),
        )
        .add_service(Forwarding::new(
            PdServer::new(PdService::new(pd.clone(), stopping.clone()))
                .max_decoding_message_size(message_max),
            leader.clone(),
            stopping.clone(),
        ))
        .add_service(Forwarding::new(
            KeyspaceServer::new(KeyspaceService::new(pd.clone()))
                .max_decoding_message_size(message_max),
            leader.clone(),
            stopping.clone(),
        ))
        .add_service(Forwarding::new(
            PlacementServer::new(PlacementService::new(pd.clone()))
                .max_encoding_message_size(usize::MAX),
            leader,
            stopping.clone(),
        ))
        .add_service(NodeServer::new(NodeService::new(
            Arc::clone(&store),
            Arc::clone(&metrics),
        )))
        .add_service(
            PeersServer::new(Receiver::new(&transport, stopping))
                .max_decoding_message_size(bulk_max(&config)),
        )
        .add_service(health_service);
        let limits = Limits::of(&config);
        let (server, status_server, addr, status_addr) = serve(
            bound,
            status_bound,
            grpc,
            pages,
            &limits,
            security,
            &metrics,
        );

        let node = Self {
            store,
            threads,
            server,
            status_server,
            addr,
            advertised,
            status_addr,
            fatal,
            metrics,
            serving,
            health,
            streams,
            pd,
            local,
            tasks: running,
            stop_timeout: config.stop_timeout,
        };
        node.become_ready(reporter).await
    }

    /// Waits until PD knows the store; then takes requests.
    async fn become_ready(mut self, reporter: Reporter) -> Result<Self, StartError> {
        let alone = is_alone(&self.store);
        let registered = async {
            if alone {
                let led = tokio::time::timeout(ELECTION_WAIT, self.pd.led());
                led.await.map_err(|_| StartError::NoLeader)?;
            }
            // With others it may take as long as they do not run.
            Ok::<_, StartError>(reporter.register().await?)
        };
        tokio::select! {
            fatal = self.fatal.reported() => return Err(fatal.into()),
            registered = registered => registered?,
        }
        self.tasks.0.push(tokio::spawn(reporter.run()));
        self.serving.store(true, Ordering::Release);
        self.health
            .set_service_status("", ServingStatus::Serving)
            .await;
        Ok(self)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What clients dial.
    pub fn advertised(&self) -> &HostPort {
        &self.advertised
    }

    /// Where the HTTP pages are, if they are not on [`Node::addr`].
    pub fn status_addr(&self) -> Option<SocketAddr> {
        self.status_addr
    }

    /// The node's store.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The node's metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// This node's share of PD.
    pub fn pd(&self) -> &PdHandle {
        &self.pd
    }

    /// Requests of this process.
    pub(crate) fn local(&self) -> Local {
        self.local.clone()
    }

    /// Waits until the node cannot go on.
    pub async fn failed(&self) -> Fatal {
        self.fatal.reported().await
    }

    /// Stops in order: `leaders` move to other nodes, no new requests, those under way finish, what was
    /// acknowledged is flushed.
    ///
    /// # Errors
    /// The last flush failed; nothing acknowledged is lost, the next start replays it.
    pub async fn stop(mut self, leaders: Leaders) -> Result<(), StopError> {
        self.serving.store(false, Ordering::Release);
        self.health
            .set_service_status("", ServingStatus::NotServing)
            .await;
        // Those who watch it have been told, and their streams end.
        self.health.clear_service_status("").await;
        if leaders == Leaders::Move {
            let moving = hand_over(&self.store);
            let _ = tokio::time::timeout(self.stop_timeout, moving).await;
        }
        self.streams.stop();
        let mut cut_off = self.server.stop(self.stop_timeout).await;
        if let Some(server) = self.status_server {
            cut_off += server.stop(self.stop_timeout).await;
        }
        if cut_off > 0 {
            tracing::warn!(
                connections = cut_off,
                "closed connections that were still busy"
            );
        }
        drop(self.tasks);
        let threads = self.threads;
        tokio::task::spawn_blocking(move || threads.stop()).await??;
        Ok(())
    }
}

/// What becomes of the regions that a node leads when it stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaders {
    /// Other nodes lead them before this one stops: clients are sent there, and nobody waits for an
    /// election.
    Move,
    /// They wait for this node, or for an election: the whole cluster ends.
    Stay,
}

/// Hands the store's regions to followers that have caught up; gives up when no more of them goes.
async fn hand_over(store: &Store) {
    let (mut fewest, mut moved) = (usize::MAX, false);
    let mut since = tokio::time::Instant::now();
    loop {
        let led = led_with_others(store);
        if led.len() < fewest {
            (fewest, since) = (led.len(), tokio::time::Instant::now());
        }
        if led.is_empty() {
            break;
        }
        if since.elapsed() >= HAND_OVER_PATIENCE {
            tracing::warn!(regions = led.len(), "no other node takes over the lead");
            return;
        }
        moved = true;
        for region in led {
            store.runtime.to_peer(region, PeerInput::HandOver);
        }
        tokio::time::sleep(HAND_OVER_EVERY).await;
    }
    // What was proposed here is answered when the next leader says that it is committed. Nothing new
    // comes: only leaders take writes.
    while moved && !store.applied.is_idle() && since.elapsed() < HAND_OVER_PATIENCE {
        tokio::time::sleep(HAND_OVER_EVERY).await;
    }
}

/// The regions that this store leads and others could.
fn led_with_others(store: &Store) -> Vec<u64> {
    let votes = |peer: &Peer| matches!(peer.role(), PeerRole::Voter | PeerRole::IncomingVoter);
    let could = |serving: &Serving| {
        let mut peers = serving.region.peers.iter();
        serving.is_leader() && peers.any(|peer| peer.id != serving.peer.id && votes(peer))
    };
    let all = store.runtime.delegates.all().into_iter();
    all.filter(|serving| could(serving))
        .map(|serving| serving.region.id)
        .collect()
}

/// Why a node did not stop cleanly.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// The last flush.
    #[error("the last flush failed: {0}")]
    Engine(#[from] EngineError),
    /// The runtime ended before the store did.
    #[error("the stop was cancelled")]
    Cancelled(#[from] tokio::task::JoinError),
}

async fn open(
    path: &Path,
    config: &Config,
    advertised: &HostPort,
    joined: Option<Joined>,
    metrics: &Arc<Metrics>,
    fatal: &FatalSink,
) -> Result<(Arc<Store>, Threads, store::PdQueue), StartError> {
    let (path, config, advertised) = (path.to_owned(), config.clone(), advertised.clone());
    let (metrics, fatal) = (Arc::clone(&metrics.store), fatal.clone());
    let opening = move || {
        let joined = joined.as_ref();
        store::start(&path, &config, &advertised, joined, &metrics, &fatal)
    };
    Ok(tokio::task::spawn_blocking(opening).await??)
}

/// The addresses of the other stores: as an earlier run knew them, until PD says otherwise.
fn book(store: &Store, asks: &PdClient) -> Arc<Book> {
    let book = Book::of(asks.clone());
    let known = remembered::read(&store.path).into_iter();
    // Its own address is an argument of the start.
    book.remember(known.filter(|(id, _)| *id != store.ids.store_id));
    Arc::new(book)
}

fn transport(
    store: &Arc<Store>,
    advertised: &HostPort,
    book: &Arc<Book>,
    dial: &Dial,
    config: &Config,
    metrics: &Metrics,
) -> Transport {
    let disk = Arc::clone(&store.disk);
    let reserve = config.disk_reserve().0;
    Transport::new(peers::Parts {
        ids: store.ids,
        address: advertised.to_string(),
        machines: Arc::new(store.runtime.clone()),
        files: store.snapshots.clone(),
        book: Arc::clone(book),
        dial: dial.clone(),
        // It is there twice until it is installed.
        room: Arc::new(move |bytes| {
            let needed = bytes.saturating_mul(2).saturating_add(reserve);
            let full = disk.free() < needed;
            full.then(|| "the disk has no room for the snapshot".to_owned())
        }),
        metrics: Arc::clone(&metrics.peers),
        snapshot_bandwidth: config.snapshot_bandwidth.0,
        snapshots_max: config.snapshots_max,
        snapshot_counts: Arc::clone(&store.snapshot_counts),
    })
}

/// The largest message between stores: a bulk or an append, and the entry that made it so large.
fn bulk_max(config: &Config) -> usize {
    let append = config.append_max.memory();
    config.message_max.memory().saturating_add(append)
}

/// Whether the store is the only member of the meta region, so that nobody else may come to lead it.
fn is_alone(store: &Store) -> bool {
    let serving = store.runtime.delegates.serving(META_REGION);
    serving.is_ok_and(|serving| {
        let mut peers = serving.region.peers.iter();
        peers.all(|peer| peer.store_id == store.ids.store_id)
    })
}

fn serve(
    bound: Bound,
    status_bound: Option<Bound>,
    grpc: Routes,
    pages: Pages,
    limits: &Limits,
    security: Option<Arc<Security>>,
    metrics: &Metrics,
) -> (Server, Option<Server>, SocketAddr, Option<SocketAddr>) {
    let (addr, status_addr) = (bound.addr(), status_bound.as_ref().map(Bound::addr));
    let network = Arc::clone(&metrics.network);
    let routes = grpc
        .prepare()
        .into_axum_router()
        .merge(http::health(pages.clone()));
    let (routes, status) = match status_bound {
        None => (routes.merge(http::api(pages)), None),
        Some(bound) => {
            let pages = http::api(pages.clone())
                .merge(http::health(pages))
                .fallback(http::not_found);
            let server = Server::start(
                bound,
                pages,
                limits.clone(),
                false,
                security.clone(),
                Arc::clone(&network),
            );
            (routes, Some(server))
        }
    };
    let routes = routes.fallback(http::not_found);
    let server = Server::start(
        bound,
        routes,
        limits.clone(),
        status.is_some(),
        security,
        network,
    );
    (server, status, addr, status_addr)
}

/// How this process reaches its own listener.
fn loopback(bound: SocketAddr) -> String {
    let ip = match bound.ip() {
        ip if !ip.is_unspecified() => ip,
        std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, bound.port()).to_string()
}

async fn upkeep(metrics: Arc<Metrics>) {
    let mut ticks = tokio::time::interval(UPKEEP);
    loop {
        ticks.tick().await;
        metrics.upkeep();
    }
}
