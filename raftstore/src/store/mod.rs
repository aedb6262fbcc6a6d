//! The store machine: which ranges are taken, which peers exist, what is new or gone.
//!
//! Invariant: the ranges of live peers do not overlap; a range is looked up, checked and changed in
//! one step of one machine (bugs: 31).

mod creation;
mod destroy;
mod early;
mod merged;
mod seen;
mod snapshots;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use flotilla_engine::{ByteBudget, SnapshotKey};
use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::Region;
use flotilla_proto::store::{PeerMessage, PeerState, RaftRecord, RegionRecord};
use flotilla_router::Machine;

use crate::delegate::Delegates;
use crate::effects::{Now, PdTask, PeerInput, RaftEffects, RaftInput, Release, StoreInput};
use crate::peer::Peer;
use crate::planted::Planted;
use crate::region::{META_REGION, overlap, peer_on};
use crate::{Config, STORE_ADDRESS, StartError};

pub(crate) use creation::born_with;
use creation::{Heir, Replaced};
use destroy::Dying;
use early::Early;
use merged::Merged;
pub(crate) use seen::Seen;
use snapshots::Reserved;
pub use snapshots::{SNAPSHOTS_AT_ONCE_MAX, manifest_of};

/// What all machines of a store know.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    /// The store's id.
    pub(crate) store: u64,
    pub(crate) delegates: Arc<Delegates>,
    /// What the entry caches of all peers may take together (contracts: C26).
    pub(crate) entry_cache: Arc<ByteBudget>,
    /// The peers that were ever here, the live ones included.
    pub(crate) seen: Seen,
    /// The regions that have become a part of others.
    pub(crate) merged: Merged,
}

impl Shared {
    pub(crate) fn new(config: Config, store: u64) -> Arc<Self> {
        let entry_cache = Arc::new(ByteBudget::new(config.entry_cache_bytes));
        let delegates = Arc::new(Delegates::planted(config.plant));
        Arc::new(Self {
            config,
            store,
            delegates,
            entry_cache,
            seen: Seen::default(),
            merged: Merged::default(),
        })
    }

    /// Whether `rule` is broken on purpose.
    pub(crate) fn plants(&self, rule: Planted) -> bool {
        self.config.plant.breaks(rule)
    }
}

/// The machine of the store itself.
pub struct Store {
    shared: Arc<Shared>,
    /// Live regions by start key, the meta region aside.
    ranges: BTreeMap<Bytes, Region>,
    /// The meta region, if it is here.
    meta: Option<Region>,
    /// Peers that were made by a message and know no range yet: their ids, by region.
    blank: BTreeMap<u64, u64>,
    /// Questions for votes to children that their splits have yet to make.
    early: Early,
    /// Hard states of peers that only ever voted and have no machine, by region.
    sleeping: BTreeMap<u64, RaftRecord>,
    /// Ranges kept free for snapshots, by region (contracts: C35).
    reserved: BTreeMap<u64, Reserved>,
    /// Snapshots that nobody wants, whose files could not be removed yet.
    unwanted: Vec<SnapshotKey>,
    /// Being destroyed, by region (contracts: C7).
    dying: BTreeMap<u64, Dying>,
    /// Machines that were told to stop to make room for a child of the same region.
    replaced: BTreeMap<u64, Replaced>,
    /// State batches up to this one survive a crash.
    durable_cut: u64,
    /// What waits for a log write of this machine, by its number.
    writes: BTreeMap<u64, Written>,
    last_write: u64,
    /// The newest life that was given to machines.
    last_life: u64,
    last_heartbeat: Option<Mono>,
    /// When the peers were told last that the log disk does not answer.
    stall_told: Option<Mono>,
}

/// What to do when a log write of the store machine is durable.
#[derive(Debug)]
enum Written {
    /// The last trace of a destroyed peer is gone.
    Cleared { region: u64 },
    /// What a blank peer had promised is durable: its successor may start.
    Inherited(Box<Heir>),
}

