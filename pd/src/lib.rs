//! The placement driver: cluster metadata, timestamps, routes, keyspaces.
//!
//! Pure: no clock, socket, thread or disk. Time is an argument, everything else is an effect.
//! Two things serve one node:
//!
//! - [`Pd`], the machine: `handle(now, wall, input, &mut effects)`. It serves while its node leads
//!   the meta region. Its durable state are rows of that region ([`records`]); routes and
//!   statistics come from heartbeats and live in memory only.
//! - [`Oracle`], timestamps from memory, behind a mutex of the server's. The machine gives it
//!   windows by [`Effect::Oracle`].
//!
//! [`Driven`] is the machine with the part of its driver that needs no IO.
//!
//! # What the driver owes
//!
//! 1. On leading the meta region in a term, with the own first entry of that term applied: read all
//!    rows of the meta region, send [`Input::Lead`]. On losing it: [`Input::Retire`].
//! 2. Every [`Effect::Propose`] of a term this node leads ends in one [`Input::Committed`]:
//!    [`Outcome::Applied`] only after the rows are applied, [`Outcome::Refused`] only if they never
//!    will be. Proposals are appended in the order they come.
//! 3. Effects are carried out in the order of the list.
//! 4. [`Input::Tick`] every [`TICK`].
//! 5. Around the oracle: after [`Oracle::serve`] has allocated, it asks whether the lease of that
//!    term holds (contracts: C20). On [`OracleError::NeedWindow`] send [`calls::ExtendWindow`] and
//!    try again when it is answered.
//!
//! In return every [`Input::Request`] is answered exactly once, and what an answer says is durable
//! when the effect is handed over.
//!
//! # Serving gRPC
//!
//! A unary handler wraps its message by [`Call::request`], waits for the answer and unwraps it by
//! [`Call::response`]; [`Status`] carries gRPC's own code numbers:
//!
//! ```
//! use flotilla_pd::{Call, Request, calls};
//! use flotilla_proto::pdpb::GetStoreRequest;
//!
//! let request = calls::GetStore::request(GetStoreRequest { store_id: 1, ..Default::default() });
//! assert_eq!(request.name(), "GetStore");
//! ```
//!
//! `QueryRegion` is a stream of [`calls::QueryRegion`]. `Tso` and `GetMinTS` are the oracle's.
//! `RegionHeartbeat` is [`Input::RegionHeartbeat`] in and [`Effect::RegionInstruction`] or
//! [`Effect::CloseStream`] out. Every other method is [`Status::unimplemented`].
//! A node that does not lead forwards. Where it cannot, it answers `GetMembers` itself, by
//! [`members_response`] from what it last knew, and lets the machine answer the rest: `not leader`.

mod api;
mod call;
mod changes;
mod cluster;
mod configured;
pub mod driver;
mod effect;
mod gc;
mod genesis;
mod global;
mod heat;
mod hot;
mod ids;
mod internal;
mod keyspaces;
mod leading;
mod limits;
mod lookup;
mod machine;
mod members;
mod operators;
mod oracle;
mod pages;
pub mod records;
mod removal;
mod reply;
mod routes;
mod rules;
mod schedule;
mod schedulers;
mod settings;
mod splits;
mod status;
mod stores;
mod version;
pub mod view;
mod window;

pub use flotilla_pd_plan as plan;
pub use flotilla_proto::keys::{KeyMode, SENTINEL_BOUNDARY};

pub use api::{HttpAnswer, HttpRequest, Offered, routes as http_routes};
pub use call::{CALL_NAMES, Call, Request, Response, calls};
pub use driver::{Driven, TimestampCall, TimestampNext, Work};
pub use effect::{Effect, Event, Input, Outcome, ProposalToken, RequestToken, StreamId};
pub use genesis::{
    ADVERTISED_VERSION, DEFAULT_KEYSPACE, DEFAULT_KEYSPACE_ID, FIRST_ALLOCATED_ID, FIRST_EPOCH,
    FIRST_PEER, FIRST_REGION, FIRST_STORE, Genesis, GenesisError, MAX_PEER_COUNT, META_PEER,
    META_REGION, SENTINEL_PEER, SENTINEL_REGION, bootstrap_records, first_regions,
};
pub use internal::{
    AddOperator, AddOperatorError, CancelOperator, ChangeScheduler, ConfigRead, ConfigSet,
    CreateKeyspace, CreateKeyspaceError, CreatedKeyspace, DeleteRule, EvictLeaders, ExtendWindow,
    GetConfig, GetRules, HotRegions, LeadersEvicted, ListOperators, ListSchedulers, OperatorAdded,
    OperatorCancelled, RegionHistory, RuleDeleted, RulesRead, RulesSet, SchedulerChange,
    SchedulerChanged, SchedulerError, SetConfig, SetConfigError, SetRuleError, SetRules,
    SetStoreState, SetStoreStateError, StoreStateSet, WindowExtended,
};
pub use limits::*;
pub use machine::{Config, Pd};
pub use members::members_response;
pub use operators::{Cancelled, Ending};
pub use oracle::{
    Batch, LOGICAL_BITS, LOGICAL_END, Oracle, OracleCommand, OracleError, PHYSICAL_MAX_MS,
    STEP_AHEAD_EVERY, TSO_BATCH_MAX,
};
pub use records::RecordError;
pub use rules::{ConstraintView, DEFAULT_RULE, RuleView};
pub use schedule::Schedule;
pub use settings::ConfigValue;
pub use status::{Code, NOT_LEADER, Status};
