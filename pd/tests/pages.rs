//! The JSON API, byte for byte: tools read it.

mod common;

use common::{World, beat, header, region};
use expect_test::{Expect, expect};
use flotilla_pd::view::View;
use flotilla_pd::{HttpAnswer, HttpRequest, calls};
use flotilla_proto::metapb::{Peer, PeerRole, Store, StoreLabel};
use flotilla_proto::pdpb::{
    PeerStats, PutStoreRequest, RegionHeartbeatRequest, StoreHeartbeatRequest, StoreStats,
};

fn ask(world: &mut World, method: &str, target: &str, body: &str) -> HttpAnswer {
    let request = HttpRequest {
        method: method.to_owned(),
        target: target.to_owned(),
        body: body.as_bytes().to_vec(),
    };
    world.ask::<calls::Http>(request).unwrap()
}

fn check(world: &mut World, page: &str, expected: Expect) {
    let answer = ask(world, "GET", page, "");
    assert_eq!(answer.status, 200, "{page}: {}", answer.json());
    let text = serde_json::to_string_pretty(&answer.body).unwrap();
    expected.assert_eq(&format!("{text}\n"));
}

fn busy() -> World {
    let mut world = World::leading();
    let learner = Peer {
        id: 39,
        store_id: 2,
        role: PeerRole::Learner as i32,
        ..Peer::default()
    };
    let mut first = region(3, 2, "", "k\u{ff}");
    first.peers.push(learner);
    world.heartbeat(
        flotilla_pd::StreamId(1),
        RegionHeartbeatRequest {
            bytes_written: 1,
            bytes_read: 2,
            keys_written: 3,
            keys_read: 4,
            approximate_size: 5 << 20,
            approximate_keys: 6,
            down_peers: vec![PeerStats {
                peer: Some(learner),
                down_seconds: 7,
            }],
            pending_peers: vec![learner],
            ..beat(first)
        },
    );
    world.report(region(5, 1, "k\u{ff}", ""));
    world
        .ask::<calls::PutStore>(PutStoreRequest {
            header: header(),
            store: Some(Store {
                labels: vec![StoreLabel {
                    key: "zone".to_owned(),
                    value: "a".to_owned(),
                }],
                status_address: "10.0.0.1:20160".to_owned(),
                ..common::store(1)
            }),
        })
        .unwrap();
    world
        .ask::<calls::StoreHeartbeat>(StoreHeartbeatRequest {
            header: header(),
            stats: Some(StoreStats {
                store_id: 1,
                capacity: 1 << 40,
                available: 3 << 38,
                used_size: 1_500_000,
                start_time: (world.wall.seconds() - 3_700) as u32,
                ..StoreStats::default()
            }),
            ..StoreHeartbeatRequest::default()
        })
        .unwrap();
    world
}

