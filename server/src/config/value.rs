//! The kinds of values that settings have: how each is written and read.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// A value that stands in a file, an environment variable or a flag.
pub(super) trait Value: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// What a value of this kind looks like.
    fn read(text: &str) -> Result<Self, String>;

    /// Writes it so that [`Value::read`] gives it back; `None`: not set.
    fn show(&self) -> Option<String>;

    /// Whether TOML writes it without quotes.
    const BARE: bool = false;
}

/// A number of bytes, written with a binary unit: `256MiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Units, the largest first.
const UNITS: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

impl ByteSize {
    /// `count` mebibytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// For people: in the largest unit that it has one of, to one decimal, cut off: `42.5GiB`.
    pub fn rounded(self) -> String {
        let (unit, shift) = UNITS
            .into_iter()
            .find(|(_, shift)| self.0 >> shift != 0)
            .unwrap_or(("B", 0));
        let (whole, rest) = (self.0 >> shift, self.0 & ((1 << shift) - 1));
        // Less than 2^40 before, so it does not overflow.
        match (rest * 10) >> shift {
            0 => format!("{whole}{unit}"),
            tenth => format!("{whole}.{tenth}{unit}"),
        }
    }

    /// As a memory size.
    ///
    /// # Panics
    /// On a machine whose addresses cannot hold it.
    pub fn memory(self) -> usize {
        usize::try_from(self.0).expect("a memory limit fits the address space")
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, shift) = UNITS
            .into_iter()
            .find(|(_, shift)| self.0 != 0 && self.0.trailing_zeros() >= *shift)
            .unwrap_or(("B", 0));
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let problem = || {
            "expected a size such as 512KiB, 64MiB or 1GiB (units: B KiB MiB GiB TiB)".to_owned()
        };
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let count: u64 = digits.parse().map_err(|_| problem())?;
        let unit = text[digits.len()..].trim();
        let shift = if unit.is_empty() && count == 0 {
            0
        } else {
            UNITS
                .into_iter()
                .find(|(name, _)| *name == unit)
                .ok_or_else(problem)?
                .1
        };
        let bytes = count
            .checked_mul(1 << shift)
            .ok_or("larger than any size this machine can hold")?;
        Ok(Self(bytes))
    }
}

impl Value for ByteSize {
    fn read(text: &str) -> Result<Self, String> {
        text.parse()
    }
    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// `HOST:PORT`, the host being a name, an IPv4 address or an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Without brackets.
    pub host: String,
    /// 0: any free port.
    pub port: u16,
}

impl HostPort {
    /// The address, if the host is one rather than a name.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Whether only this machine can reach it.
    pub fn is_loopback(&self) -> bool {
        self.ip()
            .map_or(self.host == "localhost", |ip| ip.is_loopback())
    }

    /// Whether it stands for all addresses of the machine, and so for none that others could dial.
    pub fn is_wildcard(&self) -> bool {
        self.ip().is_some_and(|ip| ip.is_unspecified())
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let problem =
            || "expected HOST:PORT, for example 127.0.0.1:20160 or [::1]:20160".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(problem)?;
        let bracketed = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let host = match bracketed {
            Some(v6) => v6
                .parse::<std::net::Ipv6Addr>()
                .map_err(|_| problem())?
                .to_string(),
            None => host.to_owned(),
        };
        let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if host.is_empty() || (bracketed.is_none() && !host.chars().all(name)) {
            return Err(problem());
        }
        Ok(Self {
            host,
            port: port.parse().map_err(|_| problem())?,
        })
    }
}

impl Value for HostPort {
    fn read(text: &str) -> Result<Self, String> {
        text.parse()
    }
    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// Names of certificates, separated by commas; one `*` at an end stands for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names(Vec<String>);

impl Names {
    /// Just this one, as it is.
    pub fn one(name: String) -> Self {
        Self(vec![name])
    }

