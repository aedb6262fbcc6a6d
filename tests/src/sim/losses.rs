//! A store is lost for good: its peers are replaced by PD, and nobody misses it.

use flotilla_engine::{SnapshotFiles as _, SnapshotKey};
use flotilla_proto::metapb::{Peer, PeerRole, Region};

use super::end::CONVERGE_MAX;
use super::{Event, Phase, Sim};
use crate::rules::{Rule, Violation};

/// Where bytes rot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rot {
    /// An entry of the log.
    Log,
    /// A row.
    State,
}

impl Sim {
    pub(super) fn loss_later(&mut self) {
        if self.world.loses_a_store {
            let wait = self.rng.micros(1_000_000..=30_000_000);
            self.events.at(self.now() + wait, Event::Loss);
        }
    }

    /// Some store dies and never comes back, if every region goes on without it.
    pub(super) fn lose_a_store(&mut self) {
        // One that has met its rot is lost already.
        if self.phase != Phase::Run || self.gone.is_some() {
            return;
        }
        if let Some((store, rot)) = self.rotten {
            return self.end_with_rot(store, rot);
        }
        // A replica that is lost has to be replaced first: of four stores one is free for that.
        if self.stripped.is_some() {
            return self.loss_later();
        }
        let store = self.fault_rng.range(1..=self.world.stores);
        if !self.go_on_without(store) {
            return self.loss_later();
        }
        if self.rots(store) {
            let wait = self.fault_rng.micros(1_000..=10_000_000);
            self.events.at(self.now() + wait, Event::Loss);
        } else {
            self.lose(store);
        }
    }

    fn lose(&mut self, store: u64) {
        self.probe("fault: a store is lost for good");
        self.note(format_args!("store {store} is lost for good"));
        self.gone = Some(store);
        if let Some(id) = self.life(store).map(|life| life.id) {
            self.crash(id);
        }
    }

    // ---- bytes that rot ----

    /// In some worlds a store is lost because bytes of its log or of its state rot. `false`: not here.
    fn rots(&mut self, store: u64) -> bool {
        if !self.world.faults.rot {
            return false;
        }
        let disk = &self.nodes[&store].disk;
        let rot = match self.fault_rng.below(3) {
            0 => {
                let oracle = self.oracle.lock();
                let entry = oracle.stores[&store].log.any_entry(self.fault_rng.any());
                let Some((region, index)) = entry else {
                    return false;
                };
                disk.log.rot(region, index);
                Rot::Log
            }
            1 => {
                let key = self.world.workload.any_key(&mut self.fault_rng);
                let key = self.world.mode.physical(&key);
                if !disk.state.rot(&key) && !disk.state.rot(b"") {
                    return false;
                }
                Rot::State
            }
            _ => return false,
        };
        self.probe(match rot {
            Rot::Log => "fault: bytes of the log rot",
            Rot::State => "fault: bytes of the state rot",
        });
        self.note(format_args!("store {store}: bytes rot, {rot:?}"));
        self.rotten = Some((store, rot));
        true
    }

    /// Whoever has not met the rot by now is looked at: a start reads the whole log, while rows are
    /// only found by those who read them, and nobody did.
    fn end_with_rot(&mut self, store: u64, rot: Rot) {
        match (rot, self.life(store).map(|life| life.id)) {
            (Rot::Log, Some(id)) if self.phase == Phase::Run => self.crash(id),
            (Rot::Log, None) if self.phase == Phase::Run => {}
            _ => {
                self.rotten = None;
                self.lose(store);
            }
        }
    }

    /// A store ends, or does not start, for what `error` says: it has met bytes that rot, and is lost.
    pub(super) fn meets_rot(&mut self, store: u64, error: &str) -> bool {
        let rotten = self.rotten.take_if(|(rotten, _)| *rotten == store);
        if rotten.is_none() || !error.contains("corrupt data in") {
            self.rotten = rotten.or(self.rotten);
            return false;
        }
        let checks = &mut self.oracle.lock().checks;
        checks.check(Rule::RotIsRefused, true, String::new);
        self.gone = Some(store);
        true
    }

    /// A store has started: it has read its whole log, and nothing there is rotten.
    pub(super) fn check_starts_whole(&self, store: u64) {
        let whole = self.rotten != Some((store, Rot::Log));
        let checks = &mut self.oracle.lock().checks;
        checks.check(Rule::RotIsRefused, whole, || {
            format!("store {store} has started on a log in which bytes have rotten")
        });
    }

