//! `flotilla ctl config`: settings of PD that change while the cluster runs.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::show::{Print, Row};

/// What about settings.
#[derive(Subcommand, Clone, Debug)]
pub(super) enum Config {
    /// All of them, or one
    Show {
        /// Only this one
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
    /// Change one for the whole cluster, durably, from now on
    #[command(after_help = "Examples:\n  \
        flotilla ctl config set max-replicas 5\n  \
        flotilla ctl config set location-labels zone,host\n  \
        flotilla ctl config set max-store-down-time 10m")]
    Set(Set),
}

#[derive(Args, Clone, Debug)]
pub(super) struct Set {
    /// As `config show` names it
    #[arg(value_name = "NAME")]
    name: String,
    /// A number, `true` or `false`, a time such as 1h30m, or names separated by commas
    #[arg(value_name = "VALUE")]
    value: String,
}

#[derive(Deserialize)]
struct Page {
    schedule: BTreeMap<String, Value>,
    replication: BTreeMap<String, Value>,
}

#[derive(Serialize)]
struct Setting {
    name: String,
    value: Value,
}

impl Row for Setting {
    const HEADER: &'static [&'static str] = &["setting", "value"];

    fn cells(&self) -> Vec<String> {
        let value = match &self.value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        vec![self.name.clone(), value]
    }
}

impl Config {
    pub(super) async fn run(self, cluster: &Cluster, print: Print) -> anyhow::Result<()> {
        match self {
            Self::Show { name } => show(cluster, name, print).await,
            Self::Set(Set { name, value }) => {
                let body = json!({ &name: value });
                let target = "/pd/api/v1/config";
                let _: String = cluster.request("POST", target, Some(&body)).await?;
                let value = Value::from(value);
                let set = Setting { name, value };
                print.one(&set, || {
                    format!("{} is {} from now on", set.name, set.cells()[1])
                });
                Ok(())
            }
        }
    }
}

async fn show(cluster: &Cluster, name: Option<String>, print: Print) -> anyhow::Result<()> {
    let page: Page = cluster.page("/pd/api/v1/config").await?;
    let mut all = page.schedule;
    all.extend(page.replication);
    if let Some(name) = &name {
        anyhow::ensure!(
            all.contains_key(name),
            "there is no setting {name}; `flotilla ctl config show` lists all"
        );
        all.retain(|known, _| known == name);
    }
    let settings = all.into_iter().map(|(name, value)| Setting { name, value });
    print.rows(&settings.collect::<Vec<_>>());
    Ok(())
}
