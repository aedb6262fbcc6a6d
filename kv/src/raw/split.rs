//! Where a client asks a region to be cut.

use std::fmt::Display;

use bytes::Bytes;
use flotilla_proto::kvrpcpb::SplitRegionRequest;
use flotilla_proto::metapb::Region;

use super::contains;
use crate::command::{Kind, check_mode};
use crate::failure::Failure;
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
) -> Result<Vec<Bytes>, Failure> {
    let failed = |why: &dyn Display| {
        let text = format!("failed to split region {}: {why}", region.id);
        Failure::region(region_error::other(text))
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

#[cfg(test)]
mod tests {
    use flotilla_proto::kvrpcpb::{ApiVersion, Context};

    use super::*;

    #[track_caller]
    fn check(mode: KeyMode, request: SplitRegionRequest, expected: Result<&[&str], &str>) {
        let region = Region {
            id: 3,
            start_key: mode.physical(&"b".into()),
            end_key: mode.physical(&"m".into()),
            ..Region::default()
        };
        let keys = split_keys(mode, &region, &request).map_err(|failure| failure.to_string());
        let physical = |user: &&str| mode.physical(&Bytes::copy_from_slice(user.as_bytes()));
        let expected = expected.map(|users| users.iter().map(physical).collect::<Vec<_>>());
        assert_eq!(keys, expected.map_err(str::to_owned));
    }

    fn request(version: ApiVersion, is_raw_kv: bool, keys: &[&str]) -> SplitRegionRequest {
        SplitRegionRequest {
            context: Some(Context {
                api_version: version.into(),
                ..Context::default()
            }),
            split_key: Bytes::new(),
            split_keys: keys
                .iter()
                .map(|key| Bytes::copy_from_slice(key.as_bytes()))
                .collect(),
            is_raw_kv,
        }
    }

    #[test]
    fn keys_are_sorted_and_those_that_cut_nothing_are_dropped() {
        let asked = request(
            ApiVersion::V1,
            true,
            &["k", "c", "b", "m", "z", "", "c", "a", "c\0"],
        );
        check(KeyMode::Plain, asked, Ok(&["c", "c\0", "k"]));
        // In encoded mode raw and transactional keys are cut alike.
        for (version, raw) in [
            (ApiVersion::V2, true),
            (ApiVersion::V2, false),
            (ApiVersion::V1, false),
        ] {
            check(
                KeyMode::Encoded,
                request(version, raw, &["k", "c", "b"]),
                Ok(&["c", "k"]),
            );
        }
    }

    #[test]
    fn the_older_field_wins() {
        let newer = request(ApiVersion::V1, true, &["k"]);
        check(
            KeyMode::Plain,
            SplitRegionRequest {
                split_key: "c".into(),
                ..newer
            },
            Ok(&["c"]),
        );
    }

    #[test]
    fn what_cannot_be_split_is_told() {
        let nothing = Err("failed to split region 3: no key lies strictly inside it");
        check(KeyMode::Plain, request(ApiVersion::V1, true, &[]), nothing);
        check(
            KeyMode::Plain,
            request(ApiVersion::V1, true, &["b", "m", ""]),
            nothing,
        );
        check(
            KeyMode::Plain,
            request(ApiVersion::V1, false, &["c"]),
            Err(
                "failed to split region 3: ApiVersionNotMatched: the request needs encoded keys, and this \
                 cluster has plain ones: use raw calls of API v1",
            ),
        );
    }
}
