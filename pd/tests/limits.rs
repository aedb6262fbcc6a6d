//! Every queue is bounded: one more than fits is refused at once, and those before it are served.

mod common;

use common::{World, header, outcome, region, store};
use flotilla_pd::{
    CHANGES_MAX, Call, ExtendWindow, KeyMode, PARKED_MAX, Request, SPLITS_MAX, WAITING_MAX, calls,
};
use flotilla_proto::pdpb::{
    AllocIdRequest, GetRegionRequest, PutStoreRequest, SplitRegionsRequest,
};

/// Sends `request` until one is answered at once; returns how many wait and what that one got.
fn fill(world: &mut World, mut request: impl FnMut(usize) -> Request) -> (usize, String) {
    for waiting in 0..100_000 {
        let token = world.send(request(waiting));
        if let Some(answer) = world.answers.remove(&token) {
            return (waiting, outcome(&answer));
        }
    }
    panic!("no bound");
}

fn blocked() -> World {
    let mut world = World::of_mode(KeyMode::Plain);
    world.commits = false;
    world
}

#[test]
fn changes_of_metadata() {
    let mut world = blocked();
    let (waiting, refused) = fill(&mut world, |nth| {
        let mut put = store(1);
        put.address = format!("10.0.0.1:{}", 1 + nth);
        calls::PutStore::request(PutStoreRequest {
            header: header(),
            store: Some(put),
        })
    });
    // One is proposed, the others queue.
    assert_eq!(waiting, CHANGES_MAX + 1);
    assert_eq!(
        refused,
        "status ResourceExhausted: too many changes of metadata wait"
    );
    world.commits = true;
    world.input(flotilla_pd::Input::Tick);
    assert_eq!(world.answers.len(), waiting);
}

#[test]
fn requests_for_ids() {
    let mut world = blocked();
    let (waiting, refused) = fill(&mut world, |_| {
        calls::AllocID::request(AllocIdRequest {
            header: header(),
            count: 1,
        })
    });
    assert_eq!(waiting, WAITING_MAX);
    assert_eq!(
        refused,
        "status ResourceExhausted: too many requests wait for ids"
    );
    world.commits = true;
    world.input(flotilla_pd::Input::Tick);
    assert_eq!(world.answers.len(), waiting);
}

#[test]
fn requests_for_timestamps() {
    let mut world = blocked();
    let above_ms = world.durable().tso_bound_ms;
    let (waiting, refused) = fill(&mut world, |_| {
        calls::ExtendWindow::request(ExtendWindow { above_ms })
    });
    assert_eq!(waiting, WAITING_MAX);
    assert_eq!(
        refused,
        "status ResourceExhausted: too many requests wait for timestamps"
    );
    world.commits = true;
    world.input(flotilla_pd::Input::Tick);
    assert_eq!(world.answers.len(), waiting);
}

/// A look-up too many is no error: it is answered as the routes are.
#[test]
fn lookups_that_wait_for_a_hole() {
    let mut world = blocked();
    let (waiting, answered) = fill(&mut world, |_| {
        calls::GetRegion::request(GetRegionRequest {
            header: header(),
            region_key: "k".into(),
            ..GetRegionRequest::default()
        })
    });
    assert_eq!((waiting, &answered[..]), (PARKED_MAX, "ok"));
    world.report(region(3, 1, "", ""));
    assert_eq!(world.answers.len(), waiting);
}

#[test]
fn splits_under_way() {
    let mut world = blocked();
    let (waiting, refused) = fill(&mut world, |nth| {
        calls::SplitRegions::request(SplitRegionsRequest {
            header: header(),
            split_keys: vec![format!("k{nth}").into()],
            retry_limit: 1,
        })
    });
    assert_eq!(waiting, SPLITS_MAX);
    assert_eq!(
        refused,
        "status ResourceExhausted: too many splits run already"
    );
    world.advance(std::time::Duration::from_secs(1));
    assert_eq!(world.answers.len(), waiting);
}
