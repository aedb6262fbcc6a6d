//! The log writer's two steps, one thread, as transcripts: a command per line, what came of it below.
//!
//! ```text
//! submit NAME [entries=N] [bytes=N]      append      sync      stop
//! begin-sync / end-sync                  a sync during which other commands run
//! fail append | sync                     the next call of the sink fails
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use expect_test::{Expect, expect};
use flotilla_router::{LogConfig, LogSink, LogWriter, Merge};
use parking_lot::Mutex;

struct Batch {
    names: Vec<String>,
    entries: u64,
    bytes: u64,
}

impl Merge for Batch {
    fn merge(&mut self, later: Self) {
        self.names.extend(later.names);
        self.entries += later.entries;
        self.bytes += later.bytes;
    }

    fn is_empty(&self) -> bool {
        self.entries == 0
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn entries(&self) -> u64 {
        self.entries
    }
}

/// A disk that says what it does. `during` runs inside the next sync.
#[derive(Default)]
struct Disk {
    written: AtomicU64,
    lines: Mutex<Vec<String>>,
    fail: Mutex<Option<&'static str>>,
    during: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Disk {
    fn note(&self, line: impl Into<String>) {
        self.lines.lock().push(line.into());
    }

    fn fails(&self, call: &str) -> bool {
        let mut fail = self.fail.lock();
        let fails = *fail == Some(call);
        if fails {
            *fail = None;
        }
        fails
    }
}

impl LogSink for Disk {
    type Batch = Batch;
    type Error = String;

    fn append(&self, batch: &Batch) -> Result<u64, String> {
        if self.fails("append") {
            return Err("no space".into());
        }
        let number = self.written.fetch_add(1, Ordering::SeqCst) + 1;
        self.note(format!("write {number}: {}", batch.names.join(" ")));
        Ok(number)
    }

    fn sync(&self) -> Result<u64, String> {
        let written = self.written.load(Ordering::SeqCst);
        if let Some(during) = self.during.lock().take() {
            self.note("sync begins");
            during();
        }
        if self.fails("sync") {
            return Err("input/output error".into());
        }
        self.note(format!("synced up to {written}"));
        Ok(written)
    }
}

struct Session {
    disk: Arc<Disk>,
    writer: LogWriter<Disk, String>,
}

impl Session {
    fn run(script: &str) -> String {
        let disk = Arc::new(Disk::default());
        let config = LogConfig {
            write_bytes_max: 100,
            pending_bytes_max: 200,
        };
        let session = Self {
            writer: LogWriter::new(Arc::clone(&disk), config),
            disk,
        };
        let mut out = String::new();
        let mut lines = script
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty());
        while let Some(line) = lines.next() {
            if line == "begin-sync" {
                let inside: Vec<&str> = lines
                    .by_ref()
                    .take_while(|line| *line != "end-sync")
                    .collect();
                session.sync_during(&inside);
                out.push_str(&format!("begin-sync {} end-sync\n", inside.join("; ")));
            } else {
                session.command(line);
                out.push_str(&format!("{line}\n"));
            }
            for note in session.disk.lines.lock().drain(..) {
                out.push_str(&format!("  {note}\n"));
            }
        }
        out
    }

    fn command(&self, line: &str) {
        command(&self.disk, &self.writer, line);
    }

