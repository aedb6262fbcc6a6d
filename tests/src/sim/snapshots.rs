//! A store's work on snapshots, and what strikes while one is on its way: each step of it is rare, so
//! that faults would hardly ever meet it by themselves.

use std::ops::ControlFlow;

use flotilla_engine::StateStore as _;
use flotilla_engine::memory::{Fault, FaultKind, FaultPoint};
use flotilla_proto::metapb::PeerRole;
use flotilla_raftstore::region::peer_on;
use flotilla_raftstore::{PeerInput, RaftInput, ReadContext, SnapshotTask};

use super::transfers::Transfer;
use super::{Event, Phase, Sim};
use crate::checkers::SnapshotStep;
use crate::store::LifeId;

/// What may fail while a snapshot is on its way.
const POINTS: [FaultPoint; 6] = [
    FaultPoint::SnapshotWrite,
    FaultPoint::SnapshotRead,
    FaultPoint::Ingest,
    FaultPoint::Write,
    FaultPoint::Append,
    FaultPoint::Sync,
];

impl Sim {
    // ---- the thread that works on snapshots ----

    /// Does it after all that was asked before.
    pub(super) fn snapshot_asked(&mut self, id: LifeId, task: SnapshotTask) {
        let Some(life) = self.life_mut(id.store) else {
            return;
        };
        life.snapshots.push_back(task);
        if life.snapshots.len() == 1 {
            self.snapshot_later(id);
        }
    }

    fn snapshot_later(&mut self, life: LifeId) {
        let wait = self.wait(life.store, |paces| paces.snapshot);
        self.events.at(self.now() + wait, Event::Snapshot(life));
    }

    /// A build begins with a look at the state and takes its time; everything else happens at once.
    pub(super) fn snapshot(&mut self, id: LifeId) {
        let Some(node) = self.nodes.get_mut(&id.store) else {
            return;
        };
        let Some(life) = &mut node.life else { return };
        let build = match life.snapshots.front() {
            Some(SnapshotTask::Build { region, .. }) => Some(*region),
            _ => None,
        };
        if let Some(region) = build.filter(|_| life.view.is_none()) {
            life.view = Some(node.disk.state.background_snapshot());
            self.snapshot_later(id);
            return self.meet_snapshot(id, region, SnapshotStep::Begun);
        }
        let (task, view) = (life.snapshots.pop_front(), life.view.take());
        let more = !life.snapshots.is_empty();
        let Some(task) = task else { return };
        if let SnapshotTask::Discard { key } | SnapshotTask::Refuse { key } = &task {
            self.oracle.lock().check_files_go(id.store, key);
        }
        let mut go_on = |_| ControlFlow::Continue(());
        let disk = &node.disk;
        let told = match (task, view) {
            (SnapshotTask::Build { region, life }, Some(view)) => {
                let files = &*disk.snapshots;
                let input = SnapshotTask::build(&view, files, region, life, &mut go_on);
                Some((region, RaftInput::Peer(input)))
            }
            (task, _) => task.run(&*disk.state, &*disk.snapshots, go_on),
        };
        if more {
            self.snapshot_later(id);
        }
        let Some((region, input)) = told else { return };
        let (mut placed, mut failed) = (false, false);
        if let RaftInput::Peer(input) = &input {
            placed = matches!(input, PeerInput::Ingested { .. });
            failed = matches!(input, PeerInput::SnapshotBuilt { result: Err(_), .. });
        }
        if failed {
            self.probe("fault: a snapshot's build failed");
        }
        if let Some(life) = self.life(id.store) {
            life.runtime.tell(region, input);
        }
        if placed {
            self.meet_snapshot(id, region, SnapshotStep::Placed);
        }
    }

    // ---- what strikes meanwhile ----

    /// What the disks of a store have seen of snapshots in its last step.
    pub(super) fn snapshots_moved(&mut self, id: LifeId) {
        let steps = std::mem::take(&mut self.oracle.lock().store(id.store).snapshot_steps);
        for (region, step) in steps {
            self.meet_snapshot(id, region, step);
        }
    }

