//! The connection to PD, against small PDs on the loop-back: who is asked, when it is asked again,
//! what its errors become.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flotilla_pd_client::{ClientConfig, PdClient, PdError};
use flotilla_proto::keyspacepb::keyspace_server::{Keyspace, KeyspaceServer};
use flotilla_proto::keyspacepb::{KeyspaceMeta, LoadKeyspaceRequest, LoadKeyspaceResponse};
use flotilla_proto::metapb::{Peer, Region, Store};
use flotilla_proto::pdpb::pd_server::{Pd, PdServer};
use flotilla_proto::pdpb::{self, ErrorType, Member, ResponseHeader};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};

const CLUSTER: u64 = 7;

/// What all members of the mock cluster share.
#[derive(Debug, Default)]
struct Shared {
    /// Addresses of the members; the first leads.
    members: Mutex<Vec<SocketAddr>>,
    ids: AtomicU64,
    /// Members that were asked for an id, in order.
    asked: Mutex<Vec<SocketAddr>>,
    /// What the next heartbeat streams tell their stores when they are opened.
    orders: Mutex<Vec<Vec<pdpb::RegionHeartbeatResponse>>>,
    heartbeats: Mutex<Vec<u64>>,
}

#[derive(Clone, Debug)]
struct Mock {
    shared: Arc<Shared>,
    own: SocketAddr,
    cluster_id: u64,
}

/// A member with a runtime of its own: stopping it closes its connections, as killing a process
/// does.
struct Running {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Running {
    fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

async fn start(shared: &Arc<Shared>, cluster_id: u64) -> Running {
    let shared = Arc::clone(shared);
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let bound = runtime.spawn(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap();
        let mock = Mock {
            shared,
            own,
            cluster_id,
        };
        let service = Server::builder()
            .add_service(PdServer::new(mock.clone()))
            .add_service(KeyspaceServer::new(mock))
            .serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(service);
        own
    });
    Running {
        address: bound.await.unwrap(),
        runtime: Some(runtime),
    }
}

fn header(cluster_id: u64, error: Option<(ErrorType, &str)>) -> Option<ResponseHeader> {
    let error = error.map(|(kind, message)| pdpb::Error {
        r#type: kind as i32,
        message: message.to_owned(),
    });
    Some(ResponseHeader { cluster_id, error })
}

impl Mock {
    /// The calls of this mock refuse every cluster but its own.
    fn check(&self, header: Option<&pdpb::RequestHeader>) -> Result<(), Status> {
        let got = header.map_or(0, |header| header.cluster_id);
        if got == self.cluster_id {
            Ok(())
        } else {
            Err(Status::failed_precondition("mismatch cluster id"))
        }
    }
}

#[tonic::async_trait]
impl Pd for Mock {
    async fn get_members(
        &self,
        _: Request<pdpb::GetMembersRequest>,
    ) -> Result<Response<pdpb::GetMembersResponse>, Status> {
        let known = self.shared.members.lock().unwrap().clone();
        let member = |address: &SocketAddr| Member {
            member_id: u64::from(address.port()),
            client_urls: vec![format!("http://{address}")],
            ..Member::default()
        };
        let members: Vec<Member> = known.iter().map(member).collect();
        Ok(Response::new(pdpb::GetMembersResponse {
            header: header(self.cluster_id, None),
            leader: members.first().cloned(),
            members,
            ..Default::default()
        }))
    }

    async fn alloc_id(
        &self,
        request: Request<pdpb::AllocIdRequest>,
    ) -> Result<Response<pdpb::AllocIdResponse>, Status> {
        let request = request.into_inner();
        self.check(request.header.as_ref())?;
        self.shared.asked.lock().unwrap().push(self.own);
        if self.shared.members.lock().unwrap().first() != Some(&self.own) {
            return Err(Status::unavailable("not leader"));
        }
        let count = u64::from(request.count);
        let id = self.shared.ids.fetch_add(count, Ordering::SeqCst) + count;
        Ok(Response::new(pdpb::AllocIdResponse {
            header: header(self.cluster_id, None),
            id,
            count: request.count,
        }))
    }

