//! All phases against the store in memory, sound and faulty.

use std::collections::BTreeSet;

use clap::ValueEnum;

use super::{super::run_on, *};
use crate::{
    report::{KindReport, PhaseReport},
    ycsb::{
        Report, Workload,
        database::memory::{Faults, Memory},
        options::tests::parse,
    },
};

/// Runs the command line against this store.
async fn play(memory: &Memory, line: &str) -> Report {
    let options = parse(&format!("--pd 127.0.0.1:1 --quiet --value-size 32 {line}")).unwrap();
    let databases = vec![memory.clone(); options.clients()];
    let plan = Plan {
        options: &options,
        databases,
        scraper: Scraper::off("no server"),
    };
    run_on(&plan, async {}).await.0
}

fn kind(phase: &PhaseReport, kind: Kind) -> &KindReport {
    phase
        .kinds
        .iter()
        .find(|report| report.operation == kind)
        .unwrap()
}

fn errors(phase: &PhaseReport, of: Kind) -> Vec<(&str, u64)> {
    let errors = &kind(phase, of).errors;
    errors
        .iter()
        .map(|error| (error.kind.as_str(), error.count))
        .collect()
}

#[tokio::test]
async fn every_workload_runs_and_leaves_every_record_intact() {
    for workload in Workload::value_variants() {
        let memory = Memory::default();
        let letter = workload.letter();
        let line = format!("--workload {letter} --records 300 --operations 2000 --verify 10000");
        let report = play(&memory, &line).await;
        let (load, run) = (report.load.as_ref().unwrap(), report.run.as_ref().unwrap());
        assert_eq!((load.operations, load.failed), (300, 0), "{letter}");
        assert_eq!((run.operations, run.failed), (2_000, 0), "{letter}");
        let inserts = if workload.mix().insert > 0 {
            kind(run, Kind::Insert).count
        } else {
            0
        };
        let expected = VerifyReport {
            records: 300 + inserts,
            sampled: 300 + inserts,
            intact: 300 + inserts,
            ..Default::default()
        };
        assert_eq!(report.verify, Some(expected), "{letter}");
        assert_eq!(memory.pairs.lock().len() as u64, 300 + inserts, "{letter}");
        report.verdict().unwrap();
    }
}

#[tokio::test]
async fn the_load_phase_writes_exactly_the_records_of_ycsb() {
    let memory = Memory::default();
    let report = play(
        &memory,
        "--workload a --records 100 --load-only --threads 7",
    )
    .await;
    assert!(report.run.is_none() && report.verify.is_none());
    let expected: BTreeSet<_> = (0..100).map(records::key).collect();
    let pairs = memory.pairs.lock();
    assert_eq!(pairs.keys().cloned().collect::<BTreeSet<_>>(), expected);
    assert!(
        pairs
            .iter()
            .all(|(key, value)| value.len() == 32 && records::is_intact(key, value))
    );
}

#[tokio::test]
async fn the_run_phase_alone_works_on_what_was_loaded_before() {
    let memory = Memory::default();
    play(&memory, "--workload d --records 100 --load-only").await;
    let report = play(
        &memory,
        "--workload d --records 100 --run-only --operations 500",
    )
    .await;
    assert!(report.load.is_none());
    assert_eq!(report.run.as_ref().unwrap().operations, 500);
    report.verdict().unwrap();
}

#[tokio::test]
async fn a_run_can_be_bounded_by_time() {
    let report = play(
        &Memory::default(),
        "--workload e --records 50 --duration 30ms --verify",
    )
    .await;
    let run = report.run.as_ref().unwrap();
    assert!(run.elapsed_s >= 0.03 && run.operations > 0);
    report.verdict().unwrap();
}

