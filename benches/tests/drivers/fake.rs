//! A store and PD in one process's memory: just enough of the protocol for the drivers, with the
//! checks of a real store (region, epoch, peer, key range) and faults on demand.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use flotilla_proto::{
    errorpb, kvrpcpb, metapb,
    pdpb::{self, pd_server::PdServer},
    tikvpb::{
        BatchCommandsRequest, BatchCommandsResponse,
        batch_commands_request::request::Cmd as Asked,
        batch_commands_response::{self, response::Cmd as Told},
        tikv_server::{Tikv, TikvServer},
    },
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tonic::{
    Request, Response, Status, Streaming, codegen::BoxStream, transport::Server,
    transport::server::TcpIncoming,
};

const CLUSTER_ID: u64 = 4_711;
const STORE_ID: u64 = 1;

/// A boundary above every user key, as a real cluster keeps one: the stock client's scans need it.
const SENTINEL: &[u8] = &[
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0xf7,
];

/// What goes wrong with each `n`-th call of a kind; 0 is never.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) put_busy_every: u64,
    pub(crate) put_refused_every: u64,
    pub(crate) get_unavailable_every: u64,
    pub(crate) get_not_found_every: u64,
    pub(crate) split_refused: bool,
    /// The stream ends in place of its answer.
    pub(crate) batch_broken_every: u64,
}

/// What happens right after a certain call, given by its RPC and how many there were by then.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Split(&'static str),
    /// All clients' routes are old from then on.
    AgeRoutes,
}

/// A region starts at its key in the map and ends where the next one starts.
#[derive(Clone, Copy, Debug)]
struct Region {
    id: u64,
    version: u64,
}

#[derive(Debug)]
pub(crate) struct State {
    address: SocketAddr,
    regions: BTreeMap<Bytes, Region>,
    pub(crate) pairs: BTreeMap<Bytes, Bytes>,
    next_id: u64,
    pub(crate) faults: Faults,
    pub(crate) script: BTreeMap<(&'static str, u64), Change>,
    /// By RPC.
    pub(crate) calls: BTreeMap<&'static str, u64>,
    /// What `/metrics` shows: one sync, batch and entry per put.
    writes: u64,
    written_bytes: u64,
}

impl State {
    /// Counts a call that passed its checks; whether it is the one in `every` that goes wrong.
    fn call(&mut self, rpc: &'static str, every: u64) -> bool {
        let count = self.calls.entry(rpc).or_default();
        *count += 1;
        let count = *count;
        match self.script.remove(&(rpc, count)) {
            Some(Change::Split(key)) => self.split(key.as_bytes()),
            Some(Change::AgeRoutes) => {
                self.regions
                    .values_mut()
                    .for_each(|region| region.version += 1);
            }
            None => {}
        }
        every != 0 && count.is_multiple_of(every)
    }

    pub(crate) fn split(&mut self, key: &[u8]) {
        let start = self.start_of(key);
        if start == key {
            return;
        }
        let parent = self
            .regions
            .get_mut(&start)
            .expect("its start is from the map");
        parent.version += 1;
        let version = parent.version;
        self.next_id += 1;
        let id = self.next_id;
        self.regions
            .insert(Bytes::copy_from_slice(key), Region { id, version });
    }

    /// How many pairs each region holds, without those that hold none.
    pub(crate) fn pairs_by_region(&self) -> Vec<usize> {
        let mut counts = BTreeMap::<_, usize>::new();
        self.pairs
            .keys()
            .for_each(|key| *counts.entry(self.start_of(key)).or_default() += 1);
        counts.into_values().collect()
    }

    fn start_of(&self, key: &[u8]) -> Bytes {
        let upto = (std::ops::Bound::Unbounded, std::ops::Bound::Included(key));
        self.regions
            .range::<[u8], _>(upto)
            .next_back()
            .expect("the first starts at nothing")
            .0
            .clone()
    }

    fn end_of(&self, start: &Bytes) -> Bytes {
        let after = (
            std::ops::Bound::Excluded(start.clone()),
            std::ops::Bound::Unbounded,
        );
        self.regions
            .range(after)
            .next()
            .map(|(end, _)| end.clone())
            .unwrap_or_default()
    }

