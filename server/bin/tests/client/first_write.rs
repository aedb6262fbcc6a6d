//! The first minute of a user: a fresh folder, a client, a key.

use tikv_client::RawClient;

use crate::support::{TestNode, in_time};

/// No wait, no retry, no setting: the node that says it serves takes the first write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_node_takes_the_first_write_of_the_stock_client() {
    let mut node = TestNode::start().await;
    let addr = node.addr();
    let client = in_time("connecting", RawClient::new(vec![addr])).await;
    let client = client.expect("it connects");
    in_time("the first put", client.put("hello".to_owned(), "world"))
        .await
        .expect("it is written");
    let value = in_time("the first get", client.get("hello".to_owned())).await;
    assert_eq!(value.expect("it is read"), Some(b"world".to_vec()));
    node.stop().await;
}

/// Addresses may carry a scheme, as some examples of the client have them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_connect_at_once() {
    let mut node = TestNode::start().await;
    let addr = node.addr();
    let connecting = (0..32).map(|nth| {
        let addr = addr.clone();
        tokio::spawn(async move {
            let client = RawClient::new(vec![addr]).await.expect("it connects");
            let key = format!("client {nth}");
            client.put(key.clone(), key.clone()).await.expect("written");
            let value = client.get(key.clone()).await.expect("read");
            assert_eq!(value, Some(key.into_bytes()));
        })
    });
    for client in connecting.collect::<Vec<_>>() {
        in_time("a client", client)
            .await
            .expect("it does not panic");
    }
    node.stop().await;
}