    /// Whether one of `names` is here. Letters count as they are written.
    pub fn has_any(&self, names: &[String]) -> bool {
        names
            .iter()
            .any(|name| self.0.iter().any(|allowed| fits(allowed, name)))
    }
}

fn fits(allowed: &str, name: &str) -> bool {
    match (allowed.strip_prefix('*'), allowed.strip_suffix('*')) {
        (Some(end), _) => name.ends_with(end),
        (None, Some(start)) => name.starts_with(start),
        (None, None) => allowed == name,
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

impl FromStr for Names {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        let is_wrong = |name: &String| {
            let inner = name
                .strip_prefix('*')
                .or(name.strip_suffix('*'))
                .unwrap_or(name);
            name.is_empty() || inner.contains('*')
        };
        if names.iter().any(is_wrong) {
            return Err(
                "expected names separated by commas, each with at most one *, at its begin or end"
                    .to_owned(),
            );
        }
        Ok(Self(names))
    }
}

impl Value for Names {
    fn read(text: &str) -> Result<Self, String> {
        text.parse()
    }
    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Value for Duration {
    fn read(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text)
            .map_err(|_| "expected a time with a unit, such as 300ms, 10s or 5m".to_owned())
    }
    fn show(&self) -> Option<String> {
        Some(
            humantime::format_duration(*self)
                .to_string()
                .replace(' ', ""),
        )
    }
}

impl Value for PathBuf {
    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            Err("expected a path".to_owned())
        } else {
            Ok(text.into())
        }
    }
    fn show(&self) -> Option<String> {
        Some(self.display().to_string())
    }
}

impl Value for bool {
    fn read(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| "expected true or false".to_owned())
    }
    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
    const BARE: bool = true;
}

macro_rules! whole_numbers {
    ($($kind:ty),+) => {$(
        impl Value for $kind {
            fn read(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| format!("expected a whole number from 0 to {}", Self::MAX))
            }
            fn show(&self) -> Option<String> {
                Some(self.to_string())
            }
            const BARE: bool = true;
        }
    )+};
}
whole_numbers!(u32, u64, usize);

/// Not set is the absence of the setting, never an empty text.
impl<T: Value> Value for Option<T> {
    fn read(text: &str) -> Result<Self, String> {
        T::read(text).map(Some)
    }
    fn show(&self) -> Option<String> {
        self.as_ref().and_then(T::show)
    }
    const BARE: bool = T::BARE;
}

/// A choice of words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$item:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$item])* $variant),+ }

        impl Value for $name {
            fn read(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(concat!("expected one of:" $(, " ", $word)+).to_owned()),
                }
            }
            fn show(&self) -> Option<String> {
                Some(match self { $(Self::$variant => $word),+ }.to_owned())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.show().unwrap_or_default())
            }
        }
    };
}

