//! What no planted bug brings about: forged events, each of which breaks one rule, beside its truthful
//! neighbour that breaks none. Those of raft groups are in `consensus/tests.rs`, of the model in its own file.

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_engine::memory::MemoryState;
use flotilla_engine::{
    BIRTH, LogBatch, RegionWrite, SnapshotKey, StateBatch, StateOp, StateStore as _,
};
use flotilla_pd_client::StockClient;
use flotilla_proto::clock::Wall;
use flotilla_proto::metapb::{Peer, Region, RegionEpoch};
use flotilla_proto::raft::Entry;
use flotilla_proto::store::{
    PeerState, RaftRecord, RegionRecord, SnapshotIntent, SnapshotManifest,
};
use flotilla_raftstore::region::META_REGION;

use super::Oracle;
use super::calls::{CallSeen, JITTER_MAX};
use super::log::LogContext;
use super::model::Model;
use super::placement::Granted;
use crate::rules::Rule;

const STORE: u64 = 2;
const OTHER: u64 = 5;

/// A cluster with one data region, 3, over all keys: peer 4 on store 2.
fn oracle() -> Oracle {
    let mut oracle = Oracle {
        model: Model::bootstrap(&[region(3, 1)], &[]),
        ..Oracle::default()
    };
    oracle.store(STORE);
    oracle
}

fn region(id: u64, version: u64) -> Region {
    Region {
        id,
        region_epoch: Some(RegionEpoch {
            version,
            conf_ver: 1,
        }),
        peers: vec![peer(4, STORE)],
        ..Region::default()
    }
}

fn peer(id: u64, store_id: u64) -> Peer {
    Peer {
        id,
        store_id,
        ..Peer::default()
    }
}

/// The last of these events is the first that breaks a rule; without `rule` none does.
#[track_caller]
fn forged(rule: Option<Rule>, forge: impl FnOnce(&mut Oracle)) {
    let mut oracle = oracle();
    forge(&mut oracle);
    let found = oracle.violation().map(|violation| violation.rule);
    assert_eq!(found, rule, "{:?}", oracle.violation());
}

#[test]
fn pd_gives_an_id_once_and_below_the_committed_bound() {
    let bounded = |oracle: &mut Oracle| {
        let bound = [&[1][..], &100_u64.to_be_bytes()].concat();
        oracle.model = Model::bootstrap(&[], &[(b"i".as_slice().into(), bound.into())]);
    };
    let check = |given: [(u64, u64); 2], rule| {
        forged(rule, |oracle| {
            bounded(oracle);
            for (term, id) in given {
                oracle.ids_given((STORE, term), std::iter::once(id));
            }
        });
    };
    check([(6, 7), (6, 8)], None);
    check([(6, 8), (6, 7)], None);
    check([(6, 7), (6, 7)], Some(Rule::IdsUnique));
    check([(6, 99), (6, 100)], Some(Rule::IdsUnique));
    check([(6, 8), (7, 9)], None);
    check([(6, 8), (7, 7)], Some(Rule::IdsRise));
}

#[test]
fn a_new_peer_has_an_id_above_those_of_its_region() {
    let check = |id, rule| {
        forged(rule, |oracle| {
            let before = region(3, 1);
            let mut after = before.clone();
            after.peers.push(peer(id, OTHER));
            oracle.check_ids_of_new(&before, &after);
        });
    };
    check(5, None);
    check(3, Some(Rule::IdsRise));
}

#[test]
fn timestamps_rise_as_they_are_given_and_as_they_are_asked_for() {
    let check = |batches: [(u64, u64); 2], rule| {
        forged(rule, |oracle| {
            for (first, last) in batches {
                let granted = Granted { first, last };
                oracle.timestamps_granted(STORE, 6, Wall(0), granted);
            }
        });
    };
    check([(1, 5), (6, 6)], None);
    check([(1, 5), (5, 6)], Some(Rule::TimestampsRise));
    check([(1, 5), (7, 6)], Some(Rule::TimestampsRise));

    let heard = |known, rule| {
        forged(rule, |oracle| oracle.timestamps_heard(known, 6, 9));
    };
    heard(5, None);
    heard(6, Some(Rule::TimestampsRise));
}

