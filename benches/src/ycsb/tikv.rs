//! The store behind the stock Rust client, `tikv-client`, as applications use it.

use std::time::Duration;

use flotilla_tls::{Files, TlsArgs};
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
    pub(crate) async fn connect(
        pd: &[String],
        tls: &TlsArgs,
        timeout: Duration,
    ) -> anyhow::Result<Self> {
        let mut config = Config::default().with_timeout(timeout);
        if let Some(Files { ca, cert, key }) = tls.files() {
            config = config.with_security(ca, cert, key);
        }
        let connecting = RawClient::new_with_config(pd.to_vec(), config);
        let nobody = |why: &str| {
            let addresses = pd.join(", ");
            anyhow::anyhow!("nothing that serves a cluster answers at {addresses}: {why}")
        };
        match tokio::time::timeout(CONNECT_TIME_MAX, connecting).await {
            Ok(Ok(client)) => Ok(Self { client }),
            Ok(Err(error)) => Err(nobody(&told(&error))),
            Err(_) => {
                let seconds = CONNECT_TIME_MAX.as_secs();
                Err(nobody(&format!("no answer within {seconds} s")))
            }
        }
    }
}

/// What the client says, without the place in its source that some of its messages begin with:
/// `[src/pd/cluster.rs:209]: `.
fn told(error: &Error) -> String {
    let message = error.to_string();
    match message.split_once("]: ") {
        Some((place, rest)) if place.starts_with('[') && place.contains(".rs:") => rest.to_owned(),
        _ => message,
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
        Error::UndeterminedError(_) => Failure::new("undetermined", told(error)),
        Error::ExtractedErrors(errors) | Error::MultipleKeyErrors(errors) => match errors.first() {
            Some(first) => failure(first),
            None => Failure::new("client", told(error)),
        },
        Error::RegionForKeyNotFound { .. }
        | Error::RegionForRangeNotFound { .. }
        | Error::RegionNotFoundInResponse { .. }
        | Error::EntryNotFoundInRegionCache
        | Error::LeaderNotFound { .. } => Failure::new("no-route", told(error)),
        other => Failure::new("client", told(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_says_is_told_without_its_source() {
        #[track_caller]
        fn check(message: &str, expected: &str) {
            let error = Error::InternalError {
                message: message.to_owned(),
            };
            assert_eq!(told(&error), expected);
            assert_eq!(failure(&error), Failure::new("client", expected));
        }
        check(
            "[/a b/tikv-client-0.4.0/src/pd/cluster.rs:209]: PD cluster failed to respond",
            "PD cluster failed to respond",
        );
        check("[1, 2]: no place", "[1, 2]: no place");
        check("plain", "plain");
    }
}
