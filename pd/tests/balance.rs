//! Clusters that PD evens out by itself, and what it leaves alone.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::fleet::Fleet;
use common::{header, region};
use flotilla_pd::plan::Asked;
use flotilla_pd::{
    AddOperator, ConfigValue, ConstraintView, HotRegions, RuleView, SetConfig, SetRules, calls,
};
use flotilla_proto::metapb::{Peer, StoreLabel};
use flotilla_proto::pdpb::{
    PutStoreRequest, ScatterRegionRequest, StoreHeartbeatRequest, StoreStats,
};

/// `regions` regions from "" on, each with voters on `stores`; the first store leads.
fn fleet(stores: u64, regions: u64, on: &[u64]) -> Fleet {
    let mut fleet = Fleet::new(stores);
    fleet.groups.clear();
    for nth in 0..regions {
        let key = |nth: u64| match nth {
            0 => String::new(),
            nth if nth == regions => String::new(),
            nth => format!("k{nth:03}"),
        };
        let mut only = region(100 + nth, 1, &key(nth), &key(nth + 1));
        let peer = |store: &u64| Peer {
            id: 10_000 * (nth + 1) + store,
            store_id: *store,
            ..Peer::default()
        };
        only.peers = on.iter().map(peer).collect();
        fleet.add(only);
    }
    fleet
}

/// Regions that each store leads, and peers that it has.
fn spread(fleet: &Fleet) -> BTreeMap<u64, (u64, u64)> {
    let mut spread: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for group in fleet.groups.values() {
        spread.entry(group.leader).or_default().0 += 1;
        for peer in &group.region.peers {
            spread.entry(peer.store_id).or_default().1 += 1;
        }
    }
    spread
}

fn lines(fleet: &mut Fleet, start: &str) -> usize {
    fleet.hear();
    let lines = fleet.take();
    lines.lines().filter(|line| line.starts_with(start)).count()
}

#[test]
fn leaders_are_spread_and_then_nothing_moves_any_more() {
    let mut fleet = fleet(3, 30, &[1, 2, 3]);
    fleet.report();
    fleet.settle();
    let leads: Vec<u64> = spread(&fleet)
        .into_values()
        .map(|(leads, _)| leads)
        .collect();
    let (least, most) = (leads.iter().min(), leads.iter().max());
    assert!(most.unwrap() - least.unwrap() <= 2, "{leads:?}");
    fleet.take();
    fleet.pass(Duration::from_secs(120));
    assert_eq!(lines(&mut fleet, "start"), 0);
}

#[test]
fn a_few_leaders_more_than_elsewhere_stay() {
    let mut fleet = fleet(3, 2, &[1, 2, 3]);
    fleet.report();
    fleet.settle();
    assert_eq!(lines(&mut fleet, "start"), 0);
}

#[test]
fn a_new_store_gets_its_share_of_peers_and_leaders() {
    let mut fleet = fleet(3, 40, &[1, 2, 3]);
    fleet.report();
    fleet.settle();
    fleet.join(4);
    for _ in 0..8 {
        fleet.settle();
    }
    let spread = spread(&fleet);
    for (store, (leads, peers)) in &spread {
        assert!((8..=12).contains(leads), "store {store} leads {leads}");
        assert!((26..=34).contains(peers), "store {store} has {peers}");
    }
    fleet.take();
    fleet.pass(Duration::from_secs(120));
    assert_eq!(lines(&mut fleet, "start"), 0);
}

#[test]
fn a_leader_that_somebody_moved_stays_for_a_while() {
    let mut fleet = fleet(3, 3, &[1, 2, 3]);
    fleet.report();
    // One each, then all to store 1 by hand.
    for (store, group) in fleet.groups.values_mut().enumerate() {
        (group.leader, group.term) = (store as u64 + 1, 7);
    }
    fleet.report();
    fleet.settle();
    for region in 100..103 {
        let asked = Asked::TransferLeader { to: 1 };
        let request = AddOperator { region, asked };
        let _ = fleet.world.ask::<calls::AddOperator>(request).unwrap();
        fleet.settle();
    }
    fleet.pass(Duration::from_secs(60));
    let leaders: Vec<u64> = fleet.groups.values().map(|group| group.leader).collect();
    // What nobody asked for made place.
    assert_eq!((leaders[0] != 1, &leaders[1..]), (true, &[1, 1][..]));
}

fn slow(fleet: &mut Fleet, store: u64, slow_score: u64) {
    let request = StoreHeartbeatRequest {
        header: header(),
        stats: Some(StoreStats {
            store_id: store,
            capacity: 100 << 30,
            available: 50 << 30,
            slow_score,
            ..StoreStats::default()
        }),
        ..StoreHeartbeatRequest::default()
    };
    fleet.world.ask::<calls::StoreHeartbeat>(request).unwrap();
    fleet.world.advance(Duration::from_millis(200));
    fleet.hear();
}

/// Told, the leaders move; nobody reports for the stores meanwhile.
fn obey(fleet: &mut Fleet) {
    for _ in 0..40 {
        fleet.world.advance(Duration::from_millis(200));
        fleet.hear();
        fleet.obey();
    }
}

