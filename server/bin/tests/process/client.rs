//! Bare RPCs, one after another: what a client sends is exactly what stands in the test.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::errorpb;
use flotilla_proto::kvrpcpb as k;
use flotilla_proto::metapb::Region;
use flotilla_proto::pdpb as p;
use flotilla_proto::pdpb::pd_client::PdClient;
use flotilla_proto::tikvpb::tikv_client::TikvClient;
use futures::StreamExt;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::{Service, ServiceExt};

use crate::node::{Node, eventually};
use crate::route::Route;

/// A compare-and-swap that found another row, as an error text.
pub(crate) const DIFFERS: &str = "the row is another one";

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 128 << 20;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
});

/// Waits for an answer.
#[track_caller]
pub(crate) fn wait<F: Future>(answer: F) -> F::Output {
    RUNTIME
        .block_on(async { tokio::time::timeout(ANSWER_MAX, answer).await })
        .expect("an answer in time")
}

/// Starts something whose end is not waited for yet.
pub(crate) fn spawn<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    RUNTIME.spawn(task)
}

async fn exchange(mut channel: Channel, request: http::Request<tonic::body::Body>) -> Posted {
    let ready = channel.ready().await.expect("connected");
    let answer = ready.call(request).await;
    let (head, body) = answer.expect("an answer").into_parts();
    // A stream that the node resets has no more of a body.
    let body = body.collect().await.ok();
    let trailers = body.as_ref().and_then(|body| body.trailers().cloned());
    let trailers = trailers.unwrap_or_default();
    let status = Status::from_header_map(&head.headers);
    let status = status.or_else(|| Status::from_header_map(&trailers));
    Posted {
        http: head.status.as_u16(),
        code: status.as_ref().map(Status::code),
        message: status.map_or_else(String::new, |status| status.message().to_owned()),
        body: body.map(|body| body.to_bytes()).unwrap_or_default(),
    }
}

/// A raw request without its context.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Get(k::RawGetRequest),
    BatchGet(k::RawBatchGetRequest),
    Scan(k::RawScanRequest),
    BatchScan(k::RawBatchScanRequest),
    Ttl(k::RawGetKeyTtlRequest),
    Checksum(k::RawChecksumRequest),
    Put(k::RawPutRequest),
    BatchPut(k::RawBatchPutRequest),
    Delete(k::RawDeleteRequest),
    BatchDelete(k::RawBatchDeleteRequest),
    DeleteRange(k::RawDeleteRangeRequest),
    Cas(k::RawCasRequest),
}

/// How a call ended.
#[derive(Debug)]
pub(crate) enum End {
    /// It was done.
    Done,
    /// A region error, and nothing else.
    Region(Box<errorpb::Error>),
    /// The error text of the response, and nothing else.
    Error(String),
    /// No response.
    Status(Status),
}

impl End {
    fn of(answer: Result<(Option<Box<errorpb::Error>>, String), Status>) -> Self {
        match answer {
            Err(status) => Self::Status(status),
            Ok((None, error)) if error.is_empty() => Self::Done,
            Ok((None, error)) => Self::Error(error),
            Ok((Some(region), error)) => {
                assert!(error.is_empty(), "two errors at once: {region:?}, {error}");
                assert!(!region.message.is_empty(), "no message: {region:?}");
                Self::Region(region)
            }
        }
    }

    /// Its text, whichever kind it is.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Done => "done".to_owned(),
            Self::Region(error) => error.message.clone(),
            Self::Error(error) => error.clone(),
            Self::Status(status) => format!("{:?}: {}", status.code(), status.message()),
        }
    }

    #[track_caller]
    pub(crate) fn done(&self) {
        assert!(matches!(self, Self::Done), "{self:?}");
    }

    /// It ended with a region error that has this detail.
    #[track_caller]
    pub(crate) fn detail<T>(self, detail: impl FnOnce(errorpb::Error) -> Option<T>) -> T {
        match self {
            Self::Region(error) => {
                let text = format!("{error:?}");
                detail(*error).unwrap_or_else(|| panic!("another detail: {text}"))
            }
            other => panic!("no region error: {other:?}"),
        }
    }
}

