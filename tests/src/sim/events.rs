//! What happens at a time of its own.

use std::collections::BTreeMap;

use flotilla_engine::FlushReason;
use flotilla_pd::StreamId;
use flotilla_proto::clock::Mono;
use flotilla_proto::pdpb::{RegionHeartbeatRequest, RegionHeartbeatResponse};
use flotilla_raftstore::ReadContext;
use flotilla_raftstore::effects::{Fetch, SizeCheck};
use flotilla_router::Lane;

use super::calls::{Asker, Said};
use super::network::Flight;
use super::worst::Worst;
use crate::checkers::answers::OpId;
use crate::client::Request;
use crate::net::Way;
use crate::store::{CallTry, LifeId, Reply, TimestampTry, TransferId};

/// Something that happens.
#[derive(Debug)]
pub(super) enum Event {
    /// A store's process starts.
    Start {
        /// The store.
        store: u64,
    },
    /// Time for the machines.
    Tick(LifeId),
    /// A look at the durable point.
    Observe(LifeId),
    /// A flush is done.
    FlushDone {
        /// Whose.
        life: LifeId,
        /// Why it was asked for; `None`: it began by itself.
        forced: Option<FlushReason>,
    },
    /// The state keeps up again.
    PressureOver(LifeId),
    /// The next stage of a request.
    Serve {
        /// Where.
        life: LifeId,
        /// Which.
        op: OpId,
    },
    /// Entries are read.
    Fetch {
        /// For whom.
        life: LifeId,
        /// Which.
        fetch: Fetch,
    },
    /// A store's work on snapshots goes on.
    Snapshot(LifeId),
    /// A region is measured.
    Size {
        /// For whom.
        life: LifeId,
        /// Which.
        check: Box<SizeCheck>,
    },
    /// A call arrives at a store's PD.
    PdAsked {
        /// Which store.
        to: u64,
        /// Which call.
        call: CallTry,
    },
    /// Somebody hears what became of a call.
    PdSaid {
        /// Who.
        asker: Asker,
        /// Which call.
        call: CallTry,
        /// What PD says; `None`: the connection broke, or it took too long.
        said: Option<Box<Said>>,
    },
    /// Somebody tries a call again.
    PdTry {
        /// Who.
        asker: Asker,
        /// Which call.
        call: u64,
    },
    /// PD's driver gets to what waits for it.
    PdDriver(LifeId),
    /// Time for PD's machine.
    PdTick(LifeId),
    /// PD's rows are read.
    PdLoad {
        /// Whose.
        life: LifeId,
        /// The term they are for.
        term: u64,
    },
    /// PD asks whether all that it proposed is decided.
    PdSettle {
        /// Whose.
        life: LifeId,
        /// The term it was proposed in.
        term: u64,
    },
    /// Another attempt at timestamps.
    PdTimestamps {
        /// Whose.
        life: LifeId,
        /// For whom.
        asked: TimestampTry,
    },
    /// A store opens a heartbeat stream.
    StreamOpens(LifeId),
    /// A store learns that its stream has ended.
    StreamEnds {
        /// Which store.
        life: LifeId,
        /// Which stream.
        stream: StreamId,
    },
    /// PD learns that a stream has ended.
    StreamCloses {
        /// Whose PD.
        pd: LifeId,
        /// Which stream.
        stream: StreamId,
    },
    /// A region's heartbeat arrives.
    Heartbeat {
        /// At whose PD.
        pd: LifeId,
        /// From whom.
        from: LifeId,
        /// On which stream.
        stream: StreamId,
        /// It is the first of it.
        opens: bool,
        /// What it says.
        heartbeat: Box<RegionHeartbeatRequest>,
    },
    /// What PD wants of a region arrives.
    Instruction {
        /// At which store.
        life: LifeId,
        /// On which stream.
        stream: StreamId,
        /// What it says.
        instruction: Box<RegionHeartbeatResponse>,
    },
    /// A client wants timestamps.
    Timestamps {
        /// Which.
        client: u64,
    },
    /// A store's sender looks at a lane.
    Send {
        /// Whose.
        life: LifeId,
        /// To which store.
        to: u64,
        /// Which lane.
        lane: Lane,
    },
    /// A snapshot's next step arrives.
    Transfer(TransferId),
    /// Messages arrive.
    Arrive(Box<Flight>),
    /// A store is told that messages to a peer do not get through.
    Unreachable {
        /// Which store.
        life: LifeId,
        /// The region.
        region: u64,
        /// The peer.
        peer: u64,
    },
    /// A way is open again, if no other partition cuts it.
    Heal(Way),
    /// Ways are cut.
    Partition,
    /// A node that stood still goes on.
    Resume {
        /// Which.
        store: u64,
    },
    /// The monotonic clocks run at other rates.
    Retune,
    /// A client has thought.
    Client {
        /// Which.
        client: u64,
    },
    /// A request arrives at a store.
    Request(Box<Asking>),
    /// A client hears the end of its request.
    Reply {
        /// Which client.
        client: u64,
        /// Of which request.
        op: OpId,
        /// The request itself.
        request: Box<Request>,
        /// What it hears; `None`: the connection broke.
        reply: Option<Reply>,
    },
    /// A client waits no longer, and tries elsewhere.
    Timeout {
        /// Which.
        client: u64,
        /// For what.
        op: OpId,
    },
    /// The user of a client waits no longer.
    GiveUp {
        /// Which.
        client: u64,
        /// For what.
        op: OpId,
    },
    /// Somebody splits, flushes, or meddles.
    Operator,
    /// The worst follows.
    Worst(Worst),
    /// A store is lost for good.
    Loss,
}

