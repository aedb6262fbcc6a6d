//! What the committed log makes of the world: regions and rows, derived a second time, on purpose
//! without the code that the stores use for it.
//!
//! Every row keeps its versions, each with the region and index that wrote it, so that the model
//! also knows what the state must be where less is applied: on a store that lags behind, after a
//! crash. A row belongs to the region that has its key there, its *owner*; it is the last version
//! that the owner wrote within its applied index, or an ancestor of it before it was born. Where no
//! region has the key there is no row.
//!
//! The model applies an entry as soon as any store does, which may be before its leader does. So no
//! operation is over by that: a version of a row is *known* once an operation that wrote or saw it
//! has been answered, and from then on nobody may miss it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use flotilla_engine::{BIRTH, Cf, KeyRange, StateReader};
use flotilla_proto::metapb::{Peer, Region, RegionEpoch};
use flotilla_proto::raft::{Entry, EntryKind};
use flotilla_proto::store::{Mod, ModKind, SplitCommand, WriteCommand};
use flotilla_raftstore::region::META_REGION;
use flotilla_raftstore::{Command, decode_command};

use super::members;
use super::merges::Step;
use crate::rules::{Checks, Rule};

/// Applied index by region, of those that live on a store.
pub type Applied = BTreeMap<u64, u64>;

/// A row's place: column family (its number), physical key.
pub type RowKey = (i32, Bytes);

/// What a row held from one entry on.
#[derive(Clone, Debug)]
struct Version {
    region: u64,
    index: u64,
    /// As stored; `None`: gone.
    stored: Option<Bytes>,
    /// The step in which somebody was first told of it, or of a later one.
    known: Option<u64>,
    /// The same, of those who have read by index.
    shown: Option<u64>,
}

/// One region's life.
#[derive(Clone, Debug)]
pub(super) struct Life {
    /// The entry that made it: region and index. `None`: there from the start.
    born: Option<(u64, u64)>,
    /// The index of the prepare-merge that is not decided.
    pub(super) merging: Option<u64>,
    /// The entry that made it a part of another region: region and index.
    pub(super) gone: Option<(u64, u64)>,
    /// Regions that became a part of it: at which index, which, and where their logs ended.
    pub(super) took: Vec<(u64, u64, u64)>,
    /// Its descriptor from an index on, ascending.
    pub(super) shapes: Vec<(u64, Region)>,
    /// Entries from [`BIRTH`] + 1 on, as they were first applied.
    entries: Vec<Entry>,
}

impl Life {
    fn newest(&self) -> &Region {
        &self.shapes.last().expect("a region has a shape").1
    }

    fn shape_at(&self, applied: u64) -> &Region {
        let past = self.shapes.partition_point(|(index, _)| *index <= applied);
        &self.shapes[past.max(1) - 1].1
    }
}

/// A part of an entry, as it was applied.
#[derive(Clone, Debug)]
pub struct AppliedPart {
    /// What it changed.
    pub mods: Vec<Mod>,
    /// Its epoch had passed: it changed nothing.
    pub skipped: bool,
    /// What the row of its first change held before.
    pub before: Option<Bytes>,
    /// The region's version that it was proposed for.
    pub version: u64,
    /// Where it is in the log: region and index.
    pub place: (u64, u64),
    /// The rows that it changed.
    pub rows: Vec<RowKey>,
}

/// What one entry did.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Of a write, in order.
    pub parts: Vec<AppliedPart>,
    /// Of a split that took effect: the children, then the parent.
    pub split: Option<Vec<Region>>,
    /// A split that did not fit any more.
    pub split_refused: bool,
    /// Of a change of the members: the region after it.
    pub members: Option<Region>,
    /// Of a step of a merge.
    pub merge: Option<Step>,
}

/// Rows and regions as the committed log says.
#[derive(Debug, Default)]
pub struct Model {
    rows: BTreeMap<RowKey, Vec<Version>>,
    pub(super) regions: BTreeMap<u64, Life>,
}

impl Model {
    /// The first regions and PD's first rows.
    pub fn bootstrap(regions: &[Region], meta: &[(Bytes, Bytes)]) -> Self {
        let mut model = Self::default();
        for region in regions {
            model.create(region.clone(), None);
        }
        for (key, value) in meta {
            let version = Version {
                region: META_REGION,
                index: BIRTH.index,
                stored: Some(value.clone()),
                known: None,
                shown: None,
            };
            model
                .rows
                .insert((Cf::CfMeta as i32, key.clone()), vec![version]);
        }
        model
    }

