//! Keys: the key modes of a cluster, the memcomparable encoding, keyspaces, region boundaries
//! (wire, section 8; contracts: C38).
//!
//! A *user key* is what stands in a request (with API v2 that includes the mode byte and the
//! keyspace). A *physical key* is what regions, the log and the state know: in plain mode the user
//! key itself, in encoded mode its memcomparable encoding `E(k)`.
//!
//! `E(k)`: groups of 8 bytes, each followed by a marker 0xFF minus the number of padding zeros; a
//! full last group is followed by a group of zeros with marker 0xF7. It keeps the order and no
//! encoding is a prefix of another.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes of user key per group of the encoding.
const GROUP_BYTES: usize = 8;
/// Bytes of a group with its marker.
const MARKED_BYTES: usize = GROUP_BYTES + 1;
/// The marker of a group without padding.
const MARKER_FULL: u8 = 0xff;

/// First byte of raw keys under API v2.
pub const RAW_PREFIX: u8 = b'r';
/// First byte of transactional keys under API v2.
pub const TXN_PREFIX: u8 = b'x';
/// The highest keyspace id: one below the highest number of 24 bits (wire, section 3.8). The range of
/// a keyspace ends at the prefix of the id after it, and clients write that id into the same three
/// bytes: for 0xFFFFFF they would write zeros, an end below the start.
pub const KEYSPACE_ID_MAX: u32 = 0x00ff_fffe;
const _: () = assert!(KEYSPACE_ID_MAX + 1 < 1 << 24);

/// Where the sentinel region begins: `E(FF×8)`, above every user key in practice and a valid
/// boundary in both modes. The stock Rust client's raw scans never end when a range's upper end lies
/// in the last region; with this one kept empty at the top they do not get there.
pub const SENTINEL_BOUNDARY: [u8; 2 * MARKED_BYTES] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0xf7,
];

/// How user keys become physical keys, one for a whole cluster (contracts: C38).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyMode {
    /// Raw API v1: physical keys are user keys.
    Plain,
    /// API v2 and transactions: physical keys are memcomparable encodings.
    Encoded,
}

impl KeyMode {
    /// `plain` or `encoded`: the name in configuration and in the meta region.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Encoded => "encoded",
        }
    }

    /// The mode called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Plain, Self::Encoded]
            .into_iter()
            .find(|mode| mode.name() == name)
    }

    /// The physical key of `user`; in plain mode the same bytes, not copied.
    pub fn physical(self, user: &Bytes) -> Bytes {
        match self {
            Self::Plain => user.clone(),
            Self::Encoded => encode(user),
        }
    }

    /// Bytes of the physical key of a user key of `user_bytes` bytes.
    pub fn physical_len(self, user_bytes: usize) -> usize {
        match self {
            Self::Plain => user_bytes,
            Self::Encoded => encoded_len(user_bytes),
        }
    }

    /// Where a region may be cut so that `physical` comes first in the upper half: `physical`
    /// itself in plain mode; in encoded mode its leading complete encoding, without the timestamp
    /// of a versioned key. `None`: it starts with no complete encoding, and a cut there would make
    /// the region unreadable to every client.
    pub fn boundary(self, physical: &Bytes) -> Option<Bytes> {
        match self {
            Self::Plain => Some(physical.clone()),
            Self::Encoded => Some(physical.slice(..leading_encoding(physical)?)),
        }
    }
}

/// Bytes that are no memcomparable encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadEncoding {
    /// The bytes end inside a group, so many after the last complete one.
    Truncated(usize),
    /// The group at this byte has a marker below 0xF7, or padding that is not zero.
    Group(usize),
    /// A complete encoding, and so many bytes after it.
    Trailing(usize),
}

impl fmt::Display for BadEncoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated(bytes) => write!(
                f,
                "the encoding ends inside a group, {bytes} bytes after the last complete one"
            ),
            Self::Group(at) => write!(f, "the group at byte {at} has a bad marker or padding"),
            Self::Trailing(bytes) => write!(f, "{bytes} bytes follow the encoding"),
        }
    }
}

impl std::error::Error for BadEncoding {}

