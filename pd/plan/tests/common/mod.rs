//! Regions that change as operators say, with every rule checked at every step.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(unreachable_pub, reason = "shared by several test crates")]

pub mod town;

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_pd_plan::{Cluster, Operator, Placement, Region, Rules, Step, Store, StoreState};
use flotilla_proto::metapb::{Peer, PeerRole, RegionEpoch};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

pub const DOWN_TIME: Duration = Duration::from_secs(30 * 60);
const GIB: u64 = 1 << 30;

pub fn rng(seed: u64) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(seed)
}

/// A store with room.
pub fn store(state: StoreState) -> Store {
    Store {
        state,
        capacity: 100 * GIB,
        available: 50 * GIB,
        regions: 0,
        leaders: 0,
        busy: false,
        evicted: false,
        ..Store::default()
    }
}

/// Stores 1, 2, … in these states.
pub fn cluster(states: &[StoreState]) -> Cluster {
    let stores = states.iter().map(|state| store(*state));
    Cluster {
        stores: (1..).zip(stores).collect(),
        rules: Rules {
            max_replicas: 3,
            max_store_down_time: DOWN_TIME,
        },
        placement: Placement::default().into(),
    }
}

/// A region with these peers, ids 10 × store, led from `leader`.
pub fn region(leader: u64, peers: &[(u64, PeerRole)]) -> Region {
    let peer = |(store, role): &(u64, PeerRole)| Peer {
        id: 10 * store,
        store_id: *store,
        role: *role as i32,
        is_witness: false,
    };
    Region {
        id: 7,
        epoch: RegionEpoch {
            conf_ver: 1,
            version: 1,
        },
        peers: peers.iter().map(peer).collect(),
        leader: Some(leader),
        ..Region::default()
    }
}

/// Voters; in a joint configuration those of the smaller half.
pub fn voters(region: &Region) -> usize {
    let count = |other: PeerRole| {
        let votes = |peer: &&Peer| peer.role() == PeerRole::Voter || peer.role() == other;
        region.peers.iter().filter(votes).count()
    };
    count(PeerRole::IncomingVoter).min(count(PeerRole::DemotingVoter))
}

/// What `step` makes of `region`; each rule of the planners is checked.
pub fn carry_out(cluster: &Cluster, region: &mut Region, step: &Step) {
    let next_id = region.peers.iter().map(|peer| peer.id).max().unwrap_or(0) + 1;
    let leader = region.leader.expect("only regions with a leader change");
    let set = |region: &mut Region, store: u64, from: PeerRole, to: PeerRole| {
        let peer = region.peers.iter_mut().find(|peer| peer.store_id == store);
        let peer = peer.unwrap_or_else(|| panic!("{step}: no peer there"));
        assert_eq!(peer.role(), from, "{step}");
        peer.role = to as i32;
    };
    let before = region.epoch.conf_ver;
    match step {
        Step::AddLearner { store } => {
            cluster.takes_peer(*store, region).expect("a fit store");
            region.peers.push(Peer {
                id: next_id,
                store_id: *store,
                role: PeerRole::Learner as i32,
                is_witness: false,
            });
        }
        Step::PromoteLearner { store } => {
            set(region, *store, PeerRole::Learner, PeerRole::Voter);
        }
        Step::RemovePeer { store } => {
            assert_ne!(leader, *store, "{step}: it leads");
            let count = region.peers.len();
            region.peers.retain(|peer| peer.store_id != *store);
            assert_eq!(region.peers.len(), count - 1, "{step}");
        }
        Step::TransferLeader { store } => {
            let role = region.on(*store).map(|peer| peer.role());
            assert_eq!(role, Some(PeerRole::Voter), "{step}");
            region.leader = Some(*store);
        }
        Step::EnterJoint { promote, demote } => {
            assert!(!region.is_joint() && promote.len() + demote.len() > 1);
            for store in promote {
                set(region, *store, PeerRole::Learner, PeerRole::IncomingVoter);
            }
            for store in demote {
                assert_ne!(leader, *store, "{step}: it leads");
                set(region, *store, PeerRole::Voter, PeerRole::DemotingVoter);
            }
        }
        Step::LeaveJoint { .. } => {
            for peer in &mut region.peers {
                match peer.role() {
                    PeerRole::IncomingVoter => peer.role = PeerRole::Voter as i32,
                    PeerRole::DemotingVoter => peer.role = PeerRole::Learner as i32,
                    _ => {}
                }
            }
        }
        Step::Merge { .. } => {}
    }
    // A merge ends with the region, which is the caller's to take away.
    let merges = matches!(step, Step::Merge { .. });
    assert!(merges || step.is_finished(region), "{step}");
    region.epoch.conf_ver = before + step.conf_changes(region);
}

/// Carries the whole operator out.
pub fn run(cluster: &Cluster, region: &mut Region, operator: &Operator) {
    assert_eq!((operator.region, operator.epoch), (region.id, region.epoch));
    assert!(!operator.steps.is_empty());
    let least = voters(region).min(cluster.voters_wanted(region));
    for step in &operator.steps {
        let unfinished = !step.is_finished(region);
        assert!(unfinished, "{operator}: nothing to do for {step}");
        carry_out(cluster, region, step);
        let mut by_store = BTreeMap::new();
        for peer in &region.peers {
            let twice = by_store.insert(peer.store_id, peer.id);
            assert_eq!(
                twice, None,
                "{operator}: two peers on store {}",
                peer.store_id
            );
        }
        assert!(
            voters(region) >= least,
            "{operator}: too few voters after {step}"
        );
    }
}

/// Some number below `end`.
pub fn below(rng: &mut Xoshiro256PlusPlus, end: u64) -> u64 {
    rng.next_u64() % end
}

/// Runs `test` for `count` seeds, for as many as `FLOTILLA_SEEDS` says, or for the one in
/// `FLOTILLA_SEED`. Each prints its seed first.
pub fn seeds(count: u64, mut test: impl FnMut(&mut Xoshiro256PlusPlus)) {
    let number = |name| {
        let text = std::env::var(name).ok();
        text.map(|text| text.parse::<u64>().expect(name))
    };
    let count = number("FLOTILLA_SEEDS").unwrap_or(count);
    for seed in number("FLOTILLA_SEED").map_or(0..count, |seed| seed..seed + 1) {
        println!("seed={seed} (FLOTILLA_SEED={seed} runs only this one)");
        test(&mut rng(seed));
    }
}
