//! Records: the key and the value of record number `n`.
//!
//! A key is `user` followed by the hash of the record number, as YCSB names its rows with the
//! default `insertorder=hashed`: neighbours in insertion order are strangers in key order.
//!
//! A value is incompressible random bytes that can be checked without remembering them: the first
//! eight bytes are the seed from which, with the key, all others follow. A value that was torn,
//! mixed up with another key's or cut short is found by whoever reads it.

use std::ops::Range;

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// First bytes of every key.
const KEY_PREFIX: &str = "user";

/// Bytes of the seed at the start of a value; shorter values carry no check.
const VALUE_SEED_BYTES: usize = 8;

/// Offset basis and prime of the 64-bit FNV-1a hash.
const FNV_OFFSET_BASIS_64: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME_64: u64 = 0x0000_0100_0000_01b3;

/// The 64-bit FNV-1a hash of the eight bytes of `number`, lowest byte first, and then its absolute
/// value as a signed number: YCSB computes it in a language without unsigned integers, and keys
/// are comparable between drivers only if ours does the same.
pub(super) fn fnv_hash_64(number: u64) -> u64 {
    let hash = number
        .to_le_bytes()
        .iter()
        .fold(FNV_OFFSET_BASIS_64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME_64)
        });
    hash.cast_signed().unsigned_abs()
}

/// The key of a record.
pub(super) fn key(record: u64) -> Vec<u8> {
    format!("{KEY_PREFIX}{}", fnv_hash_64(record)).into_bytes()
}

/// The range that holds every record and nothing else.
///
/// The end is the first string above `user` plus any digits. It is bounded on purpose: the stock
/// Rust client restarts a scan from the beginning of the key space when the range's end lies in
/// the last region.
pub(super) fn key_space() -> Range<Vec<u8>> {
    b"user".to_vec()..b"user:".to_vec()
}

/// `size` bytes for `key`, all determined by `seed` and the key.
pub(super) fn value(key: &[u8], seed: u64, size: usize) -> Vec<u8> {
    let mut value = vec![0; size];
    if size < VALUE_SEED_BYTES {
        value.copy_from_slice(&seed.to_le_bytes()[..size]);
        return value;
    }
    let (head, body) = value.split_at_mut(VALUE_SEED_BYTES);
    head.copy_from_slice(&seed.to_le_bytes());
    stream(key, seed).fill_bytes(body);
    value
}

/// The seed that a value begins with, if it is long enough for one.
pub(super) fn seed(value: &[u8]) -> Option<u64> {
    let (head, _) = value.split_first_chunk::<VALUE_SEED_BYTES>()?;
    Some(u64::from_le_bytes(*head))
}

/// Whether `found` is a value that [`value`] made for `key`. Values too short to hold a seed are
/// taken as they are.
pub(super) fn is_intact(key: &[u8], found: &[u8]) -> bool {
    seed(found).is_none_or(|seed| value(key, seed, found.len()) == found)
}

fn stream(key: &[u8], seed: u64) -> Xoshiro256PlusPlus {
    let key_hash = key.iter().fold(FNV_OFFSET_BASIS_64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME_64)
    });
    Xoshiro256PlusPlus::seed_from_u64(seed ^ key_hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first rows that the original YCSB loads, as its users know them.
    #[test]
    fn keys_are_those_of_ycsb() {
        for (record, expected) in [
            (0, "user6284781860667377211"),
            (1, "user8517097267634966620"),
            (2, "user1820151046732198393"),
        ] {
            assert_eq!(
                String::from_utf8(key(record)).unwrap(),
                expected,
                "record {record}"
            );
        }
    }

    #[test]
    fn every_key_lies_in_the_key_space() {
        let space = key_space();
        for record in (0..10_000).chain(u64::MAX - 10..=u64::MAX) {
            assert!(space.contains(&key(record)), "record {record}");
        }
    }

    #[test]
    fn keys_do_not_collide() {
        let keys: std::collections::BTreeSet<_> = (0..100_000).map(key).collect();
        assert_eq!(keys.len(), 100_000);
    }

    #[test]
    fn a_value_has_the_size_asked_for_and_is_intact() {
        for size in [0, 1, 7, 8, 9, 100, 1_000, 4_096] {
            let made = value(b"user1", 7, size);
            assert_eq!(made.len(), size);
            assert!(is_intact(b"user1", &made), "size {size}");
        }
    }

    #[test]
    fn a_damaged_value_is_noticed() {
        let made = value(b"user1", 7, 100);
        assert!(!is_intact(b"user2", &made), "another key's value");
        let flips = (0..made.len()).filter(|at| {
            let mut torn = made.clone();
            torn[*at] ^= 1;
            !is_intact(b"user1", &torn)
        });
        assert_eq!(flips.count(), made.len(), "every flipped byte is seen");
    }

    #[test]
    fn values_do_not_compress_to_a_pattern() {
        let made = value(b"user1", 7, 100_000);
        let mut counts = [0_u32; 256];
        made.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        // Mean 390 per byte, standard deviation 20.
        assert!(
            counts.iter().all(|count| (290..490).contains(count)),
            "{counts:?}"
        );
    }
}
