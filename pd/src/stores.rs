//! Stores: registered durably, their heartbeats in memory (wire, section 3.5).

use flotilla_proto::metapb::{NodeState, Region, Store, StoreState};
use flotilla_proto::pdpb::{
    BootstrapRequest, BootstrapResponse, ErrorType, GetStoreResponse, PutClusterConfigRequest,
    PutClusterConfigResponse, PutStoreRequest, PutStoreResponse, StoreHeartbeatRequest,
    StoreHeartbeatResponse, StoreStats,
};

use crate::changes::{Plan, Then};
use crate::effect::Event;
use crate::genesis::META_REGION;
use crate::leading::{Leading, StoreReport};
use crate::limits::{PEERS_MAX, STORE_LABELS_MAX, STORE_TEXT_BYTES_MAX, STORES_MAX};
use crate::records::{self, ClusterRecord, Mod};
use crate::removal::changed;
use crate::reply::{Answer, Cx, Refusal};
use crate::routes::Route;
use crate::version::Version;

impl Leading {
    /// A registered store that is no tombstone.
    ///
    /// The text for an unknown id is the one by which clients tell a removed store.
    pub(crate) fn live_store(&self, id: u64) -> Answer<&Store> {
        self.check_bootstrapped()?;
        match self.durable.stores.get(&id) {
            None => Err(Refusal::unknown(format!(
                "invalid store ID {id}, not found"
            ))),
            Some(store) if is_tombstone(store) => {
                let text = format!("store {id} is a tombstone");
                Err(Refusal::Header(ErrorType::StoreTombstone, text))
            }
            Some(store) => Ok(store),
        }
    }

    pub(crate) fn get_store(&self, id: u64) -> Answer<GetStoreResponse> {
        self.check_bootstrapped()?;
        let store = self
            .durable
            .stores
            .get(&id)
            .ok_or_else(|| Refusal::unknown(format!("invalid store ID {id}, not found")))?;
        Ok(GetStoreResponse {
            store: Some(self.with_report(store)),
            stats: self.reports.get(&id).map(|report| report.stats.clone()),
            ..GetStoreResponse::default()
        })
    }

    /// `store` with the time of its last heartbeat, which is not durable.
    pub(crate) fn with_report(&self, store: &Store) -> Store {
        let last = self
            .reports
            .get(&store.id)
            .map_or(0, |report| report.wall.0);
        Store {
            last_heartbeat: i64::try_from(last).map_or(i64::MAX, |ms| ms.saturating_mul(1_000_000)),
            ..store.clone()
        }
    }

    pub(crate) fn store_heartbeat(
        &mut self,
        cx: &Cx<'_>,
        request: &StoreHeartbeatRequest,
    ) -> Answer<StoreHeartbeatResponse> {
        self.check_bootstrapped()?;
        let stats = request
            .stats
            .as_ref()
            .ok_or_else(|| Refusal::unknown("invalid store heartbeat: it has no stats"))?;
        self.live_store(stats.store_id)?;
        let report = StoreReport {
            // Regions report for themselves; a copy per peer would only cost memory.
            stats: StoreStats {
                peer_stats: Vec::new(),
                ..stats.clone()
            },
            at: cx.now,
            wall: cx.wall,
        };
        self.reports.insert(stats.store_id, report);
        Ok(StoreHeartbeatResponse {
            cluster_version: self.durable.cluster.version.clone(),
            state: NodeState::Serving as i32,
            ..StoreHeartbeatResponse::default()
        })
    }

    pub(crate) fn plan_bootstrap(
        &self,
        request: &BootstrapRequest,
    ) -> Answer<Plan<BootstrapResponse>> {
        if self.durable.cluster.bootstrapped {
            let text = "cluster is already bootstrapped".to_owned();
            return Err(Refusal::Header(ErrorType::AlreadyBootstrapped, text));
        }
        let (store, region) = check_bootstrap(request)?;
        let version = check_store(store, &self.durable.cluster)?;
        let cluster = ClusterRecord {
            bootstrapped: true,
            version: version.to_string(),
            ..self.durable.cluster.clone()
        };
        let mods = vec![
            records::put_cluster(&cluster),
            records::put_store(&registered(store)),
        ];
        Ok(Plan::change(BootstrapResponse::default(), mods)
            .then(Then::Bootstrapped(Box::new(region.clone())))
            .then(Then::Event(store_put(store))))
    }

