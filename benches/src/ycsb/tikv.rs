//! The store behind the stock Rust client, `tikv-client`, as applications use it.

use std::time::Duration;

use anyhow::Context;
use tikv_client::{Config, Error, RawClient};

use super::database::{Database, Pair};
use crate::measure::{Failure, grpc_failure, region_failure};

/// The client retries on its own for some seconds; what is not answered by then hangs. Its scan
/// can also go round in circles (the range's end in the last region), which ends here too.
const OPERATION_TIME_MAX: Duration = Duration::from_secs(30);

/// Connecting asks every given address in turn.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(30);

/// One client instance: one connection per store.
#[derive(Clone)]
pub(crate) struct Tikv {
    client: RawClient,
}

impl Tikv {
    /// Connects to the cluster that these addresses belong to.
    pub(crate) async fn connect(pd: &[String], timeout: Duration) -> anyhow::Result<Self> {
        let config = Config::default().with_timeout(timeout);
        let connecting = RawClient::new_with_config(pd.to_vec(), config);
        let addresses = pd.join(", ");
        let client = tokio::time::timeout(CONNECT_TIME_MAX, connecting)
            .await
            .with_context(|| format!("no answer from {addresses}"))?
            .with_context(|| format!("cannot connect to the cluster at {addresses}"))?;
        Ok(Self { client })
    }
}

async fn bounded<T>(
    operation: impl Future<Output = tikv_client::Result<T>> + Send,
) -> Result<T, Failure> {
    match tokio::time::timeout(OPERATION_TIME_MAX, operation).await {
        Ok(result) => result.map_err(|error| failure(&error)),
        Err(_) => {
            let seconds = OPERATION_TIME_MAX.as_secs();
            Err(Failure::new(
                "timeout",
                format!("the client did not answer within {seconds} s"),
            ))
        }
    }
}

impl Database for Tikv {
    async fn get(&self, key: Vec<u8>) -> Result<Option<Vec<u8>>, Failure> {
        bounded(self.client.get(key)).await
    }

    async fn put(&self, key: Vec<u8>, value: Vec<u8>) -> Result<(), Failure> {
        bounded(self.client.put(key, value)).await
    }

    async fn scan(&self, start: Vec<u8>, end: Vec<u8>, limit: u32) -> Result<Vec<Pair>, Failure> {
        let pairs = bounded(self.client.scan(start..end, limit)).await?;
        Ok(pairs
            .into_iter()
            .map(|pair| Pair {
                key: pair.0.into(),
                value: pair.1,
            })
            .collect())
    }
}

/// Names what the client reports. Of several errors in one the first stands for all.
fn failure(error: &Error) -> Failure {
    match error {
        Error::RegionError(region) => region_failure!(region),
        Error::GrpcAPI(status) => grpc_failure(status.code(), status.message()),
        Error::Grpc(transport) => Failure::new("transport", transport.to_string()),
        Error::KvError { message } => Failure::new("refused", message.as_str()),
        Error::UndeterminedError(_) => Failure::new("undetermined", error.to_string()),
        Error::ExtractedErrors(errors) | Error::MultipleKeyErrors(errors) => match errors.first() {
            Some(first) => failure(first),
            None => Failure::new("client", error.to_string()),
        },
        Error::RegionForKeyNotFound { .. }
        | Error::RegionForRangeNotFound { .. }
        | Error::RegionNotFoundInResponse { .. }
        | Error::EntryNotFoundInRegionCache
        | Error::LeaderNotFound { .. } => Failure::new("no-route", error.to_string()),
        other => Failure::new("client", other.to_string()),
    }
}
