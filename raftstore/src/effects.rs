//! What the machines are sent, and what they ask to be done.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_engine::{
    EngineError, LogBatch, LogSpan, RaftLog, SnapshotError, SnapshotKey, StateBatch, StateOp,
};
use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::{Peer, Region, RegionEpoch};
use flotilla_proto::pdpb::RegionHeartbeatRequest;
use flotilla_proto::raft::{Entry, HardState, MessageKind};
use flotilla_proto::store::{CommitMergeCommand, Merging, Mod, PeerMessage, SnapshotManifest};
use flotilla_router::{Lane, Merge, Routed};

use crate::apply::Apply;
use crate::events::RegionEvent;
use crate::peer::{Peer as PeerMachine, PeerShown};
use crate::snapshot_task::SnapshotTask;
use crate::{ReadContext, RequestError};

/// Where the answer to a request goes. It is given exactly once: an answer that is dropped gives
/// itself (design, rule 5).
pub struct Answer<T> {
    give: Option<Give<T>>,
    fate: Fate,
}

type Give<T> = Box<dyn FnOnce(Result<T, RequestError>) + Send>;

/// What is true of a request whose answer is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    NotApplied,
    Unknown,
}

impl<T> Answer<T> {
    /// An answer that calls `give`.
    pub fn new(give: impl FnOnce(Result<T, RequestError>) + Send + 'static) -> Self {
        Self {
            give: Some(Box::new(give)),
            fate: Fate::NotApplied,
        }
    }

    /// Gives the answer.
    pub fn give(mut self, result: Result<T, RequestError>) {
        if let Some(give) = self.give.take() {
            give(result);
        }
    }

    /// From here on the request may have happened even if nobody says so (it is in the log).
    pub(crate) fn appended(&mut self) {
        self.fate = Fate::Unknown;
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        if let Some(give) = self.give.take() {
            give(Err(match self.fate {
                Fate::NotApplied => RequestError::StaleCommand,
                Fate::Unknown => RequestError::Undetermined {
                    reason: "the peer stopped before the outcome was known",
                },
            }));
        }
    }
}

impl<T> std::fmt::Debug for Answer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Answer({:?})", self.fate)
    }
}

/// A write to propose. All its keys lie in one region.
#[derive(Debug)]
pub struct WriteProposal {
    /// For whom it was made.
    pub context: ReadContext,
    /// Set when it was computed from a read: refused if the peer's term is another by then
    /// (design, rule 4).
    pub read_term: Option<u64>,
    /// What to change; all of it or nothing.
    pub mods: Vec<Mod>,
    /// Told once it is applied, or refused.
    pub answer: Answer<()>,
}

impl WriteProposal {
    /// Payload bytes, for limits.
    pub fn bytes(&self) -> u64 {
        self.mods
            .iter()
            .map(|change| (change.key.len() + change.value.len() + 16) as u64)
            .sum()
    }
}

/// A read may be served from the state as it is now, if [`crate::Delegates::confirm`] says so after the
/// state was looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadPermit {
    /// The region as of the permit.
    pub region: Region,
    /// The leader's term.
    pub term: u64,
    /// Of the region's rows: another one once they may have changed other than by writes.
    pub(crate) generation: u64,
}