    fn create(&mut self, region: Region, born: Option<(u64, u64)>) -> bool {
        let life = Life {
            born,
            merging: None,
            gone: None,
            took: Vec::new(),
            shapes: vec![(BIRTH.index, region.clone())],
            entries: Vec::new(),
        };
        self.regions.insert(region.id, life).is_none()
    }

    /// The entry of `region` at `index`, if it was ever applied.
    pub fn committed(&self, region: u64, index: u64) -> Option<Entry> {
        let life = self.regions.get(&region)?;
        let nth = index.checked_sub(BIRTH.index + 1)?;
        life.entries.get(nth as usize).cloned()
    }

    /// The last index of `region` that was ever applied.
    pub fn applied(&self, region: u64) -> u64 {
        let life = self.regions.get(&region);
        life.map_or(0, |life| BIRTH.index + life.entries.len() as u64)
    }

    /// The newest applied indexes.
    pub fn newest(&self) -> Applied {
        self.regions
            .keys()
            .map(|region| (*region, self.applied(*region)))
            .collect()
    }

    /// The newest descriptors of those that are no part of another, by id.
    pub fn regions(&self) -> impl Iterator<Item = &Region> {
        let live = self.regions.values().filter(|life| life.gone.is_none());
        live.map(Life::newest)
    }

    /// Whether `region` was ever what the descriptor says.
    pub fn knows(&self, region: &Region) -> bool {
        let life = self.regions.get(&region.id);
        life.is_some_and(|life| life.shapes.iter().any(|(_, shape)| shape == region))
    }

    /// What a region was at that epoch, if it ever was.
    pub fn at_epoch(&self, region: u64, epoch: Option<RegionEpoch>) -> Option<&Region> {
        let shapes = &self.regions.get(&region)?.shapes;
        let mut shapes = shapes.iter().map(|(_, shape)| shape);
        shapes.find(|shape| shape.region_epoch == epoch)
    }

    /// What `region` is when so much of it is applied.
    pub fn shape(&self, region: u64, applied: u64) -> Option<&Region> {
        Some(self.regions.get(&region)?.shape_at(applied))
    }

    /// What `region` was when so much of it was applied, and all that it has been since.
    pub fn shapes_since(&self, region: u64, applied: u64) -> impl Iterator<Item = &Region> {
        let life = self.regions.get(&region);
        let shapes = life.map(|life| {
            let past = life.shapes.partition_point(|(index, _)| *index <= applied);
            &life.shapes[past.max(1) - 1..]
        });
        shapes.unwrap_or_default().iter().map(|(_, shape)| shape)
    }

    /// Who has which key where so much is applied.
    pub fn owners(&self, applied: &Applied) -> Owners {
        let mut owners = Owners {
            meta: applied
                .get(&META_REGION)
                .map(|index| Line::from([(META_REGION, *index)])),
            ..Owners::default()
        };
        for (region, index) in applied.iter().filter(|(id, _)| **id != META_REGION) {
            let Some(shape) = self.shape(*region, *index) else {
                continue;
            };
            let line = self.line(*region, *index);
            let owner = Owner {
                region: *region,
                end: shape.end_key.clone(),
                line,
            };
            owners.data.insert(shape.start_key.clone(), owner);
        }
        owners
    }

    /// Whether the split that made `region` lies at or below what is applied.
    pub fn born(&self, region: u64) -> Option<(u64, u64)> {
        self.regions.get(&region)?.born
    }

    /// Splits and merges have made `region` out of `ancestor`.
    pub fn descends(&self, region: u64, ancestor: u64) -> bool {
        let line = self.line(region, u64::MAX);
        region != ancestor && line.contains_key(&ancestor)
    }

