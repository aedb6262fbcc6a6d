//! The end of a run: faults stop, everything comes to rest, every region serves, and what is on the
//! disk is enough to go on.

use std::time::Duration;

use bytes::Bytes;
use flotilla_engine::SnapshotFiles as _;
use flotilla_kv::{KeyMode, key};
use flotilla_pd::{Call as _, calls};
use flotilla_proto::kvrpcpb::{RawGetRequest, RawPutRequest};
use flotilla_proto::metapb::Region;
use flotilla_proto::pdpb::{GetGcSafePointRequest, UpdateGcSafePointRequest};
use flotilla_raftstore::region::META_REGION;

use super::calls::{Ask, Asker, PdCall, Purpose, header};
use super::clients::context;
use super::operators::Picture;
use super::{Phase, Sim};
use crate::client::Request;
use crate::history::Caller;
use crate::history::search::{self, Verdict, linearize};
use crate::rules::{Rule, Violation};
use crate::store::{Life, LifeId, Node, Unrest};

/// How long it may take until nothing is left to do.
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// Tries of a request: a region may be split once or twice while everything comes to rest.
const SERVE_TRIES: usize = 8;
/// The wait before the second try, doubled before each later one: a tiny mailbox is full of what the
/// peer tells itself, and a slow poller serves one region at a time.
const SERVE_AGAIN: Duration = Duration::from_millis(50);

/// What a member of a region holds to be so.
#[derive(Debug)]
struct Mind {
    #[expect(dead_code, reason = "shown")]
    peer: u64,
    term: u64,
    leader: Option<u64>,
    last: u64,
    commit: u64,
}

impl Mind {
    fn same(&self, other: &Self) -> bool {
        let what = |mind: &Self| (mind.term, mind.leader, mind.last, mind.commit);
        what(self) == what(other)
    }
}
/// How long it may take until PD knows all regions: most do not report for up to ten seconds.
const PLACE_MAX: Duration = Duration::from_secs(30);
/// How long it may take until PD has placed everything: a few operators at a time, of a few steps each,
/// some of which run out of time once more.
pub(super) const CONVERGE_MAX: Duration = Duration::from_secs(600);
/// How long it may take until every member has heard that nobody needs the log.
const TRIM_MAX: Duration = Duration::from_secs(10);
/// The wait before logs are looked at again.
const TRIM_AGAIN: Duration = Duration::from_millis(100);
/// The wait before PD is asked again.
const PLACE_AGAIN: Duration = Duration::from_millis(500);

impl Sim {
    /// Settles, serves, stops, and looks at what is left.
    pub(super) fn finish(&mut self) -> Result<(), Violation> {
        self.check_calls();
        self.phase = Phase::Settle;
        self.note(format_args!("faults are over"));
        self.calm_down();
        // Planned faults of the disks go with the processes.
        let all = self.fault_rng.chance(300);
        for id in self.living() {
            if all || self.nodes[&id.store].fault_planned {
                self.crash(id);
            }
        }
        self.replace_the_lost()?;
        self.serve_without_some()?;
        self.settle()?;
        self.serve_everywhere()?;
        self.place_everywhere()?;
        self.serve_pd()?;
        self.converge()?;
        self.settle()?;
        self.trim()?;
        for id in self.living() {
            self.check_rest(id);
        }
        self.check_tiling();
        self.sweep();
        for id in self.living() {
            self.stop_in_order(id);
        }
        self.verdict()?;
        let lives: Vec<u64> = self.nodes.values().map(|node| node.lives).collect();
        let stopped = |sim: &Self| {
            let mut nodes = sim.nodes.values().zip(&lives);
            nodes.all(|(node, before)| node.lives > *before || sim.gone == Some(node.id))
        };
        self.settle_until(stopped)?;
        self.settle()?;
        for node in self.nodes.values() {
            node.disk.state.check_all();
        }
        self.check_replicas();
        self.ask_for_a_second_opinion();
        let lost = self.oracle.lock().answers.lost_for_ever();
        self.oracle
            .lock()
            .probes
            .hit_if(lost > 0, "write: lost by a crash for ever");
        self.verdict()
    }

