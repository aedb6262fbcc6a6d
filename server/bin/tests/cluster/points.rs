//! A node is killed before, between and after its durable steps, at each of them.
//!
//! The program that can be killed so is another one than the product: `make crash` builds it, and says
//! where it is.

use crate::dice::Dice;
use crate::load::{BOUNDARIES, Load};
use crate::node::not_shown_here;
use crate::nodes::{Cluster, Until};
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
/// ... and when it stops in order.
const STOPPING: [&str; 2] = ["state-flush", "state-flushed"];
#[test]
fn a_node_that_dies_at_a_durable_step_loses_nothing() {
    let mut dice = Dice::from_env("a_node_that_dies_at_a_durable_step_loses_nothing");
    let Some(program) = std::env::var_os(PROGRAM) else {
        not_shown_here(
            "a node that is killed at each durable step",
            "FLOTILLA_CRASH names no program; make crash builds it",
        );
        return;
    };
    let mut cluster = Cluster::of(program.as_ref(), 3, &BOUNDARIES);
    let mut found = Found::default();
    let served = UNDER_LOAD.map(|point| (point, Until::Served));
    let stopped = STOPPING.map(|point| (point, Until::Stopped));
    for (round, (point, until)) in served.into_iter().chain(stopped).enumerate() {
        let load = Load::start(cluster.doors(), round, &dice.fork(round as u64));
        load.goes_on(1 + dice.below(WRITES));
        let (victim, passed) = (dice.below(3) as usize, dice.below(PASSED));
        cluster.kill(victim);
        let (points, passed) = match until {
            Until::Served if passed > 0 => (format!("{point}={passed}*off->return"), passed),
            _ => (format!("{point}=return"), 0),
        };
        cluster.dies_at(victim, &points, until);
        println!("{point:18} passed {passed:2} times, then killed node {victim}");
        cluster.restart(&[victim]);
        load.goes_on(1 + dice.below(WRITES));
        let book = load.end(&dice);
        found.judge(&cluster, round, &book);
    }
    found.end(&cluster);
}
