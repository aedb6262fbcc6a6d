//! Which replica of each region goes on alone, and what is lost.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use flotilla_proto::metapb::{Peer, Region};

use super::{LogEnd, Replica};
use crate::region::{META_REGION, conf_state, epoch, overlap};

/// A stopped store that is still there.
#[derive(Clone, Debug, PartialEq)]
pub struct Survivor {
    /// Its id.
    pub store: u64,
    /// The cluster that its folder belongs to.
    pub cluster: u64,
    /// What it holds.
    pub replicas: Vec<Replica>,
}

/// What becomes of the regions whose majority is lost.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The cluster.
    pub cluster: u64,
    /// Stores that regions have members on and that are not among the survivors, ascending: none of them
    /// may ever come back.
    pub lost: Vec<u64>,
    /// Regions that go on with one replica, by id.
    pub forced: Vec<Choice>,
    /// What will be missing, in key order.
    pub damage: Vec<Damage>,
    /// Regions that have their majority and are left alone.
    pub untouched: usize,
}

/// The replica that goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The region as the survivors know it best; the replica has this descriptor once it has applied
    /// up to `commit`.
    pub region: Region,
    /// Whose store carries it out.
    pub peer: Peer,
    /// Where its log ends: it must not have changed when the plan is carried out.
    pub last: LogEnd,
    /// Committed, as one of the survivors knows.
    pub commit: u64,
    /// The term that it goes on in, above all that survivors have seen.
    pub term: u64,
    /// Voters that are not among the survivors.
    pub lost_voters: usize,
    /// Entries whose fate nobody left knows: they are kept, as far as they are data.
    pub undecided: u64,
    /// Ranges beside the region's that nobody has (start, end): it goes on with them, empty.
    pub takes: Vec<(Bytes, Bytes)>,
}

/// Something that is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Writes of the region may be lost that only the lost voters had: a majority of them, if they were
    /// acknowledged.
    MayMissWrites {
        /// The region.
        region: u64,
    },
    /// Nobody has these keys, from the first on and below the second; empty: to the end.
    Keys {
        /// The first.
        start: Bytes,
        /// The end.
        end: Bytes,
        /// The region that goes on with them, empty. `None`: no region beside them goes on where this
        /// range is free, and they cannot be read or written.
        taken_by: Option<u64>,
    },
    /// A replica of a region that has been split since, and nobody has the other parts' words for it.
    Outdated {
        /// The region.
        region: u64,
    },
}

/// Why there is no plan. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Not one cluster.
    #[error(
        "the folders are of different clusters, {one} and {other}: recover one cluster at a time"
    )]
    Clusters {
        /// One.
        one: u64,
        /// And another.
        other: u64,
    },
    /// The same store more than once.
    #[error(
        "store {store} is named twice: a copied folder must not be recovered beside its original"
    )]
    Twice {
        /// Which.
        store: u64,
    },
    /// No survivors.
    #[error("no stores were named: name the folders of all stores that are left")]
    Nobody,
    /// Every region has its majority.
    #[error(
        "nothing to recover: every region that is left has its majority among these stores; start them"
    )]
    Healthy,
    /// PD's own region is gone.
    #[error(
        "no replica of the meta region is among these stores: without it there is no cluster to go on \
         with; look for a folder of one of its stores, or restore a backup"
    )]
    NoMeta,
}

/// Looks for the regions that have lost their majority and picks for each the replica whose log goes on
/// the longest. The newest epoch that survives tells where a region lies and who its members are.
///
/// # Errors
/// See [`PlanError`].
pub fn plan(survivors: &[Survivor]) -> Result<Plan, PlanError> {
    let cluster = check(survivors)?;
    let mut by_region: BTreeMap<u64, Vec<&Replica>> = BTreeMap::new();
    for replica in survivors.iter().flat_map(|survivor| &survivor.replicas) {
        by_region
            .entry(replica.region.id)
            .or_default()
            .push(replica);
    }
    if !by_region.contains_key(&META_REGION) {
        return Err(PlanError::NoMeta);
    }
    let stores: BTreeSet<u64> = survivors.iter().map(|survivor| survivor.store).collect();
    let regions: Vec<Known<'_>> = by_region.values().map(Known::of).collect();
    let (current, outdated) = newest(regions);
    let mut plan = Plan {
        cluster,
        ..Plan::default()
    };
    let mut lost = BTreeSet::new();
    for known in &current {
        let members = known.region.peers.iter().map(|peer| peer.store_id);
        lost.extend(members.filter(|store| !stores.contains(store)));
        match known.choice() {
            None => plan.untouched += 1,
            Some(choice) => {
                plan.damage.push(Damage::MayMissWrites {
                    region: choice.region.id,
                });
                plan.forced.push(choice);
            }
        }
    }
    plan.lost.extend(lost);
    plan.damage.extend(
        outdated
            .into_iter()
            .map(|region| Damage::Outdated { region }),
    );
    for (start, end) in gaps(&current) {
        let taken_by = take(&mut plan.forced, survivors, &start, &end);
        plan.damage.push(Damage::Keys {
            start,
            end,
            taken_by,
        });
    }
    if plan.forced.is_empty() {
        return Err(PlanError::Healthy);
    }
    Ok(plan)
}

