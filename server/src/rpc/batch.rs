//! `BatchCommands`: many calls over one stream, each answered by itself, in any order (wire,
//! section 6).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
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
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use prost::Message as _;
use tokio::task::JoinSet;
use tonic::codegen::BoxStream;
use tonic::metadata::MetadataMap;
use tonic::{Response, Status, Streaming};

use super::deadline::Deadline;
use super::kv::{Kv, Origin, Reach, Served};
use super::stopping::Stopping;
use super::tikv::{Extent, Meters, TRANSACTIONS, health_feedback, not_served};
use crate::net::{self, Client, Message, Outbox, Reserved};

/// Calls of one stream that are worked on at once; further ones wait, at last in the socket.
const CALLS_MAX: usize = 1_024;
/// Answers in one message ...
const ANSWERS_MAX: usize = 128;
/// ... and bytes, unless a single answer has more: a message is in memory as a whole.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// The shortest delay of an `Empty`.
const EMPTY_DELAY_MIN: Duration = Duration::from_millis(10);
/// The longest: it is a probe, not a timer.
const EMPTY_DELAY_MAX: Duration = Duration::from_secs(10);

/// An answer, and its memory until it is sent.
type Done = (u64, Item, Option<Reserved>);
type Calls = FuturesUnordered<BoxFuture<'static, Done>>;

/// Serves one stream. It is worked on by whoever sends its answers: what is not read is not worked
/// on either, and a call that needs nobody else costs neither a task nor a channel.
pub(super) fn serve(
    kv: Arc<Kv>,
    meters: Arc<Meters>,
    incoming: Streaming<BatchCommandsRequest>,
    caller: Option<net::Call>,
    mut stopping: Stopping,
) -> Response<BoxStream<BatchCommandsResponse>> {
    let outbox = Outbox::default();
    let state = State {
        origin: Arc::new(Callee {
            kv,
            meters,
            client: caller.as_ref().map(|caller| caller.client().clone()),
        }),
        caller,
        incoming: Some(incoming),
        stopped: Box::pin(async move { stopping.wait().await }),
        asked: VecDeque::new(),
        calls: Calls::new(),
        done: VecDeque::new(),
        failed: None,
        outbox: outbox.clone(),
    };
    let answers: BoxStream<_> = Box::pin(futures::stream::unfold(state, State::next));
    let mut response = Response::new(answers);
    response.extensions_mut().insert(outbox);
    response
}

/// Who carries calls out, and for whom.
struct Callee {
    kv: Arc<Kv>,
    meters: Arc<Meters>,
    client: Option<Client>,
}

/// A call that came in and is not begun.
struct Waiting {
    id: u64,
    cmd: Option<Asked>,
    held: Option<Arc<Message>>,
}

struct State {
    origin: Arc<Callee>,
    caller: Option<net::Call>,
    /// `None` once no more calls come in.
    incoming: Option<Streaming<BatchCommandsRequest>>,
    /// Ready when the node stops: every call that came in is still answered.
    stopped: BoxFuture<'static, ()>,
    /// The rest of the last message; the next one is read when all of it is begun.
    asked: VecDeque<Waiting>,
    /// At most [`CALLS_MAX`].
    calls: Calls,
    /// Answers for the next messages.
    done: VecDeque<Done>,
    /// What the stream ends with, if not well.
    failed: Option<Status>,
    /// Memory of the message that is sent next.
    outbox: Outbox,
}

impl State {
    async fn next(mut self) -> Option<(Result<BatchCommandsResponse, Status>, Self)> {
        poll_fn(|cx| self.work(cx)).await;
        if !self.done.is_empty() {
            return Some((Ok(self.message()), self));
        }
        let status = self.failed.take()?;
        Some((Err(status), self))
    }

    /// Goes on until there are answers and nothing else is at hand, or the stream ends.
    fn work(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.begin(cx);
            while self.done.len() < ANSWERS_MAX
                && let Poll::Ready(Some(done)) = self.calls.poll_next_unpin(cx)
            {
                self.done.push_back(done);
            }
            if self.done.len() >= ANSWERS_MAX {
                return Poll::Ready(());
            }
            if self.asked.is_empty() && self.read(cx) {
                continue;
            }
            let over = self.incoming.is_none() && self.calls.is_empty() && self.asked.is_empty();
            return match self.done.is_empty() && !over {
                true => Poll::Pending,
                false => Poll::Ready(()),
            };
        }
    }

    /// Begins what waits, as far as there is room. Most reads are done by that.
    fn begin(&mut self, cx: &mut Context<'_>) {
        while self.calls.len() < CALLS_MAX
            && self.done.len() < ANSWERS_MAX
            && let Some(waiting) = self.asked.pop_front()
        {
            let mut call = start(&self.origin, waiting);
            match call.as_mut().poll(cx) {
                Poll::Ready(done) => self.done.push_back(done),
                Poll::Pending => self.calls.push(call),
            }
        }
    }

    /// Takes the next message in; `false`: there is none at hand.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(incoming) = &mut self.incoming else {
            return false;
        };
        if self.stopped.as_mut().poll(cx).is_ready() {
            self.incoming = None;
            return false;
        }
        let message = match incoming.poll_next_unpin(cx) {
            Poll::Pending => return false,
            Poll::Ready(Some(Ok(message))) => message,
            Poll::Ready(None) => {
                self.incoming = None;
                return false;
            }
            Poll::Ready(Some(Err(status))) => return self.fail(status),
        };
        if message.requests.len() != message.request_ids.len() {
            let text = "a batch needs one request id per request";
            return self.fail(Status::invalid_argument(text));
        }
        let held = self.caller.as_ref().map(|call| Arc::new(call.message()));
        let asked = message.requests.into_iter().zip(message.request_ids);
        self.asked.extend(asked.map(|(request, id)| Waiting {
            id,
            cmd: request.cmd,
            held: held.clone(),
        }));
        true
    }

    /// The stream ends: what is done is still told.
    fn fail(&mut self, status: Status) -> bool {
        self.failed = Some(status);
        self.incoming = None;
        self.calls = Calls::new();
        false
    }

    fn message(&mut self) -> BatchCommandsResponse {
        let (mut message, mut bytes) = (BatchCommandsResponse::default(), 0);
        while let Some((id, item, reserved)) = self.done.pop_front() {
            bytes += item.encoded_len();
            if bytes > MESSAGE_BYTES_MAX && !message.responses.is_empty() {
                self.done.push_front((id, item, reserved));
                break;
            }
            message.request_ids.push(id);
            message.responses.push(item);
            if let Some(reserved) = reserved {
                self.outbox.put(reserved);
            }
        }
        message
    }
}

/// The call, not begun yet. What may keep a thread for long gets a task of its own.
fn start(callee: &Arc<Callee>, waiting: Waiting) -> BoxFuture<'static, Done> {
    let Waiting { id, cmd, held } = waiting;
    let short = matches!(
        cmd,
        Some(Asked::RawGet(_) | Asked::RawPut(_) | Asked::RawDelete(_))
    );
    let callee = Arc::clone(callee);
    let work = async move {
        let client = callee.client.clone();
        let (cmd, reserved) = call(&callee.kv, &callee.meters, cmd, client).await;
        drop(held);
        (id, Item { cmd }, reserved)
    };
    if short {
        return Box::pin(work);
    }
    // It ends with the stream.
    let mut task = JoinSet::new();
    task.spawn(work);
    Box::pin(async move {
        match task.join_next().await {
            Some(Ok(done)) => done,
            // It panicked, or the runtime ends: an answer without a command is one to clients.
            _ => (id, Item { cmd: None }, None),
        }
    })
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
