//! `flotilla recover`: going on after the stores that held a majority are lost for good (contracts: C37).

mod files;

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use comfy_table::Table;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use flotilla_engine::{FlushReason, StateBatch, StateOp, StateStore};
use flotilla_pd::records::{self, Durable};
use flotilla_pd_client::{ClientConfig, PdClient};
use flotilla_proto::metapb::{NodeState, StoreState};
use flotilla_raftstore::recover::{self, Damage, Plan, Survivor};
use flotilla_raftstore::region::META_REGION;
use flotilla_tls::{Dial, TlsArgs};

use self::files::{PlanFile, Report, StoreRecord, to_hex};
use crate::store::{OfflineStore, clock};

/// How long a store that is said to be lost has to prove that it lives.
const ALIVE_WAIT: Duration = Duration::from_secs(2);

/// The steps, in order.
#[derive(Subcommand, Clone, Debug)]
pub enum Recover {
    /// Look at a stopped store and write down what it holds; once for each store that is left
    Inspect(InspectArgs),
    /// Make a plan from the reports of all stores that are left; say what is lost
    Plan(PlanArgs),
    /// Carry out the plan on a stopped store; once for each store that is left
    Apply(ApplyArgs),
}

/// Which store.
#[derive(Args, Clone, Debug)]
pub struct InspectArgs {
    /// The store's data folder
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The report to write (JSON); standard output unless given
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// From what.
#[derive(Args, Clone, Debug)]
pub struct PlanArgs {
    /// What `inspect` wrote, of every store that is left
    #[arg(value_name = "REPORT", required = true)]
    reports: Vec<PathBuf>,
    /// The plan to write (JSON)
    #[arg(long, value_name = "FILE", default_value = "recover-plan.json")]
    out: PathBuf,
    #[command(flatten)]
    tls: TlsArgs,
}

/// Where.
#[derive(Args, Clone, Debug)]
pub struct ApplyArgs {
    /// What `plan` wrote
    #[arg(value_name = "PLAN")]
    plan: PathBuf,
    /// The store's data folder
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The id of the cluster, as a sign that it is meant; asked for at a terminal
    #[arg(long, value_name = "ID")]
    cluster_id: Option<u64>,
}

/// Does one of the steps.
///
/// # Errors
/// It was refused, and nothing was changed; or the storage failed: do it again.
pub async fn run(step: Recover) -> anyhow::Result<()> {
    match step {
        Recover::Inspect(args) => inspect(&args),
        Recover::Plan(args) => plan(&args).await,
        Recover::Apply(args) => apply(&args),
    }
}

// ---- inspect ----

fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    let store = OfflineStore::open(&args.data_dir)?;
    let boot = store.replay()?;
    let ids = store.ids();
    let replicas = recover::inventory(&boot, ids.store_id);
    let mut report = Report::new(ids.cluster_id, ids.store_id, &replicas);
    if replicas
        .iter()
        .any(|replica| replica.region.id == META_REGION)
    {
        let addresses = pd_rows(&store)?.stores.into_values();
        let record = |store: flotilla_proto::metapb::Store| StoreRecord {
            id: store.id,
            address: store.address,
        };
        report.stores = addresses.map(record).collect();
    }
    let text = serde_json::to_string_pretty(&report)?;
    match &args.out {
        None => println!("{text}"),
        Some(path) => {
            write(path, &text)?;
            println!(
                "store {} of cluster {}: {} replicas, written to {}",
                ids.store_id,
                ids.cluster_id,
                replicas.len(),
                path.display()
            );
        }
    }
    Ok(())
}

fn pd_rows(store: &OfflineStore) -> anyhow::Result<Durable> {
    let rows = store.meta_rows()?;
    Ok(Durable::load(rows.iter().map(|(key, value)| (key, value)))?)
}

// ---- plan ----

async fn plan(args: &PlanArgs) -> anyhow::Result<()> {
    let mut reports = Vec::new();
    for path in &args.reports {
        let report: Report = files::read(path, "a report of `flotilla recover inspect`")?;
        reports.push(report);
    }
    let survivors = reports
        .iter()
        .map(Report::survivor)
        .collect::<anyhow::Result<Vec<Survivor>>>()?;
    let plan = recover::plan(&survivors)?;
    refuse_if_alive(&plan, &reports, &args.tls.dial()?).await?;
    show(&plan);
    let id = format!("{:016x}", clock::wall().0);
    let file = PlanFile::new(&plan, &survivors, id);
    write(&args.out, &serde_json::to_string_pretty(&file)?)?;
    let stores: Vec<String> = file.survivors.iter().map(u64::to_string).collect();
    println!(
        "\nThe plan is in {}. To go on with what is left: run `flotilla recover apply` with it on the \
         stopped stores {}, then start them. Stores {:?} must never be started again.",
        args.out.display(),
        stores.join(", "),
        plan.lost
    );
    Ok(())
}

/// A store that answers is not lost.
async fn refuse_if_alive(plan: &Plan, reports: &[Report], dial: &Dial) -> anyhow::Result<()> {
    let known = reports.iter().flat_map(|report| &report.stores);
    for StoreRecord { id, address } in known.filter(|store| plan.lost.contains(&store.id)) {
        let config = ClientConfig {
            dial: dial.clone(),
            ..ClientConfig::new(vec![address.clone()])
        };
        let Ok(pd) = PdClient::new(config) else {
            continue;
        };
        match tokio::time::timeout(ALIVE_WAIT, pd.cluster_id()).await {
            Ok(Ok(cluster)) if cluster == plan.cluster => bail!(
                "store {id} answers at {address}: it is not lost. Stop it and add a report of it, or \
                 start the others and let them work together"
            ),
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) if listens(address).await => bail!(
                "somebody listens at {address}, where store {id} was, and does not tell its cluster. If \
                 the nodes speak TLS, give --ca, --cert and --key; if it is not that store, stop it"
            ),
            Ok(Err(_)) | Err(_) => {}
        }
    }
    Ok(())
}

