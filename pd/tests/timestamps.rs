//! Timestamps: strictly rising whatever clocks, crashes and elections do (contracts: C20).

mod common;

use std::time::Duration;

use common::{CLUSTER, Dice, START, World, header, seeds};
use flotilla_pd::{
    Batch, Call, Code, ExtendWindow, Input, LOGICAL_END, Oracle, OracleCommand, OracleError,
    Outcome, STEP_AHEAD_EVERY, Status, TSO_BATCH_MAX, TSO_WINDOW, calls,
};
use flotilla_proto::clock::{Mono, Wall};
use flotilla_proto::pdpb::{GetMinTsRequest, TsoRequest};

/// An oracle with the window [100, 200) ms.
fn open() -> Oracle {
    let mut oracle = Oracle::new(CLUSTER);
    oracle.command(OracleCommand::Open {
        term: 4,
        from_ms: 100,
        limit_ms: 200,
    });
    oracle
}

fn parts(batch: Result<Batch, OracleError>) -> (u64, u64) {
    let batch = batch.unwrap();
    assert_eq!(batch.last() - batch.first() + 1, u64::from(batch.count));
    assert!(
        batch.logical >= u64::from(batch.count),
        "a batch does not wrap"
    );
    assert!(batch.logical < LOGICAL_END);
    (batch.physical_ms, batch.logical)
}

#[test]
fn physical_follows_the_wall_clock_within_the_window_and_never_falls() {
    let mut oracle = open();
    let mut at = |wall, count| parts(oracle.allocate(Mono(0), Wall(wall), count));
    assert_eq!(at(90, 1), (100, 1), "not below the window");
    assert_eq!(at(100, 5), (100, 6));
    assert_eq!(at(150, 3), (150, 3));
    assert_eq!(at(120, 1), (150, 4), "the clock went back");
    assert_eq!(at(9_000, 1), (199, 1), "not beyond what is durable");
}

#[test]
fn the_largest_batch_takes_a_millisecond_of_its_own() {
    let mut oracle = open();
    let mut now = Mono(0);
    let mut take = |count, waits| {
        now = now + waits;
        oracle.allocate(now, Wall(100), count)
    };
    let none = Duration::ZERO;
    assert_eq!(parts(take(TSO_BATCH_MAX, none)), (100, LOGICAL_END - 1));
    assert_eq!(parts(take(1, none)), (101, 1), "ahead of the wall clock");
    assert_eq!(parts(take(TSO_BATCH_MAX - 1, none)), (101, LOGICAL_END - 1));
    assert_eq!(
        take(1, none),
        Err(OracleError::Exhausted {
            retry_at: Mono(0) + STEP_AHEAD_EVERY
        }),
        "time is not pushed ahead faster than it passes"
    );
    assert_eq!(parts(take(1, STEP_AHEAD_EVERY)), (102, 1));
}

#[test]
fn a_used_up_window_says_how_far() {
    let mut oracle = open();
    parts(oracle.allocate(Mono(0), Wall(500), TSO_BATCH_MAX));
    let needed = oracle.allocate(Mono(0), Wall(500), 1);
    assert_eq!(needed, Err(OracleError::NeedWindow { above_ms: 199 }));
    oracle.command(OracleCommand::Extend {
        term: 3,
        limit_ms: 900,
    });
    assert_eq!(
        oracle.allocate(Mono(0), Wall(500), 1),
        needed,
        "of another term"
    );
    oracle.command(OracleCommand::Extend {
        term: 4,
        limit_ms: 900,
    });
    assert_eq!(parts(oracle.allocate(Mono(0), Wall(500), 1)), (500, 1));
}

#[test]
fn what_ends_a_stream() {
    let request = |count, cluster_id| TsoRequest {
        header: Some(flotilla_proto::pdpb::RequestHeader {
            cluster_id,
            ..Default::default()
        }),
        count,
        ..TsoRequest::default()
    };
    let mut oracle = open();
    let mut serve = |request: &TsoRequest, leads: bool| {
        oracle.serve(Mono(0), Wall(100), request, |term| {
            assert_eq!(term, 4);
            leads
        })
    };
    let refused = |result: Result<_, OracleError>| match result {
        Err(OracleError::Refused(status)) => status,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        refused(serve(&request(1, 8), true)),
        Status::cluster_mismatch(CLUSTER, 8)
    );
    let zero = refused(serve(&request(0, CLUSTER), true));
    assert_eq!(zero.code, Code::InvalidArgument);
    let huge = refused(serve(&request(TSO_BATCH_MAX + 1, CLUSTER), true));
    assert_eq!(huge.code, Code::InvalidArgument);
    assert_eq!(
        refused(serve(&request(3, CLUSTER), false)),
        Status::not_leader()
    );
    let answer = serve(&request(2, CLUSTER), true).unwrap();
    assert_eq!(answer.count, 2);
    let timestamp = answer.timestamp.unwrap();
    assert_eq!(
        (timestamp.physical, timestamp.logical),
        (100, 5),
        "what the lost lease took is never used again"
    );
    oracle.command(OracleCommand::Close);
    let closed = oracle.allocate(Mono(0), Wall(100), 1);
    assert_eq!(closed, Err(Status::not_leader().into()));
}

#[test]
fn min_ts_is_one_fresh_timestamp() {
    let mut oracle = open();
    let mut ask = |header| {
        let request = GetMinTsRequest { header };
        oracle.serve_min_ts(Mono(0), Wall(150), &request, |_| true)
    };
    let first = ask(header()).unwrap().timestamp.unwrap();
    let second = ask(header()).unwrap().timestamp.unwrap();
    assert_eq!((first.physical, first.logical), (150, 1));
    assert_eq!((second.physical, second.logical), (150, 2));
    assert!(ask(None).is_err());
}

