//! Three nodes in one process, on real sockets and disks. PD brings every region to all of them.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use flotilla_pd::calls;
use flotilla_pd_client::ClientConfig;
use flotilla_proto::kvrpcpb as k;
use flotilla_proto::metapb::PeerRole;
use flotilla_proto::tikvpb::tikv_client::TikvClient;

use super::*;
use crate::{EmbedError, Flotilla, LocalError};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at what nobody announces.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The first data region ...
const REGION: u64 = 3;
/// ... and all that a cluster begins with.
const REGIONS: [u64; 3] = [META_REGION, REGION, 5];

/// Looks again and again until `look` finds something.
async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, looking).await;
    found.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for this: {what}"))
}

fn config(dir: &Path, addr: &str, join: Option<&HostPort>) -> Loaded {
    let loaded = Loaded::from_defaults(|config| {
        config.data_dir = Some(dir.to_owned());
        config.addr = addr.parse().expect("an address");
        config.join = join.cloned();
        config.disk_reserve = Some(crate::config::ByteSize::mib(64));
    });
    loaded.expect("valid")
}

async fn start(dir: &Path, addr: &str, join: Option<&HostPort>) -> Flotilla {
    let started = Flotilla::open(&config(dir, addr, join)).await;
    started.unwrap_or_else(|error| panic!("did not start: {error}"))
}

/// As [`start`], on the port of an earlier run.
async fn restart(dir: &Path, addr: &str) -> Flotilla {
    start(dir, addr, None).await
}

/// The node that leads `region`.
async fn leader(nodes: &[Flotilla], region: u64) -> &Flotilla {
    let leads = |node: &&Flotilla| {
        let serving = node.node().store.runtime.delegates.serving(region);
        serving.is_ok_and(|serving| serving.is_leader())
    };
    eventually("a leader", async || nodes.iter().find(leads)).await
}

/// Puts or gets a row on whichever node serves it.
async fn ask<T>(
    nodes: &[Flotilla],
    mut call: impl AsyncFnMut(TikvClient<tonic::transport::Channel>, k::Context) -> Option<T>,
) -> T {
    eventually("a request to be served", async || {
        let node = leader(nodes, REGION).await;
        let serving = node.node().store.runtime.delegates.serving(REGION).ok()?;
        let context = k::Context {
            region_id: REGION,
            region_epoch: serving.region.region_epoch,
            peer: Some(serving.peer),
            ..k::Context::default()
        };
        let channel = crate::peers::endpoint(&node.addr().to_string(), &Dial::PLAIN).ok()?;
        call(TikvClient::new(channel.connect_lazy()), context).await
    })
    .await
}

async fn put(nodes: &[Flotilla], key: &str) {
    ask(nodes, async |mut tikv, context| {
        let request = k::RawPutRequest {
            context: Some(context),
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: "value".into(),
            ..k::RawPutRequest::default()
        };
        let answer = tikv.raw_put(request).await.ok()?.into_inner();
        (answer.region_error.is_none() && answer.error.is_empty()).then_some(())
    })
    .await;
}

async fn get(nodes: &[Flotilla], key: &str) -> Bytes {
    ask(nodes, async |mut tikv, context| {
        let request = k::RawGetRequest {
            context: Some(context),
            key: Bytes::copy_from_slice(key.as_bytes()),
            ..k::RawGetRequest::default()
        };
        let answer = tikv.raw_get(request).await.ok()?.into_inner();
        (answer.region_error.is_none() && answer.error.is_empty()).then_some(answer.value)
    })
    .await
}

