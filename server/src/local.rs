//! Raw reads and writes of a node in the same process, without a socket: of what the node leads.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_pd_client::{RegionCache, Route};
use flotilla_proto::errorpb;
use flotilla_proto::kvrpcpb::{
    Context, RawDeleteRequest, RawDeleteResponse, RawGetRequest, RawGetResponse, RawPutRequest,
    RawPutResponse, RawScanRequest, RawScanResponse,
};
use flotilla_proto::tikvpb::tikv_server::Tikv;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::rpc::TikvService;
use crate::store::Store;

/// How long a request waits for a leader to be elected, or for a region to be as it says.
const SETTLE_MAX: Duration = Duration::from_secs(5);
/// Pause before it is tried again.
const PAUSE: Duration = Duration::from_millis(10);
/// Rows of one step of a scan.
const SCAN_STEP: u32 = 1_024;

/// Why a request was not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocalError {
    /// These rows are led by another store. Ask there, or use a client: it finds the way by itself.
    #[error("store {store} leads these rows, not this node: ask there")]
    Elsewhere {
        /// Which store.
        store: u64,
    },
    /// Not now; nothing was done. Ask again later.
    #[error("not served now: {why}")]
    Unavailable {
        /// What it waits for.
        why: String,
    },
    /// The request cannot be served as it is. Change it.
    #[error("refused: {why}")]
    Refused {
        /// What is wrong with it.
        why: String,
    },
    /// The outcome of a write is not known. Read, or write again.
    #[error("the outcome is not known: {why}")]
    Undetermined {
        /// How that came.
        why: String,
    },
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

impl From<Status> for LocalError {
    fn from(status: Status) -> Self {
        let why = status.message().to_owned();
        match status.code() {
            tonic::Code::InvalidArgument | tonic::Code::OutOfRange => Self::Refused { why },
            tonic::Code::DeadlineExceeded | tonic::Code::Unknown => Self::Undetermined { why },
            _ => Self::Unavailable { why },
        }
    }
}

/// The store, for requests of this process. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    tikv: TikvService,
    store: Arc<Store>,
    routes: Arc<Mutex<RegionCache>>,
}

/// A request that goes to one region.
trait Asks: Clone + Send + 'static {
    fn set_context(&mut self, context: Context);
}

/// Its response.
trait Answers: Send {
    /// What the region and what the request is at fault for.
    fn errors(&mut self) -> (Option<Box<errorpb::Error>>, String);
}

macro_rules! calls {
    ($($request:ty => $response:ty),+ $(,)?) => {$(
        impl Asks for $request {
            fn set_context(&mut self, context: Context) {
                self.context = Some(context);
            }
        }

        impl Answers for $response {
            fn errors(&mut self) -> (Option<Box<errorpb::Error>>, String) {
                (self.region_error.take(), std::mem::take(&mut self.error))
            }
        }
    )+};
}

calls! {
    RawGetRequest => RawGetResponse,
    RawPutRequest => RawPutResponse,
    RawDeleteRequest => RawDeleteResponse,
}

impl Asks for RawScanRequest {
    fn set_context(&mut self, context: Context) {
        self.context = Some(context);
    }
}

impl Answers for RawScanResponse {
    fn errors(&mut self) -> (Option<Box<errorpb::Error>>, String) {
        (self.region_error.take(), String::new())
    }
}

/// A method of the service.
type Call<Q, A> =
    for<'a> fn(&'a TikvService, Request<Q>) -> BoxFuture<'a, Result<Response<A>, Status>>;

impl Local {
    /// Requests to `store` by `tikv`.
    pub(crate) fn new(tikv: TikvService, store: Arc<Store>) -> Self {
        Self {
            tikv,
            store,
            routes: Arc::default(),
        }
    }

    pub(crate) async fn get(&self, key: Bytes) -> Result<Option<Bytes>, LocalError> {
        let request = RawGetRequest {
            key: key.clone(),
            ..RawGetRequest::default()
        };
        let (answer, _) = self
            .ask(&key, request, |tikv, request| tikv.raw_get(request))
            .await?;
        Ok((!answer.not_found).then_some(answer.value))
    }

