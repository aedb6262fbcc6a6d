//! Keys and values of both databases, byte by byte. `docs/format.md` draws them.

use bytes::Bytes;
use flotilla_proto::raft::{Entry, EntryKind};
use prost::Message;

use crate::{Cf, EngineError, KeyRange, Result};

/// Format of both databases; a database with a higher number is refused.
pub(crate) const FORMAT: u32 = 1;

/// Keys of the log: region (8 bytes), kind, and for entries the index (8 bytes), big-endian.
/// Region 0 does not exist; under it the log keeps records of its own.
pub(crate) mod log_key {
    /// The hard state of a region's peer.
    pub(crate) const RECORD: u8 = 1;
    /// The truncation point of a region.
    pub(crate) const TRUNCATION: u8 = 2;
    /// An entry.
    pub(crate) const ENTRY: u8 = 3;
    /// The snapshot intent of a region.
    pub(crate) const INTENT: u8 = 4;
    /// Above every kind of a region.
    const END: u8 = 0xff;

    /// Whose log it is and in which format.
    pub(crate) const IDENTITY: [u8; 9] = [0, 0, 0, 0, 0, 0, 0, 0, 1];
    /// Number of the last batch.
    pub(crate) const BATCH: [u8; 9] = [0, 0, 0, 0, 0, 0, 0, 0, 2];
    /// The first key that can belong to a region.
    pub(crate) const FIRST: [u8; 9] = [0, 0, 0, 0, 0, 0, 0, 1, 0];

    pub(crate) fn record(region: u64, kind: u8) -> [u8; 9] {
        debug_assert_ne!(region, 0, "region 0 is the log's own");
        let mut key = [kind; 9];
        key[..8].copy_from_slice(&region.to_be_bytes());
        key
    }

    pub(crate) fn entry(region: u64, index: u64) -> [u8; 17] {
        let mut key = [0; 17];
        key[..9].copy_from_slice(&record(region, ENTRY));
        key[9..].copy_from_slice(&index.to_be_bytes());
        key
    }

    /// First key of a region, and the first behind it.
    pub(crate) fn region(region: u64) -> ([u8; 9], [u8; 9]) {
        (record(region, 0), record(region, END))
    }

    /// A key of the log, taken apart.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Parsed {
        Record(u64),
        Truncation(u64),
        Entry(u64, u64),
        Intent(u64),
    }

    pub(crate) fn parse(key: &[u8]) -> Option<Parsed> {
        let (region, rest) = key.split_first_chunk::<8>()?;
        let region = u64::from_be_bytes(*region);
        match rest {
            [RECORD] => Some(Parsed::Record(region)),
            [TRUNCATION] => Some(Parsed::Truncation(region)),
            [INTENT] => Some(Parsed::Intent(region)),
            [ENTRY, index @ ..] => Some(Parsed::Entry(
                region,
                u64::from_be_bytes(index.try_into().ok()?),
            )),
            _ => None,
        }
    }
}

/// Term (8 bytes, big-endian) and kind before an entry's payload.
pub(crate) const ENTRY_HEADER_BYTES: usize = 9;

/// Writes the header of an entry's value; the payload follows.
pub(crate) fn entry_header(entry: &Entry) -> [u8; ENTRY_HEADER_BYTES] {
    let mut header = [0; ENTRY_HEADER_BYTES];
    header[..8].copy_from_slice(&entry.term.to_be_bytes());
    header[8] = u8::try_from(entry.kind).expect("an entry kind is a small number");
    header
}

/// Reads an entry's value: term, kind, payload.
pub(crate) fn entry_value(
    region: u64,
    index: u64,
    value: &[u8],
) -> Result<(u64, EntryKind, &[u8])> {
    let corrupt =
        |detail: String| EngineError::corrupt(format!("region {region} index {index}"), detail);
    let Some((header, payload)) = value.split_first_chunk::<ENTRY_HEADER_BYTES>() else {
        return Err(corrupt(format!(
            "an entry of {} bytes has no header",
            value.len()
        )));
    };
    let [term @ .., kind] = header;
    let known = EntryKind::try_from(i32::from(*kind));
    let kind = known.map_err(|_| corrupt(format!("unknown entry kind {kind}")))?;
    Ok((u64::from_be_bytes(*term), kind, payload))
}

