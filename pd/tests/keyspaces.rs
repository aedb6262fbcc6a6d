//! Keyspaces, the key mode they need, and splits that PD asks for (wire, sections 3.7 and 3.8).

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use common::{World, header, outcome, region};
use expect_test::expect;
use flotilla_pd::records::{KeyspaceRecord, put_keyspace};
use flotilla_pd::{
    CONFIG_KEY_MODE, CONFIG_PATH, Call, CreateKeyspace, CreateKeyspaceError, Event, KeyMode,
    Outcome, Request, RequestToken, SPLIT_ATTEMPTS, StreamId, calls,
};
use flotilla_proto::keys::{KEYSPACE_ID_MAX, encode};
use flotilla_proto::keyspacepb::{
    GetAllKeyspacesRequest, KeyspaceMeta, KeyspaceState, LoadKeyspaceByIdRequest,
    LoadKeyspaceRequest, LookupKeyspaceRequest, NamespaceRef, UpdateKeyspaceStateRequest,
    get_all_keyspaces_request::StartKeyspace, keyspace_meta, load_keyspace_by_id_request,
    namespace_ref, update_keyspace_state_request,
};
use flotilla_proto::metapb::{Region, RegionEpoch};
use flotilla_proto::pdpb::{
    CheckPolicy, GlobalConfigItem, LoadGlobalConfigRequest, SplitAndScatterRegionsRequest,
    SplitRegionsRequest, StoreGlobalConfigRequest,
};

/// Store 1 with the regions it leads: it splits them when it is told to.
struct Stores {
    next_id: u64,
    regions: BTreeMap<Bytes, Region>,
}

impl Stores {
    /// One region over everything, reported.
    fn start(world: &mut World) -> Self {
        let whole = region(3, 1, "", "");
        world.report(whole.clone());
        Self {
            next_id: 100,
            regions: BTreeMap::from([(Bytes::new(), whole)]),
        }
    }

    /// Carries out the instructions that came, as a store does, and those that follow its reports.
    fn obey(&mut self, world: &mut World) {
        while self.obey_once(world) {}
    }

    fn obey_once(&mut self, world: &mut World) -> bool {
        let told = !world.instructions.is_empty();
        for (stream, instruction) in std::mem::take(&mut world.instructions) {
            assert_eq!(stream, StreamId(1));
            let split = instruction.split_region.expect("only splits are told");
            assert_eq!(split.policy, CheckPolicy::Usekey as i32);
            assert_eq!(instruction.target_peer.unwrap().store_id, 1);
            let known = self
                .regions
                .values()
                .find(|region| region.id == instruction.region_id);
            // A store drops what it was told for another epoch.
            if known.is_some_and(|region| region.region_epoch == instruction.region_epoch) {
                for key in split.keys {
                    self.split(instruction.region_id, &key);
                }
            }
        }
        for region in self.regions.values().cloned().collect::<Vec<_>>() {
            world.report(region);
        }
        told
    }

    fn split(&mut self, id: u64, key: &Bytes) {
        let known = self.regions.values().find(|region| region.id == id);
        let mut right = known.expect("a region of ours").clone();
        assert!(*key > right.start_key && (right.end_key.is_empty() || *key < right.end_key));
        let mut left = right.clone();
        self.next_id += 1;
        left.id = self.next_id;
        left.peers[0].id = 10 * left.id + 1;
        left.end_key = key.clone();
        right.start_key = key.clone();
        for half in [left, right] {
            let version = half.region_epoch.unwrap().version + 1;
            let epoch = RegionEpoch {
                conf_ver: 1,
                version,
            };
            let half = Region {
                region_epoch: Some(epoch),
                ..half
            };
            self.regions.insert(half.start_key.clone(), half);
        }
    }

    fn boundaries(&self) -> Vec<Bytes> {
        self.regions.keys().skip(1).cloned().collect()
    }
}

fn load(name: &str) -> Request {
    calls::LoadKeyspace::request(LoadKeyspaceRequest {
        header: header(),
        name: name.to_owned(),
        ..LoadKeyspaceRequest::default()
    })
}

