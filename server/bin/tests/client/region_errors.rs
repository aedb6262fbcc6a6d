//! Region errors, field by field: clients decide by them what to do next.

use bytes::Bytes;
use flotilla_pd::{FIRST_EPOCH, META_PEER, META_REGION};
use flotilla_proto::errorpb::{
    EpochNotMatch, Error, KeyNotInRegion, MismatchPeerId, RaftEntryTooLarge, RegionNotFound,
    StaleCommand, StoreNotMatch,
};
use flotilla_proto::kvrpcpb as kv;
use flotilla_proto::kvrpcpb::{Context, KeyRange, KvPair};
use flotilla_proto::metapb::{Peer, RegionEpoch};
use tonic::{Code, Status};

use crate::support::wire::{Reply, Route, region_error, served};
use crate::support::{TestNode, Wire};

const KEY: Bytes = Bytes::from_static(b"k");

/// The end of one call: a region error that came alone, or a status.
type End = Result<Error, Status>;

#[track_caller]
fn end<R: Reply>(response: Result<R, Status>) -> End {
    match response {
        Err(status) => Err(status),
        response => Ok(region_error(response)),
    }
}

/// Makes every call that goes to a region, with `context` and otherwise without a fault.
async fn every_call(wire: &Wire, context: Option<Context>) -> Vec<(&'static str, End)> {
    let pair = || KvPair {
        key: KEY,
        value: "v".into(),
        ..KvPair::default()
    };
    let range = || KeyRange {
        start_key: "a".into(),
        end_key: "z".into(),
    };
    macro_rules! call {
        ($method:ident($request:ident { $($field:ident: $value:expr),* })) => {{
            let request = kv::$request {
                context: context.clone(),
                $($field: $value,)*
                ..kv::$request::default()
            };
            (stringify!($method), end(wire.$method(request).await))
        }};
    }
    vec![
        call!(raw_get(RawGetRequest { key: KEY })),
        call!(raw_batch_get(RawBatchGetRequest { keys: vec![KEY] })),
        call!(raw_put(RawPutRequest {
            key: KEY,
            value: "v".into()
        })),
        call!(raw_batch_put(RawBatchPutRequest {
            pairs: vec![pair()]
        })),
        call!(raw_delete(RawDeleteRequest { key: KEY })),
        call!(raw_batch_delete(RawBatchDeleteRequest { keys: vec![KEY] })),
        call!(raw_delete_range(RawDeleteRangeRequest {
            start_key: "a".into(),
            end_key: "z".into()
        })),
        call!(raw_scan(RawScanRequest {
            start_key: "a".into(),
            limit: 10
        })),
        call!(raw_batch_scan(RawBatchScanRequest {
            ranges: vec![range()],
            each_limit: 10
        })),
        call!(raw_get_key_ttl(RawGetKeyTtlRequest { key: KEY })),
        call!(raw_compare_and_swap(RawCasRequest {
            key: KEY,
            value: "v".into()
        })),
        call!(raw_checksum(RawChecksumRequest {
            ranges: vec![range()]
        })),
        call!(split_region(SplitRegionRequest {
            split_keys: vec![KEY],
            is_raw_kv: true
        })),
    ]
}

/// A node whose keys from `d` to `m` are one region, and what a client knows of it.
async fn node_with_a_region() -> (TestNode, Wire, Route) {
    let node = TestNode::start().await;
    let wire = node.wire().await;
    wire.split(["d", "m"]).await;
    let route = wire.route("d").await;
    assert_eq!(route.range(), (&b"d"[..], &b"m"[..]));
    (node, wire, route)
}

/// Without its message, which is for people.
fn detail(error: Error) -> Error {
    Error {
        message: String::new(),
        ..error
    }
}

