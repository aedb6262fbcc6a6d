//! Requests that are well-formed and wrong: each is refused by name and changes nothing.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_proto::kvrpcpb as k;
use flotilla_proto::metapb::{Peer, Region, RegionEpoch};
use flotilla_proto::pdpb as p;
use flotilla_proto::tikvpb as t;
use prost::Message;
use tempfile::TempDir;
use tonic::Code;

use crate::client::{
    Call, Client, End, batch_delete, batch_put, cas, delete, delete_range, get, put, scan, wait,
};
use crate::node::{Node, eventually, refused_start};
use crate::wire;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// Bytes of a key, at most.
const KEY_MAX: usize = 8 * KIB;
/// Bytes of a value, at most.
const VALUE_MAX: usize = 6 * MIB;
/// Bytes of a write as one raft entry, at most.
const ENTRY_MAX: u64 = 8 << 20;

/// A node with two regions, cut at `m`, and rows in both.
struct World {
    node: Node,
    client: Client,
    folder: TempDir,
    rows: BTreeMap<Bytes, Bytes>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let node = Node::start(&folder.path().join("store"), &[]);
        let client = Client::connect(&node);
        for key in ["a", "b", "c", "p", "q"] {
            client.put(key, format!("value of {key}"));
        }
        client.split("m");
        // PD hears of the cut in a moment.
        eventually("PD to know of the cut", || {
            (client.route(b"a").region.end_key == "m").then_some(())
        });
        let rows = client.content();
        assert_eq!(rows.len(), 5);
        Self {
            node,
            client,
            folder,
            rows,
        }
    }

    /// Sends `call` to the region of `key`.
    #[track_caller]
    fn send(&self, key: &str, call: Call) -> End {
        self.client
            .send(call, self.client.route(key.as_bytes()).context())
    }

    /// Nothing was changed by what was refused: not now, and not after a power cut.
    #[track_caller]
    fn nothing_lost(self) {
        assert_eq!(self.client.content(), self.rows);
        let path = self.node.dir().to_owned();
        self.node.kill9();
        let node = Node::start(&path, &[]);
        assert_eq!(Client::connect(&node).content(), self.rows);
        drop(self.folder);
    }
}

fn bytes(byte: u8, count: usize) -> Bytes {
    vec![byte; count].into()
}

#[test]
fn the_empty_key_is_a_key_like_any_other() {
    let world = World::new();
    let done = |call| world.send("", call).done();
    assert_eq!(world.client.get(""), None);
    done(put("", "first"));
    assert_eq!(world.client.get(""), Some("first".into()));
    done(cas("", Some("first".into()), ""));
    assert_eq!(
        world.client.get(""),
        Some("".into()),
        "an empty value is a value"
    );
    assert_eq!(world.client.content().len(), 6);
    done(delete(""));
    assert_eq!(world.client.get(""), None);
    done(batch_put([("".into(), "again".into())]));
    done(batch_delete(["".into()]));
    world.nothing_lost();
}

#[test]
fn keys_values_and_entries_have_a_largest_size() {
    let world = World::new();
    let (long, longer) = (bytes(b'k', KEY_MAX), bytes(b'k', KEY_MAX + 1));
    let (large, larger) = (bytes(1, VALUE_MAX), bytes(2, VALUE_MAX + 1));

    // The largest of all together works, and is read back whole.
    world.send("k", put(long.clone(), large.clone())).done();
    assert_eq!(world.client.get(long.clone()), Some(large.clone()));
    world.send("k", delete(long.clone())).done();

    let small = (Bytes::from("b"), Bytes::from("never stored"));
    let key_said = "key too large: 8193 bytes in physical form, at most 8192";
    let value_said = "value too large: 6291457 bytes, at most 6291456";
    for (call, said) in [
        (put(longer.clone(), "v"), key_said),
        (
            batch_put([small.clone(), (longer.clone(), "v".into())]),
            key_said,
        ),
        (cas(longer.clone(), None, "v"), key_said),
        (delete(longer.clone()), key_said),
        (batch_delete(["a".into(), longer.clone()]), key_said),
        (put("b", larger.clone()), value_said),
        (
            batch_put([small.clone(), ("bb".into(), larger.clone())]),
            value_said,
        ),
        (cas("b", Some("value of b".into()), larger), value_said),
    ] {
        let End::Error(error) = world.send("a", call) else {
            panic!("not refused: {said}")
        };
        assert_eq!(error, said);
    }
    // What cannot have been written is not found.
    assert_eq!(world.client.get(longer.clone()), None);

    let half = bytes(3, 5 * MIB);
    let entry = batch_put([small, ("a1".into(), half.clone()), ("a2".into(), half)]);
    let route = world.client.route(b"a");
    let refused = world.client.send(entry, route.context());
    let detail = refused.detail(|error| error.raft_entry_too_large);
    assert_eq!(detail.region_id, route.region.id);
    assert!(detail.entry_size > ENTRY_MAX, "{detail:?}");
    world.nothing_lost();
}