/// Reads an entry's value into an entry with a payload of its own.
pub(crate) fn entry(region: u64, index: u64, value: &[u8]) -> Result<Entry> {
    let (term, kind, payload) = entry_value(region, index, value)?;
    Ok(Entry {
        term,
        index,
        kind: kind.into(),
        data: Bytes::copy_from_slice(payload),
    })
}

/// Decodes a protobuf record or names it as corrupt.
pub(crate) fn message<M: Message + Default>(
    place: impl FnOnce() -> String,
    value: &[u8],
) -> Result<M> {
    M::decode(value).map_err(|error| EngineError::corrupt(place(), error.to_string()))
}

/// A big-endian number, or a named corruption.
pub(crate) fn number(place: impl FnOnce() -> String, value: &[u8]) -> Result<u64> {
    let bytes = value.try_into().map_err(|_| {
        EngineError::corrupt(
            place(),
            format!("a number of {} instead of 8 bytes", value.len()),
        )
    })?;
    Ok(u64::from_be_bytes(bytes))
}

/// Keys of the state database. One byte stands before every key, so that the empty key is legal
/// and an unbounded range has an end.
pub(crate) mod state_key {
    use super::{Cf, KeyRange};

    /// Before user keys in the data column families.
    pub(crate) const DATA: u8 = b'd';
    /// In `meta`: the database's own records.
    pub(crate) const OWN: u8 = 0;
    /// In `meta`: region records, by region id.
    pub(crate) const REGION: u8 = 1;
    /// In `meta`: apply records, by region id.
    pub(crate) const APPLIED: u8 = 2;
    /// In `meta`: PD's records, by their own keys (contracts: C30).
    pub(crate) const PD: u8 = 3;

    /// Whose state it is and in which format.
    pub(crate) const IDENTITY: [u8; 2] = [OWN, 1];
    /// Number of the last batch (contracts: C2).
    pub(crate) const CUT: [u8; 2] = [OWN, 2];

    pub(crate) fn prefix(cf: Cf) -> u8 {
        if cf == Cf::CfMeta { PD } else { DATA }
    }

    /// Writes the key under which `key` is stored over `buffer`.
    pub(crate) fn write(buffer: &mut Vec<u8>, cf: Cf, key: &[u8]) {
        buffer.clear();
        buffer.push(prefix(cf));
        buffer.extend_from_slice(key);
    }

    /// The stored bounds of a range: inclusive, exclusive.
    pub(crate) fn bounds(cf: Cf, range: KeyRange<'_>) -> (Vec<u8>, Vec<u8>) {
        let prefix = prefix(cf);
        let start = [&[prefix], range.start].concat();
        let end = if range.end.is_empty() {
            vec![prefix + 1]
        } else {
            [&[prefix], range.end].concat()
        };
        (start, end)
    }

    /// The key of a record of `region`; `kind` is [`REGION`] or [`APPLIED`].
    pub(crate) fn record(kind: u8, region: u64) -> [u8; 9] {
        let mut key = [kind; 9];
        key[1..].copy_from_slice(&region.to_be_bytes());
        key
    }
}

/// Whose database it is: written when it is created, checked whenever it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) format: u32,
    pub(crate) cluster_id: u64,
    pub(crate) store_id: u64,
}

