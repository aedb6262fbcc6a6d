//! The limits and time-outs of a store's peers (design, section 11).

use std::fmt::Debug;
use std::time::Duration;

/// Bytes in a mebibyte.
const MIB: u64 = 1 << 20;

const ABOVE_ZERO: &str = "must be above zero";

/// What every peer of a store is configured with.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// How often machines are woken.
    pub tick: Duration,
    /// How often a leader shows itself to its followers.
    pub heartbeat: Duration,
    /// A follower without a leader campaigns after a random time from here ...
    pub election_min: Duration,
    /// ... to here.
    pub election_max: Duration,
    /// How long a quorum's acknowledgement lets a leader serve reads by itself (contracts: C16).
    pub lease: Duration,
    /// Bytes of one raft entry; a larger proposal is refused.
    pub entry_bytes_max: u64,
    /// Proposals of one round are merged into one entry up to this many bytes (contracts: C23).
    pub merge_bytes_max: u64,
    /// Bytes of one append message.
    pub append_bytes_max: u64,
    /// Append messages in flight to one follower.
    pub inflight_messages_max: usize,
    /// Append bytes in flight to one follower.
    pub inflight_bytes_max: u64,
    /// Bytes proposed and not yet committed, per region.
    pub uncommitted_bytes_max: u64,
    /// Bytes handed to apply and not yet applied, per region.
    pub apply_backlog_bytes_max: u64,
    /// Proposals that wait, per region, while a limit above is reached; in bytes.
    pub waiting_bytes_max: u64,
    /// How long a proposal may wait before it is refused as busy (contracts: C25).
    pub waiting_time_max: Duration,
    /// How long a leader that stepped down keeps proposals whose outcome it does not know (C22).
    pub undecided_time_max: Duration,
    /// A region is split when it holds more bytes than this.
    pub split_bytes: u64,
    /// A region that may hold more bytes than this takes nothing but deletions until it is split.
    /// At least `split_bytes` and four of the largest writes: a key may have one in each of three column
    /// families, and what is refused must be more than one key.
    pub region_bytes_max: u64,
    /// A region is split when it holds more keys than this.
    pub split_keys: u64,
    /// A region of which so many requests a second are made for a while is split; 0: none is.
    pub split_queries: u64,
    /// A region of which so many bytes a second are read and written for a while is split; 0: none is.
    pub split_flow_bytes: u64,
    /// Such a while.
    pub split_hot_time: Duration,
    /// Entries kept behind the durable point for a lagging follower.
    pub lag_entries_max: u64,
    /// The log is truncated when that frees at least so many entries ...
    pub truncate_entries_min: u64,
    /// ... or so many bytes.
    pub truncate_bytes_min: u64,
    /// Log bytes that a restart may have to replay, per store (contracts: C2).
    pub replay_bytes_max: u64,
    /// A start reads the log it replays in pages of so many payload bytes.
    pub replay_page_bytes: u64,
    /// A snapshot of fewer bytes is installed with its region's records in one state batch, a larger
    /// one as files (contracts: C6).
    pub snapshot_batch_bytes: u64,
    /// An admin change becomes durable at the latest after this time (contracts: C2).
    pub admin_durable_max: Duration,
    /// A peer that knows of no leader for so long asks PD whether it is still a member.
    pub stale_check: Duration,
    /// How often a leader looks whether there is anything to tell PD of its region.
    pub region_heartbeat: Duration,
    /// How often the store reports itself to PD.
    pub store_heartbeat: Duration,
    /// Bytes of recent entries kept in memory, all regions together.
    pub entry_cache_bytes: u64,
    /// Seeds election jitter.
    pub seed: u64,
    /// Rules to break on purpose: none outside of tests.
    pub plant: crate::Plant,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(100),
            heartbeat: Duration::from_millis(300),
            election_min: Duration::from_millis(1_000),
            election_max: Duration::from_millis(2_000),
            lease: Duration::from_millis(700),
            entry_bytes_max: 8 * MIB,
            merge_bytes_max: MIB / 4,
            append_bytes_max: MIB,
            inflight_messages_max: 256,
            inflight_bytes_max: 64 * MIB,
            uncommitted_bytes_max: 64 * MIB,
            apply_backlog_bytes_max: 64 * MIB,
            waiting_bytes_max: 16 * MIB,
            waiting_time_max: Duration::from_millis(100),
            undecided_time_max: Duration::from_secs(10),
            split_bytes: 256 * MIB,
            region_bytes_max: 384 * MIB,
            split_keys: 2_500_000,
            split_queries: 7_000,
            split_flow_bytes: 100 * MIB,
            split_hot_time: Duration::from_secs(10),
            lag_entries_max: 5_000,
            truncate_entries_min: 256,
            truncate_bytes_min: MIB,
            replay_bytes_max: 64 * MIB,
            replay_page_bytes: 4 * MIB,
            snapshot_batch_bytes: flotilla_engine::SNAPSHOT_BATCH_BYTES,
            admin_durable_max: Duration::from_secs(30),
            stale_check: Duration::from_secs(60),
            region_heartbeat: Duration::from_secs(10),
            store_heartbeat: Duration::from_secs(10),
            entry_cache_bytes: flotilla_engine::ENTRY_CACHE_BYTES,
            seed: 1,
            plant: crate::Plant::default(),
        }
    }
}

