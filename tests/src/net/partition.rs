//! Partitions: which ways they cut.

use std::collections::BTreeSet;

use super::{Place, Way};
use crate::rng::Rng;

/// The shape of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// One way between two stores.
    OneWay,
    /// Both ways between two stores.
    Link,
    /// One store hears nobody.
    Deaf,
    /// Nobody hears one store.
    Mute,
    /// One store is alone.
    Alone,
    /// Two halves, of any sizes.
    Halves,
    /// Each store reaches its two neighbours only.
    Ring,
    /// Two halves that one store belongs to both.
    Bridge,
    /// Some clients cannot reach some stores.
    Clients,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::OneWay,
        Self::Link,
        Self::Deaf,
        Self::Mute,
        Self::Alone,
        Self::Halves,
        Self::Ring,
        Self::Bridge,
        Self::Clients,
    ];
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its shape.
    pub shape: Shape,
    /// What it cuts.
    pub ways: Vec<Way>,
}

impl Partition {
    /// A partition among `stores` and so many clients.
    pub fn draw(stores: &[u64], clients: u64, rng: &mut Rng) -> Self {
        let shape = *rng.pick(&Shape::ALL);
        let mut order: Vec<Place> = stores.iter().map(|id| Place::Store(*id)).collect();
        for nth in (1..order.len()).rev() {
            order.swap(nth, rng.below(nth as u64 + 1) as usize);
        }
        let mut ways = BTreeSet::new();
        match shape {
            Shape::Clients => clients_cut(&order, clients, rng, &mut ways),
            _ if order.len() < 2 => {}
            Shape::OneWay => {
                ways.insert((order[0], order[1]));
            }
            Shape::Link => between(&order[..1], &order[1..2], &mut ways),
            Shape::Deaf => ways.extend(order[1..].iter().map(|from| (*from, order[0]))),
            Shape::Mute => ways.extend(order[1..].iter().map(|to| (order[0], *to))),
            Shape::Alone => halves(&order, 1, clients, rng, &mut ways),
            Shape::Halves => {
                let size = rng.range(1..=order.len() as u64 - 1) as usize;
                halves(&order, size, clients, rng, &mut ways);
            }
            Shape::Ring => ring(&order, &mut ways),
            Shape::Bridge => {
                let size = (order.len() - 1) / 2;
                between(&order[1..=size], &order[size + 1..], &mut ways);
            }
        }
        Self {
            shape,
            ways: ways.into_iter().collect(),
        }
    }
}

/// Both ways between all of one side and all of the other.
fn between(one: &[Place], other: &[Place], ways: &mut BTreeSet<Way>) {
    for a in one {
        for b in other {
            ways.extend([(*a, *b), (*b, *a)]);
        }
    }
}

/// Clients stand on one of the sides, or reach both.
fn halves(order: &[Place], size: usize, clients: u64, rng: &mut Rng, ways: &mut BTreeSet<Way>) {
    let (one, other) = order.split_at(size);
    between(one, other, ways);
    for place in (0..clients).map(Place::Client) {
        match rng.below(3) {
            0 => between(&[place], one, ways),
            1 => between(&[place], other, ways),
            _ => {}
        }
    }
}

fn ring(order: &[Place], ways: &mut BTreeSet<Way>) {
    let count = order.len();
    for a in 0..count {
        for b in 0..count {
            let apart = a.abs_diff(b);
            if apart > 1 && apart < count - 1 {
                ways.insert((order[a], order[b]));
            }
        }
    }
}

fn clients_cut(order: &[Place], clients: u64, rng: &mut Rng, ways: &mut BTreeSet<Way>) {
    for client in (0..clients).map(Place::Client) {
        for store in order {
            if rng.chance(400) {
                // Requests, replies, or both.
                match rng.below(3) {
                    0 => drop(ways.insert((client, *store))),
                    1 => drop(ways.insert((*store, client))),
                    _ => between(&[client], &[*store], ways),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a store can reach directly, itself included.
    fn reached(partition: &Partition, from: u64, stores: &[u64]) -> Vec<u64> {
        let open = |to: &&u64| {
            !partition
                .ways
                .contains(&(Place::Store(from), Place::Store(**to)))
        };
        stores.iter().filter(open).copied().collect()
    }

    #[test]
    fn shapes_cut_what_their_names_say() {
        let stores = [1, 2, 3, 4, 5];
        let mut seen = BTreeSet::new();
        for seed in 0..500 {
            let partition = Partition::draw(&stores, 3, &mut Rng::new(seed));
            seen.insert(partition.shape);
            let counts: Vec<usize> = stores
                .iter()
                .map(|store| reached(&partition, *store, &stores).len())
                .collect();
            let count = |n: usize| counts.iter().filter(|count| **count == n).count();
            match partition.shape {
                Shape::OneWay => assert_eq!((count(5), count(4)), (4, 1)),
                Shape::Link => assert_eq!((count(5), count(4)), (3, 2)),
                Shape::Deaf => assert_eq!((count(5), count(4)), (1, 4)),
                Shape::Mute => assert_eq!((count(5), count(1)), (4, 1)),
                Shape::Alone => assert_eq!((count(4), count(1)), (4, 1)),
                Shape::Halves => {
                    let alone = counts.iter().filter(|count| **count < 5).count();
                    assert_eq!(alone, 5, "{counts:?}");
                }
                Shape::Ring => assert_eq!(count(3), 5),
                Shape::Bridge => assert_eq!((count(5), count(3)), (1, 4)),
                Shape::Clients => assert_eq!(count(5), 5),
            }
        }
        assert_eq!(seen.len(), Shape::ALL.len());
    }

    #[test]
    fn one_store_is_never_cut_from_itself() {
        for seed in 0..100 {
            let partition = Partition::draw(&[1], 2, &mut Rng::new(seed));
            let own = (Place::Store(1), Place::Store(1));
            assert!(!partition.ways.contains(&own));
        }
    }
}
