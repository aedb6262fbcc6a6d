//! What the stock clients do with a failed call, as a table (wire, section 5 and `clients.md`).
//!
//! A store's answers are judged by what these clients make of them: an error that the Rust client
//! hands to its user is an outage, however short. The simulator's clients follow the same table
//! (contracts: C31), so that what users would see is what its checkers see.

use std::time::Duration;

use flotilla_proto::errorpb;

use crate::cache::{RegionCache, Route};

/// Whose habits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StockClient {
    /// `tikv-client` 0.4.0 and what is built on it (SurrealDB's fork, the Python client).
    Rust,
    /// client-go.
    Go,
    /// client-java, raw calls.
    Java,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// The store answered with a region error.
    Region(Box<errorpb::Error>),
    /// The call broke, timed out, or failed with a gRPC status.
    Rpc,
    /// The region is known and nobody leads it.
    NoLeader,
    /// PD did not say where the call belongs, or the store cannot be reached at all.
    NoRoute,
}

/// Whether a failed write may still have happened (contracts: C22).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// It has not happened and never will.
    NotApplied,
    /// Nobody can tell.
    Unknown,
}

/// What the client does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Locate the key again and try.
    Retry {
        /// Wait this long first.
        after: Duration,
    },
    /// The user sees the error.
    GiveUp,
}

/// What a region error says, told apart as the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "named after the fields of errorpb.Error")]
pub enum ErrorKind {
    NotLeader,
    NotLeaderUnknown,
    RegionNotFound,
    KeyNotInRegion,
    EpochNotMatch,
    ServerIsBusy,
    StaleCommand,
    StoreNotMatch,
    RaftEntryTooLarge,
    MaxTimestampNotSynced,
    ReadIndexNotReady,
    ProposalInMergingMode,
    DataIsNotReady,
    RegionNotInitialized,
    DiskFull,
    RecoveryInProgress,
    Flashback,
    IsWitness,
    MismatchPeerId,
    BucketVersionNotMatch,
    UndeterminedResult,
    /// Only a message.
    Message,
}

/// What the client forgets or learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Learn {
    /// Keeps what it has.
    Nothing,
    /// Takes the leader that the error names.
    Leader,
    /// Takes the regions that the error names.
    Regions,
    /// Forgets the region, unless the error shows that the store is the one behind.
    RegionUnlessAhead,
    /// Forgets the region.
    Region,
    /// Forgets the region and the store.
    RegionAndStore,
}

/// When the client tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Now,
    Backoff,
    /// After a pause of seconds.
    LongBackoff,
    Fail,
}

type Rule = (Learn, Then);

use ErrorKind as E;
use Learn::{Leader, Nothing, Region, RegionAndStore, RegionUnlessAhead, Regions};
use Then::{Backoff, Fail, LongBackoff, Now};

/// One line per error: Rust, Go, Java.
#[rustfmt::skip]
const RULES: &[(ErrorKind, [Rule; 3])] = &[
    (E::NotLeader,             [(Leader, Now), (Leader, Now), (Leader, Now)]),
    (E::NotLeaderUnknown,      [(Region, Backoff), (Region, Backoff), (Region, Backoff)]),
    (E::RegionNotFound,        [(Region, Backoff), (Region, Backoff), (RegionAndStore, Backoff)]),
    (E::KeyNotInRegion,        [(RegionAndStore, Backoff), (Region, Now), (RegionAndStore, Fail)]),
    (E::EpochNotMatch,         [(RegionUnlessAhead, Backoff), (Regions, Now), (Regions, Now)]),
    (E::ServerIsBusy,          [(Nothing, Fail), (Nothing, LongBackoff), (Nothing, LongBackoff)]),
    (E::StaleCommand,          [(Region, Backoff), (Nothing, Backoff), (Nothing, Backoff)]),
    (E::StoreNotMatch,         [(RegionAndStore, Backoff), (RegionAndStore, Backoff), (RegionAndStore, Backoff)]),
    (E::RaftEntryTooLarge,     [(Nothing, Fail), (Nothing, Fail), (Nothing, Fail)]),
    (E::MaxTimestampNotSynced, [(Nothing, Fail), (Nothing, Backoff), (RegionAndStore, Backoff)]),
    (E::ReadIndexNotReady,     [(RegionAndStore, Backoff), (Nothing, Backoff), (RegionAndStore, Backoff)]),
    (E::ProposalInMergingMode, [(RegionAndStore, Backoff), (Nothing, Backoff), (RegionAndStore, Backoff)]),
    (E::DataIsNotReady,        [(RegionAndStore, Backoff), (Nothing, Now), (RegionAndStore, Backoff)]),
    (E::RegionNotInitialized,  [(RegionAndStore, Backoff), (Nothing, Backoff), (RegionAndStore, Backoff)]),
    (E::DiskFull,              [(RegionAndStore, Backoff), (Nothing, LongBackoff), (RegionAndStore, Backoff)]),
    (E::RecoveryInProgress,    [(RegionAndStore, Backoff), (Nothing, Backoff), (RegionAndStore, Backoff)]),
    (E::Flashback,             [(RegionAndStore, Backoff), (Nothing, Fail), (RegionAndStore, Backoff)]),
    (E::IsWitness,             [(RegionAndStore, Backoff), (Nothing, Backoff), (RegionAndStore, Backoff)]),
    (E::MismatchPeerId,        [(RegionAndStore, Backoff), (Region, Backoff), (RegionAndStore, Backoff)]),
    (E::BucketVersionNotMatch, [(RegionAndStore, Backoff), (Nothing, Now), (RegionAndStore, Backoff)]),
    (E::UndeterminedResult,    [(RegionAndStore, Backoff), (Nothing, Fail), (RegionAndStore, Backoff)]),
    (E::Message,               [(RegionAndStore, Backoff), (Region, Backoff), (RegionAndStore, Backoff)]),
];