/// An answer to a request that no client library would send.
#[derive(Debug)]
pub(crate) struct Posted {
    pub(crate) http: u16,
    /// `grpc-status`, from the headers or the trailers.
    pub(crate) code: Option<Code>,
    pub(crate) message: String,
    pub(crate) body: Bytes,
}

/// A connection to a node.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) cluster: u64,
    channel: Channel,
    tikv: TikvClient<Channel>,
    pd: PdClient<Channel>,
}

impl Client {
    /// A connection of its own.
    #[track_caller]
    pub(crate) fn connect(node: &Node) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{}", node.addr()));
        let channel = wait(endpoint.expect("an address").connect()).expect("the node listens");
        let tikv = TikvClient::new(channel.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
            .max_encoding_message_size(usize::MAX);
        let mut pd = PdClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
        let members = wait(pd.get_members(p::GetMembersRequest::default()));
        let header = members.expect("members").into_inner().header;
        Self {
            cluster: header.expect("a header").cluster_id,
            channel,
            tikv,
            pd,
        }
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn tikv(&self) -> TikvClient<Channel> {
        self.tikv.clone()
    }

    pub(crate) fn pd(&self) -> PdClient<Channel> {
        self.pd.clone()
    }

    /// The header of a request to PD.
    pub(crate) fn header(&self) -> Option<p::RequestHeader> {
        Some(p::RequestHeader {
            cluster_id: self.cluster,
            ..p::RequestHeader::default()
        })
    }

    /// Sends any bytes as the body of a request.
    #[track_caller]
    pub(crate) fn post(&self, path: &str, headers: &[(&str, &str)], body: Bytes) -> Posted {
        let mut request = http::Request::post(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(tonic::body::Body::new(Full::new(body)));
        wait(exchange(self.channel(), request.expect("a request")))
    }

    /// Begins a gRPC call with `body` and never ends it; for [`spawn`].
    pub(crate) fn begin(
        &self,
        path: &str,
        body: Bytes,
    ) -> impl Future<Output = Posted> + Send + use<> {
        let begun = futures::stream::iter([Ok::<_, Status>(Frame::data(body))]);
        let body = StreamBody::new(begun.chain(futures::stream::pending()));
        let request = http::Request::post(path).header("content-type", "application/grpc");
        let request = request.body(tonic::body::Body::new(body));
        exchange(self.channel(), request.expect("a request"))
    }

    // ---- PD ----

    /// Where `key` is, if PD knows.
    pub(crate) fn try_route(&self, key: &[u8]) -> Result<Option<Route>, Status> {
        let request = p::GetRegionRequest {
            header: self.header(),
            region_key: Bytes::copy_from_slice(key),
            ..p::GetRegionRequest::default()
        };
        let found = wait(self.pd().get_region(request))?.into_inner();
        Ok(found
            .region
            .zip(found.leader)
            .map(|(region, leader)| Route { region, leader }))
    }

    /// Where `key` is. After a start, PD hears of it in a moment.
    #[track_caller]
    pub(crate) fn route(&self, key: &[u8]) -> Route {
        eventually("PD to know where a key is", || {
            self.try_route(key).expect("an answer of PD")
        })
    }

    /// All regions that PD knows of, in order.
    #[track_caller]
    pub(crate) fn regions(&self) -> Vec<Region> {
        self.scan_regions("", "", 0)
    }

    /// What `ScanRegions` answers.
    #[track_caller]
    pub(crate) fn scan_regions(&self, start: &str, end: &str, limit: i32) -> Vec<Region> {
        let request = p::ScanRegionsRequest {
            header: self.header(),
            start_key: Bytes::copy_from_slice(start.as_bytes()),
            end_key: Bytes::copy_from_slice(end.as_bytes()),
            limit,
        };
        let found = wait(self.pd().scan_regions(request)).expect("an answer of PD");
        let found = found.into_inner();
        assert_eq!(found.header.and_then(|header| header.error), None);
        let regions = found.regions.into_iter();
        regions
            .map(|region| region.region.expect("a region has a body"))
            .collect()
    }

    /// Cuts the region of `key` there.
    #[track_caller]
    pub(crate) fn split(&self, key: &str) -> Vec<Region> {
        let request = k::SplitRegionRequest {
            context: Some(self.route(key.as_bytes()).context()),
            split_keys: vec![Bytes::copy_from_slice(key.as_bytes())],
            is_raw_kv: true,
            ..k::SplitRegionRequest::default()
        };
        let split = wait(self.tikv().split_region(request)).expect("an answer");
        let split = split.into_inner();
        assert_eq!(split.region_error, None, "split at {key:?}");
        split.regions
    }

    // ---- raw calls ----

    /// Sends `call` as it is.
    #[track_caller]
    pub(crate) fn send(&self, call: Call, context: k::Context) -> End {
        let mut tikv = self.tikv();
        let context = Some(context);
        macro_rules! send {
            ($request:ident, $method:ident, |$response:ident| $error:expr) => {{
                $request.context = context;
                let answer = wait(tikv.$method($request)).map(|response| {
                    let $response = response.into_inner();
                    let error: String = $error;
                    ($response.region_error, error)
                });
                End::of(answer)
            }};
        }
        let none = String::new;
        match call {
            Call::Get(mut r) => send!(r, raw_get, |a| a.error),
            Call::BatchGet(mut r) => send!(r, raw_batch_get, |a| none()),
            Call::Scan(mut r) => send!(r, raw_scan, |a| none()),
            Call::BatchScan(mut r) => send!(r, raw_batch_scan, |a| none()),
            Call::Ttl(mut r) => send!(r, raw_get_key_ttl, |a| a.error),
            Call::Checksum(mut r) => send!(r, raw_checksum, |a| a.error),
            Call::Put(mut r) => send!(r, raw_put, |a| a.error),
            Call::BatchPut(mut r) => send!(r, raw_batch_put, |a| a.error),
            Call::Delete(mut r) => send!(r, raw_delete, |a| a.error),
            Call::BatchDelete(mut r) => send!(r, raw_batch_delete, |a| a.error),
            Call::DeleteRange(mut r) => send!(r, raw_delete_range, |a| a.error),
            Call::Cas(mut r) => send!(r, raw_compare_and_swap, |a| {
                match &a.region_error {
                    None if a.error.is_empty() && !a.succeed => DIFFERS.to_owned(),
                    _ => a.error,
                }
            }),
        }
    }

    /// Stores a row that must be taken.
    #[track_caller]
    pub(crate) fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        let key = key.into();
        let context = self.route(&key).context();
        self.send(put(key, value), context).done();
    }

    /// The row at `key`.
    #[track_caller]
    pub(crate) fn get(&self, key: impl Into<Bytes>) -> Option<Bytes> {
        let key = key.into();
        let request = k::RawGetRequest {
            context: Some(self.route(&key).context()),
            key,
            ..k::RawGetRequest::default()
        };
        let answer = wait(self.tikv().raw_get(request)).expect("an answer");
        let answer = answer.into_inner();
        assert_eq!((answer.region_error, &*answer.error), (None, ""));
        (!answer.not_found).then_some(answer.value)
    }

    /// The rows of one region from `start` on, as many as `limit`.
    #[track_caller]
    pub(crate) fn scan(&self, route: &Route, start: Bytes, limit: u32) -> Vec<k::KvPair> {
        let rows = self.try_scan(route, start, limit);
        rows.expect("the region is as it was")
    }

    /// The same; `None` if the region was split meanwhile.
    #[track_caller]
    fn try_scan(&self, route: &Route, start: Bytes, limit: u32) -> Option<Vec<k::KvPair>> {
        let request = k::RawScanRequest {
            context: Some(route.context()),
            start_key: start,
            limit,
            ..k::RawScanRequest::default()
        };
        let answer = wait(self.tikv().raw_scan(request)).expect("an answer");
        let answer = answer.into_inner();
        match answer.region_error {
            None => Some(answer.kvs),
            Some(error) if error.epoch_not_match.is_some() => None,
            Some(error) => panic!("{error:?}"),
        }
    }

    /// All rows there are, region by region.
    #[track_caller]
    pub(crate) fn content(&self) -> BTreeMap<Bytes, Bytes> {
        // Few enough for one answer, whatever their size.
        const ROWS: u32 = 8;
        let (mut rows, mut from) = (BTreeMap::new(), Bytes::new());
        loop {
            let (route, found) = eventually("PD to know of a split", || {
                let route = self.route(&from);
                let found = self.try_scan(&route, from.clone(), ROWS)?;
                Some((route, found))
            });
            let complete = found.len() < ROWS as usize;
            for row in found {
                // The next scan begins right behind the last row.
                from = [&row.key[..], &[0]].concat().into();
                rows.insert(row.key, row.value);
            }
            if complete {
                from = route.region.end_key;
                if from.is_empty() {
                    return rows;
                }
            }
        }
    }
}

/// Stores a row.
pub(crate) fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Call {
    Call::Put(k::RawPutRequest {
        key: key.into(),
        value: value.into(),
        ..k::RawPutRequest::default()
    })
}

/// Stores rows together.
pub(crate) fn batch_put(rows: impl IntoIterator<Item = (Bytes, Bytes)>) -> Call {
    let pair = |(key, value)| k::KvPair {
        key,
        value,
        ..k::KvPair::default()
    };
    Call::BatchPut(k::RawBatchPutRequest {
        pairs: rows.into_iter().map(pair).collect(),
        ..k::RawBatchPutRequest::default()
    })
}

/// Removes a row.
pub(crate) fn delete(key: impl Into<Bytes>) -> Call {
    Call::Delete(k::RawDeleteRequest {
        key: key.into(),
        ..k::RawDeleteRequest::default()
    })
}

/// Removes rows together.
pub(crate) fn batch_delete(keys: impl IntoIterator<Item = Bytes>) -> Call {
    Call::BatchDelete(k::RawBatchDeleteRequest {
        keys: keys.into_iter().collect(),
        ..k::RawBatchDeleteRequest::default()
    })
}

/// Removes the rows of a range.
pub(crate) fn delete_range(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Call {
    Call::DeleteRange(k::RawDeleteRangeRequest {
        start_key: start.into(),
        end_key: end.into(),
        ..k::RawDeleteRangeRequest::default()
    })
}

/// Stores a row if the one there is `before`.
pub(crate) fn cas(key: impl Into<Bytes>, before: Option<Bytes>, value: impl Into<Bytes>) -> Call {
    Call::Cas(k::RawCasRequest {
        key: key.into(),
        value: value.into(),
        previous_not_exist: before.is_none(),
        previous_value: before.unwrap_or_default(),
        ..k::RawCasRequest::default()
    })
}

/// Reads a row.
pub(crate) fn get(key: impl Into<Bytes>) -> Call {
    Call::Get(k::RawGetRequest {
        key: key.into(),
        ..k::RawGetRequest::default()
    })
}

/// Reads up to `limit` rows from `start` to `end`.
pub(crate) fn scan(start: impl Into<Bytes>, end: impl Into<Bytes>, limit: u32) -> Call {
    Call::Scan(k::RawScanRequest {
        start_key: start.into(),
        end_key: end.into(),
        limit,
        ..k::RawScanRequest::default()
    })
}
