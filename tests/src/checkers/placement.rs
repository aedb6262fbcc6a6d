//! PD: what it gives is given once and in order, what it shows was real.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_pd::LOGICAL_BITS;
use flotilla_proto::clock::Wall;
use flotilla_proto::eraftpb::ConfChangeType;
use flotilla_proto::metapb::{Peer, PeerRole, Region};
use flotilla_proto::pdpb::{ChangePeer, RegionHeartbeatResponse, TsoResponse};
use flotilla_proto::store::ColumnFamily;
use flotilla_raftstore::region::META_REGION;

use super::Oracle;
use super::topology::version;
use crate::rules::Rule;

/// Voters of the meta region (contracts: C30).
const META_VOTERS: usize = 5;

/// A batch of timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The smallest.
    pub first: u64,
    /// The largest.
    pub last: u64,
}

impl Granted {
    /// What a response gives.
    pub fn new(response: &TsoResponse) -> Self {
        let timestamp = response.timestamp.unwrap_or_default();
        let parts = [timestamp.physical, timestamp.logical].map(i64::cast_unsigned);
        let last = (parts[0] << LOGICAL_BITS) | parts[1];
        Self {
            first: last + 1 - u64::from(response.count),
            last,
        }
    }
}

/// How many replicas there should be.
#[derive(Clone, Debug)]
pub struct Replicas {
    /// What the cluster's row says.
    pub max: usize,
    /// Stores that are there, or may come back.
    pub stores: usize,
    /// Those that are registered, and are neither leaving nor gone.
    pub stay: BTreeSet<u64>,
}

impl Replicas {
    /// Voters of a region: where there are fewer stores, the largest odd number of them.
    fn voters(&self, meta: bool) -> usize {
        let wanted = if meta { META_VOTERS } else { self.max };
        match self.stores {
            enough if enough >= wanted => wanted,
            few => few - (few + 1) % 2,
        }
    }
}

fn votes(peer: &Peer) -> bool {
    matches!(peer.role(), PeerRole::Voter | PeerRole::IncomingVoter)
}

fn voters(peers: &[Peer]) -> usize {
    peers.iter().filter(|peer| votes(peer)).count()
}

/// The peers of `region` after `changes`; no changes leave a joint configuration.
fn changed(region: &Region, changes: &[ChangePeer]) -> Vec<Peer> {
    let mut peers = region.peers.clone();
    for change in changes {
        let peer = change.peer.unwrap_or_default();
        peers.retain(|old| old.id != peer.id);
        let role = match change.change_type() {
            ConfChangeType::AddNode => PeerRole::Voter,
            ConfChangeType::AddLearnerNode => PeerRole::Learner,
            ConfChangeType::RemoveNode => continue,
        };
        let role = role.into();
        peers.push(Peer { role, ..peer });
    }
    peers
}

/// What PD has given and shown.
#[derive(Debug, Default)]
pub struct PlacementSeen {
    /// The largest timestamp that left a lease check, and the term it was given in.
    newest: (u64, u64),
    /// The largest timestamp that anybody has heard of.
    heard: u64,
    ids: BTreeSet<u64>,
    /// The highest id that each term's PD gave.
    highest: BTreeMap<u64, u64>,
    /// By store: the regions that its PD has shown since it began to serve.
    shown: BTreeMap<u64, BTreeMap<u64, Region>>,
}

impl Oracle {
    /// A store's PD reads its rows, for a term that it leads in.
    pub fn pd_reads_rows(&mut self, store: u64, term: u64) {
        let first = self.consensus.first_of_term(META_REGION, term);
        let applied = self.stores[&store].applied.get(&META_REGION).copied();
        // One whose peer has just ended reads nothing, and is told so next: [`Rule::EndedIsSilent`].
        let ended = self.stores[&store].tombstones.contains_key(&META_REGION);
        let caught_up = ended || first.is_some_and(|first| applied >= Some(first));
        self.checks.check(Rule::PdHasCaughtUp, caught_up, || {
            format!(
                "store {store} reads PD's rows for term {term}, which began at {first:?}: {applied:?} is applied"
            )
        });
    }

