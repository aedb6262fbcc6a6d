//! The JSON API as transcripts: what is asked (`>`), what comes back. Regions are shown by their ids;
//! `pages.rs` has the large bodies byte for byte.

mod common;

use std::fmt::Write;

use common::fleet::Fleet;
use common::{World, beat, header, region};
use expect_test::{Expect, expect};
use flotilla_pd::view::View;
use flotilla_pd::{Call, HttpAnswer, HttpRequest, StreamId, calls, http_routes};
use flotilla_proto::metapb::{Peer, PeerRole};
use flotilla_proto::pdpb::{PeerStats, PutStoreRequest, RegionHeartbeatRequest};

fn request(line: &str) -> HttpRequest {
    let mut words = line.splitn(3, ' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    HttpRequest {
        method: word(),
        target: word(),
        body: word().into_bytes(),
    }
}

fn ask(world: &mut World, line: &str) -> HttpAnswer {
    world.ask::<calls::Http>(request(line)).unwrap()
}

/// Asks line by line.
#[track_caller]
fn check(world: &mut World, lines: &[&str], expected: Expect) {
    let mut text = String::new();
    for line in lines {
        let answer = ask(world, line);
        let shown = match &answer.body {
            View::Regions(page) => {
                let ids: Vec<u64> = page.regions.iter().map(|region| region.id).collect();
                assert_eq!(ids.len(), page.count);
                format!("regions {ids:?}")
            }
            View::Region(region) => format!("region {}", region.id),
            _ => answer.json(),
        };
        writeln!(text, "> {line}\n{} {shown}", answer.status).unwrap();
    }
    expected.assert_eq(&text);
}

/// Two stores; regions 3, 5, 7, 9 from "", "d", "m", "t". Region 5 is the heaviest, 7 ails.
fn four() -> World {
    let mut world = World::leading();
    world
        .ask::<calls::PutStore>(PutStoreRequest {
            header: header(),
            store: Some(common::store(2)),
        })
        .unwrap();
    let learner = Peer {
        id: 72,
        store_id: 2,
        role: PeerRole::Learner as i32,
        ..Peer::default()
    };
    for (id, start, end, weight) in [(3, "", "d", 1), (5, "d", "m", 9), (9, "t", "", 0)] {
        world.heartbeat(
            StreamId(1),
            RegionHeartbeatRequest {
                approximate_size: weight << 20,
                approximate_keys: 10_000 * weight,
                bytes_written: 100 * weight,
                keys_written: weight,
                bytes_read: 100 - 10 * weight,
                ..beat(region(id, 10 - id, start, end))
            },
        );
    }
    let mut ailing = region(7, 9, "m", "t");
    ailing.peers.push(learner);
    world.heartbeat(
        StreamId(1),
        RegionHeartbeatRequest {
            down_peers: vec![PeerStats {
                peer: Some(learner),
                down_seconds: 30,
            }],
            pending_peers: vec![learner],
            ..beat(ailing)
        },
    );
    world
}

