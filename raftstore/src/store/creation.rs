//! Peers come to be: as a region's child, or by a message from their leader (contracts: C33, C34).

use std::sync::Arc;

use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::{Peer as PeerMeta, Region, RegionEpoch};
use flotilla_proto::raft::{HardState, MessageKind};
use flotilla_proto::store::{ApplyRecord, PeerMessage, RaftRecord, RegionRecord};

use super::{Store, Written};
use crate::apply::Apply;
use crate::effects::{PeerInput, RaftEffects, RaftInput, Retired, Spawn};
use crate::log_view::PeerLog;
use crate::peer::{Peer, PeerParts};
use crate::planted::Planted;
use crate::region::{INITIAL_INDEX, INITIAL_TERM, META_REGION, peer_on};
use crate::{PROBE_TARGET, StartError};

/// A child whose place is still taken by a blank peer that was told to stop.
#[derive(Debug)]
pub(super) struct Replaced {
    child: Region,
    campaign: bool,
    /// What the blank peer had promised, once it has said so.
    promised: Option<(u64, HardState)>,
    /// Halves that have not stopped yet.
    halves: u8,
}

/// A child that takes over what a blank peer with its id had promised.
#[derive(Debug)]
pub(super) struct Heir {
    child: Region,
    campaign: bool,
    hard_state: HardState,
}

impl Heir {
    pub(super) fn is_of(&self, region: u64) -> bool {
        self.child.id == region
    }
}

const RANGE_LIVES: &str = "creation: refused, a live region has the range";

const BIRTH: HardState = HardState {
    term: INITIAL_TERM,
    vote: 0,
    commit: INITIAL_INDEX,
};

/// What the birth of a region says, and what its peer had promised before it was born.
pub(crate) fn born_with(promised: Option<HardState>) -> HardState {
    match promised {
        Some(promised) if promised.term >= BIRTH.term => HardState {
            commit: BIRTH.commit.max(promised.commit),
            ..promised
        },
        _ => BIRTH,
    }
}

impl Store {
    // ---- by a split ----

    /// A child that may live here gets its machines, at once or when those of a blank peer that a
    /// message made have stopped.
    pub(super) fn start_child(
        &mut self,
        now: Mono,
        child: Region,
        campaign: bool,
        effects: &mut RaftEffects,
    ) {
        let region = child.id;
        if let Some(dying) = self.dying.get_mut(&region) {
            // Its tombstone follows the split in the state.
            dying.was(child.clone());
            self.ranges.remove(&child.start_key);
            return;
        }
        if self.blank.remove(&region).is_some() {
            tracing::trace!(target: PROBE_TARGET, "split: a blank peer makes room for the child");
            effects.stop.push(region);
            let replaced = Replaced {
                child,
                campaign,
                promised: None,
                halves: 2,
            };
            self.replaced.insert(region, replaced);
            return;
        }
        let own = peer_on(&child, self.shared.store).map_or(0, |peer| peer.id);
        let promised = self.sleeping.remove(&region);
        let forgets = self.shared.plants(Planted::BlankForgetsVote);
        let kept = promised.filter(|record| record.peer_id == own && !forgets);
        let hard_state = born_with(kept.and_then(|record| record.hard_state));
        let heir = Heir {
            child,
            campaign,
            hard_state,
        };
        self.start_heir(now, heir, effects);
    }

    /// A blank peer has stopped; its successor starts when what it had promised is durable.
    pub(super) fn on_replaced_retired(&mut self, last: Retired, effects: &mut RaftEffects) {
        let region = match &last {
            Retired::Peer { region, .. } | Retired::Apply { region } => *region,
        };
        let Some(replaced) = self.replaced.get_mut(&region) else {
            return;
        };
        replaced.halves -= 1;
        if let Retired::Peer {
            peer, hard_state, ..
        } = last
        {
            replaced.promised = Some((peer, hard_state));
        }
        if replaced.halves > 0 {
            return;
        }
        let Some(Replaced {
            child,
            campaign,
            promised,
            ..
        }) = self.replaced.remove(&region)
        else {
            return;
        };
        let own = peer_on(&child, self.shared.store).map_or(0, |peer| peer.id);
        let forgets = self.shared.plants(Planted::BlankForgetsVote);
        let kept = promised.filter(|(peer, _)| *peer == own && !forgets);
        let hard_state = born_with(kept.map(|(_, promised)| promised));
        let record = RaftRecord {
            peer_id: own,
            hard_state: Some(hard_state),
        };
        effects.log.0.set_record(region, record);
        let heir = Heir {
            child,
            campaign,
            hard_state,
        };
        self.write(Written::Inherited(Box::new(heir)), effects);
    }