/// Every region has a voter on each of `nodes`, and each of them knows who leads.
async fn settled(nodes: &[Flotilla]) {
    for (node, region) in nodes
        .iter()
        .flat_map(|node| REGIONS.map(|region| (node, region)))
    {
        eventually("every replica to know the leader", async || {
            let serving = node.node().store.runtime.delegates.serving(region).ok()?;
            let voters = serving.region.peers.iter();
            let voters = voters.filter(|peer| peer.role() == PeerRole::Voter);
            (voters.count() == nodes.len() && serving.leader.is_some()).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn stores_join_replicate_fail_over_and_come_back() {
    let dirs: Vec<_> = (0..3)
        .map(|_| tempfile::tempdir().expect("a folder"))
        .collect();
    let mut nodes = vec![start(dirs[0].path(), "127.0.0.1:0", None).await];
    put(&nodes, "before").await;
    for dir in &dirs[1..] {
        // Any node will do: the third joins by the second.
        let join = nodes.last().map(|node| node.advertised().clone());
        nodes.push(start(dir.path(), "127.0.0.1:0", join.as_ref()).await);
    }
    settled(&nodes).await;
    put(&nodes, "with three").await;
    // Each reads what it leads, and says who leads what it does not.
    let store = |node: &Flotilla| node.node().store().ids.store_id;
    let led_by = store(leader(&nodes, REGION).await);
    for node in &nodes {
        let expected = if store(node) == led_by {
            Ok(Some("value".into()))
        } else {
            Err(LocalError::Elsewhere { store: led_by })
        };
        assert_eq!(node.get("with three").await, expected);
    }

    // Without a node that leads, the other two go on.
    let gone = nodes.remove(0);
    let addr = gone.addr().to_string();
    gone.kill().await;
    put(&nodes, "with two").await;
    assert_eq!(get(&nodes, "before").await, "value");
    let config = ClientConfig::new(vec![nodes[0].addr().to_string()]);
    let pd = PdClient::new(config).expect("an address");
    assert_eq!(pd.get_all_stores(true).await.expect("PD answers").len(), 3);

    // It comes back and catches up; then all stop, and all start again.
    nodes.insert(0, restart(dirs[0].path(), &addr).await);
    settled(&nodes).await;
    let addrs: Vec<String> = nodes.iter().map(|node| node.addr().to_string()).collect();
    for node in nodes.drain(..) {
        node.kill().await;
    }
    let starting = dirs.iter().zip(&addrs);
    let starting = starting.map(|(dir, addr)| restart(dir.path(), addr));
    nodes.extend(futures::future::join_all(starting).await);
    for key in ["before", "with three", "with two"] {
        assert_eq!(get(&nodes, key).await, "value", "{key}");
    }
    put(&nodes, "after").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_in_this_program_reads_and_writes_without_a_socket() {
    // More than a scan reads at once.
    const ROWS: usize = 1_100;
    let dir = tempfile::tempdir().expect("a folder");
    let node = start(dir.path(), "127.0.0.1:0", None).await;
    let key = |row: usize| format!("row {row:04}");
    let puts = (0..ROWS).map(|row| node.put(key(row), "value"));
    for put in futures::future::join_all(puts).await {
        put.expect("written");
    }
    node.delete(key(7)).await.expect("deleted");
    assert_eq!(node.get(key(7)).await, Ok(None));
    assert_eq!(node.get(key(8)).await, Ok(Some("value".into())));
    let rows = node.scan("", "", usize::MAX).await.expect("all rows");
    let expected = (0..ROWS).filter(|row| *row != 7);
    let expected: Vec<Bytes> = expected.map(|row| key(row).into()).collect();
    let found: Vec<Bytes> = rows.into_iter().map(|(key, _)| key).collect();
    assert_eq!(found, expected);
    let some = node.scan(key(6), key(9), 2).await.expect("some rows");
    let some: Vec<_> = some.into_iter().map(|(key, _)| key).collect();
    assert_eq!(some, [key(6), key(8)]);
    let large = vec![0; 64 << 20];
    let refused = node.put("row", large).await;
    assert!(
        matches!(refused, Err(LocalError::Refused { .. })),
        "{refused:?}"
    );

    // It stops and comes back, and dies and comes back.
    let addr = node.addr().to_string();
    node.shutdown().await.expect("stopped");
    let node = start(dir.path(), &addr, None).await;
    node.put("later", "value").await.expect("written");
    node.kill().await;
    let node = start(dir.path(), &addr, None).await;
    for row in [key(8), "later".to_owned()] {
        assert_eq!(node.get(row).await, Ok(Some("value".into())));
    }
    node.shutdown().await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_that_was_removed_ends_and_does_not_come_back() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let first = start(dirs[0].path(), "127.0.0.1:0", None).await;
    let mut second = config(dirs[1].path(), "127.0.0.1:0", Some(first.advertised()));
    second.config.store_heartbeat = Duration::from_millis(50);
    let node = Flotilla::open(&second).await.expect("joined");
    let store = node.node().store().ids.store_id;

    let remove = flotilla_pd::SetStoreState {
        store,
        offline: true,
    };
    let removed = first.node().pd().call::<calls::SetStoreState>(remove).await;
    assert_eq!(removed.expect("PD answers").0, Ok(()));
    let failed = tokio::time::timeout(PATIENCE, node.failed()).await;
    let failed = failed.expect("it ends by itself");
    assert!(
        matches!(failed, Fatal::Removed { store: gone } if gone == store),
        "{failed}"
    );
    let text = failed.to_string();
    assert!(text.contains("was removed from its cluster"), "{text}");
    node.kill().await;

    second.config.join = None;
    match Flotilla::open(&second).await {
        Err(EmbedError::Start(StartError::Unfit(error))) => {
            let text = error.to_string();
            assert!(text.contains("was removed from its cluster"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    first.shutdown().await.expect("stopped");
}
