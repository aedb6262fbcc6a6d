//! Where to split a region that has grown too large.

use bytes::Bytes;

use crate::{DATA_CFS, KeyRange, Result, StateReader};

/// Samples taken per part of [`SplitLimits::size_split`]: a part is this exact to its size.
const SAMPLES_PER_PART: u64 = 64;

/// Split keys that one check returns at most; the last part stays too large then and is checked
/// again.
pub const SPLIT_KEYS_MAX: usize = 32;

/// When a region is too large, and what its parts should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitLimits {
    /// A region of this many bytes is split.
    pub size_max: u64,
    /// Bytes per part.
    pub size_split: u64,
    /// A region of this many keys is split, into parts of two thirds of them.
    pub keys_max: u64,
}

/// What a split check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SplitCheck {
    /// Bytes of keys and values in the range, all data column families together.
    pub bytes: u64,
    /// Rows in the range.
    pub keys: u64,
    /// Physical keys strictly inside the range, ascending; none if the region is small enough.
    /// Each is the key of a row: in a cluster with encoded keys the caller cuts off a version so
    /// that the versions of one key stay together.
    pub split_keys: Vec<Bytes>,
}

/// Rows of one column family between two samples.
struct Sample {
    /// The first row behind them.
    key: Bytes,
    bytes: u64,
    keys: u64,
}

/// Scans a range and finds where to split it. Reads every row: never on a poller, and best on a
/// snapshot.
pub fn split_check(
    reader: &impl StateReader,
    range: KeyRange<'_>,
    limits: SplitLimits,
) -> Result<SplitCheck> {
    let keys_split = (limits.keys_max / 3 * 2).max(1);
    let step = Step {
        bytes: (limits.size_split / SAMPLES_PER_PART).max(1),
        keys: (keys_split / SAMPLES_PER_PART).max(1),
    };
    let mut check = SplitCheck::default();
    let mut samples = Vec::new();
    for cf in DATA_CFS {
        let (mut bytes, mut keys) = (0, 0);
        reader.scan(cf, range, false, &mut |key, value| {
            if bytes >= step.bytes || keys >= step.keys {
                samples.push(Sample {
                    key: Bytes::copy_from_slice(key),
                    bytes,
                    keys,
                });
                check.bytes += bytes;
                check.keys += keys;
                (bytes, keys) = (0, 0);
            }
            bytes += (key.len() + value.len()) as u64;
            keys += 1;
            true
        })?;
        check.bytes += bytes;
        check.keys += keys;
    }
    if check.bytes < limits.size_max && check.keys < limits.keys_max {
        return Ok(check);
    }
    samples.sort_by(|one, other| one.key.cmp(&other.key));
    check.split_keys = cut(&samples, &check, limits, keys_split);
    Ok(check)
}

struct Step {
    bytes: u64,
    keys: u64,
}

