//! A node that stands still for longer than its lease, and does not notice: what it answers when it
//! goes on must not be what was true before.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::dice::Dice;
use crate::load::{BOUNDARIES, Load};
use crate::node::eventually;
use crate::nodes::Cluster;
use crate::times;
use crate::verdict::Found;

/// Times a leader is stopped, unless `FLOTILLA_FAULTS` says otherwise.
const PAUSES: usize = 2;
/// It stands still for at least this long: an election timeout, of which the lease is a part.
const PAUSE_MIN: Duration = Duration::from_secs(2);
/// How long those wait who ask nobody else.
const LOYALTY: Duration = Duration::from_secs(30);
/// Acknowledged writes before and after.
const WRITES: u64 = 100;

#[test]
fn a_leader_that_stood_still_for_longer_than_its_lease_shows_nothing_old() {
    let mut dice =
        Dice::from_env("a_leader_that_stood_still_for_longer_than_its_lease_shows_nothing_old");
    let cluster = Cluster::start(3, &BOUNDARIES);
    let mut found = Found::default();
    for round in 0..times("FLOTILLA_FAULTS", PAUSES) {
        let mut load = Load::start(cluster.doors(), round, &dice.fork(round as u64));
        load.goes_on(1 + dice.below(WRITES));
        let stopped = cluster.leader("a");
        cluster.signal(stopped, Signal::STOP);
        let begun = Instant::now();
        // These wait at its door, and are the first that it hears when it goes on.
        load.ask_loyally(&dice, LOYALTY);
        eventually("others to lead", || {
            (cluster.leader("a") != stopped).then_some(())
        });
        load.goes_on(WRITES);
        eventually("the lease to be over", || {
            (begun.elapsed() >= PAUSE_MIN).then_some(())
        });
        cluster.signal(stopped, Signal::CONT);
        load.goes_on(WRITES);
        let book = load.end(&dice);
        found.judge(&cluster, round, &book);
    }
    found.end(&cluster);
}
