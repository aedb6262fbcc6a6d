//! What a driver is told to do, as transcripts: leadership, unknown outcomes, timestamps.

mod common;

use std::time::Duration;

use common::{CLUSTER, START, genesis};
use flotilla_pd::driver::gives_ids;
use flotilla_pd::{
    Config, Driven, Effect, Event, ExtendWindow, Input, OracleError, Outcome, ProposalToken,
    Response, Status, TimestampCall, TimestampNext, Work, bootstrap_records,
};
use flotilla_proto::clock::Mono;
use flotilla_proto::pdpb::{AllocIdResponse, ResponseHeader};

const NOW: Mono = Mono(1);

fn driven() -> Driven {
    Driven::new(Config {
        cluster_id: CLUSTER,
        store_id: 1,
        advertise_addr: "10.0.0.1:20160".to_owned(),
        tls: false,
        schedule: flotilla_pd::Schedule::default(),
    })
}

#[test]
fn ids_need_a_lease_and_refusals_do_not() {
    #[track_caller]
    fn check(response: Response, expected: bool) {
        assert_eq!(gives_ids(&response), expected, "{response:?}");
    }
    let error = Some(ResponseHeader {
        error: Some(Default::default()),
        ..ResponseHeader::default()
    });
    let refused = AllocIdResponse {
        header: error,
        ..AllocIdResponse::default()
    };
    check(Response::AllocID(Box::default()), true);
    check(Response::AskSplit(Box::default()), true);
    check(Response::AskBatchSplit(Box::default()), true);
    check(Response::AllocID(Box::new(refused)), false);
    check(Response::GetRegion(Box::default()), false);
    check(Response::Status(Status::not_leader()), false);
}

/// What of it is not an event.
fn told(work: &[Work]) -> Vec<String> {
    let lines = work.iter().filter_map(|work| match work {
        Work::Effect(Effect::Event(Event::Led { .. })) => Some("leads".to_owned()),
        Work::Effect(Effect::Event(Event::Retired { .. })) => Some("retires".to_owned()),
        Work::Effect(Effect::Event(_)) => None,
        Work::Effect(Effect::Propose { token, term, .. }) => {
            Some(format!("proposes {} in {term}", token.0))
        }
        Work::Effect(Effect::Oracle(command)) => Some(format!("{command:?}")),
        other => Some(format!("{other:?}")),
    });
    lines.collect()
}

struct Node(Driven);

impl Node {
    /// One thing happens: what is to be done then.
    #[track_caller]
    fn check(&mut self, act: impl FnOnce(&mut Driven, &mut Vec<Work>), expected: &[&str]) {
        let mut work = Vec::new();
        act(&mut self.0, &mut work);
        assert_eq!(told(&work), expected);
    }

    #[track_caller]
    fn check_loaded(&mut self, term: u64, expected: &[&str]) {
        let rows = bootstrap_records(&genesis()).expect("a legal cluster");
        self.check(
            |driven, work| driven.loaded(NOW, START, term, rows, work),
            expected,
        );
    }
}

fn committed(token: u64, outcome: Outcome) -> impl FnOnce(&mut Driven, &mut Vec<Work>) {
    move |driven, work| {
        let token = ProposalToken(token);
        driven.handle(NOW, START, Input::Committed { token, outcome }, work);
    }
}

#[test]
fn leadership_is_rows_then_a_window_then_timestamps() {
    let mut node = Node(driven());
    node.check(|driven, work| driven.leads(5, work), &["Load { term: 5 }"]);
    assert_eq!((node.0.role(), node.0.serves()), (Some(5), None));
    node.check_loaded(5, &["leads", "proposes 1 in 5"]);
    assert_eq!(node.0.serves(), None);
    let open = format!(
        "Open {{ term: 5, from_ms: 0, limit_ms: {} }}",
        START.0 + 3_000
    );
    node.check(committed(1, Outcome::Applied), &[&open]);
    assert_eq!(node.0.serves(), Some(5));
    node.check(
        |driven, work| driven.follows(NOW, START, work),
        &["Close", "retires"],
    );
    assert_eq!((node.0.role(), node.0.serves()), (None, None));
}

