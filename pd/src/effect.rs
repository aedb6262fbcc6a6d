//! What goes into the machine and what comes out.

use bytes::Bytes;
use flotilla_proto::pdpb::{RegionHeartbeatRequest, RegionHeartbeatResponse};

use crate::call::{Request, Response};
use crate::operators::Ending;
use crate::oracle::OracleCommand;
use crate::records::RecordError;
use crate::status::Status;

/// Names a request; chosen by the driver, unique while the request is unanswered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestToken(pub u64);

/// Names a proposal; chosen by the machine, never used twice in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalToken(pub u64);

/// Names an open region heartbeat stream; chosen by the driver, never used twice in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// What the machine is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// This node leads the meta region in `term` and has applied its own first entry of that term
    /// (contracts: C20). `records` are all rows of the meta region at or after that entry.
    ///
    /// A second `Lead`, for the same or a later term, replaces everything (see [`Effect::Reload`]).
    Lead {
        /// The term of the meta region's raft group.
        term: u64,
        /// All (key, value) rows of the meta region.
        records: Vec<(Bytes, Bytes)>,
    },
    /// This node does not lead the meta region any more. Repeating it changes nothing.
    Retire,
    /// What became of an [`Effect::Propose`]. Due for every proposal while this node leads.
    Committed {
        /// The proposal.
        token: ProposalToken,
        /// Its outcome.
        outcome: Outcome,
    },
    /// A call. Answered by exactly one [`Effect::Answer`], at once or later.
    Request {
        /// Comes back with the answer.
        token: RequestToken,
        /// The call.
        request: Request,
    },
    /// A message on a region heartbeat stream.
    RegionHeartbeat {
        /// The stream it came on.
        stream: StreamId,
        /// The message.
        heartbeat: Box<RegionHeartbeatRequest>,
    },
    /// A region heartbeat stream ended. Not due for streams the machine closed.
    StreamClosed {
        /// The stream.
        stream: StreamId,
    },
    /// Some time passed. Due every [`crate::TICK`] or so.
    Tick,
}

/// What became of a proposal (contracts: C22).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Committed and applied.
    Applied,
    /// Definitely not applied and never will be.
    Refused {
        /// Why, for the caller.
        why: String,
    },
    /// Nobody here can tell.
    Unknown,
}

/// What the machine asks for. Carried out in order.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Write these rows of the meta region in one entry, if this node leads it in `term`; `None`
    /// deletes. Answer with [`Input::Committed`], `Refused` if the term is over.
    Propose {
        /// Names the proposal.
        token: ProposalToken,
        /// The term the change was computed for.
        term: u64,
        /// Rows by key.
        mods: Vec<(Bytes, Option<Bytes>)>,
    },
    /// The answer to a request.
    Answer {
        /// The request.
        token: RequestToken,
        /// The answer.
        response: Response,
    },
    /// For this node's [`crate::Oracle`]. Carried out before later effects of the same list.
    Oracle(OracleCommand),
    /// Send this on a region heartbeat stream.
    RegionInstruction {
        /// The stream.
        stream: StreamId,
        /// The message.
        instruction: Box<RegionHeartbeatResponse>,
    },
    /// End a region heartbeat stream with a status.
    CloseStream {
        /// The stream.
        stream: StreamId,
        /// Why.
        status: Status,
    },
    /// The machine does not know its durable state any more, because a proposal's outcome is
    /// unknown. It acts as if retired. If this node still leads in `term`: wait until every entry
    /// it appended is applied or replaced, then send [`Input::Lead`] with fresh rows.
    Reload {
        /// The term it led in.
        term: u64,
    },
    /// The rows of the meta region are not what this build can serve. Nothing is served from them;
    /// the store should stop with this error (design, rule 8).
    Fatal(RecordError),
    /// For logs and counters.
    Event(Event),
}

/// Something worth a log line. Holds no user keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Serves from now on.
    Led {
        /// The meta region's term.
        term: u64,
        /// Registered stores.
        stores: usize,
    },
    /// Serves no more.
    Retired {
        /// The term it led in.
        term: u64,
        /// Requests that were waiting and have been answered as unavailable.
        waiting: usize,
    },
    /// A store registered or changed its address, version or labels.
    StorePut {
        /// Its id.
        store: u64,
        /// Its address.
        address: String,
    },
    /// A store is to be emptied, stays after all, or is gone for ever.
    StoreState {
        /// Its id.
        store: u64,
        /// `Up`, `Offline` or `Tombstone`.
        state: &'static str,
    },
    /// The cluster version rose.
    ClusterVersion {
        /// The new version.
        version: String,
    },
    /// The cluster's keys are plain or encoded from now on (contracts: C38).
    KeyModeSet {
        /// The mode.
        mode: crate::KeyMode,
    },
    /// A keyspace was created, and waits for its boundaries.
    KeyspaceCreated {
        /// Its id.
        id: u32,
    },
    /// A keyspace's boundaries are split: clients can load it.
    KeyspaceReady {
        /// Its id.
        id: u32,
    },
    /// A heartbeat claims keys of a region that is known at the same version: one of the two is
    /// wrong. The known one stays.
    RegionConflict {
        /// The region that was reported.
        reported: u64,
        /// The region that is known.
        known: u64,
    },
    /// An operator began.
    OperatorStarted {
        /// Its number in this term.
        operator: u64,
        /// Its region, steps and reason.
        what: String,
    },
    /// An operator ended.
    OperatorEnded {
        /// Its number in this term.
        operator: u64,
        /// Its region.
        region: u64,
        /// How.
        ending: Ending,
    },
    /// A proposal was refused; what needed it was answered or is tried again.
    Refused {
        /// Why.
        why: String,
    },
}
