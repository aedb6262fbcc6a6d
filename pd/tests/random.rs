//! Everything at once, by seeds: calls of every kind, lost and unheard proposals, elections, stores
//! whose regions split, merge and change members, heartbeats that come late.
//!
//! Checked throughout: every request is answered exactly once · no id is given twice · the rows in
//! memory are the rows in the meta region · regions known never overlap and never grow older · at
//! the end the view is the truth.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use common::{Dice, World, header, region, seeds, store};
use flotilla_pd::plan::Asked;
use flotilla_pd::{
    AddOperator, CONFIG_KEY_MODE, CONFIG_PATH, Call, CreateKeyspace, Event, EvictLeaders,
    ExtendWindow, HttpRequest, Input, ListOperators, Outcome, Request, Response, SetStoreState,
    StreamId, calls,
};
use flotilla_proto::keyspacepb as ks;
use flotilla_proto::metapb::{Region, RegionEpoch};
use flotilla_proto::pdpb as pd;

/// The regions as they are, and as they have been.
struct Truth {
    regions: BTreeMap<Bytes, Region>,
    history: Vec<Region>,
    next_id: u64,
}

impl Truth {
    fn new() -> Self {
        let first = region(3, 1, "", "");
        Self {
            regions: BTreeMap::from([(Bytes::new(), first.clone())]),
            history: vec![first],
            next_id: 100,
        }
    }

    fn change(&mut self, dice: &mut Dice) {
        let nth = dice.below(self.regions.len() as u64) as usize;
        let start = self.regions.keys().nth(nth).cloned().unwrap_or_default();
        match dice.below(10) {
            0..5 => self.split(&start, dice),
            5..8 => self.merge(&start),
            _ => self.change_members(&start),
        }
    }

    fn put(&mut self, mut region: Region, version: u64, conf_ver: u64) {
        region.region_epoch = Some(RegionEpoch { conf_ver, version });
        self.history.push(region.clone());
        self.regions.insert(region.start_key.clone(), region);
    }

    /// Parts before the last get new ids; all rise by the number of new ones (contracts: C21).
    fn split(&mut self, start: &Bytes, dice: &mut Dice) {
        let parent = self.regions[start].clone();
        let epoch = parent.region_epoch.unwrap();
        let inside = |key: &Bytes| {
            *key > parent.start_key && (parent.end_key.is_empty() || *key < parent.end_key)
        };
        let keys: BTreeSet<Bytes> = (0..1 + dice.below(3))
            .map(|_| Bytes::from(format!("{:03}", dice.below(1_000))))
            .filter(inside)
            .collect();
        let version = epoch.version + keys.len() as u64;
        let mut from = parent.start_key.clone();
        for key in &keys {
            self.next_id += 1;
            let mut part = region(self.next_id, 0, "", "");
            part.start_key = std::mem::replace(&mut from, key.clone());
            part.end_key = key.clone();
            self.put(part, version, epoch.conf_ver);
        }
        let last = Region {
            start_key: from,
            ..parent
        };
        self.put(last, version, epoch.conf_ver);
    }

    /// The region at `start` swallows the next one.
    fn merge(&mut self, start: &Bytes) {
        let target = self.regions[start].clone();
        let Some(source) = self.regions.remove(&target.end_key) else {
            return;
        };
        if target.end_key.is_empty() {
            self.regions.insert(source.start_key.clone(), source);
            return;
        }
        let (ours, theirs) = (target.region_epoch.unwrap(), source.region_epoch.unwrap());
        let version = ours.version.max(theirs.version + 1) + 1;
        let merged = Region {
            end_key: source.end_key,
            ..target
        };
        self.put(merged, version, ours.conf_ver);
    }

    fn change_members(&mut self, start: &Bytes) {
        let region = self.regions[start].clone();
        let epoch = region.region_epoch.unwrap();
        self.put(region, epoch.version, epoch.conf_ver + 1);
    }

    fn some(&self, dice: &mut Dice) -> Region {
        if dice.percent(30) {
            self.history[dice.below(self.history.len() as u64) as usize].clone()
        } else {
            let nth = dice.below(self.regions.len() as u64) as usize;
            self.regions.values().nth(nth).cloned().unwrap_or_default()
        }
    }
}

/// What must hold whatever happens.
#[derive(Default)]
struct Checks {
    ids: BTreeSet<u64>,
    /// Per region the newest epoch this leader has shown.
    shown: BTreeMap<u64, RegionEpoch>,
    term: u64,
}

