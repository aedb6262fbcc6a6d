//! A rolling restart of a cluster that works: clients notice nothing.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tikv_client::{Config, RawClient};

use crate::client::{spawn, wait};
use crate::cluster::{folder, three_voters};
use crate::node::{Node, eventually, flotilla, server_args};
use crate::stop::CUT_OFF;

/// Requesters, each with keys of its own ...
const WORKERS: usize = 8;
/// ... and so many of them.
const KEYS: u64 = 50;
/// Operations that each stage of the restart must see.
const OPERATIONS: u64 = 300;
/// The stock client connects to PD at most once a second; until then its questions to a PD that is gone
/// fail at once, and those it does not retry.
const PD_RECONNECTS: Duration = Duration::from_millis(1_100);
/// The time for one request. A busy machine may need longer than the client's own 2 s.
const REQUEST_MAX: Duration = Duration::from_secs(30);

/// A load that counts its operations until it is ended.
#[derive(Default)]
struct Load {
    done: AtomicU64,
    ended: AtomicBool,
}

impl Load {
    /// Writes and reads back; every operation must succeed.
    async fn work(self: Arc<Self>, client: RawClient, worker: usize) {
        for operation in 0_u64.. {
            if self.ended.load(Ordering::SeqCst) {
                return;
            }
            let key = format!("{worker}/{}", operation % KEYS);
            let what = format!("operation {operation} of worker {worker}");
            let value = what.clone().into_bytes();
            let put = client.put(key.clone(), value.clone()).await;
            put.unwrap_or_else(|error| panic!("{what}: {error:?}"));
            let got = client.get(key).await;
            let got = got.unwrap_or_else(|error| panic!("{what}: {error:?}"));
            assert_eq!(got, Some(value), "{what}");
            self.done.fetch_add(2, Ordering::SeqCst);
        }
    }

    /// Waits until so many more operations were done, and the client may connect to another PD.
    fn goes_on(&self) {
        let (before, begun) = (self.done.load(Ordering::SeqCst), Instant::now());
        eventually("the load to go on", || {
            let done = self.done.load(Ordering::SeqCst);
            let enough = done >= before + OPERATIONS && begun.elapsed() >= PD_RECONNECTS;
            enough.then_some(())
        });
    }
}

/// Starts a node on the port of an earlier run.
fn restart(dir: &Path, addr: SocketAddr) -> Node {
    let mut args = server_args(dir, &[]);
    let any = args.iter_mut().find(|arg| *arg == "127.0.0.1:0");
    *any.expect("an address") = addr.to_string();
    Node::of(flotilla(args), dir)
}

#[test]
fn a_rolling_restart_under_load_fails_no_operation() {
    let dirs = [folder(), folder(), folder()];
    let mut nodes = three_voters(&dirs);
    let addrs: Vec<String> = nodes.iter().map(|node| node.addr().to_owned()).collect();
    let config = Config::default().with_timeout(REQUEST_MAX);
    let client = wait(RawClient::new_with_config(addrs, config)).expect("the client connects");
    let load = Arc::new(Load::default());
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| spawn(Arc::clone(&load).work(client.clone(), worker)))
        .collect();
    load.goes_on();
    for _ in 0..nodes.len() {
        let node = nodes.remove(0);
        let (dir, addr) = (
            node.dir().to_owned(),
            node.addr().parse().expect("an address"),
        );
        node.signal(Signal::TERM);
        let exit = node.wait();
        assert_eq!(exit.code, Some(0), "{exit:?}");
        // Nor does the stop wait for anything.
        assert!(!exit.err.contains(CUT_OFF), "{exit:?}");
        load.goes_on();
        nodes.push(restart(&dir, addr));
        load.goes_on();
    }
    load.ended.store(true, Ordering::SeqCst);
    for worker in workers {
        wait(worker).expect("no operation failed");
    }
    nodes.into_iter().for_each(Node::kill9);
}
