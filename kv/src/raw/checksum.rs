//! Checksums over ranges, to compare what two clusters hold.

use flotilla_engine::StateReader;
use flotilla_proto::kvrpcpb::{ChecksumAlgorithm, RawChecksumRequest, RawChecksumResponse};

use super::{Space, corrupt_row, crc64, scan_rows};
use crate::command::{Read, View};
use crate::failure::{Failure, Refusal};
use crate::key::{self, KeyMode};

impl Read for RawChecksumRequest {
    /// XOR over the rows of CRC64(user key, value), with the number of rows and of their bytes;
    /// rows in several ranges count once for each. An empty bound is the edge of the region.
    fn read<R: StateReader + ?Sized>(
        &self,
        view: &View<'_, R>,
    ) -> Result<RawChecksumResponse, Failure> {
        let space = Space::new(view.scope, self.context.as_ref(), "")?;
        if ChecksumAlgorithm::try_from(self.algorithm) != Ok(ChecksumAlgorithm::Crc64Xor) {
            return Err(Refusal::ChecksumAlgorithm {
                algorithm: self.algorithm,
            }
            .into());
        }
        let mut ranges = Vec::with_capacity(self.ranges.len());
        for (index, range) in self.ranges.iter().enumerate() {
            ranges.extend(space.range(index, &range.start_key, &range.end_key)?);
        }
        let mut response = RawChecksumResponse::default();
        let mut decoded = Vec::new();
        for bounds in &ranges {
            scan_rows(view, space.cf, bounds, false, |physical, row| {
                let user = match space.mode() {
                    KeyMode::Plain => physical,
                    KeyMode::Encoded => {
                        decoded.clear();
                        key::decode_into(physical, &mut decoded)
                            .map_err(|error| corrupt_row(view, space.cf, physical, error))?;
                        &decoded
                    }
                };
                response.checksum ^= crc64(&[user, row.value]);
                response.total_kvs += 1;
                response.total_bytes += (user.len() + row.value.len()) as u64;
                Ok(true)
            })?;
        }
        Ok(response)
    }
}
