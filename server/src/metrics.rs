//! What the node measures, for `GET /metrics`.
//!
//! Every node has a registry of its own, so that several can live in one process. A metric is
//! registered once, at start; counting is then one atomic operation.

use std::sync::Arc;

use flotilla_proto::admin::{CallLatencies, ShowLatenciesResponse};
use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

/// Upper bounds of the latency histograms, seconds: from a read out of memory to a timed-out client.
const SECONDS: [f64; 16] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0,
    2.0, 5.0,
];
/// Upper bounds of the batch-size histograms.
const SIZES: [f64; 12] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0,
];

/// A node's metrics.
#[derive(Debug)]
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    process: metrics_process::Collector,
    /// Connections and their memory.
    pub network: Arc<NetworkMetrics>,
    /// The store's threads and disk.
    pub store: Arc<StoreMetrics>,
    /// The transport between stores.
    pub peers: Arc<PeersMetrics>,
}

/// Registers one kind of metric; also does nothing, for tests.
trait Kind: Sized {
    fn register(
        recorder: &PrometheusRecorder,
        name: &'static str,
        labels: Vec<Label>,
        about: &'static str,
    ) -> Self;
    fn none() -> Self;
}

macro_rules! kind {
    ($kind:ty, $register:ident, $describe:ident) => {
        impl Kind for $kind {
            fn register(
                recorder: &PrometheusRecorder,
                name: &'static str,
                labels: Vec<Label>,
                about: &'static str,
            ) -> Self {
                recorder.$describe(name.into(), None, about.into());
                let metadata = Metadata::new(module_path!(), Level::INFO, None);
                recorder.$register(&Key::from_parts(name, labels), &metadata)
            }
            fn none() -> Self {
                Self::noop()
            }
        }
    };
}
kind!(Counter, register_counter, describe_counter);
kind!(Gauge, register_gauge, describe_gauge);
kind!(Histogram, register_histogram, describe_histogram);