/// What a peer is sent.
#[derive(Debug)]
#[allow(missing_docs, reason = "the variant says what its fields are")]
pub enum PeerInput {
    /// A raft message.
    Message(Box<PeerMessage>),
    /// A client's write.
    Write(WriteProposal),
    /// A read without a lease.
    Read {
        context: ReadContext,
        answer: Answer<ReadPermit>,
    },
    /// Split at these keys, sorted and distinct; others than those inside the region are ignored.
    /// `context` is absent when the store itself asks.
    Split {
        context: Option<ReadContext>,
        keys: Vec<Bytes>,
        answer: Answer<Vec<Region>>,
    },
    /// PD gave ids for a split: per new region its id and its peers' ids.
    SplitIds {
        epoch: RegionEpoch,
        keys: Vec<Bytes>,
        ids: Result<Vec<NewIds>, String>,
        answer: Answer<Vec<Region>>,
    },
    /// A size check came back: where to split, what the region holds.
    SizeChecked {
        epoch: RegionEpoch,
        keys: Vec<Bytes>,
        size: RegionSize,
    },
    /// Every log batch of this peer up to this Ready is durable.
    Persisted { life: u64, number: u64 },
    /// Entries were applied and their state written.
    Applied(ApplyReport),
    /// Entries that were not in the cache.
    Fetched {
        ticket: u64,
        low: u64,
        entries: Vec<Entry>,
    },
    /// Entries could not be read. Ends the store, unless the log was cut or truncated there
    /// meanwhile: then there is nothing to read any more.
    FetchFailed {
        ticket: u64,
        error: Arc<EngineError>,
    },
    /// The applied index that survives a crash rose.
    Durable { index: u64 },
    /// PD has forgotten what it heard: a leader shows its region again.
    Report,
    /// Somebody wants to see the peer.
    Show { answer: Answer<Box<PeerShown>> },
    /// The log disk has not answered for an election timeout (contracts: C14).
    LogStalled,
    /// Campaign now: the parent's leader was on this store.
    Campaign,
    /// Hand leadership to this peer.
    Transfer { to: u64 },
    /// Hand leadership to whoever follows best, if anybody does.
    HandOver,
    /// Change the members. `conf_ver` must be the region's (contracts: C21).
    ChangeMembers {
        epoch: RegionEpoch,
        changes: Vec<PeerChange>,
        answer: Answer<Region>,
    },
    /// Become a part of `target`, a neighbour with peers on the same stores. Both epochs must be those of
    /// the regions (contracts: C21). Answered when the region merges: from then on it takes no requests,
    /// until it is taken in, or stays what it is because the target has changed.
    Merge {
        epoch: RegionEpoch,
        target: Box<Region>,
        answer: Answer<Region>,
    },
    /// The local peer of a region that is to become a part of this one asks for that: its leader proposes
    /// it.
    TakeIn { command: Box<CommitMergeCommand> },
    /// The region becomes a part of `into`, for certain: this peer stops where all its peers do. It takes
    /// nothing more in, applies up to `commit`, for which `entries` has what it may lack, and says when it
    /// has: [`PeerInput::Stopped`]. Asked again until then.
    Stop {
        peer: u64,
        into: u64,
        commit: u64,
        entries: Vec<Entry>,
    },
    /// The local peer of a region that becomes a part of this one has stopped.
    Stopped { region: Region, size: RegionSize },
    /// What PD knows of the region: the answer to [`PdTask::AskRegion`].
    Current { region: Region },
    /// A snapshot of the region was built, or could not be.
    SnapshotBuilt {
        life: u64,
        result: Result<(SnapshotKey, SnapshotManifest), Arc<SnapshotError>>,
    },
    /// What became of a snapshot message to `peer`: owed once for each that left.
    SnapshotSent { peer: u64, ok: bool },
    /// The rows of a snapshot are in place of the region's, or `ops` will put them there.
    Ingested {
        life: u64,
        key: SnapshotKey,
        ops: Vec<StateOp>,
    },
    /// A snapshot could not be put in place. Ends the store.
    IngestFailed { error: Arc<SnapshotError> },
    /// No crash brings back the intent of this snapshot any more.
    IntentCleared { key: SnapshotKey },
    /// The peer was born dead: its region had a later peer here, or this one has ended already.
    Doomed,
    /// Messages to this peer do not get through.
    Unreachable { peer: u64 },
}

/// What one change of the members does to one peer.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the variant says what its fields are")]
pub enum PeerChange {
    /// It becomes a voter: a new peer, or a learner that is promoted.
    Voter(Peer),
    /// It becomes a learner: a new peer, or a voter that is demoted.
    Learner(Peer),
    /// It leaves. Of several voters that go at once each is demoted first.
    Remove { peer: u64 },
}

/// Ids for one new region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewIds {
    /// The region's.
    pub region: u64,
    /// Its peers', in the order of the parent's peers.
    pub peers: Vec<u64>,
}

/// How much a region holds, roughly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegionSize {
    /// Keys and values, bytes.
    pub bytes: u64,
    /// Rows.
    pub keys: u64,
}

