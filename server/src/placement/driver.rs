//! Runs PD's machine: one task owns it, everybody else sends it inputs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_engine::{Cf, EngineError, KeyRange, StateReader, StateStore};
use flotilla_pd::driver::{LEASE_ATTEMPTS, gives_ids, meta_mod};
use flotilla_pd::{
    Call, Driven, Effect, Event, Input, Oracle, OracleError, Outcome, ProposalToken, Request,
    RequestToken, Response, Status, StreamId, TICK, TimestampCall, TimestampNext, Work, calls,
};
use flotilla_proto::pdpb::{RegionHeartbeatRequest, RegionHeartbeatResponse};
use flotilla_raftstore::effects::MetaRole;
use flotilla_raftstore::region::META_REGION;
use flotilla_raftstore::{Answer, RequestError};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::HostPort;
use crate::store::{Fatal, Store, clock};

/// Requests that may wait for the machine; further ones wait in their connections.
const REQUESTS_MAX: usize = 4_096;
/// Instructions that may wait for one store; further ones are dropped and come again.
const INSTRUCTIONS_MAX: usize = 1_024;
/// How long a question whether this node still leads may take.
const LEASE_WAIT: Duration = Duration::from_secs(1);
/// How long calls wait, while the node starts, for it to lead: a client that connects as soon as the
/// port is open should not see a cluster without a leader.
const START_WAIT: Duration = Duration::from_secs(5);
/// While it waits, how often it looks whether another node leads.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What the task is sent.
enum Message {
    Request(Request, oneshot::Sender<Response>),
    StreamOpened(
        StreamId,
        mpsc::Sender<Result<RegionHeartbeatResponse, Status>>,
    ),
    Heartbeat(StreamId, Box<RegionHeartbeatRequest>),
    StreamClosed(StreamId),
}

/// What comes back from what the task started itself; never refused.
enum Inner {
    Committed(ProposalToken, Outcome),
    /// The rows of the meta region at or after the first entry of `term`.
    Loaded {
        term: u64,
        rows: Result<Vec<(bytes::Bytes, bytes::Bytes)>, EngineError>,
    },
    /// Whether everything that was proposed in `term` is decided.
    Settled {
        term: u64,
        settled: bool,
    },
}

/// Asks this node's PD. Cheap to clone.
#[derive(Clone)]
pub struct PdHandle {
    messages: mpsc::Sender<Message>,
    oracle: Arc<Mutex<Oracle>>,
    store: Arc<Store>,
    streams: Arc<std::sync::atomic::AtomicU64>,
    leads: watch::Receiver<Option<u64>>,
    /// Until when the start may take.
    start_ends: tokio::time::Instant,
    /// This node has led, or had its time to.
    started: Arc<std::sync::atomic::AtomicBool>,
}

impl std::fmt::Debug for PdHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PdHandle")
            .field("leads", &*self.leads.borrow())
            .finish_non_exhaustive()
    }
}

/// The task that runs the machine.
pub struct Driver {
    store: Arc<Store>,
    pd: Driven,
    oracle: Arc<Mutex<Oracle>>,
    messages: mpsc::Receiver<Message>,
    inner: mpsc::UnboundedReceiver<Inner>,
    to_inner: mpsc::UnboundedSender<Inner>,
    roles: mpsc::UnboundedReceiver<MetaRole>,
    leads: watch::Sender<Option<u64>>,
    requests: BTreeMap<RequestToken, oneshot::Sender<Response>>,
    next_request: u64,
    streams: BTreeMap<StreamId, mpsc::Sender<Result<RegionHeartbeatResponse, Status>>>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver")
            .field("role", &self.pd.role())
            .finish_non_exhaustive()
    }
}

