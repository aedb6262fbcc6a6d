//! The clients of the bare driver: unary calls as cheap as they get, and the stock client beside.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use clap::ValueEnum;
use flotilla_proto::kvrpcpb;
use rand::{Rng, RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde::Serialize;

use super::{
    cluster::{Cluster, Route},
    keys::Stretch,
};
use crate::{
    drive::{Budget, Client},
    measure::{Failure, grpc_failure, region_failure},
    report::Kind,
    ycsb::{Database, Tikv},
};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Read records that were loaded before the first turn
    Get,
    /// Write records, new ones and old ones alike
    Put,
}

/// Where calls go.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// To the leader of the key's region.
    Cluster(Arc<Cluster>),
    /// To one server, whatever the key.
    Server(Arc<Route>),
}

impl Target {
    async fn route(&self, key: &[u8]) -> Result<Arc<Route>, Failure> {
        match self {
            Target::Cluster(cluster) => Ok(cluster.route(key).await?),
            Target::Server(route) => Ok(Arc::clone(route)),
        }
    }

    fn forget(&self, route: &Arc<Route>) {
        if let Target::Cluster(cluster) = self {
            cluster.forget(route);
        }
    }
}

/// Random bytes that values are cut from: every put has other bytes, and none is copied.
#[derive(Clone, Debug)]
pub(super) struct Payload {
    bytes: Bytes,
    value_size: usize,
}

/// Bytes beyond one value: so many different values there are.
const PAYLOAD_SPARE_BYTES: usize = 1024 * 1024;

impl Payload {
    pub(super) fn new(value_size: usize, seed: u64) -> Self {
        let mut bytes = vec![0; value_size + PAYLOAD_SPARE_BYTES];
        Xoshiro256PlusPlus::seed_from_u64(seed).fill_bytes(&mut bytes);
        Self {
            bytes: bytes.into(),
            value_size,
        }
    }

    pub(super) fn value_size(&self) -> usize {
        self.value_size
    }

    fn draw(&self, rng: &mut impl Rng) -> Bytes {
        let start = rng.random_range(0..=PAYLOAD_SPARE_BYTES);
        self.bytes.slice(start..start + self.value_size)
    }
}

/// Which records, with which values.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) operation: Operation,
    pub(super) stretch: Stretch,
    pub(super) records: u64,
    pub(super) payload: Payload,
    pub(super) rng: Xoshiro256PlusPlus,
}

/// A call ready to be made: a read without, a write with a value.
pub(super) struct Call {
    key: Bytes,
    value: Option<Bytes>,
}

impl Source {
    /// Any record, each as likely.
    fn draw(&mut self) -> (Kind, Call) {
        let key = self.stretch.key(self.rng.random_range(0..self.records));
        match self.operation {
            Operation::Get => (Kind::Get, Call { key, value: None }),
            Operation::Put => (
                Kind::Put,
                Call {
                    key,
                    value: Some(self.payload.draw(&mut self.rng)),
                },
            ),
        }
    }
}

/// Issues bare unary calls.
pub(super) struct Bare {
    pub(super) source: Source,
    pub(super) target: Target,
    /// Which of a store's connections this client uses, modulo how many there are.
    pub(super) number: usize,
}

impl Client for Bare {
    type Operation = Call;

    fn prepare(&mut self) -> Option<(Kind, Call)> {
        Some(self.source.draw())
    }

    async fn execute(&mut self, call: Call) -> Result<(), Failure> {
        self.send(call).await
    }
}

impl Bare {
    async fn send(&self, call: Call) -> Result<(), Failure> {
        let route = self.target.route(&call.key).await?;
        let mut connection = route.connections[self.number % route.connections.len()].clone();
        let context = Some(route.context.clone());
        let answer = match call.value {
            None => {
                let request = kvrpcpb::RawGetRequest {
                    context,
                    key: call.key,
                    cf: String::new(),
                };
                connection.raw_get(request).await.map(|response| {
                    let response = response.into_inner();
                    let found = (!response.not_found).then_some(response.value.len());
                    (response.region_error, response.error, Some(found))
                })
            }
            Some(value) => {
                let key = call.key;
                let request = kvrpcpb::RawPutRequest {
                    context,
                    key,
                    value,
                    ..Default::default()
                };
                connection.raw_put(request).await.map(|response| {
                    let response = response.into_inner();
                    (response.region_error, response.error, None)
                })
            }
        };
        let (region_error, error, found) = answer.map_err(|status| {
            self.target.forget(&route);
            grpc_failure(status.code(), status.message())
        })?;
        if let Some(error) = region_error {
            self.target.forget(&route);
            return Err(region_failure!(error));
        }
        if !error.is_empty() {
            return Err(Failure::new("refused", error));
        }
        found.map_or(Ok(()), |found| {
            check_found(found, self.source.payload.value_size())
        })
    }
}

fn check_found(found: Option<usize>, expected: usize) -> Result<(), Failure> {
    match found {
        None => Err(Failure::new(
            "missing",
            "a record that was loaded is not there",
        )),
        Some(bytes) if bytes == expected => Ok(()),
        Some(bytes) => Err(Failure::new(
            "damaged",
            format!("{bytes} bytes, wrote {expected}"),
        )),
    }
}

/// The same calls through the stock client.
pub(super) struct Stock {
    pub(super) source: Source,
    pub(super) client: Tikv,
}

impl Client for Stock {
    type Operation = Call;

    fn prepare(&mut self) -> Option<(Kind, Call)> {
        Some(self.source.draw())
    }

    async fn execute(&mut self, call: Call) -> Result<(), Failure> {
        match call.value {
            Some(value) => self.client.put(call.key.into(), value.into()).await,
            None => {
                let found = self.client.get(call.key.into()).await?;
                let expected = self.source.payload.value_size();
                check_found(found.map(|value| value.len()), expected)
            }
        }
    }
}

/// A record that cannot be loaded in so many attempts ends the loading.
const LOAD_ATTEMPTS_MAX: u32 = 10;

/// Writes every record of a stretch once, together with the other loaders.
pub(super) struct Loader {
    pub(super) bare: Bare,
    pub(super) next: Arc<AtomicU64>,
    /// The record that failed last, and how often.
    pub(super) again: Option<(u64, u32)>,
    pub(super) budget: Arc<Budget>,
}

impl Client for Loader {
    type Operation = (u64, u32, Call);

    fn prepare(&mut self) -> Option<(Kind, Self::Operation)> {
        let (record, failed) = match self.again.take() {
            Some(again) => again,
            None => (self.next.fetch_add(1, Ordering::Relaxed), 0),
        };
        let source = &mut self.bare.source;
        if record >= source.records {
            return None;
        }
        let value = Some(source.payload.draw(&mut source.rng));
        Some((
            Kind::Put,
            (
                record,
                failed + 1,
                Call {
                    key: source.stretch.key(record),
                    value,
                },
            ),
        ))
    }

    async fn execute(&mut self, operation: Self::Operation) -> Result<(), Failure> {
        let (record, attempt, call) = operation;
        let result = self.bare.send(call).await;
        if let Err(failure) = &result {
            self.again = Some((record, attempt));
            if attempt >= LOAD_ATTEMPTS_MAX {
                self.budget.stop(format!(
                    "record {record} could not be loaded in {attempt} attempts; last: {failure}"
                ));
            }
        }
        result
    }
}
