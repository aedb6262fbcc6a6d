//! The drivers of `flotilla bench` on their own: for measuring other systems of the same protocol, and
//! for machines on which no storage engine is to be compiled.

use std::process::ExitCode;

use clap::Parser;
use flotilla_benches::Bench;

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 the run failed or its report cannot be written; 2 the command line is wrong, and \
nothing was touched.";

/// Load drivers for stores that speak the TiKV protocol
#[derive(Parser)]
#[command(name = "flotilla-bench", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[tokio::main]
async fn main() -> ExitCode {
    // A command line of `flotilla bench ...` works here as it is.
    let mut words = std::env::args_os().peekable();
    let program = words.next();
    words.next_if(|word| word == "bench");
    let cli = Cli::parse_from(program.into_iter().chain(words));
    let Err(error) = flotilla_benches::run(cli.bench).await else {
        return ExitCode::SUCCESS;
    };
    eprintln!("flotilla-bench: {error:#}");
    if flotilla_benches::is_wrong_command_line(&error) {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}