impl Driver {
    /// A driver for `store`, whose nodes are dialled by `tls` or plainly, told of its role by `roles`, and the handle to ask it.
    pub fn new(
        store: Arc<Store>,
        advertised: &HostPort,
        tls: bool,
        roles: mpsc::UnboundedReceiver<MetaRole>,
    ) -> (Self, PdHandle) {
        let config = flotilla_pd::Config {
            cluster_id: store.ids.cluster_id,
            store_id: store.ids.store_id,
            advertise_addr: advertised.to_string(),
            tls,
            schedule: flotilla_pd::Schedule::default(),
        };
        let oracle = Arc::new(Mutex::new(Oracle::new(config.cluster_id)));
        let (messages, received) = mpsc::channel(REQUESTS_MAX);
        let (to_inner, inner) = mpsc::unbounded_channel();
        let (leads, leading) = watch::channel(None);
        let handle = PdHandle {
            messages,
            oracle: Arc::clone(&oracle),
            store: Arc::clone(&store),
            streams: Arc::default(),
            leads: leading,
            start_ends: tokio::time::Instant::now() + START_WAIT,
            started: Arc::default(),
        };
        let driver = Self {
            store,
            pd: Driven::new(config),
            oracle,
            messages: received,
            inner,
            to_inner,
            roles,
            leads,
            requests: BTreeMap::new(),
            next_request: 0,
            streams: BTreeMap::new(),
        };
        (driver, handle)
    }

    /// Runs until every handle is gone.
    pub async fn run(mut self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some(inner) = self.inner.recv() => self.on_inner(inner),
                Some(role) = self.roles.recv() => self.on_role(role),
                _ = ticks.tick() => self.handle(Input::Tick),
                message = self.messages.recv() => match message {
                    Some(message) => self.on_message(message),
                    None => return,
                },
            }
        }
    }

    fn handle(&mut self, input: Input) {
        let mut work = Vec::new();
        self.pd
            .handle(clock::mono(), clock::wall(), input, &mut work);
        self.carry_out(work);
    }

    fn carry_out(&mut self, work: Vec<Work>) {
        for work in work {
            match work {
                Work::Load { term } => self.load(term),
                Work::Settle { term, after } => self.settle(term, after),
                Work::Effect(effect) => self.effect(effect),
            }
        }
        let term = self.pd.serves();
        self.leads
            .send_if_modified(|leads| std::mem::replace(leads, term) != term);
    }

    fn on_message(&mut self, message: Message) {
        match message {
            Message::Request(request, answer) => {
                let token = RequestToken(self.next_request);
                self.next_request += 1;
                self.requests.insert(token, answer);
                self.handle(Input::Request { token, request });
            }
            Message::StreamOpened(stream, sender) => {
                self.streams.insert(stream, sender);
            }
            Message::Heartbeat(stream, heartbeat) => {
                if self.streams.contains_key(&stream) {
                    self.handle(Input::RegionHeartbeat { stream, heartbeat });
                }
            }
            Message::StreamClosed(stream) => {
                if self.streams.remove(&stream).is_some() {
                    self.handle(Input::StreamClosed { stream });
                }
            }
        }
    }

    fn on_inner(&mut self, inner: Inner) {
        let mut work = Vec::new();
        match inner {
            Inner::Committed(token, outcome) => {
                return self.handle(Input::Committed { token, outcome });
            }
            Inner::Loaded { term, rows } => match rows {
                Ok(records) => {
                    let (now, wall) = (clock::mono(), clock::wall());
                    self.pd.loaded(now, wall, term, records, &mut work);
                }
                Err(error) => self.store.fatal.engine("reading the meta region", error),
            },
            Inner::Settled { term, settled } => self.pd.settled(term, settled, &mut work),
        }
        self.carry_out(work);
    }

    fn on_role(&mut self, role: MetaRole) {
        let mut work = Vec::new();
        match role {
            MetaRole::Leads { term } => self.pd.leads(term, &mut work),
            MetaRole::Follows => self.pd.follows(clock::mono(), clock::wall(), &mut work),
        }
        self.carry_out(work);
    }

    /// Reads the rows of the meta region off this task.
    fn load(&self, term: u64) {
        let (state, tell) = (Arc::clone(&self.store.runtime.state), self.to_inner.clone());
        tokio::task::spawn_blocking(move || {
            let mut rows = Vec::new();
            let all = KeyRange {
                start: b"",
                end: b"",
            };
            let scan = state
                .snapshot()
                .scan(Cf::CfMeta, all, false, &mut |key, value| {
                    rows.push((
                        bytes::Bytes::copy_from_slice(key),
                        bytes::Bytes::copy_from_slice(value),
                    ));
                    true
                });
            // The driver is gone only when the node stops.
            let _ = tell.send(Inner::Loaded {
                term,
                rows: scan.map(|()| rows),
            });
        });
    }

    /// Waits until everything proposed in `term` is decided: an empty write goes behind it.
    fn settle(&self, term: u64, pause: Duration) {
        let (store, tell) = (Arc::clone(&self.store), self.to_inner.clone());
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let answer = Answer::new(move |result: Result<(), RequestError>| {
                let _ = tell.send(Inner::Settled {
                    term,
                    settled: result.is_ok(),
                });
            });
            store.runtime.write_meta(term, Vec::new(), answer);
        });
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Propose { token, term, mods } => {
                let tell = self.to_inner.clone();
                let answer = Answer::new(move |result| {
                    let _ = tell.send(Inner::Committed(token, outcome(result)));
                });
                let mods = mods.into_iter().map(meta_mod).collect();
                self.store.runtime.write_meta(term, mods, answer);
            }
            Effect::Answer { token, response } => {
                if let Some(answer) = self.requests.remove(&token) {
                    self.answer(answer, response);
                }
            }
            Effect::Oracle(command) => self.oracle.lock().command(command),
            Effect::RegionInstruction {
                stream,
                instruction,
            } => {
                if let Some(sender) = self.streams.get(&stream) {
                    // A store that does not read them is told again after its next heartbeat.
                    let _ = sender.try_send(Ok(*instruction));
                }
            }
            Effect::CloseStream { stream, status } => {
                if let Some(sender) = self.streams.remove(&stream) {
                    let _ = sender.try_send(Err(status));
                }
            }
            // Has become work of its own.
            Effect::Reload { .. } => {}
            Effect::Fatal(cause) => self.store.fatal.report(Fatal::Pd {
                cause: cause.to_string(),
            }),
            Effect::Event(event) => self.log(&event),
        }
    }

    /// Ids leave only while this node is sure to lead; an idle one asks its peers first.
    fn answer(&self, answer: oneshot::Sender<Response>, response: Response) {
        let (store, term) = (Arc::clone(&self.store), self.pd.role().unwrap_or(0));
        let leads = move |store: &Store| store.runtime.delegates.leads_meta(term, clock::mono());
        // Whoever asked may have gone.
        if !gives_ids(&response) || leads(&store) {
            let _ = answer.send(response);
            return;
        }
        tokio::spawn(async move {
            for _ in 0..LEASE_ATTEMPTS {
                renew_lease(&store).await;
                if leads(&store) {
                    break;
                }
            }
            let _ = answer.send(if leads(&store) {
                response
            } else {
                Response::Status(Status::not_leader())
            });
        });
    }

    fn log(&self, event: &Event) {
        match event {
            Event::KeyModeSet { mode } => {
                tracing::info!(
                    mode = mode.name(),
                    "the cluster's keys are of this mode from now on"
                );
            }
            Event::RegionConflict { reported, known } => {
                tracing::warn!(
                    reported,
                    known,
                    "two regions claim the same keys at the same version"
                );
            }
            event => tracing::info!("pd: {event:?}"),
        }
    }
}

