//! The services `flotilla.admin.v1`: what `flotilla ctl` asks beyond the calls of PD.

use std::sync::Arc;
use std::time::Duration;

use flotilla_pd::plan::Asked;
use flotilla_pd::view::OperatorView;
use flotilla_pd::{HttpAnswer, HttpRequest, calls};
use flotilla_proto::admin as a;
use flotilla_proto::admin::add_operator_request::Asked as AskedFor;
use flotilla_proto::admin::node_server::Node;
use flotilla_proto::admin::placement_server::Placement;
use flotilla_raftstore::effects::RaftInput;
use flotilla_raftstore::peer::{Pace, PeerShown, Role};
use flotilla_raftstore::{Answer, PeerInput};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use super::pd::status;
use crate::metrics::Metrics;
use crate::placement::PdHandle;
use crate::store::Store;

/// How long a peer may take to show itself.
const SHOW_MAX: Duration = Duration::from_secs(2);

/// The service that PD answers.
#[derive(Clone, Debug)]
pub struct PlacementService {
    pd: PdHandle,
}

impl PlacementService {
    /// The service in front of `pd`.
    pub fn new(pd: PdHandle) -> Self {
        Self { pd }
    }
}

/// A refusal of PD: gRPC's code for its HTTP status.
fn refusal(http_status: u16, error: impl std::fmt::Display) -> Status {
    let text = error.to_string();
    match http_status {
        400 => Status::invalid_argument(text),
        404 => Status::not_found(text),
        503 => Status::unavailable(text),
        _ => Status::failed_precondition(text),
    }
}

#[tonic::async_trait]
impl Placement for PlacementService {
    async fn list_operators(
        &self,
        _: Request<a::ListOperatorsRequest>,
    ) -> Result<Response<a::ListOperatorsResponse>, Status> {
        let listed = self
            .pd
            .call::<calls::ListOperators>(flotilla_pd::ListOperators);
        let listed = listed.await.map_err(status)?;
        let all = |operators: Vec<OperatorView>| operators.into_iter().map(operator).collect();
        Ok(Response::new(a::ListOperatorsResponse {
            running: all(listed.running),
            ended: all(listed.ended),
        }))
    }

    async fn add_operator(
        &self,
        request: Request<a::AddOperatorRequest>,
    ) -> Result<Response<a::AddOperatorResponse>, Status> {
        let a::AddOperatorRequest { region_id, asked } = request.into_inner();
        let asked = match asked {
            Some(AskedFor::TransferLeader(to)) => Asked::TransferLeader { to },
            Some(AskedFor::AddPeer(store)) => Asked::AddPeer { store },
            Some(AskedFor::RemovePeer(store)) => Asked::RemovePeer { store },
            Some(AskedFor::MovePeer(a::MovePeer {
                from_store: from,
                to_store: to,
            })) => Asked::MovePeer { from, to },
            Some(AskedFor::MergeInto(target)) => Asked::Merge { target },
            None => return Err(Status::invalid_argument("nothing is asked for")),
        };
        let region = region_id;
        let request = flotilla_pd::AddOperator { region, asked };
        let added = self.pd.call::<calls::AddOperator>(request).await;
        match added.map_err(status)?.0 {
            Ok(id) => Ok(Response::new(a::AddOperatorResponse { id })),
            Err(error) => Err(refusal(error.http_status(), error)),
        }
    }

    async fn cancel_operator(
        &self,
        request: Request<a::CancelOperatorRequest>,
    ) -> Result<Response<a::CancelOperatorResponse>, Status> {
        let region = request.into_inner().region_id;
        let request = flotilla_pd::CancelOperator { region };
        let ended = self.pd.call::<calls::CancelOperator>(request).await;
        match ended.map_err(status)?.0 {
            Some(id) => Ok(Response::new(a::CancelOperatorResponse { id })),
            None => Err(Status::not_found(format!(
                "no operator runs on region {region}: it may have ended"
            ))),
        }
    }

    async fn set_store_state(
        &self,
        request: Request<a::SetStoreStateRequest>,
    ) -> Result<Response<a::SetStoreStateResponse>, Status> {
        let a::SetStoreStateRequest { store_id, offline } = request.into_inner();
        let store = store_id;
        let request = flotilla_pd::SetStoreState { store, offline };
        let set = self.pd.call::<calls::SetStoreState>(request).await;
        match set.map_err(status)?.0 {
            Ok(()) => Ok(Response::new(a::SetStoreStateResponse {})),
            Err(error) => Err(refusal(error.http_status(), error)),
        }
    }

    async fn evict_leaders(
        &self,
        request: Request<a::EvictLeadersRequest>,
    ) -> Result<Response<a::EvictLeadersResponse>, Status> {
        let a::EvictLeadersRequest { store_id, evict } = request.into_inner();
        let store = store_id;
        let request = flotilla_pd::EvictLeaders { store, evict };
        let evicted = self.pd.call::<calls::EvictLeaders>(request).await;
        let leaders = evicted.map_err(status)?.0;
        let leaders = leaders.ok_or_else(|| Status::not_found(no_store(store)))?;
        Ok(Response::new(a::EvictLeadersResponse { leaders }))
    }

