//! How a command can end without doing what was asked, by whose fault, and how that is told.

use bytes::Bytes;
use flotilla_engine::EngineError;
use flotilla_proto::errorpb;
use flotilla_proto::metapb::Region;

use crate::key::KeyMode;
use crate::{limits, region_error};

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The request itself is wrong; sending it again changes nothing.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The request came to the wrong region or at the wrong time; clients send it again.
    #[error("{}", .0.message)]
    Region(Box<errorpb::Error>),
    /// The storage failed. The store stops (design, rule 8); nothing is answered from it.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Failure {
    pub(crate) fn region(error: errorpb::Error) -> Self {
        Self::Region(Box::new(error))
    }

    pub(crate) fn key_not_in_region(key: Bytes, region: &Region) -> Self {
        Self::region(region_error::key_not_in_region(key, region))
    }

    pub(crate) fn deadline_exceeded() -> Self {
        Self::region(region_error::deadline_exceeded())
    }
}

/// A fault of the request. Its text goes to the client as it is; it names no user data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The cluster keeps its keys in the other mode (contracts: C38).
    #[error(
        "ApiVersionNotMatched: the request needs {} keys, and this cluster has {} ones: use {}",
        required.name(), recorded.name(), way_of(*recorded)
    )]
    KeyMode {
        /// What the request's API version needs.
        required: KeyMode,
        /// What the cluster has.
        recorded: KeyMode,
    },
    /// An API version that no store serves.
    #[error("ApiVersionNotMatched: API version {version} is not served; use V1 or V2")]
    ApiVersion {
        /// The number in the request.
        version: i32,
    },
    /// A key that API v2 keeps for something else.
    #[error("ApiVersionNotMatched: a raw key under API v2 starts with `r` and its keyspace")]
    KeyPrefix,
    /// A range that leaves the raw keys under API v2.
    #[error(
        "ApiVersionNotMatched: both ends of a raw range under API v2 start with `r` and a \
         keyspace (the end may be the prefix after it)"
    )]
    RangePrefix,
    /// A column family that is none, or that API v2 does not offer.
    #[error("invalid cf name: {name:?}; {}", cf_names(*mode))]
    ColumnFamily {
        /// As the request has it, cut to a sensible length.
        name: String,
        /// The cluster's key mode.
        mode: KeyMode,
    },
    /// A key longer than [`limits::KEY_BYTES_MAX`] in its physical form.
    #[error(
        "key too large: {bytes} bytes in physical form, at most {}",
        limits::KEY_BYTES_MAX
    )]
    KeyTooLarge {
        /// Bytes of the physical key.
        bytes: usize,
    },
    /// A value longer than [`limits::VALUE_BYTES_MAX`].
    #[error("value too large: {bytes} bytes, at most {}", limits::VALUE_BYTES_MAX)]
    ValueTooLarge {
        /// Bytes of the value.
        bytes: usize,
    },
    /// `ttls` has neither no element, nor one, nor one per pair.
    #[error("The length of ttls does not equal to the length of pairs ({ttls} and {pairs})")]
    TtlCount {
        /// Elements of `ttls`.
        ttls: usize,
        /// Elements of `pairs`.
        pairs: usize,
    },
    /// A range whose start lies behind its end.
    #[error("Invalid KeyRanges: range {index} starts behind its end")]
    RangeReversed {
        /// Which range of the request, from 0.
        index: usize,
    },
    /// A checksum algorithm that is none.
    #[error("unknown checksum algorithm {algorithm}; only Crc64_Xor is served")]
    ChecksumAlgorithm {
        /// The number in the request.
        algorithm: i32,
    },
    /// More than fits one answer (contracts: C39).
    #[error(
        "the answer would exceed {} bytes; ask for fewer rows or keys, or for keys only",
        limits::ANSWER_BYTES_MAX
    )]
    AnswerTooLarge,
}

/// The gRPC status of a refusal where the response has no field for one. Both are codes that no
/// listed client takes for a broken connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusCode {
    /// The request is wrong.
    InvalidArgument,
    /// The request is right, its answer too large.
    OutOfRange,
}

impl Refusal {
    /// See [`StatusCode`].
    pub fn status_code(&self) -> StatusCode {
        match self {
            Self::AnswerTooLarge => StatusCode::OutOfRange,
            _ => StatusCode::InvalidArgument,
        }
    }
}

fn way_of(mode: KeyMode) -> &'static str {
    match mode {
        KeyMode::Plain => "raw calls of API v1",
        KeyMode::Encoded => "API v2 with a keyspace, or transactions",
    }
}

fn cf_names(mode: KeyMode) -> &'static str {
    match mode {
        KeyMode::Plain => "there are default, lock and write",
        KeyMode::Encoded => "API v2 has only default",
    }
}
