//! Raw calls by bare RPC: those that the stock client does not make, and the corners of the others.

use bytes::Bytes;
use flotilla_proto::keyspacepb::LoadKeyspaceRequest;
use flotilla_proto::kvrpcpb as kv;
use flotilla_proto::kvrpcpb::{ApiVersion, ChecksumAlgorithm, Context, KeyRange, KvPair};
use tonic::{Code, Status};

use crate::support::wire::served;
use crate::support::{TestNode, Wire};

/// The rows that [`filled`] writes.
const ROWS: [(&str, &str); 6] = [
    ("d", "delta"),
    ("e", ""),
    ("f", "foxtrot"),
    ("g", "golf"),
    ("h", "hotel"),
    ("k", "kilo"),
];

/// A node with [`ROWS`] in the region from `d` to `m`, and the context for that region.
async fn filled() -> (TestNode, Wire, Option<Context>) {
    let node = TestNode::start().await;
    let wire = node.wire().await;
    wire.split(["d", "m"]).await;
    let context = wire.at("d").await;
    let request = kv::RawBatchPutRequest {
        context: context.clone(),
        pairs: ROWS.map(|(key, value)| pair(key, value)).to_vec(),
        ..kv::RawBatchPutRequest::default()
    };
    assert_eq!(served(wire.raw_batch_put(request).await).error, "");
    (node, wire, context)
}

fn pair(key: &'static str, value: &'static str) -> KvPair {
    KvPair {
        key: key.into(),
        value: value.into(),
        ..KvPair::default()
    }
}

fn range(start: &'static str, end: &'static str) -> KeyRange {
    KeyRange {
        start_key: start.into(),
        end_key: end.into(),
    }
}

/// The keys of `pairs`, in one word.
fn word(pairs: &[KvPair]) -> String {
    assert!(pairs.iter().all(|pair| pair.error.is_none()));
    pairs
        .iter()
        .map(|pair| std::str::from_utf8(&pair.key).expect("text"))
        .collect()
}

