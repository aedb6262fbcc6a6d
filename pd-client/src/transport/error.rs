//! Why PD gave no proper answer: whose fault, and what now.

use flotilla_proto::pdpb::ErrorType;
use tonic::Code;

/// A failed call of [`super::PdClient`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PdError {
    /// An endpoint in the configuration is no address. Correct it.
    #[error("PD endpoint {endpoint:?} is not host:port or a URL: {why}")]
    Endpoint {
        /// As configured.
        endpoint: String,
        /// What does not fit.
        why: String,
    },
    /// Nobody answered in time, though it was tried again and again. Whether a change took effect is
    /// unknown. Check that PD runs and that its addresses can be reached; then ask again.
    #[error("{call}: no PD answered at {endpoints:?}: {last}")]
    Unreachable {
        /// The call.
        call: &'static str,
        /// Where it was tried.
        endpoints: Vec<String>,
        /// The last failure.
        last: String,
    },
    /// The endpoint serves another cluster. Correct the endpoints, or the data folder is a foreign one.
    #[error("PD at {endpoint} serves cluster {found}, not cluster {expected}")]
    OtherCluster {
        /// Who answered.
        endpoint: String,
        /// This client's cluster.
        expected: u64,
        /// The endpoint's.
        found: u64,
    },
    /// PD ended the call. Asking the same again will not help.
    #[error("{call}: PD answered {code:?}: {message}")]
    Status {
        /// The call.
        call: &'static str,
        /// The gRPC code.
        code: Code,
        /// PD's words.
        message: String,
    },
    /// PD refused the request for what it says.
    #[error("{call}: PD refused ({}): {message}", kind.as_str_name())]
    Refused {
        /// The call.
        call: &'static str,
        /// What kind of refusal.
        kind: ErrorType,
        /// PD's words.
        message: String,
    },
    /// PD's answer breaks the protocol. A defect of that PD.
    #[error("{call}: PD's answer has {what}")]
    Malformed {
        /// The call.
        call: &'static str,
        /// What is wrong.
        what: &'static str,
    },
}

impl PdError {
    /// The kind of an application error.
    pub fn kind(&self) -> Option<ErrorType> {
        match self {
            Self::Refused { kind, .. } => Some(*kind),
            _ => None,
        }
    }
}
