//! The worst moment: in a world with cruelty, some rare thing is followed by just what would hurt. Chance
//! alone brings the two together once in a thousand seeds.

use std::time::Duration;

use flotilla_proto::metapb::PeerRole;
use flotilla_proto::raft::MessageKind;
use flotilla_proto::store::PeerMessage;
use flotilla_raftstore::PeerInput;
use flotilla_raftstore::effects::PeerChange;
use flotilla_raftstore::region::META_REGION;

use super::network::Flight;
use super::{Event, Phase, Sim};
use crate::net::Place;
use crate::store::LifeId;

/// Answers that are kept back at one time, at most.
const KEPT_MAX: usize = 16;
/// Milliseconds between two estrangements on average.
const ESTRANGED_EVERY_MS: u64 = 3_000;
/// Milliseconds between two removals of the meta region's leader on average.
const UNSEATED_EVERY_MS: u64 = 15_000;
/// Voters of the meta region from which on its leader is taken away.
const UNSEATED_OF: usize = 3;

/// What follows at the worst moment.
#[derive(Clone, Copy, Debug)]
pub(super) enum Worst {
    /// Nothing of other stores gets to this one for a while.
    Deafen(u64),
    /// A store crashes.
    Crash(u64),
    /// A region is split.
    Split(u64),
    /// A peer campaigns.
    Campaign {
        /// Where.
        store: u64,
        /// Of which region.
        region: u64,
    },
    /// A leader and one of its voters lose each other, and another voter restarts meanwhile.
    Estrange,
    /// The meta region's leader is taken away.
    Unseat,
}

/// An answer to a replica's question, kept back until the replica's next life asks again.
#[derive(Debug)]
pub(super) struct Kept {
    asker: LifeId,
    flight: Flight,
}

impl Sim {
    /// Whether the worst follows now.
    pub(super) fn is_cruel(&mut self) -> bool {
        self.phase == Phase::Run && self.cruel_rng.chance(self.world.faults.cruelty)
    }

    fn follows(&mut self, wait: Duration, worst: Worst) {
        self.events.at(self.now() + wait, Event::Worst(worst));
    }

    pub(super) fn worst(&mut self, worst: Worst) {
        if self.phase != Phase::Run {
            return;
        }
        self.note(format_args!("the worst moment: {worst:?}"));
        match worst {
            Worst::Deafen(store) => self.deafen(store),
            Worst::Crash(store) => {
                if let Some(id) = self.life(store).map(|life| life.id) {
                    self.crash(id);
                }
            }
            Worst::Split(region) => self.split_now(region),
            Worst::Campaign { store, region } => {
                if let Some(life) = self.life(store) {
                    life.runtime.to_peer(region, PeerInput::Campaign);
                }
            }
            Worst::Estrange => self.estrange(),
            Worst::Unseat => self.unseat(),
        }
    }

    fn election(&mut self, least: u32, most: u32) -> Duration {
        let [least, most] = [least, most].map(|times| self.world.config.election_min * times);
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.cruel_rng.micros(micros(least)..=micros(most))
    }

    fn deafen(&mut self, store: u64) {
        let others: Vec<u64> = self.nodes.keys().copied().collect();
        for other in others.into_iter().filter(|other| *other != store) {
            self.cut_for_long((other, store));
        }
    }

    fn cut_for_long(&mut self, (from, to): (u64, u64)) {
        let way = (Place::Store(from), Place::Store(to));
        let time = self.election(1, 4);
        self.net.cut(way);
        self.events.at(self.now() + time, Event::Heal(way));
    }

    // ---- orders to take over ----

    /// How long an order to take over is late: until it was given up, and the leader has its lease again.
    /// When it comes, nobody can tell the old leader.
    pub(super) fn late_order(&mut self, flight: &Flight) -> Option<Duration> {
        let order = flight
            .messages
            .iter()
            .any(|message| kind(message) == Some(MessageKind::TimeoutNow));
        if !order || !self.is_cruel() {
            return None;
        }
        let late = self.election(1, 3);
        self.follows(late, Worst::Deafen(flight.from.store));
        self.probe("worst: an order to take over comes when it was given up");
        Some(late)
    }

    // ---- answers to replicas ----

    /// Keeps an answer to a replica's question back, and ends who has asked. Answers whether it did.
    pub(super) fn keep_answer(&mut self, flight: &Flight) -> bool {
        let answers = |message: &PeerMessage| kind(message) == Some(MessageKind::ReadIndexResponse);
        if !flight.messages.iter().any(answers) || self.kept.len() >= KEPT_MAX || !self.is_cruel() {
            return false;
        }
        let Some(asker) = self.life(flight.to).map(|life| life.id) else {
            return false;
        };
        let wait = self.cruel_rng.micros(0..=5_000);
        self.follows(wait, Worst::Crash(flight.to));
        self.probe("worst: a replica restarts before it is answered");
        let flight = flight.clone();
        self.kept.push(Kept { asker, flight });
        true
    }

