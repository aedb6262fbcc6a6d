//! What one client sees of a key: its own writes, and never less than it has seen before (faults: 41).
//!
//! Values say whose write they are. A client knows of a write that it was told is done, or whose value
//! it has read. It may not be shown the value of a write that had ended before a write began that it
//! knows of. What a replica has shown binds only later reads at the same replica; everything binds
//! reads at replicas.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::search::{Act, Op};
use super::{Caller, Key};
use crate::rules::{Checks, Rule};

/// A write as users see it: the step in which it was called, and that in which its end was heard.
type Write = (u64, Option<u64>);

/// What a client knows of a key from a step on: the newest call of a write.
#[derive(Default)]
struct Known(Vec<(u64, u64)>);

impl Known {
    fn learn(&mut self, heard: u64, began: u64) {
        self.0.push((heard, began));
    }

    /// Later steps know all that earlier ones did.
    fn settle(&mut self) {
        self.0.sort_unstable();
        let mut most = 0;
        for (_, began) in &mut self.0 {
            most = most.max(*began);
            *began = most;
        }
    }

    /// The call of the newest write that was known before `step`.
    fn before(&self, step: u64) -> Option<u64> {
        let past = self.0.partition_point(|(heard, _)| *heard < step);
        Some(self.0[past.checked_sub(1)?].1)
    }
}

/// Holds the operations on one key against what their callers knew.
pub(super) fn check(key: &Key, ops: &[Op], caller: impl Fn(&Op) -> Caller, checks: &mut Checks) {
    let writes = writes(ops);
    let mut known: BTreeMap<Caller, Known> = BTreeMap::new();
    for op in ops {
        if let Some((heard, began)) = learned(op, &writes) {
            known.entry(caller(op)).or_default().learn(heard, began);
        }
    }
    known.values_mut().for_each(Known::settle);
    for op in ops {
        let Some((_, Some(ended))) = shown(op, &writes) else {
            continue;
        };
        let caller = caller(op);
        let leader = Caller {
            replica: None,
            ..caller
        };
        let knows = [leader, caller].into_iter().filter_map(|by| known.get(&by));
        let Some(began) = knows.filter_map(|known| known.before(op.invoked)).max() else {
            continue;
        };
        checks.check(Rule::Sessions, ended >= began, || {
            format!(
                "operation {} of {caller:?} on {key:?}, called in step {}, shows a write that had ended in step {ended}: {:?}; \
                 the client knew of one that was called in step {began}",
                op.id, op.invoked, op.act
            )
        });
    }
}

/// By the value they wrote; without one: what is there before everybody, if nothing ever goes.
fn writes(ops: &[Op]) -> BTreeMap<Option<Bytes>, Write> {
    let mut writes = BTreeMap::new();
    let goes = |act: &Act| {
        matches!(
            act,
            Act::Delete
                | Act::Write { expires: true, .. }
                | Act::Swap {
                    new: None | Some((_, true)),
                    ..
                }
        )
    };
    if !ops.iter().any(|op| goes(&op.act)) {
        writes.insert(None, (0, Some(0)));
    }
    for op in ops {
        let value = match &op.act {
            Act::Write { value, .. } => value,
            Act::Swap {
                new: Some((value, _)),
                ..
            } => value,
            _ => continue,
        };
        writes.insert(Some(value.clone()), (op.invoked, op.returned));
    }
    writes
}

/// The write that a read has shown, if it is known which.
fn shown(op: &Op, writes: &BTreeMap<Option<Bytes>, Write>) -> Option<Write> {
    match &op.act {
        Act::Read(value) => writes.get(value).copied(),
        Act::Swap { expected, .. } if op.returned.is_some() => writes.get(expected).copied(),
        _ => None,
    }
}

/// When the caller has learned of a write, and when that was called.
fn learned(op: &Op, writes: &BTreeMap<Option<Bytes>, Write>) -> Option<(u64, u64)> {
    let heard = op.returned?;
    match &op.act {
        Act::Read(_) => Some((heard, shown(op, writes)?.0)),
        Act::Exists(_) => None,
        Act::Write { .. } | Act::Delete | Act::Swap { .. } => Some((heard, op.invoked)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Operations as (client, replica or 0, called, ended or 0, what).
    type Told = (u64, u64, u64, u64, Act);

    fn put(text: &'static str) -> Act {
        Act::write(&Bytes::from_static(text.as_bytes()), 0)
    }

    fn read(text: &'static str) -> Act {
        Act::Read((!text.is_empty()).then(|| Bytes::from_static(text.as_bytes())))
    }

    #[track_caller]
    fn check_all(told: &[Told], holds: bool) {
        let op = |(id, (_, _, invoked, returned, act)): (usize, &Told)| Op {
            id: id as u64,
            invoked: *invoked,
            returned: (*returned > 0).then_some(*returned),
            act: act.clone(),
        };
        let ops: Vec<Op> = told.iter().enumerate().map(op).collect();
        let caller = |op: &Op| {
            let (client, replica, ..) = told[op.id as usize];
            Caller {
                client,
                replica: (replica > 0).then_some(replica),
            }
        };
        let mut checks = Checks::default();
        check(
            &("default".to_owned(), Bytes::from_static(b"k")),
            &ops,
            caller,
            &mut checks,
        );
        assert_eq!(checks.violation().is_none(), holds, "{told:?}");
    }

    #[test]
    fn a_client_reads_its_own_writes() {
        let wrote = |last| [(1, 0, 1, 2, put("a")), (1, 0, 3, 4, put("b")), last];
        check_all(&wrote((1, 0, 5, 6, read("b"))), true);
        check_all(&wrote((1, 0, 5, 6, read("a"))), false);
        check_all(&wrote((1, 9, 5, 6, read("a"))), false);
        check_all(&wrote((1, 0, 5, 6, read(""))), false);
        // Another client knows nothing of it here: that is another rule.
        check_all(&wrote((2, 0, 5, 6, read("a"))), true);
        // It was asked before the answer came.
        check_all(&wrote((1, 0, 3, 6, read("a"))), true);
    }

    #[test]
    fn a_client_never_goes_back() {
        let writes = [(1, 0, 1, 2, put("a")), (1, 0, 3, 0, put("b"))];
        let then = |first: (u64, u64), second: (u64, u64)| {
            let mut told = writes.to_vec();
            told.push((first.0, first.1, 4, 5, read("b")));
            told.push((second.0, second.1, 6, 7, read("a")));
            told
        };
        check_all(&then((2, 0), (2, 0)), false);
        check_all(&then((2, 0), (2, 9)), false);
        check_all(&then((2, 9), (2, 9)), false);
        check_all(&then((2, 9), (2, 0)), true);
        check_all(&then((2, 9), (2, 8)), true);
        check_all(&then((2, 0), (3, 0)), true);
    }

    #[test]
    fn what_may_be_gone_may_be_missed() {
        let wrote = |other, last| [(1, 0, 1, 2, put("a")), (2, 0, 1, 0, other), last];
        check_all(&wrote(put("b"), (1, 0, 3, 4, read(""))), false);
        check_all(&wrote(Act::Delete, (1, 0, 3, 4, read(""))), true);
    }
}
