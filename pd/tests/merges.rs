//! A merge as PD drives it: the peers go to the neighbour's stores, then its leader is told, and the
//! operator ends with the region.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::fleet::Fleet;
use common::region;
use flotilla_pd::plan::Asked;
use flotilla_pd::{AddOperator, ConfigValue, SetConfig, calls};
use flotilla_proto::metapb::Peer;

/// Regions 100 and 101, small and old enough, on these stores; store 4 is free.
fn two(first: &[u64], second: &[u64]) -> Fleet {
    let mut fleet = Fleet::new(4);
    fleet.groups.clear();
    for (id, start, end, on) in [(100, "", "m", first), (101, "m", "", second)] {
        let mut only = region(id, 3, start, end);
        let peer = |store: &u64| Peer {
            id: 10 * id + store,
            store_id: *store,
            ..Peer::default()
        };
        only.peers = on.iter().map(peer).collect();
        fleet.add(only);
    }
    let set = |name: &str, value| (name.to_owned(), value);
    let request = SetConfig(BTreeMap::from([
        set("merge-schedule-limit", ConfigValue::Number(8)),
        set("split-merge-interval", ConfigValue::Text("20s".to_owned())),
    ]));
    let answer = fleet.world.ask::<calls::SetConfig>(request).unwrap();
    answer.0.unwrap();
    fleet
}

/// The lines that tell what PD began, ended, and told.
fn said(fleet: &mut Fleet) -> Vec<String> {
    fleet.hear();
    fleet.take().lines().map(str::to_owned).collect()
}

/// Time goes on until the merge is told; what is told before is done.
fn until_told(fleet: &mut Fleet) -> u64 {
    fleet.report();
    for _ in 0..200 {
        fleet.world.advance(Duration::from_millis(200));
        fleet.hear();
        let merge = fleet.orders.values().find(|order| order.merge.is_some());
        if let Some(order) = merge {
            return order.region_id;
        }
        fleet.obey();
        for id in [100, 101] {
            fleet.groups.get_mut(&id).unwrap().leave_joint();
            fleet.beat(id);
        }
        (1..=4).for_each(|store| fleet.report_store(store));
    }
    panic!("no merge is told: {}", fleet.lines);
}

/// The first step of the merge: the source's epoch grows twice (contracts: C21).
fn prepare(fleet: &mut Fleet, source: u64) {
    let group = fleet.groups.get_mut(&source).unwrap();
    group.region.region_epoch.as_mut().unwrap().version += 1;
    group.grew(1);
    fleet.orders.clear();
    fleet.beat(source);
}

/// The last: the target has both ranges.
fn commit(fleet: &mut Fleet, source: u64) {
    let target = if source == 100 { 101 } else { 100 };
    let gone = fleet.groups.remove(&source).unwrap().region;
    let group = fleet.groups.get_mut(&target).unwrap();
    let versions = [&gone, &group.region].map(|region| region.region_epoch.unwrap().version);
    let epoch = group.region.region_epoch.as_mut().unwrap();
    epoch.version = versions[0].max(versions[1]) + 1;
    group.region.start_key = gone.start_key.min(group.region.start_key.clone());
    if source == 101 {
        group.region.end_key = gone.end_key;
    }
    fleet.beat(target);
    // It is seen at the next look.
    fleet.world.advance(flotilla_pd::TICK);
}

#[test]
fn small_neighbours_on_the_same_stores_merge() {
    let mut fleet = two(&[1, 2, 3], &[1, 2, 3]);
    let source = until_told(&mut fleet);
    let lines = said(&mut fleet);
    assert!(
        lines[0].starts_with(&format!(
            "start 1: merge-region region {source}: merge into region"
        )),
        "{lines:?}"
    );
    prepare(&mut fleet, source);
    // It has begun: it is not told again, and takes its time.
    fleet.world.advance(Duration::from_secs(10));
    assert_eq!(said(&mut fleet), Vec::<String>::new());
    commit(&mut fleet, source);
    let lines = said(&mut fleet);
    assert_eq!(lines, [format!("end 1, region {source}: done")]);
}

#[test]
fn the_peers_go_to_the_neighbours_stores_before() {
    let mut fleet = two(&[1, 2, 3], &[2, 3, 4]);
    let source = until_told(&mut fleet);
    let stores = |id: u64| {
        let peers = fleet.groups[&id].region.peers.iter();
        let mut stores: Vec<u64> = peers.map(|peer| peer.store_id).collect();
        stores.sort_unstable();
        stores
    };
    assert_eq!(stores(100), stores(101));
    prepare(&mut fleet, source);
    commit(&mut fleet, source);
    assert!(said(&mut fleet).contains(&format!("end 1, region {source}: done")));
}

#[test]
fn a_merge_that_is_taken_back_ends_the_operator() {
    let mut fleet = two(&[1, 2, 3], &[1, 2, 3]);
    let source = until_told(&mut fleet);
    prepare(&mut fleet, source);
    said(&mut fleet);
    let group = fleet.groups.get_mut(&source).unwrap();
    group.region.region_epoch.as_mut().unwrap().version += 1;
    fleet.beat(source);
    let ended = "cancelled: the region was split or merged";
    assert_eq!(
        said(&mut fleet),
        [format!("end 1, region {source}: {ended}")]
    );
}

#[test]
fn what_somebody_asks_of_the_neighbour_ends_the_merge() {
    let mut fleet = two(&[1, 2, 3], &[1, 2, 3]);
    let source = until_told(&mut fleet);
    said(&mut fleet);
    let region = if source == 100 { 101 } else { 100 };
    let asked = Asked::TransferLeader { to: 2 };
    let request = AddOperator { region, asked };
    fleet
        .world
        .ask::<calls::AddOperator>(request)
        .unwrap()
        .0
        .unwrap();
    let lines = said(&mut fleet);
    assert!(
        lines.contains(&format!("end 1, region {source}: replaced by another")),
        "{lines:?}"
    );
}

#[test]
fn a_region_that_was_split_a_moment_ago_stays() {
    let mut fleet = two(&[1, 2, 3], &[1, 2, 3]);
    fleet.report();
    fleet.world.advance(Duration::from_secs(19));
    assert_eq!(said(&mut fleet), Vec::<String>::new());
}
