//! The value of a raw row as it is stored: the user's bytes, then a trailer with the row's expiry.
//!
//! ```text
//! [value][expiry: u64 big-endian, seconds since the epoch, only with flag bit 0][flags: u8]
//! ```
//!
//! Only raw rows carry the trailer (contracts: C19, C38).

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
pub use flotilla_proto::keys::KeyMode;
use flotilla_proto::keys::RAW_PREFIX;

use crate::Cf;

/// Flag bit: eight bytes of expiry stand before the flags.
const FLAG_EXPIRY: u8 = 1;
/// All flag bits this build knows.
const FLAGS_KNOWN: u8 = FLAG_EXPIRY;
/// Bytes of the expiry in the trailer.
const EXPIRY_BYTES: usize = size_of::<u64>();

/// A compaction drops a row this long after it expired, in seconds: no read that saw it alive is
/// still running then (contracts: C19).
pub const DROP_DELAY_SECONDS: u64 = 3600;

/// A raw row, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// The user's bytes.
    pub value: &'a [u8],
    /// Seconds since the epoch at which the row ends; `None`: never.
    pub expiry: Option<u64>,
}

/// The stored bytes are no raw row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// No room for the trailer.
    #[error("a row of {bytes} bytes has no room for its trailer")]
    Short {
        /// Bytes found.
        bytes: usize,
    },
    /// Flag bits that this build does not know.
    #[error("a row with unknown flags {flags:#04x}, written by a newer version or damaged")]
    Flags {
        /// The flags found.
        flags: u8,
    },
}

impl Row<'_> {
    /// The row is seen by a read at `seconds` since the epoch.
    pub fn visible(&self, seconds: u64) -> bool {
        self.expiry.is_none_or(|expiry| expiry > seconds)
    }
}

/// The stored bytes of a row. `expiry` is in seconds since the epoch.
pub fn encode(value: &[u8], expiry: Option<u64>) -> Bytes {
    let mut stored = BytesMut::with_capacity(value.len() + EXPIRY_BYTES + 1);
    stored.put_slice(value);
    if let Some(expiry) = expiry {
        stored.put_u64(expiry);
    }
    stored.put_u8(if expiry.is_some() { FLAG_EXPIRY } else { 0 });
    stored.freeze()
}

/// Reads stored bytes.
pub fn decode(stored: &[u8]) -> Result<Row<'_>, RowError> {
    let short = RowError::Short {
        bytes: stored.len(),
    };
    let (flags, rest) = stored.split_last().ok_or(short)?;
    if flags & !FLAGS_KNOWN != 0 {
        return Err(RowError::Flags { flags: *flags });
    }
    if flags & FLAG_EXPIRY == 0 {
        return Ok(Row {
            value: rest,
            expiry: None,
        });
    }
    let (value, expiry) = rest.split_last_chunk::<EXPIRY_BYTES>().ok_or(short)?;
    Ok(Row {
        value,
        expiry: Some(u64::from_be_bytes(*expiry)),
    })
}

/// What a compaction needs to know to drop expired rows, shared with whoever learns it.
///
/// Until the key mode is known, and while no time was told, nothing is dropped.
#[derive(Debug, Default)]
pub struct Expiry {
    /// 0: not known, 1: plain, 2: encoded.
    mode: AtomicU8,
    /// Seconds since the epoch; never falls.
    seconds: AtomicU64,
}

impl Expiry {
    /// Tells the key mode. A cluster never changes it.
    pub fn set_mode(&self, mode: KeyMode) {
        let mode = match mode {
            KeyMode::Plain => 1,
            KeyMode::Encoded => 2,
        };
        self.mode.store(mode, Ordering::Relaxed);
    }

    /// The key mode, once it is known.
    pub fn mode(&self) -> Option<KeyMode> {
        match self.mode.load(Ordering::Relaxed) {
            1 => Some(KeyMode::Plain),
            2 => Some(KeyMode::Encoded),
            _ => None,
        }
    }

    /// Tells the time by which rows are judged, seconds since the epoch (contracts: C19); a time
    /// below an earlier one changes nothing. Returns the highest so far.
    pub fn advance(&self, seconds: u64) -> u64 {
        self.seconds
            .fetch_max(seconds, Ordering::Relaxed)
            .max(seconds)
    }

