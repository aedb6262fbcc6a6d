//! PD: timestamps. They rise, over streams and restarts, and every answer is what was asked for.

use std::time::{SystemTime, UNIX_EPOCH};

use flotilla_proto::pdpb as p;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::support::{TestNode, Wire, in_time};

/// Bits of the logical part.
const LOGICAL_BITS: u32 = 18;

/// A stream that is asked one question after the other.
struct Stream {
    questions: Option<mpsc::Sender<p::TsoRequest>>,
    answers: Streaming<p::TsoResponse>,
    cluster: u64,
}

impl Stream {
    async fn open(wire: &Wire) -> Self {
        let (questions, asked) = mpsc::channel(64);
        let answers = wire.pd.clone().tso(ReceiverStream::new(asked)).await;
        Self {
            questions: Some(questions),
            answers: answers.expect("a stream").into_inner(),
            cluster: wire.cluster,
        }
    }

    async fn ask(&self, count: u32) {
        let question = p::TsoRequest {
            header: Some(p::RequestHeader {
                cluster_id: self.cluster,
                ..p::RequestHeader::default()
            }),
            count,
            ..p::TsoRequest::default()
        };
        let questions = self.questions.as_ref().expect("not closed");
        questions.send(question).await.expect("the stream is open");
    }

    async fn next(&mut self) -> Result<Option<p::TsoResponse>, Status> {
        in_time("a timestamp", self.answers.message()).await
    }

    /// The next answer's timestamps as numbers, the smallest and the largest.
    async fn timestamps(&mut self, count: u32) -> (u64, u64) {
        let answer = self.next().await.expect("an answer").expect("an answer");
        let header = answer.header.expect("a header");
        assert_eq!((header.cluster_id, header.error), (self.cluster, None));
        range(answer.timestamp.expect("a timestamp"), answer.count, count)
    }
}

fn range(timestamp: p::Timestamp, told: u32, count: u32) -> (u64, u64) {
    assert_eq!(told, count, "the count is echoed");
    let logical = u64::try_from(timestamp.logical).expect("positive");
    assert!(logical < 1 << LOGICAL_BITS, "{timestamp:?}");
    assert!(
        logical >= u64::from(count),
        "all of them in one millisecond"
    );
    assert_eq!(timestamp.suffix_bits, 0);
    let physical = u64::try_from(timestamp.physical).expect("positive");
    let last = (physical << LOGICAL_BITS) | logical;
    (last - u64::from(count) + 1, last)
}

#[expect(
    clippy::disallowed_methods,
    reason = "what the node's timestamps are compared with"
)]
fn wall_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.expect("after 1970").as_millis()).expect("before the year 500 000 000")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_answer_to_each_question_in_order() {
    let mut node = TestNode::start().await;
    let wire = node.wire().await;
    let mut stream = Stream::open(&wire).await;
    let counts = [1, 2, 64, 1, 10_000, 262_143, 1, 3];
    // All at once: a client has many questions in flight.
    for count in counts {
        stream.ask(count).await;
    }
    let mut before = 0;
    for count in counts {
        let (first, last) = stream.timestamps(count).await;
        assert!(first > before, "{count} timestamps after {before}");
        before = last;
    }
    let physical = before >> LOGICAL_BITS;
    let now = wall_ms();
    assert!(
        physical.abs_diff(now) < 60_000,
        "locks are compared with the wall clock: {physical} at {now}"
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_share_one_clock() {
    const STREAMS: u32 = 6;
    const ASKED: u32 = 200;
    let mut node = TestNode::start().await;
    let wire = node.wire().await;
    let asking = (0..STREAMS).map(|nth| {
        let wire = wire.clone();
        tokio::spawn(async move {
            let mut stream = Stream::open(&wire).await;
            let mut given = Vec::new();
            for round in 0..ASKED {
                let count = 1 + (nth * 7 + round * 13) % 100;
                stream.ask(count).await;
                given.push(stream.timestamps(count).await);
            }
            assert!(given.is_sorted_by(|one, next| one.1 < next.0));
            given
        })
    });
    let mut given = Vec::new();
    for asked in asking.collect::<Vec<_>>() {
        given.extend(asked.await.expect("no panic"));
    }
    given.sort_unstable();
    assert!(
        given.is_sorted_by(|one, next| one.1 < next.0),
        "no timestamp is given twice"
    );
    node.stop().await;
}

/// A client that asks once, closes its half and waits for the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_closed_stream_ends_well() {
    let mut node = TestNode::start().await;
    let wire = node.wire().await;
    let mut stream = Stream::open(&wire).await;
    stream.ask(1).await;
    stream.questions = None;
    stream.timestamps(1).await;
    assert_eq!(stream.next().await.expect("it ends well"), None);
    let mut unasked = Stream::open(&wire).await;
    unasked.questions = None;
    assert_eq!(unasked.next().await.expect("it ends well"), None);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_questions_end_the_stream() {
    let mut node = TestNode::start().await;
    let wire = node.wire().await;
    for (cluster, count, code, word) in [
        (wire.cluster, 0, Code::InvalidArgument, "positive"),
        (wire.cluster, 1 << 18, Code::InvalidArgument, "above"),
        (
            wire.cluster ^ 1,
            1,
            Code::FailedPrecondition,
            "mismatch cluster id",
        ),
        (0, 1, Code::FailedPrecondition, "mismatch cluster id"),
    ] {
        let mut stream = Stream::open(&wire).await;
        stream.ask(1).await;
        stream.cluster = cluster;
        stream.ask(count).await;
        stream.ask(1).await;
        stream.cluster = wire.cluster;
        stream.timestamps(1).await;
        let status = stream.next().await.expect_err("it is refused");
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(word), "{status}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_least_timestamp_is_one_more() {
    let mut node = TestNode::start().await;
    let wire = node.wire().await;
    let mut stream = Stream::open(&wire).await;
    let mut before = 0;
    for _ in 0..10 {
        let request = p::GetMinTsRequest::default();
        let answer = wire.sound(wire.get_min_ts(request).await);
        let (_, least) = range(answer.timestamp.expect("a timestamp"), 1, 1);
        assert!(least > before);
        stream.ask(1).await;
        (_, before) = stream.timestamps(1).await;
        assert!(before > least);
    }
    node.stop().await;
}

/// Nothing is given twice by a later run, however the one before ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_goes_on_over_restarts() {
    let mut node = TestNode::start().await;
    let mut before = 0;
    for crash in [false, true, true, false] {
        let wire = node.wire().await;
        let mut stream = Stream::open(&wire).await;
        for count in [1, 5_000, 1] {
            stream.ask(count).await;
            let (first, last) = stream.timestamps(count).await;
            assert!(first > before);
            before = last;
        }
        drop(stream);
        if crash {
            node.crash().await;
        } else {
            node.stop().await;
        }
        node.start_again().await;
    }
    node.stop().await;
}
