//! Changes of the members: proposed one at a time, in force once applied.

use std::collections::BTreeMap;

use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::{Peer as PeerMeta, PeerRole, Region, RegionEpoch};
use flotilla_raft::{ConfRequest, MemberChange, PeerStatus, ProposeError, Transition};
use prost::Message;

use super::Peer;
use crate::effects::{Answer, Outbound, PeerChange, RaftEffects};
use crate::planted::Planted;
use crate::region::epoch;
use crate::{PROBE_TARGET, RequestError};

impl Peer {
    pub(super) fn on_change_members(
        &mut self,
        now: Mono,
        asked: RegionEpoch,
        changes: &[PeerChange],
        answer: Answer<Region>,
    ) {
        if !self.is_leader() {
            return answer.give(Err(self.not_leader()));
        }
        if self.source.is_under_way() && !self.shared.plants(Planted::MembersOfMerging) {
            let region = self.region.id;
            return answer.give(Err(RequestError::Merging { region }));
        }
        if asked.conf_ver != epoch(&self.region).conf_ver {
            return answer.give(Err(self.delegate.serving().epoch_not_match()));
        }
        let request = match self.conf_request(changes) {
            Ok(request) => request,
            Err(reason) => return answer.give(Err(RequestError::Members { reason })),
        };
        if let Err(reason) = self.check_quorum_answers(now, changes) {
            return answer.give(Err(RequestError::Members { reason }));
        }
        match self.raft.propose_conf_change(now, request) {
            Ok(id) => self.remember_members(now, id, answer),
            Err(ProposeError::Conf(error)) => {
                let reason = error.to_string();
                answer.give(Err(RequestError::Members { reason }));
            }
            Err(ProposeError::PendingConfChange { .. }) => {
                let reason = "an earlier change of the members is not applied yet";
                answer.give(Err(RequestError::Busy { reason }));
            }
            Err(error) => answer.give(Err(self.refusal(&error))),
        }
    }

    /// In the raft core's words; the entry carries the peers that are new.
    fn conf_request(&self, changes: &[PeerChange]) -> Result<ConfRequest, String> {
        let known = |id: u64| self.region.peers.iter().find(|peer| peer.id == id);
        let mut added = Vec::new();
        let mut voters = 0;
        let mut leaving = None;
        for change in changes {
            match *change {
                PeerChange::Voter(peer) | PeerChange::Learner(peer) => {
                    let voter = matches!(change, PeerChange::Voter(_));
                    match known(peer.id) {
                        Some(own) if own.store_id != peer.store_id => {
                            return Err(format!(
                                "peer {} lives on store {}",
                                peer.id, own.store_id
                            ));
                        }
                        Some(own) => voters += u8::from(voter != (own.role() == PeerRole::Voter)),
                        None => {
                            self.check_new(&peer, &added)?;
                            voters += u8::from(voter);
                            added.push(peer);
                        }
                    }
                }
                PeerChange::Remove { peer } => {
                    let own = known(peer).ok_or_else(|| format!("peer {peer} is no member"))?;
                    if own.role() == PeerRole::Voter {
                        voters += 1;
                        leaving = Some(peer);
                    }
                }
            }
        }
        if let (Some(peer), 2..) = (leaving, voters) {
            // A descriptor cannot say that a voter is on its way out for good.
            return Err(format!(
                "several voters change at once: demote peer {peer} to a learner first"
            ));
        }
        let context = Region {
            peers: added,
            ..Region::default()
        };
        let change = |change: &PeerChange| match *change {
            PeerChange::Voter(peer) => MemberChange::AddVoter(peer.id),
            PeerChange::Learner(peer) => MemberChange::AddLearner(peer.id),
            PeerChange::Remove { peer } => MemberChange::Remove(peer),
        };
        Ok(ConfRequest {
            changes: changes.iter().map(change).collect(),
            transition: Transition::Auto,
            context: context.encode_to_vec().into(),
        })
    }