    /// A snapshot of `region` has made a step at a store: now and then something else happens, too.
    pub(super) fn meet_snapshot(&mut self, id: LifeId, region: u64, step: SnapshotStep) {
        match step {
            SnapshotStep::Received => drop(self.received.insert((id, region))),
            SnapshotStep::IntentWritten => drop(self.received.remove(&(id, region))),
            _ => {}
        }
        let strikes = self.phase == Phase::Run
            && self.life(id.store).is_some_and(|life| life.id == id)
            && self.fault_rng.chance(self.world.faults.at_snapshots);
        if !strikes {
            return;
        }
        self.note(format_args!(
            "store {}: a snapshot of region {region}: {step:?}",
            id.store
        ));
        match self.fault_rng.weighted(&[35, 15, 25, 15, 5, 5]) {
            0 => self.crash(id),
            1 => {
                let sender = self.transfers.values();
                let sender = sender.map(Transfer::sender).find(|from| *from != id);
                let leader = self.leader_of(region).map(|(leader, _)| leader);
                if let Some(other) = sender.or(leader) {
                    self.crash(other);
                }
            }
            2 => {
                self.move_leader(region);
                self.stall_transfers(region);
            }
            3 => {
                self.split_now(region);
                self.stall_transfers(region);
            }
            4 => {
                let time = self.fault_rng.micros(10_000..=1_000_000);
                self.pause(id, time);
            }
            _ => {
                let fault = Fault {
                    point: *self.fault_rng.pick(&POINTS),
                    after: self.fault_rng.range(0..=3),
                    kind: FaultKind::Io,
                };
                self.note(format_args!("store {}: {fault:?}", id.store));
                self.inject(id, fault);
            }
        }
    }

    /// Somebody else leads, if the others agree.
    fn move_leader(&self, region: u64) {
        let leader = self.leader_of(region).map(|(leader, _)| leader.store);
        for node in self.nodes.values().filter(|node| Some(node.id) != leader) {
            let Some(life) = &node.life else { continue };
            let mut votes = false;
            life.look_at(region, |peer| {
                let own = peer_on(peer.region(), node.id);
                votes = own.is_some_and(|own| own.role() == PeerRole::Voter);
            });
            if votes && let Some(life) = self.life(leader.unwrap_or(node.id)) {
                let mut to = 0;
                self.nodes[&node.id]
                    .life
                    .iter()
                    .for_each(|life| life.look_at(region, |peer| to = peer.raft().id()));
                return life.runtime.to_peer(region, PeerInput::Transfer { to });
            }
        }
    }

    /// What is on its way takes so long that something else can happen first.
    fn stall_transfers(&mut self, region: u64) {
        let transfers = &self.transfers;
        let of_region = |event: &Event| match event {
            Event::Transfer(number) => transfers.get(number).is_some_and(|it| it.is_of(region)),
            _ => false,
        };
        let late = self.now() + self.world.config.election_max * 2;
        for event in self.events.extract(of_region) {
            self.events.at(late, event);
        }
    }

    pub(super) fn split_now(&mut self, region: u64) {
        let Some((id, _)) = self.leader_of(region) else {
            return;
        };
        let op = self.op();
        let known = self.picture.0.get(&region).cloned();
        let count = self.oracle.lock().model.regions().count();
        let Some(known) = known.filter(|_| count <= self.world.regions_max) else {
            return;
        };
        let key = self.world.workload.split_key(op, 0, &mut self.rng);
        let context = ReadContext {
            region,
            epoch: known.region_epoch,
            ..ReadContext::default()
        };
        let around = self.around(id.store);
        if let Some(life) = self.life(id.store) {
            life.split(op, Some(context), region, vec![key], &around);
        }
        self.hear_answers(id);
    }

    /// How far snapshots had come at a store that dies now.
    pub(super) fn probe_snapshots_at_death(&self, id: LifeId) {
        let mut hits = Vec::new();
        for transfer in self.transfers.values() {
            if transfer.comes_to(id) {
                hits.push("crash: while a snapshot comes");
            }
            if transfer.sender() == id {
                hits.push("crash: of a snapshot's sender");
            }
        }
        if self.received.iter().any(|(receiver, _)| *receiver == id) {
            hits.push("crash: behind a received snapshot");
        }
        if self.life(id.store).is_some_and(|life| life.view.is_some()) {
            hits.push("crash: while a snapshot is built");
        }
        let mut oracle = self.oracle.lock();
        let seen = oracle.store(id.store);
        for (region, index) in seen.log.durable_intents() {
            let applied = seen.applied.get(&region).copied().unwrap_or(0);
            let came = seen.came.contains_key(&(region, index));
            hits.push(match (applied >= index, came) {
                (true, _) => "crash: before an intent goes",
                (false, true) => "crash: rows of a snapshot came without their records",
                (false, false) => "crash: behind an intent",
            });
        }
        hits.into_iter().for_each(|name| oracle.probes.hit(name));
    }
}