    pub(crate) async fn put(&self, key: Bytes, value: Bytes) -> Result<(), LocalError> {
        let request = RawPutRequest {
            key: key.clone(),
            value,
            ..RawPutRequest::default()
        };
        self.ask(&key, request, |tikv, request| tikv.raw_put(request))
            .await
            .map(drop)
    }

    pub(crate) async fn delete(&self, key: Bytes) -> Result<(), LocalError> {
        let request = RawDeleteRequest {
            key: key.clone(),
            ..RawDeleteRequest::default()
        };
        self.ask(&key, request, |tikv, request| tikv.raw_delete(request))
            .await
            .map(drop)
    }

    pub(crate) async fn scan(
        &self,
        start: Bytes,
        end: Bytes,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, LocalError> {
        let mut rows: Vec<(Bytes, Bytes)> = Vec::new();
        let mut at = start;
        while rows.len() < limit {
            let step = u32::try_from(limit - rows.len()).unwrap_or(SCAN_STEP);
            let request = RawScanRequest {
                start_key: at.clone(),
                end_key: end.clone(),
                limit: step.min(SCAN_STEP),
                ..RawScanRequest::default()
            };
            let full = request.limit as usize;
            let (answer, route) = self
                .ask(&at, request, |tikv, request| tikv.raw_scan(request))
                .await?;
            let found = answer.kvs.len();
            rows.extend(answer.kvs.into_iter().map(|pair| (pair.key, pair.value)));
            let region_end = route.region.end_key;
            if found >= full {
                let last = rows.last().expect("the step is not empty");
                at = [&last.0[..], &[0]].concat().into();
            } else if region_end.is_empty() || (!end.is_empty() && region_end >= end) {
                break;
            } else {
                at = region_end;
            }
        }
        Ok(rows)
    }

    /// Asks the region that holds `key`, and again while it is being split or elects its leader.
    async fn ask<Q: Asks, A: Answers>(
        &self,
        key: &[u8],
        request: Q,
        call: Call<Q, A>,
    ) -> Result<(A, Route), LocalError> {
        let deadline = Instant::now() + SETTLE_MAX;
        loop {
            let error = match self.route(key) {
                Err(error) => error,
                Ok((route, context)) => {
                    let mut request = request.clone();
                    request.set_context(context);
                    let mut answer = call(&self.tikv, Request::new(request)).await?.into_inner();
                    match answer.errors() {
                        (None, why) if why.is_empty() => return Ok((answer, route)),
                        (None, why) => return Err(LocalError::Refused { why }),
                        (Some(error), _) => {
                            self.routes.lock().invalidate(route.region.id);
                            told(*error)?
                        }
                    }
                }
            };
            if Instant::now() >= deadline {
                return Err(error);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The region of this store that holds `key`, and how to ask it.
    fn route(&self, key: &[u8]) -> Result<(Route, Context), LocalError> {
        let own = self.store.ids.store_id;
        let mut routes = self.routes.lock();
        if routes.locate(key).is_none() {
            for serving in self.store.runtime.delegates.all() {
                if serving.region.id != flotilla_raftstore::region::META_REGION {
                    routes.insert(Route::new(serving.region.clone(), Some(serving.peer)));
                }
            }
        }
        let route = routes.locate(key).cloned();
        let peer = route.as_ref().and_then(|route| route.leader);
        match (route, peer) {
            (Some(route), Some(peer)) if peer.store_id == own => {
                let context = route.context(peer);
                Ok((route, context))
            }
            _ => Err(LocalError::Unavailable {
                why: "this store has no replica of these rows".to_owned(),
            }),
        }
    }
}

/// What a region error is to the caller: `Ok` if it may pass soon.
fn told(error: errorpb::Error) -> Result<LocalError, LocalError> {
    let why = error.message;
    if error.undetermined_result.is_some() {
        return Err(LocalError::Undetermined { why });
    }
    if error.raft_entry_too_large.is_some() {
        return Err(LocalError::Refused { why });
    }
    match error.not_leader.and_then(|not_leader| not_leader.leader) {
        Some(leader) => Err(LocalError::Elsewhere {
            store: leader.store_id,
        }),
        None => Ok(LocalError::Unavailable { why }),
    }
}