fn create(name: &str) -> Request {
    calls::CreateKeyspace::request(CreateKeyspace {
        name: name.to_owned(),
        config: BTreeMap::from([("tier".to_owned(), "gold".to_owned())]),
    })
}

fn created(world: &mut World, token: RequestToken) -> Result<KeyspaceMeta, CreateKeyspaceError> {
    world
        .answer::<calls::CreateKeyspace>(token)
        .expect("an answer")
        .unwrap()
        .0
}

fn split(keys: &[&[u8]], retry_limit: u64) -> SplitRegionsRequest {
    SplitRegionsRequest {
        header: header(),
        split_keys: keys.iter().map(|key| Bytes::copy_from_slice(key)).collect(),
        retry_limit,
    }
}

/// Where keyspace `id` starts and ends, raw and transactional.
fn boundaries_of(id: u8) -> [Bytes; 4] {
    [
        [b'r', 0, 0, id],
        [b'r', 0, 0, id + 1],
        [b'x', 0, 0, id],
        [b'x', 0, 0, id + 1],
    ]
    .map(|key| encode(&key))
}

#[test]
fn the_default_keyspace_exists_and_is_split_when_it_is_first_loaded() {
    let mut world = World::leading();
    let mut stores = Stores::start(&mut world);
    let first = world.send(load("DEFAULT"));
    let by_id = world.send(calls::LoadKeyspaceByID::request(LoadKeyspaceByIdRequest {
        header: header(),
        keyspace: Some(load_keyspace_by_id_request::Keyspace::Id(0)),
    }));
    assert!(world.answers.is_empty(), "they wait for the boundaries");
    stores.obey(&mut world);
    assert_eq!(stores.boundaries(), boundaries_of(0));
    let meta = world
        .answer::<calls::LoadKeyspace>(first)
        .unwrap()
        .unwrap()
        .keyspace
        .unwrap();
    assert_eq!(meta.keyspace, Some(keyspace_meta::Keyspace::Id(0)));
    assert_eq!(
        (&meta.name[..], meta.state),
        ("DEFAULT", KeyspaceState::Enabled as i32)
    );
    let same = world
        .answer::<calls::LoadKeyspaceByID>(by_id)
        .unwrap()
        .unwrap();
    assert_eq!(same.keyspace, Some(meta));
    assert_eq!(
        world.durable().cluster.mode(),
        None,
        "loading decides nothing"
    );

    // Another leader knows no route yet, and knows that the boundaries are split.
    world.lead();
    let again = world.send(load("DEFAULT"));
    assert_eq!(outcome(&world.answers[&again]), "ok");
}

#[test]
fn a_new_keyspace_is_unknown_until_its_boundaries_are_split() {
    let mut world = World::leading();
    let mut stores = Stores::start(&mut world);
    let token = world.send(create("tenant-1"));
    let early = world.send(load("tenant-1"));
    let lookup = calls::LookupKeyspace::request(LookupKeyspaceRequest {
        header: header(),
        name: "tenant-1".to_owned(),
    });
    let looked_up = world.send(lookup.clone());
    assert!(outcome(&world.answers[&looked_up]).starts_with("ENTRY_NOT_FOUND"));
    assert!(!world.answers.contains_key(&token) && !world.answers.contains_key(&early));
    stores.obey(&mut world);
    let meta = created(&mut world, token).unwrap();
    assert_eq!(meta.keyspace, Some(keyspace_meta::Keyspace::Id(1)));
    assert_eq!(meta.config["tier"], "gold");
    assert_eq!(outcome(&world.answers[&early]), "ok");
    let looked_up = world.send(lookup);
    assert_eq!(outcome(&world.answers[&looked_up]), "ok");

    // It decided the key mode, so the default keyspace's boundaries came along.
    assert_eq!(world.durable().cluster.mode(), Some(KeyMode::Encoded));
    let mut all = [boundaries_of(0), boundaries_of(1)].concat();
    all.sort();
    all.dedup();
    assert_eq!(stores.boundaries(), all);
    let events: Vec<_> = world
        .events
        .iter()
        .filter(|event| {
            matches!(
                event,
                Event::KeyspaceCreated { .. }
                    | Event::KeyspaceReady { .. }
                    | Event::KeyModeSet { .. }
            )
        })
        .collect();
    assert_eq!(
        events,
        [
            &Event::KeyModeSet {
                mode: KeyMode::Encoded
            },
            &Event::KeyspaceCreated { id: 1 },
            &Event::KeyspaceReady { id: 0 },
            &Event::KeyspaceReady { id: 1 },
        ]
    );
}

