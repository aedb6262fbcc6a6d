//! The service `tikvpb.Tikv`: RawKV and region splits. Transactions are not served yet; every call
//! of theirs says so.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use flotilla_kv::{Command, Kind, region_error};
use flotilla_proto::errorpb;
use flotilla_proto::kvrpcpb::{
    RawBatchDeleteRequest, RawBatchDeleteResponse, RawBatchGetRequest, RawBatchGetResponse,
    RawBatchPutRequest, RawBatchPutResponse, RawBatchScanRequest, RawBatchScanResponse,
    RawCasRequest, RawCasResponse, RawChecksumRequest, RawChecksumResponse, RawDeleteRangeRequest,
    RawDeleteRangeResponse, RawDeleteRequest, RawDeleteResponse, RawGetKeyTtlRequest,
    RawGetKeyTtlResponse, RawGetRequest, RawGetResponse, RawPutRequest, RawPutResponse,
    RawScanRequest, RawScanResponse, SplitRegionRequest, SplitRegionResponse,
};
use flotilla_proto::metapb::Region;
use flotilla_proto::tikvpb::tikv_server::Tikv;
use flotilla_proto::tikvpb::{BatchCommandsRequest, BatchCommandsResponse};
use flotilla_proto::{coprocessor, kvrpcpb};
use flotilla_raftstore::PeerInput;
use metrics::{Counter, Histogram};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::batch;
use super::deadline::Deadline;
use super::envelope::{self, Stop};
use super::kv::{Kv, Origin, Reach, Served, answer_channel, closing, passed};
use super::stopping::Stopping;
use crate::metrics::Metrics;
use crate::net::{Call, Outbox};

/// Rows or keys that are read on the thread that serves the connection; more go elsewhere, so that
/// nobody's small request waits behind them.
const ROWS_HERE_MAX: u64 = 128;

/// The service.
#[derive(Clone, Debug)]
pub struct TikvService {
    kv: Arc<Kv>,
    meters: Arc<Meters>,
    stopping: Stopping,
}

/// One call's latency and failures.
#[derive(Debug)]
pub(super) struct Meter {
    seconds: Histogram,
    failures: Counter,
}

macro_rules! meters {
    ($($field:ident = $name:expr;)+) => {
        #[derive(Debug)]
        pub(super) struct Meters { $(pub(super) $field: Meter,)+ }

        impl Meters {
            fn new(metrics: &Metrics) -> Self {
                Self { $($field: Meter::new(metrics, $name),)+ }
            }
        }
    };
}

meters! {
    raw_get = RawGetRequest::NAME;
    raw_batch_get = RawBatchGetRequest::NAME;
    raw_put = RawPutRequest::NAME;
    raw_batch_put = RawBatchPutRequest::NAME;
    raw_delete = RawDeleteRequest::NAME;
    raw_batch_delete = RawBatchDeleteRequest::NAME;
    raw_scan = RawScanRequest::NAME;
    raw_delete_range = RawDeleteRangeRequest::NAME;
    raw_batch_scan = RawBatchScanRequest::NAME;
    raw_get_key_ttl = RawGetKeyTtlRequest::NAME;
    raw_compare_and_swap = RawCasRequest::NAME;
    raw_checksum = RawChecksumRequest::NAME;
    split_region = "SplitRegion";
}

impl Meter {
    fn new(metrics: &Metrics, rpc: &'static str) -> Self {
        let labels = [("rpc", rpc)];
        Self {
            seconds: metrics.seconds(
                "flotilla_rpc_seconds",
                &labels,
                "A call, from its request to its answer.",
            ),
            failures: metrics.counter(
                "flotilla_rpc_failures_total",
                &labels,
                "Calls that ended with a gRPC status.",
            ),
        }
    }

    pub(super) async fn measure<T>(
        &self,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let start = Instant::now();
        let result = work.await;
        self.seconds.record(start.elapsed());
        if result.is_err() {
            self.failures.increment(1);
        }
        result
    }
}

