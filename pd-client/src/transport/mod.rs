//! The gRPC connection of a store or tool to PD.

mod error;
mod heartbeat;
mod link;

use std::future::Future;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::keyspacepb::keyspace_client::KeyspaceClient;
use flotilla_proto::keyspacepb::{KeyspaceMeta, LoadKeyspaceRequest};
use flotilla_proto::metapb::{Cluster, Region, Store};
use flotilla_proto::pdpb::pd_client::PdClient as Stub;
use flotilla_proto::pdpb::{self, ErrorType, RequestHeader, ResponseHeader};
use flotilla_tls::Dial;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

pub use error::PdError;
pub use heartbeat::{HeartbeatQueue, HeartbeatRoom, RegionHeartbeats};
use link::{Connection, Link};

use crate::cache::Route;

/// Bytes of one answer: a scan over all regions is the largest.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// PD takes about this long for each of the `retry_limit` attempts of a split.
const SPLIT_ATTEMPT: Duration = Duration::from_secs(1);
/// It makes no more.
const SPLIT_ATTEMPTS_MAX: u32 = 20;

/// Where PD is, and how long it may take.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `host:port` or URLs, at least one. Any member will do.
    pub endpoints: Vec<String>,
    /// Refuse members of any other cluster; `None`: the first answer decides.
    pub cluster_id: Option<u64>,
    /// One attempt to connect.
    pub connect_timeout: Duration,
    /// One attempt at a call.
    pub call_timeout: Duration,
    /// All attempts at a call together.
    pub give_up_after: Duration,
    /// The first pause after a failure; it doubles with each.
    pub backoff_first: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// Heartbeats that may wait for the stream.
    pub heartbeats_max: usize,
    /// How to connect.
    pub dial: Dial,
}

impl ClientConfig {
    /// The defaults, for `endpoints`.
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            cluster_id: None,
            connect_timeout: Duration::from_secs(1),
            call_timeout: Duration::from_secs(3),
            give_up_after: Duration::from_secs(10),
            backoff_first: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            heartbeats_max: 1_024,
            dial: Dial::PLAIN,
        }
    }
}

/// A client of PD. Cheap to clone; clones share one connection, which is made at the first call and
/// made again, to whoever leads then, when it breaks.
///
/// Every call is tried again until [`ClientConfig::give_up_after`]; all of them are safe to repeat.
#[derive(Clone, Debug)]
pub struct PdClient {
    link: Arc<Link>,
    config: Arc<ClientConfig>,
}

/// A response with a header.
trait Headed {
    fn header(&self) -> Option<&ResponseHeader>;
}

macro_rules! headed {
    ($($response:ty),* $(,)?) => {
        $(impl Headed for $response {
            fn header(&self) -> Option<&ResponseHeader> {
                self.header.as_ref()
            }
        })*
    };
}

headed! {
    pdpb::BootstrapResponse, pdpb::IsBootstrappedResponse, pdpb::AllocIdResponse, pdpb::GetStoreResponse,
    pdpb::PutStoreResponse, pdpb::GetAllStoresResponse, pdpb::StoreHeartbeatResponse, pdpb::GetRegionResponse,
    pdpb::ScanRegionsResponse, pdpb::AskBatchSplitResponse, pdpb::ReportBatchSplitResponse,
    pdpb::GetClusterConfigResponse,  pdpb::GetGcSafePointResponse,
    pdpb::UpdateGcSafePointResponse, flotilla_proto::keyspacepb::LoadKeyspaceResponse,
}

/// Makes a call of `pdpb.PD` with this client's header and checks the header of the answer.
macro_rules! ask {
    ($client:expr, $name:literal, $method:ident, $message:expr) => {{
        let message = $message;
        $client
            .call($name, |connection| {
                let mut message = message.clone();
                message.header = connection.header();
                let mut stub = connection.stub();
                async move { stub.$method(message).await }
            })
            .await
    }};
}

impl PdClient {
    /// A client that connects at its first call.
    ///
    /// # Errors
    /// [`PdError::Endpoint`].
    pub fn new(config: ClientConfig) -> Result<Self, PdError> {
        let link = Arc::new(Link::new(config.clone())?);
        let config = Arc::new(config);
        Ok(Self { link, config })
    }

