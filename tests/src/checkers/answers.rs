//! Proposals and what was said about them, held against what the log did.
//!
//! A write's point in time is the step in which its entry was first applied; every acknowledged
//! write must have one between its call and its answer. Reads are held against the model as of what
//! their store has applied, and must miss nothing that was known when they came (`model.rs`): that
//! puts them between the writes around them. So every operation has its place, for every key at once,
//! with unknown outcomes and batches included.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::clock::Mono;
use flotilla_proto::store::Mod;
use flotilla_raftstore::RequestError;
use prost::Message;

use super::Oracle;
use super::model::{AppliedPart, RowKey};
use crate::rules::{Checks, Rule};

/// The longest wait for an answer once no more faults strike: everything comes to rest within a minute.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Names an operation in a run.
pub type OpId = u64;

/// What a compare-and-swap found before it proposed.
#[derive(Clone, Debug)]
pub struct Compared {
    /// TTL time of the comparison, seconds.
    pub seconds: u64,
    /// The visible value; `None`: no row.
    pub value: Option<Bytes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Pending,
    Answered,
    /// Its store died before an answer.
    Lost,
}

#[derive(Debug)]
struct Proposal {
    since: u64,
    fate: Fate,
    what: What,
}

#[derive(Debug)]
enum What {
    Write {
        print: Vec<u8>,
        compared: Option<Compared>,
        /// The region's version that it was made for.
        version: u64,
    },
    Split {
        keys: Vec<Bytes>,
    },
    Read,
    Members,
}

/// All writes with the same changes: they cannot be told apart, so they are counted.
#[derive(Debug, Default)]
struct Alike {
    proposed: u64,
    refused: u64,
    /// Applied, and not yet claimed by an acknowledgement.
    unclaimed: Vec<Point>,
    applied: u64,
    /// Proposals whose store died.
    lost: u64,
}

/// Where a write took effect.
#[derive(Clone, Debug)]
struct Point {
    step: u64,
    /// What the row of its first change held before.
    before: Option<Bytes>,
    /// The region's version that the log says it was made for.
    version: u64,
    told: Told,
}

/// What somebody learns who is told that a write was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Where it is in the log: region and index.
    pub place: (u64, u64),
    /// The rows that it changed.
    pub rows: Vec<RowKey>,
    /// The step in which it was proposed.
    pub since: u64,
}

/// How an answered proposal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Done.
    Done,
    /// Definitely not applied.
    NotApplied,
    /// Nobody knows.
    Unknown,
}

impl Said {
    /// What an answer says (contracts: C22).
    pub fn of<T>(answer: &Result<T, RequestError>) -> Self {
        match answer {
            Ok(_) => Self::Done,
            Err(RequestError::Undetermined { .. }) => Self::Unknown,
            Err(_) => Self::NotApplied,
        }
    }
}

/// Every proposal of a run.
#[derive(Debug, Default)]
pub struct Answers {
    proposals: BTreeMap<OpId, Proposal>,
    /// Those without an answer, with their stores.
    pending: BTreeMap<OpId, u64>,
    /// Of them, those that were looked at, and when first.
    waiting: BTreeMap<OpId, Mono>,
    alike: BTreeMap<Vec<u8>, Alike>,
    /// Keys at which a split took effect.
    split_at: BTreeMap<Bytes, u64>,
}

impl Answers {
    /// A write goes to a peer, for a region at `version`.
    pub fn write_proposed(
        &mut self,
        op: OpId,
        (store, step): (u64, u64),
        version: u64,
        mods: &[Mod],
        compared: Option<Compared>,
    ) {
        let print = print(mods);
        self.alike.entry(print.clone()).or_default().proposed += 1;
        let what = What::Write {
            print,
            compared,
            version,
        };
        self.open(op, store, step, what);
    }

    /// A split with keys that no other split has.
    pub fn split_proposed(&mut self, op: OpId, store: u64, step: u64, keys: Vec<Bytes>) {
        self.open(op, store, step, What::Split { keys });
    }

    /// A question for a read index.
    pub fn read_asked(&mut self, op: OpId, store: u64, step: u64) {
        self.open(op, store, step, What::Read);
    }

    /// A change of the members. What comes of it the log says.
    pub fn members_asked(&mut self, op: OpId, store: u64, step: u64) {
        self.open(op, store, step, What::Members);
    }

    fn open(&mut self, op: OpId, store: u64, since: u64, what: What) {
        let proposal = Proposal {
            since,
            fate: Fate::Pending,
            what,
        };
        self.pending.insert(op, store);
        let twice = self.proposals.insert(op, proposal);
        assert!(
            twice.is_none_or(|earlier| earlier.fate != Fate::Pending),
            "operation {op} is proposed twice at once"
        );
    }

