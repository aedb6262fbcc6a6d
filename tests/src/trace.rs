//! What happened in a run: a hash of everything, and the last steps as text.
//!
//! Text is made only for who reads it: a run that fails is run again for its transcript.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

/// The record of one run. Two runs of a seed have the same hash, or the simulator itself is broken.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    lines: VecDeque<String>,
    /// Lines that are kept.
    keep: usize,
    /// Events so far.
    count: u64,
}

impl Trace {
    /// A trace that keeps the last `keep` events as text.
    pub fn keeping(keep: usize) -> Self {
        Self {
            keep,
            ..Self::default()
        }
    }

    /// Notes an event at `step` and `now`.
    pub fn note(&mut self, step: u64, now: Duration, event: std::fmt::Arguments<'_>) {
        self.count += 1;
        self.mix([step, u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)]);
        if self.keep == 0 {
            return;
        }
        let mut line = if self.lines.len() == self.keep {
            self.lines.pop_front().unwrap_or_default()
        } else {
            String::new()
        };
        line.clear();
        let _infallible = write!(line, "{step:>6} {:>10.6} {event}", now.as_secs_f64());
        self.lines.push_back(line);
    }

    /// Takes numbers into the hash: what an event was about.
    pub fn mix(&mut self, numbers: impl IntoIterator<Item = u64>) {
        // FNV-1a over words: order counts.
        for number in numbers {
            self.hash = (self.hash ^ number)
                .wrapping_mul(0x0000_0100_0000_01b3)
                .rotate_left(23);
        }
    }

    /// A hash of all events.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Events so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The last events as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

/// A number that two byte strings hardly share: for [`Trace::mix`].
pub fn digest(bytes: &[u8]) -> u64 {
    let word = |part: &[u8]| {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        u64::from_le_bytes(word)
    };
    let parts = bytes.chunks(8).map(word);
    parts.fold(bytes.len() as u64, |hash, part| {
        (hash ^ part)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_sees_order_and_numbers_and_the_text_is_bounded() {
        let run = |keep: usize, events: &[u64]| {
            let mut trace = Trace::keeping(keep);
            for event in events {
                trace.note(1, Duration::ZERO, format_args!("{event}"));
                trace.mix([*event]);
            }
            trace
        };
        assert_eq!(run(9, &[1, 2]).hash(), run(0, &[1, 2]).hash());
        assert_ne!(run(0, &[1, 2]).hash(), run(0, &[2, 1]).hash());
        assert_ne!(run(0, &[1, 2]).hash(), run(0, &[1, 3]).hash());
        let long = run(3, &[7; 10]);
        assert_eq!((long.text().lines().count(), long.count()), (3, 10));
        assert_eq!(run(0, &[7; 10]).text(), "");
    }

    #[test]
    fn digests_differ() {
        let texts: [&[u8]; 6] = [b"", b"\0", b"a", b"abcdefgh", b"abcdefghi", b"abcdefgi"];
        for (nth, one) in texts.iter().enumerate() {
            for other in &texts[nth + 1..] {
                assert_ne!(digest(one), digest(other), "{one:?} {other:?}");
            }
        }
    }
}