/// CRC64 (ECMA-182, reflected), bit by bit.
fn crc64(bytes: impl IntoIterator<Item = u8>) -> u64 {
    const POLYNOMIAL: u64 = 0xC96C_5795_D787_0F42;
    let mut crc = u64::MAX;
    for byte in bytes {
        crc ^= u64::from(byte);
        for _ in 0..8 {
            let carry = crc & 1;
            crc = (crc >> 1) ^ (POLYNOMIAL * carry);
        }
    }
    !crc
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checksum() {
    assert_eq!(
        crc64(*b"123456789"),
        0x995D_C9BB_DF19_39FA,
        "the check value of CRC-64/XZ"
    );
    let (mut node, wire, context) = filled().await;
    let ask = async |ranges: &[KeyRange]| {
        let request = kv::RawChecksumRequest {
            context: context.clone(),
            algorithm: ChecksumAlgorithm::Crc64Xor.into(),
            ranges: ranges.to_vec(),
        };
        let response = served(wire.raw_checksum(request).await);
        assert_eq!(response.error, "");
        (response.checksum, response.total_kvs, response.total_bytes)
    };
    let expected = |wanted: &str| {
        let rows = wanted.chars().map(|letter| {
            let row = ROWS.iter().find(|(key, _)| key.starts_with(letter));
            let (key, value) = row.expect("a row");
            (
                crc64(key.bytes().chain(value.bytes())),
                (key.len() + value.len()) as u64,
            )
        });
        rows.fold((0, 0, 0), |(crc, rows, bytes), (row, size)| {
            (crc ^ row, rows + 1, bytes + size)
        })
    };
    for (ranges, rows) in [
        (&[][..], ""),
        (&[range("d", "m")], "defghk"),
        (&[range("e", "h")], "efg"),
        (&[range("i", "j")], ""),
        (&[range("e", "e")], ""),
        // Bounds beyond the region, and none.
        (&[range("a", "z")], "defghk"),
        (&[range("", "")], "defghk"),
        (&[range("g", "")], "ghk"),
        // Each range counts for itself.
        (&[range("d", "f"), range("h", "z")], "dehk"),
        (&[range("d", "e"), range("d", "e")], "dd"),
    ] {
        assert_eq!(ask(ranges).await, expected(rows), "{ranges:?}");
    }

    for (request, word) in [
        (
            kv::RawChecksumRequest {
                algorithm: 77,
                ..kv::RawChecksumRequest::default()
            },
            "unknown checksum algorithm 77",
        ),
        (
            kv::RawChecksumRequest {
                ranges: vec![range("d", "e"), range("h", "e")],
                ..kv::RawChecksumRequest::default()
            },
            "Invalid KeyRanges: range 1",
        ),
    ] {
        let request = kv::RawChecksumRequest {
            context: context.clone(),
            ..request
        };
        let error = served(wire.raw_checksum(request).await).error;
        assert!(error.contains(word), "{error}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batch_scan() {
    let (mut node, wire, context) = filled().await;
    let ask = async |reverse, each_limit, ranges: &[KeyRange]| {
        let request = kv::RawBatchScanRequest {
            context: context.clone(),
            ranges: ranges.to_vec(),
            each_limit,
            reverse,
            ..kv::RawBatchScanRequest::default()
        };
        let response = wire.raw_batch_scan(request).await;
        response.map(|response| {
            let response = served(Ok(response));
            word(&response.kvs)
        })
    };
    type Case<'a> = (bool, u32, &'a [KeyRange], &'a str);
    let table: [Case<'_>; 14] = [
        (false, 9, &[], ""),
        (false, 9, &[range("d", "f")], "de"),
        (false, 0, &[range("d", "f")], ""),
        (false, 1, &[range("d", "f"), range("g", "z")], "dg"),
        // In the order of the request, overlapping or not.
        (false, 2, &[range("g", "z"), range("d", "h")], "ghde"),
        (false, 9, &[range("e", "e"), range("k", "l")], "k"),
        // Without an end: up to where the next one starts, the last one to the region's edge.
        (false, 9, &[range("d", ""), range("f", "")], "defghk"),
        (false, 9, &[range("", "e")], "d"),
        (false, 9, &[range("", "")], "defghk"),
        // Bounds beyond the region.
        (false, 9, &[range("a", "e"), range("k", "zz")], "dk"),
        (false, 9, &[range("n", "z")], ""),
        // In reverse the start is the upper end, not included.
        (true, 9, &[range("h", "e")], "gfe"),
        (true, 1, &[range("z", "h"), range("f", "")], "ke"),
        (true, 9, &[range("", "g")], "khg"),
    ];
    for (reverse, limit, ranges, expected) in table {
        let found = ask(reverse, limit, ranges).await.expect("an answer");
        assert_eq!(found, expected, "{reverse} {limit} {ranges:?}");
    }
    for (reverse, ranges, index) in [
        (false, vec![range("h", "e")], 0),
        (false, vec![range("d", "e"), range("h", "e")], 1),
        // The end that the next range gives it lies before its start.
        (false, vec![range("h", ""), range("e", "f")], 0),
        (true, vec![range("e", "h")], 0),
    ] {
        let status = ask(reverse, 9, &ranges).await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{ranges:?}");
        let text = format!("Invalid KeyRanges: range {index}");
        assert!(status.message().contains(&text), "{status}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scan() {
    let (mut node, wire, context) = filled().await;
    let ask = async |reverse, limit, start: &'static str, end: &'static str| {
        let request = kv::RawScanRequest {
            context: context.clone(),
            start_key: start.into(),
            end_key: end.into(),
            limit,
            reverse,
            ..kv::RawScanRequest::default()
        };
        word(&served(wire.raw_scan(request).await).kvs)
    };
    for (reverse, limit, start, end, expected) in [
        (false, 9, "", "", "defghk"),
        (false, 3, "", "", "def"),
        (false, 9, "e", "h", "efg"),
        (false, 9, "e\0", "h\0", "fgh"),
        (false, 9, "a", "zz", "defghk"),
        (false, 9, "n", "z", ""),
        (false, 0, "", "", ""),
        (false, u32::MAX, "", "", "defghk"),
        (true, 9, "h", "e", "gfe"),
        (true, 2, "z", "", "kh"),
        (true, 9, "", "", "khgfed"),
        (true, 9, "", "g", "khg"),
        (true, 9, "e", "", "d"),
    ] {
        let found = ask(reverse, limit, start, end).await;
        assert_eq!(found, expected, "{reverse} {limit} {start:?} {end:?}");
    }
    let request = kv::RawScanRequest {
        context: context.clone(),
        limit: 2,
        key_only: true,
        ..kv::RawScanRequest::default()
    };
    let keys = served(wire.raw_scan(request).await).kvs;
    assert_eq!(keys, [pair("d", ""), pair("e", "")]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_to_live() {
    let (mut node, wire, context) = filled().await;
    let left = async |key: &'static str| {
        let request = kv::RawGetKeyTtlRequest {
            context: context.clone(),
            key: key.into(),
            ..kv::RawGetKeyTtlRequest::default()
        };
        let response = served(wire.raw_get_key_ttl(request).await);
        assert_eq!(response.error, "");
        (!response.not_found).then_some(response.ttl)
    };
    assert_eq!(left("d").await, Some(0));
    assert_eq!(left("ia").await, None);
    // How the ttls of a batch may be given: not at all, one for all, one for each.
    let put = async |ttls: &[u64]| {
        let request = kv::RawBatchPutRequest {
            context: context.clone(),
            pairs: vec![pair("i", "1"), pair("j", "2"), pair("l", "3")],
            ttls: ttls.to_vec(),
            // Never read.
            ttl: 77,
            ..kv::RawBatchPutRequest::default()
        };
        served(wire.raw_batch_put(request).await).error
    };
    let hour = |seconds: u64| match seconds {
        0 => 0,
        1..=3_600 => 1,
        3_601..=7_200 => 2,
        7_201.. => 3,
    };
    for (ttls, expected) in [
        (&[][..], [0, 0, 0]),
        (&[0], [0, 0, 0]),
        (&[3_600], [1, 1, 1]),
        (&[0, 3_600, 7_200], [0, 1, 2]),
    ] {
        assert_eq!(put(ttls).await, "");
        let mut found = Vec::new();
        for key in ["i", "j", "l"] {
            found.push(hour(left(key).await.expect("it is there")));
        }
        assert_eq!(found, expected, "{ttls:?}");
    }
    for ttls in [&[1, 2][..], &[1, 2, 3, 4]] {
        let error = put(ttls).await;
        let text = "The length of ttls does not equal to the length of pairs";
        assert!(error.starts_with(text), "{error}");
    }
    assert_eq!(hour(left("l").await.expect("there")), 2, "as it was before");
    node.stop().await;
}

/// The last pair of a key stays, and all pairs are written or none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batch_put_with_a_key_twice() {
    let (mut node, wire, context) = filled().await;
    let request = kv::RawBatchPutRequest {
        context: context.clone(),
        pairs: vec![pair("i", "1"), pair("j", "1"), pair("i", "2")],
        ..kv::RawBatchPutRequest::default()
    };
    assert_eq!(served(wire.raw_batch_put(request).await).error, "");
    let get = kv::RawBatchGetRequest {
        context: context.clone(),
        keys: ["j", "ia", "i", "j"].map(Bytes::from).to_vec(),
        ..kv::RawBatchGetRequest::default()
    };
    let found = served(wire.raw_batch_get(get).await).pairs;
    assert_eq!(found, [pair("j", "1"), pair("i", "2"), pair("j", "1")]);
    let nothing = kv::RawBatchPutRequest {
        context: context.clone(),
        ..kv::RawBatchPutRequest::default()
    };
    assert_eq!(served(wire.raw_batch_put(nothing).await).error, "");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compare_and_swap() {
    let (mut node, wire, context) = filled().await;
    let swap = async |request: kv::RawCasRequest| {
        let request = kv::RawCasRequest {
            context: context.clone(),
            key: "i".into(),
            ..request
        };
        let response = served(wire.raw_compare_and_swap(request).await);
        assert_eq!(response.error, "");
        assert!(!response.previous_not_exist || response.previous_value.is_empty());
        let found = (!response.previous_not_exist).then_some(response.previous_value);
        (response.succeed, found)
    };
    let absent = || kv::RawCasRequest {
        previous_not_exist: true,
        ..kv::RawCasRequest::default()
    };
    let with = |previous: &'static str| kv::RawCasRequest {
        previous_value: previous.into(),
        ..kv::RawCasRequest::default()
    };
    let put = |request, value: &'static str| kv::RawCasRequest {
        value: value.into(),
        ttl: 3_600,
        ..request
    };
    let delete = |request| kv::RawCasRequest {
        delete: true,
        ..request
    };
    let found = |text: &'static str| Some(Bytes::from(text));
    assert_eq!(swap(put(with(""), "1")).await, (false, None));
    assert_eq!(swap(delete(with(""))).await, (false, None));
    assert_eq!(swap(delete(absent())).await, (true, None), "nothing to do");
    assert_eq!(swap(put(absent(), "1")).await, (true, None));
    assert_eq!(swap(put(absent(), "2")).await, (false, found("1")));
    assert_eq!(swap(delete(absent())).await, (false, found("1")));
    assert_eq!(swap(put(with("1"), "")).await, (true, found("1")));
    let ttl = kv::RawGetKeyTtlRequest {
        context: context.clone(),
        key: "i".into(),
        ..kv::RawGetKeyTtlRequest::default()
    };
    let ttl = served(wire.raw_get_key_ttl(ttl).await).ttl;
    assert!((1..=3_600).contains(&ttl), "a swap can give a ttl: {ttl}");
    assert_eq!(swap(delete(with(""))).await, (true, found("")));
    assert_eq!(swap(put(absent(), "3")).await, (true, None), "it was gone");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delete_range_is_clamped_to_the_region() {
    let (mut node, wire, context) = filled().await;
    let delete = async |start: &'static str, end: &'static str| {
        let request = kv::RawDeleteRangeRequest {
            context: context.clone(),
            start_key: start.into(),
            end_key: end.into(),
            ..kv::RawDeleteRangeRequest::default()
        };
        served(wire.raw_delete_range(request).await).error
    };
    let everything = async || {
        let mut found = String::new();
        for route in wire.routes().await {
            let request = kv::RawScanRequest {
                context: Some(wire.context(&route)),
                limit: 100,
                ..kv::RawScanRequest::default()
            };
            found += &word(&served(wire.raw_scan(request).await).kvs);
        }
        found
    };
    for outside in ["c", "n"] {
        let request = kv::RawPutRequest {
            context: wire.at(outside).await,
            key: outside.into(),
            ..kv::RawPutRequest::default()
        };
        served(wire.raw_put(request).await);
    }
    assert_eq!(everything().await, "cdefghkn");
    for (start, end, left) in [
        ("e", "e", "cdefghkn"),
        ("a", "c", "cdefghkn"),
        ("e", "f\0", "cdghkn"),
        ("a", "e", "cghkn"),
        ("h", "", "cgn"),
        ("", "", "cn"),
    ] {
        assert_eq!(delete(start, end).await, "", "{start:?}..{end:?}");
        assert_eq!(everything().await, left, "after {start:?}..{end:?}");
    }
    let error = delete("h", "e").await;
    assert!(error.contains("Invalid KeyRanges"), "{error}");
    node.stop().await;
}

/// Faults of a request, where the response has a field for the text and where it has none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_requests() {
    let (mut node, wire, context) = filled().await;
    let cf = || "nonsense".to_owned();
    macro_rules! error_of {
        ($method:ident($request:ident { $($field:ident: $value:expr),* })) => {{
            let request = kv::$request {
                context: context.clone(),
                $($field: $value,)*
                ..kv::$request::default()
            };
            served(wire.$method(request).await).error
        }};
    }
    let texts = [
        error_of!(raw_get(RawGetRequest {
            key: "e".into(),
            cf: cf()
        })),
        error_of!(raw_put(RawPutRequest {
            key: "e".into(),
            cf: cf()
        })),
        error_of!(raw_delete(RawDeleteRequest {
            key: "e".into(),
            cf: cf()
        })),
        error_of!(raw_get_key_ttl(RawGetKeyTtlRequest {
            key: "e".into(),
            cf: cf()
        })),
        error_of!(raw_compare_and_swap(RawCasRequest {
            key: "e".into(),
            cf: cf()
        })),
        error_of!(raw_batch_put(RawBatchPutRequest {
            pairs: vec![pair("e", "")],
            cf: cf()
        })),
        error_of!(raw_batch_delete(RawBatchDeleteRequest {
            keys: vec!["e".into()],
            cf: cf()
        })),
        error_of!(raw_delete_range(RawDeleteRangeRequest { cf: cf() })),
    ];
    for (nth, text) in texts.iter().enumerate() {
        assert!(text.starts_with("invalid cf name"), "call {nth}: {text}");
    }
    macro_rules! status_of {
        ($method:ident($request:ident)) => {{
            let request = kv::$request {
                context: context.clone(),
                cf: cf(),
                ..kv::$request::default()
            };
            wire.$method(request).await.map(drop)
        }};
    }
    let statuses: [Result<(), Status>; 3] = [
        status_of!(raw_batch_get(RawBatchGetRequest)),
        status_of!(raw_scan(RawScanRequest)),
        status_of!(raw_batch_scan(RawBatchScanRequest)),
    ];
    for status in statuses {
        let status = status.expect_err("no room for a text");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with("invalid cf name"), "{status}");
    }

    // API versions that this cluster, or no cluster, serves; the others are one and the same.
    for (version, word) in [
        (0, ""),
        (1, ""),
        (
            2,
            "the request needs encoded keys, and this cluster has plain ones",
        ),
        (3, "API version 3 is not served"),
        (-1, "API version -1 is not served"),
    ] {
        let context = context.clone().map(|context| Context {
            api_version: version,
            ..context
        });
        let request = kv::RawGetRequest {
            context,
            key: "d".into(),
            ..kv::RawGetRequest::default()
        };
        let response = served(wire.raw_get(request).await);
        assert_eq!(response.error.is_empty(), word.is_empty(), "{version}");
        assert!(response.error.contains(word), "{}", response.error);
        let value = if word.is_empty() { "delta" } else { "" };
        assert_eq!(response.value, value, "an error comes without a value");
    }
    node.stop().await;
}

/// Under API v2 raw keys begin with `r` and a keyspace, and ranges stay within.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_prefixes_of_api_v2() {
    let mut node = TestNode::start().await;
    let wire = node.wire().await.with_api(ApiVersion::V2);
    let default = LoadKeyspaceRequest {
        name: "DEFAULT".to_owned(),
        ..LoadKeyspaceRequest::default()
    };
    wire.sound(wire.load_keyspace(default).await);
    wire.await_starts(flotilla_kv::key::keyspace_boundaries(0))
        .await;
    let at = async |user: &[u8]| wire.at(flotilla_kv::key::encode(user)).await;
    let put = async |user: &'static [u8]| {
        let request = kv::RawPutRequest {
            context: at(user).await,
            key: Bytes::from_static(user),
            value: "v".into(),
            ..kv::RawPutRequest::default()
        };
        served(wire.raw_put(request).await).error
    };
    assert_eq!(put(b"r\0\0\0k").await, "");
    assert_eq!(put(b"r\0\0\x07k").await, "");
    for foreign in [&b"x\0\0\0k"[..], b"k", b"", b"m", b"s\0\0\0"] {
        let error = put(foreign).await;
        assert!(error.starts_with("ApiVersionNotMatched"), "{error}");
    }
    let scan = async |start: &'static [u8], end: &'static [u8]| {
        let request = kv::RawScanRequest {
            context: at(b"r\0\0\0k").await,
            start_key: Bytes::from_static(start),
            end_key: Bytes::from_static(end),
            limit: 100,
            ..kv::RawScanRequest::default()
        };
        let response = wire.raw_scan(request).await?;
        Ok::<_, Status>(served(Ok(response)).kvs.len())
    };
    for (start, end) in [
        (&b"r\0\0\0"[..], &b"r\0\0\x01"[..]),
        (b"r\0\0\0", b"r\0\0\x08"),
        (b"r", b"s"),
        (b"r\0\0\0", b"s\0\0\0"),
    ] {
        let rows = scan(start, end).await.expect("a scan");
        assert_eq!(rows, 1, "the keyspace has a region of its own: {end:?}");
    }
    for (start, end) in [
        (&b""[..], &b"r\0\0\x01"[..]),
        (b"r\0\0\0", b""),
        (b"a", b"z"),
        (b"r\0\0\0", b"x\0\0\0"),
        (b"r\0\0\0", b"s\0\0\x01"),
        (b"x\0\0\0", b"x\0\0\x01"),
    ] {
        let status = scan(start, end).await.expect_err("it leaves the raw keys");
        assert_eq!(status.code(), Code::InvalidArgument);
        let text = status.message();
        assert!(text.starts_with("ApiVersionNotMatched"), "{text}");
    }
    node.stop().await;
}
