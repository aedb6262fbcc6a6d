//! `flotilla ctl region`.

use std::collections::BTreeMap;

use anyhow::bail;
use clap::{Args, Subcommand};
use flotilla_proto::admin as a;
use flotilla_proto::admin::add_operator_request::Asked;
use flotilla_proto::metapb::PeerRole;
use flotilla_proto::pdpb::GetRegionResponse;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::cluster::Cluster;
use super::show::{self, Key, Print, Row};
use super::{Wait, operator, region_id};

/// What about regions.
#[derive(Subcommand, Clone, Debug)]
pub(super) enum Region {
    /// All regions in key order, but for PD's own
    List {
        /// Only those with a replica on this store
        #[arg(long, value_name = "STORE")]
        store: Option<u64>,
    },
    /// A region as PD knows it, by its id or by a key
    Show {
        /// The region's id; `meta` is PD's own
        #[arg(value_name = "REGION", value_parser = region_id, required_unless_present = "with_key")]
        region: Option<u64>,
        /// The region that has this key: text, other bytes as \xNN, a backslash as \\
        #[arg(long, value_name = "KEY", value_parser = show::key_bytes, conflicts_with = "region")]
        with_key: Option<Key>,
    },
    /// Every replica of a region as it sees itself: role, term, log, lease, snapshots
    Status(Which),
    /// Hand the leadership over to the replica on another store
    TransferLeader {
        #[command(flatten)]
        which: Which,
        /// The store whose replica is to lead
        #[arg(long, value_name = "STORE")]
        to: u64,
        #[command(flatten)]
        wait: Wait,
    },
    /// Split whatever regions have these keys: each becomes the first of a region; no data is copied
    Split {
        /// Where a region is to begin: text, other bytes as \xNN, a backslash as \\
        #[arg(long = "at", value_name = "KEY", value_parser = show::key_bytes, required = true)]
        keys: Vec<Key>,
    },
    /// Merge a region into a neighbour; its replicas move to where the neighbour has its own first
    Merge {
        #[command(flatten)]
        which: Which,
        /// The neighbour
        #[arg(long, value_name = "REGION")]
        into: u64,
        #[command(flatten)]
        wait: Wait,
    },
    /// Spread the replicas and the leaders of regions over the stores
    Scatter {
        /// The regions' ids
        #[arg(value_name = "REGION", required = true)]
        regions: Vec<u64>,
    },
    /// Add a replica to a region that has too few
    AddPeer {
        #[command(flatten)]
        which: Which,
        /// The store that gets it
        #[arg(long, value_name = "STORE")]
        store: u64,
        #[command(flatten)]
        wait: Wait,
    },
    /// Remove a replica that is one too many; refused if the region would have too few
    RemovePeer {
        #[command(flatten)]
        which: Which,
        /// The store that has it
        #[arg(long, value_name = "STORE")]
        store: u64,
        #[command(flatten)]
        wait: Wait,
    },
    /// Move a replica to another store
    MovePeer {
        #[command(flatten)]
        which: Which,
        /// The store that has it
        #[arg(long, value_name = "STORE")]
        from: u64,
        /// The store that gets it
        #[arg(long, value_name = "STORE")]
        to: u64,
        #[command(flatten)]
        wait: Wait,
    },
}

/// Which region.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Which {
    /// The region's id; `meta` is PD's own
    #[arg(value_name = "REGION", value_parser = region_id)]
    region: u64,
}

