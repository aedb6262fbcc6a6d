//! A node as a process: started, asked, signalled, killed.

use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::wire;

/// How long a process may take to say what is waited for, or to end. Far above what it takes: only
/// a process that hangs gets there.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at a condition that nobody announces ...
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// ... and how often it is looked at.
const LOOKS_MAX: u32 = 3_000;

/// What a node prints on standard output once it serves, before its address.
const SERVES: &str = "flotilla serves on ";

/// A pause before something is tried again whose time nobody announces; nothing is right only
/// because of it.
#[expect(
    clippy::disallowed_methods,
    reason = "another process cannot wake us; this is the one place where a thread sleeps"
)]
pub(crate) fn rest(time: Duration) {
    thread::sleep(time);
}

/// Looks again and again until `look` finds something.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..LOOKS_MAX {
        if let Some(found) = look() {
            return found;
        }
        rest(LOOK_EVERY);
    }
    panic!("waited {:?} for this: {what}", LOOK_EVERY * LOOKS_MAX);
}

/// Tells whoever runs the tests, and not only who reads the output of those that failed, what this
/// machine does not let them show.
pub(crate) fn not_shown_here(what: &str, why: &str) {
    let _ = writeln!(io::stderr(), "NOT TESTED HERE: {what}: {why}");
}

/// What a process has written to one of its streams so far.
#[derive(Clone)]
struct Said(Arc<(Mutex<Text>, Condvar)>);

#[derive(Default)]
struct Text {
    text: String,
    ended: bool,
}

impl Said {
    /// Collects what comes out of `stream`, on a thread of its own: nobody may wait for us to read.
    fn listen(stream: impl Read + Send + 'static) -> Self {
        let said = Self(Arc::default());
        let told = said.clone();
        thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                told.change(|text| text.text.push_str(&String::from_utf8_lossy(&line)));
                line.clear();
            }
            told.change(|text| text.ended = true);
        });
        said
    }

    fn lock(&self) -> MutexGuard<'_, Text> {
        // Whoever panicked while it waited has changed nothing.
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Text)) {
        change(&mut self.lock());
        self.0.1.notify_all();
    }

    fn so_far(&self) -> String {
        self.lock().text.clone()
    }

    /// Waits until `find` finds something; `None` if the stream ended without it.
    fn wait_for<T>(&self, what: &str, find: impl Fn(&Text) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        let mut text = self.lock();
        loop {
            if let Some(found) = find(&text) {
                return Some(found);
            }
            if text.ended {
                return None;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited {PATIENCE:?} for this: {what}");
            let woken = self.0.1.wait_timeout(text, left);
            text = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn whole(&self, what: &str) -> String {
        let ended = |text: &Text| text.ended.then(|| text.text.clone());
        self.wait_for(what, ended).unwrap_or_default()
    }
}

/// How a process ended, and all it said.
#[derive(Debug)]
pub(crate) struct Exit {
    /// `None`: by a signal.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Exit {
    /// It did not start, for a reason that has all of `parts` in it.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(!self.out.contains(SERVES), "it served: {self:?}");
        self.says(parts);
    }

    /// It told all of `parts`, in the words of a message and not of a panic.
    #[track_caller]
    pub(crate) fn says(&self, parts: &[&str]) {
        for part in parts {
            assert!(
                self.err.contains(part),
                "{part:?} is not in: {}\n{self:?}",
                self.err
            );
        }
        for defect in ["panicked", "this is a defect", "RUST_BACKTRACE"] {
            assert!(!self.err.contains(defect), "{self:?}");
        }
    }
}

/// A running process. Killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    out: Said,
    err: Said,
}

impl Process {
    pub(crate) fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = eventually("the binary to be complete", || match command.spawn() {
            // It was copied, and a process that another test starts still has it open.
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => None,
            started => Some(started.expect("started")),
        });
        let out = Said::listen(child.stdout.take().expect("piped"));
        let err = Said::listen(child.stderr.take().expect("piped"));
        Self { child, out, err }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Exit {
        // Its streams end when it does: it starts no others.
        let err = self.err.whole("the end of the process");
        let out = self.out.whole("the end of the process");
        let status = self.child.wait().expect("a child");
        Exit {
            code: status.code(),
            out,
            err,
        }
    }

    /// Ends it as a power cut would, and waits until it is gone.
    pub(crate) fn kill9(&mut self) {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Free space that a node keeps unless a test says otherwise; tests write little.
const DISK_RESERVE: (&str, &str) = ("FLOTILLA_STORAGE_DISK_RESERVE", "64MiB");

/// The binary with `args`, without the settings of our own environment.
pub(crate) fn flotilla<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    clean(Command::new(env!("CARGO_BIN_EXE_flotilla")), args)
}

/// `command` with `args`, without the settings of our own environment.
pub(crate) fn clean<S: AsRef<std::ffi::OsStr>>(
    mut command: Command,
    args: impl IntoIterator<Item = S>,
) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FLOTILLA_") {
            command.env_remove(name);
        }
    }
    command.env(DISK_RESERVE.0, DISK_RESERVE.1).args(args);
    command
}

