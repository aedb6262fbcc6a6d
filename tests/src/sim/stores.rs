//! Stores run: their threads step, what they ask for comes, what they answer is heard.

use std::time::Duration;

use flotilla_engine::{FlushReason, KeyRange, SplitLimits, StateStore as _, split_check};
use flotilla_proto::metapb::Region;
use flotilla_raftstore::effects::{Fetch, MetaRole, PdTask, RegionSize, SizeCheck};
use flotilla_raftstore::region::META_REGION;
use flotilla_raftstore::{PeerInput, RequestError, region};

use super::{Event, Phase, STEP_MICROS_MAX, Sim};
use crate::client::Request;
use crate::disk::FlushDue;
use crate::probe;
use crate::rules::Rule;
use crate::store::{Answered, Asked, LifeId, Next};

/// How often the durable point is looked at.
pub(super) const OBSERVE_EVERY: Duration = Duration::from_millis(100);
/// A flush is asked for at most once a second, seen at the next look, and takes its time; so much
/// later than due it may be done.
const FLUSH_GRACE: Duration = Duration::from_millis(2_500);

impl Sim {
    /// One store's threads take a step. `false`: none of them can.
    pub(super) fn step_stores(&mut self) -> bool {
        let stores: Vec<u64> = self.nodes.keys().copied().collect();
        let first = self.rng.below(stores.len() as u64) as usize;
        (0..stores.len()).any(|nth| self.step_store(stores[(first + nth) % stores.len()]))
    }

    fn step_store(&mut self, store: u64) -> bool {
        let now = self.now();
        let Some(life) = self
            .nodes
            .get_mut(&store)
            .and_then(|node| node.life.as_mut())
        else {
            return false;
        };
        let id = life.id;
        match life.step(now) {
            Ok(None) => return false,
            Ok(Some(actor)) => {
                self.note(format_args!("store {store}: {actor}"));
                self.after_step(id);
                let cost = self.rng.micros(1..=STEP_MICROS_MAX);
                self.pass(cost);
                self.strike(id, actor);
            }
            Err(fatal) => self.fatal(id, &fatal),
        }
        true
    }

