//! Clusters of real processes under faults: what clients asked and heard is held against the
//! simulator's checker of linearizability, every acknowledged write is looked for, and replicas must agree.
//!
//! Nodes speak to one another, and clients to them, through a network in this process that can be cut.
//!
//! | module | what goes wrong |
//! |---|---|
//! | `kills` | `kill -9` of one node, or of all, at any moment |
//! | `pauses` | a leader that stands still for longer than its lease (SIGSTOP) |
//! | `partitions` | nodes that do not reach one another, or in one direction only, or no client |
//! | `full` | a node whose disk is full |
//! | `points` | `kill -9` before, between and after durable steps; a leader whose disk is slow |
//! | `gaps` | nothing but a leader's node that is killed: how long writes have to wait |
//!
//! | module | what they need |
//! |---|---|
//! | `nodes` | the processes of a cluster |
//! | `network` | who reaches whom |
//! | `load` | clients that write down what they ask and hear |
//! | `verdict` | what must hold in the end |
//!
//! `FLOTILLA_SEED` gives a test the seed that it printed first: who is struck, when, and what clients
//! ask. `FLOTILLA_KILLS` and `FLOTILLA_FAULTS` say how often (`make crash`).

mod full;
mod gaps;
mod kills;
mod load;
mod network;
mod nodes;
mod partitions;
mod pauses;
mod points;
mod verdict;

#[path = "../support/back_off.rs"]
mod back_off;
#[path = "../process/dice.rs"]
mod dice;
#[expect(dead_code, reason = "what tests of single nodes ask for")]
#[path = "../process/node.rs"]
mod node;
#[path = "../process/route.rs"]
mod route;
#[path = "../process/small_disk.rs"]
mod small_disk;
#[expect(dead_code, reason = "what tests of single nodes ask for")]
#[path = "../process/wire.rs"]
mod wire;

use std::sync::LazyLock;

use tokio::runtime::Runtime;

/// Where the network and the clients live.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let built = runtime.worker_threads(2).enable_all().build();
    built.expect("a runtime")
});

/// How often, unless the environment variable `name` says otherwise.
fn times(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |times| times.parse().expect("a number of times"))
}
