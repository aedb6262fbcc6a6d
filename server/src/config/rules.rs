//! What settings must obey together (design, rule 7: every limit is related to the others).

use std::time::Duration;

use flotilla_kv::limits::{ANSWER_BYTES_MAX, ENTRY_BYTES_MAX};

use crate::net::CONNECTION_SHARE;

use super::value::Value;
use super::{ByteSize, Config, ConfigError, Loaded, env_name};

/// Room for everything in a request beside the entry that it becomes.
const ENVELOPE: ByteSize = ByteSize::mib(1);
/// HTTP/2 allows no larger flow-control window.
const WINDOW_MAX: ByteSize = ByteSize((1 << 31) - 1);
/// RPCs beyond this could not be told apart from a denial of service.
const STREAMS_MAX: u32 = 1 << 16;

/// Fewer, and the node's own three connections leave none to others; more, and the open files of all
/// could not be counted.
const CONNECTIONS: (usize, usize) = (8, 1 << 20);
/// The streams of heartbeats and of timestamps stay open: a call needs one beside them.
const STREAMS_MIN: u32 = 4;
const THREADS: (usize, usize) = (1, 1_024);
/// What HTTP/2 itself begins with, nearly: below it a request crawls, and with nothing stands still.
const WINDOW_MIN: ByteSize = ByteSize(64 << 10);
/// gRPC cannot tell much larger ones.
const MESSAGE_MAX: ByteSize = ByteSize::mib(1 << 10);
/// The largest write must fit, beside the memory that empty tables take; RocksDB has no larger buffers.
const WRITE_BUFFER: (ByteSize, ByteSize) =
    (ByteSize(ENTRY_BYTES_MAX as u64), ByteSize::mib(64 << 10));
/// A smaller region would be split for every few rows.
const SPLIT_SIZE_MIN: ByteSize = ByteSize(16 << 10);
/// Nothing is repeated more often than this, or given up sooner: it would be all that a node does, or
/// never get anywhere.
const OFTEN: Duration = Duration::from_millis(100);
/// Less, and a snapshot would be outdated before it has arrived.
const BANDWIDTH_MIN: ByteSize = ByteSize::mib(1);
/// More would share the bandwidth until none gets anywhere.
const SNAPSHOTS: (usize, usize) = (1, 64);
/// Regions are woken one by one.
const TICK_MIN: Duration = Duration::from_millis(10);
/// A flush may take this long on any disk.
const FLUSH_MIN: Duration = Duration::from_secs(1);
/// Without a leader nobody is served, and that for up to twice as long.
const ELECTION_MAX: Duration = Duration::from_secs(60);
/// Longer is as good as never; and times of this size can be added up.
const NEVER: Duration = Duration::from_secs(24 * 3600);

impl Loaded {
    /// The folder of the node's data.
    ///
    /// # Errors
    /// It was not given.
    pub fn data_dir(&self) -> Result<&std::path::Path, ConfigError> {
        let missing = || ConfigError::Missing {
            key: "data-dir",
            flag: "--data-dir DIR",
            env: env_name("data-dir"),
        };
        self.config.data_dir.as_deref().ok_or_else(missing)
    }

    pub(super) fn check_rules(&self) -> Result<(), ConfigError> {
        self.check_addresses()?;
        self.check_security()?;
        self.check_times()?;
        self.check_limits()?;
        self.config
            .raftstore(0)
            .validate()
            .map_err(|error| self.contradiction(error.setting, error.rule))
    }