/// Puts a split key wherever a part is full, and drops the last one if what follows it fits into
/// the part before.
fn cut(samples: &[Sample], whole: &SplitCheck, limits: SplitLimits, keys_split: u64) -> Vec<Bytes> {
    let mut split_keys: Vec<Bytes> = Vec::new();
    let (mut bytes, mut keys) = (0, 0);
    let (mut done_bytes, mut done_keys) = (0, 0);
    for sample in samples {
        bytes += sample.bytes;
        keys += sample.keys;
        let full = bytes >= limits.size_split || keys >= keys_split;
        if full && split_keys.last() != Some(&sample.key) {
            split_keys.push(sample.key.clone());
            done_bytes += bytes;
            done_keys += keys;
            (bytes, keys) = (0, 0);
            if split_keys.len() == SPLIT_KEYS_MAX {
                return split_keys;
            }
        }
    }
    let (rest_bytes, rest_keys) = (whole.bytes - done_bytes, whole.keys - done_keys);
    let fits = rest_bytes.saturating_add(limits.size_split) < limits.size_max
        && rest_keys.saturating_add(keys_split) < limits.keys_max;
    if fits && split_keys.len() > 1 {
        split_keys.pop();
    }
    split_keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryState;
    use crate::{Cf, StateBatch, StateOp, StateStore};

    const ROW_BYTES: u64 = 100;

    /// A state with rows `first..last` of [`ROW_BYTES`] in each of `cfs`.
    fn rows(cfs: &[Cf], numbers: std::ops::Range<u64>) -> MemoryState {
        let state = MemoryState::new();
        let mut batch = StateBatch::default();
        for cf in cfs {
            for number in numbers.clone() {
                let key = Bytes::from(format!("{number:08}"));
                let value = Bytes::from(vec![0; ROW_BYTES as usize - key.len()]);
                batch.ops.push(StateOp::Put {
                    cf: *cf,
                    key,
                    value,
                });
            }
        }
        state.write(&batch).expect("written");
        state
    }

    #[track_caller]
    fn check(
        state: &MemoryState,
        limits: SplitLimits,
        range: (&str, &str),
    ) -> (u64, u64, Vec<String>) {
        let range = KeyRange {
            start: range.0.as_bytes(),
            end: range.1.as_bytes(),
        };
        let found = split_check(&state.snapshot(), range, limits).expect("scanned");
        let keys = found
            .split_keys
            .iter()
            .map(|key| String::from_utf8_lossy(key).into_owned());
        (found.bytes, found.keys, keys.collect())
    }

    const ALL: (&str, &str) = ("", "");
    const BY_SIZE: SplitLimits = SplitLimits {
        size_max: 38_400,
        size_split: 25_600,
        keys_max: u64::MAX,
    };

    #[test]
    fn a_region_below_the_limits_is_not_split() {
        assert_eq!(check(&rows(&[], 0..0), BY_SIZE, ALL), (0, 0, vec![]));
        assert_eq!(
            check(&rows(&[Cf::CfDefault], 0..383), BY_SIZE, ALL),
            (38_300, 383, vec![])
        );
    }

    #[test]
    fn a_region_at_the_limit_is_split_into_parts_of_the_split_size() {
        let state = rows(&[Cf::CfDefault], 0..384);
        assert_eq!(
            check(&state, BY_SIZE, ALL),
            (38_400, 384, vec!["00000256".into()])
        );
        let state = rows(&[Cf::CfDefault], 0..1_000);
        let three = vec!["00000256".into(), "00000512".into(), "00000768".into()];
        assert_eq!(check(&state, BY_SIZE, ALL), (100_000, 1_000, three));
    }

    #[test]
    fn a_small_rest_stays_with_the_part_before_it() {
        let state = rows(&[Cf::CfDefault], 0..600);
        assert_eq!(
            check(&state, BY_SIZE, ALL),
            (60_000, 600, vec!["00000256".into()])
        );
    }

    #[test]
    fn all_data_column_families_count() {
        let state = rows(&[Cf::CfDefault, Cf::CfLock, Cf::CfWrite], 0..200);
        let (bytes, keys, split) = check(&state, BY_SIZE, ALL);
        assert_eq!((bytes, keys, split.len()), (60_000, 600, 1));
        let at: u64 = split[0].parse().expect("a row's key");
        assert!(
            (80..=92).contains(&at),
            "a part of about 256 rows over three families, got {at}"
        );
    }

    #[test]
    fn many_keys_split_as_well() {
        let limits = SplitLimits {
            keys_max: 300,
            ..BY_SIZE
        };
        let state = rows(&[Cf::CfDefault], 0..300);
        let (_, keys, split) = check(
            &state,
            SplitLimits {
                size_max: u64::MAX,
                size_split: u64::MAX,
                ..limits
            },
            ALL,
        );
        assert_eq!(keys, 300);
        let at: u64 = split[0].parse().expect("a row's key");
        assert!(
            (200..=204).contains(&at),
            "two thirds of the keys, got {at}"
        );
    }

    #[test]
    fn only_the_range_counts_and_split_keys_lie_inside_it() {
        let state = rows(&[Cf::CfDefault], 0..2_000);
        let (bytes, keys, split) = check(&state, BY_SIZE, ("00000500", "00000900"));
        assert_eq!((bytes, keys, split), (40_000, 400, vec!["00000756".into()]));
    }

    #[test]
    fn a_check_returns_a_bounded_number_of_split_keys() {
        let limits = SplitLimits {
            size_max: 300,
            size_split: 200,
            keys_max: u64::MAX,
        };
        let (_, _, split) = check(&rows(&[Cf::CfDefault], 0..1_000), limits, ALL);
        assert_eq!(split.len(), SPLIT_KEYS_MAX);
        assert!(split.is_sorted());
    }
}