/// Nobody splits: the callers are told, and the split is not given up.
#[test]
fn boundaries_that_take_long_are_waited_for_in_the_background() {
    let mut world = World::leading();
    let mut stores = Stores::start(&mut world);
    let token = world.send(create("slow"));
    let early = world.send(load("slow"));
    world.advance(Duration::from_secs(2));
    let error = created(&mut world, token).unwrap_err();
    assert_eq!(
        error.to_string(),
        "keyspace \"slow\" is created with id 1; its region boundaries are not split yet"
    );
    assert_eq!(error.http_status(), 503);
    assert!(outcome(&world.answers[&early]).starts_with("ENTRY_NOT_FOUND"));
    world.advance(Duration::from_secs(30));
    world.instructions.truncate(2);
    stores.obey(&mut world);
    let late = world.send(load("slow"));
    assert_eq!(outcome(&world.answers[&late]), "ok");
}

#[test]
fn recording_that_a_keyspace_is_split_is_tried_again() {
    let mut world = World::leading();
    let mut stores = Stores::start(&mut world);
    world.send(load("DEFAULT"));
    world.commits = false;
    stores.obey(&mut world);
    world.decide(Outcome::Refused {
        why: "busy".to_owned(),
    });
    world.commits = true;
    world.advance(Duration::from_millis(600));
    assert!(world.durable().keyspaces[&0].split);
}

