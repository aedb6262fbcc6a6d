//! Clients: they find their way as every client does, and write down what they ask and hear.

mod prober;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::errorpb;
use flotilla_proto::kvrpcpb as k;
use flotilla_proto::metapb::{Peer, Region};
use flotilla_proto::pdpb as p;
use flotilla_proto::pdpb::pd_client::PdClient;
use flotilla_proto::tikvpb::tikv_client::TikvClient;
use flotilla_tests::client::Request;
use flotilla_tests::history::{Caller, Heard, History};
use prost::Message as _;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::RUNTIME;
use crate::back_off::back_off;
use crate::dice::Dice;
use crate::node::eventually;
use crate::route::Route;

pub(crate) use prober::Prober;

/// How long PD, or a node that is dialled, may take to answer before another is asked.
const PD_PATIENCE: Duration = Duration::from_secs(1);
/// How long a client waits for an answer; afterwards it never learns what became of its request.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause of a client that was refused.
const PAUSE: Duration = Duration::from_millis(10);
/// Clients that contend for a few keys ...
const CONTENDERS: u64 = 5;
/// ... and those that write each row once.
const WRITERS: u64 = 3;
/// Regions begin at these, and at the beginning.
pub(crate) const BOUNDARIES: [&str; 3] = ["c", "e", "g"];
/// A letter in each region ...
const LETTERS: [char; 4] = ['a', 'c', 'e', 'g'];
/// ... and so many keys behind each, contended for.
const KEYS: u64 = 3;
/// Rows that a scan of what was written asks for at a time.
const PAGE: u32 = 1_000;

/// Where a node is.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    /// Where clients dial it ...
    pub(crate) dialled: String,
    /// ... and what PD says.
    pub(crate) advertised: String,
}

/// An open connection to a node.
#[derive(Clone)]
struct Link {
    cluster: u64,
    tikv: TikvClient<Channel>,
    pd: PdClient<Channel>,
}

impl Link {
    /// `None`: nobody answers there.
    async fn open(addr: &str) -> Option<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{addr}")).expect("an address");
        let opening = async {
            let channel = endpoint.connect().await.ok()?;
            let mut pd = PdClient::new(channel.clone());
            // Somebody may listen for a node that is away.
            let members = pd.get_members(p::GetMembersRequest::default()).await.ok()?;
            Some(Self {
                cluster: members.into_inner().header?.cluster_id,
                tikv: TikvClient::new(channel),
                pd,
            })
        };
        timeout(PD_PATIENCE, opening).await.ok()?
    }
}

/// How a request ended.
#[derive(Debug)]
pub(crate) enum Told {
    /// The response, encoded.
    Done(Vec<u8>),
    /// It was refused, and surely not applied.
    Refused(Box<errorpb::Error>),
    /// Nobody knows.
    Unknown,
}

/// What a client knows of the way to each key.
pub(crate) struct Reach {
    /// Each of them is PD.
    doors: Vec<Door>,
    stores: BTreeMap<u64, String>,
    links: BTreeMap<String, Link>,
    /// By the beginning of the region.
    routes: BTreeMap<Bytes, Route>,
    /// Whom to ask for PD.
    asks: usize,
}

impl Reach {
    pub(crate) fn new(doors: Vec<Door>) -> Self {
        Self {
            doors,
            stores: BTreeMap::new(),
            links: BTreeMap::new(),
            routes: BTreeMap::new(),
            asks: 0,
        }
    }

    async fn link(&mut self, addr: &str) -> Option<Link> {
        if let Some(link) = self.links.get(addr) {
            return Some(link.clone());
        }
        let link = Link::open(addr).await?;
        self.links.insert(addr.to_owned(), link.clone());
        Some(link)
    }

