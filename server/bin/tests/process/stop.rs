//! A stop in order: those under way are answered, nothing acknowledged is lost, nothing is left to
//! replay.

use std::time::Duration;

use flotilla_proto::tikvpb as t;
use rustix::process::Signal;
use tokio::task::JoinHandle;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::client::{Client, spawn, wait};
use crate::crash::{Fleet, Told};
use crate::dice::Dice;
use crate::node::{EXIT_IMPATIENT, Node, eventually};
use crate::wire;

/// What a stop says of connections that it did not wait for any longer.
pub(crate) const CUT_OFF: &str = "closed connections that were still busy";

/// A question that the node has taken and answers after `delay`: whether it does.
fn slow_question(client: &Client, delay: Duration) -> JoinHandle<bool> {
    use t::batch_commands_request::request::Cmd;
    let slow = t::batch_commands_request::Request {
        cmd: Some(Cmd::Empty(t::BatchCommandsEmptyRequest {
            test_id: 77,
            delay_time: u64::try_from(delay.as_millis()).expect("a short time"),
        })),
    };
    // The one without a command is answered at once: by then both have been taken.
    let at_once = t::batch_commands_request::Request::default();
    let request = t::BatchCommandsRequest {
        requests: vec![slow, at_once],
        request_ids: vec![1, 2],
        ..t::BatchCommandsRequest::default()
    };
    let asked = tokio_stream::iter([request]);
    let answers = wait(client.tikv().batch_commands(asked)).expect("a stream");
    let mut answers = answers.into_inner();
    let first = wait(answers.message())
        .expect("no error")
        .expect("an answer");
    assert_eq!(first.request_ids, [2]);
    spawn(async move {
        let answer = answers.message().await;
        matches!(answer, Ok(Some(answer)) if answer.request_ids == [1])
    })
}

#[test]
fn health_says_so_first_and_requests_under_way_are_answered() {
    for signal in [Signal::TERM, Signal::INT] {
        let folder = tempfile::tempdir().expect("a folder");
        let node = Node::start(&folder.path().join("store"), &[]);
        let client = Client::connect(&node);
        client.put("row", "value");
        assert_eq!(wire::get(node.addr(), "/health").status, 200);

        let mut health = HealthClient::new(client.channel());
        let watch = HealthCheckRequest::default();
        let mut watched = wait(health.watch(watch)).expect("served").into_inner();
        let status = wait(watched.message()).expect("told").expect("a status");
        assert_eq!(status.status(), ServingStatus::Serving);

        // On a connection of its own: this one is answered though the node has begun to stop.
        let question = slow_question(&Client::connect(&node), Duration::from_millis(500));
        node.signal(signal);
        let status = wait(watched.message()).expect("told").expect("a status");
        assert_eq!(status.status(), ServingStatus::NotServing);
        assert!(wait(question).expect("no panic"), "it was answered");

        let exit = node.wait();
        assert_eq!(exit.code, Some(0), "{exit:?}");
        exit.says(&["stopping", "stopped"]);
    }
}

#[test]
fn a_stop_does_not_wait_for_streams_that_clients_keep_open() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::start(&folder.path().join("store"), &["stop-timeout=50s"]);
    let client = Client::connect(&node);
    let mut health = HealthClient::new(client.channel());
    let watched = wait(health.watch(HealthCheckRequest::default())).expect("served");
    let tso = wait(client.pd().tso(tokio_stream::pending())).expect("served");
    let batch = wait(client.tikv().batch_commands(tokio_stream::pending())).expect("served");
    let heartbeats = wait(client.pd().region_heartbeat(tokio_stream::pending()));
    let idle = wire::connect(node.addr());
    node.signal(Signal::TERM);
    let exit = node.wait();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    // What it has waited for in vain it cuts off.
    assert!(!exit.err.contains(CUT_OFF), "{exit:?}");
    drop((watched, tso, batch, heartbeats, idle));
}

#[test]
fn a_stop_under_load_loses_nothing_and_leaves_nothing_to_replay() {
    let dice = Dice::from_env("a_stop_under_load_loses_nothing_and_leaves_nothing_to_replay");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store");
    let (mut fleet, mut told) = (Fleet::new(&dice), Told::default());
    for signal in [Signal::TERM, Signal::INT] {
        let node = Node::start(&path, &[]);
        let opened = node.opened();
        assert_eq!(
            (opened.replayed_entries, opened.replayed_bytes),
            (0, 0),
            "{opened:?}"
        );
        fleet.settle(&node, &told);
        fleet.sail(&node, &mut told, 300, || node.signal(signal));
        let exit = node.wait();
        assert_eq!(exit.code, Some(0), "{exit:?}");
        exit.says(&["stopped"]);
    }
    let node = Node::start(&path, &[]);
    assert_eq!(node.opened().replayed_entries, 0);
    fleet.settle(&node, &told);
    node.stop();
}

#[test]
fn a_signal_to_the_process_and_its_group_is_one_wish() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::start(&folder.path().join("store"), &[]);
    node.signal(Signal::TERM);
    node.signal(Signal::TERM);
    let exit = node.wait();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    exit.says(&["stopped"]);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store");
    let node = Node::start(&path, &["stop-timeout=50s"]);
    let client = Client::connect(&node);
    client.put("row", "value");
    let question = slow_question(&client, Duration::from_secs(9));
    node.signal(Signal::TERM);
    node.logs(&["stopping"]);
    // At first it counts as the same wish.
    eventually("the impatient end", || {
        node.signal(Signal::INT);
        node.log().contains("again, stopping").then_some(())
    });
    let exit = node.wait();
    assert_eq!(exit.code, Some(EXIT_IMPATIENT), "{exit:?}");
    exit.says(&["SIGINT again, stopping at once"]);
    question.abort();
    let node = Node::start(&path, &[]);
    assert_eq!(Client::connect(&node).get("row"), Some("value".into()));
}
