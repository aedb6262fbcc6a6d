//! Snapshots travel beside the messages: offered, sent in chunks, checked, handed over. Whatever ends
//! one on the way is told to both ends that are still there.

use flotilla_engine::{Cf, SnapshotFiles, SnapshotKey, SnapshotResult};
use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::{Peer, PeerRole, Region};
use flotilla_proto::store::{PeerMessage, SnapshotManifest};
use flotilla_raftstore::PeerInput;
use flotilla_raftstore::effects::StoreInput;
use flotilla_raftstore::region::peer_on;
use prost::Message;

use super::{Event, Phase, Sim};
use crate::checkers::SnapshotStep;
use crate::net::{Place, Way};
use crate::store::{LifeId, TransferId};

/// How often an offer is held on its way, of a thousand.
const OFFERS_HELD: u64 = 200;
/// A store takes no snapshot larger than this.
const SNAPSHOT_BYTES_MAX: u64 = 1 << 30;

/// A snapshot on its way.
#[derive(Debug)]
pub(super) struct Transfer {
    from: LifeId,
    to: u64,
    /// The receiving process, once it was reached.
    receiver: Option<LifeId>,
    message: PeerMessage,
    manifest: SnapshotManifest,
    /// Its offer may wait so long for a child of the region.
    late: Option<Mono>,
    /// The next file, and where to go on in it.
    at: (usize, u64),
    /// The receiver has made room.
    receiving: bool,
    /// It writes files, which are this transfer's to throw away.
    writing: bool,
}

impl Transfer {
    pub(super) fn sender(&self) -> LifeId {
        self.from
    }

    pub(super) fn is_of(&self, region: u64) -> bool {
        self.message.region_id == region
    }

    /// The process receives it.
    pub(super) fn comes_to(&self, id: LifeId) -> bool {
        self.receiving && self.receiver == Some(id)
    }

    fn way(&self) -> Way {
        (Place::Store(self.from.store), Place::Store(self.to))
    }
}

impl Sim {
    pub(super) fn send_snapshot(&mut self, from: LifeId, to: u64, message: PeerMessage) {
        self.oracle.lock().message_leaves(from.store, &message);
        let inner = message.message.as_ref();
        let snapshot = inner.and_then(|inner| inner.snapshot.as_ref());
        let manifest = snapshot.map(|snapshot| SnapshotManifest::decode(snapshot.manifest.clone()));
        let Some(Ok(manifest)) = manifest else {
            unreachable!("a message of the snapshot lane carries a manifest");
        };
        self.probe_snapshot(to, &message, &manifest);
        self.transfers_begun += 1;
        let late = self.late_offer(to, message.region_id);
        let transfer = Transfer {
            late,
            from,
            to,
            receiver: None,
            message,
            manifest,
            at: (0, 0),
            receiving: false,
            writing: false,
        };
        self.transfers.insert(self.transfers_begun, transfer);
        self.transfer_later(self.transfers_begun);
    }

    /// The next step, if the network carries it.
    fn transfer_later(&mut self, number: TransferId) {
        let Some(way) = self.transfers.get(&number).map(Transfer::way) else {
            return;
        };
        let sent = self.net.call(self.now(), way);
        let offer = self
            .transfers
            .get(&number)
            .is_some_and(|transfer| transfer.receiver.is_none());
        let held = match offer {
            true => self.net.hold(way, OFFERS_HELD),
            false => None,
        };
        self.oracle
            .lock()
            .probes
            .hit_if(held.is_some(), "snapshot: its offer is late");
        match sent.arrivals.first() {
            Some(at) => self
                .events
                .at(*at + held.unwrap_or_default(), Event::Transfer(number)),
            None => self.transfer_fails(number, "snapshot: lost on the way"),
        }
    }

