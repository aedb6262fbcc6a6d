//! Calls to PD: to any store, over the network, to another one when it does not lead, until an answer
//! comes or patience ends.

use std::time::Duration;

use bytes::Bytes;
use flotilla_pd::{Call as _, Code, Request, Response, Status, calls};
use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::Region;
use flotilla_proto::metapb::RegionEpoch;
use flotilla_proto::pdpb::RequestHeader;
use flotilla_raftstore::Answer;

use super::changes::Wanted;
use super::{Event, Phase, Sim};
use crate::net::Place;
use crate::store::{CallTry, LifeId, PdAsked, TimestampTry};
use crate::world::World;

/// How long one try of a call may take. Shorter than production's, as most times of a world are.
const TRY_MAX: Duration = Duration::from_secs(1);
/// How long a store keeps trying a call.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first pause after a try that failed; of a client, after it has asked all members.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const CLIENT_PAUSE_FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The loopback of a node, microseconds.
const LOOPBACK: (u64, u64) = (10, 100);

/// Who asks PD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asker {
    /// A store's process.
    Store(LifeId),
    /// A client.
    Client(u64),
    /// Whoever operates the cluster.
    Operator,
}

impl Asker {
    fn place(self, world: &World) -> Place {
        match self {
            Self::Store(id) => Place::Store(id.store),
            Self::Client(number) => Place::Client(number),
            Self::Operator => Place::Client(world.workload.clients),
        }
    }
}

/// What PD is asked.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    /// The machine.
    Call(Request),
    /// The oracle, for so many timestamps.
    Timestamps(u32),
}

impl Ask {
    fn name(&self) -> &'static str {
        match self {
            Self::Call(request) => request.name(),
            Self::Timestamps(_) => "Tso",
        }
    }
}

/// What PD says.
#[derive(Clone, Debug)]
pub(super) enum Said {
    /// An answer of the machine.
    Call(Response),
    /// The first and the last timestamp of a batch.
    Timestamps(u64, u64),
}

/// What an answer is for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// A region is split.
    Split {
        /// The region that asks.
        region: u64,
        /// Its epoch then.
        epoch: RegionEpoch,
        /// Where.
        keys: Vec<Bytes>,
        /// For whom.
        answer: Answer<Vec<Region>>,
    },
    /// A peer without a leader wants to know what became of its region.
    Region(u64),
    /// The store makes itself known, and does so until it is.
    Register,
    /// Nobody waits for it.
    Nothing,
    /// A client looks for a region.
    Route(u64),
    /// A client wants timestamps; no smaller than these were heard of when it asked.
    Timestamps(u64),
    /// The operator needs an id for a change of members.
    PeerId(Wanted),
    /// The operator looks at the regions.
    Regions,
    /// The operator writes or reads a row of PD's.
    SafePoint,
}

/// A call under way.
#[derive(Debug)]
pub(super) struct PdCall {
    asker: Asker,
    ask: Ask,
    pub(super) purpose: Purpose,
    tries: u32,
    /// What became of this one is known.
    heard: u32,
    pause: Duration,
    deadline: Mono,
    /// The store that it went to.
    to: u64,
    /// The process there that has it.
    taken: Option<LifeId>,
    /// It did not answer at once.
    waits: bool,
}

impl PdCall {
    /// Nobody waits for it, or only a store.
    pub(super) fn is_idle(&self) -> bool {
        self.asker != Asker::Operator
    }
}

/// The header of every request.
pub(super) fn header() -> Option<RequestHeader> {
    Some(RequestHeader {
        cluster_id: World::CLUSTER,
        ..RequestHeader::default()
    })
}

impl Sim {
    // ---- asking ----

    /// A call of the machine's.
    pub(super) fn call_pd(&mut self, asker: Asker, request: Request, purpose: Purpose) {
        self.ask_pd(asker, Ask::Call(request), purpose);
    }

    pub(super) fn ask_pd(&mut self, asker: Asker, ask: Ask, purpose: Purpose) {
        let (patience, pause) = match (asker, &purpose) {
            (Asker::Store(_), Purpose::Nothing) => (Duration::ZERO, PAUSE_FIRST),
            (Asker::Client(_), _) => (self.world.workload.timeout, CLIENT_PAUSE_FIRST),
            _ => (PATIENCE, PAUSE_FIRST),
        };
        self.pd_calls_begun += 1;
        let call = PdCall {
            asker,
            ask,
            purpose,
            tries: 0,
            heard: 0,
            pause,
            deadline: self.now() + patience,
            to: 0,
            taken: None,
            waits: false,
        };
        let number = self.pd_calls_begun;
        self.pd_calls.insert(number, call);
        self.try_call(number);
    }