/// A request on its way.
#[derive(Debug)]
pub(super) struct Asking {
    /// From whom.
    pub(super) client: u64,
    /// To which store.
    pub(super) store: u64,
    /// Its name.
    pub(super) op: OpId,
    /// What is asked.
    pub(super) request: Request,
    /// Where the client believes the region to be.
    pub(super) context: ReadContext,
}

impl Event {
    /// The life that it belongs to.
    fn life(&self) -> Option<LifeId> {
        match self {
            Self::Tick(life)
            | Self::Observe(life)
            | Self::Snapshot(life)
            | Self::PressureOver(life)
            | Self::FlushDone { life, .. }
            | Self::Serve { life, .. }
            | Self::Fetch { life, .. }
            | Self::Size { life, .. }
            | Self::Send { life, .. }
            | Self::Unreachable { life, .. }
            | Self::PdDriver(life)
            | Self::PdTick(life)
            | Self::PdLoad { life, .. }
            | Self::PdSettle { life, .. }
            | Self::PdTimestamps { life, .. }
            | Self::StreamOpens(life)
            | Self::StreamEnds { life, .. }
            | Self::Instruction { life, .. } => Some(*life),
            Self::StreamCloses { pd, .. } => Some(*pd),
            Self::PdSaid {
                asker: Asker::Store(life),
                ..
            }
            | Self::PdTry {
                asker: Asker::Store(life),
                ..
            } => Some(*life),
            _ => None,
        }
    }

    /// The store that it needs to go on: while that stands still, it waits.
    pub(super) fn store(&self) -> Option<u64> {
        match self {
            Self::Arrive(flight) => Some(flight.to),
            Self::Request(asking) => Some(asking.store),
            Self::PdAsked { to, .. } => Some(*to),
            Self::Heartbeat { pd, .. } => Some(pd.store),
            event => event.life().map(|life| life.store),
        }
    }

    /// The messages on their way that `life` has sent.
    pub(super) fn flight_of(&self, life: LifeId) -> bool {
        matches!(self, Self::Arrive(flight) if flight.from == life)
    }

    /// It goes on for ever and means no work.
    fn is_idle(&self) -> bool {
        matches!(
            self,
            Self::Tick(_)
                | Self::Observe(_)
                | Self::Operator
                | Self::Loss
                | Self::FlushDone { .. }
                | Self::GiveUp { .. }
                | Self::Timeout { .. }
                | Self::Reply { .. }
                | Self::Send { .. }
                | Self::Arrive(_)
                | Self::Unreachable { .. }
                | Self::Heal(_)
                | Self::Partition
                | Self::Retune
                // What waits for PD says so itself.
                | Self::PdAsked { .. }
                | Self::PdSaid { .. }
                | Self::PdTry { .. }
                | Self::PdDriver(_)
                | Self::PdTick(_)
                | Self::PdLoad { .. }
                | Self::PdSettle { .. }
                | Self::PdTimestamps { .. }
                | Self::StreamOpens(_)
                | Self::StreamEnds { .. }
                | Self::StreamCloses { .. }
                | Self::Heartbeat { .. }
                | Self::Instruction { .. }
                | Self::Timestamps { .. }
        )
    }
}

/// Events by time; those of one time in the order they were made.
#[derive(Debug, Default)]
pub(super) struct Events {
    events: BTreeMap<(Mono, u64), Event>,
    made: u64,
    /// What waits until a store that stands still goes on, by store.
    held: BTreeMap<u64, Vec<Event>>,
}

impl Events {
    /// Something will happen at `at`.
    pub(super) fn at(&mut self, at: Mono, event: Event) {
        self.made += 1;
        self.events.insert((at, self.made), event);
    }

    /// Waits until `store` goes on.
    pub(super) fn hold(&mut self, store: u64, event: Event) {
        self.held.entry(store).or_default().push(event);
    }

    /// What waited for `store` happens at `now`, in its order.
    pub(super) fn release(&mut self, store: u64, now: Mono) {
        for event in self.held.remove(&store).unwrap_or_default() {
            self.at(now, event);
        }
    }

    /// When the next one happens.
    pub(super) fn next_at(&self) -> Option<Mono> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next one.
    pub(super) fn pop(&mut self) -> Option<Event> {
        self.events.pop_first().map(|(_, event)| event)
    }

    /// Takes away what belongs to a life that is over.
    pub(super) fn purge(&mut self, life: LifeId) -> Vec<Event> {
        self.extract(|event| event.life() == Some(life))
    }

    /// Takes away some of what would happen.
    pub(super) fn extract(&mut self, mut which: impl FnMut(&Event) -> bool) -> Vec<Event> {
        let gone = self.events.extract_if(.., |_, event| which(event));
        let mut gone: Vec<Event> = gone.map(|(_, event)| event).collect();
        for held in self.held.values_mut() {
            gone.extend(held.extract_if(.., |event| which(event)));
        }
        gone
    }

    /// Nothing but time is left.
    pub(super) fn are_idle(&self) -> bool {
        let held = self.held.values().flatten();
        self.events.values().chain(held).all(Event::is_idle)
    }
}
