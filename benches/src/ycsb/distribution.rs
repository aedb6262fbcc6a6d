//! Which record an operation is about: the request distributions of the YCSB core package.
//!
//! Sources: J. Gray, P. Sundaresan, S. Englert, K. Baclawski, P. Weinberger, "Quickly Generating
//! Billion-Record Synthetic Databases", SIGMOD 1994 (the zipfian generator, its figure 4);
//! B. Cooper, A. Silberstein, E. Tam, R. Ramakrishnan, R. Sears, "Benchmarking Cloud Serving
//! Systems with YCSB", SoCC 2010, section 4.2 (uniform, zipfian, latest; popular items scattered).
//!
//! Everything here is pure: a draw depends on the generator's state and the random numbers only.

use rand::{Rng, RngExt};

use super::{Distribution, records::fnv_hash_64};

/// Skew of the zipfian distributions: item `i` (from 1) has weight `1 / i^0.99`.
pub(super) const ZIPFIAN_CONSTANT: f64 = 0.99;

/// Items over which the scattered zipfian draws before it hashes: so many that hashing them onto
/// the records spreads the tail evenly, and so that growing the record count does not change how
/// popular the popular ones are.
const SCATTERED_ITEMS: u64 = 10_000_000_000;

/// What the choosers need to know of the records: which may be asked for now.
pub(super) trait Records {
    /// Records `0..visible()` were acknowledged, except for [`Records::is_hole`]. At least 1.
    fn visible(&self) -> u64;
    /// Whether the insert of this record failed, so that it may or may not be there.
    fn is_hole(&self, record: u64) -> bool;
}

/// Draws the record of the next operation.
#[derive(Clone, Debug)]
pub(super) enum Chooser {
    Uniform,
    Scattered(Scattered),
    Latest(Zipfian),
}

impl Chooser {
    /// A chooser over `records` records, of which more are expected to be inserted meanwhile.
    pub(super) fn new(distribution: Distribution, records: u64, inserts_expected: u64) -> Self {
        match distribution {
            Distribution::Uniform => Chooser::Uniform,
            Distribution::Zipfian => {
                Chooser::Scattered(Scattered::new(records.saturating_add(inserts_expected)))
            }
            Distribution::Latest => Chooser::Latest(Zipfian::new(records)),
        }
    }

    /// A visible record that is not a hole.
    pub(super) fn next(&mut self, rng: &mut impl Rng, records: &impl Records) -> u64 {
        let visible = records.visible();
        assert!(visible > 0, "a workload needs a record to ask for");
        loop {
            let record = match self {
                Chooser::Uniform => rng.random_range(0..visible),
                Chooser::Scattered(scattered) => scattered.next(rng, visible),
                Chooser::Latest(zipfian) => {
                    zipfian.grow(visible);
                    visible - 1 - zipfian.next(rng)
                }
            };
            if !records.is_hole(record) {
                return record;
            }
        }
    }
}

/// Zipfian ranks: 0 is the most popular item.
#[derive(Clone, Debug)]
pub(super) struct Zipfian {
    items: u64,
    /// Sum of the weights of all `items`. Invariant: always that of the current `items`.
    zeta: f64,
    eta: f64,
}

impl Zipfian {
    const ALPHA: f64 = 1.0 / (1.0 - ZIPFIAN_CONSTANT);

    pub(super) fn new(items: u64) -> Self {
        assert!(items > 0, "a distribution over nothing");
        let zeta = zeta(items);
        Self {
            items,
            zeta,
            eta: eta(items, zeta),
        }
    }

    /// More items: their weights are added to the sum, which is not computed anew.
    pub(super) fn grow(&mut self, items: u64) {
        if items <= self.items {
            return;
        }
        self.zeta += (self.items + 1..=items).map(weight).sum::<f64>();
        self.items = items;
        self.eta = eta(items, self.zeta);
    }

    /// A rank below the number of items.
    ///
    /// The two most popular items get their exact share; the others come from the closed form
    /// of the 1994 paper, which follows the zipfian law closely without a table.
    pub(super) fn next(&self, rng: &mut impl Rng) -> u64 {
        let u: f64 = rng.random();
        let scaled = u * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + weight(2) {
            return 1.min(self.items - 1);
        }
        let rank = self.items as f64 * (self.eta * u - self.eta + 1.0).powf(Self::ALPHA);
        (rank as u64).min(self.items - 1)
    }
}

