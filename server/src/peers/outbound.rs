//! Snapshots out: each on a connection of its own, so that its chunks do not stand before messages.

use std::sync::Arc;
use std::time::Duration;

use flotilla_engine::{Cf, SnapshotKey};
use flotilla_proto::raft::peers_client::PeersClient;
use flotilla_proto::raft::{SnapshotChunk, SnapshotRequest, SnapshotResponse};
use flotilla_proto::store::{PeerMessage, SnapshotFile, SnapshotManifest};
use flotilla_raftstore::PeerInput;
use flotilla_raftstore::effects::Outbound;
use flotilla_router::Lane;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::inbound::{RESUME_WAIT, manifest_of};
use super::pace::Backoff;
use super::{Broken, Shared, connect};

/// Bytes of a chunk, at most.
const CHUNK_BYTES: u64 = 1 << 20;
/// Chunks between the file and the socket.
const CHUNKS_AHEAD: usize = 2;
/// How long the receiver may take to accept, and, once it has all, to check and sync it.
const ANSWER_WAIT: Duration = Duration::from_secs(60);

/// Sends the snapshots that come for `store`, until it is dropped.
pub(super) async fn run(shared: &Arc<Shared>, store: u64, ready: &Notify) {
    // Dropped with this, they end.
    let mut transfers = JoinSet::new();
    loop {
        ready.notified().await;
        while transfers.try_join_next().is_some() {}
        let outgoing = shared.parts.machines.outgoing();
        for outbound in outgoing.drain(store, Lane::Snapshot, u64::MAX) {
            transfers.spawn(transfer(Arc::clone(shared), outbound));
        }
    }
}

/// Sends one, and tells its peer what became of it.
async fn transfer(shared: Arc<Shared>, Outbound { store, message }: Outbound) {
    let _turn = shared.sending.acquire().await;
    let _counted = shared.parts.snapshot_counts.sending.begin();
    let region = message.region_id;
    let peer = message.to_peer.as_ref().map_or(0, |to| to.id);
    let sent = send(&shared, store, message).await;
    let metrics = &shared.parts.metrics;
    match &sent {
        Ok(bytes) => {
            metrics.snapshots_sent.increment(1);
            tracing::info!(region, store, bytes, "sent a snapshot");
        }
        Err(why) => {
            metrics.snapshots_not_sent.increment(1);
            tracing::info!(region, store, %why, "could not send a snapshot");
        }
    }
    let ok = sent.is_ok();
    let machines = &shared.parts.machines;
    machines.to_peer(region, PeerInput::SnapshotSent { peer, ok });
}

/// How far a snapshot has come.
#[derive(Debug, Default)]
struct Progress {
    /// Its receiver keeps room for it.
    accepted: bool,
    /// Bytes that were sent, those twice that were lost on their way.
    bytes: u64,
}

/// Sends it, over several connections if they break. The bytes that were sent.
async fn send(shared: &Arc<Shared>, store: u64, message: PeerMessage) -> Result<u64, Broken> {
    let manifest = manifest_of(&message)
        .ok_or_else(|| Broken::Snapshot("the message has no manifest".into()))?;
    let (mut progress, mut pauses) = (Progress::default(), Backoff::new());
    let mut until = Instant::now();
    loop {
        let before = progress.bytes;
        let attempt = attempt(shared, store, &message, &manifest, &mut progress);
        let Err(broken) = attempt.await else {
            return Ok(progress.bytes);
        };
        if progress.bytes > before {
            until = Instant::now() + RESUME_WAIT;
            pauses.reset();
        }
        if !progress.accepted || !may_go_on(&broken) || Instant::now() >= until {
            return Err(broken);
        }
        shared.parts.metrics.snapshots_resumed.increment(1);
        tokio::time::sleep(pauses.next()).await;
    }
}

/// The way broke, or the receiver has not noticed yet that it did: what it has may still be of use.
fn may_go_on(broken: &Broken) -> bool {
    match broken {
        Broken::Unreachable { .. } | Broken::Ended(_) => true,
        Broken::Refused(status) => !matches!(
            status.code(),
            Code::Aborted
                | Code::DataLoss
                | Code::FailedPrecondition
                | Code::InvalidArgument
                | Code::PermissionDenied
        ),
        Broken::NoAddress(_) | Broken::Snapshot(_) => false,
    }
}