    /// Asks PD; `None`: whoever was asked does not know, the next call asks another.
    async fn ask_pd<T, F>(
        &mut self,
        ask: impl FnOnce(Link, Option<p::RequestHeader>) -> F,
    ) -> Option<T>
    where
        F: Future<Output = Option<T>>,
    {
        let addr = self.doors[self.asks % self.doors.len()].dialled.clone();
        let answer = match self.link(&addr).await {
            Some(link) => {
                let header = p::RequestHeader {
                    cluster_id: link.cluster,
                    ..p::RequestHeader::default()
                };
                timeout(PD_PATIENCE, ask(link, Some(header)))
                    .await
                    .ok()
                    .flatten()
            }
            None => None,
        };
        if answer.is_none() {
            self.links.remove(&addr);
            self.asks += 1;
        }
        answer
    }

    /// The regions that PD knows of, in order.
    pub(crate) async fn regions(&mut self) -> Option<Vec<Region>> {
        let ask = async |mut link: Link, header| {
            let request = p::ScanRegionsRequest {
                header,
                ..p::ScanRegionsRequest::default()
            };
            let found = link.pd.scan_regions(request).await.ok()?.into_inner();
            found
                .regions
                .into_iter()
                .map(|found| found.region)
                .collect()
        };
        self.ask_pd(ask).await
    }

    async fn route(&mut self, key: &[u8]) -> Option<Route> {
        let up_to = (Bound::Unbounded, Bound::Included(key));
        let known = self.routes.range::<[u8], _>(up_to).next_back();
        if let Some((_, route)) = known.filter(|(_, route)| route.holds(key)) {
            return Some(route.clone());
        }
        let region_key = Bytes::copy_from_slice(key);
        let ask = async |mut link: Link, header| {
            let request = p::GetRegionRequest {
                header,
                region_key,
                ..p::GetRegionRequest::default()
            };
            let found = link.pd.get_region(request).await.ok()?.into_inner();
            let leader = found.leader.filter(|leader| leader.store_id != 0)?;
            Some(Route {
                region: found.region?,
                leader,
            })
        };
        let route = self.ask_pd(ask).await?;
        self.routes
            .insert(route.region.start_key.clone(), route.clone());
        Some(route)
    }

    /// Where a store is; that never changes here.
    async fn addr_of(&mut self, store: u64) -> Option<String> {
        if !self.stores.contains_key(&store) {
            let ask = async |mut link: Link, header| {
                let request = p::GetAllStoresRequest {
                    header,
                    ..p::GetAllStoresRequest::default()
                };
                let found = link.pd.get_all_stores(request).await.ok()?.into_inner();
                Some(found.stores)
            };
            let stores = self.ask_pd(ask).await?.into_iter();
            let door = |addr: &str| {
                let door = self.doors.iter().find(|door| door.advertised == addr)?;
                Some(door.dialled.clone())
            };
            let stores = stores.filter_map(|store| Some((store.id, door(&store.address)?)));
            self.stores = stores.collect();
        }
        self.stores.get(&store).cloned()
    }

    /// The address of the node that leads the region of `key`.
    pub(crate) async fn leader(&mut self, key: &[u8]) -> Option<String> {
        self.routes.clear();
        let route = self.route(key).await?;
        self.addr_of(route.leader.store_id).await
    }

    /// The id of the region of `key`, and the stores that have a replica of it.
    pub(crate) async fn replicas(&mut self, key: &[u8]) -> Option<(u64, BTreeSet<u64>)> {
        self.routes.clear();
        let region = self.route(key).await?.region;
        let stores = region.peers.iter().map(|peer| peer.store_id);
        Some((region.id, stores.collect()))
    }

    /// The id of the store whose node clients dial there.
    pub(crate) async fn store_at(&mut self, dialled: &str) -> Option<u64> {
        self.stores.clear();
        // Whichever: they are all learnt at once.
        self.addr_of(0).await;
        let mut stores = self.stores.iter();
        stores
            .find(|(_, addr)| *addr == dialled)
            .map(|(store, _)| *store)
    }

