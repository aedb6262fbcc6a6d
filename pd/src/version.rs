//! Store versions: what parses, what is older, what may join (wire, section 3.5).

use std::cmp::Ordering;
use std::fmt;

/// A semantic version such as `8.5.0` or `v7.1.0-rc.1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    numbers: [u64; 3],
    /// Empty: a release. Dotted identifiers otherwise.
    pre: String,
}

impl Version {
    /// Reads a version; a leading `v` and build metadata after `+` are tolerated.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let text = text.split_once('+').map_or(text, |(version, _)| version);
        let (numbers, pre) = match text.split_once('-') {
            Some((numbers, pre)) if !pre.is_empty() => (numbers, pre),
            Some(_) => return None,
            None => (text, ""),
        };
        let mut parts = numbers.split('.').map(number);
        let numbers = [parts.next()??, parts.next()??, parts.next()??];
        if parts.next().is_some() {
            return None;
        }
        Some(Self {
            numbers,
            pre: pre.to_owned(),
        })
    }

    /// Whether a store of this version may join a cluster of version `cluster`: not older, apart
    /// from patches of the same minor version.
    pub(crate) fn may_join(&self, cluster: &Self) -> bool {
        self >= cluster || self.numbers[..2] == cluster.numbers[..2]
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| {
            match (self.pre.is_empty(), other.pre.is_empty()) {
                (true, true) => Ordering::Equal,
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                (false, false) => compare_pre(&self.pre, &other.pre),
            }
        })
    }
}

/// Numeric identifiers by value and below the others; a longer list of equal ones is later.
fn compare_pre(left: &str, right: &str) -> Ordering {
    let mut right_parts = right.split('.');
    for left_part in left.split('.') {
        let Some(right_part) = right_parts.next() else {
            return Ordering::Greater;
        };
        let order = match (number(left_part), number(right_part)) {
            (Some(left), Some(right)) => left.cmp(&right),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => left_part.cmp(right_part),
        };
        if order.is_ne() {
            return order;
        }
    }
    if right_parts.next().is_some() {
        Ordering::Less
    } else {
        Ordering::Equal
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        if self.pre.is_empty() {
            Ok(())
        } else {
            write!(f, "-{}", self.pre)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_order_as_semver_says() {
        let rising = [
            "2.1.0-alpha",
            "2.1.0-alpha.1",
            "2.1.0-beta.2",
            "2.1.0-beta.11",
            "2.1.0-rc.1",
            "2.1.0",
            "2.1.1",
            "2.10.0",
            "v8.5.0",
            "10.0.0",
        ];
        for pair in rising.windows(2) {
            let [low, high] = [pair[0], pair[1]].map(|text| Version::parse(text).unwrap());
            assert!(low < high, "{low} < {high}");
        }
        assert_eq!(Version::parse("v8.5.0+git.1").unwrap().to_string(), "8.5.0");
    }

    #[test]
    fn what_is_no_version() {
        for text in [
            "", "8", "8.5", "8.5.x", "8.5.0.1", "8.5.0-", "-1.0.0", "+1.2.3", "8..0", "vv1.0.0",
        ] {
            assert_eq!(Version::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn who_may_join() {
        for (store, cluster, may) in [
            ("8.5.0", "8.5.0", true),
            ("8.6.0", "8.5.0", true),
            ("8.5.0", "8.5.3", true),
            ("8.4.9", "8.5.0", false),
            ("7.5.0", "8.5.0", false),
        ] {
            let [store, cluster] = [store, cluster].map(|text| Version::parse(text).unwrap());
            assert_eq!(store.may_join(&cluster), may, "{store} into {cluster}");
        }
    }
}
