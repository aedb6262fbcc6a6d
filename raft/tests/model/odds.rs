//! What a seed draws once: how much of everything there is, and the limits of the cores.

use std::time::Duration;

use flotilla_raft::Config;

use crate::rng::Rng;

/// Chances, per step or per message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Odds {
    /// Voters at the beginning.
    pub(crate) voters: u64,
    pub(crate) steps: u64,
    pub(crate) loss_pct: u64,
    pub(crate) duplicate_pct: u64,
    /// Messages that take up to `slow_max` instead of up to `delay_max` milliseconds.
    pub(crate) slow_pct: u64,
    pub(crate) slow_max: u64,
    pub(crate) delay_max: u64,
    pub(crate) crash_permille: u64,
    /// How soon a crashed peer is back.
    pub(crate) restart_pct: u64,
    /// A peer stands still for up to `pause_max` milliseconds.
    pub(crate) pause_permille: u64,
    pub(crate) pause_max: u64,
    pub(crate) partition_permille: u64,
    /// Cuts that only part the leader from one other.
    pub(crate) shun_pct: u64,
    /// Of what happens to a cut network: it heals.
    pub(crate) heal_pct: u64,
    /// How often a deposed leader is kept from learning of it.
    pub(crate) depose_pct: u64,
    pub(crate) conf_permille: u64,
    pub(crate) transfer_permille: u64,
    pub(crate) read_permille: u64,
    pub(crate) propose_permille: u64,
    pub(crate) truncate_permille: u64,
    pub(crate) cold_pct: u64,
    pub(crate) lazy_pct: u64,
    pub(crate) drift: bool,
    /// How often a peer completes writes, and applies, when it gets to do something.
    pub(crate) write_pct: u64,
    pub(crate) apply_pct: u64,
    /// How often what is applied becomes durable.
    pub(crate) flush_pct: u64,
    /// Steps are that long, in milliseconds.
    pub(crate) spans: &'static [u64],
}

/// From worlds where everything happens at once to worlds that show every message.
const SPANS: [&[u64]; 4] = [
    &[1, 1, 2, 5, 10, 20, 50, 100, 300],
    &[1, 5, 20],
    &[1, 2, 5, 10],
    &[1, 2, 100],
];

impl Odds {
    fn draw(rng: &mut Rng) -> Self {
        Self {
            voters: rng.pick(&[1, 2, 3, 3, 3, 4, 5]),
            steps: rng.range(200, 1000),
            loss_pct: rng.pick(&[0, 0, 2, 10, 30]),
            duplicate_pct: rng.pick(&[0, 0, 5, 50]),
            slow_pct: rng.pick(&[0, 2, 20]),
            slow_max: 5000,
            delay_max: rng.pick(&[1, 5, 20]),
            crash_permille: rng.pick(&[0, 5, 20, 60]),
            restart_pct: 10,
            pause_permille: rng.pick(&[0, 5, 20]),
            pause_max: rng.pick(&[50, 500, 5000]),
            partition_permille: rng.pick(&[0, 5, 30]),
            shun_pct: 40,
            heal_pct: 60,
            depose_pct: rng.pick(&[0, 5, 50]),
            conf_permille: rng.pick(&[0, 20, 100]),
            transfer_permille: rng.pick(&[0, 10, 60]),
            read_permille: rng.pick(&[20, 100]),
            propose_permille: rng.pick(&[50, 200, 400]),
            truncate_permille: rng.pick(&[0, 10, 60]),
            cold_pct: rng.pick(&[0, 0, 20]),
            lazy_pct: rng.pick(&[0, 10, 60]),
            drift: rng.percent(70),
            write_pct: rng.pick(&[70, 70, 20]),
            apply_pct: rng.pick(&[70, 70, 10, 2]),
            flush_pct: rng.pick(&[20, 1]),
            spans: rng.pick(&SPANS),
        }
    }