    /// Applies the next entry of `region` for the first time anywhere.
    pub fn apply(&mut self, region: u64, entry: &Entry, checks: &mut Checks) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(life) = self.regions.get_mut(&region) else {
            checks.check(Rule::RegionIdsUnique, false, || {
                format!("region {region} applies before it was made")
            });
            return outcome;
        };
        life.entries.push(entry.clone());
        let shape = life.newest().clone();
        if entry.kind() == EntryKind::ConfChange {
            let after = members::after(&shape, entry);
            checks.check(Rule::StateIsLog, after.is_some(), || {
                format!(
                    "region {region} index {}: no change of members",
                    entry.index
                )
            });
            if let Some(after) = after {
                life.shapes.push((entry.index, after.clone()));
                outcome.members = Some(after);
            }
            return outcome;
        }
        match decode_command(entry) {
            Ok(Command::Empty) => {}
            Ok(Command::Write(command)) => {
                outcome.parts = self.write(&shape, entry.index, command, checks)
            }
            Ok(Command::Split(command)) => match divide(&shape, &command) {
                Some(regions) => {
                    self.split(region, entry.index, &regions, checks);
                    outcome.split = Some(regions);
                }
                None => outcome.split_refused = true,
            },
            Ok(Command::PrepareMerge(command)) => {
                outcome.merge = Some(self.prepare(&shape, entry.index, &command));
            }
            Ok(Command::RollbackMerge(command)) => {
                outcome.merge = Some(self.roll_back(&shape, entry.index, &command, checks));
            }
            Ok(Command::CommitMerge(command)) => {
                outcome.merge = Some(self.take_in(&shape, entry.index, &command, checks));
            }
            Err(error) => checks.check(Rule::StateIsLog, false, || {
                format!("region {region} index {}: {error}", entry.index)
            }),
        }
        outcome
    }

    fn write(
        &mut self,
        shape: &Region,
        index: u64,
        command: WriteCommand,
        checks: &mut Checks,
    ) -> Vec<AppliedPart> {
        let version = shape.region_epoch.unwrap_or_default().version;
        let mut parts = Vec::new();
        for part in command.parts {
            let first = part
                .mods
                .first()
                .map(|change| (change.cf, change.key.clone()));
            let before = first.and_then(|key| self.newest_of(&key).cloned());
            let skipped = part.epoch_version != version;
            let mut rows = Vec::new();
            if !skipped {
                for change in &part.mods {
                    self.change(shape, index, change, &mut rows, checks);
                }
            }
            parts.push(AppliedPart {
                mods: part.mods,
                skipped,
                before,
                version: part.epoch_version,
                place: (shape.id, index),
                rows,
            });
        }
        parts
    }

    fn change(
        &mut self,
        shape: &Region,
        index: u64,
        change: &Mod,
        rows: &mut Vec<RowKey>,
        checks: &mut Checks,
    ) {
        let stored = match change.kind() {
            ModKind::DeleteRange => {
                let end = change.value.clone();
                let inside = self.rows_within(change.cf, &change.key, &end);
                for key in inside.into_iter().filter(|key| within(shape, &key.1)) {
                    if self.newest_of(&key).is_some() {
                        rows.push(key.clone());
                        self.set(key, shape.id, index, None);
                    }
                }
                return;
            }
            ModKind::Put => Some(change.value.clone()),
            ModKind::Delete => None,
        };
        let own = shape.id == META_REGION || within(shape, &change.key);
        checks.check(Rule::OwnKeys, own, || {
            format!(
                "region {} index {index} changes {:?}, outside its range",
                shape.id, change.key
            )
        });
        let key = (change.cf, change.key.clone());
        rows.push(key.clone());
        self.set(key, shape.id, index, stored);
    }

    fn set(&mut self, key: RowKey, region: u64, index: u64, stored: Option<Bytes>) {
        self.rows.entry(key).or_default().push(Version {
            region,
            index,
            stored,
            known: None,
            shown: None,
        });
    }

    fn split(&mut self, parent: u64, index: u64, regions: &[Region], checks: &mut Checks) {
        let (last, children) = regions.split_last().expect("a split keeps its parent");
        for child in children {
            let unique = self.create(child.clone(), Some((parent, index)));
            checks.check(Rule::RegionIdsUnique, unique, || {
                format!(
                    "region {parent} index {index}: the id {} is used a second time",
                    child.id
                )
            });
        }
        let life = self
            .regions
            .get_mut(&parent)
            .expect("the parent applies the split");
        life.shapes.push((index, last.clone()));
    }

    fn newest_of(&self, key: &RowKey) -> Option<&Bytes> {
        self.rows.get(key)?.last()?.stored.as_ref()
    }

    /// Keys of `cf` in [start, end) that ever held something.
    pub fn rows_within(&self, cf: i32, start: &Bytes, end: &Bytes) -> Vec<RowKey> {
        let range = KeyRange { start, end };
        let from = self.rows.range((cf, start.clone())..);
        let rows = from.take_while(|((own, _), _)| *own == cf);
        rows.map(|(key, _)| key.clone())
            .filter(|(_, key)| range.contains(key))
            .collect()
    }

    /// Those of a region's range that ever held something.
    pub fn rows_of(&self, region: &Region) -> Vec<RowKey> {
        let meta = region.id == META_REGION;
        let own = |(cf, key): &&RowKey| {
            meta == (*cf == Cf::CfMeta as i32) && (meta || within(region, key))
        };
        self.rows.keys().filter(own).cloned().collect()
    }

    /// All keys that ever held something.
    pub fn keys(&self) -> impl Iterator<Item = &RowKey> {
        self.rows.keys()
    }

    /// What the row at `key` holds where the regions have so much applied.
    pub fn at(&self, key: &RowKey, owners: &Owners) -> Option<&Bytes> {
        let versions = self.versions(key);
        let last = owners.reached(key, versions).checked_sub(1)?;
        versions[last].stored.as_ref()
    }

    /// What the newest entry that wrote the row at `key` has left there, for a row of the meta region:
    /// it is never split.
    pub fn last_written(&self, key: &RowKey) -> Option<&Bytes> {
        self.versions(key).last()?.stored.as_ref()
    }

    fn versions(&self, key: &RowKey) -> &[Version] {
        self.rows.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    /// How the applied indexes are no cut: regions that they contain without what made them, or that
    /// they miss though their parents have been split. `gone` says which may be missed.
    pub fn hole(
        &self,
        applied: &Applied,
        gone: impl Fn(&Region, (u64, u64)) -> bool,
    ) -> Option<String> {
        for (id, life) in &self.regions {
            let Some((parent, index)) = life.born else {
                continue;
            };
            let Some(reached) = applied.get(&parent) else {
                continue;
            };
            let there = applied.contains_key(id);
            if there && *reached < index {
                return Some(format!(
                    "region {id} is there, its parent {parent} is at {reached} and made it at {index}"
                ));
            }
            if !there && *reached >= index && !gone(&life.shapes[0].1, (parent, index)) {
                return Some(format!(
                    "region {id} is not there, its parent {parent} is at {reached} and made it at {index}"
                ));
            }
        }
        None
    }

    // ---- what is known ----

    /// Somebody is told in `step` of a write at `place` to `rows`. Answers a row of which a later
    /// version was known already before `since`: then the write is told of too late.
    pub fn tell_write(
        &mut self,
        (region, index): (u64, u64),
        rows: &[RowKey],
        since: u64,
        step: u64,
    ) -> Option<RowKey> {
        let mut late = None;
        for key in rows {
            let Some(versions) = self.rows.get_mut(key) else {
                continue;
            };
            let wrote = |version: &Version| (version.region, version.index) == (region, index);
            let Some(nth) = versions.iter().rposition(wrote) else {
                continue;
            };
            if known_before(&versions[nth + 1..], since) {
                late = Some(key.clone());
            }
            versions[nth].known.get_or_insert(step);
        }
        late
    }

    /// Somebody is told in `step` what these rows held, each as of so many versions; `None`: it binds
    /// nobody. Answers a row of which a later version was known already before `since`.
    pub fn tell_read(
        &mut self,
        looked: &[(RowKey, usize)],
        since: u64,
        step: Option<u64>,
    ) -> Option<RowKey> {
        let mut late = None;
        for (key, count) in looked {
            let Some(versions) = self.rows.get_mut(key) else {
                continue;
            };
            if known_before(&versions[*count..], since) {
                late = Some(key.clone());
            }
            if let (Some(last), Some(step)) = (count.checked_sub(1), step) {
                versions[last].known.get_or_insert(step);
            }
        }
        late
    }

    /// The same for a read by index, which misses nothing that an earlier one has shown, at whatever
    /// replica: the leader's commit index has passed that.
    pub fn tell_indexed(
        &mut self,
        looked: &[(RowKey, usize)],
        since: u64,
        step: u64,
    ) -> Option<RowKey> {
        let mut late = None;
        for (key, count) in looked {
            let Some(versions) = self.rows.get_mut(key) else {
                continue;
            };
            let shown = |version: &Version| version.shown.is_some_and(|step| step < since);
            if versions[*count..].iter().any(shown) {
                late = Some(key.clone());
            }
            if let Some(last) = count.checked_sub(1) {
                versions[last].shown.get_or_insert(step);
            }
        }
        late
    }
}

