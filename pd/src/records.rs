//! PD's durable rows: ordinary keys of the meta region (contracts: C30).
//!
//! | key | value |
//! |---|---|
//! | `c` | [`ClusterRecord`] |
//! | `g` | safe point, 8 bytes big-endian |
//! | `i` | id bound, 8 bytes big-endian: every id handed out is below it |
//! | `k` + id, 4 bytes big-endian | [`KeyspaceRecord`] |
//! | `o` | [`ConfigRecord`] |
//! | `r` + group + 0 + id | [`RuleRecord`] |
//! | `s` + id, 8 bytes big-endian | `metapb.Store` |
//! | `t` | timestamp bound in ms, 8 bytes big-endian: every physical part handed out is below it |
//! | `v` + service id | [`ServiceRecord`] |
//!
//! Each value starts with [`RECORD_VERSION`]. A row that does not decode, or that this build does
//! not know, is named and nothing is served (design, rule 8).

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use flotilla_proto::keys::{KEYSPACE_ID_MAX, KeyMode};
use flotilla_proto::keyspacepb::{KeyspaceMeta, KeyspaceState, keyspace_meta};
use flotilla_proto::metapb::Store;
use prost::Message;

use crate::rules;
use crate::schedule::Schedule;
use crate::settings::Settings;

/// The first byte of every value.
pub const RECORD_VERSION: u8 = 1;

const CLUSTER: u8 = b'c';
const SAFE_POINT: u8 = b'g';
const IDS: u8 = b'i';
const KEYSPACE: u8 = b'k';
const CONFIG: u8 = b'o';
const RULE: u8 = b'r';
const STORE: u8 = b's';
const TSO: u8 = b't';
const SERVICE: u8 = b'v';

/// Rows that every cluster has from its birth. Serving without one could repeat ids or timestamps.
const NEEDED: [&[u8]; 5] = [
    &[CLUSTER],
    &[SAFE_POINT],
    &[IDS],
    &[TSO],
    &[KEYSPACE, 0, 0, 0, 0],
];

/// One row to write (`Some`) or delete (`None`).
pub type Mod = (Bytes, Option<Bytes>);

/// A row of the meta region that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes are not what any version writes.
    #[error(
        "corrupt row {key} in the meta region: {why}; restore this store from its replicas or a backup"
    )]
    Corrupt {
        /// The key in hexadecimal: a kind byte and an id.
        key: String,
        /// What does not fit.
        why: String,
    },
    /// A kind or version this build does not know.
    #[error(
        "row {key} in the meta region was written by a newer version of this program; start that version"
    )]
    Newer {
        /// The key in hexadecimal.
        key: String,
    },
    /// The cluster's own row is missing.
    #[error(
        "the meta region holds no cluster record: it was never bootstrapped, or its data are lost"
    )]
    NoCluster,
    /// The rows are those of another cluster.
    #[error(
        "the meta region belongs to cluster {found}, this node to cluster {expected}: the data folder is not of this cluster"
    )]
    OtherCluster {
        /// This node's cluster id.
        expected: u64,
        /// The cluster id in the row.
        found: u64,
    },
}

/// What is true of the cluster as a whole.
#[derive(Clone, PartialEq, Message)]
pub struct ClusterRecord {
    /// Never 0, never changes.
    #[prost(uint64, tag = "1")]
    pub cluster_id: u64,
    /// Replicas of a data region.
    #[prost(uint32, tag = "2")]
    pub max_peer_count: u32,
    /// The first store and region are registered.
    #[prost(bool, tag = "3")]
    pub bootstrapped: bool,
    /// Wall clock at creation, ms since the epoch.
    #[prost(uint64, tag = "4")]
    pub created_ms: u64,
    /// The smallest version of all live stores, as it stood at its highest. Empty: no store yet.
    #[prost(string, tag = "5")]
    pub version: String,
    /// 0: not decided, 1: plain, 2: encoded.
    #[prost(uint32, tag = "6")]
    pub key_mode: u32,
}

impl ClusterRecord {
    /// The decided key mode.
    pub fn mode(&self) -> Option<KeyMode> {
        match self.key_mode {
            1 => Some(KeyMode::Plain),
            2 => Some(KeyMode::Encoded),
            _ => None,
        }
    }

