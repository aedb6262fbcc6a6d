//! What the stock clients do with each error, as a table to read next to the protocol's.

use std::time::Duration;

use expect_test::expect;
use flotilla_pd_client::{Attempts, Certainty, Failure, Next, RegionCache, Route, StockClient};
use flotilla_proto::errorpb::{self, Error};
use flotilla_proto::metapb::{Peer, Region, RegionEpoch, Store};

fn region_error(error: Error) -> Failure {
    Failure::Region(Box::new(error))
}

fn peer(id: u64, store_id: u64) -> Peer {
    Peer {
        id,
        store_id,
        ..Peer::default()
    }
}

fn region(version: u64) -> Region {
    Region {
        id: 7,
        region_epoch: Some(RegionEpoch {
            conf_ver: 1,
            version,
        }),
        peers: vec![peer(71, 1), peer(72, 2)],
        ..Region::default()
    }
}

/// Region 7 at version 5, led on store 1.
fn cached() -> (RegionCache, Route) {
    let route = Route::new(region(5), Some(peer(71, 1)));
    let mut cache = RegionCache::new();
    cache.insert(route.clone());
    for id in [1, 2] {
        cache.insert_store(Store {
            id,
            ..Store::default()
        });
    }
    (cache, route)
}

/// One error of every kind, and what goes wrong without one.
fn failures() -> Vec<(&'static str, Failure)> {
    macro_rules! detail {
        ($($field:ident: $detail:ident),* $(,)?) => {
            vec![$((stringify!($field), region_error(Error {
                $field: Some(errorpb::$detail::default()),
                ..Error::default()
            }))),*]
        };
    }
    let not_leader = |leader| {
        region_error(Error {
            not_leader: Some(errorpb::NotLeader {
                region_id: 7,
                leader,
            }),
            ..Error::default()
        })
    };
    let epoch = |current_regions| {
        region_error(Error {
            epoch_not_match: Some(errorpb::EpochNotMatch { current_regions }),
            ..Error::default()
        })
    };
    let mut all = vec![
        (
            "not_leader, the other peer leads",
            not_leader(Some(peer(72, 2))),
        ),
        (
            "not_leader, a stranger leads",
            not_leader(Some(peer(73, 3))),
        ),
        ("not_leader, nobody known", not_leader(None)),
        ("epoch_not_match, newer", epoch(vec![region(6)])),
        (
            "epoch_not_match, the store is behind",
            epoch(vec![region(4)]),
        ),
        ("epoch_not_match, empty", epoch(Vec::new())),
    ];
    all.extend(detail![
        region_not_found: RegionNotFound,
        key_not_in_region: KeyNotInRegion,
        server_is_busy: ServerIsBusy,
        stale_command: StaleCommand,
        store_not_match: StoreNotMatch,
        raft_entry_too_large: RaftEntryTooLarge,
        max_timestamp_not_synced: MaxTimestampNotSynced,
        read_index_not_ready: ReadIndexNotReady,
        proposal_in_merging_mode: ProposalInMergingMode,
        data_is_not_ready: DataIsNotReady,
        region_not_initialized: RegionNotInitialized,
        disk_full: DiskFull,
        recovery_in_progress: RecoveryInProgress,
        flashback_in_progress: FlashbackInProgress,
        flashback_not_prepared: FlashbackNotPrepared,
        is_witness: IsWitness,
        mismatch_peer_id: MismatchPeerId,
        bucket_version_not_match: BucketVersionNotMatch,
        undetermined_result: UndeterminedResult,
    ]);
    all.push(("a message only", region_error(Error::default())));
    all.push(("the call broke", Failure::Rpc));
    all.push(("no leader known", Failure::NoLeader));
    all.push(("no route", Failure::NoRoute));
    all
}

/// What is left of the cache, and what comes next.
fn reaction(client: StockClient, failure: &Failure) -> String {
    let (mut cache, route) = cached();
    let next = Attempts::new(client).failed(&mut cache, Some(&route), failure);
    let next = match next {
        Next::GiveUp => "user".to_owned(),
        Next::Retry { after } if after.is_zero() => "now".to_owned(),
        Next::Retry { after } => format!("{} ms", after.as_millis()),
    };
    let kept = match cache.by_id(7) {
        None if cache.store(1).is_none() => "-region -store",
        None => "-region",
        Some(left) if left.leader != route.leader => "leader",
        Some(left) if left.epoch() != route.epoch() => "regions",
        Some(_) => "",
    };
    format!("{next} {kept}").trim_end().to_owned()
}

