//! Simulated clients: each has one request under way, believes in its own picture of the regions,
//! and counts every attempt as an operation of its own with its own values (contracts: C31).

mod errors;
mod request;

use std::time::Duration;

use bytes::Bytes;
use flotilla_kv::KeyMode;
use flotilla_pd_client::{Attempts, RegionCache, Route, StockClient};
use flotilla_proto::clock::Mono;
use flotilla_proto::kvrpcpb::{
    KeyRange, KvPair, RawBatchDeleteRequest, RawBatchGetRequest, RawBatchPutRequest,
    RawBatchScanRequest, RawCasRequest, RawChecksumRequest, RawDeleteRangeRequest,
    RawDeleteRequest, RawGetKeyTtlRequest, RawGetRequest, RawPutRequest, RawScanRequest,
};
use flotilla_proto::metapb::Region;
use flotilla_raftstore::Config;
use flotilla_raftstore::region::META_REGION;

use crate::checkers::answers::OpId;
use crate::checkers::calls::CallSeen;
use crate::rng::Rng;

pub use errors::region_error;
pub use request::{Need, Plan, Request};

/// What clients do in a world.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Clients.
    pub clients: u64,
    /// Different keys.
    pub keys: usize,
    /// Bytes of the largest value.
    pub value_bytes_max: u64,
    /// Milliseconds a client thinks at most.
    pub think_ms_max: u64,
    /// Chance per thousand that a written row expires.
    pub ttl: u64,
    /// Chance per thousand that a request names another region than its key's.
    pub lost: u64,
    /// Chance per thousand that the user of a client gives up waiting and goes on.
    pub impatient: u64,
    /// How long a client waits for an answer.
    pub timeout: Duration,
    /// Chance per thousand that a read goes to any replica.
    pub replica: u64,
    /// Weights of the kinds of requests, in the order of [`Workload::request`].
    weights: [u64; 12],
    mode: KeyMode,
}

/// First bytes of keys under API v2: raw, the default keyspace.
const V2_PREFIX: &[u8] = b"r\0\0\0";
/// Column families that plain clients use.
const COLUMN_FAMILIES: [&str; 4] = ["", "default", "lock", "write"];

impl Workload {
    /// What clients do in the world of `rng`.
    pub fn draw(config: &Config, mode: KeyMode, rng: &mut Rng) -> Self {
        let mut weights = [0; 12].map(|_| {
            if rng.chance(700) {
                rng.log_range(1..=16)
            } else {
                0
            }
        });
        // Somebody must write.
        weights[6] = weights[6].max(4);
        let contended = rng.chance(200);
        if contended {
            // Reads, writes, range deletes and swaps of the same few keys.
            weights = [4, 0, 0, 0, 0, 0, 3, 1, 1, 0, 3, 8];
        }
        Self {
            clients: if contended {
                rng.range(4..=16)
            } else {
                rng.range(1..=8)
            },
            keys: if contended {
                rng.range(2..=4)
            } else {
                rng.log_range(2..=64)
            } as usize,
            value_bytes_max: if rng.chance(300) {
                config.entry_bytes_max / 2
            } else {
                rng.log_range(24..=config.entry_bytes_max)
            },
            think_ms_max: rng.log_range(1..=64),
            ttl: if rng.chance(500) {
                rng.range(50..=500)
            } else {
                0
            },
            lost: if rng.chance(500) {
                rng.range(5..=50)
            } else {
                0
            },
            impatient: if rng.chance(300) { 100 } else { 0 },
            timeout: Duration::from_millis(*rng.pick(&[300, 1_000, 4_000])),
            replica: *rng.pick(&[0, 0, 200, 900]),
            weights,
            mode,
        }
    }

    /// The `nth` key, as users write it.
    pub fn key(&self, nth: usize) -> Bytes {
        let prefix = match self.mode {
            KeyMode::Plain => b"".as_slice(),
            KeyMode::Encoded => V2_PREFIX,
        };
        [prefix, format!("k{nth:04}").as_bytes()].concat().into()
    }

    /// A key between two others that no row has, with `op` in it: where to split.
    pub fn split_key(&self, op: OpId, nth: u64, rng: &mut Rng) -> Bytes {
        let below = self.any_key(rng);
        let key = [&below[..], format!("~{op}.{nth}").as_bytes()].concat();
        self.mode.physical(&key.into())
    }

