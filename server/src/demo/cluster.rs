//! Some nodes of one cluster in this process, on loopback.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use flotilla_benches::progress::{Goal, Progress, Verbosity};
use flotilla_engine::DataDir;
use flotilla_proto::metapb::PeerRole;
use flotilla_raftstore::Serving;
use futures::FutureExt;
use futures::future::{join_all, select_all, try_join_all};

use crate::Flotilla;
use crate::config::{ByteSize, HostPort, Loaded};
use crate::store::Fatal;

/// Free space that each node keeps; a demo writes less than that.
const DISK_RESERVE: ByteSize = ByteSize::mib(512);
/// Pause between two looks at how far the replicas are.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The nodes, by number from 0.
pub(super) struct Cluster {
    members: Vec<Member>,
    quiet: bool,
}

struct Member {
    config: Loaded,
    /// Where it listens, now and when it comes back.
    addr: HostPort,
    /// `None` while it is away.
    node: Option<Flotilla>,
}

/// Where a cluster is made.
pub(super) struct Place<'a> {
    /// A folder for each node is made in here.
    pub(super) folder: &'a Path,
    /// Of the first node; the others get the ports that follow. Port 0 takes free ones.
    pub(super) addr: &'a HostPort,
    pub(super) nodes: u16,
    pub(super) quiet: bool,
}

impl Cluster {
    /// Starts all nodes: a new cluster, or the one that is in the folder.
    pub(super) async fn start(place: &Place<'_>) -> anyhow::Result<Self> {
        let mut known = Vec::new();
        let mut new = Vec::new();
        for number in 0..place.nodes {
            let there = DataDir::holds_store(&folder(place, number))?;
            if there { &mut known } else { &mut new }.push(number);
        }
        let beyond = folder(place, place.nodes);
        anyhow::ensure!(
            !DataDir::holds_store(&beyond)?,
            "{} is of a cluster of more than {} nodes: give --nodes, or another folder",
            beyond.display(),
            place.nodes
        );
        // Those of an earlier run need one another to begin.
        let starts = known.into_iter().map(|number| async move {
            let config = config(place, number, None)?;
            Member::start(config).await
        });
        let mut members = try_join_all(starts).await?;
        for number in new {
            let join = members.first().map(|first: &Member| first.addr.clone());
            members.push(Member::start(config(place, number, join)?).await?);
        }
        Ok(Self {
            members,
            quiet: place.quiet,
        })
    }

    pub(super) fn addrs(&self) -> Vec<String> {
        let addrs = self.members.iter();
        addrs.map(|member| member.addr.to_string()).collect()
    }

    fn running(&self) -> impl Iterator<Item = (usize, &Flotilla)> {
        let members = self.members.iter().enumerate();
        members.filter_map(|(number, member)| Some((number, member.node.as_ref()?)))
    }

    /// What the leaders of all regions say, and on which node they are.
    fn leaders(&self) -> BTreeMap<u64, (usize, Arc<Serving>)> {
        let mut leaders = BTreeMap::new();
        for (number, node) in self.running() {
            for serving in servings(node).into_iter().filter(|found| found.is_leader()) {
                leaders.insert(serving.region.id, (number, serving));
            }
        }
        leaders
    }

    /// The node that leads most regions, how many they are, and of how many.
    pub(super) fn busiest(&self) -> (usize, usize, usize) {
        let leaders = self.leaders();
        let led = |number| leaders.values().filter(|(at, _)| *at == number).count();
        let counts = (0..self.members.len()).map(|number| (led(number), number));
        let (most, busiest) = counts.max().unwrap_or_default();
        (busiest, most, leaders.len())
    }

    /// Waits until every region has a replica on every node that may vote and knows its leader.
    pub(super) async fn settle(&self, name: &str) {
        let begun = Instant::now();
        let mut progress: Option<Progress> = None;
        loop {
            let (there, wanted) = self.replicas();
            let shown = progress.get_or_insert_with(|| {
                let verbosity = if self.quiet {
                    Verbosity::Quiet
                } else {
                    Verbosity::Normal
                };
                Progress::new(name, Goal::Replicas(wanted), verbosity)
            });
            shown.update(begun.elapsed(), there, 0, 0.0);
            if there == wanted && wanted > 0 {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        if let Some(progress) = progress {
            progress.finish(begun.elapsed(), self.replicas().1, 0);
        }
    }

    /// How many replicas are there, and how many there should be.
    fn replicas(&self) -> (u64, u64) {
        let mut regions = BTreeSet::new();
        let mut there = 0;
        let leaders = self.leaders();
        for (_, node) in self.running() {
            for serving in servings(node) {
                let region = serving.region.id;
                regions.insert(region);
                let led = leaders.get(&region).is_some_and(|(_, leader)| {
                    let mut peers = leader.region.peers.iter();
                    peers.any(|peer| peer.id == serving.peer.id && peer.role() == PeerRole::Voter)
                });
                there += u64::from(led && serving.leader.is_some());
            }
        }
        (there, (regions.len() * self.members.len()) as u64)
    }

    /// Ends a node as `kill -9` would.
    pub(super) async fn kill(&mut self, number: usize) {
        if let Some(node) = self.members[number].node.take() {
            node.kill().await;
        }
    }

    /// Starts it again, where it was.
    pub(super) async fn start_again(&mut self, number: usize) -> anyhow::Result<()> {
        let member = &mut self.members[number];
        let again = Member::start(member.config.clone()).await;
        *member = again.with_context(|| format!("node {} did not start again", number + 1))?;
        Ok(())
    }

    /// Waits until a node that runs now cannot go on.
    pub(super) fn failed(&self) -> impl Future<Output = Fatal> + use<> {
        let nodes = self.running().map(|(_, node)| node.failed().boxed());
        let any = select_all(nodes);
        async move { any.await.0 }
    }

    /// Stops all nodes in order.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        let nodes = self.members.into_iter().filter_map(|member| member.node);
        let stopped = join_all(nodes.map(Flotilla::shutdown_with_cluster)).await;
        stopped.into_iter().collect::<Result<Vec<()>, _>>()?;
        Ok(())
    }
}

impl Member {
    async fn start(mut config: Loaded) -> anyhow::Result<Self> {
        let node = Flotilla::open(&config).await?;
        let addr = node.advertised().clone();
        config.config.addr = addr.clone();
        Ok(Self {
            config,
            addr,
            node: Some(node),
        })
    }
}

fn servings(node: &Flotilla) -> Vec<Arc<Serving>> {
    node.node().store().runtime.delegates.all()
}

fn folder(place: &Place<'_>, number: u16) -> std::path::PathBuf {
    place.folder.join(format!("node-{}", number + 1))
}

fn config(place: &Place<'_>, number: u16, join: Option<HostPort>) -> anyhow::Result<Loaded> {
    let port = match place.addr.port {
        0 => 0,
        first => first
            .checked_add(number)
            .with_context(|| format!("there is no port {number} above {first}"))?,
    };
    Ok(Loaded::from_defaults(|config| {
        config.data_dir = Some(folder(place, number));
        config.addr = HostPort {
            host: place.addr.host.clone(),
            port,
        };
        config.disk_reserve = Some(DISK_RESERVE);
        config.join = join;
    })?)
}