#[test]
fn a_slow_store_leads_nothing_until_it_is_fast_again() {
    let mut fleet = fleet(3, 2, &[1, 2, 3]);
    fleet.report();
    fleet.take();
    slow(&mut fleet, 1, 79);
    assert_eq!(lines(&mut fleet, "start"), 0);
    slow(&mut fleet, 1, 80);
    let started = fleet.take();
    assert!(
        started.contains("(store 1 is slow, its score is 80 of 100)"),
        "{started}"
    );
    obey(&mut fleet);
    assert_eq!(spread(&fleet).get(&1).map(|(leads, _)| *leads), Some(0));
    // A second slow one keeps its leaders: they would only come back.
    let leads = spread(&fleet)[&2].0;
    slow(&mut fleet, 2, 100);
    obey(&mut fleet);
    assert!(spread(&fleet)[&2].0 >= leads);
    slow(&mut fleet, 2, 1);
    slow(&mut fleet, 1, 11);
    assert_eq!(
        ask_leader(&mut fleet, 1),
        "the peer on store 1 cannot lead now: it does not answer, lags behind, or its store is to have no leaders"
    );
    slow(&mut fleet, 1, 10);
    assert_eq!(ask_leader(&mut fleet, 1), "ok");
}

fn ask_leader(fleet: &mut Fleet, to: u64) -> String {
    let asked = Asked::TransferLeader { to };
    let request = AddOperator { region: 100, asked };
    match fleet.world.ask::<calls::AddOperator>(request).unwrap().0 {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn scattered_regions_spread_over_all_stores() {
    let mut fleet = fleet(6, 10, &[1, 2, 3]);
    let request = SetConfig(BTreeMap::from([
        ("region-schedule-limit".to_owned(), ConfigValue::Number(64)),
        ("leader-schedule-limit".to_owned(), ConfigValue::Number(0)),
    ]));
    fleet
        .world
        .ask::<calls::SetConfig>(request)
        .unwrap()
        .0
        .unwrap();
    let off = flotilla_pd::ChangeScheduler {
        name: "balance-region-scheduler".to_owned(),
        change: flotilla_pd::SchedulerChange::Remove,
    };
    fleet
        .world
        .ask::<calls::ChangeScheduler>(off)
        .unwrap()
        .0
        .unwrap();
    fleet.report();
    fleet.settle();
    assert_eq!(lines(&mut fleet, "start"), 0);
    let request = ScatterRegionRequest {
        header: header(),
        regions_id: (100..110).collect(),
        group: "table".to_owned(),
        ..ScatterRegionRequest::default()
    };
    let answer = fleet.world.ask::<calls::ScatterRegion>(request).unwrap();
    assert_eq!(answer.finished_percentage, 100);
    for _ in 0..3 {
        fleet.settle();
    }
    for (store, (leads, peers)) in spread(&fleet) {
        assert!((1..=3).contains(&leads), "store {store} leads {leads}");
        assert!((4..=6).contains(&peers), "store {store} has {peers}");
    }
}

#[test]
fn rules_bring_replicas_to_the_stores_that_they_name() {
    let mut fleet = fleet(6, 2, &[1, 2, 3]);
    for id in 1..=6 {
        let zone = if id <= 3 { "north" } else { "south" };
        let label = StoreLabel {
            key: "zone".to_owned(),
            value: zone.to_owned(),
        };
        let store = flotilla_proto::metapb::Store {
            labels: vec![label],
            ..common::store(id)
        };
        let request = PutStoreRequest {
            header: header(),
            store: Some(store),
        };
        fleet.world.ask::<calls::PutStore>(request).unwrap();
    }
    let rule = RuleView {
        group_id: "pd".to_owned(),
        id: "default".to_owned(),
        role: "voter".to_owned(),
        count: 3,
        label_constraints: vec![ConstraintView {
            key: "zone".to_owned(),
            op: "in".to_owned(),
            values: vec!["south".to_owned()],
        }],
        ..RuleView::default()
    };
    let set = SetRules(vec![rule]);
    fleet.world.ask::<calls::SetRules>(set).unwrap().0.unwrap();
    fleet.report();
    for _ in 0..3 {
        fleet.settle();
    }
    let stores: Vec<u64> = spread(&fleet).into_keys().collect();
    assert_eq!(stores, [4, 5, 6]);
    fleet.take();
    fleet.pass(Duration::from_secs(60));
    assert_eq!(lines(&mut fleet, "start"), 0);
}

#[test]
fn load_is_shown_as_an_average_that_decays() {
    let mut fleet = fleet(3, 2, &[1, 2, 3]);
    fleet.report();
    let show = |fleet: &mut Fleet| {
        let request = HotRegions { writes: true };
        let hot = fleet.world.ask::<calls::HotRegions>(request).unwrap();
        let first = &hot.stores[0];
        assert_eq!((first.store_id, hot.stores.len()), (1, 3));
        first
            .regions
            .first()
            .map_or((0, 0.0), |region| (region.region_id, region.flow.bytes))
    };
    assert_eq!(show(&mut fleet), (0, 0.0));
    fleet.world.advance(Duration::from_secs(10));
    let mut beat = common::beat(fleet.groups[&101].region.clone());
    beat.bytes_written = 40_000_000;
    fleet.world.heartbeat(flotilla_pd::StreamId(1), beat);
    let (region, first) = show(&mut fleet);
    assert_eq!((region, first.round()), (101, 1_000_000.0));
    fleet.world.advance(Duration::from_secs(15));
    (1..=3).for_each(|store| fleet.report_store(store));
    let (_, later) = show(&mut fleet);
    assert!(later < first * 0.7, "{first} then {later}");
}