macro_rules! group {
    ($(#[$doc:meta])* $group:ident { $($field:ident: $kind:ty = $name:literal, $about:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $group { $(#[doc = $about] pub $field: $kind,)+ }

        impl $group {
            fn register(recorder: &PrometheusRecorder) -> Self {
                Self { $($field: Kind::register(recorder, $name, Vec::new(), $about),)+ }
            }
        }

        /// Counts nowhere.
        impl Default for $group {
            fn default() -> Self {
                Self { $($field: Kind::none(),)+ }
            }
        }
    };
}

group! {
    /// Connections and their memory.
    NetworkMetrics {
        connections_open: Gauge = "flotilla_connections", "Connections open now.";
        connections_accepted: Counter = "flotilla_connections_accepted_total", "Connections accepted.";
        connections_refused: Counter = "flotilla_connections_refused_total", "Connections closed at once because there were too many.";
        connections_broken: Counter = "flotilla_connections_broken_total", "Connections that broke or did not keep to the protocol.";
        connections_silent: Counter = "flotilla_connections_silent_total", "Connections that never said what they speak.";
        connections_stalled: Counter = "flotilla_connections_stalled_total", "Connections closed because they did not take their answers.";
        connections_plaintext: Counter = "flotilla_connections_plaintext_total", "Connections without TLS where it is spoken, or with TLS where it is not.";
        handshakes_failed: Counter = "flotilla_tls_handshakes_failed_total", "Connections whose TLS handshake broke, or whose certificate is none of the CA's.";
        certificate_left: Gauge = "flotilla_tls_certificate_left_seconds", "Seconds until the node's certificate expires.";
        certificate_reloads: Counter = "flotilla_tls_reloads_total", "Times that changed files of the certificate were taken into use.";
        certificate_refused: Gauge = "flotilla_tls_files_refused", "1 while the files of the certificate are not good, and older ones are in use.";
        requests_forbidden: Counter = "flotilla_requests_forbidden_total", "Requests that are not for whoever sent them, or not for this listener.";
        answers_delayed: Counter = "flotilla_answers_delayed_total", "Large answers put off because too many bytes of answers were unread.";
        answers_no_room: Counter = "flotilla_answers_no_room_total", "Large answers dropped because too many bytes of answers were unread.";
        requests_no_room: Counter = "flotilla_requests_no_room_total", "Requests refused because too many bytes of requests were under way.";
    }
}

group! {
    /// The store's threads and disk.
    StoreMetrics {
        disk_free: Gauge = "flotilla_disk_free_bytes", "Free space where the data folder is.";
        disk_full: Gauge = "flotilla_disk_full", "1 while writes are refused because free space is below the reserve.";
        busy: Counter = "flotilla_busy_total", "Requests refused as busy after they had waited.";
        raft_round_seconds: Histogram = "flotilla_raft_round_seconds", "Carrying out the effects of one round of raft machines.";
        apply_round_seconds: Histogram = "flotilla_apply_round_seconds", "Carrying out the effects of one round of apply machines.";
        apply_batch_entries: Histogram = "flotilla_apply_batch_size", "Changes in one state batch.";
        log_append_seconds: Histogram = "flotilla_log_append_seconds", "One write to the raft log.";
        log_sync_seconds: Histogram = "flotilla_log_sync_seconds", "One sync of the raft log.";
        log_batch_entries: Histogram = "flotilla_log_batch_size", "Raft entries in one write to the log.";
        fetch_seconds: Histogram = "flotilla_entry_fetch_seconds", "Reading raft entries that were not in the cache.";
        leader_changes: Counter = "flotilla_region_leader_changes_total", "Times a peer here saw another leader of its region, or none any more.";
        term_changes: Counter = "flotilla_region_term_changes_total", "Times the term of a peer here rose.";
        peers_added: Counter = "flotilla_region_peers_added_total", "Members that regions with a peer here have got.";
        peers_removed: Counter = "flotilla_region_peers_removed_total", "Members that regions with a peer here have lost.";
        snapshots_reported: Counter = "flotilla_region_snapshots_sent_total", "Snapshots that left for another peer, taken or not.";
        snapshots_applied: Counter = "flotilla_region_snapshots_applied_total", "Snapshots that took the place of what was here.";
        heartbeats_late: Counter = "flotilla_region_heartbeats_late_total", "Times a leader was not heard of for half the shortest election time-out.";
        size_check_seconds: Histogram = "flotilla_size_check_seconds", "Measuring a region.";
    }
}

group! {
    /// The transport between stores.
    PeersMetrics {
        bulk_messages: Histogram = "flotilla_peers_bulk_size", "Raft messages in one bulk message to another store.";
        sent_bytes: Counter = "flotilla_peers_sent_bytes_total", "Bytes of raft messages sent to other stores.";
        dropped: Counter = "flotilla_peers_dropped_total", "Raft messages dropped because their store could not be reached.";
        reconnects: Counter = "flotilla_peers_broken_total", "Times a stream to another store broke or could not be made.";
        received: Counter = "flotilla_peers_received_total", "Raft messages received from other stores.";
        misattributed: Counter = "flotilla_peers_misattributed_total", "Raft messages dropped because they were not of the store at the other end.";
        refused: Counter = "flotilla_peers_refused_total", "Streams of other stores that were refused.";
        snapshots_sent: Counter = "flotilla_snapshots_sent_total", "Snapshots that another store has taken.";
        snapshots_not_sent: Counter = "flotilla_snapshots_not_sent_total", "Snapshots that were refused or broke on their way.";
        snapshots_resumed: Counter = "flotilla_snapshots_resumed_total", "Times a snapshot went on over another connection, as one had broken.";
        snapshot_bytes: Counter = "flotilla_snapshot_sent_bytes_total", "Bytes of snapshots sent to other stores.";
        snapshots_received: Counter = "flotilla_snapshots_received_total", "Snapshots received whole.";
        snapshots_not_received: Counter = "flotilla_snapshots_not_received_total", "Snapshots that were refused here or did not come whole.";
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// An empty registry with the groups above.
    pub fn new() -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
            .and_then(|builder| {
                builder.set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), &SIZES)
            })
            .expect("constant buckets, none of them empty")
            .build_recorder();
        Self {
            handle: recorder.handle(),
            network: Arc::new(NetworkMetrics::register(&recorder)),
            store: Arc::new(StoreMetrics::register(&recorder)),
            peers: Arc::new(PeersMetrics::register(&recorder)),
            recorder,
            process: metrics_process::Collector::default(),
        }
    }

    /// A histogram of seconds with labels.
    pub fn seconds(
        &self,
        name: &'static str,
        labels: &[(&'static str, &'static str)],
        about: &'static str,
    ) -> Histogram {
        Kind::register(&self.recorder, name, owned(labels), about)
    }

    /// A counter with labels.
    pub fn counter(
        &self,
        name: &'static str,
        labels: &[(&'static str, &'static str)],
        about: &'static str,
    ) -> Counter {
        Kind::register(&self.recorder, name, owned(labels), about)
    }

    /// A gauge with labels.
    pub fn gauge(
        &self,
        name: &'static str,
        labels: &[(&'static str, &'static str)],
        about: &'static str,
    ) -> Gauge {
        Kind::register(&self.recorder, name, owned(labels), about)
    }

    /// Takes over what the operating system counts of this process: CPU, memory, open files.
    pub(crate) fn read_process(&self) {
        metrics::with_local_recorder(&self.recorder, || {
            self.process.describe();
            self.process.collect();
        });
    }

    /// Everything, in Prometheus' text format.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// How long calls and syncs of the log took since the node started.
    pub(crate) fn latencies(&self) -> ShowLatenciesResponse {
        let text = self.render();
        let mut calls: Vec<CallLatencies> = Vec::new();
        let mut before = 0;
        for line in text.lines() {
            let Some((name, cumulative)) = bucket(line) else {
                continue;
            };
            if calls.last().is_none_or(|call| call.name != name) {
                let (name, counts) = (name.to_owned(), Vec::new());
                calls.push(CallLatencies { name, counts });
                before = 0;
            }
            if let Some(call) = calls.last_mut() {
                call.counts.push(cumulative.saturating_sub(before));
            }
            before = cumulative;
        }
        calls.retain(|call| call.counts.iter().any(|count| *count > 0));
        let bounds = SECONDS.to_vec();
        ShowLatenciesResponse { bounds, calls }
    }

    /// Files the samples that came in since the last call; otherwise they would pile up until
    /// somebody asks. Due every second or so.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

