//! How long writes wait when the node that leads is killed: until one of the others takes one, and
//! until the stock client has one acknowledged again. Figures, and no limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tikv_client::RawClient;

use crate::dice::Dice;
use crate::load::Prober;
use crate::nodes::Cluster;
use crate::{RUNTIME, times};

/// Times a leader is killed, unless `FLOTILLA_GAPS` says otherwise.
const KILLS: usize = 2;
/// Where the figures go as JSON, if anywhere.
const REPORT: &str = "FLOTILLA_REPORT";

/// What the stock client had acknowledged, and when.
#[derive(Default)]
struct Heard {
    successes: Mutex<Vec<Instant>>,
    ended: AtomicBool,
}

impl Heard {
    /// Writes one row after the other. What fails, as its user sees it, is written again.
    async fn write(self: Arc<Self>, client: RawClient) {
        for row in 0_u64.. {
            if self.ended.load(Ordering::SeqCst) {
                return;
            }
            if client
                .put(format!("a/stock/{}", row % 100), row.to_string())
                .await
                .is_ok()
            {
                self.successes().push(Instant::now());
            }
        }
    }

    fn successes(&self) -> std::sync::MutexGuard<'_, Vec<Instant>> {
        self.successes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for some after `moment`; the longest time without one around it.
    #[track_caller]
    fn longest_gap(&self, moment: Instant) -> Duration {
        crate::node::eventually("the stock client to go on", || {
            let after = self.successes().iter().filter(|at| **at > moment).count();
            (after >= 10).then_some(())
        });
        let all = std::mem::take(&mut *self.successes());
        // The next gap may begin with the last one.
        self.successes().extend(all.last());
        let gaps = all.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().expect("there are several")
    }
}

/// The value that so many per cent of them do not exceed.
fn percentile(sorted: &[Duration], percent: usize) -> u64 {
    let nth = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    u64::try_from(sorted[nth].as_millis()).expect("small")
}

fn distribution(mut gaps: Vec<Duration>) -> serde_json::Value {
    gaps.sort_unstable();
    json!({
        "p50_ms": percentile(&gaps, 50),
        "p90_ms": percentile(&gaps, 90),
        "max_ms": percentile(&gaps, 100),
    })
}

#[test]
fn writes_go_on_after_a_leader_was_killed() {
    let dice = Dice::from_env("writes_go_on_after_a_leader_was_killed");
    let mut cluster = Cluster::start(3, &[]);
    let addrs = (0..3)
        .map(|node| cluster.network.addr(node))
        .collect::<Vec<_>>();
    let client = RUNTIME.block_on(RawClient::new(addrs));
    let heard = Arc::<Heard>::default();
    let writer = RUNTIME.spawn(Arc::clone(&heard).write(client.expect("the client connects")));
    let (mut server, mut stock) = (Vec::new(), Vec::new());
    let kills = times("FLOTILLA_GAPS", KILLS);
    for nth in 0..kills {
        heard.longest_gap(Instant::now());
        let leader = cluster.leader("a");
        let others = (0..3).filter(|node| *node != leader);
        let others = others.map(|node| cluster.network.door(node)).collect();
        let prober = Prober::new(cluster.doors(), others, dice.fork(nth as u64));
        let killed = Instant::now();
        cluster.kill(leader);
        let accepted = prober.first_accepted() - killed;
        let seen = heard.longest_gap(killed);
        println!(
            "kill {nth}: node {leader}; the first put taken after {accepted:?}, the stock client waited {seen:?}"
        );
        server.push(accepted);
        stock.push(seen);
        cluster.restart(&[leader]);
        cluster.converge();
    }
    heard.ended.store(true, Ordering::SeqCst);
    RUNTIME.block_on(writer).expect("it ends");
    let report = json!({
        "kills": kills,
        "server_side": distribution(server),
        "stock_client": distribution(stock),
    });
    println!("{report}");
    if let Ok(path) = std::env::var(REPORT) {
        std::fs::write(path, report.to_string()).expect("written");
    }
}
