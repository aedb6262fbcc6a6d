//! The region cache: what it finds, what it keeps, what it drops.

use bytes::Bytes;
use flotilla_pd_client::{RegionCache, Route};
use flotilla_proto::metapb::{Peer, Region, RegionEpoch, Store};

fn peer(id: u64) -> Peer {
    Peer {
        id,
        store_id: id % 10,
        ..Peer::default()
    }
}

/// A region of the peers `10 × id + 1` and `10 × id + 2`, led by the first.
fn route(id: u64, version: u64, start: &str, end: &str) -> Route {
    let region = Region {
        id,
        start_key: Bytes::copy_from_slice(start.as_bytes()),
        end_key: Bytes::copy_from_slice(end.as_bytes()),
        region_epoch: Some(RegionEpoch {
            conf_ver: 1,
            version,
        }),
        peers: vec![peer(10 * id + 1), peer(10 * id + 2)],
        ..Region::default()
    };
    let leader = region.peers[0];
    Route::new(region, Some(leader))
}

fn filled(routes: &[Route]) -> RegionCache {
    let mut cache = RegionCache::new();
    for route in routes {
        assert!(cache.insert(route.clone()));
    }
    cache
}

fn tiled() -> RegionCache {
    filled(&[
        route(3, 2, "", "g"),
        route(7, 2, "g", "p"),
        route(5, 2, "p", ""),
    ])
}

fn id(route: Option<&Route>) -> u64 {
    route.map_or(0, |route| route.region.id)
}

#[test]
fn a_key_is_found_from_both_sides() {
    let cache = tiled();
    for (key, at, below) in [
        ("", 3, 5),
        ("a", 3, 3),
        ("g", 7, 3),
        ("h", 7, 7),
        ("p", 5, 7),
        ("z", 5, 5),
    ] {
        assert_eq!(id(cache.locate(key.as_bytes())), at, "at {key:?}");
        let found = cache.locate_below(key.as_bytes());
        assert_eq!(id(found), below, "below {key:?}");
    }
    let holed = filled(&[route(3, 2, "", "g"), route(5, 2, "p", "t")]);
    for (key, at, below) in [
        ("g", 0, 3),
        ("h", 0, 0),
        ("p", 5, 0),
        ("t", 0, 5),
        ("u", 0, 0),
    ] {
        assert_eq!(id(holed.locate(key.as_bytes())), at, "at {key:?}");
        let found = holed.locate_below(key.as_bytes());
        assert_eq!(id(found), below, "below {key:?}");
    }
    assert_eq!(id(holed.locate_below(b"")), 0, "the top is unknown");
}

#[test]
fn the_newer_version_stays() {
    let known = |cache: &RegionCache| {
        let ids: Vec<u64> = ["a", "h", "q"]
            .map(|key| id(cache.locate(key.as_bytes())))
            .to_vec();
        (ids, cache.len())
    };
    let mut cache = filled(&[route(3, 1, "", "")]);
    assert!(cache.insert(route(7, 2, "g", "p")), "a split part");
    assert_eq!(known(&cache), (vec![0, 7, 0], 1));
    assert!(!cache.insert(route(3, 1, "", "")), "the parent as it was");
    assert!(cache.insert(route(3, 2, "p", "")), "the parent as it is");
    assert!(cache.insert(route(9, 2, "", "g")));
    assert_eq!(known(&cache), (vec![9, 7, 3], 3));
    assert!(cache.insert(route(7, 4, "", "p")), "a merge");
    assert_eq!(known(&cache), (vec![7, 7, 3], 2));
    assert!(!cache.insert(route(9, 3, "", "g")), "the merged one");
    assert!(
        !cache.insert(route(7, 3, "", "p")),
        "an older version of itself"
    );
    assert!(!cache.insert(route(11, 9, "q", "q")), "an empty range");
    assert_eq!(known(&cache), (vec![7, 7, 3], 2));
    assert!(cache.invalidate(7).is_some() && cache.invalidate(7).is_none());
    assert_eq!(known(&cache), (vec![0, 0, 3], 1));
}

#[test]
fn a_leader_must_be_a_peer_of_the_cached_region() {
    let mut cache = tiled();
    assert!(cache.set_leader(7, peer(72)));
    assert_eq!(cache.by_id(7).unwrap().leader, Some(peer(72)));
    assert!(!cache.set_leader(7, peer(99)));
    assert!(!cache.set_leader(8, peer(72)));
    assert_eq!(cache.by_id(7).unwrap().leader, Some(peer(72)));

    let mut unled = route(7, 3, "g", "p");
    unled.leader = None;
    assert!(cache.insert(unled.clone()));
    assert_eq!(
        cache.by_id(7).unwrap().leader,
        Some(peer(72)),
        "still a member"
    );
    unled.region.region_epoch = Some(RegionEpoch {
        conf_ver: 2,
        version: 3,
    });
    unled.region.peers = vec![peer(71)];
    assert!(cache.insert(unled));
    assert_eq!(cache.by_id(7).unwrap().leader, None, "removed");
}

#[test]
fn pd_answers_an_unknown_leader_as_an_empty_peer() {
    let region = route(7, 2, "g", "p").region;
    assert_eq!(
        Route::new(region.clone(), Some(Peer::default())).leader,
        None
    );
    let route = Route::new(region, None);
    let context = route.context(peer(72));
    assert_eq!(context.region_id, 7);
    assert_eq!(context.region_epoch.unwrap().version, 2);
    assert_eq!(context.peer, Some(peer(72)));
}

#[test]
fn stores_are_remembered_until_they_are_forgotten() {
    let mut cache = RegionCache::new();
    assert!(cache.is_empty());
    let store = Store {
        id: 4,
        address: "10.0.0.4:20160".to_owned(),
        ..Store::default()
    };
    cache.insert_store(store.clone());
    assert_eq!(cache.store(4), Some(&store));
    assert_eq!(cache.invalidate_store(4), Some(store));
    assert_eq!(cache.store(4), None);
}