impl Region {
    pub(super) async fn run(self, cluster: &Cluster, print: Print) -> anyhow::Result<()> {
        let (which, asked, wait) = match self {
            Self::List { store } => return list(cluster, store, print).await,
            Self::Show { region, with_key } => {
                let found = match with_key {
                    Some(Key(key)) => cluster.region_of(key).await?,
                    None => cluster.region(region.unwrap_or_default()).await?,
                };
                return show_one(cluster, found, print).await;
            }
            Self::Merge { which, into, wait } => (which, Asked::MergeInto(into), wait),
            Self::Scatter { regions } => return scatter(cluster, &regions, print).await,
            Self::Split { keys } => return split(cluster, &keys, print).await,
            Self::Status(which) => return status(cluster, which.region, print).await,
            Self::TransferLeader { which, to, wait } => (which, Asked::TransferLeader(to), wait),
            Self::AddPeer { which, store, wait } => (which, Asked::AddPeer(store), wait),
            Self::RemovePeer { which, store, wait } => (which, Asked::RemovePeer(store), wait),
            Self::MovePeer {
                which,
                from: from_store,
                to: to_store,
                wait,
            } => {
                let asked = Asked::MovePeer(a::MovePeer {
                    from_store,
                    to_store,
                });
                (which, asked, wait)
            }
        };
        operator::add(cluster, which.region, asked, &wait, print).await
    }
}

/// What PD's page says of a split.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Split {
    processed_percentage: u64,
    regions_id: Vec<u64>,
}

async fn split(cluster: &Cluster, keys: &[Key], print: Print) -> anyhow::Result<()> {
    let digits: Vec<String> = keys.iter().map(|Key(bytes)| show::hex(bytes)).collect();
    let body = json!({ "split_keys": digits });
    let target = "/pd/api/v1/regions/split";
    let split: Split = cluster.request("POST", target, Some(&body)).await?;
    print.one(&split, || {
        let ids = split.regions_id.iter().map(u64::to_string);
        let ids = ids.collect::<Vec<_>>().join(", ");
        format!("regions that begin there: {ids}")
    });
    let (made, wanted) = (split.regions_id.len(), keys.len());
    if made < wanted {
        bail!(
            "only {made} of {wanted} keys begin a region: the others are not split yet; try again, \
             the log of the store that leads there says what is in the way"
        );
    }
    Ok(())
}

async fn scatter(cluster: &Cluster, regions: &[u64], print: Print) -> anyhow::Result<()> {
    let body = json!({ "name": "scatter-regions", "region_ids": regions });
    let target = "/pd/api/v1/operators";
    let _: String = cluster.request("POST", target, Some(&body)).await?;
    print.one(&json!({ "scattered": regions }), || {
        "they move as limits allow; `flotilla ctl operator list` shows how far it is".to_owned()
    });
    Ok(())
}

/// What PD's page says of a region, as far as it is used here.
#[derive(Deserialize, Serialize)]
pub(super) struct Listed {
    pub(super) id: u64,
    start_key: String,
    end_key: String,
    pub(super) peers: Vec<ListedPeer>,
    leader: Option<ListedPeer>,
    #[serde(default)]
    down_peers: Vec<serde_json::Value>,
    #[serde(default)]
    pending_peers: Vec<ListedPeer>,
    approximate_size: u64,
    approximate_keys: u64,
}

#[derive(Deserialize, Serialize)]
pub(super) struct ListedPeer {
    id: u64,
    pub(super) store_id: u64,
    role_name: String,
}

#[derive(Deserialize)]
struct Page {
    regions: Vec<Listed>,
}

impl Row for Listed {
    const HEADER: &'static [&'static str] = &[
        "region", "from", "to", "leader", "replicas", "down", "behind", "MiB", "keys",
    ];

    fn cells(&self) -> Vec<String> {
        let stores = |peers: &[ListedPeer]| {
            let stores = peers.iter().map(|peer| match peer.role_name.as_str() {
                "Voter" => peer.store_id.to_string(),
                role => format!("{} ({role})", peer.store_id),
            });
            stores.collect::<Vec<_>>().join(" ")
        };
        let leader = self.leader.as_ref().map(|leader| leader.store_id);
        vec![
            self.id.to_string(),
            show::key(&show::unhex(&self.start_key)),
            show::key(&show::unhex(&self.end_key)),
            show::or_dash(leader),
            stores(&self.peers),
            self.down_peers.len().to_string(),
            stores(&self.pending_peers),
            self.approximate_size.to_string(),
            self.approximate_keys.to_string(),
        ]
    }
}

