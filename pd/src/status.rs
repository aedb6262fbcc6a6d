//! How a call fails below the application level: a gRPC status, without gRPC.

use std::fmt;

/// The status codes PD answers with; the discriminants are gRPC's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    /// The request can never be right.
    InvalidArgument = 3,
    /// A limit of this service is reached; later it may work.
    ResourceExhausted = 8,
    /// The request is meant for another cluster, or not possible in this one.
    FailedPrecondition = 9,
    /// The call exists in the protocol and is not offered here.
    Unimplemented = 12,
    /// The service broke one of its own rules.
    Internal = 13,
    /// This member does not lead now; another one, or the same one later, does.
    Unavailable = 14,
}

/// Ends a call (or a stream) with a gRPC status instead of a response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Status {
    /// The gRPC code.
    pub code: Code,
    /// Read by people, and by clients that look for `not leader` in it.
    pub message: String,
}

/// The text of [`Status::not_leader`]; clients recognise a leader change by it (wire, section 3.1).
pub const NOT_LEADER: &str = "not leader";

impl Status {
    /// A status with `code` and `message`.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// This member does not lead the meta region.
    pub fn not_leader() -> Self {
        Self::new(Code::Unavailable, NOT_LEADER)
    }

    /// The leader went while a change was under way, so nobody here knows whether it took effect.
    pub fn outcome_unknown() -> Self {
        Self::new(
            Code::Unavailable,
            format!(
                "{NOT_LEADER}: leadership was lost while the change was under way, its outcome is unknown"
            ),
        )
    }

    /// The request belongs to another cluster (wire, section 3.1).
    pub fn cluster_mismatch(need: u64, got: u64) -> Self {
        Self::new(
            Code::FailedPrecondition,
            format!("mismatch cluster id, need {need} but got {got}"),
        )
    }

    /// The call is known and not offered.
    pub fn unimplemented(call: &str) -> Self {
        Self::new(
            Code::Unimplemented,
            format!("{call} is not offered by this placement driver"),
        )
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