fn check(survivors: &[Survivor]) -> Result<u64, PlanError> {
    let first = survivors.first().ok_or(PlanError::Nobody)?;
    let mut stores = BTreeSet::new();
    for survivor in survivors {
        let (one, other) = (first.cluster, survivor.cluster);
        if one != other {
            return Err(PlanError::Clusters { one, other });
        }
        let store = survivor.store;
        if !stores.insert(store) {
            return Err(PlanError::Twice { store });
        }
    }
    Ok(first.cluster)
}

/// What the survivors know of a region.
struct Known<'a> {
    /// As the newest epoch says.
    region: &'a Region,
    replicas: &'a [&'a Replica],
}

impl<'a> Known<'a> {
    fn of(replicas: &'a Vec<&'a Replica>) -> Self {
        let newest = replicas
            .iter()
            .map(|replica| &replica.region)
            .max_by_key(|region| version(region))
            .expect("grouped by region, so there is one");
        Self {
            region: newest,
            replicas,
        }
    }

    fn survives(&self, peer: u64) -> bool {
        self.replicas.iter().any(|replica| replica.peer.id == peer)
    }

    /// `None`: it has its majority.
    fn choice(&self) -> Option<Choice> {
        let conf = conf_state(self.region);
        let majority = |voters: &[u64]| {
            let left = voters.iter().filter(|peer| self.survives(**peer)).count();
            voters.is_empty() || left > voters.len() / 2
        };
        if majority(&conf.voters) && majority(&conf.voters_outgoing) {
            return None;
        }
        let best = self.replicas.iter().max_by_key(|replica| {
            // The lower id decides between equals, so that a plan does not depend on an order.
            (replica.last, std::cmp::Reverse(replica.peer.id))
        })?;
        let commit = self.replicas.iter().map(|replica| replica.commit).max()?;
        let term = self.replicas.iter().map(|replica| replica.term).max()?;
        let voters: BTreeSet<u64> = conf
            .voters
            .into_iter()
            .chain(conf.voters_outgoing)
            .collect();
        Some(Choice {
            region: self.region.clone(),
            peer: best.peer,
            last: best.last,
            commit,
            term: term + 1,
            lost_voters: voters.iter().filter(|peer| !self.survives(**peer)).count(),
            undecided: best.last.index.saturating_sub(commit),
            takes: Vec::new(),
        })
    }
}

fn version(region: &Region) -> (u64, u64) {
    let epoch = epoch(region);
    (epoch.version, epoch.conf_ver)
}

/// The regions whose newest descriptors do not contradict each other, by id, and those that must give way:
/// a split that another replica knows of has taken a part of their range.
fn newest(mut regions: Vec<Known<'_>>) -> (Vec<Known<'_>>, Vec<u64>) {
    regions.sort_by_key(|known| (std::cmp::Reverse(version(known.region)), known.region.id));
    let mut current: Vec<Known<'_>> = Vec::new();
    let mut outdated = Vec::new();
    for known in regions {
        let region = known.region;
        let meets = |other: &Known<'_>| {
            region.id != META_REGION
                && other.region.id != META_REGION
                && overlap(region, other.region)
        };
        if current.iter().any(meets) {
            outdated.push(region.id);
        } else {
            current.push(known);
        }
    }
    current.sort_by_key(|known| known.region.id);
    outdated.sort_unstable();
    (current, outdated)
}

