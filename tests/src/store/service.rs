//! How a store serves a request: checks, latches, a look at the state, a proposal. Each stage is a
//! step of its own, so that the world moves on in between.

use bytes::Bytes;
use flotilla_engine::{EngineError, StateStore as _};
use flotilla_kv::{Counted, Failure, KeyMode, Lock, Scope, View};
use flotilla_proto::clock::{Mono, Wall};
use flotilla_proto::metapb::{PeerRole, Region};
use flotilla_proto::store::Mod;
use flotilla_raftstore::{
    Begin, Delegates, Load, LocalRead, PeerInput, RaftInput, RaftMachine, ReadContext, ReadPermit,
    RequestError, Touched, WriteProposal,
};
use flotilla_router::SendError;

use super::Life;
use crate::checkers::answers::{Compared, OpId, Said};
use crate::checkers::model::{ModelAt, RowKey};
use crate::checkers::{Oracle, Shared};
use crate::client::{Need, Plan, Request};
use crate::rules::Rule;
use crate::world::Service;

/// A request being served.
#[derive(Debug)]
pub struct Running {
    /// Who waits for it.
    pub client: u64,
    request: Request,
    context: ReadContext,
    /// The step in which it came.
    since: u64,
    /// A peer serves it that does not lead.
    by_replica: bool,
    lock: Option<Lock>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Fresh,
    Latched,
    /// The peer was asked for a read index.
    Asked,
    /// The state may be looked at.
    Look(By),
    /// It was.
    Confirm(By, Box<Glance>),
    /// Proposed in a term; the response if it is done.
    Proposed(u64, Vec<u8>),
}

#[derive(Debug)]
enum By {
    Lease(LocalRead),
    Permit(ReadPermit),
}

impl By {
    fn region(&self) -> &Region {
        match self {
            Self::Lease(read) => &read.serving.region,
            Self::Permit(permit) => &permit.region,
        }
    }

    fn term(&self) -> u64 {
        match self {
            Self::Lease(read) => read.serving.term,
            Self::Permit(permit) => permit.term,
        }
    }

    /// Counts at the region that is read, if it is still there.
    fn count<T>(&self, delegates: &Delegates, with: impl FnOnce(&Load) -> T) -> Option<T> {
        match self {
            Self::Lease(read) => Some(with(read.load())),
            Self::Permit(permit) => delegates.counted(permit.region.id, with).ok(),
        }
    }
}

/// A look at the state.
#[derive(Debug)]
struct Glance {
    /// What was seen.
    seen: Looked,
    /// What the model says of a store that has applied so much.
    expected: Looked,
    /// The rows that were looked at, each as of so many versions.
    rows: Vec<(RowKey, usize)>,
}

/// What a look at the state gave.
#[derive(Clone, Debug)]
enum Looked {
    Read(Vec<u8>),
    Plan(Plan),
    Failed(String),
}

impl Looked {
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Read(one), Self::Read(other)) => one == other,
            (Self::Plan(one), Self::Plan(other)) => {
                one.mods == other.mods && one.response == other.response
            }
            (Self::Failed(one), Self::Failed(other)) => one == other,
            _ => false,
        }
    }
}

/// What the client is told.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Done, with this response, encoded.
    Response(Vec<u8>),
    /// The request itself is wrong.
    Refused(String),
    /// Not here, not now.
    Region(RequestError),
}

/// How a request goes on.
#[derive(Debug)]
pub enum Next {
    /// Its next stage may run.
    Again,
    /// It waits for a latch or an answer.
    Wait,
    /// It is through; these operations got the latches that it held.
    Done(Reply, Vec<OpId>),
    /// The state could not be read: the store ends, and nothing is answered from it.
    Broken(EngineError),
}

/// What a request sees around it.
pub struct Surroundings {
    /// The checkers.
    pub oracle: Shared,
    /// Now.
    pub now: Mono,
    /// The time of day.
    pub wall: Wall,
    /// The cluster's key mode.
    pub mode: KeyMode,
    /// What the service breaks on purpose.
    pub plant: Option<Service>,
}

impl Surroundings {
    fn probe(&self, name: &str) {
        self.oracle.lock().probes.hit(name);
    }
}

impl Running {
    /// The request itself.
    pub fn request(&self) -> &Request {
        &self.request
    }
}