    pub(super) fn nobody_is_lost(&self) -> bool {
        self.gone.is_none() && self.stripped.is_none()
    }

    // ---- files that are gone ----

    /// Before a start somebody has cleaned up: the files of a snapshot are gone whose install has only
    /// begun. The replica is lost, if its region goes on without it: PD replaces it.
    pub(super) fn files_go(&mut self, store: u64) {
        let quiet = self.gone.is_none() && self.rotten.is_none() && self.stripped.is_none();
        let may = self.phase == Phase::Run && self.world.loses_a_store && quiet;
        if !may || !self.fault_rng.chance(self.world.faults.cleaned) || !self.go_on_without(store) {
            return;
        }
        let open = {
            let seen = &self.oracle.lock().stores[&store];
            seen.log.open_intent(&seen.applied)
        };
        let Some((peer, manifest)) = open else { return };
        let key = SnapshotKey::incoming(&manifest);
        let files = &self.nodes[&store].disk.snapshots;
        if files.discard(&key).is_err() {
            return;
        }
        self.probe("fault: the files of an intent are gone");
        self.note(format_args!("store {store}: the files of {key} are gone"));
        self.stripped = Some(peer);
    }

    /// Of the voters of every region enough run elsewhere.
    fn go_on_without(&self, store: u64) -> bool {
        let runs = |peer: &Peer| {
            let here = peer.store_id != store && self.life(peer.store_id).is_some();
            here && self.stripped != Some(peer.id)
        };
        let lives = |region: &Region| {
            let quorum = |left: PeerRole| {
                let votes = |role: PeerRole| role == PeerRole::Voter || role == left;
                let voters = region.peers.iter().filter(|peer| votes(peer.role()));
                let here: Vec<bool> = voters.map(runs).collect();
                here.iter().filter(|here| **here).count() * 2 > here.len()
            };
            quorum(PeerRole::IncomingVoter) && quorum(PeerRole::DemotingVoter)
        };
        self.oracle.lock().model.regions().all(lives)
    }

    /// The faults are over: PD replaces what the lost store had. Where somebody took away too many of
    /// the others meanwhile, the store is found again.
    pub(super) fn replace_the_lost(&mut self) -> Result<(), Violation> {
        if let Some((store, rot)) = self.rotten {
            self.end_with_rot(store, rot);
        }
        let deadline = self.now() + CONVERGE_MAX;
        while self.gone.is_some() || self.stripped.is_some() {
            self.find_again();
            self.find_files_again();
            let lost =
                |peer: &Peer| Some(peer.store_id) == self.gone || Some(peer.id) == self.stripped;
            let has = |region: &Region| region.peers.iter().any(lost);
            let left = self
                .oracle
                .lock()
                .model
                .regions()
                .find(|region| has(region))
                .cloned();
            let over = self.now() >= deadline;
            if left.is_none() || over {
                let checks = &mut self.oracle.lock().checks;
                checks.check(Rule::PlanningConverges, left.is_none(), || {
                    format!(
                        "PD has had its time, lost are store {:?} and peer {:?}, and there is still {left:?}",
                        self.gone, self.stripped
                    )
                });
                break;
            }
            self.turn()?;
        }
        self.verdict()
    }

    /// A power failure brings files back whose removal was not synced yet: the replica is not lost then.
    fn find_files_again(&mut self) {
        let Some(stripped) = self.stripped else {
            return;
        };
        let mut lives = false;
        for life in self.nodes.values().filter_map(|node| node.life.as_ref()) {
            life.look_at_peers(|peer| lives |= peer.raft().id() == stripped);
        }
        if lives {
            self.stripped = None;
        }
    }

    /// Where the others are too few without the lost store it is found again.
    fn find_again(&mut self) {
        let Some(store) = self.gone else { return };
        let all = self
            .nodes
            .keys()
            .all(|other| *other == store || self.life(*other).is_some());
        if all && !self.go_on_without(store) {
            self.probe("fault: a lost store is found again");
            self.gone = None;
            self.nodes[&store].disk.restore();
            self.events.at(self.now(), Event::Start { store });
        }
    }
}