    async fn put_store(
        &self,
        request: Request<pdpb::PutStoreRequest>,
    ) -> Result<Response<pdpb::PutStoreResponse>, Status> {
        let store = request.into_inner().store.unwrap_or_default();
        let error = match store.id {
            4 => Some((ErrorType::StoreTombstone, "store 4 is a tombstone")),
            _ => None,
        };
        Ok(Response::new(pdpb::PutStoreResponse {
            header: header(self.cluster_id, error),
            ..Default::default()
        }))
    }

    async fn get_store(
        &self,
        request: Request<pdpb::GetStoreRequest>,
    ) -> Result<Response<pdpb::GetStoreResponse>, Status> {
        let store_id = request.into_inner().store_id;
        let found = Store {
            id: store_id,
            ..Store::default()
        };
        Ok(Response::new(pdpb::GetStoreResponse {
            // Store 9 has no header, store 8 no content: answers that break the protocol.
            header: if store_id == 9 {
                None
            } else {
                header(self.cluster_id, None)
            },
            store: (store_id != 8).then_some(found),
            ..Default::default()
        }))
    }

    async fn ask_batch_split(
        &self,
        request: Request<pdpb::AskBatchSplitRequest>,
    ) -> Result<Response<pdpb::AskBatchSplitResponse>, Status> {
        let ask = request.into_inner();
        let peers = ask.region.unwrap_or_default().peers.len() as u64;
        let id = |nth: u64| pdpb::SplitId {
            new_region_id: 100 * (nth + 1),
            new_peer_ids: (1..=peers).collect(),
        };
        // It never gives more than two.
        let given = u64::from(ask.split_count.min(2));
        Ok(Response::new(pdpb::AskBatchSplitResponse {
            header: header(self.cluster_id, None),
            ids: (0..given).map(id).collect(),
        }))
    }

    async fn get_region(
        &self,
        request: Request<pdpb::GetRegionRequest>,
    ) -> Result<Response<pdpb::GetRegionResponse>, Status> {
        let key = request.into_inner().region_key;
        let region = Region {
            id: 3,
            ..Region::default()
        };
        Ok(Response::new(pdpb::GetRegionResponse {
            header: header(self.cluster_id, None),
            region: (key != "hole").then_some(region),
            leader: Some(Peer::default()),
            ..Default::default()
        }))
    }

    async fn tso(
        &self,
        request: Request<Streaming<pdpb::TsoRequest>>,
    ) -> Result<Response<BoxStream<pdpb::TsoResponse>>, Status> {
        let mut incoming = request.into_inner();
        let (tell, told) = mpsc::channel(1);
        let header = header(self.cluster_id, None);
        tokio::spawn(async move {
            while let Ok(Some(request)) = incoming.message().await {
                // A batch of 13 wraps.
                let logical = if request.count == 13 {
                    5
                } else {
                    i64::from(request.count) + 10
                };
                let answer = pdpb::TsoResponse {
                    header: header.clone(),
                    count: request.count,
                    timestamp: Some(pdpb::Timestamp {
                        physical: 1_000,
                        logical,
                        suffix_bits: 0,
                    }),
                };
                if tell.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(told))))
    }

    async fn region_heartbeat(
        &self,
        request: Request<Streaming<pdpb::RegionHeartbeatRequest>>,
    ) -> Result<Response<BoxStream<pdpb::RegionHeartbeatResponse>>, Status> {
        let mut incoming = request.into_inner();
        let (tell, told) = mpsc::channel(8);
        let orders = self.shared.orders.lock().unwrap().pop();
        let mock = self.clone();
        tokio::spawn(async move {
            for order in orders.into_iter().flatten() {
                tell.send(Ok(order)).await.expect("the client listens");
            }
            while let Ok(Some(heartbeat)) = incoming.message().await {
                if let Err(status) = mock.check(heartbeat.header.as_ref()) {
                    let _ = tell.send(Err(status)).await;
                    return;
                }
                let region = heartbeat.region.unwrap_or_default();
                mock.shared.heartbeats.lock().unwrap().push(region.id);
                let answer = pdpb::RegionHeartbeatResponse {
                    header: header(mock.cluster_id, None),
                    region_id: region.id,
                    ..Default::default()
                };
                if tell.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(told))))
    }

