//! `BatchCommands`: what the Go client sends nearly everything through.

use std::collections::BTreeMap;

use flotilla::config::ByteSize;
use flotilla_proto::kvrpcpb as kv;
use flotilla_proto::kvrpcpb::{Context, KvPair};
use flotilla_proto::tikvpb::batch_commands_request::Request;
use flotilla_proto::tikvpb::batch_commands_request::request::Cmd as Ask;
use flotilla_proto::tikvpb::batch_commands_response::response::Cmd as Tell;
use flotilla_proto::tikvpb::{
    BatchCommandsEmptyRequest, BatchCommandsRequest, BatchCommandsResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::support::{TestNode, Wire, in_time};

struct Stream {
    requests: Option<mpsc::Sender<BatchCommandsRequest>>,
    responses: Streaming<BatchCommandsResponse>,
}

impl Stream {
    async fn open(wire: &Wire) -> Self {
        let (requests, sent) = mpsc::channel(64);
        let mut kv = wire.kv.clone();
        let responses = kv.batch_commands(ReceiverStream::new(sent)).await;
        Self {
            requests: Some(requests),
            responses: responses.expect("a stream").into_inner(),
        }
    }

    async fn send(&self, batch: impl IntoIterator<Item = (u64, Option<Ask>)>) {
        let (request_ids, requests) = batch
            .into_iter()
            .map(|(id, cmd)| (id, Request { cmd }))
            .unzip();
        let batch = BatchCommandsRequest {
            requests,
            request_ids,
            ..BatchCommandsRequest::default()
        };
        let requests = self.requests.as_ref().expect("not closed");
        requests.send(batch).await.expect("the stream is open");
    }

    /// The next `count` answers, by the ids of their requests.
    async fn answers(&mut self, count: usize) -> BTreeMap<u64, Option<Tell>> {
        let mut answers = BTreeMap::new();
        while answers.len() < count {
            let message = in_time("answers", self.responses.message()).await;
            let message = message.expect("an answer").expect("an answer");
            assert_eq!(message.request_ids.len(), message.responses.len());
            assert_ne!(message.request_ids, [0u64; 0], "no empty message");
            for (id, response) in message.request_ids.into_iter().zip(message.responses) {
                let twice = answers.insert(id, response.cmd);
                assert!(twice.is_none(), "{id} is answered twice");
            }
        }
        answers
    }

    /// Closes the sending half and expects a good end.
    async fn close(mut self) {
        self.requests = None;
        let end = in_time("the end", self.responses.message()).await;
        assert_eq!(end.expect("it ends well"), None);
    }
}

fn put(context: &Context, key: &str, value: &str) -> Option<Ask> {
    Some(Ask::RawPut(kv::RawPutRequest {
        context: Some(context.clone()),
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..kv::RawPutRequest::default()
    }))
}

fn get(context: &Context, key: &str) -> Option<Ask> {
    Some(Ask::RawGet(kv::RawGetRequest {
        context: Some(context.clone()),
        key: key.to_owned().into(),
        ..kv::RawGetRequest::default()
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_raw_call_is_answered_by_itself() {
    let mut node = TestNode::start().await;
    let wire = node.wire().await;
    let own = wire.at("k").await.expect("a context");
    let context = || Some(own.clone());
    let pair = |key: &'static str, value: &'static str| KvPair {
        key: key.into(),
        value: value.into(),
        ..KvPair::default()
    };
    let mut stream = Stream::open(&wire).await;
    let writes = [
        (10, put(&own, "a", "1")),
        (
            11,
            Some(Ask::RawBatchPut(kv::RawBatchPutRequest {
                context: context(),
                pairs: vec![pair("b", "2"), pair("c", "3"), pair("d", "4")],
                ..kv::RawBatchPutRequest::default()
            })),
        ),
    ];
    stream.send(writes).await;
    let written = stream.answers(2).await;
    assert_eq!(
        written[&10],
        Some(Tell::RawPut(kv::RawPutResponse::default()))
    );
    assert_eq!(
        written[&11],
        Some(Tell::RawBatchPut(kv::RawBatchPutResponse::default()))
    );

    let reads = [
        (20, get(&own, "a")),
        (21, get(&own, "missing")),
        (
            22,
            Some(Ask::RawBatchGet(kv::RawBatchGetRequest {
                context: context(),
                keys: vec!["c".into(), "x".into(), "b".into()],
                ..kv::RawBatchGetRequest::default()
            })),
        ),
        (
            23,
            Some(Ask::RawScan(kv::RawScanRequest {
                context: context(),
                start_key: "b".into(),
                limit: 2,
                ..kv::RawScanRequest::default()
            })),
        ),
        (
            24,
            Some(Ask::RawBatchScan(kv::RawBatchScanRequest {
                context: context(),
                ranges: vec![kv::KeyRange {
                    start_key: "c".into(),
                    end_key: "z".into(),
                }],
                each_limit: 9,
                ..kv::RawBatchScanRequest::default()
            })),
        ),
    ];
    stream.send(reads).await;
    let read = stream.answers(5).await;
    let value = |value: &'static str| {
        Some(Tell::RawGet(kv::RawGetResponse {
            value: value.into(),
            not_found: value.is_empty(),
            ..kv::RawGetResponse::default()
        }))
    };
    assert_eq!(read[&20], value("1"));
    assert_eq!(read[&21], value(""));
    assert_eq!(
        read[&22],
        Some(Tell::RawBatchGet(kv::RawBatchGetResponse {
            pairs: vec![pair("c", "3"), pair("b", "2")],
            ..kv::RawBatchGetResponse::default()
        }))
    );
    assert_eq!(
        read[&23],
        Some(Tell::RawScan(kv::RawScanResponse {
            kvs: vec![pair("b", "2"), pair("c", "3")],
            ..kv::RawScanResponse::default()
        }))
    );
    assert_eq!(
        read[&24],
        Some(Tell::RawBatchScan(kv::RawBatchScanResponse {
            kvs: vec![pair("c", "3"), pair("d", "4")],
            ..kv::RawBatchScanResponse::default()
        }))
    );

    let deletes = [
        (
            30,
            Some(Ask::RawDelete(kv::RawDeleteRequest {
                context: context(),
                key: "a".into(),
                ..kv::RawDeleteRequest::default()
            })),
        ),
        (
            31,
            Some(Ask::RawBatchDelete(kv::RawBatchDeleteRequest {
                context: context(),
                keys: vec!["b".into()],
                ..kv::RawBatchDeleteRequest::default()
            })),
        ),
        (
            32,
            Some(Ask::RawDeleteRange(kv::RawDeleteRangeRequest {
                context: context(),
                start_key: "d".into(),
                end_key: "e".into(),
                ..kv::RawDeleteRangeRequest::default()
            })),
        ),
    ];
    stream.send(deletes).await;
    stream.answers(3).await;
    stream
        .send([
            (40, get(&own, "a")),
            (41, get(&own, "c")),
            (42, get(&own, "d")),
        ])
        .await;
    let left = stream.answers(3).await;
    assert_eq!((&left[&40], &left[&42]), (&value(""), &value("")));
    assert_eq!(left[&41], value("3"));
    stream.close().await;
    node.stop().await;
}

/// A request that fails still has its answer, and its neighbours have theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_stay_with_their_requests() {
    let mut node = TestNode::start().await;
    let wire = node.wire().await;
    let own = wire.at("k").await.expect("a context");
    let elsewhere = Context {
        region_id: 4_711,
        ..own.clone()
    };
    let foreign = Context {
        cluster_id: wire.cluster ^ 1,
        ..own.clone()
    };
    let mut stream = Stream::open(&wire).await;
    let batch = [
        (1, put(&own, "k", "v")),
        (2, get(&elsewhere, "k")),
        (3, get(&foreign, "k")),
        (4, None),
        (
            5,
            Some(Ask::RawScan(kv::RawScanRequest {
                context: Some(own.clone()),
                cf: "nonsense".to_owned(),
                ..kv::RawScanRequest::default()
            })),
        ),
        (
            6,
            Some(Ask::RawDelete(kv::RawDeleteRequest {
                context: Some(own.clone()),
                cf: "nonsense".to_owned(),
                ..kv::RawDeleteRequest::default()
            })),
        ),
        (7, Some(Ask::Get(kv::GetRequest::default()))),
        (8, Some(Ask::Prewrite(kv::PrewriteRequest::default()))),
        (
            9,
            Some(Ask::Empty(BatchCommandsEmptyRequest {
                test_id: 77,
                delay_time: 0,
            })),
        ),
        (
            10,
            Some(Ask::BroadcastTxnStatus(
                kv::BroadcastTxnStatusRequest::default(),
            )),
        ),
        (
            u64::MAX,
            Some(Ask::GetHealthFeedback(
                kv::GetHealthFeedbackRequest::default(),
            )),
        ),
    ];
    stream.send(batch).await;
    let mut answers = stream.answers(11).await;
    let mut take = |id: u64| answers.remove(&id).expect("it is answered");
    let written = take(1);
    assert_eq!(written, Some(Tell::RawPut(kv::RawPutResponse::default())));
    let Some(Tell::RawGet(mut response)) = take(2) else {
        panic!("another kind of answer")
    };
    let error = response.region_error.take().expect("a region error");
    assert_eq!(error.region_not_found.expect("the detail").region_id, 4_711);
    assert_eq!(response, kv::RawGetResponse::default(), "it comes alone");
    // What would be a status of its own is a region error with only a message.
    let Some(Tell::RawGet(response)) = take(3) else {
        panic!("another kind of answer")
    };
    let error = response.region_error.expect("a region error");
    assert!(error.message.contains("cluster id mismatch"), "{error:?}");
    assert_eq!(take(4), None, "nothing asked, nothing told");
    let Some(Tell::RawScan(response)) = take(5) else {
        panic!("another kind of answer")
    };
    let error = response.region_error.expect("no other field has room");
    assert!(error.message.contains("invalid cf name"), "{error:?}");
    let Some(Tell::RawDelete(response)) = take(6) else {
        panic!("another kind of answer")
    };
    assert_eq!(response.region_error, None);
    assert!(response.error.starts_with("invalid cf name"));
    let Some(Tell::Get(response)) = take(7) else {
        panic!("another kind of answer")
    };
    let error = response.region_error.expect("a region error");
    assert!(error.message.contains("KvGet is not served"), "{error:?}");
    let Some(Tell::Prewrite(response)) = take(8) else {
        panic!("another kind of answer")
    };
    let error = response.region_error.expect("a region error");
    assert!(
        error.message.contains("KvPrewrite is not served"),
        "{error:?}"
    );
    let Some(Tell::Empty(response)) = take(9) else {
        panic!("another kind of answer")
    };
    assert_eq!(response.test_id, 77);
    assert_eq!(take(10), None, "its response has no room for a failure");
    let Some(Tell::GetHealthFeedback(response)) = take(u64::MAX) else {
        panic!("another kind of answer")
    };
    assert_eq!(response.health_feedback.expect("feedback").store_id, 1);
    stream.close().await;
    node.stop().await;
}

/// Many times what a connection may have under way, over one stream: it waits for its own answers,
/// and leaves room for others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_may_send_any_amount() {
    const REQUESTS: u64 = 100;
    // A quarter of it for each connection.
    let mut node = TestNode::with(|config| config.requests_max = ByteSize::mib(64)).await;
    let wire = node.wire().await;
    let own = wire.at("k").await.expect("a context");
    let value = "v".repeat(1 << 20);
    let mut stream = Stream::open(&wire).await;
    for id in 0..REQUESTS {
        stream.send([(id, put(&own, "k", &value))]).await;
    }
    let written = stream.answers(REQUESTS as usize).await;
    let done = Some(Tell::RawPut(kv::RawPutResponse::default()));
    assert!(
        written.values().all(|answer| *answer == done),
        "{written:?}"
    );

    // The stream is still open.
    let mut other = node.wire().await.kv;
    let large = kv::RawPutRequest {
        context: Some(own.clone()),
        key: "large".into(),
        value: vec![7; 5 << 20].into(),
        ..kv::RawPutRequest::default()
    };
    let response = other.raw_put(large).await.expect("there is room");
    assert_eq!(response.into_inner(), kv::RawPutResponse::default());
    stream.close().await;
    node.stop().await;
}

/// More at once than the stream works on at once; the answers come in any order, all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_at_once() {
    const REQUESTS: u64 = 5_000;
    let mut node = TestNode::start().await;
    let wire = node.wire().await;
    let own = wire.at("k").await.expect("a context");
    let mut stream = Stream::open(&wire).await;
    for from in (0..REQUESTS).step_by(500) {
        let ids = from..from + 500;
        stream
            .send(ids.map(|id| (id, put(&own, &format!("{id:06}"), &id.to_string()))))
            .await;
    }
    let written = stream.answers(REQUESTS as usize).await;
    let done = Some(Tell::RawPut(kv::RawPutResponse::default()));
    assert!(written.values().all(|answer| *answer == done));
    // Closed before the answers are there: they still come.
    let ids = (0..REQUESTS).step_by(7);
    stream
        .send(ids.clone().map(|id| (id, get(&own, &format!("{id:06}")))))
        .await;
    stream.requests = None;
    let read = stream.answers(ids.clone().count()).await;
    for id in ids {
        let Some(Tell::RawGet(response)) = &read[&id] else {
            panic!("another kind of answer")
        };
        assert_eq!(response.value, id.to_string().as_bytes());
    }
    stream.close().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_with_an_id_missing_ends_the_stream() {
    let mut node = TestNode::start().await;
    let wire = node.wire().await;
    let own = wire.at("k").await.expect("a context");
    let mut stream = Stream::open(&wire).await;
    let batch = BatchCommandsRequest {
        requests: vec![Request {
            cmd: get(&own, "k"),
        }],
        ..BatchCommandsRequest::default()
    };
    let requests = stream.requests.as_ref().expect("not closed");
    requests.send(batch).await.expect("the stream is open");
    let end = in_time("the end", stream.responses.message()).await;
    let status = end.expect_err("it cannot be answered");
    assert_eq!(status.code(), Code::InvalidArgument);
    node.stop().await;
}
