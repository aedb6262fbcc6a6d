//! `BatchCommands`: many calls over one stream, each answered by itself, in any order (wire,
//! section 6).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use flotilla_kv::{Answer, region_error};
use flotilla_proto::errorpb;
use flotilla_proto::tikvpb::batch_commands_request::request::Cmd as Asked;
use flotilla_proto::tikvpb::batch_commands_response::Response as Item;
use flotilla_proto::tikvpb::batch_commands_response::response::Cmd as Told;
use flotilla_proto::tikvpb::{
    BatchCommandsEmptyResponse, BatchCommandsRequest, BatchCommandsResponse,
};
use flotilla_proto::{coprocessor, kvrpcpb};
use prost::Message as _;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tonic::codegen::BoxStream;
use tonic::metadata::MetadataMap;
use tonic::{Response, Status, Streaming};

use super::deadline::Deadline;
use super::kv::{Kv, Origin, Reach, Served};
use super::stopping::Stopping;
use super::tikv::{Extent, Meters, TRANSACTIONS, health_feedback, not_served};
use crate::net::{self, Client, Outbox, Reserved};

/// Calls of one stream that are worked on at once; further ones wait in the socket.
const CALLS_MAX: usize = 1_024;
/// Answers in one message ...
const ANSWERS_MAX: usize = 128;
/// ... and bytes, unless a single answer has more: a message is in memory as a whole.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// The shortest delay of an `Empty`.
const EMPTY_DELAY_MIN: Duration = Duration::from_millis(10);
/// The longest: it is a probe, not a timer.
const EMPTY_DELAY_MAX: Duration = Duration::from_secs(10);

type Done = (u64, Item, Option<Reserved>);

/// Ends the reader of a stream whose answers nobody reads any more.
struct Reader(AbortHandle);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves one stream.
pub(super) fn serve(
    kv: Arc<Kv>,
    meters: Arc<Meters>,
    incoming: Streaming<BatchCommandsRequest>,
    caller: Option<net::Call>,
    stopping: Stopping,
) -> Response<BoxStream<BatchCommandsResponse>> {
    let (tell, told) = mpsc::channel(ANSWERS_MAX);
    let (end, ended) = tokio::sync::oneshot::channel();
    let reader = tokio::spawn(async move {
        // A stream that ends well ends with all its answers.
        if let Err(status) = read(kv, meters, incoming, caller, tell, stopping).await {
            let _ = end.send(status);
        }
    });
    let outbox = Outbox::default();
    let state = State {
        told,
        ready: VecDeque::new(),
        ended: Some(ended),
        outbox: outbox.clone(),
        _reader: Reader(reader.abort_handle()),
    };
    let answers: BoxStream<_> = Box::pin(futures::stream::unfold(state, State::next));
    let mut response = Response::new(answers);
    response.extensions_mut().insert(outbox);
    response
}

struct State {
    told: mpsc::Receiver<Done>,
    /// Answers for the next messages.
    ready: VecDeque<Done>,
    ended: Option<tokio::sync::oneshot::Receiver<Status>>,
    /// Memory of the message that is sent next.
    outbox: Outbox,
    _reader: Reader,
}

impl State {
    async fn next(mut self) -> Option<(Result<BatchCommandsResponse, Status>, Self)> {
        if self.ready.is_empty() {
            let mut done = Vec::with_capacity(ANSWERS_MAX);
            if self.told.recv_many(&mut done, ANSWERS_MAX).await == 0 {
                let status = self.ended.take()?.await.ok()?;
                return Some((Err(status), self));
            }
            self.ready.extend(done);
        }
        let (mut message, mut bytes) = (BatchCommandsResponse::default(), 0);
        while let Some((id, item, reserved)) = self.ready.pop_front() {
            bytes += item.encoded_len();
            if bytes > MESSAGE_BYTES_MAX && !message.responses.is_empty() {
                self.ready.push_front((id, item, reserved));
                break;
            }
            message.request_ids.push(id);
            message.responses.push(item);
            if let Some(reserved) = reserved {
                self.outbox.put(reserved);
            }
        }
        Some((Ok(message), self))
    }
}