    /// Cuts a region at `key`; whether there is a boundary now.
    pub(crate) async fn split(&mut self, key: &str) -> bool {
        self.routes.clear();
        let Some(route) = self.route(key.as_bytes()).await else {
            return false;
        };
        if route.region.start_key == key.as_bytes() {
            return true;
        }
        let request = k::SplitRegionRequest {
            context: Some(route.context()),
            split_keys: vec![Bytes::copy_from_slice(key.as_bytes())],
            is_raw_kv: true,
            ..k::SplitRegionRequest::default()
        };
        let Some((_, mut link)) = self.way(&route).await else {
            return false;
        };
        // What came of it is looked up.
        let _ = timeout(PATIENCE, link.tikv.split_region(request)).await;
        false
    }

    /// The address of a region's leader, and a connection to it.
    async fn way(&mut self, route: &Route) -> Option<(String, Link)> {
        let addr = self.addr_of(route.leader.store_id).await?;
        let link = self.link(&addr).await;
        if link.is_none() {
            self.routes.remove(&route.region.start_key);
        }
        Some((addr, link?))
    }

    /// Learns from an answer.
    fn learn(&mut self, route: &Route, addr: &str, told: &Told) {
        match told {
            Told::Done(_) => {}
            Told::Refused(error) => {
                let hint = error.not_leader.as_ref().and_then(|hint| hint.leader);
                let known = self.routes.get_mut(&route.region.start_key);
                match (hint, known) {
                    (Some(leader), Some(known)) => known.leader = leader,
                    _ => drop(self.routes.remove(&route.region.start_key)),
                }
            }
            Told::Unknown => {
                self.routes.remove(&route.region.start_key);
                self.links.remove(addr);
            }
        }
    }
}

/// Sends a request as it is.
async fn send(mut link: Link, request: Request, context: k::Context, patience: Duration) -> Told {
    type Answer = Result<(Option<Box<errorpb::Error>>, String, Vec<u8>), Status>;
    macro_rules! exchange {
        ($request:ident, $method:ident, |$answer:ident| $error:expr) => {{
            $request.context = Some(context);
            link.tikv.$method($request).await.map(|answer| {
                let $answer = answer.into_inner();
                let encoded = $answer.encode_to_vec();
                let error: String = $error;
                ($answer.region_error, error, encoded)
            })
        }};
    }
    let asking = async {
        let answer: Answer = match request {
            Request::Get(mut r) => exchange!(r, raw_get, |a| a.error),
            Request::Put(mut r) => exchange!(r, raw_put, |a| a.error),
            Request::BatchPut(mut r) => exchange!(r, raw_batch_put, |a| a.error),
            Request::Delete(mut r) => exchange!(r, raw_delete, |a| a.error),
            Request::Cas(mut r) => exchange!(r, raw_compare_and_swap, |a| a.error),
            Request::Scan(mut r) => exchange!(r, raw_scan, |a| String::new()),
            Request::Checksum(mut r) => exchange!(r, raw_checksum, |a| a.error),
            other => panic!("nobody asks for a {}", other.name()),
        };
        answer
    };
    match timeout(patience, asking).await {
        Err(_) => Told::Unknown,
        Ok(Err(_)) => Told::Unknown,
        Ok(Ok((Some(error), ..))) if error.undetermined_result.is_some() => Told::Unknown,
        Ok(Ok((Some(error), ..))) => Told::Refused(error),
        Ok(Ok((None, error, encoded))) if error.is_empty() => Told::Done(encoded),
        Ok(Ok((None, ..))) => Told::Unknown,
    }
}

/// What was asked and heard in a round, by all clients.
#[derive(Default)]
pub(crate) struct Book {
    /// Asking and hearing are steps, in the order in which they really happened.
    steps: AtomicU64,
    calls: AtomicU64,
    history: Mutex<History>,
    /// Acknowledged writes of all kinds.
    acknowledged: AtomicU64,
    /// The rows written once that were acknowledged.
    rows: Mutex<BTreeMap<Bytes, Bytes>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A client that panicked fails the test anyway.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    fn step(&self) -> u64 {
        self.steps.fetch_add(1, Ordering::SeqCst)
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.history)
    }

    pub(crate) fn rows(&self) -> BTreeMap<Bytes, Bytes> {
        lock(&self.rows).clone()
    }
}