    /// The offer arrives, or the next chunk.
    pub(super) fn transfer(&mut self, number: TransferId) {
        let Some(transfer) = self.transfers.get(&number) else {
            return;
        };
        let sender = self.life(transfer.from.store).map(|life| life.id);
        let receiver = self.life(transfer.to).map(|life| life.id);
        let same = transfer.receiver.is_none() || transfer.receiver == receiver;
        let there = sender == Some(transfer.from) && receiver.is_some() && same;
        if self.net.is_cut(transfer.way()) || !there {
            return self.transfer_fails(number, "snapshot: an end is gone");
        }
        if transfer.receiving {
            return self.chunk(number);
        }
        let waits = transfer.late.is_some_and(|until| self.now() < until);
        if waits && !self.has_blank_beside(transfer.to, transfer.message.region_id) {
            let again = self.now() + self.world.config.tick / 8;
            return self.events.at(again, Event::Transfer(number));
        }
        if waits {
            self.probe("worst: a snapshot is offered behind the child of its region");
        }
        let Some(transfer) = self.transfers.get(&number) else {
            return;
        };
        let message = Box::new(transfer.message.clone());
        let Some(life) = self.life(transfer.to) else {
            return;
        };
        let answer = life.outside.offer(number);
        life.runtime
            .to_store(StoreInput::SnapshotOffer { message, answer });
        if let Some(transfer) = self.transfers.get_mut(&number) {
            transfer.receiver = receiver;
        }
    }

    /// The receiver has answered to the offer.
    pub(super) fn offered(&mut self, id: LifeId, number: TransferId, accepted: bool) {
        if let Some(key) = self.withdrawn.remove(&number).filter(|_| accepted)
            && let Some(life) = self.life(id.store)
        {
            self.probe("snapshot: accepted when its sender was gone");
            let unused = StoreInput::SnapshotUnused { key, gone: true };
            return life.runtime.to_store(unused);
        }
        if !accepted {
            self.transfer_fails(number, "snapshot: refused");
            self.withdrawn.remove(&number);
            return;
        }
        self.assert_alone(number);
        let Some(transfer) = self.transfers.get_mut(&number) else {
            return;
        };
        transfer.receiving = true;
        let files = &self.nodes[&transfer.to].disk.snapshots;
        match files.receive(&transfer.manifest, SNAPSHOT_BYTES_MAX) {
            Ok(_) => {
                transfer.writing = true;
                self.transfer_later(number);
            }
            Err(error) => {
                self.note(format_args!("snapshot {number}: {error}"));
                self.transfer_fails(number, "snapshot: receiving failed");
            }
        }
    }

    /// A store keeps room for one snapshot of a key: a second one would write the same files.
    fn assert_alone(&self, number: TransferId) {
        let Some(new) = self.transfers.get(&number) else {
            return;
        };
        let key = SnapshotKey::incoming(&new.manifest);
        let same = |(id, other): (&TransferId, &Transfer)| {
            let same = (other.to, SnapshotKey::incoming(&other.manifest)) == (new.to, key);
            *id != number && other.receiving && same
        };
        assert!(
            !self.transfers.iter().any(same),
            "store {} has accepted {key} twice",
            new.to
        );
    }

    fn chunk(&mut self, number: TransferId) {
        let transfer = self.transfers.get(&number);
        let at = transfer.and_then(|it| Some((it.receiver?, it.message.region_id)));
        match self.try_chunk(number) {
            Ok(true) => self.transfer_done(number),
            Ok(false) => {
                self.transfer_later(number);
                if let Some((id, region)) = at {
                    self.meet_snapshot(id, region, SnapshotStep::Came);
                }
            }
            Err(error) => {
                self.note(format_args!("snapshot {number}: {error}"));
                self.transfer_fails(number, "snapshot: a chunk failed");
            }
        }
    }

    /// Whether that was the last.
    fn try_chunk(&mut self, number: TransferId) -> SnapshotResult<bool> {
        let damaged =
            self.phase == Phase::Run && self.fault_rng.below(10_000) < self.world.faults.flip;
        let Some(transfer) = self.transfers.get_mut(&number) else {
            return Ok(false);
        };
        let from = &self.nodes[&transfer.from.store].disk.snapshots;
        let to = &self.nodes[&transfer.to].disk.snapshots;
        let source = SnapshotKey::outgoing(&transfer.manifest);
        let target = SnapshotKey::incoming(&transfer.manifest);
        let (nth, offset) = transfer.at;
        let Some(file) = transfer.manifest.files.get(nth) else {
            to.finish_receive(&target)?;
            return Ok(true);
        };
        let cf = Cf::try_from(file.cf).unwrap_or_default();
        let mut chunk = from.read_chunk(&source, cf, offset, self.world.chunk_bytes)?;
        if damaged && !chunk.is_empty() {
            // The transport has a checksum of its own; this is what it would miss.
            let mut bytes = chunk.to_vec();
            let at = self.fault_rng.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << self.fault_rng.below(8);
            chunk = bytes.into();
            let mut oracle = self.oracle.lock();
            oracle.probes.hit("fault: a chunk of a snapshot is damaged");
        }
        to.write_chunk(&target, cf, offset, &chunk)?;
        let next = offset + chunk.len() as u64;
        transfer.at = if next >= file.bytes {
            (nth + 1, 0)
        } else {
            (nth, next)
        };
        Ok(false)
    }