/// Bytes of `E(k)` for a key of `bytes` bytes.
pub fn encoded_len(bytes: usize) -> usize {
    (bytes / GROUP_BYTES + 1) * MARKED_BYTES
}

/// `E(key)`.
pub fn encode(key: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(encoded_len(key.len()));
    let groups = key.chunks_exact(GROUP_BYTES);
    let last = groups.remainder();
    for group in groups {
        out.put_slice(group);
        out.put_u8(MARKER_FULL);
    }
    let padding = GROUP_BYTES - last.len();
    out.put_slice(last);
    out.put_bytes(0, padding);
    out.put_u8(MARKER_FULL - padding as u8);
    out.freeze()
}

/// Appends the key that `encoded` is the encoding of, to its last byte, to `out`.
pub fn decode_into(encoded: &[u8], out: &mut impl BufMut) -> Result<(), BadEncoding> {
    let (length, rest) = split_encoded(encoded)?;
    if !rest.is_empty() {
        return Err(BadEncoding::Trailing(rest.len()));
    }
    let mut left = length;
    for group in encoded.chunks_exact(MARKED_BYTES) {
        let taken = left.min(GROUP_BYTES);
        out.put_slice(&group[..taken]);
        left -= taken;
    }
    Ok(())
}

/// The key that `encoded` is the encoding of.
pub fn decode(encoded: &[u8]) -> Result<Bytes, BadEncoding> {
    let mut out = BytesMut::with_capacity(encoded.len());
    decode_into(encoded, &mut out)?;
    Ok(out.freeze())
}

/// The length of the key whose complete encoding `bytes` begins with, and what follows it.
pub fn split_encoded(bytes: &[u8]) -> Result<(usize, &[u8]), BadEncoding> {
    let mut at = 0;
    loop {
        let Some(group) = bytes.get(at..at + MARKED_BYTES) else {
            return Err(BadEncoding::Truncated(bytes.len() - at));
        };
        let (data, marker) = (&group[..GROUP_BYTES], group[GROUP_BYTES]);
        let padding = usize::from(MARKER_FULL - marker);
        if padding > GROUP_BYTES || data[GROUP_BYTES - padding..].iter().any(|byte| *byte != 0) {
            return Err(BadEncoding::Group(at));
        }
        at += MARKED_BYTES;
        if padding > 0 {
            let length = at / MARKED_BYTES * GROUP_BYTES - padding;
            return Ok((length, &bytes[at..]));
        }
    }
}

/// How many bytes at the start of `bytes` are one complete encoding; a timestamp may follow.
pub fn leading_encoding(bytes: &[u8]) -> Option<usize> {
    let (_, rest) = split_encoded(bytes).ok()?;
    Some(bytes.len() - rest.len())
}

/// The prefix of all keys of `keyspace` under the mode byte `mode` ([`RAW_PREFIX`] or
/// [`TXN_PREFIX`]); for `keyspace` + 1 it is the exclusive end of that range.
///
/// # Panics
/// If `keyspace` is above [`KEYSPACE_ID_MAX`] + 1.
pub fn keyspace_prefix(mode: u8, keyspace: u32) -> [u8; 4] {
    assert!(
        keyspace <= KEYSPACE_ID_MAX + 1,
        "{keyspace:#x} is above the highest keyspace id"
    );
    (u32::from_be_bytes([mode, 0, 0, 0]) + keyspace).to_be_bytes()
}

