//! Events, clients and operators.

use bytes::Bytes;
use flotilla_engine::row;
use flotilla_proto::kvrpcpb::RawGetResponse;
use flotilla_proto::metapb::Region;
use flotilla_proto::store::{ColumnFamily, Mod, ModKind};
use flotilla_raftstore::region::META_REGION;
use flotilla_raftstore::{PeerInput, ReadContext, RequestError};
use prost::Message as _;

use super::{Event, Phase, Sim};
use crate::client::{Client, Request};
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
                if self.clients[client as usize]
                    .waits_for
                    .take_if(|waits| *waits == op)
                    .is_some()
                {
                    self.client_later(client);
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

    fn client_later(&mut self, client: u64) {
        let think = self.world.workload.think_ms_max * 1000;
        let wait = self.clients[client as usize].rng.micros(0..=think);
        self.events.at(self.now() + wait, Event::Client { client });
    }

    fn client(&mut self, number: u64) {
        if self.phase != Phase::Run {
            return;
        }
        let op = self.op();
        self.begun += 1;
        let client = &mut self.clients[number as usize];
        let request = self
            .world
            .workload
            .request(op, client.seen.as_ref(), &mut client.rng);
        let physical = self.world.mode.physical(&request.key());
        let elsewhere = client.rng.chance(self.world.workload.lost);
        let known: Vec<Region> = client.routes.all().cloned().collect();
        let region = if elsewhere && !known.is_empty() {
            Some(client.rng.pick(&known).clone())
        } else {
            client.routes.find(&physical).cloned()
        };
        let Some(region) = region else {
            // PD is asked; it may be behind.
            let told: Vec<Region> = self
                .pd
                .regions()
                .filter(|region| region.id != META_REGION)
                .cloned()
                .collect();
            told.iter().for_each(|region| client.routes.learn(region));
            return self.client_later(number);
        };
        if !self.send_request(number, op, request, &region) {
            return self.client_later(number);
        }
        let client = &mut self.clients[number as usize];
        client.waits_for = Some(op);
        if client.rng.chance(self.world.workload.impatient) {
            let wait = client.rng.micros(1_000..=500_000);
            self.events
                .at(self.now() + wait, Event::GiveUp { client: number, op });
        }
    }

    /// Hands a request to the store that leads `region`, if its process runs.
    pub(super) fn send_request(
        &mut self,
        client: u64,
        op: u64,
        request: Request,
        region: &Region,
    ) -> bool {
        let peer = region.peers.first().copied().unwrap_or_default();
        let context = ReadContext {
            region: region.id,
            peer: peer.id,
            epoch: region.region_epoch,
            term: 0,
        };
        let Some(life) = self
            .nodes
            .get_mut(&peer.store_id)
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
        match reply {
            Reply::Region(RequestError::EpochNotMatch { current }) => {
                current
                    .iter()
                    .for_each(|region| client.routes.learn(region));
            }
            Reply::Region(
                RequestError::RegionNotFound { region } | RequestError::NotInitialized { region },
            ) => {
                client.routes.forget(*region);
            }
            Reply::Region(RequestError::KeyNotInRegion { region, .. }) => {
                client.routes.learn(region)
            }
            Reply::Response(response) => remember(client, request, response),
            _ => {}
        }
        if client.waits_for.take_if(|waits| *waits == op).is_some() {
            self.client_later(number);
        }
    }

    /// The connections to a process that is gone break.
    pub(super) fn hang_up(&mut self, _id: LifeId) {
        let waiting: Vec<u64> = self
            .clients
            .iter()
            .filter(|client| client.waits_for.is_some())
            .map(|client| client.id)
            .collect();
        for number in waiting {
            self.clients[number as usize].waits_for = None;
            self.client_later(number);
        }
    }

    // ---- operators ----

    pub(super) fn operator_later(&mut self) {
        let wait = self.rng.micros(1_000..=300_000);
        self.events.at(self.now() + wait, Event::Operator);
    }

    fn operator(&mut self) {
        // Slow worlds last longer, and must not get more regions than others for it.
        if self.phase != Phase::Run || self.meddled >= self.world.operations / 2 {
            return;
        }
        self.meddled += 1;
        self.operator_later();
        match self.rng.below(10) {
            0..=2 => self.split_somewhere(),
            3..=4 => self.write_pd_record(),
            5..=6 => self.write_as_tool(),
            7 => self.meddle(PeerInput::Campaign),
            8 if self.rng.chance(500) => self.meddle(PeerInput::Transfer { to: 999 }),
            8 => self.meddle(PeerInput::Report),
            _ => self.meddle(PeerInput::Unreachable { peer: 999 }),
        }
    }

    fn any_region(&mut self) -> Option<Region> {
        let regions: Vec<Region> = self
            .pd
            .regions()
            .filter(|region| region.id != META_REGION)
            .cloned()
            .collect();
        (!regions.is_empty()).then(|| self.rng.pick(&regions).clone())
    }

    /// A split by request, in up to four parts.
    fn split_somewhere(&mut self) {
        let op = self.op();
        let count = self.rng.range(1..=3);
        let mut keys: Vec<_> = (0..count)
            .map(|nth| self.world.workload.split_key(op, nth, &mut self.rng))
            .collect();
        keys.sort();
        let inside = |region: &Region| {
            keys.iter()
                .any(|key| flotilla_raftstore::region::strictly_inside(region, key))
        };
        let home = self
            .pd
            .regions()
            .find(|region| region.id != META_REGION && inside(region))
            .cloned();
        let Some(region) = home.or_else(|| self.any_region()) else {
            return;
        };
        let context = self.rng.chance(700).then(|| ReadContext {
            region: region.id,
            epoch: region.region_epoch,
            ..ReadContext::default()
        });
        let around = self.around();
        let Some(life) = self.nodes.values().find_map(|node| node.life.as_ref()) else {
            return;
        };
        let id = life.id;
        around.oracle.lock().note(format_args!(
            "operation {op}: split region {} at {keys:?}",
            region.id
        ));
        let waiting = life.requests.len() > 1;
        life.split(op, context, region.id, keys, &around);
        if waiting {
            self.probe("split: while writes waited");
        }
        self.hear_answers(id);
    }

    /// PD writes one of its records through the meta region.
    fn write_pd_record(&mut self) {
        let op = self.op();
        let key = format!("record {}", self.rng.below(4));
        let change = change(
            ModKind::Put,
            ColumnFamily::CfMeta,
            key.into(),
            format!("{op}").into(),
        );
        let meta = self.world.first_regions().swap_remove(0);
        self.write_bare(op, &meta, vec![change]);
    }

    /// A tool writes to a region, with keys that may lie outside of it, all kinds of changes in one
    /// batch. Its column family is one that no compare-and-swap looks at.
    fn write_as_tool(&mut self) {
        let op = self.op();
        let Some(region) = self.any_region() else {
            return;
        };
        let count = self.rng.range(1..=3);
        let mods = (0..count).map(|nth| {
            let key = |sim: &mut Self| {
                sim.world
                    .mode
                    .physical(&sim.world.workload.any_key(&mut sim.rng))
            };
            let (one, other) = (key(self), key(self));
            let stored = row::encode(format!("{op}.{nth}").as_bytes(), None);
            let kind = *self
                .rng
                .pick(&[ModKind::Put, ModKind::Delete, ModKind::DeleteRange]);
            let (key, value) = match kind {
                ModKind::Put => (one, stored),
                ModKind::Delete => (one, Bytes::new()),
                // Also reversed, also unbounded.
                ModKind::DeleteRange if self.rng.chance(200) => (one, Bytes::new()),
                ModKind::DeleteRange => (one, other),
            };
            change(kind, ColumnFamily::CfWrite, key, value)
        });
        let mods = mods.collect();
        self.write_bare(op, &region, mods);
    }

    fn write_bare(&mut self, op: u64, region: &Region, mods: Vec<Mod>) {
        let around = self.around();
        let Some(life) = self.nodes.values().find_map(|node| node.life.as_ref()) else {
            return;
        };
        let id = life.id;
        around.oracle.lock().note(format_args!(
            "operation {op}: bare write to region {}: {mods:?}",
            region.id
        ));
        life.write_bare(op, region, mods, &around);
        self.hear_answers(id);
    }

    fn meddle(&mut self, input: PeerInput) {
        let Some(region) = self.any_region() else {
            return;
        };
        if let Some(life) = self.nodes.values().find_map(|node| node.life.as_ref()) {
            life.runtime.to_peer(region.id, input);
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

fn change(kind: ModKind, cf: ColumnFamily, key: Bytes, value: Bytes) -> Mod {
    Mod {
        kind: kind.into(),
        cf: cf.into(),
        key,
        value,
    }
}