#[test]
fn limits_may_be_negative_zero_or_huge() {
    let world = World::new();
    let route = world.client.route(b"a");
    for (limit, rows) in [(0, 0), (1, 1), (3, 3), (u32::MAX, 3)] {
        assert_eq!(
            world.client.scan(&route, "".into(), limit).len(),
            rows,
            "limit {limit}"
        );
    }

    // A negative limit is what an untyped client would write into the field.
    const MINUS_ONE: [u8; 10] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    const LIMIT: u8 = 3 << 3;
    let request = k::RawScanRequest {
        context: Some(route.context()),
        ..k::RawScanRequest::default()
    };
    let message = [&request.encode_to_vec()[..], &[LIMIT], &MINUS_ONE].concat();
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    let answer = world
        .client
        .post("/tikvpb.Tikv/RawScan", &grpc, wire::grpc(&message).into());
    assert_eq!(answer.code, Some(Code::Ok), "{answer:?}");
    let response = k::RawScanResponse::decode(&answer.body[5..]).expect("a response");
    assert_eq!(response.kvs.len(), 3);

    // A time to live beyond the end of time is for ever.
    world
        .send(
            "a",
            Call::Put(k::RawPutRequest {
                key: "a".into(),
                value: "value of a".into(),
                ttl: u64::MAX,
                ..k::RawPutRequest::default()
            }),
        )
        .done();
    assert_eq!(world.client.get("a"), Some("value of a".into()));
    world.send("a", put("a", "value of a")).done();

    let all = world.client.regions().len();
    assert_eq!(all, 3, "two, and the sentinel");
    for (limit, regions) in [
        (i32::MIN, all),
        (-1, all),
        (0, all),
        (2, 2),
        (i32::MAX, all),
    ] {
        let found = world.client.scan_regions("", "", limit);
        assert_eq!(found.len(), regions, "limit {limit}");
    }

    let header = world.client.header();
    let alloc = p::AllocIdRequest {
        header: header.clone(),
        count: u32::MAX,
    };
    let told = wait(world.client.pd().alloc_id(alloc)).expect("an answer");
    refused_by_pd(told.into_inner().header, "at most 100000");
    let ask = p::AskBatchSplitRequest {
        header: header.clone(),
        region: Some(route.region),
        split_count: u32::MAX,
        ..p::AskBatchSplitRequest::default()
    };
    let told = wait(world.client.pd().ask_batch_split(ask)).expect("an answer");
    refused_by_pd(told.into_inner().header, "1 to 8192");
    for count in [0, u32::MAX] {
        let request = p::TsoRequest {
            header: header.clone(),
            count,
            ..p::TsoRequest::default()
        };
        let status = wait(async {
            let asked = tokio_stream::iter([request]);
            let mut told = world.client.pd().tso(asked).await?.into_inner();
            told.message().await
        });
        let status = status.expect_err("refused");
        assert!(
            status.message().contains("count"),
            "count {count}: {status:?}"
        );
    }
    world.nothing_lost();
}