/// Who has a key on a store.
#[derive(Debug, Default)]
pub struct Owners {
    meta: Option<Line>,
    /// By their first keys.
    data: BTreeMap<Bytes, Owner>,
}

/// A region and what it was made of, each with the index up to which what it wrote counts.
pub(super) type Line = BTreeMap<u64, u64>;

#[derive(Debug)]
struct Owner {
    region: u64,
    end: Bytes,
    line: Line,
}

impl Owners {
    fn line(&self, key: &RowKey) -> Option<&Line> {
        if key.0 == Cf::CfMeta as i32 {
            return self.meta.as_ref();
        }
        self.owner(key).map(|owner| &owner.line)
    }

    fn owner(&self, key: &RowKey) -> Option<&Owner> {
        let (_, owner) = self.data.range(..=key.1.clone()).next_back()?;
        (owner.end.is_empty() || key.1 < owner.end).then_some(owner)
    }

    /// The region that has the key.
    pub fn of(&self, key: &RowKey) -> Option<u64> {
        if key.0 == Cf::CfMeta as i32 {
            return self.meta.as_ref().map(|_| META_REGION);
        }
        Some(self.owner(key)?.region)
    }

    /// How many versions of the row at `key` are there.
    fn reached(&self, key: &RowKey, versions: &[Version]) -> usize {
        let Some(line) = self.line(key) else {
            return 0;
        };
        let counts = |version: &Version| {
            let limit = line.get(&version.region);
            limit.is_some_and(|index| version.index <= *index)
        };
        versions.partition_point(counts)
    }
}

