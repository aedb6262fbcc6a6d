//! A store is lost for good: its peers are replaced by PD, and nobody misses it.

use flotilla_proto::metapb::{PeerRole, Region};

use super::end::CONVERGE_MAX;
use super::{Event, Phase, Sim};
use crate::rules::{Rule, Violation};

impl Sim {
    pub(super) fn loss_later(&mut self) {
        if self.world.loses_a_store {
            let wait = self.rng.micros(1_000_000..=30_000_000);
            self.events.at(self.now() + wait, Event::Loss);
        }
    }

    /// Some store dies and never comes back, if every region goes on without it.
    pub(super) fn lose_a_store(&mut self) {
        if self.phase != Phase::Run {
            return;
        }
        let store = self.fault_rng.range(1..=self.world.stores);
        if !self.go_on_without(store) {
            return self.loss_later();
        }
        self.probe("fault: a store is lost for good");
        self.note(format_args!("store {store} is lost for good"));
        self.gone = Some(store);
        if let Some(id) = self.life(store).map(|life| life.id) {
            self.crash(id);
        }
    }

    /// Of the voters of every region enough run elsewhere.
    fn go_on_without(&self, store: u64) -> bool {
        let runs = |other: u64| other != store && self.life(other).is_some();
        let lives = |region: &Region| {
            let quorum = |left: PeerRole| {
                let votes = |role: PeerRole| role == PeerRole::Voter || role == left;
                let voters = region.peers.iter().filter(|peer| votes(peer.role()));
                let here: Vec<bool> = voters.map(|peer| runs(peer.store_id)).collect();
                here.iter().filter(|here| **here).count() * 2 > here.len()
            };
            quorum(PeerRole::IncomingVoter) && quorum(PeerRole::DemotingVoter)
        };
        self.oracle.lock().model.regions().all(lives)
    }

    /// The faults are over: PD replaces what the lost store had. Where somebody took away too many of
    /// the others meanwhile, the store is found again.
    pub(super) fn replace_the_lost(&mut self) -> Result<(), Violation> {
        let deadline = self.now() + CONVERGE_MAX;
        while let Some(store) = self.gone {
            let all = self
                .nodes
                .keys()
                .all(|other| *other == store || self.life(*other).is_some());
            if all && !self.go_on_without(store) {
                self.probe("fault: a lost store is found again");
                self.gone = None;
                self.events.at(self.now(), Event::Start { store });
                break;
            }
            let has = |region: &Region| region.peers.iter().any(|peer| peer.store_id == store);
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
                    format!("PD has had its time, and on the lost store {store} is still {left:?}")
                });
                break;
            }
            self.turn()?;
        }
        self.verdict()
    }
}
