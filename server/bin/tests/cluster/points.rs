//! A node is killed before, between and after its durable steps, at each of them; and a node whose disk
//! is slow.
//!
//! The program in which that can be had is another one than the product: `make crash` builds it, and says
//! where it is.

use std::path::PathBuf;

use rustix::process::Signal;

use crate::RUNTIME;
use crate::dice::Dice;
use crate::load::{BOUNDARIES, Load};
use crate::node::{Node, eventually, not_shown_here};
use crate::nodes::Cluster;
use crate::verdict::Found;

/// Where `flotilla-crash` is.
const PROGRAM: &str = "FLOTILLA_CRASH";
/// How often a place is passed before the node is killed there, at most.
const PASSED: u64 = 20;
/// Acknowledged writes before and after, at most.
const WRITES: u64 = 60;

/// What every node does all the time ...
const UNDER_LOAD: [&str; 7] = [
    "log-append",
    "log-appended",
    "log-sync",
    "log-synced",
    "log-watermark",
    "state-write",
    "state-written",
];
/// ... when PD changes a row of its own ...
const OF_PD: [&str; 2] = ["pd-write", "pd-written"];
/// ... and when it stops in order.
const STOPPING: [&str; 2] = ["state-flush", "state-flushed"];

/// What the first node of a cluster does once: after the last one it has a store ...
const FOUNDING: [&str; 3] = ["store-begun", "store-manifest", "store-named"];
/// ... and one that joins.
const JOINING: [&str; 3] = ["store-begun", "store-manifest", "store-whole"];
/// How a replica comes by a snapshot: the next start goes on where the last one was killed. One so small
/// is installed by a batch of the state, and no table is taken in.
const COMING: [&str; 9] = [
    "snapshot-sync",
    "snapshot-synced",
    "snapshot-rename",
    "snapshot-renamed",
    "intent-open-append",
    "intent-open-appended",
    "state-written",
    "intent-close-append",
    "intent-close-appended",
];
/// How it goes.
const GOING: [&str; 2] = ["tombstone-write", "tombstone-written"];

/// How slow the disk of a log is (the fault itself: the node's thread that syncs stands still, nobody here
/// waits by it): always a little ...
const SLOW: &str = "log-sync=sleep(30)";
/// ... or at times for longer than any follower waits for its leader.
const STALLS: &str = "log-sync=5%sleep(1500)";

fn program(what: &str) -> Option<PathBuf> {
    let program = std::env::var_os(PROGRAM).map(PathBuf::from);
    if program.is_none() {
        let why = "FLOTILLA_CRASH names no program; make crash builds it";
        not_shown_here(what, why);
    }
    program
}

#[test]
fn a_node_that_dies_at_a_durable_step_loses_nothing() {
    let mut dice = Dice::from_env("a_node_that_dies_at_a_durable_step_loses_nothing");
    let Some(program) = program("a node that is killed at each durable step") else {
        return;
    };
    let mut cluster = Cluster::of(&program, 3, &BOUNDARIES);
    let mut found = Found::default();
    let points = UNDER_LOAD.into_iter().chain(OF_PD).chain(STOPPING);
    for (round, point) in points.enumerate() {
        let load = Load::start(cluster.doors(), round, &dice.fork(round as u64));
        load.goes_on(1 + dice.below(WRITES));
        let (victim, mut passed) = (dice.below(3) as usize, dice.below(PASSED));
        cluster.kill(victim);
        if !UNDER_LOAD.contains(&point) {
            passed = 0;
        }
        let there = match passed {
            0 => format!("{point}=return"),
            _ => format!("{point}={passed}*off->return"),
        };
        cluster.dies_at(victim, &there, |cluster, node| {
            if STOPPING.contains(&point) {
                node.signal(Signal::TERM);
            } else if OF_PD.contains(&point) {
                change_pd(cluster, round);
            }
        });
        println!("{point:18} passed {passed:2} times, then killed node {victim}");
        cluster.restart(&[victim]);
        load.goes_on(1 + dice.below(WRITES));
        let book = load.end(&dice);
        found.judge(&cluster, round, &book);
    }
    found.end(&cluster);
}

/// Has PD write something: a region is split behind all others.
fn change_pd(cluster: &Cluster, round: usize) {
    let (mut reach, boundary) = (cluster.reach(), format!("x{round:05}"));
    eventually("a region to be split", || {
        RUNTIME.block_on(reach.split(&boundary)).then_some(())
    });
}

#[test]
fn a_node_that_dies_while_it_comes_or_its_replicas_do_loses_nothing() {
    let dice = Dice::from_env("a_node_that_dies_while_it_comes_or_its_replicas_do_loses_nothing");
    let Some(program) = program("a node that is killed while it and its replicas come and go")
    else {
        return;
    };
    let mut cluster = Cluster::away(&program, 4);
    let dies = |cluster: &mut Cluster, number, point: &str, bring: fn(&Cluster, &Node)| {
        cluster.dies_at(number, &format!("{point}=return"), bring);
        println!("{point:22} killed node {number}");
    };
    for point in FOUNDING {
        dies(&mut cluster, 0, point, |_, _| {});
    }
    cluster.found(0..3, &BOUNDARIES);
    let load = Load::start(cluster.doors(), 0, &dice);
    load.goes_on(WRITES);
    for point in JOINING {
        dies(&mut cluster, 3, point, |_, _| {});
    }
    for point in COMING {
        dies(&mut cluster, 3, point, |cluster, _| {
            cluster.move_replica("a", 0, 3);
        });
    }
    cluster.restart(&[3]);
    load.goes_on(WRITES);
    cluster.converge();
    cluster.kill(3);
    for point in GOING {
        dies(&mut cluster, 3, point, |cluster, _| {
            cluster.move_replica("a", 3, 0);
        });
    }
    cluster.restart(&[3]);
    load.goes_on(WRITES);
    let (mut found, book) = (Found::default(), load.end(&dice));
    found.judge(&cluster, 0, &book);
    found.end(&cluster);
}

#[test]
fn a_leader_whose_log_is_synced_slowly_loses_nothing() {
    let mut dice = Dice::from_env("a_leader_whose_log_is_synced_slowly_loses_nothing");
    let Some(program) = program("a node whose disk is slow") else {
        return;
    };
    let mut cluster = Cluster::of(&program, 3, &BOUNDARIES);
    let mut found = Found::default();
    for (round, slow) in [SLOW, STALLS].into_iter().enumerate() {
        let load = Load::start(cluster.doors(), round, &dice.fork(round as u64));
        load.goes_on(WRITES);
        let victim = dice.below(3) as usize;
        cluster.kill(victim);
        cluster.start_with(victim, slow);
        for key in BOUNDARIES {
            cluster.hand_over(key, victim);
        }
        let led = load.book.acknowledged();
        load.goes_on(5 * WRITES);
        let leads = BOUNDARIES.map(|key| cluster.leader(key) == victim);
        println!("{slow}: from the {led}th write on; leads still {leads:?}");
        // What it had said before is there when it comes back, and it catches up.
        cluster.kill(victim);
        cluster.restart(&[victim]);
        load.goes_on(WRITES);
        let book = load.end(&dice);
        found.judge(&cluster, round, &book);
    }
    found.end(&cluster);
}