/// Asks the meta region's peer to confirm that it leads; the next tick renews its lease.
async fn renew_lease(store: &Store) {
    let (tell, told) = oneshot::channel();
    let answer = Answer::new(move |_: Result<_, _>| {
        let _ = tell.send(());
    });
    store.runtime.confirm_meta(answer);
    let _ = tokio::time::timeout(LEASE_WAIT, told).await;
}

fn outcome(result: Result<(), RequestError>) -> Outcome {
    match result {
        Ok(()) => Outcome::Applied,
        Err(RequestError::Undetermined { .. }) => Outcome::Unknown,
        Err(error) => Outcome::Refused {
            why: error.to_string(),
        },
    }
}

/// A region heartbeat stream, as the service sees it.
#[derive(Debug)]
pub struct Heartbeats {
    stream: StreamId,
    messages: mpsc::Sender<Message>,
    /// Instructions for the store; the last one may end the stream.
    pub instructions: mpsc::Receiver<Result<RegionHeartbeatResponse, Status>>,
}

/// The sending half of [`Heartbeats`].
#[derive(Debug)]
pub struct HeartbeatSender {
    stream: StreamId,
    messages: mpsc::Sender<Message>,
}

impl Heartbeats {
    /// Where the store's heartbeats go; dropping it ends the stream.
    pub fn sender(&self) -> HeartbeatSender {
        HeartbeatSender {
            stream: self.stream,
            messages: self.messages.clone(),
        }
    }
}