/// All that PD's page shows.
pub(super) async fn all(cluster: &Cluster) -> anyhow::Result<Vec<Listed>> {
    let page: Page = cluster.page("/pd/api/v1/regions").await?;
    Ok(page.regions)
}

async fn list(cluster: &Cluster, store: Option<u64>, print: Print) -> anyhow::Result<()> {
    let mut regions = all(cluster).await?;
    if let Some(store) = store {
        let there = |region: &Listed| region.peers.iter().any(|peer| peer.store_id == store);
        regions.retain(there);
    }
    print.rows(&regions);
    Ok(())
}

/// A region as PD knows it.
#[derive(Serialize)]
struct Shown {
    id: u64,
    start_key: String,
    end_key: String,
    conf_ver: u64,
    version: u64,
    peers: Vec<ShownPeer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operator: Option<operator::Shown>,
}

#[derive(Serialize)]
struct ShownPeer {
    id: u64,
    store: u64,
    role: &'static str,
    leads: bool,
    /// It lacks much of the log.
    behind: bool,
    /// The leader has not heard of it for so long.
    #[serde(skip_serializing_if = "Option::is_none")]
    down_seconds: Option<u64>,
}

impl Row for ShownPeer {
    const HEADER: &'static [&'static str] = &["peer", "store", "role", "leads", "state"];

    fn cells(&self) -> Vec<String> {
        let leads = if self.leads { "leads" } else { "" };
        let state = match (self.down_seconds, self.behind) {
            (Some(seconds), _) => format!("silent for {seconds} s"),
            (None, true) => "behind".to_owned(),
            (None, false) => "follows".to_owned(),
        };
        vec![
            self.id.to_string(),
            self.store.to_string(),
            self.role.to_owned(),
            leads.to_owned(),
            if self.leads { String::new() } else { state },
        ]
    }
}

fn role_name(role: PeerRole) -> &'static str {
    match role {
        PeerRole::Voter => "voter",
        PeerRole::Learner => "learner",
        PeerRole::IncomingVoter => "incoming voter",
        PeerRole::DemotingVoter => "demoting voter",
    }
}

fn shown(found: GetRegionResponse) -> Shown {
    let region = found.region.unwrap_or_default();
    let epoch = region.region_epoch.unwrap_or_default();
    let leader = found.leader.map_or(0, |leader| leader.id);
    let down: BTreeMap<u64, u64> = found
        .down_peers
        .iter()
        .filter_map(|down| Some((down.peer.as_ref()?.id, down.down_seconds)))
        .collect();
    let peers = region.peers.iter().map(|peer| ShownPeer {
        id: peer.id,
        store: peer.store_id,
        role: role_name(peer.role()),
        leads: peer.id == leader,
        behind: found.pending_peers.iter().any(|it| it.id == peer.id),
        down_seconds: down.get(&peer.id).copied(),
    });
    Shown {
        id: region.id,
        start_key: show::hex(&region.start_key),
        end_key: show::hex(&region.end_key),
        conf_ver: epoch.conf_ver,
        version: epoch.version,
        peers: peers.collect(),
        operator: None,
    }
}

async fn show_one(cluster: &Cluster, found: GetRegionResponse, print: Print) -> anyhow::Result<()> {
    let mut shown = shown(found);
    let mut running = cluster.operators().await?.running.into_iter();
    let operator = running.find(|operator| operator.region_id == shown.id);
    shown.operator = operator.map(operator::Shown::from);
    print.one(&shown, || {
        let Shown { id, peers, .. } = &shown;
        let (conf_ver, version) = (shown.conf_ver, shown.version);
        let from = show::key(&show::unhex(&shown.start_key));
        let to = show::key(&show::unhex(&shown.end_key));
        let peers = show::table(peers);
        let operator = shown.operator.as_slice();
        let operator = match operator {
            [] => "no operator runs".to_owned(),
            one => show::table(one),
        };
        format!(
            "region {id} from {from:?} to {to:?}; epoch: members {conf_ver}, range {version}\n{peers}\n{operator}"
        )
    });
    Ok(())
}

