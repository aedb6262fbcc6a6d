//! Placement rules: who stands where, and that replicas are apart whenever they can be.

mod common;

use std::collections::BTreeMap;

use bytes::Bytes;
use common::town::{LABELS, Town, default_rule, key, labelled, region};
use common::{below, rng, run, seeds};
use flotilla_pd_plan::{
    Cluster, Constraint, Op, Operator, Placement, Role, Rule, Store, StoreState, check_leader,
    check_replicas,
};
use flotilla_proto::metapb::PeerRole;

/// Six stores: 1 and 2 in zone 0, 3 and 4 in zone 1, 5 and 6 in zone 2.
fn six() -> BTreeMap<u64, Store> {
    let zone = |id: u64| (id - 1) / 2;
    (1..=6).map(|id| (id, labelled(zone(id), 0, id))).collect()
}

fn rule(id: &str, role: Role, count: usize) -> Rule {
    Rule {
        id: id.to_owned(),
        role,
        ..default_rule(count, &[])
    }
}

fn zone(op: Op, values: &[&str]) -> Constraint {
    Constraint {
        key: "zone".to_owned(),
        op,
        values: values.iter().map(|value| (*value).to_owned()).collect(),
    }
}

/// What the checkers make of a region on `stores`, the first of which leads: stores in the end, the
/// one that leads before, and the reasons on the way.
fn settle(town: &Town, stores: &[u64]) -> (Vec<u64>, Vec<&'static str>) {
    let cluster = &town.cluster;
    let mut region = region(0, stores, 0);
    let mut reasons = Vec::new();
    let mut rng = rng(1);
    let next = |region: &_, rng: &mut _| -> Option<Operator> {
        check_replicas(cluster, region, rng).or_else(|| check_leader(cluster, region, rng))
    };
    while let Some(plan) = next(&region, &mut rng) {
        run(cluster, &mut region, &plan);
        reasons.push(plan.reason.name());
        assert!(reasons.len() < 20, "no end: {reasons:?}");
    }
    let leader = region.leader.unwrap();
    let mut stores: Vec<u64> = region.peers.iter().map(|peer| peer.store_id).collect();
    stores.sort_by_key(|store| (*store != leader, *store));
    (stores, reasons)
}

#[track_caller]
fn check(rules: Vec<Rule>, stores: &[u64], expected: &[u64], reasons: &[&str]) {
    let town = Town::new(six(), rules);
    let (got, why) = settle(&town, stores);
    let zone = |store: &u64| (store - 1) / 2;
    let zones = |stores: &[u64]| {
        let mut zones: Vec<u64> = stores.iter().map(zone).collect();
        zones.sort_unstable();
        zones
    };
    assert_eq!(
        (zones(&got), &why[..]),
        (zones(expected), reasons),
        "{got:?}"
    );
}

#[test]
fn replicas_of_one_zone_are_moved_apart() {
    let apart = || vec![default_rule(3, &LABELS)];
    check(apart(), &[1, 3, 5], &[1, 3, 5], &[]);
    let one = ["move-to-better-location"];
    check(apart(), &[1, 2, 3], &[1, 3, 5], &one);
}

#[test]
fn voters_go_where_constraints_let_them() {
    let mut north = rule("north", Role::Voter, 2);
    north.constraints = vec![zone(Op::In, &["z0"])];
    let mut rest = rule("rest", Role::Voter, 1);
    rest.constraints = vec![zone(Op::NotIn, &["z0", "z1"])];
    let rules = vec![north, rest];
    let moved = ["fix-misplaced-peer", "fix-misplaced-peer"];
    check(rules.clone(), &[1, 3, 4], &[1, 2, 5], &moved);
    check(rules, &[1, 2, 6], &[1, 2, 6], &[]);
}

#[test]
fn a_label_may_have_to_be_there_or_not_to_be() {
    let mut stores = six();
    stores
        .get_mut(&6)
        .unwrap()
        .labels
        .insert("ssd".to_owned(), String::new());
    let constraint = |op| Constraint {
        key: "ssd".to_owned(),
        op,
        values: Vec::new(),
    };
    let mut fast = rule("fast", Role::Voter, 1);
    fast.constraints = vec![constraint(Op::Exists)];
    let mut slow = rule("slow", Role::Voter, 2);
    slow.constraints = vec![constraint(Op::NotExists)];
    let town = Town::new(stores, vec![fast, slow]);
    let (got, _) = settle(&town, &[1, 2, 3]);
    assert!(got.contains(&6), "{got:?}");
}