/// A client with a number.
pub(crate) struct Client {
    number: u64,
    reach: Reach,
    book: Arc<Book>,
    dice: Dice,
    /// Values written, so that each is another.
    values: u64,
    /// What it has last seen of a key.
    seen: BTreeMap<Bytes, Option<Bytes>>,
}

impl Client {
    /// Asks the leader; what it was told, or `None` if nobody could be asked.
    async fn ask(&mut self, request: Request) -> Option<Told> {
        let route = self.reach.route(&request.key()).await?;
        let (addr, link) = self.reach.way(&route).await?;
        let told = self.recorded(link, &route, request, PATIENCE).await;
        self.reach.learn(&route, &addr, &told);
        Some(told)
    }

    async fn recorded(
        &mut self,
        link: Link,
        route: &Route,
        request: Request,
        patience: Duration,
    ) -> Told {
        let caller = Caller {
            client: self.number,
            replica: None,
        };
        let call = self.book.calls.fetch_add(1, Ordering::SeqCst);
        let step = self.book.step();
        self.book
            .history()
            .invoked((call, step), caller, &request, &route.region);
        let told = send(link, request, route.context(), patience).await;
        let step = self.book.step();
        match &told {
            Told::Done(response) => {
                let heard = Heard::Response(response.clone());
                self.book.history().heard(call, step, heard);
            }
            Told::Refused(_) => self.book.history().heard(call, step, Heard::NotApplied),
            Told::Unknown => {}
        }
        told
    }

    /// Asks again and again until there is an answer.
    async fn insist(&mut self, request: Request) {
        while !matches!(self.ask(request.clone()).await, Some(Told::Done(_))) {
            back_off(PAUSE).await;
        }
    }

    fn value(&mut self) -> Bytes {
        self.values += 1;
        format!("{}.{}", self.number, self.values).into()
    }

    /// Something for the keys that everybody wants.
    fn draw(&mut self, round: usize) -> Request {
        let letter = LETTERS[self.dice.below(LETTERS.len() as u64) as usize];
        let key = contended(letter, round, self.dice.below(KEYS));
        match self.dice.below(100) {
            0..35 => get(key),
            35..60 => Request::Put(k::RawPutRequest {
                key,
                value: self.value(),
                ..Default::default()
            }),
            60..80 => {
                let before = self.seen.get(&key).cloned().flatten();
                Request::Cas(k::RawCasRequest {
                    key,
                    value: self.value(),
                    previous_not_exist: before.is_none(),
                    previous_value: before.unwrap_or_default(),
                    ..Default::default()
                })
            }
            80..85 => Request::Delete(k::RawDeleteRequest {
                key,
                ..Default::default()
            }),
            85..93 => {
                let mut pair = |key| k::KvPair {
                    key: contended(letter, round, key),
                    value: self.value(),
                    ..Default::default()
                };
                let pairs = vec![pair(0), pair(1)];
                Request::BatchPut(k::RawBatchPutRequest {
                    pairs,
                    ..Default::default()
                })
            }
            _ => Request::Scan(k::RawScanRequest {
                start_key: format!("{letter}{round:05}").into(),
                end_key: format!("{letter}{round:05}~").into(),
                limit: PAGE,
                ..Default::default()
            }),
        }
    }

    /// Remembers what it was shown of a key.
    fn note(&mut self, request: &Request, response: &[u8]) {
        match request {
            Request::Get(get) => {
                let found = k::RawGetResponse::decode(response).expect("it was encoded here");
                let value = (!found.not_found).then_some(found.value);
                self.seen.insert(get.key.clone(), value);
            }
            Request::Put(put) => {
                self.seen.insert(put.key.clone(), Some(put.value.clone()));
            }
            Request::Cas(swap) => {
                let found = k::RawCasResponse::decode(response).expect("it was encoded here");
                let there = (!found.previous_not_exist).then_some(found.previous_value);
                let value = if found.succeed {
                    Some(swap.value.clone())
                } else {
                    there
                };
                self.seen.insert(swap.key.clone(), value);
            }
            _ => {}
        }
    }

