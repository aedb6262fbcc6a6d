//! Registering stores, and the cluster's own settings (wire, section 3.5).

mod common;

use bytes::Bytes;
use common::{CLUSTER, World, header, outcome, region, store};
use expect_test::{Expect, expect};
use flotilla_pd::records::{put_cluster, put_store};
use flotilla_pd::{Call, Request, Response, calls};
use flotilla_proto::metapb::{Cluster, Peer, Region, Store, StoreLabel, StoreState};
use flotilla_proto::pdpb::{
    BootstrapRequest, GetAllStoresRequest, GetClusterConfigRequest, GetStoreRequest,
    IsBootstrappedRequest, PutClusterConfigRequest, PutStoreRequest, StoreHeartbeatRequest,
    StoreStats,
};

/// One line per request: what it is, and what comes back.
fn check<const N: usize>(world: &mut World, requests: [(&str, Request); N], expected: Expect) {
    let mut lines = String::new();
    for (what, request) in requests {
        let token = world.send(request);
        let answer = world.answers.remove(&token).expect(what);
        lines += &format!("{what}: {}\n", outcome(&answer));
    }
    expected.assert_eq(&lines);
}

fn put(store: Store) -> Request {
    calls::PutStore::request(PutStoreRequest {
        header: header(),
        store: Some(store),
    })
}

fn bootstrap(store: Store, region: Region) -> Request {
    calls::Bootstrap::request(BootstrapRequest {
        header: header(),
        store: Some(store),
        region: Some(region),
    })
}

fn beat(stats: StoreStats) -> Request {
    calls::StoreHeartbeat::request(StoreHeartbeatRequest {
        header: header(),
        stats: Some(stats),
        ..Default::default()
    })
}

fn get_store(world: &mut World, store_id: u64) -> flotilla_proto::pdpb::GetStoreResponse {
    let request = GetStoreRequest {
        header: header(),
        store_id,
    };
    world.ask::<calls::GetStore>(request).unwrap()
}

/// Registers a store under a fresh id and returns the id.
fn join(world: &mut World, address: &str, version: &str) -> u64 {
    let request = flotilla_proto::pdpb::AllocIdRequest {
        header: header(),
        count: 1,
    };
    let id = world.ask::<calls::AllocID>(request).unwrap().id;
    let joining = Store {
        id,
        address: address.to_owned(),
        version: version.to_owned(),
        ..Store::default()
    };
    let token = world.send(put(joining));
    assert_eq!(outcome(&world.answers.remove(&token).unwrap()), "ok");
    id
}

/// Store 1 is a tombstone from now on.
fn bury(world: &mut World, id: u64) {
    let mut dead = world.durable().stores[&id].clone();
    dead.state = StoreState::Tombstone as i32;
    world.write(vec![put_store(&dead)]);
    world.lead();
}

