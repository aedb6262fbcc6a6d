//! What a group is told at start. Time is in [`Duration`]s of the caller's monotonic clock; the
//! defaults are those of the design, section 11.

use std::time::Duration;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// How far two clocks may run apart, in percent of their rate (contracts: C16).
pub const CLOCK_DRIFT_PERCENT: u32 = 10;

/// Members a configuration may name, both halves and learners together.
pub const MEMBERS_MAX: usize = 32;

/// Reads that may wait for their index in one group.
pub const READS_PENDING_MAX: usize = 65_536;

/// Confirmation rounds a leader starts for reads before the oldest of them is confirmed. The
/// heartbeats' own rounds come on top.
pub const READ_ROUNDS_INFLIGHT_MAX: usize = 8;

/// The parameters of one group's core. All replicas of a group should use the same times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This replica's peer id. Not 0.
    pub id: u64,
    /// How often the caller ticks the group. Decides nothing but how fine the lease is cut.
    pub tick: Duration,
    /// Shortest silence of a leader before a follower campaigns, and how long a follower refuses
    /// its vote to others after it heard from a leader.
    pub election_timeout_min: Duration,
    /// Upper end (exclusive) of the randomized election timeout. A leader that heard from no quorum
    /// for so long steps down.
    pub election_timeout_max: Duration,
    /// How often a leader asks its followers to confirm it.
    pub heartbeat_interval: Duration,
    /// How long a confirmed round lets the leader read locally, from when the round was sent. Zero:
    /// no leases. See [`Config::lease_max`].
    pub lease: Duration,
    /// Append messages to one follower that wait for their answer.
    pub inflight_messages_max: usize,
    /// Payload bytes of the appends to one follower that wait for their answer. One message always
    /// fits into an empty window.
    pub inflight_bytes_max: u64,
    /// Payload bytes of one append message; a single larger entry still travels, alone.
    pub append_bytes_max: u64,
    /// Payload bytes a leader accepts before they are handed out as committed. An entry is always
    /// accepted when there are none.
    pub uncommitted_bytes_max: u64,
    /// Payload bytes handed out as committed and not yet reported as applied, but for the last entry,
    /// which may cross the limit.
    pub committed_bytes_max: u64,
    /// Among replicas with equal logs the higher priority refuses its vote to the lower.
    pub priority: i64,
    /// Ask before raising the term (thesis 9.6).
    pub pre_vote: bool,
    /// Followers that hear a leader refuse votes to others, and a leader without a quorum steps down
    /// (thesis 6.2, 6.4.1). Leases need it.
    pub check_quorum: bool,
    /// Seeds the election jitter and the numbers of forwarded reads. Must differ at every start of a
    /// replica: an answer to a read of its last life must not be taken for one of this life.
    pub seed: u64,
}

impl Default for Config {
    /// The defaults of the design; `id` and `seed` are 0 and the caller's to set.
    fn default() -> Self {
        Self {
            id: 0,
            tick: Duration::from_millis(100),
            election_timeout_min: Duration::from_millis(1000),
            election_timeout_max: Duration::from_millis(2000),
            heartbeat_interval: Duration::from_millis(300),
            lease: Duration::from_millis(700),
            inflight_messages_max: 256,
            inflight_bytes_max: 64 * MIB,
            append_bytes_max: MIB,
            uncommitted_bytes_max: 64 * MIB,
            committed_bytes_max: 64 * MIB,
            priority: 0,
            pre_vote: true,
            check_quorum: true,
            seed: 0,
        }
    }
}

impl Config {
    /// The longest safe lease (contracts: C16): election_min × (1 − d) / (1 + d) − one tick, with
    /// the drift d of [`CLOCK_DRIFT_PERCENT`]. A follower's clock may run fast and the leader's slow.
    pub fn lease_max(&self) -> Duration {
        let safe =
            self.election_timeout_min * (100 - CLOCK_DRIFT_PERCENT) / (100 + CLOCK_DRIFT_PERCENT);
        safe.saturating_sub(self.tick)
    }

