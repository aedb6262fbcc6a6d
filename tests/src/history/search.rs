//! A search for a linearization of one key's history, by brute force (Wing and Gong; with Lowe's
//! memory of states that led nowhere).

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::checkers::answers::OpId;

/// States looked at before the search gives up.
const STATES_MAX: usize = 20_000;

/// An operation on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// Its name.
    pub id: OpId,
    /// The step in which it was called.
    pub invoked: u64,
    /// The step in which its end was heard; `None`: it may take effect at any time, or never.
    pub returned: Option<u64>,
    /// What it does.
    pub act: Act,
}

/// What an operation does, or has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Writes a value, which may expire.
    Write {
        /// The value.
        value: Bytes,
        /// Nobody knows when it will be gone.
        expires: bool,
    },
    /// Removes it.
    Delete,
    /// Has read it.
    Read(Option<Bytes>),
    /// Has seen whether there is one.
    Exists(bool),
    /// Has found what it expected, and replaced it.
    Swap {
        /// What it found.
        expected: Option<Bytes>,
        /// What it wrote, and whether that may expire; `None`: it removed it.
        new: Option<(Bytes, bool)>,
    },
}

impl Act {
    /// A write of `value` that lives `ttl` seconds, or (0) for ever.
    pub fn write(value: &Bytes, ttl: u64) -> Self {
        Self::Write {
            value: value.clone(),
            expires: ttl > 0,
        }
    }
}

/// Somebody has read, and another had written before: the history could be wrong.
pub fn says_something(ops: &[Op]) -> bool {
    let writes = |op: &&Op| matches!(op.act, Act::Write { .. } | Act::Delete | Act::Swap { .. });
    let first = ops.iter().filter(writes).map(|op| op.invoked).min();
    let looks = |op: &Op| {
        matches!(op.act, Act::Read(_) | Act::Exists(_) | Act::Swap { .. }) && op.returned > first
    };
    first.is_some() && ops.iter().any(looks)
}

/// A history in lines, in the order of the calls.
pub fn story(ops: &[Op]) -> String {
    let mut ops: Vec<&Op> = ops.iter().collect();
    ops.sort_by_key(|op| op.invoked);
    let line = |op: &Op| {
        let returned = op.returned.map_or("?".to_owned(), |step| step.to_string());
        format!(
            "\n  {} to {returned}: operation {}, {:?}",
            op.invoked, op.id, op.act
        )
    };
    ops.into_iter().map(line).collect()
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An order that explains everything.
    Linearizable,
    /// There is none; the operations that no order got past.
    Broken(Vec<Op>),
    /// Too many orders to look at.
    Undecided,
}

/// A value, and whether it may be gone at any time.
type State = Option<(Bytes, bool)>;

/// The state after `act`, if it may happen in `state`.
fn step(state: &State, act: &Act) -> Option<State> {
    let shows = |seen: Option<&Bytes>| match (state, seen) {
        (None, None) | (Some((_, true)), None) => true,
        (Some((value, _)), Some(seen)) => value == seen,
        (None, Some(_)) | (Some((_, false)), None) => false,
    };
    match act {
        Act::Write { value, expires } => Some(Some((value.clone(), *expires))),
        Act::Delete => Some(None),
        Act::Read(seen) => shows(seen.as_ref()).then(|| state.clone()),
        Act::Exists(false) => shows(None).then(|| state.clone()),
        Act::Exists(true) => state.is_some().then(|| state.clone()),
        Act::Swap { expected, new } => shows(expected.as_ref()).then(|| new.clone()),
    }
}

/// Looks for an order of `ops` in which each takes effect between its call and its end, and shows
/// what it showed. The key holds nothing before.
pub fn linearize(ops: &[Op]) -> Verdict {
    let mut ops = ops.to_vec();
    drop_unseen(&mut ops);
    ops.sort_by_key(|op| (op.invoked, op.id));
    let mut search = Search {
        done: vec![false; ops.len()],
        ops: &ops,
        dead: BTreeSet::new(),
        best: Vec::new(),
    };
    match search.run() {
        Some(true) => Verdict::Linearizable,
        Some(false) => Verdict::Broken(search.best),
        None => Verdict::Undecided,
    }
}

