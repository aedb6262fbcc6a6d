//! Any node's address is one of PD: calls that only the leader of the meta region can answer go on
//! to it as they came, streams too, byte by byte.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use flotilla_pd::HttpAnswer;
use flotilla_proto::admin::node_client::NodeClient;
use flotilla_proto::admin::placement_client::PlacementClient;
use flotilla_proto::admin::{ShowLatenciesRequest, ShowLatenciesResponse, ShowPageRequest};
use flotilla_proto::pdpb::GetMembersRequest;
use flotilla_proto::pdpb::pd_client::PdClient;
use flotilla_raftstore::region::META_REGION;
use flotilla_tls::Dial;
use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::Channel;
use tower::{Service, ServiceExt as _};

use super::admin;
use super::stopping::Stopping;
use crate::net::Call;
use crate::peers::{self, Book};
use crate::placement::PdHandle;
use crate::store::Store;

/// A call that was forwarded once is not forwarded again: two nodes that each believe the other to
/// lead must not play ball.
const HOP: &str = "flotilla-forwarded";
/// The one call that a node without a leader answers as well as it can.
const GET_MEMBERS: &str = "/pdpb.PD/GetMembers";
/// How long a node may take to say who leads.
const ASK_MAX: Duration = Duration::from_secs(1);
/// How long its answer is used.
const FOUND_FOR: Duration = Duration::from_millis(200);
/// How long `GetMembers` waits for a leader. The Rust client takes an answer without one for a failure;
/// after it has asked every node it pauses for a whole second. It asks one after the other, so two that
/// wait cover an election; and whoever asks whether this node lives does so for 2 s.
const ELECTED_WITHIN: Duration = Duration::from_millis(1_200);
/// While there is none, how often a node looks for a leader elsewhere.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Who leads the meta region. Cheap to clone.
#[derive(Clone)]
pub struct Leader(Arc<State>);

struct State {
    store: Arc<Store>,
    pd: PdHandle,
    book: Arc<Book>,
    /// Where to ask beside the stores of the book.
    join: Option<String>,
    /// How to connect to them.
    dial: Dial,
    /// What others said last; whoever asks, asks for all.
    found: tokio::sync::Mutex<Option<(Instant, Option<String>)>>,
    channels: Mutex<BTreeMap<String, Channel>>,
}

impl std::fmt::Debug for Leader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leader").finish_non_exhaustive()
    }
}

impl Leader {
    /// Finds the leader by the store's own peer of the meta region, or by asking the stores of
    /// `book` and the node at `join`.
    pub fn new(
        store: Arc<Store>,
        pd: PdHandle,
        book: Arc<Book>,
        join: Option<String>,
        dial: Dial,
    ) -> Self {
        Self(Arc::new(State {
            store,
            pd,
            book,
            join,
            dial,
            found: tokio::sync::Mutex::default(),
            channels: Mutex::default(),
        }))
    }

    /// The node that leads, if it is another one and known.
    async fn elsewhere(&self) -> Option<Channel> {
        let state = &*self.0;
        let own = state.store.ids.store_id;
        let serving = state.store.runtime.delegates.serving(META_REGION).ok();
        let address = match serving.and_then(|serving| serving.leader) {
            Some(leader) if leader.store_id == own => return None,
            Some(leader) => state.book.last_known(leader.store_id),
            None => None,
        };
        let address = match address {
            Some(address) => address,
            None => self.ask_others().await?,
        };
        self.channel(&address)
    }

    /// Who leads, as the other nodes see it.
    async fn ask_others(&self) -> Option<String> {
        let mut found = self.0.found.lock().await;
        if let Some((at, answer)) = &*found
            && at.elapsed() < FOUND_FOR
        {
            return answer.clone();
        }
        let own = self.0.store.ids.store_id;
        let known = self.0.book.members().into_iter();
        let known = known.filter(|(id, _)| *id != own).map(|(_, addr)| addr);
        let mut answer = None;
        for address in known.chain(self.0.join.clone()) {
            let asked = timeout(ASK_MAX, self.ask(&address)).await;
            if let Ok(Some(leader)) = asked {
                answer = Some(leader);
                break;
            }
        }
        *found = Some((Instant::now(), answer.clone()));
        answer
    }

