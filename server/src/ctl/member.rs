//! `flotilla ctl member`.

use clap::Subcommand;
use flotilla_proto::admin::add_operator_request::Asked;
use flotilla_raftstore::region::META_REGION;
use serde::Serialize;

use super::cluster::Cluster;
use super::show::{Print, Row};
use super::{Wait, operator, region};

/// What about members.
#[derive(Subcommand, Clone, Debug)]
pub(super) enum Member {
    /// All nodes, and which of them leads PD
    List,
    /// The replicas of PD's own region, each as it sees itself
    Status,
    /// Hand the leadership of PD over to another store's node
    TransferLeader {
        /// The id of the store that is to lead
        #[arg(long, value_name = "STORE")]
        to: u64,
        #[command(flatten)]
        wait: Wait,
    },
}

/// A node.
#[derive(Serialize)]
struct Listed {
    id: u64,
    name: String,
    address: String,
    leads: bool,
}

impl Row for Listed {
    const HEADER: &'static [&'static str] = &["store", "name", "address", "PD"];

    fn cells(&self) -> Vec<String> {
        let leads = if self.leads { "leads" } else { "forwards" };
        vec![
            self.id.to_string(),
            self.name.clone(),
            self.address.clone(),
            leads.to_owned(),
        ]
    }
}

impl Member {
    pub(super) async fn run(self, cluster: &Cluster, print: Print) -> anyhow::Result<()> {
        match self {
            Self::List => {
                let found = cluster.members().await?;
                let leader = found.leader.map_or(0, |leader| leader.member_id);
                let listed = found.members.into_iter().map(|member| Listed {
                    leads: member.member_id == leader,
                    id: member.member_id,
                    name: member.name,
                    address: address_of(member.client_urls),
                });
                print.rows(&listed.collect::<Vec<_>>());
                Ok(())
            }
            Self::Status => region::status(cluster, META_REGION, print).await,
            Self::TransferLeader { to, wait } => {
                let asked = Asked::TransferLeader(to);
                if !wait.wait {
                    return operator::add(cluster, META_REGION, asked, &wait, print).await;
                }
                // PD's list of operators ends with its term: the outcome is who leads.
                cluster.add_operator(META_REGION, asked).await?;
                wait.until("the transfer", async || {
                    let leader = cluster.members().await?.leader;
                    let there = leader.is_some_and(|leader| leader.member_id == to);
                    Ok(there.then_some(()))
                })
                .await?;
                print.one(&serde_json::json!({ "leader": to }), || {
                    format!("the node of store {to} leads PD")
                });
                Ok(())
            }
        }
    }
}

/// Without the scheme.
fn address_of(urls: Vec<String>) -> String {
    let url = urls.into_iter().next().unwrap_or_default();
    let address = url.split_once("://").map(|(_, address)| address.to_owned());
    address.unwrap_or(url)
}