/// A line that counts how often something took at most so long: what, and how often.
fn bucket(line: &str) -> Option<(&str, u64)> {
    let (name, rest) = match line.strip_prefix("flotilla_rpc_seconds_bucket{rpc=\"") {
        Some(rest) => rest.split_once("\",le=")?,
        None => (
            "log sync",
            line.strip_prefix("flotilla_log_sync_seconds_bucket{le=")?,
        ),
    };
    let (_, count) = rest.split_once("} ")?;
    Some((name, count.trim().parse().ok()?))
}

fn owned(labels: &[(&'static str, &'static str)]) -> Vec<Label> {
    labels
        .iter()
        .map(|(name, value)| Label::from_static_parts(name, value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_rendered_with_its_help_and_buckets() {
        let metrics = Metrics::new();
        metrics.network.connections_open.increment(3);
        metrics.store.log_sync_seconds.record(0.003);
        metrics
            .counter("flotilla_test_total", &[("rpc", "RawGet")], "A test.")
            .increment(1);
        let text = metrics.render();
        for line in [
            "# HELP flotilla_connections Connections open now.",
            "# TYPE flotilla_connections gauge",
            "flotilla_connections 3",
            "flotilla_log_sync_seconds_bucket{le=\"0.002\"} 0",
            "flotilla_log_sync_seconds_bucket{le=\"0.005\"} 1",
            "flotilla_test_total{rpc=\"RawGet\"} 1",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "no line {line:?} in\n{text}"
            );
        }
    }

    #[test]
    fn latencies_are_counted_by_call_and_bucket() {
        let metrics = Metrics::new();
        let about = "A call.";
        for (rpc, times) in [("RawGet", &[0.000_04, 0.003, 9.0][..]), ("RawPut", &[0.1])] {
            let histogram = metrics.seconds("flotilla_rpc_seconds", &[("rpc", rpc)], about);
            times.iter().for_each(|time| histogram.record(*time));
        }
        let _idle = metrics.seconds("flotilla_rpc_seconds", &[("rpc", "Idle")], about);
        metrics.store.log_sync_seconds.record(0.002);
        let shown = metrics.latencies();
        assert_eq!(shown.bounds.len(), SECONDS.len());
        let mut counted = shown
            .calls
            .iter()
            .map(|call| {
                assert_eq!(call.counts.len(), SECONDS.len() + 1, "{}", call.name);
                let filled = call
                    .counts
                    .iter()
                    .enumerate()
                    .filter(|(_, count)| **count > 0);
                (call.name.as_str(), filled.map(|(nth, _)| nth).collect())
            })
            .collect::<Vec<(&str, Vec<usize>)>>();
        counted.sort();
        let expected = [
            ("RawGet", vec![0, 6, 16]),
            ("RawPut", vec![10]),
            ("log sync", vec![5]),
        ];
        assert_eq!(counted, expected);
    }

    #[test]
    fn the_process_is_measured_under_the_usual_names() {
        let metrics = Metrics::new();
        metrics.read_process();
        let text = metrics.render();
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_start_time_seconds",
        ] {
            let of_it = |line: &&str| line.starts_with(&format!("{name} "));
            assert!(
                text.lines().any(|line| of_it(&line)),
                "no {name} in\n{text}"
            );
        }
    }

    #[test]
    fn two_nodes_of_one_process_count_apart() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.network.connections_accepted.increment(1);
        assert!(
            one.render()
                .contains("flotilla_connections_accepted_total 1")
        );
        assert!(
            !other
                .render()
                .contains("flotilla_connections_accepted_total 1")
        );
    }
}