#[test]
fn every_error_has_a_consequence() {
    let mut table = format!("{:<38}{:<26}{:<26}Java\n", "", "Rust", "Go");
    for (what, failure) in failures() {
        let [rust, go, java] = [StockClient::Rust, StockClient::Go, StockClient::Java]
            .map(|client| reaction(client, &failure));
        table += &format!("{what:<38}{rust:<26}{go:<26}{java}\n");
    }
    expect![[r#"
                                              Rust                      Go                        Java
        not_leader, the other peer leads      now leader                now leader                now leader
        not_leader, a stranger leads          now -region               now -region               now -region
        not_leader, nobody known              2 ms -region              2 ms -region              2 ms -region
        epoch_not_match, newer                2 ms -region              now regions               now regions
        epoch_not_match, the store is behind  2 ms                      2 ms                      now regions
        epoch_not_match, empty                now -region               now -region               now -region
        region_not_found                      2 ms -region              2 ms -region              2 ms -region -store
        key_not_in_region                     2 ms -region -store       now -region               user -region -store
        server_is_busy                        user                      2000 ms                   2000 ms
        stale_command                         2 ms -region              2 ms                      2 ms
        store_not_match                       2 ms -region -store       2 ms -region -store       2 ms -region -store
        raft_entry_too_large                  user                      user                      user
        max_timestamp_not_synced              user                      2 ms                      2 ms -region -store
        read_index_not_ready                  2 ms -region -store       2 ms                      2 ms -region -store
        proposal_in_merging_mode              2 ms -region -store       2 ms                      2 ms -region -store
        data_is_not_ready                     2 ms -region -store       now                       2 ms -region -store
        region_not_initialized                2 ms -region -store       2 ms                      2 ms -region -store
        disk_full                             2 ms -region -store       2000 ms                   2 ms -region -store
        recovery_in_progress                  2 ms -region -store       2 ms                      2 ms -region -store
        flashback_in_progress                 2 ms -region -store       user                      2 ms -region -store
        flashback_not_prepared                2 ms -region -store       user                      2 ms -region -store
        is_witness                            2 ms -region -store       2 ms                      2 ms -region -store
        mismatch_peer_id                      2 ms -region -store       2 ms -region              2 ms -region -store
        bucket_version_not_match              2 ms -region -store       now                       2 ms -region -store
        undetermined_result                   2 ms -region -store       user                      2 ms -region -store
        a message only                        2 ms -region -store       2 ms -region              2 ms -region -store
        the call broke                        2 ms -region -store       2 ms -region -store       2 ms -region -store
        no leader known                       2 ms -region              2 ms -region              2 ms -region
        no route                              user                      2 ms                      2 ms
    "#]].assert_eq(&table);
}

#[test]
fn only_a_broken_call_and_an_undetermined_result_leave_a_write_unknown() {
    let unknown: Vec<&str> = failures()
        .into_iter()
        .filter(|(_, failure)| failure.certainty() == Certainty::Unknown)
        .map(|(what, _)| what)
        .collect();
    assert_eq!(unknown, ["undetermined_result", "the call broke"]);
}

/// The pauses until the user sees the error.
fn pauses(client: StockClient, failure: &Failure) -> Vec<Duration> {
    let (mut cache, route) = cached();
    let mut attempts = Attempts::new(client);
    let mut all = Vec::new();
    while let Next::Retry { after } = attempts.failed(&mut cache, Some(&route), failure) {
        all.push(after);
    }
    assert_eq!(attempts.failures() as usize, all.len() + 1);
    all
}

#[test]
fn the_rust_client_has_a_second_and_a_half() {
    let millis: Vec<u128> = pauses(StockClient::Rust, &Failure::Rpc)
        .iter()
        .map(Duration::as_millis)
        .collect();
    assert_eq!(millis, [2, 4, 8, 16, 32, 64, 128, 256, 500, 500]);
    let immediate = failures().remove(0).1;
    let none = pauses(StockClient::Rust, &immediate);
    assert_eq!(none, [Duration::ZERO; 10], "each one uses up an attempt");
}

#[test]
fn the_others_have_a_time() {
    let total = |client, failure: &Failure| pauses(client, failure).iter().sum::<Duration>();
    let busy = region_error(Error {
        server_is_busy: Some(errorpb::ServerIsBusy::default()),
        ..Error::default()
    });
    let seconds = Duration::from_secs;
    let immediate = failures().remove(0).1;
    let tries = pauses(StockClient::Go, &immediate).len();
    assert!(
        (1_000..100_000).contains(&tries),
        "{tries} tries at once, not endless"
    );
    let go = total(StockClient::Go, &Failure::Rpc);
    assert!(go > seconds(39) && go <= seconds(40), "{go:?}");
    assert_eq!(total(StockClient::Go, &busy), seconds(2 + 4 + 8 + 10 + 10));
    let java = total(StockClient::Java, &Failure::Rpc);
    assert!(java > seconds(1) && java <= seconds(2), "{java:?}");
    assert_eq!(total(StockClient::Java, &busy), seconds(2));
}
