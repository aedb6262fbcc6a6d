//! Snapshots in: offered to the store machine, written chunk by chunk, checked, handed over. Whatever
//! ends one, the store machine is told, and the files that were begun here go.
//!
//! Where the connection breaks, its sender has [`RESUME_WAIT`] to go on over another one, from the
//! bytes that are here. One that has ended begins again from its first byte: the raft group decides
//! then whether the same snapshot is still wanted, which it mostly is not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_engine::{Cf, SnapshotError, SnapshotFiles, SnapshotKey, snapshot_bytes};
use flotilla_proto::raft::{
    MessageKind, SnapshotChunk, SnapshotHeld, SnapshotRequest, SnapshotResponse,
};
use flotilla_proto::store::{PeerMessage, SnapshotManifest};
use flotilla_raftstore::Answer;
use flotilla_raftstore::effects::StoreInput;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::Shared;
use crate::net::Call;

/// Bytes of a snapshot that is taken: far more than a region may hold.
const BYTES_MAX: u64 = 64 << 30;
/// A sender that is silent this long has lost its connection. It may wait for its share of the
/// bandwidth.
const CHUNK_WAIT: Duration = Duration::from_secs(30);
/// How long a snapshot whose connection broke waits for its sender: meanwhile no other one of its
/// region is taken.
pub(super) const RESUME_WAIT: Duration = Duration::from_secs(10);

/// One call of a sender.
pub(super) struct Feed {
    pub(super) incoming: Streaming<SnapshotRequest>,
    /// What its messages hold of the node's memory is counted there.
    pub(super) call: Option<Call>,
    pub(super) tell: mpsc::Sender<Result<SnapshotResponse, Status>>,
}

impl Feed {
    async fn accept(&self, held: &Held) {
        let held = held.iter().map(|(cf, bytes)| SnapshotHeld {
            cf: (*cf).into(),
            bytes: *bytes,
        });
        let accepted = SnapshotResponse {
            received: false,
            held: held.collect(),
        };
        // A sender that is gone is found by the next chunk, which does not come.
        let _ = self.tell.send(Ok(accepted)).await;
    }
}

/// Bytes of each file that are here.
type Held = BTreeMap<Cf, u64>;

/// Snapshots that are being received: a sender that calls again for one goes on with it.
#[derive(Default)]
pub(super) struct Receiving(Mutex<BTreeMap<SnapshotKey, (PeerMessage, mpsc::Sender<Feed>)>>);

impl Receiving {
    /// Gives the call to whoever receives the snapshot of this message; gives it back if nobody does.
    fn go_on(&self, message: &PeerMessage, feed: Feed) -> Option<Feed> {
        let receiving = self.0.lock();
        let mut all = receiving.values();
        match all.find(|(known, _)| known == message) {
            None => Some(feed),
            Some((_, next)) => next.try_send(feed).err().map(TrySendError::into_inner),
        }
    }

    /// From now on calls for this message come here.
    fn begin(&self, key: SnapshotKey, message: PeerMessage) -> mpsc::Receiver<Feed> {
        let (tell, next) = mpsc::channel(1);
        self.0.lock().insert(key, (message, tell));
        next
    }

    fn end(&self, key: &SnapshotKey) {
        self.0.lock().remove(key);
    }
}

/// Receives the snapshot that `message` offers, and answers to its sender.
pub(super) async fn take(shared: Arc<Shared>, message: PeerMessage, feed: Feed) {
    let Some(mut feed) = shared.receptions.go_on(&message, feed) else {
        return;
    };
    let taken = try_take(&shared, message, &mut feed).await;
    let counter = match &taken {
        Ok(()) => &shared.parts.metrics.snapshots_received,
        Err(_) => &shared.parts.metrics.snapshots_not_received,
    };
    counter.increment(1);
    let answer = taken.map(|()| SnapshotResponse {
        received: true,
        held: Vec::new(),
    });
    // The sender may have gone.
    let _ = feed.tell.send(answer).await;
}

async fn try_take(
    shared: &Arc<Shared>,
    message: PeerMessage,
    feed: &mut Feed,
) -> Result<(), Status> {
    let busy = |_| Status::resource_exhausted("too many snapshots are on their way to this store");
    let _turn = Arc::clone(&shared.receiving)
        .try_acquire_owned()
        .map_err(busy)?;
    let _counted = shared.parts.snapshot_counts.receiving.begin();
    let manifest = manifest_of(&message)
        .ok_or_else(|| Status::invalid_argument("the message carries no snapshot"))?;
    if let Some(full) = (shared.parts.room)(snapshot_bytes(&manifest)) {
        return Err(Status::resource_exhausted(full));
    }
    let key = SnapshotKey::incoming(&manifest);
    let mut accepted = offer(shared, &message, key).await?;
    let mut next = shared.receptions.begin(key, message.clone());
    let mut held = Held::new();
    feed.accept(&held).await;

    on_files(shared, move |files| files.receive(&manifest, BYTES_MAX)).await?;
    accepted.writing = true;
    while let Some(request) = request(feed, &mut next, &held).await? {
        let _held = feed.call.as_ref().map(Call::message);
        let chunk = request
            .chunk
            .ok_or_else(|| Status::invalid_argument("a chunk is missing"))?;
        let (cf, end) = (checked(&chunk)?, chunk.offset + chunk.data.len() as u64);
        on_files(shared, move |files| {
            files.write_chunk(&key, cf, chunk.offset, &chunk.data)
        })
        .await?;
        held.insert(cf, end);
    }
    on_files(shared, move |files| files.finish_receive(&key)).await?;
    accepted.received(message);
    Ok(())
}