async fn read(
    kv: Arc<Kv>,
    meters: Arc<Meters>,
    mut incoming: Streaming<BatchCommandsRequest>,
    caller: Option<net::Call>,
    tell: mpsc::Sender<Done>,
    mut stopping: Stopping,
) -> Result<(), Status> {
    let client = caller.as_ref().map(|caller| caller.client().clone());
    let room = Arc::new(Semaphore::new(CALLS_MAX));
    let mut calls = JoinSet::new();
    loop {
        let message = tokio::select! {
            () = stopping.wait() => break,
            message = incoming.message() => message?,
        };
        let Some(message) = message else { break };
        let held = caller.as_ref().map(|caller| Arc::new(caller.message()));
        if message.requests.len() != message.request_ids.len() {
            return Err(Status::invalid_argument(
                "a batch needs one request id per request",
            ));
        }
        for (request, id) in message.requests.into_iter().zip(message.request_ids) {
            let permit = Arc::clone(&room)
                .acquire_owned()
                .await
                .map_err(|_| Status::cancelled("stopping"))?;
            let (kv, meters, client, tell, held) = (
                Arc::clone(&kv),
                Arc::clone(&meters),
                client.clone(),
                tell.clone(),
                held.clone(),
            );
            calls.spawn(async move {
                let (item, reserved) = call(&kv, &meters, request.cmd, client).await;
                // The stream may be gone.
                let _ = tell.send((id, Item { cmd: item }, reserved)).await;
                drop((permit, held));
            });
            while calls.try_join_next().is_some() {}
        }
    }
    // Every call that came in is answered, also when the node stops.
    while calls.join_next().await.is_some() {}
    Ok(())
}

/// A call that failed below its response still gets one: no answer at all would leave the client
/// waiting (wire, section 6.5).
fn wrap<A: Answer>(served: Served<A>, tell: fn(A) -> Told) -> (Option<Told>, Option<Reserved>) {
    match served {
        Ok((response, reserved)) => (Some(tell(response)), reserved),
        Err(status) => (Some(tell(A::region_error(told_status(&status)))), None),
    }
}

fn told_status(status: &Status) -> errorpb::Error {
    region_error::other(format!("{}: {}", status.code(), status.message()))
}

macro_rules! no_transactions {
    ($call:literal, $variant:ident, $response:ident) => {{
        let error = Some(told_status(&not_served($call, TRANSACTIONS)));
        (
            Some(Told::$variant(kvrpcpb::$response {
                region_error: error.map(Into::into),
                ..Default::default()
            })),
            None,
        )
    }};
}