#[track_caller]
fn refused_by_pd(header: Option<p::ResponseHeader>, said: &str) {
    let error = header.expect("a header").error.expect("refused");
    assert!(error.message.contains(said), "{error:?}");
}

#[test]
fn an_answer_above_the_limit_is_an_error_and_never_cut_short() {
    let mut world = World::new();
    // Eleven of these are above 64 MiB.
    const ROWS: usize = 11;
    for row in 0..ROWS {
        world
            .client
            .put(format!("big {row:02}"), bytes(row as u8, VALUE_MAX));
    }
    let route = world.client.route(b"big");
    for (call, said) in [
        (scan("big", "c", ROWS as u32), "the answer would exceed"),
        (scan("", "", u32::MAX), "the answer would exceed"),
    ] {
        let End::Status(status) = world.client.send(call, route.context()) else {
            panic!("not refused")
        };
        assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
        assert!(status.message().contains(said), "{status:?}");
    }
    let rows = world.client.scan(&route, "big".into(), ROWS as u32 - 1);
    assert_eq!(rows.len(), ROWS - 1, "one less fits");
    for (row, found) in rows.iter().enumerate() {
        world.rows.insert(found.key.clone(), found.value.clone());
        assert_eq!(found.value, bytes(row as u8, VALUE_MAX));
    }
    world
        .send("big", delete(format!("big {:02}", ROWS - 1)))
        .done();
    world.nothing_lost();
}

#[test]
fn a_range_that_starts_behind_its_end_is_refused() {
    let world = World::new();
    let range = |start: &str, end: &str| k::KeyRange {
        start_key: Bytes::copy_from_slice(start.as_bytes()),
        end_key: Bytes::copy_from_slice(end.as_bytes()),
    };
    let ranges = || vec![range("a", "b"), range("c", "a")];
    for (call, index) in [
        (scan("c", "a", 10), 0),
        (
            Call::Scan(k::RawScanRequest {
                start_key: "a".into(),
                end_key: "c".into(),
                limit: 10,
                reverse: true,
                ..k::RawScanRequest::default()
            }),
            0,
        ),
        (delete_range("c", "a"), 0),
        (
            Call::BatchScan(k::RawBatchScanRequest {
                ranges: ranges(),
                each_limit: 10,
                ..k::RawBatchScanRequest::default()
            }),
            1,
        ),
        (
            Call::Checksum(k::RawChecksumRequest {
                ranges: ranges(),
                ..k::RawChecksumRequest::default()
            }),
            1,
        ),
    ] {
        let name = format!("{call:?}");
        let end = world.send("a", call);
        let said = format!("Invalid KeyRanges: range {index} starts behind its end");
        assert!(
            !matches!(end, End::Done | End::Region(_)),
            "{name}: {end:?}"
        );
        assert!(end.text().ends_with(&said), "{name}: {end:?}");
    }
    assert_eq!(
        world.client.scan_regions("q", "a", 0).len(),
        0,
        "PD has no region there"
    );
    world.nothing_lost();
}

