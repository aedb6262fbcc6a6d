//! The server's own counters, read from its Prometheus page before and after a phase.
//!
//! They say what throughput alone cannot: how many syncs, batches and entries the log needed for
//! the operations the clients saw.

use std::{collections::BTreeMap, time::Duration};

use flotilla_tls::Dial;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use thiserror::Error;

use crate::report::{ServerReport, ServerShares};

const LOG_SYNCS: &str = "flotilla_log_syncs_total";
const LOG_BATCHES: &str = "flotilla_log_batches_total";
const LOG_ENTRIES: &str = "flotilla_log_entries_total";
const LOG_BYTES: &str = "flotilla_log_bytes_total";
const CPU_SECONDS: &str = "process_cpu_seconds_total";
const PEER_MESSAGES: &str = "flotilla_peers_bulk_size_sum";
const PEER_BULKS: &str = "flotilla_peers_bulk_size_count";

/// What is kept of a page.
const NAMES: [&str; 7] = [
    LOG_SYNCS,
    LOG_BATCHES,
    LOG_ENTRIES,
    LOG_BYTES,
    CPU_SECONDS,
    PEER_MESSAGES,
    PEER_BULKS,
];

/// What an etcd node calls the same.
const ETCD_LOG_SYNCS: &str = "etcd_disk_wal_fsync_duration_seconds_count";

/// A node that does not answer within this has no counters.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(5);

/// Larger pages are refused.
const PAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why there are no counters. The run goes on without them.
#[derive(Debug, Error)]
pub(crate) enum ScrapeError {
    #[error("no answer within {} s", SCRAPE_TIMEOUT.as_secs())]
    Timeout,
    #[error("nothing answers: {0}")]
    Connect(#[from] std::io::Error),
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("not an address: {0}")]
    Address(#[from] http::Error),
    #[error("answered {0}")]
    Status(http::StatusCode),
    #[error("the page is longer than {PAGE_BYTES_MAX} bytes or was cut short: {0}")]
    Page(String),
    #[error("the page has none of this server's counters")]
    Foreign,
}

/// The values of one page, or of several added up; which of [`NAMES`] were there.
type Counters = BTreeMap<&'static str, f64>;

/// Reads the counters of some nodes.
#[derive(Clone, Debug)]
pub(crate) struct Scraper {
    /// `HOST:PORT` each.
    nodes: Vec<String>,
    /// How to connect to them.
    dial: Dial,
    /// Why nothing is read, when `nodes` is empty.
    off: String,
}

impl Scraper {
    pub(crate) fn new(nodes: Vec<String>, dial: Dial) -> Self {
        Self {
            nodes,
            dial,
            off: "no node to ask".into(),
        }
    }

    /// Reads nothing and says why.
    pub(crate) fn off(reason: impl Into<String>) -> Self {
        Self {
            nodes: Vec::new(),
            dial: Dial::PLAIN,
            off: reason.into(),
        }
    }

