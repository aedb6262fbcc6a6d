//! Stores fail, die, fall back to what their disks hold, and start again.

use flotilla_engine::memory::{Fault, FaultKind, FaultPoint};
use flotilla_engine::row::{DROP_DELAY_SECONDS, Expiry};
use flotilla_engine::{EngineError, Pressure, SnapshotError};
use flotilla_raftstore::StartError;
use flotilla_raftstore::runtime::StoreFatal;

use super::stores::OBSERVE_EVERY;
use super::{Event, Phase, Sim};
use crate::faults::FaultPlan;
use crate::rules::Rule;
use crate::store::{LifeId, Node};

/// Starts in a row that a fault cuts short, at most.
const FAILED_STARTS_MAX: u64 = 4;
/// How long a store stays away after a crash, at most, in microseconds.
const AWAY_MICROS_MAX: u64 = 10_000_000;
/// What may fail in a start.
const START_POINTS: [FaultPoint; 5] = [
    FaultPoint::Write,
    FaultPoint::Ingest,
    FaultPoint::SnapshotRead,
    FaultPoint::SnapshotWrite,
    FaultPoint::Read,
];

impl Sim {
    // ---- faults ----

    pub(super) fn strike(&mut self, id: LifeId, actor: &str) {
        if self.phase != Phase::Run || self.nodes[&id.store].life.is_none() {
            return;
        }
        let before_sync =
            actor == "append" && self.fault_rng.chance(self.world.faults.crash_before_sync);
        let plan = if before_sync {
            FaultPlan::Crash
        } else {
            self.world.faults.after_step(&mut self.fault_rng)
        };
        if plan != FaultPlan::Nothing {
            self.note(format_args!("store {}: {plan:?}", id.store));
        }
        match plan {
            FaultPlan::Nothing => {}
            FaultPlan::Crash => self.crash(id),
            FaultPlan::Stop => self.stop_in_order(id),
            FaultPlan::Disk(fault) => self.inject(id, fault),
            FaultPlan::Pause(time) => self.pause(id, time),
            FaultPlan::Stall(time) => self.stall(id, time),
            FaultPlan::Pressure(time) => {
                self.probe("fault: apply held back");
                let pressure = Pressure {
                    stopped: true,
                    ..Pressure::default()
                };
                self.nodes[&id.store]
                    .disk
                    .state
                    .force_pressure(Some(pressure));
                self.events.at(self.now() + time, Event::PressureOver(id));
            }
            FaultPlan::Clock(seconds) => self.move_clock(id, seconds),
            FaultPlan::Compaction => {
                // Rows are dropped an hour after they expired: it gets late, everywhere.
                let later = self.fault_rng.range(0..=7_200).cast_signed();
                let now = self.now();
                let nodes = self.nodes.values_mut();
                nodes.for_each(|node| node.clock.jump(now, later));
                self.compact(id);
            }
        }
    }

    /// Where rows are dropped once they have expired for long enough, times of day stay so close that
    /// they have expired for everybody: a snapshot carries what its sender has dropped, too.
    fn move_clock(&mut self, id: LifeId, seconds: i64) {
        let now = self.now();
        let clocks = || self.nodes.values().map(|node| &node.clock);
        let shown = |store: u64| self.nodes[&store].clock.wall(now).seconds();
        let (mut seconds, near) = (seconds, DROP_DELAY_SECONDS / 2);
        if self.world.faults.compaction > 0 {
            let latest = clocks().map(|clock| clock.latest(now)).max().unwrap_or(0);
            let first = clocks().map(|clock| clock.wall(now).seconds()).min();
            let highest = first.unwrap_or(0) + near;
            let to = shown(id.store).saturating_add_signed(seconds);
            let to = to.min(highest).max(latest - near);
            seconds = to.cast_signed() - shown(id.store).cast_signed();
        }
        if let Some(node) = self.nodes.get_mut(&id.store) {
            node.clock.jump(now, seconds);
        }
    }

