//! What is there again after a stop, and after a crash.

use flotilla_proto::kvrpcpb as kv;
use flotilla_proto::pdpb as p;

use crate::support::stock::{client, key, keys, range};
use crate::support::wire::served;
use crate::support::{TestNode, in_time};

/// Rows, regions and ids outlive the process, however it ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_there_again() {
    let mut node = TestNode::start().await;
    let cluster = node.wire().await.cluster;
    let mut written: Vec<String> = Vec::new();
    let mut last_id = 0;
    for (round, crash) in [false, true, true, false, true].into_iter().enumerate() {
        let (wire, stock) = (node.wire().await, client(&node.addr()).await);
        assert_eq!(wire.cluster, cluster, "round {round}");
        let found = in_time("a scan", stock.scan_keys(range("", "~"), 10_240)).await;
        assert_eq!(keys(found.expect("a scan")), written, "round {round}");

        let rows: Vec<_> = (0..100)
            .map(|nth| format!("round {round} row {nth:03}"))
            .collect();
        let pairs = rows.iter().map(|row| (row.clone(), row.clone()));
        stock.batch_put(pairs).await.expect("batch put");
        let ttl = (format!("round {round} ttl"), "v");
        stock
            .batch_put_with_ttl([ttl.clone()], [100_000])
            .await
            .expect("batch put");
        written.extend(rows);
        written.push(ttl.0);
        if round > 0 {
            let gone = written.remove(0);
            stock.delete(gone).await.expect("delete");
        }

        wire.split([format!("round {round} row 050")]).await;
        let routes = wire.settled_routes().await;
        assert_eq!(routes.len(), 2 + round + 1, "{routes:?}");
        let request = p::AllocIdRequest::default();
        let id = wire.sound(wire.alloc_id(request).await).id;
        assert!(id > last_id, "ids rise over restarts");
        last_id = id;

        drop((wire, stock));
        if crash {
            node.crash().await;
        } else {
            node.stop().await;
        }
        node.start_again().await;

        let wire = node.wire().await;
        let found = wire.settled_routes().await;
        assert_eq!(found, routes, "regions are as they were");
        for route in found {
            let request = kv::RawScanRequest {
                context: Some(wire.context(&route)),
                limit: 1,
                ..kv::RawScanRequest::default()
            };
            served(wire.raw_scan(request).await);
        }
    }
    node.stop().await;
}

/// Whoever keeps his client sees a pause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_outlives_the_node() {
    // An address of its own: on the usual one, a port that is free for a moment may be given to
    // another test's connection.
    let mut node = TestNode::with(|config| "127.0.0.2".clone_into(&mut config.addr.host)).await;
    let port = node.socket().port();
    let stock = client(&node.addr()).await;
    stock.put(key("k"), "0").await.expect("put");
    for round in 1..=3 {
        if round == 2 {
            node.crash().await;
        } else {
            node.stop().await;
        }
        node.start_at(port).await;
        let value = in_time("a get", stock.get(key("k"))).await;
        let before = (round - 1).to_string().into_bytes();
        assert_eq!(value.expect("get"), Some(before));
        in_time("a put", stock.put(key("k"), round.to_string()))
            .await
            .expect("put");
    }
    node.stop().await;
}
