//! The configuration: defaults, then a TOML file, then the environment, then flags.
//!
//! Every setting has one dotted name. `raft.lease` is `lease` in the table `[raft]` of the file,
//! `FLOTILLA_RAFT_LEASE` in the environment and `--set raft.lease=..` on the command line. A name
//! that does not exist, a value of the wrong kind and values that contradict each other are refused
//! with the place they were set at, before anything is created.

mod error;
mod load;
mod rules;
mod value;

use std::path::PathBuf;
use std::time::Duration;

pub use error::{ConfigError, Origin};
pub use load::{Layers, Loaded, env_name};
pub use value::{ByteSize, HostPort, KeyMode, LogFormat, LogLevel, Names};

use flotilla_engine::{FLUSH_STALL_MAX, disk_reserve_bytes};
use flotilla_kv::limits::ENTRY_BYTES_MAX;
use value::Value;

/// Where a node listens unless told otherwise.
pub const DEFAULT_ADDR: &str = "127.0.0.1:20160";

/// What a node is configured with; see [`SETTINGS`] for the names and meanings.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    missing_docs,
    reason = "the table of settings below documents every field, for users too"
)]
pub struct Config {
    pub data_dir: Option<PathBuf>,
    pub addr: HostPort,
    pub advertise_addr: Option<HostPort>,
    pub status_addr: Option<HostPort>,
    pub join: Option<HostPort>,
    pub allow_plaintext: bool,
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub node_names: Option<Names>,
    pub admin_names: Option<Names>,
    pub client_names: Option<Names>,
    pub stop_timeout: Duration,
    pub log_level: LogLevel,
    pub log_format: LogFormat,
    pub runtime_threads: Option<usize>,
    pub connections_max: usize,
    pub streams_max: u32,
    pub message_max: ByteSize,
    pub stream_window: ByteSize,
    pub connection_window: ByteSize,
    pub unsent_max: ByteSize,
    pub answers_max: ByteSize,
    pub requests_max: ByteSize,
    pub handshake_timeout: Duration,
    pub keepalive_interval: Duration,
    pub keepalive_timeout: Duration,
    pub stall_timeout: Duration,
    pub snapshot_bandwidth: ByteSize,
    pub snapshots_max: usize,
    pub key_mode: KeyMode,
    pub block_cache: Option<ByteSize>,
    pub state_write_buffer: ByteSize,
    pub log_write_buffer: ByteSize,
    pub entry_cache: ByteSize,
    pub disk_reserve: Option<ByteSize>,
    pub flush_timeout: Duration,
    pub tick: Duration,
    pub heartbeat: Duration,
    pub election_min: Duration,
    pub election_max: Duration,
    pub lease: Duration,
    pub merge_max: ByteSize,
    pub append_max: ByteSize,
    pub inflight_messages_max: usize,
    pub inflight_max: ByteSize,
    pub uncommitted_max: ByteSize,
    pub apply_backlog_max: ByteSize,
    pub waiting_max: ByteSize,
    pub waiting_time: Duration,
    pub undecided_time: Duration,
    pub replay_max: ByteSize,
    pub admin_durable: Duration,
    pub lag_entries_max: u64,
    pub truncate_entries: u64,
    pub truncate_size: ByteSize,
    pub split_size: ByteSize,
    /// Region bytes that are never exceeded.
    pub region_max: ByteSize,
    pub split_keys: u64,
    /// Requests a second; 0: never.
    pub split_queries: u64,
    /// Bytes a second; 0: never.
    pub split_flow: ByteSize,
    pub split_hot_time: Duration,
    pub region_heartbeat: Duration,
    /// A peer without a leader for so long asks PD whether it is still a member.
    pub stale_check: Duration,
    pub store_heartbeat: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let raft = flotilla_raftstore::Config::default();
        Self {
            data_dir: None,
            addr: DEFAULT_ADDR.parse().expect("a constant address"),
            advertise_addr: None,
            status_addr: None,
            join: None,
            allow_plaintext: false,
            ca: None,
            cert: None,
            key: None,
            node_names: None,
            admin_names: None,
            client_names: None,
            stop_timeout: Duration::from_secs(10),
            log_level: LogLevel::Info,
            log_format: LogFormat::Text,
            runtime_threads: None,
            connections_max: 10_000,
            streams_max: 1_024,
            message_max: ByteSize::mib(16),
            stream_window: ByteSize::mib(4),
            connection_window: ByteSize::mib(16),
            unsent_max: ByteSize::mib(64),
            answers_max: ByteSize::mib(512),
            requests_max: ByteSize::mib(512),
            handshake_timeout: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(20),
            stall_timeout: Duration::from_secs(60),
            snapshot_bandwidth: ByteSize::mib(100),
            snapshots_max: 4,
            key_mode: KeyMode::Auto,
            block_cache: None,
            state_write_buffer: ByteSize::mib(128),
            log_write_buffer: ByteSize::mib(128),
            entry_cache: ByteSize(raft.entry_cache_bytes),
            disk_reserve: None,
            flush_timeout: FLUSH_STALL_MAX,
            tick: raft.tick,
            heartbeat: raft.heartbeat,
            election_min: raft.election_min,
            election_max: raft.election_max,
            lease: raft.lease,
            merge_max: ByteSize(raft.merge_bytes_max),
            append_max: ByteSize(raft.append_bytes_max),
            inflight_messages_max: raft.inflight_messages_max,
            inflight_max: ByteSize(raft.inflight_bytes_max),
            uncommitted_max: ByteSize(raft.uncommitted_bytes_max),
            apply_backlog_max: ByteSize(raft.apply_backlog_bytes_max),
            waiting_max: ByteSize(raft.waiting_bytes_max),
            waiting_time: raft.waiting_time_max,
            undecided_time: raft.undecided_time_max,
            replay_max: ByteSize(raft.replay_bytes_max),
            admin_durable: raft.admin_durable_max,
            lag_entries_max: raft.lag_entries_max,
            truncate_entries: raft.truncate_entries_min,
            truncate_size: ByteSize(raft.truncate_bytes_min),
            split_size: ByteSize(raft.split_bytes),
            region_max: ByteSize(raft.region_bytes_max),
            split_keys: raft.split_keys,
            split_queries: raft.split_queries,
            split_flow: ByteSize(raft.split_flow_bytes),
            split_hot_time: raft.split_hot_time,
            region_heartbeat: raft.region_heartbeat,
            stale_check: raft.stale_check,
            store_heartbeat: raft.store_heartbeat,
        }
    }
}

