//! Metrics that somebody else counts, read when they are asked for.

use flotilla_engine::StateStore;
use flotilla_engine::rocks::DbStats;

use crate::metrics::Metrics;
use crate::store::Store;

/// Takes over what the router, the log writer and RocksDB have counted.
pub(crate) fn read(metrics: &Metrics, store: &Store) {
    let count = |name, labels: &[(&'static str, &'static str)], value: u64, about| {
        metrics.counter(name, labels, about).absolute(value);
    };
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    let show = |name, labels: &[(&'static str, &'static str)], value: u64, about| {
        metrics.gauge(name, labels, about).set(value as f64);
    };
    metrics.read_process();
    let runtime = &store.runtime;

    let log = runtime.log.counters();
    count(
        "flotilla_log_submissions_total",
        &[],
        log.submissions,
        "Batches handed to the log writer.",
    );
    count(
        "flotilla_log_batches_total",
        &[],
        log.batches,
        "Writes to the raft log.",
    );
    count(
        "flotilla_log_syncs_total",
        &[],
        log.syncs,
        "Syncs of the raft log.",
    );
    count(
        "flotilla_log_entries_total",
        &[],
        log.entries,
        "Raft entries written.",
    );
    count(
        "flotilla_log_bytes_total",
        &[],
        log.bytes,
        "Bytes of raft entries written.",
    );
    show(
        "flotilla_log_pending_bytes",
        &[],
        runtime.log.pending_bytes(),
        "Bytes in the log writer that are not durable.",
    );

    let (raft, apply) = (runtime.raft.counters(), runtime.apply.counters());
    for (pool, of) in [("raft", raft), ("apply", apply)] {
        let labels = [("pool", pool)];
        count(
            "flotilla_rounds_total",
            &labels,
            of.rounds,
            "Rounds of pollers.",
        );
        count(
            "flotilla_turns_total",
            &labels,
            of.turns,
            "Machines served, once per round each was in.",
        );
        count(
            "flotilla_inputs_total",
            &labels,
            of.inputs,
            "Inputs handled.",
        );
        count(
            "flotilla_inputs_refused_total",
            &labels,
            of.refused_full,
            "Inputs refused because a mailbox was full.",
        );
        count(
            "flotilla_pauses_total",
            &labels,
            of.pauses,
            "Times a poller waited because of back pressure.",
        );
    }
    show(
        "flotilla_mailbox_bytes",
        &[("pool", "raft")],
        runtime.raft.queued_bytes(),
        "Bytes that wait in mailboxes.",
    );
    show(
        "flotilla_machines",
        &[("pool", "raft")],
        runtime.raft.len() as u64,
        "Machines that run.",
    );
    show(
        "flotilla_latches_detained",
        &[],
        store.applied.detained() as u64,
        "Latches of writes of unknown fate.",
    );

    let pressure = runtime.state.pressure();
    show(
        "flotilla_level0_files",
        &[],
        pressure.level0_files,
        "Most level-0 files of a column family.",
    );
    let (log_db, state_db) = store.stats();
    for (db, stats) in [("log", log_db), ("state", state_db)] {
        database(&count, &show, &[("db", db)], &stats);
    }
    show(
        "flotilla_block_cache_bytes",
        &[],
        store.block_cache.usage(),
        "Bytes of blocks in the cache.",
    );
    for (reason, flushes) in runtime.state.flushes() {
        count(
            "flotilla_forced_flushes_total",
            &[("reason", reason_name(reason))],
            flushes,
            "Flushes asked for.",
        );
    }
}

fn reason_name(reason: flotilla_engine::FlushReason) -> &'static str {
    match reason {
        flotilla_engine::FlushReason::ReplayBound => "replay-bound",
        flotilla_engine::FlushReason::Admin => "admin",
        flotilla_engine::FlushReason::Shutdown => "shutdown",
        flotilla_engine::FlushReason::Manual => "manual",
    }
}

type Labels = [(&'static str, &'static str)];

fn database(
    count: &impl Fn(&'static str, &Labels, u64, &'static str),
    show: &impl Fn(&'static str, &Labels, u64, &'static str),
    db: &Labels,
    stats: &DbStats,
) {
    count(
        "flotilla_db_user_bytes_total",
        db,
        stats.user_bytes,
        "Bytes of keys and values handed to the database.",
    );
    count(
        "flotilla_db_wal_bytes_total",
        db,
        stats.wal_bytes,
        "Bytes written to the write-ahead log.",
    );
    count(
        "flotilla_db_wal_syncs_total",
        db,
        stats.wal_syncs,
        "Syncs of the write-ahead log.",
    );
    count(
        "flotilla_db_flush_bytes_total",
        db,
        stats.flush_bytes,
        "Bytes written by flushes.",
    );
    count(
        "flotilla_db_compaction_read_bytes_total",
        db,
        stats.compaction_read_bytes,
        "Bytes read by compactions.",
    );
    count(
        "flotilla_db_compaction_write_bytes_total",
        db,
        stats.compaction_write_bytes,
        "Bytes written by compactions.",
    );
    count(
        "flotilla_db_stall_micros_total",
        db,
        stats.stall_micros,
        "Microseconds that writes were held up.",
    );
    count(
        "flotilla_db_cache_hits_total",
        db,
        stats.cache_hits,
        "Blocks found in the cache.",
    );
    count(
        "flotilla_db_cache_misses_total",
        db,
        stats.cache_misses,
        "Blocks not found in the cache.",
    );
    show(
        "flotilla_db_memtable_bytes",
        db,
        stats.memtable_bytes,
        "Bytes in memtables.",
    );
    show(
        "flotilla_db_file_bytes",
        db,
        stats.file_bytes,
        "Bytes of live files.",
    );
    show(
        "flotilla_db_compaction_pending_bytes",
        db,
        stats.compaction_pending_bytes,
        "Bytes compactions are behind by.",
    );
}
