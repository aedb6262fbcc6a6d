//! Messages leave stores, travel, and arrive; ways are cut and heal.

use std::collections::BTreeSet;

use flotilla_proto::clock::Mono;
use flotilla_proto::raft::MessageKind;
use flotilla_proto::store::PeerMessage;
use flotilla_raft::Role;
use flotilla_raftstore::PeerInput;
use flotilla_raftstore::effects::Outbound;
use flotilla_router::Lane;

use super::{Event, Phase, Sim};
use crate::net::{Place, Shape, Way};
use crate::store::LifeId;

/// Messages on their way.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    /// Who sent them, in which life.
    pub(super) from: LifeId,
    /// The store they go to.
    pub(super) to: u64,
    /// What they say.
    pub(super) messages: Vec<PeerMessage>,
    /// The same has arrived before, or will.
    duplicate: bool,
}

/// How often a bulk with a rare message is held on its way, of a thousand.
const RARE_HELD: u64 = 100;

/// A message of a kind that is late too seldom by itself.
fn is_rare(message: &PeerMessage) -> bool {
    let kind = message.message.as_ref().map(|message| message.kind());
    matches!(
        kind,
        Some(MessageKind::TimeoutNow | MessageKind::ReadIndexResponse)
    )
}

impl Flight {
    /// It carries the answer to a question of this region and number.
    pub(super) fn fits(&self, ask: &PeerMessage) -> bool {
        let asked = ask.message.as_ref();
        let asked = asked.filter(|inner| inner.kind() == MessageKind::ReadIndex);
        asked.is_some_and(|asked| {
            self.messages.iter().any(|message| {
                let inner = message.message.as_ref();
                message.region_id == ask.region_id
                    && inner.is_some_and(|inner| {
                        inner.kind() == MessageKind::ReadIndexResponse && inner.round == asked.round
                    })
            })
        })
    }

    fn way(&self) -> Way {
        (Place::Store(self.from.store), Place::Store(self.to))
    }
}

impl Sim {
    // ---- sending ----

    /// What a step of a store has left for others is taken by its senders.
    pub(super) fn send_later(&mut self, id: LifeId) {
        let Some(life) = self.life(id.store) else {
            return;
        };
        let refused = life.runtime.outgoing.counters().refused > 0;
        self.oracle
            .lock()
            .probes
            .hit_if(refused, "net: a queue is full");
        for (to, lane) in life.waiting_lanes() {
            let pace = self.world.net.send;
            let wait = self.nodes[&id.store].calm.wait(pace, &mut self.rng);
            let at = self.now() + wait;
            let Some(life) = self.life_mut(id.store) else {
                return;
            };
            if wait.is_zero() && !life.sending.contains(&(to, lane as u8)) {
                self.send_lane(id, to, lane);
            } else if life.sending.insert((to, lane as u8)) {
                let life = id;
                self.events.at(at, Event::Send { life, to, lane });
            }
        }
    }

    pub(super) fn send_lane(&mut self, id: LifeId, to: u64, lane: Lane) {
        let bulk_bytes_max = self.world.net.bulk_bytes_max;
        if let Some(life) = self.life_mut(id.store) {
            life.sending.remove(&(to, lane as u8));
        }
        loop {
            let Some(life) = self.life(id.store) else {
                return;
            };
            let bulk = life.runtime.outgoing.drain(to, lane, bulk_bytes_max);
            if bulk.is_empty() {
                return;
            }
            self.send_bulk(id, to, lane, bulk);
        }
    }

    fn send_bulk(&mut self, from: LifeId, to: u64, lane: Lane, bulk: Vec<Outbound>) {
        if lane == Lane::Snapshot {
            for outbound in bulk {
                self.send_snapshot(from, to, outbound.message);
            }
            return;
        }
        let mut flight = Flight {
            from,
            to,
            messages: bulk.into_iter().map(|outbound| outbound.message).collect(),
            duplicate: false,
        };
        self.messages += flight.messages.len() as u64;
        {
            let mut oracle = self.oracle.lock();
            for message in &flight.messages {
                oracle.message_leaves(from.store, message);
            }
        }
        self.release_answers(&flight);
        if self.keep_answer(&flight) {
            return;
        }
        let (now, way) = (self.now(), flight.way());
        let (alone, together): (Vec<_>, Vec<_>) = std::mem::take(&mut flight.messages)
            .into_iter()
            .partition(|_| self.net.drops_single(way));
        flight.messages = together;
        self.lost(from, &alone, None);
        if flight.messages.is_empty() {
            return;
        }
        let sent = self.net.send(now, way, lane as u8);
        if sent.arrivals.is_empty() {
            self.probe("net: a bulk is lost");
            return self.lost(from, &flight.messages, sent.noticed);
        }
        if sent.arrivals.len() > 1 {
            self.probe("net: a bulk arrives twice");
            flight.duplicate = true;
        }
        if sent.overtakes {
            self.probe("net: a bulk may overtake others");
        }
        let held = match flight.messages.iter().any(is_rare) {
            true => self
                .late_order(&flight)
                .or_else(|| self.net.hold(way, RARE_HELD)),
            false => None,
        };
        self.oracle
            .lock()
            .probes
            .hit_if(held.is_some(), "net: a rare message is late");
        for at in sent.arrivals {
            let at = at + held.unwrap_or_default();
            self.events.at(at, Event::Arrive(Box::new(flight.clone())));
        }
    }

