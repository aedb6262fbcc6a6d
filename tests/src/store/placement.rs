//! PD on a store: the production machine, with what its driver keeps beside it.
//!
//! The driver is a task of its own: what the store's threads leave for it waits until it gets there.

use std::collections::{BTreeMap, VecDeque};

use flotilla_pd::{
    Config, Driven, Oracle, Outcome, ProposalToken, RequestToken, Response, Schedule, StreamId,
    TimestampCall,
};
use flotilla_proto::clock::Mono;
use flotilla_proto::pdpb::RegionHeartbeatRequest;
use flotilla_proto::store::Mod;
use flotilla_raftstore::RequestError;
use flotilla_raftstore::effects::MetaRole;

use super::{Life, LifeId, Surroundings};
use crate::checkers::answers::OpId;
use crate::world::World;

/// Names a try of a call: the call, and which of its tries.
pub type CallTry = (u64, u32);

/// Who waits for an answer of the machine.
#[derive(Clone, Copy, Debug)]
pub enum PdAsked {
    /// A caller elsewhere.
    Call(CallTry),
    /// A call for timestamps, which needs more room.
    Room(TimestampTry),
}

/// A call for timestamps that is being served.
#[derive(Clone, Copy, Debug)]
pub struct TimestampTry {
    /// Whose.
    pub call: CallTry,
    /// How many.
    pub count: u32,
    /// Its attempts so far.
    pub attempts: TimestampCall,
}

/// Why PD asked the meta region's peer.
#[derive(Clone, Debug)]
pub enum Owed {
    /// A proposal of the machine.
    Proposal(ProposalToken),
    /// Whether everything proposed in a term is decided.
    Settled(u64),
    /// A lease, for a call.
    Lease(TimestampTry),
    /// A lease, for an answer that gives ids.
    Ids(CallTry, Response),
}

/// What waits for the driver.
#[derive(Clone, Debug)]
pub enum Inner {
    /// What became of a proposal.
    Committed(ProposalToken, Outcome),
    /// Whether everything proposed in a term is decided.
    Settled(u64, bool),
}

/// The driver of one life of a store.
#[derive(Debug)]
pub struct Placement {
    /// The machine.
    pub driven: Driven,
    /// Timestamps.
    pub oracle: Oracle,
    /// What came back, taken before roles.
    pub inner: VecDeque<Inner>,
    /// The store's roles, in order.
    pub roles: VecDeque<MetaRole>,
    /// The driver will get to them.
    pub woken: bool,
    /// Ticks come.
    pub ticks: bool,
    /// Requests that the machine has not answered.
    pub asked: BTreeMap<RequestToken, PdAsked>,
    /// Open heartbeat streams, each with the process at its other end.
    pub streams: BTreeMap<StreamId, LifeId>,
    /// Proposals and questions to the meta region's peer.
    pub owed: BTreeMap<OpId, Owed>,
    tokens: u64,
}

impl Placement {
    /// PD of a store that has just started.
    pub fn new(store: u64, schedule: Schedule) -> Self {
        let config = Config {
            cluster_id: World::CLUSTER,
            store_id: store,
            advertise_addr: World::address(store),
            tls: false,
            schedule,
        };
        Self {
            driven: Driven::new(config),
            oracle: Oracle::new(World::CLUSTER),
            inner: VecDeque::new(),
            roles: VecDeque::new(),
            woken: false,
            ticks: false,
            asked: BTreeMap::new(),
            streams: BTreeMap::new(),
            owed: BTreeMap::new(),
            tokens: 0,
        }
    }

    /// A token for a request of `asked`.
    pub fn token(&mut self, asked: PdAsked) -> RequestToken {
        self.tokens += 1;
        let token = RequestToken(self.tokens);
        self.asked.insert(token, asked);
        token
    }
}

/// What a store tells PD, and how.
#[derive(Debug, Default)]
pub struct Reporter {
    /// The stream, if one is open.
    pub stream: Option<Stream>,
    /// The last heartbeat of each region that it led: a new PD knows none of them.
    pub latest: BTreeMap<u64, RegionHeartbeatRequest>,
    /// When to open a stream again.
    pub backoff: flotilla_pd_client::Reopen,
    /// It will be opened again.
    pub reopens: bool,
}

/// An open heartbeat stream.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// Its name.
    pub id: StreamId,
    /// The process at its other end.
    pub pd: LifeId,
    /// Something was sent.
    pub begun: bool,
    /// When the last of it arrives: nothing overtakes.
    pub last: Mono,
    /// It is broken, and nobody here knows yet.
    pub broken: bool,
}

/// How an answer to a proposal reads for the machine (contracts: C22).
pub fn outcome(result: &Result<(), RequestError>) -> Outcome {
    match result {
        Ok(()) => Outcome::Applied,
        Err(RequestError::Undetermined { .. }) => Outcome::Unknown,
        Err(error) => Outcome::Refused {
            why: error.to_string(),
        },
    }
}

impl Life {
    /// A write of PD, for `term`; its answer comes to the inbox.
    pub fn write_meta(&self, op: OpId, term: u64, mods: Vec<Mod>, around: &Surroundings) {
        let context = self.runtime.delegates.meta_context().unwrap_or_default();
        self.note_proposed(op, &context, &mods, None, around);
        self.runtime.write_meta(term, mods, self.inbox.write(op));
    }

    /// PD asks whether its store still leads; the answer comes to the inbox.
    pub fn confirm_meta(&self, op: OpId, around: &Surroundings) {
        {
            let mut oracle = around.oracle.lock();
            let step = oracle.step;
            oracle.answers.read_asked(op, self.id.store, step);
        }
        self.runtime.confirm_meta(self.inbox.read(op));
    }
}