    /// Carries on what a step of a store left behind: questions, answers, traces.
    pub(super) fn after_step(&mut self, id: LifeId) {
        for name in probe::take_reached() {
            self.probe(&name);
        }
        self.ask_world(id);
        self.hear_answers(id);
        self.look(id);
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

    fn look(&mut self, id: LifeId) {
        let now = self.now();
        let Some(life) = self.nodes[&id.store].life.as_ref() else {
            return;
        };
        let mut oracle = self.oracle.lock();
        life.look_at_peers(|peer| {
            oracle.look_at_peer(id.store, peer);
            oracle.look_at_lease(id.store, peer, &life.runtime.delegates, now);
        });
        let queued = life.runtime.raft.queued_bytes();
        // Inputs that must not be lost come on top of the bound; their payloads count nothing.
        let limit = self.world.limits.raft.queued_bytes_max;
        oracle
            .checks
            .check(Rule::QueuesBounded, queued <= limit, || {
                format!(
                    "store {}: {queued} bytes wait in mailboxes, {limit} may",
                    id.store
                )
            });
    }

    fn ask_world(&mut self, id: LifeId) {
        let Some(life) = self.nodes[&id.store].life.as_ref() else {
            return;
        };
        for asked in life.outside.take() {
            match asked {
                Asked::Fetch(fetch) => {
                    let wait = self.world.paces.fetch.wait(&mut self.rng);
                    self.events
                        .at(self.now() + wait, Event::Fetch { life: id, fetch });
                }
                Asked::SizeCheck(check) => {
                    let wait = self.world.paces.fetch.wait(&mut self.rng);
                    self.events
                        .at(self.now() + wait, Event::Size { life: id, check });
                }
                Asked::Pd(task) => self.pd_asked(id, task),
                Asked::MetaRole(role) => self.pd_role(id, role),
            }
        }
    }

    fn pd_role(&self, id: LifeId, role: MetaRole) {
        self.note(format_args!("store {}: {role:?}", id.store));
        let Some(life) = self.nodes[&id.store].life.as_ref() else {
            return;
        };
        if let MetaRole::Leads { term } = role {
            life.look_at_peers(|peer| {
                if peer.region().id == META_REGION {
                    self.oracle.lock().look_at_pd(id.store, peer, term);
                }
            });
        }
    }

    fn pd_asked(&mut self, id: LifeId, task: PdTask) {
        match task {
            PdTask::RegionHeartbeat { region, leader, .. } => {
                self.pd.leads(region.id, leader);
                self.reported(id, &[region]);
            }
            PdTask::ReportSplit { regions } => self.reported(id, &regions),
            PdTask::StoreHeartbeat { .. } => {}
            PdTask::AskRegion { region } => {
                let current = self.pd.regions().find(|known| known.id == region).cloned();
                if let Some(current) = current {
                    let wait = self.rng.micros(0..=2_000);
                    let input = Box::new(PeerInput::Current { region: current });
                    let life = id;
                    self.events.at(
                        self.now() + wait,
                        Event::Pd {
                            life,
                            region,
                            input,
                        },
                    );
                }
            }
            PdTask::AskSplit {
                region,
                epoch,
                keys,
                answer,
            } => {
                let faulty = self.phase == Phase::Run;
                let ids = if faulty && self.fault_rng.chance(self.world.faults.pd_fails) {
                    self.probe("split: PD failed");
                    Err("PD has no leader".to_owned())
                } else {
                    Ok(self.pd.new_ids(&region, keys.len()))
                };
                let late = faulty && self.fault_rng.chance(self.world.faults.pd_late);
                let wait = if late {
                    self.rng.micros(0..=2_000_000)
                } else {
                    self.rng.micros(0..=2_000)
                };
                self.note(format_args!(
                    "PD: ids for region {}, {} parts: {ids:?} in {wait:?}",
                    region.id,
                    keys.len()
                ));
                let input = Box::new(PeerInput::SplitIds {
                    epoch,
                    keys,
                    ids,
                    answer,
                });
                let region = region.id;
                self.events.at(
                    self.now() + wait,
                    Event::Pd {
                        life: id,
                        region,
                        input,
                    },
                );
            }
        }
    }

    fn reported(&mut self, id: LifeId, regions: &[Region]) {
        for region in regions {
            self.oracle.lock().show(id.store, region);
            self.pd.told(region);
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
            let oracle = &mut *oracle;
            let failed = oracle.stores[&id.store].failed;
            oracle
                .answers
                .answered(op, said, failed, &mut oracle.checks);
            let busy = matches!(&answered, Answered::Write(_, Err(RequestError::Busy { reason })) if reason.contains("waited too long"));
            oracle.probes.hit_if(busy, "write: waited too long");
            let large = matches!(
                &answered,
                Answered::Write(_, Err(RequestError::EntryTooLarge { .. }))
            );
            oracle.probes.hit_if(large, "write: too large for an entry");
            match &answered {
                Answered::Split(_, Ok(regions)) => regions
                    .iter()
                    .for_each(|region| oracle.show(id.store, region)),
                Answered::Split(_, Err(RequestError::EpochNotMatch { .. })) => {
                    oracle.probes.hit("split: ids came too late")
                }
                _ => {}
            }
        }
        let result = match answered {
            Answered::Write(_, result) => result.map(|()| None),
            Answered::Read(_, result) => result.map(Some),
            Answered::Split(..) => return,
        };
        let around = self.around();
        let Some(life) = self
            .nodes
            .get_mut(&id.store)
            .and_then(|node| node.life.as_mut())
        else {
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
            Next::Done(reply, woken) => {
                woken.into_iter().for_each(|op| self.serve_later(id, op));
                self.replied(client, op, request, &reply);
            }
        }
    }

    pub(super) fn serve_later(&mut self, life: LifeId, op: u64) {
        let wait = self.world.paces.serve.wait(&mut self.rng);
        self.events.at(self.now() + wait, Event::Serve { life, op });
    }

    fn flush_later(&mut self, life: LifeId, forced: Option<FlushReason>) {
        let wait = self.world.paces.flush.wait(&mut self.rng);
        self.events
            .at(self.now() + wait, Event::FlushDone { life, forced });
    }

    // ---- events of a running store ----

    pub(super) fn observe(&mut self, id: LifeId) {
        let now = self.now();
        let Some(life) = self
            .nodes
            .get_mut(&id.store)
            .and_then(|node| node.life.as_mut())
        else {
            return;
        };
        match life.observe(now) {
            Ok(observed) => {
                if let Some(reason) = observed.flush {
                    self.probe(match reason {
                        FlushReason::Admin => "flush: for an admin change",
                        _ => "flush: for the replay bound",
                    });
                    self.flush_later(id, Some(reason));
                }
                let config = &self.world.config;
                let (bound, admin) = (config.replay_bytes_max, config.admin_durable_max);
                self.oracle
                    .lock()
                    .check_flush_due(id.store, bound, admin, FLUSH_GRACE);
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
        let found = split_check(&node.disk.state.snapshot(), range, limits)
            .expect("a snapshot in memory is always read");
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
