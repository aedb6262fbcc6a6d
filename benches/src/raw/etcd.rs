//! The two calls of etcd's key-value service that a comparison needs, to the member that leads.
//!
//! A get is a `Range` of one key, linearizable as it is by default; a put is a `Put`. Both go straight
//! to the leader, which spares etcd the way between members.

use bytes::Bytes;
use flotilla_tls::Dial;
use http::uri::PathAndQuery;
use tonic::{Request, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

use super::cluster::{ClusterError, dial};
use crate::measure::{Failure, grpc_failure};

/// Answers up to the longest value, with room around it.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    /// The member that leads; 0 while none does.
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

/// Connections to the leader of an etcd cluster.
#[derive(Clone, Debug)]
pub(super) struct Etcd {
    connections: Vec<Channel>,
}

impl Etcd {
    /// Finds the leader among these members.
    ///
    /// # Errors
    ///
    /// When none of them answers, or none of those that do leads.
    pub(super) async fn connect(
        addresses: &[String],
        connections: usize,
    ) -> Result<Self, ClusterError> {
        let mut last = None;
        for address in addresses {
            match leads(address).await {
                Ok(true) => {
                    let mut leader = Vec::with_capacity(connections);
                    for _ in 0..connections {
                        leader.push(dial(address, &Dial::PLAIN).await?);
                    }
                    return Ok(Self {
                        connections: leader,
                    });
                }
                Ok(false) => {}
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or(ClusterError::Incomplete {
            rpc: "Maintenance.Status",
            missing: "leader among the members of --etcd",
        }))
    }

    /// The length of a key's value, if there is one.
    pub(super) async fn get(&self, number: usize, key: Bytes) -> Result<Option<usize>, Failure> {
        let request = RangeRequest { key };
        let answer: RangeResponse = self.call(number, "/etcdserverpb.KV/Range", request).await?;
        Ok(answer.kvs.first().map(|pair| pair.value.len()))
    }

    /// Writes a key.
    pub(super) async fn put(&self, number: usize, key: Bytes, value: Bytes) -> Result<(), Failure> {
        let request = PutRequest { key, value };
        let PutResponse {} = self.call(number, "/etcdserverpb.KV/Put", request).await?;
        Ok(())
    }

    async fn call<Q, A>(&self, number: usize, path: &'static str, request: Q) -> Result<A, Failure>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let connection = self.connections[number % self.connections.len()].clone();
        let answer = unary(connection, path, request).await;
        answer.map_err(|status| grpc_failure(status.code(), status.message()))
    }
}

async fn leads(address: &str) -> Result<bool, ClusterError> {
    const RPC: &str = "Maintenance.Status";
    let channel = dial(address, &Dial::PLAIN).await?;
    let answer = unary(
        channel,
        "/etcdserverpb.Maintenance/Status",
        StatusRequest {},
    )
    .await;
    let answer: StatusResponse = answer.map_err(|status| ClusterError::Rpc {
        rpc: RPC,
        status: Box::new(status),
    })?;
    let header = answer.header.ok_or(ClusterError::Incomplete {
        rpc: RPC,
        missing: "header",
    })?;
    Ok(answer.leader != 0 && answer.leader == header.member_id)
}

async fn unary<Q, A>(channel: Channel, path: &'static str, request: Q) -> Result<A, tonic::Status>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    grpc.ready()
        .await
        .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static(path);
    let codec = ProstCodec::<Q, A>::default();
    let response = grpc.unary(Request::new(request), path, codec).await?;
    Ok(response.into_inner())
}

#[cfg(test)]
#[path = "etcd_tests.rs"]
mod tests;
