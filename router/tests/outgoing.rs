//! The outgoing queues as transcripts: a command per line, what came of it below.
//!
//! ```text
//! push STORE LANE NAME [bytes=N] [key=N]     drain STORE LANE [bytes=N]
//! listen STORE      remove STORE             state
//! ```
//! Limits: control 3 messages and 30 bytes, append 10 and 60, snapshot 1 and 50; 100 bytes over all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use expect_test::{Expect, expect};
use flotilla_router::{Lane, LaneLimits, Loopback, Outgoing, OutgoingConfig, Routed};
use parking_lot::Mutex;

#[derive(Debug)]
struct Message {
    name: String,
    store: u64,
    lane: Lane,
    bytes: u64,
    key: Option<u64>,
}

impl Routed for Message {
    fn store(&self) -> u64 {
        self.store
    }

    fn lane(&self) -> Lane {
        self.lane
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn coalesce_key(&self) -> Option<u64> {
        self.key
    }
}

fn limits(messages_max: usize, bytes_max: u64) -> LaneLimits {
    LaneLimits {
        messages_max,
        bytes_max,
    }
}

fn tiny() -> Outgoing<Message> {
    Outgoing::new(OutgoingConfig {
        control: limits(3, 30),
        append: limits(10, 60),
        snapshot: limits(1, 50),
        bytes_max: 100,
    })
}

fn lane(word: &str) -> Lane {
    match word {
        "control" => Lane::Control,
        "append" => Lane::Append,
        "snapshot" => Lane::Snapshot,
        other => panic!("no lane {other}"),
    }
}

fn names(messages: &[Message]) -> String {
    let names: Vec<&str> = messages
        .iter()
        .map(|message| message.name.as_str())
        .collect();
    if names.is_empty() {
        "nothing".into()
    } else {
        names.join(" ")
    }
}

fn run(script: &str) -> String {
    let outgoing = tiny();
    let notes = Arc::new(Mutex::new(Vec::new()));
    let mut out = String::new();
    for line in script
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        command(&outgoing, &notes, line);
        out.push_str(&format!("{line}\n"));
        for note in notes.lock().drain(..) {
            out.push_str(&format!("  {note}\n"));
        }
    }
    out
}

fn command(outgoing: &Outgoing<Message>, notes: &Arc<Mutex<Vec<String>>>, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let option = |name: &str| {
        let value = words
            .iter()
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        value.map(|value| value.parse::<u64>().expect("a number"))
    };
    let store = || words[1].parse::<u64>().expect("a store");
    let note = |text: String| notes.lock().push(text);
    match words[0] {
        "push" => {
            let (name, lane) = (words[3].to_owned(), lane(words[2]));
            let bytes = option("bytes").unwrap_or(10);
            let message = Message {
                name,
                store: store(),
                lane,
                bytes,
                key: option("key"),
            };
            if let Err(back) = outgoing.push(message) {
                note(format!("full, {} back", back.name));
            }
        }
        "drain" => {
            let bytes_max = option("bytes").unwrap_or(u64::MAX);
            note(names(&outgoing.drain(store(), lane(words[2]), bytes_max)));
        }
        "listen" => {
            let (notes, store) = (Arc::clone(notes), store());
            let told = move |lane| {
                notes
                    .lock()
                    .push(format!("store {store} is told of {lane:?}"))
            };
            outgoing.on_ready(store, Arc::new(told));
        }
        "remove" => note(names(&outgoing.remove(store()))),
        "state" => {
            note(format!(
                "stores {:?}, {} bytes wait",
                outgoing.stores(),
                outgoing.bytes()
            ));
            note(format!("{:?}", outgoing.counters()));
        }
        other => panic!("no command {other}"),
    }
}

#[track_caller]
fn check(script: &str, expected: Expect) {
    expected.assert_eq(&run(script));
}

