//! A line of a scenario, taken apart word by word. Whatever is not understood ends the scenario.

use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::raft::MessageKind;

/// The words of a line that are not understood yet.
pub(super) struct Words<'a> {
    line: &'a str,
    rest: Vec<&'a str>,
}

impl<'a> Words<'a> {
    pub(super) fn of(line: &'a str) -> Self {
        // Commas are for the reader.
        let words = line.split_whitespace().map(|word| word.trim_matches(','));
        Self {
            line,
            rest: words.filter(|word| !word.is_empty()).collect(),
        }
    }

    /// Ends the scenario: the line makes no sense.
    pub(super) fn wrong(&self, why: &str) -> ! {
        panic!("{:?}: {why}", self.line)
    }

    /// The next word.
    pub(super) fn next(&mut self) -> &'a str {
        if self.rest.is_empty() {
            self.wrong("a word is missing at the end");
        }
        self.rest.remove(0)
    }

    /// The next word, if there is one.
    pub(super) fn any(&mut self) -> Option<&'a str> {
        (!self.rest.is_empty()).then(|| self.rest.remove(0))
    }

    pub(super) fn number(&mut self) -> u64 {
        let word = self.next();
        match word.parse() {
            Ok(number) => number,
            Err(_) => self.wrong(&format!("{word:?} is not a number")),
        }
    }

    /// The numbers that come next; none: nothing is named.
    pub(super) fn numbers(&mut self) -> Vec<u64> {
        let mut numbers = Vec::new();
        while let Some(number) = self.rest.first().and_then(|word| word.parse().ok()) {
            numbers.push(number);
            self.rest.remove(0);
        }
        numbers
    }

    /// Whether `word` comes next; it is taken.
    pub(super) fn starts(&mut self, word: &str) -> bool {
        let found = self.rest.first() == Some(&word);
        if found {
            self.rest.remove(0);
        }
        found
    }

    /// Whether `word` stands anywhere; it is taken.
    pub(super) fn has(&mut self, word: &str) -> bool {
        let position = self.rest.iter().position(|other| *other == word);
        position.map(|at| self.rest.remove(at)).is_some()
    }

    /// The word after `word`, wherever that stands; both are taken.
    pub(super) fn after(&mut self, word: &str) -> Option<&'a str> {
        let at = self.rest.iter().position(|other| *other == word)?;
        if at + 1 >= self.rest.len() {
            self.wrong(&format!("something is missing after {word:?}"));
        }
        self.rest.remove(at);
        Some(self.rest.remove(at))
    }

    /// The number after `word`, wherever that stands.
    pub(super) fn number_after(&mut self, word: &str) -> Option<u64> {
        let value = self.after(word)?;
        match value.parse() {
            Ok(number) => Some(number),
            Err(_) => self.wrong(&format!("{value:?} is not a number")),
        }
    }

    /// A key, or a value.
    pub(super) fn key(&mut self) -> Bytes {
        key(self.next())
    }

    pub(super) fn duration(&mut self) -> Duration {
        let word = self.next();
        duration(word).unwrap_or_else(|| self.wrong(&format!("{word:?} is not a time")))
    }

    /// Everything was understood.
    pub(super) fn end(&self) {
        if let Some(word) = self.rest.first() {
            self.wrong(&format!("what is {word:?}?"));
        }
    }
}

/// What a word stands for: `""` is empty, `x*1000` is long.
pub(super) fn key(word: &str) -> Bytes {
    if word == "\"\"" {
        return Bytes::new();
    }
    let long = word.split_once('*').and_then(|(text, times)| {
        let times: usize = times.parse().ok()?;
        Some(text.repeat(times).into())
    });
    long.unwrap_or_else(|| Bytes::copy_from_slice(word.as_bytes()))
}

/// `300ms` or `2s`.
pub(super) fn duration(word: &str) -> Option<Duration> {
    if let Some(millis) = word.strip_suffix("ms") {
        return Some(Duration::from_millis(millis.parse().ok()?));
    }
    Some(Duration::from_secs(word.strip_suffix('s')?.parse().ok()?))
}

/// What messages are called.
pub(super) const KINDS: [(&str, MessageKind); 13] = [
    ("pre-vote", MessageKind::PreVote),
    ("pre-vote-answer", MessageKind::PreVoteResponse),
    ("vote", MessageKind::Vote),
    ("vote-answer", MessageKind::VoteResponse),
    ("append", MessageKind::Append),
    ("append-answer", MessageKind::AppendResponse),
    ("heartbeat", MessageKind::Heartbeat),
    ("heartbeat-answer", MessageKind::HeartbeatResponse),
    ("snapshot", MessageKind::Snapshot),
    ("take-over", MessageKind::TimeoutNow),
    ("read-index", MessageKind::ReadIndex),
    ("read-index-answer", MessageKind::ReadIndexResponse),
    ("let-me-lead", MessageKind::TransferLeader),
];
