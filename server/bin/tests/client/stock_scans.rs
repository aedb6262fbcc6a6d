//! Scans by the stock Rust client over several regions: what it gets from TiKV it gets here, its own
//! faults (docs/protocol.md, section 7) included, and the one that never ends does not begin.

use tikv_client::{BoundRange, Error, KvPair, RawClient};

use crate::support::stock::{alphabet, client, key, keys, pairs, range, word};
use crate::support::{TestNode, in_time};

/// The alphabet in the regions a–c, d–g, h–l, m–z, and the empty one at the top.
async fn alphabet_in_regions() -> (TestNode, RawClient) {
    let node = TestNode::start().await;
    let client = client(&node.addr()).await;
    node.wire().await.split(["d", "h", "m"]).await;
    client.batch_put(alphabet()).await.expect("batch put");
    (node, client)
}

async fn scanned(client: &RawClient, range: impl Into<BoundRange>, limit: u32) -> String {
    let scan = in_time("a scan", client.scan(range, limit)).await;
    word(scan.expect("a scan")).replace(' ', "")
}

async fn reversed(client: &RawClient, range: impl Into<BoundRange>, limit: u32) -> String {
    let scan = in_time("a scan", client.scan_reverse(range, limit)).await;
    word(scan.expect("a scan")).replace(' ', "")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forward_scans_cross_regions_in_order() {
    let (mut node, client) = alphabet_in_regions().await;
    let table = [
        ("a", "c", 100, "ab"),
        ("b", "p", 100, "bcdefghijklmno"),
        ("b", "p", 5, "bcdef"),
        ("b", "p", 2, "bc"),
        ("b", "p", 1, "b"),
        ("b", "p", 0, ""),
        // From boundary to boundary.
        ("d", "h", 100, "defg"),
        ("d", "m", 100, "defghijkl"),
        ("d", "m", 4, "defg"),
        ("d", "m", 5, "defgh"),
        ("", "d", 100, "abc"),
        // A limit that ends with a region.
        ("a", "z", 3, "abc"),
        // No row at all, in one region, over a boundary, behind everything.
        ("ca", "cb", 100, ""),
        ("ca", "d", 100, ""),
        ("zz", "zzz", 100, ""),
        ("b", "b", 100, ""),
        // The upper end lies in the last region that holds anything.
        ("q", "zz", 100, "qrstuvwxyz"),
        ("", "~", 100, "abcdefghijklmnopqrstuvwxyz"),
    ];
    for (start, end, limit, expected) in table {
        assert_eq!(
            scanned(&client, range(start, end), limit).await,
            expected,
            "{start}..{end}, {limit}"
        );
    }
    assert_eq!(scanned(&client, key("b")..=key("e"), 100).await, "bcde");
    assert_eq!(scanned(&client, key("c")..=key("d"), 100).await, "cd");
    let behind = (
        std::ops::Bound::Excluded(key("c")),
        std::ops::Bound::Included(key("h")),
    );
    assert_eq!(scanned(&client, behind, 100).await, "defgh");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_only_and_values() {
    let (mut node, client) = alphabet_in_regions().await;
    let listed = client.scan(range("c", "e"), 10).await.expect("a scan");
    let expected = [("c", "cc"), ("d", "dd")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(pairs(listed), expected);
    let listed = client.scan_keys(range("c", "i"), 4).await.expect("a scan");
    assert_eq!(keys(listed), ["c", "d", "e", "f"]);
    let listed = client.scan_keys_reverse(range("d", "h"), 3).await;
    assert_eq!(keys(listed.expect("a scan")), ["g", "f", "e"]);
    let refused = client.scan(range("a", "z"), 10_241).await;
    assert!(
        matches!(refused, Err(Error::MaxScanLimitExceeded { .. })),
        "the client's own limit: {refused:?}"
    );
    node.stop().await;
}

/// Without an end the client stops after the first region it asks, whatever the server says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_without_an_end_covers_one_region() {
    let (mut node, client) = alphabet_in_regions().await;
    assert_eq!(scanned(&client, key("b").., 100).await, "bc");
    assert_eq!(scanned(&client, .., 100).await, "abc");
    assert_eq!(scanned(&client, key("x").., 100).await, "xyz");
    node.stop().await;
}

/// An end in the very last region sends the client back to the start for more and more. The empty
/// region at the top keeps every range of users out of there, on a fresh cluster too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_of_a_fresh_cluster_ends() {
    let mut node = TestNode::start().await;
    let client = client(&node.addr()).await;
    assert_eq!(scanned(&client, range("a", "z"), 100).await, "");
    client.put(key("b"), "v").await.expect("put");
    assert_eq!(scanned(&client, range("a", "z"), 100).await, "b");
    let high = vec![0xff; 7]..vec![0xff; 8];
    client.put(high.start.clone(), "v").await.expect("put");
    let listed = in_time("a scan", client.scan(high, 100)).await;
    assert_eq!(listed.expect("a scan").len(), 1, "also right below the top");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reverse_scans() {
    let (mut node, client) = alphabet_in_regions().await;
    // In one region: in order.
    assert_eq!(reversed(&client, range("d", "h"), 100).await, "gfed");
    assert_eq!(reversed(&client, range("n", "r"), 2).await, "qp");
    assert_eq!(reversed(&client, key("n")..=key("p"), 100).await, "pon");
    assert_eq!(reversed(&client, range("n", "n"), 100).await, "");
    // Without an upper end TiKV finds nothing; here it is the end of the region.
    assert_eq!(reversed(&client, key("w").., 100).await, "zyxw");
    // Over several regions the client goes through them upwards.
    assert_eq!(
        reversed(&client, range("b", "p"), 100).await,
        "cb gfed lkjih onm".replace(' ', "")
    );
    assert_eq!(reversed(&client, range("b", "p"), 4).await, "cbgf");
    node.stop().await;
}

/// The client cuts ranges at region boundaries, and applies the limit to each piece.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batch_scans() {
    let (mut node, client) = alphabet_in_regions().await;
    let scanned = async |ranges: Vec<BoundRange>, each_limit: u32| {
        let scan = in_time("a batch scan", client.batch_scan(ranges, each_limit)).await;
        word(scan.expect("a batch scan")).replace(' ', "")
    };
    let ranges = |ranges: &[(&str, &str)]| -> Vec<BoundRange> {
        let range = |(start, end): &(&str, &str)| range(start, end).into();
        ranges.iter().map(range).collect()
    };
    // Ranges, limit, rows.
    type Case<'a> = (&'a [(&'a str, &'a str)], u32, &'a str);
    let table: [Case<'_>; 7] = [
        (&[("b", "d")], 100, "bc"),
        (&[("b", "e"), ("k", "n")], 100, "bcdklm"),
        (&[("a", "i")], 2, "abdeh"),
        (&[("a", "c"), ("q", "s"), ("u", "w")], 1, "aqu"),
        // The second starts at the boundary where the first ends: the client sends an empty range.
        (&[("a", "d"), ("d", "f")], 100, "abcde"),
        (&[("a", "c"), ("a", "c")], 100, "abab"),
        (&[], 100, ""),
    ];
    for (asked, limit, expected) in table {
        assert_eq!(scanned(ranges(asked), limit).await, expected, "{asked:?}");
    }
    let open = vec![range("k", "n").into(), BoundRange::from(key("x")..)];
    assert_eq!(scanned(open, 100).await, "klmxyz");
    let found = client.batch_scan_keys(ranges(&[("b", "e"), ("k", "n")]), 2);
    let found = in_time("a batch scan", found).await.expect("a batch scan");
    assert_eq!(keys(found), ["b", "c", "d", "k", "l", "m"]);
    let refused = client.batch_scan(ranges(&[("a", "b")]), 10_241).await;
    assert!(
        matches!(refused, Err(Error::MaxScanLimitExceeded { .. })),
        "the client's own limit: {refused:?}"
    );
    node.stop().await;
}

/// A range that starts behind its end is a mistake, and the user is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reversed_ranges_are_refused() {
    let (mut node, client) = alphabet_in_regions().await;
    let wrong = || range("f", "b");
    let refused = [
        in_time("a scan", client.scan(wrong(), 10)).await.map(drop),
        in_time("a scan", client.scan_reverse(wrong(), 10))
            .await
            .map(drop),
        in_time("a batch scan", client.batch_scan([wrong()], 10))
            .await
            .map(drop),
    ];
    for refused in refused {
        let text = format!("{:?}", refused.expect_err("it cannot be right"));
        assert!(text.contains("Invalid KeyRanges"), "{text}");
    }
    node.stop().await;
}

