//! Operators change the members of regions: peers come, catch up, vote, step back and go.

use flotilla_proto::metapb::{Peer, PeerRole, Region, RegionEpoch};
use flotilla_raftstore::PeerInput;
use flotilla_raftstore::effects::PeerChange;
use flotilla_raftstore::region::META_REGION;

use super::Sim;

/// Voters that a region should have; with fewer or more the operators lean back to it.
const VOTERS_WANTED: usize = 3;

impl Sim {
    /// A change of the members of some region, mostly one that can be done.
    pub(super) fn change_members(&mut self) {
        let meta = self.rng.chance(100);
        let region = match meta {
            true => self
                .pd
                .regions()
                .find(|region| region.id == META_REGION)
                .cloned(),
            false => self.any_region(),
        };
        let Some(region) = region else { return };
        let wrong = self.rng.chance(100);
        let changes = match wrong {
            true => self.wrong_change(&region),
            false => self.some_change(&region),
        };
        let mut epoch = region.region_epoch.unwrap_or_default();
        if wrong && self.rng.chance(300) {
            epoch = RegionEpoch {
                conf_ver: epoch.conf_ver.saturating_sub(1),
                ..epoch
            };
        }
        if changes.is_empty() {
            return;
        }
        let Some(id) = self.about_where(region.id) else {
            return;
        };
        let op = self.op();
        let around = self.around(id.store);
        let Some(life) = self.life(id.store) else {
            return;
        };
        {
            let mut oracle = around.oracle.lock();
            let step = oracle.step;
            oracle.answers.members_asked(op, id.store, step);
            oracle.note(format_args!(
                "operation {op}: members of region {}: {changes:?}",
                region.id
            ));
        }
        let answer = life.inbox.members(op);
        let input = PeerInput::ChangeMembers {
            epoch,
            changes,
            answer,
        };
        life.runtime.to_peer(region.id, input);
        self.hear_answers(id);
    }

    fn some_change(&mut self, region: &Region) -> Vec<PeerChange> {
        let of = |role: PeerRole| -> Vec<Peer> {
            let peers = region.peers.iter().filter(|peer| peer.role() == role);
            peers.copied().collect()
        };
        let (voters, learners) = (of(PeerRole::Voter), of(PeerRole::Learner));
        let missing: Vec<u64> = self.nodes.keys().copied().collect();
        let missing: Vec<u64> = missing
            .into_iter()
            .filter(|store| region.peers.iter().all(|peer| peer.store_id != *store))
            .collect();
        let fewer = match voters.len() {
            0..=1 => false,
            count if count < VOTERS_WANTED => self.rng.chance(250),
            count if count > VOTERS_WANTED => self.rng.chance(750),
            _ => self.rng.chance(500),
        };
        let kind = self.rng.below(4);
        match (fewer, kind) {
            // The leader is one of them, now and then.
            (true, 0..=1) => vec![self.removal(&voters)],
            (true, 2) => vec![PeerChange::Learner(*self.rng.pick(&voters))],
            (true, _) if !learners.is_empty() => vec![self.removal(&learners)],
            (true, _) if !missing.is_empty() => {
                let new = self.new_peer(&missing);
                let old = *self.rng.pick(&voters);
                vec![PeerChange::Voter(new), PeerChange::Learner(old)]
            }
            (false, 0..=1) if !learners.is_empty() => {
                let peer = *self.rng.pick(&learners);
                let mut changes = vec![PeerChange::Voter(peer)];
                if kind == 1 && !voters.is_empty() {
                    changes.push(PeerChange::Learner(*self.rng.pick(&voters)));
                }
                changes
            }
            (false, 2) if !missing.is_empty() => vec![PeerChange::Voter(self.new_peer(&missing))],
            (_, _) if !missing.is_empty() => vec![PeerChange::Learner(self.new_peer(&missing))],
            _ => Vec::new(),
        }
    }

    fn removal(&mut self, peers: &[Peer]) -> PeerChange {
        PeerChange::Remove {
            peer: self.rng.pick(peers).id,
        }
    }

    fn new_peer(&mut self, stores: &[u64]) -> Peer {
        Peer {
            id: self.pd.id(),
            store_id: *self.rng.pick(stores),
            ..Peer::default()
        }
    }

    /// What a peer must refuse, or at least survive.
    fn wrong_change(&mut self, region: &Region) -> Vec<PeerChange> {
        if region.peers.is_empty() {
            return Vec::new();
        }
        let stores: Vec<u64> = region.peers.iter().map(|peer| peer.store_id).collect();
        match self.rng.below(4) {
            0 => vec![PeerChange::Remove { peer: 999 }],
            1 => vec![PeerChange::Voter(self.new_peer(&stores))],
            2 => {
                let all = region.peers.iter();
                all.map(|peer| PeerChange::Remove { peer: peer.id })
                    .collect()
            }
            _ => {
                let peer = *self.rng.pick(&region.peers);
                let store_id = peer.store_id + 1;
                vec![PeerChange::Learner(Peer { store_id, ..peer })]
            }
        }
    }
}
