//! The order of turns and what ratios refer to.

use super::*;
use crate::{
    counters::Difference,
    measure::Tally,
    report::{Kind, PhaseReport},
};

#[test]
fn a_round_goes_forth_and_back() {
    for (variants, expected) in [
        (1, vec![0, 0]),
        (2, vec![0, 1, 1, 0]),
        (3, vec![0, 1, 2, 2, 1, 0]),
    ] {
        assert_eq!(schedule(variants).collect::<Vec<_>>(), expected);
    }
}

/// A phase of one second with this many puts.
fn phase(puts: u64) -> PhaseReport {
    let mut tally = Tally::default();
    let second = std::time::Duration::from_secs(1);
    (0..puts).for_each(|_| tally.succeeded(Kind::Put, second));
    let unknown = || Err("no server".to_owned());
    let server = Difference::between(&unknown(), &unknown());
    let (driver_cpu, stopped, timeline) = (second, None, Vec::new());
    Outcome {
        tally,
        elapsed: second,
        driver_cpu,
        stopped,
        timeline,
        silence: Default::default(),
        server,
    }
    .report()
}

fn variant(name: &str, puts: u64) -> VariantReport {
    let (regions, ratio, turns_per_s) = (None, None, vec![]);
    VariantReport {
        name: name.into(),
        regions,
        ratio,
        turns_per_s,
        total: phase(puts),
    }
}

#[test]
fn ratios_refer_to_the_baseline() {
    let variants = || vec![variant("1 region", 40), variant("echo", 50)];
    for (baseline, name, ratios) in [
        (Some(1), Some("echo"), [Some(0.8), None]),
        (Some(0), Some("1 region"), [None, Some(1.25)]),
        (None, None, [None, None]),
    ] {
        let comparison = Comparison::new(8, variants(), baseline);
        assert_eq!(comparison.baseline.as_deref(), name);
        assert_eq!(
            [comparison.variants[0].ratio, comparison.variants[1].ratio],
            ratios
        );
    }
}

#[test]
fn nothing_is_related_to_a_baseline_that_did_nothing() {
    let comparison = Comparison::new(
        8,
        vec![variant("1 region", 40), variant("echo", 0)],
        Some(1),
    );
    assert_eq!(comparison.variants[0].ratio, None);
}