    async fn load_global_config(
        &self,
        request: Request<pdpb::LoadGlobalConfigRequest>,
    ) -> Result<Response<pdpb::LoadGlobalConfigResponse>, Status> {
        let request = request.into_inner();
        let items = request
            .names
            .into_iter()
            .map(|name| pdpb::GlobalConfigItem {
                error: (name != "key-mode").then(|| pdpb::Error {
                    r#type: ErrorType::GlobalConfigNotFound as i32,
                    message: "no such item".to_owned(),
                }),
                value: "plain".to_owned(),
                name,
                ..Default::default()
            });
        Ok(Response::new(pdpb::LoadGlobalConfigResponse {
            items: items.collect(),
            revision: 0,
        }))
    }

    async fn store_global_config(
        &self,
        request: Request<pdpb::StoreGlobalConfigRequest>,
    ) -> Result<Response<pdpb::StoreGlobalConfigResponse>, Status> {
        let value = request.into_inner().changes[0].payload.clone();
        let error = (value != "plain").then(|| pdpb::Error {
            r#type: ErrorType::InvalidValue as i32,
            message: "it is plain".to_owned(),
        });
        Ok(Response::new(pdpb::StoreGlobalConfigResponse { error }))
    }
}

#[tonic::async_trait]
impl Keyspace for Mock {
    async fn load_keyspace(
        &self,
        request: Request<LoadKeyspaceRequest>,
    ) -> Result<Response<LoadKeyspaceResponse>, Status> {
        let name = request.into_inner().name;
        let found = name == "DEFAULT";
        let error = (!found).then_some((ErrorType::EntryNotFound, "not found"));
        Ok(Response::new(LoadKeyspaceResponse {
            header: header(self.cluster_id, error),
            keyspace: found.then(|| KeyspaceMeta {
                name,
                ..Default::default()
            }),
        }))
    }
}

fn config(endpoints: &[SocketAddr]) -> ClientConfig {
    ClientConfig {
        backoff_first: Duration::from_millis(5),
        ..ClientConfig::new(endpoints.iter().map(ToString::to_string).collect())
    }
}

/// One member that leads, and a client of it.
async fn pair() -> (Arc<Shared>, Running, PdClient) {
    let shared = Arc::new(Shared::default());
    let member = start(&shared, CLUSTER).await;
    shared.members.lock().unwrap().push(member.address);
    let client = PdClient::new(config(&[member.address])).unwrap();
    (shared, member, client)
}

/// An address where nobody listens.
async fn dead() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test]
async fn endpoints_must_be_addresses() {
    for endpoints in [vec![], vec!["".to_owned()], vec!["a b".to_owned()]] {
        let error = PdClient::new(ClientConfig::new(endpoints)).unwrap_err();
        assert!(matches!(error, PdError::Endpoint { .. }), "{error}");
    }
}

#[tokio::test]
async fn any_living_endpoint_leads_to_the_leader() {
    let shared = Arc::new(Shared::default());
    let (leader, follower) = (start(&shared, CLUSTER).await, start(&shared, CLUSTER).await);
    shared
        .members
        .lock()
        .unwrap()
        .extend([leader.address, follower.address]);
    let client = PdClient::new(config(&[dead().await, follower.address])).unwrap();
    assert_eq!(client.cluster_id().await, Ok(CLUSTER));
    assert_eq!(client.alloc_id(3).await, Ok(1..=3));
    assert_eq!(client.alloc_id(0).await, Ok(4..=4));
    assert_eq!(*shared.asked.lock().unwrap(), [leader.address; 2]);
}

