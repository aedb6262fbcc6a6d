//! Runs many seeds to the end whatever they find, and counts which rule broke in how many of them:
//! what the net catches, and how often. `survey [FIRST [COUNT]]`

use std::collections::BTreeMap;

use flotilla_tests::run::{Summary, run_seed};

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .map(|argument| argument.parse::<u64>().expect("a number"));
    let first = arguments.next().unwrap_or(1);
    let count = arguments.next().unwrap_or(300);
    std::panic::set_hook(Box::new(|_| {}));
    let mut summary = Summary::default();
    let mut broken: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for seed in first..first + count {
        match run_seed(seed) {
            Ok(report) => summary.add(&report),
            Err(failure) => {
                let rule = failure
                    .rule
                    .map_or_else(|| failure.what.clone(), |rule| format!("{rule:?}"));
                let seeds = broken.entry(rule.clone()).or_default();
                if seeds.is_empty() {
                    println!("seed {seed}: {}", failure.what);
                }
                seeds.push(seed);
            }
        }
    }
    println!("{summary}");
    for (rule, seeds) in &broken {
        println!(
            "{} of {count} seeds broke {rule}: {:?}",
            seeds.len(),
            &seeds[..seeds.len().min(8)]
        );
    }
    println!(
        "never checked: {:?}; never reached: {:?}",
        summary.missing(),
        summary.never()
    );
}
