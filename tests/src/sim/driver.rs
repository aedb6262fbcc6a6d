//! PD on each store: what its driver does for the machine (`flotilla_pd`), with the simulator's IO.

use flotilla_engine::{Cf, KeyRange, StateReader, StateStore as _};
use flotilla_pd::driver::{gives_ids, meta_mod};
use flotilla_pd::{
    Call as _, Effect, Ending, Event as PdEvent, Input, OracleCommand, Outcome, Request, Response,
    Status, TICK, TimestampNext, Work, calls,
};
use flotilla_proto::metapb::StoreState;
use flotilla_proto::pdpb::TsoRequest;
use flotilla_raftstore::effects::MetaRole;
use flotilla_raftstore::region::META_REGION;

use super::calls::{Said, header};
use super::{Event, Sim};
use crate::checkers::placement::{Granted, Replicas};
use crate::rules::Rule;
use crate::store::{
    Answered, CallTry, Inner, Life, LifeId, Owed, PdAsked, Placement, Surroundings, TimestampTry,
    outcome,
};
use crate::world::Service;

impl Sim {
    fn placement(&mut self, id: LifeId) -> Option<&mut Placement> {
        let life = self.life_mut(id.store).filter(|life| life.id == id)?;
        Some(&mut life.placement)
    }

    /// The store is PD from now on, or not any more; its driver hears of it after a while.
    pub(super) fn pd_role(&mut self, id: LifeId, role: MetaRole) {
        self.note(format_args!("store {}: {role:?}", id.store));
        if let (MetaRole::Leads { term }, Some(life)) = (role, self.life(id.store)) {
            life.look_at(META_REGION, |peer| {
                self.oracle.lock().look_at_pd(id.store, peer, term);
            });
        }
        if let Some(placement) = self.placement(id) {
            placement.roles.push_back(role);
            self.wake_driver(id);
        }
    }

    fn wake_driver(&mut self, id: LifeId) {
        let wait = self.wait(id.store, |paces| paces.serve);
        let at = self.now() + wait;
        if let Some(placement) = self.placement(id)
            && !std::mem::replace(&mut placement.woken, true)
        {
            self.events.at(at, Event::PdDriver(id));
        }
    }

    /// The driver takes what waits for it: what came back first, then roles.
    pub(super) fn drive(&mut self, id: LifeId) {
        let around = self.around(id.store);
        let mut work = Vec::new();
        let mut unknown = false;
        let Some(placement) = self.placement(id) else {
            return;
        };
        placement.woken = false;
        let driven = &mut placement.driven;
        for inner in placement.inner.drain(..) {
            match inner {
                Inner::Committed(token, outcome) => {
                    unknown |= outcome == Outcome::Unknown;
                    let input = Input::Committed { token, outcome };
                    driven.handle(around.now, around.wall, input, &mut work);
                }
                Inner::Settled(term, settled) => driven.settled(term, settled, &mut work),
            }
        }
        for role in placement.roles.drain(..) {
            match role {
                MetaRole::Leads { term } => driven.leads(term, &mut work),
                MetaRole::Follows => driven.follows(around.now, around.wall, &mut work),
            }
        }
        let ticks = driven.role().is_some() && !std::mem::replace(&mut placement.ticks, true);
        if ticks {
            self.events.at(self.now() + TICK, Event::PdTick(id));
        }
        if unknown {
            self.probe("pd: the outcome of a proposal is unknown");
        }
        self.carry_out(id, work);
    }

    pub(super) fn pd_tick(&mut self, id: LifeId) {
        let Some(placement) = self.placement(id) else {
            return;
        };
        placement.ticks = placement.driven.role().is_some();
        if placement.ticks {
            self.events.at(self.now() + TICK, Event::PdTick(id));
            self.pd_input(id, Input::Tick);
        }
    }

    pub(super) fn pd_input(&mut self, id: LifeId, input: Input) {
        let around = self.around(id.store);
        let Some(placement) = self.placement(id) else {
            return;
        };
        let mut work = Vec::new();
        placement
            .driven
            .handle(around.now, around.wall, input, &mut work);
        self.carry_out(id, work);
    }

