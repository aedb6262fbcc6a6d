//! What a node knows and owes while it leads the meta region.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flotilla_pd_plan::Placement;
use flotilla_proto::clock::{Mono, Wall};
use flotilla_proto::keys::KeyMode;
use flotilla_proto::metapb::StoreState;
use flotilla_proto::pdpb::{
    GetAllStoresResponse, GetClusterConfigResponse, GetGcSafePointResponse, IsBootstrappedResponse,
    ReportBatchSplitResponse, ReportSplitResponse, StoreStats,
};

use crate::call::{Call, Request, Response, calls};
use crate::changes::{Change, Changes};
use crate::effect::{Effect, Event, ProposalToken, RequestToken, StreamId};
use crate::heat::Heat;
use crate::ids::Ids;
use crate::internal::{ConfigRead, RulesRead, SchedulerChanged};
use crate::keyspaces::{KeyspaceWait, Unsplit};
use crate::lookup::Parked;
use crate::members;
use crate::operators::Operators;
use crate::records::{Durable, Mod, RecordError};
use crate::reply::{Answer, Cx, Refusal};
use crate::routes::{Route, Routes};
use crate::schedule::Schedule;
use crate::schedulers::Scheduler;
use crate::settings::Settings;
use crate::splits::Splits;
use crate::status::{Code, Status};
use crate::window::Window;

/// The state of one term.
#[derive(Debug)]
pub(crate) struct Leading {
    pub(crate) term: u64,
    /// The rows of the meta region, as far as they are committed.
    pub(crate) durable: Durable,
    /// What the open proposals of this term write.
    open: BTreeMap<ProposalToken, Vec<Mod>>,
    pub(crate) ids: Ids,
    pub(crate) window: Window,
    pub(crate) changes: Changes,
    /// When it began.
    pub(crate) since: Mono,
    pub(crate) routes: Routes,
    /// The meta region: outside the key space, so outside of `routes` (contracts: C30).
    pub(crate) meta: Option<Route>,
    pub(crate) operators: Operators,
    /// What holds now: the configuration, and what was set online.
    pub(crate) settings: Settings,
    /// The placement rules of `durable` and `settings`.
    pub(crate) placement: Arc<Placement>,
    /// The store whose leaders move away because it is slow.
    pub(crate) slow: Option<u64>,
    /// Schedulers that plan nothing before.
    pub(crate) paused: BTreeMap<Scheduler, Mono>,
    pub(crate) heat: Heat,
    /// Stores that somebody wants without leaders.
    pub(crate) evicted: BTreeSet<u64>,
    /// The newest heartbeat stream of each store.
    pub(crate) streams: BTreeMap<u64, StreamId>,
    /// What stores reported since this node leads.
    pub(crate) reports: BTreeMap<u64, StoreReport>,
    pub(crate) parked: Vec<Parked>,
    pub(crate) splits: Splits,
    /// Keyspaces whose boundaries are to be split.
    pub(crate) unsplit: Unsplit,
    /// Requests that wait for a keyspace's boundaries.
    pub(crate) keyspace_waits: Vec<KeyspaceWait>,
}

/// A store's last heartbeat.
#[derive(Debug)]
pub(crate) struct StoreReport {
    pub(crate) stats: StoreStats,
    pub(crate) at: Mono,
    pub(crate) wall: Wall,
}

impl Leading {
    pub(crate) fn new(term: u64, durable: Durable, since: Mono, base: Schedule) -> Self {
        Self {
            term,
            ids: Ids::new(durable.id_bound),
            operators: Operators::new(durable.cluster.cluster_id ^ term.rotate_left(32)),
            settings: Self::read_settings(&durable, base),
            placement: Arc::default(),
            slow: None,
            paused: BTreeMap::new(),
            durable,
            open: BTreeMap::new(),
            window: Window::default(),
            changes: Changes::default(),
            since,
            routes: Routes::new(),
            meta: None,
            heat: Heat::default(),
            evicted: BTreeSet::new(),
            streams: BTreeMap::new(),
            reports: BTreeMap::new(),
            parked: Vec::new(),
            splits: Splits::default(),
            unsplit: Unsplit::default(),
            keyspace_waits: Vec::new(),
        }
    }

    /// The first thing of a term: a timestamp bound of its own.
    pub(crate) fn begin(&mut self, cx: &mut Cx<'_>) {
        self.placement = Arc::new(Placement::new(self.rules()));
        self.serve_window(cx);
        if self.durable.cluster.mode() == Some(KeyMode::Encoded) {
            self.want_all_keyspaces_split();
        }
    }

    pub(crate) fn tick(&mut self, cx: &mut Cx<'_>) {
        self.serve_window(cx);
        self.serve_parked(cx);
        self.drive_splits(cx);
        self.drive_keyspaces(cx);
        self.drive_operators(cx);
        self.watch_slow_stores(cx);
        self.patrol(cx);
        self.serve_scatter(cx);
        self.balance(cx);
        self.bury_empty_stores(cx);
    }

