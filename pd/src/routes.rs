//! Which region holds which keys, and who leads it: the view that heartbeats paint.
//!
//! In memory only. A region's epoch never goes back (faults, invariant 31), also when it left the
//! view in between; of two regions that claim a key the one with the newer version stays.

use std::collections::BTreeMap;
use std::ops::{Add, Bound, Sub};

use bytes::Bytes;
use flotilla_pd_plan::{self as plan, Flow, Rate};
use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::{Peer, Region, RegionEpoch};
use flotilla_proto::pdpb;

use crate::limits::EPOCH_FLOORS_MAX;

/// What is known of a region.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Route {
    /// Invariant in the view: has an epoch and at least one peer, and start < end.
    pub(crate) region: Region,
    pub(crate) leader: Option<Peer>,
    /// The leader's term; 0 if unknown.
    pub(crate) term: u64,
    pub(crate) down_peers: Vec<pdpb::PeerStats>,
    pub(crate) pending_peers: Vec<Peer>,
    pub(crate) bytes_written: u64,
    pub(crate) bytes_read: u64,
    pub(crate) keys_written: u64,
    pub(crate) keys_read: u64,
    /// Bytes.
    pub(crate) approximate_size: u64,
    pub(crate) approximate_keys: u64,
    /// Queries since the report before: reads and writes, where stores count them.
    pub(crate) queries: [u64; 2],
    /// What is read and written per second, on average; kept by [`Routes::report`], as are the two
    /// below.
    pub(crate) flow: Flow,
    /// When it was reported.
    pub(crate) at: Mono,
    /// When its range was first seen as it is.
    pub(crate) born: Mono,
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// Older than what is known: ignored.
    Stale,
    /// It contradicts `known`, which has the same version: ignored.
    Conflict { known: u64 },
    /// Now in the view.
    Taken { moved: bool },
}

/// The view.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    by_id: BTreeMap<u64, Route>,
    /// Invariant: exactly the regions of `by_id`, none overlapping another.
    by_start: BTreeMap<Bytes, u64>,
    /// The highest epoch seen of regions that left the view.
    floors: BTreeMap<u64, RegionEpoch>,
    /// Maximal ranges that no region covers.
    holes: usize,
    /// What the regions of `by_id` add up to, by store.
    loads: BTreeMap<u64, Load>,
    /// The same regions as planners see them.
    planned: plan::Regions,
}

/// What a store's regions add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) leaders: u64,
    pub(crate) leader_mib: u64,
    pub(crate) regions: u64,
    pub(crate) region_mib: u64,
}

impl Route {
    /// Its members stay as they are.
    pub(crate) fn is_steady(&self) -> bool {
        use flotilla_proto::metapb::PeerRole::{DemotingVoter, IncomingVoter};
        let mut peers = self.region.peers.iter();
        !peers.any(|peer| matches!(peer.role(), IncomingVoter | DemotingVoter))
    }

    pub(crate) fn epoch(&self) -> RegionEpoch {
        self.region.region_epoch.unwrap_or_default()
    }

    pub(crate) fn holds(&self, key: &[u8]) -> bool {
        self.region.start_key <= key && before_end(key, &self.region.end_key)
    }

    /// Of the same range: whether it is no news beside `known`.
    pub(crate) fn is_older(&self, known: &Self) -> bool {
        let (epoch, floor) = (self.epoch(), known.epoch());
        epoch.version < floor.version
            || epoch.conf_ver < floor.conf_ver
            || (epoch == floor && self.term != 0 && self.term < known.term)
    }

    /// The same range was reported before: load since then comes to the average.
    fn goes_on(&mut self, before: &Self, now: Mono) {
        let rate = |bytes: u64, keys: u64, queries: u64| Rate {
            bytes: bytes as f32,
            keys: keys as f32,
            queries: queries as f32,
        };
        let [reads, writes] = self.queries;
        let amount = Flow {
            read: rate(self.bytes_read, self.keys_read, reads),
            written: rate(self.bytes_written, self.keys_written, writes),
        };
        self.flow = before.flow.after(now - before.at, amount);
        (self.at, self.born) = (now, before.born);
    }

    /// Bytes written, bytes read, keys written, keys read, since the report before.
    pub(crate) fn flows(&self) -> [u64; 4] {
        let Self {
            bytes_written,
            bytes_read,
            keys_written,
            keys_read,
            ..
        } = self;
        [*bytes_written, *bytes_read, *keys_written, *keys_read]
    }

    /// Rounded down, but a region that holds something is never nothing: schedulers weigh it.
    pub(crate) fn size_mib(&self) -> u64 {
        let some = u64::from(self.approximate_size > 0);
        (self.approximate_size >> 20).max(some)
    }
}

/// Whether `key` lies before the exclusive end `end`; an empty end is beyond every key.
pub(crate) fn before_end(key: &[u8], end: &[u8]) -> bool {
    end.is_empty() || key < end
}

impl Routes {
    pub(crate) fn new() -> Self {
        Self {
            holes: 1,
            ..Self::default()
        }
    }