    /// The first region is known, though nobody leads it yet.
    pub(crate) fn bootstrapped(&mut self, cx: &mut Cx<'_>, region: Region) {
        let route = Route {
            region,
            ..Route::default()
        };
        self.reported(cx, route);
    }

    pub(crate) fn plan_put_store(
        &self,
        cx: &Cx<'_>,
        request: &PutStoreRequest,
    ) -> Answer<Plan<PutStoreResponse>> {
        self.check_bootstrapped()?;
        let put = request
            .store
            .as_ref()
            .ok_or_else(|| Refusal::unknown("invalid put store: it names no store"))?;
        let cluster = &self.durable.cluster;
        if put.id == 0 || put.id >= self.durable.id_bound {
            let text = format!(
                "invalid put store: id {} was not given out by this cluster",
                put.id
            );
            return Err(Refusal::unknown(text));
        }
        let before = self.durable.stores.get(&put.id);
        if before.is_some() {
            self.live_store(put.id)?;
        } else if self.durable.stores.len() >= STORES_MAX {
            return Err(Refusal::unknown(format!(
                "the cluster has {STORES_MAX} stores already"
            )));
        }
        check_store(put, cluster)?;
        let holder = self.durable.stores.values().find(|other| {
            other.id != put.id && !is_tombstone(other) && other.address == put.address
        });
        if let Some(holder) = holder.filter(|holder| !self.is_silent(cx, holder.id)) {
            let text = format!(
                "duplicated store address: {} is already registered by store {}",
                put.address, holder.id
            );
            return Err(Refusal::unknown(text));
        }
        let store = merged(before, put)?;
        let mut plan = Plan::change(PutStoreResponse::default(), Vec::new());
        if before != Some(&store) {
            plan.mods.push(records::put_store(&store));
            plan = plan.then(Then::Event(store_put(&store)));
        }
        if let Some(replaced) = holder.filter(|holder| holder.state() == StoreState::Up) {
            let (mods, then) = changed(Store {
                state: StoreState::Offline as i32,
                ..replaced.clone()
            });
            plan.mods.extend(mods);
            plan.then.extend(then);
        }
        if let Some((row, version)) = self.raised_version(&store) {
            plan.mods.push(row);
            plan = plan.then(Then::Event(Event::ClusterVersion { version }));
        }
        Ok(plan)
    }

    /// Nobody has heard of the store for a while: who comes at its address is another, on an empty
    /// disk, and takes its place.
    fn is_silent(&self, cx: &Cx<'_>, store: u64) -> bool {
        let heard = self.reports.get(&store).map(|report| report.at);
        let silent = cx.now - heard.unwrap_or(self.since);
        silent >= self.settings.schedule.store_disconnected_after
    }

    /// The cluster's version follows the smallest of its live stores, upwards only.
    fn raised_version(&self, changed: &Store) -> Option<(Mod, String)> {
        let others = self
            .durable
            .stores
            .values()
            .filter(|store| store.id != changed.id && !is_tombstone(store));
        let smallest = others
            .chain([changed])
            .filter_map(|store| Version::parse(&store.version))
            .min()?;
        let now = Version::parse(&self.durable.cluster.version);
        if now.is_some_and(|now| smallest <= now) {
            return None;
        }
        let version = smallest.to_string();
        let cluster = ClusterRecord {
            version: version.clone(),
            ..self.durable.cluster.clone()
        };
        Some((records::put_cluster(&cluster), version))
    }

    pub(crate) fn plan_cluster_config(
        &self,
        request: &PutClusterConfigRequest,
    ) -> Answer<Plan<PutClusterConfigResponse>> {
        self.check_bootstrapped()?;
        let put = request
            .cluster
            .as_ref()
            .ok_or_else(|| Refusal::unknown("invalid cluster config: it names no cluster"))?;
        let cluster = &self.durable.cluster;
        if put.id != cluster.cluster_id {
            let text = format!(
                "invalid cluster config: id {} where {} is meant",
                put.id, cluster.cluster_id
            );
            return Err(Refusal::unknown(text));
        }
        if put.max_peer_count == 0 || put.max_peer_count as usize > PEERS_MAX {
            let text = format!("invalid cluster config: {} replicas", put.max_peer_count);
            return Err(Refusal::unknown(text));
        }
        if put.max_peer_count == cluster.max_peer_count {
            return Ok(Plan::answer(PutClusterConfigResponse::default()));
        }
        let changed = ClusterRecord {
            max_peer_count: put.max_peer_count,
            ..cluster.clone()
        };
        let mods = vec![records::put_cluster(&changed)];
        Ok(Plan::change(PutClusterConfigResponse::default(), mods))
    }
}

