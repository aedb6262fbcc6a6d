//! The command line.

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand};

use flotilla_benches::Bench;

use crate::config::{ConfigError, Layers, Loaded};
use crate::ctl::Ctl;
use crate::demo::DemoArgs;
use crate::recover::Recover;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const ABOUT: &str = "A sharded, replicated key-value store that speaks the TiKV and PD protocols";

const LONG_ABOUT: &str = "\
A sharded, replicated key-value store that speaks the TiKV and PD protocols.

One process is a whole node: it keeps data in regions replicated by raft, and serves clients, PD \
and other nodes on one port. Point any TiKV client at that port.";

const AFTER: &str = "\
Examples:
  See it work: three nodes in a temporary folder under a short load, one of which dies and comes back:
      flotilla demo

  Start a node; the first start creates a cluster, later ones continue it:
      flotilla server --data-dir ./data

  Add a node to that cluster:
      flotilla server --data-dir ./data2 --addr 127.0.0.1:20161 --join 127.0.0.1:20160

  Listen on another address, with a configuration file:
      flotilla server --data-dir ./data --addr 127.0.0.1:4000 --config flotilla.toml

  See the stores of a cluster, and take one out of it:
      flotilla ctl store list
      flotilla ctl store remove 2 --wait

  See every setting, its meaning, and where its value comes from:
      flotilla config --explain

  Measure a running node with the YCSB core workload A:
      flotilla bench ycsb --workload a --records 100000 --duration 30s --threads 64 --pd 127.0.0.1:20160

Every setting can stand in the configuration file, in the environment (FLOTILLA_RAFT_LEASE for
raft.lease) and on the command line (--set raft.lease=500ms); the last of these wins.

Exit codes: 0 done, or stopped as asked; 1 the node failed or could not start, or a measurement failed
or could not write its report; 2 the command line or the configuration is wrong, and nothing was
touched; 130 stopped at once by a second signal, a second or more after the first.";

/// The `flotilla` command.
#[derive(Debug, Parser)]
#[command(name = "flotilla", version, about = ABOUT, long_about = LONG_ABOUT, after_long_help = AFTER,
          after_help = "Run `flotilla --help` for examples.", styles = STYLES, max_term_width = 100,
          arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `flotilla` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node until it is stopped by SIGTERM or Ctrl-C
    #[command(long_about = SERVER_LONG)]
    Server(ConfigArgs),
    /// Start three nodes in a temporary folder, put a short load on them, kill one, print the figures
    #[command(long_about = DEMO_LONG)]
    Demo(DemoArgs),
    /// Measure a running cluster
    #[command(subcommand, long_about = BENCH_LONG)]
    Bench(Bench),
    /// Show a running cluster, and change it: members, stores, regions
    #[command(long_about = CTL_LONG, after_help = CTL_AFTER)]
    Ctl(Ctl),
    /// Go on after the stores that held a majority are lost for good
    #[command(subcommand, long_about = RECOVER_LONG)]
    Recover(Recover),
    /// Print the configuration that a node would run with
    #[command(long_about = CONFIG_LONG)]
    Config(PrintArgs),
}

const SERVER_LONG: &str = "\
Run a node until it is stopped by SIGTERM or Ctrl-C.

With an empty or missing data folder it creates a cluster of one node, or joins the one of `--join`; \
with the folder of an earlier run it continues that one. Once it serves it prints one line, `flotilla serves on ...`, to \
standard output; everything else is logged to standard error.";

const DEMO_LONG: &str = "\
Start three nodes in one process and a temporary folder, put a short load on them, and print the figures.

The nodes speak with each other over loopback, as on three machines. Once every region has three replicas, \
YCSB workload A runs through the stock Rust client. After a third of its time the node that leads most \
regions dies as by `kill -9`: its connections break, and what it had not synced is lost. After two thirds it \
starts again. At the end every record is read back: it must not be older than its last acknowledged write. \
With `--stay` the cluster stays for clients of your own, until Ctrl-C.";

const BENCH_LONG: &str = "\
Measure a running cluster from outside, as its users see it.

`ycsb` is the usual yardstick, through the stock Rust client. `raw` issues bare RPCs and takes turns \
with an echo server, so that the ratio shows what the store costs beyond the RPC itself.";

const CTL_LONG: &str = "\
Show a running cluster, and change it: members, stores, regions.

Any node may be asked. Changes are carried out by the placement driver (PD) step by step, and are \
refused if they would leave data with too few replicas; a refusal says what to do instead.";

const CTL_AFTER: &str = "\
Examples:
  flotilla ctl store list
  flotilla ctl region status 3 --pd 10.0.0.1:20160,10.0.0.2:20160
  flotilla ctl region transfer-leader 3 --to 2 --wait
  flotilla ctl store drain 2 --wait          before its node is stopped for a while
  flotilla ctl store remove 2 --wait         for ever
  flotilla ctl member status --json

Exit codes: 0 done (with --wait) or begun; 1 refused, failed, or not done in time, and the text says why;
2 the command line is wrong.";

const RECOVER_LONG: &str = "\
Go on after the stores that held a majority of some regions are lost for good.

Stop every store that is left. Run `inspect` on each, `plan` over all the reports, read what it says is \
lost, run `apply` with the plan on each, and start them. Each of those regions goes on with the one \
replica whose log is the longest, and gets new ones as soon as there are stores for them. Writes that \
only the lost stores had are gone. A store that was lost must never be started again.";

const CONFIG_LONG: &str = "\
Print the configuration that a node would run with, as a TOML file.

