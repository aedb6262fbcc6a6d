//! What can be set while the cluster runs: settings by name, placement rules, schedulers.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{World, header};
use flotilla_pd::{
    ChangeScheduler, ConfigValue, ConstraintView, DeleteRule, GetConfig, GetRules, ListSchedulers,
    RuleView, SchedulerChange, SetConfig, SetRules, calls,
};
use flotilla_proto::pdpb::GetClusterConfigRequest;

fn number(number: u64) -> ConfigValue {
    ConfigValue::Number(number)
}

fn set(world: &mut World, values: &[(&str, ConfigValue)]) -> String {
    let values = values.iter().cloned();
    let values = values.map(|(name, value)| (name.to_owned(), value));
    let request = SetConfig(values.collect::<BTreeMap<_, _>>());
    match world.ask::<calls::SetConfig>(request).unwrap().0 {
        Ok(()) => "ok".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn get(world: &mut World, name: &str) -> ConfigValue {
    let all = world.ask::<calls::GetConfig>(GetConfig).unwrap().0;
    all[name].clone()
}

#[test]
fn a_setting_is_changed_by_name_and_the_next_pd_knows_it() {
    let mut world = World::leading();
    assert_eq!(get(&mut world, "leader-schedule-limit"), number(4));
    assert_eq!(
        set(&mut world, &[("leader-schedule-limit", number(7))]),
        "ok"
    );
    let minutes = ConfigValue::Text("90m".to_owned());
    assert_eq!(set(&mut world, &[("max-store-down-time", minutes)]), "ok");
    world.lead();
    assert_eq!(get(&mut world, "leader-schedule-limit"), number(7));
    let shown = ConfigValue::Text("1h30m0s".to_owned());
    assert_eq!(get(&mut world, "max-store-down-time"), shown);
}

#[test]
fn of_several_settings_all_are_changed_or_none_and_each_that_is_refused_is_named() {
    let mut world = World::leading();
    let flag = ConfigValue::Flag(false);
    let values = [
        ("leader-schedule-limit", number(7)),
        ("no-such-thing", number(1)),
        ("enable-placement-rules", flag),
    ];
    assert_eq!(
        set(&mut world, &values),
        "enable-placement-rules: it cannot be changed: placement rules are always on; the rule \
         pd/default stands for max-replicas; no-such-thing: there is no such setting"
    );
    assert_eq!(get(&mut world, "leader-schedule-limit"), number(4));
}

#[test]
fn the_number_of_replicas_is_the_clusters_own() {
    let mut world = World::leading();
    assert_eq!(set(&mut world, &[("max-replicas", number(5))]), "ok");
    let request = GetClusterConfigRequest { header: header() };
    let answer = world.ask::<calls::GetClusterConfig>(request).unwrap();
    assert_eq!(answer.cluster.unwrap().max_peer_count, 5);
    let rules = world.ask::<calls::GetRules>(GetRules).unwrap().0;
    assert_eq!(rules[0].count, 5);
}

fn rule(id: &str, role: &str, count: u32) -> RuleView {
    RuleView {
        group_id: "app".to_owned(),
        id: id.to_owned(),
        role: role.to_owned(),
        count,
        ..RuleView::default()
    }
}

fn set_rules(world: &mut World, rules: &[RuleView]) -> String {
    let set = world.ask::<calls::SetRules>(SetRules(rules.to_vec()));
    match set.unwrap().0 {
        Ok(()) => "ok".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn rules_are_set_read_in_their_order_and_deleted() {
    let mut world = World::leading();
    let zone = RuleView {
        start_key: "61".to_owned(),
        end_key: "7a00".to_owned(),
        label_constraints: vec![ConstraintView {
            key: "zone".to_owned(),
            op: "in".to_owned(),
            values: vec!["north".to_owned()],
        }],
        location_labels: vec!["rack".to_owned()],
        index: 2,
        overrides: true,
        ..rule("north", "voter", 2)
    };
    let learner = rule("learner", "learner", 1);
    assert_eq!(
        set_rules(&mut world, &[zone.clone(), learner.clone()]),
        "ok"
    );
    world.lead();
    let rules = world.ask::<calls::GetRules>(GetRules).unwrap().0;
    assert_eq!(rules[..2], [learner, zone]);
    assert_eq!((&*rules[2].group_id, &*rules[2].id), ("pd", "default"));
    let json = serde_json::to_value(&rules[2]).unwrap();
    let again: RuleView = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(again, rules[2]);
    assert_eq!(json["group_id"], "pd");

    let mut delete = |id: &str| {
        let (group, id) = ("app".to_owned(), id.to_owned());
        let deleted = world.ask::<calls::DeleteRule>(DeleteRule { group, id });
        deleted.unwrap().0
    };
    assert!(delete("north"));
    assert!(!delete("north"));
}

#[test]
fn rules_that_cannot_be_are_refused_with_the_reason() {
    let mut world = World::leading();
    let mut check = |rule: RuleView, expected: &str| {
        assert_eq!(set_rules(&mut world, &[rule]), expected);
    };
    check(
        rule("a", "king", 1),
        "rule app/a: \"king\" is no role: voter, leader, follower or learner",
    );
    check(
        rule("a", "leader", 2),
        "rule app/a: its count must be from 1 to 1",
    );
    check(
        rule("a", "voter", 0),
        "rule app/a: its count must be from 1 to 64",
    );
    check(
        rule("", "voter", 1),
        "rule app/: it needs a group_id and an id of 1 to 1024 bytes",
    );
    let backwards = RuleView {
        start_key: "62".to_owned(),
        end_key: "61".to_owned(),
        ..rule("a", "voter", 1)
    };
    check(backwards, "rule app/a: it ends before it starts");
    let partly = RuleView {
        group_id: "pd".to_owned(),
        end_key: "61".to_owned(),
        ..rule("default", "voter", 3)
    };
    check(
        partly,
        "the rule pd/default is for voters of the whole key space",
    );
}

fn change(world: &mut World, name: &str, change: SchedulerChange) -> String {
    let name = name.to_owned();
    let request = ChangeScheduler { name, change };
    match world.ask::<calls::ChangeScheduler>(request).unwrap().0 {
        Ok(()) => "ok".to_owned(),
        Err(error) => format!("{} {error}", error.http_status()),
    }
}

fn schedulers(world: &mut World) -> String {
    let all = world.ask::<calls::ListSchedulers>(ListSchedulers).unwrap();
    let shown = all.schedulers.iter().map(|one| match one.paused_seconds {
        0 => one.name.clone(),
        paused => format!("{} ({paused}s)", one.name),
    });
    shown.collect::<Vec<_>>().join(" ")
}

#[test]
fn schedulers_are_paused_removed_and_added_again() {
    use SchedulerChange::{Add, Pause, Remove};
    let mut world = World::leading();
    let all = "balance-hot-region-scheduler balance-leader-scheduler balance-region-scheduler \
               evict-slow-store-scheduler";
    assert_eq!(schedulers(&mut world), all);
    let leader = "balance-leader-scheduler";
    assert_eq!(change(&mut world, leader, Pause { seconds: 30 }), "ok");
    assert!(schedulers(&mut world).contains("balance-leader-scheduler (30s)"));
    world.advance(Duration::from_secs(30));
    assert_eq!(schedulers(&mut world), all);
    assert_eq!(change(&mut world, leader, Remove), "ok");
    world.lead();
    assert!(!schedulers(&mut world).contains(leader));
    assert_eq!(
        change(&mut world, leader, Pause { seconds: 1 }),
        "404 there is no scheduler \"balance-leader-scheduler\""
    );
    assert_eq!(change(&mut world, leader, Add { store: None }), "ok");
    assert_eq!(
        change(&mut world, leader, Add { store: None }),
        "409 the scheduler balance-leader-scheduler is there already"
    );
    let evict = "evict-leader-scheduler";
    assert_eq!(change(&mut world, evict, Add { store: Some(1) }), "ok");
    assert!(schedulers(&mut world).ends_with("evict-leader-scheduler-1"));
    let one = "evict-leader-scheduler-1";
    assert_eq!(change(&mut world, one, Remove), "ok");
    assert_eq!(
        change(&mut world, one, Remove),
        "404 evict-leader-scheduler-1: it names no store that is known here"
    );
    assert_eq!(schedulers(&mut world), all);
}
