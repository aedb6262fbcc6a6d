//! PD: the cluster, its members and stores, ids, keyspaces; headers and their errors.

use std::collections::BTreeSet;

use flotilla_proto::keyspacepb as k;
use flotilla_proto::keyspacepb::keyspace_meta::Keyspace;
use flotilla_proto::keyspacepb::load_keyspace_by_id_request::Keyspace as ById;
use flotilla_proto::metapb::StoreState;
use flotilla_proto::pdpb as p;
use flotilla_proto::pdpb::{ErrorType, ServiceMode};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{TestNode, Wire};

/// The store that a fresh cluster has.
const STORE: u64 = 1;

fn foreign(wire: &Wire) -> Option<p::RequestHeader> {
    Some(p::RequestHeader {
        cluster_id: wire.cluster ^ 1,
        ..p::RequestHeader::default()
    })
}

/// Clients ask before they know the cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_told_to_everybody() {
    let mut node = TestNode::start().await;
    let wire = node.wire().await;
    assert_ne!(wire.cluster, 0);
    let url = format!("http://{}", node.addr());
    for header in [None, wire.header(), foreign(&wire)] {
        let request = p::GetMembersRequest { header };
        let answer = wire.pd.clone().get_members(request).await;
        let answer = answer.expect("an answer").into_inner();
        let header = answer.header.expect("a header");
        assert_eq!(header.cluster_id, wire.cluster);
        assert_eq!(
            header.error, None,
            "an error of any kind keeps clients away"
        );
        let [member] = &answer.members[..] else {
            panic!("one member: {:?}", answer.members)
        };
        assert_ne!(member.member_id, 0);
        assert_ne!(member.name, "");
        assert_eq!(member.client_urls, [url.as_str()]);
        assert_eq!(answer.leader.as_ref(), Some(member));
    }
    for header in [None, Some(cluster_header(wire.cluster ^ 1))] {
        let request = p::GetClusterInfoRequest { header };
        let answer = wire.pd.clone().get_cluster_info(request).await;
        let answer = answer.expect("an answer").into_inner();
        let header = answer.header.expect("a header");
        assert_eq!((header.cluster_id, header.error), (wire.cluster, None));
        assert_eq!(answer.service_modes, [ServiceMode::PdSvcMode as i32]);
    }
    node.stop().await;
}

/// This one call has a response's header in its request.
fn cluster_header(cluster_id: u64) -> p::ResponseHeader {
    p::ResponseHeader {
        cluster_id,
        error: None,
    }
}