    /// A store says that it is PD: its peer of the meta region has not ended. Ask when it must have heard;
    /// before the tombstone survives a crash the news may still be on its way.
    pub fn check_pd_lives(&mut self, store: u64) {
        let seen = self.store(store);
        let buried = seen.buried.get(&META_REGION).copied();
        let ended = buried.is_some() && seen.tombstones.get(&META_REGION).copied() == buried;
        self.checks.check(Rule::EndedIsSilent, !ended, || {
            format!("store {store} is PD, its peer {buried:?} of the meta region has ended")
        });
    }

    /// A change of the members adds peers with ids above all that the region has.
    pub fn check_ids_of_new(&mut self, before: &Region, after: &Region) {
        let highest = before.peers.iter().map(|peer| peer.id).max().unwrap_or(0);
        let known = |peer: &&Peer| before.peers.iter().any(|old| old.id == peer.id);
        for new in after.peers.iter().filter(|peer| !known(peer)) {
            self.checks.check(Rule::IdsRise, new.id > highest, || {
                format!("region {}: {new:?} comes behind peer {highest}", after.id)
            });
        }
    }

    /// A store's PD begins to serve, with an empty view.
    pub fn pd_begins(&mut self, store: u64) {
        self.placement.shown.remove(&store);
    }

    /// Timestamps are served from `from_ms` on: above everything that was ever given.
    pub fn window_opens(&mut self, store: u64, term: u64, from_ms: u64) {
        let (newest, given_in) = self.placement.newest;
        // One that has been deposed has no lease to give any.
        let above = newest == 0 || term < given_in || from_ms > newest >> LOGICAL_BITS;
        self.checks.check(Rule::WindowOpensAbove, above, || {
            format!(
                "store {store} opens its window of term {term} at {from_ms} ms, term {given_in} has given {newest}"
            )
        });
    }

    /// A store's PD has found its lease to hold after it took these timestamps.
    pub fn timestamps_granted(&mut self, store: u64, term: u64, wall: Wall, granted: Granted) {
        let (newest, given_in) = self.placement.newest;
        let rises = granted.first > newest && granted.first <= granted.last;
        self.checks.check(Rule::TimestampsRise, rises, || {
            format!(
                "store {store} gives {granted:?} in term {term}, term {given_in} has given {newest}"
            )
        });
        let failover = given_in != 0 && given_in != term;
        self.probes
            .hit_if(failover, "pd: timestamps after another leader's");
        let back = wall.0 < granted.first >> LOGICAL_BITS;
        self.probes
            .hit_if(back, "pd: timestamps while the time of day is behind them");
        self.placement.newest = (newest.max(granted.last), term);
    }

    /// The largest timestamp that anybody has heard of by now.
    pub fn timestamps_known(&self) -> u64 {
        self.placement.heard
    }

    /// Somebody hears of timestamps who asked when `known` was known.
    pub fn timestamps_heard(&mut self, known: u64, first: u64, last: u64) {
        self.checks.check(Rule::TimestampsRise, first > known, || {
            format!("{first} to {last} are heard of by somebody who asked when {known} was known")
        });
        self.placement.heard = self.placement.heard.max(last);
    }

    /// Ids leave a store's PD: never given before, above all that were given in other terms, and below
    /// the bound that is committed.
    pub fn ids_given(&mut self, (store, term): (u64, u64), ids: impl Iterator<Item = u64>) {
        let others = self.placement.highest.iter();
        let others = others.filter(|(other, _)| **other != term);
        let before = others.map(|(_, id)| *id).max().unwrap_or(0);
        let key = (ColumnFamily::CfMeta as i32, bytes::Bytes::from_static(b"i"));
        let bound = self.model.last_written(&key);
        let bound = bound.and_then(|row| Some(u64::from_be_bytes(row.get(1..)?.try_into().ok()?)));
        for id in ids {
            let highest = self.placement.highest.entry(term).or_default();
            *highest = id.max(*highest);
            self.checks.check(Rule::IdsRise, id > before, || {
                format!(
                    "store {store} gives id {id} in term {term}, and {before} was given in another"
                )
            });
            let fresh = self.placement.ids.insert(id);
            self.checks.check(Rule::IdsUnique, fresh, || {
                format!("store {store} gives id {id} a second time")
            });
            let below = bound.is_some_and(|bound| id < bound);
            self.checks.check(Rule::IdsUnique, below, || {
                format!("store {store} gives id {id}, the committed bound is {bound:?}")
            });
        }
    }

