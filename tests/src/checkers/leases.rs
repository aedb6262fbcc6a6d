//! Leases over all stores: at no moment may two stores serve local reads of one key.

use std::collections::BTreeMap;

use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::Region;
use flotilla_raftstore::region::{META_REGION, overlap};

use super::Oracle;
use crate::rules::Rule;

/// A lease as it was last seen.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Its end, on the clock of its store.
    pub until: Mono,
    /// What it lets read.
    pub region: Region,
}

/// Leases by store and region, as last seen.
pub type Leases = BTreeMap<(u64, u64), Lease>;

impl Oracle {
    /// The peer of `region` on `store` may serve local reads, or may not, at `now` of its clock. Answers
    /// whether it may anew: then nobody else may.
    pub fn leased(&mut self, store: u64, region: &Region, now: Mono, until: Option<Mono>) -> bool {
        let place = (store, region.id);
        let Some(until) = until else {
            self.leases.remove(&place);
            return false;
        };
        if let Some(lease) = self.leases.get_mut(&place)
            && lease.region == *region
        {
            let lapsed = lease.until <= now;
            lease.until = until;
            return lapsed;
        }
        let region = region.clone();
        self.leases.insert(place, Lease { until, region });
        true
    }

    /// A peer has got a lease; these others have one now, each by its own clock.
    pub fn check_lease_alone(&mut self, store: u64, region: &Region, others: &[(u64, Region)]) {
        let both = |other: &&(u64, Region)| {
            let meta = [region.id, other.1.id].map(|id| id == META_REGION);
            match meta {
                [false, false] => overlap(region, &other.1),
                [one, two] => one && two,
            }
        };
        let other = others.iter().find(both);
        self.checks.check(Rule::OneLease, other.is_none(), || {
            format!("store {store} may read {region:?} locally, and so may another: {other:?}")
        });
    }

    /// A peer was elected in the newest term: no other may have a lease on its keys. The elected one may
    /// still have to apply a split: what that made has a newer version.
    pub fn check_elected_alone(&mut self, store: u64, region: &Region, others: &[(u64, Region)]) {
        let version = |region: &Region| region.region_epoch.unwrap_or_default().version;
        let in_its_way = |leased: &Region| {
            leased.id == region.id
                || (![leased.id, region.id].contains(&META_REGION)
                    && overlap(region, leased)
                    && version(leased) <= version(region))
        };
        let other = others.iter().find(|(_, leased)| in_its_way(leased));
        self.checks.check(Rule::OneLease, other.is_none(), || {
            format!(
                "store {store} is elected for {region:?}, and another may read locally: {other:?}"
            )
        });
    }

    /// A process is gone, and its leases with it.
    pub fn leases_end(&mut self, store: u64) {
        self.leases.retain(|(of, _), _| *of != store);
    }
}
