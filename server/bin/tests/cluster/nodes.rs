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
    /// Voters of every region.
    replicas: usize,
}

/// Replicas of a region, unless there are fewer nodes.
const REPLICAS: usize = 3;

impl Cluster {
    /// Nodes that have joined, and regions that begin at these keys, each with a voter on every node.
    #[track_caller]
    pub(crate) fn start(count: usize, boundaries: &[&str]) -> Self {
        Self::at((0..count).map(|_| Place::any()).collect(), boundaries)
    }

    /// Nodes of another program.
    #[track_caller]
    pub(crate) fn of(program: &Path, count: usize, boundaries: &[&str]) -> Self {
        let mut cluster = Self::away(program, count);
        cluster.found(0..count, boundaries);
        cluster
    }

    /// Nodes of another program, none of which was ever started.
    pub(crate) fn away(program: &Path, count: usize) -> Self {
        Self::new(program, (0..count).map(|_| Place::any()).collect())
    }

    /// The same, with their data in these places.
    #[track_caller]
    pub(crate) fn at(dirs: Vec<Place>, boundaries: &[&str]) -> Self {
        let (program, count) = (Path::new(env!("CARGO_BIN_EXE_flotilla")), dirs.len());
        let mut cluster = Self::new(program, dirs);
        cluster.found(0..count, boundaries);
        cluster
    }

    fn new(program: &Path, dirs: Vec<Place>) -> Self {
        let folders = dirs.iter().map(|dir| dir.path().to_owned()).collect();
        Self {
            network: Network::new(folders),
            nodes: dirs.iter().map(|_| None).collect(),
            program: program.to_owned(),
            replicas: REPLICAS.min(dirs.len()),
            dirs,
        }
    }

    /// Starts these, one after the other, and cuts regions.
    #[track_caller]
    pub(crate) fn found(&mut self, numbers: impl IntoIterator<Item = usize>, boundaries: &[&str]) {
        for number in numbers {
            self.restart(&[number]);
        }
        let mut reach = self.reach();
        for boundary in boundaries {
            eventually("a region to be split", || {
                RUNTIME.block_on(reach.split(boundary)).then_some(())
            });
        }
        self.converge();
        for node in self.nodes.iter().flatten() {
            let voters = format!("voters={}", self.replicas);
            node.logs(&["PD's own region has voters", &voters]);
        }
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

    /// Starts a node that is away and waits until it is killed at the place that `points` names; `bring`
    /// does what brings it there, once it serves.
    #[track_caller]
    pub(crate) fn dies_at(
        &mut self,
        number: usize,
        points: &str,
        bring: impl FnOnce(&Self, &Node),
    ) {
        let exit = match Node::try_of(self.with_points(number, points), self.dirs[number].path()) {
            Err(exit) => exit,
            Ok(node) => {
                self.lead_to(number, &node);
                bring(self, &node);
                node.wait()
            }
        };
        assert_eq!(exit.code, None, "{points}: {exit:?}");
    }

    fn with_points(&self, number: usize, points: &str) -> Command {
        let mut command = self.command(number);
        command.env("FAILPOINTS", points);
        command
    }

    /// Starts a node that is away, and that does at each place what `points` says.
    #[track_caller]
    pub(crate) fn start_with(&mut self, number: usize, points: &str) {
        let command = self.with_points(number, points);
        let node = Node::of(command, self.dirs[number].path());
        self.lead_to(number, &node);
        self.nodes[number] = Some(node);
    }

    /// Asks PD to move the replica of `key`'s region from one node to another, unless it is there.
    #[track_caller]
    pub(crate) fn move_replica(&self, key: &str, from: usize, to: usize) {
        let (mut reach, from, to) = (self.reach(), self.store(from), self.store(to));
        eventually("PD to move a replica", || {
            let (region, stores) = RUNTIME.block_on(reach.replicas(key.as_bytes()))?;
            let ask = format!("region move-peer {region} --from {from} --to {to}");
            (stores.contains(&to) || self.ctl(&ask)).then_some(())
        });
    }

    /// Has a node lead the region of `key`.
    #[track_caller]
    pub(crate) fn hand_over(&self, key: &str, to: usize) {
        let (mut reach, store) = (self.reach(), self.store(to));
        eventually("a node to lead", || {
            let (region, _) = RUNTIME.block_on(reach.replicas(key.as_bytes()))?;
            let leads = self.leader(key) == to;
            (leads
                || self.ctl(&format!(
                    "region transfer-leader {region} --to {store} --wait"
                )))
            .then_some(())
        });
    }

    /// The id of a node's store.
    #[track_caller]
    fn store(&self, number: usize) -> u64 {
        let (mut reach, door) = (self.reach(), self.network.door(number));
        eventually("PD to know a store", || {
            RUNTIME.block_on(reach.store_at(&door))
        })
    }

    /// Whether `flotilla ctl` did what it was asked to.
    fn ctl(&self, args: &str) -> bool {
        let doors: Vec<String> = self.doors().into_iter().map(|door| door.dialled).collect();
        let pd = doors.join(",");
        let args = ["ctl", "--pd", &pd].into_iter().chain(args.split(' '));
        let exit = Process::spawn(clean(Command::new(&self.program), args)).wait();
        exit.code == Some(0)
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

    /// Waits until PD shows every region with all its voters: one on every node, if there are three.
    #[track_caller]
    pub(crate) fn converge(&self) {
        let mut reach = self.reach();
        let voters = |region: &Region| {
            let peers = region.peers.iter();
            peers.filter(|peer| peer.role() == PeerRole::Voter).count()
        };
        eventually("every region to have all its voters", || {
            let found = RUNTIME.block_on(reach.regions())?;
            let whole = |region: &Region| {
                voters(region) == self.replicas && region.peers.len() == self.replicas
            };
            (!found.is_empty() && found.iter().all(whole)).then_some(())
        });
    }
}