/// What the store machine is sent.
#[derive(Debug)]
#[allow(missing_docs, reason = "the variant says what its fields are")]
pub enum StoreInput {
    /// A raft message for a region that has no peer here.
    Message(Box<PeerMessage>),
    /// A split was applied: the children need peers. The parent led its group: they campaign.
    Split {
        children: Vec<Region>,
        parent: Region,
        leading: bool,
    },
    /// PD is another, or forgot what it heard: the store and its leaders show themselves again.
    Report,
    /// State batches up to `cut` survive a crash now; so the regions' applied indexes did rise.
    Durable { cut: u64, risen: Vec<(u64, u64)> },
    /// What was written with this number is durable in the log.
    Persisted { number: u64 },
    /// The log disk has not answered to a peer for an election timeout.
    LogStalls,
    /// A peer will be destroyed: from here on nothing else may take its place.
    Dying { region: u64 },
    /// Another store has a snapshot for a peer here. Accepted: its range is kept free until it was
    /// received, and the sender goes on. Whoever receives it owes one of the next two inputs, however long
    /// it takes, and throws away only files that it began to write itself: others may belong to an open
    /// intent.
    SnapshotOffer {
        message: Box<PeerMessage>,
        answer: Answer<()>,
    },
    /// An accepted snapshot is whole and durable: the message that came with it.
    SnapshotReceived { message: Box<PeerMessage> },
    /// An accepted snapshot will not come, or nobody wants what was received. The range is free when no
    /// file of it is left: if `gone` is false, that is tried again.
    SnapshotUnused { key: SnapshotKey, gone: bool },
    /// A snapshot's intent is written: the region will have this range and no other.
    Installing { region: Region },
    /// A snapshot is in place; the regions that `died` had become a part of it, and their tombstones are in
    /// the state batch `cut`.
    Installed {
        region: Region,
        died: Vec<Region>,
        cut: u64,
    },
    /// `region` has taken `source` in, whose tombstone is in the state batch `cut`.
    Merged {
        region: Region,
        source: Region,
        cut: u64,
    },
    /// A peer's tombstone is written, in the state batch `cut`.
    Destroyed { region: u64, cut: u64 },
    /// One half of a region's machines has stopped.
    Retired(Retired),
}

/// The last words of a machine.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the variant says what its fields are")]
pub enum Retired {
    /// Of the raft half: what a successor with the same id must keep, and what its log holds.
    Peer {
        region: u64,
        peer: u64,
        hard_state: HardState,
        span: LogSpan,
        /// Of snapshots, to be thrown away when no crash can bring the peer back.
        files: Vec<SnapshotKey>,
    },
    /// Of the apply half.
    Apply { region: u64 },
}

/// What a raft machine is sent.
#[derive(Debug)]
pub enum RaftInput {
    /// For a peer.
    Peer(PeerInput),
    /// For the store machine, at [`crate::STORE_ADDRESS`].
    Store(StoreInput),
}

/// A committed entry and whoever waits for it: the answers of its parts, in order.
#[derive(Debug)]
pub struct Committed {
    /// The entry.
    pub entry: Entry,
    /// Empty when this store did not propose it.
    pub answers: Vec<Answer<()>>,
}

/// What an apply machine is sent.
#[derive(Debug)]
#[allow(missing_docs, reason = "the variant says what its fields are")]
pub enum ApplyInput {
    /// Entries, in order, without a gap.
    Committed(Vec<Committed>),
    /// The rows of a snapshot are in place, or `ops` put them there.
    Install {
        manifest: Box<SnapshotManifest>,
        ops: Vec<StateOp>,
        /// Regions that had become a part of it, and whose peers here have stopped.
        died: Vec<Region>,
    },
    /// The peer ends here, though no entry says so.
    Destroy,
}

