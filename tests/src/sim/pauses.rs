//! Nodes stand still for a while, and their clocks run at other rates.

use std::time::Duration;

use super::{Event, Phase, Sim};
use crate::checkers::machines::may_read;
use crate::rules::Rule;
use crate::store::LifeId;
use crate::world::Pace;

/// Ticks, and the waits of a slow poller, until all peers of a store have heard that its log disk stands
/// still.
const NOTICE: Duration = Duration::from_secs(3);

impl Sim {
    /// A node takes no step for so long, as under SIGSTOP: its clocks go on, what comes to it waits.
    pub(super) fn pause(&mut self, id: LifeId, time: Duration) {
        let until = self.now() + time;
        let leads = self.leads_with_lease(id);
        {
            let mut oracle = self.oracle.lock();
            let long = time > self.world.config.election_max;
            oracle.probes.hit_if(
                time > self.world.config.lease,
                "fault: paused beyond the lease",
            );
            oracle.probes.hit_if(
                leads && long,
                "pause: of a leader with a lease, beyond an election",
            );
            oracle.excuse(id.store, time);
        }
        if let Some(node) = self.nodes.get_mut(&id.store) {
            node.paused_until = Some(until);
        }
        let store = id.store;
        self.events.at(until, Event::Resume { store });
    }

    /// The log disk does not answer for so long: who leads is to hand over, and nobody may claim what is
    /// not written (contracts: C14).
    pub(super) fn stall(&mut self, id: LifeId, time: Duration) {
        // No operation hurries a disk.
        self.oracle.lock().excuse(id.store, time);
        self.probe("fault: the log disk stands still");
        let until = self.now() + time;
        self.nodes[&id.store].calm.stall(until);
    }

    /// Where something has waited for the log disk for so long that its leaders must have noticed, none of
    /// them serves by its lease (contracts: C14).
    pub(super) fn look_at_stall(&self, id: LifeId) {
        // A slow poller tells some peers when others have forgotten it again.
        let swift = matches!(self.world.paces(id.store).raft, Pace::Swift | Pace::Short);
        let node = &self.nodes[&id.store];
        let due = node.clock.longest(self.world.config.election_min) + NOTICE;
        let late = node
            .calm
            .waited(self.now())
            .filter(|waited| swift && *waited > due);
        let (Some(waited), Some(life)) = (late, &node.life) else {
            return;
        };
        let now = node.clock.mono(self.now());
        let (mut leased, mut waits) = (None, false);
        life.look_at_peers(|peer| {
            let since = peer.waits_for_log_since();
            waits |= since.is_some_and(|since| now - since > due);
            if may_read(peer.region(), &life.runtime.delegates, now) {
                leased = Some(peer.region().id);
            }
        });
        if !waits {
            return;
        }
        let checks = &mut self.oracle.lock().checks;
        checks.check(Rule::StalledHasNoLease, leased.is_none(), || {
            format!(
                "the log disk of store {} stands still for {waited:?}, and region {leased:?} is read by a lease",
                id.store
            )
        });
    }

    pub(super) fn resume(&mut self, store: u64) {
        let now = self.now();
        let node = self.nodes.get_mut(&store).expect("stores are not removed");
        if !node.is_paused(now) && node.paused_until.is_some() {
            self.go_on(store);
        }
    }

    /// A node does not stand still any more: what came meanwhile comes now.
    pub(super) fn go_on(&mut self, store: u64) {
        let now = self.now();
        let node = self.nodes.get_mut(&store).expect("stores are not removed");
        if node.paused_until.take().is_some() {
            self.events.release(store, now);
            node.calm.waits_anew();
            self.note(format_args!("store {store} goes on"));
        }
    }

    /// Everybody goes on.
    pub(super) fn resume_all(&mut self) {
        for store in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.go_on(store);
        }
    }

    pub(super) fn retune_later(&mut self) {
        if self.world.drift > 0 {
            let wait = self.fault_rng.micros(10_000..=5_000_000);
            self.events.at(self.now() + wait, Event::Retune);
        }
    }

    pub(super) fn retune(&mut self) {
        if self.phase != Phase::Run {
            return;
        }
        self.retune_later();
        let (now, rng) = (self.now(), &mut self.fault_rng);
        for node in self.nodes.values_mut() {
            if rng.chance(500) {
                node.clock.retune(now, rng);
            }
        }
        self.probe("clock: runs at another rate");
    }
}
