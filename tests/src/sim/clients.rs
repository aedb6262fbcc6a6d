//! Events, and clients.

use std::time::Duration;

use flotilla_pd::{Call as _, calls};
use flotilla_pd_client::{Failure, Next, Route};
use flotilla_proto::clock::Mono;
use flotilla_proto::kvrpcpb::{RawGetRequest, RawGetResponse};
use flotilla_proto::metapb::{Peer, Region};
use flotilla_proto::pdpb::{GetRegionRequest, ScanRegionsRequest};
use flotilla_raftstore::{ReadContext, RequestError};
use prost::Message as _;

use super::calls::{Asker, Purpose, header};
use super::events::Asking;
use super::{Event, Phase, Sim};
use crate::checkers::calls::JITTER_MAX;
use crate::client::{Client, Looking, Need, Request, region_error};
use crate::history::{Caller, Heard};
use crate::net::Place;
use crate::store::{LifeId, Reply};
use crate::trace::digest;
use crate::world::Service;

impl Sim {
    /// The next event happens.
    pub(super) fn event(&mut self) {
        let Some(event) = self.events.pop() else {
            return;
        };
        let now = self.now();
        if let Some(store) = event.store()
            && self.nodes[&store].is_paused(now)
        {
            return self.events.hold(store, event);
        }
        match event {
            Event::Start { store } => self.start(store),
            Event::Loss => self.lose_a_store(),
            Event::Tick(id) => self.tick(id),
            Event::Observe(id) => self.observe(id),
            Event::FlushDone { life, forced } => self.flush_done(life, forced.is_some()),
            Event::PressureOver(id) => self.nodes[&id.store].disk.state.force_pressure(None),
            Event::Serve { life, op } => self.serve(life, op),
            Event::Fetch { life, fetch } => self.fetch(life, fetch),
            Event::Snapshot(life) => self.snapshot(life),
            Event::Size { life, check } => self.measure(life, &check),
            Event::PdAsked { to, call } => self.pd_arrives(to, call),
            Event::PdSaid { call, said, .. } => self.pd_said(call, said.map(|said| *said)),
            Event::PdTry { call, .. } => self.try_call(call),
            Event::PdDriver(id) => self.drive(id),
            Event::PdTick(id) => self.pd_tick(id),
            Event::PdLoad { life, term } => self.pd_load(life, term),
            Event::PdSettle { life, term } => self.pd_settle(life, term),
            Event::PdTimestamps { life, asked } => self.serve_timestamps(life, asked),
            Event::StreamOpens(id) => self.open_stream(id),
            Event::StreamEnds { life, stream } => self.stream_ends(life, stream),
            Event::StreamCloses { pd, stream } => self.stream_closes(pd, stream),
            Event::Heartbeat {
                pd,
                from,
                stream,
                opens,
                heartbeat,
            } => self.heartbeat_arrives(pd, from, (stream, opens), heartbeat),
            Event::Instruction {
                life,
                stream,
                instruction,
            } => self.instructed(life, stream, *instruction),
            Event::Timestamps { client } => self.want_timestamps(client),
            Event::Send { life, to, lane } => self.send_lane(life, to, lane),
            Event::Transfer(number) => self.transfer(number),
            Event::Arrive(flight) => self.arrive(*flight),
            Event::Unreachable { life, region, peer } => self.unreachable(life, region, peer),
            Event::Heal(way) => self.heal(way),
            Event::Partition => self.partition(),
            Event::Resume { store } => self.resume(store),
            Event::Retune => self.retune(),
            Event::Client { client } => self.client(client),
            Event::Request(asking) => self.request_arrives(*asking),
            Event::Reply {
                client,
                op,
                request,
                reply,
            } => self.replied(client, op, &request, reply),
            Event::Timeout { client, op } => {
                if self.clients[client as usize].waits_for(op) {
                    self.probe("client: waits no longer");
                    self.attempt_failed(client, &Failure::Rpc);
                }
            }
            Event::GiveUp { client, op } => {
                if self.clients[client as usize].waits_for(op) {
                    self.call_ends(client);
                }
            }
            Event::Operator => self.operator(),
            Event::Worst(worst) => self.worst(worst),
        }
    }