    /// The store whose PD somebody believes to lead.
    pub(super) fn pd_guess(&mut self, place: Place) -> u64 {
        let stores = self.world.stores;
        let rng = &mut self.rng;
        *self
            .pd_guesses
            .entry(place)
            .or_insert_with(|| rng.range(1..=stores))
    }

    /// That store does not lead: another one may.
    pub(super) fn pd_guessed_wrong(&mut self, place: Place, store: u64) {
        let next = store % self.world.stores + 1;
        if let Some(guess) = self.pd_guesses.get_mut(&place)
            && *guess == store
        {
            *guess = next;
        }
    }

    /// The next try of a call leaves.
    pub(super) fn try_call(&mut self, number: u64) {
        let Some(call) = self.pd_calls.get(&number) else {
            return;
        };
        let place = call.asker.place(&self.world);
        let to = self.pd_guess(place);
        let call = self.pd_calls.get_mut(&number).expect("it is there");
        call.tries += 1;
        (call.to, call.taken) = (to, None);
        let call_try = (number, call.tries);
        self.note(format_args!(
            "{place:?} asks PD on store {to}, try {}: {}",
            call_try.1,
            self.pd_calls[&number].ask.name()
        ));
        match self.pd_way(place, Place::Store(to)) {
            Ok(at) => self.events.at(at, Event::PdAsked { to, call: call_try }),
            Err(noticed) => self.pd_silent(call_try, noticed),
        }
    }

    /// When something arrives that is sent now; or when its sender hears that it does not.
    pub(super) fn pd_way(&mut self, from: Place, to: Place) -> Result<Mono, Option<Mono>> {
        if from == to {
            return Ok(self.now() + self.rng.micros(LOOPBACK.0..=LOOPBACK.1));
        }
        let sent = self.net.call(self.now(), (from, to));
        sent.arrivals.first().copied().ok_or(sent.noticed)
    }

    /// Nobody will answer this try: its caller hears of it, or waits until it has waited enough.
    fn pd_silent(&mut self, call_try: CallTry, noticed: Option<Mono>) {
        let Some(call) = self.pd_calls.get(&call_try.0) else {
            return;
        };
        // A call that nobody waits for has one try, and no deadline ends that.
        let patience = call.deadline.max(self.now() + PAUSE_FIRST);
        let at = noticed.unwrap_or(self.now() + TRY_MAX);
        let (asker, at) = (call.asker, at.min(patience));
        let call = call_try;
        let said = None;
        self.events.at(at, Event::PdSaid { asker, call, said });
    }

    // ---- being asked ----

    /// A try of a call arrives at a store.
    pub(super) fn pd_arrives(&mut self, store: u64, call_try: CallTry) {
        let now = self.now();
        let Some(life) = self.life(store).map(|life| life.id) else {
            let noticed = self.net.lost(now).noticed;
            return self.pd_silent(call_try, noticed);
        };
        let faulty = self.phase == Phase::Run;
        let Some(call) = self.pd_calls.get_mut(&call_try.0) else {
            return;
        };
        if call.tries != call_try.1 {
            return;
        }
        (call.taken, call.waits) = (Some(life), false);
        let (asker, ask) = (call.asker, call.ask.clone());
        if faulty && self.fault_rng.chance(self.world.faults.pd_fails) {
            let busy = Status::new(Code::ResourceExhausted, "too much to do");
            let said = Said::Call(Response::Status(busy));
            return self.pd_answers(life, call_try, said);
        }
        match ask {
            Ask::Call(request) => self.pd_request(life, PdAsked::Call(call_try), request),
            Ask::Timestamps(count) => {
                let attempts = Default::default();
                let call = call_try;
                self.serve_timestamps(
                    life,
                    TimestampTry {
                        call,
                        count,
                        attempts,
                    },
                );
            }
        }
        let open = self.pd_calls.get_mut(&call_try.0);
        if let Some(call) = open.filter(|call| call.tries == call_try.1 && call.taken.is_some()) {
            call.waits = true;
            let said = None;
            let call = call_try;
            self.events
                .at(now + TRY_MAX, Event::PdSaid { asker, call, said });
        }
    }

