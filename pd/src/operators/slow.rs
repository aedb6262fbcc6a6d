//! A store that answers slowly leads nothing for a while.

use flotilla_pd_plan::StoreState;

use crate::leading::Leading;
use crate::limits::{SLOW_SCORE, SLOW_SCORE_OVER};
use crate::reply::Cx;
use crate::schedulers::Scheduler;

impl Leading {
    /// One store at most: were several slow, their leaders would only go from one to the other.
    pub(crate) fn watch_slow_stores(&mut self, cx: &Cx<'_>) {
        if !self.schedules(cx.now, Scheduler::SlowStore) {
            self.slow = None;
            return;
        }
        let score = |store: u64| {
            let up = self
                .durable
                .stores
                .get(&store)
                .is_some_and(|store| self.store_state(cx, store) == StoreState::Up);
            let report = self.reports.get(&store).filter(|_| up);
            report.map(|report| report.stats.slow_score)
        };
        if let Some(store) = self.slow {
            // One that says nothing may still be slow.
            let over = score(store).is_some_and(|score| score <= SLOW_SCORE_OVER);
            let known = self.durable.stores.get(&store);
            let gone = known.is_none_or(crate::stores::is_tombstone);
            if over || gone {
                self.slow = None;
            }
            return;
        }
        let stores = self.reports.keys().copied();
        let scored = stores.filter_map(|store| Some((score(store)?, store)));
        let up = scored.clone().count();
        let worst = scored.max_by_key(|(score, store)| (*score, u64::MAX - store));
        let slow = worst.filter(|(score, _)| *score >= SLOW_SCORE && up > 1);
        self.slow = slow.map(|(_, store)| store);
    }
}