    fn tick(&mut self, id: LifeId) {
        if let Some(life) = self.life(id.store) {
            life.runtime.raft.tick_all();
            self.events
                .at(self.now() + self.world.config.tick, Event::Tick(id));
        }
    }

    fn serve(&mut self, id: LifeId, op: u64) {
        let around = self.around(id.store);
        let Some(life) = self.life_mut(id.store) else {
            return;
        };
        let Some(running) = life.requests.get(&op) else {
            return;
        };
        let (client, request) = (running.client, running.request().clone());
        let next = life.serve(op, &around);
        self.went_on(id, op, (client, &request), next);
        self.hear_answers(id);
    }

    // ---- clients ----

    /// The user of a client thinks of something new after a while.
    fn call_ends(&mut self, number: u64) {
        let think = self.world.workload.think_ms_max * 1000;
        self.check_call(number);
        let client = &mut self.clients[number as usize];
        client.call = None;
        let wait = client.rng.micros(0..=think);
        self.events
            .at(self.now() + wait, Event::Client { client: number });
    }

    fn check_call(&self, number: u64) {
        let client = &self.clients[number as usize];
        if let Some(call) = &client.call {
            let bounds = (client.habits, self.world.workload.timeout);
            let mut oracle = self.oracle.lock();
            oracle.check_call(number, &call.seen, bounds);
        }
    }

    /// No call of a client goes on for longer than it may.
    pub(super) fn check_calls(&self) {
        (0..self.world.workload.clients).for_each(|number| self.check_call(number));
    }

    /// A client makes an attempt.
    fn client(&mut self, number: u64) {
        if self.phase != Phase::Run {
            return;
        }
        let (op, now) = (self.op(), self.now());
        self.begun += 1;
        let client = &mut self.clients[number as usize];
        let request = client.attempt(op, &self.world.workload, now);
        let mut physical = self.world.mode.physical(&request.key());
        if client.rng.chance(self.world.workload.lost) {
            let elsewhere = self.world.workload.any_key(&mut client.rng);
            physical = self.world.mode.physical(&elsewhere);
        }
        if client.cache.locate(&physical).is_none() {
            return self.look_for(
                number,
                Looking {
                    op,
                    request,
                    physical,
                },
            );
        }
        self.attempt(
            number,
            Looking {
                op,
                request,
                physical,
            },
        );
    }

    /// The client asks PD for the region that it needs.
    fn look_for(&mut self, number: u64, looking: Looking) {
        let client = &mut self.clients[number as usize];
        let start_key = looking.physical.clone();
        let scans = client.rng.chance(200);
        client.looking = Some(looking);
        let request = if scans {
            calls::ScanRegions::request(ScanRegionsRequest {
                header: header(),
                start_key,
                limit: 3,
                ..ScanRegionsRequest::default()
            })
        } else {
            calls::GetRegion::request(GetRegionRequest {
                header: header(),
                region_key: start_key,
                ..GetRegionRequest::default()
            })
        };
        self.call_pd(Asker::Client(number), request, Purpose::Route(number));
    }

    /// PD has told a client of regions, or has not.
    pub(super) fn route_heard(&mut self, number: u64, routes: Vec<Route>) {
        let client = &mut self.clients[number as usize];
        for route in routes {
            client.cache.insert(route);
        }
        if let Some(looking) = client.looking.take()
            && self.phase == Phase::Run
        {
            self.attempt(number, looking);
        }
    }