/// What comes next, over this connection or the one that follows it; `None` at the end.
async fn request(
    feed: &mut Feed,
    next: &mut mpsc::Receiver<Feed>,
    held: &Held,
) -> Result<Option<SnapshotRequest>, Status> {
    loop {
        let broken = tokio::select! {
            // Its sender calls again: it knows better whether a connection is broken.
            Some(again) = next.recv() => {
                *feed = again;
                feed.accept(held).await;
                continue;
            }
            request = timeout(CHUNK_WAIT, feed.incoming.message()) => match request {
                Ok(Ok(request)) => return Ok(request),
                Ok(Err(status)) => status,
                Err(_late) => Status::deadline_exceeded("no chunk came for a while"),
            },
        };
        let Ok(Some(again)) = timeout(RESUME_WAIT, next.recv()).await else {
            return Err(broken);
        };
        *feed = again;
        feed.accept(held).await;
    }
}

/// What a snapshot message describes.
pub(super) fn manifest_of(message: &PeerMessage) -> Option<SnapshotManifest> {
    let kind = message.message.as_ref()?.kind();
    flotilla_raftstore::store::manifest_of(message).filter(|_| kind == MessageKind::Snapshot)
}

/// The column family of a chunk that came as it was sent.
fn checked(chunk: &SnapshotChunk) -> Result<Cf, Status> {
    if crc32c::crc32c(&chunk.data) != chunk.crc {
        return Err(Status::data_loss("a chunk was damaged on its way"));
    }
    Cf::try_from(chunk.cf).map_err(|_| Status::invalid_argument("no such column family"))
}

/// Asks the store machine whether there is room for the snapshot's range.
async fn offer(
    shared: &Arc<Shared>,
    message: &PeerMessage,
    key: SnapshotKey,
) -> Result<Accepted, Status> {
    let (tell, told) = oneshot::channel();
    let (held, runtime) = (Arc::clone(shared), Handle::current());
    let answer = Answer::new(move |result: Result<(), _>| {
        // From here on there is something to give back, also if whoever offered has gone meanwhile.
        let _ = tell.send(result.map(|()| Accepted {
            shared: held,
            runtime,
            key,
            writing: false,
            over: false,
        }));
    });
    let message = Box::new(message.clone());
    shared
        .parts
        .machines
        .to_store(StoreInput::SnapshotOffer { message, answer });
    match told.await {
        Ok(Ok(accepted)) => Ok(accepted),
        Ok(Err(error)) => Err(Status::resource_exhausted(error.to_string())),
        Err(_) => Err(Status::unavailable("the store is stopping")),
    }
}

/// A snapshot that the store machine keeps room for, until it is told otherwise: no second one of the
/// region comes meanwhile. Dropped, it is abandoned.
struct Accepted {
    shared: Arc<Shared>,
    /// Where files are removed: it may be dropped on a thread of the store's.
    runtime: Handle,
    key: SnapshotKey,
    /// Its files were begun here, and are nobody else's.
    writing: bool,
    over: bool,
}

impl Accepted {
    /// All of it is here and durable.
    fn received(mut self, message: PeerMessage) {
        self.over = true;
        let message = Box::new(message);
        let input = StoreInput::SnapshotReceived { message };
        self.shared.parts.machines.to_store(input);
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        self.shared.receptions.end(&self.key);
        if self.over {
            return;
        }
        let (shared, key, writing) = (Arc::clone(&self.shared), self.key, self.writing);
        let abandon = move || {
            let mut gone = true;
            if writing && let Err(error) = shared.parts.files.discard(&key) {
                gone = false;
                tracing::warn!(%key, %error, "a snapshot's files were not removed");
            }
            let input = StoreInput::SnapshotUnused { key, gone };
            shared.parts.machines.to_store(input);
        };
        self.runtime.spawn_blocking(abandon);
    }
}

/// Work on files, off the threads of the sockets.
async fn on_files<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&dyn SnapshotFiles) -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, Status> {
    let files = Arc::clone(&shared.parts.files);
    let done = tokio::task::spawn_blocking(move || work(&*files)).await;
    let stopping = |_| Status::unavailable("the node is stopping");
    let refused = |error: SnapshotError| Status::aborted(error.to_string());
    done.map_err(stopping)?.map_err(refused)
}
