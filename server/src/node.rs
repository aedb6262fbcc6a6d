//! A node: its store, its placement driver, its port.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flotilla_engine::EngineError;
use flotilla_proto::keyspacepb::keyspace_server::KeyspaceServer;
use flotilla_proto::pdpb::pd_server::PdServer;
use flotilla_proto::tikvpb::tikv_server::TikvServer;
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::config::{Config, ConfigError, HostPort, Loaded};
use crate::http::{self, Pages};
use crate::metrics::Metrics;
use crate::net::{self, BindError, Bound, Limits, Server};
use crate::placement::{Driver, Reporter, WrongMode};
use crate::rpc::{KeyspaceService, Kv, PdService, StopStreams, TikvService};
use crate::store::{self, Fatal, FatalSink, OpenError, Store, Threads};

/// How long a start waits for its own regions to elect their leaders.
const ELECTION_WAIT: Duration = Duration::from_secs(30);
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
    /// The cluster's keys are of another mode than configured.
    #[error(transparent)]
    Mode(#[from] WrongMode),
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
        let bound = net::bind("addr", &config.addr).await?;
        let status_bound = match &config.status_addr {
            Some(addr) => Some(net::bind("status-addr", addr).await?),
            None => None,
        };
        let advertised = config.advertised(bound.addr().port());
        let metrics = Arc::new(Metrics::new());
        let fatal = FatalSink::default();
        let (store, threads, queue) = open(&path, &config, &advertised, &metrics, &fatal).await?;

        let (tasks, roles) = queue.split();
        let (driver, pd) = Driver::new(Arc::clone(&store), &advertised, roles);
        let mut running = Tasks(vec![tokio::spawn(driver.run())]);
        running.0.push(tokio::spawn(upkeep(Arc::clone(&metrics))));
        let loopback = loopback(bound.addr());
        let (reporter, placement) =
            Reporter::new(Arc::clone(&store), loopback, advertised.clone(), tasks)?;

        let (health, health_service) = tonic_health::server::health_reporter();
        health
            .set_service_status("", ServingStatus::NotServing)
            .await;
        let serving = Arc::new(AtomicBool::new(false));
        let pages = Pages {
            pd: pd.clone(),
            metrics: Arc::clone(&metrics),
            store: Arc::clone(&store),
            serving: Arc::clone(&serving),
        };
        let (streams, stopping) = StopStreams::new();
        let message_max = config.message_max.memory();
        let kv = Arc::new(Kv::new(Arc::clone(&store), placement));
        let grpc = Routes::new(
            TikvServer::new(TikvService::new(kv, &metrics, stopping.clone()))
                .max_decoding_message_size(message_max)
                .max_encoding_message_size(usize::MAX),
        )
        .add_service(
            PdServer::new(PdService::new(pd.clone(), stopping))
                .max_decoding_message_size(message_max),
        )
        .add_service(
            KeyspaceServer::new(KeyspaceService::new(pd.clone()))
                .max_decoding_message_size(message_max),
        )
        .add_service(health_service);
        let limits = Limits::of(&config);
        let (server, status_server, addr, status_addr) =
            serve(bound, status_bound, grpc, pages, &limits, &metrics);

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
            tasks: running,
            stop_timeout: config.stop_timeout,
        };
        node.become_ready(pd, reporter).await
    }

    /// Waits until the node leads its regions and PD knows the store; then takes requests.
    async fn become_ready(
        mut self,
        pd: crate::placement::PdHandle,
        reporter: Reporter,
    ) -> Result<Self, StartError> {
        let registered = async {
            pd.led().await;
            reporter.register().await?;
            Ok(reporter)
        };
        let reporter = tokio::select! {
            fatal = self.fatal.reported() => return Err(fatal.into()),
            registered = tokio::time::timeout(ELECTION_WAIT, registered) => match registered {
                Err(_) => return Err(StartError::NoLeader),
                Ok(Err(error)) => return Err(StartError::Mode(error)),
                Ok(Ok(reporter)) => reporter,
            },
        };
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

    /// Waits until the node cannot go on.
    pub async fn failed(&self) -> Fatal {
        self.fatal.reported().await
    }

    /// Stops in order: no new requests, those under way finish, what was acknowledged is flushed.
    ///
    /// # Errors
    /// The last flush failed; nothing acknowledged is lost, the next start replays it.
    pub async fn stop(mut self) -> Result<(), StopError> {
        self.serving.store(false, Ordering::Release);
        self.health
            .set_service_status("", ServingStatus::NotServing)
            .await;
        // Those who watch it have been told, and their streams end.
        self.health.clear_service_status("").await;
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
    metrics: &Arc<Metrics>,
    fatal: &FatalSink,
) -> Result<(Arc<Store>, Threads, store::PdQueue), StartError> {
    let (path, config, advertised) = (path.to_owned(), config.clone(), advertised.clone());
    let (metrics, fatal) = (Arc::clone(&metrics.store), fatal.clone());
    let opening = move || store::start(&path, &config, &advertised, &metrics, &fatal);
    Ok(tokio::task::spawn_blocking(opening).await??)
}

fn serve(
    bound: Bound,
    status_bound: Option<Bound>,
    grpc: Routes,
    pages: Pages,
    limits: &Limits,
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
            let server = Server::start(bound, pages, limits.clone(), false, Arc::clone(&network));
            (routes, Some(server))
        }
    };
    let routes = routes.fallback(http::not_found);
    let server = Server::start(bound, routes, limits.clone(), status.is_some(), network);
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