    fn meta(&self, start: &Bytes) -> metapb::Region {
        let Region { id, version } = self.regions[start];
        metapb::Region {
            id,
            start_key: start.clone(),
            end_key: self.end_of(start),
            region_epoch: Some(metapb::RegionEpoch {
                conf_ver: 1,
                version,
            }),
            peers: vec![peer(id)],
            ..Default::default()
        }
    }

    /// As a store checks a request: the region's range, or the error.
    fn check(
        &self,
        context: Option<&kvrpcpb::Context>,
        key: &[u8],
    ) -> Result<Bytes, Box<errorpb::Error>> {
        let context = context.expect("every request has a context");
        let region = self
            .regions
            .iter()
            .find(|(_, region)| region.id == context.region_id);
        let Some((start, region)) = region else {
            return Err(Box::new(errorpb::Error {
                message: "region not found".into(),
                region_not_found: Some(errorpb::RegionNotFound {
                    region_id: context.region_id,
                }),
                ..Default::default()
            }));
        };
        assert_eq!(
            context.peer,
            Some(peer(region.id)),
            "the peer of the region"
        );
        if context.region_epoch.as_ref().map(|epoch| epoch.version) != Some(region.version) {
            return Err(Box::new(errorpb::Error {
                message: "epoch not match".into(),
                epoch_not_match: Some(errorpb::EpochNotMatch {
                    current_regions: vec![self.meta(start)],
                }),
                ..Default::default()
            }));
        }
        let end = self.end_of(start);
        assert!(
            start <= key && (end.is_empty() || key < end),
            "key in region: {key:?}"
        );
        Ok(end)
    }
}

fn peer(region_id: u64) -> metapb::Peer {
    metapb::Peer {
        id: region_id + 1,
        store_id: STORE_ID,
        ..Default::default()
    }
}

fn busy() -> errorpb::Error {
    let server_is_busy = errorpb::ServerIsBusy {
        reason: "as told".into(),
        ..Default::default()
    };
    errorpb::Error {
        message: "server is busy".into(),
        server_is_busy: Some(server_is_busy),
        ..Default::default()
    }
}

fn header() -> Option<pdpb::ResponseHeader> {
    Some(pdpb::ResponseHeader {
        cluster_id: CLUSTER_ID,
        error: None,
    })
}

fn check_header(header: Option<&pdpb::RequestHeader>) {
    assert_eq!(header.map(|header| header.cluster_id), Some(CLUSTER_ID));
}

/// A running fake. Ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) state: Arc<Mutex<State>>,
    /// Of PD and store.
    pub(crate) address: String,
    /// Of `/metrics`.
    pub(crate) metrics: String,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let first = (Bytes::new(), Region { id: 10, version: 1 });
        let state = Arc::new(Mutex::new(State {
            address,
            regions: BTreeMap::from([first]),
            pairs: BTreeMap::new(),
            next_id: 100,
            faults: Faults::default(),
            script: BTreeMap::new(),
            calls: BTreeMap::new(),
            writes: 0,
            written_bytes: 0,
        }));
        state.lock().split(SENTINEL);
        let service = Service {
            state: Arc::clone(&state),
        };
        let serving = Server::builder()
            .add_service(PdServer::new(service.clone()))
            .add_service(TikvServer::new(service))
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        tokio::spawn(serving);
        let metrics = serve_metrics(Arc::clone(&state)).await;
        Self {
            state,
            address: address.to_string(),
            metrics,
        }
    }

    pub(crate) fn calls(&self, rpc: &str) -> u64 {
        self.state.lock().calls.get(rpc).copied().unwrap_or(0)
    }
}

async fn serve_metrics(state: Arc<Mutex<State>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else {
                    break;
                };
                request.push(byte);
            }
            let (writes, bytes) = {
                let state = state.lock();
                (state.writes, state.written_bytes)
            };
            let page = format!(
                "flotilla_log_syncs_total {writes}\nflotilla_log_batches_total {writes}\n\
                 flotilla_log_entries_total {writes}\nflotilla_log_bytes_total {bytes}\n"
            );
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", page.len());
            // A client that is gone needs no answer.
            let _ = stream.write_all((head + &page).as_bytes()).await;
        }
    });
    address
}

