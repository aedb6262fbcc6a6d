//! Every interleaving of senders, closers and pollers, as far as two or three of each go.
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test -p flotilla-mailbox --release --test loom
//! ```
#![cfg(loom)]

use flotilla_mailbox::{Lane, Mailbox, ReadyQueue, Refused, Woken};
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

/// A mailbox with its machine, and how often the machine stands in the ready queue.
struct World {
    mailbox: Mailbox<u32>,
    queued: AtomicUsize,
    /// The machine: what it has handled. Only ever `try_lock`ed: its owner is alone with it.
    machine: Mutex<Machine>,
}

#[derive(Default)]
struct Machine {
    handled: Vec<u32>,
    dropped: Vec<u32>,
    ticks: u32,
    retired: u32,
}

impl World {
    fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            mailbox: Mailbox::new(capacity),
            queued: AtomicUsize::new(0),
            machine: Mutex::new(Machine::default()),
        })
    }

    /// Carries out the answer of a mailbox method.
    fn queue(&self, owed: bool) {
        if owed {
            let before = self.queued.fetch_add(1, Ordering::AcqRel);
            assert_eq!(before, 0, "queued twice");
        }
    }

    fn send(&self, input: u32) -> Result<(), Refused<u32>> {
        self.mailbox
            .send(input, 0, u64::MAX)
            .map(|owed| self.queue(owed))
    }

    /// One turn, if the machine is queued; `false` if it is not.
    fn turn(&self, inputs_max: usize) -> bool {
        if self.queued.swap(0, Ordering::AcqRel) == 0 {
            return false;
        }
        self.mailbox.start();
        let mut inputs = Vec::new();
        let mut machine = self.machine.try_lock().expect("a machine with two owners");
        let taken = self.mailbox.take(inputs_max, &mut inputs, |_| 0);
        machine.ticks += u32::from(taken.tick);
        if taken.closing {
            machine.dropped.extend(inputs);
            machine.retired += 1;
            drop(machine);
            self.mailbox.finish();
        } else {
            machine.handled.extend(inputs);
            drop(machine);
            self.queue(self.mailbox.release(taken.more));
        }
        true
    }

    /// Nobody sends any more: runs what is owed and looks at the machine. A lost wake-up shows as
    /// something that is left.
    fn settle(&self, inputs_max: usize) -> loom::sync::MutexGuard<'_, Machine> {
        while self.turn(inputs_max) {}
        assert!(
            self.mailbox.is_empty(),
            "an input was left and the machine is not queued"
        );
        self.machine.try_lock().expect("a machine that nobody runs")
    }
}

/// All interleavings with at most three preemptions, for models whose full count takes minutes.
fn bounded(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn an_accepted_input_is_always_followed_by_a_turn() {
    loom::model(|| {
        let world = World::new(8);
        let senders: Vec<_> = [1, 2]
            .map(|input| {
                let world = Arc::clone(&world);
                thread::spawn(move || world.send(input).expect("open, and room enough"))
            })
            .into();
        world.turn(8);
        world.turn(8);
        for sender in senders {
            sender.join().unwrap();
        }
        let machine = world.settle(8);
        let mut handled = machine.handled.clone();
        handled.sort_unstable();
        assert_eq!(handled, [1, 2]);
    });
}

#[test]
fn inputs_of_one_sender_keep_their_order_beyond_the_budget() {
    loom::model(|| {
        let world = World::new(8);
        let sender = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                for input in 1..=3 {
                    world.send(input).expect("open, and room enough");
                }
            }
        });
        world.turn(1);
        world.turn(1);
        sender.join().unwrap();
        assert_eq!(world.settle(1).handled, [1, 2, 3]);
    });
}

#[test]
fn two_pollers_never_have_the_same_machine() {
    loom::model(|| {
        let world = World::new(8);
        world.send(1).expect("open");
        let poller = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                world.turn(1);
                world.turn(1);
            }
        });
        let sender = thread::spawn({
            let world = Arc::clone(&world);
            move || world.send(2).expect("open")
        });
        world.turn(1);
        poller.join().unwrap();
        sender.join().unwrap();
        assert_eq!(world.settle(1).handled, [1, 2]);
    });
}

#[test]
fn a_tick_is_queued_once_and_never_lost() {
    loom::model(|| {
        let world = World::new(8);
        let ticker = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                world.queue(world.mailbox.send_tick());
                world.queue(world.mailbox.send_tick());
            }
        });
        let sender = thread::spawn({
            let world = Arc::clone(&world);
            move || world.send(7).expect("open")
        });
        world.turn(8);
        ticker.join().unwrap();
        sender.join().unwrap();
        let machine = world.settle(8);
        assert!((1..=2).contains(&machine.ticks));
        assert_eq!(machine.handled, [7]);
    });
}

#[test]
fn a_tick_after_a_turn_gets_a_turn() {
    loom::model(|| {
        let world = World::new(8);
        world.queue(world.mailbox.send_tick());
        let ticker = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                let due = world.mailbox.send_tick();
                world.queue(due);
            }
        });
        world.turn(8);
        ticker.join().unwrap();
        assert!((1..=2).contains(&world.settle(8).ticks));
        // Nothing is due any more, so this one is a turn of its own.
        world.queue(world.mailbox.send_tick());
        assert!(world.turn(8), "a tick to an idle machine queues it");
    });
}

