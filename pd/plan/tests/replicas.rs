//! What is planned for which region, as a table.

mod common;

use common::{DOWN_TIME, cluster, region, rng, run, store};
use expect_test::{Expect, expect};
use flotilla_pd_plan::{
    Asked, Cluster, Region, Rules, StoreState, asked, check_leader, check_replicas,
};
use flotilla_proto::metapb::PeerRole::{self, DemotingVoter, IncomingVoter, Learner, Voter};

use StoreState::{Disconnected, Down, Offline, Tombstone, Up};

/// All operators in a row, until nothing is left to do.
#[track_caller]
fn check(cluster: &Cluster, mut region: Region, expected: Expect) {
    let mut rng = rng(1);
    let mut lines = String::new();
    while let Some(operator) = check_replicas(cluster, &region, &mut rng) {
        lines += &format!("{operator}\n");
        run(cluster, &mut region, &operator);
    }
    let mut peers: Vec<String> = region
        .peers
        .iter()
        .map(|peer| match peer.role() {
            Voter => peer.store_id.to_string(),
            role => format!("{}:{role:?}", peer.store_id),
        })
        .collect();
    peers.sort();
    lines += &format!(
        "then: {}, {} leads\n",
        peers.join(" "),
        region.leader.unwrap_or(0)
    );
    expected.assert_eq(&lines);
}

fn voters(leader: u64, stores: &[u64]) -> Region {
    let peers: Vec<(u64, PeerRole)> = stores.iter().map(|store| (*store, Voter)).collect();
    region(leader, &peers)
}

fn meta(region: Region) -> Region {
    Region {
        meta: true,
        ..region
    }
}

/// The leader does not hear the peer on `store` for as long as makes it down.
fn unheard(mut region: Region, store: u64) -> Region {
    region.down.insert(10 * store, DOWN_TIME);
    region
}