/// The arguments of a node in `dir` on a free port, with settings `NAME=VALUE`.
pub(crate) fn server_args(dir: &Path, settings: &[&str]) -> Vec<String> {
    let dir = dir.to_str().expect("a readable path");
    let mut args: Vec<String> = ["server", "--data-dir", dir, "--addr", "127.0.0.1:0"]
        .map(str::to_owned)
        .to_vec();
    for setting in settings {
        args.extend(["--set".to_owned(), (*setting).to_owned()]);
    }
    args
}

/// Starts a node that must not come up, and waits for its end.
#[track_caller]
pub(crate) fn refused_start(dir: &Path, settings: &[&str], parts: &[&str]) {
    Process::spawn(flotilla(server_args(dir, settings)))
        .wait()
        .refused(EXIT_FAILED, parts);
}

/// The exit code of a node that could not start or go on.
pub(crate) const EXIT_FAILED: i32 = 1;
/// The exit code of a node whose configuration is wrong.
pub(crate) const EXIT_USAGE: i32 = 2;
/// The exit code after a second signal.
pub(crate) const EXIT_IMPATIENT: i32 = 130;

/// What a node's log says about its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) created: bool,
    pub(crate) replayed_entries: u64,
    pub(crate) replayed_bytes: u64,
}

/// A node that serves.
pub(crate) struct Node {
    process: Process,
    addr: String,
    dir: PathBuf,
}

impl Node {
    /// Starts a node in `dir` and waits until it serves.
    #[track_caller]
    pub(crate) fn start(dir: &Path, settings: &[&str]) -> Self {
        Self::of(flotilla(server_args(dir, settings)), dir)
    }

    /// Waits until the node that `command` starts in `dir` serves.
    #[track_caller]
    pub(crate) fn of(command: Command, dir: &Path) -> Self {
        Self::try_of(command, dir).unwrap_or_else(|exit| panic!("did not start: {exit:?}"))
    }

    /// The same; otherwise how it ended.
    pub(crate) fn try_of(command: Command, dir: &Path) -> Result<Self, Exit> {
        let process = Process::spawn(command);
        let line = |text: &Text| {
            let said = text.text.strip_prefix(SERVES)?;
            Some(said.strip_suffix('\n')?.to_owned())
        };
        let Some(addr) = process.out.wait_for("the node to serve", line) else {
            return Err(process.wait());
        };
        Ok(Self {
            process,
            addr,
            dir: dir.to_owned(),
        })
    }

    /// `HOST:PORT`.
    pub(crate) fn addr(&self) -> &str {
        &self.addr
    }

    /// Its data folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.process.err.so_far()
    }

    /// Waits for a line of the log that has all of `parts` in it.
    #[track_caller]
    pub(crate) fn logs(&self, parts: &[&str]) -> String {
        let line = |text: &Text| {
            let mut lines = text.text.lines();
            let found = lines.find(|line| parts.iter().all(|part| line.contains(part)));
            found.map(str::to_owned)
        };
        let what = format!("a line of the log with {parts:?}");
        let found = self.process.err.wait_for(&what, line);
        found.unwrap_or_else(|| panic!("no {what} in:\n{}", self.log()))
    }

    /// What its log says about its start.
    #[track_caller]
    pub(crate) fn opened(&self) -> Opened {
        let line = self.logs(&["the store cluster="]);
        let number = |name: &str| -> u64 {
            let value = line.split_whitespace().find_map(|word| {
                word.strip_prefix(name)
                    .and_then(|rest| rest.strip_prefix('='))
            });
            let value = value.unwrap_or_else(|| panic!("no {name} in {line}"));
            value.parse().expect("a number")
        };
        Opened {
            created: line.contains("created the store"),
            replayed_entries: number("replayed_entries"),
            replayed_bytes: number("replayed_bytes"),
        }
    }

    /// Ends it as a power cut would; returns when it is gone.
    pub(crate) fn kill9(mut self) {
        self.process.kill9();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub(crate) fn wait(self) -> Exit {
        self.process.wait()
    }

    /// Stops it in order.
    #[track_caller]
    pub(crate) fn stop(self) {
        self.signal(Signal::TERM);
        let exit = self.wait();
        assert_eq!(exit.code, Some(0), "{exit:?}");
        exit.says(&["stopped"]);
    }

    /// Bytes of memory it occupies.
    pub(crate) fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: u64 = kib.expect("VmRSS in kB").parse().expect("a number");
        kib << 10
    }

    /// Files and sockets it has open.
    pub(crate) fn open_files(&self) -> usize {
        let files = fs::read_dir(format!("/proc/{}/fd", self.id())).expect("it runs");
        files.count()
    }

    /// A metric of a page that was fetched, 0 if it is not there.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        wire::metric(&wire::get(&self.addr, "/metrics").body, name)
    }
}