/// What applying did, told to the peer once the state is written.
#[derive(Debug, Default)]
pub struct ApplyReport {
    /// Of which life of the region's machines; stale ones are dropped.
    pub life: u64,
    /// The number of the state batch that has it, or an earlier one if nothing was written.
    pub cut: u64,
    /// Applied up to here.
    pub index: u64,
    /// The term of `index`.
    pub term: u64,
    /// Payload bytes of the entries.
    pub bytes: u64,
    /// Keys and values written, bytes.
    pub written_bytes: u64,
    /// Rows written.
    pub written_keys: u64,
    /// What became of the region, in log order.
    pub changes: Vec<RegionChange>,
}

/// A change of the region itself.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the variant says what its fields are")]
pub enum RegionChange {
    /// It gave ranges away.
    Split {
        index: u64,
        parent: Region,
        children: Vec<Region>,
        /// Children without a peer here: a later peer of theirs was here already, or this one has
        /// ended (contracts: C34).
        stillborn: Vec<u64>,
    },
    /// A split was refused at apply: the epoch had moved.
    SplitRefused { index: u64 },
    /// Its members changed.
    Members { index: u64, region: Region },
    /// A snapshot took the place of all that was there.
    Installed {
        manifest: Box<SnapshotManifest>,
        /// What the regions were whose peers have ended with it.
        died: Vec<Region>,
    },
    /// It is about to become a part of its neighbour.
    MergePrepared {
        region: Region,
        merging: Box<Merging>,
    },
    /// A step of a merge was refused at apply: it did not fit any more.
    MergeRefused { index: u64 },
    /// It will not become a part of its neighbour.
    MergeRolledBack { index: u64, region: Region },
    /// Its neighbour, `source`, is a part of it now, and the source's peer here has ended.
    Merged {
        index: u64,
        region: Region,
        source: Region,
    },
    /// This store's peer is no member any more, or was destroyed: the tombstone is written.
    Removed,
}

/// After the log batch is durable.
#[derive(Debug)]
pub struct Release {
    /// Whose Ready it was; [`crate::STORE_ADDRESS`]: a write of the store machine.
    pub region: u64,
    /// Of which life of the region's machines.
    pub life: u64,
    /// Which one; 0 with `cleared`.
    pub number: u64,
    /// A snapshot whose intent this write clears.
    pub cleared: Option<SnapshotKey>,
    /// Messages that had to wait for it.
    pub messages: Vec<Outbound>,
}

/// A message on its way to another store.
#[derive(Debug)]
pub struct Outbound {
    /// The store it goes to.
    pub store: u64,
    /// What it says.
    pub message: PeerMessage,
}

impl Routed for Outbound {
    fn store(&self) -> u64 {
        self.store
    }
    fn lane(&self) -> Lane {
        match self.message.message.as_ref().map(|message| message.kind()) {
            Some(MessageKind::Append) => Lane::Append,
            Some(MessageKind::Snapshot) => Lane::Snapshot,
            _ => Lane::Control,
        }
    }
    fn bytes(&self) -> u64 {
        let entries = self
            .message
            .message
            .iter()
            .flat_map(|message| &message.entries);
        64 + entries
            .map(|entry| entry.data.len() as u64 + 16)
            .sum::<u64>()
    }
    fn coalesce_key(&self) -> Option<u64> {
        let kind = self.message.message.as_ref()?.kind();
        (kind == MessageKind::Heartbeat).then_some(self.message.region_id)
    }
}

/// What one round writes to the log.
#[derive(Debug, Default)]
pub struct LogWrite(pub LogBatch);

impl Merge for LogWrite {
    fn merge(&mut self, later: Self) {
        self.0.merge(later.0);
    }
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    fn bytes(&self) -> u64 {
        self.0.payload_bytes()
    }
    fn entries(&self) -> u64 {
        self.0.entry_count()
    }
}

/// Entries to read from the log, off the pollers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Whose.
    pub region: u64,
    /// Comes back with them, or with the error that they could not be read.
    pub ticket: u64,
    /// First index.
    pub low: u64,
    /// End, exclusive.
    pub high: u64,
    /// Stop after so many payload bytes.
    pub bytes_max: u64,
}