#[test]
fn regions() {
    check(
        &mut busy(),
        "/pd/api/v1/regions",
        expect![[r#"
            {
              "count": 2,
              "regions": [
                {
                  "id": 3,
                  "start_key": "",
                  "end_key": "6BC3BF",
                  "epoch": {
                    "conf_ver": 1,
                    "version": 2
                  },
                  "peers": [
                    {
                      "role_name": "Voter",
                      "id": 31,
                      "store_id": 1
                    },
                    {
                      "role_name": "Learner",
                      "role": 1,
                      "id": 39,
                      "store_id": 2,
                      "is_learner": true
                    }
                  ],
                  "leader": {
                    "role_name": "Voter",
                    "id": 31,
                    "store_id": 1
                  },
                  "down_peers": [
                    {
                      "peer": {
                        "role_name": "Learner",
                        "role": 1,
                        "id": 39,
                        "store_id": 2,
                        "is_learner": true
                      },
                      "down_seconds": 7
                    }
                  ],
                  "pending_peers": [
                    {
                      "role_name": "Learner",
                      "role": 1,
                      "id": 39,
                      "store_id": 2,
                      "is_learner": true
                    }
                  ],
                  "written_bytes": 1,
                  "read_bytes": 2,
                  "written_keys": 3,
                  "read_keys": 4,
                  "approximate_size": 5,
                  "approximate_keys": 6
                },
                {
                  "id": 5,
                  "start_key": "6BC3BF",
                  "end_key": "",
                  "epoch": {
                    "conf_ver": 1,
                    "version": 1
                  },
                  "peers": [
                    {
                      "role_name": "Voter",
                      "id": 51,
                      "store_id": 1
                    }
                  ],
                  "leader": {
                    "role_name": "Voter",
                    "id": 51,
                    "store_id": 1
                  },
                  "written_bytes": 0,
                  "read_bytes": 0,
                  "written_keys": 0,
                  "read_keys": 0,
                  "approximate_size": 0,
                  "approximate_keys": 0
                }
              ]
            }
        "#]],
    );
}

#[test]
fn stores() {
    check(
        &mut busy(),
        "/pd/api/v1/stores",
        expect![[r#"
            {
              "count": 1,
              "stores": [
                {
                  "store": {
                    "id": 1,
                    "address": "10.0.0.1:20160",
                    "labels": [
                      {
                        "key": "zone",
                        "value": "a"
                      }
                    ],
                    "version": "8.5.0",
                    "status_address": "10.0.0.1:20160",
                    "git_hash": "",
                    "start_timestamp": 0,
                    "deploy_path": "",
                    "last_heartbeat": 1719792000000000000,
                    "state_name": "Up"
                  },
                  "status": {
                    "capacity": "1TiB",
                    "available": "768GiB",
                    "used_size": "1.431MiB",
                    "leader_count": 2,
                    "leader_weight": 1.0,
                    "leader_size": 5,
                    "region_count": 2,
                    "region_weight": 1.0,
                    "region_size": 5,
                    "start_ts": "2024-06-30T22:58:20Z",
                    "last_heartbeat_ts": "2024-07-01T00:00:00Z",
                    "uptime": "1h1m40s"
                  }
                }
              ]
            }
        "#]],
    );
}

#[test]
fn members() {
    check(
        &mut busy(),
        "/pd/api/v1/members",
        expect![[r#"
        {
          "header": {
            "cluster_id": 7
          },
          "members": [
            {
              "name": "store-1",
              "member_id": 1,
              "peer_urls": [
                "http://10.0.0.1:20160"
              ],
              "client_urls": [
                "http://10.0.0.1:20160"
              ],
              "binary_version": "8.5.0"
            }
          ],
          "leader": {
            "name": "store-1",
            "member_id": 1,
            "peer_urls": [
              "http://10.0.0.1:20160"
            ],
            "client_urls": [
              "http://10.0.0.1:20160"
            ],
            "binary_version": "8.5.0"
          },
          "etcd_leader": {
            "name": "store-1",
            "member_id": 1,
            "peer_urls": [
              "http://10.0.0.1:20160"
            ],
            "client_urls": [
              "http://10.0.0.1:20160"
            ],
            "binary_version": "8.5.0"
          }
        }
    "#]],
    );
}

#[test]
fn a_region_reported_in_bytes_is_shown_in_mebibytes() {
    const MIB: u64 = 1 << 20;
    let mut world = World::leading();
    let mut check = |bytes: u64, mib: u64| {
        world.heartbeat(
            flotilla_pd::StreamId(1),
            RegionHeartbeatRequest {
                approximate_size: bytes,
                ..beat(region(3, 2, "", ""))
            },
        );
        let View::Regions(page) = ask(&mut world, "GET", "/pd/api/v1/regions", "").body else {
            panic!("another page");
        };
        assert_eq!(page.regions[0].approximate_size, mib, "{bytes} bytes");
    };
    check(0, 0);
    check(1, 1);
    check(MIB - 1, 1);
    check(MIB, 1);
    check(2 * MIB - 1, 1);
    check(2 * MIB, 2);
    check(256 * MIB, 256);
}

#[test]
fn cluster_and_version() {
    check(
        &mut busy(),
        "/pd/api/v1/cluster",
        expect![[r#"
        {
          "id": 7,
          "max_peer_count": 3
        }
    "#]],
    );
    check(
        &mut busy(),
        "/pd/api/v1/version",
        expect![[r#"
        {
          "version": "v8.5.0"
        }
    "#]],
    );
}

#[test]
fn keyspaces() {
    check(
        &mut busy(),
        "/pd/api/v2/keyspaces",
        expect![[r#"
        {
          "keyspaces": [
            {
              "id": 0,
              "name": "DEFAULT",
              "state": "ENABLED",
              "created_at": 1719792000,
              "state_changed_at": 1719792000,
              "config": {}
            }
          ],
          "next_page_token": ""
        }
    "#]],
    );
    check(
        &mut busy(),
        "/pd/api/v2/keyspaces/DEFAULT",
        expect![[r#"
            {
              "config": {},
              "created_at": 1719792000,
              "id": 0,
              "name": "DEFAULT",
              "state": "ENABLED",
              "state_changed_at": 1719792000
            }
        "#]],
    );
}
