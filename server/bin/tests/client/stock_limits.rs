//! Large keys, values and answers through the stock Rust client.

use tikv_client::{Error, RawClient};

use crate::support::stock::{client, key, patient, range};
use crate::support::{TestNode, in_time};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// The longest key that can be written.
const KEY_MAX: usize = 8 * KIB;
/// The largest value.
const VALUE_MAX: usize = 6 * MIB;

/// The error text that the server gave.
#[track_caller]
fn told(refused: Result<(), Error>) -> String {
    format!("{:?}", refused.expect_err("refused"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_up_to_their_limit() {
    let mut node = TestNode::start().await;
    let client = client(&node.addr()).await;
    let (longest, longer) = (vec![b'k'; KEY_MAX], vec![b'k'; KEY_MAX + 1]);
    client.put(longest.clone(), "v").await.expect("it fits");
    assert_eq!(
        client.get(longest.clone()).await.expect("get"),
        Some(b"v".to_vec())
    );
    for refused in [
        client.put(longer.clone(), "v").await,
        client.batch_put([(longer.clone(), "v")]).await,
        client.delete(longer.clone()).await,
    ] {
        let text = told(refused);
        assert!(text.contains("key too large: 8193 bytes"), "{text}");
    }
    let found = client.get(longer).await.expect("a read of it");
    assert_eq!(found, None, "nothing can be there");
    client.delete(longest).await.expect("delete");
    node.stop().await;
}

/// A client of larger answers reads every value; one on its defaults takes answers up to 4 MiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_up_to_their_limit() {
    let mut node = TestNode::start().await;
    let usual = client(&node.addr()).await;
    let roomy = patient().with_grpc_max_decoding_message_size(64 * MIB);
    let roomy = RawClient::new_with_config(vec![node.addr()], roomy)
        .await
        .expect("it connects");

    let below = vec![1; 4 * MIB - KIB];
    usual
        .put(key("below 4 MiB"), below.clone())
        .await
        .expect("put");
    let found = in_time("get", usual.get(key("below 4 MiB"))).await;
    assert_eq!(found.expect("get").as_ref(), Some(&below));

    let largest: Vec<u8> = (0..VALUE_MAX).map(|nth| (nth % 251) as u8).collect();
    usual
        .put(key("largest"), largest.clone())
        .await
        .expect("put");
    let found = in_time("get", roomy.get(key("largest"))).await;
    assert_eq!(found.expect("get").as_ref(), Some(&largest));
    let text = told(in_time("get", usual.get(key("largest"))).await.map(drop));
    assert!(
        text.contains("OutOfRange"),
        "the client's own limit: {text}"
    );

    let larger = vec![0; VALUE_MAX + 1];
    for refused in [
        in_time("put", usual.put(key("larger"), larger.clone())).await,
        in_time("put", usual.batch_put([("larger".to_owned(), larger)])).await,
    ] {
        let text = told(refused);
        assert!(text.contains("value too large: 6291457 bytes"), "{text}");
    }
    assert_eq!(usual.get(key("larger")).await.expect("get"), None);
    node.stop().await;
}

/// The client has no limit in bytes for what it asks for, and the server must not cut an answer
/// short: the client would take that for the end of the region.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scans_with_large_answers() {
    const ROWS: usize = 80;
    let mut node = TestNode::start().await;
    let usual = client(&node.addr()).await;
    let roomy = patient().with_grpc_max_decoding_message_size(128 * MIB);
    let roomy = RawClient::new_with_config(vec![node.addr()], roomy)
        .await
        .expect("it connects");
    for nth in 0..ROWS {
        let row = vec![nth as u8; MIB];
        usual.put(format!("row {nth:03}"), row).await.expect("put");
    }
    // 3 MiB fit the client's default, 5 MiB do not.
    let three = usual.scan(range("row", "rox"), 3).await.expect("a scan");
    assert_eq!(three.len(), 3);
    let five = in_time("a scan", usual.scan(range("row", "rox"), 5)).await;
    let text = told(five.map(drop));
    assert!(
        text.contains("OutOfRange"),
        "the client's own limit: {text}"
    );

    let many = in_time("a scan", roomy.scan(range("row", "rox"), 60)).await;
    let many = many.expect("a scan");
    assert_eq!(many.len(), 60);
    for (nth, row) in many.iter().enumerate() {
        assert_eq!(row.value().len(), MIB);
        assert!(row.value().iter().all(|byte| *byte == nth as u8), "{nth}");
    }
    // More than any answer may have: an error, not fewer rows.
    let all = in_time("a scan", roomy.scan(range("row", "rox"), 10_000)).await;
    let text = told(all.map(drop));
    assert!(text.contains("the answer would exceed"), "{text}");
    let listed = roomy.scan_keys(range("row", "rox"), 10_000).await;
    assert_eq!(listed.expect("keys only").len(), ROWS);
    node.stop().await;
}