    fn transfer_done(&mut self, number: TransferId) {
        let Some(transfer) = self.transfers.remove(&number) else {
            return;
        };
        self.probe("snapshot: received");
        self.probe_arrival(&transfer);
        self.tell_sender(&transfer, true);
        let region = transfer.message.region_id;
        if let Some(life) = self.life(transfer.to) {
            let message = Box::new(transfer.message);
            life.runtime
                .to_store(StoreInput::SnapshotReceived { message });
        }
        if let Some(id) = transfer.receiver {
            self.meet_snapshot(id, region, SnapshotStep::Received);
        }
    }

    /// Who needs it, and what else is under way.
    fn probe_snapshot(&self, to: u64, message: &PeerMessage, manifest: &SnapshotManifest) {
        let region = message.region_id;
        let second = self
            .transfers
            .values()
            .any(|transfer| transfer.message.region_id == region);
        let own = manifest.region.as_ref().and_then(|it| peer_on(it, to));
        let mut oracle = self.oracle.lock();
        let here = oracle.store(to).applied.contains_key(&region);
        oracle
            .probes
            .hit_if(second, "snapshot: a second one of the region travels");
        oracle.probes.hit(match own.map(Peer::role) {
            _ if !here => "snapshot: to a new peer",
            Some(PeerRole::Learner) => "snapshot: to a lagging learner",
            _ => "snapshot: to a lagging voter",
        });
    }

    /// What has happened since it was sent.
    fn probe_arrival(&self, transfer: &Transfer) {
        let region = transfer.message.region_id;
        let inner = transfer.message.message.as_ref();
        let term = inner.map_or(0, |inner| inner.term);
        let mut newer = false;
        if let Some((leader, _)) = self.leader_of(region)
            && let Some(life) = self.life(leader.store)
        {
            life.look_at(region, |peer| newer = peer.raft().term() > term);
        }
        let mut oracle = self.oracle.lock();
        let version = |region: Option<&Region>| {
            let epoch = region.and_then(|region| region.region_epoch);
            epoch.unwrap_or_default().version
        };
        let now = version(oracle.model.shape(region, u64::MAX));
        let split = version(transfer.manifest.region.as_ref()) < now;
        oracle
            .probes
            .hit_if(newer, "snapshot: another leads when it arrives");
        oracle
            .probes
            .hit_if(split, "snapshot: its region was split on the way");
    }

    fn transfer_fails(&mut self, number: TransferId, why: &'static str) {
        let Some(transfer) = self.transfers.remove(&number) else {
            return;
        };
        self.probe(why);
        self.tell_sender(&transfer, false);
        let there = transfer
            .receiver
            .and_then(|id| self.life(id.store).filter(|life| life.id == id));
        let key = SnapshotKey::incoming(&transfer.manifest);
        let Some(life) = there else { return };
        if transfer.receiving {
            let files = &self.nodes[&transfer.to].disk.snapshots;
            let gone = !transfer.writing || files.discard(&key).is_ok();
            life.runtime
                .to_store(StoreInput::SnapshotUnused { key, gone });
        } else {
            self.withdrawn.insert(number, key);
        }
    }

    /// A process is gone: what it received, or was asked to take, does not arrive.
    pub(super) fn lose_transfers(&mut self, id: LifeId) {
        let of = |transfer: &Transfer| transfer.receiver == Some(id) || transfer.from == id;
        let lost = self.transfers.iter().filter(|(_, transfer)| of(transfer));
        let lost: Vec<TransferId> = lost.map(|(number, _)| *number).collect();
        for number in lost {
            self.transfer_fails(number, "snapshot: an end is gone");
        }
    }

    fn tell_sender(&self, transfer: &Transfer, ok: bool) {
        let from = transfer.from;
        if let Some(life) = self.life(from.store).filter(|life| life.id == from) {
            let peer = transfer.message.to_peer.unwrap_or_default().id;
            life.runtime.to_peer(
                transfer.message.region_id,
                PeerInput::SnapshotSent { peer, ok },
            );
        }
    }
}