#[test]
fn a_window_opens_above_what_was_given() {
    let check = |term, from_ms, rule| {
        forged(rule, |oracle| {
            let last = 40 << flotilla_pd::LOGICAL_BITS;
            let granted = Granted { first: last, last };
            oracle.timestamps_granted(STORE, 6, Wall(0), granted);
            oracle.window_opens(OTHER, term, from_ms);
        });
    };
    check(7, 41, None);
    check(7, 40, Some(Rule::WindowOpensAbove));
    // It has been deposed, and gives none.
    check(5, 40, None);
}

#[test]
fn what_pd_shows_was_real_and_gets_no_older() {
    let check = |shown: Region, leader: Peer, rule| {
        forged(rule, |oracle| {
            oracle.route_told(STORE, &shown, Some(&leader));
        });
    };
    check(region(3, 1), peer(4, STORE), None);
    check(region(3, 1), Peer::default(), None);
    check(region(3, 2), peer(4, STORE), Some(Rule::RoutesReal));
    check(region(3, 1), peer(5, STORE), Some(Rule::RoutesReal));

    let again = |versions: [u64; 2], anew: bool, rule| {
        forged(rule, |oracle| {
            let both = versions.map(|version| region(3, version));
            for shown in &both {
                // Both were.
                oracle.model = Model::bootstrap(std::slice::from_ref(shown), &[]);
                if anew {
                    oracle.pd_begins(STORE);
                }
                oracle.route_told(STORE, shown, None);
            }
        });
    };
    again([1, 2], false, None);
    again([2, 1], false, Some(Rule::RoutesReal));
    again([2, 1], true, None);
}

#[test]
fn pd_reads_its_rows_when_it_has_applied_its_term() {
    forged(Some(Rule::PdHasCaughtUp), |oracle| {
        oracle.pd_reads_rows(STORE, 6);
    });
}

#[test]
fn a_store_whose_peer_of_the_meta_region_has_ended_is_not_pd() {
    let check = |ended: Option<u64>, buried: Option<u64>, rule| {
        forged(rule, |oracle| {
            let seen = oracle.store(STORE);
            seen.tombstones
                .extend(ended.map(|peer| (META_REGION, peer)));
            seen.buried.extend(buried.map(|peer| (META_REGION, peer)));
            oracle.check_pd_lives(STORE);
        });
    };
    check(None, None, None);
    check(Some(4), None, None);
    check(Some(4), Some(4), Some(Rule::EndedIsSilent));
    // It has a later peer.
    check(None, Some(4), None);
}

#[test]
fn nobody_takes_the_place_of_who_is_dying() {
    let dying = |oracle: &mut Oracle| {
        let record = RegionRecord {
            state: PeerState::Tombstone.into(),
            region: Some(region(3, 1)),
            highest_peer_id: 4,
            ..RegionRecord::default()
        };
        oracle.store(STORE).begins_to_die(&record, false);
    };
    let comes = |id, rule| {
        forged(rule, |oracle| {
            dying(oracle);
            oracle.check_lives_apart(STORE, &region(id, 2));
        });
    };
    comes(3, Some(Rule::DyingStaysAlone));
    comes(7, Some(Rule::DyingStaysAlone));
    comes(META_REGION, None);

    let writes = |peer_id, rule| {
        forged(rule, |oracle| {
            dying(oracle);
            let record = Some(RaftRecord {
                peer_id,
                ..RaftRecord::default()
            });
            let write = RegionWrite {
                record,
                ..RegionWrite::default()
            };
            oracle.check_log_apart(STORE, 3, &write);
        });
    };
    writes(4, None);
    writes(5, Some(Rule::DyingStaysAlone));
}

