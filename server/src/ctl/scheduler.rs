//! `flotilla ctl scheduler`: the planners that balance.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use super::cluster::Cluster;
use super::show::{self, Print, Row};

/// What about schedulers.
#[derive(Subcommand, Clone, Debug)]
pub(super) enum Scheduler {
    /// Those that are there, and whether they are paused
    List,
    /// Have one plan nothing for a while; what it began goes on
    Pause {
        #[command(flatten)]
        which: Which,
        /// For how long; it ends sooner if PD moves to another node
        #[arg(long = "for", value_name = "TIME", default_value = "10m",
              value_parser = humantime::parse_duration)]
        span: Duration,
    },
    /// End the pause of one
    Resume(Which),
    /// Take one away until it is added again, durably
    Remove(Which),
    /// Add one that was removed
    Add(Which),
}

#[derive(Args, Clone, Debug)]
pub(super) struct Which {
    /// As `scheduler list` names it
    #[arg(value_name = "NAME")]
    name: String,
}

#[derive(Serialize)]
struct Listed {
    name: String,
    paused: bool,
}

impl Row for Listed {
    const HEADER: &'static [&'static str] = &["scheduler", "state"];

    fn cells(&self) -> Vec<String> {
        let state = if self.paused { "paused" } else { "works" };
        vec![self.name.clone(), state.to_owned()]
    }
}

const PAGE: &str = "/pd/api/v1/schedulers";

impl Scheduler {
    pub(super) async fn run(self, cluster: &Cluster, print: Print) -> anyhow::Result<()> {
        let (which, method, delay, done) = match self {
            Self::List => {
                let all: Vec<String> = cluster.page(PAGE).await?;
                let paused: BTreeSet<String> =
                    cluster.page(&format!("{PAGE}?status=paused")).await?;
                let listed = all.into_iter().map(|name| Listed {
                    paused: paused.contains(&name),
                    name,
                });
                print.rows(&listed.collect::<Vec<_>>());
                return Ok(());
            }
            Self::Pause { which, span } => {
                // Part of a second would be no pause at all.
                let seconds = span.as_secs().max(1);
                let until = humantime::format_duration(Duration::from_secs(seconds));
                (
                    which,
                    "POST",
                    Some(seconds),
                    format!("is paused for {until}"),
                )
            }
            Self::Resume(which) => (which, "POST", Some(0), "works again".to_owned()),
            Self::Remove(which) => (which, "DELETE", None, "is removed".to_owned()),
            Self::Add(which) => {
                let body = json!({ "name": which.name });
                let _: String = cluster.request("POST", PAGE, Some(&body)).await?;
                return told(print, &which.name, "works again");
            }
        };
        let name = which.name;
        let target = format!("{PAGE}/{}", show::escaped(&name));
        let body = delay.map(|seconds| json!({ "delay": seconds }));
        let changed: anyhow::Result<String> = cluster.request(method, &target, body.as_ref()).await;
        changed.context("`flotilla ctl scheduler list` shows all that there are")?;
        told(print, &name, &done)
    }
}

fn told(print: Print, name: &str, done: &str) -> anyhow::Result<()> {
    print.one(&json!({ "scheduler": name, "done": done }), || {
        format!("{name} {done}")
    });
    Ok(())
}