    /// The rows of the meta region are read, as they are by now.
    pub(super) fn pd_load(&mut self, id: LifeId, term: u64) {
        let around = self.around(id.store);
        let Some(node) = self.nodes.get_mut(&id.store) else {
            return;
        };
        let mut rows = Vec::new();
        let all = KeyRange {
            start: b"",
            end: b"",
        };
        let snapshot = node.disk.state.snapshot();
        let scan = snapshot.scan(Cf::CfMeta, all, false, &mut |key, value| {
            rows.push((
                bytes::Bytes::copy_from_slice(key),
                bytes::Bytes::copy_from_slice(value),
            ));
            true
        });
        if let Err(error) = scan {
            return self.read_failed(id, error);
        }
        let mut work = Vec::new();
        let Some(life) = &mut node.life else { return };
        around.oracle.lock().pd_reads_rows(id.store, term);
        let driven = &mut life.placement.driven;
        driven.loaded(around.now, around.wall, term, rows, &mut work);
        self.carry_out(id, work);
    }

    /// An empty write goes behind everything that was proposed in `term`.
    pub(super) fn pd_settle(&mut self, id: LifeId, term: u64) {
        self.probe("pd: reads its rows again");
        self.write_meta(id, term, Vec::new(), Owed::Settled(term));
    }

    fn write_meta(
        &mut self,
        id: LifeId,
        term: u64,
        mods: Vec<flotilla_proto::store::Mod>,
        owed: Owed,
    ) {
        let (op, around) = (self.op(), self.around(id.store));
        if let Some(life) = self.life_mut(id.store) {
            life.placement.owed.insert(op, owed);
            around.oracle.lock().note(format_args!(
                "operation {op}: PD of store {} writes {} rows in term {term}",
                id.store,
                mods.len()
            ));
            life.write_meta(op, term, mods, &around);
        }
        self.hear_answers(id);
    }

    /// What PD proposed or asked of the meta region is answered. `false`: it was not PD's.
    pub(super) fn pd_heard(&mut self, id: LifeId, answered: &Answered) -> bool {
        let (op, _) = answered.said();
        let Some(placement) = self.placement(id) else {
            return false;
        };
        let inner = match (placement.owed.remove(&op), answered) {
            (Some(Owed::Lease(asked)), _) => {
                self.serve_timestamps(id, asked);
                return true;
            }
            (Some(Owed::Ids(call, response)), _) => {
                match self.leads_meta(id) {
                    true => self.pd_says(id, call, response),
                    false => {
                        self.probe("pd: ids are dropped, the lease is over");
                        let refused = Response::Status(Status::not_leader());
                        self.pd_says(id, call, refused);
                    }
                }
                return true;
            }
            (Some(Owed::Proposal(token)), Answered::Write(_, result)) => {
                Inner::Committed(token, outcome(result))
            }
            (Some(Owed::Settled(term)), Answered::Write(_, result)) => {
                Inner::Settled(term, result.is_ok())
            }
            _ => return false,
        };
        placement.inner.push_back(inner);
        self.wake_driver(id);
        true
    }

    // ---- effects ----

    fn carry_out(&mut self, id: LifeId, work: Vec<Work>) {
        for work in work {
            match work {
                Work::Load { term } => {
                    let wait = self.wait(id.store, |paces| paces.fetch);
                    let event = Event::PdLoad { life: id, term };
                    self.events.at(self.now() + wait, event);
                }
                Work::Settle { term, after } => {
                    let event = Event::PdSettle { life: id, term };
                    self.events.at(self.now() + after, event);
                }
                Work::Effect(effect) => self.pd_effect(id, effect),
            }
        }
    }