    fn compact(&mut self, id: LifeId) {
        let expiry = Expiry::default();
        expiry.set_mode(self.world.mode);
        let seconds = self.nodes[&id.store].clock.wall(self.now()).seconds();
        expiry.advance(seconds);
        let dropped = self.nodes[&id.store].disk.state.compact(&expiry, seconds);
        self.oracle
            .lock()
            .probes
            .hit_if(dropped > 0, "fault: compaction dropped a row");
    }

    pub(super) fn inject(&mut self, id: LifeId, fault: Fault) {
        let node = self.nodes.get_mut(&id.store);
        inject(node.expect("stores are not removed"), fault);
    }

    pub(super) fn engine_failed(&mut self, id: LifeId, error: EngineError) {
        self.fatal(id, &StoreFatal::from(error));
    }

    /// The state could not be read: the server ends the store, too.
    pub(super) fn read_failed(&mut self, id: LifeId, error: EngineError) {
        self.probe("fault: a read of the state failed");
        self.engine_failed(id, error);
    }

    /// The store met what ends it: the process stops, and whatever it still owes it says now.
    pub(super) fn fatal(&mut self, id: LifeId, fatal: &StoreFatal) {
        self.note(format_args!("store {} stops: {fatal}", id.store));
        let text = fatal.to_string();
        let by_disk = match fatal {
            StoreFatal::Engine(error) => is_disk(error),
            StoreFatal::Snapshot(error) => {
                matches!(&**error, SnapshotError::Engine(error) if is_disk(error))
            }
            StoreFatal::Entry(_) | StoreFatal::Safety { .. } => false,
        };
        let planned = self.nodes[&id.store].fault_planned;
        let rotten = !by_disk && self.meets_rot(id.store, &text);
        {
            let mut oracle = self.oracle.lock();
            oracle
                .checks
                .check(Rule::EndsByDiskOnly, (by_disk && planned) || rotten, || {
                    format!(
                        "store {} stops, a fault was planned: {planned}; {text}",
                        id.store
                    )
                });
            oracle
                .probes
                .hit_if(text.contains("no space"), "fault: disk full");
            oracle.probes.hit_if(
                text.contains("appending to the log"),
                "fault: append failed",
            );
            oracle
                .probes
                .hit_if(text.contains("syncing the log"), "fault: sync failed");
            oracle.probes.hit_if(
                text.contains("writing the state"),
                "fault: state write failed",
            );
            oracle.probes.hit_if(
                matches!(fatal, StoreFatal::Snapshot(_)),
                "fault: a snapshot's install failed",
            );
        }
        self.probe_snapshots_at_death(id);
        self.say_what_is_owed(id);
        self.die(id);
    }

    /// The process ends on its own feet: everything that it owes is answered by being dropped.
    pub(super) fn say_what_is_owed(&mut self, id: LifeId) {
        let Some(life) = self
            .nodes
            .get_mut(&id.store)
            .and_then(|node| node.life.take())
        else {
            return;
        };
        drop((self.events.purge(id), self.forget_calls(id)));
        let owed = !self.oracle.lock().answers.pending_of(id.store).is_empty();
        let (inbox, requests) = (
            life.inbox.clone(),
            life.requests.keys().copied().collect::<Vec<_>>(),
        );
        drop(life);
        for answered in inbox.take() {
            let (op, said) = answered.said();
            self.note(format_args!("store {}, ending: {answered:?}", id.store));
            self.oracle.lock().answer(id.store, op, said);
        }
        let mut oracle = self.oracle.lock();
        let pending = oracle.answers.pending_of(id.store);
        if owed {
            oracle
                .checks
                .check(Rule::AnsweredAtAll, pending.is_empty(), || {
                    format!(
                        "store {} has ended and never answered {pending:?} (it served {requests:?})",
                        id.store
                    )
                });
        }
    }

    pub(super) fn crash(&mut self, id: LifeId) {
        self.probe_snapshots_at_death(id);
        if let Some(life) = self
            .nodes
            .get(&id.store)
            .and_then(|node| node.life.as_ref())
        {
            life.inbox.kill();
        }
        drop((self.events.purge(id), self.forget_calls(id)));
        if let Some(node) = self.nodes.get_mut(&id.store) {
            node.life = None;
        }
        self.die(id);
    }

