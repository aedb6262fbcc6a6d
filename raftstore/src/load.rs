//! What is asked of a region, counted where it is asked; and where a region would be cut so that
//! each half gets half of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::clock::Mono;
use flotilla_proto::keys::leading_encoding;
use parking_lot::Mutex;

/// Load is looked at in steps of this long.
const WINDOW: Duration = Duration::from_secs(1);
/// The first requests of a window, and one of so many after them, leave their keys as samples.
const SAMPLE_EVERY: u64 = 8;
/// Samples kept of one window; later ones take the place of the first.
const WINDOW_SAMPLES_MAX: usize = 64;
/// Fewer samples say nothing about where the load lies.
const SAMPLES_MIN: usize = 16;
/// Either part must get at least one part in so many of the samples ...
const PART_SHARE: usize = 4;
/// ... and no more than one in so many may touch both.
const CROSSING_SHARE: usize = 4;

/// The first and the last key that a request touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// The lowest.
    pub first: Bytes,
    /// The highest; the same for a request of one key.
    pub last: Bytes,
}

/// Requests, and what they read or wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flow {
    /// How many.
    pub(crate) queries: u64,
    /// Keys of all of them.
    pub(crate) keys: u64,
    /// Bytes of keys and values.
    pub(crate) bytes: u64,
}

impl Flow {
    pub(crate) fn add(&mut self, more: Self) {
        self.queries += more.queries;
        self.keys += more.keys;
        self.bytes += more.bytes;
    }

    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Counters that whoever serves a read of the region adds to, on any thread.
#[derive(Debug, Default)]
pub struct Load {
    queries: AtomicU64,
    keys: AtomicU64,
    bytes: AtomicU64,
    samples: Mutex<Samples>,
}

impl Load {
    /// A read begins. `true`: it is one of those whose keys are wanted.
    pub fn begin_read(&self) -> bool {
        let before = self.queries.fetch_add(1, Ordering::Relaxed);
        is_sampled(before)
    }

    /// What the read touched.
    pub fn end_read(&self, keys: u64, bytes: u64, touched: Option<Touched>) {
        self.keys.fetch_add(keys, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(touched) = touched {
            self.samples.lock().push(touched);
        }
    }

    /// What was read since this was asked last.
    fn take(&self) -> (Flow, Vec<Touched>) {
        if self.queries.load(Ordering::Relaxed) == 0 {
            return (Flow::default(), Vec::new());
        }
        let flow = Flow {
            queries: self.queries.swap(0, Ordering::Relaxed),
            keys: self.keys.swap(0, Ordering::Relaxed),
            bytes: self.bytes.swap(0, Ordering::Relaxed),
        };
        (flow, std::mem::take(&mut *self.samples.lock()).kept)
    }
}

/// Whether the request after so many others of the window is.
fn is_sampled(before: u64) -> bool {
    before < SAMPLE_EVERY || before.is_multiple_of(SAMPLE_EVERY)
}

/// The last few of a window.
#[derive(Debug, Default)]
struct Samples {
    kept: Vec<Touched>,
    pushed: usize,
}

impl Samples {
    fn push(&mut self, touched: Touched) {
        match self.kept.get_mut(self.pushed % WINDOW_SAMPLES_MAX) {
            Some(old) => *old = touched,
            None => self.kept.push(touched),
        }
        self.pushed += 1;
    }
}

/// From when on a region is hot; 0: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hot {
    /// Requests a second.
    pub(crate) queries: u64,
    /// Bytes a second.
    pub(crate) bytes: u64,
    /// For how long before it is cut.
    pub(crate) time: Duration,
}

/// How much is asked of a region, as its leader sees it.
#[derive(Debug)]
pub(crate) struct LoadWatch {
    since: Mono,
    /// Writes of this window.
    written: Flow,
    write_samples: Samples,
    /// Since when it is hot, and samples from then on.
    hot: Option<Mono>,
    samples: Vec<Touched>,
    /// Read since the last report to PD, and the requests that wrote.
    unreported: (Flow, u64),
}

impl LoadWatch {
    pub(crate) fn new(now: Mono) -> Self {
        Self {
            since: now,
            written: Flow::default(),
            write_samples: Samples::default(),
            hot: None,
            samples: Vec::new(),
            unreported: (Flow::default(), 0),
        }
    }

    /// A write came in.
    pub(crate) fn write(&mut self, bytes: u64, keys: &mut dyn Iterator<Item = &Bytes>) {
        let wanted = is_sampled(self.written.queries);
        self.written.queries += 1;
        self.written.bytes += bytes;
        if let Some(first) = keys.next().filter(|_| wanted) {
            let (mut low, mut high) = (first, first);
            for key in keys {
                (low, high) = (low.min(key), high.max(key));
            }
            self.write_samples.push(Touched {
                first: low.clone(),
                last: high.clone(),
            });
        }
    }

    /// Ends the window if it is time. The key to cut the region at, if it has been hot for long
    /// enough and a cut helps.
    pub(crate) fn tick(&mut self, now: Mono, load: &Load, hot: Hot) -> Option<Bytes> {
        let elapsed = now - self.since;
        if elapsed < WINDOW {
            return None;
        }
        let begun = std::mem::replace(&mut self.since, now);
        let (read, samples) = load.take();
        self.unreported.0.add(read);
        self.unreported.1 += self.written.queries;
        let written = std::mem::take(&mut self.written);
        let write_samples = std::mem::take(&mut self.write_samples).kept;
        let a_second = |count: u64| u128::from(count) * 1_000 / elapsed.as_millis().max(1);
        let over = |count: u64, limit: u64| limit > 0 && a_second(count) >= u128::from(limit);
        if !over(read.queries + written.queries, hot.queries)
            && !over(read.bytes + written.bytes, hot.bytes)
        {
            self.cool();
            return None;
        }
        let hot_since = *self.hot.get_or_insert(begun);
        self.samples.extend(samples);
        self.samples.extend(write_samples);
        if now - hot_since < hot.time {
            return None;
        }
        let key = halves(&self.samples);
        self.cool();
        key
    }