impl TikvService {
    /// The service in front of `kv`.
    pub fn new(kv: Arc<Kv>, metrics: &Metrics, stopping: Stopping) -> Self {
        Self {
            kv,
            meters: Arc::new(Meters::new(metrics)),
            stopping,
        }
    }
}

/// Takes a request apart, and puts the response together.
macro_rules! serve {
    ($service:ident.$meter:ident, $request:ident, |$command:ident, $origin:ident| $work:expr) => {{
        let $origin = origin(&$request, $request.get_ref().context.as_ref());
        let $command = $request.into_inner();
        let served = $service.meters.$meter.measure($work).await;
        respond(served)
    }};
}

fn origin<T>(request: &Request<T>, context: Option<&kvrpcpb::Context>) -> Origin {
    let execution_ms = context.map_or(0, |context| context.max_execution_duration_ms);
    Origin {
        deadline: Deadline::of(request.metadata(), execution_ms),
        client: request
            .extensions()
            .get::<Call>()
            .map(|call| call.client().clone()),
    }
}

fn respond<A>(served: Served<A>) -> Result<Response<A>, Status> {
    let (message, reserved) = served?;
    let mut response = Response::new(message);
    if let Some(reserved) = reserved {
        let outbox = Outbox::default();
        outbox.put(reserved);
        response.extensions_mut().insert(outbox);
    }
    Ok(response)
}

/// How far each read reaches.
pub(super) trait Extent {
    fn reach(&self) -> Reach;
}

fn few_or_many(rows: u64) -> Reach {
    if rows <= ROWS_HERE_MAX {
        Reach::Few
    } else {
        Reach::Many
    }
}

impl Extent for RawGetRequest {
    fn reach(&self) -> Reach {
        Reach::Point
    }
}

impl Extent for RawGetKeyTtlRequest {
    fn reach(&self) -> Reach {
        Reach::Point
    }
}

impl Extent for RawBatchGetRequest {
    fn reach(&self) -> Reach {
        few_or_many(self.keys.len() as u64)
    }
}

impl Extent for RawScanRequest {
    fn reach(&self) -> Reach {
        few_or_many(u64::from(self.limit))
    }
}

impl Extent for RawBatchScanRequest {
    fn reach(&self) -> Reach {
        few_or_many(u64::from(self.each_limit).saturating_mul(self.ranges.len() as u64))
    }
}

impl Extent for RawChecksumRequest {
    fn reach(&self) -> Reach {
        Reach::Many
    }
}

impl Kv {
    /// Cuts a region (wire, section 8.5).
    async fn split(
        &self,
        request: SplitRegionRequest,
        origin: &Origin,
    ) -> Served<SplitRegionResponse> {
        let response = match self.try_split(&request, origin).await {
            Ok(regions) => split_response(regions),
            Err(Stop::Region(error)) => split_error(*error),
            Err(Stop::Refused(refusal)) => {
                split_error(region_error::other(format!("failed to split: {refusal}")))
            }
            Err(Stop::Status(status)) => return Err(status),
        };
        Ok((response, None))
    }

    async fn try_split(
        &self,
        request: &SplitRegionRequest,
        origin: &Origin,
    ) -> Result<Vec<Region>, Stop> {
        let context = self.admit(request.context.as_ref())?;
        let serving = self.leading(&context)?;
        let kind = if request.is_raw_kv {
            Kind::Raw
        } else {
            Kind::Txn
        };
        let mode = self
            .mode(request.context.as_ref(), kind, origin.deadline)
            .await?;
        let keys = flotilla_kv::split_keys(mode, &serving.region, request)
            .map_err(|failure| self.stop(failure))?;
        let (answer, told) = answer_channel();
        let input = PeerInput::Split {
            context: Some(context),
            keys,
            answer,
        };
        self.deliver(context.region, input, origin.deadline).await?;
        let regions = origin
            .deadline
            .bound(told)
            .await
            .map_err(passed)?
            .map_err(closing)?;
        regions.map_err(|error| envelope::region_error(error, context.region).into())
    }
}