#[tokio::test]
async fn one_thread_and_one_seed_leave_the_same_data_twice() {
    let line = "--workload d --records 100 --operations 1000 --threads 1";
    let (first, second, other) = (Memory::default(), Memory::default(), Memory::default());
    play(&first, line).await;
    play(&second, line).await;
    play(&other, &format!("{line} --seed 2")).await;
    assert_eq!(*first.pairs.lock(), *second.pairs.lock());
    assert_ne!(*first.pairs.lock(), *other.pairs.lock());
}

#[tokio::test]
async fn a_record_that_fails_to_load_is_tried_again_and_the_failure_counted() {
    let memory = Memory::with(Faults {
        refused_every: 10,
        ..Default::default()
    });
    let report = play(&memory, "--workload a --records 90 --load-only --threads 1").await;
    let load = report.load.as_ref().unwrap();
    assert_eq!((load.operations, load.stopped.as_ref()), (90, None));
    assert_eq!(errors(load, Kind::Insert), [("refused", 9)]);
    assert_eq!(memory.pairs.lock().len(), 90);
    report.verdict().unwrap();
}

#[tokio::test]
async fn a_store_that_takes_no_record_ends_the_load_phase_and_nothing_runs() {
    let memory = Memory::with(Faults {
        refused_every: 1,
        ..Default::default()
    });
    let report = play(&memory, "--workload a --records 5 --threads 1 --verify").await;
    assert!(report.run.is_none() && report.verify.is_none());
    let reason = report.verdict().unwrap_err().to_string();
    assert_eq!(
        reason,
        "the load phase was given up: record 0 could not be loaded in 10 attempts; last: refused: as told"
    );
}

#[tokio::test]
async fn failed_operations_are_counted_and_no_reason_to_fail() {
    let memory = Memory::default();
    play(&memory, "--workload a --records 100 --load-only").await;
    let memory = memory.but(Faults {
        refused_every: 100,
        ..Default::default()
    });
    let report = play(
        &memory,
        "--workload a --records 100 --run-only --operations 4000 --verify",
    )
    .await;
    let run = report.run.as_ref().unwrap();
    assert_eq!(run.operations + run.failed, 4_000);
    let updates = kind(run, Kind::Update);
    assert_eq!(
        errors(run, Kind::Update),
        [("refused", (updates.count + run.failed) / 100)]
    );
    assert_eq!(errors(run, Kind::Read), []);
    report.verdict().unwrap();
}

#[tokio::test]
async fn a_failed_insert_is_asked_for_by_nobody() {
    let memory = Memory::default();
    play(&memory, "--workload d --records 100 --load-only").await;
    let memory = memory.but(Faults {
        refused_every: 3,
        ..Default::default()
    });
    let line = "--workload d --records 100 --run-only --operations 3000 --verify 10000";
    let report = play(&memory, line).await;
    let run = report.run.as_ref().unwrap();
    let [("refused", holes)] = errors(run, Kind::Insert)[..] else {
        panic!("{run:?}")
    };
    assert!(holes > 10, "{holes}");
    assert_eq!(errors(run, Kind::Read), [], "reads never hit a hole");
    let verify = report.verify.as_ref().unwrap();
    assert_eq!(verify.intact, 100 + kind(run, Kind::Insert).count);
    report.verdict().unwrap();
}

