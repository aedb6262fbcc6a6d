//! The store machine: which ranges are taken, which peers exist, what is new or gone.
//!
//! Invariant: the ranges of live peers do not overlap; a range is looked up, checked and changed in
//! one step of one machine (bugs: 31).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use flotilla_engine::ByteBudget;
use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::Region;
use flotilla_proto::raft::HardState;
use flotilla_proto::store::{ApplyRecord, PeerState, RegionRecord};
use flotilla_router::Machine;

use crate::apply::Apply;
use crate::delegate::Delegates;
use crate::effects::{Now, PdTask, PeerInput, RaftEffects, RaftInput, Spawn, StoreInput};
use crate::log_view::PeerLog;
use crate::peer::{Peer, PeerParts};
use crate::region::{INITIAL_INDEX, INITIAL_TERM, META_REGION, overlap, peer_on};
use crate::{Config, StartError};

/// What all machines of a store know.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    /// The store's id.
    pub(crate) store: u64,
    pub(crate) delegates: Arc<Delegates>,
    /// What the entry caches of all peers may take together (contracts: C26).
    pub(crate) entry_cache: Arc<ByteBudget>,
}

impl Shared {
    pub(crate) fn new(config: Config, store: u64) -> Arc<Self> {
        let entry_cache = Arc::new(ByteBudget::new(config.entry_cache_bytes));
        Arc::new(Self {
            config,
            store,
            delegates: Arc::default(),
            entry_cache,
        })
    }
}

/// The machine of the store itself.
pub struct Store {
    shared: Arc<Shared>,
    /// Live regions by start key, the meta region aside.
    ranges: BTreeMap<Bytes, Region>,
    last_heartbeat: Option<Mono>,
}

impl Store {
    /// The store with these live regions.
    ///
    /// # Errors
    /// Two of them overlap.
    pub(crate) fn new(
        shared: Arc<Shared>,
        regions: impl IntoIterator<Item = Region>,
    ) -> Result<Self, StartError> {
        let mut store = Self {
            shared,
            ranges: BTreeMap::new(),
            last_heartbeat: None,
        };
        for region in regions {
            if region.id == META_REGION {
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

    fn overlapping(&self, region: &Region) -> Option<&Region> {
        let before = self.ranges.range(..=region.start_key.clone()).next_back();
        let after = self.ranges.range(region.start_key.clone()..).next();
        [before, after]
            .into_iter()
            .flatten()
            .map(|(_, other)| other)
            .find(|o| overlap(o, region))
    }

    fn handle(&mut self, now: Mono, input: StoreInput, effects: &mut RaftEffects) {
        match input {
            StoreInput::Message(message) => {
                // Peers are made by message only on stores that a cluster of several has.
                tracing::debug!(
                    region = message.region_id,
                    "a message for a region without a peer"
                );
            }
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
            StoreInput::Durable(risen) => {
                let inform =
                    |(region, index)| (region, RaftInput::Peer(PeerInput::Durable { index }));
                effects.to_raft.extend(risen.into_iter().map(inform));
            }
        }
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
            let region = child.id;
            match self.spawn(now, child, leading) {
                Ok(spawn) => effects.spawn.push(spawn),
                Err(error) => panic!("region {region} cannot start after a split: {error}"),
            }
        }
    }

    fn spawn(&self, now: Mono, region: Region, campaign: bool) -> Result<Spawn, StartError> {
        let id = region.id;
        let record = born(region.clone(), self.shared.store);
        let applied = ApplyRecord {
            index: INITIAL_INDEX,
            term: INITIAL_TERM,
        };
        let parts = PeerParts {
            shared: Arc::clone(&self.shared),
            region,
            log: PeerLog::fresh(id, &self.shared.entry_cache),
            hard_state: HardState {
                term: INITIAL_TERM,
                vote: 0,
                commit: INITIAL_INDEX,
            },
            applied: INITIAL_INDEX,
            campaign,
        };
        let peer = Box::new(Peer::new(parts, now)?);
        Ok(Spawn {
            region: id,
            peer,
            apply: Box::new(Apply::new(self.shared.store, &record, applied)),
        })
    }
}

/// The record of a region that starts its life on `store`.
pub(crate) fn born(region: Region, store: u64) -> RegionRecord {
    let highest_peer_id = peer_on(&region, store).map_or(0, |peer| peer.id);
    RegionRecord {
        state: PeerState::Normal.into(),
        region: Some(region),
        highest_peer_id,
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
            Self::Store(store) => store.heartbeat(now, effects),
        }
    }

    fn input_bytes(input: &RaftInput) -> u64 {
        match input {
            RaftInput::Peer(PeerInput::Write(proposal)) => proposal.bytes(),
            _ => 0,
        }
    }

    fn end_round(&mut self, now: Now, effects: &mut RaftEffects) {
        if let Self::Peer(peer) = self {
            peer.end_round(now, effects);
        }
    }

    fn retire(&mut self, _now: Now, _effects: &mut RaftEffects) {
        if let Self::Peer(peer) = self {
            peer.retire();
        }
    }
}

impl std::fmt::Debug for RaftMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Peer(peer) => peer.fmt(f),
            Self::Store(store) => store.fmt(f),
        }
    }
}
