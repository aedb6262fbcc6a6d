//! Operators from the first look at a region to the last step: what PD tells whom, and what it makes
//! of the answers, line by line.

mod common;

use std::time::Duration;

use common::fleet::Fleet;
use common::header;
use expect_test::{Expect, expect};
use flotilla_pd::{Input, calls};
use flotilla_proto::pdpb::{GetOperatorRequest, OperatorStatus};

const MINUTE: Duration = Duration::from_secs(60);

#[track_caller]
fn check(fleet: &mut Fleet, expected: Expect) {
    fleet.hear();
    expected.assert_eq(&fleet.take());
}

/// What `GetOperator` says of region 3.
fn operator(fleet: &mut Fleet) -> String {
    let request = GetOperatorRequest {
        header: header(),
        region_id: 3,
    };
    let answer = fleet.world.ask::<calls::GetOperator>(request).unwrap();
    if let Some(error) = answer.header.unwrap().error {
        return error.message;
    }
    let status = OperatorStatus::try_from(answer.status).unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    format!(
        "{} ({}) {}",
        text(&answer.desc),
        text(&answer.kind),
        status.as_str_name()
    )
}

/// The first look may have to wait for ids.
fn tick(fleet: &mut Fleet) {
    fleet.world.advance(2 * flotilla_pd::TICK);
    fleet.hear();
}

