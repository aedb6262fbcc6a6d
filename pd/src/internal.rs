//! Calls that are not gRPC: between the server and the machine of one node.

use std::collections::BTreeMap;

use flotilla_proto::keyspacepb::KeyspaceMeta;

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

/// The pages of PD's JSON API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ViewKind {
    /// `GET /pd/api/v1/regions`.
    Regions,
    /// `GET /pd/api/v1/stores`.
    Stores,
    /// `GET /pd/api/v1/members`.
    Members,
    /// `GET /pd/api/v1/cluster`.
    Cluster,
    /// `GET /pd/api/v1/version`.
    Version,
    /// `GET /pd/api/v2/keyspaces`.
    Keyspaces,
    /// `GET /pd/api/v2/keyspaces/{name}`.
    Keyspace {
        /// The name in the path.
        name: String,
    },
}