impl Life {
    /// Takes a request in.
    pub fn begin(
        &mut self,
        op: OpId,
        client: u64,
        request: Request,
        context: ReadContext,
        since: u64,
    ) {
        let running = Running {
            client,
            request,
            context,
            since,
            by_replica: false,
            lock: None,
            stage: Stage::Fresh,
        };
        self.requests.insert(op, running);
    }

    /// Runs the next stage of a request.
    ///
    /// # Panics
    /// If there is no such request, or it waits for an answer.
    pub fn serve(&mut self, op: OpId, around: &Surroundings) -> Next {
        let mut running = self
            .requests
            .remove(&op)
            .expect("the request is being served");
        let next = match std::mem::replace(&mut running.stage, Stage::Fresh) {
            Stage::Fresh => match running.request.lock() {
                None => self.begin_read(op, &mut running, around),
                Some(lock) => {
                    running.lock = Some(lock);
                    self.latch(op, &mut running, around)
                }
            },
            Stage::Latched => self.latch(op, &mut running, around),
            Stage::Look(by) => self.look(&mut running, by, around),
            Stage::Confirm(by, glance) => self.confirm(op, &mut running, by, *glance, around),
            stage @ (Stage::Asked | Stage::Proposed(..)) => {
                panic!("operation {op} is served while it waits in {stage:?}")
            }
        };
        self.settle(op, running, next, around)
    }

    /// An answer came for a request.
    pub fn answered(
        &mut self,
        op: OpId,
        answer: Result<Option<ReadPermit>, RequestError>,
        around: &Surroundings,
    ) -> Next {
        let Some(mut running) = self.requests.remove(&op) else {
            return Next::Wait;
        };
        let stage = std::mem::replace(&mut running.stage, Stage::Fresh);
        let next = match (answer, stage) {
            (Ok(Some(permit)), Stage::Asked) => {
                around.oracle.lock().show(self.id.store, &permit.region);
                around.probe("read: by index");
                running.by_replica = self.is_by_replica(running.context, around);
                running.stage = Stage::Look(By::Permit(permit));
                Next::Again
            }
            (Ok(_), Stage::Proposed(_, response)) => {
                if running.request.need() == Need::ReadWrite {
                    around.probe("swap: succeeded");
                }
                Next::Done(Reply::Response(response), Vec::new())
            }
            (Err(error), Stage::Proposed(term, _))
                if Said::of(&Err::<(), _>(error.clone())) == Said::Unknown =>
            {
                let region = running.context.region;
                let mut woken = Vec::new();
                if let Some(lock) = running.lock.take() {
                    self.latches.detain(lock, region, term);
                    // It may be decided already.
                    let oracle = around.oracle.lock();
                    if let Some(newest) = oracle.stores[&self.id.store].terms.get(&region) {
                        woken = self.latches.decided(region, *newest);
                    }
                }
                Next::Done(Reply::Region(error), woken)
            }
            (Err(error), _) => Next::Done(Reply::Region(error), Vec::new()),
            (answer, stage) => panic!("operation {op} got {answer:?} in {stage:?}"),
        };
        self.settle(op, running, next, around)
    }

    /// Keeps a request that goes on; gives back what one that is through held.
    fn settle(
        &mut self,
        op: OpId,
        mut running: Running,
        next: Next,
        around: &Surroundings,
    ) -> Next {
        match next {
            Next::Done(reply, mut woken) => {
                if let Some(lock) = running.lock.take() {
                    woken.extend(self.latches.release(lock));
                }
                if let Reply::Region(RequestError::EpochNotMatch { current }) = &reply {
                    let mut oracle = around.oracle.lock();
                    current
                        .iter()
                        .for_each(|region| oracle.show(self.id.store, region));
                }
                Next::Done(reply, woken)
            }
            next => {
                self.requests.insert(op, running);
                next
            }
        }
    }

    fn latch(&mut self, op: OpId, running: &mut Running, around: &Surroundings) -> Next {
        let swap = running.request.need() == Need::ReadWrite;
        let range = matches!(running.request, Request::DeleteRange(_));
        match around.plant {
            Some(Service::SwapUnlatched) if swap => {
                running.lock = None;
                return self.begin_read(op, running, around);
            }
            Some(Service::RangeUnlatched) if range => {
                running.lock = None;
                return self.plan(op, running, around);
            }
            _ => {}
        }
        let lock = running
            .lock
            .as_mut()
            .expect("a request at its latches has a lock");
        if !self.latches.acquire(lock, || op) {
            around.probe("latch: waited");
            running.stage = Stage::Latched;
            return Next::Wait;
        }
        match running.request.need() {
            Need::Write => self.plan(op, running, around),
            Need::ReadWrite | Need::Read => self.begin_read(op, running, around),
        }
    }