    /// A part of an entry was applied for the first time. Answers whether it is a write that a
    /// crash had left without an answer.
    pub fn applied(&mut self, step: u64, part: &AppliedPart, checks: &mut Checks) -> bool {
        let print = print(&part.mods);
        let alike = self.alike.entry(print).or_default();
        if part.skipped {
            return false;
        }
        alike.applied += 1;
        alike.unclaimed.push(Point {
            step,
            before: part.before.clone(),
            version: part.version,
            told: Told {
                place: part.place,
                rows: part.rows.clone(),
                since: 0,
            },
        });
        check_counts(alike, &part.mods, checks);
        alike.lost > 0
    }

    /// A split took effect at these keys.
    pub fn split_applied(&mut self, step: u64, keys: impl IntoIterator<Item = Bytes>) {
        self.split_at
            .extend(keys.into_iter().map(|key| (key, step)));
    }

    /// An answer was given. Answers what whoever hears of a write knows from now on.
    pub fn answered(
        &mut self,
        op: OpId,
        said: Said,
        failed: bool,
        checks: &mut Checks,
    ) -> Option<Told> {
        let Some(proposal) = self.proposals.get_mut(&op) else {
            checks.check(Rule::AnsweredOnce, false, || {
                format!("operation {op} was never proposed")
            });
            return None;
        };
        self.pending.remove(&op);
        let fate = std::mem::replace(&mut proposal.fate, Fate::Answered);
        checks.check(Rule::AnsweredOnce, fate == Fate::Pending, || {
            format!("operation {op} is answered, and was {fate:?}")
        });
        if failed && !matches!(proposal.what, What::Read) {
            checks.check(Rule::NothingAfterFailure, said != Said::Done, || {
                format!("operation {op} is acknowledged after the log failed")
            });
        }
        match (&proposal.what, said) {
            (What::Write { print, .. }, Said::Done) => {
                let alike = self.alike.entry(print.clone()).or_default();
                return check_acknowledged(op, proposal, alike, checks);
            }
            (What::Write { print, .. }, Said::NotApplied) => {
                let alike = self.alike.entry(print.clone()).or_default();
                alike.refused += 1;
                check_counts(alike, &[], checks);
            }
            (What::Split { keys }, Said::NotApplied) => {
                let done = keys.iter().find(|key| self.split_at.contains_key(*key));
                checks.check(Rule::DefinitelyNotApplied, done.is_none(), || {
                    format!("operation {op}: the refused split at {done:?} took effect")
                });
            }
            _ => {}
        }
        None
    }

    /// Looks at what `store` owes, at `now`. Answers what has waited the longest.
    fn oldest(&mut self, store: u64, now: Mono) -> Option<(OpId, Duration)> {
        let (pending, waiting) = (&self.pending, &mut self.waiting);
        waiting.retain(|op, _| pending.contains_key(op));
        let here = pending.iter().filter(|(_, of)| **of == store);
        here.map(|(op, _)| (*op, now - *waiting.entry(*op).or_insert(now)))
            .max_by_key(|(_, waited)| *waited)
    }

    /// Time that `store` could not use.
    pub fn excuse(&mut self, store: u64, time: Duration) {
        let here = self.waiting.iter_mut();
        let here = here.filter(|(op, _)| self.pending.get(op) == Some(&store));
        here.for_each(|(_, since)| *since = *since + time);
    }

    /// A store died without answering. Answers how many proposals that leaves unknown.
    pub fn store_died(&mut self, store: u64) -> usize {
        let lost = self.pending_of(store);
        for op in &lost {
            self.pending.remove(op);
            let Some(proposal) = self.proposals.get_mut(op) else {
                continue;
            };
            proposal.fate = Fate::Lost;
            if let What::Write { print, .. } = &proposal.what {
                self.alike.entry(print.clone()).or_default().lost += 1;
            }
        }
        lost.len()
    }

    /// Whether a proposal waits for an answer.
    pub fn any_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Proposals without an answer.
    pub fn pending(&self) -> Vec<OpId> {
        self.pending.keys().copied().collect()
    }

    /// Those that were handed to a store.
    pub fn pending_of(&self, store: u64) -> Vec<OpId> {
        let here = self.pending.iter().filter(|(_, of)| **of == store);
        here.map(|(op, _)| *op).collect()
    }

    /// Writes that a crash left without an answer and that never came.
    pub fn lost_for_ever(&self) -> u64 {
        self.alike
            .values()
            .map(|alike| alike.lost.saturating_sub(alike.unclaimed.len() as u64))
            .sum()
    }
}

impl Oracle {
    /// Whatever a store that runs has taken on it answers in time, if only that nobody knows.
    pub fn check_answered_in_time(&mut self, store: u64) {
        let Some((op, waited)) = self.answers.oldest(store, self.now) else {
            return;
        };
        self.checks
            .check(Rule::AnsweredInTime, waited <= ANSWER_MAX, || {
                format!("store {store}: operation {op} waits for {waited:?}")
            });
    }

