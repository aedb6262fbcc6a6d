//! Plain HTTP on the same port as gRPC.

use flotilla_pd::SENTINEL_BOUNDARY;

use crate::support::stock::client;
use crate::support::{TestNode, eventually, http};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_pd() {
    let mut node = TestNode::start().await;
    let (at, wire) = (node.socket(), node.wire().await);
    wire.split(["d", "m"]).await;
    let page = async |path: &str| {
        let page = http::get(at, path).await;
        assert_eq!(page.status, 200, "{page:?}");
        assert_eq!(page.content_type, "application/json");
        page.json()
    };

    let cluster = page("/pd/api/v1/cluster").await;
    assert_eq!(cluster["id"], wire.cluster);
    let version = page("/pd/api/v1/version").await;
    assert!(
        version["version"]
            .as_str()
            .is_some_and(|v| v.starts_with('v'))
    );
    let members = page("/pd/api/v1/members").await;
    assert_eq!(members["header"]["cluster_id"], wire.cluster);
    let url = format!("http://{at}");
    assert_eq!(members["leader"]["client_urls"][0], url.as_str());
    assert_eq!(members["members"][0], members["leader"]);

    let regions = page("/pd/api/v1/regions").await;
    assert_eq!(regions["count"], 4);
    let regions = regions["regions"].as_array().expect("a list");
    let starts: Vec<_> = regions
        .iter()
        .map(|region| region["start_key"].as_str().expect("text").to_owned())
        .collect();
    assert_eq!(starts, ["", "64", "6D", &hex(&SENTINEL_BOUNDARY)]);
    for (region, route) in regions.iter().zip(wire.routes().await) {
        assert_eq!(region["id"], route.region.id);
        assert_eq!(region["epoch"]["version"], route.version());
        assert_eq!(region["leader"]["id"], route.leader.id);
        assert_eq!(region["peers"][0]["store_id"], 1);
    }
    let stores = eventually("the store has reported", async || {
        let stores = page("/pd/api/v1/stores").await;
        let reported = stores["stores"][0]["store"]["state_name"] == "Up";
        reported.then_some(stores)
    })
    .await;
    assert_eq!(stores["count"], 1);
    let store = &stores["stores"][0]["store"];
    assert_eq!(store["id"], 1);
    assert_eq!(store["address"], at.to_string());
    assert_eq!(stores["stores"][0]["status"]["leader_count"], 4);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_metrics_and_an_index() {
    let mut node = TestNode::start().await;
    let at = node.socket();
    let health = http::get(at, "/health").await;
    assert_eq!(health.status, 200);
    assert_eq!(health.json()["status"], "serving");

    let stock = client(&node.addr()).await;
    for nth in 0..10 {
        stock.put(format!("{nth}"), "v").await.expect("put");
        stock.get(format!("{nth}")).await.expect("get");
    }
    let metrics = http::get(at, "/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.content_type.starts_with("text/plain"));
    let of = |name: &str| -> f64 {
        let line = metrics
            .body
            .lines()
            .find_map(|line| line.strip_prefix(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in\n{}", metrics.body));
        line.trim().parse().expect("a number")
    };
    for rpc in ["RawPut", "RawGet"] {
        let calls = of(&format!("flotilla_rpc_seconds_count{{rpc=\"{rpc}\"}}"));
        assert!(calls >= 10.0, "{rpc}: {calls}");
    }
    assert!(
        of("flotilla_log_syncs_total") >= 10.0,
        "each put was waited for"
    );
    assert!(of("flotilla_connections ") >= 1.0);
    for line in metrics.body.lines().filter(|line| !line.is_empty()) {
        let named = ["# ", "flotilla_", "process_"]
            .iter()
            .any(|start| line.starts_with(start));
        assert!(named, "not a metric of ours: {line}");
    }

    let index = http::get(at, "/").await;
    assert_eq!(index.status, 200);
    for path in ["/health", "/metrics", "/pd/api/v1/regions"] {
        assert!(index.body.contains(path), "{}", index.body);
    }
    assert_eq!(http::get(at, "/nothing/here").await.status, 404);
    let posted = http::post(at, "/pd/api/v1/regions", "{}").await;
    assert_eq!(posted.status, 405, "{posted:?}");
    node.stop().await;
}

/// With an address of their own the pages are gone from the clients' port, the health check is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_may_have_an_address_of_their_own() {
    let mut node = TestNode::with(|config| {
        config.status_addr = Some("127.0.0.1:0".parse().expect("an address"));
    })
    .await;
    let (at, pages) = (node.socket(), node.node().status_addr());
    let pages = pages.expect("it has one");
    assert_ne!(at, pages);
    for (addr, path, status) in [
        (at, "/health", 200),
        (at, "/metrics", 403),
        (at, "/pd/api/v1/stores", 403),
        (pages, "/health", 200),
        (pages, "/metrics", 200),
        (pages, "/pd/api/v1/stores", 200),
    ] {
        let page = http::get(addr, path).await;
        assert_eq!(page.status, status, "{path}: {page:?}");
    }
    let stock = client(&node.addr()).await;
    stock.put("k".to_owned(), "v").await.expect("put");
    node.stop().await;
}
