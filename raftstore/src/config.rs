//! The limits and time-outs of a store's peers (design, section 11).

use std::time::Duration;

/// Bytes in a mebibyte.
const MIB: u64 = 1 << 20;

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
    /// A region is split when it holds more keys than this.
    pub split_keys: u64,
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
    /// An admin change becomes durable at the latest after this time (contracts: C2).
    pub admin_durable_max: Duration,
    /// How often a leader reports its region to PD when nothing changes.
    pub region_heartbeat: Duration,
    /// How often the store reports itself to PD.
    pub store_heartbeat: Duration,
    /// Bytes of recent entries kept in memory, all regions together.
    pub entry_cache_bytes: u64,
    /// Seeds election jitter.
    pub seed: u64,
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
            split_keys: 2_500_000,
            lag_entries_max: 5_000,
            truncate_entries_min: 256,
            truncate_bytes_min: MIB,
            replay_bytes_max: 64 * MIB,
            replay_page_bytes: 4 * MIB,
            admin_durable_max: Duration::from_secs(30),
            region_heartbeat: Duration::from_secs(10),
            store_heartbeat: Duration::from_secs(10),
            entry_cache_bytes: flotilla_engine::ENTRY_CACHE_BYTES,
            seed: 1,
        }
    }
}

/// Two settings that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} = {value}: {rule}")]
pub struct ConfigError {
    /// The setting at fault.
    pub setting: &'static str,
    /// Its value.
    pub value: String,
    /// What it must obey.
    pub rule: &'static str,
}

/// Clocks may drift apart by this share of the elapsed time (contracts: C16).
const DRIFT: f64 = 0.10;

impl Config {
    /// Checks the limits against each other.
    ///
    /// # Errors
    /// The first setting that breaks a rule, by name.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let check = |ok: bool, setting, value: String, rule| {
            if ok {
                Ok(())
            } else {
                Err(ConfigError {
                    setting,
                    value,
                    rule,
                })
            }
        };
        let longest = self
            .election_min
            .mul_f64((1.0 - DRIFT) / (1.0 + DRIFT))
            .saturating_sub(self.tick);
        check(
            !self.tick.is_zero(),
            "tick",
            format!("{:?}", self.tick),
            "must be above zero",
        )?;
        check(
            self.heartbeat >= self.tick,
            "heartbeat",
            format!("{:?}", self.heartbeat),
            "must be at least one tick",
        )?;
        check(
            self.election_min >= self.heartbeat * 3,
            "election_min",
            format!("{:?}", self.election_min),
            "must be at least three heartbeats",
        )?;
        check(
            self.election_max > self.election_min,
            "election_max",
            format!("{:?}", self.election_max),
            "must be above election_min",
        )?;
        check(
            self.lease <= longest,
            "lease",
            format!("{:?}", self.lease),
            "must be at most election_min x 9/11 - one tick, or two leaders could hold one",
        )?;
        check(
            self.merge_bytes_max <= self.entry_bytes_max,
            "merge_bytes_max",
            self.merge_bytes_max.to_string(),
            "must not be above entry_bytes_max",
        )?;
        for (setting, value) in [
            ("inflight_bytes_max", self.inflight_bytes_max),
            ("uncommitted_bytes_max", self.uncommitted_bytes_max),
            ("apply_backlog_bytes_max", self.apply_backlog_bytes_max),
            ("waiting_bytes_max", self.waiting_bytes_max),
            ("replay_bytes_max", self.replay_bytes_max),
        ] {
            let rule = "must be at least entry_bytes_max: one entry must always fit";
            check(
                value >= self.entry_bytes_max,
                setting,
                value.to_string(),
                rule,
            )?;
        }
        check(
            self.split_bytes > 0,
            "split_bytes",
            self.split_bytes.to_string(),
            "must be above zero",
        )?;
        check(
            self.split_keys > 1,
            "split_keys",
            self.split_keys.to_string(),
            "must be above one",
        )
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
        type Break = fn(&mut Config);
        let broken: [(&str, Break); 8] = [
            ("tick", |c| c.tick = Duration::ZERO),
            ("heartbeat", |c| c.heartbeat = Duration::from_millis(50)),
            ("election_min", |c| {
                c.election_min = Duration::from_millis(500)
            }),
            ("election_max", |c| c.election_max = c.election_min),
            ("lease", |c| c.lease = Duration::from_millis(719)),
            ("merge_bytes_max", |c| {
                c.merge_bytes_max = c.entry_bytes_max + 1
            }),
            ("apply_backlog_bytes_max", |c| c.apply_backlog_bytes_max = 1),
            ("split_keys", |c| c.split_keys = 1),
        ];
        for (setting, break_it) in broken {
            let mut config = Config::default();
            break_it(&mut config);
            assert_eq!(
                config.validate().map_err(|error| error.setting),
                Err(setting)
            );
        }
    }
}