impl Store {
    /// The store with these live regions.
    ///
    /// # Errors
    /// Two of them overlap.
    pub(crate) fn new(
        shared: Arc<Shared>,
        regions: impl IntoIterator<Item = Region>,
        sleeping: BTreeMap<u64, RaftRecord>,
    ) -> Result<Self, StartError> {
        let mut store = Self {
            shared,
            ranges: BTreeMap::new(),
            meta: None,
            blank: BTreeMap::new(),
            early: Early::default(),
            sleeping,
            reserved: BTreeMap::new(),
            unwanted: Vec::new(),
            dying: BTreeMap::new(),
            replaced: BTreeMap::new(),
            durable_cut: 0,
            writes: BTreeMap::new(),
            last_write: 0,
            last_life: 0,
            last_heartbeat: None,
            stall_told: None,
        };
        for region in regions {
            if region.id == META_REGION {
                store.meta = Some(region);
                continue;
            }
            if let Some(other) = store.overlapping(&region) {
                let detail = format!("its range overlaps region {}", other.id);
                return Err(StartError::Inconsistent {
                    region: region.id,
                    detail,
                });
            }
            store.ranges.insert(region.start_key.clone(), region);
        }
        Ok(store)
    }

    /// A number that no machines of this process had before.
    pub(crate) fn next_life(&mut self) -> u64 {
        self.last_life += 1;
        self.last_life
    }

    fn overlapping(&self, region: &Region) -> Option<&Region> {
        let before = self.ranges.range(..=region.start_key.clone()).next_back();
        let after = self.ranges.range(region.start_key.clone()..).next();
        [before, after]
            .into_iter()
            .flatten()
            .map(|(_, other)| other)
            .find(|o| overlap(o, region))
    }

    /// The live regions that share a key with `region`.
    fn overlapped(&self, region: &Region) -> impl Iterator<Item = &Region> {
        let before = self.ranges.range(..region.start_key.clone()).next_back();
        let from = self.ranges.range(region.start_key.clone()..);
        let reached = |start: &Bytes| region.end_key.is_empty() || *start < region.end_key;
        let from = from.take_while(move |(start, _)| reached(start));
        let near = before.into_iter().chain(from).map(|(_, live)| live);
        near.filter(move |live| overlap(live, region))
    }

    fn handle(&mut self, now: Mono, input: StoreInput, effects: &mut RaftEffects) {
        match input {
            StoreInput::Message(message) => self.on_message(now, *message, effects),
            StoreInput::Split {
                children,
                parent,
                leading,
            } => {
                self.on_split(now, children, parent, leading, effects);
            }
            StoreInput::Report => {
                self.last_heartbeat = None;
                self.heartbeat(now, effects);
                let report = |region: &Region| (region.id, RaftInput::Peer(PeerInput::Report));
                effects.to_raft.extend(self.ranges.values().map(report));
            }
            StoreInput::Durable { cut, risen } => {
                let inform =
                    |(region, index)| (region, RaftInput::Peer(PeerInput::Durable { index }));
                effects.to_raft.extend(risen.into_iter().map(inform));
                self.on_durable_cut(cut, effects);
            }
            StoreInput::Persisted { number } => self.on_written(now, number, effects),
            StoreInput::SnapshotOffer { message, answer } => {
                self.on_offer(now, *message, answer, effects);
            }
            StoreInput::SnapshotReceived { message } => self.on_received(*message, effects),
            StoreInput::SnapshotUnused { key, gone } => self.on_unused(key, gone),
            StoreInput::Installing { region } => self.on_installing(region),
            StoreInput::Installed { region, died, cut } => {
                self.on_installed(region, died, cut, effects);
            }
            StoreInput::Merged {
                region,
                source,
                cut,
            } => self.on_merged(region, source, cut, effects),
            StoreInput::LogStalls => self.on_log_stalls(now, effects),
            StoreInput::Dying { region } => self.on_dying(region),
            StoreInput::Destroyed { region, cut } => self.on_destroyed(region, cut, effects),
            StoreInput::Retired(last) => self.on_retired(last, effects),
        }
    }

    fn tick(&mut self, now: Mono, effects: &mut RaftEffects) {
        self.refuse_again(effects);
        self.heartbeat(now, effects);
    }

    fn heartbeat(&mut self, now: Mono, effects: &mut RaftEffects) {
        let due = self
            .last_heartbeat
            .is_none_or(|last| now - last >= self.shared.config.store_heartbeat);
        if due {
            self.last_heartbeat = Some(now);
            let leads = |region: &&Region| {
                self.shared
                    .delegates
                    .serving(region.id)
                    .is_ok_and(|serving| serving.is_leader())
            };
            let leaders = self.ranges.values().filter(leads).count() as u64;
            effects.pd.push(PdTask::StoreHeartbeat {
                regions: self.ranges.len() as u64,
                leaders,
            });
        }
    }