/// A replica as it sees itself.
#[derive(Serialize)]
struct Replica {
    peer: u64,
    store: u64,
    address: String,
    #[serde(flatten)]
    seen: Answer,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Seen(Seen),
    NotSeen { error: String },
}

#[derive(Serialize)]
struct Seen {
    role: &'static str,
    term: u64,
    /// The peer that leads, as this one knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<u64>,
    commit: u64,
    applied: u64,
    log_first: u64,
    log_last: u64,
    log_bytes: u64,
    /// For how long it may answer reads without asking anybody.
    lease_ms: u64,
    /// What is under way with a snapshot: `building`, `sending`, `installing`.
    snapshot: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transferring_to: Option<u64>,
}

fn seen(response: &a::ShowPeerResponse) -> Seen {
    let some = |id: u64| (id != 0).then_some(id);
    let snapshot = [
        (response.snapshot_building, "building"),
        (response.snapshot_sending, "sending"),
        (response.snapshot_installing, "installing"),
    ];
    Seen {
        role: match response.role() {
            a::Role::Follower => "follower",
            a::Role::PreCandidate => "pre-candidate",
            a::Role::Candidate => "candidate",
            a::Role::Leader => "leader",
            a::Role::Learner => "learner",
        },
        term: response.term,
        leader: some(response.leader),
        commit: response.commit,
        applied: response.applied,
        log_first: response.first,
        log_last: response.last,
        log_bytes: response.log_bytes,
        lease_ms: response.lease_ms,
        snapshot: snapshot
            .into_iter()
            .filter_map(|(is, name)| is.then_some(name))
            .collect(),
        transferring_to: some(response.transferring_to),
    }
}

impl Row for Replica {
    const HEADER: &'static [&'static str] = &[
        "store",
        "peer",
        "role",
        "term",
        "leader",
        "commit",
        "applied",
        "log",
        "log bytes",
        "lease",
        "snapshot",
    ];

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.store.to_string(), self.peer.to_string()];
        match &self.seen {
            Answer::Seen(seen) => cells.extend([
                seen.role.to_owned(),
                seen.term.to_string(),
                show::or_dash(seen.leader),
                seen.commit.to_string(),
                seen.applied.to_string(),
                format!("{} to {}", seen.log_first, seen.log_last),
                seen.log_bytes.to_string(),
                match seen.lease_ms {
                    0 => "-".to_owned(),
                    lease => format!("{lease} ms"),
                },
                match seen.snapshot.as_slice() {
                    [] => "-".to_owned(),
                    some => some.join(" "),
                },
            ]),
            Answer::NotSeen { error } => cells.push(error.clone()),
        }
        cells
    }
}

/// Asks every node that has a replica of the region.
pub(super) async fn status(cluster: &Cluster, region: u64, print: Print) -> anyhow::Result<()> {
    let found = cluster.region(region).await?;
    let stores = cluster.stores().await?.into_iter();
    let addresses: BTreeMap<u64, String> = stores.map(|store| (store.id, store.address)).collect();
    let peers = found.region.unwrap_or_default().peers;
    let replicas = peers.into_iter().map(|peer| {
        let address = addresses.get(&peer.store_id).cloned().unwrap_or_default();
        async move {
            let answer = cluster.show_peer(&address, region).await;
            Replica {
                peer: peer.id,
                store: peer.store_id,
                address,
                seen: match answer {
                    Ok(answer) => Answer::Seen(seen(&answer)),
                    Err(error) => Answer::NotSeen { error },
                },
            }
        }
    });
    print.rows(&join_all(replicas).await);
    Ok(())
}
