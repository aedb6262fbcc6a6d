//! What can be refused, by whose fault it is and what follows.

use crate::conf::ConfError;
use crate::config::{ConfigError, MEMBERS_MAX, READS_PENDING_MAX};

/// A group that cannot be started from what was found on disk. The store must not serve it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The operator's configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The stored configuration of the group makes no sense: corruption.
    #[error("stored configuration is corrupt: {0}")]
    Conf(#[from] ConfError),
    /// Hard state, applied index and log contradict each other: corruption.
    #[error(
        "stored state is corrupt: {what} (applied {applied}, commit {commit}, log {first}..={last})"
    )]
    Inconsistent {
        /// The rule that is broken.
        what: &'static str,
        /// As the state was applied.
        applied: u64,
        /// As the hard state says.
        commit: u64,
        /// First index of the log.
        first: u64,
        /// Last index of the log.
        last: u64,
    },
}

/// A message that was not taken in, but for the newer term it may have taught.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// Sent to another peer, or by this one: a routing fault. Drop it.
    #[error("message from peer {from} to peer {to} reached peer {id}")]
    Misrouted {
        /// The sender it names.
        from: u64,
        /// The addressee it names.
        to: u64,
        /// This peer.
        id: u64,
    },
    /// No honest peer sends this. Drop it, log it.
    #[error("malformed message from peer {from}: {what}")]
    Malformed {
        /// The sender.
        from: u64,
        /// The rule that is broken.
        what: &'static str,
    },
    /// An answer from a peer that is not a member (any more). Drop it.
    #[error("peer {from} is not a member")]
    UnknownPeer {
        /// The sender.
        from: u64,
    },
    /// A snapshot whose configuration does not name this peer. Drop it.
    #[error("the snapshot's configuration does not name peer {id}")]
    NotInSnapshot {
        /// This peer.
        id: u64,
    },
    /// Two leaders in one term, or the leader contradicts what was committed here. Raft's safety is
    /// broken (a replica lost what it had promised to keep); stop this replica and report it.
    #[error("safety violation seen in a message from peer {from}: {what}")]
    Safety {
        /// The sender.
        from: u64,
        /// What contradicts what.
        what: &'static str,
    },
}

/// A proposal that was refused before it was appended: definitely not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Ask the leader, where known.
    #[error("not the leader")]
    NotLeader {
        /// Who leads, as far as this replica knows.
        leader: Option<u64>,
    },
    /// Leadership is being handed over; ask `to` soon, or retry here if that fails.
    #[error("leadership is being transferred to peer {to}")]
    Transferring {
        /// The target of the transfer.
        to: u64,
    },
    /// Too many bytes are on their way; retry later.
    #[error("{bytes} bytes are uncommitted already")]
    TooManyUncommitted {
        /// Bytes on their way.
        bytes: u64,
    },
    /// An earlier change of the configuration is not applied yet; retry later.
    #[error("an earlier configuration change (at or below index {index}) is not applied yet")]
    PendingConfChange {
        /// Applied must reach this index first.
        index: u64,
    },
    /// The change asked for makes no sense.
    #[error(transparent)]
    Conf(#[from] ConfError),
    /// Configuration changes have an entry point of their own.
    #[error("a configuration change must go through propose_conf_change")]
    WrongKind,
}

/// A transfer that was refused. Leadership stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Ask the leader, where known.
    #[error("not the leader")]
    NotLeader {
        /// Who leads, as far as this replica knows.
        leader: Option<u64>,
    },
    /// The target leads already.
    #[error("peer {to} is the leader already")]
    IsLeader {
        /// The target.
        to: u64,
    },
    /// Only a voter may lead.
    #[error("peer {to} is not a voter")]
    NotVoter {
        /// The target.
        to: u64,
    },
    /// Another transfer is under way.
    #[error("a transfer to peer {to} is under way")]
    InProgress {
        /// The target of the earlier one.
        to: u64,
    },
    /// The target is silent, or needs a snapshot first: handing over would leave the group without a
    /// leader that can serve.
    #[error("peer {to} is silent or too far behind")]
    Lagging {
        /// The target.
        to: u64,
    },
}

/// A read that was refused: it got no index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Nobody to ask; retry later.
    #[error("no leader is known")]
    NoLeader,
    /// [`READS_PENDING_MAX`] reads wait already; retry later.
    #[error("more than {READS_PENDING_MAX} reads wait for their index")]
    TooManyPending,
}

const _: () = assert!(MEMBERS_MAX >= 7, "the largest sensible group must fit");