#[test]
fn bootstrap_takes_one_store_and_one_region_over_everything() {
    let whole = region(3, 1, "", "");
    let peer = |id, store_id| Peer {
        id,
        store_id,
        ..Peer::default()
    };
    let with_peers = |peers: Vec<Peer>| Region {
        peers,
        ..whole.clone()
    };
    let mut world = World::virgin();
    check(
        &mut world,
        [
            ("no id", bootstrap(store(0), whole.clone())),
            (
                "no version",
                bootstrap(
                    Store {
                        version: String::new(),
                        ..store(1)
                    },
                    whole.clone(),
                ),
            ),
            ("no region id", bootstrap(store(1), region(0, 1, "", ""))),
            ("meta region", bootstrap(store(1), region(1, 1, "", ""))),
            ("half a range", bootstrap(store(1), region(3, 1, "", "m"))),
            (
                "no epoch",
                bootstrap(
                    store(1),
                    Region {
                        region_epoch: None,
                        ..whole.clone()
                    },
                ),
            ),
            ("no peers", bootstrap(store(1), with_peers(Vec::new()))),
            (
                "two peers",
                bootstrap(store(1), with_peers(vec![peer(4, 1), peer(5, 1)])),
            ),
            (
                "peer elsewhere",
                bootstrap(store(1), with_peers(vec![peer(4, 2)])),
            ),
            (
                "peer id 0",
                bootstrap(store(1), with_peers(vec![peer(0, 1)])),
            ),
            ("right", bootstrap(store(1), whole.clone())),
            ("again", bootstrap(store(1), whole.clone())),
        ],
        expect![[r#"
            no id: UNKNOWN invalid bootstrap: store id 0
            no version: INCOMPATIBLE_VERSION invalid put store: "" is no version
            no region id: UNKNOWN invalid bootstrap: region id 0
            meta region: UNKNOWN invalid bootstrap: region 1 is the meta region
            half a range: UNKNOWN invalid bootstrap: the first region covers all keys
            no epoch: UNKNOWN invalid bootstrap: the first region has no epoch
            no peers: UNKNOWN invalid bootstrap: the first region has exactly one peer
            two peers: UNKNOWN invalid bootstrap: the first region has exactly one peer
            peer elsewhere: UNKNOWN invalid bootstrap: the first peer is on another store
            peer id 0: UNKNOWN invalid bootstrap: peer id 0
            right: ok
            again: ALREADY_BOOTSTRAPPED cluster is already bootstrapped
        "#]],
    );
    let known = get_store(&mut world, 1).store.unwrap();
    assert_eq!(
        known,
        Store {
            state: StoreState::Up as i32,
            ..store(1)
        }
    );
    let asked = IsBootstrappedRequest { header: header() };
    assert!(
        world
            .ask::<calls::IsBootstrapped>(asked)
            .unwrap()
            .bootstrapped
    );
    let found = world
        .ask::<calls::GetRegion>(flotilla_proto::pdpb::GetRegionRequest {
            header: header(),
            region_key: "any".into(),
            ..Default::default()
        })
        .unwrap();
    assert_eq!((found.region, found.leader), (Some(whole), None));
}

#[test]
fn a_store_registers_with_an_id_of_ours_an_address_and_a_version() {
    let mut world = World::leading();
    let id = join(&mut world, "10.0.0.2:20160", "8.5.0");
    let with = |change: fn(&mut Store)| {
        let mut changed = Store { id, ..store(2) };
        change(&mut changed);
        put(changed)
    };
    check(
        &mut world,
        [
            ("same again", with(|_| {})),
            ("id 0", with(|store| store.id = 0)),
            ("id of nobody", with(|store| store.id = 1 << 40)),
            ("no address", with(|store| store.address.clear())),
            (
                "a URL",
                with(|store| store.address = "http://10.0.0.2:20160".to_owned()),
            ),
            (
                "no port",
                with(|store| store.address = "10.0.0.2".to_owned()),
            ),
            (
                "port 0",
                with(|store| store.address = "10.0.0.2:0".to_owned()),
            ),
            (
                "long text",
                with(|store| store.deploy_path = "x".repeat(2_000)),
            ),
            (
                "address of store 1",
                with(|store| store.address = "10.0.0.1:20160".to_owned()),
            ),
            ("no version", with(|store| store.version.clear())),
            ("old", with(|store| store.version = "7.5.9".to_owned())),
            ("new", with(|store| store.version = "9.0.0".to_owned())),
            (
                "moved",
                with(|store| store.address = "[::1]:20160".to_owned()),
            ),
        ],
        expect![[r#"
            same again: ok
            id 0: UNKNOWN invalid put store: id 0 was not given out by this cluster
            id of nobody: UNKNOWN invalid put store: id 1099511627776 was not given out by this cluster
            no address: UNKNOWN invalid put store: "" is not host:port
            a URL: UNKNOWN invalid put store: "http://10.0.0.2:20160" is not host:port
            no port: UNKNOWN invalid put store: "10.0.0.2" is not host:port
            port 0: UNKNOWN invalid put store: "10.0.0.2:0" is not host:port
            long text: UNKNOWN invalid put store: a text is longer than 1024 bytes
            address of store 1: UNKNOWN duplicated store address: 10.0.0.1:20160 is already registered by store 1
            no version: INCOMPATIBLE_VERSION invalid put store: "" is no version
            old: INCOMPATIBLE_VERSION version should compatible with version 8.5.0, got 7.5.9
            new: ok
            moved: ok
        "#]],
    );
}

#[test]
fn a_store_keeps_its_state_and_its_labels_merge_by_key() {
    let mut world = World::leading();
    let label = |key: &str, value: &str| StoreLabel {
        key: key.to_owned(),
        value: value.to_owned(),
    };
    let mut one = store(1);
    one.labels = vec![label("zone", "a"), label("disk", "ssd")];
    world.send(put(one.clone()));
    one.state = StoreState::Tombstone as i32;
    one.labels = vec![label("zone", "b"), label("host", "h")];
    world.send(put(one));
    let known = get_store(&mut world, 1).store.unwrap();
    assert_eq!(known.state, StoreState::Up as i32);
    assert_eq!(
        known.labels,
        [label("zone", "b"), label("disk", "ssd"), label("host", "h")]
    );
    let mut many = store(1);
    many.labels = (0..65).map(|n| label(&format!("l{n}"), "")).collect();
    check(
        &mut world,
        [("too many labels", put(many))],
        expect![[r#"
        too many labels: UNKNOWN invalid put store: more than 64 labels
    "#]],
    );
}

#[test]
fn the_cluster_version_follows_its_oldest_store_upwards() {
    let version = |world: &World| world.durable().cluster.version;
    let mut world = World::leading();
    let id = join(&mut world, "10.0.0.2:20160", "9.1.0");
    assert_eq!(version(&world), "8.5.0");
    world.send(put(Store {
        version: "v9.0.0".to_owned(),
        ..store(1)
    }));
    assert_eq!(version(&world), "9.0.0");
    world.send(put(Store {
        id,
        version: "9.0.0-alpha".to_owned(),
        ..store(2)
    }));
    assert_eq!(version(&world), "9.0.0", "it never falls");
    let stats = StoreStats {
        store_id: id,
        ..StoreStats::default()
    };
    let token = world.send(beat(stats));
    let answer = world
        .answer::<calls::StoreHeartbeat>(token)
        .unwrap()
        .unwrap();
    assert_eq!(answer.cluster_version, "9.0.0");
}

#[test]
fn a_buried_store_is_refused_everywhere_and_its_address_is_free() {
    let mut world = World::leading();
    let id = join(&mut world, "10.0.0.2:20160", "8.5.0");
    bury(&mut world, id);
    let stats = |store_id| StoreStats {
        store_id,
        ..StoreStats::default()
    };
    check(
        &mut world,
        [
            ("put", put(Store { id, ..store(2) })),
            ("heartbeat", beat(stats(id))),
            ("heartbeat of nobody", beat(stats(999))),
            ("heartbeat of store 1", beat(stats(1))),
        ],
        expect![[r#"
            put: STORE_TOMBSTONE store 1000 is a tombstone
            heartbeat: STORE_TOMBSTONE store 1000 is a tombstone
            heartbeat of nobody: UNKNOWN invalid store ID 999, not found
            heartbeat of store 1: ok
        "#]],
    );
    assert_eq!(
        get_store(&mut world, id).store.unwrap().state,
        StoreState::Tombstone as i32
    );
    let all = |world: &mut World, exclude| {
        let request = GetAllStoresRequest {
            header: header(),
            exclude_tombstone_stores: exclude,
        };
        let stores = world.ask::<calls::GetAllStores>(request).unwrap().stores;
        stores.iter().map(|store| store.id).collect::<Vec<_>>()
    };
    assert_eq!(all(&mut world, false), [1, id]);
    assert_eq!(all(&mut world, true), [1]);
    join(&mut world, "10.0.0.2:20160", "8.5.0");
}

#[test]
fn a_heartbeat_is_remembered_without_its_peers() {
    let mut world = World::leading();
    let stats = StoreStats {
        store_id: 1,
        capacity: 100,
        peer_stats: vec![Default::default()],
        ..StoreStats::default()
    };
    world.send(beat(stats.clone()));
    let answer = get_store(&mut world, 1);
    assert_eq!(
        answer.stats,
        Some(StoreStats {
            peer_stats: Vec::new(),
            ..stats
        })
    );
    let nanoseconds = world.wall.0 as i64 * 1_000_000;
    assert_eq!(answer.store.unwrap().last_heartbeat, nanoseconds);
}

#[test]
fn every_store_is_a_member_and_the_first_leads() {
    let mut world = World::leading();
    let id = join(&mut world, "10.0.0.2:20160", "8.5.0");
    let dead = join(&mut world, "10.0.0.3:20160", "8.5.0");
    bury(&mut world, dead);
    let answer = world.ask::<calls::GetMembers>(Default::default()).unwrap();
    let urls: Vec<_> = answer
        .members
        .iter()
        .map(|member| (member.member_id, &member.name[..], &member.client_urls[..]))
        .collect();
    let name = format!("store-{id}");
    assert_eq!(
        urls,
        [
            (1, "store-1", &["http://10.0.0.1:20160".to_owned()][..]),
            (id, &name, &["http://10.0.0.2:20160".to_owned()][..]),
        ]
    );
    assert_eq!(answer.leader.as_ref(), Some(&answer.members[0]));
    assert_eq!(answer.header.unwrap().error, None);
}

#[test]
fn a_node_without_rows_still_names_the_members_it_knows() {
    let config = flotilla_pd::Config {
        cluster_id: CLUSTER,
        store_id: 2,
        advertise_addr: "b:1".to_owned(),
        tls: true,
        schedule: flotilla_pd::Schedule::default(),
    };
    let stores = [store(1), store(3)];
    let answer = flotilla_pd::members_response(&config, &stores, Some(3));
    let urls: Vec<_> = answer
        .members
        .iter()
        .map(|m| &m.client_urls[0][..])
        .collect();
    assert_eq!(
        urls,
        [
            "https://10.0.0.1:20160",
            "https://b:1",
            "https://10.0.0.3:20160"
        ]
    );
    assert_eq!(answer.leader.unwrap().member_id, 3);
    assert_eq!(answer.header.unwrap().cluster_id, CLUSTER);
}

#[test]
fn the_replica_count_can_be_changed() {
    let config = |id, max_peer_count| {
        calls::PutClusterConfig::request(PutClusterConfigRequest {
            header: header(),
            cluster: Some(Cluster { id, max_peer_count }),
        })
    };
    let mut world = World::leading();
    check(
        &mut world,
        [
            ("another cluster", config(8, 5)),
            ("none", config(CLUSTER, 0)),
            ("too many", config(CLUSTER, 65)),
            ("five", config(CLUSTER, 5)),
            ("five again", config(CLUSTER, 5)),
        ],
        expect![[r#"
            another cluster: UNKNOWN invalid cluster config: id 8 where 7 is meant
            none: UNKNOWN invalid cluster config: 0 replicas
            too many: UNKNOWN invalid cluster config: 65 replicas
            five: ok
            five again: ok
        "#]],
    );
    let request = GetClusterConfigRequest { header: header() };
    let cluster = world.ask::<calls::GetClusterConfig>(request).unwrap();
    assert_eq!(cluster.cluster.unwrap().max_peer_count, 5);
}

/// What is answered is durable: a change is not visible, and not answered, before it is applied.
#[test]
fn changes_are_answered_one_by_one_when_they_are_applied() {
    let mut world = World::leading();
    world.commits = false;
    let moved = |port: u16| {
        put(Store {
            address: format!("10.0.0.1:{port}"),
            ..store(1)
        })
    };
    let tokens = [moved(1), moved(2), moved(3)].map(|request| world.send(request));
    assert_eq!(world.proposed.len(), 1, "one at a time");
    assert_eq!(
        get_store(&mut world, 1).store.unwrap().address,
        "10.0.0.1:20160"
    );
    world.decide(flotilla_pd::Outcome::Applied);
    assert!(world.answers.contains_key(&tokens[0]));
    assert_eq!(
        get_store(&mut world, 1).store.unwrap().address,
        "10.0.0.1:1"
    );
    world.decide(flotilla_pd::Outcome::Refused {
        why: "the disk is full".to_owned(),
    });
    let refused = world.answers.remove(&tokens[1]).unwrap();
    assert_eq!(
        outcome(&refused),
        "status Unavailable: the change was refused: the disk is full"
    );
    assert_eq!(
        get_store(&mut world, 1).store.unwrap().address,
        "10.0.0.1:1"
    );
    let queued = world.send(moved(4));
    world.input(flotilla_pd::Input::Retire);
    let open = world.answers.remove(&tokens[2]).unwrap();
    assert!(outcome(&open).contains("its outcome is unknown"));
    assert!(outcome(&open).contains("not leader"));
    assert_eq!(
        world.answers.remove(&queued),
        Some(Response::Status(flotilla_pd::Status::not_leader()))
    );
}

#[test]
fn what_the_rows_must_be_for_a_node_to_serve() {
    let refuse = |change: fn(&mut World), expected: Expect| {
        let mut world = World::idle(&common::genesis());
        change(&mut world);
        world.lead();
        assert_eq!(world.pd.term(), None, "it does not serve");
        expected.assert_eq(&format!("{}\n", world.fatal.pop().expect("a fatal error")));
    };
    refuse(
        |world| world.rows.clear(),
        expect![[r#"
        the meta region holds no cluster record: it was never bootstrapped, or its data are lost
    "#]],
    );
    refuse(
        |world| drop(world.rows.remove(&b"t"[..])),
        expect![[r#"
        corrupt row 74 in the meta region: it is missing; restore this store from its replicas or a backup
    "#]],
    );
    refuse(
        |world| drop(world.rows.insert("i".into(), "\x01short".into())),
        expect![[r#"
            corrupt row 69 in the meta region: 5 bytes where 8 belong; restore this store from its replicas or a backup
        "#]],
    );
    refuse(
        |world| drop(world.rows.insert("c".into(), "\x01\x07garbage".into())),
        expect![[r#"
            corrupt row 63 in the meta region: failed to decode Protobuf message: invalid wire type value: 7; restore this store from its replicas or a backup
        "#]],
    );
    refuse(
        |world| {
            let above = Bytes::from_static(b"k\x00\xff\xff\xff");
            world.rows.insert(above, "\x01".into());
        },
        expect![[r#"
            corrupt row 6b00ffffff in the meta region: no keyspace has that id; restore this store from its replicas or a backup
        "#]],
    );
    refuse(
        |world| drop(world.rows.insert("g".into(), "\x02from later".into())),
        expect![[r#"
            row 67 in the meta region was written by a newer version of this program; start that version
        "#]],
    );
    refuse(
        |world| drop(world.rows.insert("zz".into(), "\x01".into())),
        expect![[r#"
            row 7a7a in the meta region was written by a newer version of this program; start that version
        "#]],
    );
    refuse(
        |world| {
            let mut cluster = world.durable().cluster;
            cluster.cluster_id = 8;
            world.write(vec![put_cluster(&cluster)]);
        },
        expect![[r#"
            the meta region belongs to cluster 8, this node to cluster 7: the data folder is not of this cluster
        "#]],
    );
}
