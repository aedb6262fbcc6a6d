//! The six core workloads and the pure generator of their operations.
//!
//! Source: the YCSB paper (SoCC 2010), table 2, and the workload files published with it.

use clap::ValueEnum;
use rand::{Rng, RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde::Serialize;

use super::distribution::{Chooser, Records};

/// A YCSB core workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// Update heavy: 50 % reads, 50 % updates (a session store)
    A,
    /// Read mostly: 95 % reads, 5 % updates (photo tags)
    B,
    /// Read only (a profile cache)
    C,
    /// Read latest: 95 % reads of recent records, 5 % inserts (status updates)
    D,
    /// Short ranges: 95 % scans, 5 % inserts (threaded conversations)
    E,
    /// Read-modify-write: 50 % reads, 50 % read-modify-writes (a user database)
    F,
}

/// Which records are asked for most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// A few are popular, whichever they are: zipfian with constant 0.99, scattered by a hash
    Zipfian,
    /// The newest are popular: zipfian over recency
    Latest,
    /// All alike
    Uniform,
}

impl Distribution {
    /// As the option is written.
    pub fn name(self) -> &'static str {
        match self {
            Distribution::Zipfian => "zipfian",
            Distribution::Latest => "latest",
            Distribution::Uniform => "uniform",
        }
    }
}

/// Shares of the operations, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mix {
    pub(super) read: u8,
    pub(super) update: u8,
    pub(super) insert: u8,
    pub(super) scan: u8,
    pub(super) read_modify_write: u8,
}

impl Workload {
    pub(super) fn mix(self) -> Mix {
        let none = Mix {
            read: 0,
            update: 0,
            insert: 0,
            scan: 0,
            read_modify_write: 0,
        };
        match self {
            Workload::A => Mix {
                read: 50,
                update: 50,
                ..none
            },
            Workload::B => Mix {
                read: 95,
                update: 5,
                ..none
            },
            Workload::C => Mix { read: 100, ..none },
            Workload::D => Mix {
                read: 95,
                insert: 5,
                ..none
            },
            Workload::E => Mix {
                scan: 95,
                insert: 5,
                ..none
            },
            Workload::F => Mix {
                read: 50,
                read_modify_write: 50,
                ..none
            },
        }
    }

    /// As the option is written.
    pub fn letter(self) -> char {
        match self {
            Workload::A => 'a',
            Workload::B => 'b',
            Workload::C => 'c',
            Workload::D => 'd',
            Workload::E => 'e',
            Workload::F => 'f',
        }
    }

    /// Its operations in words.
    pub fn description(self) -> String {
        let Mix {
            read,
            update,
            insert,
            scan,
            read_modify_write,
        } = self.mix();
        let shares = [
            (read, "reads"),
            (update, "updates"),
            (scan, "scans"),
            (insert, "inserts"),
            (read_modify_write, "read-modify-writes"),
        ];
        let shares = shares.into_iter().filter(|(percent, _)| *percent > 0);
        let shares: Vec<_> = shares
            .map(|(percent, name)| format!("{percent} % {name}"))
            .collect();
        shares.join(", ")
    }

    /// The request distribution that YCSB's own file for this workload names.
    pub fn default_distribution(self) -> Distribution {
        if self == Workload::D {
            Distribution::Latest
        } else {
            Distribution::Zipfian
        }
    }
}

/// What to do next. Records are numbers; a new record gets its number when it is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Read(u64),
    Update(u64),
    Insert,
    Scan { first: u64, length: u32 },
    ReadModifyWrite(u64),
}

/// The endless sequence of operations of one client: a function of its seed, and of which
/// records are visible when each operation is drawn.
#[derive(Clone, Debug)]
pub(super) struct Generator {
    mix: Mix,
    scan_length_max: u32,
    chooser: Chooser,
    rng: Xoshiro256PlusPlus,
}

impl Generator {
    pub(super) fn new(
        workload: Workload,
        scan_length_max: u32,
        chooser: Chooser,
        seed: u64,
    ) -> Self {
        assert!(scan_length_max > 0, "a scan asks for at least one record");
        let rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        Self {
            mix: workload.mix(),
            scan_length_max,
            chooser,
            rng,
        }
    }

