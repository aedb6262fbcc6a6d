//! Heartbeats in, look-ups out (wire, sections 3.4 and 3.6).

mod common;

use std::time::Duration;

use common::{CLUSTER, World, beat, header, outcome, region};
use expect_test::{Expect, expect};
use flotilla_pd::{Call, Code, Event, Input, Request, StreamId, calls};
use flotilla_proto::metapb::{Peer, Region, RegionEpoch};
use flotilla_proto::pdpb::{
    BatchScanRegionsRequest, GetRegionByIdRequest, GetRegionRequest, KeyRange, QueryRegionRequest,
    RegionHeartbeatRequest, ScanRegionsRequest,
};

fn by_key(key: &str) -> GetRegionRequest {
    GetRegionRequest {
        header: header(),
        region_key: key.to_owned().into(),
        ..GetRegionRequest::default()
    }
}

fn by_id(region_id: u64) -> GetRegionByIdRequest {
    GetRegionByIdRequest {
        header: header(),
        region_id,
        ..GetRegionByIdRequest::default()
    }
}

fn scan(start: &str, end: &str, limit: i32) -> ScanRegionsRequest {
    ScanRegionsRequest {
        header: header(),
        start_key: start.to_owned().into(),
        end_key: end.to_owned().into(),
        limit,
    }
}

fn ids<'a>(regions: impl IntoIterator<Item = &'a Option<Region>>) -> Vec<u64> {
    regions
        .into_iter()
        .map(|region| region.as_ref().map_or(0, |region| region.id))
        .collect()
}

