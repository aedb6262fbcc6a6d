//! Scans. Clients take fewer rows than they asked for as the end of the region, so an answer has
//! exactly min(limit, rows there are), whatever its size, or is an error (contracts: C39).

use bytes::{Bytes, BytesMut};
use flotilla_engine::StateReader;
use flotilla_proto::kvrpcpb::{
    KvPair, RawBatchScanRequest, RawBatchScanResponse, RawScanRequest, RawScanResponse,
};
use prost::Message;

use super::{Bounds, Space, corrupt_row, scan_rows};
use crate::command::{Read, View};
use crate::failure::{Failure, Refusal};
use crate::key::{self, BadEncoding, KeyMode};
use crate::limits::{ANSWER_BYTES_MAX, ROW_BUFFER_BYTES_MAX, ROW_BUFFER_BYTES_MIN};

impl Read for RawScanRequest {
    /// Forward: the rows of [start_key, end_key), ascending. Reverse: the rows below `start_key`
    /// and from `end_key` on, descending. An empty bound is the edge of the region.
    fn read<R: StateReader + ?Sized>(
        &self,
        view: &View<'_, R>,
    ) -> Result<RawScanResponse, Failure> {
        let space = Space::new(view.scope, self.context.as_ref(), &self.cf)?;
        let bounds = directed_range(&space, 0, self.reverse, &self.start_key, &self.end_key)?;
        let mut scan = Scan::new(view, space, self.key_only, self.reverse);
        scan.add(bounds.as_ref(), self.limit)?;
        Ok(RawScanResponse {
            kvs: scan.pairs,
            ..RawScanResponse::default()
        })
    }
}

impl Read for RawBatchScanRequest {
    /// Up to `each_limit` rows of each range, one range after the other. An empty `end_key` means
    /// the next range's `start_key`, for the last range the edge of the region.
    fn read<R: StateReader + ?Sized>(
        &self,
        view: &View<'_, R>,
    ) -> Result<RawBatchScanResponse, Failure> {
        let space = Space::new(view.scope, self.context.as_ref(), &self.cf)?;
        let mut ranges = Vec::with_capacity(self.ranges.len());
        for (index, range) in self.ranges.iter().enumerate() {
            let end = match self.ranges.get(index + 1) {
                Some(next) if range.end_key.is_empty() => &next.start_key,
                _ => &range.end_key,
            };
            ranges.push(directed_range(
                &space,
                index,
                self.reverse,
                &range.start_key,
                end,
            )?);
        }
        let mut scan = Scan::new(view, space, self.key_only, self.reverse);
        for bounds in &ranges {
            scan.add(bounds.as_ref(), self.each_limit)?;
        }
        Ok(RawBatchScanResponse {
            kvs: scan.pairs,
            ..RawBatchScanResponse::default()
        })
    }
}

/// The range from `start` to `end` in the direction of the scan: in reverse `start` is the upper one.
fn directed_range(
    space: &Space<'_>,
    index: usize,
    reverse: bool,
    start: &Bytes,
    end: &Bytes,
) -> Result<Option<Bounds>, Refusal> {
    if reverse {
        space.range(index, end, start)
    } else {
        space.range(index, start, end)
    }
}

/// The answer of a scan while it grows.
struct Scan<'a, R: ?Sized> {
    view: &'a View<'a, R>,
    space: Space<'a>,
    key_only: bool,
    reverse: bool,
    pairs: Vec<KvPair>,
    size: AnswerSize,
    buffer: RowBuffer,
}

impl<'a, R: StateReader + ?Sized> Scan<'a, R> {
    fn new(view: &'a View<'a, R>, space: Space<'a>, key_only: bool, reverse: bool) -> Self {
        Self {
            view,
            space,
            key_only,
            reverse,
            pairs: Vec::new(),
            size: AnswerSize::default(),
            buffer: RowBuffer::default(),
        }
    }