async fn call(
    kv: &Kv,
    meters: &Meters,
    asked: Option<Asked>,
    client: Option<Client>,
) -> (Option<Told>, Option<Reserved>) {
    let origin = |context: Option<&kvrpcpb::Context>| Origin {
        deadline: Deadline::of(
            &MetadataMap::new(),
            context.map_or(0, |context| context.max_execution_duration_ms),
        ),
        client: client.clone(),
    };
    macro_rules! read {
        ($meter:ident, $request:ident, $variant:ident) => {{
            let (reach, origin) = ($request.reach(), origin($request.context.as_ref()));
            wrap(
                meters
                    .$meter
                    .measure(kv.read($request, &origin, reach))
                    .await,
                Told::$variant,
            )
        }};
    }
    macro_rules! write {
        ($meter:ident, $request:ident, $variant:ident, $frees:literal) => {{
            let origin = origin($request.context.as_ref());
            wrap(
                meters
                    .$meter
                    .measure(kv.write($request, &origin, $frees))
                    .await,
                Told::$variant,
            )
        }};
    }
    match asked {
        None => (None, None),
        Some(Asked::RawGet(request)) => {
            let origin = origin(request.context.as_ref());
            wrap(
                meters
                    .raw_get
                    .measure(kv.read(request, &origin, Reach::Point))
                    .await,
                Told::RawGet,
            )
        }
        Some(Asked::RawBatchGet(request)) => read!(raw_batch_get, request, RawBatchGet),
        Some(Asked::RawScan(request)) => read!(raw_scan, request, RawScan),
        Some(Asked::RawBatchScan(request)) => read!(raw_batch_scan, request, RawBatchScan),
        Some(Asked::RawPut(request)) => write!(raw_put, request, RawPut, false),
        Some(Asked::RawBatchPut(request)) => write!(raw_batch_put, request, RawBatchPut, false),
        Some(Asked::RawDelete(request)) => write!(raw_delete, request, RawDelete, true),
        Some(Asked::RawBatchDelete(request)) => {
            write!(raw_batch_delete, request, RawBatchDelete, true)
        }
        Some(Asked::RawDeleteRange(request)) => {
            write!(raw_delete_range, request, RawDeleteRange, true)
        }
        Some(Asked::Empty(request)) => {
            let delay =
                Duration::from_millis(request.delay_time).clamp(EMPTY_DELAY_MIN, EMPTY_DELAY_MAX);
            tokio::time::sleep(delay).await;
            (
                Some(Told::Empty(BatchCommandsEmptyResponse {
                    test_id: request.test_id,
                })),
                None,
            )
        }
        Some(Asked::GetHealthFeedback(_)) => (
            Some(Told::GetHealthFeedback(health_feedback(
                kv.store().ids.store_id,
            ))),
            None,
        ),
        Some(Asked::Get(_)) => no_transactions!("KvGet", Get, GetResponse),
        Some(Asked::Scan(_)) => no_transactions!("KvScan", Scan, ScanResponse),
        Some(Asked::Prewrite(_)) => no_transactions!("KvPrewrite", Prewrite, PrewriteResponse),
        Some(Asked::Commit(_)) => no_transactions!("KvCommit", Commit, CommitResponse),
        Some(Asked::Cleanup(_)) => no_transactions!("KvCleanup", Cleanup, CleanupResponse),
        Some(Asked::BatchGet(_)) => no_transactions!("KvBatchGet", BatchGet, BatchGetResponse),
        Some(Asked::BatchRollback(_)) => {
            no_transactions!("KvBatchRollback", BatchRollback, BatchRollbackResponse)
        }
        Some(Asked::ScanLock(_)) => no_transactions!("KvScanLock", ScanLock, ScanLockResponse),
        Some(Asked::ResolveLock(_)) => {
            no_transactions!("KvResolveLock", ResolveLock, ResolveLockResponse)
        }
        Some(Asked::Gc(_)) => no_transactions!("KvGC", Gc, GcResponse),
        Some(Asked::DeleteRange(_)) => {
            no_transactions!("KvDeleteRange", DeleteRange, DeleteRangeResponse)
        }
        Some(Asked::PessimisticLock(_)) => {
            no_transactions!(
                "KvPessimisticLock",
                PessimisticLock,
                PessimisticLockResponse
            )
        }
        Some(Asked::PessimisticRollback(_)) => {
            no_transactions!(
                "KVPessimisticRollback",
                PessimisticRollback,
                PessimisticRollbackResponse
            )
        }
        Some(Asked::CheckTxnStatus(_)) => {
            no_transactions!("KvCheckTxnStatus", CheckTxnStatus, CheckTxnStatusResponse)
        }
        Some(Asked::TxnHeartBeat(_)) => {
            no_transactions!("KvTxnHeartBeat", TxnHeartBeat, TxnHeartBeatResponse)
        }
        Some(Asked::CheckSecondaryLocks(_)) => {
            no_transactions!(
                "KvCheckSecondaryLocks",
                CheckSecondaryLocks,
                CheckSecondaryLocksResponse
            )
        }
        Some(Asked::Flush(_)) => no_transactions!("KvFlush", Flush, FlushResponse),
        Some(Asked::BufferBatchGet(_)) => {
            no_transactions!("KvBufferBatchGet", BufferBatchGet, BufferBatchGetResponse)
        }
        // Its response has no field for an error: an answer without a command is one to clients.
        Some(Asked::BroadcastTxnStatus(_)) => (None, None),
        Some(Asked::Coprocessor(_)) => {
            let error = Some(told_status(&not_served(
                "Coprocessor",
                "there is no coprocessor",
            )));
            (
                Some(Told::Coprocessor(coprocessor::Response {
                    region_error: error.map(Box::new),
                    ..Default::default()
                })),
                None,
            )
        }
    }
}