/// One setting: its name, what it means, how it is written.
pub struct Setting {
    /// Dotted.
    pub key: &'static str,
    /// For users.
    pub about: &'static str,
    bare: bool,
    set: fn(&mut Config, &str) -> Result<(), String>,
    show: fn(&Config) -> Option<String>,
}

impl std::fmt::Debug for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.key)
    }
}

/// Carries the bareness of a field's type into the table below.
const fn bare<T: Value>(_: fn(&Config) -> &T) -> bool {
    T::BARE
}

macro_rules! settings {
    ($($key:literal $field:ident $about:literal;)+) => {
        /// All settings, in the order in which they are printed.
        pub const SETTINGS: &[Setting] = &[$(Setting {
            key: $key,
            about: $about,
            bare: bare(|config| &config.$field),
            set: |config, text| Value::read(text).map(|value| config.$field = value),
            show: |config| config.$field.show(),
        }),+];
    };
}

settings! {
    "data-dir" data_dir "Folder of the node's data; created at the first start.";
    "addr" addr "HOST:PORT to listen on: gRPC for clients, PD and stores, and HTTP. Port 0 takes any free one.";
    "advertise-addr" advertise_addr "HOST:PORT that clients and other nodes dial; required when addr is a wildcard.";
    "status-addr" status_addr "HOST:PORT for /metrics and the JSON API, when they should not be on addr.";
    "join" join "HOST:PORT of any node of the cluster that a new store joins; without it a new store creates a cluster.";
    "allow-plaintext" allow_plaintext "Listen beyond loopback without TLS: anybody who reaches the port can read and write.";
    "stop-timeout" stop_timeout "How long a stop waits for its leaders to move to other nodes, and then for requests under way before it closes their connections.";
    "security.ca" ca "PEM file with the CA that signs the certificates of nodes and clients. With this, cert and key every connection uses TLS.";
    "security.cert" cert "PEM file with the node's certificate, and those between it and the CA. Changed files are taken into use while the node runs.";
    "security.key" key "PEM file with the certificate's private key.";
    "security.node-names" node_names "Whose certificates are nodes': common names, DNS names, addresses or URIs, separated by commas; * at one end stands for anything. The common name of the own certificate unless set.";
    "security.admin-names" admin_names "Whose certificates may see the pages and change the cluster, besides nodes; nobody's unless set.";
    "security.client-names" client_names "Whose certificates may read and write, besides nodes and admins; all of the CA's unless set.";
    "log.level" log_level "error, warn, info, debug or trace.";
    "log.format" log_format "text or json, one record a line, on standard error.";
    "threads.runtime" runtime_threads "Threads for sockets and requests; as many as there are cores unless set.";
    "network.connections-max" connections_max "Connections at once; further ones are closed at once.";
    "network.streams-max" streams_max "Requests at once on one connection.";
    "network.message-max" message_max "Size of one request; larger ones fail with OUT_OF_RANGE.";
    "network.stream-window" stream_window "HTTP/2 flow-control window of one request.";
    "network.connection-window" connection_window "HTTP/2 flow-control window of one connection: what it may send before it is read.";
    "network.unsent-max" unsent_max "Bytes of answers that one connection may leave unread; its further large requests wait.";
    "network.answers-max" answers_max "Bytes of answers that all connections together may leave unread; further large requests wait or are refused.";
    "network.requests-max" requests_max "Bytes of requests under way in the process; further large ones are refused, those of a stream wait for its others.";
    "network.handshake-timeout" handshake_timeout "Time for a new connection to say what it speaks.";
    "network.keepalive-interval" keepalive_interval "Pause before a silent connection is asked for a sign of life.";
    "network.keepalive-timeout" keepalive_timeout "Time to give it.";
    "network.stall-timeout" stall_timeout "A connection that has taken nothing of its waiting answers for this long is closed.";
    "network.snapshot-bandwidth" snapshot_bandwidth "Bytes per second that region snapshots to all other stores may take together.";
    "network.snapshots-max" snapshots_max "Region snapshots that are sent at once; as many again are received.";
    "storage.key-mode" key_mode "plain (raw API v1), encoded (API v2 and transactions) or auto: the first use decides.";
    "storage.block-cache" block_cache "Cache of data blocks; 30 % of memory, at least 64MiB, unless set.";
    "storage.state-write-buffer" state_write_buffer "Memory for applied writes that are not in files yet.";
    "storage.log-write-buffer" log_write_buffer "Memory for the raft log before it goes to files; at least twice raft.replay-max.";
    "storage.entry-cache" entry_cache "Memory for recent raft entries, all regions together.";
    "storage.disk-reserve" disk_reserve "Free space below which writes other than deletes are refused; twice both write buffers + 512MiB unless set.";
    "storage.flush-timeout" flush_timeout "A state flush that takes longer stops the node.";
    "raft.tick" tick "How often regions are woken.";
    "raft.heartbeat" heartbeat "How often a leader shows itself to its followers.";
    "raft.election-min" election_min "A follower without a leader campaigns after a random time from here ...";
    "raft.election-max" election_max "... to here.";
    "raft.lease" lease "How long a leader serves reads by itself after a quorum has answered.";
    "raft.merge-max" merge_max "Small writes of one region are merged into one entry up to this size.";
    "raft.append-max" append_max "Size of one append message.";
    "raft.inflight-messages" inflight_messages_max "Append messages in flight to one follower.";
    "raft.inflight-max" inflight_max "Append bytes in flight to one follower.";
    "raft.uncommitted-max" uncommitted_max "Bytes proposed and not committed, per region.";
    "raft.apply-backlog-max" apply_backlog_max "Bytes committed and not applied, per region.";
    "raft.waiting-max" waiting_max "Bytes of writes that wait while a limit is reached, per region.";
    "raft.waiting-time" waiting_time "How long they may wait before they are refused as busy.";
    "raft.undecided-time" undecided_time "How long a former leader keeps writes whose outcome it does not know.";
    "raft.replay-max" replay_max "Log bytes that a restart may have to replay.";
    "raft.admin-durable" admin_durable "A split or membership change is flushed at the latest after this time.";
    "raft.lag-entries" lag_entries_max "Entries kept for a lagging follower.";
    "raft.truncate-entries" truncate_entries "The log is truncated when that frees so many entries ...";
    "raft.truncate-size" truncate_size "... or so many bytes.";
    "raft.stale-check" stale_check "A peer that knows of no leader for so long asks PD whether it is still a member.";
    "region.split-size" split_size "A region that holds more is split.";
    "region.max-size" region_max "A region that may hold more takes only deletions until it is split.";
    "region.split-keys" split_keys "A region that holds more keys is split.";
    "region.split-queries" split_queries "A region of which so many requests a second are made for a while is split where they halve; 0: none is.";
    "region.split-flow" split_flow "The same for bytes read and written a second; 0: none is.";
    "region.split-hot-time" split_hot_time "Such a while.";
    "region.heartbeat" region_heartbeat "How often a region's leader looks whether there is anything to tell PD.";
    "store.heartbeat" store_heartbeat "How often the store reports itself to PD.";
}