    /// Contends until the load ends.
    async fn contend(mut self, round: usize, ended: Arc<AtomicBool>) {
        while !ended.load(Ordering::SeqCst) {
            let request = self.draw(round);
            match self.ask(request.clone()).await {
                Some(Told::Done(response)) => {
                    self.note(&request, &response);
                    if !matches!(request, Request::Get(_) | Request::Scan(_)) {
                        self.book.acknowledged.fetch_add(1, Ordering::SeqCst);
                    }
                }
                _ => back_off(PAUSE).await,
            }
        }
    }

    /// Writes one row after the other, each once, until the load ends.
    async fn write(mut self, round: usize, ended: Arc<AtomicBool>) {
        for row in 0_u64.. {
            if ended.load(Ordering::SeqCst) {
                return;
            }
            let letter = LETTERS[self.dice.below(LETTERS.len() as u64) as usize];
            let key = Bytes::from(format!("{letter}w{round:05}/{}/{row:08}", self.number));
            let value = self.value();
            let put = k::RawPutRequest {
                key: key.clone(),
                value: value.clone(),
                ..Default::default()
            };
            let Some(route) = self.reach.route(&key).await else {
                continue;
            };
            let Some((addr, link)) = self.reach.way(&route).await else {
                back_off(PAUSE).await;
                continue;
            };
            let told = send(link, Request::Put(put), route.context(), PATIENCE).await;
            self.reach.learn(&route, &addr, &told);
            if matches!(told, Told::Done(_)) {
                lock(&self.book.rows).insert(key, value);
                self.book.acknowledged.fetch_add(1, Ordering::SeqCst);
            } else {
                back_off(PAUSE).await;
            }
        }
    }
}

pub(crate) fn get(key: Bytes) -> Request {
    Request::Get(k::RawGetRequest {
        key,
        ..Default::default()
    })
}

fn contended(letter: char, round: usize, key: u64) -> Bytes {
    format!("{letter}{round:05}{key}").into()
}

/// The keys of a round that are contended for.
pub(crate) fn keys(round: usize) -> Vec<Bytes> {
    let of = |letter| (0..KEYS).map(move |key| contended(letter, round, key));
    LETTERS.into_iter().flat_map(of).collect()
}

/// A load that runs until it is ended.
pub(crate) struct Load {
    pub(crate) book: Arc<Book>,
    round: usize,
    doors: Vec<Door>,
    ended: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
    /// Requests to a node that may not answer now.
    loyal: Vec<JoinHandle<()>>,
}

impl Load {
    /// Clients of their own for this round, on keys of its own.
    pub(crate) fn start(doors: Vec<Door>, round: usize, dice: &Dice) -> Self {
        let (book, ended) = (Arc::<Book>::default(), Arc::<AtomicBool>::default());
        let client = |number| client(number, doors.clone(), &book, dice.fork(number + 1));
        let contenders = (0..CONTENDERS)
            .map(|number| RUNTIME.spawn(client(number).contend(round, Arc::clone(&ended))));
        let writers = (CONTENDERS..CONTENDERS + WRITERS)
            .map(|number| RUNTIME.spawn(client(number).write(round, Arc::clone(&ended))));
        let workers = contenders.chain(writers).collect();
        Self {
            workers,
            book,
            round,
            doors,
            ended,
            loyal: Vec::new(),
        }
    }

    /// Waits until so many more writes were acknowledged.
    #[track_caller]
    pub(crate) fn goes_on(&self, writes: u64) {
        let before = self.book.acknowledged();
        eventually("the load to go on", || {
            let lost = self.workers.iter().any(JoinHandle::is_finished);
            assert!(!lost, "a client found something wrong");
            (self.book.acknowledged() >= before + writes).then_some(())
        });
    }

    /// Reads of every key, of the node that leads now and of no other, however long it takes them.
    #[track_caller]
    pub(crate) fn ask_loyally(&mut self, dice: &Dice, patience: Duration) {
        for (nth, key) in (100_u64..).zip(keys(self.round)) {
            let mut client = client(nth, self.doors.clone(), &self.book, dice.fork(nth));
            // While everything still answers.
            let (route, link) = eventually("a way to a key", || {
                RUNTIME.block_on(async {
                    let route = client.reach.route(&key).await?;
                    let (_, link) = client.reach.way(&route).await?;
                    Some((route, link))
                })
            });
            self.loyal.push(RUNTIME.spawn(async move {
                client.recorded(link, &route, get(key), patience).await;
            }));
        }
    }