    /// Decides the key mode.
    pub fn set_mode(&mut self, mode: KeyMode) {
        self.key_mode = match mode {
            KeyMode::Plain => 1,
            KeyMode::Encoded => 2,
        };
    }
}

/// A keyspace. Its key holds the id.
#[derive(Clone, PartialEq, Message)]
pub struct KeyspaceRecord {
    /// Unique.
    #[prost(string, tag = "1")]
    pub name: String,
    /// A `keyspacepb.KeyspaceState`.
    #[prost(enumeration = "KeyspaceState", tag = "2")]
    pub state: i32,
    /// Unix seconds.
    #[prost(int64, tag = "3")]
    pub created_at: i64,
    /// Unix seconds.
    #[prost(int64, tag = "4")]
    pub state_changed_at: i64,
    /// Handed to clients as it is.
    #[prost(btree_map = "string, string", tag = "5")]
    pub config: BTreeMap<String, String>,
    /// Its region boundaries have been split once: clients may load it.
    #[prost(bool, tag = "6")]
    pub split: bool,
}

impl KeyspaceRecord {
    /// The keyspace as clients see it.
    pub fn meta(&self, id: u32) -> KeyspaceMeta {
        KeyspaceMeta {
            name: self.name.clone(),
            state: self.state,
            created_at: self.created_at,
            state_changed_at: self.state_changed_at,
            config: self.config.clone().into_iter().collect(),
            keyspace: Some(keyspace_meta::Keyspace::Id(id)),
        }
    }
}

/// A service that holds the safe point back.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ServiceRecord {
    /// Unix seconds from which it counts no more; `i64::MAX`: never.
    #[prost(int64, tag = "1")]
    pub expires_at: i64,
    /// The timestamp it needs.
    #[prost(uint64, tag = "2")]
    pub safe_point: u64,
}

/// Settings that were changed online.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ConfigRecord {
    /// By name; a setting that is not here is as the program has it.
    #[prost(btree_map = "string, string", tag = "1")]
    pub values: BTreeMap<String, String>,
    /// Names of schedulers that were removed, in order.
    #[prost(string, repeated, tag = "2")]
    pub removed_schedulers: Vec<String>,
}

/// A placement rule. Its key holds group and id.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RuleRecord {
    /// Rules of a group go by this, then by id.
    #[prost(int64, tag = "1")]
    pub index: i64,
    /// Rules of the group before this one do not count where it does.
    #[prost(bool, tag = "2")]
    pub overrides: bool,
    /// The first key.
    #[prost(bytes = "bytes", tag = "3")]
    pub start_key: Bytes,
    /// The key behind the last; empty: no end.
    #[prost(bytes = "bytes", tag = "4")]
    pub end_key: Bytes,
    /// 0 voter, 1 leader, 2 follower, 3 learner.
    #[prost(uint32, tag = "5")]
    pub role: u32,
    /// Peers.
    #[prost(uint32, tag = "6")]
    pub count: u32,
    /// What a store must show.
    #[prost(message, repeated, tag = "7")]
    pub constraints: Vec<ConstraintRecord>,
    /// Labels by which its peers are kept apart, the widest first.
    #[prost(string, repeated, tag = "8")]
    pub location_labels: Vec<String>,
}

/// What a store's label must be.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ConstraintRecord {
    /// The label.
    #[prost(string, tag = "1")]
    pub key: String,
    /// 0 in, 1 notIn, 2 exists, 3 notExists.
    #[prost(uint32, tag = "2")]
    pub op: u32,
    /// Of 0 and 1.
    #[prost(string, repeated, tag = "3")]
    pub values: Vec<String>,
}

/// PD's durable state: the fold of all rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Durable {
    /// The cluster's own row.
    pub cluster: ClusterRecord,
    /// Registered stores, tombstones included.
    pub stores: BTreeMap<u64, Store>,
    /// Keyspaces by id.
    pub keyspaces: BTreeMap<u32, KeyspaceRecord>,
    /// Ids of keyspaces by name. Invariant: exactly the names in `keyspaces`.
    pub keyspace_names: BTreeMap<String, u32>,
    /// Every id handed out is below.
    pub id_bound: u64,
    /// Every physical part handed out is below, in ms.
    pub tso_bound_ms: u64,
    /// Versions older than this may be gone.
    pub safe_point: u64,
    /// Services by id.
    pub services: BTreeMap<Bytes, ServiceRecord>,
    /// Settings that were changed online.
    pub config: ConfigRecord,
    /// Placement rules by group and id.
    pub rules: BTreeMap<(String, String), RuleRecord>,
}

