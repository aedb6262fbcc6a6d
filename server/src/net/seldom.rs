//! Lines of the log that others could make us write without end.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The pause between two lines.
const PAUSE: Duration = Duration::from_secs(10);

/// Lets one line pass, and counts those that would have come in the pause after it.
#[derive(Debug)]
pub(super) struct Seldom(Mutex<State>);

#[derive(Debug)]
struct State {
    last: Option<Instant>,
    missed: u64,
}

impl Seldom {
    pub(super) const fn new() -> Self {
        let (last, missed) = (None, 0);
        Self(Mutex::new(State { last, missed }))
    }

    /// Calls `tell` with the lines that were left out, unless this one is left out too.
    pub(super) fn tell(&self, tell: impl FnOnce(u64)) {
        if let Some(missed) = self.pass(Instant::now()) {
            tell(missed);
        }
    }

    fn pass(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        if state.last.is_some_and(|last| now < last + PAUSE) {
            state.missed += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.missed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_passes_in_a_while_and_says_how_many_did_not() {
        let (seldom, begin) = (Seldom::new(), Instant::now());
        let at = |seconds| seldom.pass(begin + Duration::from_secs(seconds));
        let passed = [0, 1, 9, 10, 21, 22].map(at);
        assert_eq!(passed, [Some(0), None, None, Some(2), Some(0), None]);
    }
}
