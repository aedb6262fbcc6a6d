//! What settings must obey together (design, rule 7: every limit is related to the others).

use flotilla_kv::limits::{ANSWER_BYTES_MAX, ENTRY_BYTES_MAX};

use crate::net::CONNECTION_SHARE;

use super::{ByteSize, Config, ConfigError, Loaded, env_name};

/// Room for everything in a request beside the entry that it becomes.
const ENVELOPE: ByteSize = ByteSize::mib(1);
/// HTTP/2 allows no larger flow-control window.
const WINDOW_MAX: ByteSize = ByteSize((1 << 31) - 1);
/// RPCs beyond this could not be told apart from a denial of service.
const STREAMS_MAX: u32 = 1 << 16;

/// The names by which the peers' own check knows its settings.
const PEER_SETTINGS: &[(&str, &str)] = &[
    ("tick", "raft.tick"),
    ("heartbeat", "raft.heartbeat"),
    ("election_min", "raft.election-min"),
    ("election_max", "raft.election-max"),
    ("lease", "raft.lease"),
    ("merge_bytes_max", "raft.merge-max"),
    ("inflight_bytes_max", "raft.inflight-max"),
    ("uncommitted_bytes_max", "raft.uncommitted-max"),
    ("apply_backlog_bytes_max", "raft.apply-backlog-max"),
    ("waiting_bytes_max", "raft.waiting-max"),
    ("replay_bytes_max", "raft.replay-max"),
    ("split_bytes", "region.split-size"),
    ("split_keys", "region.split-keys"),
];

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
        self.check_limits()?;
        self.config.raftstore(0).validate().map_err(|error| {
            let known = PEER_SETTINGS
                .iter()
                .find(|(name, _)| *name == error.setting);
            let key = known.map_or(error.setting, |(_, key)| key);
            self.contradiction(key, error.rule.to_owned())
        })
    }

    fn check_addresses(&self) -> Result<(), ConfigError> {
        let Config {
            addr,
            advertise_addr,
            status_addr,
            allow_plaintext,
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
            if listens.is_some_and(|addr| !addr.is_loopback()) && !allow_plaintext {
                let rule = "reachable from other machines, and this version has no TLS: listen on a loopback \
                            address and bring clients there through a tunnel, or, on a network where everybody \
                            may read and write, set allow-plaintext (--allow-plaintext)";
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

    fn check_limits(&self) -> Result<(), ConfigError> {
        let config = &self.config;
        for (key, value) in [
            ("network.connections-max", config.connections_max as u64),
            ("network.streams-max", u64::from(config.streams_max)),
            (
                "threads.runtime",
                config.runtime_threads.map_or(1, |threads| threads as u64),
            ),
            (
                "network.handshake-timeout",
                millis(config.handshake_timeout),
            ),
            (
                "network.keepalive-interval",
                millis(config.keepalive_interval),
            ),
            (
                "network.keepalive-timeout",
                millis(config.keepalive_timeout),
            ),
            ("network.stall-timeout", millis(config.stall_timeout)),
            ("storage.flush-timeout", millis(config.flush_timeout)),
            ("region.heartbeat", millis(config.region_heartbeat)),
            ("store.heartbeat", millis(config.store_heartbeat)),
        ] {
            if value == 0 {
                return Err(self.contradiction(key, "must be above zero".to_owned()));
            }
        }
        if config.streams_max > STREAMS_MAX {
            return Err(self.contradiction(
                "network.streams-max",
                format!("must not be above {STREAMS_MAX}"),
            ));
        }
        self.at_most(
            "network.stream-window",
            config.stream_window,
            "network.connection-window",
            config.connection_window,
        )?;
        if config.connection_window > WINDOW_MAX {
            return Err(self.contradiction(
                "network.connection-window",
                format!("must not be above {WINDOW_MAX}"),
            ));
        }
        let least = ByteSize((ENTRY_BYTES_MAX as u64).saturating_add(ENVELOPE.0));
        if config.message_max < least {
            let rule = format!("must be at least {least}: the largest entry and its envelope");
            return Err(self.contradiction("network.message-max", rule));
        }
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
        if config.log_write_buffer.0 < config.replay_max.0.saturating_mul(2) {
            let rule = format!(
                "must be at least twice raft.replay-max ({}), so that entries die in memory",
                config.replay_max
            );
            return Err(self.contradiction("storage.log-write-buffer", rule));
        }
        Ok(())
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

    fn contradiction(&self, key: &'static str, rule: String) -> ConfigError {
        ConfigError::Contradiction {
            origin: self.origin(key),
            key,
            value: self.shown(key),
            rule,
        }
    }
}

/// Whole milliseconds: a shorter time-out is as good as none.
fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SETTINGS;

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
            "this version has no TLS",
        );
        refused(
            &[("status-addr", "10.0.0.1:20160")],
            "status-addr",
            "set allow-plaintext",
        );
        refused(
            &[("status-addr", "127.0.0.1:20160")],
            "status-addr",
            "must differ from addr",
        );
        refused(
            &[("network.connections-max", "0")],
            "network.connections-max",
            "above zero",
        );
        refused(
            &[("network.streams-max", "100000")],
            "network.streams-max",
            "not be above 65536",
        );
        refused(&[("threads.runtime", "0")], "threads.runtime", "above zero");
        refused(
            &[("network.stall-timeout", "0s")],
            "network.stall-timeout",
            "above zero",
        );
        refused(
            &[("network.stream-window", "64MiB")],
            "network.stream-window",
            "network.connection-window (16MiB)",
        );
        refused(
            &[("network.connection-window", "4GiB")],
            "network.connection-window",
            "not be above 2147483647B",
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
            &[("storage.log-write-buffer", "64MiB")],
            "storage.log-write-buffer",
            "twice raft.replay-max (64MiB)",
        );
        refused(&[("raft.lease", "2s")], "raft.lease", "election_min");
        refused(
            &[("raft.heartbeat", "10ms")],
            "raft.heartbeat",
            "at least one tick",
        );
        refused(
            &[("raft.uncommitted-max", "1MiB")],
            "raft.uncommitted-max",
            "one entry must always fit",
        );
        refused(
            &[("region.split-keys", "1")],
            "region.split-keys",
            "above one",
        );
    }

    #[test]
    fn peer_settings_have_names_here() {
        for (_, key) in PEER_SETTINGS {
            assert!(SETTINGS.iter().any(|setting| setting.key == *key), "{key}");
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