    /// These messages will not arrive; their sender may hear of it.
    fn lost(&mut self, from: LifeId, messages: &[PeerMessage], noticed: Option<Mono>) {
        let mut told = BTreeSet::new();
        for message in messages {
            let kind = message.message.as_ref().map(|message| message.kind());
            let vote = matches!(kind, Some(MessageKind::Vote | MessageKind::VoteResponse));
            self.oracle
                .lock()
                .probes
                .hit_if(vote, "net: a vote is lost");
            let to = message.to_peer.unwrap_or_default().id;
            if let Some(at) = noticed
                && told.insert((message.region_id, to))
            {
                let event = Event::Unreachable {
                    life: from,
                    region: message.region_id,
                    peer: to,
                };
                // A sender that has died meanwhile hears nothing.
                if self.life(from.store).is_some_and(|life| life.id == from) {
                    self.events.at(at, event);
                }
            }
        }
    }

    pub(super) fn unreachable(&mut self, id: LifeId, region: u64, peer: u64) {
        self.probe("net: the sender hears of a loss");
        if let Some(life) = self.life(id.store) {
            life.runtime
                .to_peer(region, PeerInput::Unreachable { peer });
        }
    }

    // ---- arriving ----

    pub(super) fn arrive(&mut self, flight: Flight) {
        let (now, way) = (self.now(), flight.way());
        let cut = self.net.is_cut(way);
        let Some(life) = self.life(flight.to).filter(|_| !cut) else {
            if cut {
                self.probe("net: a way is cut under a bulk");
            }
            let sent = self.net.lost(now);
            return self.lost(flight.from, &flight.messages, sent.noticed);
        };
        let sender = &self.nodes[&flight.from.store];
        let stale = sender
            .life
            .as_ref()
            .is_none_or(|life| life.id != flight.from);
        {
            let mut oracle = self.oracle.lock();
            let count = flight.messages.len();
            let (from, to) = (flight.from, flight.to);
            oracle.note(format_args!(
                "store {to}: {count} messages of store {}",
                from.store
            ));
            oracle
                .probes
                .hit_if(stale, "net: a message of an earlier life arrives");
            let append = |message: &PeerMessage| {
                let message = message.message.as_ref();
                message.is_some_and(|message| message.kind() == MessageKind::Append)
            };
            let twice = flight.duplicate && flight.messages.iter().any(append);
            oracle.probes.hit_if(twice, "net: an append arrives twice");
        }
        for message in flight.messages {
            life.runtime.receive(message);
        }
    }

    /// The process that sent them is gone: some of what was under way goes with it.
    pub(super) fn lose_flights(&mut self, id: LifeId) {
        let chance = *self.fault_rng.pick(&[0, 500, 1_000]);
        let rng = &mut self.fault_rng;
        let gone = self
            .events
            .extract(|event| event.flight_of(id) && rng.chance(chance));
        let lost = !gone.is_empty();
        self.oracle
            .lock()
            .probes
            .hit_if(lost, "net: a crash takes along what was under way");
    }

    // ---- partitions ----

    pub(super) fn partition_later(&mut self) {
        if let Some(wait) = self.net.next_partition() {
            self.events.at(self.now() + wait, Event::Partition);
        }
    }

    pub(super) fn partition(&mut self) {
        if self.phase != Phase::Run {
            return;
        }
        self.partition_later();
        let stores: Vec<u64> = self.nodes.keys().copied().collect();
        let partition = self.net.partition(&stores, self.world.workload.clients);
        if partition.ways.is_empty() {
            return;
        }
        self.note(format_args!(
            "network: {:?}, {} ways",
            partition.shape,
            partition.ways.len()
        ));
        self.probe(match partition.shape {
            Shape::OneWay => "partition: one way",
            Shape::Link => "partition: one link",
            Shape::Deaf => "partition: a deaf store",
            Shape::Mute => "partition: a mute store",
            Shape::Alone => "partition: a store alone",
            Shape::Halves => "partition: halves",
            Shape::Ring => "partition: a ring",
            Shape::Bridge => "partition: a bridge",
            Shape::Clients => "partition: of clients",
        });
        if self.is_electing() {
            self.probe("partition: during an election");
        }
        // All ways heal at once, or each at a time of its own: in another order than they were cut.
        let together = self.fault_rng.chance(300).then(|| self.net.cut_for());
        for way in partition.ways {
            let time = together.unwrap_or_else(|| self.net.cut_for());
            self.net.cut(way);
            self.events.at(self.now() + time, Event::Heal(way));
        }
    }

    pub(super) fn heal(&mut self, way: Way) {
        if self.net.heal(way) {
            self.note(format_args!("network: {way:?} is open"));
        }
    }

    fn is_electing(&self) -> bool {
        let mut electing = false;
        for life in self.nodes.values().filter_map(|node| node.life.as_ref()) {
            life.look_at_peers(|peer| {
                electing |= matches!(peer.raft().role(), Role::Candidate | Role::PreCandidate);
            });
        }
        electing
    }
}