    /// The sums over all nodes, or why they are not known.
    pub(crate) async fn scrape(&self) -> Result<Counters, String> {
        if self.nodes.is_empty() {
            return Err(self.off.clone());
        }
        let mut sums = Counters::new();
        for node in &self.nodes {
            let page = tokio::time::timeout(SCRAPE_TIMEOUT, get(node, &self.dial)).await;
            let page = page.unwrap_or(Err(ScrapeError::Timeout));
            let counters = page.and_then(|page| match parse(&page) {
                counters if counters.is_empty() => Err(ScrapeError::Foreign),
                counters => Ok(counters),
            });
            for (name, value) in
                counters.map_err(|error| format!("{}/metrics: {error}", self.dial.url(node)))?
            {
                *sums.entry(name).or_default() += value;
            }
        }
        Ok(sums)
    }
}

async fn get(node: &str, dial: &Dial) -> Result<String, ScrapeError> {
    let stream = dial.pages(node).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Its errors reach the sender as well; it ends when the sender is dropped.
    let connection = tokio::spawn(connection);
    let request = http::Request::get("/metrics").header(http::header::HOST, node);
    let response = sender
        .send_request(request.body(Empty::<bytes::Bytes>::new())?)
        .await?;
    if !response.status().is_success() {
        return Err(ScrapeError::Status(response.status()));
    }
    let body = Limited::new(response.into_body(), PAGE_BYTES_MAX)
        .collect()
        .await;
    let bytes = body
        .map_err(|error| ScrapeError::Page(error.to_string()))?
        .to_bytes();
    drop(sender);
    connection.abort();
    String::from_utf8(bytes.into()).map_err(|error| ScrapeError::Page(error.to_string()))
}

/// The wanted counters of a page in Prometheus' text format, summed over their labels.
fn parse(page: &str) -> Counters {
    let mut counters = Counters::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let name_end = line.find(['{', ' ']).unwrap_or(line.len());
        let called = match &line[..name_end] {
            ETCD_LOG_SYNCS => LOG_SYNCS,
            other => other,
        };
        let Some(name) = NAMES.iter().find(|name| **name == called) else {
            continue;
        };
        // Label values may hold any character; the value stands behind the last brace.
        let rest = line
            .rfind('}')
            .map_or(&line[name_end..], |at| &line[at + 1..]);
        let value = rest
            .split_whitespace()
            .next()
            .and_then(|text| text.parse::<f64>().ok());
        if let Some(value) = value {
            *counters.entry(name).or_default() += value;
        }
    }
    counters
}

/// What the counters grew by, or why that is not known.
#[derive(Clone, Debug)]
pub(crate) struct Difference(Result<Counters, String>);

impl Difference {
    pub(crate) fn between(
        before: &Result<Counters, String>,
        after: &Result<Counters, String>,
    ) -> Self {
        let (before, after) = match (before, after) {
            (Ok(before), Ok(after)) => (before, after),
            (Err(reason), _) | (_, Err(reason)) => return Self(Err(reason.clone())),
        };
        let grown = |(name, after): (&&'static str, &f64)| {
            before.get(name).map(|before| (*name, after - before))
        };
        let grown: Counters = after.iter().filter_map(grown).collect();
        if grown.values().any(|value| *value < 0.0) {
            return Self(Err(
                "a counter went backwards: a node was restarted meanwhile".into(),
            ));
        }
        Self(Ok(grown))
    }

    pub(crate) fn merge(&mut self, later: &Difference) {
        match (&mut self.0, &later.0) {
            (Ok(sums), Ok(later)) => {
                later
                    .iter()
                    .for_each(|(name, value)| *sums.entry(name).or_default() += value);
            }
            (Ok(_), Err(reason)) => self.0 = Err(reason.clone()),
            (Err(_), _) => {}
        }
    }
}