    async fn ask(&self, address: &str) -> Option<String> {
        let request = marked(GetMembersRequest::default());
        let mut stub = PdClient::new(self.channel(address)?);
        let members = stub.get_members(request).await.ok()?.into_inner();
        if members.header?.cluster_id != self.0.store.ids.cluster_id {
            return None;
        }
        let url = members.leader?.client_urls.into_iter().next()?;
        url.split_once("://").map(|(_, address)| address.to_owned())
    }

    /// The connection to a node; made when it is used, and made again when it breaks.
    fn channel(&self, address: &str) -> Option<Channel> {
        let mut channels = self.0.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Some(channel.clone());
        }
        let channel = self
            .0
            .dial
            .connect_lazy(&peers::endpoint(address, &self.0.dial).ok()?);
        channels.insert(address.to_owned(), channel.clone());
        Some(channel)
    }

    /// A page of PD's JSON API, wherever PD is: HTTP's status, the body.
    pub(crate) async fn show_page(&self, page: ShowPageRequest) -> (u32, String) {
        let Some(channel) = self.of(false).await else {
            return admin::show_page(&self.0.pd, page).await;
        };
        let stub = PlacementClient::new(channel);
        let mut stub = stub.max_decoding_message_size(usize::MAX);
        match stub.show_page(marked(page)).await {
            Ok(shown) => {
                let shown = shown.into_inner();
                (shown.status, shown.json)
            }
            Err(status) => {
                let why = status.message();
                let why = format!("the node that leads PD does not answer: {why}");
                admin::written(&HttpAnswer::problem(503, why))
            }
        }
    }

    /// How long calls took on every node, `own` on this one: its store, its address, its answer or
    /// why there is none.
    pub(crate) async fn latencies(
        &self,
        own: ShowLatenciesResponse,
    ) -> Vec<(u64, String, Result<ShowLatenciesResponse, String>)> {
        let id = self.0.store.ids.store_id;
        let mut nodes = self.0.book.members();
        if !nodes.iter().any(|(store, _)| *store == id) {
            nodes.push((id, String::new()));
        }
        let asking = nodes.into_iter().map(|(store, address)| {
            let own = (store == id).then(|| own.clone());
            async move {
                let answer = match own {
                    Some(own) => Ok(own),
                    None => self.latencies_of(&address).await,
                };
                (store, address, answer)
            }
        });
        futures::future::join_all(asking).await
    }

    async fn latencies_of(&self, address: &str) -> Result<ShowLatenciesResponse, String> {
        let silent = || "it does not answer".to_owned();
        let mut stub = NodeClient::new(self.channel(address).ok_or_else(silent)?);
        let asked = stub.show_latencies(ShowLatenciesRequest {});
        match timeout(ASK_MAX, asked).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_) => Err(silent()),
        }
    }

    /// Waits until somebody leads, for a while.
    async fn elected(&self) {
        let somebody = async {
            while !self.0.pd.is_leading() && !self.is_led_elsewhere().await {
                let _ = timeout(LOOK_EVERY, self.0.pd.led()).await;
            }
        };
        let _ = timeout(ELECTED_WITHIN, somebody).await;
    }

    /// The node that this one takes for the leader is there, and says so too.
    async fn is_led_elsewhere(&self) -> bool {
        let Some(channel) = self.elsewhere().await else {
            return false;
        };
        let mut stub = PdClient::new(channel);
        let asked = stub.get_members(marked(GetMembersRequest::default()));
        let answer = timeout(ASK_MAX, asked).await;
        matches!(answer, Ok(Ok(members)) if members.get_ref().leader.is_some())
    }

    /// Where a call goes; `None`: it is answered here.
    async fn of(&self, hops: bool) -> Option<Channel> {
        loop {
            if hops || self.0.pd.is_leading() {
                return None;
            }
            if let Some(channel) = self.elsewhere().await {
                return Some(channel);
            }
            if self.0.pd.has_started() {
                return None;
            }
            // A client that connects as soon as the port is open should not see a cluster without
            // a leader.
            let _ = timeout(LOOK_EVERY, self.0.pd.led()).await;
        }
    }
}