/// The client's cache learns of splits from errors that its user never sees.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scans_follow_splits() {
    let mut node = TestNode::start().await;
    let (client, wire) = (client(&node.addr()).await, node.wire().await);
    client.batch_put(alphabet()).await.expect("batch put");
    let expected: String = ('a'..='z').collect();
    assert_eq!(scanned(&client, range("", "~"), 100).await, expected);
    for at in ["m", "f", "t", "c", "x", "fa"] {
        wire.split([at]).await;
        assert_eq!(
            scanned(&client, range("", "~"), 100).await,
            expected,
            "after a cut at {at}"
        );
        let found = client.batch_scan([range("", "~")], 100).await;
        assert_eq!(
            word(found.expect("a batch scan")).replace(' ', ""),
            expected
        );
        let found = client.batch_get(('a'..='z').map(|k| k.to_string())).await;
        assert_eq!(found.expect("batch get").len(), 26);
        let at = key(at);
        client.put(at.clone(), "new").await.expect("put");
        assert_eq!(
            client.get(at.clone()).await.expect("get"),
            Some(b"new".to_vec())
        );
        if at == key("fa") {
            client.delete(at).await.expect("delete");
        }
    }
    let last = client.scan(range("m", "~"), 1).await.expect("a scan");
    assert_eq!(last, [KvPair::new(key("m"), "new")]);
    node.stop().await;
}
