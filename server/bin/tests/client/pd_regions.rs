//! PD: finding regions.

use bytes::Bytes;
use flotilla_pd::SENTINEL_BOUNDARY;
use flotilla_proto::pdpb as p;
use flotilla_proto::pdpb::ErrorType;

use crate::support::wire::{Route, assert_tiled};
use crate::support::{TestNode, Wire, in_time};

/// A node with the regions ["", d), [d, h), [h, m), [m, sentinel), [sentinel, "").
async fn cut() -> (TestNode, Wire, Vec<Route>) {
    let node = TestNode::start().await;
    let wire = node.wire().await;
    wire.split(["d", "h", "m"]).await;
    let routes = wire.routes().await;
    assert_tiled(&routes);
    let starts: Vec<&[u8]> = routes.iter().map(|route| route.range().0).collect();
    assert_eq!(starts, [b"", &b"d"[..], b"h", b"m", &SENTINEL_BOUNDARY]);
    (node, wire, routes)
}

fn route(found: p::GetRegionResponse) -> Option<Route> {
    assert_eq!(found.region.is_some(), found.leader.is_some());
    Some(Route {
        region: found.region?,
        leader: found.leader?,
    })
}

fn ask(key: &'static str) -> p::GetRegionRequest {
    p::GetRegionRequest {
        region_key: key.into(),
        ..p::GetRegionRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_key_and_by_id() {
    let (mut node, wire, routes) = cut().await;
    for (key, nth) in [
        ("", 0),
        ("c\u{7f}", 0),
        ("d", 1),
        ("g", 1),
        ("h", 2),
        ("m", 3),
        ("z", 3),
        ("\u{10ffff}", 3),
    ] {
        let found = route(wire.sound(wire.get_region(ask(key)).await));
        assert_eq!(found.as_ref(), Some(&routes[nth]), "{key:?}");
        let before = route(wire.sound(wire.get_prev_region(ask(key)).await));
        let expected = nth.checked_sub(1).map(|before| &routes[before]);
        assert_eq!(before.as_ref(), expected, "before {key:?}");
    }
    let top = wire.route([0xff; 10]).await;
    assert_eq!(top, routes[4], "the sentinel");

    for expected in &routes {
        let request = p::GetRegionByIdRequest {
            region_id: expected.region.id,
            ..p::GetRegionByIdRequest::default()
        };
        let found = route(wire.sound(wire.get_region_by_id(request).await));
        assert_eq!(found.as_ref(), Some(expected));
        assert_eq!(expected.region.peers, [expected.leader]);
        assert_eq!(expected.leader.store_id, 1);
    }
    // An unknown one is no error. PD's own has no keys that a client could ask for, but stores ask
    // whether their peer of it is still a member.
    for (region_id, known) in [(0, None), (1, Some(1)), (4_711, None)] {
        let request = p::GetRegionByIdRequest {
            region_id,
            ..p::GetRegionByIdRequest::default()
        };
        let asked = in_time("GetRegionByID", wire.get_region_by_id(request)).await;
        let found = route(wire.sound(asked)).map(|route| route.region.id);
        assert_eq!(found, known, "{region_id}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_range() {
    let (mut node, wire, routes) = cut().await;
    for (start, end, limit, expected) in [
        ("", "", 0, 0..5),
        ("", "", -1, 0..5),
        ("", "", 2, 0..2),
        ("a", "b", 0, 0..1),
        ("a", "d", 0, 0..1),
        ("a", "d\0", 0, 0..2),
        ("d", "m", 0, 1..3),
        ("e", "", 2, 1..3),
        ("e", "n", 100, 1..4),
        ("z", "", 0, 3..5),
    ] {
        let request = p::ScanRegionsRequest {
            start_key: start.into(),
            end_key: end.into(),
            limit,
            ..p::ScanRegionsRequest::default()
        };
        let found = wire.sound(wire.scan_regions(request).await);
        let expected = &routes[expected];
        let as_routes = |region: p::Region| Route {
            region: region.region.expect("a region"),
            leader: region.leader.expect("a leader"),
        };
        let regions: Vec<Route> = found.regions.into_iter().map(as_routes).collect();
        assert_eq!(regions, expected, "{start:?}..{end:?}, {limit}");
        // The same again in the older fields.
        let older: Vec<Route> = found
            .region_metas
            .into_iter()
            .zip(found.leaders)
            .map(|(region, leader)| Route { region, leader })
            .collect();
        assert_eq!(older, expected, "{start:?}..{end:?}, {limit}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_several_ranges() {
    let (mut node, wire, routes) = cut().await;
    let ask = async |ranges: &[(&'static str, &'static str)], limit, contain_all_key_range| {
        let range = |(start, end): &(&'static str, &'static str)| p::KeyRange {
            start_key: Bytes::from(*start),
            end_key: Bytes::from(*end),
        };
        let request = p::BatchScanRegionsRequest {
            ranges: ranges.iter().map(range).collect(),
            limit,
            contain_all_key_range,
            ..p::BatchScanRegionsRequest::default()
        };
        wire.batch_scan_regions(request).await
    };
    for (ranges, limit, expected) in [
        (&[("", "")][..], 0, &[0, 1, 2, 3, 4][..]),
        (&[("", "")], 3, &[0, 1, 2]),
        (&[("a", "b"), ("i", "n")], 0, &[0, 2, 3]),
        // Two ranges in one region, and neighbours that share one.
        (&[("a", "b"), ("b", "c")], 0, &[0]),
        (&[("a", "e"), ("f", "i")], 0, &[0, 1, 2]),
        (&[("e", "i"), ("n", "")], 0, &[1, 2, 3, 4]),
        (&[("e", "i"), ("n", "")], 3, &[1, 2, 3]),
        (&[], 0, &[]),
    ] {
        for contain in [false, true] {
            let found = wire.sound(ask(ranges, limit, contain).await).regions;
            let found: Vec<_> = found.into_iter().map(|region| region.region).collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|nth| Some(routes[*nth].region.clone()))
                .collect();
            assert_eq!(found, expected, "{ranges:?}, {limit}, {contain}");
        }
    }
    for wrong in [
        &[("b", "a")][..],
        &[("a", "e"), ("d", "f")],
        &[("n", "z"), ("a", "b")],
        &[("a", ""), ("b", "c")],
    ] {
        let (kind, text) = wire.refused(ask(wrong, 0, false).await);
        assert_eq!(kind, ErrorType::Unknown, "{wrong:?}");
        assert!(text.contains("invalid key range"), "{text}");
    }
    node.stop().await;
}

/// Keys, their neighbours below and ids, all in one message of a stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_a_stream_of_questions() {
    let (mut node, wire, routes) = cut().await;
    let ids: Vec<u64> = routes.iter().map(|route| route.region.id).collect();
    let keys = |keys: &[&'static str]| keys.iter().copied().map(Bytes::from).collect();
    let questions = [
        p::QueryRegionRequest {
            header: wire.header(),
            keys: keys(&["a", "h", "i"]),
            prev_keys: keys(&["a", "m"]),
            ids: vec![ids[4], 4_711],
            ..p::QueryRegionRequest::default()
        },
        p::QueryRegionRequest {
            header: wire.header(),
            keys: keys(&["z"]),
            ..p::QueryRegionRequest::default()
        },
    ];
    let stream = tokio_stream::iter(questions);
    let answers = wire.pd.clone().query_region(stream).await;
    let mut answers = answers.expect("a stream").into_inner();
    let first = answers.message().await.expect("an answer");
    let first = first.expect("an answer");
    assert_eq!(first.key_id_map, [ids[0], ids[2], ids[2]]);
    assert_eq!(first.prev_key_id_map, [0, ids[2]]);
    let mut found: Vec<u64> = first.regions_by_id.keys().copied().collect();
    found.sort_unstable();
    let mut expected = vec![ids[0], ids[2], ids[4]];
    expected.sort_unstable();
    assert_eq!(found, expected);
    for (id, found) in &first.regions_by_id {
        let route = routes.iter().find(|route| route.region.id == *id);
        let route = route.expect("one of them");
        assert_eq!(found.region.as_ref(), Some(&route.region));
        assert_eq!(found.leader.as_ref(), Some(&route.leader));
    }
    let second = answers.message().await.expect("an answer");
    assert_eq!(second.expect("an answer").key_id_map, [ids[3]]);
    let end = answers.message().await.expect("it ends well");
    assert_eq!(end, None);
    node.stop().await;
}