#[tokio::test]
async fn another_member_takes_over_when_the_leader_dies() {
    let shared = Arc::new(Shared::default());
    let (first, second) = (start(&shared, CLUSTER).await, start(&shared, CLUSTER).await);
    shared
        .members
        .lock()
        .unwrap()
        .extend([first.address, second.address]);
    // Only the first one is configured: the second is learnt.
    let client = PdClient::new(config(&[first.address])).unwrap();
    assert_eq!(client.alloc_id(1).await, Ok(1..=1));
    shared.members.lock().unwrap().remove(0);
    first.stop();
    assert_eq!(client.alloc_id(1).await, Ok(2..=2));
    assert_eq!(shared.asked.lock().unwrap().last(), Some(&second.address));
}

/// The leader moved, and the old one still answers, with "not leader".
#[tokio::test]
async fn a_member_that_leads_no_more_is_left() {
    let shared = Arc::new(Shared::default());
    let (old, new) = (start(&shared, CLUSTER).await, start(&shared, CLUSTER).await);
    shared
        .members
        .lock()
        .unwrap()
        .extend([old.address, new.address]);
    let client = PdClient::new(config(&[old.address])).unwrap();
    client.alloc_id(1).await.unwrap();
    shared.members.lock().unwrap().swap(0, 1);
    assert_eq!(client.alloc_id(1).await, Ok(2..=2));
    let asked = shared.asked.lock().unwrap().clone();
    assert_eq!(asked, [old.address, old.address, new.address]);
}

