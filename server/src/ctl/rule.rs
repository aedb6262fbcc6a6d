//! `flotilla ctl rule`: which stores replicas may be on.

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::cluster::Cluster;
use super::show::{self, Key, Print, Row};

/// What about placement rules.
#[derive(Subcommand, Clone, Debug)]
pub(super) enum Rule {
    /// All rules, in the order in which they hold
    List,
    /// Add a rule, or put it in the place of the one of its name
    #[command(after_help = "Examples:\n  \
        five replicas, no two of a zone where that can be helped:\n      \
        flotilla ctl rule set pd/default --role voter --count 5 --apart zone,host\n  \
        one more copy of the keys from `m` on that takes no part in votes, in Europe:\n      \
        flotilla ctl rule set eu/copy --role learner --count 1 --from m --on zone=eu-1,eu-2\n  \
        no leaders on spinning disks:\n      \
        flotilla ctl rule set fast/leader --role leader --count 1 --not-on disk=hdd")]
    Set(Box<Set>),
    /// Delete a rule; without pd/default the setting max-replicas stands for it again
    Delete {
        #[command(flatten)]
        name: Name,
    },
}

#[derive(Args, Clone, Debug)]
pub(super) struct Name {
    /// The rule, as GROUP/ID
    #[arg(value_name = "GROUP/ID", value_parser = name)]
    name: (String, String),
}

fn name(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((group, id)) if !group.is_empty() && !id.is_empty() => {
            Ok((group.to_owned(), id.to_owned()))
        }
        _ => Err("expected GROUP/ID, such as pd/default".to_owned()),
    }
}

#[derive(Args, Clone, Debug)]
pub(super) struct Set {
    #[command(flatten)]
    name: Name,
    /// What its replicas are
    #[arg(long, value_enum)]
    role: Role,
    /// How many
    #[arg(long)]
    count: u32,
    /// From this key on: text, other bytes as \xNN
    #[arg(long, value_name = "KEY", value_parser = show::key_bytes)]
    from: Option<Key>,
    /// Up to this key, which is not of it any more
    #[arg(long, value_name = "KEY", value_parser = show::key_bytes)]
    to: Option<Key>,
    /// Only on stores with this label, of one of these values; LABEL alone: of any value
    #[arg(long, value_name = "LABEL[=VALUE,..]")]
    on: Vec<String>,
    /// Not on stores with this label, of one of these values
    #[arg(long, value_name = "LABEL[=VALUE,..]")]
    not_on: Vec<String>,
    /// Labels by which they are kept apart, the widest first
    #[arg(long, value_name = "LABEL,..", value_delimiter = ',')]
    apart: Vec<String>,
    /// Rules of a group go by this, then by id
    #[arg(long, default_value_t = 0)]
    index: i64,
    /// Rules of its group before this one do not count where it does
    #[arg(long = "override")]
    overrides: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Role {
    Voter,
    Leader,
    Follower,
    Learner,
}

/// A rule in PD's JSON.
#[derive(Deserialize, Serialize)]
struct Listed {
    group_id: String,
    id: String,
    #[serde(default)]
    index: i64,
    #[serde(rename = "override", default)]
    overrides: bool,
    start_key: String,
    end_key: String,
    role: String,
    count: u32,
    #[serde(default)]
    label_constraints: Vec<Constraint>,
    #[serde(default)]
    location_labels: Vec<String>,
}

#[derive(Deserialize, Serialize)]
struct Constraint {
    key: String,
    op: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    values: Vec<String>,
}

impl Row for Listed {
    const HEADER: &'static [&'static str] =
        &["rule", "role", "count", "from", "to", "stores", "apart by"];

    fn cells(&self) -> Vec<String> {
        let constraint = |one: &Constraint| {
            let (key, values) = (&one.key, one.values.join(","));
            match one.op.as_str() {
                "in" => format!("{key}={values}"),
                "notIn" => format!("not {key}={values}"),
                "exists" => key.clone(),
                _ => format!("not {key}"),
            }
        };
        let stores: Vec<_> = self.label_constraints.iter().map(constraint).collect();
        vec![
            format!("{}/{}", self.group_id, self.id),
            self.role.clone(),
            self.count.to_string(),
            show::key(&show::unhex(&self.start_key)),
            show::key(&show::unhex(&self.end_key)),
            if stores.is_empty() {
                "any".to_owned()
            } else {
                stores.join(" and ")
            },
            self.location_labels.join(", "),
        ]
    }
}

impl Rule {
    pub(super) async fn run(self, cluster: &Cluster, print: Print) -> anyhow::Result<()> {
        match self {
            Self::List => {
                let rules: Vec<Listed> = cluster.page("/pd/api/v1/config/rules").await?;
                print.rows(&rules);
            }
            Self::Set(set) => {
                let rule = set.rule();
                let (target, body) = ("/pd/api/v1/config/rule", json!(rule));
                let _: String = cluster.request("POST", target, Some(&body)).await?;
                print.one(&rule, || {
                    format!(
                        "rule {}/{} holds; replicas move where it wants them",
                        rule.group_id, rule.id
                    )
                });
            }
            Self::Delete { name } => {
                let (group, id) = name.name;
                let target = format!(
                    "/pd/api/v1/config/rule/{}/{}",
                    show::escaped(&group),
                    show::escaped(&id)
                );
                let gone: anyhow::Result<String> = cluster.request("DELETE", &target, None).await;
                gone.with_context(|| format!("rule {group}/{id}"))?;
                print.one(&json!({ "deleted": format!("{group}/{id}") }), || {
                    format!("rule {group}/{id} is deleted")
                });
            }
        }
        Ok(())
    }
}

impl Set {
    fn rule(self) -> Listed {
        let (group_id, id) = self.name.name;
        let constraints = |texts: Vec<String>, with: &'static str, alone: &'static str| {
            let constraint = move |text: String| match text.split_once('=') {
                Some((key, values)) => Constraint {
                    key: key.to_owned(),
                    op: with.to_owned(),
                    values: values.split(',').map(str::to_owned).collect(),
                },
                None => Constraint {
                    key: text,
                    op: alone.to_owned(),
                    values: Vec::new(),
                },
            };
            texts.into_iter().map(constraint)
        };
        let on = constraints(self.on, "in", "exists");
        let not_on = constraints(self.not_on, "notIn", "notExists");
        let key = |key: Option<Key>| key.map(|Key(bytes)| show::hex(&bytes)).unwrap_or_default();
        Listed {
            group_id,
            id,
            index: self.index,
            overrides: self.overrides,
            start_key: key(self.from),
            end_key: key(self.to),
            role: match self.role {
                Role::Voter => "voter",
                Role::Leader => "leader",
                Role::Follower => "follower",
                Role::Learner => "learner",
            }
            .to_owned(),
            count: self.count,
            label_constraints: on.chain(not_on).collect(),
            location_labels: self.apart,
        }
    }
}