    /// Checks every field and how they relate.
    ///
    /// # Errors
    /// The first rule that is broken, by the name of the field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.id == 0 {
            return Err(ConfigError::Zero { field: "id" });
        }
        for (field, value) in [
            ("tick", self.tick),
            ("heartbeat_interval", self.heartbeat_interval),
        ] {
            if value.is_zero() {
                return Err(ConfigError::Zero { field });
            }
        }
        let limits = [
            ("inflight_messages_max", self.inflight_messages_max as u64),
            ("inflight_bytes_max", self.inflight_bytes_max),
            ("append_bytes_max", self.append_bytes_max),
            ("uncommitted_bytes_max", self.uncommitted_bytes_max),
            ("committed_bytes_max", self.committed_bytes_max),
        ];
        for (field, value) in limits {
            if value == 0 {
                return Err(ConfigError::Zero { field });
            }
        }
        if self.election_timeout_max <= self.election_timeout_min {
            return Err(ConfigError::ElectionRange {
                min: self.election_timeout_min,
                max: self.election_timeout_max,
            });
        }
        if self.heartbeat_interval * 2 > self.election_timeout_min {
            return Err(ConfigError::HeartbeatTooSlow {
                interval: self.heartbeat_interval,
                election_min: self.election_timeout_min,
            });
        }
        if self.lease > self.lease_max() {
            return Err(ConfigError::LeaseTooLong {
                lease: self.lease,
                max: self.lease_max(),
            });
        }
        if !self.lease.is_zero() && !self.check_quorum {
            return Err(ConfigError::LeaseWithoutCheckQuorum);
        }
        Ok(())
    }
}

/// A configuration that cannot work. The operator's to mend; nothing was started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value that must be positive is zero.
    #[error("{field} must be greater than zero")]
    Zero {
        /// The field's name.
        field: &'static str,
    },
    /// The election timeout has no room for jitter.
    #[error("election_timeout_max ({max:?}) must be greater than election_timeout_min ({min:?})")]
    ElectionRange {
        /// The lower end.
        min: Duration,
        /// The upper end.
        max: Duration,
    },
    /// One lost heartbeat would already start an election.
    #[error(
        "heartbeat_interval ({interval:?}) must be at most half of election_timeout_min ({election_min:?})"
    )]
    HeartbeatTooSlow {
        /// The interval asked for.
        interval: Duration,
        /// The shortest election timeout.
        election_min: Duration,
    },
    /// A follower could elect somebody else inside the lease.
    #[error(
        "lease ({lease:?}) must be at most {max:?}: election_timeout_min less 10 % clock drift each way less one tick"
    )]
    LeaseTooLong {
        /// The lease asked for.
        lease: Duration,
        /// The longest safe one.
        max: Duration,
    },
    /// Without leader stickiness no lease is safe.
    #[error("lease needs check_quorum; set lease to zero to run without")]
    LeaseWithoutCheckQuorum,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Config), expected: Result<(), &str>) {
        let mut config = Config {
            id: 1,
            ..Config::default()
        };
        change(&mut config);
        let found = config.validate().map_err(|error| error.to_string());
        match (expected, found) {
            (Ok(()), Ok(())) => {}
            (Err(start), Err(text)) => {
                assert!(text.starts_with(start), "{text:?}, wanted {start:?}")
            }
            (expected, found) => panic!("expected {expected:?}, found {found:?}"),
        }
    }

    #[test]
    fn defaults_are_valid_and_every_rule_names_its_field() {
        let ms = Duration::from_millis;
        check(|_| {}, Ok(()));
        check(|c| c.id = 0, Err("id must"));
        check(|c| c.tick = Duration::ZERO, Err("tick must"));
        check(
            |c| c.heartbeat_interval = Duration::ZERO,
            Err("heartbeat_interval must be greater"),
        );
        check(
            |c| c.inflight_messages_max = 0,
            Err("inflight_messages_max"),
        );
        check(|c| c.inflight_bytes_max = 0, Err("inflight_bytes_max"));
        check(|c| c.append_bytes_max = 0, Err("append_bytes_max"));
        check(
            |c| c.uncommitted_bytes_max = 0,
            Err("uncommitted_bytes_max"),
        );
        check(|c| c.committed_bytes_max = 0, Err("committed_bytes_max"));
        check(
            |c| c.election_timeout_max = c.election_timeout_min,
            Err("election_timeout_max"),
        );
        check(
            |c| c.heartbeat_interval = ms(501),
            Err("heartbeat_interval (501ms) must be at most"),
        );
        check(|c| c.heartbeat_interval = ms(500), Ok(()));
    }

    #[test]
    fn the_lease_leaves_room_for_drift_and_one_tick() {
        let ms = Duration::from_millis;
        // 1000 ms × 0.9 / 1.1 − 100 ms = 718.18 ms.
        check(|c| c.lease = ms(718), Ok(()));
        check(|c| c.lease = ms(719), Err("lease (719ms) must be at most"));
        check(|c| c.lease = Duration::ZERO, Ok(()));
        check(|c| c.check_quorum = false, Err("lease needs check_quorum"));
        check(
            |c| (c.check_quorum, c.lease) = (false, Duration::ZERO),
            Ok(()),
        );
    }
}
