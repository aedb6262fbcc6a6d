//! The cluster as one node of it shows it.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use flotilla_proto::admin as a;
use flotilla_proto::admin::node_client::NodeClient;
use flotilla_proto::admin::placement_client::PlacementClient;
use flotilla_proto::metapb::Store;
use flotilla_proto::pdpb as p;
use flotilla_proto::pdpb::pd_client::PdClient;
use flotilla_tls::Dial;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::config::HostPort;
use crate::peers;

/// How long a node may take to say who it is.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// How long PD may be without a leader.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause before PD is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// How long a node may take to show a peer.
const SHOW_MAX: Duration = Duration::from_secs(3);

/// A connection to one node.
pub(super) struct Cluster {
    address: String,
    dial: Dial,
    channel: Channel,
    id: u64,
}

impl Cluster {
    /// Connects to the first of `nodes` that answers.
    pub(super) async fn connect(nodes: &[HostPort], dial: Dial) -> anyhow::Result<Self> {
        let mut problems = String::new();
        for node in nodes {
            let address = node.to_string();
            let late = |_| anyhow!("it does not answer");
            let connected = timeout(CONNECT_MAX, Self::try_connect(&address, &dial)).await;
            match connected.map_err(late).and_then(|connected| connected) {
                Ok(cluster) => return Ok(cluster),
                Err(error) => problems += &format!("\n  {address}: {error:#}"),
            }
        }
        bail!("no node answers; give the address of one that runs by --pd{problems}")
    }

    async fn try_connect(address: &str, dial: &Dial) -> anyhow::Result<Self> {
        let channel = dial.connect(&peers::endpoint(address, dial)?).await?;
        let mut stub = PdClient::new(channel.clone());
        let members = stub.get_members(p::GetMembersRequest::default()).await;
        let members = members.map_err(|status| anyhow!(status.message().to_owned()))?;
        let header = members.into_inner().header.context("it is no PD")?;
        Ok(Self {
            address: address.to_owned(),
            dial: dial.clone(),
            channel,
            id: header.cluster_id,
        })
    }

    fn header(&self) -> Option<p::RequestHeader> {
        Some(p::RequestHeader {
            cluster_id: self.id,
            ..p::RequestHeader::default()
        })
    }

    fn pd(&self) -> PdClient<Channel> {
        PdClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    fn placement(&self) -> PlacementClient<Channel> {
        PlacementClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// Asks until PD has a leader. Whatever is asked may be asked twice.
    async fn ask<T>(
        &self,
        mut call: impl AsyncFnMut() -> Result<Response<T>, Status>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match call().await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) if status.code() == Code::Unavailable && Instant::now() < deadline => {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                Err(status) => return Err(self.refused(&status)),
            }
        }
    }

    fn refused(&self, status: &Status) -> anyhow::Error {
        let (node, text) = (&self.address, status.message());
        match status.code() {
            Code::NotFound | Code::FailedPrecondition | Code::InvalidArgument => {
                anyhow!(text.to_owned())
            }
            Code::Unavailable => anyhow!(
                "PD does not answer by {node}: {text}; a majority of its own region must run, \
                 `flotilla ctl member status` shows it"
            ),
            Code::Unimplemented => {
                anyhow!("the node at {node} does not know this call: update it")
            }
            code => anyhow!("the node at {node} failed: {code:?}: {text}"),
        }
    }

    pub(super) async fn members(&self) -> anyhow::Result<p::GetMembersResponse> {
        let request = p::GetMembersRequest {
            header: self.header(),
        };
        self.ask(async || self.pd().get_members(request.clone()).await)
            .await
    }

    /// All stores, those that are gone for ever too.
    pub(super) async fn stores(&self) -> anyhow::Result<Vec<Store>> {
        let request = p::GetAllStoresRequest {
            header: self.header(),
            ..p::GetAllStoresRequest::default()
        };
        let found = self.ask(async || self.pd().get_all_stores(request.clone()).await);
        let found = found.await?;
        check(found.header)?;
        Ok(found.stores)
    }

    pub(super) async fn region(&self, region_id: u64) -> anyhow::Result<p::GetRegionResponse> {
        let request = p::GetRegionByIdRequest {
            header: self.header(),
            region_id,
            ..p::GetRegionByIdRequest::default()
        };
        let found = self.ask(async || self.pd().get_region_by_id(request.clone()).await);
        known(found.await?, &format!("region {region_id}"))
    }

