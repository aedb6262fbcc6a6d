//! The rules every call keeps (wire, section 3.1).

mod common;

use std::collections::BTreeMap;

use common::{CLUSTER, World, header, outcome};
use expect_test::expect;
use flotilla_pd::plan::Asked;
use flotilla_pd::{
    AddOperator, CALL_NAMES, Call, CancelOperator, ChangeScheduler, Code, CreateKeyspace,
    DeleteRule, EvictLeaders, ExtendWindow, GetConfig, GetRules, HotRegions, HttpRequest,
    ListOperators, ListSchedulers, RegionHistory, Request, Response, SchedulerChange, SetConfig,
    SetRules, SetStoreState, Status, calls,
};
use flotilla_proto::pdpb::RequestHeader;

/// Calls that have no request header, or whose header is not looked at.
const UNCHECKED: &[&str] = &[
    "GetMembers",
    "GetClusterInfo",
    "LoadGlobalConfig",
    "StoreGlobalConfig",
    "ExtendWindow",
    "CreateKeyspace",
    "ListOperators",
    "AddOperator",
    "CancelOperator",
    "SetStoreState",
    "EvictLeaders",
    "GetConfig",
    "SetConfig",
    "GetRules",
    "SetRules",
    "DeleteRule",
    "ListSchedulers",
    "ChangeScheduler",
    "HotRegions",
    "RegionHistory",
    "Http",
];

/// One request of every call, empty but for its header.
fn every_call(header: Option<&RequestHeader>) -> Vec<Request> {
    macro_rules! with_header {
        ($($name:ident),* $(,)?) => {
            vec![$({
                let mut message = <calls::$name as Call>::Request::default();
                message.header = header.cloned();
                calls::$name::request(message)
            }),*]
        };
    }
    let mut requests = with_header![
        GetMembers,
        Bootstrap,
        IsBootstrapped,
        AllocID,
        GetStore,
        PutStore,
        GetAllStores,
        StoreHeartbeat,
        GetRegion,
        GetPrevRegion,
        GetRegionByID,
        QueryRegion,
        ScanRegions,
        BatchScanRegions,
        AskSplit,
        AskBatchSplit,
        ReportSplit,
        ReportBatchSplit,
        GetClusterConfig,
        PutClusterConfig,
        ScatterRegion,
        GetOperator,
        SplitRegions,
        SplitAndScatterRegions,
        GetGCSafePoint,
        UpdateGCSafePoint,
        UpdateServiceGCSafePoint,
        LoadKeyspace,
        LookupKeyspace,
        LoadKeyspaceByID,
        UpdateKeyspaceState,
        GetAllKeyspaces,
    ];
    requests.push(calls::GetClusterInfo::request(Default::default()));
    requests.push(calls::LoadGlobalConfig::request(Default::default()));
    requests.push(calls::StoreGlobalConfig::request(Default::default()));
    requests.push(calls::ExtendWindow::request(ExtendWindow { above_ms: 0 }));
    requests.push(calls::CreateKeyspace::request(CreateKeyspace::default()));
    requests.push(calls::ListOperators::request(ListOperators));
    let asked = Asked::TransferLeader { to: 0 };
    requests.push(calls::AddOperator::request(AddOperator {
        region: 0,
        asked,
    }));
    requests.push(calls::CancelOperator::request(CancelOperator { region: 0 }));
    let (store, offline, evict) = (0, true, true);
    requests.push(calls::SetStoreState::request(SetStoreState {
        store,
        offline,
    }));
    requests.push(calls::EvictLeaders::request(EvictLeaders { store, evict }));
    requests.push(calls::GetConfig::request(GetConfig));
    requests.push(calls::SetConfig::request(SetConfig(BTreeMap::new())));
    requests.push(calls::GetRules::request(GetRules));
    requests.push(calls::SetRules::request(SetRules(Vec::new())));
    let (group, id) = (String::new(), String::new());
    requests.push(calls::DeleteRule::request(DeleteRule { group, id }));
    requests.push(calls::ListSchedulers::request(ListSchedulers));
    requests.push(calls::ChangeScheduler::request(ChangeScheduler {
        name: String::new(),
        change: SchedulerChange::Remove,
    }));
    requests.push(calls::HotRegions::request(HotRegions { writes: true }));
    requests.push(calls::RegionHistory::request(RegionHistory { region: 0 }));
    requests.push(calls::Http::request(HttpRequest {
        method: "GET".to_owned(),
        target: "/pd/api/v1/version".to_owned(),
        body: Vec::new(),
    }));
    let mut named: Vec<&str> = requests.iter().map(Request::name).collect();
    let mut all = CALL_NAMES.to_vec();
    named.sort_unstable();
    all.sort_unstable();
    assert_eq!(named, all, "every call is tried");
    requests
}

