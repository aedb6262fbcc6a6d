//! Clusters by seeds: whatever the stores are and whatever the regions look like, each plan keeps
//! the rules at every step, and planning ends.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{DOWN_TIME, below, carry_out, run, seeds, voters};
use flotilla_pd_plan::{
    Asked, Cluster, Placement, Region, Rules, Store, StoreState, asked, check_leader,
    check_replicas,
};
use flotilla_proto::metapb::{Peer, PeerRole, RegionEpoch};
use rand_xoshiro::Xoshiro256PlusPlus;

/// Operators until a region is right: each of the up to seven peers is removed, replaced or added
/// once, plus one to leave a joint configuration.
const OPERATORS_MAX: usize = 20;

fn some_cluster(rng: &mut Xoshiro256PlusPlus) -> Cluster {
    use StoreState::{Disconnected, Down, Offline, Tombstone, Up};
    let mut stores = BTreeMap::new();
    for id in 1..=1 + below(rng, 8) {
        let state = match below(rng, 20) {
            0 => Tombstone,
            1 | 2 => Offline,
            3 | 4 => Down,
            5 => Disconnected,
            _ => Up,
        };
        let store = Store {
            state,
            capacity: 1 << 30,
            available: if below(rng, 10) == 0 {
                1 << 20
            } else {
                1 << 29
            },
            regions: below(rng, 4),
            leaders: below(rng, 4),
            busy: below(rng, 15) == 0,
            evicted: below(rng, 10) == 0,
            ..Store::default()
        };
        stores.insert(id, store);
    }
    Cluster {
        stores,
        rules: Rules {
            max_replicas: 1 + below(rng, 5) as usize,
            max_store_down_time: DOWN_TIME,
        },
        placement: Placement::default().into(),
    }
}

/// A region with a leader that can be: a voter on a store that runs.
fn some_region(rng: &mut Xoshiro256PlusPlus, cluster: &Cluster) -> Option<Region> {
    let mut region = Region {
        id: 1 + below(rng, 100),
        meta: below(rng, 4) == 0,
        epoch: RegionEpoch {
            conf_ver: 5,
            version: 3,
        },
        ..Region::default()
    };
    let joint = below(rng, 8) == 0;
    // Also stores that nobody knows any more.
    for store in 1..=cluster.stores.len() as u64 + 1 {
        let role = match below(rng, 10) {
            0..4 => PeerRole::Voter,
            4 => PeerRole::Learner,
            5 if joint => PeerRole::IncomingVoter,
            6 if joint => PeerRole::DemotingVoter,
            _ => continue,
        };
        let id = 10 * store;
        let up = cluster.stores.get(&store).map(|store| store.state) == Some(StoreState::Up);
        if !up || below(rng, 8) == 0 {
            let silent = Duration::from_secs(below(rng, 2 * DOWN_TIME.as_secs()));
            region.down.insert(id, silent);
        } else if below(rng, 8) == 0 {
            region.pending.insert(id);
        }
        region.peers.push(Peer {
            id,
            store_id: store,
            role: role as i32,
            is_witness: false,
        });
    }
    let fit = |peer: &&Peer| {
        let runs = |store: &Store| !matches!(store.state, StoreState::Down | StoreState::Tombstone);
        peer.role() == PeerRole::Voter && cluster.stores.get(&peer.store_id).is_some_and(runs)
    };
    let leader = *region.peers.iter().find(fit)?;
    region.leader = Some(leader.store_id);
    region.down.remove(&leader.id);
    region.pending.remove(&leader.id);
    Some(region)
}

#[test]
fn every_plan_keeps_the_rules_and_planning_ends() {
    let mut operators = 0;
    seeds(20_000, |rng| {
        let cluster = some_cluster(rng);
        let Some(mut region) = some_region(rng, &cluster) else {
            return;
        };
        let mut count = 0;
        while let Some(operator) = check_replicas(&cluster, &region, rng) {
            run(&cluster, &mut region, &operator);
            count += 1;
            assert!(count <= OPERATORS_MAX, "no end of planning: {operator}");
        }
        operators += count;
        if let Some(operator) = check_leader(&cluster, &region, rng) {
            run(&cluster, &mut region, &operator);
            assert_eq!(check_leader(&cluster, &region, rng), None);
        }
    });
    assert!(operators > 10_000 || std::env::var("FLOTILLA_SEED").is_ok());
}

/// Stores that are up and free, all peers well: the number is right in the end, on good stores only.
#[test]
fn where_there_is_room_everything_becomes_right() {
    seeds(5_000, |rng| {
        let mut cluster = some_cluster(rng);
        for store in cluster.stores.values_mut() {
            if store.state != StoreState::Tombstone && below(rng, 6) > 0 {
                store.state = StoreState::Up;
            } else if store.state.stays() {
                store.state = StoreState::Offline;
            }
            (store.available, store.busy, store.evicted) = (1 << 29, false, false);
        }
        let Some(mut region) = some_region(rng, &cluster) else {
            return;
        };
        region.pending.clear();
        region.down.retain(|id, silent| {
            let state = cluster.stores.get(&(*id / 10)).map(|store| store.state);
            *silent = DOWN_TIME;
            state != Some(StoreState::Up)
        });
        while let Some(operator) = check_replicas(&cluster, &region, rng) {
            run(&cluster, &mut region, &operator);
        }
        let up = cluster
            .stores
            .values()
            .filter(|store| store.state == StoreState::Up);
        if up.count() == 0 {
            return;
        }
        assert_eq!(
            voters(&region),
            cluster.voters_wanted(&region),
            "{region:?}"
        );
        for peer in &region.peers {
            assert_eq!(peer.role(), PeerRole::Voter);
            let state = cluster.stores[&peer.store_id].state;
            assert_eq!(state, StoreState::Up, "store {}", peer.store_id);
        }
    });
}

/// PD may forget an operator after any of its steps: what it plans next goes on from there.
#[test]
fn an_operator_that_is_forgotten_is_planned_again_from_where_it_was() {
    seeds(5_000, |rng| {
        let cluster = some_cluster(rng);
        let Some(mut region) = some_region(rng, &cluster) else {
            return;
        };
        let least = voters(&region).min(cluster.voters_wanted(&region));
        for _ in 0..3 * OPERATORS_MAX {
            let Some(operator) = check_replicas(&cluster, &region, rng) else {
                return;
            };
            let done = 1 + below(rng, operator.steps.len() as u64) as usize;
            for step in &operator.steps[..done] {
                carry_out(&cluster, &mut region, step);
                assert!(voters(&region) >= least, "{operator}");
            }
        }
        panic!("no end of planning");
    });
}

#[test]
fn what_is_asked_for_keeps_the_rules_too() {
    let mut done = 0;
    seeds(20_000, |rng| {
        let cluster = some_cluster(rng);
        let Some(mut region) = some_region(rng, &cluster) else {
            return;
        };
        let (store, to) = (1 + below(rng, 9), 1 + below(rng, 9));
        let wish = match below(rng, 4) {
            0 => Asked::TransferLeader { to },
            1 => Asked::AddPeer { store },
            2 => Asked::RemovePeer { store },
            _ => Asked::MovePeer { from: store, to },
        };
        if let Ok(operator) = asked(&cluster, &region, wish, rng) {
            run(&cluster, &mut region, &operator);
            done += 1;
        }
    });
    assert!(done > 1_000 || std::env::var("FLOTILLA_SEED").is_ok());
}