    /// The highest time told, seconds since the epoch; 0 before the first.
    pub fn seconds(&self) -> u64 {
        self.seconds.load(Ordering::Relaxed)
    }
}

/// A compaction may drop the row (contracts: C19): it is a raw row and expired long enough ago.
/// `key` is the physical key. Looks at nothing but the row; what it cannot read it keeps.
pub fn droppable(expiry: &Expiry, cf: Cf, key: &[u8], stored: &[u8]) -> bool {
    let raw = match expiry.mode() {
        None => false,
        Some(KeyMode::Plain) => cf != Cf::CfMeta,
        Some(KeyMode::Encoded) => cf == Cf::CfDefault && key.first() == Some(&RAW_PREFIX),
    };
    if !raw {
        return false;
    }
    let Ok(Row {
        expiry: Some(end), ..
    }) = decode(stored)
    else {
        return false;
    };
    end.saturating_add(DROP_DELAY_SECONDS) <= expiry.seconds()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_reads_as_it_was_written() {
        for value in [&b""[..], b"v", &[0xff; 40]] {
            for expiry in [None, Some(0), Some(1), Some(u64::MAX)] {
                let stored = encode(value, expiry);
                assert_eq!(decode(&stored), Ok(Row { value, expiry }));
            }
        }
    }

    #[test]
    fn the_bytes_are_as_documented() {
        assert_eq!(&encode(b"v", None)[..], b"v\x00");
        assert_eq!(
            &encode(b"v", Some(258))[..],
            b"v\x00\x00\x00\x00\x00\x00\x01\x02\x01"
        );
    }

    #[test]
    fn what_is_no_row_is_refused() {
        assert_eq!(decode(b""), Err(RowError::Short { bytes: 0 }));
        assert_eq!(decode(b"\x00\x00\x01"), Err(RowError::Short { bytes: 3 }));
        assert_eq!(decode(b"v\x02"), Err(RowError::Flags { flags: 2 }));
    }

    #[test]
    fn a_row_is_visible_until_the_second_it_expires() {
        let row = Row {
            value: b"",
            expiry: Some(100),
        };
        assert_eq!(
            [99, 100, 101].map(|at| row.visible(at)),
            [true, false, false]
        );
        assert!(
            Row {
                value: b"",
                expiry: None
            }
            .visible(u64::MAX)
        );
    }

    #[test]
    fn only_raw_rows_an_hour_past_their_expiry_are_dropped() {
        let stored = encode(b"v", Some(100));
        let late = 100 + DROP_DELAY_SECONDS;
        let cases = [
            // mode, column family, key, now, dropped
            (None, Cf::CfDefault, &b"r1"[..], late, false),
            (Some(KeyMode::Plain), Cf::CfDefault, b"", late, true),
            (Some(KeyMode::Plain), Cf::CfLock, b"k", late, true),
            (Some(KeyMode::Plain), Cf::CfMeta, b"k", late, false),
            (Some(KeyMode::Plain), Cf::CfDefault, b"k", late - 1, false),
            (Some(KeyMode::Encoded), Cf::CfDefault, b"r1", late, true),
            (Some(KeyMode::Encoded), Cf::CfDefault, b"x1", late, false),
            (Some(KeyMode::Encoded), Cf::CfDefault, b"", late, false),
            (Some(KeyMode::Encoded), Cf::CfWrite, b"r1", late, false),
        ];
        for (mode, cf, key, now, dropped) in cases {
            let expiry = Expiry::default();
            if let Some(mode) = mode {
                expiry.set_mode(mode);
            }
            expiry.advance(now);
            assert_eq!(
                droppable(&expiry, cf, key, &stored),
                dropped,
                "{mode:?} {cf:?} {key:?} at {now}"
            );
            assert!(
                !droppable(&expiry, cf, key, &encode(b"v", None)),
                "a row without expiry stays"
            );
            assert!(
                !droppable(&expiry, cf, key, b"\xff"),
                "what cannot be read stays"
            );
        }
    }

    #[test]
    fn the_time_of_expiry_never_falls() {
        let expiry = Expiry::default();
        assert_eq!(
            [expiry.advance(9), expiry.advance(7), expiry.seconds()],
            [9, 9, 9]
        );
    }
}