/// All raw calls with the key `b`, in the column family `cf`.
fn all_calls(cf: &str) -> Vec<(&'static str, Call)> {
    let cf = || cf.to_owned();
    let range = || k::KeyRange {
        start_key: "b".into(),
        end_key: "c".into(),
    };
    let pair = || k::KvPair {
        key: "b".into(),
        value: "never stored".into(),
        ..k::KvPair::default()
    };
    vec![
        (
            "RawGet",
            Call::Get(k::RawGetRequest {
                key: "b".into(),
                cf: cf(),
                ..k::RawGetRequest::default()
            }),
        ),
        (
            "RawBatchGet",
            Call::BatchGet(k::RawBatchGetRequest {
                keys: vec!["b".into()],
                cf: cf(),
                ..k::RawBatchGetRequest::default()
            }),
        ),
        (
            "RawScan",
            Call::Scan(k::RawScanRequest {
                start_key: "b".into(),
                limit: 1,
                cf: cf(),
                ..k::RawScanRequest::default()
            }),
        ),
        (
            "RawBatchScan",
            Call::BatchScan(k::RawBatchScanRequest {
                ranges: vec![range()],
                each_limit: 1,
                cf: cf(),
                ..k::RawBatchScanRequest::default()
            }),
        ),
        (
            "RawGetKeyTTL",
            Call::Ttl(k::RawGetKeyTtlRequest {
                key: "b".into(),
                cf: cf(),
                ..k::RawGetKeyTtlRequest::default()
            }),
        ),
        (
            "RawPut",
            Call::Put(k::RawPutRequest {
                key: "b".into(),
                value: "never stored".into(),
                cf: cf(),
                ..k::RawPutRequest::default()
            }),
        ),
        (
            "RawBatchPut",
            Call::BatchPut(k::RawBatchPutRequest {
                pairs: vec![pair()],
                cf: cf(),
                ..k::RawBatchPutRequest::default()
            }),
        ),
        (
            "RawDelete",
            Call::Delete(k::RawDeleteRequest {
                key: "b".into(),
                cf: cf(),
                ..k::RawDeleteRequest::default()
            }),
        ),
        (
            "RawBatchDelete",
            Call::BatchDelete(k::RawBatchDeleteRequest {
                keys: vec!["b".into()],
                cf: cf(),
                ..k::RawBatchDeleteRequest::default()
            }),
        ),
        (
            "RawDeleteRange",
            Call::DeleteRange(k::RawDeleteRangeRequest {
                start_key: "b".into(),
                end_key: "c".into(),
                cf: cf(),
                ..k::RawDeleteRangeRequest::default()
            }),
        ),
        (
            "RawCompareAndSwap",
            Call::Cas(k::RawCasRequest {
                key: "b".into(),
                value: "never stored".into(),
                previous_value: "value of b".into(),
                cf: cf(),
                ..k::RawCasRequest::default()
            }),
        ),
    ]
}

#[test]
fn an_unknown_column_family_is_named() {
    let world = World::new();
    for cf in ["Default", "raft", "defaultx", "\0"] {
        for (name, call) in all_calls(cf) {
            let end = world.send("b", call);
            let said = format!("invalid cf name: {cf:?}; there are default, lock and write");
            assert!(
                !matches!(end, End::Done | End::Region(_)),
                "{name}: {end:?}"
            );
            assert!(end.text().ends_with(&said), "{name}: {end:?}");
        }
    }
    for cf in ["", "default", "lock", "write"] {
        let (_, read) = all_calls(cf).swap_remove(0);
        world.send("b", read).done();
    }
    world.nothing_lost();
}

/// A change of a right context.
type Change = fn(&mut k::Context);
/// What must be in the region error: the detail, by the region as it is.
type Detail = fn(End, &Region);

fn epoch(context: &mut k::Context) -> &mut RegionEpoch {
    context.region_epoch.as_mut().expect("an epoch")
}

fn peer(context: &mut k::Context) -> &mut Peer {
    context.peer.as_mut().expect("a peer")
}

