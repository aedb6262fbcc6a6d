//! What concerns the whole process: its signals, its panics, its limits.

use std::backtrace::Backtrace;
use std::io::Write;
use std::panic::PanicHookInfo;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Open files that a node needs beside its connections: both databases, sockets to other stores.
const FILES_BESIDE_CONNECTIONS: u64 = 4_096;

/// A panic anywhere ends the process at once: a thread that is gone while the others go on would
/// leave half a node. Everything acknowledged is in the log, so this is no worse than a power cut.
pub fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let message = last_words(panic);
        // Straight to standard error: the log's own thread may be the one that panics.
        let _ = std::io::stderr().lock().write_all(message.as_bytes());
        std::process::abort();
    }));
}

fn last_words(panic: &PanicHookInfo<'_>) -> String {
    let what = panic
        .payload_as_str()
        .unwrap_or("a panic without a message");
    let at = panic
        .location()
        .map_or_else(String::new, |location| format!(" at {location}"));
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed");
    format!(
        "flotilla: this is a defect; please report it. Thread {name} panicked{at}: {what}\n\
         The process stops now; acknowledged writes are safe and are replayed at the next start.\n{}\n",
        Backtrace::force_capture()
    )
}

/// A signal that comes so soon after the first is the same wish: supervisors and shells signal a
/// process and then its group.
const SAME_WISH: Duration = Duration::from_secs(1);

/// Takes SIGTERM and Ctrl-C from now on: the first one is told, one that comes more than a second
/// later ends the process at once.
///
/// # Errors
/// The operating system refuses to deliver signals.
pub fn stop_signal() -> std::io::Result<oneshot::Receiver<&'static str>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (tell, told) = oneshot::channel();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        // Nobody waits for it any more when the node failed by itself.
        let _ = tell.send(next().await);
        let same = Instant::now() + SAME_WISH;
        let second = loop {
            let second = next().await;
            if Instant::now() >= same {
                break second;
            }
        };
        let _ = writeln!(
            std::io::stderr(),
            "flotilla: {second} again, stopping at once"
        );
        end(EXIT_IMPATIENT);
    });
    Ok(told)
}

/// The exit code after a second signal.
pub const EXIT_IMPATIENT: u8 = 130;

/// Ends the process with an exit code, and runs no destructors of global objects: threads may still
/// be inside RocksDB, and would meet its globals half destroyed.
pub fn end(code: u8) -> ! {
    #[expect(unsafe_code, reason = "the standard library has no such exit")]
    // SAFETY: it is declared as POSIX has it, and may be called at any time.
    unsafe extern "C" {
        safe fn _exit(status: std::ffi::c_int) -> !;
    }
    // Nobody reads it any more, perhaps.
    let _ = std::io::stdout().flush();
    _exit(code.into())
}

/// How many files the process may open, raised as far as allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// The limit now.
    pub allowed: u64,
    /// What `connections` connections and the databases may need.
    pub wanted: u64,
}

/// Raises the limit of open files to what is allowed.
pub fn raise_open_files(connections: usize) -> OpenFiles {
    let wanted = connections as u64 + FILES_BESIDE_CONNECTIONS;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let enough = current.is_none_or(|current| current >= wanted);
    if !enough {
        let raised = maximum.map_or(wanted, |maximum| maximum.min(wanted));
        // Refused only if the hard limit fell meanwhile; what is allowed is read again below.
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(raised),
                maximum,
            },
        );
    }
    OpenFiles {
        allowed: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
        wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_are_raised_as_far_as_allowed() {
        let maximum = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        let files = raise_open_files(100);
        assert_eq!(files.wanted, 100 + FILES_BESIDE_CONNECTIONS);
        assert!(
            files.allowed >= files.wanted.min(maximum),
            "{files:?}, at most {maximum}"
        );
    }
}
