//! RawKV: every raw request of the protocol as a [`Command`](crate::Command).

mod cas;
mod checksum;
mod read;
mod scan;
mod split;
mod write;

use bytes::Bytes;
use flotilla_engine::{Cf, EngineError, KeyRange, StateReader, row};
use flotilla_proto::errorpb;
use flotilla_proto::kvrpcpb::{self, Context};
use flotilla_proto::metapb::Region;

pub use split::split_keys;

use crate::command::{Answer, Command, Kind, Scope, View, check_mode};
use crate::failure::{Failure, Refusal};
use crate::key::{KeyMode, RAW_PREFIX};
use crate::limits::{KEY_BYTES_MAX, ROWS_PER_DEADLINE_CHECK};

/// Characters of an unknown column family name that a refusal repeats.
const CF_NAME_CHARS_MAX: usize = 32;

/// Responses with a field for an error text.
macro_rules! commands {
    ($($request:ident => $response:ident, $name:literal;)*) => {$(
        commands!(@command $request, $response, $name);
        impl Answer for kvrpcpb::$response {
            fn region_error(error: errorpb::Error) -> Self {
                Self { region_error: Some(error.into()), ..Self::default() }
            }
            fn refused(refusal: &Refusal) -> Option<Self> {
                Some(Self { error: refusal.to_string(), ..Self::default() })
            }
        }
    )*};
    (without error text: $($request:ident => $response:ident, $name:literal;)*) => {$(
        commands!(@command $request, $response, $name);
        impl Answer for kvrpcpb::$response {
            fn region_error(error: errorpb::Error) -> Self {
                Self { region_error: Some(error.into()), ..Self::default() }
            }
            fn refused(_: &Refusal) -> Option<Self> {
                None
            }
        }
    )*};
    (@command $request:ident, $response:ident, $name:literal) => {
        impl Command for kvrpcpb::$request {
            type Response = kvrpcpb::$response;
            const NAME: &'static str = $name;
            fn context(&self) -> Option<&Context> {
                self.context.as_ref()
            }
        }
    };
}

commands! {
    RawGetRequest => RawGetResponse, "RawGet";
    RawGetKeyTtlRequest => RawGetKeyTtlResponse, "RawGetKeyTTL";
    RawChecksumRequest => RawChecksumResponse, "RawChecksum";
    RawPutRequest => RawPutResponse, "RawPut";
    RawBatchPutRequest => RawBatchPutResponse, "RawBatchPut";
    RawDeleteRequest => RawDeleteResponse, "RawDelete";
    RawBatchDeleteRequest => RawBatchDeleteResponse, "RawBatchDelete";
    RawDeleteRangeRequest => RawDeleteRangeResponse, "RawDeleteRange";
    RawCasRequest => RawCasResponse, "RawCompareAndSwap";
}

commands! {
    without error text:
    RawBatchGetRequest => RawBatchGetResponse, "RawBatchGet";
    RawScanRequest => RawScanResponse, "RawScan";
    RawBatchScanRequest => RawBatchScanResponse, "RawBatchScan";
}

/// The part of a scope that is checked: the request is for this key mode and names a column family.
#[derive(Clone, Copy)]
struct Space<'a> {
    scope: Scope<'a>,
    cf: Cf,
}

impl<'a> Space<'a> {
    fn new(scope: Scope<'a>, context: Option<&Context>, cf: &str) -> Result<Self, Refusal> {
        check_mode(scope.mode, context, Kind::Raw)?;
        Ok(Self {
            scope,
            cf: column_family(scope.mode, cf)?,
        })
    }

    fn mode(&self) -> KeyMode {
        self.scope.mode
    }

    /// The physical key of `user`, which lies in the region. It may be longer than any stored key.
    fn key(&self, user: &Bytes) -> Result<Bytes, Failure> {
        if self.mode() == KeyMode::Encoded && user.first() != Some(&RAW_PREFIX) {
            return Err(Refusal::KeyPrefix.into());
        }
        let physical = self.mode().physical(user);
        if contains(self.scope.region, &physical) {
            Ok(physical)
        } else {
            Err(Failure::key_not_in_region(physical, self.scope.region))
        }
    }

    /// [`Space::key`] for a key that is to be stored.
    fn new_key(&self, user: &Bytes) -> Result<Bytes, Failure> {
        let bytes = self.mode().physical_len(user.len());
        if bytes > KEY_BYTES_MAX {
            return Err(Refusal::KeyTooLarge { bytes }.into());
        }
        self.key(user)
    }

    /// The physical range of the user keys [start, end), an empty bound being none, as far as it
    /// lies in the region. `None`: nothing lies in it. `index`: which range of the request it is.
    fn range(&self, index: usize, start: &Bytes, end: &Bytes) -> Result<Option<Bounds>, Refusal> {
        if !end.is_empty() && start > end {
            return Err(Refusal::RangeReversed { index });
        }
        if self.mode() == KeyMode::Encoded && !(is_raw_bound(start) && is_raw_end(end)) {
            return Err(Refusal::RangePrefix);
        }
        let physical = |user: &Bytes| {
            if user.is_empty() {
                Bytes::new()
            } else {
                self.mode().physical(user)
            }
        };
        Ok(Bounds {
            start: physical(start),
            end: physical(end),
        }
        .clamped(self.scope.region))
    }
}