    /// Ends the clients, once nothing is wrong any more; then everything is read once more.
    #[track_caller]
    pub(crate) fn end(self, dice: &Dice) -> Arc<Book> {
        self.ended.store(true, Ordering::SeqCst);
        let (number, keys) = (99, keys(self.round));
        let mut last = client(number, self.doors, &self.book, dice.fork(number));
        RUNTIME.block_on(async {
            for worker in self.workers.into_iter().chain(self.loyal) {
                worker.await.expect("a client found nothing wrong");
            }
            for key in keys {
                last.insist(get(key)).await;
            }
        });
        self.book
    }
}

fn client(number: u64, doors: Vec<Door>, book: &Arc<Book>, dice: Dice) -> Client {
    Client {
        number,
        reach: Reach::new(doors),
        book: Arc::clone(book),
        dice,
        values: 0,
        seen: BTreeMap::new(),
    }
}

impl Reach {
    /// The rows from `start` to `end`, which lie in one region.
    pub(crate) async fn content(&mut self, start: &str, end: &str) -> BTreeMap<Bytes, Bytes> {
        let (mut rows, mut from) = (BTreeMap::new(), Bytes::copy_from_slice(start.as_bytes()));
        loop {
            let scan = Request::Scan(k::RawScanRequest {
                start_key: from.clone(),
                end_key: Bytes::copy_from_slice(end.as_bytes()),
                limit: PAGE,
                ..Default::default()
            });
            let found = self.insist(scan, None).await;
            let found = k::RawScanResponse::decode(&found[..]).expect("it was encoded here");
            let complete = found.kvs.len() < PAGE as usize;
            for row in found.kvs {
                // The next scan begins right behind the last row.
                from = [&row.key[..], &[0]].concat().into();
                rows.insert(row.key, row.value);
            }
            if complete {
                return rows;
            }
        }
    }

    /// The answer of the leader, or of the replica on a store.
    async fn insist(&mut self, request: Request, replica: Option<Peer>) -> Vec<u8> {
        loop {
            if let Some(Told::Done(answer)) = self.attempt(request.clone(), replica).await {
                return answer;
            }
            back_off(PAUSE).await;
        }
    }

    async fn attempt(&mut self, request: Request, replica: Option<Peer>) -> Option<Told> {
        let mut route = self.route(&request.key()).await?;
        let leader = route.leader;
        route.leader = replica.unwrap_or(leader);
        let (addr, link) = self.way(&route).await?;
        let context = k::Context {
            replica_read: replica.is_some(),
            ..route.context()
        };
        let told = send(link, request, context, PATIENCE).await;
        self.learn(&route, &addr, &told);
        Some(told)
    }

    /// What each replica of each region says of its rows: how many, how large, their checksum. Each must
    /// have applied everything first.
    pub(crate) async fn checksums(&mut self) -> BTreeMap<u64, BTreeSet<(u64, u64, u64)>> {
        let mut sums = BTreeMap::new();
        for region in self.regions().await.unwrap_or_default() {
            let range = k::KeyRange {
                start_key: region.start_key.clone(),
                end_key: region.end_key.clone(),
            };
            let request = Request::Checksum(k::RawChecksumRequest {
                algorithm: k::ChecksumAlgorithm::Crc64Xor.into(),
                ranges: vec![range],
                ..Default::default()
            });
            for peer in &region.peers {
                let answer = self.insist(request.clone(), Some(*peer)).await;
                let sum = k::RawChecksumResponse::decode(&answer[..]).expect("it was encoded here");
                let of_region: &mut BTreeSet<_> = sums.entry(region.id).or_default();
                of_region.insert((sum.total_kvs, sum.total_bytes, sum.checksum));
            }
        }
        sums
    }
}