#[derive(Clone)]
struct Service {
    state: Arc<Mutex<State>>,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl pdpb::pd_server::Pd for Service {
    async fn get_members(
        &self,
        _: Request<pdpb::GetMembersRequest>,
    ) -> Answer<pdpb::GetMembersResponse> {
        let member = pdpb::Member {
            name: "fake".into(),
            member_id: 1,
            client_urls: vec![format!("http://{}", self.state.lock().address)],
            ..Default::default()
        };
        Ok(Response::new(pdpb::GetMembersResponse {
            header: header(),
            members: vec![member.clone()],
            leader: Some(member),
            ..Default::default()
        }))
    }

    async fn get_region(
        &self,
        request: Request<pdpb::GetRegionRequest>,
    ) -> Answer<pdpb::GetRegionResponse> {
        let request = request.into_inner();
        check_header(request.header.as_ref());
        let mut state = self.state.lock();
        state.call("GetRegion", 0);
        let region = state.meta(&state.start_of(&request.region_key));
        let leader = Some(peer(region.id));
        Ok(Response::new(pdpb::GetRegionResponse {
            header: header(),
            region: Some(region),
            leader,
            ..Default::default()
        }))
    }

    async fn get_region_by_id(
        &self,
        request: Request<pdpb::GetRegionByIdRequest>,
    ) -> Answer<pdpb::GetRegionResponse> {
        let id = request.into_inner().region_id;
        let state = self.state.lock();
        let start = state
            .regions
            .iter()
            .find(|(_, region)| region.id == id)
            .map(|(start, _)| start);
        let region = start.map(|start| state.meta(start));
        let leader = region.as_ref().map(|region| peer(region.id));
        Ok(Response::new(pdpb::GetRegionResponse {
            header: header(),
            region,
            leader,
            ..Default::default()
        }))
    }

    async fn get_store(
        &self,
        request: Request<pdpb::GetStoreRequest>,
    ) -> Answer<pdpb::GetStoreResponse> {
        assert_eq!(request.into_inner().store_id, STORE_ID);
        let mut state = self.state.lock();
        state.call("GetStore", 0);
        let address = state.address.to_string();
        let store = metapb::Store {
            id: STORE_ID,
            address,
            ..Default::default()
        };
        Ok(Response::new(pdpb::GetStoreResponse {
            header: header(),
            store: Some(store),
            stats: None,
        }))
    }

    async fn split_regions(
        &self,
        request: Request<pdpb::SplitRegionsRequest>,
    ) -> Answer<pdpb::SplitRegionsResponse> {
        let request = request.into_inner();
        check_header(request.header.as_ref());
        let mut state = self.state.lock();
        state.call("SplitRegions", 0);
        let mut header = header();
        if state.faults.split_refused {
            let error = pdpb::Error {
                message: "no splits today".into(),
                ..Default::default()
            };
            header.as_mut().unwrap().error = Some(error);
        } else {
            // Only half of what was asked for: callers must look and ask again.
            let half = request.split_keys.len().div_ceil(2);
            request.split_keys[..half]
                .iter()
                .for_each(|key| state.split(key));
        }
        Ok(Response::new(pdpb::SplitRegionsResponse {
            header,
            ..Default::default()
        }))
    }
}

#[tonic::async_trait]
impl Tikv for Service {
    async fn raw_get(
        &self,
        request: Request<kvrpcpb::RawGetRequest>,
    ) -> Answer<kvrpcpb::RawGetResponse> {
        let request = request.into_inner();
        let mut state = self.state.lock();
        if let Err(error) = state.check(request.context.as_ref(), &request.key) {
            let region_error = Some(error);
            return Ok(Response::new(kvrpcpb::RawGetResponse {
                region_error,
                ..Default::default()
            }));
        }
        let Faults {
            get_unavailable_every,
            get_not_found_every,
            ..
        } = state.faults;
        if state.call("RawGet", get_unavailable_every) {
            return Err(Status::unavailable("as told"));
        }
        let hidden =
            get_not_found_every != 0 && state.calls["RawGet"].is_multiple_of(get_not_found_every);
        let found = state.pairs.get(&request.key).filter(|_| !hidden).cloned();
        Ok(Response::new(kvrpcpb::RawGetResponse {
            not_found: found.is_none(),
            value: found.unwrap_or_default(),
            ..Default::default()
        }))
    }