    /// The cluster PD serves.
    ///
    /// # Errors
    /// See [`PdError`].
    pub async fn cluster_id(&self) -> Result<u64, PdError> {
        let deadline = Instant::now() + self.config.give_up_after;
        let connection = self.link.connection("GetMembers", deadline).await?;
        Ok(connection.cluster_id)
    }

    /// Registers the first store and the first region.
    ///
    /// # Errors
    /// [`ErrorType::AlreadyBootstrapped`] also if an earlier attempt got through unheard; see
    /// [`PdError`].
    pub async fn bootstrap(&self, store: Store, region: Region) -> Result<(), PdError> {
        let (store, region) = (Some(store), Some(region));
        ask!(
            self,
            "Bootstrap",
            bootstrap,
            pdpb::BootstrapRequest {
                store,
                region,
                ..Default::default()
            }
        )
        .map(drop)
    }

    /// Whether the first store and region are registered.
    ///
    /// # Errors
    /// See [`PdError`].
    pub async fn is_bootstrapped(&self) -> Result<bool, PdError> {
        let answer = ask!(
            self,
            "IsBootstrapped",
            is_bootstrapped,
            pdpb::IsBootstrappedRequest::default()
        )?;
        Ok(answer.bootstrapped)
    }

    /// `count` ids, at least one, that nobody else gets.
    ///
    /// # Errors
    /// See [`PdError`].
    pub async fn alloc_id(&self, count: u32) -> Result<RangeInclusive<u64>, PdError> {
        let count = count.max(1);
        let answer = ask!(
            self,
            "AllocID",
            alloc_id,
            pdpb::AllocIdRequest {
                count,
                ..Default::default()
            }
        )?;
        // A PD that does not know batches gives one.
        let given = u64::from(answer.count.max(1));
        match answer.id.checked_sub(given - 1) {
            Some(first) if first > 0 && given >= u64::from(count) => Ok(first..=answer.id),
            _ => Err(malformed("AllocID", "fewer ids than were asked for")),
        }
    }

    /// Registers a store, or changes what is registered of it.
    ///
    /// # Errors
    /// See [`PdError`].
    pub async fn put_store(&self, store: Store) -> Result<(), PdError> {
        ask!(
            self,
            "PutStore",
            put_store,
            pdpb::PutStoreRequest {
                store: Some(store),
                ..Default::default()
            }
        )
        .map(drop)
    }

    /// A store by id, and what it last reported.
    ///
    /// # Errors
    /// [`ErrorType::Unknown`] if there is none; see [`PdError`].
    pub async fn get_store(
        &self,
        store_id: u64,
    ) -> Result<(Store, Option<pdpb::StoreStats>), PdError> {
        let answer = ask!(
            self,
            "GetStore",
            get_store,
            pdpb::GetStoreRequest {
                store_id,
                ..Default::default()
            }
        )?;
        let store = answer.store.ok_or(malformed("GetStore", "no store"))?;
        Ok((store, answer.stats))
    }

    /// All stores, or all that are not removed.
    ///
    /// # Errors
    /// See [`PdError`].
    pub async fn get_all_stores(&self, exclude_removed: bool) -> Result<Vec<Store>, PdError> {
        let answer = ask!(
            self,
            "GetAllStores",
            get_all_stores,
            pdpb::GetAllStoresRequest {
                exclude_tombstone_stores: exclude_removed,
                ..Default::default()
            }
        )?;
        Ok(answer.stores)
    }

    /// Reports a store's statistics.
    ///
    /// # Errors
    /// [`ErrorType::StoreTombstone`] if the store was removed: it must stop. See [`PdError`].
    pub async fn store_heartbeat(
        &self,
        stats: pdpb::StoreStats,
    ) -> Result<pdpb::StoreHeartbeatResponse, PdError> {
        let stats = Some(stats);
        ask!(
            self,
            "StoreHeartbeat",
            store_heartbeat,
            pdpb::StoreHeartbeatRequest {
                stats,
                ..Default::default()
            }
        )
    }

