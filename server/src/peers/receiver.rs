//! What other stores send: who they are is checked once per stream, and holds for all of it.

use std::sync::Arc;

use flotilla_proto::raft::peers_server::Peers;
use flotilla_proto::raft::{
    Hello, MessagesRequest, MessagesResponse, SnapshotRequest, SnapshotResponse,
};
use flotilla_proto::store::PeerMessage;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::inbound::Feed;
use super::twin::SAME_STORE;
use super::{HELLO_TIMEOUT, Shared, Transport, VERSION, VERSION_MIN, inbound};
use crate::net::Call;
use crate::rpc::Stopping;

/// The service.
#[derive(Clone)]
pub struct Receiver {
    shared: Arc<Shared>,
    stopping: Stopping,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}

impl Receiver {
    /// The service that hands over to the machines of `transport`.
    pub fn new(transport: &Transport, stopping: Stopping) -> Self {
        Self {
            shared: Arc::clone(&transport.0),
            stopping,
        }
    }

    /// The store that calls, if it is one that may.
    async fn caller(&self, hello: Option<Hello>) -> Result<u64, Status> {
        let ids = self.shared.parts.ids;
        let mut hello = hello.ok_or_else(|| Status::invalid_argument("the stream has no hello"))?;
        let address = std::mem::take(&mut hello.address);
        let refused = |code: Code, why: String| {
            tracing::warn!(from_store = hello.from_store, why, "refused another store");
            self.shared.parts.metrics.refused.increment(1);
            Err(Status::new(code, why))
        };
        let refuse = |why: String| refused(Code::FailedPrecondition, why);
        if hello.version > VERSION {
            return refuse(format!(
                "version {} of the protocol between stores is newer than this node's ({VERSION}): update this node",
                hello.version
            ));
        }
        if hello.version < VERSION_MIN {
            return refuse(format!(
                "version {} of the protocol between stores is older than this node takes ({VERSION_MIN}): update that node",
                hello.version
            ));
        }
        if hello.cluster_id != ids.cluster_id {
            return refuse(format!(
                "this store belongs to cluster {}, not to cluster {}",
                ids.cluster_id, hello.cluster_id
            ));
        }
        if hello.to_store != ids.store_id {
            return refuse(format!(
                "store {} lives here, not store {}",
                ids.store_id, hello.to_store
            ));
        }
        if hello.from_store == ids.store_id {
            let why = format!(
                "another node says that it is store {} as well: was its data folder copied?",
                ids.store_id
            );
            return refused(SAME_STORE, why);
        }
        // PD that cannot be asked may need this very stream to come back, and one the other way.
        if self.shared.parts.book.is_member(hello.from_store).await == Some(false) {
            return refuse(format!(
                "PD knows no store {}, or it was removed",
                hello.from_store
            ));
        }
        self.shared.parts.book.heard(hello.from_store, address);
        Ok(hello.from_store)
    }
}

/// Whether a message is what the store at the other end may say to the one here.
pub(super) fn is_of(message: &PeerMessage, from: u64, to: u64) -> bool {
    let store = |peer: &Option<flotilla_proto::metapb::Peer>| peer.as_ref().map(|p| p.store_id);
    store(&message.from_peer) == Some(from) && store(&message.to_peer) == Some(to)
}

/// The first message of a stream.
async fn first<M>(incoming: &mut Streaming<M>) -> Result<M, Status> {
    let late = |_| Status::deadline_exceeded("the stream did not begin in time");
    let first = timeout(HELLO_TIMEOUT, incoming.message())
        .await
        .map_err(late)??;
    first.ok_or_else(|| Status::invalid_argument("the stream is empty"))
}

#[tonic::async_trait]
impl Peers for Receiver {
    async fn messages(
        &self,
        request: Request<Streaming<MessagesRequest>>,
    ) -> Result<Response<BoxStream<MessagesResponse>>, Status> {
        let call = request.extensions().get::<Call>().cloned();
        let mut incoming = request.into_inner();
        let from = self.caller(first(&mut incoming).await?.hello).await?;
        self.shared.called(from).notify_one();
        let (shared, mut stopping) = (Arc::clone(&self.shared), self.stopping.clone());
        let (tell, told) = mpsc::channel(1);
        tokio::spawn(async move {
            let end = loop {
                let message = tokio::select! {
                    () = stopping.wait() => break Some(Stopping::status()),
                    message = incoming.message() => message,
                };
                let _held = call.as_ref().map(Call::message);
                match message {
                    Ok(Some(bulk)) => take(&shared, from, bulk),
                    Ok(None) | Err(_) => break None,
                }
            };
            if let Some(status) = end {
                // Whoever sent may have gone.
                let _ = tell.send(Err(status)).await;
            }
        });
        let welcome = tokio_stream::once(Ok(MessagesResponse {}));
        let answers = welcome.chain(ReceiverStream::new(told));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<SnapshotRequest>>,
    ) -> Result<Response<BoxStream<SnapshotResponse>>, Status> {
        let call = request.extensions().get::<Call>().cloned();
        let mut incoming = request.into_inner();
        let offer = first(&mut incoming).await?;
        let from = self.caller(offer.hello).await?;
        let own = self.shared.parts.ids.store_id;
        let message = offer.message.filter(|message| is_of(message, from, own));
        let message =
            message.ok_or_else(|| Status::invalid_argument("no message of the calling store"))?;
        let (tell, told) = mpsc::channel(2);
        // A task of its own: what is owed for a snapshot is done whoever stops listening.
        let feed = Feed {
            incoming,
            call,
            tell,
        };
        let taking = inbound::take(Arc::clone(&self.shared), message, feed);
        let mut stopping = self.stopping.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = taking => {}
                () = stopping.wait() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(told))))
    }
}

/// Hands a bulk message to the machines.
fn take(shared: &Shared, from: u64, bulk: MessagesRequest) {
    let parts = &shared.parts;
    parts.metrics.received.increment(bulk.messages.len() as u64);
    for message in bulk.messages {
        if is_of(&message, from, parts.ids.store_id) {
            parts.machines.receive(message);
        } else {
            parts.metrics.misattributed.increment(1);
        }
    }
}
