//! Random changes to a key-value state, and random reads of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_engine::row;
use flotilla_engine::{Cf, KeyRange, StateBatch, StateOp};
use flotilla_proto::metapb::Region;
use flotilla_proto::store::{ApplyRecord, PeerState, RegionRecord};

use super::Dice;

/// All column families.
pub(crate) const CFS: [Cf; 4] = [Cf::CfDefault, Cf::CfLock, Cf::CfWrite, Cf::CfMeta];
const REGIONS: u64 = 4;

/// Makes batch after batch; the same seed makes the same ones.
#[derive(Clone, Debug)]
pub(crate) struct StateScript {
    dice: Dice,
    /// Applied index by region that lives.
    applied: BTreeMap<u64, u64>,
}

impl StateScript {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed),
            applied: BTreeMap::new(),
        }
    }

    /// Goes on with other dice: what follows a crash need not be what was lost in it.
    pub(crate) fn reseed(&mut self, seed: u64) {
        self.dice = Dice::new(seed);
    }

    /// The next batch.
    pub(crate) fn batch(&mut self) -> StateBatch {
        let mut batch = StateBatch::default();
        for _ in 0..self.dice.below(8) {
            let op = self.change();
            batch.ops.push(op);
        }
        for _ in 0..self.dice.within(1, 2) {
            self.apply(&mut batch);
        }
        batch
    }

    fn change(&mut self) -> StateOp {
        let dice = &mut self.dice;
        let cf = *dice.pick(&CFS);
        match dice.below(10) {
            0 => StateOp::DeleteRange {
                cf,
                start: key(dice),
                end: key(dice),
            },
            1 | 2 => StateOp::Delete { cf, key: key(dice) },
            _ => {
                let length = if dice.chance(5) {
                    10_000
                } else {
                    dice.below(40)
                };
                let expiry = dice.chance(30).then(|| dice.within(1, 20_000));
                let value = row::encode(&dice.bytes(length), expiry);
                StateOp::Put {
                    cf,
                    key: key(dice),
                    value,
                }
            }
        }
    }

    fn apply(&mut self, batch: &mut StateBatch) {
        let id = self.dice.within(1, REGIONS);
        let destroy = self.dice.chance(5);
        if destroy && self.applied.remove(&id).is_some() {
            batch.ops.push(StateOp::DeleteApplied { region: id });
            batch.ops.push(StateOp::PutRegion {
                record: record(id, PeerState::Tombstone),
            });
            batch.admin = true;
            return;
        }
        if !self.applied.contains_key(&id) {
            batch.ops.push(StateOp::PutRegion {
                record: record(id, PeerState::Normal),
            });
            batch.admin = true;
        }
        let index = self.applied.entry(id).or_insert(5);
        *index += self.dice.within(1, 9);
        let record = ApplyRecord {
            index: *index,
            term: 6,
        };
        batch.ops.push(StateOp::PutApplied { region: id, record });
    }
}

fn record(id: u64, state: PeerState) -> RegionRecord {
    let region = Region {
        id,
        start_key: Bytes::from(vec![id as u8]),
        ..Region::default()
    };
    RegionRecord {
        state: state.into(),
        region: Some(region),
        highest_peer_id: id * 10,
        ..RegionRecord::default()
    }
}

/// A short key of few bytes, often empty, so that keys meet and ranges nest.
pub(crate) fn key(dice: &mut Dice) -> Bytes {
    let length = dice.below(4);
    let bytes = (0..length).map(|_| *dice.pick(&[0, b'a', b'r', 0xff]));
    bytes.collect::<Vec<u8>>().into()
}

/// Bounds of a range, reversed and unbounded ones among them.
pub(crate) fn range(dice: &mut Dice) -> (Bytes, Bytes) {
    (key(dice), key(dice))
}

/// A range over `bounds`.
pub(crate) fn over(bounds: &(Bytes, Bytes)) -> KeyRange<'_> {
    KeyRange {
        start: &bounds.0,
        end: &bounds.1,
    }
}