    /// Ends the term. Returns how many requests were waiting.
    pub(crate) fn end(self, cx: &mut Cx<'_>) -> usize {
        for stream in self.streams.into_values() {
            let status = Status::not_leader();
            cx.out.push(Effect::CloseStream { stream, status });
        }
        let mut waiting =
            self.window.end(cx) + self.ids.end(cx) + self.changes.end(cx) + self.splits.end(cx);
        for Parked { token, .. } in &self.parked {
            cx.refuse(*token, Status::not_leader());
        }
        for wait in &self.keyspace_waits {
            cx.refuse(wait.token, Status::not_leader());
        }
        waiting += self.parked.len() + self.keyspace_waits.len();
        waiting
    }

    pub(crate) fn stream_closed(&mut self, stream: StreamId) {
        self.streams.retain(|_, open| *open != stream);
    }

    /// Whether a proposal of this term is still open.
    pub(crate) fn owns(&self, token: ProposalToken) -> bool {
        self.open.contains_key(&token)
    }

    pub(crate) fn propose(&mut self, cx: &mut Cx<'_>, mods: Vec<Mod>) -> ProposalToken {
        *cx.proposals += 1;
        let token = ProposalToken(*cx.proposals);
        cx.out.push(Effect::Propose {
            token,
            term: self.term,
            mods: mods.clone(),
        });
        self.open.insert(token, mods);
        token
    }

    /// A proposal is committed and applied.
    pub(crate) fn applied(
        &mut self,
        cx: &mut Cx<'_>,
        token: ProposalToken,
    ) -> Result<(), RecordError> {
        let tso_before = self.durable.tso_bound_ms;
        let mods = self.open.remove(&token).unwrap_or_default();
        for (key, value) in &mods {
            self.durable.apply(key, value.as_ref())?;
        }
        self.settings = Self::read_settings(&self.durable, cx.config.schedule);
        let placement = Placement::new(self.rules());
        if placement != *self.placement {
            self.placement = Arc::new(placement);
        }
        if self.ids.owns(token) {
            self.ids_applied(cx);
        } else if self.window.owns(token) {
            self.window_applied(cx, tso_before);
        } else {
            self.change_applied(cx);
        }
        Ok(())
    }

    /// A proposal will never be applied.
    pub(crate) fn refused(&mut self, cx: &mut Cx<'_>, token: ProposalToken, why: String) {
        self.open.remove(&token);
        let status = Status::new(Code::Unavailable, format!("the change was refused: {why}"));
        cx.event(Event::Refused { why });
        if self.ids.owns(token) {
            self.ids_refused(cx, &status);
        } else if self.window.owns(token) {
            self.window_refused(cx, &status);
        } else {
            self.change_refused(cx, &status);
        }
    }

    pub(crate) fn check_bootstrapped(&self) -> Answer<()> {
        if self.durable.cluster.bootstrapped {
            Ok(())
        } else {
            Err(Refusal::not_bootstrapped())
        }
    }

    pub(crate) fn request(&mut self, cx: &mut Cx<'_>, token: RequestToken, request: Request) {
        if let Request::PutStore(put) = &request {
            // A store that starts takes part in everything.
            let store = put.store.as_ref().map_or(0, |store| store.id);
            self.evicted.remove(&store);
        }
        match request {
            Request::AllocID(_) | Request::AskSplit(_) | Request::AskBatchSplit(_) => {
                self.ask_ids(cx, token, request);
            }
            Request::Bootstrap(_)
            | Request::PutStore(_)
            | Request::PutClusterConfig(_)
            | Request::UpdateGCSafePoint(_)
            | Request::UpdateServiceGCSafePoint(_)
            | Request::StoreGlobalConfig(_)
            | Request::UpdateKeyspaceState(_)
            | Request::CreateKeyspace(_)
            | Request::SetStoreState(_)
            | Request::SetConfig(_)
            | Request::SetRules(_)
            | Request::DeleteRule(_) => self.change(cx, Change::Request(token, request)),
            Request::GetRegion(_) | Request::GetPrevRegion(_) | Request::GetRegionByID(_) => {
                self.look_up(cx, token, request);
            }
            Request::SplitRegions(_) | Request::SplitAndScatterRegions(_) => {
                self.split_regions(cx, token, request)
            }
            Request::LoadKeyspace(_) | Request::LoadKeyspaceByID(_) => {
                self.load_keyspace(cx, token, request)
            }
            Request::ExtendWindow(request) => self.extend_window(cx, token, *request),
            Request::AddOperator(request) => self.add_operator(cx, token, *request),
            Request::CancelOperator(request) => {
                let cancelled = self.cancel_operator(cx, *request);
                cx.answer(token, calls::CancelOperator::answer(cancelled));
            }
            Request::EvictLeaders(request) => {
                let evicted = self.evict_leaders(cx, *request);
                cx.answer(token, calls::EvictLeaders::answer(evicted));
            }
            Request::ChangeScheduler(request) => match self.change_scheduler_now(cx, &request) {
                Some(result) => {
                    let changed = SchedulerChanged(result);
                    cx.answer(token, calls::ChangeScheduler::answer(changed));
                }
                None => self.change(
                    cx,
                    Change::Request(token, Request::ChangeScheduler(request)),
                ),
            },
            Request::ScatterRegion(request) => {
                let result = self.scatter_regions(cx, &request);
                cx.reply::<calls::ScatterRegion>(token, result);
            }
            Request::StoreHeartbeat(request) => {
                let result = self.store_heartbeat(cx, &request);
                cx.reply::<calls::StoreHeartbeat>(token, result);
            }
            request => {
                let response = self.read(cx, request);
                cx.answer(token, response);
            }
        }
    }

