//! Limits turned tiny, so that a short run reaches them.

use std::time::Duration;

use flotilla_pd::Schedule;
use flotilla_raftstore::Config;
use flotilla_raftstore::runtime::RuntimeLimits;
use flotilla_router::{Budget, LogConfig, OutgoingConfig, RouterConfig};

use crate::rng::Rng;

/// A legal configuration of the machines.
pub(super) fn config(rng: &mut Rng) -> Config {
    let tick = Duration::from_millis(*rng.pick(&[10, 50, 100]));
    let entry = rng.log_range(400..=8_192);
    let tight = rng.chance(500);
    // At least one entry must always fit.
    let mut room = |most: u64| {
        if tight {
            entry
        } else {
            rng.log_range(entry..=most.max(entry))
        }
    };
    let (uncommitted, backlog, waiting) = (room(1 << 16), room(1 << 16), room(1 << 16));
    let (inflight, replay) = (room(1 << 16), room(1 << 17).max(4 * entry));
    let seldom = rng.chance(300);
    let split_bytes = if seldom {
        1 << 40
    } else {
        rng.log_range(512..=1 << 14)
    };
    // Who falls behind by a little needs a snapshot.
    let short = rng.chance(400);
    let hot = heat(&mut rng.fork("heat"));
    Config {
        tick,
        heartbeat: tick * 3,
        election_min: tick * 10,
        election_max: tick * 20,
        lease: tick * rng.range(1..=7) as u32,
        entry_bytes_max: entry,
        merge_bytes_max: rng.log_range(64..=entry),
        append_bytes_max: rng.log_range(64..=1 << 16),
        inflight_messages_max: rng.range(1..=8) as usize,
        inflight_bytes_max: inflight,
        uncommitted_bytes_max: uncommitted,
        apply_backlog_bytes_max: backlog,
        waiting_bytes_max: waiting,
        waiting_time_max: Duration::from_millis(*rng.pick(&[1, 20, 100])),
        undecided_time_max: Duration::from_millis(rng.log_range(200..=10_000)),
        split_bytes,
        // A region of one key, with a row in each column family, must not be too large.
        region_bytes_max: split_bytes + 4 * entry,
        split_keys: if seldom { 1 << 40 } else { rng.range(4..=64) },
        split_queries: hot.split_queries,
        split_flow_bytes: hot.split_flow_bytes,
        split_hot_time: hot.split_hot_time,
        lag_entries_max: if short {
            rng.range(0..=2)
        } else {
            rng.range(0..=32)
        },
        truncate_entries_min: if short { 1 } else { rng.log_range(1..=64) },
        truncate_bytes_min: rng.log_range(64..=1 << 14),
        replay_bytes_max: replay,
        replay_page_bytes: rng.log_range(1..=4_096),
        snapshot_batch_bytes: *rng.pick(&[0, 512, 1 << 20]),
        admin_durable_max: Duration::from_millis(rng.log_range(100..=30_000)),
        stale_check: Duration::from_millis(rng.log_range(2_000..=20_000)),
        region_heartbeat: Duration::from_millis(rng.log_range(100..=10_000)),
        store_heartbeat: Duration::from_millis(rng.log_range(100..=10_000)),
        entry_cache_bytes: if rng.chance(500) {
            rng.log_range(1..=4_096)
        } else {
            1 << 20
        },
        seed: 0,
        plant: flotilla_raftstore::Plant::default(),
    }
}

struct Heat {
    split_queries: u64,
    split_flow_bytes: u64,
    split_hot_time: Duration,
}

/// From when on a region is split for what is asked of it: in half of the worlds none is.
fn heat(rng: &mut Rng) -> Heat {
    match rng.chance(500) {
        true => Heat {
            split_queries: rng.log_range(1..=16),
            split_flow_bytes: *rng.pick(&[0, 1 << 10, 1 << 14]),
            split_hot_time: Duration::from_secs(rng.range(1..=4)),
        },
        false => Heat {
            split_queries: 0,
            split_flow_bytes: 0,
            split_hot_time: Duration::ZERO,
        },
    }
}

