//! The mailbox and the ready queue, one caller at a time. `loom.rs` has the rest.
#![cfg(not(loom))]

use std::time::Duration;

use flotilla_mailbox::{Lane, Mailbox, ReadyQueue, Refused, Taken, Woken};

const HEAVY: u64 = 100;

fn take(mailbox: &Mailbox<u64>, max: usize) -> (Vec<u64>, Taken) {
    let mut inputs = Vec::new();
    let taken = mailbox.take(max, &mut inputs, |input| *input);
    (inputs, taken)
}

/// Each step, whether the caller has to queue the machine after it, and why.
#[test]
fn who_queues_the_machine() {
    let mailbox: Mailbox<u64> = Mailbox::new(8);
    let steps: [(&str, Option<bool>); 19] = [
        ("send", Some(true)),  // idle
        ("send", Some(false)), // stands in the queue already
        ("tick", Some(false)),
        ("start", None),
        ("take", None),           // the inputs and the tick
        ("release", Some(false)), // nothing came meanwhile
        ("tick", Some(true)),
        ("tick", Some(false)), // absorbed
        ("start", None),
        ("take", None),
        ("send", Some(false)),   // running: noted
        ("release", Some(true)), // the note is kept
        ("start", None),
        ("take", None),
        ("close", Some(false)),  // running: noted
        ("close", Some(false)),  // twice is once
        ("release", Some(true)), // the last turn
        ("start", None),
        ("take", None),
    ];
    for (number, (step, expected)) in steps.into_iter().enumerate() {
        let owed = match step {
            "send" => Some(mailbox.send(0, 0, u64::MAX).expect("open, and room enough")),
            "tick" => Some(mailbox.send_tick()),
            "close" => Some(mailbox.close()),
            "release" => Some(mailbox.release(false)),
            "start" => {
                mailbox.start();
                None
            }
            _ => {
                let _ = take(&mailbox, 8);
                None
            }
        };
        assert_eq!(owed, expected, "step {number}: {step}");
    }
    mailbox.finish();
    assert!(!mailbox.send_tick(), "the machine is gone");
}

#[test]
fn a_take_answers_what_there_was() {
    let mailbox: Mailbox<u64> = Mailbox::new(8);
    for input in 1..=3 {
        let _ = mailbox.send(input, input, u64::MAX);
    }
    mailbox.start();
    let taken = Taken {
        tick: false,
        more: true,
        closing: false,
        weight: 3,
    };
    assert_eq!(take(&mailbox, 2), (vec![1, 2], taken));
    assert!(mailbox.release(taken.more), "an input is left");

    mailbox.send_tick();
    let _ = mailbox.send(4, 4, u64::MAX);
    mailbox.close();
    mailbox.start();
    // The last turn takes everything, whatever the budget.
    let taken = Taken {
        tick: true,
        more: false,
        closing: true,
        weight: 7,
    };
    assert_eq!(take(&mailbox, 1), (vec![3, 4], taken));
    mailbox.finish();
}

#[test]
fn bounds_by_count_and_weight() {
    let mailbox: Mailbox<u64> = Mailbox::new(2);
    assert_eq!(
        mailbox.send(HEAVY, HEAVY, HEAVY - 1),
        Err(Refused::Full(HEAVY)),
        "too heavy"
    );
    assert_eq!(
        mailbox.send(HEAVY, HEAVY, HEAVY),
        Ok(true),
        "just light enough"
    );
    assert_eq!(
        mailbox.send(1, 1, HEAVY),
        Err(Refused::Full(1)),
        "together too heavy"
    );
    assert_eq!(mailbox.send(0, 0, HEAVY), Ok(false), "weighs nothing");
    assert_eq!(
        mailbox.send(0, 0, u64::MAX),
        Err(Refused::Full(0)),
        "too many"
    );
    assert_eq!(
        mailbox.force_send(HEAVY, HEAVY),
        Ok(false),
        "must not be lost"
    );
    assert_eq!(mailbox.len(), 3);

    mailbox.start();
    assert_eq!(take(&mailbox, 9).1.weight, 2 * HEAVY);
    assert_eq!(
        mailbox.send(HEAVY, HEAVY, HEAVY),
        Ok(false),
        "what was taken weighs no more"
    );

    mailbox.close();
    assert_eq!(mailbox.send(1, 0, u64::MAX), Err(Refused::Closed(1)));
    assert_eq!(mailbox.force_send(1, 0), Err(1));
}

#[test]
fn a_burst_gives_its_memory_back_and_steady_load_keeps_it() {
    let mailbox: Mailbox<u64> = Mailbox::new(1 << 16);
    let turn = |inputs: u64| {
        for input in 0..inputs {
            let _ = mailbox.send(input, 0, u64::MAX);
        }
        mailbox.start();
        let _ = take(&mailbox, usize::MAX);
        mailbox.release(false);
    };
    turn(1 << 16);
    let burst = mailbox.slots();
    assert!(burst >= 1 << 16);
    for _ in 0..1_000 {
        turn(100);
    }
    let steady = mailbox.slots();
    assert!(
        (100..burst / 16).contains(&steady),
        "{steady} slots for turns of 100, {burst} before"
    );
}

#[test]
#[should_panic(expected = "a machine was started that does not stand in the ready queue")]
fn starting_an_idle_machine_is_a_defect() {
    Mailbox::<u64>::new(1).start();
}

#[test]
#[should_panic(expected = "a machine was released that nobody ran")]
fn releasing_a_queued_machine_is_a_defect() {
    let mailbox = Mailbox::<u64>::new(1);
    mailbox.send_tick();
    mailbox.release(false);
}

#[test]
#[should_panic(expected = "an open mailbox lost its machine")]
fn finishing_an_open_mailbox_is_a_defect() {
    let mailbox = Mailbox::<u64>::new(1);
    mailbox.send_tick();
    mailbox.start();
    mailbox.finish();
}

#[test]
fn lanes_are_first_in_first_out_within_their_shares() {
    let ready = ReadyQueue::new();
    assert!(!ready.push(Lane::Normal, 1), "nobody is parked");
    ready.push_all([
        (Lane::Low, 10),
        (Lane::Normal, 2),
        (Lane::Low, 11),
        (Lane::Normal, 3),
    ]);
    let take = |normal, low| {
        let mut items = Vec::new();
        ready.take(normal, low, |_| 0, &mut items);
        items
    };
    assert_eq!(take(2, 1), [1, 2, 10]);
    assert_eq!(take(9, 0), [3]);
    assert_eq!(ready.len(), 1);
    assert_eq!(take(9, 9), [11]);
    assert_eq!(take(9, 9), [0; 0]);
}

#[test]
fn a_choice_takes_from_anywhere_and_keeps_the_others_in_order() {
    let ready = ReadyQueue::new();
    ready.push_all((0..5).map(|item| (Lane::Normal, item)));
    let mut items = Vec::new();
    let mut counts = Vec::new();
    let last = |count: usize| {
        counts.push(count);
        count - 1
    };
    ready.take(2, 0, last, &mut items);
    ready.take(9, 0, |_| 0, &mut items);
    assert_eq!((items, counts), (vec![4, 3, 0, 1, 2], vec![5, 4]));
}

#[test]
fn nothing_parks_or_pauses_after_a_stop() {
    let ready = ReadyQueue::new();
    ready.push(Lane::Normal, ());
    assert_eq!(ready.park(), Woken::Ready, "something is ready");
    ready.stop();
    assert_eq!(
        (ready.park(), ready.is_stopped(), ready.len()),
        (Woken::Stopped, true, 1)
    );
    ready.pause(Duration::MAX);
}