/// The regions known, as `id.version[start, end)`.
fn known(world: &mut World) -> String {
    let answer = world.ask::<calls::ScanRegions>(scan("", "", 0)).unwrap();
    let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
    answer
        .region_metas
        .iter()
        .map(|region| {
            let version = region.region_epoch.unwrap().version;
            let (start, end) = (text(&region.start_key), text(&region.end_key));
            format!("{}.{version}[{start},{end})", region.id)
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// Three regions: up to `g`, up to `p`, the rest.
fn tiled() -> World {
    let mut world = World::leading();
    world.report(region(3, 2, "", "g"));
    world.report(region(7, 2, "g", "p"));
    world.report(region(5, 2, "p", ""));
    world
}

#[test]
fn a_key_an_id_and_a_neighbour() {
    let mut world = tiled();
    for (key, here, before) in [
        ("", 3, 0),
        ("f", 3, 0),
        ("g", 7, 3),
        ("o", 7, 3),
        ("p", 5, 7),
        ("zz", 5, 7),
    ] {
        let found = world.ask::<calls::GetRegion>(by_key(key)).unwrap();
        assert_eq!(ids([&found.region]), [here], "{key:?}");
        assert_eq!(found.leader.unwrap().id, 10 * here + 1);
        let found = world.ask::<calls::GetPrevRegion>(by_key(key)).unwrap();
        assert_eq!(ids([&found.region]), [before], "before {key:?}");
    }
    let found = world.ask::<calls::GetRegionByID>(by_id(7)).unwrap();
    assert_eq!(ids([&found.region]), [7]);
    let found = world.ask::<calls::GetRegionByID>(by_id(8)).unwrap();
    assert_eq!(found.region, None);
}

#[test]
fn a_scan_starts_with_the_region_that_holds_the_start() {
    let mut world = tiled();
    for (start, end, limit, expected) in [
        ("", "", 0, &[3, 7, 5][..]),
        ("", "", -1, &[3, 7, 5]),
        ("", "", 2, &[3, 7]),
        ("h", "", 0, &[7, 5]),
        ("h", "p", 0, &[7]),
        ("h", "p\0", 0, &[7, 5]),
        ("g", "g", 0, &[]),
        ("h", "h", 0, &[7]),
        ("p", "a", 0, &[]),
    ] {
        let answer = world
            .ask::<calls::ScanRegions>(scan(start, end, limit))
            .unwrap();
        let found = ids(answer.regions.iter().map(|region| &region.region));
        assert_eq!(found, expected, "[{start}, {end}) at most {limit}");
        let legacy: Vec<u64> = answer.region_metas.iter().map(|region| region.id).collect();
        assert_eq!(legacy, expected);
        assert_eq!(answer.leaders.len(), expected.len());
    }
}

#[test]
fn several_ranges_at_once() {
    let range = |start: &str, end: &str| KeyRange {
        start_key: start.to_owned().into(),
        end_key: end.to_owned().into(),
    };
    let request = |ranges: Vec<KeyRange>, limit, contain_all_key_range| {
        calls::BatchScanRegions::request(BatchScanRegionsRequest {
            header: header(),
            ranges,
            limit,
            contain_all_key_range,
            ..BatchScanRegionsRequest::default()
        })
    };
    let check = |world: &mut World, requests: Vec<Request>, expected: Expect| {
        let mut lines = String::new();
        for request in requests {
            let token = world.send(request);
            let answer = world.answers.remove(&token).unwrap();
            let found = match calls::BatchScanRegions::response(answer.clone()) {
                Ok(found) => ids(found.regions.iter().map(|region| &region.region)),
                Err(_) => Vec::new(),
            };
            lines += &format!("{} {found:?}\n", outcome(&answer));
        }
        expected.assert_eq(&lines);
    };
    let mut world = tiled();
    check(
        &mut world,
        vec![
            request(vec![range("a", "b"), range("h", "q")], 0, true),
            request(
                vec![range("a", "b"), range("c", "h"), range("h", "i")],
                0,
                true,
            ),
            request(vec![range("", "")], 2, true),
            request(vec![range("c", "b")], 0, false),
            request(vec![range("a", "c"), range("b", "d")], 0, false),
            request(vec![range("a", ""), range("b", "d")], 0, false),
            request(vec![range("h", "i"), range("a", "b")], 0, false),
        ],
        expect![[r#"
            ok [3, 7, 5]
            ok [3, 7]
            ok [3, 7]
            UNKNOWN invalid key range: its start is behind its end []
            UNKNOWN invalid key ranges: they overlap or are not in order []
            UNKNOWN invalid key ranges: they overlap or are not in order []
            UNKNOWN invalid key ranges: they overlap or are not in order []
        "#]],
    );
    let mut world = World::leading();
    world.report(region(3, 2, "", "g"));
    world.report(region(5, 2, "p", "t"));
    check(
        &mut world,
        vec![
            request(vec![range("a", "g")], 0, true),
            request(vec![range("a", "h")], 0, true),
            request(vec![range("a", "q")], 0, true),
            request(vec![range("h", "i")], 0, true),
            request(vec![range("q", "")], 0, true),
            request(vec![range("a", "q")], 0, false),
        ],
        expect![[r#"
            ok [3]
            REGIONS_NOT_CONTAIN_ALL_KEY_RANGE the regions known do not contain all of the key range []
            REGIONS_NOT_CONTAIN_ALL_KEY_RANGE the regions known do not contain all of the key range []
            REGIONS_NOT_CONTAIN_ALL_KEY_RANGE the regions known do not contain all of the key range []
            REGIONS_NOT_CONTAIN_ALL_KEY_RANGE the regions known do not contain all of the key range []
            ok [3, 5]
        "#]],
    );
}

#[test]
fn one_stream_message_asks_by_key_by_neighbour_and_by_id() {
    let mut world = tiled();
    let keys = |keys: &[&str]| keys.iter().map(|key| key.to_string().into()).collect();
    let answer = world
        .ask::<calls::QueryRegion>(QueryRegionRequest {
            header: header(),
            keys: keys(&["a", "z", "b"]),
            prev_keys: keys(&["a", "h"]),
            ids: vec![5, 99],
            ..QueryRegionRequest::default()
        })
        .unwrap();
    assert_eq!(answer.key_id_map, [3, 5, 3]);
    assert_eq!(answer.prev_key_id_map, [0, 3]);
    let mut named: Vec<_> = answer.regions_by_id.keys().copied().collect();
    named.sort_unstable();
    assert_eq!(named, [3, 5]);
}

/// A split is reported by its halves in any order, and by stale ones in between.
#[test]
fn the_newer_version_wins_and_an_epoch_never_goes_back() {
    let mut world = World::leading();
    let steps: &[(Region, &str)] = &[
        (region(3, 1, "", ""), "3.1[,)"),
        // The split child first: the parent's old range is gone, a hole stays until it reports.
        (region(7, 2, "", "m"), "7.2[,m)"),
        (region(3, 1, "", ""), "7.2[,m)"),
        (region(3, 2, "m", ""), "7.2[,m) 3.2[m,)"),
        // Region 7 splits: the parent first.
        (region(7, 3, "f", "m"), "7.3[f,m) 3.2[m,)"),
        (region(7, 2, "", "m"), "7.3[f,m) 3.2[m,)"),
        (region(9, 3, "", "f"), "9.3[,f) 7.3[f,m) 3.2[m,)"),
        // Region 9 is merged into 7; its last heartbeat comes late.
        (region(7, 5, "", "m"), "7.5[,m) 3.2[m,)"),
        (region(9, 3, "", "f"), "7.5[,m) 3.2[m,)"),
        // A lie of equal version about keys that are taken.
        (region(11, 5, "a", "b"), "7.5[,m) 3.2[m,)"),
        (region(7, 5, "", "n"), "7.5[,m) 3.2[m,)"),
    ];
    for (reported, expected) in steps {
        world.report(reported.clone());
        assert_eq!(known(&mut world), *expected, "after {reported:?}");
    }
    let conflicts: Vec<&Event> = world
        .events
        .iter()
        .filter(|event| matches!(event, Event::RegionConflict { .. }))
        .collect();
    assert_eq!(
        conflicts,
        [
            &Event::RegionConflict {
                reported: 11,
                known: 7
            },
            &Event::RegionConflict {
                reported: 7,
                known: 7
            },
        ]
    );
}

/// Region 7 leaves the view in between: its epoch still never goes back.
#[test]
fn an_epoch_is_remembered_while_its_region_is_out_of_view() {
    let mut world = World::leading();
    world.report(region(7, 5, "a", "m"));
    world.report(region(9, 7, "a", "b"));
    assert_eq!(known(&mut world), "9.7[a,b)");
    world.report(region(7, 4, "c", "m"));
    assert_eq!(
        known(&mut world),
        "9.7[a,b)",
        "an old range of 7, in a hole"
    );
    world.report(region(7, 7, "b", "m"));
    assert_eq!(known(&mut world), "9.7[a,b) 7.7[b,m)");
}

#[test]
fn the_leader_follows_the_term_within_one_epoch() {
    let mut world = World::leading();
    let peers = vec![
        Peer {
            id: 31,
            store_id: 1,
            ..Peer::default()
        },
        Peer {
            id: 32,
            store_id: 1,
            ..Peer::default()
        },
    ];
    let two = Region {
        peers,
        ..region(3, 2, "", "")
    };
    let mut by = |leader: usize, term, conf_ver| {
        let epoch = RegionEpoch {
            conf_ver,
            version: 2,
        };
        let region = Region {
            region_epoch: Some(epoch),
            ..two.clone()
        };
        let heartbeat = RegionHeartbeatRequest {
            leader: Some(two.peers[leader]),
            term,
            ..beat(region)
        };
        world.heartbeat(StreamId(1), heartbeat);
        let found = world.ask::<calls::GetRegion>(by_key("k")).unwrap();
        found.leader.unwrap().id
    };
    assert_eq!(by(0, 6, 1), 31);
    assert_eq!(by(1, 8, 1), 32);
    assert_eq!(by(0, 7, 1), 32, "an older term");
    assert_eq!(by(0, 7, 2), 31, "a newer epoch");
    assert_eq!(by(1, 9, 1), 31, "an older epoch");
}

#[test]
fn the_meta_region_has_no_route() {
    let mut world = tiled();
    world.report(region(1, 9, "", ""));
    assert_eq!(known(&mut world), "3.2[,g) 7.2[g,p) 5.2[p,)");
    assert!(world.instructions.is_empty());
}

#[test]
fn heartbeats_that_make_no_sense_are_answered_on_their_stream() {
    let good = region(3, 2, "", "g");
    let bad = [
        (
            "no region",
            RegionHeartbeatRequest {
                region: None,
                ..beat(good.clone())
            },
        ),
        (
            "no leader",
            RegionHeartbeatRequest {
                leader: None,
                ..beat(good.clone())
            },
        ),
        ("id 0", beat(region(0, 2, "", "g"))),
        (
            "no epoch",
            beat(Region {
                region_epoch: None,
                ..good.clone()
            }),
        ),
        (
            "leader elsewhere",
            RegionHeartbeatRequest {
                leader: Some(Peer {
                    id: 99,
                    store_id: 1,
                    ..Peer::default()
                }),
                ..beat(good.clone())
            },
        ),
        ("empty range", beat(region(3, 2, "g", "g"))),
        ("reversed range", beat(region(3, 2, "g", "f"))),
        (
            "unknown store",
            beat(Region {
                peers: vec![Peer {
                    id: 31,
                    store_id: 9,
                    ..Peer::default()
                }],
                ..good.clone()
            }),
        ),
        (
            "many peers",
            beat(Region {
                peers: (0..65)
                    .map(|id| Peer {
                        id,
                        store_id: 1,
                        ..Peer::default()
                    })
                    .collect(),
                ..good.clone()
            }),
        ),
    ];
    let mut lines = String::new();
    for (what, heartbeat) in bad {
        let mut world = World::leading();
        world.heartbeat(StreamId(4), heartbeat);
        let (stream, answer) = world.instructions.pop().expect(what);
        assert_eq!(stream, StreamId(4));
        let header = answer.header.unwrap();
        assert_eq!(header.cluster_id, CLUSTER);
        lines += &format!("{what}: {}\n", header.error.unwrap().message);
        assert_eq!(known(&mut world), "");
    }
    expect![[r#"
        no region: invalid region heartbeat: it names no region
        no leader: invalid region heartbeat: it names no leader
        id 0: invalid region heartbeat: the region has no id or no epoch
        no epoch: invalid region heartbeat: the region has no id or no epoch
        leader elsewhere: invalid region heartbeat: the leader is no peer of the region
        empty range: invalid region heartbeat: the region ends before it starts
        reversed range: invalid region heartbeat: the region ends before it starts
        unknown store: invalid store ID 9, not found
        many peers: invalid region heartbeat: the region has too many peers
    "#]]
    .assert_eq(&lines);
}

#[test]
fn a_stream_for_another_cluster_or_another_leader_is_closed() {
    let mut world = World::leading();
    let mut foreign = beat(region(3, 2, "", ""));
    foreign.header = None;
    world.heartbeat(StreamId(4), foreign);
    let (stream, status) = world.closed.pop().unwrap();
    assert_eq!(
        (stream, status.code),
        (StreamId(4), Code::FailedPrecondition)
    );

    world.report(region(3, 2, "", ""));
    world.input(Input::Retire);
    let (stream, status) = world.closed.pop().unwrap();
    assert_eq!((stream, status.code), (StreamId(1), Code::Unavailable));
    world.report(region(3, 2, "", ""));
    assert_eq!(
        world.closed.pop().unwrap().0,
        StreamId(1),
        "whoever comes back too"
    );
}

/// The stock Rust client gives up on the first "no region": a look-up that meets a hole waits.
#[test]
fn a_lookup_waits_for_a_hole_to_close() {
    let mut world = World::leading();
    let waiting = [
        world.send(calls::GetRegion::request(by_key("k"))),
        world.send(calls::GetPrevRegion::request(by_key("k"))),
        world.send(calls::GetRegionByID::request(by_id(7))),
        world.send(calls::GetRegionByID::request(by_id(99))),
    ];
    assert!(world.answers.is_empty());
    let mut answered = |region: Region| {
        world.report(region);
        let done = waiting
            .iter()
            .filter(|token| world.answers.contains_key(token));
        done.count()
    };
    assert_eq!(answered(region(7, 2, "g", "p")), 2, "the key and id 7");
    assert_eq!(answered(region(5, 2, "p", "")), 2);
    assert_eq!(
        answered(region(3, 2, "", "g")),
        4,
        "the neighbour; and no hole can hide 99"
    );
    let missing = world.answer::<calls::GetRegionByID>(waiting[3]).unwrap();
    assert_eq!(missing.unwrap().region, None);
}

#[test]
fn it_does_not_wait_for_ever() {
    let mut world = World::leading();
    let token = world.send(calls::GetRegion::request(by_key("k")));
    world.advance(Duration::from_millis(900));
    assert!(world.answers.is_empty());
    world.advance(Duration::from_millis(200));
    let answer = world.answer::<calls::GetRegion>(token).unwrap().unwrap();
    assert_eq!((answer.region, answer.leader), (None, None));
    assert_eq!(answer.header.unwrap().error, None);
}