    /// The parent's range shrinks and the children take what it gave away, in one step.
    fn on_split(
        &mut self,
        now: Mono,
        children: Vec<Region>,
        parent: Region,
        leading: bool,
        effects: &mut RaftEffects,
    ) {
        self.ranges.retain(|_, region| region.id != parent.id);
        for region in children.iter().chain([&parent]) {
            let taken = self.overlapping(region);
            assert!(
                taken.is_none(),
                "region {} overlaps {taken:?} after a split",
                region.id
            );
            self.ranges.insert(region.start_key.clone(), region.clone());
        }
        for child in children {
            self.start_child(now, child, leading, effects);
        }
    }

    /// All peers hear of it, once in half an election timeout however many complain.
    fn on_log_stalls(&mut self, now: Mono, effects: &mut RaftEffects) {
        let pause = self.shared.config.election_min / 2;
        if self.stall_told.is_some_and(|told| now - told < pause) {
            return;
        }
        self.stall_told = Some(now);
        tracing::warn!("the log disk does not answer: leaders hand over to other stores");
        let regions = self.ranges.values().chain(&self.meta);
        let tell = |region: &Region| (region.id, RaftInput::Peer(PeerInput::LogStalled));
        effects.to_raft.extend(regions.map(tell));
    }

    /// Something of this machine's own to write; `then` is done when it is durable.
    fn write(&mut self, then: Written, effects: &mut RaftEffects) {
        self.last_write += 1;
        self.writes.insert(self.last_write, then);
        effects.releases.push(Release {
            region: STORE_ADDRESS,
            life: 0,
            number: self.last_write,
            cleared: None,
            messages: Vec::new(),
        });
    }

    /// A child of this id waits for what a blank peer had promised.
    fn inherits(&self, region: u64) -> bool {
        let of =
            |written: &Written| matches!(written, Written::Inherited(heir) if heir.is_of(region));
        self.writes.values().any(of)
    }

    fn on_written(&mut self, now: Mono, number: u64, effects: &mut RaftEffects) {
        // Writes become durable in their order; each was released once.
        match self.writes.remove(&number) {
            Some(Written::Cleared { region }) => self.on_cleared(region, effects),
            Some(Written::Inherited(heir)) => self.start_heir(now, *heir, effects),
            None => unreachable!("write {number} of the store machine was never made"),
        }
    }
}

/// The record of a region that starts its life on `store`.
pub(crate) fn born(region: Region, store: u64) -> RegionRecord {
    let highest_peer_id = peer_on(&region, store).map_or(0, |peer| peer.id);
    RegionRecord {
        state: PeerState::Normal.into(),
        region: Some(region),
        highest_peer_id,
        ..RegionRecord::default()
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Store({}, {} regions)",
            self.shared.store,
            self.ranges.len()
        )
    }
}

/// What runs on the raft pollers: the peers, and the store itself.
pub enum RaftMachine {
    /// A peer, at its region's id.
    Peer(Box<Peer>),
    /// The store, at [`crate::STORE_ADDRESS`].
    Store(Box<Store>),
}

impl Machine for RaftMachine {
    type Input = RaftInput;
    type Effects = RaftEffects;
    type Now = Now;

    fn handle(&mut self, now: Now, input: RaftInput, effects: &mut RaftEffects) {
        match (self, input) {
            (Self::Peer(peer), RaftInput::Peer(input)) => peer.handle(now, input, effects),
            (Self::Store(store), RaftInput::Store(input)) => store.handle(now, input, effects),
            (_, input) => unreachable!("an input at the wrong address: {input:?}"),
        }
    }

    fn tick(&mut self, now: Now, effects: &mut RaftEffects) {
        match self {
            Self::Peer(peer) => peer.tick(now, effects),
            Self::Store(store) => store.tick(now, effects),
        }
    }

    fn input_bytes(input: &RaftInput) -> u64 {
        match input {
            RaftInput::Peer(PeerInput::Write(proposal)) => proposal.bytes(),
            RaftInput::Peer(PeerInput::Message(message)) => entry_bytes(message),
            _ => 0,
        }
    }

    fn end_round(&mut self, now: Now, effects: &mut RaftEffects) {
        if let Self::Peer(peer) = self {
            peer.end_round(now, effects);
        }
    }

    fn retire(&mut self, _now: Now, effects: &mut RaftEffects) {
        if let Self::Peer(peer) = self {
            peer.retire(effects);
        }
    }
}

fn entry_bytes(message: &PeerMessage) -> u64 {
    let entries = message.message.iter().flat_map(|inner| &inner.entries);
    entries.map(|entry| entry.data.len() as u64).sum()
}

impl std::fmt::Debug for RaftMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Peer(peer) => peer.fmt(f),
            Self::Store(store) => store.fmt(f),
        }
    }
}