/// Sends what the receiver does not have yet, over one connection.
async fn attempt(
    shared: &Arc<Shared>,
    store: u64,
    message: &PeerMessage,
    manifest: &SnapshotManifest,
    progress: &mut Progress,
) -> Result<(), Broken> {
    let key = SnapshotKey::outgoing(manifest);
    let channel = connect(shared, store).await.inspect_err(|_| {
        shared.parts.book.doubt(store);
    })?;
    let (parts, body) = mpsc::channel(CHUNKS_AHEAD);
    let offer = SnapshotRequest {
        hello: Some(shared.hello(store)),
        message: Some(message.clone()),
        chunk: None,
    };
    // There is room, and the other half is here.
    let _ = parts.try_send(offer);
    let mut stub = PeersClient::new(channel);
    let call = stub.snapshot(ReceiverStream::new(body));
    let mut answers = in_time(call).await?.into_inner();
    let held = answer(&mut answers, false).await?.held;
    progress.accepted = true;
    for file in &manifest.files {
        let has = held.iter().find(|held| held.cf == file.cf);
        let from = has.map_or(0, |held| held.bytes);
        tokio::select! {
            // Nothing is said before the end, but that it does not go on.
            early = answers.message() => {
                early?;
                return Err(Broken::Ended("it ended before it had all"));
            }
            sent = send_file(shared, key, file, from, &parts, &mut progress.bytes) => sent?,
        }
    }
    drop(parts);
    answer(&mut answers, true).await.map(|_| ())
}

async fn send_file(
    shared: &Arc<Shared>,
    key: SnapshotKey,
    file: &SnapshotFile,
    from: u64,
    parts: &mpsc::Sender<SnapshotRequest>,
    sent: &mut u64,
) -> Result<(), Broken> {
    let cf = file.cf();
    let mut offset = from;
    while offset < file.bytes {
        let chunk = read(shared, key, cf, offset).await?;
        let length = chunk.data.len() as u64;
        if length == 0 {
            return Err(Broken::Snapshot(format!("{key}: {cf:?} is cut short")));
        }
        shared.bandwidth.take(length).await;
        offset += length;
        let request = SnapshotRequest {
            hello: None,
            message: None,
            chunk: Some(chunk),
        };
        let stuck = |_| Broken::Ended("it takes no more");
        if timeout(ANSWER_WAIT, parts.send(request))
            .await
            .map_err(stuck)?
            .is_err()
        {
            // Its answer says why, and is being waited for.
            return std::future::pending().await;
        }
        shared.parts.metrics.snapshot_bytes.increment(length);
        *sent += length;
    }
    Ok(())
}

async fn read(
    shared: &Arc<Shared>,
    key: SnapshotKey,
    cf: Cf,
    offset: u64,
) -> Result<SnapshotChunk, Broken> {
    let files = Arc::clone(&shared.parts.files);
    let read = tokio::task::spawn_blocking(move || {
        let data = files.read_chunk(&key, cf, offset, CHUNK_BYTES)?;
        let crc = crc32c::crc32c(&data);
        Ok::<_, flotilla_engine::SnapshotError>((data, crc))
    });
    let read = read
        .await
        .map_err(|_| Broken::Ended("the node is stopping"))?;
    let (data, crc) = read.map_err(|error| Broken::Snapshot(error.to_string()))?;
    let cf = cf.into();
    Ok(SnapshotChunk {
        cf,
        offset,
        data,
        crc,
    })
}

/// Waits for the answer that says `received`.
async fn answer(
    answers: &mut Streaming<SnapshotResponse>,
    received: bool,
) -> Result<SnapshotResponse, Broken> {
    match in_time(answers.message()).await? {
        Some(answer) if answer.received == received => Ok(answer),
        Some(_) => Err(Broken::Ended("it answers out of turn")),
        None => Err(Broken::Ended("it closed the stream")),
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T, tonic::Status>>) -> Result<T, Broken> {
    let late = |_| Broken::Ended("it does not answer");
    Ok(timeout(ANSWER_WAIT, call).await.map_err(late)??)
}