    pub(super) fn next(&mut self, records: &impl Records) -> Step {
        let Mix {
            read,
            update,
            insert,
            scan,
            read_modify_write,
        } = self.mix;
        let mut draw = self.rng.random_range(0..100_u8);
        let mut falls_in = |share: u8| {
            let hit = draw < share;
            draw = draw.wrapping_sub(share);
            hit
        };
        if falls_in(read) {
            Step::Read(self.record(records))
        } else if falls_in(update) {
            Step::Update(self.record(records))
        } else if falls_in(insert) {
            Step::Insert
        } else if falls_in(scan) {
            let first = self.record(records);
            Step::Scan {
                first,
                length: self.rng.random_range(1..=self.scan_length_max),
            }
        } else {
            assert!(
                falls_in(read_modify_write),
                "the shares of a workload add up to 100"
            );
            Step::ReadModifyWrite(self.record(records))
        }
    }

    /// The seed of a new value.
    pub(super) fn value_seed(&mut self) -> u64 {
        self.rng.next_u64()
    }

    fn record(&mut self, records: &impl Records) -> u64 {
        self.chooser.next(&mut self.rng, records)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    struct Fixed(u64);

    impl Records for Fixed {
        fn visible(&self) -> u64 {
            self.0
        }
        fn is_hole(&self, _: u64) -> bool {
            false
        }
    }

    fn generator(workload: Workload, seed: u64) -> Generator {
        let chooser = Chooser::new(workload.default_distribution(), 1_000, 0);
        Generator::new(workload, 100, chooser, seed)
    }

    fn name(step: Step) -> &'static str {
        match step {
            Step::Read(_) => "read",
            Step::Update(_) => "update",
            Step::Insert => "insert",
            Step::Scan { .. } => "scan",
            Step::ReadModifyWrite(_) => "read-modify-write",
        }
    }

    /// Draws 100,000 operations; the share of each kind must be within five standard deviations
    /// of the published percentage, and no other kind may occur.
    #[track_caller]
    fn check_mix(workload: Workload, expected: &[(&str, f64)]) {
        const DRAWS: u32 = 100_000;
        let mut generator = generator(workload, 1);
        let mut counts = BTreeMap::new();
        for _ in 0..DRAWS {
            *counts
                .entry(name(generator.next(&Fixed(1_000))))
                .or_insert(0_u32) += 1;
        }
        assert_eq!(counts.len(), expected.len(), "{workload:?}: {counts:?}");
        for (kind, percent) in expected {
            let share = percent / 100.0;
            let deviation = (share * (1.0 - share) * f64::from(DRAWS)).sqrt();
            let off = (f64::from(counts[kind]) - share * f64::from(DRAWS)).abs();
            assert!(off <= 5.0 * deviation, "{workload:?} {kind}: {counts:?}");
        }
    }

    #[test]
    fn mixes_are_those_of_the_paper() {
        check_mix(Workload::A, &[("read", 50.0), ("update", 50.0)]);
        check_mix(Workload::B, &[("read", 95.0), ("update", 5.0)]);
        check_mix(Workload::C, &[("read", 100.0)]);
        check_mix(Workload::D, &[("read", 95.0), ("insert", 5.0)]);
        check_mix(Workload::E, &[("scan", 95.0), ("insert", 5.0)]);
        check_mix(Workload::F, &[("read", 50.0), ("read-modify-write", 50.0)]);
    }

    #[test]
    fn distributions_are_those_of_the_published_workloads() {
        for workload in Workload::value_variants() {
            let expected = if *workload == Workload::D {
                Distribution::Latest
            } else {
                Distribution::Zipfian
            };
            assert_eq!(workload.default_distribution(), expected);
        }
    }

    #[test]
    fn scan_lengths_are_uniform_from_one_to_the_maximum() {
        let mut generator = generator(Workload::E, 1);
        let mut counts = [0_u32; 101];
        let mut scans = 0_u32;
        while scans < 100_000 {
            if let Step::Scan { length, .. } = generator.next(&Fixed(1_000)) {
                counts[length as usize] += 1;
                scans += 1;
            }
        }
        assert_eq!(counts[0], 0);
        // Mean 1,000 per length; chi-square over 100 cells: mean 99, standard deviation 14.
        let statistic: f64 = counts[1..]
            .iter()
            .map(|count| (f64::from(*count) - 1_000.0).powi(2) / 1_000.0)
            .sum();
        assert!(statistic < 99.0 + 6.0 * 14.1, "chi-square {statistic:.0}");
    }

    #[test]
    fn the_same_seed_gives_the_same_operations_and_another_seed_others() {
        let steps = |seed| {
            let mut generator = generator(Workload::A, seed);
            (0..1_000)
                .map(|_| generator.next(&Fixed(1_000)))
                .collect::<Vec<_>>()
        };
        assert_eq!(steps(7), steps(7));
        assert_ne!(steps(7), steps(8));
    }
}
