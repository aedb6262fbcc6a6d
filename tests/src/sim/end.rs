//! The end of a run: faults stop, everything comes to rest, every region serves, and what is on the
//! disk is enough to go on.

use std::time::Duration;

use bytes::Bytes;
use flotilla_kv::{KeyMode, key};
use flotilla_proto::kvrpcpb::{RawGetRequest, RawPutRequest};
use flotilla_proto::metapb::Region;
use flotilla_raftstore::region::META_REGION;

use super::{Phase, Sim};
use crate::client::Request;
use crate::rules::{Rule, Violation};
use crate::store::{Life, LifeId, Node};

/// How long it may take until nothing is left to do.
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// Tries of a request: a region may be split once or twice while everything comes to rest.
const SERVE_TRIES: usize = 8;
/// The wait before the second try, doubled before each later one: a tiny mailbox is full of what the
/// peer tells itself, and a slow poller serves one region at a time.
const SERVE_AGAIN: Duration = Duration::from_millis(50);

impl Sim {
    /// Settles, serves, stops, and looks at what is left.
    pub(super) fn finish(&mut self) -> Result<(), Violation> {
        self.phase = Phase::Settle;
        self.note(format_args!("faults are over"));
        // Planned faults of the disks go with the processes.
        for id in self.living() {
            self.end_process(id);
        }
        self.settle()?;
        self.serve_everywhere()?;
        for id in self.living() {
            self.check_rest(id);
            self.stop_in_order(id);
        }
        self.verdict()?;
        self.settle()?;
        for node in self.nodes.values() {
            node.disk.state.check_all();
        }
        let lost = self.oracle.lock().answers.lost_for_ever();
        self.oracle
            .lock()
            .probes
            .hit_if(lost > 0, "write: lost by a crash for ever");
        self.verdict()
    }

    fn living(&self) -> Vec<LifeId> {
        self.nodes
            .values()
            .filter_map(|node| node.life.as_ref().map(|life| life.id))
            .collect()
    }

    /// Until every store runs, nothing waits, and every proposal is answered.
    fn settle(&mut self) -> Result<(), Violation> {
        let deadline = self.now() + SETTLE_MAX;
        while !self.at_rest() {
            if self.now() >= deadline {
                let pending = self.oracle.lock().answers.pending();
                self.oracle
                    .lock()
                    .checks
                    .check(Rule::AnsweredAtAll, false, || {
                        format!("no rest after {SETTLE_MAX:?}; without an answer: {pending:?}")
                    });
            }
            self.turn()?;
        }
        self.oracle
            .lock()
            .checks
            .check(Rule::AnsweredAtAll, true, String::new);
        Ok(())
    }

    fn at_rest(&self) -> bool {
        let quiet = |node: &Node| node.life.as_ref().is_some_and(Life::at_rest);
        self.events.are_idle()
            && self.nodes.values().all(quiet)
            && self.oracle.lock().answers.pending().is_empty()
    }

    /// A write and a read in every region.
    fn serve_everywhere(&mut self) -> Result<(), Violation> {
        self.phase = Phase::Serve;
        let regions: Vec<Region> = self.data_regions();
        for region in regions {
            let Some(key) = self.key_in(&region) else {
                continue;
            };
            let write = RawPutRequest {
                key: key.clone(),
                value: Bytes::from_static(b"served"),
                ..Default::default()
            };
            let read = RawGetRequest {
                key,
                ..Default::default()
            };
            for request in [Request::Put(write), Request::Get(read)] {
                self.serve_once(&request.for_mode(self.world.mode))?;
            }
        }
        Ok(())
    }

    /// A request is served, though the region may still be split meanwhile.
    fn serve_once(&mut self, request: &Request) -> Result<(), Violation> {
        let physical = self.world.mode.physical(&request.key());
        let mut served = false;
        let mut pause = SERVE_AGAIN;
        for _ in 0..SERVE_TRIES {
            let regions = self.data_regions();
            let home = regions
                .iter()
                .find(|region| flotilla_raftstore::region::contains(region, &physical));
            let home = home.expect("the regions tile the key space");
            let op = self.op();
            self.served.insert(op, false);
            let leader = home.peers.first().copied().unwrap_or_default();
            self.send_request(0, op, request.clone(), home, leader);
            self.settle()?;
            served = self.served.remove(&op).unwrap_or(false);
            if served {
                break;
            }
            let again = self.now() + pause;
            pause *= 2;
            while self.now() < again {
                self.turn()?;
            }
        }
        self.oracle
            .lock()
            .checks
            .check(Rule::ServesAgain, served, || {
                format!(
                    "after the faults {SERVE_TRIES} tries of a {} of {:?} fail",
                    request.name(),
                    request.key()
                )
            });
        self.verdict()
    }

    fn data_regions(&self) -> Vec<Region> {
        let oracle = self.oracle.lock();
        oracle
            .model
            .regions()
            .filter(|region| region.id != META_REGION)
            .cloned()
            .collect()
    }

    /// A user key whose physical key lies in the region; `None`: encoded keys cannot reach it.
    fn key_in(&self, region: &Region) -> Option<Bytes> {
        match self.world.mode {
            KeyMode::Plain => Some(region.start_key.clone()),
            KeyMode::Encoded if region.start_key.is_empty() => {
                let first = self.world.workload.key(0);
                flotilla_raftstore::region::contains(region, &KeyMode::Encoded.physical(&first))
                    .then_some(first)
            }
            KeyMode::Encoded => key::decode(&region.start_key).ok(),
        }
    }

    /// At rest nothing is held.
    fn check_rest(&mut self, id: LifeId) {
        let Some(life) = self.nodes[&id.store].life.as_ref() else {
            return;
        };
        let (idle, queued) = (life.latches.is_idle(), life.runtime.raft.queued_bytes());
        let mut oracle = self.oracle.lock();
        oracle.checks.check(Rule::LatchesFree, idle, || {
            format!("store {}: a latch is held at rest", id.store)
        });
        oracle.checks.check(Rule::QueuesBounded, queued == 0, || {
            format!("store {}: {queued} bytes wait at rest", id.store)
        });
    }

    /// A crash that nothing is planned after.
    fn end_process(&mut self, id: LifeId) {
        self.crash(id);
    }
}