#[test]
fn close_send_and_a_running_machine_agree_on_every_input() {
    bounded(|| {
        let world = World::new(8);
        world.send(1).expect("open");
        let sender = thread::spawn({
            let world = Arc::clone(&world);
            move || world.send(2)
        });
        let closer = thread::spawn({
            let world = Arc::clone(&world);
            move || world.queue(world.mailbox.close())
        });
        world.turn(8);
        world.turn(8);
        let sent = sender.join().unwrap();
        closer.join().unwrap();
        let machine = world.settle(8);
        assert_eq!(machine.retired, 1, "closed and not retired, or twice");
        let mut seen = [machine.handled.clone(), machine.dropped.clone()].concat();
        seen.sort_unstable();
        match sent {
            Ok(()) => assert_eq!(seen, [1, 2], "accepted: handled or dropped, once"),
            Err(refused) => {
                assert_eq!(refused, Refused::Closed(2));
                assert_eq!(seen, [1]);
            }
        }
        assert_eq!(world.mailbox.send(3, 0, u64::MAX), Err(Refused::Closed(3)));
        assert!(
            !world.mailbox.close() && !world.mailbox.send_tick(),
            "a closed machine is never queued"
        );
    });
}

#[test]
fn two_closers_retire_a_machine_once() {
    loom::model(|| {
        let world = World::new(8);
        let closer = thread::spawn({
            let world = Arc::clone(&world);
            move || world.queue(world.mailbox.close())
        });
        let ticker = thread::spawn({
            let world = Arc::clone(&world);
            move || world.queue(world.mailbox.send_tick())
        });
        world.queue(world.mailbox.close());
        world.turn(8);
        closer.join().unwrap();
        ticker.join().unwrap();
        assert_eq!(world.settle(8).retired, 1);
    });
}

#[test]
fn the_bound_holds_for_senders_at_the_same_moment() {
    loom::model(|| {
        let world = World::new(1);
        let sender = thread::spawn({
            let world = Arc::clone(&world);
            move || world.send(1).is_ok()
        });
        let first = world.send(2).is_ok();
        let second = sender.join().unwrap();
        assert!(first != second, "one of two fits");
        assert_eq!(world.settle(8).handled.len(), 1);
    });
}

/// Deadlock, which `loom` reports, is a wake-up that got lost.
#[test]
fn a_parked_poller_is_woken() {
    loom::model(|| {
        let ready = Arc::new(ReadyQueue::new());
        let pushers: Vec<_> = [(Lane::Normal, 1), (Lane::Low, 2)]
            .map(|(lane, item)| {
                let ready = Arc::clone(&ready);
                thread::spawn(move || ready.push(lane, item))
            })
            .into();
        let mut items = Vec::new();
        while items.len() < 2 {
            assert_eq!(ready.park(), Woken::Ready);
            ready.take(8, 8, |_| 0, &mut items);
        }
        for pusher in pushers {
            pusher.join().unwrap();
        }
        items.sort_unstable();
        assert_eq!(items, [1, 2]);
    });
}

#[test]
fn two_parked_pollers_share_what_comes_and_both_end() {
    bounded(|| {
        let ready = Arc::new(ReadyQueue::new());
        let pollers: Vec<_> = [(); 2]
            .map(|()| {
                let ready = Arc::clone(&ready);
                thread::spawn(move || {
                    let mut items = Vec::new();
                    while ready.park() == Woken::Ready {
                        ready.take(1, 1, |_| 0, &mut items);
                    }
                    items
                })
            })
            .into();
        ready.push_all([(Lane::Normal, 1), (Lane::Low, 2)]);
        ready.stop();
        let mut items: Vec<u32> = Vec::new();
        for poller in pollers {
            items.extend(poller.join().unwrap());
        }
        ready.take(2, 2, |_| 0, &mut items);
        items.sort_unstable();
        assert_eq!(
            items,
            [1, 2],
            "taken once, or left for whoever comes after the stop"
        );
    });
}

#[test]
fn two_items_at_once_wake_two_pollers() {
    bounded(|| {
        let ready = Arc::new(ReadyQueue::new());
        let pollers: Vec<_> = [(); 2]
            .map(|()| {
                let ready = Arc::clone(&ready);
                thread::spawn(move || {
                    let mut items = Vec::new();
                    while items.is_empty() {
                        assert_eq!(ready.park(), Woken::Ready);
                        ready.take(1, 0, |_| 0, &mut items);
                    }
                    items
                })
            })
            .into();
        ready.push_all([(Lane::Normal, 1), (Lane::Normal, 2)]);
        let mut items: Vec<u32> = pollers
            .into_iter()
            .flat_map(|poller| poller.join().unwrap())
            .collect();
        items.sort_unstable();
        assert_eq!(items, [1, 2]);
    });
}

/// The whole way: mailbox, ready queue, a poller that parks.
#[test]
fn a_send_reaches_a_machine_whose_poller_parks() {
    bounded(|| {
        let mailbox = Arc::new(Mailbox::new(8));
        let ready = Arc::new(ReadyQueue::new());
        let senders: Vec<_> = [1, 2]
            .map(|input| {
                let (mailbox, ready) = (Arc::clone(&mailbox), Arc::clone(&ready));
                thread::spawn(move || {
                    if mailbox
                        .send(input, 0, u64::MAX)
                        .expect("open, and room enough")
                    {
                        ready.push(Lane::Normal, ());
                    }
                })
            })
            .into();
        let mut handled: Vec<u32> = Vec::new();
        while handled.len() < 2 {
            assert_eq!(ready.park(), Woken::Ready);
            let mut turns = Vec::new();
            ready.take(8, 8, |_| 0, &mut turns);
            for () in turns {
                mailbox.start();
                let taken = mailbox.take(8, &mut handled, |_| 0);
                if mailbox.release(taken.more) {
                    ready.push(Lane::Normal, ());
                }
            }
        }
        for sender in senders {
            sender.join().unwrap();
        }
        handled.sort_unstable();
        assert_eq!(handled, [1, 2]);
    });
}
