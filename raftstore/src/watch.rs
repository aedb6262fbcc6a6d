//! When the state database must be flushed, so that a restart replays little (contracts: C2).

use flotilla_engine::FlushReason;
use flotilla_proto::clock::Mono;

use crate::Config;
use crate::boot::Replayed;

/// Looks at what is not durable yet and says when to flush.
#[derive(Debug)]
pub struct DurableWatch {
    replay_bytes_max: u64,
    admin_max: std::time::Duration,
    /// Log bytes that the start replayed: a crash now would have them replayed again.
    carried_bytes: u64,
    /// Of those and the bytes appended since, what the last durable cut covers.
    cut_bytes: u64,
    /// When the oldest admin change that no flush covers was applied.
    admin_since: Option<Mono>,
    /// Somebody waits for it.
    hurried: bool,
    /// Not more than one flush a second.
    last_flush: Option<Mono>,
}

/// Forced flushes come at most this often.
const FLUSH_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

impl DurableWatch {
    /// A watch over a store whose start replayed nothing.
    pub fn new(config: &Config) -> Self {
        Self::opened(config, Replayed::default(), Mono::default())
    }

    /// A watch over a store that was opened at `now`. What the start has replayed is in the state
    /// and not durable there.
    pub fn opened(config: &Config, replayed: Replayed, now: Mono) -> Self {
        Self {
            replay_bytes_max: config.replay_bytes_max,
            admin_max: config.admin_durable_max,
            carried_bytes: replayed.bytes,
            cut_bytes: 0,
            admin_since: replayed.admin.then_some(now),
            hurried: false,
            last_flush: None,
        }
    }

    /// Whether a crash at `now` would lose an admin change.
    pub fn admin(&mut self, now: Mono, undurable: bool) {
        self.admin_since = undurable.then(|| self.admin_since.unwrap_or(now));
    }

    /// Somebody waits for what [`DurableWatch::admin`] told: it is not put off.
    pub fn hurry(&mut self) {
        self.hurried = true;
    }

    /// The flush that was asked for when `appended_bytes` of log had been written since the start is
    /// done: a cut that covers everything applied by then is durable.
    pub fn flushed(&mut self, appended_bytes: u64) {
        self.cut_bytes = self.carried_bytes + appended_bytes;
    }

    /// Whether to flush now, and why. `appended_bytes` counts from the start. Not to be asked again
    /// before [`DurableWatch::flushed`].
    pub fn poll(&mut self, now: Mono, appended_bytes: u64) -> Option<FlushReason> {
        if self
            .last_flush
            .is_some_and(|last| now - last < FLUSH_INTERVAL)
        {
            return None;
        }
        let undurable = (self.carried_bytes + appended_bytes).saturating_sub(self.cut_bytes);
        // Asked for at half the bound: the log goes on growing while the flush runs.
        let replay = undurable > self.replay_bytes_max / 2;
        let hurried = std::mem::take(&mut self.hurried);
        let admin = self
            .admin_since
            .is_some_and(|since| hurried || now - since >= self.admin_max);
        let reason = if replay {
            FlushReason::ReplayBound
        } else if admin {
            FlushReason::Admin
        } else {
            return None;
        };
        self.last_flush = Some(now);
        // A change that is applied from here on may come too late for the cut.
        self.admin_since = None;
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
        watch.admin(at(5.0), true);
        watch.admin(at(20.0), true);
        assert_eq!(watch.poll(at(34.9), 9 << 20), None);
        assert_eq!(
            watch.poll(at(35.0), 9 << 20),
            Some(FlushReason::Admin),
            "30 s after the first"
        );
        watch.flushed(9 << 20);
        assert_eq!(watch.poll(at(90.0), 9 << 20), None);
    }
    #[test]
    fn what_a_start_replayed_counts_as_not_durable() {
        let config = Config {
            replay_bytes_max: 8 << 20,
            ..Config::default()
        };
        let at = |seconds: f64| Mono::default() + Duration::from_secs_f64(seconds);
        let opened = |bytes, admin| {
            let replayed = Replayed {
                entries: 1,
                bytes,
                admin,
            };
            DurableWatch::opened(&config, replayed, at(10.0))
        };
        let mut watch = opened(4 << 20, false);
        assert_eq!(watch.poll(at(10.1), 0), None);
        assert_eq!(watch.poll(at(10.2), 1), Some(FlushReason::ReplayBound));
        watch.flushed(1);
        assert_eq!(
            watch.poll(at(20.0), 4 << 20),
            None,
            "the flush covered both"
        );
        let mut watch = opened(1, true);
        assert_eq!(watch.poll(at(39.9), 0), None);
        assert_eq!(watch.poll(at(40.0), 0), Some(FlushReason::Admin));
    }

    #[test]
    fn an_admin_change_during_a_flush_waits_for_the_next_one() {
        let mut watch = DurableWatch::new(&Config::default());
        let at = |seconds: f64| Mono::default() + Duration::from_secs_f64(seconds);
        watch.admin(at(1.0), true);
        assert_eq!(watch.poll(at(31.0), 0), Some(FlushReason::Admin));
        watch.admin(at(31.1), true);
        watch.flushed(0);
        watch.admin(at(31.2), true);
        assert_eq!(watch.poll(at(61.0), 0), None);
        assert_eq!(watch.poll(at(61.1), 0), Some(FlushReason::Admin));
        watch.admin(at(61.2), true);
        watch.flushed(0);
        watch.admin(at(61.3), false);
        assert_eq!(watch.poll(at(120.0), 0), None, "nothing is left");
    }
}