/// Every call, with a context that `change` spoils, ends in exactly `expected`.
async fn check(
    wire: &Wire,
    route: &Route,
    what: &str,
    change: impl FnOnce(&mut Context),
    expected: Error,
) {
    let mut context = wire.context(route);
    change(&mut context);
    for (call, end) in every_call(wire, Some(context)).await {
        let error = end.unwrap_or_else(|status| panic!("{what}, {call}: {status}"));
        assert_eq!(detail(error), expected, "{what}, {call}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_checks_its_context() {
    let (mut node, wire, route) = node_with_a_region().await;
    let id = route.region.id;
    let epoch = route.region.region_epoch.expect("an epoch");
    let (wire, route) = (&wire, &route);

    let other_store = |peer: Option<Peer>| Error {
        store_not_match: Some(StoreNotMatch {
            request_store_id: peer.map_or(0, |peer| peer.store_id),
            actual_store_id: 1,
        }),
        ..Error::default()
    };
    let elsewhere = Peer {
        store_id: 9,
        ..route.leader
    };
    for peer in [Some(elsewhere), None] {
        let expected = other_store(peer);
        check(wire, route, "another store", |c| c.peer = peer, expected).await;
    }

    let expected = Error {
        region_not_found: Some(RegionNotFound { region_id: 4_711 }),
        ..Error::default()
    };
    check(wire, route, "no region", |c| c.region_id = 4_711, expected).await;

    let stranger = Peer {
        id: 4_711,
        ..route.leader
    };
    let expected = Error {
        mismatch_peer_id: Some(MismatchPeerId {
            request_peer_id: 4_711,
            store_peer_id: route.leader.id,
        }),
        ..Error::default()
    };
    check(
        wire,
        route,
        "another peer",
        |c| c.peer = Some(stranger),
        expected,
    )
    .await;

    let expected = Error {
        stale_command: Some(StaleCommand {}),
        ..Error::default()
    };
    check(wire, route, "an old term", |c| c.term = 1, expected).await;

    check(
        wire,
        route,
        "no epoch",
        |c| c.region_epoch = None,
        Error::default(),
    )
    .await;

    // The region as it is comes first; the siblings of its last split follow.
    for version in [epoch.version - 1, epoch.version + 1, 0, u64::MAX] {
        let mut context = wire.context(route);
        context.region_epoch = Some(RegionEpoch { version, ..epoch });
        for (call, end) in every_call(wire, Some(context)).await {
            let error = end.expect("a region error");
            let EpochNotMatch { current_regions } =
                error.epoch_not_match.clone().expect("the detail");
            assert_eq!(current_regions.first(), Some(&route.region), "{call}");
            assert!(
                current_regions
                    .iter()
                    .all(|region| region.region_epoch.is_some()),
                "clients take a region without an epoch badly"
            );
            let alone = Error {
                epoch_not_match: None,
                ..detail(error)
            };
            assert_eq!(alone, Error::default(), "{call}: one detail, not more");
        }
    }

    // Membership is not the range: a different conf_ver is no matter.
    let mut context = wire.context(route);
    context.region_epoch = Some(RegionEpoch {
        conf_ver: epoch.conf_ver + 7,
        ..epoch
    });
    context.term = u64::MAX;
    let request = kv::RawGetRequest {
        context: Some(context),
        key: KEY,
        ..kv::RawGetRequest::default()
    };
    assert!(served(wire.raw_get(request).await).not_found);
    assert_eq!(wire.route("d").await.region.id, id, "nothing was changed");
    node.stop().await;
}

/// PD keeps its rows in a region of its own on the same store. To clients there is none: through it
/// they would read everything, past every check.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_region_of_pd_is_no_client_s() {
    let (mut node, wire, route) = node_with_a_region().await;
    let expected = Error {
        region_not_found: Some(RegionNotFound {
            region_id: META_REGION,
        }),
        ..Error::default()
    };
    let spoil = |context: &mut Context| {
        context.region_id = META_REGION;
        context.region_epoch = Some(FIRST_EPOCH);
        context.peer.as_mut().expect("a peer").id = META_PEER;
    };
    check(&wire, &route, "PD's region", spoil, expected).await;
    node.stop().await;
}

/// A request of another cluster is not for this one at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_is_a_status() {
    let (mut node, wire, route) = node_with_a_region().await;
    let foreign = Context {
        cluster_id: wire.cluster ^ 1,
        // Checked before everything else.
        region_id: 4_711,
        ..wire.context(&route)
    };
    for (call, end) in every_call(&wire, Some(foreign)).await {
        let status = end.expect_err(call);
        assert_eq!(status.code(), Code::InvalidArgument, "{call}");
        assert!(status.message().contains("cluster id mismatch"), "{status}");
    }
    for (call, end) in every_call(&wire, None).await {
        let status = end.expect_err(call);
        assert_eq!(status.code(), Code::InvalidArgument, "{call}");
    }
    let own = Context {
        cluster_id: wire.cluster,
        ..wire.context(&route)
    };
    let request = kv::RawGetRequest {
        context: Some(own),
        key: KEY,
        ..kv::RawGetRequest::default()
    };
    served(wire.raw_get(request).await);
    node.stop().await;
}