    /// A store's PD answers a call.
    pub(super) fn pd_answers(&mut self, id: LifeId, call_try: CallTry, said: Said) {
        let Some(call) = self.pd_calls.get_mut(&call_try.0) else {
            return;
        };
        if call.tries != call_try.1 {
            return;
        }
        call.taken = None;
        let asker = call.asker;
        let refused = matches!(&said, Said::Call(Response::Status(status)) if *status == Status::not_leader());
        let for_ids = matches!(
            call.ask,
            Ask::Call(Request::AllocID(_) | Request::AskBatchSplit(_))
        );
        if refused && for_ids && call.waits {
            self.probe("pd: the leader goes while ids are asked for");
        }
        let served = !matches!(said, Said::Call(Response::Status(_)));
        if served && self.is_deposed(id) {
            self.probe("pd: a deposed leader answers");
        }
        let to = asker.place(&self.world);
        match self.pd_way(Place::Store(id.store), to) {
            Ok(at) => {
                let faulty = self.phase == Phase::Run;
                let late = faulty && self.fault_rng.chance(self.world.faults.pd_late);
                let wait = match late {
                    true => self.rng.micros(0..=2_000_000),
                    false => Duration::ZERO,
                };
                let said = Some(Box::new(said));
                let call = call_try;
                self.events
                    .at(at + wait, Event::PdSaid { asker, call, said });
            }
            Err(noticed) => self.pd_silent(call_try, noticed),
        }
    }

    /// The process is gone: whoever waited for its PD hears of it, or does not.
    pub(super) fn hang_up_pd(&mut self, id: LifeId) {
        let now = self.now();
        let waiting = self.pd_calls.iter_mut().filter_map(|(number, call)| {
            let taken = call.taken.take_if(|taken| *taken == id);
            taken.map(|_| (*number, call.tries))
        });
        for call in waiting.collect::<Vec<_>>() {
            let noticed = self.net.lost(now).noticed;
            self.pd_silent(call, noticed);
        }
        self.hang_up_streams(id);
    }

    /// The process is gone, and nobody waits for what it asked.
    pub(super) fn forget_calls(&mut self, id: LifeId) -> Vec<PdCall> {
        let own = |_: &u64, call: &mut PdCall| call.asker == Asker::Store(id);
        let gone = self.pd_calls.extract_if(.., own);
        gone.map(|(_, call)| call).collect()
    }

    // ---- hearing ----

    /// A caller hears what became of a try.
    pub(super) fn pd_said(&mut self, call_try: CallTry, said: Option<Said>) {
        let (number, tries) = call_try;
        let current = |call: &&PdCall| call.tries == tries && call.heard < tries;
        let Some(call) = self.pd_calls.get(&number).filter(current) else {
            return;
        };
        let again = match &said {
            None => true,
            Some(Said::Call(Response::Status(status))) => status.code == Code::Unavailable,
            Some(_) => false,
        };
        if !again {
            let call = self.pd_calls.remove(&number).expect("it is there");
            let said = said.expect("somebody answered");
            return self.pd_told(call.asker, call.purpose, Some(said));
        }
        let (place, to, asker) = (call.asker.place(&self.world), call.to, call.asker);
        let over = self.now() + call.pause > call.deadline;
        if matches!(&said, Some(Said::Call(Response::Status(status))) if *status == Status::not_leader())
        {
            self.probe("pd: somebody asks elsewhere");
        }
        self.pd_guessed_wrong(place, to);
        if over {
            let call = self.pd_calls.remove(&number).expect("it is there");
            return self.pd_told(asker, call.purpose, None);
        }
        let (now, stores) = (self.now(), u32::try_from(self.world.stores).unwrap_or(1));
        let call = self.pd_calls.get_mut(&number).expect("it is there");
        // What still comes of this try is not heard.
        call.heard = call.tries;
        // Clients ask all members before they pause, stores pause before each.
        let in_turn = matches!(asker, Asker::Client(_)) && !call.tries.is_multiple_of(stores);
        let pause = if in_turn {
            Duration::ZERO
        } else {
            let longer = (call.pause * 2).min(PAUSE_MAX);
            std::mem::replace(&mut call.pause, longer)
        };
        let call = number;
        self.events.at(now + pause, Event::PdTry { asker, call });
    }
}

/// The answer to a call, if it is one and no error.
pub(super) fn told<C: flotilla_pd::Call>(said: Option<Said>) -> Result<C::Response, String> {
    match said {
        Some(Said::Call(response)) => {
            if let Some(error) = response.header().and_then(|header| header.error.as_ref()) {
                return Err(error.message.clone());
            }
            C::response(response).map_err(|status| status.to_string())
        }
        Some(Said::Timestamps(..)) => Err("timestamps, which nobody asked for".to_owned()),
        None => Err("PD cannot be reached".to_owned()),
    }
}

/// How a store makes itself known.
pub(super) fn put_store(store: u64) -> Request {
    calls::PutStore::request(flotilla_proto::pdpb::PutStoreRequest {
        header: header(),
        store: Some(World::descriptor(store)),
    })
}