#[test]
fn the_leader_is_where_rules_want_it() {
    let mut leader = rule("leader", Role::Leader, 1);
    leader.constraints = vec![zone(Op::In, &["z2"])];
    let followers = rule("followers", Role::Follower, 2);
    let town = Town::new(six(), vec![leader, followers]);
    let (got, reasons) = settle(&town, &[1, 3, 5]);
    assert_eq!((got[0], &reasons[..]), (5, &["fix-leader-role"][..]));
    let (got, _) = settle(&town, &[1, 3, 4]);
    assert!(got[0] >= 5, "{got:?}");
}

#[test]
fn learners_that_a_rule_wants_come_and_stay() {
    let mut learner = rule("learner", Role::Learner, 1);
    learner.constraints = vec![zone(Op::In, &["z2"])];
    let mut voters = default_rule(3, &[]);
    voters.constraints = vec![zone(Op::NotIn, &["z2"])];
    let town = Town::new(six(), vec![voters, learner]);
    let (got, reasons) = settle(&town, &[1, 2, 3]);
    assert_eq!((got.len(), &reasons[..]), (4, &["add-rule-peer"][..]));
    assert!(got.iter().any(|store| *store >= 5), "{got:?}");
}

#[test]
fn rules_hold_in_their_range_and_later_ones_may_override() {
    let in_range = Rule {
        start: key(5),
        end: key(7),
        overrides: true,
        index: 1,
        ..rule("range", Role::Voter, 5)
    };
    let placement = Placement::new(vec![default_rule(3, &[]), in_range]);
    assert_eq!(placement.boundary(b"", &key(6)), Some(&key(5)));
    assert_eq!(placement.boundary(&key(5), &key(7)), None);
    assert_eq!(placement.boundary(&key(5), b""), Some(&key(7)));
    let town = Town::new(six(), Vec::new());
    let cluster = Cluster {
        placement: placement.into(),
        ..town.cluster
    };
    let wanted = |start: Bytes| {
        let region = flotilla_pd_plan::Region {
            start,
            ..region(0, &[1, 2, 3], 0)
        };
        cluster.voters_wanted(&region)
    };
    assert_eq!([wanted(key(4)), wanted(key(5)), wanted(key(7))], [3, 5, 3]);
}

/// Whatever the zones are: in the end no two replicas share one that need not.
#[test]
fn no_two_replicas_share_a_domain_when_that_can_be_avoided() {
    seeds(2_000, |rng| {
        let stores = 3 + below(rng, 9);
        let zones = 1 + below(rng, 4);
        let all: BTreeMap<u64, Store> = (1..=stores)
            .map(|id| (id, labelled(below(rng, zones), below(rng, 2), id)))
            .collect();
        let mut town = Town::new(all, vec![default_rule(3, &LABELS)]);
        if below(rng, 3) == 0 {
            let store = 1 + below(rng, stores);
            let state = [StoreState::Offline, StoreState::Disconnected][below(rng, 2) as usize];
            town.cluster.stores.get_mut(&store).unwrap().state = state;
        }
        let up = |store: &&u64| town.cluster.stores[*store].state == StoreState::Up;
        let ids: Vec<u64> = town.cluster.stores.keys().filter(up).copied().collect();
        let mut on: Vec<u64> = ids.clone();
        while on.len() > 3 {
            on.swap_remove(below(rng, on.len() as u64) as usize);
        }
        let mut now = region(0, &on, 0);
        let mut count = 0;
        while let Some(plan) = check_replicas(&town.cluster, &now, rng) {
            let before = town.sharing(&now);
            run(&town.cluster, &mut now, &plan);
            assert!(
                town.sharing(&now) < before || plan.steps.len() < 2,
                "{plan}"
            );
            count += 1;
            assert!(count < 6, "no end: {plan}");
        }
        assert!(now.peers.iter().all(|peer| peer.role() == PeerRole::Voter));
        // Every way to place three, by hand.
        let mut best = [usize::MAX; 3];
        for a in &ids {
            for b in ids.iter().filter(|b| *b > a) {
                for c in ids.iter().filter(|c| *c > b) {
                    best = best.min(town.sharing(&region(0, &[*a, *b, *c], 0)));
                }
            }
        }
        if now.peers.len() == 3 && ids.len() >= 3 {
            assert_eq!(town.sharing(&now)[0], best[0], "zones of {now:?}");
        }
    });
}