#[test]
fn two_more_stores_make_three_replicas_of_everything() {
    let mut fleet = Fleet::new(3);
    fleet.report();
    fleet.settle();
    check(
        &mut fleet,
        expect![[r#"
            start 1: make-up-replica region 1: add a learner on store 3, add a learner on store 2, at once: promote store 3 promote store 2, leave the joint configuration (it has 1 of 3 replicas)
            start 2: make-up-replica region 3: add a learner on store 3, add a learner on store 2, at once: promote store 3 promote store 2, leave the joint configuration (it has 1 of 3 replicas)
            start 3: make-up-replica region 5: add a learner on store 2, add a learner on store 3, at once: promote store 2 promote store 3, leave the joint configuration (it has 1 of 3 replicas)
            tell store 1: region 1, conf 1: learner 1000@3
            tell store 1: region 3, conf 1: learner 1002@3
            tell store 1: region 5, conf 1: learner 1004@2
            tell store 1: region 1, conf 2: learner 1001@2
            tell store 1: region 3, conf 2: learner 1003@2
            tell store 1: region 5, conf 2: learner 1005@3
            tell store 1: region 1, conf 3: joint [voter 1000@3, voter 1001@2]
            tell store 1: region 3, conf 3: joint [voter 1002@3, voter 1003@2]
            tell store 1: region 5, conf 3: joint [voter 1004@2, voter 1005@3]
            tell store 1: region 1, conf 5: joint []
            tell store 1: region 3, conf 5: joint []
            tell store 1: region 5, conf 5: joint []
            end 1, region 1: done
            end 2, region 3: done
            end 3, region 5: done
        "#]],
    );
    fleet.show();
    check(
        &mut fleet,
        expect![[r#"
        region 1, conf 7: 11@1 1000@3 1001@2, store 1 leads
        region 3, conf 7: 31@1 1002@3 1003@2, store 1 leads
        region 5, conf 7: 51@1 1004@2 1005@3, store 1 leads
    "#]],
    );
}

#[test]
fn a_cluster_of_one_or_two_stores_is_left_alone() {
    let mut fleet = Fleet::new(2);
    fleet.report();
    fleet.settle();
    check(&mut fleet, expect![""]);
}

#[test]
fn the_meta_region_has_five_replicas_where_data_regions_have_three() {
    let mut fleet = Fleet::new(5);
    fleet.report();
    fleet.settle();
    fleet.take();
    fleet.show();
    check(
        &mut fleet,
        expect![[r#"
        region 1, conf 13: 11@1 1000@5 1001@3 1006@4 1007@2, store 1 leads
        region 3, conf 7: 31@1 1002@4 1003@2, store 1 leads
        region 5, conf 7: 51@1 1004@2 1005@4, store 1 leads
    "#]],
    );
}

#[test]
fn each_step_waits_for_the_one_before() {
    let mut fleet = Fleet::with_region(3, 3, &[1, 2]);
    assert_eq!(operator(&mut fleet), "region 3 has no operator: not found");
    fleet.groups.get_mut(&3).unwrap().slow = true;
    fleet.report();
    tick(&mut fleet);
    check(
        &mut fleet,
        expect![[r#"
            start 1: make-up-replica region 3: add a learner on store 3, promote the learner on store 3 (it has 2 of 3 replicas)
            tell store 1: region 3, conf 1: learner 1000@3
        "#]],
    );
    assert_eq!(operator(&mut fleet), "make-up-replica (replica) RUNNING");
    // Told again after a while, by ticks and by heartbeats.
    fleet.beat(3);
    check(&mut fleet, expect![""]);
    fleet.world.advance(Duration::from_secs(2));
    check(
        &mut fleet,
        expect![[r#"
            tell store 1: region 3, conf 1: learner 1000@3
        "#]],
    );
    // The learner is there and lags behind.
    fleet.obey();
    check(&mut fleet, expect![""]);
    fleet.groups.get_mut(&3).unwrap().pending.clear();
    fleet.beat(3);
    check(
        &mut fleet,
        expect![[r#"
            tell store 1: region 3, conf 2: voter 1000@3
        "#]],
    );
    fleet.obey();
    check(
        &mut fleet,
        expect![[r#"
        end 1, region 3: done
    "#]],
    );
    assert_eq!(operator(&mut fleet), "make-up-replica (replica) SUCCESS");
}

/// A learner that falls behind again is not promoted; out of time, PD waits for it.
#[test]
fn a_step_that_takes_too_long_ends_the_operator() {
    let mut fleet = Fleet::with_region(3, 3, &[1, 2]);
    fleet.report();
    tick(&mut fleet);
    fleet.obey();
    fleet.beat(3);
    let group = fleet.groups.get_mut(&3).unwrap();
    group.slow = true;
    group.pending.insert(3);
    fleet.beat(3);
    fleet.take();
    fleet.pass(MINUTE);
    check(
        &mut fleet,
        expect![[r#"
        end 1, region 3: out of time: promote the learner on store 3
    "#]],
    );
    assert_eq!(operator(&mut fleet), "make-up-replica (replica) TIMEOUT");
    fleet.pass(MINUTE);
    check(&mut fleet, expect![""]);
    fleet.groups.get_mut(&3).unwrap().pending.clear();
    fleet.beat(3);
    fleet.settle();
    check(
        &mut fleet,
        expect![[r#"
            start 2: make-up-replica region 3: promote the learner on store 3 (it has 2 of 3 replicas)
            tell store 1: region 3, conf 2: voter 1000@3
            end 2, region 3: done
        "#]],
    );
}

#[test]
fn what_somebody_else_does_to_the_region_cancels() {
    let started = || {
        let mut fleet = Fleet::with_region(3, 3, &[1, 2]);
        fleet.report();
        tick(&mut fleet);
        fleet.take();
        fleet
    };
    let mut split = started();
    let region = &mut split.groups.get_mut(&3).unwrap().region;
    region.region_epoch.as_mut().unwrap().version = 2;
    region.start_key = "k".into();
    split.beat(3);
    check(
        &mut split,
        expect![[r#"
        end 1, region 3: cancelled: the region was split or merged
    "#]],
    );
    assert_eq!(operator(&mut split), "make-up-replica (replica) CANCEL");

    let mut changed = started();
    changed.groups.get_mut(&3).unwrap().grew(1);
    changed.beat(3);
    check(
        &mut changed,
        expect![[r#"
        end 1, region 3: cancelled: the region's members changed otherwise
    "#]],
    );

    let mut merged = started();
    merged.add(common::region(7, 9, "", ""));
    merged.beat(7);
    tick(&mut merged);
    check(
        &mut merged,
        expect![[r#"
            end 1, region 3: cancelled: the region is gone
            start 2: make-up-replica region 7: add a learner on store 3, add a learner on store 2, at once: promote store 3 promote store 2, leave the joint configuration (it has 1 of 3 replicas)
            tell store 1: region 7, conf 1: learner 1001@3
        "#]],
    );
}

#[test]
fn a_store_that_goes_away_cancels_what_it_was_to_get() {
    let mut fleet = Fleet::with_region(4, 3, &[1, 2]);
    fleet.report();
    tick(&mut fleet);
    check(
        &mut fleet,
        expect![[r#"
            start 1: make-up-replica region 3: add a learner on store 3, promote the learner on store 3 (it has 2 of 3 replicas)
            tell store 1: region 3, conf 1: learner 1000@3
        "#]],
    );
    assert_eq!(fleet.set_offline(3, true), "ok");
    tick(&mut fleet);
    check(
        &mut fleet,
        expect![[r#"
            store 3: Offline
            end 1, region 3: cancelled: store 3 is offline
            start 2: make-up-replica region 3: add a learner on store 4, promote the learner on store 4 (it has 2 of 3 replicas)
            tell store 1: region 3, conf 1: learner 1001@4
        "#]],
    );
}

/// Whatever an operator left behind, another PD goes on from there.
#[test]
fn another_pd_goes_on() {
    let mut fleet = Fleet::with_region(3, 3, &[1]);
    fleet.report();
    tick(&mut fleet);
    fleet.obey();
    fleet.take();
    fleet.world.lead();
    fleet.report();
    fleet.settle();
    check(
        &mut fleet,
        expect![[r#"
            start 1: make-up-replica region 3: add a learner on store 2, at once: promote store 3 promote store 2, leave the joint configuration (it has 1 of 3 replicas)
            tell store 1: region 3, conf 2: learner 2002@2
            tell store 1: region 3, conf 3: joint [voter 1000@3, voter 2002@2]
            tell store 1: region 3, conf 5: joint []
            end 1, region 3: done
        "#]],
    );
}

#[test]
fn a_store_that_stays_away_is_replaced_and_not_before() {
    let mut fleet = Fleet::with_region(4, 3, &[1, 2, 3]);
    fleet.report();
    fleet.silent.insert(3);
    fleet.pass(29 * MINUTE);
    check(&mut fleet, expect![""]);
    // Its leader does not miss it: PD alone does.
    fleet.pass(2 * MINUTE);
    check(&mut fleet, expect![""]);
    let down = Duration::from_secs(31 * 60);
    fleet.groups.get_mut(&3).unwrap().down.insert(3, down);
    fleet.beat(3);
    fleet.settle();
    check(
        &mut fleet,
        expect![[r#"
            start 1: replace-down-replica region 3: add a learner on store 4, at once: promote store 4 demote store 3, leave the joint configuration, remove the peer on store 3 (its peer on store 3 is down)
            tell store 1: region 3, conf 1: learner 1000@4
            tell store 1: region 3, conf 2: joint [voter 1000@4, learner 33@3]
            tell store 1: region 3, conf 4: joint []
            tell store 1: region 3, conf 6: remove 33@3
            end 1, region 3: done
        "#]],
    );
    fleet.show();
    check(
        &mut fleet,
        expect![[r#"
        region 3, conf 7: 31@1 32@2 1000@4, store 1 leads
    "#]],
    );
}

/// The joint configuration is left by the region's leader before PD says so.
#[test]
fn a_joint_configuration_may_be_left_before_pd_hears_of_it() {
    let mut fleet = Fleet::with_region(3, 3, &[1]);
    fleet.report();
    tick(&mut fleet);
    for _ in 0..2 {
        fleet.obey();
        fleet.beat(3);
    }
    fleet.take();
    let mut joint = std::mem::take(&mut fleet.orders);
    fleet.orders.insert(3, joint.remove(&3).unwrap());
    fleet.silent.insert(1);
    fleet.obey();
    fleet.silent.clear();
    fleet.groups.get_mut(&3).unwrap().leave_joint();
    fleet.beat(3);
    check(
        &mut fleet,
        expect![[r#"
        end 1, region 3: done
    "#]],
    );
}

#[test]
fn a_new_leader_is_told_at_once() {
    let mut fleet = Fleet::with_region(3, 3, &[1, 2]);
    fleet.report();
    tick(&mut fleet);
    fleet.take();
    let group = fleet.groups.get_mut(&3).unwrap();
    (group.leader, group.term) = (2, 7);
    fleet.beat(3);
    check(
        &mut fleet,
        expect![[r#"
            tell store 2: region 3, conf 1: learner 1000@3
        "#]],
    );
}

#[test]
fn nothing_is_told_without_leadership() {
    let mut fleet = Fleet::with_region(3, 3, &[1, 2]);
    fleet.report();
    tick(&mut fleet);
    fleet.take();
    fleet.world.input(Input::Retire);
    fleet.world.advance(MINUTE);
    check(&mut fleet, expect![""]);
}