    pub(super) fn living(&self) -> Vec<LifeId> {
        self.nodes
            .values()
            .filter_map(|node| node.life.as_ref().map(|life| life.id))
            .collect()
    }

    /// Until every store runs, nothing waits, and every proposal is answered.
    fn settle(&mut self) -> Result<(), Violation> {
        self.settle_until(Self::at_rest)
    }

    fn settle_until(&mut self, reached: impl Fn(&Self) -> bool) -> Result<(), Violation> {
        let deadline = self.now() + SETTLE_MAX;
        let open = self.oracle.lock().answers.any_pending();
        // Looked at whenever nothing is left to do at a moment.
        while !(self.idle && reached(self)) {
            if self.now() >= deadline {
                let pending = self.oracle.lock().answers.pending();
                let (unrest, checks) = (self.tell_unrest(), &mut self.oracle.lock().checks);
                checks.check(Rule::AnsweredAtAll, false, || {
                    format!(
                        "no rest after {SETTLE_MAX:?}; without an answer: {pending:?}; {unrest}"
                    )
                });
            }
            self.turn()?;
        }
        if open {
            let mut oracle = self.oracle.lock();
            let pending = oracle.answers.pending();
            let all = pending.is_empty();
            oracle.checks.check(Rule::AnsweredAtAll, all, || {
                format!("at rest without an answer: {pending:?}")
            });
        }
        Ok(())
    }

    fn at_rest(&self) -> bool {
        self.unrest().is_none()
    }

    /// What keeps the cluster from being at rest.
    fn unrest(&self) -> Option<Unrest> {
        if !self.events.are_idle() {
            return Some(Unrest::Events);
        }
        if self.oracle.lock().answers.any_pending() {
            return Some(Unrest::Operations);
        }
        let of_store = |node: &Node| match &node.life {
            None if self.gone == Some(node.id) => None,
            None => Some(Unrest::Down(node.id)),
            Some(life) if life.stopping.is_some() => Some(Unrest::Stopping(node.id)),
            Some(life) => life.unrest(),
        };
        let unrest = self.nodes.values().find_map(of_store);
        unrest.or_else(|| {
            let oracle = self.oracle.lock();
            let mut regions = oracle.model.regions();
            let apart = regions.find(|region| !self.agree(region));
            apart.map(|region| Unrest::Apart(region.id))
        })
    }

    /// The members of a region are all there, and of one mind.
    fn agree(&self, region: &Region) -> bool {
        let minds = self.minds(region);
        let one = |mind: &Mind| mind.same(&minds[0]) && mind.last == mind.commit;
        minds.len() == region.peers.len() && minds.iter().all(one)
    }

    fn minds(&self, region: &Region) -> Vec<Mind> {
        let mut minds = Vec::with_capacity(region.peers.len());
        for member in &region.peers {
            let Some(life) = self.life(member.store_id) else {
                continue;
            };
            life.look_at(region.id, |peer| {
                let raft = peer.raft();
                minds.push(Mind {
                    peer: member.id,
                    term: raft.term(),
                    leader: raft.leader(),
                    last: raft.last_index(),
                    commit: raft.commit(),
                });
            });
        }
        minds
    }

