//! Operators change the members of regions: peers come, catch up, vote, step back and go.

use std::collections::BTreeMap;

use flotilla_pd::{Call as _, calls};
use flotilla_proto::metapb::{Peer, PeerRole, Region, RegionEpoch};
use flotilla_proto::pdpb::AllocIdRequest;
use flotilla_raftstore::PeerInput;
use flotilla_raftstore::effects::PeerChange;
use flotilla_raftstore::region::META_REGION;

use super::calls::{Asker, Purpose, header};
use super::{Phase, Sim};
use crate::store::LifeId;

/// Voters that a region should have; with fewer or more the operators lean back to it.
const VOTERS_WANTED: usize = 3;
/// Chance per thousand that somebody is taken away though too few of the others run.
const RECKLESS: u64 = 200;

/// A change of members that somebody wants.
#[derive(Debug)]
pub(super) struct Wanted {
    region: Region,
    epoch: RegionEpoch,
    changes: Vec<PeerChange>,
}

/// The peer has no id yet.
fn is_new(change: &PeerChange) -> bool {
    matches!(change, PeerChange::Voter(peer) | PeerChange::Learner(peer) if peer.id == 0)
}

impl Sim {
    /// A change of the members of some region, mostly one that can be done.
    pub(super) fn change_members(&mut self) {
        // One at a time: a peer id that comes late may be below another peer's that has ended.
        let mut calls = self.pd_calls.values();
        if calls.any(|call| matches!(call.purpose, Purpose::PeerId(_))) {
            return;
        }
        let meta = self.rng.chance(100);
        let region = match meta {
            true => self.picture.0.get(&META_REGION).cloned(),
            false => self.any_region(),
        };
        let Some(region) = region else { return };
        let wrong = self.rng.chance(100);
        let changes = match wrong {
            true => self.wrong_change(&region),
            false => self.some_change(&region),
        };
        if self.strands(&region, &changes) && !(self.nobody_is_lost() && self.rng.chance(RECKLESS))
        {
            return self.probe("members: nobody is taken away while too few are here");
        }
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
        let wanted = Wanted {
            region,
            epoch,
            changes,
        };
        if wanted.changes.iter().any(is_new) {
            let request = calls::AllocID::request(AllocIdRequest {
                header: header(),
                count: 1,
            });
            return self.call_pd(Asker::Operator, request, Purpose::PeerId(wanted));
        }
        self.change(wanted);
    }

    /// The id for a new peer has come.
    pub(super) fn change_with(&mut self, mut wanted: Wanted, new: u64) {
        for change in &mut wanted.changes {
            if is_new(change)
                && let PeerChange::Voter(peer) | PeerChange::Learner(peer) = change
            {
                peer.id = new;
            }
        }
        if self.phase == Phase::Run {
            self.change(wanted);
        }
    }

    fn change(&mut self, wanted: Wanted) {
        let Wanted {
            region,
            epoch,
            changes,
        } = wanted;
        let Some(id) = self.about_where(region.id) else {
            return;
        };
        self.ask_members(id, region.id, epoch, changes);
        // Who is new gets a snapshot from before the split, or learns of the child first.
        if self.rng.chance(200) {
            self.split_region(region);
        }
    }

    /// A peer of `region` is asked to change the members.
    pub(super) fn ask_members(
        &mut self,
        id: LifeId,
        region: u64,
        epoch: RegionEpoch,
        changes: Vec<PeerChange>,
    ) {
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
                "operation {op}: members of region {region}: {changes:?}"
            ));
        }
        let answer = life.inbox.members(op);
        let input = PeerInput::ChangeMembers {
            epoch,
            changes,
            answer,
        };
        life.runtime.to_peer(region, input);
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

    /// Somebody is taken away, and of the voters that stay no quorum runs: as PD would look at it. It
    /// is not for ever (stores come back with what they held), so that now and then it is done.
    pub(super) fn strands(&self, region: &Region, changes: &[PeerChange]) -> bool {
        let voters = region
            .peers
            .iter()
            .filter(|peer| peer.role() == PeerRole::Voter);
        let mut voters: BTreeMap<u64, u64> = voters.map(|peer| (peer.id, peer.store_id)).collect();
        let before = voters.len();
        for change in changes {
            match change {
                PeerChange::Remove { peer } => drop(voters.remove(peer)),
                PeerChange::Learner(peer) => drop(voters.remove(&peer.id)),
                PeerChange::Voter(_) => {}
            }
        }
        let fewer = voters.len() < before;
        for change in changes {
            if let PeerChange::Voter(peer) = change {
                voters.insert(peer.id, peer.store_id);
            }
        }
        let now = self.now();
        let runs = |(peer, store): &(&u64, &u64)| {
            let node = self.nodes.get(*store);
            let up = node.is_some_and(|node| node.life.is_some() && !node.is_paused(now));
            up && self.stripped != Some(**peer)
        };
        fewer && voters.iter().filter(runs).count() * 2 <= voters.len()
    }

    fn removal(&mut self, peers: &[Peer]) -> PeerChange {
        PeerChange::Remove {
            peer: self.rng.pick(peers).id,
        }
    }

    fn new_peer(&mut self, stores: &[u64]) -> Peer {
        Peer {
            // PD has one.
            id: 0,
            store_id: *self.rng.pick(stores),
            ..Peer::default()
        }
    }

    /// A new peer with an id below another's of the region, as a PD that was deposed may still give it.
    fn older_peer(&mut self, region: &Region) -> Vec<PeerChange> {
        let of_region = |id: u64| region.peers.iter().any(|peer| peer.id == id);
        let highest = region.peers.iter().map(|peer| peer.id).max().unwrap_or(0);
        let older = (1..highest).rev().find(|id| !of_region(*id));
        let mut stores = self.nodes.keys().copied();
        let free = stores.find(|store| region.peers.iter().all(|peer| peer.store_id != *store));
        let peer = older.zip(free).map(|(id, store_id)| Peer {
            id,
            store_id,
            ..Peer::default()
        });
        peer.into_iter().map(PeerChange::Learner).collect()
    }

    /// What a peer must refuse, or at least survive.
    fn wrong_change(&mut self, region: &Region) -> Vec<PeerChange> {
        if region.peers.is_empty() {
            return Vec::new();
        }
        let stores: Vec<u64> = region.peers.iter().map(|peer| peer.store_id).collect();
        match self.rng.below(5) {
            0 => vec![PeerChange::Remove { peer: 999 }],
            1 => vec![PeerChange::Voter(self.new_peer(&stores))],
            2 => {
                let all = region.peers.iter();
                all.map(|peer| PeerChange::Remove { peer: peer.id })
                    .collect()
            }
            3 => self.older_peer(region),
            _ => {
                let peer = *self.rng.pick(&region.peers);
                let store_id = peer.store_id + 1;
                vec![PeerChange::Learner(Peer { store_id, ..peer })]
            }
        }
    }
}
