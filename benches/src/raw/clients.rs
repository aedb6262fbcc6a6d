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
    batch::{Asked, Told},
    cluster::{Cluster, Connection, Route},
    etcd::Etcd,
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
    /// Both, each half of the time
    Mixed,
}

impl Operation {
    /// Whether it needs records to be there.
    pub(super) fn reads(self) -> bool {
        self != Self::Put
    }
}

/// Where calls go.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// To the leader of the key's region, in this way.
    Cluster(Arc<Cluster>, Way),
    /// To one server, whatever the key.
    Server(Arc<Route>),
    /// To another store altogether.
    Etcd(Arc<Etcd>),
}

/// How a call travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By itself.
    Unary,
    /// With others, in the stream of its connection.
    Batched,
}

/// What a store says to a call: whose fault it is that nothing was done, or what a get found.
struct Answer {
    region_error: Option<Box<flotilla_proto::errorpb::Error>>,
    error: String,
    /// Of a get: the length of the value, if there is one.
    found: Option<Option<usize>>,
}

impl From<kvrpcpb::RawGetResponse> for Answer {
    fn from(response: kvrpcpb::RawGetResponse) -> Self {
        Self {
            found: Some((!response.not_found).then_some(response.value.len())),
            region_error: response.region_error,
            error: response.error,
        }
    }
}

impl From<kvrpcpb::RawPutResponse> for Answer {
    fn from(response: kvrpcpb::RawPutResponse) -> Self {
        Self {
            found: None,
            region_error: response.region_error,
            error: response.error,
        }
    }
}

impl Way {
    async fn call(
        self,
        connection: &Connection,
        context: kvrpcpb::Context,
        call: Call,
    ) -> Result<Answer, Failure> {
        let (context, key) = (Some(context), call.key);
        let mut calls = connection.calls.clone();
        let failed = |status: tonic::Status| grpc_failure(status.code(), status.message());
        match (call.value, self) {
            (None, way) => {
                let request = kvrpcpb::RawGetRequest {
                    context,
                    key,
                    cf: String::new(),
                };
                if way == Way::Unary {
                    let answer = calls.raw_get(request).await.map_err(failed)?;
                    return Ok(answer.into_inner().into());
                }
                batched(connection.stream.call(Asked::RawGet(request)).await?)
            }
            (Some(value), way) => {
                let request = kvrpcpb::RawPutRequest {
                    context,
                    key,
                    value,
                    ..Default::default()
                };
                if way == Way::Unary {
                    let answer = calls.raw_put(request).await.map_err(failed)?;
                    return Ok(answer.into_inner().into());
                }
                batched(connection.stream.call(Asked::RawPut(request)).await?)
            }
        }
    }
}

fn batched(told: Told) -> Result<Answer, Failure> {
    match told {
        Told::RawGet(response) => Ok(response.into()),
        Told::RawPut(response) => Ok(response.into()),
        other => Err(Failure::new(
            "protocol",
            format!("a raw command was answered {other:?}"),
        )),
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
        let puts = match self.operation {
            Operation::Get => false,
            Operation::Put => true,
            Operation::Mixed => self.rng.random(),
        };
        let value = puts.then(|| self.payload.draw(&mut self.rng));
        let kind = if puts { Kind::Put } else { Kind::Get };
        (kind, Call { key, value })
    }
}

/// Issues bare calls.
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
        match &self.target {
            Target::Cluster(cluster, way) => {
                let route = cluster.route(&call.key).await?;
                let result = self.send_to(&route, *way, call).await;
                if matches!(result, Err(Refused { routed: true, .. })) {
                    cluster.forget(&route);
                }
                result.map_err(|refused| refused.failure)
            }
            Target::Server(route) => self
                .send_to(route, Way::Unary, call)
                .await
                .map_err(|refused| refused.failure),
            Target::Etcd(etcd) => match call.value {
                Some(value) => etcd.put(self.number, call.key, value).await,
                None => self.check_found(etcd.get(self.number, call.key).await?),
            },
        }
    }

    async fn send_to(&self, route: &Route, way: Way, call: Call) -> Result<(), Refused> {
        let connection = &route.connections[self.number % route.connections.len()];
        let answer = way.call(connection, route.context.clone(), call).await;
        let answer = answer.map_err(Refused::on_the_way)?;
        if let Some(error) = answer.region_error {
            return Err(Refused::on_the_way(region_failure!(error)));
        }
        if !answer.error.is_empty() {
            return Err(Refused::there(Failure::new("refused", answer.error)));
        }
        let checked = answer.found.map(|found| self.check_found(found));
        checked.unwrap_or(Ok(())).map_err(Refused::there)
    }

    fn check_found(&self, found: Option<usize>) -> Result<(), Failure> {
        check_found(found, self.source.payload.value_size())
    }
}

/// A call that was not done.
struct Refused {
    failure: Failure,
    /// Whether another way to the key may help.
    routed: bool,
}

impl Refused {
    fn on_the_way(failure: Failure) -> Self {
        let routed = true;
        Self { failure, routed }
    }

    fn there(failure: Failure) -> Self {
        let routed = false;
        Self { failure, routed }
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