    /// A client makes its attempt where it believes the region to be.
    fn attempt(&mut self, number: u64, looking: Looking) {
        let Looking {
            op,
            request,
            physical,
        } = looking;
        let client = &mut self.clients[number as usize];
        let route = client.cache.locate(&physical).cloned();
        if let Some(call) = &mut client.call {
            call.route.clone_from(&route);
        }
        let Some(route) = route else {
            return self.attempt_failed(number, &Failure::NoRoute);
        };
        let Some(leader) = route.leader else {
            return self.attempt_failed(number, &Failure::NoLeader);
        };
        let client = &mut self.clients[number as usize];
        let replica =
            request.need() == Need::Read && client.rng.chance(self.world.workload.replica);
        let peer = match replica {
            true => *client.rng.pick(&route.region.peers),
            false => leader,
        };
        if let Some(call) = &mut client.call {
            call.op = Some(op);
            call.store = peer.store_id;
        }
        let timeout = client.rng.micros(0..=1_000) + self.world.workload.timeout;
        let impatient = client
            .rng
            .chance(self.world.workload.impatient)
            .then(|| client.rng.micros(1_000..=500_000));
        self.events
            .at(self.now() + timeout, Event::Timeout { client: number, op });
        if let Some(wait) = impatient {
            self.events
                .at(self.now() + wait, Event::GiveUp { client: number, op });
        }
        let context = ReadContext {
            replica,
            ..context(&route.region, peer)
        };
        self.send_request(number, op, request, &route.region, (context, peer.store_id));
    }

    /// The client does what its habits are.
    fn attempt_failed(&mut self, number: u64, failure: &Failure) {
        let client = &mut self.clients[number as usize];
        let Some(call) = &mut client.call else { return };
        call.op = None;
        let route = call.route.clone();
        let next = call
            .attempts
            .failed(&mut client.cache, route.as_ref(), failure);
        let stubborn = self.world.plants.service == Some(Service::CallsGoOn);
        let again = Next::Retry {
            after: Duration::ZERO,
        };
        match if stubborn { again } else { next } {
            Next::Retry { after } => {
                let wait = after + client.rng.micros(10..=JITTER_MAX.as_micros() as u64);
                call.seen.pauses(wait);
                self.events
                    .at(self.now() + wait, Event::Client { client: number });
            }
            Next::GiveUp => {
                self.probe("client: its user sees an error");
                self.call_ends(number);
            }
        }
    }

    /// A request leaves for a store.
    fn send_request(
        &mut self,
        client: u64,
        op: u64,
        request: Request,
        region: &Region,
        (context, store): (ReadContext, u64),
    ) {
        let asking = Asking {
            client,
            store,
            op,
            request,
            context,
        };
        self.note(format_args!(
            "client {client}: operation {op}, {} of {:?}, region {} {:?}, to store {}",
            asking.request.name(),
            asking.request.key(),
            region.id,
            region.region_epoch.map(|epoch| epoch.version),
            asking.store
        ));
        let step = self.oracle.lock().step;
        let caller = Caller {
            client,
            replica: context.replica.then_some(context.peer),
        };
        self.history
            .invoked((op, step), caller, &asking.request, region);
        let way = (Place::Client(client), Place::Store(asking.store));
        let sent = self.net.call(self.now(), way);
        match sent.arrivals.first() {
            Some(at) => self.events.at(*at, Event::Request(Box::new(asking))),
            None => {
                self.probe("client: a request is lost");
                self.connection_breaks(client, op, asking.request, sent.noticed);
            }
        }
    }

    fn request_arrives(&mut self, asking: Asking) {
        let now = self.now();
        let Some(life) = self.life_mut(asking.store) else {
            let noticed = self.net.lost(now).noticed;
            return self.connection_breaks(asking.client, asking.op, asking.request, noticed);
        };
        let id = life.id;
        self.serve_request(id, asking.client, asking.op, asking.request, asking.context);
    }

    /// A store takes a request in.
    pub(super) fn serve_request(
        &mut self,
        id: LifeId,
        client: u64,
        op: u64,
        request: Request,
        context: ReadContext,
    ) {
        let step = self.oracle.lock().step;
        if let Some(life) = self.life_mut(id.store) {
            life.begin(op, client, request, context, step);
            self.serve_later(id, op);
        }
    }