    pub(super) fn start_heir(&mut self, now: Mono, heir: Heir, effects: &mut RaftEffects) {
        let Heir {
            child,
            campaign,
            hard_state,
        } = heir;
        let region = child.id;
        let applied = ApplyRecord {
            index: INITIAL_INDEX,
            term: INITIAL_TERM,
        };
        let parts = Parts {
            meta: peer_on(&child, self.shared.store).copied(),
            record: self.shared.born(child.clone()),
            region: child,
            log: PeerLog::fresh(region, &self.shared.entry_cache),
            hard_state,
            applied,
            made_at: None,
            campaign,
        };
        match self.spawn(now, parts) {
            Ok(spawn) => effects.spawn.push(spawn),
            Err(error) => panic!("region {region} cannot start after a split: {error}"),
        }
        let age_max = self.shared.config.election_min;
        for question in self.early.take(now, region, age_max) {
            let input = PeerInput::Message(Box::new(question));
            effects.to_raft.push((region, RaftInput::Peer(input)));
        }
    }

    // ---- by a message ----

    /// A message for a region that has no machines here.
    pub(super) fn on_message(
        &mut self,
        now: Mono,
        message: PeerMessage,
        effects: &mut RaftEffects,
    ) {
        let region = message.region_id;
        if let Some(merged) = self.shared.merged.fate(region)
            && !self.lives(region)
        {
            return self.speak_for_the_merged(&message, merged, effects);
        }
        if message.is_tombstone {
            return self.on_tombstone(&message);
        }
        if let Some(why) = self.refuse_message(&message) {
            tracing::trace!(target: PROBE_TARGET, "{why}");
            self.speak_for_the_ended(&message, effects);
            if why == RANGE_LIVES {
                self.early.keep(now, message);
            }
            return;
        }
        if !self.blank.contains_key(&region)
            && !self.lives(region)
            && !self.make_blank(now, &message, effects)
        {
            return;
        }
        let input = PeerInput::Message(Box::new(message));
        effects.to_raft.push((region, RaftInput::Peer(input)));
    }

    pub(super) fn make_blank(
        &mut self,
        now: Mono,
        message: &PeerMessage,
        effects: &mut RaftEffects,
    ) -> bool {
        let (region, peer) = (message.region_id, message.to_peer.unwrap_or_default());
        let epoch = message.region_epoch;
        match self.spawn_blank(now, region, (peer, epoch), effects) {
            Ok(spawn) => effects.spawn.push(spawn),
            Err(error) => {
                tracing::error!(region, %error, "a peer cannot be made");
                return false;
            }
        }
        true
    }

    pub(super) fn lives(&self, region: u64) -> bool {
        if region == META_REGION {
            return self.meta.is_some();
        }
        self.ranges.values().any(|live| live.id == region)
    }