#[test]
fn a_region_grows_with_the_cluster() {
    check(
        &cluster(&[Up]),
        voters(1, &[1]),
        expect![[r#"
        then: 1, 1 leads
    "#]],
    );
    // A second voter would only make the group easier to stop.
    check(
        &cluster(&[Up; 2]),
        voters(1, &[1]),
        expect![[r#"
        then: 1, 1 leads
    "#]],
    );
    check(
        &cluster(&[Up; 3]),
        voters(1, &[1]),
        expect![[r#"
        make-up-replica region 7: add a learner on store 3, add a learner on store 2, at once: promote store 3 promote store 2, leave the joint configuration (it has 1 of 3 replicas)
        then: 1 2 3, 1 leads
    "#]],
    );
    check(
        &cluster(&[Up; 3]),
        voters(1, &[1, 2]),
        expect![[r#"
        make-up-replica region 7: add a learner on store 3, promote the learner on store 3 (it has 2 of 3 replicas)
        then: 1 2 3, 1 leads
    "#]],
    );
    check(
        &cluster(&[Up; 6]),
        voters(1, &[1, 2, 3]),
        expect![[r#"
        then: 1 2 3, 1 leads
    "#]],
    );
}

#[test]
fn the_meta_region_grows_to_three_and_then_to_five() {
    check(
        &cluster(&[Up; 2]),
        meta(voters(1, &[1])),
        expect![[r#"
        then: 1, 1 leads
    "#]],
    );
    check(
        &cluster(&[Up; 4]),
        meta(voters(1, &[1])),
        expect![[r#"
        make-up-replica region 7: add a learner on store 4, add a learner on store 3, at once: promote store 4 promote store 3, leave the joint configuration (it has 1 of 3 replicas)
        then: 1 3 4, 1 leads
    "#]],
    );
    check(
        &cluster(&[Up; 5]),
        meta(voters(1, &[1])),
        expect![[r#"
        make-up-replica region 7: add a learner on store 5, add a learner on store 4, at once: promote store 5 promote store 4, leave the joint configuration (it has 1 of 5 replicas)
        make-up-replica region 7: add a learner on store 2, add a learner on store 3, at once: promote store 2 promote store 3, leave the joint configuration (it has 3 of 5 replicas)
        then: 1 2 3 4 5, 1 leads
    "#]],
    );
}

#[test]
fn a_learner_is_used_before_another_is_added() {
    let half = region(1, &[(1, Voter), (2, Voter), (4, Learner)]);
    check(
        &cluster(&[Up; 4]),
        half.clone(),
        expect![[r#"
        make-up-replica region 7: promote the learner on store 4 (it has 2 of 3 replicas)
        then: 1 2 4, 1 leads
    "#]],
    );
    let mut behind = half;
    behind.pending.insert(40);
    check(
        &cluster(&[Up; 4]),
        behind,
        expect![[r#"
        then: 1 2 4:Learner, 1 leads
    "#]],
    );
    let spare = region(1, &[(1, Voter), (2, Voter), (3, Voter), (4, Learner)]);
    check(
        &cluster(&[Up; 4]),
        spare,
        expect![[r#"
        remove-orphan-peer region 7: remove the peer on store 4 (its learner on store 4 is of no use)
        then: 1 2 3, 1 leads
    "#]],
    );
}

#[test]
fn what_is_too_much_goes_worst_first() {
    let mut crowded = cluster(&[Up; 5]);
    crowded.stores.get_mut(&3).unwrap().regions = 9;
    check(
        &crowded,
        voters(3, &[1, 2, 3, 4]),
        expect![[r#"
        remove-extra-replica region 7: remove the peer on store 1 (it has 4 replicas and needs 3)
        then: 2 3 4, 3 leads
    "#]],
    );
    check(
        &cluster(&[Up, Up, Down, Up, Offline]),
        unheard(voters(1, &[1, 2, 3, 4, 5]), 3),
        expect![[r#"
            remove-extra-replica region 7: at once: demote store 3 demote store 5, leave the joint configuration, remove the peer on store 3, remove the peer on store 5 (it has 5 replicas and needs 3)
            then: 1 2 4, 1 leads
        "#]],
    );
    let one = Rules {
        max_replicas: 1,
        ..crowded.rules
    };
    let lonely = Cluster {
        rules: one,
        ..crowded
    };
    check(
        &lonely,
        voters(1, &[1, 2, 3]),
        expect![[r#"
        remove-extra-replica region 7: at once: demote store 3 demote store 2, leave the joint configuration, remove the peer on store 3, remove the peer on store 2 (it has 3 replicas and needs 1)
        then: 1, 1 leads
    "#]],
    );
}

#[test]
fn a_peer_on_a_down_store_is_replaced() {
    let stores = cluster(&[Up, Up, Down, Up]);
    check(
        &stores,
        unheard(voters(1, &[1, 2, 3]), 3),
        expect![[r#"
        replace-down-replica region 7: add a learner on store 4, at once: promote store 4 demote store 3, leave the joint configuration, remove the peer on store 3 (its peer on store 3 is down)
        then: 1 2 4, 1 leads
    "#]],
    );
    // PD does not hear the store, but the region's leader does.
    check(
        &stores,
        voters(1, &[1, 2, 3]),
        expect![[r#"
        then: 1 2 3, 1 leads
    "#]],
    );
    // The store lives, the replica does not.
    check(
        &cluster(&[Up; 4]),
        unheard(voters(1, &[1, 2, 3]), 3),
        expect![[r#"
            replace-down-replica region 7: add a learner on store 4, at once: promote store 4 demote store 3, leave the joint configuration, remove the peer on store 3 (its peer on store 3 is down)
            then: 1 2 4, 1 leads
        "#]],
    );
    check(
        &cluster(&[Up, Up, Down]),
        unheard(voters(1, &[1, 2, 3]), 3),
        expect![[r#"
            then: 1 2 3, 1 leads
        "#]],
    );
    check(
        &cluster(&[Up, Up, Disconnected, Up]),
        voters(1, &[1, 2, 3]),
        expect![[r#"
            then: 1 2 3, 1 leads
        "#]],
    );
}

#[test]
fn a_store_that_leaves_is_emptied() {
    let stores = cluster(&[Offline, Up, Up, Up]);
    check(
        &stores,
        voters(1, &[1, 2, 3]),
        expect![[r#"
        replace-offline-replica region 7: add a learner on store 4, transfer the leader to store 3, at once: promote store 4 demote store 1, leave the joint configuration, remove the peer on store 1 (store 1 is offline)
        then: 2 3 4, 3 leads
    "#]],
    );
    check(
        &stores,
        voters(2, &[1, 2, 3]),
        expect![[r#"
        replace-offline-replica region 7: add a learner on store 4, at once: promote store 4 demote store 1, leave the joint configuration, remove the peer on store 1 (store 1 is offline)
        then: 2 3 4, 2 leads
    "#]],
    );
    check(
        &cluster(&[Offline, Up]),
        voters(1, &[1]),
        expect![[r#"
        replace-offline-replica region 7: add a learner on store 2, promote the learner on store 2, transfer the leader to store 2, remove the peer on store 1 (store 1 is offline)
        then: 2, 2 leads
    "#]],
    );
    check(
        &cluster(&[Tombstone, Up, Up, Up]),
        voters(2, &[1, 2, 3]),
        expect![[r#"
            replace-tombstone-replica region 7: add a learner on store 4, at once: promote store 4 demote store 1, leave the joint configuration, remove the peer on store 1 (store 1 is a tombstone)
            then: 2 3 4, 2 leads
        "#]],
    );
    // All at once is one after the other.
    check(
        &cluster(&[Offline, Offline, Up, Up, Up]),
        voters(1, &[1, 2, 3]),
        expect![[r#"
            replace-offline-replica region 7: add a learner on store 5, at once: promote store 5 demote store 2, leave the joint configuration, remove the peer on store 2 (store 2 is offline)
            replace-offline-replica region 7: add a learner on store 4, transfer the leader to store 3, at once: promote store 4 demote store 1, leave the joint configuration, remove the peer on store 1 (store 1 is offline)
            then: 3 4 5, 3 leads
        "#]],
    );
}

#[test]
fn a_joint_configuration_that_nobody_left_is_left() {
    let joint = region(
        1,
        &[
            (1, Voter),
            (2, Voter),
            (3, DemotingVoter),
            (4, IncomingVoter),
        ],
    );
    check(
        &cluster(&[Up; 4]),
        joint,
        expect![[r#"
        leave-joint-state region 7: leave the joint configuration (its joint configuration was not left)
        remove-orphan-peer region 7: remove the peer on store 3 (its learner on store 3 is of no use)
        then: 1 2 4, 1 leads
    "#]],
    );
}

#[test]
fn stores_without_room_get_nothing() {
    let full = |available| {
        let mut stores = cluster(&[Up, Up, Up, Up]);
        let mut small = store(Up);
        (small.capacity, small.available) = (100 << 30, available);
        stores.stores.insert(3, small);
        stores
    };
    let mut big = voters(1, &[1, 2, 4]);
    big.size = 1 << 30;
    let why = |stores: &Cluster| stores.takes_peer(3, &big).unwrap_err().to_string();
    assert_eq!(full(3 << 30).takes_peer(3, &big), Ok(()));
    expect!["it is short of space: 3221225471 of 107374182400 bytes are free"]
        .assert_eq(&why(&full((3 << 30) - 1)));
}

#[test]
fn leaders_leave_a_store_that_is_drained() {
    let mut stores = cluster(&[Up; 3]);
    stores.stores.get_mut(&1).unwrap().evicted = true;
    stores.stores.get_mut(&2).unwrap().leaders = 5;
    let plan = |region: &Region| {
        check_leader(&stores, region, &mut rng(1)).map(|operator| operator.to_string())
    };
    let expected =
        "evict-leader region 7: transfer the leader to store 3 (no leader is to be on store 1)";
    assert_eq!(plan(&voters(1, &[1, 2, 3])).as_deref(), Some(expected));
    assert_eq!(plan(&voters(2, &[1, 2, 3])), None);
    assert_eq!(plan(&voters(1, &[1])), None, "nobody else can");
}

#[test]
fn what_is_asked_for_and_why_it_is_refused() {
    let stores = cluster(&[Up, Up, Up, Up, Disconnected, Offline]);
    let three = voters(1, &[1, 2, 3]);
    let far = voters(1, &[1, 2, 5]);
    let two = voters(1, &[1, 2]);
    let four = voters(1, &[1, 2, 3, 4]);
    let headless = Region {
        leader: None,
        ..three.clone()
    };
    let joint = region(1, &[(1, Voter), (2, DemotingVoter), (3, IncomingVoter)]);
    let mut lines = String::new();
    for (region, wish) in [
        (&three, Asked::TransferLeader { to: 2 }),
        (&three, Asked::TransferLeader { to: 1 }),
        (&three, Asked::TransferLeader { to: 4 }),
        (&far, Asked::TransferLeader { to: 5 }),
        (&headless, Asked::TransferLeader { to: 2 }),
        (&joint, Asked::TransferLeader { to: 1 }),
        (&two, Asked::AddPeer { store: 3 }),
        (&two, Asked::AddPeer { store: 2 }),
        (&two, Asked::AddPeer { store: 9 }),
        (&three, Asked::AddPeer { store: 4 }),
        (&four, Asked::RemovePeer { store: 1 }),
        (&four, Asked::RemovePeer { store: 5 }),
        (&three, Asked::RemovePeer { store: 3 }),
        (&three, Asked::MovePeer { from: 3, to: 4 }),
        (&three, Asked::MovePeer { from: 1, to: 4 }),
        (&three, Asked::MovePeer { from: 3, to: 5 }),
        (&three, Asked::MovePeer { from: 3, to: 6 }),
        (&three, Asked::MovePeer { from: 4, to: 4 }),
    ] {
        let line = match asked(&stores, region, wish, &mut rng(1)) {
            Ok(operator) => operator.to_string(),
            Err(refusal) => format!("{wish:?}: {refusal}"),
        };
        lines += &format!("{line}\n");
    }
    expect![[r#"
        admin-transfer-leader region 7: transfer the leader to store 2 (asked for: store 2 leads)
        TransferLeader { to: 1 }: the peer on store 1 leads already
        TransferLeader { to: 4 }: the region has no voter on store 4
        TransferLeader { to: 5 }: the peer on store 5 cannot lead now: it does not answer, lags behind, or its store is to have no leaders
        TransferLeader { to: 2 }: nobody is known to lead the region; try again when it has a leader
        TransferLeader { to: 1 }: a change of the region's members is under way; try again when it is through
        admin-add-peer region 7: add a learner on store 3, promote the learner on store 3 (asked for: a peer on store 3)
        AddPeer { store: 2 }: store 2 gets no peer of the region: it has a peer of the region already
        AddPeer { store: 9 }: store 9 gets no peer of the region: there is no such store
        AddPeer { store: 4 }: the region has 3 of 3 replicas: move one instead of adding one
        admin-remove-peer region 7: transfer the leader to store 4, remove the peer on store 1 (asked for: no peer on store 1)
        RemovePeer { store: 5 }: the region has no peer on store 5
        RemovePeer { store: 3 }: the region has 3 replicas and needs 3: move the one on store 3 instead of removing it
        admin-move-peer region 7: add a learner on store 4, at once: promote store 4 demote store 3, leave the joint configuration, remove the peer on store 3 (asked for: the peer on store 3 to store 4)
        admin-move-peer region 7: add a learner on store 4, transfer the leader to store 3, at once: promote store 4 demote store 1, leave the joint configuration, remove the peer on store 1 (asked for: the peer on store 1 to store 4)
        MovePeer { from: 3, to: 5 }: store 5 gets no peer of the region: it is disconnected
        MovePeer { from: 3, to: 6 }: store 6 gets no peer of the region: it is offline
        MovePeer { from: 4, to: 4 }: the region has no voter on store 4
    "#]].assert_eq(&lines);
}
