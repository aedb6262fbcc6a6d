//! A peer that is no member any more ends, whoever it hears of it from (contracts: C7).

use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::{Peer as PeerMeta, Region, RegionEpoch};

use super::Peer;
use crate::effects::{ApplyInput, MetaRole, Outbound, PdTask, RaftEffects, RaftInput, StoreInput};
use crate::planted::Planted;
use crate::{PROBE_TARGET, STORE_ADDRESS};

impl Peer {
    /// A member says that this peer is none.
    pub(super) fn on_tombstone(
        &mut self,
        to: PeerMeta,
        epoch: Option<RegionEpoch>,
        effects: &mut RaftEffects,
    ) {
        if to.id == self.meta.id && self.is_older_than(epoch) && !self.is_behind_itself() {
            tracing::trace!(target: PROBE_TARGET, "destroy: told by a member");
            self.destroy(effects);
        }
    }

    /// A blank peer has no epoch of its own: it was a member where it was spoken to as one, and who knows
    /// less than that does not know of it yet.
    fn is_older_than(&self, other: Option<RegionEpoch>) -> bool {
        let other = other.map_or(0, |epoch| epoch.conf_ver);
        let own = self.region.region_epoch.map(|own| own.conf_ver);
        own.unwrap_or(self.member_at) < other
    }

    /// It has not applied all that it knows to be committed. Its own removal may be in there: whoever
    /// waits for that gets an answer then, and the tombstone says how far the log was committed. If it
    /// is not, others will tell again.
    fn is_behind_itself(&self) -> bool {
        self.raft.applied_index() < self.raft.commit()
    }

    /// A sender that was a member once and does not know that it is none any more is told so; what
    /// it says does not count.
    pub(super) fn refuse_stranger(
        &mut self,
        from: PeerMeta,
        epoch: Option<RegionEpoch>,
        effects: &mut RaftEffects,
    ) -> bool {
        let member = self.region.peers.iter().any(|peer| peer.id == from.id);
        let Some(own) = self.region.region_epoch else {
            return false;
        };
        let older = epoch.is_none_or(|epoch| epoch.conf_ver < own.conf_ver);
        if member || !older || from.id == 0 {
            return false;
        }
        tracing::trace!(target: PROBE_TARGET, "destroy: a stranger is told");
        effects.send_now.push(self.farewell(from));
        true
    }

    /// A peer that has heard of no leader for long asks PD whether it is still a member.
    pub(super) fn check_membership(&mut self, now: Mono, effects: &mut RaftEffects) {
        // The leader it knows does not count: who may not campaign never forgets one that is silent.
        if self.is_leader() {
            self.led = now;
        } else if now - self.led >= self.shared.config.stale_check {
            tracing::trace!(target: PROBE_TARGET, "destroy: PD is asked about a peer without a leader");
            self.led = now;
            let region = self.region.id;
            effects.pd.push(PdTask::AskRegion { region });
            self.ask_members(effects);
        }
    }

    /// A message without a raft message: whoever knows that this peer is none of them says so. PD does
    /// not answer for its own region.
    fn ask_members(&self, effects: &mut RaftEffects) {
        // Who has no data knows only whom it has heard of.
        let heard = self.raft.log().addresses().filter(|_| self.is_blank());
        let others = self.region.peers.iter().chain(heard);
        for other in others.filter(|other| other.id != self.meta.id) {
            effects.send_now.push(Outbound {
                store: other.store_id,
                message: self.envelope(*other),
            });
        }
    }

    /// PD knows newer members than this peer: it is one of them, or it ends.
    pub(super) fn on_current(&mut self, current: &Region, effects: &mut RaftEffects) {
        let member = current.peers.iter().any(|peer| peer.id == self.meta.id);
        if !member && self.is_older_than(current.region_epoch) && !self.is_behind_itself() {
            tracing::trace!(target: PROBE_TARGET, "destroy: PD knows newer members");
            self.destroy(effects);
        }
    }

    /// Nothing is said, voted for or served here from now on; the apply half writes the tombstone.
    pub(super) fn destroy(&mut self, effects: &mut RaftEffects) {
        if self.ending {
            return;
        }
        self.stop_serving(effects);
        let region = self.region.id;
        let dying = RaftInput::Store(StoreInput::Dying { region });
        effects.to_raft.push((STORE_ADDRESS, dying));
        // Rows on their way must not land after the end.
        if !self.is_ingesting() {
            effects.to_apply.push((region, ApplyInput::Destroy));
        }
    }

    /// The tombstone is written.
    pub(super) fn on_removed(&mut self, effects: &mut RaftEffects) {
        self.stop_serving(effects);
        let destroyed = StoreInput::Destroyed {
            region: self.region.id,
            cut: self.applied_cut,
        };
        effects
            .to_raft
            .push((STORE_ADDRESS, RaftInput::Store(destroyed)));
    }

    fn stop_serving(&mut self, effects: &mut RaftEffects) {
        self.ending = true;
        self.drop_waiting(effects);
        self.drop_absorb(effects);
        self.drop_awaited(effects);
        self.delegate.outdate();
        self.delegate.suspend();
        self.drop_owed();
        let goes_on = self.shared.plants(Planted::EndedPdGoesOn);
        if self.meta_announced.take().is_some() && !goes_on {
            effects.meta_role.push(MetaRole::Follows);
        }
    }
}
