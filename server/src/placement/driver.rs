//! Runs PD's machine: one task owns it, everybody else sends it inputs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_engine::{Cf, EngineError, KeyRange, StateReader, StateStore};
use flotilla_pd::{
    Call, Effect, Event, Input, Oracle, OracleCommand, OracleError, Outcome, Pd, ProposalToken,
    Request, RequestToken, Response, Status, StreamId, TICK, calls,
};
use flotilla_proto::pdpb::{RegionHeartbeatRequest, RegionHeartbeatResponse};
use flotilla_proto::store::{ColumnFamily, Mod, ModKind};
use flotilla_raftstore::effects::{MetaRole, RaftInput};
use flotilla_raftstore::region::META_REGION;
use flotilla_raftstore::{Answer, Begin, PeerInput, ReadContext, RequestError, WriteProposal};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::HostPort;
use crate::store::{Fatal, Store, clock};

/// Requests that may wait for the machine; further ones wait in their connections.
const REQUESTS_MAX: usize = 4_096;
/// Instructions that may wait for one store; further ones are dropped and come again.
const INSTRUCTIONS_MAX: usize = 1_024;
/// How long the machine waits before it tries again to learn what became of its proposals.
const RELOAD_PAUSE: Duration = Duration::from_millis(100);
/// How often a lease that has just run out is asked for again for one timestamp.
const LEASE_ATTEMPTS: usize = 3;
/// How long one such question may take.
const LEASE_WAIT: Duration = Duration::from_secs(1);
/// How long calls wait, while the node starts, for it to lead: a client that connects as soon as the
/// port is open should not see a cluster without a leader.
const START_WAIT: Duration = Duration::from_secs(5);

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
    pd: Pd,
    oracle: Arc<Mutex<Oracle>>,
    messages: mpsc::Receiver<Message>,
    inner: mpsc::UnboundedReceiver<Inner>,
    to_inner: mpsc::UnboundedSender<Inner>,
    roles: mpsc::UnboundedReceiver<MetaRole>,
    leads: watch::Sender<Option<u64>>,
    /// The term this store leads the meta region in, if it does.
    role: Option<u64>,
    /// The term in which PD serves everything: timestamps come last, when their first window is
    /// durable.
    serves: Option<u64>,
    requests: BTreeMap<RequestToken, oneshot::Sender<Response>>,
    next_request: u64,
    streams: BTreeMap<StreamId, mpsc::Sender<Result<RegionHeartbeatResponse, Status>>>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver")
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

impl Driver {
    /// A driver for `store`, told of its role by `roles`, and the handle to ask it.
    pub fn new(
        store: Arc<Store>,
        advertised: &HostPort,
        roles: mpsc::UnboundedReceiver<MetaRole>,
    ) -> (Self, PdHandle) {
        let config = flotilla_pd::Config {
            cluster_id: store.ids.cluster_id,
            store_id: store.ids.store_id,
            advertise_addr: advertised.to_string(),
            tls: false,
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
            pd: Pd::new(config),
            oracle,
            messages: received,
            inner,
            to_inner,
            roles,
            leads,
            role: None,
            serves: None,
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
        let mut effects = Vec::new();
        self.pd
            .handle(clock::mono(), clock::wall(), input, &mut effects);
        for effect in effects {
            self.carry_out(effect);
        }
        let term = self.serves;
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
        match inner {
            Inner::Committed(token, outcome) => self.handle(Input::Committed { token, outcome }),
            Inner::Loaded { term, rows } if self.role == Some(term) => match rows {
                Ok(records) => self.handle(Input::Lead { term, records }),
                Err(error) => self.store.fatal.engine("reading the meta region", error),
            },
            Inner::Settled { term, settled } if self.role == Some(term) => {
                if settled {
                    self.load(term)
                } else {
                    self.settle(term, RELOAD_PAUSE)
                }
            }
            // Of a term that is over.
            Inner::Loaded { .. } | Inner::Settled { .. } => {}
        }
    }

    fn on_role(&mut self, role: MetaRole) {
        match role {
            MetaRole::Leads { term } => {
                self.role = Some(term);
                self.load(term);
            }
            MetaRole::Follows => {
                self.role = None;
                self.handle(Input::Retire);
            }
        }
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
        let (driver, tell) = (Arc::clone(&self.store), self.to_inner.clone());
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let answer = Answer::new(move |result: Result<(), RequestError>| {
                let _ = tell.send(Inner::Settled {
                    term,
                    settled: result.is_ok(),
                });
            });
            propose(&driver, term, Vec::new(), answer);
        });
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Propose { token, term, mods } => {
                let tell = self.to_inner.clone();
                let answer = Answer::new(move |result| {
                    let _ = tell.send(Inner::Committed(token, outcome(result)));
                });
                propose(
                    &self.store,
                    term,
                    mods.into_iter().map(meta_mod).collect(),
                    answer,
                );
            }
            Effect::Answer { token, response } => {
                if let Some(answer) = self.requests.remove(&token) {
                    // Whoever asked may have gone.
                    let _ = answer.send(response);
                }
            }
            Effect::Oracle(command) => {
                match command {
                    OracleCommand::Open { term, .. } => self.serves = Some(term),
                    OracleCommand::Close => self.serves = None,
                    OracleCommand::Extend { .. } => {}
                }
                self.oracle.lock().command(command);
            }
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
            Effect::Reload { term } if self.role == Some(term) => self.settle(term, Duration::ZERO),
            Effect::Reload { .. } => {}
            Effect::Fatal(cause) => self.store.fatal.report(Fatal::Pd {
                cause: cause.to_string(),
            }),
            Effect::Event(event) => self.log(&event),
        }
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

