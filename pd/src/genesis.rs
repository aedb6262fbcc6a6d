//! The birth of a cluster: ids that are fixed, and the first rows of the meta region.

use bytes::Bytes;
use flotilla_proto::clock::Wall;
use flotilla_proto::keys::{KeyMode, SENTINEL_BOUNDARY};
use flotilla_proto::keyspacepb::KeyspaceState;
use flotilla_proto::metapb::{Peer, PeerRole, Region, RegionEpoch, Store};

use crate::records::{self, ClusterRecord, KeyspaceRecord};
use crate::stores::is_address;
use crate::version::Version;

/// The store that creates a cluster (contracts: C30, for all of these).
pub const FIRST_STORE: u64 = 1;
/// The region that holds PD's state, outside the key space.
pub const META_REGION: u64 = 1;
/// The meta region's first peer.
pub const META_PEER: u64 = 2;
/// The data region from the lowest key up to [`SENTINEL_BOUNDARY`].
pub const FIRST_REGION: u64 = 3;
/// Its first peer.
pub const FIRST_PEER: u64 = 4;
/// The region from [`SENTINEL_BOUNDARY`] on; never merged.
pub const SENTINEL_REGION: u64 = 5;
/// Its first peer.
pub const SENTINEL_PEER: u64 = 6;
/// The first id the allocator hands out.
pub const FIRST_ALLOCATED_ID: u64 = 1_000;

/// The epoch of a region that was created with the cluster.
pub const FIRST_EPOCH: RegionEpoch = RegionEpoch {
    conf_ver: 1,
    version: 1,
};

/// Replicas of a data region unless configured.
pub const MAX_PEER_COUNT: u32 = 3;
/// The name of the keyspace every cluster has.
pub const DEFAULT_KEYSPACE: &str = "DEFAULT";
/// Its id.
pub const DEFAULT_KEYSPACE_ID: u32 = 0;
/// The version a store advertises; clients gate features on it.
pub const ADVERTISED_VERSION: &str = "8.5.0";

/// What a new cluster is made of.
#[derive(Clone, Debug)]
pub struct Genesis {
    /// Drawn at random by the caller.
    pub cluster_id: u64,
    /// The store that creates the cluster and holds its first regions, id [`FIRST_STORE`]. `None`:
    /// the cluster waits for a `Bootstrap` call.
    pub store: Option<Store>,
    /// A key mode that is configured; `None`: the first use decides (contracts: C38).
    pub key_mode: Option<KeyMode>,
    /// Replicas of a data region.
    pub max_peer_count: u32,
    /// Now.
    pub created: Wall,
}

/// Why a cluster cannot be created like that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    /// 0 stands for "no cluster" on the wire.
    #[error("a cluster id must not be 0")]
    ZeroClusterId,
    /// Regions need replicas.
    #[error("a cluster's regions need at least one replica")]
    NoReplicas,
    /// The first ids are fixed.
    #[error("the first store of a cluster has id {FIRST_STORE}, not {0}")]
    StoreId(u64),
    /// Clients dial it.
    #[error("the first store's address {0:?} is not host:port")]
    Address(String),
    /// Clients gate features on it.
    #[error("the first store's version {0:?} is no version")]
    Version(String),
}

/// The first rows of a new cluster's meta region. The default keyspace is among them.
///
/// # Errors
/// See [`GenesisError`].
pub fn bootstrap_records(genesis: &Genesis) -> Result<Vec<(Bytes, Bytes)>, GenesisError> {
    if genesis.cluster_id == 0 {
        return Err(GenesisError::ZeroClusterId);
    }
    if genesis.max_peer_count == 0 {
        return Err(GenesisError::NoReplicas);
    }
    let mut cluster = ClusterRecord {
        cluster_id: genesis.cluster_id,
        max_peer_count: genesis.max_peer_count,
        bootstrapped: genesis.store.is_some(),
        created_ms: genesis.created.0,
        ..ClusterRecord::default()
    };
    if let Some(mode) = genesis.key_mode {
        cluster.set_mode(mode);
    }
    let mut mods = Vec::new();
    if let Some(store) = &genesis.store {
        if store.id != FIRST_STORE {
            return Err(GenesisError::StoreId(store.id));
        }
        if !is_address(&store.address) {
            return Err(GenesisError::Address(store.address.clone()));
        }
        let version = Version::parse(&store.version);
        let version = version.ok_or_else(|| GenesisError::Version(store.version.clone()))?;
        cluster.version = version.to_string();
        mods.push(records::put_store(store));
    }
    let now = i64::try_from(genesis.created.seconds()).unwrap_or(i64::MAX);
    let keyspace = KeyspaceRecord {
        name: DEFAULT_KEYSPACE.to_owned(),
        state: KeyspaceState::Enabled as i32,
        created_at: now,
        state_changed_at: now,
        ..KeyspaceRecord::default()
    };
    mods.push(records::put_cluster(&cluster));
    mods.push(records::put_keyspace(DEFAULT_KEYSPACE_ID, &keyspace));
    mods.push(records::put_id_bound(FIRST_ALLOCATED_ID));
    mods.push(records::put_tso_bound(0));
    mods.push(records::put_safe_point(0));
    mods.sort();
    Ok(mods
        .into_iter()
        .filter_map(|(key, value)| value.map(|value| (key, value)))
        .collect())
}

/// The regions a new cluster starts with, meta region first: what the first store creates.
pub fn first_regions() -> [Region; 3] {
    let boundary = Bytes::from_static(&SENTINEL_BOUNDARY);
    [
        region(META_REGION, META_PEER, Bytes::new(), Bytes::new()),
        region(FIRST_REGION, FIRST_PEER, Bytes::new(), boundary.clone()),
        region(SENTINEL_REGION, SENTINEL_PEER, boundary, Bytes::new()),
    ]
}

fn region(id: u64, peer: u64, start_key: Bytes, end_key: Bytes) -> Region {
    Region {
        id,
        start_key,
        end_key,
        region_epoch: Some(FIRST_EPOCH),
        peers: vec![Peer {
            id: peer,
            store_id: FIRST_STORE,
            role: PeerRole::Voter as i32,
            is_witness: false,
        }],
        ..Region::default()
    }
}
