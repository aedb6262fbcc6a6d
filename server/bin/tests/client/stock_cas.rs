//! Compare-and-swap by the stock Rust client.

use tikv_client::Error;

use crate::support::stock::{client, key, range};
use crate::support::{TestNode, in_time};

fn bytes(text: &str) -> Option<Vec<u8>> {
    Some(text.as_bytes().to_vec())
}

/// Absent, empty and filled are three different things to expect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_happens_if_the_row_is_as_expected() {
    let mut node = TestNode::start().await;
    let client = client(&node.addr()).await.with_atomic_for_cas();
    // (expected before, new value, found before, swapped)
    type Step<'a> = (Option<&'a str>, &'a str, Option<&'a str>, bool);
    let steps: [Step<'_>; 9] = [
        (Some(""), "x", None, false),
        (Some("x"), "x", None, false),
        (None, "v", None, true),
        (None, "w", Some("v"), false),
        (Some("w"), "w", Some("v"), false),
        (Some("v"), "", Some("v"), true),
        (None, "w", Some(""), false),
        (Some(""), "w", Some(""), true),
        (Some("w"), "w", Some("w"), true),
    ];
    for name in ["k", ""] {
        for (nth, (expected, new, found, swapped)) in steps.into_iter().enumerate() {
            let outcome = client
                .compare_and_swap(key(name), expected.and_then(bytes), new)
                .await
                .expect("a swap is answered");
            assert_eq!(
                outcome,
                (found.and_then(bytes), swapped),
                "step {nth} on {name:?}"
            );
        }
        let last = client.get(key(name)).await.expect("get");
        assert_eq!(last, bytes("w"), "{name:?}");
    }
    node.stop().await;
}

/// A deleted and an expired row are absent ones; a swap takes the row's time to live away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_sees_deletions_and_ends_the_time_to_live() {
    let mut node = TestNode::start().await;
    let client = client(&node.addr()).await.with_atomic_for_cas();
    client
        .put_with_ttl(key("k"), "v", 100_000)
        .await
        .expect("put");
    let outcome = client.compare_and_swap(key("k"), bytes("v"), "w").await;
    assert_eq!(outcome.expect("answered"), (bytes("v"), true));
    let ttl = client.get_key_ttl_secs(key("k")).await.expect("a ttl");
    assert_eq!(ttl, Some(0));
    client.delete(key("k")).await.expect("delete");
    let outcome = client.compare_and_swap(key("k"), None, "x").await;
    assert_eq!(outcome.expect("answered"), (None, true));
    node.stop().await;
}

/// The client itself separates the two modes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_the_other_mode_are_refused_by_the_client() {
    let mut node = TestNode::start().await;
    let plain = client(&node.addr()).await;
    let atomic = plain.with_atomic_for_cas();
    let refused = [
        plain.compare_and_swap(key("k"), None, "v").await.map(drop),
        atomic.batch_delete([key("k")]).await,
        atomic.delete_range(range("a", "z")).await,
    ];
    for refused in refused {
        assert!(
            matches!(refused, Err(Error::UnsupportedMode)),
            "{refused:?}"
        );
    }
    atomic.put(key("k"), "v").await.expect("put");
    atomic
        .batch_put([("l".to_owned(), "v")])
        .await
        .expect("batch put");
    atomic.delete(key("k")).await.expect("delete");
    assert_eq!(plain.get(key("l")).await.expect("get"), bytes("v"));
    node.stop().await;
}

/// Counters that several clients raise by swaps lose no step, also while regions are cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_swaps_lose_nothing() {
    const CLIENTS: u64 = 6;
    const STEPS: u64 = 20;
    let mut node = TestNode::start().await;
    let (addr, wire) = (node.addr(), node.wire().await);
    let counting = (0..CLIENTS).map(|_| {
        let addr = addr.clone();
        tokio::spawn(async move {
            let client = client(&addr).await.with_atomic_for_cas();
            let counter = key("the counter");
            for _ in 0..STEPS {
                let mut seen = client.get(counter.clone()).await.expect("get");
                loop {
                    let text = seen.as_ref().map(|text| String::from_utf8_lossy(text));
                    let count: u64 = text.map_or(0, |text| text.parse().expect("a number"));
                    let next = (count + 1).to_string();
                    let (found, swapped) = client
                        .compare_and_swap(counter.clone(), seen, next)
                        .await
                        .expect("a swap is answered");
                    if swapped {
                        break;
                    }
                    seen = found;
                }
            }
        })
    });
    let counting: Vec<_> = counting.collect();
    wire.split(["c", "the counter", "the counterpart", "x"])
        .await;
    for client in counting {
        in_time("counting", client)
            .await
            .expect("it does not panic");
    }
    let reader = client(&addr).await;
    let total = reader.get(key("the counter")).await.expect("get");
    assert_eq!(total, bytes(&(CLIENTS * STEPS).to_string()));
    node.stop().await;
}
