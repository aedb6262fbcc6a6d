//! A client's picture of the regions: what it was told last, right or not.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use flotilla_proto::metapb::{Region, RegionEpoch};

/// Regions by their start key.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    regions: BTreeMap<Bytes, Region>,
}

impl Routes {
    /// The region that `key`, a physical key, is believed to be in.
    pub fn find(&self, key: &[u8]) -> Option<&Region> {
        let (_, region) = self
            .regions
            .range::<[u8], _>((Bound::Unbounded, Bound::Included(key)))
            .next_back()?;
        (region.end_key.is_empty() || key < &region.end_key[..]).then_some(region)
    }

    /// Takes over a region, unless something newer is known of its range.
    pub fn learn(&mut self, region: &Region) {
        let overlaps = |known: &Region| {
            let before = |one: &Region, other: &Region| {
                !one.end_key.is_empty() && one.end_key <= other.start_key
            };
            !before(known, region) && !before(region, known)
        };
        let newer = self
            .regions
            .values()
            .any(|known| overlaps(known) && version(known) > version(region));
        if !newer {
            self.regions.retain(|_, known| !overlaps(known));
            self.regions
                .insert(region.start_key.clone(), region.clone());
        }
    }

    /// Forgets the region `id`: it is not where it was believed to be.
    pub fn forget(&mut self, id: u64) {
        self.regions.retain(|_, region| region.id != id);
    }

    /// Regions known.
    pub fn all(&self) -> impl Iterator<Item = &Region> {
        self.regions.values()
    }
}

fn version(region: &Region) -> u64 {
    region
        .region_epoch
        .map_or(0, |RegionEpoch { version, .. }| version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(id: u64, start: &'static str, end: &'static str, version: u64) -> Region {
        Region {
            id,
            start_key: start.into(),
            end_key: end.into(),
            region_epoch: Some(RegionEpoch {
                conf_ver: 1,
                version,
            }),
            ..Region::default()
        }
    }

    #[test]
    fn newer_regions_replace_what_they_overlap_and_older_ones_nothing() {
        let mut routes = Routes::default();
        let find = |routes: &Routes, key: &str| routes.find(key.as_bytes()).map(|region| region.id);
        routes.learn(&region(3, "", "", 1));
        assert_eq!(find(&routes, "x"), Some(3));
        routes.learn(&region(10, "", "m", 2));
        assert_eq!((find(&routes, "a"), find(&routes, "x")), (Some(10), None));
        routes.learn(&region(3, "m", "", 2));
        routes.learn(&region(3, "", "", 1));
        assert_eq!(
            (find(&routes, "a"), find(&routes, "m")),
            (Some(10), Some(3))
        );
        routes.forget(10);
        assert_eq!(find(&routes, "a"), None);
    }
}