impl Config {
    /// The address to give to others, when the listener is bound to `port`.
    pub fn advertised(&self, port: u16) -> HostPort {
        let mut addr = self
            .advertise_addr
            .clone()
            .unwrap_or_else(|| self.addr.clone());
        if self.advertise_addr.is_none() {
            addr.port = port;
        }
        addr
    }

    /// The reserve of free disk space (contracts: C13).
    pub fn disk_reserve(&self) -> ByteSize {
        let default = disk_reserve_bytes(self.log_write_buffer.0, self.state_write_buffer.0);
        self.disk_reserve.unwrap_or(ByteSize(default))
    }

    /// The peers' share of it.
    pub fn raftstore(&self, seed: u64) -> flotilla_raftstore::Config {
        flotilla_raftstore::Config {
            tick: self.tick,
            heartbeat: self.heartbeat,
            election_min: self.election_min,
            election_max: self.election_max,
            lease: self.lease,
            entry_bytes_max: ENTRY_BYTES_MAX as u64,
            merge_bytes_max: self.merge_max.0,
            append_bytes_max: self.append_max.0,
            inflight_messages_max: self.inflight_messages_max,
            inflight_bytes_max: self.inflight_max.0,
            uncommitted_bytes_max: self.uncommitted_max.0,
            apply_backlog_bytes_max: self.apply_backlog_max.0,
            waiting_bytes_max: self.waiting_max.0,
            waiting_time_max: self.waiting_time,
            undecided_time_max: self.undecided_time,
            split_bytes: self.split_size.0,
            region_bytes_max: self.region_max.0,
            split_keys: self.split_keys,
            split_queries: self.split_queries,
            split_flow_bytes: self.split_flow.0,
            split_hot_time: self.split_hot_time,
            lag_entries_max: self.lag_entries_max,
            truncate_entries_min: self.truncate_entries,
            truncate_bytes_min: self.truncate_size.0,
            replay_bytes_max: self.replay_max.0,
            admin_durable_max: self.admin_durable,
            region_heartbeat: self.region_heartbeat,
            stale_check: self.stale_check,
            store_heartbeat: self.store_heartbeat,
            entry_cache_bytes: self.entry_cache.0,
            seed,
            plant: flotilla_raftstore::Plant::default(),
            ..flotilla_raftstore::Config::default()
        }
    }
}
