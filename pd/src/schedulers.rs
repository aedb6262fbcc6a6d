//! The planners that balance, by PD's names: paused for a while, removed and added again.

use std::time::Duration;

use flotilla_proto::clock::Mono;

use crate::call::{Call, calls};
use crate::changes::{Done, whole};
use crate::effect::RequestToken;
use crate::internal::{
    ChangeScheduler, EvictLeaders, SchedulerChange, SchedulerChanged, SchedulerError,
};
use crate::leading::Leading;
use crate::records::{self, ConfigRecord, Mod};
use crate::reply::Cx;
use crate::view::{SchedulerView, SchedulersView};

/// A planner that can be paused or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scheduler {
    Leaders,
    Regions,
    Hot,
    SlowStore,
}

impl Scheduler {
    pub(crate) const ALL: [Self; 4] = [Self::Hot, Self::Leaders, Self::Regions, Self::SlowStore];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hot => "balance-hot-region-scheduler",
            Self::Leaders => "balance-leader-scheduler",
            Self::Regions => "balance-region-scheduler",
            Self::SlowStore => "evict-slow-store-scheduler",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }
}

/// The scheduler of a store that is to have no leaders, with or without the store's id.
const EVICT_LEADER: &str = "evict-leader-scheduler";

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);

impl Leading {
    /// It is to plan now.
    pub(crate) fn schedules(&self, now: Mono, scheduler: Scheduler) -> bool {
        let paused = self.paused.get(&scheduler).is_some_and(|end| now < *end);
        !paused && !self.is_removed(scheduler)
    }

    fn is_removed(&self, scheduler: Scheduler) -> bool {
        let removed = &self.durable.config.removed_schedulers;
        removed.iter().any(|name| name == scheduler.name())
    }

    pub(crate) fn list_schedulers(&self, now: Mono) -> SchedulersView {
        let there = Scheduler::ALL
            .into_iter()
            .filter(|one| !self.is_removed(*one));
        let mut schedulers: Vec<SchedulerView> = there
            .map(|one| SchedulerView {
                name: one.name().to_owned(),
                paused_seconds: self.paused.get(&one).map_or(0, |end| {
                    if now < *end {
                        (*end - now).as_secs().max(1)
                    } else {
                        0
                    }
                }),
            })
            .collect();
        schedulers.extend(self.evicted.iter().map(|store| SchedulerView {
            name: format!("{EVICT_LEADER}-{store}"),
            paused_seconds: 0,
        }));
        SchedulersView { schedulers }
    }

    /// What changes nothing durable is done at once; the rest is planned as a change.
    pub(crate) fn plan_scheduler(
        &self,
        token: RequestToken,
        request: &ChangeScheduler,
    ) -> (Vec<Mod>, Done) {
        let (mods, result) = match Scheduler::named(&request.name) {
            Some(scheduler) => self.change_named(scheduler, request.change),
            None => {
                let name = request.name.clone();
                (Vec::new(), Err(SchedulerError::Unknown { name }))
            }
        };
        let answer = calls::ChangeScheduler::answer(SchedulerChanged(result));
        whole(token, mods, Some(answer), Vec::new())
    }

    fn change_named(
        &self,
        scheduler: Scheduler,
        change: SchedulerChange,
    ) -> (Vec<Mod>, Result<(), SchedulerError>) {
        let removed = self.is_removed(scheduler);
        let name = || scheduler.name().to_owned();
        let mut record: ConfigRecord = self.durable.config.clone();
        match change {
            SchedulerChange::Add { .. } if !removed => {
                return (Vec::new(), Err(SchedulerError::Exists { name: name() }));
            }
            SchedulerChange::Add { .. } => {
                record.removed_schedulers.retain(|other| *other != name());
            }
            SchedulerChange::Remove if removed => {
                return (Vec::new(), Err(SchedulerError::Unknown { name: name() }));
            }
            SchedulerChange::Remove => {
                record.removed_schedulers.push(name());
                record.removed_schedulers.sort();
            }
            SchedulerChange::Pause { .. } => return (Vec::new(), Ok(())),
        }
        (vec![records::put_config(&record)], Ok(()))
    }

    /// A pause, or leaders to be evicted: nothing durable. `None`: it is not one of those.
    pub(crate) fn change_scheduler_now(
        &mut self,
        cx: &Cx<'_>,
        request: &ChangeScheduler,
    ) -> Option<Result<(), SchedulerError>> {
        let name = || request.name.clone();
        if let SchedulerChange::Pause { seconds } = request.change {
            let scheduler = Scheduler::named(&request.name).filter(|one| !self.is_removed(*one));
            let Some(scheduler) = scheduler else {
                return Some(Err(SchedulerError::Unknown { name: name() }));
            };
            let pause = Duration::from_secs(seconds).min(PAUSE_MAX);
            self.paused.insert(scheduler, cx.now + pause);
            return Some(Ok(()));
        }
        let rest = request.name.strip_prefix(EVICT_LEADER)?;
        let named = rest.strip_prefix('-').and_then(|id| id.parse().ok());
        let (evict, store) = match request.change {
            SchedulerChange::Add { store } => (true, named.or(store)),
            _ => (false, named),
        };
        let known = |store: &u64| {
            let held = self.evicted.contains(store);
            if evict {
                self.durable.stores.contains_key(store)
            } else {
                held
            }
        };
        let Some(store) = store.filter(known) else {
            return Some(Err(SchedulerError::NoStore { name: name() }));
        };
        self.evict_leaders(cx, EvictLeaders { store, evict });
        Some(Ok(()))
    }
}