    /// Nobody who votes is taken away, unless of those that vote then a quorum answers: otherwise the
    /// region might never commit anything again. Whoever is asked knows it only by what it has heard in
    /// its term.
    fn check_quorum_answers(&self, now: Mono, changes: &[PeerChange]) -> Result<(), String> {
        let voters = self.region.peers.iter();
        let voters = voters.filter(|peer| peer.role() == PeerRole::Voter);
        let mut voters: BTreeMap<u64, u64> = voters.map(|peer| (peer.id, peer.store_id)).collect();
        let before = voters.clone();
        for change in changes {
            match *change {
                PeerChange::Voter(peer) => drop(voters.insert(peer.id, peer.store_id)),
                PeerChange::Learner(PeerMeta { id, .. }) | PeerChange::Remove { peer: id } => {
                    voters.remove(&id);
                }
            }
        }
        let all_stay = before.keys().all(|peer| voters.contains_key(peer));
        // That somebody votes at all is the raft core's to say.
        if all_stay || voters.is_empty() {
            return Ok(());
        }
        let within = self.shared.config.election_max;
        let status = self.raft.status();
        let answers = |id: &u64| {
            let hears = |peer: &PeerStatus| {
                peer.id == *id && peer.matched > 0 && now - peer.active < within
            };
            *id == self.meta.id || status.peers.iter().any(hears)
        };
        let silent = voters.iter().filter(|(id, _)| !answers(id));
        let silent: Vec<String> = silent.map(|(_, store)| store.to_string()).collect();
        if (voters.len() - silent.len()) * 2 > voters.len() {
            return Ok(());
        }
        tracing::trace!(target: PROBE_TARGET, "members: a quorum would not answer");
        Err(format!(
            "of the {} voters that are left no quorum answers now (silent: store {}): add others first, or wait for them",
            voters.len(),
            silent.join(", ")
        ))
    }

    /// A store has one peer of a region.
    fn check_new(&self, peer: &PeerMeta, added: &[PeerMeta]) -> Result<(), String> {
        if peer.id == 0 || peer.store_id == 0 {
            return Err("a peer without an id or a store".to_owned());
        }
        // Its store may have had a later one, and would not take it (contracts: C33). A PD that was deposed
        // may still give such an id.
        let later = self.region.peers.iter().find(|other| other.id > peer.id);
        let any = self.shared.plants(Planted::LowerPeerId);
        if let Some(later) = later.filter(|_| !any) {
            return Err(format!(
                "peer {} is older than peer {} of the region: ids rise, ask PD for another one",
                peer.id, later.id
            ));
        }
        let mut others = self.region.peers.iter().chain(added);
        match others.find(|other| other.store_id == peer.store_id) {
            Some(other) => Err(format!(
                "store {} has peer {} already",
                peer.store_id, other.id
            )),
            None => Ok(()),
        }
    }

    /// The new members are in force.
    pub(super) fn on_members(
        &mut self,
        now: Mono,
        index: u64,
        region: Region,
        effects: &mut RaftEffects,
    ) {
        let before = std::mem::replace(&mut self.region, region);
        if let Some(own) = self
            .region
            .peers
            .iter()
            .find(|peer| peer.id == self.meta.id)
        {
            self.meta = *own;
        }
        self.publish();
        self.tell_members(&before.peers, effects);
        if self.is_leader() {
            for gone in &before.peers {
                let stays = self.region.peers.iter().any(|peer| peer.id == gone.id);
                if !stays && gone.id != self.meta.id {
                    // It may never hear of the entry that removed it.
                    effects.send_now.push(self.farewell(*gone));
                }
            }
            self.report_region(now, effects);
        }
        if let Some(answer) = self.changing.remove(&index) {
            answer.give(Ok(self.region.clone()));
        }
        tracing::trace!(target: PROBE_TARGET, "members: changed");
    }

    /// Tells a peer that it is no member any more.
    pub(super) fn farewell(&self, peer: PeerMeta) -> Outbound {
        let mut message = self.envelope(peer);
        message.is_tombstone = true;
        Outbound {
            store: peer.store_id,
            message,
        }
    }
}
