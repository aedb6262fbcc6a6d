//! What all commands share: what they are given, what they give back, and how an end without
//! result becomes an answer.

use flotilla_engine::{EngineError, StateReader};
use flotilla_proto::errorpb;
use flotilla_proto::kvrpcpb::{ApiVersion, Context};
use flotilla_proto::metapb::Region;
use flotilla_proto::store::Mod;

use crate::failure::{Failure, Refusal};
use crate::key::KeyMode;
use crate::latch::Lock;
use crate::region_error;

/// The region a command works in, at the epoch that the request was checked against.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// The cluster's key mode.
    pub mode: KeyMode,
    /// Its range bounds what the command reads and writes.
    pub region: &'a Region,
    /// TTL time in seconds since the epoch, from [`crate::TtlClock::now`].
    pub now: u64,
}

/// A scope and the state to read in it.
pub struct View<'a, R: ?Sized> {
    /// See [`Scope`].
    pub scope: Scope<'a>,
    /// One moment of the state, taken where the leader may answer a read.
    pub reader: &'a R,
    /// Answers `true` once the request's deadline passed: a long scan then ends with
    /// `ServerIsBusy`. Asked before each
    /// range and every [`crate::limits::ROWS_PER_DEADLINE_CHECK`] rows.
    pub expired: &'a dyn Fn() -> bool,
}

/// A request.
pub trait Command {
    /// Its response.
    type Response: Answer;

    /// The name of the RPC, for logs and metrics.
    const NAME: &'static str;

    /// Region, epoch, peer, term, API version and deadline. Absent: all zero.
    fn context(&self) -> Option<&Context>;
}

/// A command that only reads.
pub trait Read: Command {
    /// Reads. The region's own checks (leader, epoch) come before: a follower answers `NotLeader`
    /// to any request, whatever is wrong with it.
    fn read<R: StateReader + ?Sized>(&self, view: &View<'_, R>) -> Result<Self::Response, Failure>;
}

/// A command that writes without reading.
pub trait Write: Command {
    /// The latches to hold from before the proposal until its fate is known (contracts: C18).
    fn lock(&self) -> Lock;

    /// What to propose, and the answer once it is applied.
    fn plan(self, scope: &Scope<'_>) -> Result<Proposal<Self::Response>, Failure>;
}

/// A command whose writes depend on what it reads. The proposal carries the term of the read
/// (design, rule 4).
pub trait ReadWrite: Command {
    /// The latches to hold from before the read until the proposal's fate is known.
    fn lock(&self) -> Lock;

    /// Reads, and decides what to propose.
    fn decide<R: StateReader + ?Sized>(
        &self,
        view: &View<'_, R>,
    ) -> Result<Proposal<Self::Response>, Failure>;
}

/// What a write wants.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Proposal<A> {
    /// To be applied together, in this order. Empty: there is nothing to propose, and `response`
    /// is the answer now.
    pub mods: Vec<Mod>,
    /// The answer once the modifications are applied.
    pub response: A,
}

/// A response.
pub trait Answer: Default {
    /// The response that says only `error`.
    fn region_error(error: errorpb::Error) -> Self;

    /// The response that says only `refusal`; `None` if the response has no field for it. The
    /// responses that are lists of pairs have none: an error inside a pair is taken for a row with
    /// an empty key by stock clients. There the refusal goes as a gRPC status
    /// ([`Refusal::status_code`]), or inside `BatchCommands` as a region error with only a message.
    fn refused(refusal: &Refusal) -> Option<Self>;
}

/// An answer that a request gets, unless the storage failed.
#[derive(Debug)]
pub enum Outcome<A> {
    /// The response.
    Response(A),
    /// A refusal that the response has no field for.
    Status(Refusal),
}

impl<A: Answer> Outcome<A> {
    /// The outcome as a response whatever it is, for `BatchCommands`, which has no status per
    /// request: a refusal becomes a region error with only a message.
    pub fn into_response(self) -> A {
        match self {
            Self::Response(response) => response,
            Self::Status(refusal) => A::region_error(region_error::other(refusal.to_string())),
        }
    }
}

/// Turns the end of a command into what the client gets.
///
/// # Errors
/// Those of the storage: the store that met one stops.
pub fn answer<A: Answer>(result: Result<A, Failure>) -> Result<Outcome<A>, EngineError> {
    match result {
        Ok(response) => Ok(Outcome::Response(response)),
        Err(Failure::Region(error)) => Ok(Outcome::Response(A::region_error(*error))),
        Err(Failure::Refused(refusal)) => Ok(match A::refused(&refusal) {
            Some(response) => Outcome::Response(response),
            None => Outcome::Status(refusal),
        }),
        Err(Failure::Engine(error)) => Err(error),
    }
}

/// The two kinds of data, which API v1 keeps in different key modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// RawKV.
    Raw,
    /// Transactions.
    Txn,
}

/// The key mode that a request needs by its API version.
///
/// # Errors
/// [`Refusal::ApiVersion`] for versions that are not served.
pub fn required_mode(context: Option<&Context>, kind: Kind) -> Result<KeyMode, Refusal> {
    let version = context.map_or(0, |context| context.api_version);
    match (ApiVersion::try_from(version), kind) {
        (Ok(ApiVersion::V1 | ApiVersion::V1ttl), Kind::Raw) => Ok(KeyMode::Plain),
        (Ok(ApiVersion::V1), Kind::Txn) => Ok(KeyMode::Encoded),
        (Ok(ApiVersion::V2), _) => Ok(KeyMode::Encoded),
        _ => Err(Refusal::ApiVersion { version }),
    }
}

/// Refuses a request that needs another key mode than the cluster's.
pub fn check_mode(recorded: KeyMode, context: Option<&Context>, kind: Kind) -> Result<(), Refusal> {
    let required = required_mode(context, kind)?;
    if required == recorded {
        Ok(())
    } else {
        Err(Refusal::KeyMode { required, recorded })
    }
}