/// Everybody else must know whom they talk to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_is_refused() {
    let mut node = TestNode::start().await;
    let wire = node.wire().await;
    macro_rules! refusal {
        ($package:ident: $method:ident($request:ident)) => {{
            let request = $package::$request {
                header: foreign(&wire),
                ..$package::$request::default()
            };
            (stringify!($method), wire.$method(request).await.map(drop))
        }};
    }
    let refusals = [
        refusal!(p: is_bootstrapped(IsBootstrappedRequest)),
        refusal!(p: bootstrap(BootstrapRequest)),
        refusal!(p: alloc_id(AllocIdRequest)),
        refusal!(p: get_store(GetStoreRequest)),
        refusal!(p: get_all_stores(GetAllStoresRequest)),
        refusal!(p: get_region(GetRegionRequest)),
        refusal!(p: get_prev_region(GetRegionRequest)),
        refusal!(p: get_region_by_id(GetRegionByIdRequest)),
        refusal!(p: scan_regions(ScanRegionsRequest)),
        refusal!(p: batch_scan_regions(BatchScanRegionsRequest)),
        refusal!(p: get_cluster_config(GetClusterConfigRequest)),
        refusal!(p: scatter_region(ScatterRegionRequest)),
        refusal!(p: get_operator(GetOperatorRequest)),
        refusal!(p: split_regions(SplitRegionsRequest)),
        refusal!(p: get_gc_safe_point(GetGcSafePointRequest)),
        refusal!(p: update_gc_safe_point(UpdateGcSafePointRequest)),
        refusal!(p: get_min_ts(GetMinTsRequest)),
        refusal!(k: load_keyspace(LoadKeyspaceRequest)),
        refusal!(k: get_all_keyspaces(GetAllKeyspacesRequest)),
    ];
    let expected = format!(
        "mismatch cluster id, need {} but got {}",
        wire.cluster,
        wire.cluster ^ 1
    );
    for (call, refusal) in refusals {
        let status = refusal.expect_err(call);
        assert_eq!(status.code(), Code::FailedPrecondition, "{call}");
        assert_eq!(status.message(), expected, "{call}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_is_there_from_the_start() {
    let mut node = TestNode::start().await;
    let wire = node.wire().await;
    let asked = wire.is_bootstrapped(p::IsBootstrappedRequest::default());
    assert!(wire.sound(asked.await).bootstrapped);
    let again = wire.bootstrap(p::BootstrapRequest::default()).await;
    let (kind, _) = wire.refused(again);
    assert_eq!(kind, ErrorType::AlreadyBootstrapped);
    let asked = wire.get_cluster_config(p::GetClusterConfigRequest::default());
    let cluster = wire.sound(asked.await).cluster.expect("a cluster");
    assert_eq!(cluster.id, wire.cluster);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores() {
    let mut node = TestNode::start().await;
    let wire = node.wire().await;
    let ask = async |store_id| {
        let request = p::GetStoreRequest {
            store_id,
            ..p::GetStoreRequest::default()
        };
        wire.get_store(request).await
    };
    let store = wire.sound(ask(STORE).await).store.expect("the store");
    assert_eq!(store.id, STORE);
    assert_eq!(store.address, node.addr(), "without a scheme");
    assert_eq!(store.state, StoreState::Up as i32);
    let version: Vec<u64> = store
        .version
        .split('.')
        .map(|part| part.parse().expect("a number"))
        .collect();
    assert!(version >= vec![6, 1, 0], "clients of API v2 ask for that");

    for unknown in [0, 2, 4_711, u64::MAX] {
        let (kind, text) = wire.refused(ask(unknown).await);
        assert_eq!(kind, ErrorType::Unknown);
        // Clients look for both words.
        assert!(text.contains("invalid store ID"), "{text}");
        assert!(text.contains("not found"), "{text}");
    }
    for exclude_tombstone_stores in [false, true] {
        let request = p::GetAllStoresRequest {
            exclude_tombstone_stores,
            ..p::GetAllStoresRequest::default()
        };
        let all = wire.sound(wire.get_all_stores(request).await).stores;
        let ids: Vec<u64> = all.iter().map(|store| store.id).collect();
        assert_eq!(ids, [STORE]);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_are_never_given_twice() {
    let mut node = TestNode::start().await;
    let wire = node.wire().await;
    let ask = async |count| {
        let request = p::AllocIdRequest {
            count,
            ..p::AllocIdRequest::default()
        };
        let answer = wire.sound(wire.alloc_id(request).await);
        // The last of the batch; without a count it is one.
        let count = u64::from(count.max(1));
        (answer.id + 1 - count..=answer.id).collect::<Vec<u64>>()
    };
    let mut seen: BTreeSet<u64> = BTreeSet::new();
    for count in [0, 1, 1, 10, 1_000, 0, 2_500, 1] {
        for id in ask(count).await {
            assert!(seen.insert(id), "{id} was given before");
        }
    }
    let taken: Vec<u64> = wire
        .routes()
        .await
        .iter()
        .flat_map(|route| [route.region.id, route.leader.id])
        .collect();
    assert!(taken.iter().all(|id| !seen.contains(id)), "ids in use");
    let asking = (0..16).map(|_| {
        let wire = wire.clone();
        tokio::spawn(async move {
            let request = p::AllocIdRequest {
                count: 300,
                ..p::AllocIdRequest::default()
            };
            wire.sound(wire.alloc_id(request).await).id
        })
    });
    for asked in asking.collect::<Vec<_>>() {
        let last = asked.await.expect("no panic");
        for id in last - 299..=last {
            assert!(seen.insert(id), "{id} was given before");
        }
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_keyspace() {
    let mut node = TestNode::start().await;
    let wire = node.wire().await;
    let by_name = async |name: &str| {
        let request = k::LoadKeyspaceRequest {
            name: name.to_owned(),
            ..k::LoadKeyspaceRequest::default()
        };
        wire.load_keyspace(request).await
    };
    let default = wire.sound(by_name("DEFAULT").await).keyspace;
    let default = default.expect("it exists from the start");
    assert_eq!(default.name, "DEFAULT");
    assert_eq!(default.keyspace, Some(Keyspace::Id(0)));
    assert_eq!(default.state(), k::KeyspaceState::Enabled);
    for unknown in ["", "default", "nobody"] {
        let (kind, text) = wire.refused(by_name(unknown).await);
        assert_eq!(kind, ErrorType::EntryNotFound, "{unknown:?}");
        assert!(text.contains("not found"), "{text}");
    }
    let by_id = async |id| {
        let request = k::LoadKeyspaceByIdRequest {
            keyspace: Some(ById::Id(id)),
            ..k::LoadKeyspaceByIdRequest::default()
        };
        wire.load_keyspace_by_id(request).await
    };
    assert_eq!(wire.sound(by_id(0).await).keyspace.as_ref(), Some(&default));
    let (kind, _) = wire.refused(by_id(7).await);
    assert_eq!(kind, ErrorType::EntryNotFound);
    let request = k::LookupKeyspaceRequest {
        name: "DEFAULT".to_owned(),
        ..k::LookupKeyspaceRequest::default()
    };
    let found = wire.sound(wire.lookup_keyspace(request).await).keyspaces;
    assert_eq!(found, std::slice::from_ref(&default));
    let all = k::GetAllKeyspacesRequest::default();
    let all = wire.sound(wire.get_all_keyspaces(all).await).keyspaces;
    assert_eq!(all, [default]);
    let disabled = k::UpdateKeyspaceStateRequest {
        state: k::KeyspaceState::Disabled.into(),
        ..k::UpdateKeyspaceStateRequest::default()
    };
    let (kind, text) = wire.refused(wire.update_keyspace_state(disabled).await);
    assert_eq!(kind, ErrorType::Unknown);
    assert!(text.contains("DEFAULT"), "{text}");

    // A keyspace can be used once its boundaries are those of regions.
    let prefix =
        |mode: u8, id: u32| flotilla_kv::key::encode(&flotilla_kv::key::keyspace_prefix(mode, id));
    let starts: BTreeSet<_> = wire
        .routes()
        .await
        .into_iter()
        .map(|route| route.region.start_key)
        .collect();
    for (mode, id) in [(b'r', 0), (b'r', 1), (b'x', 0), (b'x', 1)] {
        assert!(starts.contains(&prefix(mode, id)), "{starts:02x?}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_and_safe_points() {
    let mut node = TestNode::start().await;
    let wire = node.wire().await;
    let request = p::GetOperatorRequest {
        region_id: 3,
        ..p::GetOperatorRequest::default()
    };
    let (kind, _) = wire.refused(wire.get_operator(request).await);
    assert_eq!(kind, ErrorType::RegionNotFound, "clients wait for this");
    let request = p::ScatterRegionRequest {
        regions_id: vec![3],
        ..p::ScatterRegionRequest::default()
    };
    let scattered = wire.sound(wire.scatter_region(request).await);
    assert_eq!(scattered.finished_percentage, 100);

    let update = async |safe_point| {
        let request = p::UpdateGcSafePointRequest {
            safe_point,
            ..p::UpdateGcSafePointRequest::default()
        };
        wire.sound(wire.update_gc_safe_point(request).await)
            .new_safe_point
    };
    let read = async || {
        let request = p::GetGcSafePointRequest::default();
        wire.sound(wire.get_gc_safe_point(request).await).safe_point
    };
    assert_eq!(read().await, 0);
    for (asked, becomes) in [(7, 7), (5, 7), (1 << 60, 1 << 60), (0, 1 << 60)] {
        assert_eq!(update(asked).await, becomes, "{asked}");
        assert_eq!(read().await, becomes);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health() {
    let mut node = TestNode::start().await;
    let wire = node.wire().await;
    let mut health = HealthClient::new(wire.channel.clone());
    let mut check = async |service: &str| {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        health.check(request).await
    };
    let answer = check("").await.expect("an answer").into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    let status = check("nonsense").await.expect_err("no such service");
    assert_eq!(status.code(), Code::NotFound);
    node.stop().await;
}