#[test]
fn what_a_store_shows_was_real_and_stays() {
    forged(None, |oracle| oracle.show(STORE, &region(3, 1)));
    forged(Some(Rule::TopologyStays), |oracle| {
        oracle.show(STORE, &region(3, 2));
    });
    let starts_with = |found: Option<Region>, rule| {
        forged(rule, |oracle| {
            oracle.show(STORE, &region(3, 1));
            let found = found.map(|region| (region.id, region));
            oracle.check_topology(STORE, &found.into_iter().collect());
        });
    };
    starts_with(Some(region(3, 1)), None);
    starts_with(Some(region(3, 0)), Some(Rule::TopologyStays));
    starts_with(None, Some(Rule::TopologyStays));
}

#[test]
fn a_store_has_one_peer_of_a_region_its_last() {
    let check = |highest_peer_id, rule| {
        forged(rule, |oracle| {
            let state = MemoryState::new();
            let record = RegionRecord {
                state: PeerState::Normal.into(),
                region: Some(region(3, 1)),
                highest_peer_id,
                ..RegionRecord::default()
            };
            let batch = StateBatch {
                ops: vec![StateOp::PutRegion { record }],
                admin: false,
            };
            state.write(&batch).expect("memory takes it");
            oracle.store(STORE).applied.insert(3, BIRTH.index);
            oracle.check_regions(STORE, &state);
        });
    };
    check(4, None);
    check(5, Some(Rule::OneLivePeer));
}

#[test]
fn a_crash_leaves_what_a_flush_has_cut() {
    let check = |cut: u64, rule| {
        forged(rule, |oracle| {
            let seen = oracle.store(STORE);
            seen.survives.insert(3, 0);
            seen.applied.insert(3, cut);
            oracle.flush_begins(STORE, 1);
            oracle.store(STORE).tombstones.insert(3, 4);
            oracle.state_crashed(STORE, &MemoryState::new());
        });
    };
    check(9, Some(Rule::CrashIsPrefix));
}

#[test]
fn mailboxes_hold_no_more_than_they_may() {
    let check = |queued, rule| forged(rule, |oracle| oracle.check_queued(STORE, queued, 9));
    check(9, None);
    check(10, Some(Rule::QueuesBounded));
}

#[test]
fn a_call_of_a_client_ends_within_what_its_habits_allow() {
    const PATIENCE: Duration = Duration::from_secs(1);
    const SHORT: Duration = Duration::from_millis(1);
    let check = |habits, attempts: u32, paused: Duration, lasted: Duration, rule| {
        forged(rule, |oracle| {
            let mut call = CallSeen::default();
            (0..attempts).for_each(|_| call.attempts(oracle.now));
            call.pauses(paused);
            oracle.now = oracle.now + lasted;
            oracle.check_call(7, &call, (habits, PATIENCE));
        });
    };
    let broken = Some(Rule::CallsEnd);
    // Attempts.
    check(StockClient::Rust, 11, SHORT, SHORT, None);
    check(StockClient::Rust, 12, SHORT, SHORT, broken);
    // Pauses.
    let java = Duration::from_secs(2) + JITTER_MAX * 3;
    check(StockClient::Java, 3, java, java, None);
    check(StockClient::Java, 3, java + SHORT, java, broken);
    // Time: one attempt with both its patiences, and what it may take beside them.
    let attempt = Duration::from_secs(2 + 20);
    check(StockClient::Go, 1, SHORT, attempt + SHORT, None);
    check(StockClient::Go, 1, SHORT, attempt + SHORT * 2, broken);
}

#[test]
fn a_log_is_cut_no_further_than_a_live_follower_needs() {
    let check = |to, needed, lag_from, rule| {
        forged(rule, |oracle| {
            oracle.check_spared((STORE, 3), to, needed, lag_from);
        });
    };
    check(9, 9, 0, None);
    check(10, 9, 0, Some(Rule::LaggardsAreSpared));
    check(10, 9, 10, None);
    check(11, 9, 10, Some(Rule::LaggardsAreSpared));
}