    /// A store answers a proposal. Whoever hears that a write is done knows it from now on, and may
    /// not find it behind what was known when it was proposed.
    pub fn answer(&mut self, store: u64, op: OpId, said: Said) {
        let failed = self.stores[&store].failed;
        let told = self.answers.answered(op, said, failed, &mut self.checks);
        if let Some(Told { place, rows, since }) = told {
            let late = self.model.tell_write(place, &rows, since, self.step);
            self.checks.check(Rule::LinearizableWrite, late.is_none(), || {
                format!("operation {op}: proposed in step {since}, and behind a write of {late:?} that was known then")
            });
        }
    }
}

/// Nothing is applied more often than it was proposed and not refused.
fn check_counts(alike: &Alike, mods: &[Mod], checks: &mut Checks) {
    // What is refused twice breaks another rule.
    let may = alike.proposed.saturating_sub(alike.refused);
    checks.check(Rule::DefinitelyNotApplied, alike.applied <= may, || {
        format!(
            "{} of {may} writes with equal changes are applied ({} were refused): {mods:?}",
            alike.applied, alike.refused
        )
    });
}

/// It has a point in time of its own, at the epoch it was made for, and a compare-and-swap finds
/// there what it had compared.
fn check_acknowledged(
    op: OpId,
    proposal: &Proposal,
    alike: &mut Alike,
    checks: &mut Checks,
) -> Option<Told> {
    let Proposal { since, what, .. } = proposal;
    let What::Write {
        compared, version, ..
    } = what
    else {
        return None;
    };
    let points = &alike.unclaimed;
    let in_time = |point: &&Point| point.step >= *since;
    checks.check(Rule::AcknowledgedIsApplied, points.iter().any(|point| in_time(&point)), || {
        format!("operation {op}, proposed in step {since}, is acknowledged; unclaimed points: {points:?}")
    });
    let at_epoch = |point: &&Point| in_time(point) && point.version == *version;
    let any_at_epoch = points.iter().any(|point| at_epoch(&point));
    checks.check(Rule::ServedAtItsEpoch, any_at_epoch, || {
        format!("operation {op} was made for version {version}; unclaimed points: {points:?}")
    });
    let fits = |point: &Point| {
        let compared = compared.as_ref();
        at_epoch(&point) && compared.is_none_or(|c| c.matches(point.before.as_ref()))
    };
    let found = points.iter().position(fits);
    if compared.is_some() {
        checks.check(Rule::AtomicSwap, found.is_some(), || {
            format!("operation {op} compared {compared:?} and wrote over {points:?}")
        });
    }
    let since = *since;
    found.map(|nth| Told {
        since,
        ..alike.unclaimed.remove(nth).told
    })
}

impl Compared {
    fn matches(&self, stored: Option<&Bytes>) -> bool {
        let row = stored.and_then(|stored| flotilla_engine::row::decode(stored).ok());
        let visible = row.filter(|row| row.visible(self.seconds));
        visible.map(|row| row.value) == self.value.as_deref()
    }
}

/// Tells changes apart by their bytes.
fn print(mods: &[Mod]) -> Vec<u8> {
    mods.iter()
        .flat_map(Message::encode_length_delimited_to_vec)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(time: Duration) -> Mono {
        Mono(1) + time
    }

    fn broken(oracle: &Oracle) -> Option<Rule> {
        oracle.violation().map(|violation| violation.rule)
    }

    #[test]
    fn an_answer_is_owed_for_so_long_and_no_longer() {
        let check = |paused: Duration, waited: Duration, rule: Option<Rule>| {
            let mut oracle = Oracle {
                now: after(Duration::ZERO),
                ..Oracle::default()
            };
            oracle.answers.read_asked(7, 2, 1);
            oracle.check_answered_in_time(2);
            oracle.excuse(2, paused);
            oracle.now = after(waited);
            oracle.check_answered_in_time(1);
            oracle.check_answered_in_time(2);
            assert_eq!(broken(&oracle), rule, "{paused:?} {waited:?}");
        };
        let little = Duration::from_millis(1);
        check(Duration::ZERO, ANSWER_MAX, None);
        check(
            Duration::ZERO,
            ANSWER_MAX + little,
            Some(Rule::AnsweredInTime),
        );
        check(little, ANSWER_MAX + little, None);
    }

    #[test]
    fn nothing_is_acknowledged_once_the_log_has_failed() {
        let check = |failed, said, rule: Option<Rule>| {
            let mut oracle = Oracle::default();
            oracle.store(2).failed = failed;
            oracle.answers.members_asked(7, 2, 1);
            oracle.answer(2, 7, said);
            assert_eq!(broken(&oracle), rule, "{said:?}");
            let asked = oracle
                .checks
                .counts()
                .contains_key(&Rule::NothingAfterFailure);
            assert_eq!(asked, failed);
        };
        check(false, Said::Done, None);
        check(true, Said::Unknown, None);
        check(true, Said::Done, Some(Rule::NothingAfterFailure));
    }
}
