//! Scattering: regions of a group spread over the stores, as far as that goes now.

use std::collections::{BTreeMap, VecDeque};

use flotilla_pd_plan::{Group, Kind, Operator, Reason, scatter};
use flotilla_proto::pdpb::{ScatterRegionRequest, ScatterRegionResponse};

use crate::leading::Leading;
use crate::limits::{SCATTER_GROUPS_MAX, SCATTER_MAX};
use crate::reply::{Answer, Cx, Refusal};

/// Who waits for being scattered, and what each group got so far.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<(u64, String)>,
    groups: BTreeMap<String, Group>,
}

impl Leading {
    /// Best effort (wire, section 3.7): the regions are scattered one after the other, and
    /// `GetOperator` shows those that are under way.
    pub(crate) fn scatter_regions(
        &mut self,
        cx: &mut Cx<'_>,
        request: &ScatterRegionRequest,
    ) -> Answer<ScatterRegionResponse> {
        self.check_bootstrapped()?;
        let mut regions = request.regions_id.clone();
        if regions.is_empty() {
            // The deprecated way to name one.
            let one = request.region.as_ref().map_or(0, |region| region.id);
            regions.push(if request.region_id == 0 {
                one
            } else {
                request.region_id
            });
        }
        if regions.len() > SCATTER_MAX {
            let text = format!("at most {SCATTER_MAX} regions are scattered at once");
            return Err(Refusal::unknown(text));
        }
        self.want_scattered(&regions, &request.group);
        self.serve_scatter(cx);
        Ok(ScatterRegionResponse {
            finished_percentage: 100,
            ..ScatterRegionResponse::default()
        })
    }

    pub(crate) fn want_scattered(&mut self, regions: &[u64], group: &str) {
        let queue = &mut self.operators.scatter;
        for region in regions {
            if *region != 0 && queue.waiting.len() < SCATTER_MAX {
                queue.waiting.push_back((*region, group.to_owned()));
            }
        }
    }

    /// Scatters those that can be now; the first that has to wait holds up the others.
    pub(crate) fn serve_scatter(&mut self, cx: &mut Cx<'_>) {
        let scatters = |one: &Operator| matches!(one.reason, Reason::Scatter { .. });
        let most = self.settings.schedule.region_moves_max;
        while self.operators.count(scatters) < most
            && let Some((region, name)) = self.operators.scatter.waiting.pop_front()
        {
            if self.operators.is_taken(region) {
                continue;
            }
            let Some(route) = self.routes.get(region) else {
                continue;
            };
            let view = route.for_planning();
            let cluster = self.cluster(cx);
            let groups = &mut self.operators.scatter.groups;
            if !groups.contains_key(&name) && groups.len() >= SCATTER_GROUPS_MAX {
                groups.pop_first();
            }
            let before = groups.entry(name.clone()).or_default().clone();
            let group = groups.entry(name.clone()).or_default();
            let Some(plan) = scatter(&cluster, &view, group) else {
                continue;
            };
            debug_assert_eq!(plan.kind, Kind::Admin);
            if !self.admits(&plan) || !self.start_operator(cx, plan) {
                let queue = &mut self.operators.scatter;
                queue.groups.insert(name.clone(), before);
                queue.waiting.push_front((region, name));
                return;
            }
            // Balancing comes when the group has been filled.
            let until = cx.now + self.settings.schedule.asked_rest;
            self.operators.pinned.insert(region, until);
        }
    }
}
