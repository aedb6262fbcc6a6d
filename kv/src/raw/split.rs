//! Where a client asks a region to be cut.

use bytes::Bytes;
use flotilla_proto::errorpb;
use flotilla_proto::kvrpcpb::SplitRegionRequest;
use flotilla_proto::metapb::Region;

use super::contains;
use crate::command::{Kind, check_mode};
use crate::key::KeyMode;
use crate::region_error;

/// The boundaries that a `SplitRegion` asks for, as physical keys strictly inside `region`,
/// ascending, no duplicates, at least one. Keys that cut nothing off are dropped.
///
/// # Errors
/// A region error whose text starts with `failed to split`: the response has no other field, and
/// clients know that text.
pub fn split_keys(
    mode: KeyMode,
    region: &Region,
    request: &SplitRegionRequest,
) -> Result<Vec<Bytes>, errorpb::Error> {
    let failed = |why: &dyn std::fmt::Display| {
        region_error::other(format!("failed to split region {}: {why}", region.id))
    };
    let kind = if request.is_raw_kv {
        Kind::Raw
    } else {
        Kind::Txn
    };
    check_mode(mode, request.context.as_ref(), kind).map_err(|refusal| failed(&refusal))?;
    let asked = match &request.split_key {
        // The older form of the request wins when it is there.
        key if !key.is_empty() => std::slice::from_ref(key),
        _ => &request.split_keys[..],
    };
    let mut keys: Vec<Bytes> = asked
        .iter()
        .filter(|user| !user.is_empty())
        .map(|user| mode.physical(user))
        .filter(|key| contains(region, key) && *key != region.start_key)
        .collect();
    keys.sort_unstable();
    keys.dedup();
    if keys.is_empty() {
        return Err(failed(&"no key lies strictly inside it"));
    }
    Ok(keys)
}
