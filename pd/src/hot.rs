//! The regions with the most load, for pages.

use flotilla_pd_plan::{HotStore, Rate, hot_stores};

use crate::internal::HotRegions;
use crate::leading::Leading;
use crate::limits::HOT_REGIONS_MAX;
use crate::reply::Cx;
use crate::view::{FlowView, HotRegionView, HotRegionsView, HotStoreView};

impl Leading {
    pub(crate) fn hot_regions(&self, cx: &Cx<'_>, request: HotRegions) -> HotRegionsView {
        let cluster = self.cluster(cx);
        let stores = self.with_balance(&cluster, |balance| {
            hot_stores(balance, request.writes, cx.now, HOT_REGIONS_MAX)
        });
        HotRegionsView {
            stores: stores.into_iter().map(store).collect(),
        }
    }
}

fn store(hot: HotStore) -> HotStoreView {
    let region = |(region_id, rate)| HotRegionView {
        region_id,
        flow: flow(rate),
    };
    HotStoreView {
        store_id: hot.store,
        total: flow(hot.total),
        regions: hot.regions.into_iter().map(region).collect(),
    }
}

fn flow(rate: Rate) -> FlowView {
    FlowView {
        bytes: rate.bytes.into(),
        keys: rate.keys.into(),
        queries: rate.queries.into(),
    }
}
