//! One node's PD with everything its driver does, in one thread with virtual time.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(unreachable_pub, reason = "shared by several test crates")]

pub mod fleet;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use flotilla_pd::records::{Durable, Mod};
use flotilla_pd::{
    ADVERTISED_VERSION, Call, Config, Effect, Event, Genesis, Input, KeyMode, MAX_PEER_COUNT,
    Oracle, Outcome, Pd, ProposalToken, RecordError, Request, RequestToken, Response, Status,
    StreamId, TICK, bootstrap_records,
};
use flotilla_proto::clock::{Mono, Wall};
use flotilla_proto::metapb::{Peer, Region, RegionEpoch, Store};
use flotilla_proto::pdpb::{
    ErrorType, RegionHeartbeatRequest, RegionHeartbeatResponse, RequestHeader,
};

pub const CLUSTER: u64 = 7;
/// 2024-07-01T00:00:00Z.
pub const START: Wall = Wall(1_719_792_000_000);

/// The node, its copy of the meta region, and what came out.
pub struct World {
    pub pd: Pd,
    pub oracle: Oracle,
    pub now: Mono,
    pub wall: Wall,
    pub term: u64,
    /// The meta region's rows.
    pub rows: BTreeMap<Bytes, Bytes>,
    /// Proposals not decided yet.
    pub proposed: VecDeque<(ProposalToken, u64, Vec<Mod>)>,
    /// Proposals are applied as they come.
    pub commits: bool,
    pub answers: BTreeMap<RequestToken, Response>,
    pub waiting: BTreeSet<RequestToken>,
    pub instructions: Vec<(StreamId, RegionHeartbeatResponse)>,
    pub closed: Vec<(StreamId, Status)>,
    pub events: Vec<Event>,
    pub fatal: Vec<RecordError>,
    pub reloads: Vec<u64>,
    tokens: u64,
}

pub fn genesis() -> Genesis {
    Genesis {
        cluster_id: CLUSTER,
        store: Some(store(1)),
        key_mode: None,
        max_peer_count: MAX_PEER_COUNT,
        created: START,
    }
}

pub fn store(id: u64) -> Store {
    Store {
        id,
        address: format!("10.0.0.{id}:20160"),
        version: ADVERTISED_VERSION.to_owned(),
        ..Store::default()
    }
}

pub fn header() -> Option<RequestHeader> {
    Some(RequestHeader {
        cluster_id: CLUSTER,
        ..RequestHeader::default()
    })
}

/// A region of one peer, `10 × id + 1`, on store 1.
pub fn region(id: u64, version: u64, start: &str, end: &str) -> Region {
    Region {
        id,
        start_key: Bytes::copy_from_slice(start.as_bytes()),
        end_key: Bytes::copy_from_slice(end.as_bytes()),
        region_epoch: Some(RegionEpoch {
            conf_ver: 1,
            version,
        }),
        peers: vec![Peer {
            id: 10 * id + 1,
            store_id: 1,
            ..Peer::default()
        }],
        ..Region::default()
    }
}

/// What the leader of `region`, its first peer, reports.
pub fn beat(region: Region) -> RegionHeartbeatRequest {
    RegionHeartbeatRequest {
        header: header(),
        leader: region.peers.first().copied(),
        region: Some(region),
        term: 6,
        ..RegionHeartbeatRequest::default()
    }
}

impl World {
    /// A node that does not lead, with the rows of a fresh cluster.
    pub fn idle(genesis: &Genesis) -> Self {
        let config = Config {
            cluster_id: CLUSTER,
            store_id: 1,
            advertise_addr: "10.0.0.1:20160".to_owned(),
            tls: false,
            schedule: flotilla_pd::Schedule::default(),
        };
        Self {
            pd: Pd::new(config),
            oracle: Oracle::new(CLUSTER),
            now: Mono(1_000_000_000),
            wall: START,
            term: 0,
            rows: bootstrap_records(genesis).unwrap().into_iter().collect(),
            proposed: VecDeque::new(),
            commits: true,
            answers: BTreeMap::new(),
            waiting: BTreeSet::new(),
            instructions: Vec::new(),
            closed: Vec::new(),
            events: Vec::new(),
            fatal: Vec::new(),
            reloads: Vec::new(),
            tokens: 0,
        }
    }

    /// A node that leads a bootstrapped cluster, store 1 registered, no region known.
    pub fn leading() -> Self {
        let mut world = Self::idle(&genesis());
        world.lead();
        world
    }

    /// A node that leads a cluster which nobody has bootstrapped.
    pub fn virgin() -> Self {
        let mut world = Self::idle(&Genesis {
            store: None,
            ..genesis()
        });
        world.lead();
        world
    }

    /// A node that leads a cluster of key mode `mode`, two regions known.
    pub fn of_mode(mode: KeyMode) -> Self {
        let mut world = Self::idle(&Genesis {
            key_mode: Some(mode),
            ..genesis()
        });
        world.lead();
        world
    }

    pub fn lead(&mut self) {
        self.term += 1;
        let records = self.records();
        let term = self.term;
        self.input(Input::Lead { term, records });
    }

