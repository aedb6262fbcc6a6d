//! The file of a snapshot: rows of one column family, ascending. `docs/format.md` draws it.
//!
//! ```text
//! ["FSNP"][version: u32][column family: u8]
//! then per row: [length of key: u32][length of value: u32][key][value]
//! ```
//!
//! The checksum over all bytes stands in the manifest. A reader that has not compared it must not
//! read rows: lengths are believed here as long as they fit into the file.

use bytes::{BufMut, Bytes, BytesMut};

use crate::Cf;

const MAGIC: &[u8; 4] = b"FSNP";
/// Of the file; another one is refused.
const VERSION: u32 = 1;
/// Bytes before the first row.
pub(crate) const HEADER_BYTES: u64 = 9;
/// Bytes before a row's key.
const ROW_HEADER_BYTES: usize = 8;
/// Files are written and read in pieces of about this size.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// What a file of `cf` begins with.
pub(super) fn header(cf: Cf) -> BytesMut {
    let mut header = BytesMut::with_capacity(PIECE_BYTES);
    header.put_slice(MAGIC);
    header.put_u32(VERSION);
    header.put_u8(cf as u8);
    header
}

/// Adds a row.
pub(super) fn put_row(buffer: &mut BytesMut, key: &[u8], value: &[u8]) {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a row fits into an entry");
    buffer.reserve(ROW_HEADER_BYTES + key.len() + value.len());
    buffer.put_u32(length(key));
    buffer.put_u32(length(value));
    buffer.put_slice(key);
    buffer.put_slice(value);
}

/// Reads rows of a file that is `bytes` long, piece by piece.
pub(super) struct RowReader<R> {
    /// Answers the bytes at an offset, as many as asked.
    read: R,
    bytes: u64,
    /// Bytes fetched so far. Invariant: at most `bytes`.
    fetched: u64,
    buffer: Bytes,
}

/// Why rows cannot be read.
pub(super) enum RowError<E> {
    /// The reader failed.
    Read(E),
    /// The bytes are no rows.
    Format(String),
}

type RowResult<T, E> = Result<T, RowError<E>>;

impl<E, R: FnMut(u64, u64) -> Result<Bytes, E>> RowReader<R> {
    /// Reads the header and refuses a file of another version or column family.
    pub(super) fn open(cf: Cf, bytes: u64, read: R) -> RowResult<Self, E> {
        let mut reader = Self {
            read,
            bytes,
            fetched: 0,
            buffer: Bytes::new(),
        };
        let found = reader.take(HEADER_BYTES as usize)?;
        let expected = header(cf);
        if found[..4] != expected[..4] {
            return Err(RowError::Format("it is no file of a snapshot".into()));
        }
        if found[4..8] != expected[4..8] {
            let version = found[4..8]
                .iter()
                .fold(0, |n, byte| n << 8 | u32::from(*byte));
            let detail = format!("format {version}, this build knows {VERSION}");
            return Err(RowError::Format(detail));
        }
        if found[8] != expected[8] {
            let detail = format!("it is of column family {}, not {}", found[8], expected[8]);
            return Err(RowError::Format(detail));
        }
        Ok(reader)
    }

    /// The next row: key, value.
    pub(super) fn next(&mut self) -> RowResult<Option<(Bytes, Bytes)>, E> {
        if self.left() == 0 {
            return Ok(None);
        }
        let header = self.take(ROW_HEADER_BYTES)?;
        let (key, value) = header.split_at(4);
        let length = |bytes: &[u8]| bytes.iter().fold(0usize, |n, byte| n << 8 | *byte as usize);
        let (key, value) = (length(key), length(value));
        let key = self.take(key)?;
        Ok(Some((key, self.take(value)?)))
    }

    fn left(&self) -> u64 {
        self.bytes - self.fetched + self.buffer.len() as u64
    }

    fn take(&mut self, length: usize) -> RowResult<Bytes, E> {
        if length as u64 > self.left() {
            let at = self.bytes - self.left();
            let detail = format!("{length} bytes at {at} go beyond its end, {}", self.bytes);
            return Err(RowError::Format(detail));
        }
        if self.buffer.len() < length {
            self.fetch(length)?;
        }
        Ok(self.buffer.split_to(length))
    }

    /// Makes the buffer at least `length` bytes long, which the file still has.
    fn fetch(&mut self, length: usize) -> RowResult<(), E> {
        let missing = (length - self.buffer.len()).max(PIECE_BYTES) as u64;
        let asked = missing.min(self.bytes - self.fetched);
        let piece = (self.read)(self.fetched, asked).map_err(RowError::Read)?;
        if (piece.len() as u64) < asked {
            let end = self.fetched + piece.len() as u64;
            let detail = format!("it ends at {end}, not at {}", self.bytes);
            return Err(RowError::Format(detail));
        }
        self.fetched += asked;
        self.buffer = if self.buffer.is_empty() {
            piece
        } else {
            [&self.buffer[..], &piece].concat().into()
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Rows = Vec<(Vec<u8>, Vec<u8>)>;

    fn read(cf: Cf, file: &[u8], bytes: u64) -> Result<Rows, String> {
        let pieces = |offset: u64, max: u64| -> Result<Bytes, String> {
            let rest = &file[file.len().min(offset as usize)..];
            Ok(Bytes::copy_from_slice(
                &rest[..rest.len().min(max as usize)],
            ))
        };
        let say = |error| match error {
            RowError::Read(text) | RowError::Format(text) => text,
        };
        let mut reader = RowReader::open(cf, bytes, pieces).map_err(say)?;
        let mut rows = Vec::new();
        while let Some((key, value)) = reader.next().map_err(say)? {
            rows.push((key.to_vec(), value.to_vec()));
        }
        Ok(rows)
    }

    #[test]
    fn rows_are_read_as_they_were_written() {
        let large = vec![7; 3 * PIECE_BYTES];
        let rows: Rows = vec![
            (vec![], vec![]),
            (vec![1], large.clone()),
            (large, vec![2]),
            (vec![9], vec![]),
        ];
        let mut file = header(Cf::CfWrite);
        assert_eq!(file.len() as u64, HEADER_BYTES);
        for (key, value) in &rows {
            put_row(&mut file, key, value);
        }
        assert_eq!(read(Cf::CfWrite, &file, file.len() as u64), Ok(rows));
        assert_eq!(read(Cf::CfLock, &header(Cf::CfLock), 9), Ok(vec![]));
    }

    #[test]
    fn what_is_no_file_of_rows_is_refused() {
        #[track_caller]
        fn check(file: &[u8], bytes: u64, says: &str) {
            assert_eq!(read(Cf::CfLock, file, bytes), Err(says.into()));
        }
        let whole = header(Cf::CfLock);
        check(&whole[..8], 8, "9 bytes at 0 go beyond its end, 8");
        check(&whole[..8], 9, "it ends at 8, not at 9");
        check(b"FSNQ\0\0\0\x01\x01", 9, "it is no file of a snapshot");
        check(b"FSNP\0\0\x01\x02\x01", 9, "format 258, this build knows 1");
        check(&header(Cf::CfWrite), 9, "it is of column family 2, not 1");
        let mut row = whole.clone();
        put_row(&mut row, b"key", b"value");
        check(&row[..24], 24, "5 bytes at 20 go beyond its end, 24");
        check(&row[..12], 12, "8 bytes at 9 go beyond its end, 12");
    }
}