    /// The process is gone; the disk is what it left, and a new one starts after a while.
    pub(super) fn die(&mut self, id: LifeId) {
        {
            let mut oracle = self.oracle.lock();
            let unsynced = oracle.stores[&id.store].log.unsynced() > 0;
            oracle
                .probes
                .hit_if(unsynced, "crash: between append and sync");
            oracle.answers.store_died(id.store);
        }
        self.disk_falls_back(id.store);
        self.go_on(id.store);
        self.lose_flights(id);
        self.lose_transfers(id);
        self.received.retain(|(receiver, _)| *receiver != id);
        self.hang_up(id);
        self.hang_up_pd(id);
        let now = self.now();
        if let Some(node) = self.nodes.get_mut(&id.store) {
            node.fault_planned = false;
            // The machine is the same, or started anew.
            if self.fault_rng.chance(500) {
                node.clock.reboot(now, &mut self.fault_rng);
            }
        }
        let long = self.phase == Phase::Run && self.fault_rng.chance(self.world.faults.away);
        let wait = match long {
            true => self.rng.micros(500_000..=AWAY_MICROS_MAX),
            false => self.rng.micros(1_000..=200_000),
        };
        self.events.at(now + wait, Event::Start { store: id.store });
    }

    fn disk_falls_back(&mut self, store: u64) {
        let keep = self.world.faults.keep(&mut self.fault_rng);
        let node = self.nodes.get_mut(&store).expect("stores are not removed");
        node.disk = node.disk.crash(store, &self.world, keep, &self.oracle);
    }

    // ---- starts ----

    pub(super) fn start(&mut self, store: u64) {
        if self.nodes[&store].life.is_some() || self.gone == Some(store) {
            return;
        }
        self.files_go(store);
        let moved_on = self.children_to_make(store);
        let owed = self.oracle.lock().owed(store);
        let node = self.nodes.get_mut(&store).expect("stores are not removed");
        let cut_short = self.phase == Phase::Run
            && node.failed_starts < FAILED_STARTS_MAX
            && self.fault_rng.chance(self.world.faults.crash_in_start);
        if cut_short {
            let point = START_POINTS[self.fault_rng.weighted(&[4, 2, 1, 1, 1])];
            let fault = Fault {
                point,
                after: self.fault_rng.log_range(0..=6),
                kind: FaultKind::Io,
            };
            inject(node, fault);
        }
        match node.start(&self.world, &self.clock, &self.root) {
            Ok((replayed, regions)) => {
                self.check_starts_whole(store);
                let node = self.nodes.get_mut(&store).expect("stores are not removed");
                let (life, disk) = (node.life.as_ref().map(|life| life.id), node.disk.clone());
                let id = life.expect("it has just started");
                disk.state.auto_flush(None);
                {
                    let mut oracle = self.oracle.lock();
                    oracle.note(format_args!(
                        "store {store}: life {} starts, {replayed:?}, {} regions",
                        id.number,
                        regions.len()
                    ));
                    oracle.store(store).peers.clear();
                    oracle.store(store).ending.clear();
                    oracle.rows_are_in_place(store);
                    oracle.replayed(store, replayed.bytes, owed);
                    oracle.check_barrier(store);
                    oracle.check_topology(store, &regions);
                    oracle
                        .probes
                        .hit_if(!moved_on.0.is_empty(), "replay: of a split");
                    oracle
                        .probes
                        .hit_if(moved_on.1, "replay: of a split whose child had moved on");
                }
                disk.state.check_all();
                self.events
                    .at(self.now() + self.world.config.tick, Event::Tick(id));
                self.events
                    .at(self.now() + OBSERVE_EVERY, Event::Observe(id));
                self.register(id);
                self.after_step(id, true);
            }
            Err(error) => self.start_failed(store, cut_short, &error),
        }
    }

