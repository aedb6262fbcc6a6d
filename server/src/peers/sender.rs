//! What goes to one store: a stream of bulk messages, made again when it breaks.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::raft::MessagesRequest;
use flotilla_proto::raft::peers_client::PeersClient;
use flotilla_raftstore::PeerInput;
use flotilla_raftstore::effects::Outbound;
use flotilla_router::{Lane, Routed};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::pace::Backoff;
use super::{Broken, HELLO_TIMEOUT, Shared, connect};

/// Bytes of a bulk message; one that is larger goes alone.
const BULK_BYTES: u64 = 1 << 20;
/// Bulk messages between the queues and the socket. More would only take messages away from where
/// they are coalesced and bounded.
const BULKS_AHEAD: usize = 2;

/// Sends to one store.
pub(super) struct Sender {
    shared: Arc<Shared>,
    store: u64,
    messages: Arc<Notify>,
    snapshots: Arc<Notify>,
    /// The store has opened a stream to us.
    called: Arc<Notify>,
}

impl Sender {
    /// A sender that is told when something waits.
    pub(super) fn new(shared: Arc<Shared>, store: u64) -> Self {
        let sender = Self {
            called: shared.called(store),
            shared,
            store,
            messages: Arc::default(),
            snapshots: Arc::default(),
        };
        let (messages, snapshots) = (sender.messages.clone(), sender.snapshots.clone());
        let ready = move |lane| match lane {
            Lane::Snapshot => snapshots.notify_one(),
            Lane::Control | Lane::Append => messages.notify_one(),
        };
        let outgoing = sender.shared.parts.machines.outgoing();
        outgoing.on_ready(store, Arc::new(ready));
        sender
    }

    /// Sends until it is dropped.
    pub(super) async fn run(self) {
        let snapshots = super::outbound::run(&self.shared, self.store, &self.snapshots);
        tokio::join!(self.send_messages(), snapshots);
    }

    async fn send_messages(&self) {
        let metrics = &self.shared.parts.metrics;
        let mut backoff = Backoff::new();
        let mut told = String::new();
        loop {
            self.messages.notified().await;
            // What woke us is taken once there is a stream.
            let broken = self.stream(&mut backoff, &mut told).await;
            metrics.reconnects.increment(1);
            self.shared.parts.book.doubt(self.store);
            let why = broken.to_string();
            if why != told {
                tracing::warn!(store = self.store, why, "cannot send to a store");
                told = why;
            }
            tokio::select! {
                () = self.drop_for(backoff.next()) => {}
                // It may have just come back: an election must not wait for the rest of a long pause. What
                // waits has told us so already, and does not again.
                () = self.called.notified() => {
                    backoff.reset();
                    self.messages.notify_one();
                }
            }
        }
    }

    /// Connects, and sends what comes until that breaks.
    async fn stream(&self, backoff: &mut Backoff, told: &mut String) -> Broken {
        match self.try_stream(backoff, told).await {
            Ok(never) => match never {},
            Err(broken) => broken,
        }
    }

    async fn try_stream(
        &self,
        backoff: &mut Backoff,
        told: &mut String,
    ) -> Result<std::convert::Infallible, Broken> {
        let channel = connect(&self.shared, self.store).await?;
        let (bulks, body) = mpsc::channel(BULKS_AHEAD);
        let hello = MessagesRequest {
            hello: Some(self.shared.hello(self.store)),
            messages: Vec::new(),
        };
        // There is room, and the other half is here.
        let _ = bulks.try_send(hello);
        let mut stub = PeersClient::new(channel);
        let greeting = async {
            let answers = stub.messages(ReceiverStream::new(body)).await?;
            let mut answers = answers.into_inner();
            answers.message().await.map(|first| (first, answers))
        };
        let late = |_| Broken::Ended("it does not answer to a new stream");
        let (first, mut answers) = timeout(HELLO_TIMEOUT, greeting).await.map_err(late)??;
        first.ok_or(Broken::Ended("it closed a new stream"))?;
        backoff.reset();
        if !told.is_empty() {
            tracing::info!(store = self.store, "sending to a store again");
            told.clear();
        }
        let mut ended = pin!(answers.message());
        loop {
            // Room first: what is not on its way stays in the queues.
            let room = tokio::select! {
                ended = &mut ended => return Err(end_of(ended)),
                room = bulks.reserve() => room.map_err(|_| Broken::Ended("the stream broke"))?,
            };
            let bulk = self.take_bulk();
            if bulk.is_empty() {
                drop(room);
                tokio::select! {
                    ended = &mut ended => return Err(end_of(ended)),
                    () = self.messages.notified() => continue,
                }
            }
            let messages = bulk.into_iter().map(|outbound| outbound.message).collect();
            room.send(MessagesRequest {
                hello: None,
                messages,
            });
        }
    }

    /// What waits, the urgent first, and as much of it as one bulk message holds.
    fn take_bulk(&self) -> Vec<Outbound> {
        let parts = &self.shared.parts;
        let outgoing = parts.machines.outgoing();
        let mut bulk = outgoing.drain(self.store, Lane::Control, BULK_BYTES);
        let bytes = |bulk: &[Outbound]| bulk.iter().map(Routed::bytes).sum::<u64>();
        let left = BULK_BYTES.saturating_sub(bytes(&bulk));
        if left > 0 {
            bulk.extend(outgoing.drain(self.store, Lane::Append, left));
        }
        if !bulk.is_empty() {
            #[expect(clippy::cast_precision_loss, reason = "a sample")]
            parts.metrics.bulk_messages.record(bulk.len() as f64);
            parts.metrics.sent_bytes.increment(bytes(&bulk));
        }
        bulk
    }

    /// Drops what waits, and what comes in the next `pause`: it would be old when it arrives.
    async fn drop_for(&self, pause: Duration) {
        let mut end = pin!(tokio::time::sleep(pause));
        loop {
            self.drop_waiting();
            tokio::select! {
                () = &mut end => return,
                () = self.messages.notified() => {}
            }
        }
    }

    fn drop_waiting(&self) {
        let parts = &self.shared.parts;
        let mut concerned = BTreeSet::new();
        loop {
            let bulk = self.take_dropped();
            if bulk.is_empty() {
                break;
            }
            parts.metrics.dropped.increment(bulk.len() as u64);
            let peers = bulk.iter().filter_map(|outbound| {
                let to = outbound.message.to_peer.as_ref()?;
                Some((outbound.message.region_id, to.id))
            });
            concerned.extend(peers);
        }
        for (region, peer) in concerned {
            parts
                .machines
                .to_peer(region, PeerInput::Unreachable { peer });
        }
    }

    fn take_dropped(&self) -> Vec<Outbound> {
        let outgoing = self.shared.parts.machines.outgoing();
        let mut bulk = outgoing.drain(self.store, Lane::Control, u64::MAX);
        bulk.extend(outgoing.drain(self.store, Lane::Append, u64::MAX));
        bulk
    }
}

fn end_of<T>(ended: Result<Option<T>, tonic::Status>) -> Broken {
    match ended {
        Err(status) => Broken::Refused(status),
        Ok(_) => Broken::Ended("it closed the stream"),
    }
}