pub(crate) fn is_tombstone(store: &Store) -> bool {
    store.state == StoreState::Tombstone as i32
}

fn store_put(store: &Store) -> Event {
    Event::StorePut {
        store: store.id,
        address: store.address.clone(),
    }
}

/// The rules of the wire for a `Bootstrap`: one store, one region over everything, one peer there.
fn check_bootstrap(request: &BootstrapRequest) -> Answer<(&Store, &Region)> {
    let invalid = |why: &str| Refusal::unknown(format!("invalid bootstrap: {why}"));
    let store = request
        .store
        .as_ref()
        .ok_or_else(|| invalid("it names no store"))?;
    let region = request
        .region
        .as_ref()
        .ok_or_else(|| invalid("it names no region"))?;
    let [peer] = &region.peers[..] else {
        return Err(invalid("the first region has exactly one peer"));
    };
    match () {
        () if store.id == 0 => Err(invalid("store id 0")),
        () if region.id == 0 => Err(invalid("region id 0")),
        () if region.id == META_REGION => Err(invalid("region 1 is the meta region")),
        () if !region.start_key.is_empty() || !region.end_key.is_empty() => {
            Err(invalid("the first region covers all keys"))
        }
        () if region.region_epoch.is_none() => Err(invalid("the first region has no epoch")),
        () if peer.store_id != store.id => Err(invalid("the first peer is on another store")),
        () if peer.id == 0 => Err(invalid("peer id 0")),
        () => Ok((store, region)),
    }
}

/// What every registered store must show, whoever it is.
fn check_store(store: &Store, cluster: &ClusterRecord) -> Answer<Version> {
    let texts = [
        &store.address,
        &store.version,
        &store.peer_address,
        &store.status_address,
        &store.git_hash,
        &store.deploy_path,
    ];
    let labels = store
        .labels
        .iter()
        .flat_map(|label| [&label.key, &label.value]);
    if texts
        .into_iter()
        .chain(labels)
        .any(|text| text.len() > STORE_TEXT_BYTES_MAX)
    {
        let text = format!("invalid put store: a text is longer than {STORE_TEXT_BYTES_MAX} bytes");
        return Err(Refusal::unknown(text));
    }
    if !is_address(&store.address) {
        let text = format!("invalid put store: {:?} is not host:port", store.address);
        return Err(Refusal::unknown(text));
    }
    let incompatible = |text: String| Refusal::Header(ErrorType::IncompatibleVersion, text);
    let version = Version::parse(&store.version).ok_or_else(|| {
        incompatible(format!(
            "invalid put store: {:?} is no version",
            store.version
        ))
    })?;
    match Version::parse(&cluster.version) {
        Some(cluster) if !version.may_join(&cluster) => Err(incompatible(format!(
            "version should compatible with version {cluster}, got {version}"
        ))),
        _ => Ok(version),
    }
}

/// `host:port` without a scheme or path: clients prepend the scheme themselves.
pub(crate) fn is_address(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else {
        return false;
    };
    let host_ok = !host.is_empty() && !host.contains("/") && !host.contains(char::is_whitespace);
    host_ok && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// A store as it is first registered.
fn registered(store: &Store) -> Store {
    Store {
        state: StoreState::Up as i32,
        last_heartbeat: 0,
        ..store.clone()
    }
}

/// What stands after `put`: its own words, the state as it was, labels merged by key.
fn merged(before: Option<&Store>, put: &Store) -> Answer<Store> {
    let mut store = registered(put);
    if let Some(before) = before {
        store.state = before.state;
        store.labels.clone_from(&before.labels);
        for label in &put.labels {
            match store.labels.iter_mut().find(|held| held.key == label.key) {
                Some(held) => held.value.clone_from(&label.value),
                None => store.labels.push(label.clone()),
            }
        }
    }
    if store.labels.len() > STORE_LABELS_MAX {
        let text = format!("invalid put store: more than {STORE_LABELS_MAX} labels");
        return Err(Refusal::unknown(text));
    }
    Ok(store)
}
