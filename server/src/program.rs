//! The whole program, but for its allocator: what the command line asks for, and the code it ends with.

use crate::cli::{Cli, Command, ConfigArgs};
use crate::config::{Config, ConfigError, Loaded};
use crate::node::{Leaders, Node};
use crate::{demo, logging, process};
use anyhow::Context;
use clap::Parser;

/// The work is done.
const EXIT_DONE: u8 = 0;
/// The command line or the configuration is wrong; nothing was touched.
const EXIT_USAGE: u8 = 2;
/// The work failed.
const EXIT_FAILED: u8 = 1;

/// Does what the command line says, and ends the process.
pub fn run() -> ! {
    let code = match Cli::parse().command {
        Command::Server(args) => with_config(&args, can_start, server),
        Command::Demo(args) => report_bench(with_runtime(None, demo::run(&args))),
        Command::Bench(bench) => report_bench(with_runtime(None, flotilla_benches::run(bench))),
        Command::Ctl(ctl) => report(with_runtime(Some(1), crate::ctl::run(ctl))),
        Command::Recover(step) => report(with_runtime(Some(1), crate::recover::run(step))),
        Command::Config(args) => with_config(
            &args.config,
            |loaded| loaded.security().map(drop),
            |loaded| {
                print!("{}", loaded.to_toml(args.explain));
                Ok(())
            },
        ),
    };
    process::end(code)
}

fn can_start(loaded: &Loaded) -> Result<(), ConfigError> {
    loaded.data_dir()?;
    loaded.security().map(drop)
}

/// Runs `work` with the configuration from all layers, if it passes `check`.
fn with_config(
    args: &ConfigArgs,
    check: impl FnOnce(&Loaded) -> Result<(), ConfigError>,
    work: impl FnOnce(Loaded) -> anyhow::Result<()>,
) -> u8 {
    let env = std::env::vars_os().filter_map(|(name, value)| {
        // What is not text is no setting of ours.
        Some((name.into_string().ok()?, value.into_string().ok()?))
    });
    let loaded = args.load(env);
    let loaded = match loaded.and_then(|loaded| check(&loaded).map(|()| loaded)) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("flotilla: {error}");
            return EXIT_USAGE;
        }
    };
    report(work(loaded))
}

fn report(result: anyhow::Result<()>) -> u8 {
    match result {
        Ok(()) => EXIT_DONE,
        Err(error) => {
            eprintln!("flotilla: {error:#}");
            EXIT_FAILED
        }
    }
}

/// As [`report`]; what a driver refuses of its command line is a wrong command line.
fn report_bench(result: anyhow::Result<()>) -> u8 {
    let usage = result
        .as_ref()
        .is_err_and(flotilla_benches::is_wrong_command_line);
    let code = report(result);
    if usage { EXIT_USAGE } else { code }
}

/// Runs `work` on `threads` threads; as many as there are cores unless given.
fn with_runtime(
    threads: Option<usize>,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        runtime.worker_threads(threads);
    }
    let runtime = runtime
        .thread_name("rpc")
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let result = runtime.block_on(work);
    // A task that hangs must not keep the process.
    runtime.shutdown_background();
    result
}

fn server(loaded: Loaded) -> anyhow::Result<()> {
    process::end_on_panic();
    let Config {
        log_level,
        log_format,
        connections_max,
        runtime_threads,
        ..
    } = loaded.config;
    let logging = logging::start(log_level, log_format);
    let files = process::raise_open_files(connections_max);
    if files.allowed < files.wanted {
        tracing::warn!(
            allowed = files.allowed,
            wanted = files.wanted,
            "fewer open files are allowed than network.connections-max may need: raise the limit (ulimit -n)"
        );
    }
    let result = with_runtime(runtime_threads, serve(&loaded));
    drop(logging);
    result
}

async fn serve(loaded: &Loaded) -> anyhow::Result<()> {
    // Before anybody can know that it serves.
    let mut stop = process::stop_signal().context("cannot wait for signals")?;
    let node = tokio::select! {
        node = Node::start(loaded) => node?,
        signal = &mut stop => {
            // As a power cut: nothing was acknowledged, and what is half done the next start mends.
            let signal = signal.context("the runtime is ending")?;
            tracing::info!(signal, "stopped while it was starting");
            return Ok(());
        }
    };
    println!("flotilla serves on {}", node.advertised());
    let how = match node.store() {
        store if !store.created => "continued",
        _ if loaded.config.join.is_some() => "joined",
        _ => "created",
    };
    let ids = node.store().ids;
    tracing::info!(addr = %node.addr(), advertised = %node.advertised(), cluster = ids.cluster_id, store = ids.store_id,
        "serving; the cluster was {how}");
    tokio::select! {
        signal = stop => {
            let signal = signal.context("the runtime is ending")?;
            tracing::info!(signal, "stopping");
            node.stop(Leaders::Move).await?;
            tracing::info!("stopped");
            Ok(())
        }
        fatal = node.failed() => {
            // As a power cut: no thread is waited for, the one that failed may hang in the disk.
            std::mem::forget(node);
            Err(fatal.into())
        }
    }
}