impl ServerReport {
    pub(crate) fn new(difference: &Difference, operations: u64, writes: u64) -> Self {
        let counters = match &difference.0 {
            Ok(counters) => counters,
            Err(reason) => {
                return Self {
                    unavailable: Some(reason.clone()),
                    ..Self::default()
                };
            }
        };
        let get = |name| counters.get(name).copied();
        let shares = |count: u64| {
            let per = |name, factor: f64| get(name).map(|value| value * factor / count as f64);
            (count > 0).then(|| ServerShares {
                log_syncs: per(LOG_SYNCS, 1.0),
                log_batches: per(LOG_BATCHES, 1.0),
                log_entries: per(LOG_ENTRIES, 1.0),
                log_bytes: per(LOG_BYTES, 1.0),
                cpu_us: per(CPU_SECONDS, 1e6),
                peer_messages: per(PEER_MESSAGES, 1.0),
            })
        };
        Self {
            unavailable: None,
            log_syncs: get(LOG_SYNCS),
            log_batches: get(LOG_BATCHES),
            log_entries: get(LOG_ENTRIES),
            log_bytes: get(LOG_BYTES),
            cpu_s: get(CPU_SECONDS),
            messages_per_bulk: get(PEER_MESSAGES)
                .zip(get(PEER_BULKS))
                .filter(|(_, bulks)| *bulks > 0.0)
                .map(|(messages, bulks)| messages / bulks),
            per_operation: shares(operations),
            per_write: shares(writes),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    const PAGE: &str = r#"# HELP flotilla_log_syncs_total syncs
# TYPE flotilla_log_syncs_total counter
flotilla_log_syncs_total{store="1"} 10
flotilla_log_syncs_total{store="2",why="a } b"} 5 1700000000000
flotilla_log_syncs_total_of_something_else 99
flotilla_log_entries_total 1.5e3

process_cpu_seconds_total 0.25
"#;

    #[test]
    fn a_page_is_read_by_exact_name_and_summed_over_labels() {
        let expected = Counters::from([
            (LOG_SYNCS, 15.0),
            (LOG_ENTRIES, 1_500.0),
            (CPU_SECONDS, 0.25),
        ]);
        assert_eq!(parse(PAGE), expected);
    }

    #[test]
    fn shares_divide_by_operations_and_by_writes() {
        let before = Ok(Counters::from([(LOG_SYNCS, 10.0), (CPU_SECONDS, 1.0)]));
        let after = Ok(Counters::from([
            (LOG_SYNCS, 20.0),
            (CPU_SECONDS, 1.5),
            (LOG_BYTES, 7.0),
        ]));
        let report = ServerReport::new(&Difference::between(&before, &after), 1_000, 100);
        assert_eq!(report.log_syncs, Some(10.0));
        assert_eq!(
            report.log_bytes, None,
            "it was not there before: unknown, not 7"
        );
        let (operation, write) = (report.per_operation.unwrap(), report.per_write.unwrap());
        assert_eq!(
            (operation.log_syncs, write.log_syncs),
            (Some(0.01), Some(0.1))
        );
        assert_eq!(operation.cpu_us, Some(500.0));
    }

    #[test]
    fn without_writes_there_is_no_share_of_a_write() {
        let page = Ok(Counters::from([(LOG_SYNCS, 10.0)]));
        let report = ServerReport::new(&Difference::between(&page, &page), 5, 0);
        assert_eq!(report.per_write, None);
        assert_eq!(report.per_operation.unwrap().log_syncs, Some(0.0));
    }

    #[test]
    fn a_restart_in_between_is_said() {
        let (before, after) = (
            Ok(Counters::from([(LOG_SYNCS, 10.0)])),
            Ok(Counters::from([(LOG_SYNCS, 1.0)])),
        );
        let report = ServerReport::new(&Difference::between(&before, &after), 1, 1);
        assert!(report.unavailable.unwrap().contains("restarted"));
    }

    /// Serves one request with `answer`, and scrapes it.
    async fn check(answer: String) -> Result<Counters, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let node = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request).unwrap()
        });
        let counters = Scraper::new(vec![node.clone()], Dial::PLAIN).scrape().await;
        let request = server.await.unwrap();
        assert!(
            request.starts_with("GET /metrics HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(request.contains(&node), "the host is named: {request}");
        counters
    }

    fn answer(status: &str, body: &str) -> String {
        format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    #[tokio::test]
    async fn a_page_comes_over_http() {
        assert_eq!(check(answer("200 OK", PAGE)).await, Ok(parse(PAGE)));
    }

    #[tokio::test]
    async fn what_is_not_our_page_is_refused_by_name() {
        for (answer, expected) in [
            (answer("404 Not Found", ""), "answered 404"),
            (answer("200 OK", "up 1\n"), "none of this server's counters"),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nup".into(),
                "cut short",
            ),
        ] {
            let reason = check(answer).await.unwrap_err();
            assert!(reason.starts_with("http://127.0.0.1:"), "{reason}");
            assert!(reason.contains(expected), "{reason}, expected {expected}");
        }
    }

    #[tokio::test]
    async fn a_node_that_is_not_there_is_said() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let node = listener.local_addr().unwrap().to_string();
        drop(listener);
        let reason = Scraper::new(vec![node], Dial::PLAIN)
            .scrape()
            .await
            .unwrap_err();
        assert!(reason.contains("nothing answers"), "{reason}");
    }
}
