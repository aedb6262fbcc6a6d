//! Logs: `tracing` events as text or JSON on standard error.
//!
//! A thread that logs never waits for whoever reads the log: lines go through a bounded queue, and
//! when nobody takes them they are dropped and counted.

use std::io::IsTerminal;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, LogLevel};

/// Lines that may wait to be written.
const LINES_MAX: usize = 16 << 10;
/// Libraries whose own messages are of use only when something is looked for.
const QUIET: &[&str] = &["h2", "hyper", "hyper_util", "tonic", "tower", "tikv_client"];

/// Writes the remaining lines when it is dropped.
#[must_use]
#[derive(Debug)]
pub struct Logging {
    _writer: WorkerGuard,
}

/// Starts logging for the whole process. Once; further calls keep the first setting.
pub fn start(level: LogLevel, format: LogFormat) -> Logging {
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LINES_MAX)
        .lossy(true)
        .thread_name("log-lines")
        .finish(std::io::stderr());
    let lines = fmt::layer()
        .with_writer(writer)
        .with_ansi(std::io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(filter(level));
    // A second node of the same process logs through the first one's subscriber.
    let _ = match format {
        LogFormat::Text => registry.with(lines.with_target(false)).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    Logging { _writer: guard }
}

fn filter(level: LogLevel) -> EnvFilter {
    let mut filter = EnvFilter::new(level.to_string());
    if level != LogLevel::Trace {
        for library in QUIET {
            let quiet = format!("{library}=warn")
                .parse()
                .expect("a constant directive");
            filter = filter.add_directive(quiet);
        }
    }
    filter
}
