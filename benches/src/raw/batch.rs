//! Many calls over one stream, as the Go client makes them: `BatchCommands` (wire, section 6).
//!
//! Calls that come while a message is on its way out go together in the next one, so that a busy
//! stream batches by itself and a lone call never waits.

use std::{collections::HashMap, sync::Arc, time::Duration};

use flotilla_proto::tikvpb::{
    BatchCommandsRequest, BatchCommandsResponse, batch_commands_request, batch_commands_response,
    tikv_client::TikvClient,
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tonic::transport::Channel;

use crate::measure::{Failure, grpc_failure};

pub(super) use batch_commands_request::request::Cmd as Asked;
pub(super) use batch_commands_response::response::Cmd as Told;

/// Calls in one message.
const CALLS_MAX: usize = 128;
/// Of a single call.
const CALL_TIME_MAX: Duration = Duration::from_secs(10);

type Answer = oneshot::Sender<Result<Told, Failure>>;
type Waiting = Arc<Mutex<HashMap<u64, Answer>>>;

/// A connection's stream, opened by the first call and again by the first after it broke.
#[derive(Debug)]
pub(super) struct Stream {
    connection: TikvClient<Channel>,
    open: Mutex<Option<mpsc::UnboundedSender<(Asked, Answer)>>>,
}

impl Stream {
    pub(super) fn new(connection: TikvClient<Channel>) -> Self {
        Self {
            connection,
            open: Mutex::new(None),
        }
    }

    /// Makes a call and waits for its answer.
    pub(super) async fn call(&self, asked: Asked) -> Result<Told, Failure> {
        let (tell, told) = oneshot::channel();
        self.send((asked, tell));
        match tokio::time::timeout(CALL_TIME_MAX, told).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(broken("ended")),
            Err(_) => Err(Failure::new(
                "timeout",
                "no answer in the stream of commands",
            )),
        }
    }

    fn send(&self, call: (Asked, Answer)) {
        let mut open = self.open.lock();
        let call = match &*open {
            None => call,
            Some(open) => match open.send(call) {
                Ok(()) => return,
                Err(mpsc::error::SendError(call)) => call,
            },
        };
        let (sender, calls) = mpsc::unbounded_channel();
        sender.send(call).expect("the receiver is at hand");
        tokio::spawn(carry(self.connection.clone(), calls));
        *open = Some(sender);
    }
}

fn broken(how: &str) -> Failure {
    Failure::new("stream", format!("the stream of commands {how}"))
}

/// Carries calls out and answers back, until the stream or the channel ends.
async fn carry(
    mut connection: TikvClient<Channel>,
    calls: mpsc::UnboundedReceiver<(Asked, Answer)>,
) {
    let waiting = Waiting::default();
    let state = (calls, Arc::clone(&waiting), 0, Vec::new());
    let messages =
        futures::stream::unfold(state, async |(mut calls, waiting, mut last, mut room)| {
            let count = calls.recv_many(&mut room, CALLS_MAX).await;
            let message = next_message(&mut room, &waiting, &mut last);
            (count > 0).then_some((message, (calls, waiting, last, room)))
        });
    let failure = match connection.batch_commands(messages).await {
        Ok(answers) => deliver(answers.into_inner(), &waiting).await,
        Err(status) => grpc_failure(status.code(), status.message()),
    };
    for (_, answer) in waiting.lock().drain() {
        // A call that ran out of time waits no more.
        let _ = answer.send(Err(failure.clone()));
    }
}

fn next_message(
    calls: &mut Vec<(Asked, Answer)>,
    waiting: &Waiting,
    last: &mut u64,
) -> BatchCommandsRequest {
    let mut message = BatchCommandsRequest::default();
    let mut waiting = waiting.lock();
    for (asked, answer) in calls.drain(..) {
        *last += 1;
        waiting.insert(*last, answer);
        message.request_ids.push(*last);
        let request = batch_commands_request::Request { cmd: Some(asked) };
        message.requests.push(request);
    }
    message
}

/// Hands out answers until there are no more, and says why.
async fn deliver(
    mut answers: tonic::Streaming<BatchCommandsResponse>,
    waiting: &Waiting,
) -> Failure {
    loop {
        let message = match answers.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return broken("ended"),
            Err(status) => return grpc_failure(status.code(), status.message()),
        };
        let mut waiting = waiting.lock();
        for (id, response) in message.request_ids.iter().zip(message.responses) {
            if let (Some(answer), Some(told)) = (waiting.remove(id), response.cmd) {
                // A call that ran out of time waits no more.
                let _ = answer.send(Ok(told));
            }
        }
    }
}
