//! `flotilla ctl store`.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use flotilla_proto::admin as a;
use flotilla_proto::admin::add_operator_request::Asked;
use flotilla_proto::metapb::StoreState;
use flotilla_raftstore::region::META_REGION;
use serde::{Deserialize, Serialize};

use super::Wait;
use super::cluster::Cluster;
use super::region;
use super::show::{self, Print, Row};

/// What about stores.
#[derive(Subcommand, Clone, Debug)]
pub(super) enum Store {
    /// All stores: state, leaders, replicas, space
    List {
        /// Those that are gone for ever too
        #[arg(long)]
        all: bool,
    },
    /// One store
    Show(Which),
    /// Move all leaders away from a store and keep them away, before it is stopped for a while
    #[command(long_about = DRAIN_LONG)]
    Drain {
        #[command(flatten)]
        which: Which,
        /// Move its replicas to other stores too
        #[arg(long)]
        peers: bool,
        /// Let leaders come again
        #[arg(long, conflicts_with_all = ["peers", "wait"])]
        undo: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Remove a store for ever: its replicas go elsewhere, then it may be switched off
    #[command(long_about = REMOVE_LONG)]
    Remove {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        wait: Wait,
    },
    /// Take the removal of a store back, as long as it is not gone
    Restore(Which),
}

const DRAIN_LONG: &str = "\
Move all leaders away from a store and keep them away, before it is stopped for a while.

It goes on serving as a follower. Leaders may come again after --undo, once the store has started \
again, or when another node leads PD. With --peers its replicas go to other stores as well, as far as \
there are stores that have none yet; those of PD's own region are moved last.";

const REMOVE_LONG: &str = "\
Remove a store for ever: its replicas go elsewhere, then it may be switched off.

Refused if the stores that are left are too few for the replicas that regions have. The store serves \
until it is empty; then it is a tombstone: its id never comes back, and its folder is of no use. A store \
that is gone already is removed in the same way, after what it held was made up for from the others.";

/// Which store.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Which {
    /// The store's id
    #[arg(value_name = "STORE")]
    store: u64,
}

/// What PD's page says of a store, as far as it is used here.
#[derive(Deserialize)]
struct Page {
    stores: Vec<PageStore>,
}

#[derive(Deserialize)]
struct PageStore {
    store: PageMeta,
    status: PageStatus,
}

#[derive(Deserialize)]
struct PageMeta {
    id: u64,
    state_name: String,
}

#[derive(Deserialize)]
struct PageStatus {
    capacity: String,
    available: String,
    used_size: String,
    leader_count: u64,
    region_count: u64,
    last_heartbeat_ts: Option<String>,
    uptime: Option<String>,
    #[serde(default)]
    leaders_evicted: bool,
}

/// A store.
#[derive(Serialize)]
struct Listed {
    id: u64,
    address: String,
    state: String,
    leaders: u64,
    /// None are to be there: it stops or is drained.
    leaders_evicted: bool,
    regions: u64,
    capacity: Option<String>,
    available: Option<String>,
    used: Option<String>,
    uptime: Option<String>,
    last_heartbeat: Option<String>,
}

impl Row for Listed {
    const HEADER: &'static [&'static str] = &[
        "store",
        "address",
        "state",
        "leaders",
        "replicas",
        "used",
        "free",
        "of",
        "up for",
        "last heard of",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.address.clone(),
            self.state.clone(),
            match self.leaders_evicted {
                true => format!("{}, drained", self.leaders),
                false => self.leaders.to_string(),
            },
            self.regions.to_string(),
            show::or_dash(self.used.as_ref()),
            show::or_dash(self.available.as_ref()),
            show::or_dash(self.capacity.as_ref()),
            show::or_dash(self.uptime.as_ref()),
            show::or_dash(self.last_heartbeat.as_ref()),
        ]
    }
}

#[derive(Serialize)]
struct Changed {
    store: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    leaders: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    regions: Option<u64>,
    state: String,
}

impl Store {
    pub(super) async fn run(self, cluster: &Cluster, print: Print) -> anyhow::Result<()> {
        match self {
            Self::List { all } => {
                let mut stores = all_stores(cluster).await?;
                stores.retain(|store| all || store.state != "Tombstone");
                print.rows(&stores);
                Ok(())
            }
            Self::Show(Which { store }) => {
                print.rows(&[one(cluster, store).await?]);
                Ok(())
            }
            Self::Drain {
                which: Which { store },
                undo: true,
                ..
            } => {
                let leaders = cluster.evict_leaders(store, false).await?;
                let state = one(cluster, store).await?.state;
                let leaders = Some(leaders);
                let regions = None;
                let changed = Changed {
                    store,
                    leaders,
                    regions,
                    state,
                };
                print.one(&changed, || {
                    format!("leaders may come to store {store} again")
                });
                Ok(())
            }
            Self::Drain {
                which, peers, wait, ..
            } => drain(cluster, which.store, peers, &wait, print).await,
            Self::Remove { which, wait } => remove(cluster, which.store, &wait, print).await,
            Self::Restore(Which { store }) => {
                cluster.set_store_state(store, false).await?;
                let state = one(cluster, store).await?.state;
                let changed = Changed {
                    store,
                    leaders: None,
                    regions: None,
                    state,
                };
                print.one(&changed, || format!("store {store} stays"));
                Ok(())
            }
        }
    }
}

