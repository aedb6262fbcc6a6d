//! Events, and clients.

use flotilla_pd_client::{Failure, Next};
use flotilla_proto::kvrpcpb::RawGetResponse;
use flotilla_proto::metapb::{Peer, Region};
use flotilla_raftstore::ReadContext;
use prost::Message as _;

use super::{Event, Phase, Sim};
use crate::client::{Client, Request, region_error};
use crate::store::{LifeId, Reply};

impl Sim {
    /// The next event happens.
    pub(super) fn event(&mut self) {
        let Some(event) = self.events.pop() else {
            return;
        };
        match event {
            Event::Start { store } => self.start(store),
            Event::Tick(id) => self.tick(id),
            Event::Observe(id) => self.observe(id),
            Event::FlushDone { life, forced } => self.flush_done(life, forced.is_some()),
            Event::PressureOver(id) => self.nodes[&id.store].disk.state.force_pressure(None),
            Event::Serve { life, op } => self.serve(life, op),
            Event::Fetch { life, fetch } => self.fetch(life, fetch),
            Event::Size { life, check } => self.measure(life, &check),
            Event::Pd {
                life,
                region,
                input,
            } => {
                if let Some(life) = &self.nodes[&life.store].life {
                    life.runtime.to_peer(region, *input);
                }
            }
            Event::Client { client } => self.client(client),
            Event::GiveUp { client, op } => {
                if self.clients[client as usize].waits_for(op) {
                    self.call_ends(client);
                }
            }
            Event::Operator => self.operator(),
        }
    }

    fn tick(&mut self, id: LifeId) {
        if let Some(life) = &self.nodes[&id.store].life {
            life.runtime.raft.tick_all();
            self.events
                .at(self.now() + self.world.config.tick, Event::Tick(id));
        }
    }

    fn serve(&mut self, id: LifeId, op: u64) {
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
        let next = life.serve(op, &around);
        self.went_on(id, op, (client, &request), next);
        self.hear_answers(id);
    }

    // ---- clients ----

    /// The user of a client thinks of something new after a while.
    fn call_ends(&mut self, number: u64) {
        let think = self.world.workload.think_ms_max * 1000;
        let client = &mut self.clients[number as usize];
        client.call = None;
        let wait = client.rng.micros(0..=think);
        self.events
            .at(self.now() + wait, Event::Client { client: number });
    }

    /// A client makes an attempt.
    fn client(&mut self, number: u64) {
        if self.phase != Phase::Run {
            return;
        }
        let op = self.op();
        self.begun += 1;
        let client = &mut self.clients[number as usize];
        let request = client.attempt(op, &self.world.workload);
        let mut physical = self.world.mode.physical(&request.key());
        if client.rng.chance(self.world.workload.lost) {
            let elsewhere = self.world.workload.any_key(&mut client.rng);
            physical = self.world.mode.physical(&elsewhere);
        }
        if client.cache.locate(&physical).is_none()
            && let Some(route) = self.pd.locate(&physical)
        {
            client.cache.insert(route);
        }
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
        if !self.send_request(number, op, request, &route.region, leader) {
            return self.attempt_failed(number, &Failure::Rpc);
        }
        let client = &mut self.clients[number as usize];
        if let Some(call) = &mut client.call {
            call.op = Some(op);
        }
        if client.rng.chance(self.world.workload.impatient) {
            let wait = client.rng.micros(1_000..=500_000);
            self.events
                .at(self.now() + wait, Event::GiveUp { client: number, op });
        }
    }

    /// The client does what its habits are.
    fn attempt_failed(&mut self, number: u64, failure: &Failure) {
        let client = &mut self.clients[number as usize];
        let Some(call) = &mut client.call else { return };
        call.op = None;
        let route = call.route.clone();
        match call
            .attempts
            .failed(&mut client.cache, route.as_ref(), failure)
        {
            Next::Retry { after } => {
                let wait = after + client.rng.micros(10..=1_000);
                self.events
                    .at(self.now() + wait, Event::Client { client: number });
            }
            Next::GiveUp => {
                self.probe("client: its user sees an error");
                self.call_ends(number);
            }
        }
    }

    /// Hands a request to the store of `leader`, if its process runs.
    pub(super) fn send_request(
        &mut self,
        client: u64,
        op: u64,
        request: Request,
        region: &Region,
        leader: Peer,
    ) -> bool {
        let context = ReadContext {
            region: region.id,
            peer: leader.id,
            epoch: region.region_epoch,
            term: 0,
        };
        let Some(life) = self
            .nodes
            .get_mut(&leader.store_id)
            .and_then(|node| node.life.as_mut())
        else {
            return false;
        };
        let id = life.id;
        self.oracle.lock().note(format_args!(
            "client {client}: operation {op}, {} of {:?}, region {} {:?}",
            request.name(),
            request.key(),
            region.id,
            region.region_epoch.map(|epoch| epoch.version)
        ));
        life.begin(op, client, request, context);
        self.serve_later(id, op);
        true
    }

    /// A client hears the end of its request.
    pub(super) fn replied(&mut self, number: u64, op: u64, request: &Request, reply: &Reply) {
        self.note(format_args!(
            "client {number}: operation {op}, {}: {reply:?}",
            request.name()
        ));
        if let Some(served) = self.served.get_mut(&op) {
            *served = matches!(reply, Reply::Response(_));
            return;
        }
        let client = &mut self.clients[number as usize];
        if !client.waits_for(op) {
            return;
        }
        match reply {
            Reply::Response(response) => {
                remember(client, request, response);
                self.call_ends(number);
            }
            Reply::Refused(_) => self.call_ends(number),
            Reply::Region(error) => {
                let route = client.call.as_ref().and_then(|call| call.route.as_ref());
                let region = route.map_or(0, |route| route.region.id);
                let error = Box::new(region_error(error, region));
                self.attempt_failed(number, &Failure::Region(error));
            }
        }
    }

    /// The connections to a process that is gone break.
    pub(super) fn hang_up(&mut self, id: LifeId) {
        let waits = |client: &&Client| {
            let call = client.call.as_ref().filter(|call| call.op.is_some());
            let route = call.and_then(|call| call.route.as_ref());
            route
                .and_then(|route| route.leader)
                .is_some_and(|leader| leader.store_id == id.store)
        };
        let waiting: Vec<u64> = self
            .clients
            .iter()
            .filter(waits)
            .map(|client| client.id)
            .collect();
        for number in waiting {
            self.attempt_failed(number, &Failure::Rpc);
        }
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
