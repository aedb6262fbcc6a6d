//! The drivers of `flotilla bench` on their own: for measuring other systems of the same protocol, and
//! for machines on which no storage engine is to be compiled.

use clap::Parser;
use flotilla_benches::Bench;

/// Load drivers for stores that speak the TiKV protocol
#[derive(Parser)]
#[command(name = "flotilla-bench", version)]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // A command line of `flotilla bench ...` works here as it is.
    let mut words = std::env::args_os().peekable();
    let program = words.next();
    words.next_if(|word| word == "bench");
    let cli = Cli::parse_from(program.into_iter().chain(words));
    flotilla_benches::run(cli.bench).await
}
