//! When a stream to PD is opened again.

use std::time::Duration;

use flotilla_proto::clock::Mono;

/// The first pause.
const FIRST: Duration = Duration::from_millis(20);
/// The longest.
const MOST: Duration = Duration::from_secs(2);

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
        for (at, pause) in [(140, 160), (300, 320), (620, 640), (1_260, 1_280)] {
            check(&mut reopen, at, pause);
        }
        check(&mut reopen, 2_540, 2_000);
        check(&mut reopen, 4_540, 2_000);
        // It lived for two seconds beyond the pause.
        check(&mut reopen, 8_540, 20);
        let due = |ms: u64| reopen.due(Mono(ms * 1_000_000));
        assert_eq!(due(8_550), Duration::from_millis(10));
        assert_eq!(due(8_560), Duration::ZERO);
    }
}
