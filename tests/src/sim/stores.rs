//! Stores run: their threads step, what they ask for comes, what they answer is heard.

use std::time::Duration;

use flotilla_engine::{FlushReason, KeyRange, SplitLimits, StateStore as _, split_check};
use flotilla_proto::metapb::Region;
use flotilla_raftstore::effects::{Fetch, RegionSize, SizeCheck};
use flotilla_raftstore::{PeerInput, RequestError, region};
use flotilla_router::{Lane, LaneLimits};

use super::{Event, Phase, STEP_MICROS_MAX, Sim};
use crate::checkers::machines::may_read;
use crate::client::Request;
use crate::disk::FlushDue;
use crate::probe;
use crate::rules::Rule;
use crate::store::{Answered, Asked, Life, LifeId, Next};
use crate::world::{Pace, Paces, Service};

/// How often the durable point is looked at.
pub(super) const OBSERVE_EVERY: Duration = Duration::from_millis(100);
/// A flush is asked for at most once a second, seen at the next look, and takes its time; so much
/// later than due it may be done.
const FLUSH_GRACE: Duration = Duration::from_millis(2_500);

impl Sim {
    /// One store's threads take a step. `false`: none of them can.
    pub(super) fn step_stores(&mut self) -> bool {
        let stores = self.nodes.len() as u64;
        let first = self.rng.below(stores);
        (0..stores).any(|nth| self.step_store(1 + (first + nth) % stores))
    }

    fn step_store(&mut self, store: u64) -> bool {
        let now = self.now();
        let node = self.nodes.get_mut(&store).expect("stores are not removed");
        if node.is_paused(now) {
            return false;
        }
        let local = node.clock.mono(now);
        let Some(life) = &mut node.life else {
            return false;
        };
        let id = life.id;
        match life.step(local) {
            Ok(None) => return false,
            Ok(Some(actor)) => {
                self.note(format_args!("store {store}: {actor}"));
                self.after_step(id, actor == "raft");
                let cost = self.rng.micros(1..=STEP_MICROS_MAX);
                self.pass(cost);
                self.strike(id, actor);
            }
            Err(fatal) => self.fatal(id, &fatal),
        }
        true
    }

    /// Carries on what a step of a store left behind: questions, answers, traces. Peers have moved only
    /// in a round of their own.
    pub(super) fn after_step(&mut self, id: LifeId, peers_moved: bool) {
        for name in probe::take_reached() {
            self.note(format_args!("store {} reaches {name:?}", id.store));
            self.oracle.lock().probes.reached(name);
        }
        self.ask_world(id);
        self.hear_answers(id);
        self.wake_decided(id);
        if peers_moved {
            self.look(id);
        }
        self.send_later(id);
        self.go_on_stopping(id);
        self.snapshots_moved(id);
        let Some(node) = self.nodes.get(&id.store) else {
            return;
        };
        let due = self
            .world
            .auto_flush_bytes
            .map(|bytes| node.disk.state.flush_due(bytes));
        if due == Some(FlushDue::Yes) {
            node.disk.state.begin_flush();
            self.probe("flush: by itself");
            self.flush_later(id, None);
        }
    }

    /// Latches of writes of unknown fate go once a later term is applied.
    fn wake_decided(&mut self, id: LifeId) {
        let risen = std::mem::take(&mut self.oracle.lock().store(id.store).terms_risen);
        let kept = self.world.plants.service == Some(Service::LatchKept);
        let Some(life) = self.life(id.store).filter(|_| !risen.is_empty() && !kept) else {
            return;
        };
        for op in life.terms_applied(risen) {
            self.probe("latch: kept until the fate of a write was decided");
            self.serve_later(id, op);
        }
    }