    /// Ids for a split of `region` into `count` new regions and itself: one region id and as many
    /// peer ids, in the order of its peers, for each new one.
    ///
    /// # Errors
    /// See [`PdError`].
    pub async fn ask_batch_split(
        &self,
        region: Region,
        count: u32,
        reason: pdpb::SplitReason,
    ) -> Result<Vec<pdpb::SplitId>, PdError> {
        let peers = region.peers.len();
        let answer = ask!(
            self,
            "AskBatchSplit",
            ask_batch_split,
            pdpb::AskBatchSplitRequest {
                region: Some(region),
                split_count: count,
                reason: reason as i32,
                ..Default::default()
            }
        )?;
        let complete = |id: &pdpb::SplitId| id.new_region_id != 0 && id.new_peer_ids.len() == peers;
        if answer.ids.len() == count as usize && answer.ids.iter().all(complete) {
            Ok(answer.ids)
        } else {
            Err(malformed("AskBatchSplit", "fewer ids than were asked for"))
        }
    }

    /// Tells that a split was applied.
    ///
    /// # Errors
    /// See [`PdError`].
    pub async fn report_batch_split(&self, regions: Vec<Region>) -> Result<(), PdError> {
        ask!(
            self,
            "ReportBatchSplit",
            report_batch_split,
            pdpb::ReportBatchSplitRequest {
                regions,
                ..Default::default()
            }
        )
        .map(drop)
    }

    /// The region that holds a physical key; `None` if PD knows none.
    ///
    /// # Errors
    /// See [`PdError`].
    pub async fn get_region(&self, key: Bytes) -> Result<Option<Route>, PdError> {
        let answer = ask!(
            self,
            "GetRegion",
            get_region,
            pdpb::GetRegionRequest {
                region_key: key,
                ..Default::default()
            }
        )?;
        Ok(route(answer))
    }

    /// The region before the one that holds a physical key.
    ///
    /// # Errors
    /// See [`PdError`].
    pub async fn get_prev_region(&self, key: Bytes) -> Result<Option<Route>, PdError> {
        let answer = ask!(
            self,
            "GetPrevRegion",
            get_prev_region,
            pdpb::GetRegionRequest {
                region_key: key,
                ..Default::default()
            }
        )?;
        Ok(route(answer))
    }

    /// A region by id.
    ///
    /// # Errors
    /// See [`PdError`].
    pub async fn get_region_by_id(&self, region_id: u64) -> Result<Option<Route>, PdError> {
        let answer = ask!(
            self,
            "GetRegionByID",
            get_region_by_id,
            pdpb::GetRegionByIdRequest {
                region_id,
                ..Default::default()
            }
        )?;
        Ok(route(answer))
    }

    /// At most `limit` regions (0: all) that overlap [start, end), in key order.
    ///
    /// # Errors
    /// See [`PdError`].
    pub async fn scan_regions(
        &self,
        start: Bytes,
        end: Bytes,
        limit: u32,
    ) -> Result<Vec<Route>, PdError> {
        let answer = ask!(
            self,
            "ScanRegions",
            scan_regions,
            pdpb::ScanRegionsRequest {
                start_key: start,
                end_key: end,
                limit: i32::try_from(limit).unwrap_or(i32::MAX),
                ..Default::default()
            }
        )?;
        let routes = answer.regions.into_iter();
        Ok(routes
            .filter_map(|found| Some(Route::new(found.region?, found.leader)))
            .collect())
    }

    /// Has regions split at physical keys. Returns how many of a hundred are done, and the regions
    /// that start at them.
    ///
    /// # Errors
    /// See [`PdError`].
    pub async fn split_regions(
        &self,
        keys: Vec<Bytes>,
        retry_limit: u64,
    ) -> Result<(u64, Vec<u64>), PdError> {
        let call = "SplitRegions";
        let attempts = u32::try_from(retry_limit)
            .map_or(SPLIT_ATTEMPTS_MAX, |limit| limit.min(SPLIT_ATTEMPTS_MAX));
        let patience = self.config.call_timeout + SPLIT_ATTEMPT * attempts;
        let send = |connection: Connection| {
            let request = pdpb::SplitRegionsRequest {
                header: connection.header(),
                split_keys: keys.clone(),
                retry_limit,
            };
            let mut stub = connection.stub();
            async move { stub.split_regions(request).await }
        };
        let answer = self.call_within(call, patience, send).await?;
        check_header(call, answer.header.as_ref())?;
        Ok((answer.finished_percentage, answer.regions_id))
    }

