//! Transcripts of one peer: what it is sent, and everything it asks for.
//!
//! `>` is an input; below it stand the effects. The log is durable after `sync`, committed entries
//! are applied by `apply`. `UPDATE_EXPECT=1` writes the transcripts anew.

mod desk;
mod sizes;

use std::fmt::Write as _;
use std::time::Duration;

use expect_test::expect;
use flotilla_engine::memory::MemorySnapshots;
use flotilla_engine::{RaftLog, StateStore};
use flotilla_proto::raft::{Entry, Message, MessageKind};
use flotilla_raftstore::effects::RaftInput;
use flotilla_raftstore::{Config, PeerInput, boot};
use flotilla_router::Machine;

use crate::desk::{Desk, describe_region};

#[test]
fn a_write_is_answered_once_it_is_durable_and_applied() {
    let mut desk = Desk::new(&[1], Config::default());
    desk.tick(0);
    desk.run();
    desk.put("a");
    desk.sync();
    desk.apply();
    desk.leased();
    desk.check(&expect![[r#"
        > tick after 0 ms
          log: [] hard state 6/4/5
        > sync
          log: [6@6 empty]
          to PD: leads 3["","")v1
        > sync
          to apply: [6@6 empty]
        > apply
          applied up to 6
        > put a
          log: [7@6 data] hard state 6/4/6
        > sync
          to apply: [7@6 data]
        > apply
          put a: done
          applied up to 7
        ? a read now: served locally
    "#]]);
}

#[test]
fn writes_of_one_round_are_one_entry_with_an_answer_each() {
    let mut desk = Desk::new(&[1], Config::default());
    desk.tick(0);
    desk.run();
    desk.scene();
    let writes = [desk.write("a", 1), desk.write("b", 9), desk.write("c", 1)];
    desk.line("> put a, put b at a wrong epoch, put c");
    desk.round(|peer, now, effects| {
        for write in writes {
            peer.handle(now, RaftInput::Peer(write), effects);
        }
    });
    desk.run();
    desk.check(&expect![[r#"
        > put a, put b at a wrong epoch, put c
          log: [7@6 data] hard state 6/4/6
          put b: not applied, epoch not match: the region's range changed
        > sync
          to apply: [7@6 data]
        > apply
          put a: done
          put c: done
          applied up to 7
    "#]]);
}

#[test]
fn a_write_in_the_log_is_kept_through_a_change_of_leader_until_it_is_replaced() {
    let mut desk = Desk::new(&[1, 2], Config::default());
    desk.lead();
    desk.put("a");
    desk.put("later");
    desk.sync();
    desk.replaced(7, 8, 6);
    let held = &desk.log.load().unwrap()[&3];
    assert_eq!(held.last_index(), 7, "the tail is cut off");
    desk.put("b");
    desk.sync();
    desk.message(Message {
        kind: MessageKind::Heartbeat.into(),
        term: 8,
        commit: 7,
        ..Message::default()
    });
    desk.run();
    assert!(!desk.holds("a"));
    desk.check(&expect![[r#"
        > put a
          now to store 2: append term 6 after 6 [7@6 data] commit 6
          log: [7@6 data] hard state 6/4/6
        > put later
          now to store 2: append term 6 after 7 [8@6 data] commit 6
          log: [8@6 data]
        > sync
        > from store 2: append term 8 after 6 [7@8 empty] commit 6
          log: [7@8 empty] hard state 8/0/6
        > put b
          put b: not applied, peer is not leader for region 3
        > sync
          then to store 2: appended term 8 up to 7
        > from store 2: Heartbeat term 8
          to apply: [7@8 empty]
          put a: not applied, stale command
          put later: not applied, stale command
        > apply
          applied up to 7
    "#]]);
}

/// At once when it leads, when a peer has caught up, and every ten seconds.
#[test]
fn pd_hears_who_is_behind_who_has_caught_up_and_who_is_silent() {
    let mut desk = Desk::new(&[1, 2, 3], Config::default());
    desk.elect(6);
    for _ in 0..25 {
        desk.acknowledge(6, 6);
        desk.run();
        desk.tick(500);
    }
    let told = |line: &&str| line.starts_with("  to PD");
    let told: Vec<&str> = desk.text.lines().filter(told).map(str::trim).collect();
    desk.text = told.join("\n") + "\n";
    desk.check(&expect![[r#"
        to PD: leads 3["","")v1, 8 is behind, 12 is behind
        to PD: leads 3["","")v1, 12 is behind
        to PD: leads 3["","")v1, 12 is behind, 12 is silent for 10s
    "#]]);
}

/// Of a region that nobody uses PD hears every ten minutes, of one that is written to every ten seconds,
/// and once more when that is over.
#[test]
fn pd_hears_what_changed_and_seldom_what_did_not() {
    let mut desk = Desk::new(&[1], Config::default());
    desk.tick(0);
    desk.run();
    let mut minutes = Vec::new();
    for minute in 0..22 {
        desk.text.clear();
        for second in 0..60 {
            if minute == 3 && second < 30 {
                desk.put("a");
                desk.run();
            }
            desk.tick(1_000);
            desk.run();
        }
        let told = desk.text.lines().filter(|line| line.starts_with("  to PD"));
        minutes.push(told.count());
    }
    let quiet = |minutes: usize| vec![0; minutes];
    let expected = [quiet(3), vec![4], quiet(9), vec![1], quiet(8)].concat();
    assert_eq!(minutes, expected, "reports a minute");
}

#[test]
fn a_leader_that_comes_back_to_a_shorter_log_gives_indexes_again() {
    let mut desk = Desk::new(&[1, 2], Config::default());
    desk.lead();
    for key in ["a", "b", "c"] {
        desk.put(key);
    }
    desk.sync();
    desk.replaced(7, 8, 6);
    desk.sync();
    desk.elect(9);
    desk.scene();
    desk.put("d");
    desk.sync();
    desk.acknowledge(9, 9);
    desk.run();
    assert!(!desk.holds("c") && desk.holds("d"));
    desk.check(&expect![[r#"
        > put d
          log: [9@9 data]
        > sync
        > from store 2: appended term 9 up to 9
          now to store 2: Heartbeat term 9
          to apply: [7@8 empty, 8@9 empty, 9@9 data]
          put a: not applied, stale command
          put b: not applied, stale command
          put c: not applied, stale command
        > apply
          put d: done
          applied up to 9
    "#]]);
}

#[test]
fn a_write_that_the_next_leader_has_is_acknowledged_after_all() {
    let mut desk = Desk::new(&[1, 2], Config::default());
    desk.lead();
    desk.put("a");
    desk.sync();
    desk.replaced(8, 8, 8);
    desk.run();
    assert!(desk.holds("a"));
    desk.check(&expect![[r#"
        > put a
          now to store 2: append term 6 after 6 [7@6 data] commit 6
          log: [7@6 data] hard state 6/4/6
        > sync
        > from store 2: append term 8 after 7 [8@8 empty] commit 8
          log: [8@8 empty] hard state 8/0/8
          to apply: [7@6 data]
        > sync
          then to store 2: appended term 8 up to 8
          to apply: [8@8 empty]
        > apply
          put a: done
          applied up to 8
    "#]]);
}

#[test]
fn after_ten_seconds_without_a_leader_a_write_is_unknown() {
    let mut desk = Desk::new(&[1, 2], Config::default());
    desk.lead();
    desk.put("a");
    desk.sync();
    desk.message(Message {
        kind: MessageKind::Heartbeat.into(),
        term: 8,
        ..Message::default()
    });
    desk.sync();
    desk.scene();
    desk.now = desk.now + Duration::from_millis(9_000);
    desk.tick(0);
    desk.scene();
    desk.tick(1_000);
    desk.check(&expect![[r#"
        > tick after 1000 ms
          put a: unknown, the outcome is unknown: leadership was lost before the write was committed
    "#]]);
}

#[test]
fn a_leader_that_hands_over_names_nobody_until_it_has() {
    let mut desk = Desk::new(&[1, 2], Config::default());
    desk.lead();
    desk.scene();
    desk.put("a");
    desk.input("hand over", PeerInput::HandOver);
    desk.put("b");
    desk.sync();
    desk.acknowledge(6, 7);
    desk.put("c");
    desk.check(&expect![[r#"
        > put a
          now to store 2: append term 6 after 6 [7@6 data] commit 6
          log: [7@6 data] hard state 6/4/6
        > hand over
        > put b
          put b: not applied, peer is not leader for region 3
        > sync
        > from store 2: appended term 6 up to 7
          now to store 2: TimeoutNow term 6
          now to store 2: Heartbeat term 6
          to apply: [7@6 data]
        > put c
          put c: not applied, peer is not leader for region 3
    "#]]);
}

#[test]
fn a_split_waits_for_its_commit_to_be_durable_and_there_is_no_lease_meanwhile() {
    let mut desk = Desk::new(&[1], Config::default());
    desk.tick(0);
    desk.run();
    desk.scene();
    desk.leased();
    desk.split(&["m", "t"]);
    desk.ids();
    desk.sync();
    desk.leased();
    desk.sync();
    desk.leased();
    desk.apply();
    desk.tick(100);
    desk.leased();
    desk.check(&expect![[r#"
        ? a read now: served locally
        > split at m t
          to PD: ids for 2 new regions
        > ids from PD
          log: [7@6 admin] hard state 6/4/6
        > sync
          log: [] hard state 6/4/7
        ? a read now: must ask
        > sync
          to apply: [7@6 admin]
        ? a read now: must ask
        > apply
          applied up to 7
          to the store: spawn [100, 110], they campaign: true
          to PD: leads 3["t","")v3
          to PD: split into 100["","m")v3 110["m","t")v3 3["t","")v3
          split at m t: done
        > tick after 100 ms
        ? a read now: epoch not match: the region's range changed
    "#]]);
}

#[test]
fn a_write_that_the_log_has_behind_a_split_is_skipped() {
    let mut desk = Desk::new(&[1], Config::default());
    desk.tick(0);
    desk.run();
    desk.split(&["m"]);
    desk.ids();
    desk.scene();
    desk.put("a");
    desk.run();
    assert!(!desk.holds("a"));
    desk.check(&expect![[r#"
        > put a
          log: [8@6 data]
        > sync
          log: [] hard state 6/4/7
        > sync
          to apply: [7@6 admin, 8@6 data]
        > apply
          put a: not applied, epoch not match: the region's range changed
          applied up to 8
          to the store: spawn [100], they campaign: true
          to PD: leads 3["m","")v2
          to PD: split into 100["","m")v2 3["m","")v2
          split at m: done
    "#]]);
}

#[test]
fn of_two_splits_at_one_epoch_the_second_is_refused() {
    let mut desk = Desk::new(&[1], Config::default());
    desk.tick(0);
    desk.run();
    desk.split(&["m"]);
    let first = desk.asked.take();
    desk.split(&["t"]);
    desk.ids();
    desk.asked = first;
    desk.ids();
    desk.scene();
    desk.run();
    desk.check(&expect![[r#"
        > sync
          log: [] hard state 6/4/7
          log: [] hard state 6/4/8
        > sync
          to apply: [7@6 admin]
          to apply: [8@6 admin]
        > apply
          applied up to 8
          to the store: spawn [100], they campaign: true
          to PD: leads 3["t","")v2
          to PD: split into 100["","t")v2 3["t","")v2
          split at t: done
          split at m: not applied, epoch not match: the region's range changed
    "#]]);
}

#[test]
fn the_log_is_cut_off_only_below_what_survives_a_crash() {
    let config = Config {
        truncate_entries_min: 1,
        ..Config::default()
    };
    let mut desk = Desk::new(&[1], config);
    desk.tick(0);
    desk.run();
    for key in ["a", "b", "c"] {
        desk.put(key);
        desk.run();
    }
    desk.scene();
    desk.tick(100);
    desk.input("durable up to 7", PeerInput::Durable { index: 7 });
    desk.input("durable up to 99", PeerInput::Durable { index: 99 });
    desk.check(&expect![[r#"
        > tick after 100 ms
        > durable up to 7
          log: [] truncated at 7
        > durable up to 99
          log: [] truncated at 9
    "#]]);
}

/// A leader of two whose cache holds nothing but the newest entry, asked for older ones. Its log
/// has 7 to 10, the last three not durable.
fn desk_without_cache(follower_has: u64) -> Desk {
    let config = Config {
        entry_cache_bytes: 1,
        ..Config::default()
    };
    let mut desk = Desk::new(&[1, 2], config);
    desk.lead();
    desk.put("a");
    desk.sync();
    for key in ["b", "c", "d"] {
        desk.put(key);
    }
    desk.acknowledge(6, follower_has);
    desk.scene();
    desk.reject(6, follower_has);
    desk
}

#[test]
fn entries_that_left_the_cache_are_read_as_far_as_they_are_durable() {
    let mut desk = desk_without_cache(6);
    desk.sync();
    desk.read();
    desk.check(&expect![[r#"
        > from store 2: lacks what follows 6
          to read: [7, 8)
        > sync
        > read [7, 8)
          now to store 2: append term 6 after 6 [7@6 data] commit 6
    "#]]);
}

#[test]
fn a_read_for_apply_survives_a_cut_behind_it_in_the_same_round() {
    let config = Config {
        entry_cache_bytes: 1,
        ..Config::default()
    };
    let mut desk = Desk::new(&[1, 2], config);
    desk.lead();
    desk.put("a");
    desk.put("b");
    desk.sync();
    desk.scene();
    desk.replaced(8, 8, 7);
    desk.read();
    desk.apply();
    desk.check(&expect![[r#"
        > from store 2: append term 8 after 7 [8@8 empty] commit 7
          log: [8@8 empty] hard state 8/0/7
          to read: [7, 8)
        > read [7, 8)
          to apply: [7@6 data]
        > apply
          put a: done
          applied up to 7
    "#]]);
}

#[test]
fn entries_that_are_gone_are_no_corruption_if_the_log_was_cut_meanwhile() {
    let mut desk = desk_without_cache(8);
    desk.replaced(8, 8, 7);
    desk.read();
    desk.read();
    desk.check(&expect![[r#"
        > from store 2: lacks what follows 8
        > from store 2: append term 8 after 7 [8@8 empty] commit 7
          log: [8@8 empty] hard state 8/0/7
          to read: [9, 10)
        > read [7, 8)
          to apply: [7@6 data]
        > read [9, 10): not there
    "#]]);
}

#[test]
fn entries_that_should_be_there_and_are_not_end_the_store() {
    let mut desk = desk_without_cache(6);
    desk.sync();
    desk.log.rot(3, 7);
    desk.read();
    desk.check(&expect![[r#"
        > from store 2: lacks what follows 6
          to read: [7, 8)
        > sync
        > read [7, 8): not there
          the store ends: corrupt data in region 3 index 7: the checksum does not match; restore this store from its replicas or a backup
    "#]]);
}

#[test]
fn too_large_or_misplaced_writes_are_refused_before_the_log() {
    let config = Config {
        entry_bytes_max: 200,
        merge_bytes_max: 200,
        ..Config::default()
    };
    let mut desk = Desk::new(&[1], config);
    desk.tick(0);
    desk.run();
    desk.scene();
    desk.put(&"k".repeat(200));
    let stale = desk.write("a", 7);
    desk.input("put a at another epoch", stale);
    let PeerInput::Write(mut computed) = desk.write("a", 1) else {
        unreachable!()
    };
    computed.read_term = Some(5);
    desk.input(
        "put a, computed in an earlier term",
        PeerInput::Write(computed),
    );
    desk.check(&expect![[r#"
        > put kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk
          put kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk: not applied, raft entry of 221 bytes is larger than the limit of 200 bytes in region 3
        > put a at another epoch
          put a: not applied, epoch not match: the region's range changed
        > put a, computed in an earlier term
          put a: not applied, stale command
    "#]]);
}

/// The state fell behind a split; the child had entries of its own by then. Its log counts, not its
/// birth (contracts: C34).
#[test]
fn a_replayed_split_keeps_what_the_child_has() {
    let mut desk = Desk::new(&[1], Config::default());
    desk.tick(0);
    desk.run();
    desk.split(&["m"]);
    desk.ids();
    desk.run();
    // The child's peer is another one; here its log is written as that peer would have.
    let entry = |index, term| Entry {
        term,
        index,
        ..Entry::default()
    };
    let mut batch = flotilla_engine::LogBatch::default();
    batch.append(100, vec![entry(6, 6), entry(7, 6)], 5);
    batch.set_record(
        100,
        flotilla_proto::store::RaftRecord {
            peer_id: 101,
            hard_state: Some(flotilla_proto::raft::HardState {
                term: 6,
                vote: 101,
                commit: 6,
            }),
        },
    );
    desk.log.append(&batch).unwrap();
    desk.log.sync().unwrap();
    let (log, state) = (desk.log.crash(|_| 0), desk.state.crash());
    assert_eq!(
        state.regions().unwrap().len(),
        1,
        "the split is not durable"
    );
    let opened = boot::open(
        Config::default(),
        1,
        &log,
        &state,
        &MemorySnapshots::new(),
        desk.now,
    )
    .unwrap();
    let mut text = String::new();
    for spawn in &opened.regions {
        let (region, raft) = (spawn.peer.region(), spawn.peer.raft());
        writeln!(
            text,
            "{} term {} commit {} applied {} last {}",
            describe_region(region),
            raft.term(),
            raft.commit(),
            raft.applied_index(),
            raft.last_index()
        )
        .unwrap();
    }
    expect![[r#"
        3["m","")v2 term 6 commit 7 applied 7 last 7
        100["","m")v2 term 6 commit 6 applied 6 last 7
    "#]]
    .assert_eq(&text);
}
