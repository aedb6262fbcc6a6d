//! Until when a request is worth working on.

use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

/// The deadline of a request; without one it is worth working on for ever.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deadline(Option<Instant>);

impl Deadline {
    /// The earlier of the client's gRPC deadline and what the request itself allows.
    pub(super) fn of(metadata: &MetadataMap, execution_ms: u64) -> Self {
        let sent = metadata
            .get("grpc-timeout")
            .and_then(|value| parse(value.to_str().ok()?));
        let asked = (execution_ms > 0).then(|| Duration::from_millis(execution_ms));
        let shorter = match (sent, asked) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Self(shorter.and_then(|time| Instant::now().checked_add(time)))
    }

    /// Whether it has passed.
    pub(super) fn passed(self) -> bool {
        self.0.is_some_and(|at| Instant::now() >= at)
    }

    /// Awaits `work` until the deadline.
    ///
    /// # Errors
    /// It passed first; `work` was dropped.
    pub(super) async fn bound<F: Future>(self, work: F) -> Result<F::Output, Passed> {
        match self.0 {
            None => Ok(work.await),
            Some(at) => tokio::time::timeout_at(at, work).await.map_err(|_| Passed),
        }
    }
}

/// The deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Passed;

/// At most eight digits and a unit.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts() {
        for (text, expected) in [
            ("2S", Some(Duration::from_secs(2))),
            ("1H", Some(Duration::from_secs(3600))),
            ("5M", Some(Duration::from_secs(300))),
            ("1999853u", Some(Duration::from_micros(1_999_853))),
            ("0m", Some(Duration::ZERO)),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("", None),
            ("S", None),
            ("2", None),
            ("2s", None),
            ("-2S", None),
            ("123456789S", None),
            ("2\u{e9}", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_shorter_time_counts() {
        let mut metadata = MetadataMap::new();
        assert!(Deadline::of(&metadata, 0).0.is_none());
        assert!(!Deadline::of(&metadata, 10_000).passed());
        metadata.insert("grpc-timeout", "0m".parse().expect("a value"));
        assert!(Deadline::of(&metadata, 10_000).passed());
        metadata.insert("grpc-timeout", "nonsense".parse().expect("a value"));
        assert!(Deadline::of(&metadata, 0).0.is_none());
    }
}
