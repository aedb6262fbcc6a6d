//! Memcomparable keys: how an encoded cluster's boundaries are made (wire, section 8.1).
//!
//! A key is cut into groups of eight bytes, each zero-padded and followed by a marker that says how
//! many of the eight are padding. A full last group is followed by an empty one. Encodings order as
//! the keys do, and none is a prefix of another.

use bytes::Bytes;

const GROUP: usize = 8;
const MARKER: u8 = 0xFF;

/// The encoding of `key`.
pub fn encode_bytes(key: &[u8]) -> Bytes {
    let mut encoded = Vec::with_capacity((key.len() / GROUP + 1) * (GROUP + 1));
    let mut groups = key.chunks_exact(GROUP);
    for group in &mut groups {
        encoded.extend_from_slice(group);
        encoded.push(MARKER);
    }
    let last = groups.remainder();
    let padding = GROUP - last.len();
    encoded.extend_from_slice(last);
    encoded.resize(encoded.len() + padding, 0);
    encoded.push(MARKER - padding as u8);
    encoded.into()
}

/// How many bytes at the start of `bytes` are one complete encoding; a timestamp may follow.
pub fn encoded_len(bytes: &[u8]) -> Option<usize> {
    for (index, group) in bytes.chunks_exact(GROUP + 1).enumerate() {
        let (data, marker) = (&group[..GROUP], group[GROUP]);
        let padding = usize::from(MARKER - marker);
        if padding == 0 {
            continue;
        }
        let padded = padding <= GROUP && data[GROUP - padding..].iter().all(|byte| *byte == 0);
        return padded.then_some((index + 1) * (GROUP + 1));
    }
    None
}

/// The key that `bytes` is exactly the encoding of.
pub fn decode_bytes(bytes: &[u8]) -> Option<Bytes> {
    if encoded_len(bytes)? != bytes.len() {
        return None;
    }
    let mut key = Vec::with_capacity(bytes.len());
    for group in bytes.chunks_exact(GROUP + 1) {
        let padding = usize::from(MARKER - group[GROUP]);
        key.extend_from_slice(&group[..GROUP - padding]);
    }
    Some(key.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_as_the_protocol_says() {
        for (key, encoded) in [
            (&b""[..], &[0, 0, 0, 0, 0, 0, 0, 0, 0xF7][..]),
            (b"a", &[0x61, 0, 0, 0, 0, 0, 0, 0, 0xF8]),
            (b"abcdefg", b"abcdefg\0\xFE"),
            (b"abcdefgh", b"abcdefgh\xFF\0\0\0\0\0\0\0\0\xF7"),
            (b"abcdefghi", b"abcdefgh\xFFi\0\0\0\0\0\0\0\xF8"),
        ] {
            assert_eq!(encode_bytes(key), encoded, "{key:?}");
            assert_eq!(decode_bytes(encoded).as_deref(), Some(key));
            let stamped = [encoded, &[0xAB; 8]].concat();
            assert_eq!(encoded_len(&stamped), Some(encoded.len()));
            assert_eq!(decode_bytes(&stamped), None, "a timestamp follows");
        }
    }

    #[test]
    fn what_is_no_encoding() {
        for bytes in [
            &b""[..],
            b"m",
            b"abcdefgh",
            b"abcdefgh\xFF",
            b"abcdefgh\xF6",
            b"abcdefgh\xFE",
            b"a\0\0\0\0\0\0\0\xF9\0\0\0",
        ] {
            let whole = encoded_len(bytes) == Some(bytes.len());
            assert!(!whole && decode_bytes(bytes).is_none(), "{bytes:?}");
        }
    }

    #[test]
    fn encodings_order_as_the_keys() {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        for length in 0..12 {
            for fill in [0u8, 1, 0x7F, 0xFF] {
                keys.push(vec![fill; length]);
                keys.push([vec![0x80; length], vec![fill]].concat());
            }
        }
        keys.sort();
        keys.dedup();
        for pair in keys.windows(2) {
            assert!(encode_bytes(&pair[0]) < encode_bytes(&pair[1]), "{pair:?}");
        }
    }
}