    /// A read is served by a peer that does not lead.
    fn is_by_replica(&self, context: ReadContext, around: &Surroundings) -> bool {
        let serving = self.runtime.delegates.serving(context.region);
        let Ok(serving) = serving.map_err(drop) else {
            return false;
        };
        let by_replica = context.replica && !serving.is_leader();
        if by_replica {
            around.probe("read: by a replica");
        }
        if by_replica && serving.peer.role() == PeerRole::Learner {
            around.probe("read: by a learner");
        }
        by_replica
    }

    /// Another has led the region in a newer term than this store believes.
    fn is_deposed(&self, region: u64, around: &Surroundings) -> bool {
        let serving = self.runtime.delegates.serving(region);
        let newest = around.oracle.lock().consensus.newest_term(region);
        serving.is_ok_and(|serving| serving.is_leader() && serving.term < newest)
    }

    fn begin_read(&mut self, op: OpId, running: &mut Running, around: &Surroundings) -> Next {
        if self.is_deposed(running.context.region, around) {
            around.probe("read: asked of a deposed leader");
        }
        match self.runtime.delegates.begin(&running.context, around.now) {
            Ok(Begin::Local(read)) => {
                around
                    .oracle
                    .lock()
                    .show(self.id.store, &read.serving.region);
                running.stage = Stage::Look(By::Lease(read));
                Next::Again
            }
            Ok(Begin::Ask) => self.ask(op, running, around),
            Err(error) => Next::Done(Reply::Region(error), Vec::new()),
        }
    }

    fn ask(&mut self, op: OpId, running: &mut Running, around: &Surroundings) -> Next {
        {
            let mut oracle = around.oracle.lock();
            let step = oracle.step;
            oracle.answers.read_asked(op, self.id.store, step);
        }
        running.stage = Stage::Asked;
        let input = PeerInput::Read {
            context: running.context,
            answer: self.inbox.read(op),
        };
        self.send(running.context.region, input, around);
        Next::Wait
    }

    /// A full mailbox is overload; without one there is no region. The answer goes its usual way.
    fn send(&self, region: u64, input: PeerInput, around: &Surroundings) {
        let refused = self.runtime.raft.send(region, RaftInput::Peer(input));
        let (error, input) = match refused {
            Ok(()) => return,
            Err(SendError::Full(input)) => {
                around.probe("write: mailbox full");
                let reason = "the region's mailbox is full";
                (RequestError::Busy { reason }, input)
            }
            Err(SendError::Closed(input)) => (RequestError::RegionNotFound { region }, input),
        };
        match input {
            RaftInput::Peer(PeerInput::Read { answer, .. }) => answer.give(Err(error)),
            RaftInput::Peer(PeerInput::Write(proposal)) => proposal.answer.give(Err(error)),
            RaftInput::Peer(PeerInput::Split { answer, .. }) => answer.give(Err(error)),
            other => panic!("{other:?} comes from no client"),
        }
    }

    fn look(&mut self, running: &mut Running, by: By, around: &Surroundings) -> Next {
        let seconds = self.ttl.now(around.wall);
        let snapshot = self.runtime.state.snapshot();
        let oracle = around.oracle.lock();
        let scope = Scope {
            mode: around.mode,
            region: by.region(),
            now: seconds,
        };
        let expired = || false;
        let looked = |result: Result<Looked, Failure>| match result {
            Err(Failure::Engine(error)) => Err(error),
            Err(error) => Ok(Looked::Failed(error.to_string())),
            Ok(looked) => Ok(looked),
        };
        let request = &running.request;
        macro_rules! look_at {
            ($reader:expr) => {{
                let view = View {
                    scope,
                    reader: $reader,
                    expired: &expired,
                };
                looked(match request.need() {
                    Need::ReadWrite => request.decide(&view).map(Looked::Plan),
                    _ => request.read(&view).map(Looked::Read),
                })
            }};
        }
        let model = ModelAt::new(&oracle.model, &oracle.stores[&self.id.store].applied);
        let delegates = &self.runtime.delegates;
        let noting = by.count(delegates, Load::begin_read).unwrap_or_default();
        let counted = Counted::new(&snapshot, noting);
        let looked_at = look_at!(&counted);
        let seen = counted.seen();
        let touched = seen.touched.map(|(first, last)| Touched { first, last });
        by.count(delegates, |load| {
            load.end_read(seen.keys, seen.bytes, touched)
        });
        let glance = Glance {
            seen: match looked_at {
                Ok(seen) => seen,
                Err(error) => return Next::Broken(error),
            },
            expected: look_at!(&model).expect("the model is always read"),
            rows: model.into_looked(),
        };
        drop(oracle);
        running.stage = Stage::Confirm(by, Box::new(glance));
        Next::Again
    }

