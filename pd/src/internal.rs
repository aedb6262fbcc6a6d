//! Calls that are not gRPC: between the server and the machine of one node.

use std::collections::BTreeMap;

use flotilla_pd_plan::{Asked, Refusal};
use flotilla_proto::keyspacepb::KeyspaceMeta;

use crate::rules::RuleView;
use crate::settings::ConfigValue;

/// The oracle has no room for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendWindow {
    /// Milliseconds: the oracle has used up every timestamp up to and including this physical part.
    pub above_ms: u64,
}

/// The oracle's window now reaches beyond [`ExtendWindow::above_ms`]; try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowExtended;

/// A new keyspace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateKeyspace {
    /// 1 to 64 letters, digits, `-` or `_`.
    pub name: String,
    /// Free-form settings, handed to clients as they are.
    pub config: BTreeMap<String, String>,
}

/// What became of a [`CreateKeyspace`].
#[derive(Clone, Debug, PartialEq)]
pub struct CreatedKeyspace(pub Result<KeyspaceMeta, CreateKeyspaceError>);

/// Why a keyspace was not created, or is not usable yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateKeyspaceError {
    /// The caller's fault; HTTP 400.
    #[error("a keyspace name has 1 to 64 letters, digits, '-' or '_': {name:?} is none")]
    Name {
        /// The refused name.
        name: String,
    },
    /// The caller's fault; HTTP 400.
    #[error("a keyspace's settings hold at most {max} bytes, these are {bytes}")]
    Config {
        /// Bytes of all names and values.
        bytes: usize,
        /// [`crate::KEYSPACE_CONFIG_BYTES_MAX`].
        max: usize,
    },
    /// HTTP 409.
    #[error("the keyspace {name:?} exists already")]
    Exists {
        /// The name that is taken.
        name: String,
    },
    /// HTTP 409: keyspaces live in encoded keys (contracts: C38).
    #[error(
        "this cluster holds plain raw keys (API v1); keyspaces need a cluster with encoded keys (API v2)"
    )]
    PlainKeys,
    /// HTTP 507: there is none above `KEYSPACE_ID_MAX`.
    #[error("all keyspace ids are used up")]
    IdsUsedUp,
    /// HTTP 412.
    #[error("the cluster is not bootstrapped")]
    NotBootstrapped,
    /// HTTP 503: it is created, and usable as soon as its boundaries are split.
    #[error("keyspace {name:?} is created with id {id}; its region boundaries are not split yet")]
    NotSplitYet {
        /// Its name.
        name: String,
        /// Its id.
        id: u32,
    },
}

impl CreateKeyspaceError {
    /// The HTTP status for it.
    pub fn http_status(&self) -> u16 {
        match self {
            Self::Name { .. } | Self::Config { .. } => 400,
            Self::Exists { .. } | Self::PlainKeys => 409,
            Self::NotBootstrapped => 412,
            Self::NotSplitYet { .. } => 503,
            Self::IdsUsedUp => 507,
        }
    }
}

/// The operators that run and those that ended last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListOperators;

/// Changes a region. An operator that runs on it is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddOperator {
    /// The region.
    pub region: u64,
    /// What is to be done.
    pub asked: Asked,
}

/// What became of an [`AddOperator`]: the operator's number in this PD's term. It has only begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorAdded(pub Result<u64, AddOperatorError>);

/// Why an operator was not begun. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddOperatorError {
    /// The caller's fault, unless PD has just begun to lead: leaders report every few seconds.
    #[error("no leader has reported region {region} to this PD; check the id, or try again")]
    UnknownRegion {
        /// The id that was asked for.
        region: u64,
    },
    /// Nobody's fault.
    #[error("ids for new peers are not durable yet; try again")]
    NoIds,
    /// See [`Refusal`].
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl AddOperatorError {
    /// The HTTP status for it.
    pub fn http_status(&self) -> u16 {
        match self {
            Self::UnknownRegion { .. } => 404,
            Self::NoIds => 503,
            Self::Refused(_) => 409,
        }
    }
}

/// Ends the operator that runs on a region, and leaves the region alone for a while. A step that its
/// leader was told before may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CancelOperator {
    /// The region.
    pub region: u64,
}

/// What became of a [`CancelOperator`]: the number of the operator that was ended, if one ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperatorCancelled(pub Option<u64>);

/// Removes a store, or takes that back while it is not gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetStoreState {
    /// The store.
    pub store: u64,
    /// `true`: it is to be emptied, and a tombstone once no region has a peer there. `false`: it
    /// stays.
    pub offline: bool,
}

/// What became of a [`SetStoreState`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreStateSet(pub Result<(), SetStoreStateError>);

