//! Replicas that have applied the same hold the same.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_engine::memory::MemoryState;
use flotilla_engine::row;
use flotilla_engine::{Cf, KeyRange, StateBatch, StateOp, StateReader, StateStore, StoredRegion};
use flotilla_proto::metapb::Region;
use flotilla_proto::store::PeerState;
use flotilla_raftstore::region::{META_REGION, overlap};

use super::{Oracle, StoreSeen};
use crate::disk::WatchedState;
use crate::rules::Rule;
use crate::trace::digest;

type Rows = BTreeMap<(i32, Bytes), Bytes>;

/// Replicas are compared whenever they come to rest at a multiple of so many entries.
const COMPARED_EVERY: u64 = 16;
/// Of each region so many digests are kept.
const DIGESTS_MAX: usize = 64;

/// By region and applied index: what the first replica held there, and where.
#[derive(Debug, Default)]
pub struct Digests(BTreeMap<u64, BTreeMap<u64, (u64, u64)>>);

impl Digests {
    /// A store holds this of a region at an index. Answers the store that held something else there;
    /// `None`: nobody else was there.
    fn compare(
        &mut self,
        store: u64,
        (region, index): (u64, u64),
        digest: u64,
    ) -> Option<Option<u64>> {
        let of_region = self.0.entry(region).or_default();
        let (first, by) = *of_region.entry(index).or_insert((digest, store));
        if of_region.len() > DIGESTS_MAX {
            of_region.pop_first();
        }
        (by != store).then(|| (first != digest).then_some(by))
    }
}

impl Oracle {
    /// A batch was written to the state of `store`: replicas that have got as far as it hold the same.
    pub(super) fn compare_replicas(&mut self, store: u64, batch: &StateBatch, state: &MemoryState) {
        for op in &batch.ops {
            let StateOp::PutApplied { region, record } = op else {
                continue;
            };
            let seen = &self.stores[&store];
            let whole =
                seen.replacing.is_empty() && seen.applied.get(region) == Some(&record.index);
            if !whole || !record.index.is_multiple_of(COMPARED_EVERY) {
                continue;
            }
            let Some(shape) = self.model.shape(*region, record.index) else {
                continue;
            };
            let place = (*region, record.index);
            let held = rows(state, shape);
            let text: Vec<u8> = held
                .iter()
                .flat_map(|((cf, key), value)| {
                    let lengths = [key.len() as u64, value.len() as u64].map(u64::to_be_bytes);
                    [&cf.to_be_bytes(), &lengths.concat()[..], key, value].concat()
                })
                .collect();
            let Some(other) = self.digests.compare(store, place, digest(&text)) else {
                continue;
            };
            self.checks.check(Rule::ReplicasAgree, other.is_none(), || {
                format!(
                    "region {region} at {}: stores {store} and {other:?} differ; here are {held:?}",
                    record.index
                )
            });
        }
    }

    /// Two stores hold the same of every region that both have applied equally far: its descriptor and
    /// its rows, byte for byte, unless a snapshot is being put in place there. Rows that expire may be dropped
    /// here and not there.
    pub fn check_replicas(&mut self, one: (u64, &WatchedState), other: (u64, &WatchedState)) {
        let regions = |state: &WatchedState| -> BTreeMap<u64, StoredRegion> {
            let stored = state.regions().unwrap_or_default();
            stored
                .into_iter()
                .filter(|stored| stored.record.state() != PeerState::Tombstone)
                .filter_map(|stored| Some((stored.record.region.as_ref()?.id, stored)))
                .collect()
        };
        let (ours, theirs) = (regions(one.1), regions(other.1));
        for (id, our) in ours {
            let Some(their) = theirs.get(&id) else {
                continue;
            };
            let (Some(region), Some(same)) = (&our.record.region, &their.record.region) else {
                continue;
            };
            let stores = [one.0, other.0].map(|store| self.stores.get(&store));
            let changing = |seen: &StoreSeen| {
                let mut changing = seen.replacing.iter();
                changing.any(|((other, _), range)| *other == id || overlap(range, region))
            };
            if our.applied != their.applied || stores.into_iter().flatten().any(changing) {
                continue;
            }
            let (here, there) = (rows(one.1, region), rows(other.1, region));
            let equal = region == same && here == there;
            self.checks.check(Rule::ReplicasAgree, equal, || {
                let differs = here.iter().find(|(key, value)| there.get(key) != Some(value));
                format!(
                    "region {id} at {:?}: stores {} and {} differ, at {differs:?}: {region:?}, {same:?}",
                    our.applied, one.0, other.0
                )
            });
        }
    }
}

/// What a state holds of a region, but for rows that expire.
fn rows(state: &impl StateReader, region: &Region) -> Rows {
    let families = match region.id {
        META_REGION => &[Cf::CfMeta][..],
        _ => &[Cf::CfDefault, Cf::CfLock, Cf::CfWrite][..],
    };
    let range = KeyRange {
        start: &region.start_key,
        end: &region.end_key,
    };
    let mut rows = Rows::new();
    for cf in families {
        let scanned = state.scan(*cf, range, false, &mut |key, value| {
            let expires = row::decode(value).is_ok_and(|row| row.expiry.is_some());
            if *cf == Cf::CfMeta || !expires {
                let place = (*cf as i32, Bytes::copy_from_slice(key));
                rows.insert(place, Bytes::copy_from_slice(value));
            }
            true
        });
        scanned.expect("a state in memory is always read");
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_one_index_are_compared_across_stores() {
        let mut digests = Digests::default();
        assert_eq!(digests.compare(1, (3, 16), 7), None);
        assert_eq!(digests.compare(1, (3, 16), 7), None, "a replay");
        assert_eq!(digests.compare(2, (3, 16), 7), Some(None));
        assert_eq!(digests.compare(2, (3, 16), 8), Some(Some(1)));
        assert_eq!(digests.compare(2, (3, 32), 8), None);
        assert_eq!(digests.compare(2, (5, 16), 8), None);
    }
}