    fn confirm(
        &mut self,
        op: OpId,
        running: &mut Running,
        by: By,
        glance: Glance,
        around: &Surroundings,
    ) -> Next {
        match &by {
            By::Lease(read) if !read.confirm(around.now) => {
                around.probe("read: local, not confirmed");
                return self.begin_read(op, running, around);
            }
            By::Lease(read) => {
                around.probe("read: local");
                self.check_confirmed(&read.serving.region, around);
            }
            By::Permit(permit) => {
                if !self.runtime.delegates.confirm(permit) {
                    around.probe("read: by index, not confirmed");
                    return self.begin_read(op, running, around);
                }
            }
        }
        self.check_seen(op, running, &by, &glance, around);
        match glance.seen {
            Looked::Read(response) => Next::Done(Reply::Response(response), Vec::new()),
            Looked::Failed(error) => Next::Done(Reply::Refused(error), Vec::new()),
            Looked::Plan(plan) if plan.mods.is_empty() => {
                around.probe("swap: refused");
                Next::Done(Reply::Response(plan.response), Vec::new())
            }
            Looked::Plan(plan) => self.propose(op, running, plan, by.term(), around),
        }
    }

    /// A local read that counts has a leader with a lease behind it to its end, and the region that
    /// it was made for.
    fn check_confirmed(&self, region: &Region, around: &Surroundings) {
        self.runtime.raft.inspect(region.id, |machine| {
            if let RaftMachine::Peer(peer) = machine {
                around
                    .oracle
                    .lock()
                    .look_at_confirmed(self.id.store, peer, region, around.now);
            }
        });
    }

    /// The point of the read is when it looked: there the log held the same, as far as this store has
    /// applied it; and nothing is missed that was known when the request came.
    fn check_seen(
        &self,
        op: OpId,
        running: &Running,
        by: &By,
        glance: &Glance,
        around: &Surroundings,
    ) {
        let Glance {
            seen,
            expected,
            rows,
        } = glance;
        let mut oracle = around.oracle.lock();
        let oracle = &mut *oracle;
        let name = running.request.name();
        oracle
            .checks
            .check(Rule::LinearizableRead, seen.same(expected), || {
                format!(
                    "operation {op}, {name} of {:?}: saw {seen:?}, the log says {expected:?}",
                    running.request
                )
            });
        // Who goes on to write has its place where that is applied.
        if !matches!(seen, Looked::Plan(plan) if !plan.mods.is_empty()) {
            let step = (!running.by_replica).then_some(oracle.step);
            let since = running.since;
            if matches!(by, By::Permit(_)) {
                let missed = oracle.model.tell_indexed(rows, since, oracle.step);
                oracle.checks.check(Rule::IndexedReads, missed.is_none(), || {
                    format!(
                        "operation {op}, {name} of {:?}, by index: came in step {since}, and misses what another had shown of {missed:?}",
                        running.request
                    )
                });
            }
            let missed = oracle.model.tell_read(rows, since, step);
            oracle
                .checks
                .check(Rule::LinearizableRead, missed.is_none(), || {
                    format!(
                        "operation {op}, {name} of {:?}: came in step {since}, and misses what was known of {missed:?}",
                        running.request
                    )
                });
        }
        let asked = running.context.epoch.unwrap_or_default().version;
        let served = by.region().region_epoch.unwrap_or_default().version;
        oracle
            .checks
            .check(Rule::ServedAtItsEpoch, asked == served, || {
                format!(
                    "operation {op}, {name}, was made for version {asked} and served at {served}"
                )
            });
        if let (Looked::Read(response), Request::Get(_)) = (seen, &running.request) {
            note_expired(oracle, self.id.store, running, response, around);
        }
    }

