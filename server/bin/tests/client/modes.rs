//! A cluster keeps its keys in one of two modes. The first use decides, and everybody who comes in
//! the other mode is told.

use flotilla::config::KeyMode;
use flotilla::node::StartError;
use flotilla::placement::Unfit;
use tikv_client::RawClient;

use crate::support::stock::{client, client_in, key, patient, range};
use crate::support::{TestNode, http, in_time};

/// What a client of API v2 is told.
async fn refusal_of_v2(node: &TestNode, keyspace: &str) -> String {
    let config = patient().with_keyspace(keyspace);
    let refused = RawClient::new_with_config(vec![node.addr()], config).await;
    refused.err().expect("it is refused").to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_cluster_refuses_api_v2() {
    let mut node = TestNode::start().await;
    let plain = client(&node.addr()).await;
    plain.put(key("k"), "v").await.expect("it decides the mode");
    let text = refusal_of_v2(&node, "DEFAULT").await;
    assert!(text.contains("this cluster holds plain raw keys"), "{text}");
    let created = http::post(
        node.socket(),
        "/pd/api/v2/keyspaces",
        r#"{"name": "orders"}"#,
    )
    .await;
    assert_eq!(created.status, 409, "{created:?}");
    assert_eq!(
        plain.get(key("k")).await.expect("it is not disturbed"),
        Some(b"v".to_vec())
    );
    node.stop().await;

    // The decision is durable: nobody needs to use the cluster first.
    node.start_again().await;
    let text = refusal_of_v2(&node, "DEFAULT").await;
    assert!(text.contains("this cluster holds plain raw keys"), "{text}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_encoded_cluster_refuses_raw_api_v1() {
    let mut node = TestNode::start().await;
    let encoded = client_in(&node.addr(), "DEFAULT").await;
    encoded
        .put(key("k"), "v")
        .await
        .expect("it decides the mode");
    for again in [false, true] {
        if again {
            node.stop().await;
            node.start_again().await;
        }
        let plain = client(&node.addr()).await;
        let atomic = plain.with_atomic_for_cas();
        let all = || range("a", "z");
        let refused = [
            plain.put(key("r"), "v").await,
            plain.get(key("r")).await.map(drop),
            plain.delete(key("r")).await,
            plain.get_key_ttl_secs(key("r")).await.map(drop),
            plain.batch_put([("r".to_owned(), "v")]).await,
            plain.batch_delete([key("r")]).await,
            plain.delete_range(all()).await,
            atomic.compare_and_swap(key("r"), None, "v").await.map(drop),
            // These have no field for an error, so it comes as a status.
            in_time("a scan", plain.scan(all(), 10)).await.map(drop),
            in_time("batch get", plain.batch_get([key("r")]))
                .await
                .map(drop),
            in_time("batch scan", plain.batch_scan([all()], 10))
                .await
                .map(drop),
        ];
        for (nth, refused) in refused.into_iter().enumerate() {
            let text = format!("{:?}", refused.expect_err("the other mode"));
            assert!(text.contains("ApiVersionNotMatched"), "call {nth}: {text}");
            assert!(
                text.contains("encoded"),
                "call {nth} names the mode: {text}"
            );
        }
        let encoded = client_in(&node.addr(), "DEFAULT").await;
        let value = encoded.get(key("k")).await.expect("it is not disturbed");
        assert_eq!(value, Some(b"v".to_vec()));
    }
    node.stop().await;
}

/// A configured mode decides before anybody comes, and is compared at every start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configured_mode_is_kept() {
    let mut node = TestNode::with(|config| config.key_mode = KeyMode::Encoded).await;
    let plain = client(&node.addr()).await;
    let refused = plain.put(key("k"), "v").await;
    let text = format!("{:?}", refused.expect_err("the other mode"));
    assert!(text.contains("ApiVersionNotMatched"), "{text}");
    let encoded = client_in(&node.addr(), "DEFAULT").await;
    encoded.put(key("k"), "v").await.expect("put");
    node.stop().await;

    let error = node
        .refused_with(|config| config.key_mode = KeyMode::Plain)
        .await;
    assert!(
        matches!(error, StartError::Unfit(Unfit::Mode(_))),
        "{error}"
    );
    let text = error.to_string();
    assert!(text.contains("storage.key-mode = plain"), "{text}");
    assert!(text.contains("keys are encoded"), "{text}");

    node.start_again().await;
    let encoded = client_in(&node.addr(), "DEFAULT").await;
    let value = encoded.get(key("k")).await.expect("nothing was lost");
    assert_eq!(value, Some(b"v".to_vec()));
    node.stop().await;
}