/// All of them, ascending.
async fn all_stores(cluster: &Cluster) -> anyhow::Result<Vec<Listed>> {
    let registered = cluster.stores().await?;
    let page: Page = cluster.page("/pd/api/v1/stores").await?;
    let page = page.stores.into_iter();
    let mut page: BTreeMap<u64, PageStore> = page.map(|store| (store.store.id, store)).collect();
    let listed = registered.into_iter().map(|store| {
        let known = page.remove(&store.id);
        let state = match (&known, store.state()) {
            (Some(known), _) => known.store.state_name.clone(),
            (None, StoreState::Tombstone) => "Tombstone".to_owned(),
            (None, state) => state.as_str_name().to_owned(),
        };
        let status = known.map(|known| known.status);
        let count = |of: fn(&PageStatus) -> u64| status.as_ref().map_or(0, of);
        Listed {
            id: store.id,
            address: store.address,
            state,
            leaders: count(|status| status.leader_count),
            leaders_evicted: status.as_ref().is_some_and(|status| status.leaders_evicted),
            regions: count(|status| status.region_count),
            capacity: status.as_ref().map(|status| status.capacity.clone()),
            available: status.as_ref().map(|status| status.available.clone()),
            used: status.as_ref().map(|status| status.used_size.clone()),
            uptime: status.as_ref().and_then(|status| status.uptime.clone()),
            last_heartbeat: status.and_then(|status| status.last_heartbeat_ts),
        }
    });
    let mut listed: Vec<_> = listed.collect();
    listed.sort_unstable_by_key(|store| store.id);
    Ok(listed)
}

async fn one(cluster: &Cluster, store: u64) -> anyhow::Result<Listed> {
    let mut all = all_stores(cluster).await?.into_iter();
    let found = all.find(|listed| listed.id == store);
    found.with_context(|| {
        format!("there is no store {store}; `flotilla ctl store list --all` shows all")
    })
}

async fn drain(
    cluster: &Cluster,
    store: u64,
    peers: bool,
    wait: &Wait,
    print: Print,
) -> anyhow::Result<()> {
    let leaders = cluster.evict_leaders(store, true).await?;
    let (mut changed, mut moved) = (0, Vec::new());
    if peers {
        moved = move_peers(cluster, store).await?;
        changed = moved.len();
    }
    let mut state = Changed {
        store,
        leaders: Some(leaders),
        regions: None,
        state: "draining".to_owned(),
    };
    if !wait.wait {
        print.one(&state, || {
            format!(
                "store {store} gives away {leaders} leaders and {changed} replicas; \
                 `flotilla ctl store show {store}` shows how many are left"
            )
        });
        return Ok(());
    }
    wait.until(&format!("draining store {store}"), async || {
        // Another PD has forgotten it.
        let leaders = cluster.evict_leaders(store, true).await?;
        if peers {
            moved = move_peers(cluster, store).await?;
        }
        Ok((leaders == 0 && moved.is_empty()).then_some(()))
    })
    .await?;
    let left = one(cluster, store).await?.regions;
    state.leaders = Some(0);
    state.regions = Some(left);
    "drained".clone_into(&mut state.state);
    print.one(&state, || {
        format!("store {store} leads nothing any more; {left} replicas are there")
    });
    Ok(())
}

/// Asks for a move of every replica on `store` that has somewhere to go. What is asked for or under way:
/// nothing once all is done.
async fn move_peers(cluster: &Cluster, store: u64) -> anyhow::Result<Vec<u64>> {
    let stores = all_stores(cluster).await?;
    let running = cluster.operators().await?.running;
    let busy = |region: u64| running.iter().any(|operator| operator.region_id == region);
    let mut regions: Vec<(u64, Vec<u64>)> = region::all(cluster)
        .await?
        .into_iter()
        .map(|region| {
            let peers = region.peers.iter();
            (region.id, peers.map(|peer| peer.store_id).collect())
        })
        .collect();
    let meta = cluster.region(META_REGION).await?.region;
    let peers = meta.unwrap_or_default().peers.into_iter();
    regions.push((META_REGION, peers.map(|peer| peer.store_id).collect()));
    let mut load: BTreeMap<u64, u64> = stores
        .iter()
        .filter(|other| other.id != store && other.state == "Up")
        .map(|other| (other.id, other.regions))
        .collect();
    let mut moving = Vec::new();
    for (region, on) in regions {
        if !on.contains(&store) {
            continue;
        }
        if busy(region) {
            moving.push(region);
            continue;
        }
        let free = load.iter().filter(|(other, _)| !on.contains(other));
        let Some(to) = free.min_by_key(|(_, regions)| **regions).map(|(id, _)| *id) else {
            continue;
        };
        let asked = Asked::MovePeer(a::MovePeer {
            from_store: store,
            to_store: to,
        });
        cluster.add_operator(region, asked).await?;
        *load.entry(to).or_default() += 1;
        moving.push(region);
    }
    Ok(moving)
}

async fn remove(cluster: &Cluster, store: u64, wait: &Wait, print: Print) -> anyhow::Result<()> {
    cluster.set_store_state(store, true).await?;
    let mut now = one(cluster, store).await?;
    if wait.wait {
        now = wait
            .until(&format!("removing store {store}"), async || {
                let now = one(cluster, store).await?;
                match now.state.as_str() {
                    "Tombstone" => Ok(Some(now)),
                    "Offline" => Ok(None),
                    other => bail!("store {store} is {other}: somebody took its removal back"),
                }
            })
            .await?;
    }
    let Listed { regions, state, .. } = now;
    let (leaders, gone) = (None, state == "Tombstone");
    let changed = Changed {
        store,
        leaders,
        regions: Some(regions),
        state,
    };
    print.one(&changed, || {
        if gone {
            format!("store {store} is removed; its node may be stopped and its folder deleted")
        } else {
            format!(
                "store {store} is to be removed, {regions} replicas are still there; \
                 `flotilla ctl store show {store}` shows how many are left, `flotilla ctl store restore {store}` \
                 takes it back"
            )
        }
    });
    Ok(())
}
