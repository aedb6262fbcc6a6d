//! When a region is measured, and what becomes of one that is too large.

use std::time::Duration;

use bytes::Bytes;
use expect_test::expect;
use flotilla_raftstore::effects::RegionSize;
use flotilla_raftstore::{Config, PeerInput};

use crate::desk::{Desk, region};

const SPLIT_BYTES: u64 = 1000;

fn leader() -> Desk {
    let mut desk = Desk::new(
        &[1],
        Config {
            split_bytes: SPLIT_BYTES,
            ..Config::default()
        },
    );
    desk.tick(0);
    desk.run();
    desk
}

#[test]
fn a_region_that_may_be_too_large_takes_only_deletions_until_it_is_known_not_to_be() {
    let most = Config::default().region_bytes_max;
    let mut desk = leader();
    measured(&mut desk, most + 1, &["m"]);
    desk.scene();
    desk.put("a");
    desk.delete("a");
    desk.run();
    desk.check(&expect![[r#"
        > put a
          put a: not applied, server is busy: the region is too large, and is about to be split
        > delete a
          log: [7@6 data] hard state 6/4/6
        > sync
          to apply: [7@6 data]
        > apply
          delete a: done
          applied up to 7
    "#]]);
    // PD is away, and the region is measured again at once, not with the next heartbeat.
    let (epoch, keys, answer) = desk.asked.take().expect("PD was asked for ids");
    let refused = PeerInput::SplitIds {
        epoch,
        keys,
        ids: Err("PD is away".to_owned()),
        answer,
    };
    desk.input("no ids", refused);
    let before = desk.size_checks;
    desk.tick(100);
    assert_eq!(desk.size_checks, before + 1);
    measured(&mut desk, most, &[]);
    desk.scene();
    desk.put("b");
    desk.run();
    desk.check(&expect![[r#"
        > put b
          log: [8@6 data] hard state 6/4/7
        > sync
          to apply: [8@6 data]
        > apply
          put b: done
          applied up to 8
    "#]]);
}

/// The measurement comes back: `bytes` in all, to be cut at `keys`.
fn measured(desk: &mut Desk, bytes: u64, keys: &[&'static str]) {
    let input = PeerInput::SizeChecked {
        epoch: region(&[1]).region_epoch.expect("an epoch"),
        keys: keys
            .iter()
            .map(|key| Bytes::from_static(key.as_bytes()))
            .collect(),
        size: RegionSize { bytes, keys: 1 },
    };
    desk.input("measured", input);
}

#[test]
fn a_new_leader_measures_and_then_waits_for_writes() {
    let mut desk = leader();
    assert_eq!(desk.size_checks, 1, "nothing is known of the region");
    measured(&mut desk, 10, &[]);
    for _ in 0..3 {
        desk.tick(10_000);
    }
    assert_eq!(desk.size_checks, 1, "nothing was written to it");
}

#[test]
fn a_region_that_was_to_be_cut_and_was_not_is_measured_until_it_is() {
    let mut desk = leader();
    measured(&mut desk, 3 * SPLIT_BYTES, &["m"]);
    for nth in 1..=2 {
        let (epoch, keys, answer) = desk.asked.take().expect("PD was asked for ids");
        let refused = PeerInput::SplitIds {
            epoch,
            keys,
            ids: Err("PD is away".to_owned()),
            answer,
        };
        desk.input("no ids", refused);
        assert_eq!(desk.size_checks, nth);
        desk.tick(10_000);
        assert_eq!(
            desk.size_checks,
            nth + 1,
            "measured with the next heartbeat"
        );
        measured(&mut desk, 3 * SPLIT_BYTES, &["m"]);
    }
    desk.ids();
    desk.run();
    let parts = desk.size_checks;
    desk.now = desk.now + Duration::from_secs(10);
    desk.tick(0);
    assert_eq!(desk.size_checks, parts + 1, "nobody knows what it kept");
}
