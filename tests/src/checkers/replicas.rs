//! Replicas that have applied the same hold the same.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_engine::row;
use flotilla_engine::{Cf, KeyRange, StateReader, StateStore, StoredRegion};
use flotilla_proto::metapb::Region;
use flotilla_proto::store::PeerState;
use flotilla_raftstore::region::META_REGION;

use super::Oracle;
use crate::disk::WatchedState;
use crate::rules::Rule;

type Rows = BTreeMap<(i32, Bytes), Bytes>;

impl Oracle {
    /// Two stores hold the same of every region that both have applied equally far: its descriptor and
    /// its rows, byte for byte. Rows that expire may be dropped here and not there.
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
            if our.applied != their.applied {
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
fn rows(state: &WatchedState, region: &Region) -> Rows {
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