/// The same for a call that broke, for a region without a leader, and for a key without a region.
const RPC: [Rule; 3] = [(RegionAndStore, Backoff); 3];
const NO_LEADER: [Rule; 3] = [(Region, Backoff); 3];
const NO_ROUTE: [Rule; 3] = [(Nothing, Fail), (Nothing, Backoff), (Nothing, Backoff)];

/// The first pause, and the longest.
const BACKOFF_FIRST: Duration = Duration::from_millis(2);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// The first pause of a client that meets a busy server, and the longest.
const LONG_BACKOFF_FIRST: Duration = Duration::from_secs(2);
const LONG_BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Tries of the Rust client after the first one; each error uses one up.
const RUST_RETRIES: u32 = 10;
/// How long client-go keeps trying.
const GO_BUDGET: Duration = Duration::from_secs(40);
/// How long client-java keeps trying a raw get or put.
const JAVA_BUDGET: Duration = Duration::from_secs(2);

/// What `error` is.
pub fn kind(error: &errorpb::Error) -> ErrorKind {
    if let Some(not_leader) = &error.not_leader {
        let named = |leader: &flotilla_proto::metapb::Peer| leader.store_id != 0;
        return if not_leader.leader.as_ref().is_some_and(named) {
            E::NotLeader
        } else {
            E::NotLeaderUnknown
        };
    }
    let details = [
        (error.region_not_found.is_some(), E::RegionNotFound),
        (error.key_not_in_region.is_some(), E::KeyNotInRegion),
        (error.epoch_not_match.is_some(), E::EpochNotMatch),
        (error.server_is_busy.is_some(), E::ServerIsBusy),
        (error.stale_command.is_some(), E::StaleCommand),
        (error.store_not_match.is_some(), E::StoreNotMatch),
        (error.raft_entry_too_large.is_some(), E::RaftEntryTooLarge),
        (
            error.max_timestamp_not_synced.is_some(),
            E::MaxTimestampNotSynced,
        ),
        (error.read_index_not_ready.is_some(), E::ReadIndexNotReady),
        (
            error.proposal_in_merging_mode.is_some(),
            E::ProposalInMergingMode,
        ),
        (error.data_is_not_ready.is_some(), E::DataIsNotReady),
        (
            error.region_not_initialized.is_some(),
            E::RegionNotInitialized,
        ),
        (error.disk_full.is_some(), E::DiskFull),
        (error.recovery_in_progress.is_some(), E::RecoveryInProgress),
        (error.flashback_in_progress.is_some(), E::Flashback),
        (error.flashback_not_prepared.is_some(), E::Flashback),
        (error.is_witness.is_some(), E::IsWitness),
        (error.mismatch_peer_id.is_some(), E::MismatchPeerId),
        (
            error.bucket_version_not_match.is_some(),
            E::BucketVersionNotMatch,
        ),
        (error.undetermined_result.is_some(), E::UndeterminedResult),
    ];
    let detail = details.into_iter().find(|(is, _)| *is);
    detail.map_or(E::Message, |(_, kind)| kind)
}

impl Failure {
    /// Whether a write that failed so may still have happened. Holds for Flotilla's stores, which
    /// send `undetermined_result` for every outcome they cannot tell (contracts: C31).
    pub fn certainty(&self) -> Certainty {
        match self {
            Self::Region(error) if error.undetermined_result.is_some() => Certainty::Unknown,
            Self::Rpc => Certainty::Unknown,
            Self::Region(_) | Self::NoLeader | Self::NoRoute => Certainty::NotApplied,
        }
    }
}

/// The retries of one operation on one region's share of keys.
#[derive(Clone, Debug)]
pub struct Attempts {
    client: StockClient,
    failures: u32,
    waited: Duration,
    backoff: Duration,
    long_backoff: Duration,
}

