//! A state database as small as it can be, and the applying of modifications to it.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use flotilla_engine::row::{Expiry, droppable};
use flotilla_engine::{Cf, DATA_CFS, KeyRange, Result, StateReader};
use flotilla_proto::metapb::Region;
use flotilla_proto::store::{Mod, ModKind};

#[derive(Default)]
pub(crate) struct State {
    /// `default`, `lock`, `write`.
    cfs: [BTreeMap<Bytes, Bytes>; DATA_CFS.len()],
}

impl State {
    /// Does what the apply machine of `region` does.
    pub(crate) fn apply(&mut self, region: &Region, mods: &[Mod]) {
        for change in mods {
            assert!(
                change.key >= region.start_key,
                "outside the region: {change:?}"
            );
            assert!(
                region.end_key.is_empty() || change.key < region.end_key,
                "outside: {change:?}"
            );
            let rows = &mut self.cfs[change.cf as usize];
            match change.kind() {
                ModKind::Put => _ = rows.insert(change.key.clone(), change.value.clone()),
                ModKind::Delete => _ = rows.remove(&change.key),
                ModKind::DeleteRange => {
                    let end = if change.value.is_empty() {
                        &region.end_key
                    } else {
                        &change.value
                    };
                    rows.retain(|key, _| *key < change.key || (!end.is_empty() && *key >= *end));
                }
            }
        }
    }

    /// Drops what a compaction may drop.
    pub(crate) fn compact(&mut self, expiry: &Expiry) {
        for cf in DATA_CFS {
            self.cfs[cf as usize].retain(|key, stored| !droppable(expiry, cf, key, stored));
        }
    }

    /// Overwrites what is stored.
    pub(crate) fn damage(&mut self, cf: Cf, physical: Bytes, stored: Bytes) {
        self.cfs[cf as usize].insert(physical, stored);
    }
}

impl StateReader for State {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.cfs[cf as usize].get(key).cloned())
    }

    fn scan(
        &self,
        cf: Cf,
        range: KeyRange<'_>,
        reverse: bool,
        row: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        let end = match range.end {
            [] => Bound::Unbounded,
            end => Bound::Excluded(end),
        };
        let mut rows = self.cfs[cf as usize].range::<[u8], _>((Bound::Included(range.start), end));
        while let Some((key, value)) = if reverse {
            rows.next_back()
        } else {
            rows.next()
        } {
            if !row(key, value) {
                break;
            }
        }
        Ok(())
    }
}