fn meta_mod((key, value): (bytes::Bytes, Option<bytes::Bytes>)) -> Mod {
    let kind = if value.is_some() {
        ModKind::Put
    } else {
        ModKind::Delete
    };
    Mod {
        kind: kind.into(),
        cf: ColumnFamily::CfMeta.into(),
        key,
        value: value.unwrap_or_default(),
    }
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

/// Proposes to the meta region, if this node still leads it in `term`.
fn propose(store: &Store, term: u64, mods: Vec<Mod>, answer: Answer<()>) {
    let context = match meta_context(store) {
        Ok(context) => context,
        Err(error) => return answer.give(Err(error)),
    };
    let proposal = WriteProposal {
        context,
        read_term: Some(term),
        mods,
        answer,
    };
    // Their number is bounded by the machine. A region that is gone answers by the drop.
    let _ = store
        .runtime
        .raft
        .force_send(META_REGION, RaftInput::Peer(PeerInput::Write(proposal)));
}

fn meta_context(store: &Store) -> Result<ReadContext, RequestError> {
    let serving = store.runtime.delegates.serving(META_REGION)?;
    Ok(ReadContext {
        region: META_REGION,
        peer: serving.peer.id,
        epoch: serving.region.region_epoch,
        term: 0,
        replica: false,
    })
}

/// Whether this node leads the meta region in `term` now, by its lease.
fn leads(store: &Store, term: u64) -> bool {
    let Ok(context) = meta_context(store) else {
        return false;
    };
    matches!(
        store.runtime.delegates.begin(&context, clock::mono()),
        Ok(Begin::Local(read)) if read.serving.term == term
    )
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
        let mut attempts = 0;
        loop {
            let result = serve(&mut self.oracle.lock(), &|term| leads(&self.store, term));
            match result {
                Ok(served) => return Ok(served),
                Err(OracleError::NeedWindow { above_ms }) => {
                    self.call::<calls::ExtendWindow>(flotilla_pd::ExtendWindow { above_ms })
                        .await?;
                }
                Err(OracleError::Exhausted { retry_at }) => {
                    tokio::time::sleep(retry_at - clock::mono()).await
                }
                Err(OracleError::Refused(status)) => {
                    // The lease of an idle or paused node may have run out while it still leads.
                    attempts += 1;
                    let leading = self.leads.borrow().is_some();
                    if status != Status::not_leader() || !leading || attempts > LEASE_ATTEMPTS {
                        return Err(status);
                    }
                    self.renew_lease().await;
                }
            }
        }
    }

    /// Asks the meta region's peer to confirm that it leads; the next tick renews its lease.
    async fn renew_lease(&self) {
        let Ok(context) = meta_context(&self.store) else {
            return;
        };
        let (tell, told) = oneshot::channel();
        let answer = Answer::new(move |_: Result<_, _>| {
            let _ = tell.send(());
        });
        let input = RaftInput::Peer(PeerInput::Read { context, answer });
        if self.store.runtime.raft.send(META_REGION, input).is_ok() {
            let _ = tokio::time::timeout(LEASE_WAIT, told).await;
        }
    }

    async fn wait_for_start(&self) {
        use std::sync::atomic::Ordering;
        if !self.started.load(Ordering::Acquire) {
            let _ = tokio::time::timeout_at(self.start_ends, self.led()).await;
            self.started.store(true, Ordering::Release);
        }
    }

    /// Waits until this node serves PD.
    pub async fn led(&self) {
        let mut leads = self.leads.clone();
        // It fails only when the driver has ended; then nobody needs an answer.
        let _ = leads.wait_for(Option::is_some).await;
    }
}
