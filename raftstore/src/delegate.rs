//! Reads on the caller's thread: what a peer lets others know so that they need not ask it.
//!
//! The order is: look at the delegate, read the state, look again (contracts: C17). Whatever makes a
//! read unsafe (a lost lease, a committed split, a removal) changes the delegate *before* the data,
//! so a read that finds the same version and a live lease afterwards saw the region as it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::{Peer, Region, RegionEpoch};

use crate::load::Load;
use crate::planted::Planted;
use crate::{Plant, ReadPermit, RequestError};

/// Where a request believes its region to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadContext {
    /// The region.
    pub region: u64,
    /// The peer it is meant for; 0 does not check.
    pub peer: u64,
    /// The epoch it was made for.
    pub epoch: Option<RegionEpoch>,
    /// The term the client last saw; 0 does not check.
    pub term: u64,
    /// A read that any replica may serve, at an index that the leader confirms; writes ignore it.
    pub replica: bool,
}

/// What a peer says of itself.
#[derive(Clone, Debug, Default)]
pub struct Serving {
    /// The descriptor as of the applied index.
    pub region: Region,
    /// This store's peer.
    pub peer: Peer,
    /// Who leads, as far as the peer knows.
    pub leader: Option<Peer>,
    /// The peer's term.
    pub term: u64,
    /// Regions that the last split made beside this one, for clients with an older epoch.
    pub siblings: Vec<Region>,
}

impl Serving {
    /// Whether this peer leads.
    pub fn is_leader(&self) -> bool {
        self.leader
            .as_ref()
            .is_some_and(|leader| leader.id == self.peer.id)
    }

    /// The answer to a request of another epoch: this region, then its siblings.
    pub fn epoch_not_match(&self) -> RequestError {
        let current = std::iter::once(&self.region)
            .chain(&self.siblings)
            .cloned()
            .collect();
        RequestError::EpochNotMatch { current }
    }

    /// The checks every request passes, in the order of the protocol (peer, leader, term, epoch).
    ///
    /// # Errors
    /// The first that fails.
    pub fn check(&self, context: &ReadContext) -> Result<(), RequestError> {
        let region = self.region.id;
        if context.peer != 0 && context.peer != self.peer.id {
            return Err(RequestError::PeerMismatch {
                requested: context.peer,
                actual: self.peer.id,
            });
        }
        if !context.replica && !self.is_leader() {
            return Err(RequestError::NotLeader {
                region,
                leader: self.leader,
            });
        }
        if context.term != 0 && self.term > context.term.saturating_add(1) {
            return Err(RequestError::StaleCommand);
        }
        // `conf_ver` does not matter: members may change, the range may not (contracts: C21).
        match (&context.epoch, &self.region.region_epoch) {
            (None, _) => Err(RequestError::EpochMissing),
            (Some(asked), Some(own)) if asked.version == own.version => Ok(()),
            _ => Err(self.epoch_not_match()),
        }
    }
}

/// One region's door for local reads.
#[derive(Debug, Default)]
pub struct Delegate {
    serving: ArcSwap<Serving>,
    /// Rises with every change of `serving` and with every suspension.
    version: AtomicU64,
    /// Rises before the range or its rows can change other than by writes: with every entry that is not
    /// data, with a snapshot, and with the end of the peer.
    generation: AtomicU64,
    /// The lease, in [`Mono`] nanoseconds; 0: none.
    lease_until: AtomicU64,
    /// What is read here.
    load: Load,
}

impl Delegate {
    /// What the peer said last.
    pub fn serving(&self) -> Arc<Serving> {
        self.serving.load_full()
    }

