//! `flotilla ctl hot`: where the load is.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::cluster::Cluster;
use super::show::{self, Print, Row};

/// Which load.
#[derive(Args, Clone, Debug)]
pub(super) struct Hot {
    /// Of reads, which leaders serve, or of writes, which burden every replica
    #[arg(value_enum, default_value = "write")]
    what: What,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum What {
    Read,
    Write,
}

/// PD's page.
#[derive(Deserialize)]
struct Page {
    as_peer: BTreeMap<String, PageStore>,
    as_leader: BTreeMap<String, PageStore>,
}

#[derive(Deserialize)]
struct PageStore {
    store_bytes: f64,
    store_keys: f64,
    statistics: Vec<Region>,
}

/// A region's load on one store, per second.
#[derive(Deserialize, Serialize)]
struct Region {
    store_id: u64,
    region_id: u64,
    is_leader: bool,
    flow_bytes: f64,
    flow_keys: f64,
    flow_query: f64,
}

impl Row for Region {
    const HEADER: &'static [&'static str] =
        &["store", "region", "leads", "bytes/s", "keys/s", "queries/s"];

    fn cells(&self) -> Vec<String> {
        let leads = if self.is_leader { "leads" } else { "" };
        vec![
            self.store_id.to_string(),
            self.region_id.to_string(),
            leads.to_owned(),
            number(self.flow_bytes),
            number(self.flow_keys),
            number(self.flow_query),
        ]
    }
}

/// All load of a store, per second.
#[derive(Serialize)]
struct Store {
    store_id: u64,
    bytes: f64,
    keys: f64,
}

impl Row for Store {
    const HEADER: &'static [&'static str] = &["store", "bytes/s", "keys/s"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.store_id.to_string(),
            number(self.bytes),
            number(self.keys),
        ]
    }
}

fn number(value: f64) -> String {
    format!("{value:.0}")
}

#[derive(Serialize)]
struct Shown {
    stores: Vec<Store>,
    /// The busiest first.
    regions: Vec<Region>,
}

impl Hot {
    pub(super) async fn run(self, cluster: &Cluster, print: Print) -> anyhow::Result<()> {
        let (target, of_peers) = match self.what {
            What::Read => ("/pd/api/v1/hotspot/regions/read", false),
            What::Write => ("/pd/api/v1/hotspot/regions/write", true),
        };
        let page: Page = cluster.page(target).await?;
        let stores = if of_peers {
            page.as_peer
        } else {
            page.as_leader
        };
        let shown = shown(stores);
        print.one(&shown, || {
            if shown.stores.is_empty() {
                return "no store has reported its load to this PD yet".to_owned();
            }
            let stores = show::table(&shown.stores);
            let regions = show::table(&shown.regions);
            format!("all of a store\n{stores}\nthe busiest regions\n{regions}")
        });
        Ok(())
    }
}

fn shown(page: BTreeMap<String, PageStore>) -> Shown {
    let mut shown = Shown {
        stores: Vec::new(),
        regions: Vec::new(),
    };
    for (id, store) in page {
        shown.stores.push(Store {
            store_id: id.parse().unwrap_or_default(),
            bytes: store.store_bytes,
            keys: store.store_keys,
        });
        shown.regions.extend(store.statistics);
    }
    shown.stores.sort_by_key(|store| store.store_id);
    let regions = &mut shown.regions;
    regions.sort_by(|one, other| other.flow_bytes.total_cmp(&one.flow_bytes));
    shown
}
