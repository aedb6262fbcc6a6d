//! The durable point: which regions' state would survive a crash now (contracts: C2).

use std::collections::{BTreeMap, VecDeque};

use crate::{StateBatch, StateOp};

/// Follows state batches from written to durable.
///
/// Every batch has a store-wide number, written with it. What survives a crash is a prefix of the
/// batches, so one durable number tells how far *every* region is durable.
#[derive(Debug, Default)]
pub(crate) struct DurableCuts {
    /// Applied index by region, as a crash now would leave it.
    durable: BTreeMap<u64, u64>,
    /// Changes of applied indexes beyond the durable cut, in the order of their batches.
    /// Invariant: batch numbers never fall, and all are above `cut`.
    waiting: VecDeque<Change>,
    /// Number of the last batch known to be durable.
    cut: u64,
    /// Batches with an admin change beyond the durable cut, ascending.
    admin: VecDeque<u64>,
}

/// One batch's effect on one region's applied index.
#[derive(Debug)]
struct Change {
    batch: u64,
    region: u64,
    /// `None`: the apply record was deleted.
    applied: Option<u64>,
}

impl DurableCuts {
    /// Starts from what an open database holds, all of it durable.
    pub(crate) fn opened(cut: u64, durable: BTreeMap<u64, u64>) -> Self {
        Self {
            durable,
            cut,
            ..Self::default()
        }
    }

    /// Notes a written batch.
    ///
    /// # Panics
    /// If `number` is not above all earlier ones.
    pub(crate) fn wrote(&mut self, number: u64, batch: &StateBatch) {
        let newest = self.waiting.back().map_or(self.cut, |change| change.batch);
        assert!(number > newest, "state batch {number} after {newest}");
        for op in &batch.ops {
            let (region, applied) = match op {
                StateOp::PutApplied { region, record } => (*region, Some(record.index)),
                StateOp::DeleteApplied { region } => (*region, None),
                _ => continue,
            };
            self.waiting.push_back(Change {
                batch: number,
                region,
                applied,
            });
        }
        if batch.admin {
            self.admin.push_back(number);
        }
    }

    /// Moves the durable cut to `cut` (never back) and returns the regions that rose with it,
    /// ascending, with their durable applied index.
    pub(crate) fn advance(&mut self, cut: u64) -> Vec<(u64, u64)> {
        if cut <= self.cut {
            return Vec::new();
        }
        self.cut = cut;
        while self.admin.front().is_some_and(|number| *number <= cut) {
            self.admin.pop_front();
        }
        let mut newest = BTreeMap::new();
        while let Some(change) = self.waiting.pop_front_if(|change| change.batch <= cut) {
            newest.insert(change.region, change.applied);
        }
        let mut risen = Vec::new();
        for (region, applied) in newest {
            let before = match applied {
                Some(index) => self.durable.insert(region, index),
                None => self.durable.remove(&region),
            };
            if let Some(index) = applied.filter(|index| before.is_none_or(|before| before < *index))
            {
                risen.push((region, index));
            }
        }
        risen
    }

    /// The applied index of `region` that survives a crash now; 0 if none does.
    pub(crate) fn applied(&self, region: u64) -> u64 {
        self.durable.get(&region).copied().unwrap_or(0)
    }

    /// The last batch known to be durable.
    pub(crate) fn cut(&self) -> u64 {
        self.cut
    }

    /// The first batch with an admin change that a crash would lose.
    pub(crate) fn first_undurable_admin(&self) -> Option<u64> {
        self.admin.front().copied()
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::store::ApplyRecord;

    use super::*;

    fn batch(applied: &[(u64, Option<u64>)], admin: bool) -> StateBatch {
        let ops = applied.iter().map(|(region, index)| match index {
            Some(index) => StateOp::PutApplied {
                region: *region,
                record: ApplyRecord {
                    index: *index,
                    term: 1,
                },
            },
            None => StateOp::DeleteApplied { region: *region },
        });
        StateBatch {
            ops: ops.collect(),
            admin,
        }
    }

    #[test]
    fn a_cut_makes_a_prefix_of_the_batches_durable() {
        let mut cuts = DurableCuts::opened(10, BTreeMap::from([(1, 6)]));
        cuts.wrote(11, &batch(&[(1, Some(7)), (2, Some(6))], false));
        cuts.wrote(12, &batch(&[(1, Some(8))], true));
        cuts.wrote(13, &batch(&[(1, Some(9))], false));
        assert_eq!((cuts.applied(1), cuts.applied(2)), (6, 0));
        assert_eq!(cuts.first_undurable_admin(), Some(12));

        assert_eq!(cuts.advance(12), [(1, 8), (2, 6)]);
        assert_eq!((cuts.applied(1), cuts.applied(2), cuts.cut()), (8, 6, 12));
        assert_eq!(cuts.first_undurable_admin(), None);
        assert_eq!(cuts.advance(12), [], "an unchanged cut tells nothing new");
        assert_eq!(cuts.advance(11), [], "the cut never goes back");
        assert_eq!(cuts.advance(13), [(1, 9)]);
    }

    #[test]
    fn a_destroyed_region_is_not_durable_any_more() {
        let mut cuts = DurableCuts::opened(1, BTreeMap::from([(7, 40)]));
        cuts.wrote(2, &batch(&[(7, None)], true));
        assert_eq!(cuts.applied(7), 40, "a crash now would bring it back");
        assert_eq!(cuts.advance(2), []);
        assert_eq!(cuts.applied(7), 0);
        cuts.wrote(3, &batch(&[(7, Some(5))], false));
        assert_eq!(cuts.advance(3), [(7, 5)], "a successor rises from nothing");
    }
}