    /// Replaces what the peer says. A lease given before does not carry over.
    pub(crate) fn publish(&self, serving: Serving) {
        self.suspend();
        self.serving.store(Arc::new(serving));
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    /// No local read that is under way will be served.
    pub(crate) fn suspend(&self) {
        self.lease_until.store(0, Ordering::SeqCst);
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    /// No permit that was given counts any more.
    pub(crate) fn outdate(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// What a permit given now counts for.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// As [`Delegate::suspend`]; changes nothing where there is no lease.
    pub(crate) fn revoke(&self) {
        if self.lease_until.load(Ordering::SeqCst) != 0 {
            self.suspend();
        }
    }

    /// Reads may be served here until `until`.
    pub(crate) fn renew(&self, until: Mono) {
        self.lease_until.store(until.0, Ordering::SeqCst);
    }

    pub(crate) fn load(&self) -> &Load {
        &self.load
    }

    fn leased(&self, now: Mono) -> bool {
        now.0 < self.lease_until.load(Ordering::SeqCst)
    }
}

/// How a read may go on.
#[derive(Debug)]
pub enum Begin {
    /// Read the state now, then [`LocalRead::confirm`].
    Local(LocalRead),
    /// The lease has run out: ask the peer for a read index.
    Ask,
}

/// A read under way on the caller's thread.
#[derive(Debug)]
pub struct LocalRead {
    delegate: Arc<Delegate>,
    version: u64,
    /// What the peer said when the read began.
    pub serving: Arc<Serving>,
    plant: Plant,
}

impl LocalRead {
    /// Where the read is counted.
    pub fn load(&self) -> &Load {
        self.delegate.load()
    }

    /// Whether what was read since may be answered. If not, ask the peer.
    #[must_use]
    pub fn confirm(&self, now: Mono) -> bool {
        let held = self.delegate.leased(now)
            && self.delegate.version.load(Ordering::SeqCst) == self.version;
        held || self.plant.breaks(Planted::ReadUnconfirmed)
    }
}

/// The doors of a store's regions.
#[derive(Debug, Default)]
pub struct Delegates {
    regions: DashMap<u64, Arc<Delegate>>,
    plant: Plant,
}

impl Delegates {
    pub(crate) fn planted(plant: Plant) -> Self {
        Self {
            plant,
            ..Self::default()
        }
    }

    /// The door of `region`, made if there is none.
    pub(crate) fn open(&self, region: u64) -> Arc<Delegate> {
        Arc::clone(&self.regions.entry(region).or_default())
    }

    /// Closes the door of a region that is gone.
    pub(crate) fn close(&self, region: u64) {
        if let Some((_, delegate)) = self.regions.remove(&region) {
            delegate.outdate();
            delegate.suspend();
        }
    }

    /// Whether what was read under `permit` since it was given may be answered. If not, ask again.
    #[must_use]
    pub fn confirm(&self, permit: &ReadPermit) -> bool {
        let held = self.get(permit.region.id).is_ok_and(|delegate| {
            let outlives = self.plant.breaks(Planted::PermitOutlivesChange);
            (delegate.generation() == permit.generation || outlives)
                && delegate.serving().region.region_epoch == permit.region.region_epoch
        });
        held || self.plant.breaks(Planted::ReadUnconfirmed)
    }

    /// What the peer of `region` said last.
    ///
    /// # Errors
    /// The region has no peer here, or one without data yet.
    pub fn serving(&self, region: u64) -> Result<Arc<Serving>, RequestError> {
        Ok(self.get(region)?.serving())
    }

    /// Where reads of `region` are counted, other than by its lease.
    ///
    /// # Errors
    /// The region has no peer here, or one without data yet.
    pub fn counted<T>(
        &self,
        region: u64,
        with: impl FnOnce(&Load) -> T,
    ) -> Result<T, RequestError> {
        Ok(with(self.get(region)?.load()))
    }

    /// What every peer that has data said last, in no order.
    pub fn all(&self) -> Vec<Arc<Serving>> {
        let serving = self.regions.iter().map(|entry| entry.serving());
        serving.filter(|serving| serving.peer.id != 0).collect()
    }

    /// Starts a read at the leader's lease.
    ///
    /// # Errors
    /// The request is not for this peer, this peer does not lead, or the epoch is another.
    pub fn begin(&self, context: &ReadContext, now: Mono) -> Result<Begin, RequestError> {
        let delegate = self.get(context.region)?;
        let version = delegate.version.load(Ordering::SeqCst);
        let serving = delegate.serving();
        serving.check(context)?;
        if delegate.leased(now) && serving.is_leader() {
            Ok(Begin::Local(LocalRead {
                delegate,
                version,
                serving,
                plant: self.plant,
            }))
        } else {
            Ok(Begin::Ask)
        }
    }

    fn get(&self, region: u64) -> Result<Arc<Delegate>, RequestError> {
        let delegate = self.regions.get(&region).map(|entry| Arc::clone(&entry));
        let delegate = delegate.ok_or(RequestError::RegionNotFound { region })?;
        if delegate.serving.load().peer.id == 0 {
            return Err(RequestError::NotInitialized { region });
        }
        Ok(delegate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving(version: u64, leader: u64) -> Serving {
        let epoch = RegionEpoch {
            conf_ver: 1,
            version,
        };
        Serving {
            region: Region {
                id: 3,
                region_epoch: Some(epoch),
                ..Region::default()
            },
            peer: Peer {
                id: 4,
                store_id: 1,
                ..Peer::default()
            },
            leader: Some(Peer {
                id: leader,
                store_id: 1,
                ..Peer::default()
            }),
            term: 8,
            siblings: vec![],
        }
    }

    fn context() -> ReadContext {
        ReadContext {
            region: 3,
            peer: 4,
            epoch: Some(RegionEpoch {
                conf_ver: 9,
                version: 2,
            }),
            term: 0,
            replica: false,
        }
    }

    /// begin, `change`, confirm.
    #[track_caller]
    fn check(change: impl FnOnce(&Delegate), confirmed: bool) {
        let delegates = Delegates::default();
        let delegate = delegates.open(3);
        delegate.publish(serving(2, 4));
        delegate.renew(Mono(100));
        let Ok(Begin::Local(read)) = delegates.begin(&context(), Mono(50)) else {
            panic!("a leader with a lease serves locally")
        };
        change(&delegate);
        assert_eq!(read.confirm(Mono(60)), confirmed);
    }

    #[test]
    fn a_read_counts_only_if_nothing_moved_under_it() {
        check(|_| {}, true);
        check(|delegate| delegate.renew(Mono(200)), true);
        check(|delegate| delegate.renew(Mono(55)), false);
        check(Delegate::suspend, false);
        check(
            |delegate| {
                delegate.publish(serving(3, 4));
                delegate.renew(Mono(100));
            },
            false,
        );
        check(
            |delegate| {
                delegate.suspend();
                delegate.renew(Mono(100));
            },
            false,
        );
    }

    #[test]
    fn requests_are_checked_in_the_order_of_the_protocol() {
        let refused = |change: fn(&mut ReadContext), leader| {
            let mut context = context();
            change(&mut context);
            serving(2, leader)
                .check(&context)
                .map_err(|error| error.to_string())
        };
        assert_eq!(refused(|_| {}, 4), Ok(()));
        assert_eq!(refused(|c| c.replica = true, 9), Ok(()));
        assert_eq!(refused(|c| c.term = 7, 4), Ok(()));
        assert_eq!(refused(|c| c.term = u64::MAX, 4), Ok(()));
        let text = |result: Result<(), String>| result.expect_err("refused");
        assert!(text(refused(|c| c.peer = 5, 9)).contains("names peer 5, this store has peer 4"));
        assert!(text(refused(|c| c.term = 1, 9)).contains("not leader"));
        assert!(text(refused(|c| c.term = 6, 4)).contains("stale"));
        assert!(text(refused(|c| c.epoch = None, 4)).contains("names no region epoch"));
        for version in [1, 3] {
            let mut context = context();
            context.epoch = Some(RegionEpoch {
                conf_ver: 1,
                version,
            });
            let error = serving(2, 4).check(&context).expect_err("another version");
            assert!(matches!(error, RequestError::EpochNotMatch { current } if current[0].id == 3));
        }
    }

    #[test]
    fn without_a_lease_the_peer_is_asked_and_a_closed_door_is_not_found() {
        let delegates = Delegates::default();
        let delegate = delegates.open(3);
        let begin = |now| delegates.begin(&context(), Mono(now));
        assert_eq!(
            begin(1).expect_err("no data"),
            RequestError::NotInitialized { region: 3 }
        );
        delegate.publish(serving(2, 4));
        assert!(matches!(begin(1), Ok(Begin::Ask)));
        delegate.renew(Mono(10));
        assert!(matches!(begin(9), Ok(Begin::Local(_))));
        assert!(
            matches!(begin(10), Ok(Begin::Ask)),
            "a lease ends at its end"
        );
        delegates.close(3);
        assert_eq!(
            begin(1).expect_err("closed"),
            RequestError::RegionNotFound { region: 3 }
        );
    }
}
