//! What somebody asks for.

use flotilla_pd_plan::{Asked, Refusal, asked};

use crate::call::{Call, calls};
use crate::effect::RequestToken;
use crate::internal::{
    AddOperator, AddOperatorError, CancelOperator, EvictLeaders, LeadersEvicted, OperatorAdded,
    OperatorCancelled,
};
use crate::leading::Leading;
use crate::operators::{Cancelled, Ending};
use crate::reply::Cx;

impl Leading {
    pub(crate) fn add_operator(
        &mut self,
        cx: &mut Cx<'_>,
        token: RequestToken,
        request: AddOperator,
    ) {
        let added = OperatorAdded(self.try_add_operator(cx, request));
        cx.answer(token, calls::AddOperator::answer(added));
    }

    fn try_add_operator(
        &mut self,
        cx: &mut Cx<'_>,
        request: AddOperator,
    ) -> Result<u64, AddOperatorError> {
        let region = request.region;
        let route = self.route(region);
        let view = route.ok_or(AddOperatorError::UnknownRegion { region })?;
        let view = view.for_planning();
        let cluster = self.cluster(cx);
        let operator = match request.asked {
            Asked::Merge { target } => self
                .merge_asked(cx, &cluster, region, target)
                .ok_or(Refusal::NoMerge { target })?,
            wanted => asked(&cluster, &view, wanted, &mut self.operators.rng)?,
        };
        let into = self.operators.targets.get(&region).copied();
        if self.start_operator(cx, operator) {
            // Whoever was to be merged into the region is not any more.
            if let Some(source) = into {
                self.end_operator(cx, source, Ending::Replaced);
            }
            let until = cx.now + self.settings.schedule.asked_rest;
            self.operators.pinned.insert(region, until);
            Ok(self.operators.started)
        } else {
            Err(AddOperatorError::NoIds)
        }
    }

    pub(crate) fn cancel_operator(
        &mut self,
        cx: &mut Cx<'_>,
        request: CancelOperator,
    ) -> OperatorCancelled {
        let region = request.region;
        let running = self.operators.running.get(&region);
        let id = running.map(|running| running.id);
        self.end_operator(cx, region, Ending::Cancelled(Cancelled::Asked));
        OperatorCancelled(id)
    }

    pub(crate) fn evict_leaders(&mut self, cx: &Cx<'_>, request: EvictLeaders) -> LeadersEvicted {
        let EvictLeaders { store, evict } = request;
        if evict && self.durable.stores.contains_key(&store) {
            self.evicted.insert(store);
        } else {
            self.evicted.remove(&store);
        }
        let cluster = self.cluster(cx);
        LeadersEvicted(cluster.stores.get(&store).map(|store| store.leaders))
    }
}