/// Physical keys [start, end), an empty bound being none.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bounds {
    start: Bytes,
    end: Bytes,
}

impl Bounds {
    /// The part inside `region`, if it is not empty. Clients send bounds beyond the region and
    /// rely on this.
    fn clamped(self, region: &Region) -> Option<Self> {
        let start = self.start.max(region.start_key.clone());
        let end = match (self.end.is_empty(), region.end_key.is_empty()) {
            (true, _) => region.end_key.clone(),
            (false, true) => self.end,
            (false, false) => self.end.min(region.end_key.clone()),
        };
        (end.is_empty() || start < end).then_some(Self { start, end })
    }
}

/// Whether `physical` lies in the region's range.
fn contains(region: &Region, physical: &[u8]) -> bool {
    physical >= &region.start_key[..]
        && (region.end_key.is_empty() || physical < &region.end_key[..])
}

fn is_raw_bound(user: &[u8]) -> bool {
    user.first() == Some(&RAW_PREFIX)
}

/// A raw key, or what follows the last keyspace: `s` and zeros.
fn is_raw_end(user: &[u8]) -> bool {
    match user.split_first() {
        Some((&RAW_PREFIX, _)) => true,
        Some((&first, rest)) => first == RAW_PREFIX + 1 && rest.iter().all(|byte| *byte == 0),
        None => false,
    }
}

/// The column family a request names. API v2 rows live in `default`, and some clients spell that
/// out, so both names of it are taken there.
fn column_family(mode: KeyMode, name: &str) -> Result<Cf, Refusal> {
    match (name, mode) {
        ("" | "default", _) => Ok(Cf::CfDefault),
        ("lock", KeyMode::Plain) => Ok(Cf::CfLock),
        ("write", KeyMode::Plain) => Ok(Cf::CfWrite),
        _ => Err(Refusal::ColumnFamily {
            name: name.chars().take(CF_NAME_CHARS_MAX).collect(),
            mode,
        }),
    }
}

/// A row that is visible. The value is a slice of what the engine returned.
struct Found {
    value: Bytes,
    /// Seconds since the epoch, later than now. `None`: never.
    expiry: Option<u64>,
}

/// The row at `physical`, if there is one that is visible.
fn visible_row<R: StateReader + ?Sized>(
    view: &View<'_, R>,
    cf: Cf,
    physical: &[u8],
) -> Result<Option<Found>, Failure> {
    if physical.len() > KEY_BYTES_MAX {
        return Ok(None);
    }
    let Some(stored) = view.reader.get(cf, physical)? else {
        return Ok(None);
    };
    let row = row::decode(&stored).map_err(|error| corrupt_row(view, cf, physical, error))?;
    Ok(row.visible(view.scope.now).then(|| Found {
        value: stored.slice(..row.value.len()),
        expiry: row.expiry,
    }))
}

/// Calls `visit` with the visible rows of `bounds` until it answers `false`.
fn scan_rows<R: StateReader + ?Sized>(
    view: &View<'_, R>,
    cf: Cf,
    bounds: &Bounds,
    reverse: bool,
    mut visit: impl FnMut(&[u8], row::Row<'_>) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    if (view.expired)() {
        return Err(Failure::deadline_exceeded());
    }
    let mut failure = None;
    let mut rows = 0;
    let mut step = |physical: &[u8], stored: &[u8]| {
        rows += 1;
        if rows == ROWS_PER_DEADLINE_CHECK {
            rows = 0;
            if (view.expired)() {
                return Err(Failure::deadline_exceeded());
            }
        }
        let row = row::decode(stored).map_err(|error| corrupt_row(view, cf, physical, error))?;
        if row.visible(view.scope.now) {
            visit(physical, row)
        } else {
            Ok(true)
        }
    };
    let range = KeyRange {
        start: &bounds.start,
        end: &bounds.end,
    };
    view.reader.scan(
        cf,
        range,
        reverse,
        &mut |physical, stored| match step(physical, stored) {
            Ok(more) => more,
            Err(error) => {
                failure = Some(error);
                false
            }
        },
    )?;
    failure.map_or(Ok(()), Err)
}

fn corrupt_row<R: ?Sized>(
    view: &View<'_, R>,
    cf: Cf,
    physical: &[u8],
    error: impl std::fmt::Display,
) -> Failure {
    Failure::Engine(EngineError::corrupt(
        format!(
            "region {}, column family {}, the key of {} bytes with CRC64 {:#018x}",
            view.scope.region.id,
            cf.as_str_name(),
            physical.len(),
            crc64(&[physical]),
        ),
        format!("no raw row: {error}"),
    ))
}

/// CRC64 (ECMA-182, reflected) of `parts` in a row.
fn crc64(parts: &[&[u8]]) -> u64 {
    let mut digest = crc64fast::Digest::new();
    for part in parts {
        digest.write(part);
    }
    digest.sum64()
}
