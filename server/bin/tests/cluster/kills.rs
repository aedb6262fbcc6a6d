//! `kill -9` of any node, and of all of them, at any moment.

use std::time::Duration;

use crate::dice::Dice;
use crate::load::{BOUNDARIES, Load};
use crate::nodes::Cluster;
use crate::times;
use crate::verdict::Found;

/// Times a node is killed, unless `FLOTILLA_KILLS` says otherwise.
const KILLS: usize = 8;
/// About how long a node starts; somewhere there it may be killed again.
const START_TIME: Duration = Duration::from_millis(300);
/// Acknowledged writes between two blows, at most.
const WRITES: u64 = 200;

#[test]
fn kill_9_of_any_node_at_any_moment_loses_nothing() {
    let mut dice = Dice::from_env("kill_9_of_any_node_at_any_moment_loses_nothing");
    let mut cluster = Cluster::start(3, &BOUNDARIES);
    let (mut found, mut killed) = (Found::default(), 0);
    let kills = times("FLOTILLA_KILLS", KILLS);
    for round in 0.. {
        if killed >= kills {
            break;
        }
        let load = Load::start(cluster.doors(), round, &dice.fork(round as u64));
        load.goes_on(1 + dice.below(WRITES));
        let victim = dice.below(3) as usize;
        let victims = match dice.below(8) {
            // All at once, as when a rack loses power.
            0 => vec![0, 1, 2],
            1 => vec![victim, (victim + 1) % 3],
            _ => vec![victim],
        };
        for victim in &victims {
            cluster.kill(*victim);
        }
        if victims.len() == 1 {
            load.goes_on(1 + dice.below(WRITES));
        }
        killed += victims.len();
        for victim in &victims {
            if dice.below(4) == 0 {
                let after = START_TIME.mul_f64(dice.below(1_200) as f64 / 1_000.0);
                cluster.kill_while_it_starts(*victim, after);
                killed += 1;
            }
        }
        cluster.restart(&victims);
        load.goes_on(1 + dice.below(WRITES));
        let book = load.end(&dice);
        found.judge(&cluster, round, &book);
        println!(
            "round {round}: {killed} kills, {} acknowledged writes",
            found.acknowledged
        );
    }
    found.end(&cluster);
}