    fn pd_effect(&mut self, id: LifeId, effect: Effect) {
        match effect {
            Effect::Propose { token, term, mods } => {
                let mods = mods.into_iter().map(meta_mod).collect();
                self.write_meta(id, term, mods, Owed::Proposal(token));
            }
            Effect::Answer { token, response } => {
                let asked = self
                    .placement(id)
                    .and_then(|placement| placement.asked.remove(&token));
                match asked {
                    None => {}
                    Some(PdAsked::Call(call)) => {
                        let response = self.planted(response);
                        let plant = self.world.plants.service;
                        let unleased = plant == Some(Service::IdsWithoutLease);
                        if !gives_ids(&response) || unleased || self.leads_meta(id) {
                            return self.pd_says(id, call, response);
                        }
                        let (op, around) = (self.op(), self.around(id.store));
                        if let Some(life) = self.life_mut(id.store) {
                            life.placement.owed.insert(op, Owed::Ids(call, response));
                            life.confirm_meta(op, &around);
                        }
                        self.hear_answers(id);
                    }
                    Some(PdAsked::Room(asked)) => match response {
                        Response::Status(status) => {
                            let said = Said::Call(Response::Status(status));
                            self.pd_answers(id, asked.call, said);
                        }
                        _ => self.serve_timestamps(id, asked),
                    },
                }
            }
            Effect::Oracle(command) => self.command_oracle(id, command),
            Effect::RegionInstruction {
                stream,
                instruction,
            } => self.instruct(id, stream, *instruction),
            Effect::CloseStream { stream, .. } => self.pd_closes(id, stream),
            // Has become work of its own.
            Effect::Reload { .. } => {}
            Effect::Fatal(error) => {
                let checks = &mut self.oracle.lock().checks;
                checks.check(Rule::EndsByDiskOnly, false, || {
                    format!("store {}: PD cannot serve: {error}", id.store)
                });
            }
            Effect::Event(event) => self.pd_event(id, &event),
        }
    }

    fn command_oracle(&mut self, id: LifeId, command: OracleCommand) {
        if let OracleCommand::Open { term, from_ms, .. } = command {
            self.oracle.lock().window_opens(id.store, term, from_ms);
        }
        if let Some(placement) = self.placement(id) {
            placement.oracle.command(command);
        }
    }

    fn pd_event(&mut self, id: LifeId, event: &PdEvent) {
        self.note(format_args!("store {}: PD: {event:?}", id.store));
        let mut oracle = self.oracle.lock();
        match event {
            PdEvent::Led { .. } => oracle.pd_begins(id.store),
            PdEvent::RegionConflict { reported, known } => {
                oracle.regions_conflict(id.store, *reported, *known);
            }
            PdEvent::Retired { waiting, .. } => oracle
                .probes
                .hit_if(*waiting > 0, "pd: the leader goes while requests wait"),
            PdEvent::OperatorStarted { what, .. } => {
                let probe = match what.split(' ').next() {
                    Some("balance-leader") => Some("pd: a leader moves to even out"),
                    Some("balance-region") => Some("pd: a peer moves to even out"),
                    Some("move-hot-write-region") => Some("pd: a peer moves for what is written"),
                    _ => None,
                };
                probe.into_iter().for_each(|probe| oracle.probes.hit(probe));
                let replaces = what.contains("is down");
                oracle.probes.hit_if(replaces, "pd: a replica is replaced");
            }
            PdEvent::OperatorEnded { ending, .. } => oracle.probes.hit(match ending {
                Ending::Done => "pd: an operator ends with its work done",
                _ => "pd: an operator gives up",
            }),
            PdEvent::Refused { .. } => oracle.probes.hit("pd: a proposal is refused"),
            _ => {}
        }
    }

    /// How many replicas there should be, as the store's PD has it.
    pub(super) fn replicas_wanted(&self, store: u64) -> Option<Replicas> {
        let durable = self.life(store)?.placement.driven.pd().durable()?;
        Some(Replicas {
            max: durable.cluster.max_peer_count as usize,
            stores: self.world.stores as usize,
            stay: durable
                .stores
                .values()
                .filter(|store| store.state() == StoreState::Up)
                .map(|store| store.id)
                .collect(),
        })
    }

    // ---- requests ----

    /// A store's PD is asked.
    pub(super) fn pd_request(&mut self, id: LifeId, asked: PdAsked, request: Request) {
        if let Some(placement) = self.placement(id) {
            let token = placement.token(asked);
            self.pd_input(id, Input::Request { token, request });
        }
    }

    /// Its PD serves, and the meta region has a newer leader.
    pub(super) fn is_deposed(&self, id: LifeId) -> bool {
        let own = self
            .life(id.store)
            .and_then(|life| life.placement.driven.pd().term());
        let newest = self.oracle.lock().consensus.newest_term(META_REGION);
        own.is_some_and(|term| term < newest)
    }