fn known_before(versions: &[Version], since: u64) -> bool {
    let known = |version: &Version| version.known.is_some_and(|step| step < since);
    versions.iter().any(known)
}

/// The model as of what one store has applied; remembers which rows were looked at.
pub struct ModelAt<'a> {
    model: &'a Model,
    owners: Owners,
    looked: RefCell<Vec<(RowKey, usize)>>,
}

impl<'a> ModelAt<'a> {
    /// `model` when `applied` is.
    pub fn new(model: &'a Model, applied: &Applied) -> Self {
        Self {
            model,
            owners: model.owners(applied),
            looked: RefCell::default(),
        }
    }

    /// The rows that were looked at, each with its number of versions.
    pub fn into_looked(self) -> Vec<(RowKey, usize)> {
        self.looked.into_inner()
    }

    fn look(&self, key: &RowKey, versions: &'a [Version]) -> Option<&'a Bytes> {
        let count = self.owners.reached(key, versions);
        self.looked.borrow_mut().push((key.clone(), count));
        versions[..count].last()?.stored.as_ref()
    }
}

impl StateReader for ModelAt<'_> {
    fn get(&self, cf: Cf, key: &[u8]) -> flotilla_engine::Result<Option<Bytes>> {
        let key = (cf as i32, Bytes::copy_from_slice(key));
        Ok(self.look(&key, self.model.versions(&key)).cloned())
    }

    fn scan(
        &self,
        cf: Cf,
        range: KeyRange<'_>,
        reverse: bool,
        row: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> flotilla_engine::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let bound = |key: &[u8]| (cf as i32, Bytes::copy_from_slice(key));
        let end = if range.end.is_empty() {
            Bound::Excluded((cf as i32 + 1, Bytes::new()))
        } else {
            Bound::Excluded(bound(range.end))
        };
        let rows = &self.model.rows;
        let mut rows = rows.range((Bound::Included(bound(range.start)), end));
        let mut next = || {
            if reverse {
                rows.next_back()
            } else {
                rows.next()
            }
        };
        while let Some((key, versions)) = next() {
            if let Some(stored) = self.look(key, versions)
                && !row(&key.1, stored)
            {
                break;
            }
        }
        Ok(())
    }
}
/// `key` lies in the region's range.
pub fn within(region: &Region, key: &[u8]) -> bool {
    let range = KeyRange {
        start: &region.start_key,
        end: &region.end_key,
    };
    range.contains(key)
}

