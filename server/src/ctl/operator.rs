//! `flotilla ctl operator`, and what every change of a region has in common.

use anyhow::bail;
use clap::Subcommand;
use flotilla_proto::admin as a;
use flotilla_proto::admin::add_operator_request::Asked;
use serde::Serialize;

use super::cluster::Cluster;
use super::show::{self, Print, Row};
use super::{Wait, region_id};

/// What about operators.
#[derive(Subcommand, Clone, Debug)]
pub(super) enum Operator {
    /// Those that run, and those that ended since this PD leads, the last first
    List {
        /// Only those that run
        #[arg(long)]
        running: bool,
        /// Only those that ended, with the reason of each
        #[arg(long, conflicts_with = "running")]
        history: bool,
        /// Only those of this region
        #[arg(long, value_name = "REGION", value_parser = region_id)]
        region: Option<u64>,
    },
    /// End the one that runs on a region, and leave the region alone for a while; a step that was told
    /// to its leader before may still happen
    Cancel {
        /// The region's id; `meta` is PD's own
        #[arg(value_name = "REGION", value_parser = region_id)]
        region: u64,
    },
}

/// An operator.
#[derive(Serialize)]
pub(super) struct Shown {
    id: u64,
    region: u64,
    name: String,
    kind: String,
    reason: String,
    steps: Vec<String>,
    steps_done: u64,
    status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    ending: String,
    started_ms: u64,
    ended_ms: Option<u64>,
}

impl From<a::Operator> for Shown {
    fn from(operator: a::Operator) -> Self {
        Self {
            id: operator.id,
            region: operator.region_id,
            name: operator.name,
            kind: operator.kind,
            reason: operator.reason,
            steps: operator.steps,
            steps_done: operator.steps_done,
            status: operator.status,
            ending: operator.ending,
            started_ms: operator.started_ms,
            ended_ms: (operator.ended_ms != 0).then_some(operator.ended_ms),
        }
    }
}

impl Row for Shown {
    const HEADER: &'static [&'static str] = &[
        "id", "region", "what", "why", "steps", "status", "took", "ending",
    ];

    fn cells(&self) -> Vec<String> {
        let ended = self.ended_ms;
        let took = ended.map(|ended| format!("{} ms", ended.saturating_sub(self.started_ms)));
        vec![
            self.id.to_string(),
            self.region.to_string(),
            self.name.clone(),
            self.reason.clone(),
            format!("{}/{}", self.steps_done, self.steps.len()),
            self.status.clone(),
            show::or_dash(took),
            self.ending.clone(),
        ]
    }
}

#[derive(Serialize)]
struct Listed {
    running: Vec<Shown>,
    ended: Vec<Shown>,
}

/// A number of an operator.
#[derive(Serialize)]
struct Number {
    operator: u64,
    region: u64,
}

impl Operator {
    pub(super) async fn run(self, cluster: &Cluster, print: Print) -> anyhow::Result<()> {
        match self {
            Self::List {
                running,
                history,
                region,
            } => {
                let mut listed = cluster.operators().await?;
                let wanted = |one: &a::Operator| region.is_none_or(|id| one.region_id == id);
                listed.running.retain(|one| wanted(one) && !history);
                listed.ended.retain(|one| wanted(one) && !running);
                let ended = listed.ended;
                let all = |operators: Vec<a::Operator>| operators.into_iter().map(Shown::from);
                let listed = Listed {
                    running: all(listed.running).collect(),
                    ended: all(ended).collect(),
                };
                print.one(&listed, || {
                    let Listed { running, ended } = &listed;
                    let (running, ended) = (show::table(running), show::table(ended));
                    if history {
                        return ended;
                    }
                    format!("running\n{running}\nended\n{ended}")
                });
            }
            Self::Cancel { region } => {
                let operator = cluster.cancel_operator(region).await?;
                print.one(&Number { operator, region }, || {
                    format!("operator {operator} on region {region} is ended")
                });
            }
        }
        Ok(())
    }
}

/// Begins what is asked for, and waits for its end if that is wanted.
pub(super) async fn add(
    cluster: &Cluster,
    region: u64,
    asked: Asked,
    wait: &Wait,
    print: Print,
) -> anyhow::Result<()> {
    let operator = cluster.add_operator(region, asked).await?;
    if !wait.wait {
        print.one(&Number { operator, region }, || {
            format!(
                "operator {operator} on region {region} has begun; `flotilla ctl operator list` shows how far it is"
            )
        });
        return Ok(());
    }
    let ended = ended(cluster, operator, region, wait).await?;
    print.one(&ended, || {
        format!("operator {operator} on region {region}: {}", ended.ending)
    });
    if ended.status != "SUCCESS" {
        bail!("operator {operator} was not carried out: {}", ended.ending);
    }
    Ok(())
}

/// Waits for the end of an operator.
async fn ended(cluster: &Cluster, id: u64, region: u64, wait: &Wait) -> anyhow::Result<Shown> {
    let own = |operator: &a::Operator| (operator.id, operator.region_id) == (id, region);
    let what = format!("operator {id} on region {region}");
    wait.until(&what, async || {
        let listed = cluster.operators().await?;
        if listed.running.iter().any(own) {
            return Ok(None);
        }
        match listed.ended.into_iter().find(own) {
            Some(ended) => Ok(Some(Shown::from(ended))),
            None => bail!(
                "{what} is not known any more: PD is led by another node now; look with `flotilla ctl region show {region}`, and ask again if it is not done"
            ),
        }
    })
    .await
}