    /// The cluster's id and replica count.
    ///
    /// # Errors
    /// See [`PdError`].
    pub async fn get_cluster_config(&self) -> Result<Cluster, PdError> {
        let answer = ask!(
            self,
            "GetClusterConfig",
            get_cluster_config,
            pdpb::GetClusterConfigRequest::default()
        )?;
        answer
            .cluster
            .ok_or(malformed("GetClusterConfig", "no cluster"))
    }

    /// Versions older than this may be gone.
    ///
    /// # Errors
    /// See [`PdError`].
    pub async fn get_gc_safe_point(&self) -> Result<u64, PdError> {
        let answer = ask!(
            self,
            "GetGCSafePoint",
            get_gc_safe_point,
            pdpb::GetGcSafePointRequest::default()
        )?;
        Ok(answer.safe_point)
    }

    /// A keyspace that can be used.
    ///
    /// # Errors
    /// [`ErrorType::EntryNotFound`] if there is none of that name, or its boundaries are not split
    /// yet; see [`PdError`].
    pub async fn load_keyspace(&self, name: &str) -> Result<KeyspaceMeta, PdError> {
        let call = "LoadKeyspace";
        let answer = self.call(call, |connection| {
            let request = LoadKeyspaceRequest {
                header: connection.header(),
                name: name.to_owned(),
                ..LoadKeyspaceRequest::default()
            };
            let mut stub = KeyspaceClient::new(connection.channel);
            async move { stub.load_keyspace(request).await }
        });
        answer.await?.keyspace.ok_or(malformed(call, "no keyspace"))
    }

    /// The value of the global config item `name` below `path`; empty if it has none.
    ///
    /// # Errors
    /// See [`PdError`].
    pub async fn load_config_item(&self, path: &str, name: &str) -> Result<String, PdError> {
        let call = "LoadGlobalConfig";
        let request = pdpb::LoadGlobalConfigRequest {
            names: vec![name.to_owned()],
            config_path: path.to_owned(),
        };
        let answer = self.call_open(call, |connection| {
            let (mut stub, request) = (connection.stub(), request.clone());
            async move { stub.load_global_config(request).await }
        });
        let item = answer
            .await?
            .items
            .into_iter()
            .next()
            .ok_or(malformed(call, "no item"))?;
        match item.error {
            None => Ok(item.value),
            Some(error) => Err(refused(call, &error)),
        }
    }

    /// Sets the global config item `name` below `path`.
    ///
    /// # Errors
    /// [`ErrorType::InvalidValue`] if it may not have that value; see [`PdError`].
    pub async fn store_config_item(
        &self,
        path: &str,
        name: &str,
        value: &str,
    ) -> Result<(), PdError> {
        let call = "StoreGlobalConfig";
        let item = pdpb::GlobalConfigItem {
            name: name.to_owned(),
            value: value.to_owned(),
            payload: Bytes::copy_from_slice(value.as_bytes()),
            ..pdpb::GlobalConfigItem::default()
        };
        let request = pdpb::StoreGlobalConfigRequest {
            changes: vec![item],
            config_path: path.to_owned(),
        };
        let answer = self.call_open(call, |connection| {
            let (mut stub, request) = (connection.stub(), request.clone());
            async move { stub.store_global_config(request).await }
        });
        match answer.await?.error {
            None => Ok(()),
            Some(error) => Err(refused(call, &error)),
        }
    }

    /// `count` timestamps, above every one handed out before. Opens a stream for each call: stores
    /// ask rarely.
    ///
    /// # Errors
    /// See [`PdError`].
    pub async fn tso(&self, count: u32) -> Result<RangeInclusive<u64>, PdError> {
        let call = "Tso";
        let answer = self.call_open(call, |connection| {
            let request = pdpb::TsoRequest {
                header: connection.header(),
                count,
                ..pdpb::TsoRequest::default()
            };
            let mut stub = connection.stub();
            async move {
                let mut answers = stub.tso(tokio_stream::once(request)).await?.into_inner();
                Ok(Response::new(answers.message().await?))
            }
        });
        let answer = answer.await?.ok_or(malformed(call, "no timestamp"))?;
        check_header(call, answer.header.as_ref())?;
        let stamp = answer.timestamp.ok_or(malformed(call, "no timestamp"))?;
        let wraps = malformed(call, "a batch that wraps");
        let (Ok(physical), Ok(logical)) =
            (u64::try_from(stamp.physical), u64::try_from(stamp.logical))
        else {
            return Err(wraps);
        };
        let before = logical.checked_sub(u64::from(count)).ok_or(wraps.clone())?;
        if answer.count != count || logical >> LOGICAL_BITS != 0 {
            return Err(wraps);
        }
        let base = physical << LOGICAL_BITS;
        Ok(base + before + 1..=base + logical)
    }

