//! The planners of the placement driver (contracts: C27): which peers of a region should come, go
//! or lead, as far as one frozen view of the cluster tells.
//!
//! No clock, no IO, no state: the view ([`Cluster`], [`Region`]) and a seeded generator are
//! arguments, and the same arguments give the same [`Operator`]. Whoever carries an operator out
//! sends its steps one by one, watches the region's epoch, and gives up when somebody else changed it.
//!
//! Rules, held by every plan and at every step of it:
//!
//! - a region never has fewer voters than it had, nor fewer than it should have, whichever is less;
//! - a store never has two peers of a region;
//! - a new peer goes only to a store that is up, heard of, not leaving, and has room;
//! - the leader is never demoted or removed: it hands over before;
//! - a peer that is moved to even something out is no closer to the others than before, and stands for
//!   the same rule;
//! - once the steps are done, planning again gives nothing, or the next operator towards the goal,
//!   and after finitely many nothing.
//!
//! [`Regions`] are all regions in compact form; [`Look`] finds those that need something.

mod asked;
mod balance;
mod balance_leaders;
mod balance_regions;
mod hot;
mod leaders;
mod look;
mod merge;
mod moves;
mod operator;
mod placement;
mod regions;
mod replicas;
mod rule;
mod scatter;
mod view;

pub use asked::{Asked, Refusal, asked};
pub use balance::Balance;
pub use balance_leaders::balance_leaders;
pub use balance_regions::balance_regions;
pub use hot::{HotStore, balance_hot, hot_stores};
pub use leaders::check_leader;
pub use look::Look;
pub use merge::{MergeLimits, check_merge};
pub use operator::{Kind, Operator, Reason, Step};
pub use placement::Placement;
pub use regions::{Flow, Load, REGION_WEIGHT, Rate, Regions};
pub use replicas::check_replicas;
pub use rule::{Constraint, Op, Role, Rule};
pub use scatter::{Group, scatter};
pub use view::{Cluster, META_VOTERS_MAX, Region, Rules, Store, StoreState, Unfit};