    fn check_addresses(&self) -> Result<(), ConfigError> {
        let Config {
            addr,
            advertise_addr,
            status_addr,
            allow_plaintext,
            cert,
            ..
        } = &self.config;
        if addr.is_wildcard() && advertise_addr.is_none() {
            return Err(self.contradiction(
                "addr",
                "a wildcard cannot be dialled: set advertise-addr to what clients and other nodes dial".to_owned(),
            ));
        }
        if let Some(advertised) = advertise_addr
            && (advertised.is_wildcard() || advertised.port == 0)
        {
            return Err(self.contradiction(
                "advertise-addr",
                "must be an address and a port that others can dial".to_owned(),
            ));
        }
        for (key, listens) in [("addr", Some(addr)), ("status-addr", status_addr.as_ref())] {
            let is_open = !allow_plaintext && cert.is_none();
            if listens.is_some_and(|addr| !addr.is_loopback()) && is_open {
                let rule = "reachable from other machines without TLS: give the node a certificate (--ca, --cert, \
                            --key), or listen on a loopback address, or, on a network where everybody may read \
                            and write, set allow-plaintext (--allow-plaintext)";
                return Err(self.contradiction(key, rule.to_owned()));
            }
        }
        if status_addr
            .as_ref()
            .is_some_and(|status| status == addr && addr.port != 0)
        {
            return Err(self.contradiction("status-addr", "must differ from addr".to_owned()));
        }
        Ok(())
    }

    fn check_security(&self) -> Result<(), ConfigError> {
        const FILES: [&str; 3] = ["security.ca", "security.cert", "security.key"];
        let Config {
            ca,
            cert,
            key,
            node_names,
            admin_names,
            client_names,
            ..
        } = &self.config;
        let files = [ca, cert, key];
        let missing = FILES.iter().zip(files).find(|(_, file)| file.is_none());
        let Some((missing, _)) = missing else {
            return Ok(());
        };
        let given = FILES.iter().zip(files).find(|(_, file)| file.is_some());
        if let Some((given, _)) = given {
            let rule = format!("TLS needs {missing} as well");
            return Err(self.contradiction(given, rule));
        }
        for (key, names) in [
            ("security.node-names", node_names),
            ("security.admin-names", admin_names),
            ("security.client-names", client_names),
        ] {
            if names.is_some() {
                let rule = "without TLS nobody shows a certificate: set security.ca, security.cert and security.key";
                return Err(self.contradiction(key, rule.to_owned()));
            }
        }
        Ok(())
    }

    fn check_times(&self) -> Result<(), ConfigError> {
        let config = &self.config;
        for (key, time, least, most) in [
            ("stop-timeout", config.stop_timeout, Duration::ZERO, NEVER),
            (
                "network.handshake-timeout",
                config.handshake_timeout,
                OFTEN,
                NEVER,
            ),
            (
                "network.keepalive-interval",
                config.keepalive_interval,
                OFTEN,
                NEVER,
            ),
            (
                "network.keepalive-timeout",
                config.keepalive_timeout,
                OFTEN,
                NEVER,
            ),
            ("network.stall-timeout", config.stall_timeout, OFTEN, NEVER),
            (
                "storage.flush-timeout",
                config.flush_timeout,
                FLUSH_MIN,
                NEVER,
            ),
            ("raft.tick", config.tick, TICK_MIN, ELECTION_MAX),
            (
                "raft.election-max",
                config.election_max,
                OFTEN,
                ELECTION_MAX,
            ),
            ("raft.waiting-time", config.waiting_time, TICK_MIN, NEVER),
            ("raft.undecided-time", config.undecided_time, OFTEN, NEVER),
            (
                "raft.admin-durable",
                config.admin_durable,
                Duration::ZERO,
                NEVER,
            ),
            ("raft.stale-check", config.stale_check, OFTEN, NEVER),
            ("region.heartbeat", config.region_heartbeat, OFTEN, NEVER),
            ("store.heartbeat", config.store_heartbeat, OFTEN, NEVER),
        ] {
            self.within(key, &time, (least, most))?;
        }
        Ok(())
    }