fn split_response(regions: Vec<Region>) -> SplitRegionResponse {
    match &regions[..] {
        [] | [_] => split_error(region_error::other("failed to split: nothing was cut off")),
        [left, right] => SplitRegionResponse {
            left: Some(left.clone()),
            right: Some(right.clone()),
            regions,
            ..SplitRegionResponse::default()
        },
        _ => SplitRegionResponse {
            regions,
            ..SplitRegionResponse::default()
        },
    }
}

fn split_error(error: errorpb::Error) -> SplitRegionResponse {
    SplitRegionResponse {
        region_error: Some(error.into()),
        ..SplitRegionResponse::default()
    }
}

/// What every call that is known and not served answers.
pub(super) fn not_served(call: &str, why: &str) -> Status {
    Status::unimplemented(format!(
        "{call} is not served by this version of flotilla: {why}"
    ))
}

pub(super) const TRANSACTIONS: &str = "it offers RawKV only, transactions come later";
const COPROCESSOR: &str = "there is no coprocessor";
const STALE_READS: &str = "there are no stale reads";

/// Written as `async_trait` would: its attribute does not see through a macro.
macro_rules! not_served {
    ($($method:ident($request:ty) -> $response:ty: $call:literal, $why:expr;)+) => {$(
        fn $method<'a, 'b>(
            &'a self,
            _: Request<$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<$response>, Status>> + Send + 'b>>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(std::future::ready(Err(not_served($call, $why))))
        }
    )+};
}

#[tonic::async_trait]
impl Tikv for TikvService {
    async fn raw_get(
        &self,
        request: Request<RawGetRequest>,
    ) -> Result<Response<RawGetResponse>, Status> {
        serve!(self.raw_get, request, |command, origin| self.kv.read(
            command,
            &origin,
            Reach::Point
        ))
    }

    async fn raw_get_key_ttl(
        &self,
        request: Request<RawGetKeyTtlRequest>,
    ) -> Result<Response<RawGetKeyTtlResponse>, Status> {
        serve!(self.raw_get_key_ttl, request, |command, origin| self
            .kv
            .read(command, &origin, Reach::Point))
    }

    async fn raw_batch_get(
        &self,
        request: Request<RawBatchGetRequest>,
    ) -> Result<Response<RawBatchGetResponse>, Status> {
        let reach = request.get_ref().reach();
        serve!(self.raw_batch_get, request, |command, origin| self
            .kv
            .read(command, &origin, reach))
    }

    async fn raw_scan(
        &self,
        request: Request<RawScanRequest>,
    ) -> Result<Response<RawScanResponse>, Status> {
        let reach = request.get_ref().reach();
        serve!(self.raw_scan, request, |command, origin| self
            .kv
            .read(command, &origin, reach))
    }

    async fn raw_batch_scan(
        &self,
        request: Request<RawBatchScanRequest>,
    ) -> Result<Response<RawBatchScanResponse>, Status> {
        let reach = request.get_ref().reach();
        serve!(self.raw_batch_scan, request, |command, origin| self
            .kv
            .read(command, &origin, reach))
    }

    async fn raw_checksum(
        &self,
        request: Request<RawChecksumRequest>,
    ) -> Result<Response<RawChecksumResponse>, Status> {
        serve!(self.raw_checksum, request, |command, origin| self.kv.read(
            command,
            &origin,
            Reach::Many
        ))
    }

    async fn raw_put(
        &self,
        request: Request<RawPutRequest>,
    ) -> Result<Response<RawPutResponse>, Status> {
        serve!(self.raw_put, request, |command, origin| self
            .kv
            .write(command, &origin, false))
    }

    async fn raw_batch_put(
        &self,
        request: Request<RawBatchPutRequest>,
    ) -> Result<Response<RawBatchPutResponse>, Status> {
        serve!(self.raw_batch_put, request, |command, origin| self
            .kv
            .write(command, &origin, false))
    }

