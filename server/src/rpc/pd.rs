//! The service `pdpb.PD`: every call goes to this node's placement driver.

use std::pin::Pin;

use flotilla_pd::calls;
use flotilla_proto::pdpb as p;
use flotilla_proto::pdpb::pd_server::Pd;
use futures::StreamExt;
use tonic::codegen::BoxStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::stopping::Stopping;
use crate::net::{Call, NoRoom, Outbox, Reserved};
use crate::placement::PdHandle;

/// The service.
#[derive(Clone, Debug)]
pub struct PdService {
    pd: PdHandle,
    stopping: Stopping,
}

impl PdService {
    /// The service in front of `pd`.
    pub fn new(pd: PdHandle, stopping: Stopping) -> Self {
        Self { pd, stopping }
    }
}

/// PD's status as gRPC's.
pub(super) fn status(status: flotilla_pd::Status) -> Status {
    Status::new(Code::from(status.code as i32), status.message)
}

/// Answers per stream that wait for the client to read them.
const ANSWERS_MAX: usize = 64;

/// Answers a stream, one response per request, in order, until either side ends it.
fn serve_stream<Q, A, F>(
    request: Request<Streaming<Q>>,
    mut stopping: Stopping,
    mut serve: impl FnMut(Q) -> F + Send + 'static,
) -> Response<BoxStream<A>>
where
    Q: Clone + Send + 'static,
    A: prost::Message + 'static,
    F: Future<Output = Result<A, Status>> + Send,
{
    let call = request.extensions().get::<Call>().cloned();
    let mut incoming = request.into_inner();
    let (tell, told) = tokio::sync::mpsc::channel(ANSWERS_MAX);
    tokio::spawn(async move {
        loop {
            let message = tokio::select! {
                () = stopping.wait() => Err(Stopping::status()),
                message = incoming.message() => message,
            };
            let _held = call.as_ref().map(Call::message);
            let answer = match message {
                Ok(Some(request)) => answer(request, call.as_ref(), &mut serve).await,
                Ok(None) => return,
                Err(status) => Err(status),
            };
            let ends = answer.is_err();
            // A client that is gone ends the stream as well.
            if tell.send(answer).await.is_err() || ends {
                return;
            }
        }
    });
    let outbox = Outbox::default();
    let memory = outbox.clone();
    let answers = tokio_stream::wrappers::ReceiverStream::new(told);
    let answers: BoxStream<A> = Box::pin(answers.map(move |answer| {
        let (answer, reserved) = answer?;
        if let Some(reserved) = reserved {
            memory.put(reserved);
        }
        Ok(answer)
    }));
    let mut response = Response::new(answers);
    response.extensions_mut().insert(outbox);
    response
}

/// Serves one request of a stream; once more if there was no memory for its answer.
async fn answer<Q, A, F>(
    request: Q,
    call: Option<&Call>,
    serve: &mut impl FnMut(Q) -> F,
) -> Result<(A, Option<Reserved>), Status>
where
    Q: Clone,
    A: prost::Message,
    F: Future<Output = Result<A, Status>>,
{
    let Some(call) = call else {
        return Ok((serve(request).await?, None));
    };
    let answer = serve(request.clone()).await?;
    let bytes = answer.encoded_len() as u64;
    match call.client().try_reserve(bytes) {
        Ok(reserved) => Ok((answer, reserved)),
        Err(NoRoom) => {
            drop(answer);
            let reserved = call.client().reserve(bytes).await;
            Ok((serve(request).await?, Some(reserved)))
        }
    }
}

