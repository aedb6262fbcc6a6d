//! When a stream to PD is opened again.

use std::time::Duration;

use flotilla_proto::clock::Mono;

/// The first pause.
const FIRST: Duration = Duration::from_millis(20);
/// The longest: a new PD knows no routes until stores report to it.
const MOST: Duration = Duration::from_millis(500);

/// Pauses between the openings of a stream. They double as long as streams are short-lived: one that
/// opens and is closed at once, by a member that does not lead, is no better than none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reopen {
    last: Option<(Mono, Duration)>,
}

impl Reopen {
    /// The stream is opened at `now`, or could not be: how long to wait before the next time.
    pub fn tried(&mut self, now: Mono) -> Duration {
        let pause = match self.last {
            Some((at, pause)) if now < at + pause + MOST => (pause * 2).min(MOST),
            _ => FIRST,
        };
        self.last = Some((now, pause));
        pause
    }

    /// How long to wait at `now`, when a stream has ended, until it may be opened again.
    pub fn due(&self, now: Mono) -> Duration {
        match self.last {
            Some((at, pause)) if now < at + pause => at + pause - now,
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_until_a_stream_has_lived() {
        #[track_caller]
        fn check(reopen: &mut Reopen, at_ms: u64, pause_ms: u64) {
            let now = Mono(at_ms * 1_000_000);
            assert_eq!(reopen.tried(now), Duration::from_millis(pause_ms));
        }
        let mut reopen = Reopen::default();
        check(&mut reopen, 0, 20);
        check(&mut reopen, 20, 40);
        check(&mut reopen, 60, 80);
        for (at, pause) in [(140, 160), (300, 320), (620, 500), (1_120, 500)] {
            check(&mut reopen, at, pause);
        }
        // It lived for half a second beyond the pause.
        check(&mut reopen, 2_120, 20);
        let due = |ms: u64| reopen.due(Mono(ms * 1_000_000));
        assert_eq!(due(2_130), Duration::from_millis(10));
        assert_eq!(due(2_140), Duration::ZERO);
    }
}