impl Fetch {
    /// Reads them, and says what to tell the peer. It is told of a failure too: only the peer knows
    /// whether the log still has to hold these entries, and it waits for an answer to every ticket.
    pub fn read(self, log: &impl RaftLog) -> PeerInput {
        let Self {
            region,
            ticket,
            low,
            high,
            bytes_max,
        } = self;
        match log.entries(region, low, high, bytes_max) {
            Ok(entries) => PeerInput::Fetched {
                ticket,
                low,
                entries,
            },
            Err(error) => PeerInput::FetchFailed {
                ticket,
                error: Arc::new(error),
            },
        }
    }
}

/// What the store wants of PD.
#[derive(Debug)]
#[allow(missing_docs, reason = "the variant says what its fields are")]
pub enum PdTask {
    /// A leader shows its region: how much was written since the last time, which peers are behind,
    /// which it has not heard of, and for how long. Who sends it fills in the header.
    RegionHeartbeat(Box<RegionHeartbeatRequest>),
    /// Ids for a split; comes back as [`PeerInput::SplitIds`].
    AskSplit {
        region: Region,
        epoch: RegionEpoch,
        keys: Vec<Bytes>,
        answer: Answer<Vec<Region>>,
    },
    /// A split was applied; all the regions it made.
    ReportSplit { regions: Vec<Region> },
    /// A peer that has heard of no leader for long asks whether it is still a member; comes back as
    /// [`PeerInput::Current`].
    AskRegion { region: u64 },
    /// The store shows itself.
    StoreHeartbeat { regions: u64, leaders: u64 },
}

/// A size check to run off the pollers; comes back as [`PeerInput::SizeChecked`].
#[derive(Clone, Debug, PartialEq)]
pub struct SizeCheck {
    /// The region as it is.
    pub region: Region,
}

/// A peer and its apply machine, to be run from now on.
#[derive(Debug)]
pub struct Spawn {
    /// The region.
    pub region: u64,
    /// The raft half.
    pub peer: Box<PeerMachine>,
    /// The apply half.
    pub apply: Box<Apply>,
}

/// What a round of raft machines asks for. Carried out in the order of the fields.
#[derive(Debug, Default)]
pub struct RaftEffects {
    /// Machines to start, before anything is sent to them.
    pub spawn: Vec<Spawn>,
    /// Machines to stop: their regions are gone from this store.
    pub stop: Vec<u64>,
    /// Messages that claim nothing that is not durable (contracts: C3).
    pub send_now: Vec<Outbound>,
    /// To write and sync.
    pub log: LogWrite,
    /// To carry out when `log` is durable.
    pub releases: Vec<Release>,
    /// To apply machines.
    pub to_apply: Vec<(u64, ApplyInput)>,
    /// To raft machines.
    pub to_raft: Vec<(u64, RaftInput)>,
    /// To read.
    pub fetches: Vec<Fetch>,
    /// To build, put in place, throw away.
    pub snapshots: Vec<SnapshotTask>,
    /// The state is to be flushed soon: somebody waits until a split survives a crash.
    pub flush: bool,
    /// To measure.
    pub size_checks: Vec<SizeCheck>,
    /// To ask PD.
    pub pd: Vec<PdTask>,
    /// The store must stop; nothing of the round is carried out.
    pub fatal: Option<crate::runtime::StoreFatal>,
    /// This store gained or lost the leadership of the meta region: it is PD, or not any more.
    pub meta_role: Vec<MetaRole>,
    /// To tell whoever watches.
    pub events: Vec<RegionEvent>,
}

/// Who serves PD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variant says what its fields are")]
pub enum MetaRole {
    /// This store, in this term; all earlier writes of the meta region are applied.
    Leads { term: u64 },
    /// Not this store.
    Follows,
}

/// What a round of apply machines asks for.
#[derive(Debug, Default)]
pub struct ApplyEffects {
    /// To write first.
    pub batch: StateBatch,
    /// Then answer.
    pub answers: Vec<(Answer<()>, Result<(), RequestError>)>,
    /// Then tell the peers.
    pub reports: Vec<(u64, ApplyReport)>,
    /// Regions whose apply machines have stopped.
    pub retired: Vec<u64>,
    /// An entry that this build cannot apply: nothing of the round is written, the store stops.
    pub fatal: Option<crate::StartError>,
}

/// The time of a round.
pub(crate) type Now = Mono;