    /// Why a message makes no peer, as the name of the rare path that it takes.
    pub(super) fn refuse_message(&self, message: &PeerMessage) -> Option<&'static str> {
        let to = message.to_peer.unwrap_or_default();
        let region = message.region_id;
        if to.store_id != self.shared.store || to.id == 0 || message.is_tombstone {
            return Some("creation: a message for nobody here");
        }
        let reused = self.shared.plants(Planted::ReusedWhileDying);
        let dying = self.dying.contains_key(&region) && !reused;
        if dying || self.replaced.contains_key(&region) {
            return Some("creation: refused while the region is dying");
        }
        if self.blank.contains_key(&region) || self.lives(region) {
            // Its machines were made by an earlier message of this round.
            return None;
        }
        let returns = self.shared.plants(Planted::EndedPeerReturns);
        if !self.shared.seen.allows(region, to.id) && !returns {
            return Some("creation: refused, the peer has ended");
        }
        let kind = message.message.as_ref().map(|inner| inner.kind());
        let makes = matches!(
            kind,
            Some(
                MessageKind::Vote
                    | MessageKind::PreVote
                    | MessageKind::Heartbeat
                    | MessageKind::Append
                    | MessageKind::Snapshot
            )
        );
        if !makes {
            return Some("creation: an answer makes no peer");
        }
        let range = Region {
            id: region,
            start_key: message.start_key.clone(),
            end_key: message.end_key.clone(),
            ..Region::default()
        };
        if region == META_REGION {
            return None;
        }
        if self.keeps(&range) {
            return Some(RANGE_LIVES);
        }
        let buried = !reused && self.dying.values().any(|dying| dying.overlaps(&range));
        if self.reserved_for_other(&range) {
            return Some("creation: refused, a snapshot has the range");
        }
        buried.then_some("creation: refused, a dying region has the range")
    }

    /// A live region has the range, and no claim to it that ends with a snapshot of `range`: those that are
    /// known to have become a part of it wait for just that.
    pub(super) fn keeps(&self, range: &Region) -> bool {
        let stays = |live: &Region| {
            let merged = self.shared.merged.fate(live.id);
            merged.is_none_or(|merged| merged.into != range.id)
        };
        self.overlapped(range).any(stays)
    }

    /// A peer that knows nothing yet; what an earlier start of it promised it keeps.
    fn spawn_blank(
        &mut self,
        now: Mono,
        region: u64,
        (peer, made_at): (PeerMeta, Option<RegionEpoch>),
        effects: &mut RaftEffects,
    ) -> Result<Spawn, StartError> {
        tracing::trace!(target: PROBE_TARGET, "creation: by a message");
        let kept = self.sleeping.remove(&region);
        let hard_state = match kept {
            Some(record) if record.peer_id == peer.id => {
                tracing::trace!(target: PROBE_TARGET, "creation: of a peer that had voted before");
                record.hard_state.unwrap_or_default()
            }
            Some(_) => {
                let nothing = flotilla_engine::LogSpan { first: 0, last: 0 };
                effects.log.0.clear(region, nothing);
                HardState::default()
            }
            None => HardState::default(),
        };
        self.shared.seen.lives(region, peer.id);
        self.blank.insert(region, peer.id);
        let blank = Region {
            id: region,
            ..Region::default()
        };
        let parts = Parts {
            meta: Some(peer),
            record: RegionRecord {
                region: Some(blank.clone()),
                highest_peer_id: peer.id,
                ..RegionRecord::default()
            },
            region: blank,
            log: PeerLog::blank(region, &self.shared.entry_cache),
            hard_state,
            applied: ApplyRecord { index: 0, term: 0 },
            made_at,
            campaign: false,
        };
        self.spawn(now, parts)
    }

    fn spawn(&mut self, now: Mono, parts: Parts) -> Result<Spawn, StartError> {
        let Parts {
            meta,
            record,
            region,
            log,
            hard_state,
            applied,
            made_at,
            campaign,
        } = parts;
        let (id, life) = (region.id, self.next_life());
        let parts = PeerParts {
            shared: Arc::clone(&self.shared),
            life,
            meta,
            region,
            log: log.of_life(life),
            hard_state,
            applied: applied.index,
            durable: 0,
            split_at: 0,
            intent: None,
            made_at,
            campaign,
            merging: None,
            proposed_merge: None,
        };
        let peer = Box::new(Peer::new(parts, now)?);
        let apply = Apply::new(Arc::clone(&self.shared), life, &record, applied);
        Ok(Spawn {
            region: id,
            peer,
            apply: Box::new(apply),
        })
    }
}

/// What the machines of a region are made of.
struct Parts {
    meta: Option<PeerMeta>,
    record: RegionRecord,
    region: Region,
    log: PeerLog,
    hard_state: HardState,
    applied: ApplyRecord,
    made_at: Option<RegionEpoch>,
    campaign: bool,
}
