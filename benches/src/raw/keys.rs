//! Where the bare driver's keys lie: one stretch of the key space per number of regions, cut
//! into that many regions.

use bytes::{BufMut, Bytes, BytesMut};

/// Most regions of one stretch: their numbers have four digits.
pub(super) const REGIONS_MAX: u32 = 9_999;

/// A stretch of the key space. Records take turns over its regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    /// Tells stretches apart; below 100.
    number: u8,
    regions: u32,
}

impl Stretch {
    pub(super) fn new(number: u8, regions: u32) -> Self {
        assert!(
            number < 100 && (1..=REGIONS_MAX).contains(&regions),
            "{number} {regions}"
        );
        Self { number, regions }
    }

    pub(super) fn regions(self) -> u32 {
        self.regions
    }

    /// Where to split: at the start of each region, and at the end of the last, so that every region
    /// of the stretch holds records of the stretch only.
    pub(super) fn boundaries(self) -> Vec<Bytes> {
        (0..=self.regions)
            .map(|region| self.boundary(region).freeze())
            .collect()
    }

    /// The key of a record. Eight bytes behind the start of its region.
    pub(super) fn key(self, record: u64) -> Bytes {
        let region = record % u64::from(self.regions);
        let mut key = self.boundary(u32::try_from(region).expect("below the number of regions"));
        key.put_u64(record);
        key.freeze()
    }

    /// The start of a region: the memcomparable encoding of seven letters and digits, which is
    /// these, one byte of padding and a byte that says so. Boundaries of that form are good for
    /// raw and transactional clients alike.
    fn boundary(self, region: u32) -> BytesMut {
        let mut key = BytesMut::with_capacity(9 + 8);
        key.put_slice(format!("b{:02}{region:04}", self.number).as_bytes());
        key.put_slice(&[0, 0xfe]);
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_lies_in_its_region_and_regions_take_turns() {
        let stretch = Stretch::new(3, 256);
        let boundaries = stretch.boundaries();
        assert_eq!(boundaries.len(), 257);
        assert!(boundaries.is_sorted_by(|a, b| a < b));
        for record in (0..1_000).chain([u64::MAX - 1, u64::MAX]) {
            let (key, region) = (stretch.key(record), usize::try_from(record % 256).unwrap());
            assert!(
                (&boundaries[region]..&boundaries[region + 1]).contains(&&key),
                "{record}"
            );
        }
    }

    #[test]
    fn stretches_do_not_meet() {
        let (one, two) = (Stretch::new(0, REGIONS_MAX), Stretch::new(1, 1));
        assert!(one.boundaries().last() < two.boundaries().first());
    }

    #[test]
    fn boundaries_are_memcomparable_encodings() {
        let boundaries = Stretch::new(7, 1).boundaries();
        assert_eq!(boundaries[0], &b"b070000\x00\xfe"[..]);
        assert_eq!(boundaries[1], &b"b070001\x00\xfe"[..]);
    }
}