    fn look(&mut self, id: LifeId) {
        let now = self.nodes[&id.store].clock.mono(self.now());
        let Some(touched) = self.life_mut(id.store).map(Life::touched) else {
            return;
        };
        let Some(life) = self.life(id.store) else {
            return;
        };
        let lag_max = self.world.config.lag_entries_max;
        let mut oracle = self.oracle.lock();
        let (mut leased, mut elected) = (Vec::new(), Vec::new());
        for region in touched {
            life.look_at(region, |peer| {
                let before = oracle.leaders_elected;
                oracle.look_at_truncation(id.store, peer, now, lag_max);
                let moved = oracle.look_at_peer(id.store, peer);
                // In an old term one may still be elected, but commits nothing.
                let newest = oracle.consensus.newest_term(region);
                if oracle.leaders_elected > before && peer.raft().term() == newest {
                    // It may have to apply a split whose child is led elsewhere.
                    let shape = oracle.model.shape(region, u64::MAX);
                    elected.push(shape.unwrap_or(peer.region()).clone());
                }
                if moved && oracle.look_at_lease(id.store, peer, &life.runtime.delegates, now) {
                    leased.push(peer.region().clone());
                }
            });
        }
        oracle.probes.hit_if(
            !elected.is_empty() && self.net.any_cut(),
            "leader: elected while ways are cut",
        );
        if !(leased.is_empty() && elected.is_empty()) {
            let others = self.leases_of_others(id.store);
            for region in elected {
                oracle.check_elected_alone(id.store, &region, &others);
            }
            for region in leased {
                oracle.check_lease_alone(id.store, &region, &others);
            }
        }
        // Inputs that must not be lost come on top of the bound; their payloads count nothing.
        let queued = life.runtime.raft.queued_bytes();
        let most = self.world.limits.raft.queued_bytes_max;
        oracle.check_queued(id.store, queued, most);
        let (queues, limits) = (&life.runtime.outgoing, &self.world.limits.outgoing);
        let waits = |lane, limit: &LaneLimits| {
            let waiting = |store| queues.waiting(store, lane) <= limit.messages_max;
            queues.stores().into_iter().all(waiting)
        };
        let fits = queues.bytes() == 0
            || (queues.bytes() <= limits.bytes_max
                && waits(Lane::Control, &limits.control)
                && waits(Lane::Append, &limits.append)
                && waits(Lane::Snapshot, &limits.snapshot));
        oracle.checks.check(Rule::QueuesBounded, fits, || {
            format!("store {}: more waits for others than {limits:?}", id.store)
        });
    }

    /// What other stores may read locally at this moment, each by its own clock.
    fn leases_of_others(&self, store: u64) -> Vec<(u64, Region)> {
        let mut leased = Vec::new();
        for node in self.nodes.values().filter(|node| node.id != store) {
            let now = node.clock.mono(self.now());
            let Some(life) = &node.life else {
                continue;
            };
            life.look_at_peers(|peer| {
                if may_read(peer.region(), &life.runtime.delegates, now) {
                    leased.push((node.id, peer.region().clone()));
                }
            });
        }
        leased
    }

    fn ask_world(&mut self, id: LifeId) {
        let Some(life) = self.nodes[&id.store].life.as_ref() else {
            return;
        };
        for asked in life.outside.take() {
            match asked {
                Asked::Fetch(fetch) => {
                    let wait = self.wait(id.store, |paces| paces.fetch);
                    self.events
                        .at(self.now() + wait, Event::Fetch { life: id, fetch });
                }
                Asked::Offered(transfer, ok) => self.offered(id, transfer, ok),
                Asked::Snapshot(task) => self.snapshot_asked(id, task),
                Asked::SizeCheck(check) => {
                    let wait = self.wait(id.store, |paces| paces.fetch);
                    let check = Box::new(check);
                    self.events
                        .at(self.now() + wait, Event::Size { life: id, check });
                }
                Asked::Pd(task) => self.pd_asked(id, task),
                Asked::MetaRole(role) => self.pd_role(id, role),
            }
        }
    }

    pub(super) fn hear_answers(&mut self, id: LifeId) {
        let Some(life) = self.nodes[&id.store].life.as_ref() else {
            return;
        };
        for answered in life.inbox.take() {
            self.heard(id, answered);
        }
    }

    fn heard(&mut self, id: LifeId, answered: Answered) {
        let (op, said) = answered.said();
        self.note(format_args!(
            "store {}: operation {op} is answered: {answered:?}",
            id.store
        ));
        {
            let mut oracle = self.oracle.lock();
            oracle.answer(id.store, op, said);
            let busy = matches!(&answered, Answered::Write(_, Err(RequestError::Busy { reason })) if reason.contains("waited too long"));
            oracle.probes.hit_if(busy, "write: waited too long");
            let large = matches!(
                &answered,
                Answered::Write(_, Err(RequestError::EntryTooLarge { .. }))
            );
            oracle.probes.hit_if(large, "write: too large for an entry");
            let permit = matches!(&answered, Answered::Read(_, Ok(_)));
            oracle.probes.hit_if(
                permit && self.net.any_cut(),
                "read: by index, while ways are cut",
            );
            match &answered {
                Answered::Split(_, Ok(regions)) => regions
                    .iter()
                    .for_each(|region| oracle.show(id.store, region)),
                Answered::Members(_, Ok(region)) => {
                    oracle.show(id.store, region);
                    self.picture.told(region);
                }
                Answered::Split(_, Err(RequestError::EpochNotMatch { .. })) => {
                    oracle.probes.hit("split: ids came too late")
                }
                _ => {}
            }
        }
        if self.pd_heard(id, &answered) {
            return;
        }
        let result = match answered {
            Answered::Write(_, result) => result.map(|()| None),
            Answered::Read(_, result) => result.map(Some),
            Answered::Split(..) | Answered::Members(..) => return,
        };
        let around = self.around(id.store);
        let Some(life) = self.life_mut(id.store) else {
            return;
        };
        let Some(running) = life.requests.get(&op) else {
            return;
        };
        let (client, request) = (running.client, running.request().clone());
        let next = life.answered(op, result, &around);
        self.went_on(id, op, (client, &request), next);
    }

