//! The processes of a cluster, numbered from 0.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use flotilla_proto::metapb::{PeerRole, Region};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::RUNTIME;
use crate::load::{Door, Reach};
use crate::network::Network;
use crate::node::{Node, Process, clean, eventually, rest, server_args};

/// Where the data of a node are.
pub(crate) enum Place {
    /// Anywhere, and gone afterwards.
    Temporary(TempDir),
    /// There.
    At(PathBuf),
}

impl Place {
    pub(crate) fn any() -> Self {
        Self::Temporary(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(dir) => dir.path(),
            Self::At(path) => path,
        }
    }
}

/// A cluster that can be struck.
pub(crate) struct Cluster {
    dirs: Vec<Place>,
    /// `None`: it is away.
    nodes: Vec<Option<Node>>,
    pub(crate) network: Network,
    /// What is started.
    program: PathBuf,
}

/// How a node comes to a place at which it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// While it starts or serves.
    Served,
    /// While it stops in order.
    Stopped,
}

impl Cluster {
    /// Nodes that have joined, and regions that begin at these keys, each with a voter on every node.
    #[track_caller]
    pub(crate) fn start(count: usize, boundaries: &[&str]) -> Self {
        Self::at((0..count).map(|_| Place::any()).collect(), boundaries)
    }

    /// Nodes of another program.
    #[track_caller]
    pub(crate) fn of(program: &Path, count: usize, boundaries: &[&str]) -> Self {
        let dirs = (0..count).map(|_| Place::any()).collect();
        Self::begin(program, dirs, boundaries)
    }

    /// The same, with their data in these places.
    #[track_caller]
    pub(crate) fn at(dirs: Vec<Place>, boundaries: &[&str]) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_flotilla"));
        Self::begin(program, dirs, boundaries)
    }

    #[track_caller]
    fn begin(program: &Path, dirs: Vec<Place>, boundaries: &[&str]) -> Self {
        let count = dirs.len();
        let folders = dirs.iter().map(|dir| dir.path().to_owned()).collect();
        let mut cluster = Self {
            network: Network::new(folders),
            nodes: dirs.iter().map(|_| None).collect(),
            program: program.to_owned(),
            dirs,
        };
        for number in 0..count {
            cluster.restart(&[number]);
        }
        let mut reach = cluster.reach();
        for boundary in boundaries {
            eventually("a region to be split", || {
                RUNTIME.block_on(reach.split(boundary)).then_some(())
            });
        }
        cluster.converge();
        for node in cluster.nodes.iter().flatten() {
            let voters = format!("voters={count}");
            node.logs(&["PD's own region has voters", &voters]);
        }
        cluster
    }

    pub(crate) fn count(&self) -> usize {
        self.nodes.len()
    }

    /// What clients know before they ask for the first time.
    pub(crate) fn reach(&self) -> Reach {
        Reach::new(self.doors())
    }

    /// Where clients dial each node, and its address as PD knows it.
    pub(crate) fn doors(&self) -> Vec<Door> {
        let nodes = 0..self.count();
        nodes
            .map(|node| Door {
                dialled: self.network.door(node),
                advertised: self.network.addr(node),
            })
            .collect()
    }

    fn command(&self, number: usize) -> Command {
        clean(Command::new(&self.program), self.args(number))
    }

    fn args(&self, number: usize) -> Vec<String> {
        let advertised = format!("advertise-addr={}", self.network.addr(number));
        let mut args = server_args(self.dirs[number].path(), &[&advertised]);
        if number > 0 {
            args.extend(["--join".to_owned(), self.network.addr(0)]);
        }
        if let Some(addr) = self.network.target(number) {
            let any = args.iter_mut().find(|arg| *arg == "127.0.0.1:0");
            *any.expect("an address") = addr.to_string();
        }
        args
    }

    /// Starts nodes that are away, at the same time, and waits until they serve: without a quorum of PD
    /// none of them does.
    #[track_caller]
    pub(crate) fn restart(&mut self, numbers: &[usize]) {
        let commands = numbers.iter().map(|number| {
            let dir = self.dirs[*number].path();
            (self.command(*number), dir)
        });
        let nodes: Vec<Node> = thread::scope(|scope| {
            let starts = commands.map(|(command, dir)| scope.spawn(move || Node::of(command, dir)));
            let starts: Vec<_> = starts.collect();
            let started = starts.into_iter().map(|start| start.join());
            started.map(|node| node.expect("it serves")).collect()
        });
        for (number, node) in numbers.iter().zip(nodes) {
            self.lead_to(*number, &node);
            self.nodes[*number] = Some(node);
        }
    }

    /// Starts a node that is away, and kills it somewhere on its way.
    pub(crate) fn kill_while_it_starts(&mut self, number: usize, after: Duration) {
        let mut process = Process::spawn(self.command(number));
        // The moment is drawn: nothing is waited for.
        rest(after);
        process.kill9();
    }

    /// Starts a node that is away and waits until it is killed at the place that `points` names.
    #[track_caller]
    pub(crate) fn dies_at(&mut self, number: usize, points: &str, until: Until) {
        let mut command = self.command(number);
        command.env("FAILPOINTS", points);
        let exit = match Node::try_of(command, self.dirs[number].path()) {
            Err(exit) => exit,
            Ok(node) => {
                self.lead_to(number, &node);
                if until == Until::Stopped {
                    node.signal(Signal::TERM);
                }
                node.wait()
            }
        };
        assert_eq!(exit.code, None, "{points}: {exit:?}");
    }

    fn lead_to(&self, number: usize, node: &Node) {
        // What it prints is where it is dialled.
        let line = node.logs(&[" addr=", " advertised="]);
        let addr = line.split(" addr=").nth(1);
        let addr = addr.and_then(|rest| rest.split(' ').next()?.parse().ok());
        let addr = addr.expect("where it listens");
        self.network.lead_to(number, addr);
    }

    /// Ends a node as a power cut of its machine would.
    pub(crate) fn kill(&mut self, number: usize) {
        if let Some(node) = self.nodes[number].take() {
            node.kill9();
        }
    }

    /// Stops a node where it is, or lets it go on.
    pub(crate) fn signal(&self, number: usize, signal: Signal) {
        self.nodes[number].as_ref().expect("it runs").signal(signal);
    }

    /// The number of the node that leads the region of `key`, as PD says.
    #[track_caller]
    pub(crate) fn leader(&self, key: &str) -> usize {
        let mut reach = self.reach();
        let addr = eventually("PD to know who leads", || {
            RUNTIME.block_on(reach.leader(key.as_bytes()))
        });
        let number = (0..self.count()).find(|number| self.network.door(*number) == addr);
        number.expect("it is one of the nodes")
    }

    /// Waits until PD shows every region with a voter on every node.
    #[track_caller]
    pub(crate) fn converge(&self) {
        let mut reach = self.reach();
        let voters = |region: &Region| {
            let peers = region.peers.iter();
            peers.filter(|peer| peer.role() == PeerRole::Voter).count()
        };
        eventually("every region to have a voter on every node", || {
            let found = RUNTIME.block_on(reach.regions())?;
            let whole = |region: &Region| voters(region) == self.count();
            (!found.is_empty() && found.iter().all(whole)).then_some(())
        });
    }
}