    /// A store's PD shows a region: it was real at some time, its leader is one of its peers, and
    /// nothing older is shown than before, as long as the same PD serves.
    pub fn route_told(&mut self, store: u64, region: &Region, leader: Option<&Peer>) {
        let real = self.model.knows(region);
        let member = leader.is_none_or(|leader| leader.id == 0 || region.peers.contains(leader));
        self.checks.check(Rule::RoutesReal, real && member, || {
            format!("store {store} shows {region:?} led by {leader:?}, which never was")
        });
        let shown = self.placement.shown.entry(store).or_default();
        let before = shown.insert(region.id, region.clone());
        let newer = before.as_ref().is_none_or(|before| {
            let (before, now) = (version(before), version(region));
            before.0 <= now.0 && before.1 <= now.1
        });
        self.checks.check(Rule::RoutesReal, newer, || {
            format!("store {store} shows {region:?}, and has shown {before:?}")
        });
    }

    /// A store's PD tells a leader to change the members of its region, where `rule` says how many
    /// replicas there should be: afterwards it has no fewer voters than before, or as many as it should
    /// have; nobody is the second one on a store, or new on one that is to be emptied; the leader stays.
    pub fn pd_instructs(&mut self, store: u64, rule: &Replicas, asked: &RegionHeartbeatResponse) {
        let changes = match (&asked.change_peer, &asked.change_peer_v2) {
            (Some(one), _) => std::slice::from_ref(one),
            (None, Some(several)) => &several.changes[..],
            (None, None) => return,
        };
        let Some(region) = self.model.at_epoch(asked.region_id, asked.region_epoch) else {
            return;
        };
        let changed = changed(region, changes);
        let before = voters(&region.peers);
        let least = before.min(rule.voters(region.id == META_REGION));
        let mut stores: Vec<u64> = changed.iter().map(|peer| peer.store_id).collect();
        stores.sort_unstable();
        let apart = stores.windows(2).all(|pair| pair[0] != pair[1]);
        let leader = asked.target_peer.map_or(0, |peer| peer.id);
        let led = changes.is_empty() || changed.iter().any(|peer| peer.id == leader && votes(peer));
        // Who is new comes to a store that stays.
        let known = |peer: &&Peer| region.peers.iter().any(|old| old.id == peer.id);
        let mut new = changed.iter().filter(|peer| !known(peer));
        let stays = new.all(|peer| rule.stay.contains(&peer.store_id));
        let keeps = voters(&changed) >= least && apart && led && stays;
        self.checks.check(Rule::OperatorsKeepReplicas, keeps, || {
            format!("store {store}: PD wants {changes:?} of {region:?} led by peer {leader}, where {rule:?}")
        });
    }

    /// Faults and operators are over: every region has the replicas that it should have, on stores that
    /// are there.
    pub fn check_placed(&mut self, rule: &Replicas, gone: Option<u64>, over: bool) -> bool {
        let wrong = self.model.regions().find(|region| {
            let wanted = rule.voters(region.id == META_REGION);
            let plain = region
                .peers
                .iter()
                .all(|peer| peer.role() == PeerRole::Voter);
            let here = region.peers.iter().all(|peer| Some(peer.store_id) != gone);
            !(plain && here && region.peers.len() == wanted)
        });
        let placed = wrong.is_none();
        if placed || over {
            let wrong = wrong.cloned();
            self.checks.check(Rule::PlanningConverges, placed, || {
                format!("PD has had its time, and this is left: {wrong:?}, where {rule:?}, gone: {gone:?}")
            });
        }
        placed
    }

    /// A store's PD was told of two regions that cannot both be.
    pub fn regions_conflict(&mut self, store: u64, reported: u64, known: u64) {
        self.checks.check(Rule::RoutesReal, false, || {
            format!(
                "store {store}: region {reported} claims keys of region {known} at the same version"
            )
        });
    }
}
