//! The machine with what its driver has to remember: the same in production and in the simulator.
//!
//! The driver does the IO: it tells of leadership, reads rows, proposes, and carries effects out.
//! When to do which of that is decided here.

use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::clock::{Mono, Wall};
use flotilla_proto::store::{ColumnFamily, Mod, ModKind};

use crate::call::Response;
use crate::effect::{Effect, Input};
use crate::internal::ExtendWindow;
use crate::machine::{Config, Pd};
use crate::oracle::{OracleCommand, OracleError};
use crate::status::Status;

/// Pause before it is tried again to learn what became of the proposals of a term.
pub const SETTLE_PAUSE: Duration = Duration::from_millis(100);

/// How often a lease that has just run out is asked for again for one timestamp.
pub const LEASE_ATTEMPTS: u32 = 3;

/// What the driver is to do, in order.
#[derive(Debug)]
pub enum Work {
    /// Read all rows of the meta region, then call [`Driven::loaded`]. What is applied now is enough.
    Load {
        /// The term this node leads in.
        term: u64,
    },
    /// Propose an empty write in `term`: whatever was proposed before it is decided when it is. Then
    /// call [`Driven::settled`].
    Settle {
        /// The term this node leads in.
        term: u64,
        /// Wait this long first.
        after: Duration,
    },
    /// Carry this out. Never [`Effect::Reload`], which becomes the two above.
    Effect(Effect),
}

/// The machine, and the role of its node.
#[derive(Debug)]
pub struct Driven {
    pd: Pd,
    /// The term this store leads the meta region in, if it does.
    role: Option<u64>,
    /// The term in which PD serves everything: timestamps come last, when their first window is
    /// durable.
    serves: Option<u64>,
    /// The term in which the meta region was found without rows.
    empty: Option<u64>,
}

impl Driven {
    /// A machine that does not lead yet.
    ///
    /// # Panics
    /// As [`Pd::new`].
    pub fn new(config: Config) -> Self {
        Self {
            pd: Pd::new(config),
            role: None,
            serves: None,
            empty: None,
        }
    }

    /// The term this store leads the meta region in, if it does.
    pub fn role(&self) -> Option<u64> {
        self.role
    }

    /// The term in which PD serves everything, timestamps included.
    pub fn serves(&self) -> Option<u64> {
        self.serves
    }

    /// The machine.
    pub fn pd(&self) -> &Pd {
        &self.pd
    }

    /// This store leads the meta region in `term` and has applied its own first entry of that term.
    pub fn leads(&mut self, term: u64, work: &mut Vec<Work>) {
        self.role = Some(term);
        work.push(Work::Load { term });
    }

    /// This store does not lead the meta region any more.
    pub fn follows(&mut self, now: Mono, wall: Wall, work: &mut Vec<Work>) {
        self.role = None;
        self.handle(now, wall, Input::Retire, work);
    }

    /// The rows of the meta region, read for [`Work::Load`] of `term`. A peer that has just ended took
    /// them along, and its driver is told so next. Who can still write is not one of those: it has lost
    /// its rows, which is fatal.
    pub fn loaded(
        &mut self,
        now: Mono,
        wall: Wall,
        term: u64,
        records: Vec<(Bytes, Bytes)>,
        work: &mut Vec<Work>,
    ) {
        if self.role != Some(term) {
            return;
        }
        if records.is_empty() && self.empty.replace(term) != Some(term) {
            let after = Duration::ZERO;
            return work.push(Work::Settle { term, after });
        }
        self.handle(now, wall, Input::Lead { term, records }, work);
    }

    /// What became of the write of [`Work::Settle`] of `term`: only one that is applied says that all
    /// before it is decided.
    pub fn settled(&mut self, term: u64, applied: bool, work: &mut Vec<Work>) {
        if self.role != Some(term) {
            return;
        }
        work.push(if applied {
            Work::Load { term }
        } else {
            Work::Settle {
                term,
                after: SETTLE_PAUSE,
            }
        });
    }

    /// Any other input.
    pub fn handle(&mut self, now: Mono, wall: Wall, input: Input, work: &mut Vec<Work>) {
        let mut effects = Vec::new();
        self.pd.handle(now, wall, input, &mut effects);
        for effect in effects {
            match effect {
                Effect::Reload { term } => {
                    if self.role == Some(term) {
                        let after = Duration::ZERO;
                        work.push(Work::Settle { term, after });
                    }
                    continue;
                }
                Effect::Oracle(OracleCommand::Open { term, .. }) => self.serves = Some(term),
                Effect::Oracle(OracleCommand::Close) => self.serves = None,
                _ => {}
            }
            work.push(Work::Effect(effect));
        }
    }
}

/// A row of an [`Effect::Propose`] as the meta region takes it.
pub fn meta_mod((key, value): (Bytes, Option<Bytes>)) -> Mod {
    let kind = if value.is_some() {
        ModKind::Put
    } else {
        ModKind::Delete
    };
    Mod {
        kind: kind.into(),
        cf: ColumnFamily::CfMeta.into(),
        key,
        value: value.unwrap_or_default(),
    }
}

/// Whether an answer gives ids. It leaves only while the lease of the term holds in which the machine
/// leads: whoever leads next begins above all of them, and ids rise from one leader to the next.
pub fn gives_ids(response: &Response) -> bool {
    let ids = matches!(
        response,
        Response::AllocID(_) | Response::AskSplit(_) | Response::AskBatchSplit(_)
    );
    let refused = response
        .header()
        .is_some_and(|header| header.error.is_some());
    ids && !refused
}

/// What to do about a timestamp that could not be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimestampNext {
    /// Send this to the machine; try again when it is answered, fail with its status.
    Extend(ExtendWindow),
    /// Try again then.
    Wait {
        /// By the clock that the oracle was asked with.
        until: Mono,
    },
    /// Have the meta region's peer confirm that it leads, then try again.
    RenewLease,
    /// Nothing helps.
    Fail(Status),
}

/// One call for timestamps, over its attempts.
#[derive(Clone, Copy, Debug, Default)]
pub struct TimestampCall {
    renewed: u32,
}

impl TimestampCall {
    /// An attempt failed. `serves`: PD serves timestamps here, as far as is known.
    pub fn failed(&mut self, error: OracleError, serves: bool) -> TimestampNext {
        match error {
            OracleError::NeedWindow { above_ms } => {
                TimestampNext::Extend(ExtendWindow { above_ms })
            }
            OracleError::Exhausted { retry_at } => TimestampNext::Wait { until: retry_at },
            OracleError::Refused(status) => {
                // The lease of an idle or paused node may have run out while it still leads.
                let renewable = status == Status::not_leader() && serves;
                if !renewable || self.renewed >= LEASE_ATTEMPTS {
                    return TimestampNext::Fail(status);
                }
                self.renewed += 1;
                TimestampNext::RenewLease
            }
        }
    }
}
