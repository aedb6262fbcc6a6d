//! The bodies of PD's JSON API: plain data, named and shaped as PD's tools expect them.

use std::collections::BTreeMap;

use serde::Serialize;

/// The body of an answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum View {
    /// No body.
    Nothing,
    /// Several regions.
    Regions(RegionsView),
    /// One.
    Region(Box<RegionView>),
    /// Several stores.
    Stores(StoresView),
    /// One.
    Store(Box<StoreInfoView>),
    /// Who serves PD.
    Members(Box<MembersView>),
    /// Keyspaces.
    Keyspaces(KeyspacesView),
    /// Operators.
    Operators(Box<OperatorsView>),
    /// All regions, in columns.
    Map(Box<MapView>),
    /// Traffic by key and time.
    Heat(Box<HeatView>),
    /// Anything small.
    Json(serde_json::Value),
}

/// All regions in key order, in columns: short, for there may be many. Where there are more than
/// were asked for, `per` neighbours share a place; the last one has what is left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MapView {
    /// Regions.
    pub count: usize,
    /// Regions of one place.
    pub per: usize,
    /// The first region of each place.
    pub id: Vec<u64>,
    /// The store that leads it, or most of them; 0: none.
    pub leader: Vec<u64>,
    /// As [`RegionView::approximate_size`].
    pub mib: Vec<u64>,
    /// Keys.
    pub keys: Vec<u64>,
    /// As [`RegionView::written_bytes`].
    pub written: Vec<u64>,
    /// As [`RegionView::read_bytes`].
    pub read: Vec<u64>,
    /// The worst: 0 nothing, 1 a peer lags behind, 2 too few peers, 3 a peer is down, 4 no leader.
    pub ails: Vec<u8>,
}

/// Traffic by key and time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeatView {
    /// `written_bytes`, `read_bytes`, `written_keys` or `read_keys`.
    pub what: &'static str,
    /// Unix seconds at which the first column begins.
    pub from: u64,
    /// Seconds of a column.
    pub column_seconds: u64,
    /// Where each row starts, upper-case hexadecimal; it ends where the next one starts.
    pub starts: Vec<String>,
    /// By column, then by row: the sum over the column's time.
    pub columns: Vec<Vec<u64>>,
}

/// Regions in key order.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RegionsView {
    /// How many.
    pub count: usize,
    /// In key order.
    pub regions: Vec<RegionView>,
}

/// A region.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RegionView {
    /// Its id.
    pub id: u64,
    /// Upper-case hexadecimal.
    pub start_key: String,
    /// Upper-case hexadecimal.
    pub end_key: String,
    /// Its epoch.
    pub epoch: EpochView,
    /// Its peers.
    pub peers: Vec<PeerView>,
    /// Absent while no leader reported it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader: Option<PeerView>,
    /// Peers the leader hears nothing of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub down_peers: Vec<DownPeerView>,
    /// Peers that lag too far behind to serve.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pending_peers: Vec<PeerView>,
    /// Bytes written since the report before the last.
    pub written_bytes: u64,
    /// Bytes read likewise.
    pub read_bytes: u64,
    /// Keys written likewise.
    pub written_keys: u64,
    /// Keys read likewise.
    pub read_keys: u64,
    /// MiB, rounded down; 1 for a smaller region that is not empty. Stores report bytes.
    pub approximate_size: u64,
    /// Keys.
    pub approximate_keys: u64,
}

/// A region's epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EpochView {
    /// Member changes.
    pub conf_ver: u64,
    /// Range changes.
    pub version: u64,
}

/// A peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerView {
    /// `Voter`, `Learner`, `IncomingVoter` or `DemotingVoter`.
    pub role_name: &'static str,
    /// The role's number.
    #[serde(skip_serializing_if = "is_zero")]
    pub role: i32,
    /// Its id.
    pub id: u64,
    /// Where it lives.
    pub store_id: u64,
    /// Takes no part in elections.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_learner: bool,
}

/// A peer that is down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DownPeerView {
    /// Which.
    pub peer: PeerView,
    /// For how long.
    pub down_seconds: u64,
}

/// Stores by id.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoresView {
    /// How many.
    pub count: usize,
    /// By id, without tombstones.
    pub stores: Vec<StoreInfoView>,
}

/// A store and how it does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoreInfoView {
    /// What is registered.
    pub store: StoreView,
    /// What it reported.
    pub status: StoreStatusView,
}