    async fn raw_delete(
        &self,
        request: Request<RawDeleteRequest>,
    ) -> Result<Response<RawDeleteResponse>, Status> {
        serve!(self.raw_delete, request, |command, origin| self
            .kv
            .write(command, &origin, true))
    }

    async fn raw_batch_delete(
        &self,
        request: Request<RawBatchDeleteRequest>,
    ) -> Result<Response<RawBatchDeleteResponse>, Status> {
        serve!(self.raw_batch_delete, request, |command, origin| self
            .kv
            .write(command, &origin, true))
    }

    async fn raw_delete_range(
        &self,
        request: Request<RawDeleteRangeRequest>,
    ) -> Result<Response<RawDeleteRangeResponse>, Status> {
        serve!(self.raw_delete_range, request, |command, origin| self
            .kv
            .write(command, &origin, true))
    }

    async fn raw_compare_and_swap(
        &self,
        request: Request<RawCasRequest>,
    ) -> Result<Response<RawCasResponse>, Status> {
        let frees = request.get_ref().delete;
        serve!(self.raw_compare_and_swap, request, |command, origin| self
            .kv
            .read_write(command, &origin, frees))
    }

    async fn split_region(
        &self,
        request: Request<SplitRegionRequest>,
    ) -> Result<Response<SplitRegionResponse>, Status> {
        serve!(self.split_region, request, |command, origin| self
            .kv
            .split(command, &origin))
    }

    async fn batch_commands(
        &self,
        request: Request<Streaming<BatchCommandsRequest>>,
    ) -> Result<Response<BoxStream<BatchCommandsResponse>>, Status> {
        let call = request.extensions().get::<Call>().cloned();
        Ok(batch::serve(
            Arc::clone(&self.kv),
            Arc::clone(&self.meters),
            request.into_inner(),
            call,
            self.stopping.clone(),
        ))
    }

    async fn get_health_feedback(
        &self,
        request: Request<kvrpcpb::GetHealthFeedbackRequest>,
    ) -> Result<Response<kvrpcpb::GetHealthFeedbackResponse>, Status> {
        let _ = request;
        Ok(Response::new(health_feedback(self.kv.store().ids.store_id)))
    }

    async fn coprocessor_stream(
        &self,
        _: Request<coprocessor::Request>,
    ) -> Result<Response<BoxStream<coprocessor::Response>>, Status> {
        Err(not_served("CoprocessorStream", COPROCESSOR))
    }