/// A setting that breaks a rule. Settings are named as users write them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} = {value}: {rule}")]
pub struct ConfigError {
    /// The setting at fault.
    pub setting: &'static str,
    /// Its value.
    pub value: String,
    /// What it must obey.
    pub rule: String,
}

impl ConfigError {
    fn new(setting: &'static str, value: &dyn Debug, rule: impl Into<String>) -> Self {
        Self {
            setting,
            value: format!("{value:?}"),
            rule: rule.into(),
        }
    }
}

impl Config {
    /// Checks the limits against each other, and the raft core's share by the core's own rules.
    ///
    /// # Errors
    /// The first setting that breaks a rule, by the name that users know it by.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.check_zeros()?;
        self.check_times()?;
        self.check_sizes()?;
        // What a peer could not be made with must be known before there is one. The ids are any.
        self.raft(1, 1)
            .validate()
            .map_err(|error| self.of_core(&error))
    }

    fn check_zeros(&self) -> Result<(), ConfigError> {
        for (setting, time) in [
            ("raft.tick", self.tick),
            ("raft.waiting-time", self.waiting_time_max),
            ("raft.undecided-time", self.undecided_time_max),
            ("raft.stale-check", self.stale_check),
            ("region.heartbeat", self.region_heartbeat),
            ("store.heartbeat", self.store_heartbeat),
        ] {
            if time.is_zero() {
                return Err(ConfigError::new(setting, &time, ABOVE_ZERO));
            }
        }
        for (setting, count) in [
            ("raft.merge-max", self.merge_bytes_max),
            ("raft.append-max", self.append_bytes_max),
            ("raft.inflight-messages", self.inflight_messages_max as u64),
            ("region.split-size", self.split_bytes),
        ] {
            if count == 0 {
                return Err(ConfigError::new(setting, &count, ABOVE_ZERO));
            }
        }
        if self.split_keys < 2 {
            let (setting, keys) = ("region.split-keys", self.split_keys);
            return Err(ConfigError::new(setting, &keys, "must be above one"));
        }
        Ok(())
    }

    fn check_times(&self) -> Result<(), ConfigError> {
        if self.heartbeat < self.tick {
            let rule = format!("must be at least one tick (raft.tick, {:?})", self.tick);
            return Err(ConfigError::new("raft.heartbeat", &self.heartbeat, rule));
        }
        if self.election_min < self.heartbeat.saturating_mul(3) {
            let rule = format!(
                "must be at least three heartbeats (raft.heartbeat, {:?})",
                self.heartbeat
            );
            let setting = "raft.election-min";
            return Err(ConfigError::new(setting, &self.election_min, rule));
        }
        Ok(())
    }

    fn check_sizes(&self) -> Result<(), ConfigError> {
        let entry = self.entry_bytes_max;
        if self.merge_bytes_max > entry {
            let rule = format!("must not be above {entry} bytes, the largest write");
            return Err(ConfigError::new(
                "raft.merge-max",
                &self.merge_bytes_max,
                rule,
            ));
        }
        for (setting, bytes) in [
            ("raft.inflight-max", self.inflight_bytes_max),
            ("raft.uncommitted-max", self.uncommitted_bytes_max),
            ("raft.apply-backlog-max", self.apply_backlog_bytes_max),
            ("raft.waiting-max", self.waiting_bytes_max),
            ("raft.replay-max", self.replay_bytes_max),
        ] {
            if bytes < entry {
                let rule =
                    format!("must be at least {entry} bytes: the largest write must always fit");
                return Err(ConfigError::new(setting, &bytes, rule));
            }
        }
        let least = self.split_bytes.saturating_add(entry.saturating_mul(4));
        if self.region_bytes_max < least {
            let rule = format!(
                "must be at least {least} bytes: region.split-size and four of the largest writes"
            );
            let setting = "region.max-size";
            return Err(ConfigError::new(setting, &self.region_bytes_max, rule));
        }
        Ok(())
    }

    /// What the raft core refuses, in the words of its users.
    fn of_core(&self, error: &flotilla_raft::ConfigError) -> ConfigError {
        use flotilla_raft::ConfigError as Core;
        match error {
            Core::Zero { field } => {
                let setting = match *field {
                    "tick" => "raft.tick",
                    "heartbeat_interval" => "raft.heartbeat",
                    "inflight_messages_max" => "raft.inflight-messages",
                    "inflight_bytes_max" => "raft.inflight-max",
                    "append_bytes_max" => "raft.append-max",
                    "uncommitted_bytes_max" => "raft.uncommitted-max",
                    "committed_bytes_max" => "raft.apply-backlog-max",
                    other => other,
                };
                ConfigError::new(setting, &0, ABOVE_ZERO)
            }
            Core::ElectionRange { min, max } => {
                let rule = format!("must be above raft.election-min ({min:?})");
                ConfigError::new("raft.election-max", max, rule)
            }
            Core::HeartbeatTooSlow {
                interval,
                election_min,
            } => {
                let rule = format!("must be at most half of raft.election-min ({election_min:?})");
                ConfigError::new("raft.heartbeat", interval, rule)
            }
            Core::LeaseTooLong { lease, max } => {
                let rule = format!(
                    "must be at most {max:?} (raft.election-min x 9/11 - raft.tick), or two leaders \
                     could hold one"
                );
                ConfigError::new("raft.lease", lease, rule)
            }
            Core::LeaseWithoutCheckQuorum => {
                ConfigError::new("raft.lease", &self.lease, error.to_string())
            }
        }
    }

    /// The raft core's share of it, for the peer `id` of `region`.
    pub(crate) fn raft(&self, region: u64, id: u64) -> flotilla_raft::Config {
        flotilla_raft::Config {
            id,
            election_timeout_min: self.election_min,
            election_timeout_max: self.election_max,
            heartbeat_interval: self.heartbeat,
            lease: self.lease,
            tick: self.tick,
            inflight_messages_max: self.inflight_messages_max,
            inflight_bytes_max: self.inflight_bytes_max,
            append_bytes_max: self.append_bytes_max,
            uncommitted_bytes_max: self.uncommitted_bytes_max,
            committed_bytes_max: self.apply_backlog_bytes_max,
            priority: 0,
            pre_vote: true,
            check_quorum: true,
            seed: self.seed ^ region.rotate_left(32) ^ id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_hold_and_each_rule_names_its_setting() {
        assert_eq!(Config::default().validate(), Ok(()));
        let ms = Duration::from_millis;
        type Break<'a> = &'a dyn Fn(&mut Config);
        let broken: [(&str, &str, Break<'_>); 23] = [
            ("raft.tick", "zero", &|c| c.tick = ms(0)),
            ("raft.heartbeat", "one tick (raft.tick, 100ms)", &|c| {
                c.heartbeat = ms(50)
            }),
            ("raft.heartbeat", "one tick", &|c| c.heartbeat = ms(0)),
            (
                "raft.election-min",
                "three heartbeats (raft.heartbeat, 300ms)",
                &|c| c.election_min = ms(500),
            ),
            ("raft.election-min", "three heartbeats", &|c| {
                c.heartbeat = Duration::MAX
            }),
            ("raft.election-max", "above raft.election-min (1s)", &|c| {
                c.election_max = c.election_min
            }),
            (
                "raft.lease",
                "at most 718.181818ms (raft.election-min x 9/11 - raft.tick)",
                &|c| c.lease = ms(719),
            ),
            ("raft.waiting-time", "zero", &|c| c.waiting_time_max = ms(0)),
            ("raft.undecided-time", "zero", &|c| {
                c.undecided_time_max = ms(0)
            }),
            ("region.heartbeat", "zero", &|c| c.region_heartbeat = ms(0)),
            ("store.heartbeat", "zero", &|c| c.store_heartbeat = ms(0)),
            ("raft.merge-max", "zero", &|c| c.merge_bytes_max = 0),
            ("raft.merge-max", "the largest write", &|c| {
                c.merge_bytes_max = c.entry_bytes_max + 1
            }),
            ("raft.append-max", "zero", &|c| c.append_bytes_max = 0),
            ("raft.inflight-messages", "zero", &|c| {
                c.inflight_messages_max = 0
            }),
            ("raft.inflight-max", "at least 8388608 bytes", &|c| {
                c.inflight_bytes_max = c.entry_bytes_max - 1
            }),
            ("raft.uncommitted-max", "the largest write", &|c| {
                c.uncommitted_bytes_max = 1
            }),
            ("raft.apply-backlog-max", "the largest write", &|c| {
                c.apply_backlog_bytes_max = 1
            }),
            ("raft.waiting-max", "the largest write", &|c| {
                c.waiting_bytes_max = 0
            }),
            ("raft.replay-max", "the largest write", &|c| {
                c.replay_bytes_max = 1
            }),
            ("region.split-size", "zero", &|c| c.split_bytes = 0),
            ("region.max-size", "four of the largest writes", &|c| {
                c.region_bytes_max = c.split_bytes + 3 * c.entry_bytes_max
            }),
            ("region.split-keys", "above one", &|c| c.split_keys = 1),
        ];
        for (setting, rule, break_it) in broken {
            let mut config = Config::default();
            break_it(&mut config);
            let error = config.validate().expect_err(setting);
            assert_eq!(error.setting, setting, "{error}");
            assert!(error.rule.contains(rule), "{error}");
        }
    }

    #[test]
    fn what_holds_is_what_the_raft_core_takes() {
        let largest = Config {
            lease: Duration::from_millis(718),
            append_bytes_max: 1,
            inflight_messages_max: 1,
            merge_bytes_max: 1,
            ..Config::default()
        };
        assert_eq!(largest.validate(), Ok(()));
        assert_eq!(largest.raft(7, 8).validate(), Ok(()));
    }
}