    /// A store asks: what was kept back for an earlier life of it, and has the number of a question, comes
    /// now. Numbers begin anywhere, so that none should.
    pub(super) fn release_answers(&mut self, asks: &Flight) {
        if self.kept.is_empty() {
            return;
        }
        let asked = |kept: &Kept| {
            let other = kept.asker.store == asks.from.store && kept.asker != asks.from;
            other && asks.messages.iter().any(|ask| kept.flight.fits(ask))
        };
        let due: Vec<Kept> = self.kept.extract_if(.., |kept| asked(kept)).collect();
        for Kept { flight, .. } in due {
            let at = self.now() + Duration::from_micros(1);
            self.events.at(at, Event::Arrive(Box::new(flight)));
        }
    }

    // ---- snapshots for who is new ----

    /// A snapshot is offered to a store that has nothing of the region: the region is split, and the
    /// offer comes behind the child. Answers until when it may be late.
    pub(super) fn late_offer(
        &mut self,
        to: u64,
        region: u64,
    ) -> Option<flotilla_proto::clock::Mono> {
        let here = self.oracle.lock().store(to).applied.contains_key(&region);
        if here || !self.is_cruel() {
            return None;
        }
        self.follows(Duration::from_micros(1), Worst::Split(region));
        Some(self.now() + self.world.config.election_max * 2)
    }

    /// A peer was made on `store` that knows nothing but its name, of another region than this.
    pub(super) fn has_blank_beside(&self, store: u64, region: u64) -> bool {
        let mut blank = false;
        if let Some(life) = self.life(store) {
            life.look_at_peers(|peer| {
                let other = peer.region();
                blank |= other.id != region && other.peers.is_empty() && peer.raft().term() > 0;
            });
        }
        blank
    }

    // ---- restarts between two candidates ----

    pub(super) fn estrange_later(&mut self) {
        if self.world.faults.cruelty == 0 || self.world.stores < 3 {
            return;
        }
        let wait = self.cruel_rng.micros(1_000..=ESTRANGED_EVERY_MS * 2_000);
        self.follows(wait, Worst::Estrange);
    }

    fn estrange(&mut self) {
        self.estrange_later();
        let Some(region) = self.any_region() else {
            return;
        };
        let Some((leader, _)) = self.leader_of(region.id) else {
            return;
        };
        let other = |peer: &&flotilla_proto::metapb::Peer| {
            peer.role() == PeerRole::Voter && peer.store_id != leader.store
        };
        let mut others: Vec<u64> = region
            .peers
            .iter()
            .filter(other)
            .map(|peer| peer.store_id)
            .collect();
        if others.len() < 2 {
            return;
        }
        let far = others.swap_remove(self.cruel_rng.below(others.len() as u64) as usize);
        let near = *self.cruel_rng.pick(&others);
        self.cut_for_long((leader.store, far));
        self.cut_for_long((far, leader.store));
        let wait = self.election(1, 2);
        self.follows(wait, Worst::Crash(near));
        let back = wait + self.cruel_rng.micros(100..=3_000);
        self.events
            .at(self.now() + back, Event::Start { store: near });
        let region = region.id;
        let after = back + self.cruel_rng.micros(100..=5_000);
        self.follows(after, Worst::Campaign { store: far, region });
        self.probe("worst: a voter restarts between a leader and who lost it");
    }
}

impl Sim {
    // ---- PD ends ----

    pub(super) fn unseat_later(&mut self) {
        if self.world.faults.cruelty == 0 || !self.world.members {
            return;
        }
        let wait = self.cruel_rng.micros(1_000..=UNSEATED_EVERY_MS * 2_000);
        self.follows(wait, Worst::Unseat);
    }

    /// Who is PD loses its peer of the meta region.
    fn unseat(&mut self) {
        self.unseat_later();
        let shape = self
            .oracle
            .lock()
            .model
            .shape(META_REGION, u64::MAX)
            .cloned();
        let (Some(region), Some((id, leader))) = (shape, self.leader_of(META_REGION)) else {
            return;
        };
        let voters = region.peers.iter();
        let voters = voters.filter(|peer| peer.role() == PeerRole::Voter).count();
        let changes = vec![PeerChange::Remove { peer: leader.id }];
        if voters < UNSEATED_OF || self.strands(&region, &changes) {
            return;
        }
        let epoch = region.region_epoch.unwrap_or_default();
        self.ask_members(id, META_REGION, epoch, changes);
        self.probe("worst: the leader of the meta region is taken away");
    }
}

fn kind(message: &PeerMessage) -> Option<MessageKind> {
    message.message.as_ref().map(|message| message.kind())
}
