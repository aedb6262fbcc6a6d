//! Operators under way: started here, told to the leaders of their regions step by step, ended by
//! what those report (design, section 6; wire, section 3.6).
//!
//! At most one per region. Nothing of it is durable: a new PD plans again from what it hears, and
//! whatever an operator leaves behind is a state that planners start from.

mod advance;
mod asked;
mod balance;
mod patrol;
mod scatter;
mod slow;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use flotilla_pd_plan::{Operator, Step, StoreState};
use flotilla_proto::clock::{Mono, Wall};
use flotilla_proto::pdpb::{ErrorType, GetOperatorResponse, OperatorStatus};
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::SeedableRng;

use crate::leading::Leading;
use crate::limits::OPERATOR_HISTORY_MAX;
use crate::reply::{Answer, Refusal};
use crate::view::{OperatorView, OperatorsView};

/// All of them.
#[derive(Debug)]
pub(crate) struct Operators {
    /// By region.
    running: BTreeMap<u64, Running>,
    /// The last to end is the last here.
    history: VecDeque<Ended>,
    /// Regions to be left alone for a while.
    resting: BTreeMap<u64, Mono>,
    /// Regions that somebody moved by hand: balancing leaves them where they are until then.
    pinned: BTreeMap<u64, Mono>,
    /// Regions that another one is to be merged into, and which.
    targets: BTreeMap<u64, u64>,
    /// Regions that are to be scattered, and the groups that they belong to.
    scatter: scatter::Queue,
    /// When balancing is due, and when hot regions are looked for.
    balance_at: Mono,
    hot_at: Mono,
    started: u64,
    /// The region to look at next.
    next: u64,
    rng: SplitMix64,
}

/// One that runs.
#[derive(Clone, Debug)]
struct Running {
    id: u64,
    operator: Operator,
    /// The step under way, counted from 0; after the last once it is done.
    step: usize,
    /// How many replicas were right when it was planned.
    max_replicas: u32,
    /// The ids of the peers it adds, by store.
    new_peers: BTreeMap<u64, u64>,
    started: Wall,
    step_since: Mono,
    /// When the step was sent last, and to which leader.
    told: Option<(Mono, u64)>,
}

/// One that ended.
#[derive(Clone, Debug)]
struct Ended {
    running: Running,
    ending: Ending,
    at: Wall,
}

/// How an operator ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All its steps are done.
    Done,
    /// A step took too long.
    TimedOut {
        /// Which.
        step: Step,
    },
    /// It does not fit its region any more.
    Cancelled(Cancelled),
    /// Somebody asked for another on the same region.
    Replaced,
}

/// Why an operator does not fit any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// Somebody asked for its end.
    Asked,
    /// The region was split or merged.
    RangeChanged,
    /// Somebody else changed the region's members.
    MembersChanged,
    /// The peer that was to go leads now.
    LeaderMoved,
    /// Another number of replicas is right now.
    RuleChanged,
    /// The region is known no more.
    RegionGone,
    /// A store it needs is in this state now.
    Store {
        /// The store.
        store: u64,
        /// `None`: it is not registered.
        state: Option<StoreState>,
    },
}

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("as asked for"),
            Self::RangeChanged => f.write_str("the region was split or merged"),
            Self::MembersChanged => f.write_str("the region's members changed otherwise"),
            Self::LeaderMoved => f.write_str("the peer that was to go leads now"),
            Self::RuleChanged => f.write_str("another number of replicas is right now"),
            Self::RegionGone => f.write_str("the region is gone"),
            Self::Store {
                store,
                state: Some(state),
            } => write!(f, "store {store} is {state}"),
            Self::Store { store, state: None } => write!(f, "store {store} is unknown"),
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::TimedOut { step } => write!(f, "out of time: {step}"),
            Self::Cancelled(why) => write!(f, "cancelled: {why}"),
            Self::Replaced => f.write_str("replaced by another"),
        }
    }
}

impl Ending {
    /// As PD calls it.
    fn status(&self) -> OperatorStatus {
        match self {
            Self::Done => OperatorStatus::Success,
            Self::TimedOut { .. } => OperatorStatus::Timeout,
            Self::Cancelled(_) => OperatorStatus::Cancel,
            Self::Replaced => OperatorStatus::Replace,
        }
    }
}