    fn sync_during(&self, inside: &[&str]) {
        let inside: Vec<String> = inside.iter().map(|line| (*line).to_owned()).collect();
        let (disk, writer) = (Arc::clone(&self.disk), self.writer.clone());
        *self.disk.during.lock() = Some(Box::new(move || {
            inside.iter().for_each(|line| command(&disk, &writer, line))
        }));
        self.command("sync");
    }
}

fn command(disk: &Disk, writer: &LogWriter<Disk, String>, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let option = |name: &str, otherwise| {
        let value = words
            .iter()
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        value.map_or(otherwise, |value| value.parse::<u64>().expect("a number"))
    };
    let ended = |result: Result<bool, String>| match result {
        Ok(true) => {}
        Ok(false) => disk.note("nothing to do"),
        Err(error) => disk.note(format!("fatal: {error}")),
    };
    match words[0] {
        "submit" => {
            let entries = option("entries", 1);
            let batch = Batch {
                names: vec![words[1].to_owned()],
                entries,
                bytes: option("bytes", 10 * entries),
            };
            if let Err(refused) = writer.submit(batch, words[1].to_owned()) {
                disk.note(format!("refused: {refused}"));
            }
        }
        "append" => ended(writer.append_step()),
        "sync" => ended(
            writer.sync_step(&mut |durable| disk.note(format!("durable: {}", durable.join(" ")))),
        ),
        "stop" => writer.stop(),
        "fail" => {
            *disk.fail.lock() = Some(if words[1] == "append" {
                "append"
            } else {
                "sync"
            })
        }
        "state" => {
            disk.note(format!(
                "pending {} bytes, behind {}",
                writer.pending_bytes(),
                writer.is_behind()
            ));
            disk.note(format!("{:?}", writer.counters()));
        }
        other => panic!("no command {other}"),
    }
}

#[track_caller]
fn check(script: &str, expected: Expect) {
    expected.assert_eq(&Session::run(script));
}

#[test]
fn what_waits_is_one_write_and_what_is_written_one_sync() {
    check(
        "append
         sync
         submit a
         submit b
         append
         submit c
         append
         sync
         append
         sync
         state",
        expect![[r#"
            append
              nothing to do
            sync
              nothing to do
            submit a
            submit b
            append
              write 1: a b
            submit c
            append
              write 2: c
            sync
              synced up to 2
              durable: a b c
            append
              nothing to do
            sync
              nothing to do
            state
              pending 0 bytes, behind false
              LogCounters { submissions: 3, batches: 2, syncs: 1, entries: 3, bytes: 30, durable: 3 }
        "#]],
    );
}

/// The clock of the writer: a sync covers what was written while the last one ran.
#[test]
fn a_sync_covers_what_came_during_the_last_one() {
    check(
        "submit a
         append
         begin-sync
         submit b
         append
         submit c
         append
         submit d
         end-sync
         append
         begin-sync
         submit e
         append
         end-sync
         sync
         state",
        expect![[r#"
            submit a
            append
              write 1: a
            begin-sync submit b; append; submit c; append; submit d end-sync
              sync begins
              write 2: b
              write 3: c
              synced up to 1
              durable: a
            append
              write 4: d
            begin-sync submit e; append end-sync
              sync begins
              write 5: e
              synced up to 4
              durable: b c d
            sync
              synced up to 5
              durable: e
            state
              pending 0 bytes, behind false
              LogCounters { submissions: 5, batches: 5, syncs: 3, entries: 5, bytes: 50, durable: 5 }
        "#]],
    );
}

#[test]
fn a_write_takes_no_more_than_its_bytes_and_at_least_one_batch() {
    check(
        "submit a bytes=60
         submit b bytes=60
         submit c bytes=10
         submit d bytes=500
         submit e bytes=1
         append
         append
         append
         append
         state
         sync
         state",
        expect![[r#"
            submit a bytes=60
            submit b bytes=60
            submit c bytes=10
            submit d bytes=500
            submit e bytes=1
            append
              write 1: a b
            append
              write 2: c d
            append
              write 3: e
            append
              nothing to do
            state
              pending 631 bytes, behind true
              LogCounters { submissions: 5, batches: 3, syncs: 0, entries: 5, bytes: 631, durable: 0 }
            sync
              synced up to 3
              durable: a b c d e
            state
              pending 0 bytes, behind false
              LogCounters { submissions: 5, batches: 3, syncs: 1, entries: 5, bytes: 631, durable: 5 }
        "#]],
    );
}

#[test]
fn an_empty_batch_is_not_written_and_keeps_its_place() {
    check(
        "submit a entries=0
         append
         sync
         submit b
         append
         submit c entries=0
         append
         submit d
         sync
         append
         submit e entries=0
         append
         sync
         state",
        expect![[r#"
            submit a entries=0
            append
            sync
              durable: a
            submit b
            append
              write 1: b
            submit c entries=0
            append
            submit d
            sync
              synced up to 1
              durable: b c
            append
              write 2: d
            submit e entries=0
            append
            sync
              synced up to 2
              durable: d e
            state
              pending 0 bytes, behind false
              LogCounters { submissions: 5, batches: 2, syncs: 2, entries: 2, bytes: 20, durable: 5 }
        "#]],
    );
}

#[test]
fn after_a_failed_append_nothing_goes_on() {
    check(
        "submit a
         append
         fail append
         submit b
         append
         submit c
         append
         sync",
        expect![[r#"
            submit a
            append
              write 1: a
            fail append
            submit b
            append
              fatal: no space
            submit c
              refused: the log has failed: no space
            append
              nothing to do
            sync
              nothing to do
        "#]],
    );
}

#[test]
fn after_a_failed_sync_nothing_goes_on() {
    check(
        "submit a
         append
         submit b
         fail sync
         sync
         submit c
         append
         sync
         state",
        expect![[r#"
            submit a
            append
              write 1: a
            submit b
            fail sync
            sync
              fatal: input/output error
            submit c
              refused: the log has failed: input/output error
            append
              nothing to do
            sync
              nothing to do
            state
              pending 20 bytes, behind false
              LogCounters { submissions: 2, batches: 1, syncs: 0, entries: 1, bytes: 10, durable: 0 }
        "#]],
    );
}

/// The sync itself succeeds, but the store is ending: its releases stay where they are.
#[test]
fn an_append_that_fails_during_a_sync_stops_its_releases() {
    check(
        "submit a
         append
         begin-sync
         submit b
         fail append
         append
         end-sync
         sync",
        expect![[r#"
            submit a
            append
              write 1: a
            begin-sync submit b; fail append; append end-sync
              sync begins
              fatal: no space
              synced up to 1
            sync
              nothing to do
        "#]],
    );
}

#[test]
fn a_stopped_writer_finishes_what_it_took() {
    check(
        "submit a
         append
         submit b
         stop
         submit c
         append
         sync
         append
         sync",
        expect![[r#"
            submit a
            append
              write 1: a
            submit b
            stop
            submit c
              refused: the log writer has stopped
            append
              write 2: b
            sync
              synced up to 2
              durable: a b
            append
              nothing to do
            sync
              nothing to do
        "#]],
    );
}

#[test]
fn the_failure_can_be_asked_for() {
    let disk = Arc::new(Disk::default());
    let writer: LogWriter<Disk, ()> = LogWriter::new(Arc::clone(&disk), LogConfig::default());
    assert_eq!(writer.failure(), None);
    *disk.fail.lock() = Some("append");
    let batch = Batch {
        names: Vec::new(),
        entries: 1,
        bytes: 1,
    };
    assert_eq!(writer.submit(batch, ()), Ok(()));
    assert_eq!(writer.append_step(), Err("no space".to_owned()));
    assert_eq!(writer.failure(), Some("no space".to_owned()));
    assert!(!writer.append_waits() && !writer.sync_waits());
}

/// A sink that breaks its word.
struct Liar {
    numbers: Mutex<Vec<u64>>,
    synced: u64,
}

impl LogSink for Liar {
    type Batch = Batch;
    type Error = String;

    fn append(&self, _batch: &Batch) -> Result<u64, String> {
        Ok(self.numbers.lock().pop().expect("a number per append"))
    }

    fn sync(&self) -> Result<u64, String> {
        Ok(self.synced)
    }
}

fn lie(numbers: [u64; 2], synced: u64) {
    let numbers = Mutex::new(numbers.into_iter().rev().collect());
    let writer: LogWriter<Liar, ()> =
        LogWriter::new(Arc::new(Liar { numbers, synced }), LogConfig::default());
    for _ in 0..2 {
        let batch = Batch {
            names: Vec::new(),
            entries: 1,
            bytes: 1,
        };
        writer.submit(batch, ()).expect("it runs");
        writer.append_step().expect("no failure");
    }
    writer.sync_step(&mut |_| ()).expect("no failure");
}

#[test]
#[should_panic(expected = "write 1 came after write 1")]
fn numbers_that_do_not_rise_are_a_defect() {
    lie([1, 1], 1);
}

#[test]
#[should_panic(expected = "a sync reached 1, but 2 was written before")]
fn a_sync_that_leaves_something_out_is_a_defect() {
    lie([1, 2], 1);
}