    fn start_failed(&mut self, store: u64, cut_short: bool, error: &StartError) {
        self.note(format_args!("store {store}: the start fails: {error}"));
        let planned = matches!(error, StartError::Engine(error) if is_disk(error));
        let rotten = !planned && self.meets_rot(store, &error.to_string());
        let node = self.nodes.get_mut(&store).expect("stores are not removed");
        node.failed_starts += 1;
        node.fault_planned = false;
        let again = node.failed_starts > 1;
        {
            let mut oracle = self.oracle.lock();
            oracle.checks.check(
                Rule::EndsByDiskOnly,
                (planned && cut_short) || rotten,
                || format!("store {store} does not start: {error}"),
            );
            oracle.probes.hit("crash: in a replay");
            oracle.probes.hit_if(again, "crash: again before it served");
        }
        self.disk_falls_back(store);
        let wait = self.rng.micros(1_000..=200_000);
        self.events.at(self.now() + wait, Event::Start { store });
    }

    /// Regions that the replay has to make, and whether one of them has a log of its own already.
    fn children_to_make(&self, store: u64) -> (Vec<u64>, bool) {
        let oracle = self.oracle.lock();
        let seen = &oracle.stores[&store];
        let commits = |parent: u64| {
            let durable = seen.log.durable(parent);
            durable.map_or(0, |held| held.hard_state().commit)
        };
        let missing = oracle
            .model
            .regions()
            .map(|region| region.id)
            .filter(|id| !seen.applied.contains_key(id))
            .filter(|id| {
                let born = oracle.model.born(*id);
                born.is_some_and(|(parent, index)| {
                    seen.applied.contains_key(&parent) && commits(parent) >= index
                })
            });
        let missing: Vec<u64> = missing.collect();
        let moved = missing.iter().any(|id| {
            seen.log
                .durable(*id)
                .is_some_and(|held| !held.entries.is_empty())
        });
        (missing, moved)
    }
}

/// The disk has failed, and what it holds makes sense.
fn is_disk(error: &EngineError) -> bool {
    !matches!(error, EngineError::Corrupt { .. })
}

fn inject(node: &mut Node, fault: Fault) {
    node.fault_planned = true;
    let disk = &node.disk;
    match fault.point {
        FaultPoint::Append | FaultPoint::Sync | FaultPoint::Read => disk.log.inject(fault),
        FaultPoint::Write | FaultPoint::Flush | FaultPoint::Ingest | FaultPoint::View => {
            disk.state.inject(fault);
        }
        FaultPoint::SnapshotWrite | FaultPoint::SnapshotRead => disk.snapshots.inject(fault),
    }
}

#[cfg(test)]
mod tests {
    use flotilla_engine::memory::{Fault, FaultKind, FaultPoint};
    use flotilla_raftstore::runtime::StoreFatal;

    use super::Sim;
    use crate::rules::Rule;
    use crate::world::World;

    /// A store that runs, and ends as if its disk had failed.
    #[test]
    fn a_store_may_end_only_by_a_fault_that_was_planned() {
        let check = |planned: bool, rule: Option<Rule>| {
            // Nothing else is planned.
            let mut world = World::draw(1);
            world.without("faults");
            let mut sim = Sim::new(world, 0);
            let id = loop {
                sim.turn().expect("nothing is broken yet");
                if let Some(id) = sim.living().first().copied() {
                    break id;
                }
            };
            if planned {
                let fault = Fault {
                    point: FaultPoint::Append,
                    after: 1_000_000,
                    kind: FaultKind::Io,
                };
                sim.inject(id, fault);
            }
            let error = flotilla_engine::EngineError::Disk {
                path: "memory".into(),
                operation: "syncing the log",
                detail: "forged".to_owned(),
            };
            sim.fatal(id, &StoreFatal::from(error));
            let found = sim.verdict().err().map(|violation| violation.rule);
            assert_eq!(found, rule, "planned: {planned}");
        };
        check(true, None);
        check(false, Some(Rule::EndsByDiskOnly));
    }
}
