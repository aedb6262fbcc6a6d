//! What operators of a cluster ask for by hand, and what they see.

mod common;

use common::fleet::Fleet;
use expect_test::{Expect, expect};
use flotilla_pd::plan::Asked;
use flotilla_pd::{AddOperator, CancelOperator, ListOperators, OPERATOR_HISTORY_MAX, calls};

#[track_caller]
fn check(fleet: &mut Fleet, expected: Expect) {
    fleet.hear();
    expected.assert_eq(&fleet.take());
}

fn ask(fleet: &mut Fleet, region: u64, asked: Asked) -> String {
    let request = AddOperator { region, asked };
    match fleet.world.ask::<calls::AddOperator>(request).unwrap().0 {
        Ok(operator) => format!("operator {operator}"),
        Err(error) => format!("{} {error}", error.http_status()),
    }
}

fn list(fleet: &mut Fleet) -> flotilla_pd::view::OperatorsView {
    fleet
        .world
        .ask::<calls::ListOperators>(ListOperators)
        .unwrap()
}

/// Region 3 on stores 1, 2 and 3 of four.
fn three() -> Fleet {
    let mut fleet = Fleet::with_region(4, 3, &[1, 2, 3]);
    fleet.report();
    fleet.settle();
    fleet.take();
    fleet
}

#[test]
fn a_peer_moves_where_it_is_asked_to() {
    let mut fleet = three();
    let asked = Asked::MovePeer { from: 1, to: 4 };
    // Ids for new peers are made durable by the first question.
    assert_eq!(
        ask(&mut fleet, 3, asked),
        "503 ids for new peers are not durable yet; try again"
    );
    assert_eq!(ask(&mut fleet, 3, asked), "operator 1");
    fleet.settle();
    check(
        &mut fleet,
        expect![[r#"
            start 1: admin-move-peer region 3: add a learner on store 4, transfer the leader to store 2, at once: promote store 4 demote store 1, leave the joint configuration, remove the peer on store 1 (asked for: the peer on store 1 to store 4)
            tell store 1: region 3, conf 1: learner 1000@4
            tell store 1: region 3, conf 2: transfer to 32@2
            tell store 2: region 3, conf 2: joint [voter 1000@4, learner 31@1]
            tell store 2: region 3, conf 4: joint []
            tell store 2: region 3, conf 6: remove 31@1
            end 1, region 3: done
        "#]],
    );
    fleet.show();
    check(
        &mut fleet,
        expect![[r#"
        region 3, conf 7: 32@2 33@3 1000@4, store 2 leads
    "#]],
    );
}

#[test]
fn what_is_asked_for_replaces_what_runs() {
    let mut fleet = three();
    fleet.world.commits = true;
    assert_eq!(
        ask(&mut fleet, 3, Asked::TransferLeader { to: 2 }),
        "operator 1"
    );
    assert_eq!(
        ask(&mut fleet, 3, Asked::TransferLeader { to: 3 }),
        "operator 2"
    );
    fleet.settle();
    check(
        &mut fleet,
        expect![[r#"
            start 1: admin-transfer-leader region 3: transfer the leader to store 2 (asked for: store 2 leads)
            end 1, region 3: replaced by another
            start 2: admin-transfer-leader region 3: transfer the leader to store 3 (asked for: store 3 leads)
            tell store 1: region 3, conf 1: transfer to 32@2
            tell store 1: region 3, conf 1: transfer to 33@3
            end 2, region 3: done
        "#]],
    );
}

#[test]
fn an_operator_is_ended_when_somebody_asks_for_it() {
    let mut fleet = three();
    let cancel = |fleet: &mut Fleet, region| {
        let request = CancelOperator { region };
        let answer = fleet.world.ask::<calls::CancelOperator>(request);
        answer.unwrap().0
    };
    assert_eq!(cancel(&mut fleet, 3), None);
    ask(&mut fleet, 3, Asked::TransferLeader { to: 2 });
    assert_eq!(cancel(&mut fleet, 7), None);
    assert_eq!(cancel(&mut fleet, 3), Some(1));
    assert_eq!(cancel(&mut fleet, 3), None);
    let ended = list(&mut fleet).ended;
    let ending = ended[0].ending.as_deref();
    assert_eq!(
        (ended[0].status, ending),
        ("CANCEL", Some("cancelled: as asked for"))
    );
}

#[test]
fn what_cannot_be_done_says_why() {
    let mut fleet = three();
    let mut lines = String::new();
    for (region, asked) in [
        (7, Asked::TransferLeader { to: 2 }),
        (3, Asked::TransferLeader { to: 4 }),
        (3, Asked::RemovePeer { store: 3 }),
        (3, Asked::AddPeer { store: 4 }),
    ] {
        lines += &format!("{}\n", ask(&mut fleet, region, asked));
    }
    expect![[r#"
        404 no leader has reported region 7 to this PD; check the id, or try again
        409 the region has no voter on store 4
        409 the region has 3 replicas and needs 3: move the one on store 3 instead of removing it
        409 the region has 3 of 3 replicas: move one instead of adding one
    "#]]
    .assert_eq(&lines);
}

#[test]
fn operators_are_listed_while_they_run_and_after() {
    let mut fleet = three();
    ask(&mut fleet, 3, Asked::TransferLeader { to: 2 });
    let running = serde_json::to_string_pretty(&list(&mut fleet)).unwrap();
    expect![[r#"
        {
          "running": [
            {
              "id": 1,
              "region_id": 3,
              "desc": "admin-transfer-leader",
              "kind": "admin",
              "reason": "asked for: store 2 leads",
              "steps": [
                "transfer the leader to store 2"
              ],
              "steps_done": 0,
              "status": "RUNNING",
              "started_ms": 1719792040000
            }
          ],
          "ended": []
        }"#]]
    .assert_eq(&running);
    fleet.settle();
    let ended = serde_json::to_string_pretty(&list(&mut fleet)).unwrap();
    expect![[r#"
        {
          "running": [],
          "ended": [
            {
              "id": 1,
              "region_id": 3,
              "desc": "admin-transfer-leader",
              "kind": "admin",
              "reason": "asked for: store 2 leads",
              "steps": [
                "transfer the leader to store 2"
              ],
              "steps_done": 1,
              "status": "SUCCESS",
              "ending": "done",
              "started_ms": 1719792040000,
              "ended_ms": 1719792040200
            }
          ]
        }"#]]
    .assert_eq(&ended);
}

#[test]
fn the_history_is_bounded() {
    let mut fleet = three();
    for nth in 0..OPERATOR_HISTORY_MAX as u64 + 5 {
        let to = 2 + nth % 2;
        assert_eq!(
            ask(&mut fleet, 3, Asked::TransferLeader { to }),
            format!("operator {}", nth + 1)
        );
    }
    let ended = list(&mut fleet).ended;
    assert_eq!(ended.len(), OPERATOR_HISTORY_MAX);
    assert_eq!(
        ended[0].id,
        OPERATOR_HISTORY_MAX as u64 + 4,
        "the last first"
    );
    assert_eq!(ended[0].status, "REPLACE");
}