impl Checks {
    fn take_answers(&mut self, world: &mut World) {
        for (_, answer) in std::mem::take(&mut world.answers) {
            let ids: Vec<u64> = match answer {
                Response::AllocID(answer) if answer.id != 0 => {
                    (answer.id + 1 - u64::from(answer.count)..=answer.id).collect()
                }
                Response::AskBatchSplit(answer) => {
                    let each = |id: pd::SplitId| [vec![id.new_region_id], id.new_peer_ids].concat();
                    answer.ids.into_iter().flat_map(each).collect()
                }
                _ => Vec::new(),
            };
            for id in ids {
                assert!(self.ids.insert(id), "id {id} is given twice");
            }
        }
    }

    fn look(&mut self, world: &mut World) {
        let Some(term) = world.pd.term() else { return };
        assert_eq!(world.pd.durable(), Some(&world.durable()));
        if self.term != term {
            (self.term, self.shown) = (term, BTreeMap::new());
        }
        let mut reached = Some(Bytes::new());
        for region in shown(world) {
            let from = reached.expect("nothing lies beyond the end");
            assert!(from <= region.start_key, "{region:?} overlaps");
            reached = (!region.end_key.is_empty()).then(|| region.end_key.clone());
            let epoch = region.region_epoch.unwrap();
            if let Some(before) = self.shown.insert(region.id, epoch) {
                let older = epoch.version < before.version || epoch.conf_ver < before.conf_ver;
                assert!(!older, "{region:?} went back from {before:?}");
            }
        }
    }
}

fn shown(world: &mut World) -> Vec<Region> {
    let request = pd::ScanRegionsRequest {
        header: header(),
        ..pd::ScanRegionsRequest::default()
    };
    world
        .ask::<calls::ScanRegions>(request)
        .unwrap()
        .region_metas
}

/// Some call, right or wrong.
fn some_call(dice: &mut Dice, truth: &Truth) -> Request {
    let header = header();
    let key = Bytes::from(format!("{:03}", dice.below(1_000)));
    let region = Some(truth.some(dice));
    let name = format!("k{}", dice.below(8));
    match dice.below(21) {
        0 => calls::AllocID::request(pd::AllocIdRequest {
            header,
            count: dice.below(600) as u32,
        }),
        1 => calls::AskBatchSplit::request(pd::AskBatchSplitRequest {
            header,
            region,
            split_count: dice.below(5) as u32,
            ..Default::default()
        }),
        2 => calls::GetRegion::request(pd::GetRegionRequest {
            header,
            region_key: key,
            ..Default::default()
        }),
        3 => calls::GetPrevRegion::request(pd::GetRegionRequest {
            header,
            region_key: key,
            ..Default::default()
        }),
        4 => calls::GetRegionByID::request(pd::GetRegionByIdRequest {
            header,
            region_id: dice.below(150),
            ..Default::default()
        }),
        5 => calls::PutStore::request(pd::PutStoreRequest {
            header,
            store: Some(flotilla_proto::metapb::Store {
                address: format!("10.0.0.1:{}", 1 + dice.below(9)),
                ..store(1 + dice.below(2))
            }),
        }),
        6 => calls::SplitRegions::request(pd::SplitRegionsRequest {
            header,
            split_keys: vec![key],
            retry_limit: dice.below(3),
        }),
        7 => calls::CreateKeyspace::request(CreateKeyspace {
            name,
            ..Default::default()
        }),
        8 => calls::LoadKeyspace::request(ks::LoadKeyspaceRequest {
            header,
            name,
            ..Default::default()
        }),
        9 => calls::LoadKeyspaceByID::request(ks::LoadKeyspaceByIdRequest {
            header,
            keyspace: None,
        }),
        10 => calls::UpdateGCSafePoint::request(pd::UpdateGcSafePointRequest {
            header,
            safe_point: dice.below(1 << 40),
        }),
        11 => calls::UpdateServiceGCSafePoint::request(pd::UpdateServiceGcSafePointRequest {
            header,
            service_id: name.into(),
            ttl: dice.below(5) as i64 - 1,
            safe_point: dice.below(100),
        }),
        12 => calls::StoreGlobalConfig::request(pd::StoreGlobalConfigRequest {
            config_path: CONFIG_PATH.to_owned(),
            changes: vec![pd::GlobalConfigItem {
                name: CONFIG_KEY_MODE.to_owned(),
                value: "encoded".to_owned(),
                ..Default::default()
            }],
        }),
        13 => calls::ExtendWindow::request(ExtendWindow {
            above_ms: common::START.0 + dice.below(20_000),
        }),
        14 => calls::UpdateKeyspaceState::request(ks::UpdateKeyspaceStateRequest {
            header,
            state: dice.below(4) as i32,
            keyspace: Some(ks::update_keyspace_state_request::Keyspace::Id(
                dice.below(4) as u32,
            )),
        }),
        15 => calls::Bootstrap::request(pd::BootstrapRequest {
            header,
            store: Some(store(1)),
            region,
        }),
        16 => calls::AddOperator::request(AddOperator {
            region: dice.below(150),
            asked: Asked::MovePeer {
                from: 1 + dice.below(2),
                to: 1 + dice.below(2),
            },
        }),
        17 => calls::SetStoreState::request(SetStoreState {
            store: 1 + dice.below(2),
            offline: dice.percent(50),
        }),
        18 => calls::EvictLeaders::request(EvictLeaders {
            store: 1 + dice.below(2),
            evict: dice.percent(50),
        }),
        19 => calls::ListOperators::request(ListOperators),
        _ => calls::Http::request(HttpRequest {
            method: "GET".to_owned(),
            target: "/pd/api/v1/stores".to_owned(),
            body: Vec::new(),
        }),
    }
}