/// Writes of unknown fate whose value nobody saw explain nothing: they may as well not have happened.
fn drop_unseen(ops: &mut Vec<Op>) {
    let mut seen: BTreeSet<Bytes> = BTreeSet::new();
    for op in ops.iter() {
        match &op.act {
            Act::Read(Some(value)) => drop(seen.insert(value.clone())),
            Act::Swap {
                expected: Some(value),
                ..
            } => drop(seen.insert(value.clone())),
            // Any value explains that there is one.
            Act::Exists(true) => return,
            _ => {}
        }
    }
    ops.retain(|op| match &op.act {
        // One that expires explains that there is nothing, too.
        Act::Write { value, expires } => op.returned.is_some() || *expires || seen.contains(value),
        _ => true,
    });
}

struct Search<'a> {
    ops: &'a [Op],
    done: Vec<bool>,
    /// What is done and the state, where nothing went on.
    dead: BTreeSet<(Vec<bool>, State)>,
    /// What could not be placed where most could.
    best: Vec<Op>,
}

impl Search<'_> {
    /// `None`: gave up. Not recursive: histories are long.
    fn run(&mut self) -> Option<bool> {
        // Each level: the state before, the operation that was placed, the next one to try.
        let mut path: Vec<(State, usize)> = Vec::new();
        let (mut state, mut next): (State, usize) = (None, 0);
        loop {
            if self.is_complete() {
                return Some(true);
            }
            let known = next == 0 && self.dead.contains(&(self.done.clone(), state.clone()));
            let found = (!known).then(|| self.candidate(&state, next)).flatten();
            if let Some((nth, after)) = found {
                self.done[nth] = true;
                path.push((std::mem::replace(&mut state, after), nth));
                next = 0;
                continue;
            }
            self.note_best();
            if !known {
                self.dead.insert((self.done.clone(), state.clone()));
                if self.dead.len() > STATES_MAX {
                    return None;
                }
            }
            let Some((before, nth)) = path.pop() else {
                return Some(false);
            };
            self.done[nth] = false;
            (state, next) = (before, nth + 1);
        }
    }

    fn is_complete(&self) -> bool {
        let mut ops = self.ops.iter().zip(&self.done);
        ops.all(|(op, done)| *done || op.returned.is_none())
    }

    /// The first operation from `from` on that may come next.
    fn candidate(&self, state: &State, from: usize) -> Option<(usize, State)> {
        // Nobody may come next who was called after another had ended that is not placed yet.
        let open = self.ops.iter().zip(&self.done).filter(|(_, done)| !**done);
        let first_end = open.filter_map(|(op, _)| op.returned).min();
        let may = |op: &Op| first_end.is_none_or(|end| op.invoked <= end);
        self.ops
            .iter()
            .enumerate()
            .skip(from)
            .take_while(|(_, op)| may(op))
            .filter(|(nth, _)| !self.done[*nth])
            .find_map(|(nth, op)| step(state, &op.act).map(|after| (nth, after)))
    }

    fn note_best(&mut self) {
        let mut open = self.ops.iter().zip(&self.done).filter(|(_, done)| !**done);
        let count = open.clone().count();
        if self.best.is_empty() || count < self.best.len() {
            self.best = open.by_ref().map(|(op, _)| op.clone()).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn put(text: &'static str) -> Act {
        Act::write(&value(text), 0)
    }

    fn read(text: &'static str) -> Act {
        Act::Read((!text.is_empty()).then(|| value(text)))
    }

    fn swap(expected: &'static str, new: &'static str) -> Act {
        let some = |text: &'static str| (!text.is_empty()).then(|| value(text));
        Act::Swap {
            expected: some(expected),
            new: some(new).map(|value| (value, false)),
        }
    }

    /// Operations as (called, ended or 0, what).
    #[track_caller]
    fn check(ops: &[(u64, u64, Act)], linearizable: bool) {
        let ops = ops
            .iter()
            .enumerate()
            .map(|(id, (invoked, returned, act))| Op {
                id: id as u64,
                invoked: *invoked,
                returned: (*returned > 0).then_some(*returned),
                act: act.clone(),
            });
        let verdict = linearize(&ops.collect::<Vec<_>>());
        let found = verdict == Verdict::Linearizable;
        assert_eq!(found, linearizable, "{verdict:?}");
    }

    #[test]
    fn one_after_the_other() {
        check(&[], true);
        check(&[(1, 2, read(""))], true);
        check(&[(1, 2, put("a")), (3, 4, read("a"))], true);
        check(&[(1, 2, put("a")), (3, 4, read(""))], false);
        check(
            &[(1, 2, put("a")), (3, 4, put("b")), (5, 6, read("a"))],
            false,
        );
        check(
            &[(1, 2, put("a")), (3, 4, Act::Delete), (5, 6, read(""))],
            true,
        );
        check(&[(1, 2, read("a")), (3, 4, put("a"))], false);
    }

    #[test]
    fn at_the_same_time() {
        check(&[(1, 4, put("a")), (2, 3, read(""))], true);
        check(&[(1, 4, put("a")), (2, 3, read("a"))], true);
        // Once it was seen it stays.
        let both = [(1, 9, put("a")), (2, 3, read("a")), (4, 5, read(""))];
        check(&both, false);
        let two = [
            (1, 9, put("a")),
            (1, 9, put("b")),
            (2, 3, read("b")),
            (4, 5, read("a")),
        ];
        check(&two, true);
        let back = [
            two[0].clone(),
            two[1].clone(),
            two[2].clone(),
            two[3].clone(),
            (6, 7, read("b")),
        ];
        check(&back, false);
    }

    #[test]
    fn an_unknown_write_happens_later_or_never_and_once() {
        check(&[(1, 0, put("a")), (2, 3, read(""))], true);
        check(
            &[(1, 0, put("a")), (2, 3, read("")), (4, 5, read("a"))],
            true,
        );
        let gone = [
            (1, 0, put("a")),
            (2, 3, read("a")),
            (4, 5, put("b")),
            (6, 7, read("a")),
        ];
        check(&gone, false);
        check(
            &[(1, 2, put("a")), (3, 0, Act::Delete), (4, 5, read(""))],
            true,
        );
    }

    #[test]
    fn swaps_find_what_they_expect() {
        check(
            &[
                (1, 2, swap("", "a")),
                (3, 4, swap("a", "b")),
                (5, 6, read("b")),
            ],
            true,
        );
        check(&[(1, 2, swap("", "a")), (3, 4, swap("", "b"))], false);
        // Two of the same cannot both succeed.
        check(
            &[
                (1, 2, put("a")),
                (3, 9, swap("a", "b")),
                (3, 9, swap("a", "c")),
            ],
            false,
        );
        check(
            &[
                (1, 2, put("a")),
                (3, 9, swap("a", "b")),
                (3, 9, swap("b", "c")),
            ],
            true,
        );
        check(
            &[
                (1, 2, put("a")),
                (3, 4, swap("a", "")),
                (5, 6, Act::Exists(false)),
            ],
            true,
        );
        check(
            &[(1, 2, put("a")), (3, 0, swap("x", "b")), (5, 6, read("b"))],
            false,
        );
    }

    #[test]
    fn what_expires_may_be_gone() {
        let lives = |ttl| Act::write(&value("a"), ttl);
        check(&[(1, 2, lives(1)), (3, 4, read(""))], true);
        check(&[(1, 2, lives(0)), (3, 4, read(""))], false);
        check(&[(1, 2, lives(1)), (3, 4, Act::Exists(true))], true);
        check(&[(1, 0, put("b")), (3, 4, Act::Exists(true))], true);
        check(
            &[(1, 2, put("b")), (3, 0, lives(1)), (4, 5, read(""))],
            true,
        );
        check(
            &[(1, 2, put("b")), (3, 0, lives(0)), (4, 5, read(""))],
            false,
        );
    }
}