    async fn show_page(
        &self,
        request: Request<a::ShowPageRequest>,
    ) -> Result<Response<a::ShowPageResponse>, Status> {
        let (status, json) = show_page(&self.pd, request.into_inner()).await;
        Ok(Response::new(a::ShowPageResponse { status, json }))
    }
}

fn no_store(store: u64) -> String {
    format!("there is no store {store}; `flotilla ctl store list` shows all")
}

fn operator(view: OperatorView) -> a::Operator {
    a::Operator {
        id: view.id,
        region_id: view.region_id,
        name: view.desc.to_owned(),
        kind: view.kind.to_owned(),
        reason: view.reason,
        steps: view.steps,
        steps_done: view.steps_done as u64,
        status: view.status.to_owned(),
        ending: view.ending.unwrap_or_default(),
        started_ms: view.started_ms,
        ended_ms: view.ended_ms.unwrap_or_default(),
    }
}

/// A page of the JSON API as this node's PD has it: HTTP's status, the body.
pub(super) async fn show_page(pd: &PdHandle, asked: a::ShowPageRequest) -> (u32, String) {
    let request = HttpRequest {
        method: asked.method,
        target: asked.target,
        body: asked.body.into(),
    };
    let answer = pd.call::<calls::Http>(request).await;
    written(&answer.unwrap_or_else(HttpAnswer::from))
}

/// As it goes over the wire.
pub(super) fn written(answer: &HttpAnswer) -> (u32, String) {
    (answer.status.into(), answer.json())
}

/// The service that every node answers for itself.
#[derive(Clone, Debug)]
pub struct NodeService {
    store: Arc<Store>,
    metrics: Arc<Metrics>,
}

impl NodeService {
    /// The service that shows `store`.
    pub fn new(store: Arc<Store>, metrics: Arc<Metrics>) -> Self {
        Self { store, metrics }
    }
}

#[tonic::async_trait]
impl Node for NodeService {
    async fn show_latencies(
        &self,
        _: Request<a::ShowLatenciesRequest>,
    ) -> Result<Response<a::ShowLatenciesResponse>, Status> {
        Ok(Response::new(self.metrics.latencies()))
    }

    async fn show_peer(
        &self,
        request: Request<a::ShowPeerRequest>,
    ) -> Result<Response<a::ShowPeerResponse>, Status> {
        let region = request.into_inner().region_id;
        let (tell, told) = oneshot::channel();
        let answer = Answer::new(move |shown| {
            // Whoever asked may have gone.
            let _ = tell.send(shown);
        });
        let show = RaftInput::Peer(PeerInput::Show { answer });
        // Where there is no peer the answer is dropped, which gives it.
        drop(self.store.runtime.raft.send(region, show));
        let busy = |_| Status::deadline_exceeded("the peer is busy; try again");
        let shown = tokio::time::timeout(SHOW_MAX, told).await.map_err(busy)?;
        match shown {
            Ok(Ok(shown)) => Ok(Response::new(peer_response(*shown))),
            _ => Err(Status::not_found(format!(
                "store {} has no peer of region {region}, or one that ends",
                self.store.ids.store_id
            ))),
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn peer_response(shown: PeerShown) -> a::ShowPeerResponse {
    let status = shown.status;
    let learner = !status.conf.voters.contains(&status.id)
        && !status.conf.voters_outgoing.contains(&status.id);
    let role = match status.role.role {
        Role::Follower if learner => a::Role::Learner,
        Role::Follower => a::Role::Follower,
        Role::PreCandidate => a::Role::PreCandidate,
        Role::Candidate => a::Role::Candidate,
        Role::Leader => a::Role::Leader,
    };
    let progress = status.peers.iter().map(|peer| a::Progress {
        peer_id: peer.id,
        matched: peer.matched,
        pace: match peer.pace {
            Pace::Probe => a::Pace::Probe,
            Pace::Replicate => a::Pace::Replicate,
            Pace::Snapshot { .. } => a::Pace::Snapshot,
        } as i32,
        silent_ms: if peer.id == status.id {
            0
        } else {
            millis(shown.at - peer.active)
        },
    });
    a::ShowPeerResponse {
        progress: progress.collect(),
        region: Some(shown.region),
        peer: Some(shown.peer),
        role: role as i32,
        leader: status.role.leader.unwrap_or(0),
        term: status.role.term,
        commit: status.commit,
        applied: status.applied,
        persisted: status.persisted,
        first: status.first_index,
        last: status.last_index,
        log_bytes: shown.log_bytes,
        lease_ms: millis(shown.lease),
        transferring_to: status.transferring_to.unwrap_or(0),
        snapshot_building: shown.snapshot_building,
        snapshot_sending: shown.snapshot_sending,
        snapshot_installing: shown.snapshot_installing,
    }
}