#[test]
fn a_request_for_somebody_else_is_told_so() {
    let world = World::new();
    let route = world.client.route(b"b");
    let epoch_told: Detail = |end, region| {
        let detail = end.detail(|error| error.epoch_not_match);
        assert!(
            detail.current_regions.contains(region),
            "{detail:?} without {region:?}"
        );
    };
    let table: Vec<(&str, Change, Detail)> = vec![
        (
            "another store",
            |c| peer(c).store_id += 7,
            |end, region| {
                let detail = end.detail(|error| error.store_not_match);
                let actual = region.peers[0].store_id;
                assert_eq!(
                    (detail.request_store_id, detail.actual_store_id),
                    (actual + 7, actual)
                );
            },
        ),
        (
            "no store",
            |c| c.peer = None,
            |end, region| {
                let detail = end.detail(|error| error.store_not_match);
                assert_eq!(
                    (detail.request_store_id, detail.actual_store_id),
                    (0, region.peers[0].store_id)
                );
            },
        ),
        (
            "no such region",
            |c| c.region_id = 999_999,
            |end, _| {
                let detail = end.detail(|error| error.region_not_found);
                assert_eq!(detail.region_id, 999_999);
            },
        ),
        (
            "the meta region, which holds no user's keys",
            |c| {
                c.region_id = 1;
                peer(c).id = 2;
            },
            |end, _| assert!(matches!(end, End::Region(_)), "{end:?}"),
        ),
        (
            "another peer",
            |c| peer(c).id += 7,
            |end, region| {
                let detail = end.detail(|error| error.mismatch_peer_id);
                let actual = region.peers[0].id;
                assert_eq!(
                    (detail.request_peer_id, detail.store_peer_id),
                    (actual + 7, actual)
                );
            },
        ),
        ("a stale epoch", |c| epoch(c).version -= 1, epoch_told),
        ("a future epoch", |c| epoch(c).version += 1, epoch_told),
        (
            "an epoch of the far future",
            |c| epoch(c).version = u64::MAX,
            epoch_told,
        ),
        (
            "no epoch",
            |c| c.region_epoch = None,
            |end, _| {
                end.detail(|error| {
                    let rest = flotilla_proto::errorpb::Error {
                        message: String::new(),
                        ..error.clone()
                    };
                    (rest == Default::default() && error.message.contains("epoch")).then_some(())
                });
            },
        ),
    ];
    for (what, change, told) in &table {
        for (name, call) in all_calls("") {
            println!("{what}: {name}");
            let mut context = route.context();
            change(&mut context);
            told(world.client.send(call, context), &route.region);
        }
    }

    // The membership epoch is not compared, and an old term is one behind or more.
    let mut context = route.context();
    epoch(&mut context).conf_ver += 5;
    world.client.send(get("b"), context).done();
    let mut context = route.context();
    context.term = 1;
    let end = world.client.send(get("b"), context);
    end.detail(|error| error.stale_command);
    world.nothing_lost();
}

#[test]
fn a_key_of_another_region_is_told_so() {
    let world = World::new();
    let route = world.client.route(b"a");
    let beyond = world.client.route(b"p").region;
    assert_ne!(route.region.id, beyond.id);
    let missing = Some(Bytes::from("value of p"));
    for call in [
        get("p"),
        put("p", "never stored"),
        batch_put([("a".into(), "x".into()), ("p".into(), "x".into())]),
        delete("p"),
        batch_delete(["a".into(), "p".into()]),
        cas("p", missing, "never stored"),
        Call::Ttl(k::RawGetKeyTtlRequest {
            key: "p".into(),
            ..k::RawGetKeyTtlRequest::default()
        }),
        Call::BatchGet(k::RawBatchGetRequest {
            keys: vec!["a".into(), "p".into()],
            ..k::RawBatchGetRequest::default()
        }),
    ] {
        println!("{call:?}");
        let end = world.client.send(call, route.context());
        let detail = end.detail(|error| error.key_not_in_region);
        assert_eq!(
            (&*detail.key, detail.region_id),
            (&b"p"[..], route.region.id)
        );
        assert_eq!(
            (detail.start_key, detail.end_key),
            (route.region.start_key.clone(), route.region.end_key.clone())
        );
    }
    // Ranges end at the region's edge: nothing beyond it is read or removed.
    world
        .client
        .send(delete_range("n", "z"), route.context())
        .done();
    world.client.send(scan("n", "z", 9), route.context()).done();
    world.nothing_lost();
}