#[tokio::test]
async fn nobody_there_is_said_after_a_while_with_the_addresses() {
    let (one, two) = (dead().await, dead().await);
    let client = PdClient::new(ClientConfig {
        give_up_after: Duration::from_millis(100),
        ..config(&[one, two])
    })
    .unwrap();
    match client.get_all_stores(false).await {
        Err(PdError::Unreachable {
            call, endpoints, ..
        }) => {
            assert_eq!(call, "GetAllStores");
            assert_eq!(
                endpoints,
                [format!("http://{one}"), format!("http://{two}")]
            );
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_pd_of_another_cluster_is_refused_at_once() {
    let shared = Arc::new(Shared::default());
    let foreign = start(&shared, 8).await;
    let client = PdClient::new(ClientConfig {
        cluster_id: Some(CLUSTER),
        ..config(&[foreign.address])
    })
    .unwrap();
    let error = client.alloc_id(1).await.unwrap_err();
    assert_eq!(
        error,
        PdError::OtherCluster {
            endpoint: format!("http://{}", foreign.address),
            expected: CLUSTER,
            found: 8,
        }
    );
}

#[tokio::test]
async fn errors_come_by_kind() {
    let (_shared, _member, client) = pair().await;
    let store = |id| Store {
        id,
        ..Store::default()
    };
    assert_eq!(client.put_store(store(1)).await, Ok(()));
    let buried = client.put_store(store(4)).await.unwrap_err();
    assert_eq!(buried.kind(), Some(ErrorType::StoreTombstone));
    assert_eq!(
        buried.to_string(),
        "PutStore: PD refused (STORE_TOMBSTONE): store 4 is a tombstone"
    );
    assert_eq!(client.get_store(1).await.unwrap().0, store(1));
    for (id, what) in [(8, "no store"), (9, "no header")] {
        let call = "GetStore";
        assert_eq!(
            client.get_store(id).await,
            Err(PdError::Malformed { call, what })
        );
    }
    match client.get_gc_safe_point().await {
        Err(PdError::Status { call, code, .. }) => {
            assert_eq!((call, code), ("GetGCSafePoint", Code::Unimplemented));
        }
        other => panic!("{other:?}"),
    }
    assert!(client.load_keyspace("DEFAULT").await.is_ok());
    let missing = client.load_keyspace("x").await.unwrap_err();
    assert_eq!(missing.kind(), Some(ErrorType::EntryNotFound));
}

#[tokio::test]
async fn config_items_are_read_and_written() {
    let (_shared, _member, client) = pair().await;
    let path = "/global/config/flotilla/";
    assert_eq!(
        client.load_config_item(path, "key-mode").await,
        Ok("plain".to_owned())
    );
    let missing = client.load_config_item(path, "x").await.unwrap_err();
    assert_eq!(missing.kind(), Some(ErrorType::GlobalConfigNotFound));
    assert_eq!(
        client.store_config_item(path, "key-mode", "plain").await,
        Ok(())
    );
    let other = client.store_config_item(path, "key-mode", "encoded").await;
    assert_eq!(other.unwrap_err().kind(), Some(ErrorType::InvalidValue));
}

#[tokio::test]
async fn ids_for_a_split_are_complete_or_an_error() {
    let (_shared, _member, client) = pair().await;
    let region = Region {
        peers: vec![Peer::default(); 3],
        ..Region::default()
    };
    let ask = |count| client.ask_batch_split(region.clone(), count, pdpb::SplitReason::Size);
    let ids = ask(2).await.unwrap();
    assert_eq!(ids[1].new_region_id, 200);
    assert_eq!(ids[1].new_peer_ids, [1, 2, 3]);
    assert!(matches!(ask(3).await, Err(PdError::Malformed { .. })));
}

#[tokio::test]
async fn a_region_may_be_unknown_and_so_may_its_leader() {
    let (_shared, _member, client) = pair().await;
    let found = client.get_region("key".into()).await.unwrap().unwrap();
    assert_eq!((found.region.id, found.leader), (3, None));
    assert_eq!(client.get_region("hole".into()).await, Ok(None));
}

#[tokio::test]
async fn a_batch_of_timestamps_is_a_range() {
    let (_shared, _member, client) = pair().await;
    let base = 1_000 << 18;
    assert_eq!(client.tso(1).await, Ok(base + 11..=base + 11));
    assert_eq!(client.tso(5).await, Ok(base + 11..=base + 15));
    assert!(matches!(
        client.tso(13).await,
        Err(PdError::Malformed { .. })
    ));
}

#[tokio::test]
async fn heartbeats_go_out_and_instructions_come_in() {
    let (shared, member, client) = pair().await;
    let order = |region_id, error| pdpb::RegionHeartbeatResponse {
        header: header(CLUSTER, error),
        region_id,
        ..Default::default()
    };
    let unknown = Some((ErrorType::Unknown, "invalid store ID 9, not found"));
    shared
        .orders
        .lock()
        .unwrap()
        .push(vec![order(5, None), order(6, unknown)]);
    let mut stream = client.region_heartbeats().await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().region_id, 5);
    let refused = stream.next().await.unwrap().unwrap_err();
    assert_eq!(
        refused.kind(),
        Some(ErrorType::Unknown),
        "the stream goes on"
    );
    let beat = |id| pdpb::RegionHeartbeatRequest {
        region: Some(Region {
            id,
            ..Region::default()
        }),
        ..Default::default()
    };
    stream.queue().room().await.unwrap().send(beat(3));
    assert_eq!(stream.next().await.unwrap().unwrap().region_id, 3);

    member.stop();
    while let Some(last) = stream.next().await {
        assert!(matches!(last, Err(PdError::Status { .. })), "{last:?}");
    }
    // The queue closes with the stream.
    while let Some(room) = stream.queue().room().await {
        room.send(beat(4));
    }
    let other = start(&shared, CLUSTER).await;
    let client = PdClient::new(config(&[other.address])).unwrap();
    shared.members.lock().unwrap()[0] = other.address;
    let mut stream = client.region_heartbeats().await.unwrap();
    stream.queue().room().await.unwrap().send(beat(7));
    assert_eq!(stream.next().await.unwrap().unwrap().region_id, 7);
    assert_eq!(*shared.heartbeats.lock().unwrap(), [3, 7]);
}