impl Attempts {
    /// An operation that is about to be tried for the first time.
    pub fn new(client: StockClient) -> Self {
        Self {
            client,
            failures: 0,
            waited: Duration::ZERO,
            backoff: BACKOFF_FIRST,
            long_backoff: LONG_BACKOFF_FIRST,
        }
    }

    /// Failures so far.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The call by `route` failed: corrects the cache as the client does, and says what it does
    /// next. `route` is `None` if there was none.
    pub fn failed(
        &mut self,
        cache: &mut RegionCache,
        route: Option<&Route>,
        failure: &Failure,
    ) -> Next {
        let (learn, then) = self.rule(route, failure);
        if let Some(route) = route {
            apply(learn, cache, route, failure);
        }
        self.failures += 1;
        let after = match then {
            Fail => return Next::GiveUp,
            // The Rust client counts it as a pause that it need not make.
            Now if self.client == StockClient::Rust => {
                grow(&mut self.backoff, BACKOFF_MAX);
                Duration::ZERO
            }
            Now => Duration::ZERO,
            Backoff => grow(&mut self.backoff, BACKOFF_MAX),
            LongBackoff => grow(&mut self.long_backoff, LONG_BACKOFF_MAX),
        };
        // Even a call that is tried at once takes some time; without that it could go on for ever.
        self.waited += after.max(BACKOFF_FIRST);
        let spent = match self.client {
            StockClient::Rust => self.failures > RUST_RETRIES,
            StockClient::Go => self.waited > GO_BUDGET,
            StockClient::Java => self.waited > JAVA_BUDGET,
        };
        if spent {
            Next::GiveUp
        } else {
            Next::Retry { after }
        }
    }

    fn rule(&self, route: Option<&Route>, failure: &Failure) -> Rule {
        let rules = match failure {
            Failure::Region(error) => {
                let kind = kind(error);
                let line = RULES.iter().find(|(of, _)| *of == kind);
                line.map_or(RPC, |(_, rules)| *rules)
            }
            Failure::Rpc => RPC,
            Failure::NoLeader => NO_LEADER,
            Failure::NoRoute => NO_ROUTE,
        };
        let [rust, go, java] = rules;
        match self.client {
            StockClient::Rust => rust_special(failure, rust),
            StockClient::Go => go_special(route, failure, go),
            StockClient::Java => java,
        }
    }
}

/// client-go takes no region that is older than its own: it waits for the store to catch up.
fn go_special(route: Option<&Route>, failure: &Failure, rule: Rule) -> Rule {
    match route {
        Some(route) if is_behind(route, failure) => (Nothing, Backoff),
        _ => rule,
    }
}

/// An empty list of current regions is retried by the Rust client at once.
fn rust_special(failure: &Failure, rule: Rule) -> Rule {
    match failure {
        Failure::Region(error)
            if kind(error) == E::EpochNotMatch && current_regions(failure).is_empty() =>
        {
            (Region, Now)
        }
        _ => rule,
    }
}

fn grow(backoff: &mut Duration, max: Duration) -> Duration {
    let now = *backoff;
    *backoff = (now * 2).min(max);
    now
}

fn apply(learn: Learn, cache: &mut RegionCache, route: &Route, failure: &Failure) {
    let id = route.region.id;
    match learn {
        Nothing => {}
        Leader => {
            let named = match failure {
                Failure::Region(error) => error.not_leader.as_ref().and_then(|error| error.leader),
                _ => None,
            };
            // A leader that the cached region does not have belongs to a newer one.
            if !named.is_some_and(|leader| cache.set_leader(id, leader)) {
                cache.invalidate(id);
            }
        }
        Regions => {
            cache.invalidate(id);
            for region in current_regions(failure) {
                let leader = route.leader.filter(|leader| region.peers.contains(leader));
                cache.insert(Route::new(region.clone(), leader));
            }
        }
        RegionUnlessAhead => {
            if !is_behind(route, failure) {
                cache.invalidate(id);
            }
        }
        Region => drop(cache.invalidate(id)),
        RegionAndStore => {
            cache.invalidate(id);
            if let Some(leader) = route.leader {
                cache.invalidate_store(leader.store_id);
            }
        }
    }
}

/// Whether the store that answered knows the region at an older epoch than the cache does.
fn is_behind(route: &Route, failure: &Failure) -> bool {
    let cached = route.epoch();
    let named = current_regions(failure)
        .iter()
        .find(|region| region.id == route.region.id);
    let epoch = named.and_then(|region| region.region_epoch);
    epoch.is_some_and(|epoch| epoch.version < cached.version || epoch.conf_ver < cached.conf_ver)
}

fn current_regions(failure: &Failure) -> &[flotilla_proto::metapb::Region] {
    match failure {
        Failure::Region(error) => {
            let epoch = error.epoch_not_match.as_ref();
            epoch.map_or(&[], |epoch| &epoch.current_regions)
        }
        _ => &[],
    }
}
