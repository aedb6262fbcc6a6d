//! A look into the running peers, after each of their rounds.

use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::Region;
use flotilla_proto::raft::EntryKind;
use flotilla_raft::{LogView as _, Role};
use flotilla_raftstore::peer::Peer;
use flotilla_raftstore::{Begin, Delegates, ReadContext};

use super::Oracle;
use super::quorum::stands_for;
use crate::rules::Rule;

/// A peer as it was last seen in this life of its store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerSeen {
    pub(super) id: u64,
    term: u64,
    /// The first index of its log.
    pub(super) first: u64,
    last: u64,
    commit: u64,
    applied: u64,
    version: u64,
    /// The term in which it led; 0: it did not.
    pub(super) led: u64,
    lease_until: Option<Mono>,
}

impl Oracle {
    /// Nothing falls, and the indexes are in order. Answers whether anything has moved since the last
    /// look.
    pub fn look_at_peer(&mut self, store: u64, peer: &Peer) -> bool {
        let raft = peer.raft();
        let region = peer.region().id;
        let now = PeerSeen {
            id: raft.id(),
            term: raft.term(),
            first: raft.log().first_index(),
            last: raft.last_index(),
            commit: raft.commit(),
            applied: raft.applied_index(),
            version: peer.region().region_epoch.unwrap_or_default().version,
            led: if peer.is_leader() { raft.term() } else { 0 },
            lease_until: raft.lease_until(),
        };
        let seen = self.stores.entry(store).or_default();
        let before = seen.peers.insert(region, now).unwrap_or_default();
        if before == now {
            return false;
        }
        // A peer with another id is another peer.
        let before = if before.id == now.id {
            before
        } else {
            let ended = seen.tombstones.get(&region).copied().unwrap_or(0);
            self.checks.check(Rule::TombstoneStays, now.id > ended, || {
                format!("store {store} region {region}: {now:?} is made, {ended} has ended")
            });
            PeerSeen::default()
        };
        self.check_silent(store, peer, &before);
        self.check_conf(peer, before.applied);
        let seen = self.stores.entry(store).or_default();
        // Until a snapshot is in place the log begins behind what is applied; that it does so only
        // then is seen where it is written.
        let ordered =
            now.first <= now.commit + 1 && now.applied <= now.commit && now.commit <= now.last;
        let state = seen.applied.get(&region).copied();
        let ended = seen.tombstones.contains_key(&region);
        let covered = ended || now.applied <= state.unwrap_or(0);
        self.checks
            .check(Rule::IndexesInOrder, ordered && covered, || {
                format!("store {store} region {region}: {now:?}, the state has {state:?}")
            });
        let durable = seen.log.durable(region);
        let own = durable.filter(|held| held.record.is_some_and(|record| record.peer_id == now.id));
        let promised = own.map_or(0, |held| held.hard_state().term);
        let falls = now.term < before.term.max(promised)
            || now.commit < before.commit
            || now.applied < before.applied
            || now.version < before.version;
        self.checks.check(Rule::IndexesInOrder, !falls, || {
            format!(
                "store {store} region {region}: {before:?}, durable term {promised}, became {now:?}"
            )
        });
        self.look_at_campaign(store, peer);
        self.look_at_group(peer, before.led, before.commit);
        true
    }

    /// A peer that is ending moves no more (faults: 17). What it had handed to apply is still applied.
    fn check_silent(&mut self, store: u64, peer: &Peer, before: &PeerSeen) {
        if !peer.is_ending() {
            return;
        }
        let seen = self.stores.entry(store).or_default();
        let raft = peer.raft();
        let now = (raft.term(), raft.last_index(), raft.commit());
        if !seen.ending.insert((peer.region().id, raft.id())) {
            let then = (before.term, before.last, before.commit);
            self.checks.check(Rule::EndedIsSilent, now == then, || {
                format!(
                    "store {store} region {}: peer {} is ending, its term, last index and commit were {then:?} and are {now:?}",
                    peer.region().id,
                    raft.id()
                )
            });
        }
    }

    /// A peer counts by the members that what it has applied has made, or the snapshot that it is
    /// putting in place: behind that its log begins.
    fn check_conf(&mut self, peer: &Peer, before: u64) {
        let (raft, region) = (peer.raft(), peer.region().id);
        let now = raft.applied_index();
        // Who has applied its own removal applies nothing more, and does not say so.
        if now == before || now > self.model.applied(region) || peer.is_ending() {
            return;
        }
        let behind = raft.log().first_index() - 1;
        let Some(shape) = self.model.shape(region, now.max(behind)) else {
            return;
        };
        let conf = raft.conf();
        self.checks
            .check(Rule::ConfIsApplied, stands_for(&conf, shape), || {
                format!(
                    "region {region}: peer {} has applied {now} and counts by {conf:?}, the log says {:?}",
                    raft.id(),
                    shape.peers
                )
            });
    }

