//! API v2 through the stock Rust client: keyspaces, the one that is always there and created ones.

use serde_json::json;
use tikv_client::{ColumnFamily, Key, RawClient};

use flotilla_proto::kvrpcpb::ApiVersion;

use crate::support::stock::{alphabet, client_in, key, keys, patient, range, word};
use crate::support::{TestNode, eventually, http, in_time};

const KEYSPACES: &str = "/pd/api/v2/keyspaces";

/// Creates a keyspace and waits until it can be used.
async fn create(node: &TestNode, name: &str) -> u64 {
    let body = json!({ "name": name }).to_string();
    let created = http::post(node.socket(), KEYSPACES, &body).await;
    // 503: it exists, and its boundaries take a moment.
    assert!(matches!(created.status, 200 | 503), "{created:?}");
    eventually("the keyspace is ready", async || {
        let page = http::get(node.socket(), &format!("{KEYSPACES}/{name}")).await;
        let connected =
            RawClient::new_with_config(vec![node.addr()], patient().with_keyspace(name)).await;
        (page.status == 200 && connected.is_ok())
            .then(|| page.json()["id"].as_u64().expect("an id"))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_in_the_default_keyspace() {
    let mut node = TestNode::start().await;
    let client = client_in(&node.addr(), "DEFAULT").await;
    every_call(&client).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_in_a_created_keyspace() {
    let mut node = TestNode::start().await;
    assert_eq!(create(&node, "orders").await, 1);
    every_call(&client_in(&node.addr(), "orders").await).await;
    node.stop().await;
}

/// Every raw call there is, on a keyspace in several regions.
async fn every_call(client: &RawClient) {
    let value = async |at: &str| client.get(key(at)).await.expect("a get");
    let bytes = |text: &str| Some(text.as_bytes().to_vec());
    client.put(key("k"), "v").await.expect("put");
    assert_eq!(value("k").await, bytes("v"));
    client.put(key(""), "").await.expect("put");
    assert_eq!(value("").await, bytes(""), "the empty key, the empty value");
    client.delete(key("k")).await.expect("delete");
    assert_eq!(value("k").await, None);
    client
        .put_with_ttl(key("t"), "v", 1_000)
        .await
        .expect("put");
    let ttl = client.get_key_ttl_secs(key("t")).await.expect("a ttl");
    assert!((1..=1_000).contains(&ttl.expect("there")), "{ttl:?}");
    client.delete_range(..).await.expect("delete range");
    assert_eq!(value("").await, None);

    client.batch_put(alphabet()).await.expect("batch put");
    client
        .batch_put_with_ttl([("aa".to_owned(), "v"), ("ab".to_owned(), "v")], [0, 500])
        .await
        .expect("batch put");
    assert_eq!(
        client.get_key_ttl_secs(key("aa")).await.expect("a ttl"),
        Some(0)
    );
    let found = client.batch_get(["z", "aa", "no"].map(key)).await;
    let mut found = keys(found.expect("batch get").into_iter().map(|pair| pair.0));
    found.sort();
    assert_eq!(found, ["aa", "z"]);
    client
        .batch_delete(["aa", "ab", "no"].map(key))
        .await
        .expect("batch delete");

    let all: String = ('a'..='z').collect();
    let whole = in_time("a scan", client.scan(.., 100)).await;
    assert_eq!(
        word(whole.expect("a scan")).replace(' ', ""),
        all,
        "the keyspace's own end is the end of an open range"
    );
    let some = client.scan(range("c", "i"), 4).await.expect("a scan");
    assert_eq!(word(some), "c d e f");
    let some = client.scan_keys(range("c", "i"), 100).await;
    assert_eq!(keys(some.expect("a scan")).concat(), "cdefgh");
    let some = client.scan_reverse(range("c", "i"), 3).await;
    assert_eq!(word(some.expect("a scan")), "h g f");
    let some = client.scan_keys_reverse(.., 3).await;
    assert_eq!(keys(some.expect("a scan")).concat(), "zyx");
    let some = client
        .batch_scan([range("a", "c"), range("x", "~")], 100)
        .await;
    assert_eq!(word(some.expect("batch scan")), "a b x y z");
    let some = client.batch_scan_keys([range("a", "d")], 2).await;
    assert_eq!(keys(some.expect("batch scan")).concat(), "ab");

    let atomic = client.with_atomic_for_cas();
    let swapped = atomic.compare_and_swap(key("a"), bytes("aa"), "new").await;
    assert_eq!(swapped.expect("a swap"), (bytes("aa"), true));
    let swapped = atomic.compare_and_swap(key("a"), None, "newer").await;
    assert_eq!(swapped.expect("a swap"), (bytes("new"), false));

    let default = client.with_cf(ColumnFamily::Default);
    assert_eq!(
        default.get(key("b")).await.expect("a get"),
        bytes("bb"),
        "default is what the one family is called"
    );
    for family in [ColumnFamily::Lock, ColumnFamily::Write] {
        let refused = client.with_cf(family).put(key("b"), "v").await;
        let text = format!("{:?}", refused.expect_err("there is only default"));
        assert!(text.contains("invalid cf name"), "{text}");
    }

    client.delete_range(range("b", "y")).await.expect("deleted");
    let rest = client.scan(.., 100).await.expect("a scan");
    assert_eq!(word(rest), "a y z");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyspaces_do_not_see_each_other() {
    let mut node = TestNode::start().await;
    let names = ["DEFAULT", "one", "two"];
    for (nth, name) in names.iter().enumerate().skip(1) {
        assert_eq!(create(&node, name).await, nth as u64);
    }
    let mut clients = Vec::new();
    for name in names {
        clients.push((name, client_in(&node.addr(), name).await));
    }
    for (name, client) in &clients {
        let rows = ["", "k", "\u{7f}"].map(|row| (row.to_owned(), *name));
        client.batch_put(rows).await.expect("batch put");
    }
    for (name, client) in &clients {
        let rows = in_time("a scan", client.scan(.., 100)).await;
        let rows = rows.expect("a scan");
        assert_eq!(rows.len(), 3, "{name}");
        for row in &rows {
            assert_eq!(row.value(), name.as_bytes(), "{row:?}");
        }
        let found = client.batch_scan([..], 100).await.expect("batch scan");
        assert_eq!(found, rows, "{name}");
    }
    let (_, one) = &clients[1];
    one.delete_range(..).await.expect("deleted");
    for (name, client) in &clients {
        let left = client.scan(.., 100).await.expect("a scan").len();
        assert_eq!(left, if *name == "one" { 0 } else { 3 }, "{name}");
    }
    node.stop().await;
}

/// Regions of a keyspace are cut at encoded keys; the client decodes them and goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scans_cross_the_regions_of_a_keyspace() {
    let mut node = TestNode::start().await;
    create(&node, "other").await;
    let client = client_in(&node.addr(), "DEFAULT").await;
    let other = client_in(&node.addr(), "other").await;
    client.batch_put(alphabet()).await.expect("batch put");
    other.batch_put(alphabet()).await.expect("batch put");
    let wire = node.wire().await.with_api(ApiVersion::V2);
    let cuts = ["d", "hello, long key", "m"].map(|cut| format!("r\0\0\0{cut}"));
    wire.split(cuts).await;

    let scanned = async |start: &str, end: &str, limit| {
        let scan = in_time("a scan", client.scan(range(start, end), limit)).await;
        word(scan.expect("a scan")).replace(' ', "")
    };
    assert_eq!(scanned("b", "p", 100).await, "bcdefghijklmno");
    assert_eq!(scanned("b", "p", 4).await, "bcde");
    assert_eq!(scanned("d", "m", 100).await, "defghijkl");
    let whole: String = ('a'..='z').collect();
    for client in [&client, &other] {
        let scan = in_time("a scan", client.scan(.., 100)).await;
        let found = word(scan.expect("a scan")).replace(' ', "");
        assert_eq!(found, whole, "without ends, and to the end of the keyspace");
    }
    let found = client.batch_scan([range("b", "e"), range("k", "n")], 100);
    assert_eq!(word(found.await.expect("batch scan")), "b c d k l m");
    client.delete_range(range("c", "n")).await.expect("deleted");
    let left = client.scan(.., 100).await.expect("a scan");
    assert_eq!(word(left).replace(' ', ""), "abnopqrstuvwxyz");
    let untouched = other.scan_keys(.., 100).await.expect("a scan");
    assert_eq!(untouched.len(), 26);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyspaces_are_created_and_shown_over_http() {
    let mut node = TestNode::start().await;
    let at = node.socket();
    let id = create(&node, "orders").await;
    let page = http::get(at, &format!("{KEYSPACES}/orders")).await.json();
    assert_eq!(page["name"], "orders");
    assert_eq!(page["state"], "ENABLED");
    let with_config = json!({ "name": "bills", "config": { "owner": "accounting" } });
    http::post(at, KEYSPACES, &with_config.to_string()).await;
    let page = eventually("it is there", async || {
        let page = http::get(at, &format!("{KEYSPACES}/bills")).await;
        (page.status == 200).then(|| page.json())
    })
    .await;
    assert_eq!(page["id"], id + 1);
    assert_eq!(page["config"]["owner"], "accounting");
    let all = http::get(at, KEYSPACES).await.json();
    let names: Vec<_> = all["keyspaces"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|keyspace| keyspace["name"].as_str().expect("a name"))
        .collect();
    assert_eq!(names, ["DEFAULT", "orders", "bills"]);

    let missing = http::get(at, &format!("{KEYSPACES}/nobody")).await;
    assert_eq!(missing.status, 404, "{missing:?}");
    for (body, status, word) in [
        (r#"{"name": "orders"}"#, 409, "exists already"),
        (r#"{"name": "DEFAULT"}"#, 409, "exists already"),
        (r#"{"name": ""}"#, 400, "1 to 64 letters"),
        (r#"{"name": "a b"}"#, 400, "1 to 64 letters"),
        (r#"{"name": "x", "colour": "red"}"#, 400, "colour"),
        (r#"{"name": 3}"#, 400, "expected a string"),
        ("{", 400, "JSON"),
    ] {
        let refused = http::post(at, KEYSPACES, body).await;
        assert_eq!(refused.status, status, "{body}: {refused:?}");
        let error = refused.json()["error"].as_str().map(str::to_owned);
        let error = error.expect("an error in words");
        assert!(error.contains(word), "{body}: {error}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keyspace_that_does_not_exist_is_told() {
    let mut node = TestNode::start().await;
    let config = patient().with_keyspace("nobody");
    let refused = RawClient::new_with_config(vec![node.addr()], config).await;
    let text = refused.err().expect("there is none").to_string();
    assert!(text.contains("keyspace \"nobody\" not found"), "{text}");
    node.stop().await;
}

/// The longest key counts in its stored form, which has nine bytes for eight.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_key_of_a_keyspace() {
    const ENCODED_MAX: usize = 8 * 1024;
    let mut node = TestNode::start().await;
    let client = client_in(&node.addr(), "DEFAULT").await;
    // A last group holds at most seven bytes of key, and the prefix takes four.
    let longest = ENCODED_MAX / 9 * 8 - 1 - 4;
    let of = |length: usize| Key::from(vec![b'k'; length]);
    client.put(of(longest), "v").await.expect("it fits");
    assert_eq!(
        client.get(of(longest)).await.expect("a get"),
        Some(b"v".to_vec())
    );
    let refused = client.put(of(longest + 1), "v").await;
    let text = format!("{:?}", refused.expect_err("too long"));
    assert!(text.contains("key too large"), "{text}");
    node.stop().await;
}
