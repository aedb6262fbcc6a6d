//! The calls, against members in memory.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tonic::{
    Response, Status,
    body::Body,
    codegen::{BoxFuture, Service},
    server::{Grpc as Server, NamedService, UnaryService},
    transport::server::TcpIncoming,
};

use super::*;

const MEMBER_ID: u64 = 7;

/// What a member holds; which member leads.
#[derive(Clone, Default)]
struct Member {
    leader: u64,
    pairs: Arc<Mutex<BTreeMap<Bytes, Bytes>>>,
}

/// A call, by what answers it.
struct Unary<F>(F);

impl<F, Q, A> UnaryService<Q> for Unary<F>
where
    F: FnMut(Q) -> A,
{
    type Response = A;
    type Future = Ready<Result<Response<A>, Status>>;

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        ready(Ok(Response::new((self.0)(request.into_inner()))))
    }
}

impl Member {
    async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        match request.uri().path() {
            "/etcdserverpb.KV/Put" => {
                let put = |PutRequest { key, value }| {
                    self.pairs.lock().insert(key, value);
                    PutResponse {}
                };
                Server::new(ProstCodec::default())
                    .unary(Unary(put), request)
                    .await
            }
            "/etcdserverpb.KV/Range" => {
                let range = |RangeRequest { key }| {
                    let found = self.pairs.lock().get(&key).cloned();
                    let kvs = found.into_iter().map(|value| KeyValue { value });
                    RangeResponse { kvs: kvs.collect() }
                };
                Server::new(ProstCodec::default())
                    .unary(Unary(range), request)
                    .await
            }
            "/etcdserverpb.Maintenance/Status" => {
                let status = |StatusRequest {}| StatusResponse {
                    header: Some(ResponseHeader {
                        member_id: MEMBER_ID,
                    }),
                    leader: self.leader,
                };
                Server::new(ProstCodec::default())
                    .unary(Unary(status), request)
                    .await
            }
            other => panic!("nobody asks for {other}"),
        }
    }
}

/// One of a member's services.
#[derive(Clone)]
struct Served<const KV: bool>(Member);

impl NamedService for Served<true> {
    const NAME: &'static str = "etcdserverpb.KV";
}

impl NamedService for Served<false> {
    const NAME: &'static str = "etcdserverpb.Maintenance";
}

impl<const KV: bool> Service<http::Request<Body>> for Served<KV> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let member = self.0.clone();
        Box::pin(async move { Ok(member.answer(request).await) })
    }
}

/// A member's address; it ends with the test's runtime.
async fn start(leader: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let member = Member {
        leader,
        ..Default::default()
    };
    let serving = tonic::transport::Server::builder()
        .add_service(Served::<true>(member.clone()))
        .add_service(Served::<false>(member))
        .serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(serving);
    address
}

#[tokio::test]
async fn what_is_put_at_the_leader_is_there() {
    let members = [start(8).await, start(MEMBER_ID).await];
    let etcd = Etcd::connect(&members, 2).await.unwrap();
    let (key, value) = (Bytes::from("k"), Bytes::from("four"));
    assert_eq!(etcd.get(0, key.clone()).await, Ok(None));
    etcd.put(1, key.clone(), value).await.unwrap();
    assert_eq!(etcd.get(2, key).await, Ok(Some(4)));
}

#[tokio::test]
async fn members_without_a_leader_are_no_cluster() {
    let members = [start(0).await];
    let error = Etcd::connect(&members, 1).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "Maintenance.Status: the answer has no leader among the members of --etcd"
    );
}