#[test]
fn regions_by_id_and_key() {
    check(
        &mut four(),
        &[
            "GET /pd/api/v1/region/id/5",
            "GET /pd/api/v1/region/id/6",
            "GET /pd/api/v1/region/id/x",
            "GET /pd/api/v1/region/key/k",
            "GET /pd/api/v1/region/key/%6D%FF",
            "GET /pd/api/v1/region/key/6d?format=hex",
            "GET /pd/api/v1/region/key/6?format=hex",
            "GET /pd/api/v1/regions/key?key=e&limit=2",
            "GET /pd/api/v1/regions/key?key=65&end_key=6D&format=hex",
            "GET /pd/api/v1/regions/key?limit=-1",
            "GET /pd/api/v1/regions/count",
            "GET /pd/api/v1/regions/sibling/5",
            "GET /pd/api/v1/regions/sibling/9",
            "GET /pd/api/v1/regions/store/2",
            "GET /pd/api/v1/regions/store/1?type=leader",
            "GET /pd/api/v1/regions/store/2?type=learner",
            "GET /pd/api/v1/regions/store/2?type=pending",
            "GET /pd/api/v1/regions/store/4",
            "GET /pd/api/v1/regions/range-holes",
        ],
        expect![[r#"
            > GET /pd/api/v1/region/id/5
            200 region 5
            > GET /pd/api/v1/region/id/6
            404 {"error":"no leader has reported region 6 to this PD"}
            > GET /pd/api/v1/region/id/x
            400 {"error":"the id \"x\" in the path is no number"}
            > GET /pd/api/v1/region/key/k
            200 region 5
            > GET /pd/api/v1/region/key/%6D%FF
            200 region 7
            > GET /pd/api/v1/region/key/6d?format=hex
            200 region 7
            > GET /pd/api/v1/region/key/6?format=hex
            400 {"error":"key is no even number of hexadecimal digits"}
            > GET /pd/api/v1/regions/key?key=e&limit=2
            200 regions [5, 7]
            > GET /pd/api/v1/regions/key?key=65&end_key=6D&format=hex
            200 regions [5]
            > GET /pd/api/v1/regions/key?limit=-1
            200 regions [3, 5, 7, 9]
            > GET /pd/api/v1/regions/count
            200 {"count":4}
            > GET /pd/api/v1/regions/sibling/5
            200 regions [3, 7]
            > GET /pd/api/v1/regions/sibling/9
            200 regions [7]
            > GET /pd/api/v1/regions/store/2
            200 regions [7]
            > GET /pd/api/v1/regions/store/1?type=leader
            200 regions [3, 5, 7, 9]
            > GET /pd/api/v1/regions/store/2?type=learner
            200 regions [7]
            > GET /pd/api/v1/regions/store/2?type=pending
            200 regions [7]
            > GET /pd/api/v1/regions/store/4
            404 {"error":"there is no store 4"}
            > GET /pd/api/v1/regions/range-holes
            200 []
        "#]],
    );
}

#[test]
fn regions_by_weight_and_ailment() {
    check(
        &mut four(),
        &[
            "GET /pd/api/v1/regions/writeflow?limit=2",
            "GET /pd/api/v1/regions/readflow?limit=2",
            "GET /pd/api/v1/regions/size?limit=1",
            "GET /pd/api/v1/regions/keys",
            "GET /pd/api/v1/regions/version?limit=3",
            "GET /pd/api/v1/regions/confver?limit=x",
            "GET /pd/api/v1/regions/check/miss-peer",
            "GET /pd/api/v1/regions/check/extra-peer",
            "GET /pd/api/v1/regions/check/down-peer",
            "GET /pd/api/v1/regions/check/pending-peer",
            "GET /pd/api/v1/regions/check/learner-peer",
            "GET /pd/api/v1/regions/check/empty-region",
            "GET /pd/api/v1/regions/check/hiccups",
            "GET /pd/api/v1/regions/check/hist-size?bound=5",
            "GET /pd/api/v1/regions/check/hist-keys",
            "GET /pd/api/v1/regions/check/hist-keys?bound=0",
            "GET /pd/api/v1/stats/region?start_key=e&end_key=n",
        ],
        expect![[r#"
            > GET /pd/api/v1/regions/writeflow?limit=2
            200 regions [5, 3]
            > GET /pd/api/v1/regions/readflow?limit=2
            200 regions [9, 3]
            > GET /pd/api/v1/regions/size?limit=1
            200 regions [5]
            > GET /pd/api/v1/regions/keys
            200 regions [5, 3, 7, 9]
            > GET /pd/api/v1/regions/version?limit=3
            200 regions [7, 3, 5]
            > GET /pd/api/v1/regions/confver?limit=x
            400 {"error":"limit=\"x\" is no such number"}
            > GET /pd/api/v1/regions/check/miss-peer
            200 regions [3, 5, 7, 9]
            > GET /pd/api/v1/regions/check/extra-peer
            200 regions []
            > GET /pd/api/v1/regions/check/down-peer
            200 regions [7]
            > GET /pd/api/v1/regions/check/pending-peer
            200 regions [7]
            > GET /pd/api/v1/regions/check/learner-peer
            200 regions [7]
            > GET /pd/api/v1/regions/check/empty-region
            200 regions [7, 9]
            > GET /pd/api/v1/regions/check/hiccups
            404 {"error":"there is no check \"hiccups\"; there are miss-peer, extra-peer, down-peer, pending-peer, learner-peer, offline-peer, empty-region, no-leader, hist-size, hist-keys"}
            > GET /pd/api/v1/regions/check/hist-size?bound=5
            200 [{"count":3,"end":4,"start":0},{"count":1,"end":9,"start":5}]
            > GET /pd/api/v1/regions/check/hist-keys
            200 [{"count":2,"end":9999,"start":0},{"count":1,"end":19999,"start":10000},{"count":1,"end":99999,"start":90000}]
            > GET /pd/api/v1/regions/check/hist-keys?bound=0
            400 {"error":"bound=0 is no step: give 1 or more"}
            > GET /pd/api/v1/stats/region?start_key=e&end_key=n
            200 {"count":2,"empty_count":1,"storage_keys":90000,"storage_size":9,"store_leader_count":{"1":2},"store_leader_keys":{"1":90000},"store_leader_size":{"1":9},"store_peer_count":{"1":2,"2":1},"store_peer_keys":{"1":90000,"2":0},"store_peer_size":{"1":9,"2":0}}
        "#]],
    );
}

#[test]
fn holes_between_regions() {
    let mut world = World::leading();
    let page = "GET /pd/api/v1/regions/range-holes";
    check(
        &mut world,
        &[page],
        expect![[r#"
        > GET /pd/api/v1/regions/range-holes
        200 [["",""]]
    "#]],
    );
    world.report(region(3, 1, "b", "d"));
    world.report(region(5, 1, "d", "f"));
    world.report(region(7, 1, "g", "h"));
    check(
        &mut world,
        &[page],
        expect![[r#"
        > GET /pd/api/v1/regions/range-holes
        200 [["","62"],["66","67"],["68",""]]
    "#]],
    );
}

#[test]
fn stores() {
    let mut world = four();
    check(
        &mut world,
        &[
            "GET /pd/api/v1/store/4",
            "DELETE /pd/api/v1/store/4",
            "POST /pd/api/v1/store/2/state?state=Sideways",
            "POST /pd/api/v1/store/2/state?state=Up",
            "POST /pd/api/v1/store/2/weight {\"leader\": 1}",
        ],
        expect![[r#"
            > GET /pd/api/v1/store/4
            404 {"error":"there is no store 4"}
            > DELETE /pd/api/v1/store/4
            404 {"error":"there is no store 4"}
            > POST /pd/api/v1/store/2/state?state=Sideways
            400 {"error":"state=\"Sideways\" is neither Up nor Offline"}
            > POST /pd/api/v1/store/2/state?state=Up
            200 "The store's state is updated."
            > POST /pd/api/v1/store/2/weight {"leader": 1}
            501 {"error":"/pd/api/v1/store/2/weight is not offered: stores weigh what they hold: a disk's size and its free space are taken into account"}
        "#]],
    );
    let ids = |world: &mut World, page: &str| -> Vec<u64> {
        match ask(world, page).body {
            View::Stores(page) => page.stores.iter().map(|one| one.store.id).collect(),
            other => panic!("{other:?}"),
        }
    };
    let none: [u64; 0] = [];
    assert_eq!(ids(&mut world, "GET /pd/api/v1/stores"), [1, 2]);
    assert_eq!(ids(&mut world, "GET /pd/api/v1/stores?state=1"), none);
    assert_eq!(
        ids(&mut world, "GET /pd/api/v1/stores/check?state=disconnected"),
        [1, 2]
    );
    assert!(matches!(
        ask(&mut world, "GET /pd/api/v1/store/2").body,
        View::Store(_)
    ));
}

#[test]
fn a_store_is_removed_and_stays_after_all() {
    let mut fleet = Fleet::new(4);
    fleet.report();
    let world = &mut fleet.world;
    check(
        world,
        &[
            "DELETE /pd/api/v1/store/4",
            "GET /pd/api/v1/regions/check/offline-peer",
            "DELETE /pd/api/v1/store/1",
            "POST /pd/api/v1/store/4/state?state=Up",
        ],
        expect![[r#"
            > DELETE /pd/api/v1/store/4
            200 "The store is set as Offline."
            > GET /pd/api/v1/regions/check/offline-peer
            200 regions []
            > DELETE /pd/api/v1/store/1
            409 {"error":"without store 1 there are 2 stores that are not down or leaving, and regions have 3 replicas: add a store first"}
            > POST /pd/api/v1/store/4/state?state=Up
            200 "The store's state is updated."
        "#]],
    );
}

#[test]
fn operators_are_made_shown_and_cancelled() {
    let mut fleet = Fleet::with_region(4, 3, &[1, 2, 3]);
    fleet.report();
    fleet.settle();
    check(
        &mut fleet.world,
        &[
            "GET /pd/api/v1/operators",
            r#"POST /pd/api/v1/operators {"name":"transfer-leader","region_id":3}"#,
            r#"POST /pd/api/v1/operators {"name":"fly","region_id":3}"#,
            r#"POST /pd/api/v1/operators {"name":"add-peer","region_id":3,"store_id":4}"#,
            r#"POST /pd/api/v1/operators {"name":"remove-peer","region_id":3,"store_id":2}"#,
            r#"POST /pd/api/v1/operators {"name":"transfer-peer","region_id":8,"from_store_id":1,"to_store_id":4}"#,
            r#"POST /pd/api/v1/operators {"name":"merge-region","source_region_id":3,"target_region_id":5}"#,
            r#"POST /pd/api/v1/operators {"name":"merge-region","source_region_id":3}"#,
            r#"POST /pd/api/v1/operators {"name":"scatter-region","region_id":4}"#,
            r#"POST /pd/api/v1/operators {"name":"scatter-regions"}"#,
            "POST /pd/api/v1/operators transfer-leader",
            r#"POST /pd/api/v1/operators {"name":"transfer-leader","region_id":3,"to_store_id":2}"#,
            "GET /pd/api/v1/operators",
            "GET /pd/api/v1/operators?kind=region",
            "GET /pd/api/v1/operators?object",
            "GET /pd/api/v1/operators/3",
            "GET /pd/api/v1/operators/4",
            "DELETE /pd/api/v1/operators/3",
            "DELETE /pd/api/v1/operators/3",
            "GET /pd/api/v1/operators/records",
            "GET /pd/api/v1/operators/records?from=9999999999",
            "GET /pd/api/v1/operators/3",
        ],
        expect![[r#"
            > GET /pd/api/v1/operators
            200 []
            > POST /pd/api/v1/operators {"name":"transfer-leader","region_id":3}
            400 {"error":"transfer-leader needs to_store_id"}
            > POST /pd/api/v1/operators {"name":"fly","region_id":3}
            400 {"error":"there is no operator \"fly\"; there are transfer-leader, add-peer, remove-peer, transfer-peer, merge-region, scatter-region, scatter-regions"}
            > POST /pd/api/v1/operators {"name":"add-peer","region_id":3,"store_id":4}
            409 {"error":"the region has 3 of 3 replicas: move one instead of adding one"}
            > POST /pd/api/v1/operators {"name":"remove-peer","region_id":3,"store_id":2}
            409 {"error":"the region has 3 replicas and needs 3: move the one on store 2 instead of removing it"}
            > POST /pd/api/v1/operators {"name":"transfer-peer","region_id":8,"from_store_id":1,"to_store_id":4}
            404 {"error":"no leader has reported region 8 to this PD; check the id, or try again"}
            > POST /pd/api/v1/operators {"name":"merge-region","source_region_id":3,"target_region_id":5}
            409 {"error":"it does not merge into region 5: both must be neighbours, no keyspace or rule may begin between them, all their replicas must be well, and no operator run on either"}
            > POST /pd/api/v1/operators {"name":"merge-region","source_region_id":3}
            400 {"error":"merge-region needs target_region_id"}
            > POST /pd/api/v1/operators {"name":"scatter-region","region_id":4}
            404 {"error":"no leader has reported region 4 to this PD"}
            > POST /pd/api/v1/operators {"name":"scatter-regions"}
            400 {"error":"scatter-regions needs region_id or region_ids"}
            > POST /pd/api/v1/operators transfer-leader
            400 {"error":"the body is not the JSON that this page takes: expected ident at line 1 column 3"}
            > POST /pd/api/v1/operators {"name":"transfer-leader","region_id":3,"to_store_id":2}
            200 "The operator is created."
            > GET /pd/api/v1/operators
            200 ["admin-transfer-leader {asked for: store 2 leads} (kind:admin, region:3, createAt:2024-07-01T00:00:40Z, currentStep:0, steps:[0:{transfer the leader to store 2}], status:RUNNING)"]
            > GET /pd/api/v1/operators?kind=region
            200 []
            > GET /pd/api/v1/operators?object
            200 [{"desc":"admin-transfer-leader","id":1,"kind":"admin","reason":"asked for: store 2 leads","region_id":3,"started_ms":1719792040000,"status":"RUNNING","steps":["transfer the leader to store 2"],"steps_done":0}]
            > GET /pd/api/v1/operators/3
            200 "admin-transfer-leader {asked for: store 2 leads} (kind:admin, region:3, createAt:2024-07-01T00:00:40Z, currentStep:0, steps:[0:{transfer the leader to store 2}], status:RUNNING)"
            > GET /pd/api/v1/operators/4
            404 {"error":"region 4 has no operator, and had none lately"}
            > DELETE /pd/api/v1/operators/3
            200 "The pending operator is canceled."
            > DELETE /pd/api/v1/operators/3
            404 {"error":"no operator runs on this region: it may have ended"}
            > GET /pd/api/v1/operators/records
            200 ["admin-transfer-leader {asked for: store 2 leads} (kind:admin, region:3, createAt:2024-07-01T00:00:40Z, currentStep:0, steps:[0:{transfer the leader to store 2}], status:CANCEL) (finishAt:2024-07-01T00:00:40Z, duration:0ms)"]
            > GET /pd/api/v1/operators/records?from=9999999999
            200 []
            > GET /pd/api/v1/operators/3
            200 "admin-transfer-leader {asked for: store 2 leads} (kind:admin, region:3, createAt:2024-07-01T00:00:40Z, currentStep:0, steps:[0:{transfer the leader to store 2}], status:CANCEL) (finishAt:2024-07-01T00:00:40Z, duration:0ms)"
        "#]],
    );
}

/// Small or not: somebody wants it.
#[test]
fn regions_are_merged_and_scattered() {
    let mut fleet = Fleet::new(3);
    fleet.groups.clear();
    fleet.add(region(7, 1, "", "m"));
    fleet.add(region(9, 1, "m", ""));
    fleet.report();
    fleet.settle();
    check(
        &mut fleet.world,
        &[
            r#"POST /pd/api/v1/operators {"name":"merge-region","source_region_id":7,"target_region_id":3}"#,
            r#"POST /pd/api/v1/operators {"name":"merge-region","source_region_id":7,"target_region_id":9}"#,
            "GET /pd/api/v1/operators/7",
            r#"POST /pd/api/v1/operators {"name":"scatter-regions","region_ids":[7,9]}"#,
        ],
        expect![[r#"
            > POST /pd/api/v1/operators {"name":"merge-region","source_region_id":7,"target_region_id":3}
            409 {"error":"it does not merge into region 3: both must be neighbours, no keyspace or rule may begin between them, all their replicas must be well, and no operator run on either"}
            > POST /pd/api/v1/operators {"name":"merge-region","source_region_id":7,"target_region_id":9}
            200 "The operator is created."
            > GET /pd/api/v1/operators/7
            200 "admin-merge-region {asked for: a part of region 9} (kind:merge, region:7, createAt:2024-07-01T00:00:40Z, currentStep:0, steps:[0:{merge into region 9}], status:RUNNING)"
            > POST /pd/api/v1/operators {"name":"scatter-regions","region_ids":[7,9]}
            200 "The operator is created."
        "#]],
    );
}

#[test]
fn settings() {
    check(
        &mut four(),
        &[
            "GET /pd/api/v1/config/replicate",
            r#"POST /pd/api/v1/config {"leader-schedule-limit": 3, "replication.location-labels": "zone,host"}"#,
            r#"POST /pd/api/v1/config/schedule {"leader-schedule-limit": 5, "warp": 9}"#,
            r#"POST /pd/api/v1/config/replicate {"max-replicas": 0}"#,
            "POST /pd/api/v1/config/replicate [1]",
            "GET /pd/api/v1/config",
        ],
        expect![[r#"
            > GET /pd/api/v1/config/replicate
            200 {"enable-placement-rules":"true","location-labels":"","max-replicas":3}
            > POST /pd/api/v1/config {"leader-schedule-limit": 3, "replication.location-labels": "zone,host"}
            200 "The config is updated."
            > POST /pd/api/v1/config/schedule {"leader-schedule-limit": 5, "warp": 9}
            400 {"error":"warp: there is no such setting"}
            > POST /pd/api/v1/config/replicate {"max-replicas": 0}
            400 {"error":"max-replicas: a number from 1 to 64 is needed"}
            > POST /pd/api/v1/config/replicate [1]
            400 {"error":"the body is not the JSON that this page takes: invalid type: sequence, expected a map at line 1 column 0"}
            > GET /pd/api/v1/config
            200 {"replication":{"enable-placement-rules":"true","location-labels":"zone,host","max-replicas":3},"schedule":{"hot-region-schedule-limit":4,"leader-schedule-limit":3,"max-merge-region-keys":200000,"max-merge-region-size":20,"max-snapshot-count":8,"max-store-down-time":"30m0s","merge-schedule-limit":0,"region-schedule-limit":16,"replica-schedule-limit":64,"split-merge-interval":"1h0m0s","store-adding-limit":8,"store-removing-limit":16}}
        "#]],
    );
}

#[test]
fn placement_rules() {
    check(
        &mut four(),
        &[
            "GET /pd/api/v1/config/rules",
            r#"POST /pd/api/v1/config/rule {"group_id":"eu","id":"a","start_key":"64","end_key":"6D","role":"learner","count":1}"#,
            r#"POST /pd/api/v1/config/rules [{"group_id":"eu","id":"b","role":"king","count":1}]"#,
            "GET /pd/api/v1/config/rule/eu/a",
            "GET /pd/api/v1/config/rule/eu/b",
            "GET /pd/api/v1/config/rules/group/eu",
            "GET /pd/api/v1/config/rules/region/5",
            "GET /pd/api/v1/config/rules/key/a",
            "DELETE /pd/api/v1/config/rule/eu/a",
            "DELETE /pd/api/v1/config/rule/eu/a",
        ],
        expect![[r#"
            > GET /pd/api/v1/config/rules
            200 [{"count":3,"end_key":"","group_id":"pd","id":"default","role":"voter","start_key":""}]
            > POST /pd/api/v1/config/rule {"group_id":"eu","id":"a","start_key":"64","end_key":"6D","role":"learner","count":1}
            200 "Update rule successfully."
            > POST /pd/api/v1/config/rules [{"group_id":"eu","id":"b","role":"king","count":1}]
            400 {"error":"rule eu/b: \"king\" is no role: voter, leader, follower or learner"}
            > GET /pd/api/v1/config/rule/eu/a
            200 {"count":1,"end_key":"6d","group_id":"eu","id":"a","role":"learner","start_key":"64"}
            > GET /pd/api/v1/config/rule/eu/b
            404 {"error":"there is no rule eu/b"}
            > GET /pd/api/v1/config/rules/group/eu
            200 [{"count":1,"end_key":"6d","group_id":"eu","id":"a","role":"learner","start_key":"64"}]
            > GET /pd/api/v1/config/rules/region/5
            200 [{"count":1,"end_key":"6d","group_id":"eu","id":"a","role":"learner","start_key":"64"},{"count":3,"end_key":"","group_id":"pd","id":"default","role":"voter","start_key":""}]
            > GET /pd/api/v1/config/rules/key/a
            200 [{"count":3,"end_key":"","group_id":"pd","id":"default","role":"voter","start_key":""}]
            > DELETE /pd/api/v1/config/rule/eu/a
            200 "Delete rule successfully."
            > DELETE /pd/api/v1/config/rule/eu/a
            404 {"error":"there is no such rule, or it is the default one"}
        "#]],
    );
}

#[test]
fn schedulers_and_hot_spots() {
    check(
        &mut four(),
        &[
            "GET /pd/api/v1/schedulers",
            r#"POST /pd/api/v1/schedulers/balance-leader-scheduler {"delay": 60}"#,
            "GET /pd/api/v1/schedulers?status=paused",
            r#"POST /pd/api/v1/schedulers/balance-leader-scheduler {"delay": 0}"#,
            r#"POST /pd/api/v1/schedulers/balance-nothing {"delay": 0}"#,
            "DELETE /pd/api/v1/schedulers/balance-region-scheduler",
            r#"POST /pd/api/v1/schedulers {"name": "evict-leader-scheduler", "store_id": 2}"#,
            "GET /pd/api/v1/schedulers",
            "GET /pd/api/v1/hotspot/regions/write",
            "GET /pd/api/v1/hotspot/regions/read",
            "GET /pd/api/v1/hotspot/stores",
        ],
        expect![[r#"
            > GET /pd/api/v1/schedulers
            200 ["balance-hot-region-scheduler","balance-leader-scheduler","balance-region-scheduler","evict-slow-store-scheduler"]
            > POST /pd/api/v1/schedulers/balance-leader-scheduler {"delay": 60}
            200 "Pause or resume the scheduler successfully."
            > GET /pd/api/v1/schedulers?status=paused
            200 ["balance-leader-scheduler"]
            > POST /pd/api/v1/schedulers/balance-leader-scheduler {"delay": 0}
            200 "Pause or resume the scheduler successfully."
            > POST /pd/api/v1/schedulers/balance-nothing {"delay": 0}
            404 {"error":"there is no scheduler \"balance-nothing\""}
            > DELETE /pd/api/v1/schedulers/balance-region-scheduler
            200 "The scheduler is removed."
            > POST /pd/api/v1/schedulers {"name": "evict-leader-scheduler", "store_id": 2}
            200 "The scheduler is created."
            > GET /pd/api/v1/schedulers
            200 ["balance-hot-region-scheduler","balance-leader-scheduler","evict-slow-store-scheduler","evict-leader-scheduler-2"]
            > GET /pd/api/v1/hotspot/regions/write
            200 {"as_leader":{},"as_peer":{}}
            > GET /pd/api/v1/hotspot/regions/read
            200 {"as_leader":{},"as_peer":{}}
            > GET /pd/api/v1/hotspot/stores
            200 {"bytes-read-rate":{},"bytes-write-rate":{},"keys-read-rate":{},"keys-write-rate":{},"query-read-rate":{},"query-write-rate":{}}
        "#]],
    );
}

#[test]
fn the_cluster() {
    check(
        &mut four(),
        &[
            "GET /pd/api/v1/leader",
            "GET /pd/api/v1/health",
            "GET /pd/api/v1/ping",
            "GET /pd/api/v1/status",
            "GET /pd/api/v1/cluster/status",
            "POST /pd/api/v1/leader/transfer/store-2",
            "POST /pd/api/v1/leader/transfer/nobody",
            "GET /pd/api/v1/gc/safepoint",
            "DELETE /pd/api/v1/gc/safepoint/backup",
            "POST /pd/api/v1/leader/resign",
        ],
        expect![[r#"
            > GET /pd/api/v1/leader
            200 {"binary_version":"8.5.0","client_urls":["http://10.0.0.1:20160"],"member_id":1,"name":"store-1","peer_urls":["http://10.0.0.1:20160"]}
            > GET /pd/api/v1/health
            200 [{"client_urls":["http://10.0.0.1:20160"],"health":true,"member_id":1,"name":"store-1"},{"client_urls":["http://10.0.0.2:20160"],"health":false,"member_id":2,"name":"store-2"}]
            > GET /pd/api/v1/ping
            200 
            > GET /pd/api/v1/status
            200 {"build_ts":"","git_hash":"","start_timestamp":0,"version":"v8.5.0"}
            > GET /pd/api/v1/cluster/status
            200 {"is_initialized":true,"raft_bootstrap_time":"2024-07-01T00:00:00Z","replication_status":""}
            > POST /pd/api/v1/leader/transfer/store-2
            404 {"error":"no leader has reported region 1 to this PD; check the id, or try again"}
            > POST /pd/api/v1/leader/transfer/nobody
            404 {"error":"there is no member \"nobody\""}
            > GET /pd/api/v1/gc/safepoint
            200 {"gc_safe_point":0,"min_service_gc_safe_point":0,"service_gc_safe_points":[]}
            > DELETE /pd/api/v1/gc/safepoint/backup
            200 "Delete service GC safepoint successfully."
            > POST /pd/api/v1/leader/resign
            501 {"error":"/pd/api/v1/leader/resign is not offered: PD's state is region 1 of the stores: its members move like those of any region"}
        "#]],
    );
}

#[test]
fn keyspaces() {
    let mut world = World::of_mode(flotilla_pd::KeyMode::Encoded);
    check(
        &mut world,
        &[
            "GET /pd/api/v2/keyspaces/nobody",
            r#"POST /pd/api/v2/keyspaces {"name": "a b"}"#,
            r#"POST /pd/api/v2/keyspaces {"called": "a"}"#,
            r#"PUT /pd/api/v2/keyspaces/nobody/state {"state": "disabled"}"#,
            r#"PUT /pd/api/v2/keyspaces/DEFAULT/state {"state": "broken"}"#,
            r#"PUT /pd/api/v2/keyspaces/DEFAULT/state {"state": "disabled"}"#,
        ],
        expect![[r#"
            > GET /pd/api/v2/keyspaces/nobody
            404 {"error":"keyspace \"nobody\" not found"}
            > POST /pd/api/v2/keyspaces {"name": "a b"}
            400 {"error":"a keyspace name has 1 to 64 letters, digits, '-' or '_': \"a b\" is none"}
            > POST /pd/api/v2/keyspaces {"called": "a"}
            400 {"error":"the body is not the JSON that this page takes: unknown field `called`, expected `name` or `config` at line 1 column 9"}
            > PUT /pd/api/v2/keyspaces/nobody/state {"state": "disabled"}
            404 {"error":"keyspace \"nobody\" not found"}
            > PUT /pd/api/v2/keyspaces/DEFAULT/state {"state": "broken"}
            400 {"error":"there is no state \"broken\"; there are enabled, disabled, archived, tombstone"}
            > PUT /pd/api/v2/keyspaces/DEFAULT/state {"state": "disabled"}
            400 {"error":"the state of the keyspace DEFAULT cannot be changed"}
        "#]],
    );
}

#[test]
fn pages_that_are_not() {
    check(
        &mut four(),
        &[
            "GET /pd/api/v1/nothing",
            "GET /pd/api/v1",
            "GET /pd/api/v1/store/",
            "GET /pd/api/v1/store/1/2/3",
            "POST /pd/api/v1/regions",
            "GET /pd/api/v1/regions/",
            "PUT /pd/api/v1/store/1",
            "GET /pd/api/v1/min-resolved-ts",
            "GET /pd/api/v1/regions/readquery",
        ],
        expect![[r#"
            > GET /pd/api/v1/nothing
            404 {"error":"there is no page /pd/api/v1/nothing; docs/protocol.md lists them"}
            > GET /pd/api/v1
            404 {"error":"there is no page /pd/api/v1; docs/protocol.md lists them"}
            > GET /pd/api/v1/store/
            404 {"error":"there is no page /pd/api/v1/store/; docs/protocol.md lists them"}
            > GET /pd/api/v1/store/1/2/3
            404 {"error":"there is no page /pd/api/v1/store/1/2/3; docs/protocol.md lists them"}
            > POST /pd/api/v1/regions
            405 {"error":"/pd/api/v1/regions takes GET, not POST"}
            > GET /pd/api/v1/regions/
            200 regions [3, 5, 7, 9]
            > PUT /pd/api/v1/store/1
            405 {"error":"/pd/api/v1/store/1 takes GET and DELETE, not PUT"}
            > GET /pd/api/v1/min-resolved-ts
            501 {"error":"/pd/api/v1/min-resolved-ts is not offered: there is no change data capture"}
            > GET /pd/api/v1/regions/readquery
            501 {"error":"/pd/api/v1/regions/readquery is not offered: queries are not counted, bytes and keys are: ask writeflow or readflow"}
        "#]],
    );
}

#[test]
fn what_the_dashboard_looks_at() {
    check(
        &mut four(),
        &[
            "GET /flotilla/v1/overview",
            "GET /flotilla/v1/map",
            "GET /flotilla/v1/map?cells=3",
            "GET /flotilla/v1/heat?minutes=2",
            "GET /flotilla/v1/heat?minutes=1&what=read_bytes",
            "GET /flotilla/v1/heat?what=noise",
            "GET /flotilla/v1/operators",
        ],
        expect![[r#"
            > GET /flotilla/v1/overview
            200 {"cluster_id":"7","now_ms":1719792000000,"operators":{"ended":0,"running":0},"pd":{"address":"10.0.0.1:20160","leads_for_seconds":0,"store":1,"term":1},"regions":{"all_reported":true,"count":4,"down":1,"empty":2,"few_peers":3,"keys":100000,"mib":10,"no_leader":0,"pending":0},"replicas":3,"stores":[{"address":"10.0.0.1:20160","available":0,"busy":false,"bytes_read":200,"bytes_written":1000,"capacity":0,"evicted":false,"heard_ms_ago":null,"id":1,"keys_read":0,"keys_written":10,"labels":[],"leader_mib":10,"leaders":4,"region_mib":10,"regions":4,"slow_score":0,"state":"Disconnected","uptime_seconds":null,"used":0,"version":"8.5.0"},{"address":"10.0.0.2:20160","available":0,"busy":false,"bytes_read":0,"bytes_written":0,"capacity":0,"evicted":false,"heard_ms_ago":null,"id":2,"keys_read":0,"keys_written":0,"labels":[],"leader_mib":0,"leaders":0,"region_mib":0,"regions":1,"slow_score":0,"state":"Disconnected","uptime_seconds":null,"used":0,"version":"8.5.0"}]}
            > GET /flotilla/v1/map
            200 {"count":4,"per":1,"id":[3,5,7,9],"leader":[1,1,1,1],"mib":[1,9,0,0],"keys":[10000,90000,0,0],"written":[100,900,0,0],"read":[90,10,0,100],"ails":[2,2,3,2]}
            > GET /flotilla/v1/map?cells=3
            200 {"count":4,"per":2,"id":[3,7],"leader":[1,1],"mib":[10,0],"keys":[100000,0],"written":[1000,0],"read":[100,100],"ails":[2,3]}
            > GET /flotilla/v1/heat?minutes=2
            200 {"what":"written_bytes","from":1719791940,"column_seconds":60,"starts":[""],"columns":[[0],[1000]]}
            > GET /flotilla/v1/heat?minutes=1&what=read_bytes
            200 {"what":"read_bytes","from":1719792000,"column_seconds":60,"starts":[""],"columns":[[200]]}
            > GET /flotilla/v1/heat?what=noise
            400 {"error":"what=\"noise\" is none of written_bytes, read_bytes, written_keys, read_keys"}
            > GET /flotilla/v1/operators
            200 {"running":[],"ended":[]}
        "#]],
    );
}

/// A split waits for its regions, and the leader may go meanwhile.
#[test]
fn an_answer_that_takes_a_while_is_json_too() {
    let mut world = World::of_mode(flotilla_pd::KeyMode::Plain);
    let split = r#"POST /pd/api/v1/regions/split {"split_keys": ["64"]}"#;
    let token = world.send(calls::Http::request(request(split)));
    assert!(world.waiting.contains(&token), "it waits for the split");
    world.input(flotilla_pd::Input::Retire);
    let answer = world
        .answer::<calls::Http>(token)
        .expect("an answer")
        .unwrap();
    assert_eq!(
        (answer.status, answer.json().as_str()),
        (503, r#"{"error":"not leader"}"#)
    );
    world.lead();
    world.report(region(3, 2, "", "d"));
    world.report(region(5, 2, "d", ""));
    check(
        &mut world,
        &[
            split,
            r#"POST /pd/api/v1/regions/split {"split_keys": ["6"]}"#,
        ],
        expect![[r#"
            > POST /pd/api/v1/regions/split {"split_keys": ["64"]}
            200 {"processed-percentage":100,"regions-id":[5]}
            > POST /pd/api/v1/regions/split {"split_keys": ["6"]}
            400 {"error":"keys are given as hexadecimal digits, two per byte"}
        "#]],
    );
}

/// Every page, and why some are not offered, stands in the documentation.
#[test]
fn the_documentation_names_every_page() {
    let documented = include_str!("../../docs/protocol.md");
    let mut missing = String::new();
    for page in http_routes() {
        let line = match page.why_not {
            None => format!("`{} {}`", page.method, page.path),
            Some(why) => format!("`{}` | {why}", page.path),
        };
        if !documented.contains(&line) {
            writeln!(missing, "{line}").unwrap();
        }
    }
    assert!(missing.is_empty(), "docs/protocol.md lacks\n{missing}");
}