/// Time-outs that slow threads keep.
pub(super) fn slow_down(config: &mut Config) {
    let times = (Duration::from_millis(100).as_millis() / config.tick.as_millis()) as u32;
    config.tick *= times;
    config.heartbeat *= times;
    config.election_min *= times;
    config.election_max *= times;
    config.lease *= times;
}

/// Bounds of the queues between machines.
pub(super) fn runtime(config: &Config, stores: u64, rng: &mut Rng) -> RuntimeLimits {
    let tiny = rng.chance(300);
    let mut bytes = |least: u64| {
        if tiny {
            least
        } else {
            rng.log_range(least..=1 << 20)
        }
    };
    RuntimeLimits {
        raft: RouterConfig {
            // One append must always fit, and one write.
            queued_bytes_max: bytes(2 * (config.append_bytes_max + config.entry_bytes_max)),
        },
        apply: RouterConfig {
            queued_bytes_max: 1 << 20,
        },
        log: LogConfig {
            write_bytes_max: bytes(64),
            pending_bytes_max: bytes(config.entry_bytes_max),
        },
        outgoing: outgoing(rng),
        mailbox_inputs_max: match (tiny, stores) {
            (false, _) => 4_096,
            (true, 1) => rng.range(1..=4) as usize,
            // Votes and appends of one round must fit, or nothing is ever replicated.
            (true, _) => rng.range(12..=64) as usize,
        },
    }
}

/// PD's operators: in some clusters, at most a few at once or as many as there are regions. Stores are
/// given up, and steps too, sooner than in production, as most times of a world are shorter.
pub(super) fn schedule(stores: u64, config: &Config, rng: &mut Rng) -> Schedule {
    let placing = stores > 1 && rng.chance(500);
    let mut seconds = |most: u64| Duration::from_secs(rng.range(1..=most));
    let disconnected = 2 * config.store_heartbeat + seconds(5);
    let schedule = Schedule {
        operators_max: 0,
        store_disconnected_after: disconnected,
        max_store_down_time: disconnected + seconds(20),
        resend: seconds(2),
        step_time_max: Duration::from_secs(2) + seconds(20),
        add_time_max: Duration::from_secs(5) + seconds(30),
        rest: seconds(3),
        ..Schedule::default().repairs_only()
    };
    Schedule {
        operators_max: match placing {
            true => *rng.pick(&[2, 8, 64]),
            false => 0,
        },
        adding_max: rng.range(1..=8) as usize,
        ..schedule
    }
}

/// PD also evens out leaders, peers and load, and differs as little as can be.
pub(super) fn balance(schedule: Schedule, rng: &mut Rng) -> Schedule {
    if schedule.operators_max == 0 {
        return schedule;
    }
    let mut some = || *rng.pick(&[1, 2, 8]);
    Schedule {
        leader_moves_max: some(),
        region_moves_max: some(),
        hot_moves_max: some(),
        leaders_apart: rng.range(1..=2),
        bytes_apart: rng.range(1..=3) << 19,
        asked_rest: Duration::from_secs(rng.range(1..=20)),
        balance_every: Duration::from_millis(rng.range(100..=3_000)),
        hot_every: Duration::from_millis(rng.range(100..=5_000)),
        ..schedule
    }
}

/// Queues to other stores: now and then so short that messages are refused. The heartbeats of all
/// regions fit: leaders tick together, and were there no room, the same ones would always go without.
fn outgoing(rng: &mut Rng) -> OutgoingConfig {
    let mut config = OutgoingConfig::default();
    if rng.chance(200) {
        config.control.messages_max = rng.range(64..=128) as usize;
        config.append.messages_max = rng.range(2..=16) as usize;
    }
    config
}

/// How much a round takes.
pub(super) fn budget(rng: &mut Rng) -> Budget {
    Budget {
        machines_max: rng.log_range(1..=64) as usize,
        heavy_machines_max: 1,
        inputs_per_machine_max: rng.log_range(1..=64) as usize,
    }
}
