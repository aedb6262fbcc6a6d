//! Notices a flush of the state that does not finish (contracts: C13).

use std::time::Duration;

use flotilla_proto::clock::Mono;

use crate::StateStore;

/// A flush that has made nothing durable for this long ends the store: after a restart it replays.
pub const FLUSH_STALL_MAX: Duration = Duration::from_secs(60);

/// How far flushes have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushProgress {
    /// Something waits to be flushed or is being flushed.
    pub waiting: bool,
    /// Number of the last durable batch.
    pub cut: u64,
}

impl FlushProgress {
    /// How far the flushes of `state` have come.
    pub fn of(state: &impl StateStore) -> Self {
        Self {
            waiting: state.flush_waiting(),
            cut: state.durable_cut(),
        }
    }
}

/// Follows the progress of flushes.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlushWatch {
    /// When the flush that is waited for was first seen, and the cut at that moment.
    since: Option<(Mono, u64)>,
}

impl FlushWatch {
    /// Takes a look; answers for how long a flush has been waited for without any progress.
    pub fn observe(&mut self, now: Mono, progress: FlushProgress) -> Duration {
        let moved = self.since.is_none_or(|(_, cut)| cut != progress.cut);
        if !progress.waiting {
            self.since = None;
        } else if moved {
            self.since = Some((now, progress.cut));
        }
        self.since.map_or(Duration::ZERO, |(since, _)| now - since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_flush_without_progress_counts() {
        let mut watch = FlushWatch::default();
        let steps = [
            // second, waiting, cut, stalled for
            (0, false, 1, 0),
            (10, true, 1, 0),
            (40, true, 1, 30),
            (50, true, 2, 0),
            (109, true, 2, 59),
            (110, true, 2, 60),
            (111, false, 2, 0),
            (112, true, 2, 0),
        ];
        for (second, waiting, cut, stalled) in steps {
            let now = Mono::default() + Duration::from_secs(second);
            let found = watch.observe(now, FlushProgress { waiting, cut });
            assert_eq!(found, Duration::from_secs(stalled), "at {second} s");
            assert_eq!(found >= FLUSH_STALL_MAX, second == 110, "at {second} s");
        }
    }
}