    /// Adds the first `limit` rows of `bounds`.
    fn add(&mut self, bounds: Option<&Bounds>, limit: u32) -> Result<(), Failure> {
        let Some(bounds) = bounds.filter(|_| limit > 0) else {
            return Ok(());
        };
        let Self {
            view,
            space,
            key_only,
            reverse,
            pairs,
            size,
            buffer,
        } = self;
        let mut left = limit;
        scan_rows(view, space.cf, bounds, *reverse, |physical, row| {
            let key = buffer
                .key(space.mode(), physical)
                .map_err(|error| corrupt_row(view, space.cf, physical, error))?;
            let value = if *key_only {
                Bytes::new()
            } else {
                buffer.copy(row.value)
            };
            let pair = KvPair {
                key,
                value,
                ..KvPair::default()
            };
            size.add(&pair)?;
            pairs.push(pair);
            left -= 1;
            Ok(left > 0)
        })
    }
}

/// Bytes of the pairs of an answer, as they are on the wire.
#[derive(Default)]
pub(super) struct AnswerSize(usize);

impl AnswerSize {
    /// Counts `pair` in.
    ///
    /// # Errors
    /// If the answer gets too large with it.
    pub(super) fn add(&mut self, pair: &KvPair) -> Result<(), Refusal> {
        let bytes = pair.encoded_len();
        // The field's tag takes one byte.
        self.0 += 1 + prost::length_delimiter_len(bytes) + bytes;
        if self.0 <= ANSWER_BYTES_MAX {
            Ok(())
        } else {
            Err(Refusal::AnswerTooLarge)
        }
    }
}

/// Copies many small byte strings into few allocations.
struct RowBuffer {
    chunk: BytesMut,
    /// Bytes of the next chunk.
    next_bytes: usize,
}

impl Default for RowBuffer {
    fn default() -> Self {
        Self {
            chunk: BytesMut::new(),
            next_bytes: ROW_BUFFER_BYTES_MIN,
        }
    }
}

impl RowBuffer {
    fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.len() > ROW_BUFFER_BYTES_MAX / 4 {
            return Bytes::copy_from_slice(bytes);
        }
        self.reserve(bytes.len());
        self.chunk.extend_from_slice(bytes);
        self.chunk.split().freeze()
    }

    /// The user key of `physical`.
    fn key(&mut self, mode: KeyMode, physical: &[u8]) -> Result<Bytes, BadEncoding> {
        match mode {
            KeyMode::Plain => Ok(self.copy(physical)),
            KeyMode::Encoded => {
                self.reserve(physical.len());
                key::decode_into(physical, &mut self.chunk)?;
                Ok(self.chunk.split().freeze())
            }
        }
    }

    fn reserve(&mut self, bytes: usize) {
        if self.chunk.capacity() < bytes {
            self.chunk = BytesMut::with_capacity(self.next_bytes.max(bytes));
            self.next_bytes = (2 * self.next_bytes).min(ROW_BUFFER_BYTES_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_gives_back_what_it_was_given() {
        let strings: Vec<Vec<u8>> = (0..400)
            .map(|i: usize| vec![i as u8; (i * 37) % 3000])
            .chain([vec![7; 1 << 20]])
            .collect();
        let mut buffer = RowBuffer::default();
        let copies: Vec<Bytes> = strings.iter().map(|bytes| buffer.copy(bytes)).collect();
        assert_eq!(copies, strings);
        assert!(
            buffer.next_bytes == ROW_BUFFER_BYTES_MAX,
            "it grew to its bound and no further"
        );
    }

    #[test]
    fn an_answer_is_counted_as_it_is_on_the_wire() {
        let mut size = AnswerSize::default();
        let mut response = RawScanResponse::default();
        for length in [0, 1, 127, 128, 16_383, 16_384, 70_000] {
            let pair = KvPair {
                key: vec![1; length].into(),
                value: vec![2; 3 * length].into(),
                ..KvPair::default()
            };
            size.add(&pair).unwrap();
            response.kvs.push(pair);
        }
        assert_eq!(size.0, response.encoded_len());
    }
}