    /// Takes a region as its leader reports it. The caller has checked the route's invariant.
    pub(crate) fn report(&mut self, mut route: Route, now: Mono) -> Report {
        let (id, epoch) = (route.region.id, route.epoch());
        let floor = self
            .by_id
            .get(&id)
            .map(Route::epoch)
            .or_else(|| self.floors.get(&id).copied());
        if floor
            .is_some_and(|floor| epoch.version < floor.version || epoch.conf_ver < floor.conf_ver)
        {
            return Report::Stale;
        }
        let mut moved = true;
        if let Some(known) = self
            .by_id
            .get(&id)
            .filter(|known| known.epoch().version == epoch.version)
        {
            if known.region.start_key != route.region.start_key
                || known.region.end_key != route.region.end_key
            {
                return Report::Conflict { known: id };
            }
            if route.is_older(known) {
                return Report::Stale;
            }
            moved = false;
        }
        if moved {
            let overlapped = self.overlapping(&route.region);
            for other in &overlapped {
                let version = self.by_id[other].epoch().version;
                if *other != id && version > epoch.version {
                    return Report::Stale;
                }
                if *other != id && version == epoch.version {
                    return Report::Conflict { known: *other };
                }
            }
            for other in overlapped {
                self.remove(other);
            }
            self.remove(id);
            (route.at, route.born) = (now, now);
            self.planned.put(&route.for_planning(), now);
            self.insert(route);
        } else {
            if let Some(before) = self.by_id.get(&id) {
                route.goes_on(before, now);
            }
            self.planned.put(&route.for_planning(), now);
            self.weigh(&route, Add::add);
            if let Some(before) = self.by_id.insert(id, route) {
                self.weigh(&before, Sub::sub);
            }
        }
        Report::Taken { moved }
    }

    /// Adds a region to the loads, or takes it away.
    fn weigh(&mut self, route: &Route, with: fn(u64, u64) -> u64) {
        let mib = route.size_mib();
        for peer in &route.region.peers {
            let load = self.loads.entry(peer.store_id).or_default();
            load.regions = with(load.regions, 1);
            load.region_mib = with(load.region_mib, mib);
        }
        if let Some(leader) = &route.leader {
            let load = self.loads.entry(leader.store_id).or_default();
            load.leaders = with(load.leaders, 1);
            load.leader_mib = with(load.leader_mib, mib);
        }
    }

    /// All regions as planners see them.
    pub(crate) fn planned(&self) -> &plan::Regions {
        &self.planned
    }

    /// What the regions on `store` add up to.
    pub(crate) fn load(&self, store: u64) -> Load {
        self.loads.get(&store).copied().unwrap_or_default()
    }

    /// Up to `count` regions by id, from `id` on; then from the first.
    pub(crate) fn patrol(&self, id: u64, count: usize) -> Vec<u64> {
        let later = self.by_id.range(id..);
        let earlier = self.by_id.range(..id);
        let ids = later.chain(earlier).map(|(id, _)| *id);
        ids.take(count).collect()
    }

    /// A region by id.
    pub(crate) fn get(&self, id: u64) -> Option<&Route> {
        self.by_id.get(&id)
    }

    /// The region that holds `key`.
    pub(crate) fn find(&self, key: &[u8]) -> Option<&Route> {
        self.at_or_before(key).filter(|route| route.holds(key))
    }

    /// The region that starts exactly at `key`.
    pub(crate) fn starting_at(&self, key: &[u8]) -> Option<&Route> {
        self.by_start.get(key).map(|id| &self.by_id[id])
    }

    /// The region that ends exactly where `route` starts.
    pub(crate) fn before(&self, route: &Route) -> Option<&Route> {
        let start = &route.region.start_key;
        self.last_before(start)
            .filter(|before| before.region.end_key == *start)
    }