/// Known, and not offered.
macro_rules! not_offered {
    ($($method:ident($request:ident) -> $response:ident: $call:literal;)+) => {$(
        fn $method<'a, 'b>(
            &'a self,
            _: Request<p::$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<p::$response>, Status>> + Send + 'b>>
        where
            'a: 'b,
            Self: 'b,
        {
            let refusal = status(flotilla_pd::Status::unimplemented($call));
            Box::pin(std::future::ready(Err(refusal)))
        }
    )+};
}

#[tonic::async_trait]
impl Pd for PdService {
    async fn tso(
        &self,
        request: Request<Streaming<p::TsoRequest>>,
    ) -> Result<Response<BoxStream<p::TsoResponse>>, Status> {
        let pd = self.pd.clone();
        let serve = move |request: p::TsoRequest| {
            let pd = pd.clone();
            async move {
                let served = pd.timestamps(|oracle, leads| {
                    oracle.serve(
                        crate::store::clock::mono(),
                        crate::store::clock::wall(),
                        &request,
                        leads,
                    )
                });
                served.await.map_err(status)
            }
        };
        Ok(serve_stream(request, self.stopping.clone(), serve))
    }

    async fn get_min_ts(
        &self,
        request: Request<p::GetMinTsRequest>,
    ) -> Result<Response<p::GetMinTsResponse>, Status> {
        let request = request.into_inner();
        let served = self.pd.timestamps(|oracle, leads| {
            oracle.serve_min_ts(
                crate::store::clock::mono(),
                crate::store::clock::wall(),
                &request,
                leads,
            )
        });
        served.await.map(Response::new).map_err(status)
    }

    async fn query_region(
        &self,
        request: Request<Streaming<p::QueryRegionRequest>>,
    ) -> Result<Response<BoxStream<p::QueryRegionResponse>>, Status> {
        let pd = self.pd.clone();
        let serve = move |request| {
            let pd = pd.clone();
            async move { pd.call::<calls::QueryRegion>(request).await.map_err(status) }
        };
        Ok(serve_stream(request, self.stopping.clone(), serve))
    }

    async fn region_heartbeat(
        &self,
        request: Request<Streaming<p::RegionHeartbeatRequest>>,
    ) -> Result<Response<BoxStream<p::RegionHeartbeatResponse>>, Status> {
        let heartbeats = self.pd.heartbeats().await.map_err(status)?;
        let sender = heartbeats.sender();
        let call = request.extensions().get::<Call>().cloned();
        let mut incoming = request.into_inner();
        let mut stopping = self.stopping.clone();
        tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    () = stopping.wait() => return,
                    message = incoming.message() => message,
                };
                let _held = call.as_ref().map(Call::message);
                let Ok(Some(heartbeat)) = message else { return };
                if !sender.send(heartbeat).await {
                    return;
                }
            }
        });
        let instructions = tokio_stream::wrappers::ReceiverStream::new(heartbeats.instructions);
        let mut stopping = self.stopping.clone();
        let instructions = instructions
            .map(|instruction| instruction.map_err(status))
            .take_until(async move { stopping.wait().await });
        Ok(Response::new(Box::pin(instructions)))
    }

    pd_calls! {
        p;
        get_members(GetMembers: GetMembersRequest) -> GetMembersResponse;
        get_cluster_info(GetClusterInfo: GetClusterInfoRequest) -> GetClusterInfoResponse;
        bootstrap(Bootstrap: BootstrapRequest) -> BootstrapResponse;
        is_bootstrapped(IsBootstrapped: IsBootstrappedRequest) -> IsBootstrappedResponse;
        alloc_id(AllocID: AllocIdRequest) -> AllocIdResponse;
        get_store(GetStore: GetStoreRequest) -> GetStoreResponse;
        put_store(PutStore: PutStoreRequest) -> PutStoreResponse;
        get_all_stores(GetAllStores: GetAllStoresRequest) -> GetAllStoresResponse;
        store_heartbeat(StoreHeartbeat: StoreHeartbeatRequest) -> StoreHeartbeatResponse;
        get_region(GetRegion: GetRegionRequest) -> GetRegionResponse;
        get_prev_region(GetPrevRegion: GetRegionRequest) -> GetRegionResponse;
        get_region_by_id(GetRegionByID: GetRegionByIdRequest) -> GetRegionResponse;
        scan_regions(ScanRegions: ScanRegionsRequest) -> ScanRegionsResponse;
        batch_scan_regions(BatchScanRegions: BatchScanRegionsRequest) -> BatchScanRegionsResponse;
        ask_split(AskSplit: AskSplitRequest) -> AskSplitResponse;
        ask_batch_split(AskBatchSplit: AskBatchSplitRequest) -> AskBatchSplitResponse;
        report_split(ReportSplit: ReportSplitRequest) -> ReportSplitResponse;
        report_batch_split(ReportBatchSplit: ReportBatchSplitRequest) -> ReportBatchSplitResponse;
        get_cluster_config(GetClusterConfig: GetClusterConfigRequest) -> GetClusterConfigResponse;
        put_cluster_config(PutClusterConfig: PutClusterConfigRequest) -> PutClusterConfigResponse;
        scatter_region(ScatterRegion: ScatterRegionRequest) -> ScatterRegionResponse;
        get_operator(GetOperator: GetOperatorRequest) -> GetOperatorResponse;
        split_regions(SplitRegions: SplitRegionsRequest) -> SplitRegionsResponse;
        split_and_scatter_regions(SplitAndScatterRegions: SplitAndScatterRegionsRequest)
            -> SplitAndScatterRegionsResponse;
        get_gc_safe_point(GetGCSafePoint: GetGcSafePointRequest) -> GetGcSafePointResponse;
        update_gc_safe_point(UpdateGCSafePoint: UpdateGcSafePointRequest) -> UpdateGcSafePointResponse;
        update_service_gc_safe_point(UpdateServiceGCSafePoint: UpdateServiceGcSafePointRequest)
            -> UpdateServiceGcSafePointResponse;
        load_global_config(LoadGlobalConfig: LoadGlobalConfigRequest) -> LoadGlobalConfigResponse;
        store_global_config(StoreGlobalConfig: StoreGlobalConfigRequest) -> StoreGlobalConfigResponse;
    }
    async fn watch_global_config(
        &self,
        _: Request<p::WatchGlobalConfigRequest>,
    ) -> Result<Response<BoxStream<p::WatchGlobalConfigResponse>>, Status> {
        Err(status(flotilla_pd::Status::unimplemented(
            "WatchGlobalConfig",
        )))
    }

    async fn sync_regions(
        &self,
        _: Request<Streaming<p::SyncRegionRequest>>,
    ) -> Result<Response<BoxStream<p::SyncRegionResponse>>, Status> {
        Err(status(flotilla_pd::Status::unimplemented("SyncRegions")))
    }

    async fn report_buckets(
        &self,
        _: Request<Streaming<p::ReportBucketsRequest>>,
    ) -> Result<Response<p::ReportBucketsResponse>, Status> {
        Err(status(flotilla_pd::Status::unimplemented("ReportBuckets")))
    }

    not_offered! {
        is_snapshot_recovering(IsSnapshotRecoveringRequest) -> IsSnapshotRecoveringResponse: "IsSnapshotRecovering";
        get_gc_safe_point_v2(GetGcSafePointV2Request) -> GetGcSafePointV2Response: "GetGCSafePointV2";
        update_gc_safe_point_v2(UpdateGcSafePointV2Request) -> UpdateGcSafePointV2Response: "UpdateGCSafePointV2";
        update_service_safe_point_v2(UpdateServiceSafePointV2Request) -> UpdateServiceSafePointV2Response:
            "UpdateServiceSafePointV2";
        get_all_gc_safe_point_v2(GetAllGcSafePointV2Request) -> GetAllGcSafePointV2Response: "GetAllGCSafePointV2";
        advance_gc_safe_point(AdvanceGcSafePointRequest) -> AdvanceGcSafePointResponse: "AdvanceGCSafePoint";
        advance_txn_safe_point(AdvanceTxnSafePointRequest) -> AdvanceTxnSafePointResponse: "AdvanceTxnSafePoint";
        set_gc_barrier(SetGcBarrierRequest) -> SetGcBarrierResponse: "SetGCBarrier";
        delete_gc_barrier(DeleteGcBarrierRequest) -> DeleteGcBarrierResponse: "DeleteGCBarrier";
        set_global_gc_barrier(SetGlobalGcBarrierRequest) -> SetGlobalGcBarrierResponse: "SetGlobalGCBarrier";
        delete_global_gc_barrier(DeleteGlobalGcBarrierRequest) -> DeleteGlobalGcBarrierResponse:
            "DeleteGlobalGCBarrier";
        get_gc_state(GetGcStateRequest) -> GetGcStateResponse: "GetGCState";
        get_all_keyspaces_gc_states(GetAllKeyspacesGcStatesRequest) -> GetAllKeyspacesGcStatesResponse:
            "GetAllKeyspacesGCStates";
        report_min_resolved_ts(ReportMinResolvedTsRequest) -> ReportMinResolvedTsResponse: "ReportMinResolvedTS";
        set_external_timestamp(SetExternalTimestampRequest) -> SetExternalTimestampResponse: "SetExternalTimestamp";
        get_external_timestamp(GetExternalTimestampRequest) -> GetExternalTimestampResponse: "GetExternalTimestamp";
    }
}
