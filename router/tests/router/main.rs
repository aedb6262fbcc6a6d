//! Router and poller, one thread, as transcripts: a command per line, what came of it below.
//!
//! ```text
//! register ADDR [cap=N]      send ADDR NAME [bytes=N]      force ADDR NAME
//! tick ADDR | all            broadcast NAME                close ADDR | shutdown
//! round                      state
//! ```
//! What went well says nothing. An input named `heavy` or `light` makes the machine so; `kick-N` makes the executor send `kicked`
//! to machine N; `fatal` makes the executor fail.

mod session;

use std::sync::Arc;

use expect_test::{Expect, expect};
use flotilla_router::{Budget, Fifo, Poller, Router, RouterConfig, SendError};

use session::{Input, Scribe, Session, Writer};

const SMALL: Budget = Budget {
    machines_max: 2,
    heavy_machines_max: 1,
    inputs_per_machine_max: 2,
};

#[track_caller]
fn check(script: &str, expected: Expect) {
    expected.assert_eq(&Session::run(SMALL, u64::MAX, script));
}

/// With room for 100 bytes in all mailboxes together.
#[track_caller]
fn check_bytes(script: &str, expected: Expect) {
    expected.assert_eq(&Session::run(SMALL, 100, script));
}

#[test]
fn a_round_takes_the_oldest_machines_and_a_budget_of_their_inputs() {
    check(
        "register 1
         register 2
         register 3
         send 3 a
         send 1 b
         send 1 c
         send 1 d
         send 2 e
         round
         round
         round",
        expect![[r#"
            register 1
            register 2
            register 3
            send 3 a
            send 1 b
            send 1 c
            send 1 d
            send 2 e
            round
              3: a end
              1: b c end
            round
              2: e end
              1: d end
            round
              nothing
        "#]],
    );
}

#[test]
fn an_address_has_one_machine_and_is_free_when_it_has_retired() {
    check(
        "send 1 a
         register 1
         register 1
         send 1 a
         close 1
         send 1 b
         force 1 c
         register 1
         state
         round
         state
         register 1
         send 1 d
         round",
        expect![[r#"
            send 1 a
              closed, a back
            register 1
            register 1
              1 back
            send 1 a
            close 1
            send 1 b
              closed, b back
            force 1 c
              closed, c back
            register 1
              1 back
            state
              machines [1], ready 1, bytes 0
            round
              1: retire
            state
              machines [], ready 0, bytes 0
            register 1
            send 1 d
            round
              1: d end
        "#]],
    );
}

#[test]
fn effects_of_the_last_turn_may_use_the_address_again() {
    check(
        "register 100
         close 100
         round
         send 100 a
         round",
        expect![[r#"
            register 100
            close 100
            round
              100: retire
              100: born again
            send 100 a
            round
              100: a end
        "#]],
    );
}

#[test]
fn ticks_are_coalesced_and_come_after_the_inputs() {
    check(
        "register 2
         register 1
         tick all
         tick all
         tick 2
         send 2 a
         round
         round
         tick 2
         tick 7
         round",
        expect![[r#"
            register 2
            register 1
            tick all
            tick all
            tick 2
            send 2 a
            round
              1: tick@1 end
              2: a tick@1 end
            round
              nothing
            tick 2
            tick 7
            round
              2: tick@3 end
        "#]],
    );
}

#[test]
fn a_broadcast_reaches_whoever_has_room_in_order_of_address() {
    check(
        "register 3
         register 1 cap=1
         register 2
         send 1 a
         broadcast hello
         round
         round",
        expect![[r#"
            register 3
            register 1 cap=1
            register 2
            send 1 a
            broadcast hello
              reached 2
            round
              1: a end
              2: hello-2 end
            round
              3: hello-3 end
        "#]],
    );
}

#[test]
fn a_full_mailbox_refuses_and_forced_inputs_pass() {
    check(
        "register 1 cap=2
         send 1 a
         send 1 b
         send 1 c
         force 1 d
         round
         send 1 e
         send 1 f
         round",
        expect![[r#"
            register 1 cap=2
            send 1 a
            send 1 b
            send 1 c
              full, c back
            force 1 d
            round
              1: a b end
            send 1 e
            send 1 f
              full, f back
            round
              1: d e end
        "#]],
    );
}

#[test]
fn heavy_machines_go_one_per_round_whatever_waits() {
    check(
        "register 1
         register 2
         register 3
         register 4
         send 1 heavy
         send 2 heavy
         round
         send 1 a
         send 2 b
         send 3 c
         send 4 d
         send 1 light
         round
         round
         send 3 e
         send 1 f
         round",
        expect![[r#"
            register 1
            register 2
            register 3
            register 4
            send 1 heavy
            send 2 heavy
            round
              1: heavy end
              2: heavy end
            send 1 a
            send 2 b
            send 3 c
            send 4 d
            send 1 light
            round
              3: c end
              4: d end
              1: a light end
            round
              2: b end
            send 3 e
            send 1 f
            round
              3: e end
              1: f end
        "#]],
    );
}

#[test]
fn what_is_sent_while_the_effects_are_carried_out_gets_its_own_round() {
    check(
        "register 1
         register 2
         send 1 kick-1
         send 1 kick-2
         round
         round
         round",
        expect![[r#"
            register 1
            register 2
            send 1 kick-1
            send 1 kick-2
            round
              1: kick-1 kick-2 end
            round
              2: kicked end
              1: kicked end
            round
              nothing
        "#]],
    );
}

#[test]
fn a_shutdown_retires_every_machine_and_takes_no_new_one() {
    check(
        "register 2
         register 1
         register 3
         send 3 a
         shutdown
         register 4
         send 1 a
         round
         round
         state",
        expect![[r#"
            register 2
            register 1
            register 3
            send 3 a
            shutdown
            register 4
              4 back
            send 1 a
              closed, a back
            round
              3: retire
              1: retire
            round
              2: retire
            state
              machines [], ready 0, bytes 0
        "#]],
    );
}

#[test]
fn a_fatal_executor_ends_the_round() {
    check(
        "register 1
         register 2
         send 1 fatal
         send 2 a
         round",
        expect![[r#"
            register 1
            register 2
            send 1 fatal
            send 2 a
            round
              1: fatal end
              fatal: 1 is fatal
        "#]],
    );
}

/// One machine can take half of the memory; what is left is shared again, so that the others can
/// still be reached.
#[test]
fn a_hot_machine_leaves_memory_to_the_others() {
    check_bytes(
        "register 1
         register 2
         send 1 a bytes=25
         send 1 b bytes=25
         send 1 c bytes=25
         send 2 d bytes=25
         send 2 e bytes=25
         send 2 f
         force 1 g bytes=80
         send 2 h bytes=1
         state
         round
         state
         send 1 i bytes=100",
        expect![[r#"
            register 1
            register 2
            send 1 a bytes=25
            send 1 b bytes=25
            send 1 c bytes=25
              full, c back
            send 2 d bytes=25
            send 2 e bytes=25
              full, e back
            send 2 f
            force 1 g bytes=80
            send 2 h bytes=1
              full, h back
            state
              machines [1, 2], ready 2, bytes 155
            round
              1: a b end
              2: d f end
            state
              machines [1, 2], ready 1, bytes 80
            send 1 i bytes=100
              full, i back
        "#]],
    );
}

#[test]
#[should_panic(expected = "a round after a fatal error")]
fn no_round_after_a_fatal_error() {
    Session::run(SMALL, 0, "register 1\nsend 1 fatal\nround\nround");
}

#[test]
fn a_handle_outlives_its_machine_and_never_reaches_the_next_one() {
    let router = Router::new(RouterConfig::default());
    let mut poller = Poller::new(
        router.clone(),
        Writer {
            router: router.clone(),
            lines: Vec::new(),
        },
        Budget::default(),
    );
    let input = |name: &str| Input {
        name: name.into(),
        bytes: 0,
    };
    assert!(
        router
            .register(
                1,
                Scribe {
                    addr: 1,
                    heavy: false
                },
                4
            )
            .is_ok()
    );
    let old = router.handle(1).expect("registered");
    assert!(old.send(input("a")).is_ok() && old.force_send(input("b")).is_ok());
    assert_eq!((old.addr(), old.waiting(), old.is_closed()), (1, 2, false));
    router.close(1);
    assert_eq!(poller.round(0, &mut Fifo), Ok(1));
    assert!(
        router
            .register(
                1,
                Scribe {
                    addr: 1,
                    heavy: false
                },
                4
            )
            .is_ok()
    );
    assert!(old.is_closed());
    assert!(matches!(old.send(input("c")), Err(SendError::Closed(back)) if back.name == "c"));
    assert!(router.handle(2).is_none());
    let counters = router.counters();
    assert_eq!(
        (counters.dropped, counters.refused_closed, counters.retired),
        (2, 1, 1)
    );
}

/// With N machines that always have input and M of them per round, each waits at most ⌈N / M⌉ rounds;
/// with H heavy ones beside, each of those at most H.
#[test]
fn the_wait_is_bounded_for_everyone() {
    for (normal, heavy, machines_max) in [(1, 0, 1), (7, 0, 2), (7, 3, 2), (64, 5, 10), (3, 1, 8)] {
        let router: Router<Scribe> = Router::new(RouterConfig::default());
        let budget = Budget {
            machines_max,
            heavy_machines_max: 1,
            inputs_per_machine_max: 1,
        };
        let writer = Writer {
            router: router.clone(),
            lines: Vec::new(),
        };
        let mut poller = Poller::new(router.clone(), writer, budget);
        let count = normal + heavy;
        for addr in 0..count {
            let machine = Scribe {
                addr,
                heavy: addr >= normal,
            };
            assert!(router.register(addr, machine, 4).is_ok());
        }
        let mut last_turn = vec![0; count as usize];
        for round in 1..=200 {
            for addr in 0..count {
                // Always more than a turn takes.
                let _ = router.send(
                    addr,
                    Input {
                        name: "x".into(),
                        bytes: 0,
                    },
                );
            }
            poller.round(round, &mut Fifo).expect("no failure");
            for line in std::mem::take(&mut poller.executor().lines) {
                let addr = line
                    .trim()
                    .split(':')
                    .next()
                    .and_then(|addr| addr.parse::<u64>().ok());
                last_turn[addr.expect("a turn") as usize] = round;
            }
            for addr in 0..count {
                let bound = if addr < normal {
                    normal.div_ceil(machines_max as u64)
                } else {
                    heavy
                };
                let waited = round - last_turn[addr as usize];
                assert!(
                    waited < bound,
                    "machine {addr} of {count} waits {waited} rounds, bound {bound}"
                );
            }
        }
    }
}

/// However the addresses are hashed.
#[test]
fn what_goes_to_all_goes_in_order_of_address() {
    type ToAll = fn(&Router<Scribe>);
    let ways: [ToAll; 3] = [
        Router::tick_all,
        |router| {
            router.broadcast(|_| Input {
                name: "x".into(),
                bytes: 0,
            });
        },
        Router::shutdown,
    ];
    for to_all in ways {
        let router = Router::new(RouterConfig::default());
        for addr in (0..100).map(|step| step * 37 % 101) {
            assert!(
                router
                    .register(addr, Scribe { addr, heavy: false }, 4)
                    .is_ok()
            );
        }
        let writer = Writer {
            router: router.clone(),
            lines: Vec::new(),
        };
        let mut poller = Poller::new(router.clone(), writer, Budget::default());
        to_all(&router);
        assert_eq!(poller.round(0, &mut Fifo), Ok(100));
        let lines = std::mem::take(&mut poller.executor().lines);
        let addr = |line: &String| line.trim().split(':').next().map(str::parse::<u64>);
        assert!(lines.is_sorted_by_key(|line| addr(line).expect("a turn").expect("an address")));
    }
}

#[test]
fn a_machine_can_be_looked_at_until_it_has_retired() {
    let router = Router::new(RouterConfig::default());
    let writer = Writer {
        router: router.clone(),
        lines: Vec::new(),
    };
    let mut poller = Poller::new(router.clone(), writer, Budget::default());
    let heavy = || router.inspect(1, |machine: &Scribe| machine.heavy);
    assert_eq!(heavy(), None);
    assert!(
        router
            .register(
                1,
                Scribe {
                    addr: 1,
                    heavy: false
                },
                4
            )
            .is_ok()
    );
    assert_eq!(heavy(), Some(false));
    assert!(
        router
            .send(
                1,
                Input {
                    name: "heavy".into(),
                    bytes: 0
                }
            )
            .is_ok()
    );
    assert_eq!((poller.round(0, &mut Fifo), heavy()), (Ok(1), Some(true)));
    router.close(1);
    assert_eq!((poller.round(0, &mut Fifo), heavy()), (Ok(1), None));
}

#[test]
fn send_errors_say_what_happened() {
    let texts = [SendError::Full(()), SendError::Closed(())]
        .map(|error| (error.to_string(), format!("{error:?}")));
    expect![[
        r#"[("the mailbox is full", "Full"), ("no machine listens at the address", "Closed")]"#
    ]]
    .assert_eq(&format!("{texts:?}"));
    let _: Arc<dyn std::error::Error> = Arc::new(SendError::Full(()));
}