/// The children in key order, then the parent; `None` if the command does not fit the region
/// (contracts: C21).
fn divide(region: &Region, command: &SplitCommand) -> Option<Vec<Region>> {
    let epoch = region.region_epoch?;
    if command.epoch != Some(epoch) || command.parts.is_empty() {
        return None;
    }
    let mut bounds = vec![region.start_key.clone()];
    bounds.extend(command.parts.iter().map(|part| part.split_key.clone()));
    let rising = bounds.windows(2).all(|pair| pair[0] < pair[1]);
    let inside = command
        .parts
        .iter()
        .all(|part| within(region, &part.split_key));
    if !rising || !inside {
        return None;
    }
    let region_epoch = Some(RegionEpoch {
        version: epoch.version + command.parts.len() as u64,
        ..epoch
    });
    let mut regions = Vec::new();
    for (part, bound) in command.parts.iter().zip(bounds.windows(2)) {
        let peers = region.peers.iter().zip(&part.peer_ids);
        regions.push(Region {
            id: part.region_id,
            start_key: bound[0].clone(),
            end_key: bound[1].clone(),
            region_epoch,
            peers: peers.map(|(peer, id)| Peer { id: *id, ..*peer }).collect(),
            ..Region::default()
        });
    }
    regions.push(Region {
        start_key: bounds.last()?.clone(),
        region_epoch,
        ..region.clone()
    });
    Some(regions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_comes_behind_what_was_known_when_it_was_proposed() {
        let key = (Cf::CfDefault as i32, Bytes::from_static(b"k"));
        let check = |known: bool, since, late: bool| {
            let mut model = Model::default();
            for index in [6, 7] {
                model.set(key.clone(), 3, index, None);
            }
            let rows = [key.clone()];
            if known {
                assert_eq!(model.tell_write((3, 7), &rows, 0, 10), None);
            }
            let found = model.tell_write((3, 6), &rows, since, 20);
            assert_eq!(found.is_some(), late, "known: {known}, since {since}");
        };
        check(false, 11, false);
        check(true, 10, false);
        check(true, 11, true);
    }

    #[test]
    fn a_write_stays_in_its_region_and_ids_of_regions_are_used_once() {
        let region = |id, start_key: &'static [u8], end_key: &'static [u8]| Region {
            id,
            start_key: start_key.into(),
            end_key: end_key.into(),
            ..Region::default()
        };
        let (left, right) = (region(3, b"", b"m"), region(5, b"m", b""));
        let write = |key: &'static [u8], rule: Option<Rule>| {
            let mut checks = Checks::default();
            let change = Mod {
                kind: ModKind::Put.into(),
                key: key.into(),
                ..Mod::default()
            };
            Model::default().change(&left, 6, &change, &mut Vec::new(), &mut checks);
            assert_eq!(checks.violation().map(|broken| broken.rule), rule);
        };
        write(b"l", None);
        write(b"m", Some(Rule::OwnKeys));

        let split = |known: &[Region], rule: Option<Rule>| {
            let mut checks = Checks::default();
            let mut model = Model::bootstrap(known, &[]);
            model.split(5, 6, &[left.clone(), right.clone()], &mut checks);
            assert_eq!(checks.violation().map(|broken| broken.rule), rule);
        };
        split(std::slice::from_ref(&right), None);
        split(&[left.clone(), right.clone()], Some(Rule::RegionIdsUnique));
    }

    #[test]
    fn a_read_by_index_misses_nothing_that_an_earlier_one_has_shown() {
        let key = (Cf::CfDefault as i32, Bytes::from_static(b"k"));
        let mut model = Model::default();
        for index in [6, 7] {
            model.set(key.clone(), 3, index, None);
        }
        let mut check = |versions, since, missed: bool| {
            let late = model.tell_indexed(&[(key.clone(), versions)], since, 20);
            assert_eq!(late.is_some(), missed, "{versions} versions, since {since}");
        };
        check(2, 10, false);
        // It came before the first one was answered.
        check(1, 20, false);
        check(1, 21, true);
        check(2, 21, false);
    }
}