impl Durable {
    /// Folds the rows of the meta region.
    ///
    /// # Errors
    /// A row that does not decode, an unknown one, or one missing that every cluster has.
    pub fn load<'a>(
        rows: impl IntoIterator<Item = (&'a Bytes, &'a Bytes)>,
    ) -> Result<Self, RecordError> {
        let mut durable = Self {
            cluster: ClusterRecord::default(),
            stores: BTreeMap::new(),
            keyspaces: BTreeMap::new(),
            keyspace_names: BTreeMap::new(),
            id_bound: 0,
            tso_bound_ms: 0,
            safe_point: 0,
            services: BTreeMap::new(),
            config: ConfigRecord::default(),
            rules: BTreeMap::new(),
        };
        let mut needed = NEEDED.to_vec();
        for (key, value) in rows {
            durable.apply(key, Some(value))?;
            needed.retain(|needed| *needed != &key[..]);
        }
        if durable.cluster.cluster_id == 0 {
            return Err(RecordError::NoCluster);
        }
        if let Some(missing) = needed.first() {
            return Err(corrupt(missing, "it is missing"));
        }
        Ok(durable)
    }

    /// Takes one written (`Some`) or deleted (`None`) row.
    ///
    /// # Errors
    /// A row that does not decode, or an unknown one; the state is then unchanged.
    pub fn apply(&mut self, key: &Bytes, value: Option<&Bytes>) -> Result<(), RecordError> {
        let body = value.map(|value| body(key, value)).transpose()?;
        let (kind, id) = key.split_first().ok_or_else(|| corrupt(key, "empty key"))?;
        match (*kind, body) {
            (CLUSTER, Some(body)) if id.is_empty() => self.cluster = decode(key, body)?,
            (SAFE_POINT, Some(body)) if id.is_empty() => self.safe_point = number(key, body)?,
            (IDS, Some(body)) if id.is_empty() => self.id_bound = number(key, body)?,
            (TSO, Some(body)) if id.is_empty() => self.tso_bound_ms = number(key, body)?,
            (STORE, Some(body)) => {
                let id = u64::from_be_bytes(fixed(key, id)?);
                let store: Store = decode(key, body)?;
                if store.id != id {
                    return Err(corrupt(key, format!("holds store {}", store.id)));
                }
                self.stores.insert(id, store);
            }
            (STORE, None) => {
                self.stores.remove(&u64::from_be_bytes(fixed(key, id)?));
            }
            (KEYSPACE, Some(body)) => {
                self.put_keyspace(key, u32::from_be_bytes(fixed(key, id)?), body)?
            }
            (SERVICE, Some(body)) => {
                let record = decode(key, body)?;
                self.services.insert(key.slice(1..), record);
            }
            (SERVICE, None) => {
                self.services.remove(id);
            }
            (CONFIG, Some(body)) if id.is_empty() => {
                let record = decode(key, body)?;
                // What this build cannot read it must not drop either.
                Settings::new(Schedule::default(), 1, &record)
                    .map_err(|_| RecordError::Newer { key: hex(key) })?;
                self.config = record;
            }
            (RULE, body) => {
                let names = rule_names(id).ok_or_else(|| corrupt(key, "no name of a rule"))?;
                match body {
                    Some(body) => {
                        let record = decode(key, body)?;
                        rules::from_record(&names, &record)
                            .map_err(|_| RecordError::Newer { key: hex(key) })?;
                        self.rules.insert(names, record);
                    }
                    None => {
                        self.rules.remove(&names);
                    }
                }
            }
            (CLUSTER | SAFE_POINT | IDS | TSO | KEYSPACE | CONFIG, _) => {
                return Err(corrupt(
                    key,
                    "a row that is never deleted, or a key of the wrong length",
                ));
            }
            _ => return Err(RecordError::Newer { key: hex(key) }),
        }
        Ok(())
    }

    fn put_keyspace(&mut self, key: &Bytes, id: u32, body: &[u8]) -> Result<(), RecordError> {
        let record: KeyspaceRecord = decode(key, body)?;
        if id > KEYSPACE_ID_MAX {
            return Err(corrupt(key, "no keyspace has that id"));
        }
        if self
            .keyspace_names
            .get(&record.name)
            .is_some_and(|holder| *holder != id)
        {
            return Err(corrupt(key, "its name belongs to another keyspace"));
        }
        if let Some(before) = self.keyspaces.get(&id) {
            self.keyspace_names.remove(&before.name);
        }
        self.keyspace_names.insert(record.name.clone(), id);
        self.keyspaces.insert(id, record);
        Ok(())
    }
}

