//! When the state database must be flushed, so that a restart replays little (contracts: C2).

use flotilla_engine::FlushReason;
use flotilla_proto::clock::Mono;

use crate::Config;

/// Looks at what is not durable yet and says when to flush.
#[derive(Debug)]
pub struct DurableWatch {
    replay_bytes_max: u64,
    admin_max: std::time::Duration,
    /// Log bytes appended when the last durable cut was made.
    cut_bytes: u64,
    /// When the oldest admin change that is not durable was applied.
    admin_since: Option<Mono>,
    /// Not more than one flush a second.
    last_flush: Option<Mono>,
}

/// Forced flushes come at most this often.
const FLUSH_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

impl DurableWatch {
    /// A watch over a store that has just been opened.
    pub fn new(config: &Config) -> Self {
        Self {
            replay_bytes_max: config.replay_bytes_max,
            admin_max: config.admin_durable_max,
            cut_bytes: 0,
            admin_since: None,
            last_flush: None,
        }
    }

    /// An admin change was written to the state at `now`.
    pub fn admin_applied(&mut self, now: Mono) {
        self.admin_since.get_or_insert(now);
    }

    /// A cut that covers everything applied when `appended_bytes` of log had been written is
    /// durable.
    pub fn flushed(&mut self, appended_bytes: u64) {
        self.cut_bytes = appended_bytes;
        self.admin_since = None;
    }

    /// Whether to flush now, and why.
    pub fn poll(&mut self, now: Mono, appended_bytes: u64) -> Option<FlushReason> {
        if self
            .last_flush
            .is_some_and(|last| now - last < FLUSH_INTERVAL)
        {
            return None;
        }
        // Asked for at half the bound: the log goes on growing while the flush runs.
        let replay = appended_bytes.saturating_sub(self.cut_bytes) > self.replay_bytes_max / 2;
        let admin = self
            .admin_since
            .is_some_and(|since| now - since >= self.admin_max);
        let reason = if replay {
            FlushReason::ReplayBound
        } else if admin {
            FlushReason::Admin
        } else {
            return None;
        };
        self.last_flush = Some(now);
        Some(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn bytes_and_admin_changes_ask_for_a_flush_at_most_once_a_second() {
        let config = Config {
            replay_bytes_max: 8 << 20,
            ..Config::default()
        };
        let mut watch = DurableWatch::new(&config);
        let at = |seconds: f64| Mono::default() + Duration::from_secs_f64(seconds);
        assert_eq!(
            watch.poll(at(0.0), 4 << 20),
            None,
            "half the bound, not above"
        );
        assert_eq!(
            watch.poll(at(0.1), (4 << 20) + 1),
            Some(FlushReason::ReplayBound)
        );
        assert_eq!(watch.poll(at(1.0), 9 << 20), None, "within a second");
        assert_eq!(watch.poll(at(1.1), 9 << 20), Some(FlushReason::ReplayBound));
        watch.flushed(9 << 20);
        assert_eq!(watch.poll(at(5.0), 9 << 20), None);
        watch.admin_applied(at(5.0));
        watch.admin_applied(at(20.0));
        assert_eq!(watch.poll(at(34.9), 9 << 20), None);
        assert_eq!(
            watch.poll(at(35.0), 9 << 20),
            Some(FlushReason::Admin),
            "30 s after the first"
        );
        watch.flushed(9 << 20);
        assert_eq!(watch.poll(at(90.0), 9 << 20), None);
    }
}