/// Zipfian with the popular items scattered over the records by a hash.
#[derive(Clone, Debug)]
pub(super) struct Scattered {
    zipfian: Zipfian,
    /// Records hashed onto, more than there are when inserts are expected: a draw beyond the
    /// visible ones is drawn again, so that an insert does not move everybody's popularity.
    space: u64,
}

impl Scattered {
    pub(super) fn new(space: u64) -> Self {
        Self {
            zipfian: Zipfian::new(SCATTERED_ITEMS),
            space: space.max(1),
        }
    }

    /// A record below `visible`.
    pub(super) fn next(&mut self, rng: &mut impl Rng, visible: u64) -> u64 {
        // A run by duration can insert more than was expected.
        while self.space < visible {
            self.space = self.space.saturating_mul(2);
        }
        loop {
            let record = fnv_hash_64(self.zipfian.next(rng)) % self.space;
            if record < visible {
                return record;
            }
        }
    }
}

fn weight(item: u64) -> f64 {
    (item as f64).powf(-ZIPFIAN_CONSTANT)
}

fn eta(items: u64, zeta: f64) -> f64 {
    let two = (2.0 / items as f64).powf(1.0 - ZIPFIAN_CONSTANT);
    let zeta_two = 1.0 + weight(2);
    // With one or two items both are exact and eta is never used.
    if items <= 2 {
        0.0
    } else {
        (1.0 - two) / (1.0 - zeta_two / zeta)
    }
}