    /// Any key.
    pub fn any_key(&self, rng: &mut Rng) -> Bytes {
        self.key(rng.below(self.keys as u64) as usize)
    }

    /// A value that says whose it is.
    fn value(&self, op: OpId, nth: usize, rng: &mut Rng) -> Bytes {
        let mut value = format!("{op}.{nth};").into_bytes();
        let most = self.value_bytes_max;
        let bytes = if rng.chance(200) {
            most
        } else {
            rng.log_range(1..=most)
        } as usize;
        value.resize(bytes.max(value.len()), b'.');
        value.into()
    }

    fn seconds(&self, rng: &mut Rng) -> u64 {
        if rng.chance(self.ttl) {
            rng.log_range(1..=4_000)
        } else {
            0
        }
    }

    fn cf(&self, rng: &mut Rng) -> String {
        let names = match self.mode {
            KeyMode::Plain => &COLUMN_FAMILIES[..],
            KeyMode::Encoded => &COLUMN_FAMILIES[..2],
        };
        (*rng.pick(names)).to_owned()
    }

    /// Two keys, ascending; the second may be empty, which is no bound, where the mode allows it.
    fn range(&self, rng: &mut Rng) -> (Bytes, Bytes) {
        let (one, other) = (self.any_key(rng), self.any_key(rng));
        let (start, end) = if one <= other {
            (one, other)
        } else {
            (other, one)
        };
        if rng.chance(100) && self.mode == KeyMode::Plain {
            (start, Bytes::new())
        } else {
            (start, end)
        }
    }

    fn keys(&self, rng: &mut Rng) -> Vec<Bytes> {
        let first = rng.below(self.keys as u64) as usize;
        let count = rng.range(1..=4) as usize;
        // Neighbours, so that they mostly share a region.
        (first..first + count)
            .map(|nth| self.key(nth.min(self.keys - 1)))
            .collect()
    }

    /// The request of operation `op`. `seen`: a value that the client has read of some key.
    pub fn request(
        &self,
        op: OpId,
        seen: Option<&(Bytes, Option<Bytes>)>,
        rng: &mut Rng,
    ) -> Request {
        let cf = self.cf(rng);
        let request = match rng.weighted(&self.weights) {
            0 => Request::Get(RawGetRequest {
                key: self.any_key(rng),
                cf,
                ..Default::default()
            }),
            1 => Request::BatchGet(RawBatchGetRequest {
                keys: self.keys(rng),
                cf,
                ..Default::default()
            }),
            2 => Request::KeyTtl(RawGetKeyTtlRequest {
                key: self.any_key(rng),
                cf,
                ..Default::default()
            }),
            3 => self.scan(cf, rng),
            4 => self.batch_scan(cf, rng),
            5 => self.checksum(rng),
            6 => Request::Put(RawPutRequest {
                key: self.any_key(rng),
                value: self.value(op, 0, rng),
                cf,
                ttl: self.seconds(rng),
                ..Default::default()
            }),
            7 => self.batch_put(op, cf, rng),
            8 => Request::Delete(RawDeleteRequest {
                key: self.any_key(rng),
                cf,
                ..Default::default()
            }),
            9 => Request::BatchDelete(RawBatchDeleteRequest {
                keys: self.keys(rng),
                cf,
                ..Default::default()
            }),
            10 => {
                let (start_key, end_key) = self.range(rng);
                Request::DeleteRange(RawDeleteRangeRequest {
                    start_key,
                    end_key,
                    cf,
                    ..Default::default()
                })
            }
            _ => self.swap(op, seen, rng),
        };
        request.for_mode(self.mode)
    }

    fn scan(&self, cf: String, rng: &mut Rng) -> Request {
        let (start, end) = self.range(rng);
        let reverse = rng.chance(300) && !end.is_empty();
        let (start_key, end_key) = if reverse { (end, start) } else { (start, end) };
        let (limit, key_only) = (rng.range(0..=12) as u32, rng.chance(200));
        Request::Scan(RawScanRequest {
            start_key,
            end_key,
            limit,
            key_only,
            cf,
            reverse,
            ..Default::default()
        })
    }

    fn batch_scan(&self, cf: String, rng: &mut Rng) -> Request {
        let range = |(start_key, end_key)| KeyRange { start_key, end_key };
        let ranges = vec![range(self.range(rng)), range(self.range(rng))];
        Request::BatchScan(RawBatchScanRequest {
            ranges,
            each_limit: rng.range(0..=6) as u32,
            cf,
            ..Default::default()
        })
    }

