//! The machines that have something to do, and the pollers that wait for them.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::Duration;

use crate::sync::{Condvar, Mutex, MutexGuard, lock};

/// The two lanes of a [`ReadyQueue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Served first.
    Normal,
    /// Heavy machines: a few per round, however many wait.
    Low,
}

/// Why [`ReadyQueue::park`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Something is ready, or was a moment ago.
    Ready,
    /// [`ReadyQueue::stop`] was called; nothing parks any more.
    Stopped,
}

/// First in, first out per lane. Pollers park here when both lanes are empty.
#[derive(Debug)]
pub struct ReadyQueue<T> {
    lanes: Mutex<Lanes<T>>,
    /// Parked pollers: something became ready.
    ready: Condvar,
    /// Paused pollers: the pressure may be over.
    resumed: Condvar,
}

#[derive(Debug)]
struct Lanes<T> {
    normal: VecDeque<T>,
    low: VecDeque<T>,
    /// Pollers that wait on `ready` and were not woken yet.
    parked: usize,
    /// Pollers that were woken and have not returned yet: a second push does not wake them again.
    waking: usize,
    stopped: bool,
}

impl<T> Default for ReadyQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> ReadyQueue<T> {
    /// Empty, nobody parked.
    pub fn new() -> Self {
        let (normal, low) = (VecDeque::new(), VecDeque::new());
        Self {
            lanes: Mutex::new(Lanes {
                normal,
                low,
                parked: 0,
                waking: 0,
                stopped: false,
            }),
            ready: Condvar::new(),
            resumed: Condvar::new(),
        }
    }

    /// Puts an item at the end of a lane. Answers whether a parked poller had to be woken.
    pub fn push(&self, lane: Lane, item: T) -> bool {
        let wake = {
            let mut lanes = lock(&self.lanes);
            lanes.lane(lane).push_back(item);
            lanes.wake(1)
        };
        self.notify(wake)
    }

    /// Puts items at the ends of their lanes, in order. Answers whether parked pollers had to be woken.
    pub fn push_all(&self, items: impl IntoIterator<Item = (Lane, T)>) -> bool {
        let wake = {
            let mut lanes = lock(&self.lanes);
            let mut count = 0;
            for (lane, item) in items {
                lanes.lane(lane).push_back(item);
                count += 1;
            }
            lanes.wake(count)
        };
        self.notify(wake)
    }

    /// Moves up to `normal_max` items of the normal lane and up to `low_max` of the low one to
    /// `into`. `choose` answers which of the items of the lane is next, given how many there are
    /// (0 is the oldest).
    pub fn take(
        &self,
        normal_max: usize,
        low_max: usize,
        mut choose: impl FnMut(usize) -> usize,
        into: &mut Vec<T>,
    ) {
        let mut lanes = lock(&self.lanes);
        for (lane, max) in [(Lane::Normal, normal_max), (Lane::Low, low_max)] {
            let lane = lanes.lane(lane);
            for _ in 0..max.min(lane.len()) {
                let index = choose(lane.len());
                into.extend(if index == 0 {
                    lane.pop_front()
                } else {
                    lane.remove(index)
                });
            }
        }
    }

    /// Items in both lanes.
    pub fn len(&self) -> usize {
        let lanes = lock(&self.lanes);
        lanes.normal.len() + lanes.low.len()
    }

    /// Nothing is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until something is ready; at once if something is.
    pub fn park(&self) -> Woken {
        let mut lanes = lock(&self.lanes);
        if lanes.stopped {
            return Woken::Stopped;
        }
        if !lanes.normal.is_empty() || !lanes.low.is_empty() {
            return Woken::Ready;
        }
        lanes.parked += 1;
        loop {
            lanes = wait(&self.ready, lanes);
            if lanes.waking > 0 {
                lanes.waking -= 1;
                return if lanes.stopped {
                    Woken::Stopped
                } else {
                    Woken::Ready
                };
            }
        }
    }

    /// Waits until [`ReadyQueue::resume`] or [`ReadyQueue::stop`] is called, at most `timeout`,
    /// whatever is ready.
    pub fn pause(&self, timeout: Duration) {
        let lanes = lock(&self.lanes);
        if !lanes.stopped {
            drop(
                self.resumed
                    .wait_timeout(lanes, timeout)
                    .unwrap_or_else(PoisonError::into_inner),
            );
        }
    }

    /// Ends every [`ReadyQueue::pause`].
    pub fn resume(&self) {
        self.resumed.notify_all();
    }

    /// Wakes every poller; from now on none parks or pauses. What is ready stays.
    pub fn stop(&self) {
        {
            let mut lanes = lock(&self.lanes);
            lanes.stopped = true;
            lanes.wake(usize::MAX);
        }
        self.ready.notify_all();
        self.resumed.notify_all();
    }

    /// Whether [`ReadyQueue::stop`] was called.
    pub fn is_stopped(&self) -> bool {
        lock(&self.lanes).stopped
    }

    fn notify(&self, wake: usize) -> bool {
        match wake {
            0 => {}
            1 => self.ready.notify_one(),
            _ => self.ready.notify_all(),
        }
        wake > 0
    }
}

impl<T> Lanes<T> {
    fn lane(&mut self, lane: Lane) -> &mut VecDeque<T> {
        match lane {
            Lane::Normal => &mut self.normal,
            Lane::Low => &mut self.low,
        }
    }

    /// Marks up to `count` parked pollers as woken; answers how many.
    fn wake(&mut self, count: usize) -> usize {
        let count = count.min(self.parked);
        self.parked -= count;
        self.waking += count;
        count
    }
}

fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}
