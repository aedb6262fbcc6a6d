//! A node inside another program.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::config::{HostPort, Loaded};
use crate::local::LocalError;
use crate::node::{Leaders, Node, StartError, StopError};
use crate::store::Fatal;

/// How long the end of a node waits for what runs on its threads.
const END_WAIT: Duration = Duration::from_secs(10);

/// A node in this process: the same as `flotilla server` runs, port and all, on threads of its own.
/// Its futures can be awaited in any async runtime.
///
/// Requests by these methods skip the network; they are served for the rows whose regions this node
/// leads, which is all of them in a cluster of one node. Keys are bytes, in their order.
///
/// ```
/// use flotilla::Flotilla;
/// use flotilla::config::{ByteSize, Loaded};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let data_dir = folder.path().join("store");
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let config = Loaded::from_defaults(|config| {
///     config.data_dir = Some(data_dir);
///     config.addr.port = 0; // any free one
///     config.disk_reserve = Some(ByteSize::mib(64));
/// })?;
/// let node = Flotilla::open(&config).await?;
/// node.put("fruit/apple", "red").await?;
/// node.put("fruit/plum", "blue").await?;
/// node.delete("fruit/apple").await?;
/// assert_eq!(node.get("fruit/apple").await?, None);
/// let rows = node.scan("fruit/", "fruit0", 100).await?;
/// assert_eq!(rows, [("fruit/plum".into(), "blue".into())]);
/// // Clients of other programs find it here.
/// println!("serves on {}", node.advertised());
/// node.shutdown().await?;
/// # Ok(())
/// # })
/// # }
/// ```
///
/// Other nodes join it, or it joins others (`config.join`), as it is with processes. Dropping it ends it
/// as [`Flotilla::kill`] does, but waits for nothing: its folder may be in use for a moment.
#[derive(Debug)]
pub struct Flotilla(Option<Inner>);

#[derive(Debug)]
struct Inner {
    runtime: Runtime,
    node: Node,
}

/// Why an embedded node did not start.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// The node did not.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The operating system starts no more threads.
    #[error("cannot start the node's threads: {0}")]
    Threads(#[from] std::io::Error),
}

impl Flotilla {
    /// Starts a node: creates its store or continues it, and waits until it serves.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing was lost.
    pub async fn open(config: &Loaded) -> Result<Self, EmbedError> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        if let Some(threads) = config.config.runtime_threads {
            builder.worker_threads(threads);
        }
        let runtime = builder.thread_name("rpc").enable_all().build()?;
        let config = config.clone();
        let starting = runtime.spawn(async move { Node::start(&config).await });
        match starting.await.map_err(StartError::Cancelled).flatten() {
            Ok(node) => Ok(Self(Some(Inner { runtime, node }))),
            Err(error) => {
                apart(move || runtime.shutdown_timeout(END_WAIT)).await;
                Err(error.into())
            }
        }
    }

    fn inner(&self) -> &Inner {
        self.0.as_ref().expect("only its end takes it")
    }

    /// The node itself.
    pub fn node(&self) -> &Node {
        &self.inner().node
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.node().addr()
    }

    /// What clients and other nodes dial.
    pub fn advertised(&self) -> &HostPort {
        self.node().advertised()
    }

    /// The row at `key`.
    ///
    /// # Errors
    /// See [`LocalError`].
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Bytes>, LocalError> {
        let (local, key) = (self.node().local(), key.into());
        self.run(async move { local.get(key).await }).await
    }

    /// Writes a row; `Ok` says that it is durable, on a majority of the replicas.
    ///
    /// # Errors
    /// See [`LocalError`].
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<(), LocalError> {
        let (local, key, value) = (self.node().local(), key.into(), value.into());
        self.run(async move { local.put(key, value).await }).await
    }

    /// Deletes a row, if there is one.
    ///
    /// # Errors
    /// See [`LocalError`].
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<(), LocalError> {
        let (local, key) = (self.node().local(), key.into());
        self.run(async move { local.delete(key).await }).await
    }

    /// Up to `limit` rows from `start` on and below `end` (empty: to the last), in the order of keys.
    /// What it reads in one region it reads at one moment, up to 1,024 rows; then others may write.
    ///
    /// # Errors
    /// See [`LocalError`].
    pub async fn scan(
        &self,
        start: impl Into<Bytes>,
        end: impl Into<Bytes>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, LocalError> {
        let (local, start, end) = (self.node().local(), start.into(), end.into());
        self.run(async move { local.scan(start, end, limit).await })
            .await
    }

    /// Runs a request on the node's threads.
    async fn run<T: Send + 'static>(
        &self,
        request: impl Future<Output = Result<T, LocalError>> + Send + 'static,
    ) -> Result<T, LocalError> {
        let running = self.inner().runtime.spawn(request);
        running.await.unwrap_or(Err(LocalError::Stopped))
    }

    /// Waits until the node cannot go on: then kill it.
    pub fn failed(&self) -> impl Future<Output = Fatal> + use<> {
        let fatal = self.node().store().fatal.clone();
        async move { fatal.reported().await }
    }

    /// Stops in order: leaders move to other nodes, requests under way finish, and what was
    /// acknowledged is flushed.
    ///
    /// # Errors
    /// See [`StopError`]. Nothing acknowledged was lost.
    pub async fn shutdown(self) -> Result<(), StopError> {
        self.stop(Leaders::Move).await
    }

    /// As [`Flotilla::shutdown`], when the whole cluster ends: leaders have nowhere to go.
    ///
    /// # Errors
    /// As [`Flotilla::shutdown`].
    pub async fn shutdown_with_cluster(self) -> Result<(), StopError> {
        self.stop(Leaders::Stay).await
    }

    async fn stop(mut self, leaders: Leaders) -> Result<(), StopError> {
        let Inner { runtime, node } = self.0.take().expect("only its end takes it");
        let stopped = runtime.spawn(node.stop(leaders)).await;
        apart(move || runtime.shutdown_timeout(END_WAIT)).await;
        stopped?
    }

    /// Ends the node as `kill -9` would: connections break, and what was not yet synced is lost. Returns
    /// when its folder and its port are free.
    pub async fn kill(mut self) {
        if let Some(Inner { runtime, node }) = self.0.take() {
            apart(move || {
                runtime.shutdown_timeout(END_WAIT);
                drop(node);
            })
            .await;
        }
    }
}

impl Drop for Flotilla {
    fn drop(&mut self) {
        if let Some(Inner { runtime, node }) = self.0.take() {
            runtime.shutdown_background();
            drop(node);
        }
    }
}

/// Does what blocks on a thread of its own.
async fn apart(work: impl FnOnce() + Send + 'static) {
    let (tell, told) = oneshot::channel();
    std::thread::spawn(move || {
        work();
        // Whoever waited may have gone.
        let _ = tell.send(());
    });
    // It is gone without a word only if the work panicked, which has been told.
    let _ = told.await;
}