    /// A request went on to its next stage.
    pub(super) fn went_on(
        &mut self,
        id: LifeId,
        op: u64,
        (client, request): (u64, &Request),
        next: Next,
    ) {
        match next {
            Next::Wait => {}
            Next::Again => self.serve_later(id, op),
            Next::Broken(error) => self.read_failed(id, error),
            Next::Done(reply, woken) => {
                woken.into_iter().for_each(|op| self.serve_later(id, op));
                self.reply(id.store, client, op, request, reply);
            }
        }
    }

    /// How long one of a store's threads takes to get to it.
    pub(super) fn wait(&mut self, store: u64, which: impl Fn(&Paces) -> Pace) -> Duration {
        let pace = which(self.world.paces(store));
        self.nodes[&store].calm.wait(pace, &mut self.rng)
    }

    pub(super) fn serve_later(&mut self, life: LifeId, op: u64) {
        let wait = self.wait(life.store, |paces| paces.serve);
        self.events.at(self.now() + wait, Event::Serve { life, op });
    }

    fn flush_later(&mut self, life: LifeId, forced: Option<FlushReason>) {
        let wait = self.wait(life.store, |paces| paces.flush);
        self.events
            .at(self.now() + wait, Event::FlushDone { life, forced });
    }

    // ---- events of a running store ----

    pub(super) fn observe(&mut self, id: LifeId) {
        let now = self.now();
        let node = self.nodes.get_mut(&id.store);
        let node = node.expect("stores are not removed");
        // The store counts by its own clock.
        let longest = |span| node.clock.longest(span);
        let (admin, grace) = (
            longest(self.world.config.admin_durable_max),
            longest(FLUSH_GRACE),
        );
        let local = node.clock.mono(now);
        let Some(life) = &mut node.life else {
            return;
        };
        match life.observe(local) {
            Ok(observed) => {
                if let Some(reason) = observed.flush {
                    self.probe(match reason {
                        FlushReason::Admin => "flush: for an admin change",
                        _ => "flush: for the replay bound",
                    });
                    self.flush_later(id, Some(reason));
                }
                let bound = self.world.config.replay_bytes_max;
                self.oracle
                    .lock()
                    .check_flush_due(id.store, bound, admin, grace);
                self.look_at_stall(id);
                // While faults go on a group may be without a quorum for any time.
                if self.phase != Phase::Run {
                    self.oracle.lock().check_answered_in_time(id.store);
                }
                self.events.at(now + OBSERVE_EVERY, Event::Observe(id));
            }
            Err(error) => self.engine_failed(id, error),
        }
    }

    pub(super) fn flush_done(&mut self, id: LifeId, forced: bool) {
        let Some(life) = self
            .nodes
            .get_mut(&id.store)
            .and_then(|node| node.life.as_mut())
        else {
            return;
        };
        if let Err(error) = life.flush_done(forced) {
            self.probe("fault: flush failed");
            self.engine_failed(id, error);
        } else {
            life.runtime.apply.resume();
        }
    }

    pub(super) fn fetch(&mut self, id: LifeId, fetch: Fetch) {
        let Some(node) = self.nodes.get(&id.store) else {
            return;
        };
        let Some(life) = &node.life else { return };
        let input = fetch.read(&*node.disk.log);
        if matches!(input, PeerInput::FetchFailed { .. }) {
            self.probe("fault: log read failed");
        }
        life.runtime.to_peer(fetch.region, input);
    }

    pub(super) fn measure(&mut self, id: LifeId, check: &SizeCheck) {
        let Some(node) = self.nodes.get(&id.store) else {
            return;
        };
        let Some(life) = &node.life else { return };
        let config = &self.world.config;
        let limits = SplitLimits {
            size_max: config.split_bytes,
            size_split: (config.split_bytes / 3 * 2).max(1),
            keys_max: config.split_keys,
        };
        let region = &check.region;
        let range = KeyRange {
            start: &region.start_key,
            end: &region.end_key,
        };
        let found = match split_check(&node.disk.state.snapshot(), range, limits) {
            Ok(found) => found,
            Err(error) => return self.read_failed(id, error),
        };
        let boundaries = found
            .split_keys
            .iter()
            .filter_map(|key| self.world.mode.boundary(key));
        let mut keys: Vec<_> = boundaries
            .filter(|key| region::strictly_inside(region, key))
            .collect();
        keys.dedup();
        if !keys.is_empty() {
            self.probe("split: by size");
        }
        let size = RegionSize {
            bytes: found.bytes,
            keys: found.keys,
        };
        let epoch = region::epoch(region);
        life.runtime
            .to_peer(region.id, PeerInput::SizeChecked { epoch, keys, size });
    }
}