    async fn raw_put(
        &self,
        request: Request<kvrpcpb::RawPutRequest>,
    ) -> Answer<kvrpcpb::RawPutResponse> {
        let request = request.into_inner();
        let mut state = self.state.lock();
        let Faults {
            put_busy_every,
            put_refused_every,
            ..
        } = state.faults;
        let mut response = kvrpcpb::RawPutResponse::default();
        if let Err(error) = state.check(request.context.as_ref(), &request.key) {
            response.region_error = Some(error);
        } else if state.call("RawPut", put_busy_every) {
            response.region_error = Some(busy().into());
        } else if put_refused_every != 0 && state.calls["RawPut"].is_multiple_of(put_refused_every)
        {
            response.error = "not in the mood".into();
        } else {
            state.writes += 1;
            state.written_bytes += request.value.len() as u64;
            state.pairs.insert(request.key, request.value);
        }
        Ok(Response::new(response))
    }

    async fn raw_scan(
        &self,
        request: Request<kvrpcpb::RawScanRequest>,
    ) -> Answer<kvrpcpb::RawScanResponse> {
        let request = request.into_inner();
        let mut state = self.state.lock();
        state.call("RawScan", 0);
        let mut response = kvrpcpb::RawScanResponse::default();
        match state.check(request.context.as_ref(), &request.start_key) {
            Err(error) => response.region_error = Some(error),
            Ok(region_end) => {
                let ends = [&request.end_key, &region_end];
                let end = ends.into_iter().filter(|end| !end.is_empty()).min();
                let found = state.pairs.range(request.start_key.clone()..);
                let found = found.take_while(|(key, _)| end.is_none_or(|end| *key < end));
                let pairs = found.take(request.limit as usize).map(|(key, value)| {
                    let (key, value) = (key.clone(), value.clone());
                    kvrpcpb::KvPair {
                        error: None,
                        key,
                        value,
                        ..Default::default()
                    }
                });
                response.kvs = pairs.collect();
            }
        }
        Ok(Response::new(response))
    }

    async fn batch_commands(
        &self,
        request: Request<Streaming<BatchCommandsRequest>>,
    ) -> Answer<BoxStream<BatchCommandsResponse>> {
        let state = (self.clone(), request.into_inner());
        let answers = futures::stream::unfold(state, async |(service, mut asked)| {
            let message = asked.message().await.ok().flatten()?;
            let answer = service.answer(message).await;
            Some((answer, (service, asked)))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

impl Service {
    /// Last call first: answers come in any order.
    async fn answer(&self, message: BatchCommandsRequest) -> Result<BatchCommandsResponse, Status> {
        let mut answer = BatchCommandsResponse::default();
        let asked = message.requests.into_iter().zip(message.request_ids).rev();
        for (request, id) in asked {
            let cmd = match request.cmd.expect("a request has a command") {
                Asked::RawGet(get) => {
                    Told::RawGet(self.raw_get(Request::new(get)).await?.into_inner())
                }
                Asked::RawPut(put) => {
                    Told::RawPut(self.raw_put(Request::new(put)).await?.into_inner())
                }
                other => panic!("the bare driver does not ask for {other:?}"),
            };
            answer.request_ids.push(id);
            answer
                .responses
                .push(batch_commands_response::Response { cmd: Some(cmd) });
        }
        let mut state = self.state.lock();
        let broken_every = state.faults.batch_broken_every;
        match state.call("BatchCommands", broken_every) {
            true => Err(Status::unavailable("as told")),
            false => Ok(answer),
        }
    }
}