    fn checksum(&self, rng: &mut Rng) -> Request {
        let (start_key, mut end_key) = self.range(rng);
        if end_key.is_empty() {
            end_key = self.key(self.keys);
        }
        let ranges = vec![KeyRange { start_key, end_key }];
        Request::Checksum(RawChecksumRequest {
            ranges,
            ..Default::default()
        })
    }

    fn batch_put(&self, op: OpId, cf: String, rng: &mut Rng) -> Request {
        let keys = self.keys(rng);
        let pairs = keys.into_iter().enumerate().map(|(nth, key)| KvPair {
            key,
            value: self.value(op, nth, rng),
            ..KvPair::default()
        });
        let pairs = pairs.collect();
        let ttls = vec![self.seconds(rng)];
        Request::BatchPut(RawBatchPutRequest {
            pairs,
            cf,
            ttls,
            ..Default::default()
        })
    }

    /// Mostly of a value that was read lately, so that it has a chance.
    fn swap(&self, op: OpId, seen: Option<&(Bytes, Option<Bytes>)>, rng: &mut Rng) -> Request {
        let (key, previous) = match seen {
            Some((key, value)) if rng.chance(800) => (key.clone(), value.clone()),
            _ => (self.any_key(rng), None),
        };
        Request::Cas(RawCasRequest {
            key,
            value: self.value(op, 0, rng),
            previous_not_exist: previous.is_none(),
            previous_value: previous.unwrap_or_default(),
            ttl: self.seconds(rng),
            delete: rng.chance(200),
            ..Default::default()
        })
    }
}

/// One client. It retries as one of the stock clients does, by the same table.
#[derive(Debug)]
pub struct Client {
    /// Its number.
    pub id: u64,
    /// Whose habits it has.
    pub habits: StockClient,
    /// What it believes of the regions.
    pub cache: RegionCache,
    /// What its user waits for.
    pub call: Option<Call>,
    /// An attempt that waits for PD to say where it belongs.
    pub looking: Option<Looking>,
    /// The value of a key as it last read it, for swaps in the default column family.
    pub seen: Option<(Bytes, Option<Bytes>)>,
    /// Its own randomness.
    pub rng: Rng,
}

/// An attempt that does not know where it belongs.
#[derive(Debug)]
pub struct Looking {
    /// Its name.
    pub op: OpId,
    /// What is asked.
    pub request: Request,
    /// A key of the region, as stores have it.
    pub physical: Bytes,
}

/// A call of a user: one attempt after another, each an operation of its own.
#[derive(Debug)]
pub struct Call {
    /// Draws the same request for every attempt, but for its values.
    template: Rng,
    /// The attempts so far.
    pub attempts: Attempts,
    /// The attempt under way.
    pub op: Option<OpId>,
    /// Where the last one went.
    pub route: Option<Route>,
    /// The store that it went to.
    pub store: u64,
    /// For the checkers.
    pub seen: CallSeen,
}

impl Client {
    /// A client that has done nothing yet, and knows the regions as they are at first.
    pub fn new(id: u64, regions: &[Region], mut rng: Rng) -> Self {
        let mut cache = RegionCache::new();
        for region in regions.iter().filter(|region| region.id != META_REGION) {
            let leader = region.peers.first().copied();
            cache.insert(Route::new(region.clone(), leader));
        }
        Self {
            id,
            habits: *rng.pick(&[StockClient::Rust, StockClient::Go, StockClient::Java]),
            cache,
            call: None,
            looking: None,
            seen: None,
            rng,
        }
    }

    /// The next attempt of the call under way, or of a new one.
    pub fn attempt(&mut self, op: OpId, workload: &Workload, now: Mono) -> Request {
        let call = self.call.get_or_insert_with(|| Call {
            template: Rng::new(self.rng.any()),
            attempts: Attempts::new(self.habits),
            op: None,
            route: None,
            store: 0,
            seen: CallSeen::default(),
        });
        call.seen.attempts(now);
        workload.request(op, self.seen.as_ref(), &mut call.template.clone())
    }

    /// Whether it waits for `op`.
    pub fn waits_for(&self, op: OpId) -> bool {
        self.call.as_ref().is_some_and(|call| call.op == Some(op))
    }
}