    /// The same for people.
    pub(super) fn tell_unrest(&self) -> String {
        let Some(unrest) = self.unrest() else {
            return String::new();
        };
        let oracle = self.oracle.lock();
        let mut told = format!("{unrest:?}");
        match unrest {
            Unrest::Operations => told += &format!(" {:?}", oracle.answers.pending()),
            Unrest::Requests(store) => {
                let requests = self.life(store).map(|life| life.requests.iter().next());
                told += &format!(" {requests:?}");
            }
            Unrest::Peer(_, region) => {
                for life in self.nodes.values().filter_map(|node| node.life.as_ref()) {
                    life.look_at(region, |peer| {
                        told += &format!(" store {}: {:?}", life.id.store, peer.raft().status())
                    });
                }
            }
            Unrest::Apart(region) => {
                let mut regions = oracle.model.regions();
                let region = regions.find(|known| known.id == region);
                told += &format!(" {:?}", region.map(|region| self.minds(region)));
            }
            _ => {}
        }
        told
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
            if let Some((id, leader)) = self.leader_of(home.id) {
                let context = context(home, leader);
                let step = self.oracle.lock().step;
                let caller = Caller {
                    client: u64::MAX,
                    replica: None,
                };
                self.history.invoked((op, step), caller, request, home);
                self.serve_request(id, 0, op, request.clone(), context);
            }
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

    /// PD knows all regions as they are, and gives timestamps.
    fn place_everywhere(&mut self) -> Result<(), Violation> {
        let deadline = self.now() + PLACE_MAX;
        let known = self.oracle.lock().timestamps_known();
        let purpose = Purpose::Timestamps(known);
        self.ask_pd(Asker::Operator, Ask::Timestamps(1), purpose);
        loop {
            self.picture = Picture::default();
            self.look_at_regions();
            while !self.pd_calls.values().all(PdCall::is_idle) {
                self.turn()?;
            }
            let regions = self.data_regions();
            let placed = regions
                .iter()
                .all(|region| self.picture.0.get(&region.id) == Some(region));
            let given = self.oracle.lock().timestamps_known() > known;
            let over = self.now() >= deadline;
            if (placed && given) || over {
                let shown = &self.picture.0;
                let served = placed && given;
                self.oracle.lock().checks.check(Rule::ServesAgain, served, || {
                    format!("after the faults PD shows {shown:?} instead of {regions:?}; it gives timestamps: {given}")
                });
                return self.verdict();
            }
            let again = self.now() + PLACE_AGAIN;
            while self.now() < again {
                self.turn()?;
            }
        }
    }

    /// PD's operators have nothing left to do, and every region has its replicas.
    fn converge(&mut self) -> Result<(), Violation> {
        if self.world.schedule.operators_max == 0 {
            return Ok(());
        }
        let deadline = self.now() + CONVERGE_MAX;
        loop {
            let leads = |life: &&Life| life.placement.driven.serves();
            let lives = self.nodes.values().filter_map(|node| node.life.as_ref());
            let pd = lives.max_by_key(leads).map_or(0, |life| life.id.store);
            let over = self.now() >= deadline;
            let rule = self.replicas_wanted(pd).filter(|_| self.at_rest() || over);
            let mut oracle = self.oracle.lock();
            let placed = rule
                .as_ref()
                .is_some_and(|rule| oracle.check_placed(rule, self.gone, over));
            if over && rule.is_none() {
                let checks = &mut oracle.checks;
                checks.check(Rule::PlanningConverges, false, || {
                    "nobody who serves as PD says how many replicas there are to be".to_owned()
                });
            }
            drop(oracle);
            if placed || over {
                return self.verdict();
            }
            let again = self.now() + PLACE_AGAIN;
            while self.now() < again {
                self.turn()?;
            }
        }
    }

    /// With nobody who lags, logs hold no more than they need.
    fn trim(&mut self) -> Result<(), Violation> {
        let deadline = self.now() + TRIM_MAX;
        loop {
            let over = self.now() >= deadline;
            let worth = self.world.config.truncate_entries_min;
            let mut trimmed = true;
            for id in self.living() {
                trimmed &= self.oracle.lock().check_trimmed(id.store, worth, over);
            }
            if trimmed || over {
                return self.verdict();
            }
            let again = self.now() + TRIM_AGAIN;
            while self.now() < again {
                self.turn()?;
            }
        }
    }

    /// PD writes to the meta region, and reads there what it wrote.
    fn serve_pd(&mut self) -> Result<(), Violation> {
        // Operators stay below.
        let safe_point = (1 << 63) + self.now().0;
        let write = calls::UpdateGCSafePoint::request(UpdateGcSafePointRequest {
            header: header(),
            safe_point,
        });
        let read = calls::GetGCSafePoint::request(GetGcSafePointRequest { header: header() });
        for request in [write, read] {
            self.safe_point = 0;
            self.call_pd(Asker::Operator, request, Purpose::SafePoint);
            while !self.pd_calls.values().all(PdCall::is_idle) {
                self.turn()?;
            }
            let told = self.safe_point;
            self.oracle
                .lock()
                .checks
                .check(Rule::ServesAgain, told == safe_point, || {
                    format!("after the faults PD is to keep {safe_point} and says {told}")
                });
        }
        self.verdict()
    }

    pub(super) fn data_regions(&self) -> Vec<Region> {
        let oracle = self.oracle.lock();
        oracle
            .model
            .regions()
            .filter(|region| region.id != META_REGION)
            .cloned()
            .collect()
    }

    /// A user key whose physical key lies in the region; `None`: encoded keys cannot reach it.
    pub(super) fn key_in(&self, region: &Region) -> Option<Bytes> {
        match self.world.mode {
            KeyMode::Plain => Some(region.start_key.clone()),
            KeyMode::Encoded if region.start_key.is_empty() => {
                let first = self.world.workload.key(0);
                flotilla_raftstore::region::contains(region, &KeyMode::Encoded.physical(&first))
                    .then_some(first)
            }
            // Regions of transactions have none.
            KeyMode::Encoded => key::decode(&region.start_key)
                .ok()
                .filter(|key| key.starts_with(b"r")),
        }
    }

    /// At rest nothing is held.
    fn check_rest(&mut self, id: LifeId) {
        let Some(life) = self.nodes[&id.store].life.as_ref() else {
            return;
        };
        let (idle, queued) = (life.latches.is_idle(), life.runtime.raft.queued_bytes());
        let files = self.nodes[&id.store].disk.snapshots.list();
        let mut oracle = self.oracle.lock();
        let ended = oracle.store(id.store).tombstones.clone();
        for (region, highest) in ended {
            let mut there = None;
            life.look_at(region, |peer| there = Some(peer.raft().id()));
            let gone = there.is_none_or(|peer| peer > highest);
            oracle.checks.check(Rule::EndedIsSilent, gone, || {
                format!("store {} region {region}: peer {there:?} is there at rest, {highest} has ended", id.store)
            });
        }
        let lives = |region| {
            let mut there = false;
            life.look_at(region, |_| there = true);
            there
        };
        oracle.check_files_at_rest(id.store, files.unwrap_or_default(), lives);
        oracle.checks.check(Rule::LatchesFree, idle, || {
            format!("store {}: a latch is held at rest", id.store)
        });
        // At rest nothing waits.
        oracle.check_queued(id.store, queued, 0);
    }

    /// What clients heard has an order, key by key.
    fn ask_for_a_second_opinion(&mut self) {
        let keys = 0..=self.world.workload.keys;
        let keys: Vec<Bytes> = keys.map(|nth| self.world.workload.key(nth)).collect();
        let mut oracle = self.oracle.lock();
        let checks = &mut oracle.checks;
        self.history.check_sessions(self.world.mode, &keys, checks);
        for ((cf, key), ops) in self.history.by_key(self.world.mode, &keys) {
            let verdict = linearize(&ops);
            // Where nobody could see what another wrote any order will do.
            if verdict == Verdict::Linearizable && !search::says_something(&ops) {
                continue;
            }
            if verdict == Verdict::Undecided {
                oracle.probes.hit("history: too many orders to look at");
                continue;
            }
            let holds = verdict == Verdict::Linearizable;
            oracle.checks.check(Rule::SecondOpinion, holds, || {
                format!(
                    "no order explains what happened to {key:?} of {cf:?}: {verdict:?}{}",
                    search::story(&ops)
                )
            });
        }
    }

    /// The regions of all stores tile the key space.
    fn check_tiling(&self) {
        let states = self.nodes.values().map(|node| &*node.disk.state);
        self.oracle.lock().check_tiling(states);
    }

    /// Replicas that have applied the same hold the same.
    pub(super) fn check_replicas(&self) {
        let nodes: Vec<_> = self.nodes.values().collect();
        let mut oracle = self.oracle.lock();
        for (nth, one) in nodes.iter().enumerate() {
            for other in &nodes[nth + 1..] {
                oracle.check_replicas((one.id, &one.disk.state), (other.id, &other.disk.state));
            }
        }
    }
}