/// What is registered of a store.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoreView {
    /// Its id.
    pub id: u64,
    /// What clients dial.
    pub address: String,
    /// Labels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<LabelView>,
    /// Semver text.
    pub version: String,
    /// Where its HTTP pages are.
    pub status_address: String,
    /// The commit it was built from.
    pub git_hash: String,
    /// Unix seconds.
    pub start_timestamp: i64,
    /// Its folder.
    pub deploy_path: String,
    /// Unix nanoseconds; 0: none since this leader serves.
    pub last_heartbeat: i64,
    /// `Up`, `Disconnected`, `Down`, `Offline` or `Tombstone`.
    pub state_name: &'static str,
}

/// A label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LabelView {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// How a store does. Sizes are texts such as `1.5GiB`, as PD prints them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoreStatusView {
    /// Disk size.
    pub capacity: String,
    /// Free space.
    pub available: String,
    /// Bytes used by the store.
    pub used_size: String,
    /// Regions it leads.
    pub leader_count: u64,
    /// Scheduling weight.
    pub leader_weight: f64,
    /// MiB: the sum of [`RegionView::approximate_size`] of the regions it leads.
    pub leader_size: u64,
    /// Regions it has a peer of.
    pub region_count: u64,
    /// Scheduling weight.
    pub region_weight: f64,
    /// MiB: the sum of [`RegionView::approximate_size`] of the regions it has a peer of.
    pub region_size: u64,
    /// When it started, RFC 3339; absent before its first report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_ts: Option<String>,
    /// Its last report, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_heartbeat_ts: Option<String>,
    /// From its start to its last report, such as `1h2m3s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime: Option<String>,
    /// No leader is to be there, for it stops or is drained; left out where leaders may be.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub leaders_evicted: bool,
}

/// Who serves PD.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MembersView {
    /// The cluster.
    pub header: HeaderView,
    /// All members.
    pub members: Vec<MemberView>,
    /// The one that leads; absent if none is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader: Option<MemberView>,
    /// The same one: there is no etcd inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_leader: Option<MemberView>,
}

/// Whose answer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HeaderView {
    /// The cluster.
    pub cluster_id: u64,
}

/// A member of PD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberView {
    /// Its name.
    pub name: String,
    /// Its id: that of its store.
    pub member_id: u64,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// Its version.
    pub binary_version: String,
}

/// All keyspaces.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KeyspacesView {
    /// By id.
    pub keyspaces: Vec<KeyspaceView>,
    /// Always empty: one page holds them all.
    pub next_page_token: String,
}

/// A keyspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyspaceView {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// `ENABLED`, `DISABLED`, `ARCHIVED` or `TOMBSTONE`.
    pub state: String,
    /// Unix seconds.
    pub created_at: i64,
    /// Unix seconds.
    pub state_changed_at: i64,
    /// Settings.
    pub config: BTreeMap<String, String>,
}

/// Operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OperatorsView {
    /// By region.
    pub running: Vec<OperatorView>,
    /// Those that ended in this PD's term, the last first.
    pub ended: Vec<OperatorView>,
}

/// An operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OperatorView {
    /// Its number in this PD's term.
    pub id: u64,
    /// Its region.
    pub region_id: u64,
    /// Its name, such as `make-up-replica`.
    pub desc: &'static str,
    /// `replica`, `leader` or `admin`.
    pub kind: &'static str,
    /// Why there is one, for the reader.
    pub reason: String,
    /// Its steps, for the reader.
    pub steps: Vec<String>,
    /// How many of them are done.
    pub steps_done: usize,
    /// `RUNNING`, `SUCCESS`, `TIMEOUT`, `CANCEL` or `REPLACE`.
    pub status: &'static str,
    /// How it ended, for the reader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ending: Option<String>,
    /// Unix milliseconds.
    pub started_ms: u64,
    /// Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
}

/// Schedulers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SchedulersView {
    /// By name.
    pub schedulers: Vec<SchedulerView>,
}

/// A scheduler that was not removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SchedulerView {
    /// As PD names it.
    pub name: String,
    /// It plans nothing for so long; 0: it is at work.
    pub paused_seconds: u64,
}

/// The load of stores, and of the regions that bring most of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HotRegionsView {
    /// By id.
    pub stores: Vec<HotStoreView>,
}

/// A store's load, of reads by what it leads, of writes by what it has peers of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HotStoreView {
    /// The store.
    pub store_id: u64,
    /// Of all its regions.
    pub total: FlowView,
    /// The busiest first.
    pub regions: Vec<HotRegionView>,
}

/// A region's load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HotRegionView {
    /// The region.
    pub region_id: u64,
    /// Its load.
    pub flow: FlowView,
}

/// A decaying average of what leaders reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct FlowView {
    /// Bytes per second.
    pub bytes: f64,
    /// Keys per second.
    pub keys: f64,
    /// Queries per second.
    pub queries: f64,
}

fn is_zero(number: &i32) -> bool {
    *number == 0
}
