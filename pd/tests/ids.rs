//! Ids never repeat, and none is handed out above a durable bound.

mod common;

use common::{World, header, outcome, region};
use expect_test::expect;
use flotilla_pd::{Call, FIRST_ALLOCATED_ID, ID_WINDOW, Outcome, calls};
use flotilla_proto::metapb::{Peer, Region};
use flotilla_proto::pdpb::{AllocIdRequest, AskBatchSplitRequest, AskSplitRequest};

fn alloc(count: u32) -> AllocIdRequest {
    AllocIdRequest {
        header: header(),
        count,
    }
}

fn split(region: Region, split_count: u32) -> AskBatchSplitRequest {
    AskBatchSplitRequest {
        header: header(),
        region: Some(region),
        split_count,
        ..AskBatchSplitRequest::default()
    }
}

fn three_peers() -> Region {
    let peer = |id, store_id| Peer {
        id,
        store_id,
        ..Peer::default()
    };
    Region {
        peers: vec![peer(31, 1), peer(32, 2), peer(33, 3)],
        ..region(3, 5, "a", "m")
    }
}

#[test]
fn a_batch_is_named_by_its_last_id() {
    let mut world = World::leading();
    let mut ask = |count| {
        let answer = world.ask::<calls::AllocID>(alloc(count)).unwrap();
        (answer.id, answer.count)
    };
    assert_eq!(ask(0), (FIRST_ALLOCATED_ID, 1), "0 stands for 1");
    assert_eq!(ask(1), (FIRST_ALLOCATED_ID + 1, 1));
    assert_eq!(ask(10), (FIRST_ALLOCATED_ID + 11, 10));
    assert_eq!(ask(5_000), (FIRST_ALLOCATED_ID + 5_011, 5_000));
}

#[test]
fn a_split_gets_a_region_id_and_a_peer_id_per_peer() {
    let mut world = World::leading();
    let answer = world
        .ask::<calls::AskBatchSplit>(split(three_peers(), 2))
        .unwrap();
    let ids: Vec<_> = answer
        .ids
        .iter()
        .map(|id| (id.new_region_id, id.new_peer_ids.clone()))
        .collect();
    assert_eq!(
        ids,
        [
            (1000, vec![1001, 1002, 1003]),
            (1004, vec![1005, 1006, 1007])
        ]
    );
    let single = AskSplitRequest {
        header: header(),
        region: Some(three_peers()),
    };
    let answer = world.ask::<calls::AskSplit>(single).unwrap();
    assert_eq!(answer.new_region_id, 1008);
    assert_eq!(answer.new_peer_ids, [1009, 1010, 1011]);
}

#[test]
fn what_cannot_be_asked() {
    let mut world = World::leading();
    world.report(region(3, 5, "a", "m"));
    let no_region = AskBatchSplitRequest {
        header: header(),
        split_count: 1,
        ..AskBatchSplitRequest::default()
    };
    let no_peers = Region {
        peers: Vec::new(),
        ..three_peers()
    };
    let mut lines = String::new();
    for (what, request) in [
        ("too many ids", calls::AllocID::request(alloc(100_001))),
        ("no region", calls::AskBatchSplit::request(no_region)),
        (
            "no peers",
            calls::AskBatchSplit::request(split(no_peers, 1)),
        ),
        (
            "meta region",
            calls::AskBatchSplit::request(split(region(1, 5, "", ""), 1)),
        ),
        (
            "no parts",
            calls::AskBatchSplit::request(split(three_peers(), 0)),
        ),
        (
            "too many parts",
            calls::AskBatchSplit::request(split(three_peers(), 8_193)),
        ),
        (
            "stale",
            calls::AskBatchSplit::request(split(region(3, 4, "a", "z"), 1)),
        ),
        (
            "unknown here",
            calls::AskBatchSplit::request(split(region(9, 4, "m", "z"), 1)),
        ),
    ] {
        let token = world.send(request);
        lines += &format!("{what}: {}\n", outcome(&world.answers[&token]));
    }
    expect![[r#"
        too many ids: UNKNOWN 100001 ids were asked for at once, at most 100000 are given
        no region: REGION_NOT_FOUND missing region for split
        no peers: UNKNOWN region 3 has 0 peers
        meta region: UNKNOWN region 1 cannot be split
        no parts: UNKNOWN a region is split into 1 to 8192 new ones, not 0
        too many parts: UNKNOWN a region is split into 1 to 8192 new ones, not 8193
        stale: UNKNOWN region 3 is stale: it has epoch 1.4, known is 1.5
        unknown here: ok
    "#]]
    .assert_eq(&lines);
}

/// The bound is durable before an id below it is handed out, and a new leader starts above it.
#[test]
fn ids_wait_for_the_bound_and_a_new_leader_skips_the_rest() {
    let mut world = World::leading();
    world.commits = false;
    let first = world.send(calls::AllocID::request(alloc(3)));
    let second = world.send(calls::AllocID::request(alloc(1)));
    assert!(world.answers.is_empty());
    world.decide(Outcome::Applied);
    let id = |world: &mut World, token| {
        let answer = world.answer::<calls::AllocID>(token).unwrap();
        answer.unwrap().id
    };
    assert_eq!(id(&mut world, first), 1002);
    assert_eq!(id(&mut world, second), 1003);
    assert!(world.proposed.is_empty(), "one bound served both");
    world.commits = true;
    let bound = world.durable().id_bound;
    assert!(bound > 1003 && bound <= 1003 + ID_WINDOW);
    world.lead();
    assert_eq!(world.ask::<calls::AllocID>(alloc(1)).unwrap().id, bound);
}

#[test]
fn a_refused_bound_refuses_those_who_wait_and_the_next_one_is_served() {
    let mut world = World::leading();
    world.commits = false;
    let token = world.send(calls::AllocID::request(alloc(1)));
    world.decide(Outcome::Refused {
        why: "the proposal queue is full".to_owned(),
    });
    assert_eq!(
        outcome(&world.answers[&token]),
        "status Unavailable: the change was refused: the proposal queue is full"
    );
    world.commits = true;
    assert_eq!(world.ask::<calls::AllocID>(alloc(1)).unwrap().id, 1000);
}