/// The first check that fails is the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_come_in_their_order() {
    let (mut node, wire, route) = node_with_a_region().await;
    type Spoil = fn(&mut Context);
    type Has = fn(&Error) -> bool;
    // From the last check to the first; each spoils what the ones before it left.
    let ladder: [(Spoil, Has); 5] = [
        (
            |c| c.region_epoch = Some(RegionEpoch::default()),
            |e| e.epoch_not_match.is_some(),
        ),
        (|c| c.term = 1, |e| e.stale_command.is_some()),
        (
            |c| c.peer.as_mut().expect("a peer").id = 4_711,
            |e| e.mismatch_peer_id.is_some(),
        ),
        (|c| c.region_id = 4_711, |e| e.region_not_found.is_some()),
        (
            |c| c.peer.as_mut().expect("a peer").store_id = 9,
            |e| e.store_not_match.is_some(),
        ),
    ];
    let mut context = wire.context(&route);
    for (rung, (spoil, has)) in ladder.into_iter().enumerate() {
        spoil(&mut context);
        for (call, end) in every_call(&wire, Some(context.clone())).await {
            let error = end.expect("a region error");
            assert!(has(&error), "rung {rung}, {call}: {error:?}");
        }
        // The request's own faults come after all of them.
        let faulty = kv::RawPutRequest {
            context: Some(context.clone()),
            key: vec![b'x'; 9_000].into(),
            cf: "nonsense".to_owned(),
            ..kv::RawPutRequest::default()
        };
        assert!(
            has(&region_error(wire.raw_put(faulty).await)),
            "rung {rung}"
        );
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_another_region() {
    let (mut node, wire, route) = node_with_a_region().await;
    let context = || Some(wire.context(&route));
    for outside in ["", "c", "cz\u{7f}", "m", "z", "\u{7f}"] {
        let key = Bytes::from_static(outside.as_bytes());
        let pair = |key: &Bytes| KvPair {
            key: key.clone(),
            ..KvPair::default()
        };
        macro_rules! call {
            ($method:ident($request:ident { $field:ident: $value:expr })) => {{
                let request = kv::$request {
                    context: context(),
                    $field: $value,
                    ..kv::$request::default()
                };
                (
                    stringify!($method),
                    region_error(wire.$method(request).await),
                )
            }};
        }
        let ends = [
            call!(raw_get(RawGetRequest { key: key.clone() })),
            call!(raw_put(RawPutRequest { key: key.clone() })),
            call!(raw_delete(RawDeleteRequest { key: key.clone() })),
            call!(raw_get_key_ttl(RawGetKeyTtlRequest { key: key.clone() })),
            call!(raw_compare_and_swap(RawCasRequest { key: key.clone() })),
            // One key inside does not help.
            call!(raw_batch_get(RawBatchGetRequest {
                keys: vec![KEY, key.clone()]
            })),
            call!(raw_batch_put(RawBatchPutRequest {
                pairs: vec![pair(&KEY), pair(&key)]
            })),
            call!(raw_batch_delete(RawBatchDeleteRequest {
                keys: vec![KEY, key.clone()]
            })),
        ];
        let expected = Error {
            key_not_in_region: Some(KeyNotInRegion {
                key: key.clone(),
                region_id: route.region.id,
                start_key: "d".into(),
                end_key: "m".into(),
            }),
            ..Error::default()
        };
        for (call, error) in ends {
            assert!(
                outside.len() < 2 || !error.message.contains(outside),
                "{call} tells a user's key: {}",
                error.message
            );
            assert_eq!(detail(error), expected, "{call} of {outside:?}");
        }
    }
    let untouched = kv::RawGetRequest {
        context: context(),
        key: KEY,
        ..kv::RawGetRequest::default()
    };
    let untouched = served(wire.raw_get(untouched).await);
    assert!(untouched.not_found, "a refused batch writes nothing");
    node.stop().await;
}

/// What fits no raft entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_too_large() {
    const MIB: usize = 1 << 20;
    let (mut node, wire, route) = node_with_a_region().await;
    let batch = |pairs: usize| kv::RawBatchPutRequest {
        context: Some(wire.context(&route)),
        pairs: (0..pairs)
            .map(|nth| KvPair {
                key: format!("k{nth}").into(),
                value: vec![7; MIB].into(),
                ..KvPair::default()
            })
            .collect(),
        ..kv::RawBatchPutRequest::default()
    };
    let error = region_error(wire.raw_batch_put(batch(9)).await);
    let RaftEntryTooLarge {
        region_id,
        entry_size,
    } = error.raft_entry_too_large.expect("the detail");
    assert_eq!(region_id, route.region.id);
    let nine = 9 * MIB as u64;
    assert!((nine..nine + 1_024).contains(&entry_size), "{entry_size}");
    let written = served(wire.raw_batch_put(batch(7)).await);
    assert_eq!(written.error, "");
    node.stop().await;
}