#[test]
fn the_window_is_durable_before_it_opens_and_moves_ahead_of_time() {
    let mut world = World::idle(&common::genesis());
    world.commits = false;
    world.lead();
    let take = |world: &mut World| world.oracle.allocate(world.now, world.wall, 1);
    assert_eq!(take(&mut world), Err(Status::not_leader().into()));
    world.decide(Outcome::Applied);
    assert_eq!(parts(take(&mut world)), (START.0, 1));
    let bound = world.durable().tso_bound_ms;
    assert_eq!(bound, START.0 + TSO_WINDOW.as_millis() as u64);

    world.commits = true;
    world.advance(Duration::from_secs(20));
    assert_eq!(parts(take(&mut world)).0, world.wall.0);
    assert!(world.durable().tso_bound_ms > world.wall.0 + 1_000);
}

#[test]
fn a_new_leader_starts_where_the_old_bound_ended() {
    let mut world = World::leading();
    let old = world.durable().tso_bound_ms;
    world.wall = Wall(START.0 - 3_600_000);
    world.lead();
    let first = world.oracle.allocate(world.now, world.wall, 1);
    assert_eq!(
        parts(first),
        (old, 1),
        "though the clock went back by an hour"
    );
}

#[test]
fn whoever_needs_a_larger_window_waits_for_it() {
    let mut world = World::leading();
    world.commits = false;
    let above_ms = world.durable().tso_bound_ms - 1;
    let token = world.send(calls::ExtendWindow::request(ExtendWindow { above_ms }));
    assert!(world.answers.is_empty());
    world.decide(Outcome::Applied);
    world.answer::<calls::ExtendWindow>(token).unwrap().unwrap();
    assert!(world.durable().tso_bound_ms > above_ms + 1);
    let enough = world.send(calls::ExtendWindow::request(ExtendWindow { above_ms }));
    world
        .answer::<calls::ExtendWindow>(enough)
        .unwrap()
        .unwrap();

    let above_ms = world.durable().tso_bound_ms - 1;
    let token = world.send(calls::ExtendWindow::request(ExtendWindow { above_ms }));
    world.input(Input::Retire);
    assert_eq!(
        world.answer::<calls::ExtendWindow>(token),
        Some(Err(Status::not_leader()))
    );
}

/// Several nodes, one meta region: crashes, elections, clocks that jump by an hour, proposals that
/// get lost or are applied without anybody hearing of it. Every timestamp is above all before it.
#[test]
fn timestamps_rise_across_crashes_elections_and_clock_jumps() {
    seeds(1_000, |_, mut dice| {
        let mut nodes: Vec<World> = (0..3).map(|_| World::idle(&common::genesis())).collect();
        let mut rows = nodes[0].rows.clone();
        let (mut leader, mut term, mut last, mut taken) = (0, 0, 0, 0);
        for _ in 0..300 {
            if term == 0 || dice.percent(5) {
                elect(&mut nodes, &mut rows, &mut leader, &mut term, &mut dice);
            }
            let node = &mut nodes[leader];
            let passed = dice.below(400);
            node.now = node.now + Duration::from_millis(passed);
            node.wall = match dice.below(20) {
                0 => Wall(node.wall.0 + dice.below(3_600_000)),
                1 => Wall(node.wall.0.saturating_sub(dice.below(3_600_000))),
                _ => Wall(node.wall.0 + passed),
            };
            node.commits = dice.percent(90);
            node.input(Input::Tick);
            for _ in 0..dice.below(5) {
                let count = if dice.percent(20) {
                    TSO_BATCH_MAX
                } else {
                    1 + dice.below(64) as u32
                };
                match node.oracle.allocate(node.now, node.wall, count) {
                    Ok(batch) => {
                        assert!(batch.first() > last, "{batch:?} is not above {last}");
                        assert!(batch.physical_ms < node.durable().tso_bound_ms);
                        parts(Ok(batch));
                        last = batch.last();
                        taken += 1;
                    }
                    Err(OracleError::NeedWindow { above_ms }) => {
                        node.send(calls::ExtendWindow::request(ExtendWindow { above_ms }));
                    }
                    Err(OracleError::Exhausted { retry_at }) => {
                        assert!(retry_at > node.now);
                        node.now = retry_at;
                    }
                    Err(OracleError::Refused(status)) => assert_eq!(status, Status::not_leader()),
                }
            }
            rows.clone_from(&nodes[leader].rows);
        }
        assert!(taken > 100, "only {taken} batches");
    });
}

/// Another node leads, or this one again, possibly after a crash.
fn elect(
    nodes: &mut [World],
    rows: &mut std::collections::BTreeMap<bytes::Bytes, bytes::Bytes>,
    leader: &mut usize,
    term: &mut u64,
    dice: &mut Dice,
) {
    let old = &mut nodes[*leader];
    // What was proposed and not decided: applied unheard, or lost.
    while let Some((_, _, mods)) = old.proposed.pop_front() {
        if dice.percent(50) {
            old.write(mods);
        }
    }
    rows.clone_from(&old.rows);
    if dice.percent(50) {
        let fresh = World::idle(&common::genesis());
        (old.pd, old.oracle) = (fresh.pd, fresh.oracle);
        old.waiting.clear();
    } else {
        old.input(Input::Retire);
    }
    *leader = dice.below(nodes.len() as u64) as usize;
    *term += 1;
    let new = &mut nodes[*leader];
    new.rows.clone_from(rows);
    new.term = *term;
    new.commits = true;
    let records = new.records();
    new.input(Input::Lead {
        term: *term,
        records,
    });
}