    /// Calls that are answered at once and change nothing.
    fn read(&self, cx: &Cx<'_>, request: Request) -> Response {
        match request {
            Request::GetMembers(_) => {
                let stores = self.durable.stores.values();
                let response = members::members(cx.config, stores, Some(cx.config.store_id));
                cx.response::<calls::GetMembers>(Ok(response))
            }
            Request::IsBootstrapped(_) => {
                cx.response::<calls::IsBootstrapped>(Ok(IsBootstrappedResponse {
                    bootstrapped: self.durable.cluster.bootstrapped,
                    ..Default::default()
                }))
            }
            Request::GetStore(request) => {
                cx.response::<calls::GetStore>(self.get_store(request.store_id))
            }
            Request::GetAllStores(request) => cx.response::<calls::GetAllStores>(
                self.get_all_stores(request.exclude_tombstone_stores),
            ),
            Request::QueryRegion(request) => {
                cx.response::<calls::QueryRegion>(self.query_region(&request))
            }
            Request::ScanRegions(request) => {
                cx.response::<calls::ScanRegions>(self.scan_regions(&request))
            }
            Request::BatchScanRegions(request) => {
                cx.response::<calls::BatchScanRegions>(self.batch_scan_regions(&request))
            }
            Request::ReportSplit(_) => cx.response::<calls::ReportSplit>(
                self.check_bootstrapped()
                    .map(|()| ReportSplitResponse::default()),
            ),
            Request::ReportBatchSplit(_) => cx.response::<calls::ReportBatchSplit>(
                self.check_bootstrapped()
                    .map(|()| ReportBatchSplitResponse::default()),
            ),
            Request::GetClusterConfig(_) => {
                cx.response::<calls::GetClusterConfig>(self.cluster_config())
            }
            Request::GetOperator(request) => {
                cx.response::<calls::GetOperator>(self.operator(request.region_id))
            }
            Request::GetGCSafePoint(_) => {
                cx.response::<calls::GetGCSafePoint>(self.gc_safe_point())
            }
            Request::LookupKeyspace(request) => {
                cx.response::<calls::LookupKeyspace>(self.lookup_keyspace(&request.name))
            }
            Request::GetAllKeyspaces(request) => {
                cx.response::<calls::GetAllKeyspaces>(self.all_keyspaces(&request))
            }
            Request::LoadGlobalConfig(request) => self.load_global_config(&request),
            Request::ListOperators(_) => calls::ListOperators::answer(self.list_operators()),
            Request::RegionHistory(request) => {
                calls::RegionHistory::answer(self.region_history(request.region))
            }
            Request::GetConfig(_) => calls::GetConfig::answer(ConfigRead(self.settings.values())),
            Request::GetRules(_) => calls::GetRules::answer(RulesRead(self.rule_views())),
            Request::ListSchedulers(_) => {
                calls::ListSchedulers::answer(self.list_schedulers(cx.now))
            }
            Request::HotRegions(request) => {
                calls::HotRegions::answer(self.hot_regions(cx, *request))
            }
            request => {
                let text = format!("{} is not a read", request.name());
                Response::Status(Status::new(Code::Internal, text))
            }
        }
    }

    fn get_all_stores(&self, exclude_tombstones: bool) -> Answer<GetAllStoresResponse> {
        self.check_bootstrapped()?;
        let keep = |state: i32| !exclude_tombstones || state != StoreState::Tombstone as i32;
        Ok(GetAllStoresResponse {
            stores: self
                .durable
                .stores
                .values()
                .filter(|store| keep(store.state))
                .map(|store| self.with_report(store))
                .collect(),
            ..GetAllStoresResponse::default()
        })
    }

    fn cluster_config(&self) -> Answer<GetClusterConfigResponse> {
        self.check_bootstrapped()?;
        let cluster = flotilla_proto::metapb::Cluster {
            id: self.durable.cluster.cluster_id,
            max_peer_count: self.durable.cluster.max_peer_count,
        };
        Ok(GetClusterConfigResponse {
            cluster: Some(cluster),
            ..GetClusterConfigResponse::default()
        })
    }

    fn gc_safe_point(&self) -> Answer<GetGcSafePointResponse> {
        self.check_bootstrapped()?;
        Ok(GetGcSafePointResponse {
            safe_point: self.durable.safe_point,
            ..GetGcSafePointResponse::default()
        })
    }
}