#[tokio::test]
async fn acknowledged_records_that_are_not_there_are_noticed() {
    let memory = Memory::with(Faults {
        lost_every: 7,
        ..Default::default()
    });
    let line = "--workload c --records 70 --operations 500 --threads 1 --verify";
    let report = play(&memory, line).await;
    let run = report.run.as_ref().unwrap();
    assert!(matches!(errors(run, Kind::Read)[..], [("missing", count)] if count > 0));
    let verify = report.verify.as_ref().unwrap();
    assert_eq!(
        (verify.sampled, verify.intact, verify.missing),
        (70, 60, 10)
    );
    assert_eq!(verify.examples.len(), 10);
    let reason = report.verdict().unwrap_err().to_string();
    assert!(
        reason.contains("was acknowledged and is not there"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_value_from_before_the_last_acknowledged_write_is_noticed() {
    let memory = Memory::default();
    let records = "--workload a --records 60";
    play(&memory, &format!("{records} --load-only")).await;
    let mut faulty = Memory::with(Faults {
        lost_every: 3,
        ..Default::default()
    });
    faulty.pairs = memory.pairs;
    let report = play(&faulty, &format!("{records} --run-only --verify")).await;
    let verify = report.verify.as_ref().unwrap();
    assert!(verify.stale > 0, "{verify:?}");
    assert_eq!(verify.intact + verify.stale, 60);
    let reason = report.verdict().unwrap_err().to_string();
    assert!(reason.contains("from before its last"), "{reason}");
}

#[tokio::test]
async fn damaged_records_are_noticed_by_reads_scans_and_verification() {
    for (workload, of) in [
        ('c', Kind::Read),
        ('e', Kind::Scan),
        ('f', Kind::ReadModifyWrite),
    ] {
        let memory = Memory::with(Faults {
            damaged_every: 2,
            ..Default::default()
        });
        let line = format!("--workload {workload} --records 60 --operations 300 --verify");
        let report = play(&memory, &line).await;
        let run = report.run.as_ref().unwrap();
        assert!(
            matches!(errors(run, of)[..], [("damaged", count)] if count > 0),
            "{workload}"
        );
        assert!(report.verify.as_ref().unwrap().damaged > 0, "{workload}");
        let reason = report.verdict().unwrap_err().to_string();
        assert!(
            reason.starts_with("the run phase read wrong data: user"),
            "{reason}"
        );
    }
}

#[test]
fn a_scan_must_answer_with_what_it_was_asked_for() {
    let pair = |record: &str| {
        let key = record.as_bytes().to_vec();
        Pair {
            value: records::value(&key, 1, 16),
            key,
        }
    };
    let alien = Pair {
        key: b"user3".to_vec(),
        value: vec![0; 16],
    };
    for (limit, pairs, expected) in [
        (3, vec![pair("user1"), pair("user2")], None),
        (2, vec![pair("user1"), pair("user2")], None),
        (
            1,
            vec![pair("user1"), pair("user2")],
            Some("wrong-scan: from user1: 2 pairs, asked for 1"),
        ),
        (
            3,
            vec![],
            Some("missing: user1 was acknowledged and is not there"),
        ),
        (
            3,
            vec![pair("user2")],
            Some("missing: user1 was acknowledged and is not there"),
        ),
        (
            3,
            vec![pair("user1"), pair("user2"), pair("user2")],
            Some("wrong-scan: from user1: user2 comes before user2"),
        ),
        (
            3,
            vec![pair("user1"), pair("user3"), pair("user2")],
            Some("wrong-scan: from user1: user3 comes before user2"),
        ),
        (
            3,
            vec![pair("user1"), pair("user:")],
            Some("wrong-scan: from user1: user: lies beyond the end"),
        ),
        (
            3,
            vec![pair("user1"), alien],
            Some("damaged: user3 has 16 bytes that nobody wrote"),
        ),
    ] {
        let found = check_scan(b"user1", b"user:", limit, &pairs);
        assert_eq!(
            found.err().map(|failure| failure.to_string()).as_deref(),
            expected
        );
    }
}

#[tokio::test]
async fn a_sample_is_of_different_records_and_repeats_with_the_seed() {
    let options = parse("--pd a:1 --workload a --records 1000").unwrap();
    let scraper = Scraper::off("no server");
    let plan = Plan {
        options: &options,
        databases: vec![Memory::default()],
        scraper,
    };
    let sample = plan.sample(100, 1_000, &BTreeSet::new());
    assert_eq!(sample.iter().collect::<BTreeSet<_>>().len(), 100);
    assert_eq!(sample, plan.sample(100, 1_000, &BTreeSet::new()));
    let holes = BTreeSet::from([sample[0]]);
    assert_eq!(plan.sample(100, 1_000, &holes), sample[1..]);
}