    /// A world that is after leases and reads: fast disks, millisecond steps, and a network that parts
    /// leaders from their group at the worst moment.
    fn about_leases(self, rng: &mut Rng) -> Self {
        Self {
            voters: rng.pick(&[2, 3, 3, 3, 4, 5]),
            steps: rng.range(500, 2000),
            loss_pct: 0,
            duplicate_pct: rng.pick(&[0, 20]),
            slow_pct: rng.pick(&[0, 10, 30]),
            slow_max: rng.pick(&[100, 400]),
            delay_max: rng.pick(&[1, 5, 10]),
            crash_permille: rng.pick(&[0, 10, 40]),
            restart_pct: 50,
            pause_permille: rng.pick(&[0, 5]),
            pause_max: 150,
            partition_permille: rng.pick(&[5, 20]),
            shun_pct: 95,
            heal_pct: rng.pick(&[30, 60]),
            depose_pct: 80,
            conf_permille: 0,
            transfer_permille: rng.pick(&[0, 10, 40]),
            read_permille: 200,
            // Who is parted from the leader only stays electable while nothing is written.
            propose_permille: rng.pick(&[2, 20, 400]),
            truncate_permille: 0,
            cold_pct: 0,
            lazy_pct: 0,
            write_pct: 90,
            apply_pct: 90,
            spans: &[1, 1, 2],
            ..self
        }
    }

    /// A world that is after changes of members: many of them, applied slowly and at different times,
    /// by replicas that crash and forget what they had applied.
    fn about_members(self, rng: &mut Rng) -> Self {
        Self {
            steps: rng.range(300, 1000),
            loss_pct: 0,
            slow_pct: rng.pick(&[0, 10]),
            slow_max: 400,
            delay_max: 5,
            crash_permille: rng.pick(&[5, 60]),
            partition_permille: rng.pick(&[5, 20]),
            conf_permille: 200,
            transfer_permille: rng.pick(&[0, 60]),
            read_permille: 20,
            propose_permille: 20,
            truncate_permille: rng.pick(&[0, 20]),
            lazy_pct: 0,
            write_pct: 70,
            apply_pct: rng.pick(&[70, 20, 5]),
            flush_pct: 1,
            spans: rng.pick(&[&[1, 2, 5, 10], &[1, 5, 20]]),
            ..self
        }
    }

    /// The same world once all faults stop.
    pub(crate) fn quiet(self) -> Self {
        Self {
            loss_pct: 0,
            duplicate_pct: 0,
            slow_pct: 0,
            lazy_pct: 0,
            cold_pct: 0,
            write_pct: 70,
            apply_pct: 70,
            ..self
        }
    }
}

/// The odds and the limits of the cores; `id` and `seed` are for every start to set.
pub(crate) fn draw(rng: &mut Rng) -> (Odds, Config) {
    let (odds, config) = (Odds::draw(rng), draw_config(rng));
    match rng.range(0, 100) {
        0..50 => return (odds, config),
        50..70 => return (odds.about_members(rng), config),
        _ => {}
    }
    let ms = Duration::from_millis;
    let mut config = Config {
        tick: ms(1),
        election_timeout_min: ms(100),
        election_timeout_max: ms(200),
        heartbeat_interval: ms(30),
        inflight_messages_max: 256,
        inflight_bytes_max: 1 << 20,
        append_bytes_max: 1 << 20,
        uncommitted_bytes_max: 1 << 20,
        committed_bytes_max: 1 << 20,
        check_quorum: true,
        pre_vote: rng.percent(50),
        ..config
    };
    config.lease = if rng.percent(70) {
        config.lease_max()
    } else {
        Duration::ZERO
    };
    (odds.about_leases(rng), config)
}

fn draw_config(rng: &mut Rng) -> Config {
    let ms = Duration::from_millis;
    let check_quorum = rng.percent(90);
    // Ten times faster than in production, most of the time: more happens in a run.
    let unit = rng.pick(&[10, 10, 100]);
    let mut config = Config {
        id: 1,
        tick: ms(rng.pick(&[1, unit])),
        election_timeout_min: ms(10 * unit),
        election_timeout_max: ms(20 * unit),
        heartbeat_interval: ms(3 * unit),
        inflight_messages_max: rng.pick(&[1, 2, 256]),
        inflight_bytes_max: rng.pick(&[1, 16, 1 << 20]),
        append_bytes_max: rng.pick(&[1, 16, 1 << 20]),
        uncommitted_bytes_max: rng.pick(&[8, 64, 1 << 20]),
        committed_bytes_max: rng.pick(&[1, 16, 1 << 20]),
        pre_vote: rng.percent(85),
        check_quorum,
        ..Config::default()
    };
    let leases = check_quorum && rng.percent(80);
    config.lease = if leases {
        config.lease_max()
    } else {
        Duration::ZERO
    };
    config
}