impl Identity {
    pub(crate) fn encode(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&self.format.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.cluster_id.to_be_bytes());
        bytes[12..].copy_from_slice(&self.store_id.to_be_bytes());
        bytes
    }

    /// The format alone is read of a record that is longer: a newer one may have grown.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (format, rest) = bytes.split_first_chunk::<4>()?;
        let (cluster_id, rest) = rest.split_first_chunk::<8>()?;
        let (store_id, _) = rest.split_first_chunk::<8>()?;
        Some(Self {
            format: u32::from_be_bytes(*format),
            cluster_id: u64::from_be_bytes(*cluster_id),
            store_id: u64::from_be_bytes(*store_id),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::log_key::Parsed;
    use super::*;

    #[test]
    fn log_keys_sort_by_region_kind_index() {
        let keys = [
            log_key::IDENTITY.to_vec(),
            log_key::BATCH.to_vec(),
            log_key::FIRST.to_vec(),
            log_key::record(1, log_key::RECORD).to_vec(),
            log_key::record(1, log_key::TRUNCATION).to_vec(),
            log_key::entry(1, 0).to_vec(),
            log_key::entry(1, 255).to_vec(),
            log_key::entry(1, 256).to_vec(),
            log_key::entry(1, u64::MAX).to_vec(),
            log_key::record(1, log_key::INTENT).to_vec(),
            log_key::region(1).1.to_vec(),
            log_key::region(2).0.to_vec(),
            log_key::record(2, log_key::RECORD).to_vec(),
            log_key::entry(u64::MAX, u64::MAX).to_vec(),
        ];
        assert!(keys.is_sorted(), "{keys:x?}");
    }

    #[test]
    fn log_keys_are_taken_apart_as_they_were_built() {
        let cases = [
            (
                log_key::record(7, log_key::RECORD).to_vec(),
                Some(Parsed::Record(7)),
            ),
            (
                log_key::record(7, log_key::TRUNCATION).to_vec(),
                Some(Parsed::Truncation(7)),
            ),
            (
                log_key::record(7, log_key::INTENT).to_vec(),
                Some(Parsed::Intent(7)),
            ),
            (log_key::entry(7, 9).to_vec(), Some(Parsed::Entry(7, 9))),
            (log_key::record(7, 9).to_vec(), None),
            (log_key::entry(7, 9)[..16].to_vec(), None),
            (vec![1; 7], None),
        ];
        for (key, parsed) in cases {
            assert_eq!(log_key::parse(&key), parsed, "{key:x?}");
        }
    }

    #[test]
    fn an_entry_reads_as_it_was_written() {
        let data = Bytes::from_static(b"payload");
        let written = Entry {
            term: 8,
            index: 9,
            kind: EntryKind::Admin.into(),
            data,
        };
        let value = [&entry_header(&written)[..], &written.data].concat();
        assert_eq!(entry(7, 9, &value).expect("whole"), written);
        for (damaged, says) in [
            (
                &value[..8],
                "region 7 index 9: an entry of 8 bytes has no header",
            ),
            (
                &b"12345678\x09"[..],
                "region 7 index 9: unknown entry kind 9",
            ),
        ] {
            let error = entry(7, 9, damaged).expect_err("damaged");
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn state_bounds_hold_every_key_of_their_kind() {
        let all = KeyRange {
            start: b"",
            end: b"",
        };
        let (start, end) = state_key::bounds(Cf::CfDefault, all);
        for key in [&b""[..], b"\x00", b"\xff\xff"] {
            let mut stored = Vec::new();
            state_key::write(&mut stored, Cf::CfDefault, key);
            assert!(start <= stored && stored < end, "{key:x?}");
        }
        let (start, end) = state_key::bounds(
            Cf::CfMeta,
            KeyRange {
                start: b"a",
                end: b"b",
            },
        );
        assert_eq!((start, end), (b"\x03a".to_vec(), b"\x03b".to_vec()));
    }

    #[test]
    fn an_identity_reads_as_it_was_written_also_when_longer() {
        let identity = Identity {
            format: 2,
            cluster_id: 3,
            store_id: 4,
        };
        let mut bytes = identity.encode().to_vec();
        assert_eq!(Identity::decode(&bytes), Some(identity));
        bytes.push(9);
        assert_eq!(Identity::decode(&bytes), Some(identity));
        assert_eq!(Identity::decode(&bytes[..19]), None);
    }
}
