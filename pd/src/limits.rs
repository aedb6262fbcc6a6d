//! Every limit and time span of the placement driver, in one place (design, rule 7).

use std::time::Duration;

/// How often the driver sends [`crate::Input::Tick`].
pub const TICK: Duration = Duration::from_millis(100);

/// How far the durable timestamp bound is ahead of time when it is moved.
pub const TSO_WINDOW: Duration = Duration::from_secs(3);

/// The bound is moved when less than this is left.
pub const TSO_WINDOW_LOW: Duration = Duration::from_millis(1_500);

/// Ids made durable at once.
pub const ID_WINDOW: u64 = 1_000;

/// Ids of one `AllocID`.
pub const ALLOC_COUNT_MAX: u32 = 100_000;

/// Regions made by one `AskBatchSplit`.
pub const SPLIT_COUNT_MAX: u32 = 8_192;

/// Keys of one `SplitRegions`.
pub const SPLIT_KEYS_MAX: usize = 8_192;

/// Bytes of a boundary: the encoding of the longest key of 8 KiB with a keyspace prefix.
pub const BOUNDARY_BYTES_MAX: usize = 9 * (8 * 1024 / 8 + 2);

/// Region splits by PD that run at once; more are refused.
pub const SPLITS_MAX: usize = 256;

/// A region that was told to split is told again after this.
pub const SPLIT_RETRY: Duration = Duration::from_millis(500);

/// How often a region is told to split unless the request says.
pub const SPLIT_ATTEMPTS: u64 = 5;

/// How often at most.
pub const SPLIT_ATTEMPTS_MAX: u64 = 20;

/// Changes of durable metadata that wait for their turn; more are refused.
pub const CHANGES_MAX: usize = 1_024;

/// Requests that wait for ids, and for a timestamp window; more are refused.
pub const WAITING_MAX: usize = 4_096;

/// Region look-ups that wait for a hole in the routes to close; more are answered as they are.
pub const PARKED_MAX: usize = 4_096;

/// How long such a look-up waits: clients time out after 2 s (wire, section 9).
pub const PARKED_FOR: Duration = Duration::from_secs(1);

/// How long creating or loading a keyspace waits for its boundaries.
pub const KEYSPACE_WAIT: Duration = Duration::from_millis(1_500);

/// Bytes of a keyspace's name.
pub const KEYSPACE_NAME_BYTES_MAX: usize = 64;

/// Bytes of a keyspace's settings, names and values together.
pub const KEYSPACE_CONFIG_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a service id that holds the safe point back.
pub const SERVICE_ID_BYTES_MAX: usize = 256;

/// Services that hold the safe point back.
pub const SERVICES_MAX: usize = 1_024;

/// Bytes of an address, version, label or other text of a store.
pub const STORE_TEXT_BYTES_MAX: usize = 1_024;

/// Labels of a store.
pub const STORE_LABELS_MAX: usize = 64;

/// Registered stores, tombstones included.
pub const STORES_MAX: usize = 10_000;

/// Peers of one region in a heartbeat.
pub const PEERS_MAX: usize = 64;

/// Epochs remembered of regions that are not in the routes now.
pub const EPOCH_FLOORS_MAX: usize = 65_536;

/// Regions looked at for something to do in one [`TICK`].
pub const PATROL_REGIONS: usize = 4_096;

/// Regions that wait to be scattered; more are refused.
pub const SCATTER_MAX: usize = 65_536;

/// Groups of scattered regions that are remembered.
pub const SCATTER_GROUPS_MAX: usize = 64;

/// Regions of a store that a page of hot regions shows.
pub const HOT_REGIONS_MAX: usize = 16;

/// A store with this score, of 100, is slow: its leaders move away.
pub const SLOW_SCORE: u64 = 80;

/// It is slow no more once its score has come down to this.
pub const SLOW_SCORE_OVER: u64 = 10;

/// Placement rules.
pub const RULES_MAX: usize = 1_024;

/// Operators remembered after they ended.
pub const OPERATOR_HISTORY_MAX: usize = 256;

/// Minutes of traffic that are remembered by key.
pub const HEAT_MINUTES: u64 = 24 * 60;

/// Ranges of keys whose traffic is told apart in one minute.
pub const HEAT_RANGES_MAX: usize = 512;

/// Bytes that all of it takes: a day of 512 busy ranges takes half of that.
pub const HEAT_BYTES_MAX: usize = 32 << 20;

/// The folder of global config items PD itself keeps; others are not offered.
pub const CONFIG_PATH: &str = "/global/config/flotilla/";

/// The item that holds the cluster's key mode: `plain` or `encoded`; empty while undecided.
pub const CONFIG_KEY_MODE: &str = "key-mode";

const _: () = assert!(TSO_WINDOW_LOW.as_millis() < TSO_WINDOW.as_millis());
const _: () = assert!(TICK.as_millis() * 10 <= TSO_WINDOW_LOW.as_millis());
