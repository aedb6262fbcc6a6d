//! Cutting regions: by the store's `SplitRegion`, by PD's `SplitRegions`, by themselves.

use std::collections::BTreeSet;

use bytes::Bytes;
use flotilla::config::ByteSize;
use flotilla_pd::SENTINEL_BOUNDARY;
use flotilla_proto::kvrpcpb as kv;
use flotilla_proto::kvrpcpb::{ApiVersion, Context};
use flotilla_proto::metapb::Region;
use flotilla_proto::pdpb as p;
use flotilla_proto::pdpb::ErrorType;

use crate::support::stock::{client, client_in, range};
use crate::support::wire::{Route, assert_tiled, region_error, served, tiled};
use crate::support::{TestNode, Wire, eventually, in_time};

/// The data region of a fresh cluster.
const FIRST_REGION: u64 = 3;

fn keys(keys: &[&'static str]) -> Vec<Bytes> {
    keys.iter().copied().map(Bytes::from).collect()
}

async fn split(wire: &Wire, at: &str, cuts: &[&'static str]) -> kv::SplitRegionResponse {
    let request = kv::SplitRegionRequest {
        context: wire.at(at).await,
        split_keys: keys(cuts),
        is_raw_kv: true,
        ..kv::SplitRegionRequest::default()
    };
    served(wire.split_region(request).await)
}

fn starts(regions: &[Region]) -> Vec<&str> {
    let starts = regions.iter().map(|region| &region.start_key[..]);
    starts
        .map(|start| std::str::from_utf8(start).expect("text"))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_part_keeps_the_region() {
    let mut node = TestNode::start().await;
    let wire = node.wire().await;
    let before = wire.route("").await;
    assert_eq!(before.region.id, FIRST_REGION);
    assert_eq!(before.range(), (&b""[..], &SENTINEL_BOUNDARY[..]));

    // Sorted, each once, what cuts nothing is passed over.
    let asked = ["t", "f", "t", "", "m", "\u{10ffff}\u{10ffff}\u{10ffff}"];
    let parts = split(&wire, "", &asked).await;
    let regions = &parts.regions;
    assert_eq!(starts(regions)[..4], ["", "f", "m", "t"]);
    // A boundary below the sentinel, though no key of any user.
    assert_eq!(regions.len(), 5);
    assert_eq!((&parts.left, &parts.right), (&None, &None));
    assert_eq!(regions.last().map(|last| last.id), Some(FIRST_REGION));
    let mut ids = BTreeSet::new();
    for pair in regions.windows(2) {
        assert_eq!(pair[0].end_key, pair[1].start_key);
    }
    for region in regions {
        let epoch = region.region_epoch.expect("an epoch");
        assert_eq!(epoch.version, before.version() + 4);
        assert_eq!(epoch.conf_ver, 1);
        let [peer] = &region.peers[..] else {
            panic!("one peer: {region:?}")
        };
        assert_eq!(peer.store_id, 1);
        assert!(
            ids.insert(region.id) && ids.insert(peer.id),
            "ids are unique"
        );
    }
    wire.await_starts(keys(&["f", "m", "t"])).await;
    assert_tiled(&wire.routes().await);

    // Two parts are also told in the older fields.
    let parts = split(&wire, "g", &["h"]).await;
    assert_eq!(starts(&parts.regions), ["f", "h"]);
    assert_eq!(parts.left.as_ref(), parts.regions.first());
    assert_eq!(parts.right.as_ref(), parts.regions.last());
    wire.await_starts(keys(&["h"])).await;

    // The older form of the request wins when it is there.
    let request = kv::SplitRegionRequest {
        context: wire.at("i").await,
        split_key: "j".into(),
        split_keys: keys(&["k"]),
        is_raw_kv: true,
    };
    let parts = served(wire.split_region(request).await);
    assert_eq!(starts(&parts.regions), ["h", "j"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_split_is_told() {
    let mut node = TestNode::start().await;
    let wire = node.wire().await;
    wire.split(["d", "m"]).await;
    let fail = async |context: Option<Context>, cuts: &[&'static str], is_raw_kv| {
        let request = kv::SplitRegionRequest {
            context,
            split_keys: keys(cuts),
            is_raw_kv,
            ..kv::SplitRegionRequest::default()
        };
        region_error(wire.split_region(request).await)
    };
    let context = wire.at("d").await;
    for cuts in [&[][..], &[""], &["d"], &["m"], &["a", "z", "d", "m", ""]] {
        let error = fail(context.clone(), cuts, true).await;
        assert!(
            error.message.starts_with("failed to split"),
            "{cuts:?}: {error:?}"
        );
        assert!(
            error.message.contains("no key lies strictly inside"),
            "{error:?}"
        );
    }
    let error = fail(context.clone(), &["f"], false).await;
    assert!(error.message.starts_with("failed to split"), "{error:?}");
    assert!(error.message.contains("ApiVersionNotMatched"), "{error:?}");

    let mut stale = context.clone().expect("a context");
    stale.region_epoch.as_mut().expect("an epoch").version -= 1;
    let error = fail(Some(stale), &["f"], true).await;
    assert!(error.epoch_not_match.is_some(), "{error:?}");

    // A sibling asked before: whoever comes second with the old epoch is told.
    let (one, other) = tokio::join!(
        wire.split_region(kv::SplitRegionRequest {
            context: context.clone(),
            split_keys: keys(&["f"]),
            is_raw_kv: true,
            ..kv::SplitRegionRequest::default()
        }),
        wire.split_region(kv::SplitRegionRequest {
            context: context.clone(),
            split_keys: keys(&["h"]),
            is_raw_kv: true,
            ..kv::SplitRegionRequest::default()
        })
    );
    let (done, refused): (Vec<_>, Vec<_>) = [one, other]
        .into_iter()
        .map(|response| response.expect("an answer"))
        .partition(|response| response.region_error.is_none());
    assert_eq!((done.len(), refused.len()), (1, 1));
    let error = region_error(Ok(refused[0].clone()));
    let current = error.epoch_not_match.expect("it was cut").current_regions;
    let epoch = done[0].regions[0].region_epoch;
    assert_eq!(current[0].region_epoch, epoch, "{current:?}");
    node.stop().await;
}

/// Reads and writes go on with the parts as soon as they are told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_hold_what_was_written_before() {
    let mut node = TestNode::start().await;
    let (wire, stock) = (node.wire().await, client(&node.addr()).await);
    let rows: Vec<(String, String)> = (0..500)
        .map(|nth| (format!("row {nth:03}"), format!("value {nth}")))
        .collect();
    stock.batch_put(rows.clone()).await.expect("batch put");
    let cuts: Vec<&'static str> = vec!["row 100", "row 200", "row 300", "row 400"];
    let parts = split(&wire, "row", &cuts).await.regions;
    assert_eq!(parts.len(), 5);
    let mut found = Vec::new();
    for region in parts {
        let route = Route {
            leader: region.peers[0],
            region,
        };
        let scanned = eventually("the part is served", async || {
            let request = kv::RawScanRequest {
                context: Some(wire.context(&route)),
                limit: 1_000,
                ..kv::RawScanRequest::default()
            };
            let response = wire.raw_scan(request).await.expect("an answer");
            response.region_error.is_none().then_some(response.kvs)
        })
        .await;
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).expect("text");
        found.extend(scanned.iter().map(|kv| (text(&kv.key), text(&kv.value))));
    }
    assert_eq!(found, rows);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pd_splits_regions() {
    let mut node = TestNode::start().await;
    let wire = node.wire().await;
    let ask = async |cuts: &[&'static str]| {
        let request = p::SplitRegionsRequest {
            split_keys: keys(cuts),
            ..p::SplitRegionsRequest::default()
        };
        in_time("SplitRegions", wire.split_regions(request)).await
    };
    let done = wire.sound(ask(&["t", "d", "m"]).await);
    assert_eq!(done.finished_percentage, 100);
    assert_eq!(done.regions_id.len(), 3);
    wire.await_starts(keys(&["d", "m", "t"])).await;
    let routes = wire.routes().await;
    assert_tiled(&routes);
    let at = |start: &str| {
        let found = routes
            .iter()
            .find(|route| route.range().0 == start.as_bytes());
        found.expect("a region").region.id
    };
    let expected: BTreeSet<u64> = ["d", "m", "t"].map(at).into();
    assert_eq!(
        done.regions_id.iter().copied().collect::<BTreeSet<_>>(),
        expected
    );

    // What is a boundary already is done at once.
    let again = wire.sound(ask(&["d", "f"]).await);
    assert_eq!(again.finished_percentage, 100);
    assert_eq!(again.regions_id.len(), 2);
    assert!(again.regions_id.contains(&at("d")));
    let nothing = wire.sound(ask(&[]).await);
    assert_eq!(nothing.regions_id, [0u64; 0]);

    let request = p::SplitAndScatterRegionsRequest {
        split_keys: keys(&["v", "w"]),
        ..p::SplitAndScatterRegionsRequest::default()
    };
    let call = wire.split_and_scatter_regions(request);
    let done = wire.sound(in_time("SplitAndScatterRegions", call).await);
    assert_eq!(done.split_finished_percentage, 100);
    assert_eq!(done.scatter_finished_percentage, 100);
    assert_eq!(done.regions_id.len(), 2);

    let (kind, text) = wire.refused(ask(&["x", ""]).await);
    assert_eq!(kind, ErrorType::Unknown);
    assert!(text.contains("split key"), "{text}");
    assert_tiled(&wire.routes().await);
    node.stop().await;
}

/// In an encoded cluster a boundary is a whole encoding, whatever follows it in the request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boundaries_of_an_encoded_cluster() {
    let mut node = TestNode::start().await;
    let stock = client_in(&node.addr(), "DEFAULT").await;
    stock.put("k".to_owned(), "v").await.expect("put");
    let wire = node.wire().await.with_api(ApiVersion::V2);
    let encoded = |user: &'static str| flotilla_kv::key::encode(user.as_bytes());
    let versioned = Bytes::from([&encoded("r\0\0\0d")[..], &[0xff; 8]].concat());
    let ask = async |key: Bytes| {
        let request = p::SplitRegionsRequest {
            split_keys: vec![key],
            ..p::SplitRegionsRequest::default()
        };
        in_time("SplitRegions", wire.split_regions(request)).await
    };
    assert_eq!(wire.sound(ask(versioned).await).finished_percentage, 100);
    wire.await_starts([encoded("r\0\0\0d")]).await;
    let (kind, text) = wire.refused(ask("m".into()).await);
    assert_eq!(kind, ErrorType::Unknown);
    assert!(text.contains("encoded"), "{text}");

    // Raw or not, a user key becomes its encoding.
    for (raw, user) in [(true, "r\0\0\0m"), (false, "r\0\0\0t")] {
        let request = kv::SplitRegionRequest {
            context: wire.at(encoded(user)).await,
            split_keys: vec![user.into()],
            is_raw_kv: raw,
            ..kv::SplitRegionRequest::default()
        };
        let parts = served(wire.split_region(request).await);
        assert_eq!(parts.regions[1].start_key, encoded(user));
        wire.await_starts([encoded(user)]).await;
    }
    for route in wire.routes().await {
        let (start, _) = route.range();
        assert!(
            start.is_empty() || flotilla_kv::key::decode(start).is_ok(),
            "clients of API v2 decode every boundary: {start:02x?}"
        );
    }
    node.stop().await;
}

/// A region that holds too many keys is cut, and its parts again, with nobody asking.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_are_cut_by_their_number_of_keys() {
    const KEYS_MAX: u64 = 100;
    let mut node = TestNode::with(|config| config.split_keys = KEYS_MAX).await;
    let stock = client(&node.addr()).await;
    let rows: Vec<_> = (0..2_000).map(|nth| (format!("{nth:05}"), "v")).collect();
    for some in rows.chunks(250) {
        stock.batch_put(some.to_vec()).await.expect("batch put");
    }
    assert_cut(&node, 10, |nth| nth <= 2 * KEYS_MAX).await;
    let found = stock.scan_keys(range("0", "9"), 10_240).await;
    assert_eq!(found.expect("a scan").len(), rows.len());
    node.stop().await;
}

/// The same by bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_are_cut_by_their_size() {
    const ROW: usize = 10_000;
    let mut node = TestNode::with(|config| config.split_size = ByteSize(100 * ROW as u64)).await;
    let stock = client(&node.addr()).await;
    for nth in 0..600 {
        let key = format!("{nth:05}");
        stock.put(key, vec![7; ROW]).await.expect("put");
    }
    assert_cut(&node, 4, |rows| rows <= 200).await;
    let found = stock.scan_keys(range("0", "9"), 10_240).await;
    assert_eq!(found.expect("a scan").len(), 600);
    node.stop().await;
}

/// Waits until there are at least `parts` regions with rows, none with more rows than `fits` says.
async fn assert_cut(node: &TestNode, parts: usize, fits: impl Fn(u64) -> bool) {
    let wire = node.wire().await;
    let routes = eventually("the regions are cut", async || {
        let routes = wire.routes().await;
        let mut filled = 0;
        for route in &routes {
            let request = kv::RawScanRequest {
                context: Some(wire.context(route)),
                limit: 100_000,
                key_only: true,
                ..kv::RawScanRequest::default()
            };
            let response = wire.raw_scan(request).await.expect("an answer");
            let rows = response.kvs.len() as u64;
            if response.region_error.is_some() || !fits(rows) {
                return None;
            }
            filled += usize::from(rows > 0);
        }
        // PD hears of the parts one after the other.
        (filled >= parts && tiled(&routes).is_ok()).then_some(routes)
    })
    .await;
    let last = routes.last().expect("a region");
    assert_eq!(
        last.range().0,
        SENTINEL_BOUNDARY,
        "the empty region at the top stays whole"
    );
}