#[test]
fn a_bulk_message_is_what_waits_within_its_bytes() {
    check(
        "push 2 append a
         push 2 append b bytes=25
         push 2 control v
         push 2 append c
         drain 2 append bytes=35
         drain 2 append bytes=1
         drain 2 append
         drain 2 control
         drain 3 control
         state",
        expect![[r#"
            push 2 append a
            push 2 append b bytes=25
            push 2 control v
            push 2 append c
            drain 2 append bytes=35
              a b
            drain 2 append bytes=1
              c
            drain 2 append
              nothing
            drain 2 control
              v
            drain 3 control
              nothing
            state
              stores [2], 0 bytes wait
              OutgoingCounters { messages: 4, coalesced: 0, refused: 0, bulks: 3, sent: 4, sent_bytes: 55 }
        "#]],
    );
}

#[test]
fn a_lane_is_bounded_by_messages_and_by_bytes() {
    check(
        "push 2 control a
         push 2 control b
         push 2 control c
         push 2 control d bytes=0
         drain 2 control bytes=10
         push 2 control e bytes=11
         push 2 control f bytes=10
         push 2 snapshot s bytes=51
         push 2 snapshot s bytes=50
         state",
        expect![[r#"
            push 2 control a
            push 2 control b
            push 2 control c
            push 2 control d bytes=0
              full, d back
            drain 2 control bytes=10
              a
            push 2 control e bytes=11
              full, e back
            push 2 control f bytes=10
            push 2 snapshot s bytes=51
              full, s back
            push 2 snapshot s bytes=50
            state
              stores [2], 80 bytes wait
              OutgoingCounters { messages: 5, coalesced: 0, refused: 3, bulks: 1, sent: 1, sent_bytes: 10 }
        "#]],
    );
}

#[test]
fn heartbeats_replace_each_other_in_their_place() {
    check(
        "push 2 control hb1 key=7
         push 2 control vote
         push 2 control hb2 key=7
         push 2 control hb9 key=9
         push 2 control hb3 key=7 bytes=5
         state
         push 2 control hb4 key=7 bytes=11
         push 3 control other key=7
         drain 2 control bytes=5
         push 2 control hb5 key=7
         push 2 control hb6 key=9
         drain 2 control
         push 2 control hb7 key=7
         drain 2 control
         drain 3 control
         state",
        expect![[r#"
            push 2 control hb1 key=7
            push 2 control vote
            push 2 control hb2 key=7
            push 2 control hb9 key=9
            push 2 control hb3 key=7 bytes=5
            state
              stores [2], 25 bytes wait
              OutgoingCounters { messages: 5, coalesced: 2, refused: 0, bulks: 0, sent: 0, sent_bytes: 0 }
            push 2 control hb4 key=7 bytes=11
              full, hb4 back
            push 3 control other key=7
            drain 2 control bytes=5
              hb3
            push 2 control hb5 key=7
            push 2 control hb6 key=9
            drain 2 control
              vote hb6 hb5
            push 2 control hb7 key=7
            drain 2 control
              hb7
            drain 3 control
              other
            state
              stores [2, 3], 0 bytes wait
              OutgoingCounters { messages: 9, coalesced: 3, refused: 1, bulks: 4, sent: 6, sent_bytes: 55 }
        "#]],
    );
}

/// Store 2 takes nothing out. Its lanes fill up; stores 3 and 4 go on, and each finds less room, never
/// none.
#[test]
fn a_slow_store_never_blocks_another() {
    check(
        "push 2 append a bytes=25
         push 2 append b bytes=25
         push 2 append c bytes=1
         push 2 control d
         push 3 append e bytes=20
         push 3 append f bytes=1
         push 4 append g bytes=10
         push 4 append h bytes=1
         drain 3 append
         push 3 append i bytes=20
         drain 3 append
         drain 4 append
         state",
        expect![[r#"
            push 2 append a bytes=25
            push 2 append b bytes=25
            push 2 append c bytes=1
              full, c back
            push 2 control d
            push 3 append e bytes=20
            push 3 append f bytes=1
              full, f back
            push 4 append g bytes=10
            push 4 append h bytes=1
              full, h back
            drain 3 append
              e
            push 3 append i bytes=20
            drain 3 append
              i
            drain 4 append
              g
            state
              stores [2, 3, 4], 60 bytes wait
              OutgoingCounters { messages: 6, coalesced: 0, refused: 3, bulks: 3, sent: 3, sent_bytes: 50 }
        "#]],
    );
}

#[test]
fn the_sender_of_a_store_is_told_when_a_lane_is_not_empty_any_more() {
    check(
        "push 2 append a
         listen 2
         push 2 append b
         push 2 control c
         push 2 control d
         drain 2 append bytes=10
         push 2 append e
         drain 2 append
         push 2 append f
         push 3 append g
         listen 4
         push 4 snapshot s",
        expect![[r#"
            push 2 append a
            listen 2
              store 2 is told of Append
            push 2 append b
            push 2 control c
              store 2 is told of Control
            push 2 control d
            drain 2 append bytes=10
              a
            push 2 append e
            drain 2 append
              b e
            push 2 append f
              store 2 is told of Append
            push 3 append g
            listen 4
            push 4 snapshot s
              store 4 is told of Snapshot
        "#]],
    );
}

#[test]
fn a_store_is_told_of_when_it_is_met_also_one_met_before() {
    let outgoing = tiny();
    let push = |store| {
        let message = Message {
            name: "a".to_owned(),
            store,
            lane: Lane::Append,
            bytes: 1,
            key: None,
        };
        outgoing.push(message).expect("there is room");
    };
    push(1);
    let met = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&met);
    outgoing.on_store(Arc::new(move |store| note.lock().push(store)));
    push(1);
    push(2);
    push(2);
    assert_eq!(*met.lock(), [1, 2]);
    outgoing.remove(1);
    push(1);
    assert_eq!(*met.lock(), [1, 2, 1]);
}

#[test]
fn a_removed_store_gives_its_messages_back() {
    check(
        "listen 2
         push 2 append a
         push 2 control b key=1
         push 3 append c
         remove 2
         remove 2
         state
         push 2 control d key=1
         drain 2 control",
        expect![[r#"
            listen 2
            push 2 append a
              store 2 is told of Append
            push 2 control b key=1
              store 2 is told of Control
            push 3 append c
            remove 2
              b a
            remove 2
              nothing
            state
              stores [3], 10 bytes wait
              OutgoingCounters { messages: 3, coalesced: 0, refused: 0, bulks: 0, sent: 0, sent_bytes: 0 }
            push 2 control d key=1
            drain 2 control
              d
        "#]],
    );
}

/// A message that has its store forgotten while it is pushed, as another thread might.
struct Racing {
    outgoing: Outgoing<Racing>,
    raced: AtomicBool,
}

impl Routed for Racing {
    fn store(&self) -> u64 {
        2
    }

    fn lane(&self) -> Lane {
        Lane::Append
    }

    fn bytes(&self) -> u64 {
        // The queue was found, and is not locked yet.
        if !self.raced.swap(true, Ordering::SeqCst) {
            self.outgoing.remove(2);
        }
        10
    }

    fn coalesce_key(&self) -> Option<u64> {
        None
    }
}

#[test]
fn a_message_pushed_while_its_store_is_forgotten_waits_in_the_new_queue() {
    let outgoing = Outgoing::new(OutgoingConfig::default());
    let message = Racing {
        outgoing: outgoing.clone(),
        raced: AtomicBool::new(false),
    };
    assert!(outgoing.push(message).is_ok());
    assert_eq!(
        (outgoing.waiting(2, Lane::Append), outgoing.bytes()),
        (1, 10)
    );
    assert_eq!(outgoing.drain(2, Lane::Append, 100).len(), 1);
    assert_eq!(outgoing.bytes(), 0);
}

#[test]
fn the_loopback_delivers_in_order_of_store_and_lane() {
    let outgoing = tiny();
    let mut loopback = Loopback::new(outgoing.clone(), 10);
    let seen = Arc::new(Mutex::new(Vec::new()));
    for store in [3, 2] {
        let (seen, outgoing) = (Arc::clone(&seen), outgoing.clone());
        let receiver = move |lane, messages: Vec<Message>| {
            for message in &messages {
                seen.lock()
                    .push(format!("{store} {lane:?} {}", message.name));
                if message.name == "ping" {
                    let pong = Message {
                        name: "pong".into(),
                        store,
                        lane,
                        bytes: 1,
                        key: None,
                    };
                    outgoing.push(pong).expect("room enough");
                }
            }
        };
        loopback.connect(store, Box::new(receiver));
    }
    for line in [
        "push 3 append a",
        "push 2 append ping",
        "push 2 append b",
        "push 2 control c",
        "push 9 append d",
    ] {
        command(&outgoing, &Arc::default(), line);
    }
    assert_eq!(loopback.deliver(), 4);
    assert_eq!(
        *seen.lock(),
        ["2 Control c", "2 Append ping", "2 Append b", "3 Append a"]
    );
    // What a receiver sends waits for the next delivery, so that two that answer each other end.
    assert_eq!((loopback.deliver(), loopback.deliver()), (1, 0));
    loopback.disconnect(2);
    command(&outgoing, &Arc::default(), "push 2 append e");
    assert_eq!(
        (loopback.deliver(), outgoing.waiting(2, Lane::Append)),
        (0, 1)
    );
}
