//! The regions with the most load.

use crate::internal::HotRegions;
use crate::leading::Leading;
use crate::reply::Cx;
use crate::view::HotRegionsView;

impl Leading {
    pub(crate) fn hot_regions(&self, _cx: &Cx<'_>, _request: HotRegions) -> HotRegionsView {
        HotRegionsView { stores: Vec::new() }
    }
}
