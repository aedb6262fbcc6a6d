//! A node with a runtime of its own: when it stops or crashes, everything of it is gone, as with a
//! process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flotilla::config::{ByteSize, Config, HostPort, Loaded};
use flotilla::node::{Leaders, Node, StartError};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use super::Wire;

/// Free space that a test's node keeps; tests write little.
const DISK_RESERVE: ByteSize = ByteSize::mib(64);
/// How long a stop waits for streams that clients keep open.
const STOP_TIMEOUT: Duration = Duration::from_millis(200);
/// How long the tasks of a node that is gone may take to end.
const TASKS_END: Duration = Duration::from_secs(30);

type Change = Arc<dyn Fn(&mut Config) + Send + Sync>;

/// A node that can be stopped, crashed and started again.
pub(crate) struct TestNode {
    running: Option<Running>,
    change: Change,
    folder: TempDir,
}

struct Running {
    node: Node,
    runtime: Runtime,
}

impl TestNode {
    /// A node on defaults, on a fresh folder.
    pub(crate) async fn start() -> Self {
        Self::with(|_| ()).await
    }

    /// A node whose configuration is changed by `change`, now and at every later start.
    pub(crate) async fn with(change: impl Fn(&mut Config) + Send + Sync + 'static) -> Self {
        let mut node = Self::prepared(change);
        node.start_again().await;
        node
    }

    /// The same, before its first start.
    pub(crate) fn prepared(change: impl Fn(&mut Config) + Send + Sync + 'static) -> Self {
        Self {
            running: None,
            change: Arc::new(change),
            folder: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    /// Starts on the folder as it is, on a free port.
    pub(crate) async fn start_again(&mut self) {
        self.start_at(0).await;
    }

    /// Starts on the folder as it is, on a port that was given up before.
    pub(crate) async fn start_at(&mut self, port: u16) {
        self.try_start(port).await.expect("the node starts");
    }

    /// Tries to start on a free port with another change of the configuration, for this start only.
    pub(crate) async fn refused_with(&mut self, change: impl FnOnce(&mut Config)) -> StartError {
        let mut config = self.loaded(0);
        change(&mut config.config);
        match self.launch(config).await {
            Ok(()) => panic!("the node starts, and should not"),
            Err(error) => error,
        }
    }

    async fn try_start(&mut self, port: u16) -> Result<(), StartError> {
        let loaded = self.loaded(port);
        self.launch(loaded).await
    }

    fn loaded(&self, port: u16) -> Loaded {
        let path = self.path().to_owned();
        let loaded = Loaded::from_defaults(|config| {
            config.data_dir = Some(path);
            config.addr = HostPort {
                host: "127.0.0.1".to_owned(),
                port,
            };
            config.disk_reserve = Some(DISK_RESERVE);
            config.stop_timeout = STOP_TIMEOUT;
            (self.change)(config);
        });
        loaded.expect("a valid configuration")
    }

    async fn launch(&mut self, loaded: Loaded) -> Result<(), StartError> {
        assert!(self.running.is_none(), "it runs already");
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("node")
            .enable_all()
            .build()
            .expect("a runtime");
        let started = runtime.spawn(async move { Node::start(&loaded).await });
        match started.await.expect("the start does not panic") {
            Ok(node) => {
                self.running = Some(Running { node, runtime });
                Ok(())
            }
            Err(error) => {
                end(runtime).await;
                Err(error)
            }
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The node itself.
    pub(crate) fn node(&self) -> &Node {
        &self.running.as_ref().expect("it runs").node
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> SocketAddr {
        self.node().addr()
    }

    /// What clients dial.
    pub(crate) fn addr(&self) -> String {
        self.socket().to_string()
    }

    /// A bare client for API v1.
    pub(crate) async fn wire(&self) -> Wire {
        Wire::connect(&self.addr()).await
    }

    /// Stops in order.
    pub(crate) async fn stop(&mut self) {
        let Running { node, runtime } = self.running.take().expect("it runs");
        let stopped = runtime.spawn(node.stop(Leaders::Stay)).await;
        stopped
            .expect("the stop does not panic")
            .expect("the node stops cleanly");
        end(runtime).await;
    }

    /// Stops at once, in the middle of everything.
    pub(crate) async fn crash(&mut self) {
        let Running { node, runtime } = self.running.take().expect("it runs");
        let dropped = runtime.spawn_blocking(move || drop(node)).await;
        dropped.expect("the drop does not panic");
        end(runtime).await;
    }
}

async fn end(runtime: Runtime) {
    let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(TASKS_END));
    ended.await.expect("the runtime ends");
}

impl Drop for TestNode {
    fn drop(&mut self) {
        // A test that failed half-way; others stop their nodes.
        if let Some(Running { node, runtime }) = self.running.take() {
            drop(node);
            runtime.shutdown_background();
        }
    }
}
