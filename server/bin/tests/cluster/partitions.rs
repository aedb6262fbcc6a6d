//! Nodes that do not reach one another: both ways, one way, and not their clients.

use crate::dice::Dice;
use crate::load::{BOUNDARIES, Load};
use crate::network::End;
use crate::nodes::Cluster;
use crate::times;
use crate::verdict::Found;

/// Times the network is cut, unless `FLOTILLA_FAULTS` says otherwise: at least once each way.
const CUTS: usize = 5;
/// Acknowledged writes before, during and after a cut, at most.
const WRITES: u64 = 150;

/// What can be cut around a node.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// It reaches no other node, and none reaches it; clients do.
    Apart,
    /// No other node hears it.
    Mute,
    /// It hears no other node.
    Deaf,
    /// It and its next neighbour do not reach each other.
    Pair,
    /// Clients do not reach it.
    Clients,
}

impl Cut {
    const ALL: [Self; 5] = [
        Self::Apart,
        Self::Mute,
        Self::Deaf,
        Self::Pair,
        Self::Clients,
    ];

    fn ways(self, node: usize, count: usize) -> Vec<(End, End)> {
        let (it, next) = (End::Node(node), End::Node((node + 1) % count));
        let others = (0..count).filter(|other| *other != node).map(End::Node);
        match self {
            Self::Apart => others
                .flat_map(|other| [(it, other), (other, it)])
                .collect(),
            Self::Mute => others.map(|other| (it, other)).collect(),
            Self::Deaf => others.map(|other| (other, it)).collect(),
            Self::Pair => vec![(it, next), (next, it)],
            Self::Clients => vec![(it, End::Clients), (End::Clients, it)],
        }
    }
}

#[test]
fn nodes_that_do_not_reach_one_another_tell_one_truth() {
    let mut dice = Dice::from_env("nodes_that_do_not_reach_one_another_tell_one_truth");
    let cluster = Cluster::start(3, &BOUNDARIES);
    let mut found = Found::default();
    for round in 0..times("FLOTILLA_FAULTS", CUTS) {
        let load = Load::start(cluster.doors(), round, &dice.fork(round as u64));
        load.goes_on(1 + dice.below(WRITES));
        let cut = Cut::ALL[round % Cut::ALL.len()];
        // The leader of some region, as often as anybody else.
        let node = match dice.below(2) {
            0 => cluster.leader("a"),
            _ => dice.below(3) as usize,
        };
        println!("round {round}: {cut:?} of node {node}");
        cluster.network.cut(cut.ways(node, cluster.count()));
        // Two of three still reach each other, and clients one of these at least; a leader that
        // nobody can ask stays one.
        if !matches!(cut, Cut::Clients) {
            load.goes_on(1 + dice.below(WRITES));
        }
        cluster.network.heal();
        load.goes_on(1 + dice.below(WRITES));
        let book = load.end(&dice);
        found.judge(&cluster, round, &book);
    }
    found.end(&cluster);
}