/// Why a store's state was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetStoreStateError {
    /// The caller's fault; HTTP 404.
    #[error("there is no store {store}")]
    Unknown {
        /// The id that was asked for.
        store: u64,
    },
    /// The caller's fault; HTTP 409.
    #[error("store {store} is gone for ever; a store that starts on an empty disk gets a new id")]
    Tombstone {
        /// The store.
        store: u64,
    },
    /// HTTP 409: its regions would have nowhere to go.
    #[error(
        "without store {store} there are {left} stores that are not down or leaving, and regions have {needed} replicas: add a store first"
    )]
    TooFew {
        /// The store.
        store: u64,
        /// Stores that would remain.
        left: usize,
        /// Stores that are needed.
        needed: usize,
    },
}

impl SetStoreStateError {
    /// The HTTP status for it.
    pub fn http_status(&self) -> u16 {
        match self {
            Self::Unknown { .. } => 404,
            Self::Tombstone { .. } | Self::TooFew { .. } => 409,
        }
    }
}

/// Moves all leaders away from a store and keeps them away, until this is taken back, the store
/// registers again, or another PD leads. Asked again, it says how far that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvictLeaders {
    /// The store.
    pub store: u64,
    /// `false`: leaders may come again.
    pub evict: bool,
}

/// What became of an [`EvictLeaders`]: regions the store leads now; `None`: there is no such store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeadersEvicted(pub Option<u64>);

/// All settings that have a name, by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetConfig;

/// Answers [`GetConfig`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigRead(pub BTreeMap<String, ConfigValue>);

/// Changes settings by name: all of them, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetConfig(pub BTreeMap<String, ConfigValue>);

/// What became of a [`SetConfig`]. It is durable, and holds from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSet(pub Result<(), SetConfigError>);

/// The caller's fault; HTTP 400. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct SetConfigError {
    /// Names, and why each is refused.
    pub refused: Vec<(String, String)>,
}

impl SetConfigError {
    fn text(&self) -> String {
        let parts = self.refused.iter();
        let parts: Vec<_> = parts.map(|(name, why)| format!("{name}: {why}")).collect();
        parts.join("; ")
    }
}

/// All placement rules, the default one included, in the order in which they hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetRules;

/// Answers [`GetRules`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesRead(pub Vec<RuleView>);

/// Adds or replaces placement rules: all of them, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetRules(pub Vec<RuleView>);

/// What became of a [`SetRules`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesSet(pub Result<(), SetRuleError>);

/// Why rules were not set. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetRuleError {
    /// The caller's fault; HTTP 400.
    #[error("rule {group}/{id}: {why}")]
    Bad {
        /// Its group.
        group: String,
        /// Its id.
        id: String,
        /// What is wrong with it.
        why: String,
    },
    /// HTTP 400: a region without voters could not be.
    #[error("the rule pd/default is for voters of the whole key space")]
    Default,
    /// HTTP 400.
    #[error("there are as many rules as there may be; delete one first")]
    TooMany,
}

/// Deletes a placement rule. Without a rule pd/default the setting max-replicas stands for it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteRule {
    /// Its group.
    pub group: String,
    /// Its id.
    pub id: String,
}

/// What became of a [`DeleteRule`]: whether there was one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleDeleted(pub bool);

/// The planners that balance, and stores whose leaders are evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListSchedulers;

/// Changes a scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeScheduler {
    /// Such as `balance-leader-scheduler`, or `evict-leader-scheduler-7` for store 7.
    pub name: String,
    /// What is done.
    pub change: SchedulerChange,
}

/// What is done to a scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchedulerChange {
    /// It plans again, durably; an `evict-leader-scheduler` needs a store here or in its name, and
    /// lasts as [`EvictLeaders`] does.
    Add {
        /// The store.
        store: Option<u64>,
    },
    /// It plans no more, durably.
    Remove,
    /// It plans nothing for so long, or until another PD leads; 0: it goes on now.
    Pause {
        /// Seconds.
        seconds: u64,
    },
}

/// What became of a [`ChangeScheduler`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulerChanged(pub Result<(), SchedulerError>);

/// Why a scheduler was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchedulerError {
    /// The caller's fault; HTTP 404.
    #[error("there is no scheduler {name:?}")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The caller's fault; HTTP 409.
    #[error("the scheduler {name} is there already")]
    Exists {
        /// What was asked for.
        name: String,
    },
    /// The caller's fault; HTTP 404.
    #[error("{name}: it names no store that is known here")]
    NoStore {
        /// What was asked for.
        name: String,
    },
}

impl SchedulerError {
    /// The HTTP status for it.
    pub fn http_status(&self) -> u16 {
        match self {
            Self::Unknown { .. } | Self::NoStore { .. } => 404,
            Self::Exists { .. } => 409,
        }
    }
}

/// The regions with the most load, by store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HotRegions {
    /// `true`: what is written, by every peer's store; `false`: what is read, by the leader's.
    pub writes: bool,
}

/// The operators of one region, the last first: what was done and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionHistory {
    /// The region.
    pub region: u64,
}