    pub fn records(&self) -> Vec<(Bytes, Bytes)> {
        let rows = self.rows.iter();
        rows.map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    pub fn durable(&self) -> Durable {
        Durable::load(&self.rows).unwrap()
    }

    pub fn input(&mut self, input: Input) {
        let mut effects = Vec::new();
        self.pd.handle(self.now, self.wall, input, &mut effects);
        for effect in effects {
            self.carry_out(effect);
        }
        while self.commits && !self.proposed.is_empty() {
            self.decide(Outcome::Applied);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Propose { token, term, mods } => {
                assert!(!mods.is_empty(), "an empty proposal");
                assert_eq!(Some(term), self.pd.term());
                self.proposed.push_back((token, term, mods));
            }
            Effect::Answer { token, response } => {
                assert!(
                    self.waiting.remove(&token),
                    "{token:?} is answered twice or was never asked"
                );
                self.answers.insert(token, response);
            }
            Effect::Oracle(command) => self.oracle.command(command),
            Effect::RegionInstruction {
                stream,
                instruction,
            } => self.instructions.push((stream, *instruction)),
            Effect::CloseStream { stream, status } => self.closed.push((stream, status)),
            Effect::Reload { term } => self.reloads.push(term),
            Effect::Fatal(error) => self.fatal.push(error),
            Effect::Event(event) => self.events.push(event),
        }
    }

    /// Decides the oldest proposal. `Unknown` may or may not have written: here it did not.
    pub fn decide(&mut self, outcome: Outcome) {
        let (token, _, mods) = self.proposed.pop_front().expect("a proposal");
        if outcome == Outcome::Applied {
            self.write(mods);
        }
        self.input_only(Input::Committed { token, outcome });
    }

    pub fn write(&mut self, mods: Vec<Mod>) {
        for (key, value) in mods {
            match value {
                Some(value) => self.rows.insert(key, value),
                None => self.rows.remove(&key),
            };
        }
    }

    fn input_only(&mut self, input: Input) {
        let commits = std::mem::replace(&mut self.commits, false);
        self.input(input);
        self.commits = commits;
    }

    /// Sends a call; its answer comes now or later.
    pub fn send(&mut self, request: Request) -> RequestToken {
        self.tokens += 1;
        let token = RequestToken(self.tokens);
        self.waiting.insert(token);
        self.input(Input::Request { token, request });
        token
    }

    /// A call that is answered at once.
    pub fn ask<C: Call>(&mut self, request: C::Request) -> Result<C::Response, Status> {
        let token = self.send(C::request(request));
        let answer = self.answers.remove(&token);
        C::response(answer.unwrap_or_else(|| panic!("{} waits", C::NAME)))
    }

    /// The answer to an earlier [`World::send`].
    pub fn answer<C: Call>(&mut self, token: RequestToken) -> Option<Result<C::Response, Status>> {
        self.answers.remove(&token).map(C::response)
    }

    /// A heartbeat on stream 1.
    pub fn report(&mut self, region: Region) {
        self.heartbeat(StreamId(1), beat(region));
    }

    pub fn heartbeat(&mut self, stream: StreamId, heartbeat: RegionHeartbeatRequest) {
        let heartbeat = Box::new(heartbeat);
        self.input(Input::RegionHeartbeat { stream, heartbeat });
    }

    /// Lets time pass, with ticks.
    pub fn advance(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            let step = TICK.min(end - self.now);
            self.now = self.now + step;
            self.wall = Wall(self.wall.0 + step.as_millis() as u64);
            self.input(Input::Tick);
        }
    }
}

/// An answer in one line: `ok`, an error of the header, or a status.
pub fn outcome(response: &Response) -> String {
    if let Response::Status(status) = response {
        return format!("status {status}");
    }
    match response.header().and_then(|header| header.error.as_ref()) {
        None => "ok".to_owned(),
        Some(error) => {
            let kind = ErrorType::try_from(error.r#type).unwrap();
            format!("{} {}", kind.as_str_name(), error.message)
        }
    }
}

/// Seeded randomness for tests; the seed is printed first.
pub struct Dice(rand_xoshiro::Xoshiro256PlusPlus);

impl Dice {
    pub fn new(seed: u64) -> Self {
        use rand_xoshiro::rand_core::SeedableRng;
        Self(rand_xoshiro::Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    pub fn below(&mut self, end: u64) -> u64 {
        use rand_xoshiro::rand_core::Rng;
        self.0.next_u64() % end
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// Runs `run` for `count` seeds, for as many as `FLOTILLA_SEEDS` says, or for the one in
/// `FLOTILLA_SEED`. Each prints its seed first.
pub fn seeds(count: u64, mut run: impl FnMut(u64, Dice)) {
    let number = |name| {
        let text = std::env::var(name).ok();
        text.map(|text| text.parse::<u64>().expect(name))
    };
    let count = number("FLOTILLA_SEEDS").unwrap_or(count);
    for seed in number("FLOTILLA_SEED").map_or(0..count, |seed| seed..seed + 1) {
        println!("seed={seed} (FLOTILLA_SEED={seed} runs only this one)");
        run(seed, Dice::new(seed));
    }
}
