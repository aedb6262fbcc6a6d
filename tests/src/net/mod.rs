//! The simulated network: who can reach whom, how long a message takes, what is lost on the way.
//!
//! Nothing here carries a message. It says for each what becomes of it; the simulator makes events
//! of that. A way is directed: a link may be cut one way and open the other.

mod partition;
mod rates;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use flotilla_proto::clock::Mono;

use crate::rng::Rng;

pub use partition::{Partition, Shape};
pub use rates::NetRates;

/// An end of a way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A store, by id.
    Store(u64),
    /// A client, by number; the operator comes after the last.
    Client(u64),
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(id) => write!(f, "store {id}"),
            Self::Client(number) => write!(f, "client {number}"),
        }
    }
}

/// From where to where.
pub type Way = (Place, Place);

/// What a way does to what is sent along it: drawn once per world, within its rates.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    /// Microseconds, least and most.
    delay: (u64, u64),
    /// Chances per thousand.
    loss: u64,
    loss_single: u64,
    duplicate: u64,
    overtake: u64,
    /// Per ten thousand.
    late: u64,
}

/// What became of one thing that was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// When each copy arrives; none: it is lost.
    pub arrivals: Vec<Mono>,
    /// The sender is told that it was lost, then.
    pub noticed: Option<Mono>,
    /// It may arrive before what was sent earlier.
    pub overtakes: bool,
}

/// The network of a run.
#[derive(Debug)]
pub struct Net {
    rates: NetRates,
    links: BTreeMap<Way, Link>,
    /// How many partitions cut a way.
    cuts: BTreeMap<Way, u32>,
    /// When the last thing of a stream arrives: a stream keeps its order.
    last: BTreeMap<(Way, u8), Mono>,
    root: Rng,
    rng: Rng,
    /// Faults are over.
    calm: bool,
}

impl Net {
    /// A network that behaves as `rates` say.
    pub fn new(rates: NetRates, root: Rng) -> Self {
        Self {
            rates,
            links: BTreeMap::new(),
            cuts: BTreeMap::new(),
            last: BTreeMap::new(),
            rng: root.fork("ways"),
            root,
            calm: false,
        }
    }

    /// Something is sent along `way`, as part of one of its streams.
    pub fn send(&mut self, now: Mono, way: Way, stream: u8) -> Sent {
        if self.is_cut(way) {
            return self.lost(now);
        }
        let link = self.link(way);
        if self.rng.chance(link.loss) {
            return self.lost(now);
        }
        let copies = 1 + usize::from(self.rng.chance(link.duplicate));
        let overtakes = copies > 1 || self.rng.chance(link.overtake);
        let mut arrivals = Vec::with_capacity(copies);
        for _ in 0..copies {
            let mut at = now + self.delay(&link);
            if !overtakes {
                let last = self.last.entry((way, stream)).or_default();
                *last = at.max(*last);
                at = *last;
            }
            arrivals.push(at);
        }
        Sent {
            arrivals,
            noticed: None,
            overtakes,
        }
    }

    /// What is rare would hardly ever be late: in a world where things are, such a thing is held on its
    /// way with a chance of so many in a thousand, while what follows goes on. Answers for how long.
    pub fn hold(&mut self, way: Way, chance: u64) -> Option<Duration> {
        let link = self.link(way);
        let held = link.late > 0 && self.rng.chance(chance);
        held.then(|| self.rng.micros(10_000..=5_000_000))
    }

    /// Something that cannot be duplicated is asked or answered along `way`.
    pub fn call(&mut self, now: Mono, way: Way) -> Sent {
        if self.is_cut(way) || (!self.calm && self.rng.chance(self.rates.call_loss)) {
            return self.lost(now);
        }
        let link = self.link(way);
        Sent {
            arrivals: vec![now + self.delay(&link)],
            noticed: None,
            overtakes: true,
        }
    }

    /// Something is sent along `way` on a connection: it keeps its order, comes once, and what is lost
    /// takes the connection along.
    pub fn stream(&mut self, now: Mono, way: Way, stream: u8) -> Sent {
        // A connection outlives most of what a single call does not.
        if self.is_cut(way) || (!self.calm && self.rng.below(10_000) < self.rates.call_loss) {
            return self.lost(now);
        }
        let link = self.link(way);
        let at = now + self.delay(&link);
        let last = self.last.entry((way, stream)).or_default();
        *last = at.max(*last);
        Sent {
            arrivals: vec![*last],
            ..Sent::default()
        }
    }

    /// One message of a bulk that gets through is lost all the same: there was no room for it.
    pub fn drops_single(&mut self, way: Way) -> bool {
        let chance = self.link(way).loss_single;
        chance > 0 && self.rng.chance(chance)
    }

    /// What was on its way when its way was cut.
    pub fn lost(&mut self, now: Mono) -> Sent {
        let noticed = self.rng.chance(self.rates.noticed);
        let wait = self.rng.micros(100..=50_000);
        Sent {
            noticed: noticed.then_some(now + wait),
            ..Sent::default()
        }
    }