words! {
    /// How much is logged.
    LogLevel {
        /// What stops the store.
        Error = "error",
        /// What an operator should look at.
        Warn = "warn",
        /// Starts, stops, splits, elections.
        Info = "info",
        /// Single requests that failed.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

words! {
    /// How log lines look.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

words! {
    /// What a cluster's keys look like (contracts: C38).
    KeyMode {
        /// Whatever comes first decides, once and for all.
        Auto = "auto",
        /// Raw keys of API v1; boundaries are user keys.
        Plain = "plain",
        /// API v2 and transactions; boundaries are memcomparable encodings.
        Encoded = "encoded",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<T: Value + PartialEq + fmt::Debug>(
        text: &str,
        expected: Result<T, &str>,
        shown: &str,
    ) {
        match (T::read(text), expected) {
            (Ok(value), Ok(expected)) => {
                assert_eq!(value, expected, "{text}");
                assert_eq!(value.show().as_deref(), Some(shown), "{text}");
                assert_eq!(T::read(shown), Ok(value), "{text}: shown, then read again");
            }
            (Err(problem), Err(expected)) => {
                assert!(problem.contains(expected), "{text}: {problem}")
            }
            (got, expected) => panic!("{text}: got {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn sizes() {
        check("256MiB", Ok(ByteSize::mib(256)), "256MiB");
        check("1024 KiB", Ok(ByteSize::mib(1)), "1MiB");
        check("1536KiB", Ok(ByteSize(1536 << 10)), "1536KiB");
        check("17B", Ok(ByteSize(17)), "17B");
        check("0", Ok(ByteSize(0)), "0B");
        for bad in ["", "12", "MiB", "-1MiB", "1.5MiB", "1MB", "1 mib"] {
            check::<ByteSize>(bad, Err("expected a size such as"), "");
        }
        check::<ByteSize>("99999999999TiB", Err("larger than any size"), "");
    }

    #[test]
    fn sizes_for_people_have_one_decimal_at_most() {
        for (bytes, expected) in [
            (0, "0B"),
            (1_023, "1023B"),
            (1_024, "1KiB"),
            (44_565_264 << 10, "42.5GiB"),
            ((200 << 40) + (512 << 20), "200TiB"),
            ((1 << 40) - 1, "1023.9GiB"),
            (100_000 << 40, "100000TiB"),
            (u64::MAX, "16777215.9TiB"),
        ] {
            assert_eq!(ByteSize(bytes).rounded(), expected, "{bytes}");
        }
    }

    #[test]
    fn addresses() {
        let at = |host: &str, port| HostPort {
            host: host.to_owned(),
            port,
        };
        check(
            "127.0.0.1:20160",
            Ok(at("127.0.0.1", 20160)),
            "127.0.0.1:20160",
        );
        check("[::1]:0", Ok(at("::1", 0)), "[::1]:0");
        check(
            "node-1.example:80",
            Ok(at("node-1.example", 80)),
            "node-1.example:80",
        );
        for bad in [
            "",
            "20160",
            ":20160",
            "host",
            "host:",
            "host:70000",
            "::1:20160",
            "[x]:1",
            "http://h:1",
            "a b:1",
        ] {
            check::<HostPort>(bad, Err("expected HOST:PORT"), "");
        }
        for (text, loopback, wildcard) in [
            ("127.0.0.1:1", true, false),
            ("127.8.0.1:1", true, false),
            ("localhost:1", true, false),
            ("[::1]:1", true, false),
            ("0.0.0.0:1", false, true),
            ("[::]:1", false, true),
            ("10.0.0.1:1", false, false),
            ("example:1", false, false),
        ] {
            let addr: HostPort = text.parse().expect("an address");
            assert_eq!(
                (addr.is_loopback(), addr.is_wildcard()),
                (loopback, wildcard),
                "{text}"
            );
        }
    }

    #[test]
    fn names_of_certificates() {
        let names = |text: &str| text.parse::<Names>().expect("names");
        check("node, ops-*", Ok(names("node,ops-*")), "node, ops-*");
        for bad in ["", "a,,b", "a*b", "*a*", "**"] {
            check::<Names>(bad, Err("names separated by commas"), "");
        }
        for (allowed, name, has) in [
            ("node", "node", true),
            ("node", "nodes", false),
            ("node", "Node", false),
            ("a, node", "node", true),
            ("node-*", "node-7", true),
            ("node-*", "x-node-7", false),
            ("*.example", "a.example", true),
            ("*.example", "a.example.org", false),
            ("*", "anything", true),
        ] {
            assert_eq!(
                names(allowed).has_any(&[name.to_owned()]),
                has,
                "{allowed} {name}"
            );
        }
        assert!(!names("*").has_any(&[]));
        // A name is not a pattern.
        assert!(names("*").has_any(&["*".to_owned()]));
        assert!(!Names::one("a".to_owned()).has_any(&["*".to_owned()]));
    }

    #[test]
    fn times_words_and_numbers() {
        check("300ms", Ok(Duration::from_millis(300)), "300ms");
        check("90s", Ok(Duration::from_secs(90)), "1m30s");
        check::<Duration>("300", Err("a time with a unit"), "");
        check("json", Ok(LogFormat::Json), "json");
        check::<LogFormat>("xml", Err("expected one of: text json"), "");
        check("true", Ok(true), "true");
        check::<bool>("yes", Err("true or false"), "");
        check("7", Ok(7u32), "7");
        check::<u32>("-7", Err("a whole number from 0 to 4294967295"), "");
        check::<usize>("99999999999999999999", Err("a whole number"), "");
        check("x", Ok(Some(PathBuf::from("x"))), "x");
    }
}