#[test]
fn what_cannot_be_created() {
    let refuse = |world: &mut World, name: &str| {
        let token = world.send(create(name));
        let error = created(world, token).unwrap_err();
        format!("{} {error}\n", error.http_status())
    };
    let mut lines = String::new();
    let mut world = World::leading();
    lines += &refuse(&mut world, "");
    lines += &refuse(&mut world, "a/b");
    lines += &refuse(&mut world, &"x".repeat(65));
    lines += &refuse(&mut world, "DEFAULT");
    lines += &refuse(&mut World::of_mode(KeyMode::Plain), "tenant");
    lines += &refuse(&mut World::virgin(), "tenant");
    let huge = CreateKeyspace {
        name: "big".to_owned(),
        config: BTreeMap::from([("k".to_owned(), "v".repeat(16 * 1024))]),
    };
    let token = world.send(calls::CreateKeyspace::request(huge));
    lines += &format!("{}\n", created(&mut world, token).unwrap_err());
    expect![[r#"
        400 a keyspace name has 1 to 64 letters, digits, '-' or '_': "" is none
        400 a keyspace name has 1 to 64 letters, digits, '-' or '_': "a/b" is none
        400 a keyspace name has 1 to 64 letters, digits, '-' or '_': "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" is none
        409 the keyspace "DEFAULT" exists already
        409 this cluster holds plain raw keys (API v1); keyspaces need a cluster with encoded keys (API v2)
        412 the cluster is not bootstrapped
        a keyspace's settings hold at most 16384 bytes, these are 16385
    "#]].assert_eq(&lines);
}

#[test]
fn the_highest_id_is_the_last_whose_range_ends_under_its_own_mode_byte() {
    let mut world = World::idle(&common::genesis());
    let split = KeyspaceRecord {
        split: true,
        ..world.durable().keyspaces[&0].clone()
    };
    let before = KeyspaceRecord {
        name: "before".to_owned(),
        ..split.clone()
    };
    world.write(vec![
        put_keyspace(0, &split),
        put_keyspace(KEYSPACE_ID_MAX - 1, &before),
    ]);
    world.lead();
    let mut stores = Stores::start(&mut world);
    let last = world.send(create("last"));
    stores.obey(&mut world);
    let meta = created(&mut world, last).unwrap();
    assert_eq!(meta.keyspace, Some(keyspace_meta::Keyspace::Id(0xff_fffe)));
    let boundaries = [
        b"r\xff\xff\xfe",
        b"r\xff\xff\xff",
        b"x\xff\xff\xfe",
        b"x\xff\xff\xff",
    ];
    assert_eq!(stores.boundaries(), boundaries.map(|key| encode(key)));
    let more = world.send(create("more"));
    let error = created(&mut world, more).unwrap_err();
    assert_eq!(error, CreateKeyspaceError::IdsUsedUp);
}

#[test]
fn a_cluster_of_plain_keys_has_no_usable_keyspace() {
    let mut world = World::of_mode(KeyMode::Plain);
    let token = world.send(load("DEFAULT"));
    expect![[r#"
        UNKNOWN this cluster holds plain raw keys (API v1); keyspaces need a cluster with encoded keys (API v2)
    "#]].assert_eq(&format!("{}\n", outcome(&world.answers[&token])));
    assert!(world.instructions.is_empty());
}

#[test]
fn keyspaces_are_listed_by_id_and_only_in_the_one_namespace() {
    let mut world = World::of_mode(KeyMode::Encoded);
    let mut stores = Stores::start(&mut world);
    for name in ["one", "two"] {
        world.send(create(name));
        stores.obey(&mut world);
    }
    let mut list = |start_id, limit| {
        let request = GetAllKeyspacesRequest {
            header: header(),
            limit,
            start_keyspace: Some(StartKeyspace::StartId(start_id)),
            ..GetAllKeyspacesRequest::default()
        };
        let found = world
            .ask::<calls::GetAllKeyspaces>(request)
            .unwrap()
            .keyspaces;
        found.into_iter().map(|meta| meta.name).collect::<Vec<_>>()
    };
    assert_eq!(list(0, 0), ["DEFAULT", "one", "two"]);
    assert_eq!(list(0, 2), ["DEFAULT", "one"]);
    assert_eq!(list(2, 2), ["two"]);
    let elsewhere = calls::LoadKeyspace::request(LoadKeyspaceRequest {
        header: header(),
        name: "one".to_owned(),
        namespace: Some(NamespaceRef {
            namespace: Some(namespace_ref::Namespace::NamespaceId(1)),
        }),
    });
    let token = world.send(elsewhere);
    assert!(outcome(&world.answers[&token]).starts_with("ENTRY_NOT_FOUND namespace not found"));
}

#[test]
fn a_keyspace_goes_one_way_from_disabled_on() {
    let mut world = World::of_mode(KeyMode::Encoded);
    let mut stores = Stores::start(&mut world);
    world.send(create("one"));
    stores.obey(&mut world);
    let mut lines = String::new();
    use KeyspaceState::{Archived, Disabled, Enabled, Tombstone};
    for (id, state) in [
        (1, Archived as i32),
        (1, Disabled as i32),
        (1, Enabled as i32),
        (1, Disabled as i32),
        (1, Archived as i32),
        (1, Archived as i32),
        (1, Enabled as i32),
        (1, Tombstone as i32),
        (1, Disabled as i32),
        (1, 9),
        (0, Disabled as i32),
        (5, Disabled as i32),
    ] {
        let request = UpdateKeyspaceStateRequest {
            header: header(),
            state,
            keyspace: Some(update_keyspace_state_request::Keyspace::Id(id)),
        };
        let token = world.send(calls::UpdateKeyspaceState::request(request));
        lines += &format!("{id} to {state}: {}\n", outcome(&world.answers[&token]));
    }
    expect![[r#"
        1 to 2: UNKNOWN a keyspace that is ENABLED cannot become ARCHIVED
        1 to 1: ok
        1 to 0: ok
        1 to 1: ok
        1 to 2: ok
        1 to 2: ok
        1 to 0: UNKNOWN a keyspace that is ARCHIVED cannot become ENABLED
        1 to 3: ok
        1 to 1: UNKNOWN a keyspace that is TOMBSTONE cannot become DISABLED
        1 to 9: UNKNOWN 9 is no keyspace state
        0 to 1: UNKNOWN the state of the keyspace DEFAULT cannot be changed
        5 to 1: ENTRY_NOT_FOUND keyspace "5" not found
    "#]]
    .assert_eq(&lines);
    assert_eq!(world.durable().keyspaces[&1].state, Tombstone as i32);
}

// ---- the key mode ----

fn store_mode(path: &str, name: &str, value: &str) -> Request {
    calls::StoreGlobalConfig::request(StoreGlobalConfigRequest {
        config_path: path.to_owned(),
        changes: vec![GlobalConfigItem {
            name: name.to_owned(),
            value: value.to_owned(),
            ..GlobalConfigItem::default()
        }],
    })
}

fn key_mode(world: &mut World) -> String {
    let request = LoadGlobalConfigRequest {
        config_path: CONFIG_PATH.to_owned(),
        names: vec![CONFIG_KEY_MODE.to_owned()],
    };
    let answer = world.ask::<calls::LoadGlobalConfig>(request).unwrap();
    assert_eq!(answer.items[0].payload, answer.items[0].value.as_bytes());
    answer.items[0].value.clone()
}

#[test]
fn the_key_mode_is_decided_once() {
    let mut world = World::leading();
    let mut store = |value: &str| {
        let token = world.send(store_mode(CONFIG_PATH, CONFIG_KEY_MODE, value));
        let answer = world
            .answer::<calls::StoreGlobalConfig>(token)
            .unwrap()
            .unwrap();
        let error = answer
            .error
            .map_or_else(|| "ok".to_owned(), |error| error.message);
        format!("{value}: {error}; it is {:?}\n", key_mode(&mut world))
    };
    let lines: String = ["both", "plain", "plain", "encoded"]
        .map(&mut store)
        .concat();
    expect![[r#"
        both: "both" is no key mode: it is plain or encoded; it is ""
        plain: ok; it is "plain"
        plain: ok; it is "plain"
        encoded: this cluster's keys are plain, they cannot become encoded; it is "plain"
    "#]]
    .assert_eq(&lines);
}

#[test]
fn other_config_items_are_not_offered() {
    let mut world = World::leading();
    let token = world.send(store_mode("/global/config/", "gc", "1"));
    assert!(outcome(&world.answers[&token]).starts_with("status Unimplemented"));
    let token = world.send(store_mode(CONFIG_PATH, "gc", "1"));
    let answer = world
        .answer::<calls::StoreGlobalConfig>(token)
        .unwrap()
        .unwrap();
    assert_eq!(
        answer.error.unwrap().message,
        "only \"key-mode\" can be stored, not \"gc\""
    );
    let request = LoadGlobalConfigRequest {
        config_path: CONFIG_PATH.to_owned(),
        names: vec!["gc".to_owned()],
    };
    let answer = world.ask::<calls::LoadGlobalConfig>(request).unwrap();
    assert_eq!(
        answer.items[0].error.as_ref().unwrap().message,
        "no global config item \"gc\""
    );
}

// ---- SplitRegions ----

#[test]
fn regions_are_split_at_keys_by_the_store_that_leads_them() {
    let mut world = World::of_mode(KeyMode::Plain);
    let mut stores = Stores::start(&mut world);
    let token = world.send(calls::SplitRegions::request(split(&[b"g", b"p", b"g"], 0)));
    assert_eq!(world.instructions.len(), 1, "one region, told once");
    stores.obey(&mut world);
    let answer = world.answer::<calls::SplitRegions>(token).unwrap().unwrap();
    assert_eq!(answer.finished_percentage, 100);
    let starts: Vec<_> = answer
        .regions_id
        .iter()
        .map(|id| {
            stores
                .regions
                .values()
                .find(|region| region.id == *id)
                .unwrap()
                .start_key
                .clone()
        })
        .collect();
    assert_eq!(starts, [&b"g"[..], b"p"]);

    // Boundaries that are there already take no time.
    let token = world.send(calls::SplitRegions::request(split(&[b"g"], 0)));
    let answer = world.answer::<calls::SplitRegions>(token).unwrap().unwrap();
    assert_eq!(
        (answer.finished_percentage, answer.regions_id.len()),
        (100, 1)
    );
}

#[test]
fn a_split_that_nobody_does_ends_with_what_is_done() {
    let mut world = World::of_mode(KeyMode::Plain);
    let mut stores = Stores::start(&mut world);
    let request = SplitAndScatterRegionsRequest {
        header: header(),
        split_keys: vec!["g".into(), "p".into(), "t".into()],
        retry_limit: 0,
        ..SplitAndScatterRegionsRequest::default()
    };
    let token = world.send(calls::SplitAndScatterRegions::request(request));
    let told = world.instructions[0].1.clone();
    stores.split(3, &"p".into());
    stores.obey_nothing(&mut world);
    world.advance(Duration::from_millis(600));
    let again = &world.instructions[0].1;
    assert_ne!(
        again.region_epoch, told.region_epoch,
        "told again by the newer epoch"
    );
    world.advance(Duration::from_secs(10));
    let answer = world
        .answer::<calls::SplitAndScatterRegions>(token)
        .unwrap()
        .unwrap();
    assert_eq!(answer.split_finished_percentage, 33);
    assert_eq!(answer.scatter_finished_percentage, 100);
    assert_eq!(answer.regions_id, [3]);
    // Two halves hold the two open keys.
    assert_eq!(world.instructions.len() as u64, 2 * (SPLIT_ATTEMPTS - 1));
}

impl Stores {
    /// Reports without carrying anything out.
    fn obey_nothing(&mut self, world: &mut World) {
        world.instructions.clear();
        self.obey(world);
        world.instructions.clear();
    }
}

#[test]
fn an_undecided_cluster_becomes_plain_by_the_first_plain_boundary() {
    let mut world = World::leading();
    let mut stores = Stores::start(&mut world);
    let encoded = encode(b"user");
    world.send(calls::SplitRegions::request(split(&[&encoded], 1)));
    stores.obey(&mut world);
    assert_eq!(key_mode(&mut world), "", "an encoding fits both modes");
    let token = world.send(calls::SplitRegions::request(split(&[b"user"], 1)));
    stores.obey(&mut world);
    assert_eq!(outcome(&world.answers[&token]), "ok");
    assert_eq!(key_mode(&mut world), "plain");
}

#[test]
fn an_encoded_cluster_is_split_at_encodings_without_timestamps() {
    let mut world = World::of_mode(KeyMode::Encoded);
    let mut stores = Stores::start(&mut world);
    let boundary = encode(b"user");
    let versioned = [&boundary[..], &[0xAA; 8]].concat();
    let token = world.send(calls::SplitRegions::request(split(&[&versioned], 1)));
    stores.obey(&mut world);
    assert_eq!(outcome(&world.answers[&token]), "ok");
    assert!(stores.boundaries().contains(&boundary));
}

#[test]
fn keys_nothing_can_be_split_at() {
    let long = vec![b'k'; 20_000];
    let mut lines = String::new();
    for (what, mode, keys) in [
        ("empty key", KeyMode::Plain, vec![&b""[..]]),
        ("long key", KeyMode::Plain, vec![&long]),
        ("too many", KeyMode::Plain, vec![&b"k"[..]; 8_193]),
        ("plain key", KeyMode::Encoded, vec![&b"k"[..]]),
        ("no keys", KeyMode::Plain, vec![]),
    ] {
        let mut world = World::of_mode(mode);
        let token = world.send(calls::SplitRegions::request(split(&keys, 0)));
        let answer = world.answers.remove(&token).expect(what);
        lines += &format!("{what}: {}\n", outcome(&answer));
    }
    expect![[r#"
        empty key: UNKNOWN a split key has 1 to 9234 bytes, this one 0
        long key: UNKNOWN a split key has 1 to 9234 bytes, this one 20000
        too many: UNKNOWN 8193 split keys, at most 8192
        plain key: UNKNOWN this cluster's keys are encoded, and a split key is not
        no keys: ok
    "#]]
    .assert_eq(&lines);
}