impl HeartbeatSender {
    /// Hands over a heartbeat. `false`: nobody takes it any more.
    pub async fn send(&self, heartbeat: RegionHeartbeatRequest) -> bool {
        self.messages
            .send(Message::Heartbeat(self.stream, Box::new(heartbeat)))
            .await
            .is_ok()
    }
}

impl Drop for HeartbeatSender {
    fn drop(&mut self) {
        let (stream, messages) = (self.stream, self.messages.clone());
        // Without a runtime the driver is gone as well.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = messages.send(Message::StreamClosed(stream)).await;
            });
        }
    }
}

impl PdHandle {
    /// Makes a call.
    ///
    /// # Errors
    /// The status that ends it.
    pub async fn call<C: Call>(&self, message: C::Request) -> Result<C::Response, Status> {
        self.wait_for_start().await;
        let (answer, answered) = oneshot::channel();
        let request = Message::Request(C::request(message), answer);
        self.messages
            .send(request)
            .await
            .map_err(|_| Status::not_leader())?;
        C::response(answered.await.map_err(|_| Status::not_leader())?)
    }

    /// Opens a region heartbeat stream.
    ///
    /// # Errors
    /// The node is stopping.
    pub async fn heartbeats(&self) -> Result<Heartbeats, Status> {
        self.wait_for_start().await;
        let stream = StreamId(
            self.streams
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed),
        );
        let (sender, instructions) = mpsc::channel(INSTRUCTIONS_MAX);
        let opened = self
            .messages
            .send(Message::StreamOpened(stream, sender))
            .await;
        opened.map_err(|_| Status::not_leader())?;
        Ok(Heartbeats {
            stream,
            messages: self.messages.clone(),
            instructions,
        })
    }

    /// Allocates timestamps by `serve`, which is given the oracle and told how to check the lease.
    ///
    /// # Errors
    /// The status that ends the call or stream.
    pub async fn timestamps<T>(
        &self,
        mut serve: impl FnMut(&mut Oracle, &dyn Fn(u64) -> bool) -> Result<T, OracleError>,
    ) -> Result<T, Status> {
        self.wait_for_start().await;
        let mut call = TimestampCall::default();
        loop {
            let result = serve(&mut self.oracle.lock(), &|term| {
                self.store.runtime.delegates.leads_meta(term, clock::mono())
            });
            let error = match result {
                Ok(served) => return Ok(served),
                Err(error) => error,
            };
            let serves = self.leads.borrow().is_some();
            match call.failed(error, serves) {
                TimestampNext::Extend(request) => {
                    self.call::<calls::ExtendWindow>(request).await?;
                }
                TimestampNext::Wait { until } => tokio::time::sleep(until - clock::mono()).await,
                TimestampNext::RenewLease => renew_lease(&self.store).await,
                TimestampNext::Fail(status) => return Err(status),
            }
        }
    }

    /// In its first moments a node that asks itself waits for a leader, whoever it is.
    async fn wait_for_start(&self) {
        use std::sync::atomic::Ordering;
        while !self.started.load(Ordering::Acquire) {
            let led = tokio::time::timeout(LOOK_EVERY, self.led()).await.is_ok();
            if led || self.follows() || self.has_started() {
                self.started.store(true, Ordering::Release);
            }
        }
    }

    /// Another node leads PD, as this one's replica knows.
    fn follows(&self) -> bool {
        let own = self.store.ids.store_id;
        let serving = self.store.runtime.delegates.serving(META_REGION).ok();
        let leader = serving.and_then(|serving| serving.leader);
        leader.is_some_and(|leader| leader.store_id != own)
    }

    /// Whether this node serves PD now.
    pub fn is_leading(&self) -> bool {
        self.leads.borrow().is_some()
    }

    /// Whether the start has had its time: whoever asks for a leader that is not there is told so.
    pub fn has_started(&self) -> bool {
        tokio::time::Instant::now() >= self.start_ends
    }

    /// Waits until this node serves PD.
    pub async fn led(&self) {
        let mut leads = self.leads.clone();
        // It fails only when the driver has ended; then nobody needs an answer.
        let _ = leads.wait_for(Option::is_some).await;
    }
}
