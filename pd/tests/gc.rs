//! The safe point and the services that hold it back (wire, section 3.9).

mod common;

use common::{World, header, outcome};
use expect_test::expect;
use flotilla_pd::{Call, calls};
use flotilla_proto::clock::Wall;
use flotilla_proto::pdpb::{
    GetGcSafePointRequest, UpdateGcSafePointRequest, UpdateServiceGcSafePointRequest,
};

#[test]
fn the_safe_point_never_goes_back() {
    let mut world = World::leading();
    for (asked, stands) in [(10, 10), (5, 10), (10, 10), (u64::MAX, u64::MAX)] {
        let request = UpdateGcSafePointRequest {
            header: header(),
            safe_point: asked,
        };
        let answer = world.ask::<calls::UpdateGCSafePoint>(request).unwrap();
        assert_eq!(answer.new_safe_point, stands, "after {asked}");
        world.lead();
        let request = GetGcSafePointRequest { header: header() };
        let answer = world.ask::<calls::GetGCSafePoint>(request).unwrap();
        assert_eq!(answer.safe_point, stands);
    }
}

#[test]
fn the_lowest_live_service_is_named() {
    let mut world = World::leading();
    let mut lines = String::new();
    for (seconds, service, ttl, safe_point) in [
        (0, "backup", 60, 100),
        (0, "stream", 300, 200),
        (0, "late", 60, 50),
        (30, "backup", 60, 150),
        (30, "gone", 0, 0),
        // "backup" lives until 90 s.
        (91, "stream", 300, 210),
        (91, "ever", i64::MAX, 220),
        (91, "stream", -1, 0),
        (91, "ever", 0, 0),
    ] {
        world.wall = Wall(common::START.0 + seconds * 1000);
        let request = UpdateServiceGcSafePointRequest {
            header: header(),
            service_id: service.to_owned().into(),
            ttl,
            safe_point,
        };
        let answer = world
            .ask::<calls::UpdateServiceGCSafePoint>(request)
            .unwrap();
        let lowest = String::from_utf8_lossy(&answer.service_id).into_owned();
        lines += &format!(
            "{seconds} s {service} {safe_point} for {ttl} s: {lowest} {} for {} s\n",
            answer.min_safe_point, answer.ttl
        );
    }
    expect![[r#"
        0 s backup 100 for 60 s: backup 100 for 60 s
        0 s stream 200 for 300 s: backup 100 for 60 s
        0 s late 50 for 60 s: backup 100 for 60 s
        30 s backup 150 for 60 s: backup 150 for 60 s
        30 s gone 0 for 0 s: backup 150 for 60 s
        91 s stream 210 for 300 s: stream 210 for 300 s
        91 s ever 220 for 9223372036854775807 s: stream 210 for 300 s
        91 s stream 0 for -1 s: ever 220 for 9223372036854775807 s
        91 s ever 0 for 0 s: gc_worker 0 for 9223372036854775807 s
    "#]]
    .assert_eq(&lines);
    assert!(
        world.durable().services.is_empty(),
        "what expired is gone from the rows too"
    );
}

#[test]
fn services_have_limits() {
    let mut world = World::leading();
    let ask = |id: String| {
        calls::UpdateServiceGCSafePoint::request(UpdateServiceGcSafePointRequest {
            header: header(),
            service_id: id.into(),
            ttl: 60,
            safe_point: 1,
        })
    };
    let mut lines = String::new();
    for id in 0..1_025 {
        let token = world.send(ask(id.to_string()));
        let answer = outcome(&world.answers[&token]);
        if answer != "ok" {
            lines += &format!("{id}: {answer}\n");
        }
    }
    let token = world.send(ask("x".repeat(257)));
    lines += &format!("{}\n", outcome(&world.answers[&token]));
    expect![[r#"
        1024: UNKNOWN 1024 services hold the safe point already
        UNKNOWN a service id has 1 to 256 bytes, this one 257
    "#]]
    .assert_eq(&lines);
}