/// Decides the oldest proposal, or loses the answer.
fn decide(world: &mut World, dice: &mut Dice) {
    if world.proposed.is_empty() {
        return;
    }
    match dice.below(20) {
        0 => world.decide(Outcome::Refused {
            why: "the queue is full".to_owned(),
        }),
        1 => {
            if dice.percent(50) {
                let mods = world.proposed[0].2.clone();
                world.write(mods);
            }
            let led = world.pd.term();
            world.decide(Outcome::Unknown);
            assert_eq!(world.pd.term(), None, "it does not know its rows any more");
            assert_eq!(world.reloads.pop(), led);
        }
        _ => world.decide(Outcome::Applied),
    }
}

/// Open proposals are applied unheard, a first part of them, and the node leads again.
fn elect(world: &mut World, dice: &mut Dice) {
    let applied = dice.below(world.proposed.len() as u64 + 1) as usize;
    for (nth, (_, _, mods)) in std::mem::take(&mut world.proposed).into_iter().enumerate() {
        if nth < applied {
            world.write(mods);
        }
    }
    if dice.percent(50) {
        world.input(Input::Retire);
    }
    world.lead();
}

#[test]
fn whatever_happens() {
    let mut given = 0;
    seeds(1_000, |_, mut dice| {
        let mut world = World::leading();
        world.commits = false;
        let (mut truth, mut checks) = (Truth::new(), Checks::default());
        let mut sent = 0;
        for _ in 0..400 {
            match dice.below(100) {
                0..40 => {
                    world.send(some_call(&mut dice, &truth));
                    sent += 1;
                }
                40..60 => decide(&mut world, &mut dice),
                60..70 => truth.change(&mut dice),
                70..88 => {
                    let stream = StreamId(1 + dice.below(2));
                    let beat = common::beat(truth.some(&mut dice));
                    world.heartbeat(stream, beat);
                }
                88..97 => world.advance(Duration::from_millis(dice.below(700))),
                97 => world.input(Input::Retire),
                _ => elect(&mut world, &mut dice),
            }
            checks.take_answers(&mut world);
            checks.look(&mut world);
        }
        world.commits = true;
        elect(&mut world, &mut dice);
        world.advance(Duration::from_secs(30));
        checks.take_answers(&mut world);
        assert_eq!(
            world.waiting,
            BTreeSet::new(),
            "everything is answered in the end"
        );
        assert!(sent > 100);
        given += checks.ids.len();
        let conflict = |event: &Event| matches!(event, Event::RegionConflict { .. });
        assert!(
            !world.events.iter().any(conflict),
            "the truth contradicts itself"
        );
        for region in truth.regions.values().cloned().collect::<Vec<_>>() {
            world.report(region);
        }
        checks.look(&mut world);
        let truth: Vec<Region> = truth.regions.into_values().collect();
        assert_eq!(shown(&mut world), truth);
    });
    assert!(given > 0, "no id was ever given");
}