/// Key ranges that no region covers.
fn gaps(regions: &[Known<'_>]) -> Vec<(Bytes, Bytes)> {
    let data = regions.iter().map(|known| known.region);
    let mut ranges: Vec<&Region> = data.filter(|region| region.id != META_REGION).collect();
    ranges.sort_by(|one, other| one.start_key.cmp(&other.start_key));
    let mut found = Vec::new();
    // `None`: covered to the end of all keys.
    let mut covered = Some(Bytes::new());
    for region in ranges {
        if let Some(start) = covered.filter(|end| *end < region.start_key) {
            found.push((start, region.start_key.clone()));
        }
        covered = (!region.end_key.is_empty()).then(|| region.end_key.clone());
    }
    if let Some(start) = covered {
        found.push((start, Bytes::new()));
    }
    found
}

/// A forced region beside a range that nobody has goes on with it; returns which. Its store must not have
/// another replica there, that may yet live.
fn take(forced: &mut [Choice], survivors: &[Survivor], start: &Bytes, end: &Bytes) -> Option<u64> {
    let gap = Region {
        start_key: start.clone(),
        end_key: end.clone(),
        ..Region::default()
    };
    let free = |store: u64, region: u64| {
        let replicas = survivors.iter().filter(|survivor| survivor.store == store);
        let mut replicas = replicas.flat_map(|survivor| &survivor.replicas);
        let own = [META_REGION, region];
        !replicas.any(|other| !own.contains(&other.region.id) && overlap(&other.region, &gap))
    };
    let beside = |region: &Region| {
        let before = !start.is_empty() && region.end_key == *start;
        let behind = !end.is_empty() && region.start_key == *end;
        region.id != META_REGION && (before || behind)
    };
    let taker = forced
        .iter_mut()
        .find(|choice| beside(&choice.region) && free(choice.peer.store_id, choice.region.id))?;
    taker.takes.push((start.clone(), end.clone()));
    Some(taker.region.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_proto::metapb::{PeerRole, RegionEpoch};

    /// `voters`: the stores; a peer's id is ten times the region's and its store's.
    fn region(
        id: u64,
        range: (&'static str, &'static str),
        version: u64,
        voters: &[u64],
    ) -> Region {
        let peers = voters.iter().map(|store| Peer {
            id: id * 10 + store,
            store_id: *store,
            ..Peer::default()
        });
        Region {
            id,
            start_key: range.0.into(),
            end_key: range.1.into(),
            region_epoch: Some(RegionEpoch {
                conf_ver: 1,
                version,
            }),
            peers: peers.collect(),
            ..Region::default()
        }
    }

    fn replica(region: &Region, store: u64, last: (u64, u64), commit: u64) -> Replica {
        let peer = crate::region::peer_on(region, store).expect("a member");
        Replica {
            region: region.clone(),
            peer: *peer,
            term: last.0,
            commit,
            last: LogEnd {
                term: last.0,
                index: last.1,
            },
        }
    }

    fn survivor(store: u64, replicas: Vec<Replica>) -> Survivor {
        Survivor {
            store,
            cluster: 7,
            replicas,
        }
    }

    fn meta(store: u64) -> Replica {
        replica(&region(1, ("", ""), 1, &[store]), store, (6, 9), 9)
    }

    /// The plan over these replicas of data regions; each store also has a meta region of its own alone.
    #[track_caller]
    fn check(stores: &[(u64, Vec<Replica>)], expected: &str) {
        let first = stores[0].0;
        let survivors = stores.iter().map(|(store, replicas)| {
            let mut replicas = replicas.clone();
            if *store == first {
                replicas.push(meta(first));
            }
            survivor(*store, replicas)
        });
        let survivors: Vec<Survivor> = survivors.collect();
        let mut turned = survivors.clone();
        turned.reverse();
        let made = plan(&survivors);
        assert_eq!(
            made,
            plan(&turned),
            "the order of the stores does not matter"
        );
        assert_eq!(
            made.map_or_else(|error| error.to_string(), |plan| show(&plan)),
            expected
        );
    }

    fn show(plan: &Plan) -> String {
        let forced = plan.forced.iter().map(|choice| {
            format!(
                "region {} by {} to commit {} in term {}, {} undecided",
                choice.region.id, choice.peer.id, choice.commit, choice.term, choice.undecided
            )
        });
        let damage = plan.damage.iter().filter_map(|damage| match damage {
            Damage::MayMissWrites { .. } => None,
            Damage::Keys {
                start,
                end,
                taken_by,
            } => Some(match taken_by {
                Some(region) => format!("keys {start:?}..{end:?}, empty in {region}"),
                None => format!("keys {start:?}..{end:?}"),
            }),
            Damage::Outdated { region } => Some(format!("region {region} outdated")),
        });
        let lost = format!("lost {:?}", plan.lost);
        let lines: Vec<String> = std::iter::once(lost).chain(forced).chain(damage).collect();
        lines.join("; ")
    }

    #[test]
    fn the_longest_log_goes_on_and_the_highest_known_commit_counts() {
        let all = region(3, ("", ""), 1, &[1, 2, 3, 4, 5]);
        check(
            &[
                (1, vec![replica(&all, 1, (6, 20), 12)]),
                (2, vec![replica(&all, 2, (7, 15), 14)]),
            ],
            "lost [3, 4, 5]; region 3 by 32 to commit 14 in term 8, 1 undecided",
        );
        check(
            &[
                (1, vec![replica(&all, 1, (7, 15), 12)]),
                (2, vec![replica(&all, 2, (7, 15), 14)]),
            ],
            "lost [3, 4, 5]; region 3 by 31 to commit 14 in term 8, 1 undecided",
        );
    }

    #[test]
    fn a_majority_is_left_alone() {
        let all = region(3, ("", ""), 1, &[1, 2, 3]);
        check(
            &[
                (1, vec![replica(&all, 1, (6, 9), 9)]),
                (2, vec![replica(&all, 2, (6, 9), 9)]),
            ],
            "nothing to recover: every region that is left has its majority among these stores; start them",
        );
    }

    #[test]
    fn both_halves_of_a_joint_configuration_need_their_majority() {
        let mut joint = region(3, ("", ""), 1, &[1, 2, 3, 4]);
        // Voters before: 1, 2, 3; after: 1, 2, 4.
        joint.peers[2].role = PeerRole::DemotingVoter.into();
        joint.peers[3].role = PeerRole::IncomingVoter.into();
        check(
            &[
                (1, vec![replica(&joint, 1, (6, 9), 9)]),
                (4, vec![replica(&joint, 4, (6, 9), 9)]),
            ],
            "lost [2, 3]; region 3 by 31 to commit 9 in term 7, 0 undecided",
        );
    }

    #[test]
    fn what_nobody_has_is_named() {
        let (left, right) = (
            region(3, ("m", ""), 2, &[1, 2, 3]),
            region(9, ("c", "f"), 2, &[1, 2, 3]),
        );
        check(
            &[(
                1,
                vec![replica(&left, 1, (6, 9), 9), replica(&right, 1, (6, 9), 9)],
            )],
            "lost [2, 3]; region 3 by 31 to commit 9 in term 7, 0 undecided; \
             region 9 by 91 to commit 9 in term 7, 0 undecided; keys b\"\"..b\"c\", empty in 9; keys b\"f\"..b\"m\", empty in 3",
        );
    }

    #[test]
    fn a_replica_that_missed_a_split_gives_way_to_the_child() {
        let (parent, child) = (
            region(3, ("", ""), 1, &[1, 2, 3]),
            region(9, ("", "m"), 2, &[2, 3, 4]),
        );
        check(
            &[
                (1, vec![replica(&parent, 1, (6, 9), 9)]),
                (4, vec![replica(&child, 4, (6, 9), 9)]),
            ],
            "lost [2, 3]; region 9 by 94 to commit 9 in term 7, 0 undecided; region 3 outdated; \
             keys b\"m\"..b\"\", empty in 9",
        );
    }

    #[test]
    fn nobody_goes_on_with_a_range_where_its_store_has_another_replica() {
        let (old, left, right) = (
            region(3, ("", ""), 1, &[1, 2, 3]),
            region(9, ("", "c"), 2, &[1, 2, 4]),
            region(3, ("m", ""), 3, &[1, 2, 3]),
        );
        let (behind, child) = (replica(&old, 1, (6, 9), 9), replica(&left, 4, (6, 9), 9));
        // Store 1 has yet to hear of the split that made 9.
        check(
            &[
                (1, vec![behind.clone(), meta(1)]),
                (2, vec![replica(&right, 2, (6, 12), 12)]),
                (4, vec![child.clone()]),
            ],
            "lost [3]; region 9 by 94 to commit 9 in term 7, 0 undecided; keys b\"c\"..b\"m\", empty in 9",
        );
        // Where it would go on itself, another replica that is behind lies there.
        let other = region(7, ("c", "z"), 1, &[4, 5, 6]);
        check(
            &[
                (1, vec![behind]),
                (2, vec![replica(&right, 2, (6, 12), 12)]),
                (4, vec![child, replica(&other, 4, (6, 9), 9)]),
            ],
            "lost [3]; region 9 by 94 to commit 9 in term 7, 0 undecided; region 7 outdated; \
             keys b\"c\"..b\"m\"",
        );
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let of = |store, cluster| Survivor {
            store,
            cluster,
            replicas: vec![meta(store)],
        };
        let all = region(3, ("", ""), 1, &[1, 2, 3]);
        for (survivors, expected) in [
            (vec![], PlanError::Nobody),
            (
                vec![of(1, 7), of(2, 8)],
                PlanError::Clusters { one: 7, other: 8 },
            ),
            (vec![of(1, 7), of(1, 7)], PlanError::Twice { store: 1 }),
            (
                vec![survivor(1, vec![replica(&all, 1, (6, 9), 9)])],
                PlanError::NoMeta,
            ),
        ] {
            assert_eq!(plan(&survivors), Err(expected));
        }
    }
}
