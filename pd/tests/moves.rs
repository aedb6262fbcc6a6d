//! Operators by seeds: instructions and heartbeats are lost, leaders move, PD moves and forgets,
//! stores fall silent, leave and come back. At every step regions keep their voters; in the end they
//! have as many as they should, on stores that are up.

mod common;

use std::time::Duration;

use common::fleet::{Fleet, Group};
use common::{Dice, seeds};
use flotilla_pd::plan::Rules;
use flotilla_pd::{ListOperators, MAX_PEER_COUNT, calls};
use flotilla_proto::metapb::{PeerRole, StoreState};

/// Voters; of the smaller half in a joint configuration.
fn voters(group: &Group) -> usize {
    let count = |other: PeerRole| {
        let votes = |role: PeerRole| role == PeerRole::Voter || role == other;
        let peers = group.region.peers.iter();
        peers.filter(|peer| votes(peer.role())).count()
    };
    count(PeerRole::IncomingVoter).min(count(PeerRole::DemotingVoter))
}

fn disturb(fleet: &mut Fleet, dice: &mut Dice, stores: u64) {
    let store = 1 + dice.below(stores);
    match dice.below(100) {
        0..40 => {
            fleet
                .world
                .advance(Duration::from_millis(100 * (1 + dice.below(30))));
            fleet.hear();
        }
        40..60 => fleet.obey(),
        60..65 => fleet.orders.clear(),
        65..75 => {
            let ids: Vec<u64> = fleet.groups.keys().copied().collect();
            for id in ids {
                fleet.groups.get_mut(&id).unwrap().leave_joint();
                fleet.beat(id);
            }
        }
        75..82 => fleet.report(),
        82..88 => {
            for group in fleet.groups.values_mut() {
                let peers = &group.region.peers;
                let next = peers[dice.below(peers.len() as u64) as usize];
                if next.role() == PeerRole::Voter {
                    (group.leader, group.term) = (next.store_id, group.term + 1);
                }
            }
        }
        88..91 => {
            if !fleet.silent.remove(&store) {
                fleet.silent.insert(store);
            }
        }
        91..96 => {
            fleet.set_offline(store, dice.percent(50));
        }
        _ => {
            fleet.world.lead();
            fleet.hear();
        }
    }
}

#[test]
fn whatever_is_lost_regions_get_their_replicas() {
    let mut ended = 0;
    seeds(300, |_, mut dice| {
        let stores = 1 + dice.below(6);
        let mut fleet = Fleet::new(stores);
        let rules = Rules {
            max_replicas: MAX_PEER_COUNT as usize,
            max_store_down_time: Duration::MAX,
        };
        // No removal is allowed that would leave data regions fewer.
        let floor = rules.voters(false, stores as usize);
        let mut before: Vec<usize> = fleet.groups.values().map(voters).collect();
        for _ in 0..150 {
            disturb(&mut fleet, &mut dice, stores);
            let now: Vec<usize> = fleet.groups.values().map(voters).collect();
            // A single voter is replaced by way of two.
            let odd = |count: usize| count - usize::from(count.is_multiple_of(2));
            let lost = |(now, before): (&usize, &usize)| *now < odd(*before).min(floor);
            let lost = now.iter().zip(&before).any(lost);
            assert!(!lost, "voters were lost:\n{}", fleet.lines);
            before = now;
        }
        fleet.silent.clear();
        for _ in 0..3 {
            fleet.report();
            fleet.settle();
        }
        let known = fleet.world.durable().stores;
        let stay = known
            .values()
            .filter(|store| store.state() == StoreState::Up);
        let stay = stay.count();
        for (id, group) in &fleet.groups {
            let wanted = rules.voters(*id == 1, stay);
            assert_eq!(
                voters(group),
                wanted,
                "region {id}: {group:?}\n{}",
                fleet.lines
            );
            for peer in &group.region.peers {
                assert_eq!(
                    peer.role(),
                    PeerRole::Voter,
                    "region {id}:\n{}",
                    fleet.lines
                );
                let state = known[&peer.store_id].state();
                assert_eq!(state, StoreState::Up, "region {id}:\n{}", fleet.lines);
            }
        }
        let operators = fleet
            .world
            .ask::<calls::ListOperators>(ListOperators)
            .unwrap();
        assert_eq!(operators.running, [], "{}", fleet.lines);
        ended += operators.ended.len();
    });
    assert!(ended > 100 || std::env::var("FLOTILLA_SEED").is_ok());
}
