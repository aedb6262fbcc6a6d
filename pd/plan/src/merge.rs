//! Small neighbours become one.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::clock::Mono;

use crate::moves::moves;
use crate::operator::{Kind, Operator, Reason, Step};
use crate::regions::{Record, Regions};
use crate::view::{Cluster, Health, Region};

/// A target and what is merged into it are together at most so many times as large as a region that
/// is merged: well below the size at which regions split.
const TOGETHER: u64 = 4;

/// Which regions merge.
#[derive(Clone, Copy)]
pub struct MergeLimits<'a> {
    /// A larger one does not: bytes.
    pub bytes_max: u64,
    /// Nor one of more keys.
    pub keys_max: u64,
    /// Nor one whose range changed less long ago.
    pub rest: Duration,
    /// Now.
    pub now: Mono,
    /// Into this one, whichever is smaller; `None`: into the smaller one.
    pub only: Option<u64>,
    /// Regions are to meet at this key for ever.
    pub fence: &'a dyn Fn(&Bytes) -> bool,
}

impl std::fmt::Debug for MergeLimits<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MergeLimits")
            .field("bytes_max", &self.bytes_max)
            .field("keys_max", &self.keys_max)
            .field("rest", &self.rest)
            .finish_non_exhaustive()
    }
}

/// Merges region `id` into the smaller of its neighbours, if both are small, well, and old enough;
/// its peers go to the neighbour's stores before. Neither may be in `besides`.
pub fn check_merge(
    cluster: &Cluster,
    regions: &Regions,
    id: u64,
    besides: &BTreeSet<u64>,
    limits: &MergeLimits<'_>,
) -> Option<Operator> {
    let record = regions.by_id(id)?;
    if record.size > limits.bytes_max || record.keys > limits.keys_max {
        return None;
    }
    let fit = |record: &Record| {
        !record.fixed
            && limits.now - record.born >= limits.rest
            && record.is_plain()
            && !record.has_pending()
            && !besides.contains(&record.id)
    };
    if !fit(record) {
        return None;
    }
    let fits_in = |target: &&Record| {
        // Where the two meet.
        let first = (&record.start).max(&target.start);
        target.size.saturating_add(record.size) <= limits.bytes_max.saturating_mul(TOGETHER)
            && target.keys.saturating_add(record.keys) <= limits.keys_max.saturating_mul(TOGETHER)
            && target.members.len() == record.members.len()
            && cluster.placement.is_even_at(first)
            && !(limits.fence)(first)
            && fit(target)
    };
    let wanted = |target: &&Record| limits.only.is_none_or(|only| only == target.id);
    let targets = regions.neighbours(record).into_iter().flatten();
    let targets = targets.filter(wanted);
    let target = targets.filter(fits_in).min_by_key(|target| target.size)?;
    let (region, target) = (regions.full(record), regions.full(target));
    let steady = |region: &Region| {
        let fine = |peer| cluster.health(region, peer) == Health::Fine;
        region.leader.is_some()
            && region.peers.len() == cluster.voters_wanted(region)
            && region.peers.iter().all(fine)
    };
    if !steady(&region) || !steady(&target) {
        return None;
    }
    let (here, there) = (&region.peers, &target.peers);
    let leaves = here
        .iter()
        .filter(|peer| target.on(peer.store_id).is_none());
    let comes = there
        .iter()
        .filter(|peer| region.on(peer.store_id).is_none());
    let pairs: Vec<(u64, u64)> = leaves
        .zip(comes)
        .map(|(from, to)| (from.store_id, to.store_id))
        .collect();
    let fit = |(_, to): &(u64, u64)| cluster.takes_peer(*to, &region).is_ok();
    if !pairs.iter().all(fit) {
        return None;
    }
    let (mut steps, _) = moves(cluster, &region, pairs);
    let reason = Reason::Small {
        target: target.id,
        bytes: region.size,
        keys: region.keys,
    };
    steps.push(Step::Merge { target: target.id });
    Some(region.operator(Kind::Merge, reason, steps))
}
