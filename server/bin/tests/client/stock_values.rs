//! The stock Rust client on single keys and batches of them.

use std::collections::BTreeMap;

use tikv_client::{ColumnFamily, KvPair, RawClient};

use crate::support::stock::{alphabet, client, key, keys, pairs, range, word};
use crate::support::{TestNode, eventually, in_time};

/// What is stored at a key.
async fn value(client: &RawClient, at: impl Into<tikv_client::Key>) -> Option<Vec<u8>> {
    client.get(at).await.expect("a get is answered")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_written_read_replaced_and_deleted() {
    let mut node = TestNode::start().await;
    let client = client(&node.addr()).await;
    assert_eq!(value(&client, key("k")).await, None);
    client.put(key("k"), "one").await.expect("put");
    assert_eq!(value(&client, key("k")).await, Some(b"one".to_vec()));
    client.put(key("k"), "two").await.expect("put");
    assert_eq!(value(&client, key("k")).await, Some(b"two".to_vec()));
    client.delete(key("k")).await.expect("delete");
    assert_eq!(value(&client, key("k")).await, None);
    client.delete(key("k")).await.expect("what is not there");
    node.stop().await;
}

/// Any bytes are a key and a value, also none at all; an empty value is not an absent one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_bytes_are_keys_and_values() {
    let mut node = TestNode::start().await;
    let client = client(&node.addr()).await;
    let mut stored: Vec<(Vec<u8>, Vec<u8>)> = vec![
        (vec![], b"the empty key".to_vec()),
        (vec![0], vec![]),
        (vec![0, 0], vec![0]),
        (b"a".to_vec(), vec![]),
        (b"a\0".to_vec(), b"\0\0".to_vec()),
        (b"a\0\xff".to_vec(), vec![0xff; 300]),
        (vec![0x7f; 8], b"eight".to_vec()),
        (vec![0xff; 4], b"high".to_vec()),
        // A key that looks like an encoded one.
        (b"a\0\0\0\0\0\0\0\xf8".to_vec(), b"encoded".to_vec()),
    ];
    for (key, stored) in &stored {
        assert_eq!(value(&client, key.clone()).await, None, "{key:02x?}");
        client.put(key.clone(), stored.clone()).await.expect("put");
    }
    for (key, stored) in &stored {
        assert_eq!(
            value(&client, key.clone()).await.as_ref(),
            Some(stored),
            "{key:02x?}"
        );
    }
    stored.sort();
    let listed = client
        .scan(vec![]..vec![0xff; 5], 100)
        .await
        .expect("a scan");
    let listed: Vec<(Vec<u8>, Vec<u8>)> = listed
        .into_iter()
        .map(|KvPair(key, value)| (key.into(), value))
        .collect();
    assert_eq!(listed, stored, "they are in the order of their bytes");

    client.delete(vec![]).await.expect("delete");
    assert_eq!(value(&client, vec![]).await, None);
    assert_eq!(value(&client, vec![0]).await, Some(vec![]), "its neighbour");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_span_regions() {
    let mut node = TestNode::start().await;
    let client = client(&node.addr()).await;
    node.wire().await.split(["d", "h", "m"]).await;

    client.batch_put(alphabet()).await.expect("batch put");
    let asked = ["x", "b", "missing", "h", "d", "g", "b", ""];
    let found = client.batch_get(asked.map(key)).await.expect("batch get");
    let mut found = pairs(found);
    found.sort();
    // The client asks each region for its keys; a key that is asked for twice is found twice.
    let expected = ["b", "b", "d", "g", "h", "x"].map(|key| (key.to_owned(), key.repeat(2)));
    assert_eq!(found, expected);

    client
        .batch_delete(["a", "d", "e", "h", "z", "missing"].map(key))
        .await
        .expect("batch delete");
    let left = client.scan(range("", "~"), 100).await.expect("a scan");
    assert_eq!(word(left), "b c f g i j k l m n o p q r s t u v w x y");
    assert_eq!(
        client
            .batch_get(Vec::<tikv_client::Key>::new())
            .await
            .expect("no key at all"),
        vec![]
    );
    node.stop().await;
}

/// The client cuts a batch put into requests of 16 KiB, region by region.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_many_requests_is_written_whole() {
    let mut node = TestNode::start().await;
    let client = client(&node.addr()).await;
    node.wire().await.split(["row 0300", "row 0700"]).await;
    let rows: BTreeMap<String, String> = (0..1_000)
        .map(|nth| (format!("row {nth:04}"), format!("{nth}").repeat(40)))
        .collect();
    client.batch_put(rows.clone()).await.expect("batch put");
    let found = client.batch_get(rows.keys().cloned()).await;
    let found: BTreeMap<String, String> = pairs(found.expect("batch get")).into_iter().collect();
    assert_eq!(found, rows);

    let gone = rows.keys().filter(|row| !row.ends_with('7')).cloned();
    client.batch_delete(gone).await.expect("batch delete");
    let left = client.scan_keys(range("row", "rox"), 10_240).await;
    let left = keys(left.expect("a scan"));
    assert_eq!(left.len(), 100);
    assert!(left.iter().all(|row| row.ends_with('7')), "{left:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delete_range_over_several_regions() {
    let mut node = TestNode::start().await;
    let client = client(&node.addr()).await;
    node.wire().await.split(["d", "h", "m"]).await;
    let left = async || {
        let left = client.scan(range("", "~"), 100).await.expect("a scan");
        word(left).replace(' ', "")
    };

    client.batch_put(alphabet()).await.expect("batch put");
    client.delete_range(range("c", "n")).await.expect("deleted");
    assert_eq!(left().await, "abnopqrstuvwxyz");
    client
        .delete_range(key("p")..=key("r"))
        .await
        .expect("both ends");
    assert_eq!(left().await, "abnostuvwxyz");
    client
        .delete_range(range("o", "o"))
        .await
        .expect("nothing at all");
    client
        .delete_range(range("d", "h"))
        .await
        .expect("nothing there");
    assert_eq!(left().await, "abnostuvwxyz");
    client.delete_range(key("w")..).await.expect("to the end");
    assert_eq!(left().await, "abnostuv");
    client
        .delete_range(..key("o"))
        .await
        .expect("from the start");
    assert_eq!(left().await, "ostuv");
    client.delete_range(..).await.expect("everything");
    assert_eq!(left().await, "");
    client.put(key("s"), "again").await.expect("put");
    assert_eq!(left().await, "s", "what comes later is not deleted");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_to_live() {
    const LONG: u64 = 100_000;
    let mut node = TestNode::start().await;
    let client = client(&node.addr()).await;
    node.wire().await.split(["m"]).await;
    let left = async |at: &str| {
        client
            .get_key_ttl_secs(key(at))
            .await
            .expect("a ttl is answered")
    };

    assert_eq!(left("missing").await, None);
    client.put(key("ever"), "v").await.expect("put");
    assert_eq!(left("ever").await, Some(0), "it does not expire");
    client
        .put_with_ttl(key("long"), "v", LONG)
        .await
        .expect("put");
    let long = left("long").await.expect("it is there");
    assert!((LONG - 600..=LONG).contains(&long), "{long}");
    client.put(key("long"), "v").await.expect("put");
    assert_eq!(left("long").await, Some(0), "a new put, a new life");
    client
        .put_with_ttl(key("endless"), "v", u64::MAX)
        .await
        .expect("put");
    assert!(left("endless").await > Some(u64::MAX / 2));

    let rows = ["batch 1", "batch 2", "zz 3"].map(|row| (row.to_owned(), "v"));
    client
        .batch_put_with_ttl(rows, [LONG, 0, 2 * LONG])
        .await
        .expect("batch put");
    assert!((LONG - 600..=LONG).contains(&left("batch 1").await.expect("there")));
    assert_eq!(left("batch 2").await, Some(0));
    assert!((2 * LONG - 600..=2 * LONG).contains(&left("zz 3").await.expect("there")));

    client
        .put_with_ttl(key("short"), "v", 1)
        .await
        .expect("put");
    eventually("a row of one second is gone", async || {
        value(&client, key("short")).await.is_none().then_some(())
    })
    .await;
    assert_eq!(left("short").await, None);
    let rest = client.scan(range("e", "~"), 100).await.expect("a scan");
    assert_eq!(word(rest), "endless ever long zz 3", "scans pass it over");
    let asked = ["short", "long"].map(key);
    let found = client.batch_get(asked).await.expect("batch get");
    assert_eq!(word(found), "long");
    node.stop().await;
}

/// A key lives once in each column family.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn column_families_are_apart() {
    let mut node = TestNode::start().await;
    let unnamed = client(&node.addr()).await;
    let families = [
        ("default", unnamed.with_cf(ColumnFamily::Default)),
        ("lock", unnamed.with_cf(ColumnFamily::Lock)),
        ("write", unnamed.with_cf(ColumnFamily::Write)),
    ];
    for (name, family) in &families {
        assert_eq!(value(family, key("k")).await, None, "{name}");
        family.put(key("k"), *name).await.expect("put");
        let batch = [(format!("only in {name}"), "v")];
        family.batch_put(batch).await.expect("batch put");
    }
    for (name, family) in &families {
        assert_eq!(
            value(family, key("k")).await,
            Some(name.as_bytes().to_vec())
        );
        let listed = family.scan(range("", "~"), 10).await.expect("a scan");
        assert_eq!(word(listed), format!("k only in {name}"));
        let ttl = family.get_key_ttl_secs(key("k")).await.expect("a ttl");
        assert_eq!(ttl, Some(0), "{name}");
        let swapped = family
            .with_atomic_for_cas()
            .compare_and_swap(key("k"), Some(name.as_bytes().to_vec()), "swapped")
            .await
            .expect("a swap");
        assert_eq!(swapped, (Some(name.as_bytes().to_vec()), true));
    }
    assert_eq!(
        value(&unnamed, key("k")).await,
        Some(b"swapped".to_vec()),
        "no name is the name default"
    );
    let [(_, default), (_, lock), (_, write)] = &families;
    lock.delete_range(range("", "~")).await.expect("deleted");
    let count = async |family: &RawClient| {
        let listed = family.scan(range("", "~"), 10).await;
        listed.expect("a scan").len()
    };
    assert_eq!(count(lock).await, 0);
    assert_eq!((count(default).await, count(write).await), (2, 2));
    node.stop().await;
}

/// Flotilla has no coprocessor; the client is told so at once, and its connection lives on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_raw_coprocessor_is_refused() {
    let mut node = TestNode::start().await;
    let client = client(&node.addr()).await;
    client.put(key("k"), "v").await.expect("put");
    let refused = in_time(
        "the coprocessor",
        client.coprocessor("sum", "1", [range("a", "z")], |_, _| Vec::new()),
    )
    .await
    .expect_err("there is none");
    let text = format!("{refused:?}");
    assert!(text.contains("Unimplemented"), "{text}");
    assert_eq!(value(&client, key("k")).await, Some(b"v".to_vec()));
    node.stop().await;
}
