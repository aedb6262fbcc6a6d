//! Whether another node has the same identity: its data folder was copied, and both run.

use std::time::Duration;

use flotilla_engine::StoreIds;
use flotilla_proto::raft::peers_client::PeersClient;
use flotilla_proto::raft::{Hello, MessagesRequest};
use flotilla_tls::Dial;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::Code;

use super::{VERSION, endpoint};

/// How long the node at the other address may take to say who it is.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// The refusal of a node that is the very store that calls.
pub(super) const SAME_STORE: Code = Code::AlreadyExists;

/// Whether the node at `address` is the store of `ids`. One that does not answer is not.
pub(crate) async fn lives_at(address: &str, ids: StoreIds, dial: &Dial) -> bool {
    let asking = async {
        let channel = dial.connect(&endpoint(address, dial).ok()?).await.ok()?;
        let hello = MessagesRequest {
            hello: Some(Hello {
                version: VERSION,
                cluster_id: ids.cluster_id,
                from_store: ids.store_id,
                to_store: ids.store_id,
                address: String::new(),
            }),
            messages: Vec::new(),
        };
        let stream = tokio_stream::once(hello).chain(tokio_stream::pending());
        PeersClient::new(channel).messages(stream).await.err()
    };
    let answer = timeout(ANSWER_WAIT, asking).await;
    matches!(answer, Ok(Some(status)) if status.code() == SAME_STORE)
}