    /// The region that has `key`.
    pub(super) async fn region_of(&self, key: Vec<u8>) -> anyhow::Result<p::GetRegionResponse> {
        let request = p::GetRegionRequest {
            header: self.header(),
            region_key: key.into(),
            ..p::GetRegionRequest::default()
        };
        let found = self.ask(async || self.pd().get_region(request.clone()).await);
        known(found.await?, "the region that has this key")
    }

    /// A page of PD's JSON API.
    pub(super) async fn page<T: DeserializeOwned>(&self, target: &str) -> anyhow::Result<T> {
        self.request("GET", target, None).await
    }

    /// A request of PD's JSON API.
    pub(super) async fn request<T: DeserializeOwned>(
        &self,
        method: &str,
        target: &str,
        body: Option<&serde_json::Value>,
    ) -> anyhow::Result<T> {
        let request = a::ShowPageRequest {
            method: method.to_owned(),
            target: target.to_owned(),
            body: body.map(|body| body.to_string().into()).unwrap_or_default(),
        };
        let shown = self.ask(async || {
            let shown = self.placement().show_page(request.clone()).await?;
            match shown.get_ref() {
                busy if busy.status == 503 => Err(Status::unavailable(busy.json.clone())),
                old if old.status == 0 => Err(Status::unimplemented("")),
                _ => Ok(shown),
            }
        });
        let shown = shown.await?;
        if shown.status != 200 {
            let problem: Result<Problem, _> = serde_json::from_str(&shown.json);
            let status = shown.status;
            bail!(problem.map_or(format!("the node answered {status}"), |it| it.error));
        }
        serde_json::from_str(&shown.json).context("the node sent another page")
    }

    pub(super) async fn operators(&self) -> anyhow::Result<a::ListOperatorsResponse> {
        self.ask(async || {
            let request = a::ListOperatorsRequest {};
            self.placement().list_operators(request).await
        })
        .await
    }

    pub(super) async fn add_operator(
        &self,
        region_id: u64,
        asked: a::add_operator_request::Asked,
    ) -> anyhow::Result<u64> {
        let asked = Some(asked);
        let request = a::AddOperatorRequest { region_id, asked };
        let added = self.ask(async || self.placement().add_operator(request).await);
        let added = added.await.with_context(|| format!("region {region_id}"))?;
        Ok(added.id)
    }

    pub(super) async fn cancel_operator(&self, region_id: u64) -> anyhow::Result<u64> {
        let request = a::CancelOperatorRequest { region_id };
        let ended = self.ask(async || self.placement().cancel_operator(request).await);
        Ok(ended.await?.id)
    }

    pub(super) async fn set_store_state(&self, store_id: u64, offline: bool) -> anyhow::Result<()> {
        let request = a::SetStoreStateRequest { store_id, offline };
        self.ask(async || self.placement().set_store_state(request).await)
            .await?;
        Ok(())
    }

    /// Regions that the store still leads.
    pub(super) async fn evict_leaders(&self, store_id: u64, evict: bool) -> anyhow::Result<u64> {
        let request = a::EvictLeadersRequest { store_id, evict };
        let evicted = self.ask(async || self.placement().evict_leaders(request).await);
        Ok(evicted.await?.leaders)
    }

    /// The peer of a region as the node at `address` sees it.
    pub(super) async fn show_peer(
        &self,
        address: &str,
        region_id: u64,
    ) -> Result<a::ShowPeerResponse, String> {
        let dial = &self.dial;
        let asking = async {
            let endpoint = peers::endpoint(address, dial).map_err(|error| error.to_string())?;
            let channel = dial.connect(&endpoint).await;
            let channel = channel.map_err(|_| format!("{address} does not answer"))?;
            let mut stub = NodeClient::new(channel);
            let shown = stub.show_peer(a::ShowPeerRequest { region_id }).await;
            shown.map_err(|status| status.message().to_owned())
        };
        let late = |_| format!("{address} does not answer in time");
        let shown = timeout(SHOW_MAX, asking).await.map_err(late)??;
        Ok(shown.into_inner())
    }
}

/// How the JSON API refuses.
#[derive(Deserialize)]
struct Problem {
    error: String,
}

/// A region that PD has heard of.
fn known(found: p::GetRegionResponse, which: &str) -> anyhow::Result<p::GetRegionResponse> {
    check(found.header.clone())?;
    if found.region.is_none() {
        bail!("no leader has reported {which}; `flotilla ctl region list` shows all that PD knows");
    }
    Ok(found)
}

/// PD's own way to refuse.
fn check(header: Option<p::ResponseHeader>) -> anyhow::Result<()> {
    match header.and_then(|header| header.error) {
        Some(error) => bail!("PD refuses: {}", error.message),
        None => Ok(()),
    }
}