    /// The regions that overlap [start, end) in key order; an empty end is unbounded.
    pub(crate) fn scan<'a>(
        &'a self,
        start: &'a [u8],
        end: &'a [u8],
    ) -> impl Iterator<Item = &'a Route> {
        let first = self
            .find(start)
            .map_or(start, |route| &route.region.start_key);
        self.by_start
            .range::<[u8], _>((Bound::Included(first), Bound::Unbounded))
            .take_while(move |(region_start, _)| before_end(region_start, end))
            .map(|(_, id)| &self.by_id[id])
    }

    /// All regions in key order.
    pub(crate) fn all(&self) -> impl ExactSizeIterator<Item = &Route> {
        self.by_start.values().map(|id| &self.by_id[id])
    }

    /// Some keys have no region.
    pub(crate) fn has_holes(&self) -> bool {
        self.holes > 0
    }

    /// Ids of regions that share keys with `region`, itself included.
    fn overlapping(&self, region: &Region) -> Vec<u64> {
        self.scan(&region.start_key, &region.end_key)
            .map(|route| route.region.id)
            .collect()
    }

    fn at_or_before(&self, key: &[u8]) -> Option<&Route> {
        self.last_up_to(Bound::Included(key))
    }

    fn last_before(&self, key: &[u8]) -> Option<&Route> {
        self.last_up_to(Bound::Excluded(key))
    }

    fn last_up_to(&self, key: Bound<&[u8]>) -> Option<&Route> {
        self.by_start
            .range::<[u8], _>((Bound::Unbounded, key))
            .next_back()
            .map(|(_, id)| &self.by_id[id])
    }

    fn first_after(&self, key: &[u8]) -> Option<&Route> {
        let range = (Bound::Excluded(key), Bound::Unbounded);
        self.by_start
            .range::<[u8], _>(range)
            .next()
            .map(|(_, id)| &self.by_id[id])
    }

    fn remove(&mut self, id: u64) {
        let Some(route) = self.by_id.remove(&id) else {
            return;
        };
        self.planned.remove(id);
        self.weigh(&route, Sub::sub);
        let start = &route.region.start_key;
        self.by_start.remove(start);
        let (left, right) = (self.last_before(start), self.first_after(start));
        let before = hole(left, Some(&route)) + hole(Some(&route), right);
        self.holes = self.holes - before + hole(left, right);
        self.floors.insert(id, route.epoch());
        if self.floors.len() > EPOCH_FLOORS_MAX {
            self.floors.pop_first();
        }
    }

    fn insert(&mut self, route: Route) {
        self.weigh(&route, Add::add);
        let start = &route.region.start_key;
        let (left, right) = (self.last_before(start), self.first_after(start));
        let after = hole(left, Some(&route)) + hole(Some(&route), right);
        self.holes = self.holes - hole(left, right) + after;
        let id = route.region.id;
        self.floors.remove(&id);
        let before = self.by_start.insert(start.clone(), id);
        assert_eq!(before, None, "two regions start at one key");
        self.by_id.insert(id, route);
    }

    /// Checks every invariant of the view from scratch.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        assert_eq!(self.by_id.len(), self.by_start.len());
        assert_eq!(self.planned.len(), self.by_id.len());
        self.planned.check();
        let mut fresh = Self::new();
        for route in self.all() {
            fresh.weigh(route, Add::add);
        }
        let all = fresh.loads.keys().chain(self.loads.keys());
        for store in all {
            assert_eq!(self.load(*store), fresh.load(*store), "store {store}");
        }
        let mut holes = 0;
        let mut reached = Some(Bytes::new());
        for route in self.all() {
            let Region {
                id,
                start_key,
                end_key,
                ..
            } = &route.region;
            let from =
                reached.unwrap_or_else(|| panic!("region {id} starts beyond the end of all keys"));
            assert!(from <= *start_key, "region {id} overlaps the one before");
            assert!(before_end(start_key, end_key), "region {id} is empty");
            holes += usize::from(from < *start_key);
            reached = (!end_key.is_empty()).then(|| end_key.clone());
            assert!(!self.floors.contains_key(id));
        }
        assert_eq!(self.holes, holes + usize::from(reached.is_some()));
    }
}

/// How many holes lie between two neighbours in key order; `None` is the edge of the key space.
fn hole(left: Option<&Route>, right: Option<&Route>) -> usize {
    let open = match (left, right) {
        (None, None) => true,
        (None, Some(right)) => !right.region.start_key.is_empty(),
        (Some(left), None) => !left.region.end_key.is_empty(),
        (Some(left), Some(right)) => left.region.end_key != right.region.start_key,
    };
    usize::from(open)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn route(id: u64, version: u64, start: &str, end: &str) -> Route {
        let region = Region {
            id,
            start_key: Bytes::copy_from_slice(start.as_bytes()),
            end_key: Bytes::copy_from_slice(end.as_bytes()),
            region_epoch: Some(RegionEpoch {
                conf_ver: 1,
                version,
            }),
            peers: vec![Peer {
                id,
                store_id: id % 3,
                ..Peer::default()
            }],
            ..Region::default()
        };
        Route {
            leader: region.peers.first().copied(),
            region,
            approximate_size: id << 20,
            ..Route::default()
        }
    }

    /// Every order of reports keeps the view's invariants; the newest regions are there at the end.
    #[test]
    fn any_order_of_reports_ends_in_the_same_view() {
        let newest = [
            route(7, 5, "", "c"),
            route(3, 4, "c", "m"),
            route(9, 4, "m", ""),
        ];
        let older = [
            route(3, 1, "", ""),
            route(7, 2, "", "a"),
            route(8, 4, "a", "c"),
        ];
        let all: Vec<&Route> = newest.iter().chain(&older).collect();
        for order in orders(all.len()) {
            let mut routes = Routes::new();
            routes.check();
            for nth in &order {
                routes.report(all[*nth].clone(), Mono(0));
                routes.check();
            }
            assert!(routes.all().eq(&newest), "{order:?}");
            assert!(!routes.has_holes());
        }
    }

    fn orders(count: usize) -> Vec<Vec<usize>> {
        let Some(last) = count.checked_sub(1) else {
            return vec![Vec::new()];
        };
        let mut all = Vec::new();
        for order in orders(last) {
            for place in 0..=last {
                let mut order = order.clone();
                order.insert(place, last);
                all.push(order);
            }
        }
        all
    }
}
