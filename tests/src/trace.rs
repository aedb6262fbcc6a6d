//! What happened in a run: a hash of everything, and the last steps as text.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

/// Lines kept for the transcript of a failure.
const LINES_KEPT: usize = 400;

/// The record of one run. Two runs of a seed have the same hash, or the simulator itself is broken.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    lines: VecDeque<String>,
    /// Lines so far.
    count: u64,
}

impl Trace {
    /// Notes an event at `step` and `now`.
    pub fn note(&mut self, step: u64, now: Duration, event: std::fmt::Arguments<'_>) {
        let mut line = if self.lines.len() == LINES_KEPT {
            self.lines.pop_front().unwrap_or_default()
        } else {
            String::new()
        };
        line.clear();
        let _infallible = write!(line, "{step:>6} {:>10.6} {event}", now.as_secs_f64());
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self.hash = self.hash.rotate_left(7);
        self.count += 1;
        self.lines.push_back(line);
    }

    /// A hash of all events.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Events so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The last `lines` events.
    pub fn tail(&self, lines: usize) -> String {
        let skip = self.lines.len().saturating_sub(lines);
        let mut text = String::new();
        for line in self.lines.iter().skip(skip) {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_sees_order_and_the_tail_is_bounded() {
        let run = |events: &[&str]| {
            let mut trace = Trace::default();
            for event in events {
                trace.note(1, Duration::ZERO, format_args!("{event}"));
            }
            trace
        };
        assert_eq!(run(&["a", "b"]).hash(), run(&["a", "b"]).hash());
        assert_ne!(run(&["a", "b"]).hash(), run(&["b", "a"]).hash());
        let long = run(&["x"; LINES_KEPT + 5]);
        assert_eq!(long.tail(usize::MAX).lines().count(), LINES_KEPT);
        assert_eq!(long.tail(3).lines().count(), 3);
        assert_eq!(long.count(), LINES_KEPT as u64 + 5);
    }
}