impl Running {
    fn step(&self) -> &Step {
        &self.operator.steps[self.step]
    }

    fn steps_left(&self) -> &[Step] {
        &self.operator.steps[self.step..]
    }
}

impl Operators {
    /// None yet. `seed` decides between equally good stores.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            running: BTreeMap::new(),
            history: VecDeque::new(),
            resting: BTreeMap::new(),
            pinned: BTreeMap::new(),
            targets: BTreeMap::new(),
            scatter: scatter::Queue::default(),
            balance_at: Mono(0),
            hot_at: Mono(0),
            started: 0,
            next: 0,
            rng: SplitMix64::seed_from_u64(seed),
        }
    }

    /// How many peers are on their way to and from each store.
    pub(crate) fn moves(&self) -> BTreeMap<u64, (usize, usize)> {
        let mut moves: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
        for running in self.running.values() {
            for step in running.steps_left() {
                match step {
                    Step::AddLearner { store } => moves.entry(*store).or_default().0 += 1,
                    Step::RemovePeer { store } => moves.entry(*store).or_default().1 += 1,
                    _ => {}
                }
            }
        }
        moves
    }

    /// How many run of those that `which` tells.
    fn count(&self, which: impl Fn(&Operator) -> bool) -> usize {
        let running = self.running.values();
        running.filter(|running| which(&running.operator)).count()
    }

    /// An operator runs on the region, or needs it, or it is to be left alone.
    fn is_taken(&self, region: u64) -> bool {
        self.running.contains_key(&region)
            || self.targets.contains_key(&region)
            || self.resting.contains_key(&region)
    }

    /// Regions that balancing must not touch.
    fn taken(&self) -> BTreeSet<u64> {
        let all = self.running.keys().chain(self.targets.keys());
        let all = all.chain(self.resting.keys()).chain(self.pinned.keys());
        all.copied().collect()
    }

    fn remember(&mut self, ended: Ended) {
        self.history.push_back(ended);
        if self.history.len() > OPERATOR_HISTORY_MAX {
            self.history.pop_front();
        }
    }
}

impl Leading {
    pub(crate) fn operator(&self, region: u64) -> Answer<GetOperatorResponse> {
        self.check_bootstrapped()?;
        let ended = || {
            let mut all = self.operators.history.iter().rev();
            let ended = all.find(|ended| ended.running.operator.region == region)?;
            Some((&ended.running.operator, ended.ending.status()))
        };
        let running = self.operators.running.get(&region);
        let running = running.map(|running| (&running.operator, OperatorStatus::Running));
        let Some((operator, status)) = running.or_else(ended) else {
            let none = format!("region {region} has no operator: not found");
            return Err(Refusal::Header(ErrorType::RegionNotFound, none));
        };
        Ok(GetOperatorResponse {
            region_id: region,
            desc: operator.reason.name().into(),
            status: status as i32,
            kind: operator.kind.name().into(),
            ..GetOperatorResponse::default()
        })
    }

    pub(crate) fn region_history(&self, region: u64) -> OperatorsView {
        let mut all = self.list_operators();
        all.running.retain(|one| one.region_id == region);
        all.ended.retain(|one| one.region_id == region);
        all
    }

    pub(crate) fn list_operators(&self) -> OperatorsView {
        let running = self.operators.running.values();
        let ended = self.operators.history.iter().rev();
        OperatorsView {
            running: running.map(|running| running.view(None)).collect(),
            ended: ended.map(|one| one.running.view(Some(one))).collect(),
        }
    }
}

impl Running {
    fn view(&self, ended: Option<&Ended>) -> OperatorView {
        let operator = &self.operator;
        let ending = ended.map(|ended| &ended.ending);
        let status = ending.map_or(OperatorStatus::Running, Ending::status);
        OperatorView {
            id: self.id,
            region_id: operator.region,
            desc: operator.reason.name(),
            kind: operator.kind.name(),
            reason: operator.reason.to_string(),
            steps: operator.steps.iter().map(Step::to_string).collect(),
            steps_done: self.step,
            status: status.as_str_name(),
            ending: ending.map(Ending::to_string),
            started_ms: self.started.0,
            ended_ms: ended.map(|ended| ended.at.0),
        }
    }
}