    /// What was read since this was asked last, and how many requests wrote.
    pub(crate) fn take_unreported(&mut self) -> (Flow, u64) {
        std::mem::take(&mut self.unreported)
    }

    /// Whether that is nothing.
    pub(crate) fn unreported_is_none(&self) -> bool {
        self.unreported == (Flow::default(), 0)
    }

    /// What was counted so far says nothing about what is to come.
    pub(crate) fn cool(&mut self) {
        self.hot = None;
        self.samples.clear();
    }
}

/// The boundary that has as many samples on either side as can be, if that is worth a cut.
fn halves(samples: &[Touched]) -> Option<Bytes> {
    if samples.len() < SAMPLES_MIN {
        return None;
    }
    let mut firsts: Vec<&Bytes> = samples.iter().map(|sample| &sample.first).collect();
    let mut lasts: Vec<&Bytes> = samples.iter().map(|sample| &sample.last).collect();
    firsts.sort();
    lasts.sort();
    let part = |key: &Bytes| {
        // What ends below the boundary, and what begins at or above it.
        let left = lasts.partition_point(|last| *last < key);
        let right = firsts.len() - firsts.partition_point(|first| *first < key);
        (left, right, samples.len() - left - right)
    };
    let mut candidates = firsts.clone();
    candidates.dedup();
    let best = candidates.into_iter().map(boundary).max_by_key(|key| {
        let (left, right, crossing) = part(key);
        left.min(right).saturating_sub(crossing)
    })?;
    let (left, right, crossing) = part(&best);
    let total = samples.len();
    (left.min(right) * PART_SHARE >= total && crossing * CROSSING_SHARE <= total).then_some(best)
}

/// A region begins at a whole encoded key where keys are encoded; any key may be a plain boundary
/// (wire, section 8.4).
fn boundary(key: &Bytes) -> Bytes {
    match leading_encoding(key) {
        Some(length) => key.slice(..length),
        None => key.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touched(first: &str, last: &str) -> Touched {
        Touched {
            first: Bytes::copy_from_slice(first.as_bytes()),
            last: Bytes::copy_from_slice(last.as_bytes()),
        }
    }

    fn key(nth: u64) -> String {
        format!("{nth:03}")
    }

    #[test]
    fn a_cut_is_where_the_load_halves() {
        let points = |keys: &dyn Fn(u64) -> u64| -> Vec<Touched> {
            let keys = (0..100).map(|nth| key(keys(nth)));
            keys.map(|key| touched(&key, &key)).collect()
        };
        let scans = |length: u64| -> Vec<Touched> {
            let starts = (0..100).map(|nth| (nth, nth + length));
            starts.map(|(a, b)| touched(&key(a), &key(b))).collect()
        };
        for (what, samples, expected) in [
            ("evenly", points(&|nth| nth), Some("050")),
            (
                "half of it on one key",
                points(&|nth| nth.saturating_sub(50)),
                Some("001"),
            ),
            (
                "most of it on one key",
                points(&|nth| nth.saturating_sub(90)),
                None,
            ),
            ("all of it on one key", points(&|_| 7), None),
            ("short scans", scans(5), Some("053")),
            ("scans that go over everything", scans(400), None),
            ("too little known", points(&|nth| nth)[..15].to_vec(), None),
        ] {
            let found = halves(&samples);
            let found = found.as_ref().map(|key| String::from_utf8_lossy(key));
            assert_eq!(found.as_deref(), expected, "{what}");
        }
    }

    #[test]
    fn encoded_keys_are_cut_at_whole_keys() {
        let encoded = flotilla_proto::keys::KeyMode::Encoded.physical(&Bytes::from("a row"));
        let versioned: Bytes = [&encoded[..], &[0xff; 8]].concat().into();
        assert_eq!(boundary(&versioned), encoded);
        assert_eq!(boundary(&Bytes::from("plain")), "plain");
    }

    /// `queries` a second for `windows` seconds, spread over 100 keys.
    fn watched(queries: u64, windows: u64, limit: u64) -> Option<Bytes> {
        let load = Load::default();
        let mut watch = LoadWatch::new(Mono(0));
        let hot = Hot {
            queries: limit,
            bytes: 0,
            time: Duration::from_secs(10),
        };
        (1..=windows).find_map(|window| {
            for nth in 0..queries {
                let key = key(nth % 100);
                let wanted = load.begin_read();
                load.end_read(1, 10, wanted.then(|| touched(&key, &key)));
            }
            watch.tick(Mono(window * 1_000_000_000), &load, hot)
        })
    }

    #[test]
    fn a_region_is_cut_when_it_was_hot_for_long_enough() {
        assert!(watched(1_000, 10, 1_000).is_some());
        assert_eq!(watched(1_000, 9, 1_000), None, "not for long enough");
        assert_eq!(watched(999, 20, 1_000), None, "not hot");
        assert_eq!(watched(1_000, 20, 0), None, "switched off");
    }
}