    fn delay(&mut self, link: &Link) -> Duration {
        let (least, most) = link.delay;
        if link.late > 0 && self.rng.below(10_000) < link.late {
            return self.rng.micros(10_000..=5_000_000);
        }
        self.rng.micros(least..=most)
    }

    fn link(&mut self, way: Way) -> Link {
        if self.calm {
            return Link {
                delay: (50, 500),
                ..Link::default()
            };
        }
        let (rates, root) = (&self.rates, &self.root);
        *self
            .links
            .entry(way)
            .or_insert_with(|| rates.link(&mut root.fork(&format!("{way:?}"))))
    }

    // ---- partitions ----

    /// Whether nothing gets along `way`.
    pub fn is_cut(&self, way: Way) -> bool {
        self.cuts.contains_key(&way)
    }

    /// Whether any way is cut.
    pub fn any_cut(&self) -> bool {
        !self.cuts.is_empty()
    }

    /// Cuts a way once more.
    pub fn cut(&mut self, way: Way) {
        *self.cuts.entry(way).or_default() += 1;
    }

    /// One of those who cut a way does so no more. Answers whether it is open now.
    pub fn heal(&mut self, way: Way) -> bool {
        let Some(count) = self.cuts.get_mut(&way) else {
            return true;
        };
        *count -= 1;
        let open = *count == 0;
        if open {
            self.cuts.remove(&way);
        }
        open
    }

    /// All faults are over, for good.
    pub fn calm(&mut self) {
        self.cuts.clear();
        self.calm = true;
    }

    /// Faults are over.
    pub fn is_calm(&self) -> bool {
        self.calm
    }

    /// How long until the next partition; `None`: there is none.
    pub fn next_partition(&mut self) -> Option<Duration> {
        let every = self.rates.partition_every_ms;
        (every > 0 && !self.calm).then(|| self.rng.micros(1_000..=every * 2_000))
    }

    /// How long a way stays cut.
    pub fn cut_for(&mut self) -> Duration {
        let most = self.rates.partition_ms_max.max(10) * 1_000;
        Duration::from_micros(self.rng.log_range(10_000..=most))
    }

    /// What a partition cuts among these stores and clients.
    pub fn partition(&mut self, stores: &[u64], clients: u64) -> Partition {
        Partition::draw(stores, clients, &mut self.rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAY: Way = (Place::Store(1), Place::Store(2));
    const BACK: Way = (Place::Store(2), Place::Store(1));

    fn net(rates: NetRates) -> Net {
        Net::new(rates, Rng::new(1))
    }

    #[test]
    fn a_stream_keeps_its_order_and_loses_nothing() {
        let mut net = net(NetRates::perfect());
        let mut last = Mono::default();
        for nth in 0..1000 {
            let sent = net.send(Mono(nth * 10), WAY, 0);
            assert_eq!(sent.arrivals.len(), 1);
            assert!(sent.arrivals[0] >= last && sent.arrivals[0] > Mono(nth * 10));
            last = sent.arrivals[0];
        }
    }

    #[test]
    fn rates_are_met() {
        let rates = NetRates {
            loss: 300,
            duplicate: 500,
            noticed: 500,
            overtake: 1000,
            ..NetRates::perfect()
        };
        let mut net = net(rates);
        let (mut lost, mut twice, mut noticed) = (0, 0, 0);
        for from in 1..=50 {
            let way = (Place::Store(from), Place::Store(99));
            for _ in 0..100 {
                let sent = net.send(Mono(1), way, 0);
                lost += u32::from(sent.arrivals.is_empty());
                twice += u32::from(sent.arrivals.len() == 2);
                noticed += u32::from(sent.noticed.is_some());
            }
        }
        // Each way draws its own rate, from nothing up to the most.
        assert!((100..1500).contains(&lost), "{lost} of 5000 lost");
        assert!((300..2500).contains(&twice), "{twice} of 5000 duplicated");
        assert!(noticed > lost / 4 && noticed < lost, "{noticed} of {lost}");
    }

    #[test]
    fn a_cut_is_one_way_and_counted() {
        let mut net = net(NetRates::perfect());
        net.cut(WAY);
        net.cut(WAY);
        assert_eq!(net.send(Mono(1), WAY, 0).arrivals, []);
        assert_eq!(net.call(Mono(1), WAY).arrivals, []);
        assert_eq!(net.send(Mono(1), BACK, 0).arrivals.len(), 1);
        assert!(!net.heal(WAY), "another partition still cuts it");
        assert!(net.is_cut(WAY) && net.any_cut());
        assert!(net.heal(WAY));
        assert_eq!(net.send(Mono(1), WAY, 0).arrivals.len(), 1);
        net.cut(WAY);
        net.calm();
        assert!(!net.any_cut());
    }
}