#[test]
fn a_meta_region_without_rows_is_led_by_nobody() {
    let nothing = |driven: &mut Driven, work: &mut Vec<Work>| {
        driven.loaded(NOW, START, 5, Vec::new(), work);
    };
    let settled =
        |applied| move |driven: &mut Driven, work: &mut Vec<Work>| driven.settled(5, applied, work);
    let mut node = Node(driven());
    node.check(|driven, work| driven.leads(5, work), &["Load { term: 5 }"]);
    // The peer has ended, and its rows with it: it writes nothing any more, and is told.
    node.check(nothing, &["Settle { term: 5, after: 0ns }"]);
    node.check(settled(false), &["Settle { term: 5, after: 100ms }"]);
    node.check(|driven, work| driven.follows(NOW, START, work), &[]);
    node.check(settled(false), &[]);
    // It leads as before, and has no rows.
    let mut node = Node(driven());
    node.check(|driven, work| driven.leads(5, work), &["Load { term: 5 }"]);
    node.check(nothing, &["Settle { term: 5, after: 0ns }"]);
    node.check(settled(true), &["Load { term: 5 }"]);
    node.check(nothing, &["Effect(Fatal(NoCluster))"]);
}

#[test]
fn rows_of_a_term_that_is_over_are_dropped() {
    let mut node = Node(driven());
    node.check(|driven, work| driven.leads(5, work), &["Load { term: 5 }"]);
    node.check(|driven, work| driven.follows(NOW, START, work), &[]);
    node.check_loaded(5, &[]);
    node.check(|driven, work| driven.leads(7, work), &["Load { term: 7 }"]);
    node.check_loaded(5, &[]);
    node.check_loaded(7, &["leads", "proposes 1 in 7"]);
}

#[test]
fn an_unknown_outcome_is_settled_before_rows_are_read_again() {
    let mut node = Node(driven());
    node.check(|driven, work| driven.leads(5, work), &["Load { term: 5 }"]);
    node.check_loaded(5, &["leads", "proposes 1 in 5"]);
    let expected = ["Close", "retires", "Settle { term: 5, after: 0ns }"];
    node.check(committed(1, Outcome::Unknown), &expected);
    let again = ["Settle { term: 5, after: 100ms }"];
    node.check(|driven, work| driven.settled(5, false, work), &again);
    node.check(
        |driven, work| driven.settled(5, true, work),
        &["Load { term: 5 }"],
    );
    node.check_loaded(5, &["leads", "proposes 2 in 5"]);
    // What the first proposal becomes means nothing any more.
    node.check(committed(1, Outcome::Applied), &[]);
}

#[test]
fn an_unknown_outcome_of_a_term_that_is_over_needs_no_reload() {
    let mut node = Node(driven());
    node.check(|driven, work| driven.leads(5, work), &["Load { term: 5 }"]);
    node.check_loaded(5, &["leads", "proposes 1 in 5"]);
    // The next term is known here before the outcome of the last one's proposal.
    node.check(|driven, work| driven.leads(7, work), &["Load { term: 7 }"]);
    node.check(committed(1, Outcome::Unknown), &["Close", "retires"]);
    node.check(|driven, work| driven.settled(5, true, work), &[]);
    node.check_loaded(7, &["leads", "proposes 2 in 7"]);
}

#[test]
fn a_lease_is_renewed_three_times_and_only_where_pd_serves() {
    let lost = || OracleError::Refused(Status::not_leader());
    let fail = TimestampNext::Fail(Status::not_leader());
    let mut call = TimestampCall::default();
    assert_eq!(call.failed(lost(), false), fail);
    for _ in 0..3 {
        assert_eq!(call.failed(lost(), true), TimestampNext::RenewLease);
    }
    assert_eq!(call.failed(lost(), true), fail);
}

#[test]
fn a_timestamp_waits_for_its_window_and_for_its_millisecond() {
    let mut call = TimestampCall::default();
    let used_up = OracleError::NeedWindow { above_ms: 9 };
    let extend = ExtendWindow { above_ms: 9 };
    assert_eq!(call.failed(used_up, true), TimestampNext::Extend(extend));
    let until = NOW + Duration::from_millis(1);
    let exhausted = OracleError::Exhausted { retry_at: until };
    assert_eq!(call.failed(exhausted, true), TimestampNext::Wait { until });
    let mismatch = Status::cluster_mismatch(7, 8);
    let refused = OracleError::Refused(mismatch.clone());
    assert_eq!(call.failed(refused, true), TimestampNext::Fail(mismatch));
}
