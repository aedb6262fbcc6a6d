//! Placement rules: which stores the peers of a key range belong on.

use std::fmt;

use bytes::Bytes;

/// A rule of a range: so many peers in a role, on stores with such labels, apart from each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Rules come in groups.
    pub group: String,
    /// Unique in its group.
    pub id: String,
    /// Rules of a group go by this, then by id.
    pub index: i64,
    /// Rules of its group before this one do not count where it does.
    pub overrides: bool,
    /// The first key.
    pub start: Bytes,
    /// The key behind the last; empty: no end.
    pub end: Bytes,
    /// What its peers are.
    pub role: Role,
    /// How many.
    pub count: usize,
    /// What their stores must show, all of it.
    pub constraints: Vec<Constraint>,
    /// Labels by which they are kept apart, the widest first.
    pub location_labels: Vec<String>,
}

/// What a rule's peers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A voter that may lead.
    Voter,
    /// The leader.
    Leader,
    /// A voter that is not to lead.
    Follower,
    /// A learner that stays one.
    Learner,
}

/// What a store's label must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constraint {
    /// The label's name.
    pub key: String,
    /// See [`Op`].
    pub op: Op,
    /// For [`Op::In`] and [`Op::NotIn`].
    pub values: Vec<String>,
}

/// How a [`Constraint`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The label has one of the values.
    In,
    /// It has none of them, or is not there.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    NotExists,
}

impl Role {
    /// It votes.
    pub fn votes(self) -> bool {
        self != Self::Learner
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Voter => "voter",
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Learner => "learner",
        })
    }
}