/// A service whose calls the leader answers.
#[derive(Clone, Debug)]
pub struct Forwarding<S> {
    inner: S,
    leader: Leader,
    stopping: Stopping,
}

impl<S> Forwarding<S> {
    /// `inner` answers here, where this node leads or nobody does.
    pub fn new(inner: S, leader: Leader, stopping: Stopping) -> Self {
        Self {
            inner,
            leader,
            stopping,
        }
    }
}

impl<S: NamedService> NamedService for Forwarding<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Forwarding<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (inner, leader) = (self.inner.clone(), self.leader.clone());
        let stopping = self.stopping.clone();
        Box::pin(async move {
            let hops = request.headers().contains_key(HOP);
            let members = request.uri().path() == GET_MEMBERS;
            if members && !hops {
                leader.elected().await;
            }
            let Some(channel) = leader.of(hops).await else {
                return inner.oneshot(request).await;
            };
            match channel.oneshot(onward(request)).await {
                Ok(answer) => Ok(answer.map(|body| Body::new(Answer::new(body, stopping)))),
                Err(_) if members => inner.oneshot(asks_members()).await,
                Err(error) => {
                    // Clients look for the leader again when they read the first two words.
                    let text = format!("not leader, and the leader cannot be reached: {error}");
                    Ok(Status::unavailable(text).into_http())
                }
            }
        })
    }
}

/// A call of this node's own, marked.
fn marked<M>(message: M) -> tonic::Request<M> {
    let mut request = tonic::Request::new(message);
    let hop = tonic::metadata::MetadataValue::from_static("1");
    request.metadata_mut().insert(HOP, hop);
    request
}

/// The request as it came, marked.
fn onward(request: Request<Body>) -> Request<Body> {
    let (head, body) = request.into_parts();
    let call = head.extensions.get::<Call>().cloned();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut onward = Request::new(Body::new(Passing { body, call }));
    *onward.method_mut() = head.method;
    *onward.uri_mut() = path.parse().expect("it was a path");
    *onward.headers_mut() = head.headers;
    onward
        .headers_mut()
        .insert(HOP, HeaderValue::from_static("1"));
    onward
}

/// The leader's answer on its way through. A stream that stays open ends when this node stops.
struct Answer {
    body: Body,
    stopped: Pin<Box<dyn Future<Output = ()> + Send>>,
    ended: bool,
}

impl Answer {
    fn new(body: Body, mut stopping: Stopping) -> Self {
        Self {
            body,
            stopped: Box::pin(async move { stopping.wait().await }),
            ended: false,
        }
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // What has come goes on first: answers under way end as they would.
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        ready!(self.stopped.as_mut().poll(cx));
        self.ended = true;
        let mut trailers = HeaderMap::new();
        let written = Stopping::status().add_header(&mut trailers);
        Poll::Ready(Some(written.map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A call of `GetMembers`, whose request says nothing that matters.
fn asks_members() -> Request<Body> {
    const EMPTY_MESSAGE: &[u8] = &[0; 5];
    let body = axum::body::Body::from(Bytes::from_static(EMPTY_MESSAGE));
    let mut request = Request::new(Body::new(body));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = GET_MEMBERS.parse().expect("a path");
    let grpc = HeaderValue::from_static("application/grpc");
    request
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, grpc);
    request
}

/// A body on its way through: what has gone on is not held here any more.
struct Passing {
    body: Body,
    call: Option<Call>,
}

impl hyper::body::Body for Passing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        drop(self.call.as_ref().map(Call::message));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