/// `1/1^θ + 1/2^θ + ... + 1/items^θ`.
///
/// The first terms are added up; the rest is the Euler-Maclaurin formula, exact to more digits
/// than the random number has, so that ten billion items cost no more than a thousand.
pub(super) fn zeta(items: u64) -> f64 {
    const HEAD: u64 = 1_000;
    let head = items.min(HEAD);
    let summed: f64 = (1..=head).map(weight).sum();
    if items == head {
        return summed;
    }
    let (from, to) = (head as f64, items as f64);
    let integral = (to.powf(1.0 - ZIPFIAN_CONSTANT) - from.powf(1.0 - ZIPFIAN_CONSTANT))
        / (1.0 - ZIPFIAN_CONSTANT);
    let slope = |x: f64| -ZIPFIAN_CONSTANT * x.powf(-ZIPFIAN_CONSTANT - 1.0);
    // The sum over from+1..=to: the trapezoids of the integral count half of both ends.
    summed + integral + (weight(items) - weight(head)) / 2.0 + (slope(to) - slope(from)) / 12.0
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_xoshiro::Xoshiro256PlusPlus;

    use super::*;

    const DRAWS: u64 = 1_000_000;

    struct Fixed(u64);

    impl Records for Fixed {
        fn visible(&self) -> u64 {
            self.0
        }
        fn is_hole(&self, _: u64) -> bool {
            false
        }
    }

    /// A fixed seed, or any other by `FLOTILLA_SEED`; printed so that a failure can be repeated.
    fn rng() -> Xoshiro256PlusPlus {
        let seed = std::env::var("FLOTILLA_SEED").map_or(1, |text| text.parse().unwrap());
        println!("seed={seed}");
        Xoshiro256PlusPlus::seed_from_u64(seed)
    }

    /// Frequencies of `DRAWS` draws below `bound`.
    #[track_caller]
    fn frequencies(bound: u64, mut draw: impl FnMut() -> u64) -> Vec<u64> {
        let mut counts = vec![0; usize::try_from(bound).unwrap()];
        for _ in 0..DRAWS {
            let drawn = draw();
            assert!(drawn < bound, "drew {drawn}, beyond {bound}");
            counts[usize::try_from(drawn).unwrap()] += 1;
        }
        counts
    }

    /// Pearson's statistic against the given probabilities must stay within six standard
    /// deviations of its mean (degrees of freedom `n - 1`, variance `2 (n - 1)`).
    #[track_caller]
    fn check_fits(counts: &[u64], probabilities: &[f64]) {
        assert_eq!(counts.len(), probabilities.len());
        let total: u64 = counts.iter().sum();
        let statistic: f64 = counts
            .iter()
            .zip(probabilities)
            .map(|(count, probability)| {
                let expected = total as f64 * probability;
                assert!(
                    expected >= 5.0,
                    "too few draws to judge a cell of {expected}"
                );
                (*count as f64 - expected).powi(2) / expected
            })
            .sum();
        let freedom = (counts.len() - 1) as f64;
        let bound = freedom + 6.0 * (2.0 * freedom).sqrt();
        assert!(
            statistic < bound,
            "chi-square {statistic:.0}, at most {bound:.0}"
        );
    }

    /// The share of `count` must be `probability` within five standard deviations.
    #[track_caller]
    fn check_share(what: &str, count: u64, probability: f64) {
        let expected = DRAWS as f64 * probability;
        let deviation = (expected * (1.0 - probability)).sqrt();
        let off = (count as f64 - expected).abs() / deviation;
        assert!(
            off < 5.0,
            "{what}: {count} draws, expected {expected:.0}, off {off:.1} sigma"
        );
    }

    #[test]
    fn zeta_agrees_with_the_plain_sum_and_with_the_published_constant() {
        for items in [1, 2, 3, 999, 1_000, 1_001, 5_000, 1_000_000] {
            let plain: f64 = (1..=items).rev().map(weight).sum();
            assert!(
                (zeta(items) - plain).abs() < 1e-9,
                "{items}: {} {plain}",
                zeta(items)
            );
        }
        // YCSB ships this sum for ten billion items as a constant.
        assert!((zeta(SCATTERED_ITEMS) - 26.469_028_201_783_02).abs() < 1e-6);
    }

    #[test]
    fn growing_gives_the_same_sums_as_starting_large() {
        let mut grown = Zipfian::new(10);
        for items in [10, 11, 500, 499, 20_000] {
            grown.grow(items);
        }
        let fresh = Zipfian::new(20_000);
        assert_eq!(grown.items, fresh.items, "shrinking is refused");
        assert!((grown.zeta - fresh.zeta).abs() < 1e-9);
        assert!((grown.eta - fresh.eta).abs() < 1e-9);
    }

    #[test]
    fn uniform_draws_fit_the_uniform_law() {
        let (mut rng, mut chooser) = (rng(), Chooser::new(Distribution::Uniform, 1_000, 0));
        let counts = frequencies(1_000, || chooser.next(&mut rng, &Fixed(1_000)));
        check_fits(&counts, &vec![0.001; 1_000]);
    }

    /// The closed form, inverted: rank `k` and less are drawn for `u` below this bound.
    fn closed_form(zipfian: &Zipfian) -> Vec<f64> {
        let items = zipfian.items as f64;
        let upto = |ranks: u64| match ranks {
            0 => 0.0,
            1 => 1.0 / zipfian.zeta,
            2 => (1.0 + weight(2)) / zipfian.zeta,
            ranks if ranks == zipfian.items => 1.0,
            ranks => {
                let root = (ranks as f64 / items).powf(1.0 - ZIPFIAN_CONSTANT);
                ((root - 1.0 + zipfian.eta) / zipfian.eta).max((1.0 + weight(2)) / zipfian.zeta)
            }
        };
        (0..zipfian.items)
            .map(|rank| upto(rank + 1) - upto(rank))
            .collect()
    }

    #[test]
    fn zipfian_draws_fit_the_law_of_the_paper() {
        let (mut rng, zipfian) = (rng(), Zipfian::new(1_000));
        let counts = frequencies(1_000, || zipfian.next(&mut rng));
        let probabilities = closed_form(&zipfian);
        // Ranks the closed form never gives are left out of the chi-square, and must be absent.
        let (likely, never): (Vec<_>, Vec<_>) = counts
            .iter()
            .zip(&probabilities)
            .partition(|(_, probability)| **probability > 0.0);
        assert!(never.iter().all(|(count, _)| **count == 0));
        let (counts, probabilities): (Vec<u64>, Vec<f64>) = likely.into_iter().unzip();
        check_fits(&counts, &probabilities);
    }

    #[test]
    fn zipfian_draws_stay_close_to_the_ideal_zipfian_law() {
        let (mut rng, zipfian) = (rng(), Zipfian::new(1_000));
        let counts = frequencies(1_000, || zipfian.next(&mut rng));
        check_share("rank 0", counts[0], 1.0 / zeta(1_000));
        check_share("rank 1", counts[1], weight(2) / zeta(1_000));
        for upto in [5, 10, 50, 100, 500] {
            let drawn = counts[..upto].iter().sum::<u64>() as f64 / DRAWS as f64;
            let ideal = zeta(upto as u64) / zeta(1_000);
            assert!(
                (drawn - ideal).abs() < 0.02,
                "first {upto}: {drawn:.4}, ideal {ideal:.4}"
            );
        }
    }

    #[test]
    fn zipfian_over_very_few_items_stays_in_bounds() {
        for items in 1..=5 {
            let (mut rng, zipfian) = (rng(), Zipfian::new(items));
            let counts = frequencies(items, || zipfian.next(&mut rng));
            check_share(
                "rank 0 of few",
                counts[0],
                (1.0 / zeta(items)).min(1.0 - 1e-9),
            );
        }
    }

    #[test]
    fn scattered_keeps_the_hottest_share_and_hides_where_it_is() {
        let (mut rng, mut scattered) = (rng(), Scattered::new(1_000));
        let counts = frequencies(1_000, || scattered.next(&mut rng, 1_000));
        let hottest = fnv_hash_64(0) % 1_000;
        let (place, count) = counts
            .iter()
            .enumerate()
            .max_by_key(|(_, count)| **count)
            .unwrap();
        assert_eq!(place as u64, hottest);
        // Its own weight, and its part of the evenly spread rest.
        let own = 1.0 / zeta(SCATTERED_ITEMS);
        let share = *count as f64 / DRAWS as f64;
        assert!(
            (own..own + 0.005).contains(&share),
            "share {share:.4}, own weight {own:.4}"
        );
        assert!(
            counts.iter().all(|count| *count > 0),
            "no record is never asked for"
        );
    }

    #[test]
    fn scattered_draws_only_visible_records_and_does_not_move_with_inserts() {
        let hottest = |visible| {
            let (mut rng, mut scattered) = (rng(), Scattered::new(2_000));
            let counts = frequencies(visible, || scattered.next(&mut rng, visible));
            counts
                .iter()
                .enumerate()
                .max_by_key(|(_, count)| **count)
                .unwrap()
                .0
        };
        assert_eq!(hottest(1_900), hottest(2_000));
    }

    #[test]
    fn scattered_grows_when_more_was_inserted_than_expected() {
        let (mut rng, mut scattered) = (rng(), Scattered::new(10));
        let counts = frequencies(1_000, || scattered.next(&mut rng, 1_000));
        assert_eq!(scattered.space, 1_280);
        assert!(counts.iter().all(|count| *count > 0));
    }

    #[test]
    fn latest_is_zipfian_over_recency() {
        let (mut rng, mut chooser) = (rng(), Chooser::new(Distribution::Latest, 1_000, 0));
        let counts = frequencies(1_000, || chooser.next(&mut rng, &Fixed(1_000)));
        check_share("newest", counts[999], 1.0 / zeta(1_000));
        check_share("second newest", counts[998], weight(2) / zeta(1_000));
    }

    #[test]
    fn latest_follows_the_newest_record_as_records_come() {
        let (mut rng, mut chooser) = (rng(), Chooser::new(Distribution::Latest, 10, 0));
        for visible in [10, 11, 500, 5_000] {
            let counts = frequencies(visible, || chooser.next(&mut rng, &Fixed(visible)));
            check_share("newest", *counts.last().unwrap(), 1.0 / zeta(visible));
        }
    }

    #[test]
    fn holes_are_never_drawn() {
        struct Holed;
        impl Records for Holed {
            fn visible(&self) -> u64 {
                10
            }
            fn is_hole(&self, record: u64) -> bool {
                record % 2 == 1
            }
        }
        for distribution in [
            Distribution::Uniform,
            Distribution::Zipfian,
            Distribution::Latest,
        ] {
            let (mut rng, mut chooser) = (rng(), Chooser::new(distribution, 10, 0));
            let counts = frequencies(10, || chooser.next(&mut rng, &Holed));
            for (record, count) in counts.iter().enumerate() {
                assert_eq!(
                    *count > 0,
                    record % 2 == 0,
                    "{distribution:?} record {record}"
                );
            }
        }
    }
}