    /// A store has the answer to a request, and sends it.
    pub(super) fn reply(
        &mut self,
        store: u64,
        client: u64,
        op: u64,
        request: &Request,
        reply: Reply,
    ) {
        self.note(format_args!(
            "store {store}: operation {op}, {}: {reply:?}",
            request.name()
        ));
        if let Some(served) = self.served.get_mut(&op) {
            *served = matches!(reply, Reply::Response(_));
            return self.hear(op, &reply);
        }
        let way = (Place::Store(store), Place::Client(client));
        let sent = self.net.call(self.now(), way);
        let Some(at) = sent.arrivals.first().copied() else {
            self.probe("client: a reply is lost");
            return self.connection_breaks(client, op, request.clone(), sent.noticed);
        };
        let event = Event::Reply {
            client,
            op,
            request: Box::new(request.clone()),
            reply: Some(reply),
        };
        self.events.at(at, event);
    }

    /// A client may hear that its connection broke; if not, it waits until its patience ends.
    fn connection_breaks(&mut self, client: u64, op: u64, request: Request, noticed: Option<Mono>) {
        if let Some(at) = noticed {
            let request = Box::new(request);
            let event = Event::Reply {
                client,
                op,
                request,
                reply: None,
            };
            self.events.at(at, event);
        }
    }

    /// A client hears the end of its request.
    fn replied(&mut self, number: u64, op: u64, request: &Request, reply: Option<Reply>) {
        if let Some(reply) = &reply {
            self.hear(op, reply);
        }
        let client = &mut self.clients[number as usize];
        if !client.waits_for(op) {
            return;
        }
        match reply {
            None => self.attempt_failed(number, &Failure::Rpc),
            Some(Reply::Response(response)) => {
                remember(client, request, &response);
                self.heard += 1;
                self.call_ends(number);
            }
            Some(Reply::Refused(_)) => {
                self.heard += 1;
                self.call_ends(number);
            }
            Some(Reply::Region(error)) => {
                let route = client.call.as_ref().and_then(|call| call.route.as_ref());
                let region = route.map_or(0, |route| route.region.id);
                if matches!(
                    error,
                    RequestError::NotLeader {
                        leader: Some(_),
                        ..
                    }
                ) {
                    self.probe("client: is sent on to the leader");
                }
                let error = Box::new(region_error(&error, region));
                self.attempt_failed(number, &Failure::Region(error));
            }
        }
    }

    /// What a reply says of its call, for the history.
    fn hear(&mut self, op: u64, reply: &Reply) {
        let mut oracle = self.oracle.lock();
        let heard = match reply {
            Reply::Response(response) => Heard::Response(response.clone()),
            Reply::Region(RequestError::Undetermined { .. }) => return oracle.trace.mix([op]),
            Reply::Refused(_) | Reply::Region(_) => Heard::NotApplied,
        };
        oracle.trace.mix(match &heard {
            Heard::Response(response) => [op, digest(response)],
            Heard::NotApplied => [op, 0],
        });
        let step = oracle.step;
        drop(oracle);
        self.history.heard(op, step, heard);
    }

    /// The connections to a process that is gone break.
    pub(super) fn hang_up(&mut self, id: LifeId) {
        let now = self.now();
        let waiting = self.clients.iter().filter_map(|client| {
            let call = client.call.as_ref()?;
            let op = call.op.filter(|_| call.store == id.store)?;
            Some((client.id, op))
        });
        for (client, op) in waiting.collect::<Vec<_>>() {
            let noticed = self.net.lost(now).noticed;
            let request = Request::Get(RawGetRequest::default());
            self.connection_breaks(client, op, request, noticed);
        }
    }
}

/// What a request to `peer` says of where it belongs.
pub(super) fn context(region: &Region, peer: Peer) -> ReadContext {
    ReadContext {
        region: region.id,
        peer: peer.id,
        epoch: region.region_epoch,
        term: 0,
        replica: false,
    }
}

/// A client remembers what it read.
fn remember(client: &mut Client, request: &Request, response: &[u8]) {
    if let Request::Get(get) = request
        && (get.cf.is_empty() || get.cf == "default")
        && let Ok(response) = RawGetResponse::decode(response)
    {
        let value = (!response.not_found).then_some(response.value);
        client.seen = Some((get.key.clone(), value));
    }
}