    fn plan(&mut self, op: OpId, running: &mut Running, around: &Surroundings) -> Next {
        let refused = |error| Next::Done(Reply::Region(error), Vec::new());
        let serving = match self.runtime.delegates.serving(running.context.region) {
            Ok(serving) => serving,
            Err(error) => return refused(error),
        };
        if let Err(error) = serving.check(&running.context) {
            return refused(error);
        }
        let scope = Scope {
            mode: around.mode,
            region: &serving.region,
            now: self.ttl.now(around.wall),
        };
        if self.is_deposed(running.context.region, around) {
            around.probe("write: proposed to a deposed leader");
        }
        match running.request.plan(&scope) {
            Ok(plan) if plan.mods.is_empty() => {
                Next::Done(Reply::Response(plan.response), Vec::new())
            }
            Ok(plan) => self.propose(op, running, plan, serving.term, around),
            Err(failure) => Next::Done(Reply::Refused(failure.to_string()), Vec::new()),
        }
    }

    fn propose(
        &mut self,
        op: OpId,
        running: &mut Running,
        plan: Plan,
        term: u64,
        around: &Surroundings,
    ) -> Next {
        self.note_proposed(op, &running.context, &plan.mods, plan.compared, around);
        let proposal = WriteProposal {
            context: running.context,
            read_term: Some(term),
            mods: plan.mods,
            answer: self.inbox.write(op),
        };
        running.stage = Stage::Proposed(term, plan.response);
        self.send(running.context.region, PeerInput::Write(proposal), around);
        Next::Wait
    }

    /// Sends a split of an operator; its answer comes to the inbox.
    pub fn split(
        &self,
        op: OpId,
        context: Option<ReadContext>,
        region: u64,
        keys: Vec<Bytes>,
        around: &Surroundings,
    ) {
        {
            let mut oracle = around.oracle.lock();
            let step = oracle.step;
            oracle
                .answers
                .split_proposed(op, self.id.store, step, keys.clone());
        }
        let answer = self.inbox.split(op);
        self.send(
            region,
            PeerInput::Split {
                context,
                keys,
                answer,
            },
            around,
        );
    }

    /// A write that no command has checked, and no latch has ordered: PD's own, or a tool's.
    pub fn write_bare(&self, op: OpId, region: &Region, mods: Vec<Mod>, around: &Surroundings) {
        let context = ReadContext {
            region: region.id,
            epoch: region.region_epoch,
            ..ReadContext::default()
        };
        self.note_proposed(op, &context, &mods, None, around);
        let proposal = WriteProposal {
            context,
            read_term: None,
            mods,
            answer: self.inbox.write(op),
        };
        self.send(region.id, PeerInput::Write(proposal), around);
    }

    pub(super) fn note_proposed(
        &self,
        op: OpId,
        context: &ReadContext,
        mods: &[Mod],
        compared: Option<Compared>,
        around: &Surroundings,
    ) {
        let mut oracle = around.oracle.lock();
        let place = (self.id.store, oracle.step);
        let version = context.epoch.unwrap_or_default().version;
        let answers = &mut oracle.answers;
        answers.write_proposed(op, place, version, mods, compared);
    }

    /// Regions have applied entries of these terms: latches of unknown fate may go.
    pub fn terms_applied(&self, terms: impl IntoIterator<Item = (u64, u64)>) -> Vec<OpId> {
        terms
            .into_iter()
            .flat_map(|(region, term)| self.latches.decided(region, term))
            .collect()
    }
}

/// Counts reads that found a row which has expired.
fn note_expired(
    oracle: &mut Oracle,
    store: u64,
    running: &Running,
    response: &[u8],
    around: &Surroundings,
) {
    use flotilla_proto::kvrpcpb::RawGetResponse;
    let Request::Get(request) = &running.request else {
        return;
    };
    let found = <RawGetResponse as prost::Message>::decode(response)
        .is_ok_and(|response| !response.not_found);
    let cf = match &request.cf[..] {
        "lock" => flotilla_engine::Cf::CfLock,
        "write" => flotilla_engine::Cf::CfWrite,
        _ => flotilla_engine::Cf::CfDefault,
    };
    let key = (cf as i32, around.mode.physical(&request.key));
    let stored = oracle
        .model
        .at(&key, &oracle.model.owners(&oracle.stores[&store].applied));
    oracle
        .probes
        .hit_if(!found && stored.is_some(), "read: of an expired row");
}