    /// Who campaigns knows the newest configuration that is committed in its log: the one before may
    /// have quorums that miss those of the one behind it.
    fn look_at_campaign(&mut self, store: u64, peer: &Peer) {
        let (raft, region) = (peer.raft(), peer.region().id);
        if !matches!(raft.role(), Role::PreCandidate | Role::Candidate) {
            return;
        }
        let unapplied = raft.applied_index() + 1..raft.commit() + 1;
        let held = self.stores[&store].log.held(region);
        let mut entries = held
            .into_iter()
            .flat_map(|held| held.entries.range(unapplied.clone()));
        // A slow log may still hold an entry that the peer has replaced since.
        let own = |index: u64, term: u64| raft.log().term(index) == Some(term);
        let change = entries.find(|(index, entry)| {
            entry.kind() == EntryKind::ConfChange && own(**index, entry.term)
        });
        let change = change.map(|(index, _)| *index);
        self.checks.check(Rule::CampaignsSettled, change.is_none(), || {
            format!(
                "store {store} region {region}: a {:?} of term {} has applied {}, and the change of the members at {change:?} is committed",
                raft.role(),
                raft.term(),
                raft.applied_index()
            )
        });
    }

    /// Whoever would be served locally now has a leader with a lease behind it, which has applied
    /// an entry of its own term, and no change of the region is between commit and apply. Answers
    /// whether the peer may serve so since this step.
    pub fn look_at_lease(
        &mut self,
        store: u64,
        peer: &Peer,
        delegates: &Delegates,
        now: Mono,
    ) -> bool {
        let leased = may_read(peer.region(), delegates, now);
        let raft = peer.raft();
        if leased {
            self.checks
                .check(Rule::LeaseIsBacked, backed(peer, now), || {
                    format!(
                        "store {store} region {}: local reads without a lease, {:?}",
                        peer.region().id,
                        raft.lease_until()
                    )
                });
        }
        let until = raft.lease_until().filter(|_| leased);
        self.leased(store, peer.region(), now, until)
    }

    /// So many bytes wait in the mailboxes of a store's peers, and no more than so many may.
    pub fn check_queued(&mut self, store: u64, queued: u64, most: u64) {
        self.checks.check(Rule::QueuesBounded, queued <= most, || {
            format!("store {store}: {queued} bytes wait in mailboxes, {most} may")
        });
    }

    /// The peer of the meta region says that its store is PD, in `term`.
    pub fn look_at_pd(&mut self, store: u64, peer: &Peer, term: u64) {
        // It may have lost the lead again in the same round.
        let raft = peer.raft();
        let first = self.consensus.first_of_term(peer.region().id, term);
        let caught_up = first.is_some_and(|first| raft.applied_index() >= first);
        self.checks.check(Rule::PdHasCaughtUp, caught_up, || {
            format!(
                "store {store} is PD in term {term}, its term began at {first:?} and {} is applied",
                raft.applied_index()
            )
        });
    }

    /// A local read was made for `region`, and has just been confirmed.
    pub fn look_at_confirmed(&mut self, store: u64, peer: &Peer, region: &Region, now: Mono) {
        let same = peer.region().region_epoch == region.region_epoch;
        self.checks
            .check(Rule::LeaseIsBacked, same && backed(peer, now), || {
                format!(
                    "store {store}: a local read of {region:?} is confirmed, the lease is {:?}, the region {:?}",
                    peer.raft().lease_until(),
                    peer.region()
                )
            });
    }
}

/// A read of `region` would be served locally at `now`.
pub fn may_read(region: &Region, delegates: &Delegates, now: Mono) -> bool {
    let context = ReadContext {
        region: region.id,
        epoch: region.region_epoch,
        ..ReadContext::default()
    };
    matches!(delegates.begin(&context, now), Ok(Begin::Local(_)))
}

/// The peer leads with a lease and has applied an entry of its own term.
fn backed(peer: &Peer, now: Mono) -> bool {
    let raft = peer.raft();
    let first = raft.first_index_of_term();
    raft.lease_until().is_some_and(|until| now < until)
        && first.is_some_and(|first| raft.applied_index() >= first)
}