/// The row of the cluster.
pub fn put_cluster(record: &ClusterRecord) -> Mod {
    (Bytes::from_static(&[CLUSTER]), Some(encode(record)))
}

/// The row of a store.
pub fn put_store(store: &Store) -> Mod {
    (key(STORE, &store.id.to_be_bytes()), Some(encode(store)))
}

/// The row of a keyspace.
pub fn put_keyspace(id: u32, record: &KeyspaceRecord) -> Mod {
    (key(KEYSPACE, &id.to_be_bytes()), Some(encode(record)))
}

/// The row of the id bound.
pub fn put_id_bound(bound: u64) -> Mod {
    (Bytes::from_static(&[IDS]), Some(encode_number(bound)))
}

/// The row of the timestamp bound.
pub fn put_tso_bound(bound_ms: u64) -> Mod {
    (Bytes::from_static(&[TSO]), Some(encode_number(bound_ms)))
}

/// The row of the safe point.
pub fn put_safe_point(safe_point: u64) -> Mod {
    (
        Bytes::from_static(&[SAFE_POINT]),
        Some(encode_number(safe_point)),
    )
}

/// The row of a service; `None` removes it.
pub fn put_service(id: &[u8], record: Option<&ServiceRecord>) -> Mod {
    (key(SERVICE, id), record.map(encode))
}

/// The row of the settings.
pub fn put_config(record: &ConfigRecord) -> Mod {
    (Bytes::from_static(&[CONFIG]), Some(encode(record)))
}

/// The row of a placement rule; `None` removes it.
pub fn put_rule(group: &str, id: &str, record: Option<&RuleRecord>) -> Mod {
    let names = [group.as_bytes(), &[0], id.as_bytes()].concat();
    (key(RULE, &names), record.map(encode))
}

/// Group and id of a rule; neither holds a zero byte.
fn rule_names(names: &[u8]) -> Option<(String, String)> {
    let (group, id) = std::str::from_utf8(names).ok()?.split_once('\0')?;
    Some((group.to_owned(), id.to_owned()))
}

fn key(kind: u8, id: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(1 + id.len());
    key.put_u8(kind);
    key.put_slice(id);
    key.freeze()
}

fn encode(message: &impl Message) -> Bytes {
    let mut value = Vec::with_capacity(1 + message.encoded_len());
    value.push(RECORD_VERSION);
    message
        .encode(&mut value)
        .expect("a vector grows as needed");
    value.into()
}

fn encode_number(number: u64) -> Bytes {
    let mut value = vec![RECORD_VERSION];
    value.extend_from_slice(&number.to_be_bytes());
    value.into()
}

fn body<'a>(key: &Bytes, value: &'a Bytes) -> Result<&'a [u8], RecordError> {
    match value.split_first() {
        Some((&RECORD_VERSION, body)) => Ok(body),
        Some((version, _)) if *version > RECORD_VERSION => {
            Err(RecordError::Newer { key: hex(key) })
        }
        _ => Err(corrupt(key, "no version byte")),
    }
}

fn decode<M: Message + Default>(key: &Bytes, body: &[u8]) -> Result<M, RecordError> {
    M::decode(body).map_err(|error| corrupt(key, error.to_string()))
}

fn number(key: &Bytes, body: &[u8]) -> Result<u64, RecordError> {
    fixed(key, body).map(u64::from_be_bytes)
}

fn fixed<const N: usize>(key: &Bytes, bytes: &[u8]) -> Result<[u8; N], RecordError> {
    bytes
        .try_into()
        .map_err(|_| corrupt(key, format!("{} bytes where {N} belong", bytes.len())))
}

fn corrupt(key: &[u8], why: impl Into<String>) -> RecordError {
    RecordError::Corrupt {
        key: hex(key),
        why: why.into(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