#[test]
fn at_rest_a_log_keeps_less_than_is_worth_a_truncation() {
    const WORTH: u64 = 3;
    let check = |entries: u64, survives: u64, over, rule| {
        forged(rule, |oracle| {
            for index in BIRTH.index + 1..=BIRTH.index + entries {
                log_entry(oracle, index);
            }
            let seen = oracle.store(STORE);
            seen.applied.insert(3, BIRTH.index + entries);
            seen.survives.insert(3, BIRTH.index + survives);
            let trimmed = oracle.check_trimmed(STORE, WORTH, over);
            assert_eq!(trimmed, entries.min(survives) < WORTH);
        });
    };
    check(2, 2, true, None);
    check(3, 3, true, Some(Rule::LogIsTrimmed));
    // What a crash would take back is still needed.
    check(3, 2, true, None);
    // It still has time.
    check(3, 3, false, None);
}

#[test]
fn the_files_of_an_intent_stay_until_a_crash_does_not_need_them() {
    let manifest = SnapshotManifest {
        region: Some(region(3, 1)),
        index: 9,
        term: BIRTH.term,
        ..SnapshotManifest::default()
    };
    let own = SnapshotKey::incoming(&manifest);
    let check = |key: SnapshotKey, survives: u64, buried: u64, rule| {
        forged(rule, |oracle| {
            let mut batch = LogBatch::default();
            batch.set_intent(
                3,
                SnapshotIntent {
                    peer_id: 4,
                    manifest: Some(manifest.clone()),
                    overlapped: Vec::new(),
                },
            );
            write_log(oracle, 1, &batch);
            let seen = oracle.store(STORE);
            seen.log.synced(1);
            seen.survives.insert(3, survives);
            seen.buried.insert(3, buried);
            oracle.check_files_go(STORE, &key);
        });
    };
    let at_rest = |key: SnapshotKey, lives, rule| {
        forged(rule, |oracle| {
            oracle.check_files_at_rest(STORE, vec![key], |_| lives)
        });
    };
    at_rest(own, false, Some(Rule::FilesInUse));
    at_rest(own, true, None);
    at_rest(
        SnapshotKey {
            incoming: false,
            ..own
        },
        false,
        None,
    );
    let broken = Some(Rule::IntentHasFiles);
    check(own, 8, 3, broken);
    check(own, 9, 3, None);
    check(own, 8, 4, None);
    check(SnapshotKey { index: 8, ..own }, 8, 3, None);
    check(
        SnapshotKey {
            incoming: false,
            ..own
        },
        8,
        3,
        None,
    );
}

/// An entry of region 3 is written to the log of [`STORE`].
fn log_entry(oracle: &mut Oracle, index: u64) {
    let entry = Entry {
        index,
        term: BIRTH.term,
        ..Entry::default()
    };
    let mut batch = LogBatch::default();
    batch.append(3, vec![entry], index);
    write_log(oracle, index, &batch);
}

/// Batch `number` is written to the log of [`STORE`].
fn write_log(oracle: &mut Oracle, number: u64, batch: &LogBatch) {
    let Oracle {
        stores,
        consensus,
        checks,
        ..
    } = oracle;
    let nothing = BTreeMap::new();
    let context = LogContext {
        survives: &nothing,
        applied: &nothing,
        buried: &nothing,
        committed: &|_, _| None,
    };
    let log = &mut stores.entry(STORE).or_default().log;
    log.appended(number, batch, &context, consensus, checks);
}

#[test]
fn a_flush_comes_in_time_and_bounds_the_replay() {
    const GRACE: Duration = Duration::from_secs(1);
    let flush_after = |bytes, time: Duration, rule| {
        forged(rule, |oracle| {
            oracle.log_grew(STORE, bytes);
            for wait in [Duration::ZERO, time] {
                oracle.now = oracle.now + wait;
                oracle.check_flush_due(STORE, 100, GRACE, GRACE);
            }
        });
    };
    flush_after(51, GRACE, None);
    flush_after(51, GRACE * 2, Some(Rule::FlushInTime));
    flush_after(50, GRACE * 2, None);

    let replayed = |bytes, rule| {
        forged(rule, |oracle| {
            oracle.log_grew(STORE, 100);
            oracle.replayed(STORE, bytes, 60);
        });
    };
    replayed(60, None);
    replayed(61, Some(Rule::ReplayIsBounded));
}