    fn check_limits(&self) -> Result<(), ConfigError> {
        let config = &self.config;
        self.within(
            "network.connections-max",
            &config.connections_max,
            CONNECTIONS,
        )?;
        let streams = (STREAMS_MIN, STREAMS_MAX);
        self.within("network.streams-max", &config.streams_max, streams)?;
        if let Some(threads) = &config.runtime_threads {
            self.within("threads.runtime", threads, THREADS)?;
        }
        self.within("network.snapshots-max", &config.snapshots_max, SNAPSHOTS)?;
        self.within(
            "network.snapshot-bandwidth",
            &config.snapshot_bandwidth,
            (BANDWIDTH_MIN, ByteSize(u64::MAX)),
        )?;
        let window = (WINDOW_MIN, WINDOW_MAX);
        self.within("network.stream-window", &config.stream_window, window)?;
        self.within(
            "network.connection-window",
            &config.connection_window,
            window,
        )?;
        self.at_most(
            "network.stream-window",
            config.stream_window,
            "network.connection-window",
            config.connection_window,
        )?;
        for (key, size) in [
            ("storage.state-write-buffer", &config.state_write_buffer),
            ("storage.log-write-buffer", &config.log_write_buffer),
        ] {
            self.within(key, size, WRITE_BUFFER)?;
        }
        let split = (SPLIT_SIZE_MIN, ByteSize(u64::MAX));
        self.within("region.split-size", &config.split_size, split)?;
        let least = ByteSize((ENTRY_BYTES_MAX as u64).saturating_add(ENVELOPE.0));
        if config.message_max < least {
            let rule = format!("must be at least {least}: the largest entry and its envelope");
            return Err(self.contradiction("network.message-max", rule));
        }
        let message = (least, MESSAGE_MAX);
        self.within("network.message-max", &config.message_max, message)?;
        let share = ByteSize(config.message_max.0.saturating_mul(CONNECTION_SHARE));
        self.at_least(
            "network.requests-max",
            config.requests_max,
            "four times network.message-max",
            share,
        )?;
        let answer = ByteSize(ANSWER_BYTES_MAX as u64);
        self.at_least(
            "network.unsent-max",
            config.unsent_max,
            "the largest answer",
            answer,
        )?;
        self.at_least(
            "network.answers-max",
            config.answers_max,
            "network.unsent-max",
            config.unsent_max,
        )?;
        if config.log_write_buffer.0 < config.replay_max.0.saturating_mul(2) {
            let rule = format!(
                "must be at least twice raft.replay-max ({}), so that entries die in memory",
                config.replay_max
            );
            return Err(self.contradiction("storage.log-write-buffer", rule));
        }
        Ok(())
    }

    /// Between the two, both of them allowed.
    fn within<T: Value + PartialOrd>(
        &self,
        key: &'static str,
        value: &T,
        (least, most): (T, T),
    ) -> Result<(), ConfigError> {
        let (rule, bound) = if *value < least {
            ("must be at least", least)
        } else if *value > most {
            ("must not be above", most)
        } else {
            return Ok(());
        };
        let bound = bound.show().unwrap_or_default();
        Err(self.contradiction(key, format!("{rule} {bound}")))
    }

    fn at_least(
        &self,
        key: &'static str,
        value: ByteSize,
        other: &str,
        least: ByteSize,
    ) -> Result<(), ConfigError> {
        if value < least {
            return Err(self.contradiction(key, format!("must be at least {other} ({least})")));
        }
        Ok(())
    }

    fn at_most(
        &self,
        key: &'static str,
        value: ByteSize,
        other: &str,
        most: ByteSize,
    ) -> Result<(), ConfigError> {
        if value > most {
            return Err(self.contradiction(key, format!("must not be above {other} ({most})")));
        }
        Ok(())
    }