    /// Opens a region heartbeat stream. When it breaks, open another one and report every region
    /// again: a new PD leader knows none of them.
    ///
    /// # Errors
    /// See [`PdError`].
    pub async fn region_heartbeats(&self) -> Result<RegionHeartbeats, PdError> {
        let capacity = self.config.heartbeats_max;
        self.call_open("RegionHeartbeat", |connection| {
            let (sender, outgoing) = mpsc::channel(capacity);
            let header = connection.header();
            let mut stub = connection.stub();
            async move {
                let answer = stub.region_heartbeat(ReceiverStream::new(outgoing)).await?;
                let heartbeats = RegionHeartbeats {
                    out: HeartbeatQueue { header, sender },
                    instructions: answer.into_inner(),
                };
                Ok(Response::new(heartbeats))
            }
        })
        .await
    }

    /// A call whose answer has a header.
    async fn call<T, S, F>(&self, call: &'static str, send: S) -> Result<T, PdError>
    where
        T: Headed,
        S: Fn(Connection) -> F,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let answer = self.call_open(call, send).await?;
        check_header(call, answer.header())?;
        Ok(answer)
    }

    /// A call whose answer need not have one.
    async fn call_open<T, S, F>(&self, call: &'static str, send: S) -> Result<T, PdError>
    where
        S: Fn(Connection) -> F,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_within(call, self.config.call_timeout, send).await
    }

    /// A call, tried until it is answered or time runs out; `patience` is for one attempt.
    async fn call_within<T, S, F>(
        &self,
        call: &'static str,
        patience: Duration,
        send: S,
    ) -> Result<T, PdError>
    where
        S: Fn(Connection) -> F,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + self.config.give_up_after;
        loop {
            let connection = self.link.connection(call, deadline).await?;
            let last = match timeout(patience, send(connection.clone())).await {
                Ok(Ok(answer)) => {
                    self.link.works(&connection);
                    return Ok(answer.into_inner());
                }
                Ok(Err(status)) if may_pass(status.code()) => status.to_string(),
                Ok(Err(status)) => {
                    let (code, message) = (status.code(), status.message().to_owned());
                    return Err(PdError::Status {
                        call,
                        code,
                        message,
                    });
                }
                Err(_) => "it did not answer in time".to_owned(),
            };
            self.link.broke(&connection).await;
            if Instant::now() >= deadline {
                let endpoints = self.link.endpoints().await;
                return Err(PdError::Unreachable {
                    call,
                    endpoints,
                    last,
                });
            }
        }
    }
}

/// Bits of a timestamp's logical part.
const LOGICAL_BITS: u32 = 18;

impl Connection {
    fn header(&self) -> Option<RequestHeader> {
        Some(RequestHeader {
            cluster_id: self.cluster_id,
            ..RequestHeader::default()
        })
    }

    fn stub(&self) -> Stub<Channel> {
        Stub::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }
}

/// Failures that another attempt, perhaps with another member, may not have.
fn may_pass(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::Unknown
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Internal
    )
}

fn check_header(call: &'static str, header: Option<&ResponseHeader>) -> Result<(), PdError> {
    match header {
        None => Err(malformed(call, "no header")),
        Some(ResponseHeader { error: None, .. }) => Ok(()),
        Some(ResponseHeader {
            error: Some(error), ..
        }) => Err(refused(call, error)),
    }
}

fn refused(call: &'static str, error: &pdpb::Error) -> PdError {
    let kind = ErrorType::try_from(error.r#type).unwrap_or(ErrorType::Unknown);
    let message = error.message.clone();
    PdError::Refused {
        call,
        kind,
        message,
    }
}

fn malformed(call: &'static str, what: &'static str) -> PdError {
    PdError::Malformed { call, what }
}

fn route(answer: pdpb::GetRegionResponse) -> Option<Route> {
    Some(Route::new(answer.region?, answer.leader))
}
