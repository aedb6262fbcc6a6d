//! The disk of one node is full, all at once: the others go on, and with room again it has everything.

use std::fs;

use crate::dice::Dice;
use crate::load::{BOUNDARIES, Load};
use crate::node::not_shown_here;
use crate::nodes::{Cluster, Place};
use crate::small_disk::SmallDisk;
use crate::times;
use crate::verdict::Found;

/// Times the disk fills up, unless `FLOTILLA_FAULTS` says otherwise.
const FILLS: usize = 2;
/// Acknowledged writes before, during and after it, at most.
const WRITES: u64 = 150;

#[test]
fn a_node_whose_disk_is_full_costs_no_write() {
    let mut dice = Dice::from_env("a_node_whose_disk_is_full_costs_no_write");
    let Some(disk) = SmallDisk::new() else {
        not_shown_here(
            "a node of three whose disk is full",
            "the system gives no file system of its own to a test (unshare --map-root-user --mount, mount -t tmpfs)",
        );
        return;
    };
    // The first leads everything in the beginning.
    let small = Place::At(disk.path.join("store"));
    let mut cluster = Cluster::at(vec![small, Place::any(), Place::any()], &BOUNDARIES);
    let mut found = Found::default();
    for round in 0..times("FLOTILLA_FAULTS", FILLS) {
        let load = Load::start(cluster.doors(), round, &dice.fork(round as u64));
        load.goes_on(1 + dice.below(WRITES));
        let filler = disk.fill("filler");
        load.goes_on(1 + dice.below(WRITES));
        // It may have ended by itself.
        cluster.kill(0);
        load.goes_on(1 + dice.below(WRITES));
        fs::remove_file(filler).expect("removed");
        cluster.restart(&[0]);
        load.goes_on(1 + dice.below(WRITES));
        let book = load.end(&dice);
        found.judge(&cluster, round, &book);
    }
    found.end(&cluster);
}