    pub(crate) fn contradiction(&self, key: &'static str, rule: String) -> ConfigError {
        ConfigError::Contradiction {
            origin: self.origin(key),
            key,
            value: self.shown(key),
            rule,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks a rule and expects the setting at fault and a word of the rule.
    #[track_caller]
    fn refused(settings: &[(&str, &str)], key: &str, rule: &str) {
        let flags = settings
            .iter()
            .map(|(key, value)| (format!("--set {key}"), key.to_string(), value.to_string()))
            .collect();
        let error = crate::config::Layers {
            flags,
            ..Default::default()
        }
        .load()
        .expect_err(rule);
        let message = error.to_string();
        assert!(
            matches!(error, ConfigError::Contradiction { key: at, .. } if at == key),
            "{message}"
        );
        assert!(message.contains(rule), "{message}");
    }

    #[test]
    fn contradictions_name_the_setting_the_place_and_the_other_one() {
        refused(
            &[("addr", "0.0.0.0:20160"), ("allow-plaintext", "true")],
            "addr",
            "set advertise-addr",
        );
        refused(
            &[("advertise-addr", "0.0.0.0:1")],
            "advertise-addr",
            "others can dial",
        );
        refused(
            &[("advertise-addr", "10.0.0.1:0")],
            "advertise-addr",
            "others can dial",
        );
        refused(
            &[("addr", "10.0.0.1:20160")],
            "addr",
            "without TLS: give the node a certificate (--ca, --cert, --key)",
        );
        refused(
            &[("status-addr", "10.0.0.1:20160")],
            "status-addr",
            "set allow-plaintext",
        );
        refused(
            &[("security.ca", "ca.pem")],
            "security.ca",
            "TLS needs security.cert as well",
        );
        refused(
            &[("security.cert", "c"), ("security.key", "k")],
            "security.cert",
            "TLS needs security.ca as well",
        );
        refused(
            &[("security.client-names", "app")],
            "security.client-names",
            "without TLS nobody shows a certificate",
        );
        refused(
            &[("status-addr", "127.0.0.1:20160")],
            "status-addr",
            "must differ from addr",
        );
        refused(
            &[("network.stream-window", "64MiB")],
            "network.stream-window",
            "network.connection-window (16MiB)",
        );
        refused(
            &[("network.message-max", "8MiB")],
            "network.message-max",
            "at least 9MiB",
        );
        refused(
            &[("network.requests-max", "1MiB")],
            "network.requests-max",
            "four times network.message-max (64MiB)",
        );
        refused(
            &[("network.unsent-max", "1MiB")],
            "network.unsent-max",
            "the largest answer (64MiB)",
        );
        refused(
            &[("network.answers-max", "63MiB")],
            "network.answers-max",
            "network.unsent-max (64MiB)",
        );
        refused(
            &[("storage.log-write-buffer", "64MiB")],
            "storage.log-write-buffer",
            "twice raft.replay-max (64MiB)",
        );
        refused(
            &[("raft.lease", "2s")],
            "raft.lease",
            "(raft.election-min x 9/11 - raft.tick)",
        );
        refused(
            &[("raft.heartbeat", "10ms")],
            "raft.heartbeat",
            "at least one tick (raft.tick, 100ms)",
        );
        refused(
            &[("raft.heartbeat", "300000000000years")],
            "raft.election-min",
            "three heartbeats",
        );
        refused(
            &[("raft.uncommitted-max", "1MiB")],
            "raft.uncommitted-max",
            "the largest write must always fit",
        );
    }

    /// Every setting with a bound: the value beyond it, and the bound.
    #[test]
    fn values_that_leave_a_node_that_never_serves_are_refused_by_their_bound() {
        for (key, value, rule) in [
            ("stop-timeout", "2days", "not be above 1day"),
            ("threads.runtime", "0", "at least 1"),
            ("threads.runtime", "100000000", "not be above 1024"),
            ("network.connections-max", "7", "at least 8"),
            (
                "network.connections-max",
                "18446744073709551615",
                "not be above 1048576",
            ),
            ("network.streams-max", "3", "at least 4"),
            ("network.streams-max", "100000", "not be above 65536"),
            ("network.message-max", "16777215TiB", "not be above 1GiB"),
            ("network.stream-window", "0", "at least 64KiB"),
            ("network.stream-window", "1B", "at least 64KiB"),
            ("network.connection-window", "0", "at least 64KiB"),
            (
                "network.connection-window",
                "4GiB",
                "not be above 2147483647B",
            ),
            ("network.handshake-timeout", "1ms", "at least 100ms"),
            ("network.handshake-timeout", "9years", "not be above 1day"),
            ("network.keepalive-interval", "1ms", "at least 100ms"),
            ("network.keepalive-interval", "9years", "not be above 1day"),
            ("network.keepalive-timeout", "0s", "at least 100ms"),
            ("network.keepalive-timeout", "9years", "not be above 1day"),
            ("network.stall-timeout", "0s", "at least 100ms"),
            ("network.stall-timeout", "9years", "not be above 1day"),
            ("storage.state-write-buffer", "0", "at least 8MiB"),
            ("storage.state-write-buffer", "64KiB", "at least 8MiB"),
            ("storage.state-write-buffer", "1TiB", "not be above 64GiB"),
            ("storage.log-write-buffer", "1TiB", "not be above 64GiB"),
            ("storage.flush-timeout", "1ms", "at least 1s"),
            ("storage.flush-timeout", "9years", "not be above 1day"),
            ("raft.tick", "0s", "at least 10ms"),
            ("raft.tick", "1us", "at least 10ms"),
            ("raft.election-max", "9years", "not be above 1m"),
            ("raft.merge-max", "0", "above zero"),
            ("raft.append-max", "0", "above zero"),
            ("raft.inflight-messages", "0", "above zero"),
            ("raft.inflight-max", "0", "the largest write"),
            ("raft.uncommitted-max", "0", "the largest write"),
            ("raft.apply-backlog-max", "0", "the largest write"),
            ("raft.waiting-max", "0", "the largest write"),
            ("raft.replay-max", "0", "the largest write"),
            ("raft.waiting-time", "0s", "at least 10ms"),
            ("raft.waiting-time", "9years", "not be above 1day"),
            ("raft.undecided-time", "0s", "at least 100ms"),
            ("raft.undecided-time", "9years", "not be above 1day"),
            ("raft.admin-durable", "9years", "not be above 1day"),
            ("region.split-size", "1B", "at least 16KiB"),
            ("region.split-keys", "1", "above one"),
            ("region.heartbeat", "1ms", "at least 100ms"),
            ("region.heartbeat", "9years", "not be above 1day"),
            ("store.heartbeat", "1ms", "at least 100ms"),
            ("store.heartbeat", "9years", "not be above 1day"),
        ] {
            refused(&[(key, value)], key, rule);
        }
    }

    #[test]
    fn a_message_names_no_field_of_the_program() {
        for (key, value) in [
            ("raft.lease", "2s"),
            ("raft.election-max", "1s"),
            ("raft.merge-max", "9MiB"),
            ("raft.waiting-max", "0"),
            ("raft.append-max", "0"),
        ] {
            let flags = vec![(format!("--set {key}"), key.to_owned(), value.to_owned())];
            let layers = crate::config::Layers {
                flags,
                ..Default::default()
            };
            let message = layers.load().expect_err(key).to_string();
            assert!(message.contains(key) && !message.contains('_'), "{message}");
        }
    }

    #[test]
    fn a_wildcard_with_an_address_to_dial_is_fine() {
        let loaded = Loaded::from_defaults(|config| {
            config.addr = "0.0.0.0:20160".parse().expect("an address");
            config.advertise_addr = Some("db.example:20160".parse().expect("an address"));
            config.allow_plaintext = true;
        });
        let config = loaded.expect("valid").config;
        assert_eq!(config.advertised(20160).to_string(), "db.example:20160");
    }

    #[test]
    fn a_free_port_is_advertised_as_bound() {
        let loaded = Loaded::from_defaults(|config| config.addr.port = 0).expect("valid");
        assert_eq!(loaded.config.advertised(4711).to_string(), "127.0.0.1:4711");
    }

    #[test]
    fn without_a_data_folder_all_three_ways_to_give_one_are_named() {
        let message = Loaded::from_defaults(|_| ())
            .expect("valid")
            .data_dir()
            .expect_err("none")
            .to_string();
        for part in ["--data-dir", "FLOTILLA_DATA_DIR", "configuration file"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
