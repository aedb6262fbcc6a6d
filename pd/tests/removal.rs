//! Stores that leave: what is refused, what moves, and when they are gone.

mod common;

use std::time::Duration;

use common::fleet::Fleet;
use common::{header, outcome, store};
use expect_test::{Expect, expect};
use flotilla_pd::{Call, EvictLeaders, calls};
use flotilla_proto::pdpb::{PutStoreRequest, StoreHeartbeatRequest, StoreStats};

const MINUTE: Duration = Duration::from_secs(60);

#[track_caller]
fn check(fleet: &mut Fleet, expected: Expect) {
    fleet.hear();
    expected.assert_eq(&fleet.take());
}

/// A cluster that has come to rest.
fn settled(stores: u64) -> Fleet {
    let mut fleet = Fleet::new(stores);
    fleet.report();
    fleet.settle();
    fleet.take();
    fleet
}

#[test]
fn a_store_is_emptied_and_then_gone() {
    let mut fleet = Fleet::with_region(4, 3, &[1, 2, 3]);
    fleet.add(common::region(1, 1, "", ""));
    fleet.report();
    fleet.settle();
    fleet.take();
    assert_eq!(fleet.set_offline(2, true), "ok");
    fleet.settle();
    check(
        &mut fleet,
        expect![[r#"
            store 2: Offline
            start 2: replace-offline-replica region 1: add a learner on store 3, at once: promote store 3 demote store 2, leave the joint configuration, remove the peer on store 2 (store 2 is offline)
            start 3: replace-offline-replica region 3: add a learner on store 4, at once: promote store 4 demote store 2, leave the joint configuration, remove the peer on store 2 (store 2 is offline)
            tell store 1: region 1, conf 7: learner 1002@3
            tell store 1: region 3, conf 1: learner 1003@4
            tell store 1: region 1, conf 8: joint [voter 1002@3, learner 1001@2]
            tell store 1: region 3, conf 2: joint [voter 1003@4, learner 32@2]
            tell store 1: region 1, conf 10: joint []
            tell store 1: region 3, conf 4: joint []
            tell store 1: region 1, conf 12: remove 1001@2
            tell store 1: region 3, conf 6: remove 32@2
            end 2, region 1: done
            end 3, region 3: done
            store 2: Tombstone
        "#]],
    );
    fleet.show();
    check(
        &mut fleet,
        expect![[r#"
        region 1, conf 13: 11@1 1000@4 1002@3, store 1 leads
        region 3, conf 7: 31@1 33@3 1003@4, store 1 leads
    "#]],
    );
    // Nothing brings it back, and its address is free.
    let refusal = fleet.set_offline(2, false);
    expect!["409 store 2 is gone for ever; a store that starts on an empty disk gets a new id"]
        .assert_eq(&refusal);
    let mut lines = String::new();
    for (id, address) in [
        (2, "10.0.0.2:20160"),
        (7, "10.0.0.3:20160"),
        (7, "10.0.0.2:20160"),
    ] {
        let mut put = store(id);
        put.address = address.to_owned();
        let request = PutStoreRequest {
            header: header(),
            store: Some(put),
        };
        let token = fleet.world.send(calls::PutStore::request(request));
        let answer = fleet.world.answers.remove(&token).unwrap();
        lines += &format!("store {id} at {address}: {}\n", outcome(&answer));
    }
    expect![[r#"
        store 2 at 10.0.0.2:20160: STORE_TOMBSTONE store 2 is a tombstone
        store 7 at 10.0.0.3:20160: UNKNOWN duplicated store address: 10.0.0.3:20160 is already registered by store 3
        store 7 at 10.0.0.2:20160: ok
    "#]].assert_eq(&lines);
}

/// Each line: stores, those that are silent for too long, the one to remove, the answer.
#[test]
fn a_store_that_regions_need_is_not_removed() {
    let mut lines = String::new();
    for (stores, silent, remove) in [
        (1, None, 1),
        (2, None, 2),
        (3, None, 3),
        (3, Some(3), 3),
        (4, None, 3),
        (4, Some(4), 3),
        (4, Some(4), 4),
        (4, None, 9),
    ] {
        let mut fleet = Fleet::new(stores);
        fleet.silent.extend(silent);
        fleet.pass(31 * MINUTE);
        let silent = silent.map_or("none".to_owned(), |store| store.to_string());
        let answer = fleet.set_offline(remove, true);
        lines += &format!("{stores} stores, {silent} down, remove {remove}: {answer}\n");
    }
    expect![[r#"
        1 stores, none down, remove 1: 409 without store 1 there are 0 stores that are not down or leaving, and regions have 1 replicas: add a store first
        2 stores, none down, remove 2: ok
        3 stores, none down, remove 3: 409 without store 3 there are 2 stores that are not down or leaving, and regions have 3 replicas: add a store first
        3 stores, 3 down, remove 3: 409 without store 3 there are 2 stores that are not down or leaving, and regions have 3 replicas: add a store first
        4 stores, none down, remove 3: ok
        4 stores, 4 down, remove 3: 409 without store 3 there are 2 stores that are not down or leaving, and regions have 3 replicas: add a store first
        4 stores, 4 down, remove 4: ok
        4 stores, none down, remove 9: 404 there is no store 9
    "#]].assert_eq(&lines);
}

#[test]
fn a_removal_can_be_taken_back() {
    let mut fleet = settled(4);
    assert_eq!(fleet.set_offline(4, true), "ok");
    assert_eq!(fleet.set_offline(4, true), "ok");
    assert_eq!(fleet.set_offline(4, false), "ok");
    fleet.settle();
    let lines = fleet.take();
    assert!(lines.contains("store 4: Offline"), "{lines}");
    assert!(lines.contains("store 4: Up"), "{lines}");
    assert!(!lines.contains("Tombstone"), "{lines}");
}

/// A node that lost its disk starts again where it was, as another store.
#[test]
fn a_store_at_the_address_of_one_that_is_silent_takes_its_place() {
    let mut fleet = Fleet::with_region(3, 3, &[1, 2, 3]);
    fleet.add(common::region(1, 1, "", ""));
    fleet.report();
    fleet.settle();
    fleet.take();
    fleet.silent.insert(3);
    let mut again = store(9);
    again.address = store(3).address;
    let put = |fleet: &mut Fleet, store| {
        let header = header();
        let request = PutStoreRequest { header, store };
        let token = fleet.world.send(calls::PutStore::request(request));
        outcome(&fleet.world.answers.remove(&token).unwrap())
    };
    let early = put(&mut fleet, Some(again.clone()));
    expect!["UNKNOWN duplicated store address: 10.0.0.3:20160 is already registered by store 3"]
        .assert_eq(&early);
    fleet.pass(Duration::from_secs(30));
    assert_eq!(put(&mut fleet, Some(again.clone())), "ok");
    fleet.report();
    fleet.settle();
    fleet.hear();
    let lines = fleet.take();
    for line in ["store 3: Offline", "region 3: done", "store 3: Tombstone"] {
        assert!(lines.contains(line), "{line}:\n{lines}");
    }
    assert_eq!(put(&mut fleet, Some(again)), "ok", "it may start again");
    let late = put(&mut fleet, Some(store(3)));
    expect!["STORE_TOMBSTONE store 3 is a tombstone"].assert_eq(&late);
}

/// While part of the routes is unknown, nobody knows what is where.
#[test]
fn no_store_is_gone_before_all_regions_have_reported() {
    let mut fleet = Fleet::new(4);
    let late = fleet.groups.remove(&5).unwrap();
    fleet.report();
    fleet.settle();
    fleet.take();
    let empty = (2..=4).find(|store| {
        let mut peers = fleet.groups.values().flat_map(|group| &group.region.peers);
        !peers.any(|peer| peer.store_id == *store)
    });
    let empty = empty.unwrap_or(4);
    assert_eq!(fleet.set_offline(empty, true), "ok");
    fleet.settle();
    assert!(!fleet.take().contains("Tombstone"));
    fleet.groups.insert(5, late);
    fleet.settle();
    assert!(fleet.take().contains(&format!("store {empty}: Tombstone")));
}

fn evict(fleet: &mut Fleet, store: u64, evict: bool) -> Option<u64> {
    let request = EvictLeaders { store, evict };
    fleet.world.ask::<calls::EvictLeaders>(request).unwrap().0
}

#[test]
fn leaders_leave_a_store_the_meta_region_s_last() {
    let mut fleet = settled(3);
    assert_eq!(evict(&mut fleet, 9, true), None);
    assert_eq!(evict(&mut fleet, 1, true), Some(3));
    fleet.settle();
    check(
        &mut fleet,
        expect![[r#"
            start 4: evict-leader region 3: transfer the leader to store 2 (no leader is to be on store 1)
            start 5: evict-leader region 5: transfer the leader to store 3 (no leader is to be on store 1)
            tell store 1: region 3, conf 7: transfer to 1003@2
            tell store 1: region 5, conf 7: transfer to 1005@3
            end 4, region 3: done
            end 5, region 5: done
            start 6: evict-leader region 1: transfer the leader to store 3 (no leader is to be on store 1)
            tell store 1: region 1, conf 7: transfer to 1000@3
            end 6, region 1: done
        "#]],
    );
    assert_eq!(evict(&mut fleet, 1, true), Some(0));
    assert_eq!(evict(&mut fleet, 1, false), Some(0));
}

#[test]
fn a_store_that_stops_loses_its_leaders_and_one_that_starts_may_have_some() {
    let mut fleet = settled(3);
    let stopping = StoreHeartbeatRequest {
        header: header(),
        stats: Some(StoreStats {
            store_id: 1,
            capacity: 1 << 40,
            available: 1 << 40,
            is_stopping: true,
            ..StoreStats::default()
        }),
        ..StoreHeartbeatRequest::default()
    };
    fleet.world.ask::<calls::StoreHeartbeat>(stopping).unwrap();
    for _ in 0..20 {
        fleet.world.advance(flotilla_pd::TICK);
        fleet.hear();
        fleet.obey();
    }
    assert!(fleet.groups.values().all(|group| group.leader != 1));
    assert_eq!(
        evict(&mut fleet, 2, true),
        Some(
            fleet
                .groups
                .values()
                .filter(|group| group.leader == 2)
                .count() as u64
        )
    );
    fleet.join(2);
    fleet.settle();
    assert!(!fleet.take().contains("no leader is to be on store 2"));
}