Reads the same file, environment and flags as `flotilla server`, and refuses the same mistakes, but \
starts nothing.";

/// Where the configuration comes from.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigArgs {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "FLOTILLA_CONFIG")]
    config: Option<PathBuf>,
    /// Folder of the node's data, created at the first start
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Address to listen on; port 0 takes any free one [default: 127.0.0.1:20160]
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<String>,
    /// Address that clients and other nodes dial [default: the one listened on]
    #[arg(long, value_name = "HOST:PORT")]
    advertise_addr: Option<String>,
    /// Join the cluster of the node at this address, any of its nodes; without it a new data folder
    /// becomes a cluster of its own
    #[arg(long, value_name = "HOST:PORT")]
    join: Option<String>,
    /// Serve /metrics and the JSON API on this address instead of the main one
    #[arg(long, value_name = "HOST:PORT")]
    status_addr: Option<String>,
    /// Certificates (PEM) of the CA that signed those of nodes and clients. With --cert and --key,
    /// every connection uses TLS
    #[arg(long, value_name = "FILE")]
    ca: Option<String>,
    /// The node's certificate (PEM), with those between it and the CA
    #[arg(long, value_name = "FILE")]
    cert: Option<String>,
    /// The private key (PEM) of the node's certificate
    #[arg(long, value_name = "FILE")]
    key: Option<String>,
    /// Allow other machines to connect without TLS: whoever reaches the port can read and write
    #[arg(long)]
    allow_plaintext: bool,
    /// How much to log: error, warn, info, debug, trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// How to log: text, json [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Any other setting, for example --set raft.lease=500ms; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = split_setting)]
    set: Vec<(String, String)>,
}

/// What to print.
#[derive(Args, Clone, Debug)]
pub struct PrintArgs {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Add to every setting what it means and where its value comes from
    #[arg(long)]
    pub explain: bool,
}

fn split_setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

impl ConfigArgs {
    /// The configuration from all layers.
    ///
    /// # Errors
    /// The first setting that is refused.
    pub fn load(
        &self,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Loaded, ConfigError> {
        let named = [
            ("data-dir", &self.data_dir),
            ("addr", &self.addr),
            ("advertise-addr", &self.advertise_addr),
            ("status-addr", &self.status_addr),
            ("join", &self.join),
            ("ca", &self.ca),
            ("cert", &self.cert),
            ("key", &self.key),
            ("log-level", &self.log_level),
            ("log-format", &self.log_format),
        ];
        let named = named
            .into_iter()
            .filter_map(|(flag, value)| Some((flag, value.clone()?)));
        let plaintext = self
            .allow_plaintext
            .then(|| ("allow-plaintext", "true".to_owned()));
        let named = named.chain(plaintext).map(|(flag, value)| {
            // Flags of grouped settings are written without their group.
            let key = match flag {
                "log-level" | "log-format" => flag.replace("log-", "log."),
                "ca" | "cert" | "key" => format!("security.{flag}"),
                alone => alone.to_owned(),
            };
            (format!("--{flag}"), key, value)
        });
        let set = self
            .set
            .iter()
            .map(|(key, value)| (format!("--set {key}"), key.clone(), value.clone()));
        // The file's own place is no setting.
        let env = env
            .into_iter()
            .filter(|(name, _)| name != "FLOTILLA_CONFIG")
            .collect();
        Layers {
            file: self.config.clone(),
            env,
            flags: named.chain(set).collect(),
        }
        .load()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    fn load(args: &[&str]) -> Result<Loaded, String> {
        let args = ["flotilla", "server"].iter().chain(args);
        let Command::Server(args) = Cli::try_parse_from(args)
            .map_err(|error| error.to_string())?
            .command
        else {
            unreachable!("the subcommand is given");
        };
        args.load(Vec::new()).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_become_settings() {
        let loaded = load(&[
            "--data-dir",
            "d",
            "--addr",
            "10.0.0.1:1",
            "--allow-plaintext",
            "--log-level",
            "debug",
            "--log-format=json",
            "--set",
            "raft.lease = 500ms",
            "--set=network.streams-max=9",
        ])
        .expect("valid");
        let config = &loaded.config;
        assert_eq!(config.data_dir.as_deref(), Some(std::path::Path::new("d")));
        assert_eq!(config.addr.to_string(), "10.0.0.1:1");
        assert_eq!(
            (config.log_level.to_string(), config.log_format.to_string()),
            ("debug".into(), "json".into())
        );
        assert_eq!((config.lease.as_millis(), config.streams_max), (500, 9));
    }

    #[test]
    fn mistakes_on_the_command_line_name_the_flag() {
        for (args, expected) in [
            (
                &["--log-level", "loud"][..],
                "flag --log-level: log.level = \"loud\": expected one of",
            ),
            (
                &["--addr", "nowhere"][..],
                "flag --addr: addr = \"nowhere\": expected HOST:PORT",
            ),
            (
                &["--set", "raft.leese=1s"][..],
                "flag --set raft.leese: unknown setting raft.leese; did you mean raft.lease?",
            ),
            (&["--set", "raft.lease"][..], "expected NAME=VALUE"),
            (
                &["--set", "addr=127.0.0.1:1", "--addr", "127.0.0.1:2"][..],
                "addr is set a second time",
            ),
            (&["--nonsense"][..], "unexpected argument '--nonsense'"),
        ] {
            let message = load(args).expect_err(expected);
            assert!(message.contains(expected), "{args:?}: {message}");
        }
    }
}