async fn listens(address: &str) -> bool {
    let connected = tokio::time::timeout(ALIVE_WAIT, tokio::net::TcpStream::connect(address));
    matches!(connected.await, Ok(Ok(_)))
}

fn show(plan: &Plan) {
    println!(
        "Cluster {}: {} regions have lost their majority, {} have it and are left alone.\n",
        plan.cluster,
        plan.forced.len(),
        plan.untouched
    );
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "region",
        "from",
        "to",
        "lost voters",
        "goes on with store",
        "log ends at",
        "undecided entries",
    ]);
    for choice in &plan.forced {
        let bound = |key: &[u8], open: &str| match key {
            [] => open.to_owned(),
            key => to_hex(key),
        };
        table.add_row([
            choice.region.id.to_string(),
            bound(&choice.region.start_key, "the first key"),
            bound(&choice.region.end_key, "the last key"),
            choice.lost_voters.to_string(),
            choice.peer.store_id.to_string(),
            choice.last.index.to_string(),
            choice.undecided.to_string(),
        ]);
    }
    println!("{table}");
    println!("\nWhat may be lost:");
    println!("- in each of these regions: writes that only the lost stores had");
    for damage in &plan.damage {
        match damage {
            Damage::MayMissWrites { .. } => {}
            Damage::Outdated { region } => println!(
                "- region {region}: its replicas here have missed a split, and the rest of it is gone"
            ),
            Damage::Keys {
                start,
                end,
                taken_by,
            } => println!(
                "- every key from {} up to {}: no store here has them; {}",
                match &start[..] {
                    [] => "the first".to_owned(),
                    start => to_hex(start),
                },
                match &end[..] {
                    [] => "the last".to_owned(),
                    end => to_hex(end),
                },
                match taken_by {
                    Some(region) => format!("region {region} goes on with them, empty"),
                    None =>
                        "no region beside them goes on, and they can be neither read nor written"
                            .to_owned(),
                }
            ),
        }
    }
}

// ---- apply ----

fn apply(args: &ApplyArgs) -> anyhow::Result<()> {
    let plan: PlanFile = files::read(&args.plan, "a plan of `flotilla recover plan`")?;
    let store = OfflineStore::open(&args.data_dir)?;
    let ids = store.ids();
    if ids.cluster_id != plan.cluster {
        bail!(
            "the plan is for cluster {}, {} is of cluster {}",
            plan.cluster,
            store.path().display(),
            ids.cluster_id
        );
    }
    if !plan.survivors.contains(&ids.store_id) {
        bail!(
            "the plan was made without store {}: make a new one with its report",
            ids.store_id
        );
    }
    let done = store.path().join(format!("recovered-{}.json", plan.id));
    if done.exists() {
        bail!(
            "this plan was carried out on this store before: {}",
            done.display()
        );
    }
    confirm(args.cluster_id, plan.cluster)?;
    let choices = plan.choices()?;
    let boot = store.replay()?;
    recover::settle(&boot, ids.store_id, &choices, &store.log)?;
    let boot = store.replay()?;
    let forced = recover::force(&boot, ids.store_id, &choices, &store.state)?;
    if forced.iter().any(|region| region.id == META_REGION) {
        bury(&store, &plan.lost)?;
    }
    write(&done, &serde_json::to_string_pretty(&plan)?)?;
    println!(
        "store {}: {} regions go on with its replicas alone. Start it when the plan is carried out on \
         all of the stores {:?}.",
        ids.store_id,
        forced.len(),
        plan.survivors
    );
    Ok(())
}

/// The id typed by hand: this cannot be undone.
fn confirm(given: Option<u64>, expected: u64) -> anyhow::Result<()> {
    let given = match given {
        Some(given) => given,
        None if std::io::stdin().is_terminal() => {
            print!("This cannot be undone. Type the id of the cluster to go on: ");
            std::io::stdout().flush()?;
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line)?;
            line.trim().parse().context("that is no cluster id")?
        }
        None => {
            bail!("--cluster-id is missing: it says that this is meant, for it cannot be undone")
        }
    };
    if given != expected {
        bail!("the plan is for cluster {expected}, not {given}; nothing was changed");
    }
    Ok(())
}

/// PD refuses the lost stores from now on.
fn bury(store: &OfflineStore, lost: &[u64]) -> anyhow::Result<()> {
    let stores = pd_rows(store)?.stores.into_values();
    let rows = stores
        .filter(|found| lost.contains(&found.id))
        .map(|found| {
            let gone = flotilla_proto::metapb::Store {
                state: StoreState::Tombstone.into(),
                node_state: NodeState::Removed.into(),
                physically_destroyed: true,
                ..found
            };
            records::put_store(&gone)
        });
    let puts = rows.filter_map(|(key, value)| {
        Some(StateOp::Put {
            cf: flotilla_engine::Cf::CfMeta,
            key,
            value: value?,
        })
    });
    let batch = StateBatch {
        ops: puts.collect(),
        admin: true,
    };
    if !batch.is_empty() {
        store.state.write(&batch)?;
        store.state.flush_all(FlushReason::Manual)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