/// Every call's answer, after all that can wait has run into its deadline.
fn answers(world: &mut World, header: Option<&RequestHeader>) -> BTreeMap<&'static str, Response> {
    let sent: Vec<_> = every_call(header)
        .into_iter()
        .map(|request| (request.name(), world.send(request)))
        .collect();
    world.advance(std::time::Duration::from_secs(10));
    sent.into_iter()
        .map(|(name, token)| (name, world.answers.remove(&token).expect(name)))
        .collect()
}

#[test]
fn a_call_for_another_cluster_fails_as_a_whole() {
    for (header, got) in [
        (None, 0),
        (Some(RequestHeader::default()), 0),
        (
            Some(RequestHeader {
                cluster_id: 8,
                ..Default::default()
            }),
            8,
        ),
    ] {
        for (name, answer) in answers(&mut World::leading(), header.as_ref()) {
            let mismatch = Status::new(
                Code::FailedPrecondition,
                format!("mismatch cluster id, need {CLUSTER} but got {got}"),
            );
            let refused = answer == Response::Status(mismatch);
            assert_eq!(refused, !UNCHECKED.contains(&name), "{name}: {answer:?}");
        }
    }
}

#[test]
fn every_answer_has_a_header_and_an_error_only_when_there_is_one() {
    for mut world in [World::leading(), World::virgin()] {
        for (name, answer) in answers(&mut world, header().as_ref()) {
            let Some(header) = answer.header() else {
                assert!(UNCHECKED[2..].contains(&name), "{name} has no header");
                continue;
            };
            assert_eq!(header.cluster_id, CLUSTER, "{name}");
            if let Some(error) = &header.error {
                assert_ne!(error.r#type, 0, "{name}: an error of type OK");
                assert!(!error.message.is_empty(), "{name}");
            }
        }
    }
}

#[test]
fn a_node_that_does_not_lead_names_itself_and_refuses_the_rest() {
    let mut world = World::idle(&common::genesis());
    for (name, answer) in answers(&mut world, header().as_ref()) {
        match name {
            "GetMembers" | "GetClusterInfo" => assert_eq!(outcome(&answer), "ok", "{name}"),
            _ => assert_eq!(answer, Response::Status(Status::not_leader()), "{name}"),
        }
    }
    let members = world.ask::<calls::GetMembers>(Default::default()).unwrap();
    assert_eq!(members.leader, None);
    assert_eq!(members.members.len(), 1);
    assert_eq!(
        Status::not_leader(),
        Status::new(Code::Unavailable, "not leader")
    );
}

/// What an empty request gets from a cluster that has a store, and from one that has none.
#[test]
fn before_bootstrap_most_calls_say_so() {
    let mut listed = String::new();
    for (name, answer) in answers(&mut World::virgin(), header().as_ref()) {
        listed += &format!("{name}: {}\n", outcome(&answer));
    }
    expect![[r#"
        AddOperator: ok
        AllocID: ok
        AskBatchSplit: NOT_BOOTSTRAPPED cluster is not bootstrapped
        AskSplit: NOT_BOOTSTRAPPED cluster is not bootstrapped
        BatchScanRegions: NOT_BOOTSTRAPPED cluster is not bootstrapped
        Bootstrap: UNKNOWN invalid bootstrap: it names no store
        CancelOperator: ok
        ChangeScheduler: ok
        CreateKeyspace: ok
        DeleteRule: ok
        EvictLeaders: ok
        ExtendWindow: ok
        GetAllKeyspaces: ok
        GetAllStores: NOT_BOOTSTRAPPED cluster is not bootstrapped
        GetClusterConfig: NOT_BOOTSTRAPPED cluster is not bootstrapped
        GetClusterInfo: ok
        GetConfig: ok
        GetGCSafePoint: NOT_BOOTSTRAPPED cluster is not bootstrapped
        GetMembers: ok
        GetOperator: NOT_BOOTSTRAPPED cluster is not bootstrapped
        GetPrevRegion: NOT_BOOTSTRAPPED cluster is not bootstrapped
        GetRegion: NOT_BOOTSTRAPPED cluster is not bootstrapped
        GetRegionByID: NOT_BOOTSTRAPPED cluster is not bootstrapped
        GetRules: ok
        GetStore: NOT_BOOTSTRAPPED cluster is not bootstrapped
        HotRegions: ok
        Http: ok
        IsBootstrapped: ok
        ListOperators: ok
        ListSchedulers: ok
        LoadGlobalConfig: status Unimplemented: LoadGlobalConfig is not offered by this placement driver outside /global/config/flotilla/
        LoadKeyspace: ENTRY_NOT_FOUND keyspace "" not found
        LoadKeyspaceByID: ENTRY_NOT_FOUND keyspace "DEFAULT" not found: its region boundaries are not split yet
        LookupKeyspace: ENTRY_NOT_FOUND keyspace "" not found
        PutClusterConfig: NOT_BOOTSTRAPPED cluster is not bootstrapped
        PutStore: NOT_BOOTSTRAPPED cluster is not bootstrapped
        QueryRegion: NOT_BOOTSTRAPPED cluster is not bootstrapped
        RegionHistory: ok
        ReportBatchSplit: NOT_BOOTSTRAPPED cluster is not bootstrapped
        ReportSplit: NOT_BOOTSTRAPPED cluster is not bootstrapped
        ScanRegions: NOT_BOOTSTRAPPED cluster is not bootstrapped
        ScatterRegion: NOT_BOOTSTRAPPED cluster is not bootstrapped
        SetConfig: ok
        SetRules: ok
        SetStoreState: ok
        SplitAndScatterRegions: NOT_BOOTSTRAPPED cluster is not bootstrapped
        SplitRegions: NOT_BOOTSTRAPPED cluster is not bootstrapped
        StoreGlobalConfig: status Unimplemented: StoreGlobalConfig is not offered by this placement driver outside /global/config/flotilla/
        StoreHeartbeat: NOT_BOOTSTRAPPED cluster is not bootstrapped
        UpdateGCSafePoint: NOT_BOOTSTRAPPED cluster is not bootstrapped
        UpdateKeyspaceState: UNKNOWN the state of the keyspace DEFAULT cannot be changed
        UpdateServiceGCSafePoint: NOT_BOOTSTRAPPED cluster is not bootstrapped
    "#]].assert_eq(&listed);
}

#[test]
fn an_empty_request_is_answered_by_name() {
    let mut listed = String::new();
    for (name, answer) in answers(&mut World::leading(), header().as_ref()) {
        listed += &format!("{name}: {}\n", outcome(&answer));
    }
    expect![[r#"
        AddOperator: ok
        AllocID: ok
        AskBatchSplit: REGION_NOT_FOUND missing region for split
        AskSplit: REGION_NOT_FOUND missing region for split
        BatchScanRegions: ok
        Bootstrap: ALREADY_BOOTSTRAPPED cluster is already bootstrapped
        CancelOperator: ok
        ChangeScheduler: ok
        CreateKeyspace: ok
        DeleteRule: ok
        EvictLeaders: ok
        ExtendWindow: ok
        GetAllKeyspaces: ok
        GetAllStores: ok
        GetClusterConfig: ok
        GetClusterInfo: ok
        GetConfig: ok
        GetGCSafePoint: ok
        GetMembers: ok
        GetOperator: REGION_NOT_FOUND region 0 has no operator: not found
        GetPrevRegion: ok
        GetRegion: ok
        GetRegionByID: ok
        GetRules: ok
        GetStore: UNKNOWN invalid store ID 0, not found
        HotRegions: ok
        Http: ok
        IsBootstrapped: ok
        ListOperators: ok
        ListSchedulers: ok
        LoadGlobalConfig: status Unimplemented: LoadGlobalConfig is not offered by this placement driver outside /global/config/flotilla/
        LoadKeyspace: ENTRY_NOT_FOUND keyspace "" not found
        LoadKeyspaceByID: ENTRY_NOT_FOUND keyspace "DEFAULT" not found: its region boundaries are not split yet
        LookupKeyspace: ENTRY_NOT_FOUND keyspace "" not found
        PutClusterConfig: UNKNOWN invalid cluster config: it names no cluster
        PutStore: UNKNOWN invalid put store: it names no store
        QueryRegion: ok
        RegionHistory: ok
        ReportBatchSplit: ok
        ReportSplit: ok
        ScanRegions: ok
        ScatterRegion: ok
        SetConfig: ok
        SetRules: ok
        SetStoreState: ok
        SplitAndScatterRegions: ok
        SplitRegions: ok
        StoreGlobalConfig: status Unimplemented: StoreGlobalConfig is not offered by this placement driver outside /global/config/flotilla/
        StoreHeartbeat: UNKNOWN invalid store heartbeat: it has no stats
        UpdateGCSafePoint: ok
        UpdateKeyspaceState: UNKNOWN the state of the keyspace DEFAULT cannot be changed
        UpdateServiceGCSafePoint: UNKNOWN a service id has 1 to 256 bytes, this one 0
    "#]].assert_eq(&listed);
}