    not_served! {
        kv_get(kvrpcpb::GetRequest) -> kvrpcpb::GetResponse: "KvGet", TRANSACTIONS;
        kv_scan(kvrpcpb::ScanRequest) -> kvrpcpb::ScanResponse: "KvScan", TRANSACTIONS;
        kv_prewrite(kvrpcpb::PrewriteRequest) -> kvrpcpb::PrewriteResponse: "KvPrewrite", TRANSACTIONS;
        kv_pessimistic_lock(kvrpcpb::PessimisticLockRequest) -> kvrpcpb::PessimisticLockResponse:
            "KvPessimisticLock", TRANSACTIONS;
        kv_pessimistic_rollback(kvrpcpb::PessimisticRollbackRequest) -> kvrpcpb::PessimisticRollbackResponse:
            "KVPessimisticRollback", TRANSACTIONS;
        kv_txn_heart_beat(kvrpcpb::TxnHeartBeatRequest) -> kvrpcpb::TxnHeartBeatResponse:
            "KvTxnHeartBeat", TRANSACTIONS;
        kv_check_txn_status(kvrpcpb::CheckTxnStatusRequest) -> kvrpcpb::CheckTxnStatusResponse:
            "KvCheckTxnStatus", TRANSACTIONS;
        kv_check_secondary_locks(kvrpcpb::CheckSecondaryLocksRequest) -> kvrpcpb::CheckSecondaryLocksResponse:
            "KvCheckSecondaryLocks", TRANSACTIONS;
        kv_commit(kvrpcpb::CommitRequest) -> kvrpcpb::CommitResponse: "KvCommit", TRANSACTIONS;
        kv_cleanup(kvrpcpb::CleanupRequest) -> kvrpcpb::CleanupResponse: "KvCleanup", TRANSACTIONS;
        kv_batch_get(kvrpcpb::BatchGetRequest) -> kvrpcpb::BatchGetResponse: "KvBatchGet", TRANSACTIONS;
        kv_batch_rollback(kvrpcpb::BatchRollbackRequest) -> kvrpcpb::BatchRollbackResponse:
            "KvBatchRollback", TRANSACTIONS;
        kv_scan_lock(kvrpcpb::ScanLockRequest) -> kvrpcpb::ScanLockResponse: "KvScanLock", TRANSACTIONS;
        kv_resolve_lock(kvrpcpb::ResolveLockRequest) -> kvrpcpb::ResolveLockResponse: "KvResolveLock", TRANSACTIONS;
        kv_gc(kvrpcpb::GcRequest) -> kvrpcpb::GcResponse: "KvGC", TRANSACTIONS;
        kv_delete_range(kvrpcpb::DeleteRangeRequest) -> kvrpcpb::DeleteRangeResponse: "KvDeleteRange", TRANSACTIONS;
        kv_flush(kvrpcpb::FlushRequest) -> kvrpcpb::FlushResponse: "KvFlush", TRANSACTIONS;
        kv_buffer_batch_get(kvrpcpb::BufferBatchGetRequest) -> kvrpcpb::BufferBatchGetResponse:
            "KvBufferBatchGet", TRANSACTIONS;
        mvcc_get_by_key(kvrpcpb::MvccGetByKeyRequest) -> kvrpcpb::MvccGetByKeyResponse:
            "MvccGetByKey", TRANSACTIONS;
        mvcc_get_by_start_ts(kvrpcpb::MvccGetByStartTsRequest) -> kvrpcpb::MvccGetByStartTsResponse:
            "MvccGetByStartTs", TRANSACTIONS;
        get_lock_wait_info(kvrpcpb::GetLockWaitInfoRequest) -> kvrpcpb::GetLockWaitInfoResponse:
            "GetLockWaitInfo", TRANSACTIONS;
        broadcast_txn_status(kvrpcpb::BroadcastTxnStatusRequest) -> kvrpcpb::BroadcastTxnStatusResponse:
            "BroadcastTxnStatus", TRANSACTIONS;
        unsafe_destroy_range(kvrpcpb::UnsafeDestroyRangeRequest) -> kvrpcpb::UnsafeDestroyRangeResponse:
            "UnsafeDestroyRange", "it comes with transactions; RawDeleteRange removes raw data";
        coprocessor(coprocessor::Request) -> coprocessor::Response: "Coprocessor", COPROCESSOR;
        read_index(kvrpcpb::ReadIndexRequest) -> kvrpcpb::ReadIndexResponse:
            "ReadIndex", "stores agree on read indexes among themselves";
        check_leader(kvrpcpb::CheckLeaderRequest) -> kvrpcpb::CheckLeaderResponse: "CheckLeader", STALE_READS;
        get_store_safe_ts(kvrpcpb::StoreSafeTsRequest) -> kvrpcpb::StoreSafeTsResponse:
            "GetStoreSafeTS", STALE_READS;
    }
}

/// Scores go from here to 100.
const SLOW_SCORE_BEST: i32 = 1;

/// This store is as well as it can be.
pub(super) fn health_feedback(store_id: u64) -> kvrpcpb::GetHealthFeedbackResponse {
    kvrpcpb::GetHealthFeedbackResponse {
        health_feedback: Some(kvrpcpb::HealthFeedback {
            store_id,
            feedback_seq_no: 1,
            slow_score: SLOW_SCORE_BEST,
        }),
        ..Default::default()
    }
}
