//! Calls of clients end: no retry goes on for ever (faults: 45).

use std::time::Duration;

use flotilla_pd_client::StockClient;
use flotilla_proto::clock::Mono;

use super::Oracle;
use crate::rules::Rule;

/// Beside its two patiences, for the region and for the answer, an attempt may take so long: a try that was begun
/// within the first one ends behind it, on slow ways and at a store that is paused.
const ATTEMPT_GRACE: Duration = Duration::from_secs(20);

/// A call of a user, as it is seen from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallSeen {
    began: Mono,
    attempts: u32,
    paused: Duration,
}

impl CallSeen {
    /// An attempt begins; with the first one the call does.
    pub fn attempts(&mut self, now: Mono) {
        if self.attempts == 0 {
            self.began = now;
        }
        self.attempts += 1;
    }

    /// The client waits before it tries again.
    pub fn pauses(&mut self, wait: Duration) {
        self.paused += wait;
    }

    /// When its user has heard of it at the latest, if this was the last attempt. `patience`: of one wait.
    fn deadline(&self, patience: Duration) -> Mono {
        self.began + self.paused + (patience * 2 + ATTEMPT_GRACE) * self.attempts
    }
}

/// Attempts that a stock client makes of one call at most, and how long it pauses between them in all.
/// Apart from the table of `flotilla-pd-client`, by the clients' own sources: ten retries; 40 s and 2 s of pauses,
/// where a retry at once counts as one of 2 ms.
fn most_of(habits: StockClient) -> (u32, Duration) {
    match habits {
        StockClient::Rust => (11, Duration::from_secs(5)),
        StockClient::Go => (20_001, Duration::from_secs(40)),
        StockClient::Java => (1_001, Duration::from_secs(2)),
    }
}

/// What the simulator's clients wait beside a pause, at most, so that they do not march in step.
pub const JITTER_MAX: Duration = Duration::from_millis(1);

impl Oracle {
    /// A call has ended now, or goes on.
    pub fn check_call(
        &mut self,
        client: u64,
        call: &CallSeen,
        (habits, patience): (StockClient, Duration),
    ) {
        let (attempts_max, pauses_max) = most_of(habits);
        let pauses_max = pauses_max + JITTER_MAX * call.attempts;
        let within = call.attempts <= attempts_max
            && call.paused <= pauses_max
            && self.now <= call.deadline(patience);
        let now = self.now;
        self.checks.check(Rule::CallsEnd, within, || {
            format!(
                "client {client}, as {habits:?}: at {now:?} {call:?}, {attempts_max} attempts and {pauses_max:?} of pauses it has, and {patience:?} of patience"
            )
        });
    }
}