    /// A store's PD is asked for timestamps, at first or again.
    pub(super) fn serve_timestamps(&mut self, id: LifeId, mut asked: TimestampTry) {
        let around = self.around(id.store);
        let Some(life) = self.life_mut(id.store).filter(|life| life.id == id) else {
            return;
        };
        let request = TsoRequest {
            header: header(),
            count: asked.count,
            ..TsoRequest::default()
        };
        let delegates = life.runtime.delegates.clone();
        let leads = |term| delegates.leads_meta(term, around.now);
        let served = life
            .placement
            .oracle
            .serve(around.now, around.wall, &request, leads);
        let error = match served {
            Ok(response) => {
                let granted = Granted::new(&response);
                let term = life.placement.driven.serves().unwrap_or(0);
                note_granted(&around, id.store, term, granted);
                let said = Said::Timestamps(granted.first, granted.last);
                return self.pd_answers(id, asked.call, said);
            }
            Err(error) => error,
        };
        let serves = life.placement.driven.serves().is_some();
        match asked.attempts.failed(error, serves) {
            TimestampNext::Extend(request) => {
                self.probe("pd: timestamps need more room");
                let request = calls::ExtendWindow::request(request);
                self.pd_request(id, PdAsked::Room(asked), request);
            }
            TimestampNext::Wait { until } => {
                let at = self.now() + (until - around.now);
                self.events.at(at, Event::PdTimestamps { life: id, asked });
            }
            TimestampNext::RenewLease => {
                self.probe("pd: a timestamp is dropped, the lease is over");
                let op = self.op();
                if let Some(life) = self.life_mut(id.store) {
                    life.placement.owed.insert(op, Owed::Lease(asked));
                    life.confirm_meta(op, &around);
                }
                self.hear_answers(id);
            }
            TimestampNext::Fail(status) => {
                let said = Said::Call(Response::Status(status));
                self.pd_answers(id, asked.call, said);
            }
        }
    }

    /// Where those bugs are planted, a region id of an earlier answer comes again, or a region is hidden.
    fn planted(&mut self, mut response: Response) -> Response {
        if self.world.plants.service == Some(Service::RouteHidden)
            && let Response::ScanRegions(answer) = &mut response
        {
            answer.regions.pop();
        }
        if self.world.plants.service == Some(Service::IdGivenTwice)
            && let Response::AskBatchSplit(answer) = &mut response
            && let Some(first) = answer.ids.first_mut()
        {
            let before = self.id_before.replace(first.new_region_id);
            first.new_region_id = before.unwrap_or(first.new_region_id);
        }
        response
    }

    /// The store is sure to lead in the term of its PD.
    fn leads_meta(&self, id: LifeId) -> bool {
        let now = self.around(id.store).now;
        let leads = |life: &Life| {
            let term = life.placement.driven.role().unwrap_or(0);
            life.runtime.delegates.leads_meta(term, now)
        };
        self.life(id.store).is_some_and(leads)
    }

    /// An answer of PD leaves the store.
    fn pd_says(&mut self, id: LifeId, call: CallTry, response: Response) {
        self.look_at_answer(id, &response);
        self.pd_answers(id, call, Said::Call(response));
    }

    /// What an answer of PD shows leaves the store.
    fn look_at_answer(&mut self, id: LifeId, response: &Response) {
        let term = self
            .life(id.store)
            .and_then(|life| life.placement.driven.pd().term());
        let term = term.unwrap_or(0);
        let mut oracle = self.oracle.lock();
        match response {
            Response::AllocID(answer) if answer.id > 0 => {
                let count = u64::from(answer.count);
                oracle.ids_given((id.store, term), answer.id + 1 - count..=answer.id);
            }
            Response::AskBatchSplit(answer) => {
                for ids in &answer.ids {
                    oracle.ids_given((id.store, term), std::iter::once(ids.new_region_id));
                    oracle.ids_given((id.store, term), ids.new_peer_ids.iter().copied());
                }
            }
            Response::GetRegion(answer) | Response::GetRegionByID(answer) => {
                if let Some(region) = &answer.region {
                    oracle.route_told(id.store, region, answer.leader.as_ref());
                }
            }
            Response::ScanRegions(answer) => {
                for route in &answer.regions {
                    if let Some(region) = &route.region {
                        oracle.route_told(id.store, region, route.leader.as_ref());
                    }
                }
            }
            _ => {}
        }
    }
}

fn note_granted(around: &Surroundings, store: u64, term: u64, granted: Granted) {
    around
        .oracle
        .lock()
        .timestamps_granted(store, term, around.wall, granted);
}