#[test]
fn a_request_for_another_cluster_is_refused() {
    let world = World::new();
    let route = world.client.route(b"b");
    let other = world.client.cluster + 1;
    let said = format!(
        "cluster id mismatch: the request is for {other}, this is {}",
        world.client.cluster
    );
    for (name, call) in all_calls("") {
        let mut context = route.context();
        context.cluster_id = other;
        let End::Status(status) = world.client.send(call.clone(), context) else {
            panic!("{name}: not refused")
        };
        assert_eq!(
            (status.code(), status.message()),
            (Code::InvalidArgument, &*said),
            "{name}"
        );
    }
    let mut context = route.context();
    context.cluster_id = world.client.cluster;
    world.client.send(get("b"), context.clone()).done();

    // Inside a batch the others on the stream are answered all the same.
    context.cluster_id = other;
    let ask = |context| t::batch_commands_request::Request {
        cmd: Some(t::batch_commands_request::request::Cmd::RawGet(
            k::RawGetRequest {
                context: Some(context),
                key: "b".into(),
                ..k::RawGetRequest::default()
            },
        )),
    };
    let request = t::BatchCommandsRequest {
        requests: vec![ask(context), ask(route.context())],
        request_ids: vec![1, 2],
        ..t::BatchCommandsRequest::default()
    };
    let mut told = BTreeMap::new();
    wait(async {
        let asked = tokio_stream::iter([request]);
        let answers = world.client.tikv().batch_commands(asked).await;
        let mut answers = answers.expect("a stream").into_inner();
        while let Some(answer) = answers.message().await.expect("answers") {
            told.extend(answer.request_ids.into_iter().zip(answer.responses));
        }
    });
    let got = |id| match told[&id].cmd.clone() {
        Some(t::batch_commands_response::response::Cmd::RawGet(response)) => response,
        other => panic!("request {id}: {other:?}"),
    };
    let error = got(1).region_error.expect("refused");
    assert!(error.message.contains(&said), "{error:?}");
    assert_eq!(
        (got(2).region_error, got(2).value),
        (None, "value of b".into())
    );

    // PD ends the call, as clients know it.
    let header = Some(p::RequestHeader {
        cluster_id: other,
        ..p::RequestHeader::default()
    });
    let request = p::GetRegionRequest {
        header,
        ..p::GetRegionRequest::default()
    };
    let status = wait(world.client.pd().get_region(request)).expect_err("refused");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(
        status.message().contains("mismatch cluster id"),
        "{status:?}"
    );
    world.nothing_lost();
}

#[test]
fn a_request_without_a_context_is_refused() {
    let world = World::new();
    let mut tikv = world.client.tikv();
    let status = wait(tikv.raw_get(k::RawGetRequest::default())).expect_err("refused");
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "the request has no context")
    );
    let status = wait(tikv.raw_put(k::RawPutRequest::default())).expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    world.nothing_lost();
}

#[test]
fn the_other_api_version_is_refused_by_name() {
    let world = World::new();
    let route = world.client.route(b"b");
    let v2 = i32::from(k::ApiVersion::V2);
    for (version, said) in [
        (
            v2,
            "ApiVersionNotMatched: the request needs encoded keys, and this cluster has plain ones",
        ),
        (3, "ApiVersionNotMatched: API version 3 is not served"),
        (-1, "ApiVersionNotMatched: API version -1 is not served"),
    ] {
        for (name, call) in all_calls("") {
            let mut context = route.context();
            context.api_version = version;
            let end = world.client.send(call, context);
            assert!(
                !matches!(end, End::Done | End::Region(_)),
                "{name}: {end:?}"
            );
            assert!(end.text().contains(said), "{name}: {end:?}");
        }
    }
    world.nothing_lost();
}

#[test]
fn the_key_mode_of_a_cluster_is_decided_once() {
    let world = World::new();
    let path = world.node.dir().to_owned();
    world.node.stop();
    let settings = &["storage.key-mode=encoded"];
    let parts = [
        "storage.key-mode = encoded",
        "this cluster's keys are plain since its first use",
    ];
    refused_start(&path, settings, &parts);
    let node = Node::start(&path, &["storage.key-mode=plain"]);
    assert_eq!(Client::connect(&node).content(), world.rows);

    // The other way round: by configuration, before the first use.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store");
    let node = Node::start(&path, settings);
    let client = Client::connect(&node);
    let end = client.send(get("b"), client.route(b"b").context());
    let said =
        "ApiVersionNotMatched: the request needs plain keys, and this cluster has encoded ones";
    assert!(end.text().contains(said), "{end:?}");
    node.stop();
    refused_start(
        &path,
        &["storage.key-mode=plain"],
        &["storage.key-mode = plain", "keys are encoded"],
    );
}