/// A region that was cut: who knew it before is told of all its parts, and may go on with them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_parts_of_a_region_are_told() {
    let (mut node, wire, before) = node_with_a_region().await;
    wire.split(["f", "h"]).await;
    let request = kv::RawGetRequest {
        context: Some(wire.context(&before)),
        key: "l".into(),
        ..kv::RawGetRequest::default()
    };
    let error = region_error(wire.raw_get(request).await);
    let current = error.epoch_not_match.expect("the detail").current_regions;
    // The last split alone is told; a client that is older asks PD.
    let starts: Vec<&[u8]> = current.iter().map(|region| &region.start_key[..]).collect();
    assert_eq!(starts, [b"h", b"f"], "the region itself comes first");
    assert_eq!(current[0].id, before.region.id);
    for region in current {
        let route = Route {
            leader: region.peers[0],
            region,
        };
        let request = kv::RawGetRequest {
            context: Some(wire.context(&route)),
            key: route.region.start_key.clone(),
            ..kv::RawGetRequest::default()
        };
        assert!(served(wire.raw_get(request).await).not_found);
    }
    node.stop().await;
}

/// A deadline that has passed before anything was done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_is_told_as_busy() {
    let (mut node, wire, route) = node_with_a_region().await;
    let rows = (0..2_000).map(|nth| KvPair {
        key: format!("k{nth:05}").into(),
        value: vec![b'v'; 2_000].into(),
        ..KvPair::default()
    });
    let request = kv::RawBatchPutRequest {
        context: Some(wire.context(&route)),
        pairs: rows.collect(),
        ..kv::RawBatchPutRequest::default()
    };
    served(wire.raw_batch_put(request).await);
    let context = Context {
        max_execution_duration_ms: 1,
        ..wire.context(&route)
    };
    let range = KeyRange {
        start_key: "k".into(),
        end_key: "l".into(),
    };
    // Reading all rows a thousand times takes longer than a millisecond anywhere.
    let request = kv::RawChecksumRequest {
        context: Some(context),
        ranges: vec![range; 1_000],
        ..kv::RawChecksumRequest::default()
    };
    let error = region_error(wire.raw_checksum(request).await);
    let busy = error.server_is_busy.expect("the detail");
    assert_eq!(busy.reason, "deadline is exceeded");
    node.stop().await;
}
