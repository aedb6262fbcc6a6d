//! Whoever watches the store: the log, the metrics, and the observers of a program that has a node in
//! it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwap;
use flotilla_raftstore::events::{Happened, RegionEvent};

use crate::metrics::StoreMetrics;

/// Is told what happens to the regions of a store, after the fact.
pub trait RegionObserver: Send + Sync {
    /// Something happened. Called on the thread of the raft machines: it must not block.
    fn happened(&self, event: &RegionEvent);
}

impl<F: Fn(&RegionEvent) + Send + Sync> RegionObserver for F {
    fn happened(&self, event: &RegionEvent) {
        self(event);
    }
}

/// All observers of a store.
#[derive(Default)]
pub struct Watchers {
    observers: ArcSwap<Vec<Arc<dyn RegionObserver>>>,
}

impl std::fmt::Debug for Watchers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Watchers")
            .field(&self.observers.load().len())
            .finish()
    }
}

impl Watchers {
    /// From now on `observer` is told what happens, until the store is gone.
    pub fn add(&self, observer: Arc<dyn RegionObserver>) {
        self.observers.rcu(|observers| {
            let mut more = Vec::clone(observers);
            more.push(Arc::clone(&observer));
            more
        });
    }

    /// Counts, logs, and tells all observers.
    pub(super) fn tell(&self, event: &RegionEvent, metrics: &StoreMetrics) {
        let region = event.region;
        let counter = match &event.what {
            Happened::LeaderChanged { leader, term } => {
                let store = leader.map(|leader| leader.store_id);
                tracing::debug!(region, store, term, "the leader changed");
                &metrics.leader_changes
            }
            Happened::TermChanged { term } => {
                tracing::debug!(region, term, "the term changed");
                &metrics.term_changes
            }
            Happened::PeerAdded { peer } => {
                tracing::info!(
                    region,
                    peer = peer.id,
                    store = peer.store_id,
                    "a peer was added"
                );
                &metrics.peers_added
            }
            Happened::PeerRemoved { peer } => {
                tracing::info!(
                    region,
                    peer = peer.id,
                    store = peer.store_id,
                    "a peer was removed"
                );
                &metrics.peers_removed
            }
            // The transport has told and counted it.
            Happened::SnapshotSent { .. } => &metrics.snapshots_reported,
            Happened::SnapshotApplied { index } => {
                tracing::info!(region, index, "a snapshot was applied");
                &metrics.snapshots_applied
            }
            Happened::HeartbeatLate { leader, silent } => {
                let store = leader.store_id;
                tracing::debug!(region, store, ?silent, "the leader's heartbeat was late");
                &metrics.heartbeats_late
            }
        };
        counter.increment(1);
        for observer in self.observers.load().iter() {
            observer.happened(event);
        }
    }
}

/// Snapshots that are under way, for PD.
#[derive(Debug, Default)]
pub struct SnapshotCounts {
    /// To other stores.
    pub sending: Underway,
    /// From other stores.
    pub receiving: Underway,
    /// Being put in place.
    pub applying: Underway,
}

/// How many of something are under way.
#[derive(Debug, Default)]
pub struct Underway(AtomicU32);

impl Underway {
    /// One more, until the answer is dropped.
    pub fn begin(&self) -> Begun<'_> {
        self.more();
        Begun(self)
    }

    /// How many.
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn more(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn less(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One that is under way.
#[derive(Debug)]
pub struct Begun<'a>(&'a Underway);

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.0.less();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn observers_are_told_what_is_counted() {
        let metrics = crate::metrics::Metrics::new();
        let watchers = Watchers::default();
        let told = Arc::new(Mutex::new(Vec::new()));
        let event = |region| RegionEvent {
            region,
            what: Happened::TermChanged { term: 6 },
        };
        watchers.tell(&event(1), &metrics.store);
        let heard = Arc::clone(&told);
        watchers.add(Arc::new(move |event: &RegionEvent| {
            heard.lock().expect("no panic").push(*event);
        }));
        watchers.tell(&event(2), &metrics.store);
        assert_eq!(*told.lock().expect("no panic"), [event(2)]);
        let text = metrics.render();
        assert!(
            text.contains("flotilla_region_term_changes_total 2"),
            "{text}"
        );
    }

    #[test]
    fn what_is_under_way_is_counted_until_it_ends() {
        let counts = SnapshotCounts::default();
        let (one, two) = (counts.sending.begin(), counts.sending.begin());
        assert_eq!((counts.sending.get(), counts.receiving.get()), (2, 0));
        drop((one, two));
        assert_eq!(counts.sending.get(), 0);
    }
}