/// The boundaries at which regions are cut when `keyspace` is made, ascending.
pub fn keyspace_boundaries(keyspace: u32) -> [Bytes; 4] {
    [
        (RAW_PREFIX, keyspace),
        (RAW_PREFIX, keyspace + 1),
        (TXN_PREFIX, keyspace),
        (TXN_PREFIX, keyspace + 1),
    ]
    .map(|(mode, id)| encode(&keyspace_prefix(mode, id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(key: &[u8], encoding: &[u8]) {
        assert_eq!(encode(key), encoding, "E({key:02x?})");
        assert_eq!(encoded_len(key.len()), encoding.len());
        assert_eq!(decode(encoding).as_deref(), Ok(key));
    }

    #[test]
    fn encodings_of_known_keys() {
        check(b"", b"\0\0\0\0\0\0\0\0\xf7");
        check(b"a", b"a\0\0\0\0\0\0\0\xf8");
        check(b"\0", b"\0\0\0\0\0\0\0\0\xf8");
        check(b"1234567", b"1234567\0\xfe");
        check(b"12345678", b"12345678\xff\0\0\0\0\0\0\0\0\xf7");
        check(b"123456789", b"12345678\xff9\0\0\0\0\0\0\0\xf8");
        check(&[0xff; 8], &SENTINEL_BOUNDARY);
    }

    #[test]
    fn what_is_no_encoding_is_named() {
        use BadEncoding::*;
        let table: [(&[u8], BadEncoding); 7] = [
            (b"", Truncated(0)),
            (b"m", Truncated(1)),
            (b"12345678\xff", Truncated(0)),
            (b"12345678\xffabc", Truncated(3)),
            (b"a\0\0\0\0\0\0\0\xf6", Group(0)),
            (b"12345678\xffab\0\0\0\0\0\0\xf8", Group(9)),
            (b"a\0\0\0\0\0\0\0\xf8timestamp", Trailing(9)),
        ];
        for (bytes, error) in table {
            assert_eq!(decode(bytes), Err(error), "{bytes:02x?}");
        }
    }

    #[test]
    fn the_order_of_keys_is_the_order_of_encodings() {
        let bytes = [0x00, 0x01, 0x7f, 0xf7, 0xfe, 0xff];
        let mut keys: Vec<Vec<u8>> = vec![vec![]];
        for length in 1..=18 {
            for byte in bytes {
                keys.push(vec![byte; length]);
                for last in bytes {
                    let mut key = vec![byte; length];
                    key.push(last);
                    keys.push(key);
                }
            }
        }
        keys.sort();
        keys.dedup();
        let encodings: Vec<Bytes> = keys.iter().map(|key| encode(key)).collect();
        assert!(encodings.is_sorted_by(|a, b| a < b));
        assert!(
            encodings
                .windows(2)
                .all(|pair| !pair[1].starts_with(&pair[0])),
            "prefix-free"
        );
        for (key, encoding) in keys.iter().zip(&encodings) {
            assert_eq!(decode(encoding).as_deref(), Ok(&key[..]));
        }
    }

    #[test]
    fn boundaries_are_complete_encodings_or_plain_keys() {
        let key = encode(b"row-of-a-table");
        let versioned = Bytes::from([&key[..], &[0xff; 8]].concat());
        let user = Bytes::from_static(b"m");
        let table = [
            (KeyMode::Plain, &user, Some(&user)),
            (KeyMode::Plain, &versioned, Some(&versioned)),
            (KeyMode::Encoded, &key, Some(&key)),
            (KeyMode::Encoded, &versioned, Some(&key)),
            (KeyMode::Encoded, &user, None),
        ];
        for (mode, physical, boundary) in table {
            assert_eq!(
                mode.boundary(physical).as_ref(),
                boundary,
                "{mode:?} {physical:?}"
            );
        }
    }

    #[test]
    fn keyspaces_are_cut_at_both_ends_of_both_modes() {
        let prefixes = |id| keyspace_boundaries(id).map(|boundary| decode(&boundary).unwrap());
        assert_eq!(
            prefixes(0),
            [&b"r\0\0\0"[..], b"r\0\0\x01", b"x\0\0\0", b"x\0\0\x01"]
        );
        assert_eq!(
            prefixes(0x0102ff),
            [
                &b"r\x01\x02\xff"[..],
                b"r\x01\x03\0",
                b"x\x01\x02\xff",
                b"x\x01\x03\0"
            ]
        );
        assert_eq!(
            prefixes(KEYSPACE_ID_MAX),
            [
                &b"r\xff\xff\xfe"[..],
                b"r\xff\xff\xff",
                b"x\xff\xff\xfe",
                b"x\xff\xff\xff"
            ]
        );
    }

    #[test]
    fn modes_have_names() {
        for mode in [KeyMode::Plain, KeyMode::Encoded] {
            assert_eq!(KeyMode::from_name(mode.name()), Some(mode));
        }
        assert_eq!(KeyMode::from_name("v1"), None);
    }
}
