//! Writes that read nothing: their order is the order of the log.

use bytes::Bytes;
use flotilla_engine::{Cf, row};
use flotilla_proto::kvrpcpb::{
    RawBatchDeleteRequest, RawBatchDeleteResponse, RawBatchPutRequest, RawBatchPutResponse,
    RawDeleteRangeRequest, RawDeleteRangeResponse, RawDeleteRequest, RawDeleteResponse,
    RawPutRequest, RawPutResponse,
};
use flotilla_proto::store::{Mod, ModKind};
use prost::Message;

use super::Space;
use crate::command::{Proposal, Scope, Write};
use crate::failure::{Failure, Refusal};
use crate::latch::Lock;
use crate::limits::{ENTRY_BYTES_MAX, ENTRY_OVERHEAD_BYTES, VALUE_BYTES_MAX};
use crate::region_error;

impl Write for RawPutRequest {
    fn lock(&self) -> Lock {
        Lock::shared([&self.key])
    }

    fn plan(self, scope: &Scope<'_>) -> Result<Proposal<RawPutResponse>, Failure> {
        let space = Space::new(*scope, self.context.as_ref(), &self.cf)?;
        let mods = vec![put(&space, &self.key, &self.value, self.ttl)?];
        propose(scope, mods, RawPutResponse::default())
    }
}

impl Write for RawBatchPutRequest {
    fn lock(&self) -> Lock {
        Lock::shared(self.pairs.iter().map(|pair| &pair.key))
    }

    /// All pairs or none; of pairs with one key the last one stays. Time to live comes from `ttls`
    /// (none, one for all, or one per pair); the field `ttl` is ignored, as it always was.
    fn plan(self, scope: &Scope<'_>) -> Result<Proposal<RawBatchPutResponse>, Failure> {
        let space = Space::new(*scope, self.context.as_ref(), &self.cf)?;
        let counts = Refusal::TtlCount {
            ttls: self.ttls.len(),
            pairs: self.pairs.len(),
        };
        let ttl_of = |index: usize| match self.ttls[..] {
            [] => 0,
            [ttl] => ttl,
            ref each => each[index],
        };
        if self.ttls.len() > 1 && self.ttls.len() != self.pairs.len() {
            return Err(counts.into());
        }
        let mods = self
            .pairs
            .iter()
            .enumerate()
            .map(|(index, pair)| put(&space, &pair.key, &pair.value, ttl_of(index)))
            .collect::<Result<_, _>>()?;
        propose(scope, mods, RawBatchPutResponse::default())
    }
}

impl Write for RawDeleteRequest {
    fn lock(&self) -> Lock {
        Lock::shared([&self.key])
    }

    fn plan(self, scope: &Scope<'_>) -> Result<Proposal<RawDeleteResponse>, Failure> {
        let space = Space::new(*scope, self.context.as_ref(), &self.cf)?;
        let mods = vec![delete(&space, &self.key)?];
        propose(scope, mods, RawDeleteResponse::default())
    }
}

impl Write for RawBatchDeleteRequest {
    fn lock(&self) -> Lock {
        Lock::shared(&self.keys)
    }

    fn plan(self, scope: &Scope<'_>) -> Result<Proposal<RawBatchDeleteResponse>, Failure> {
        let space = Space::new(*scope, self.context.as_ref(), &self.cf)?;
        let mods = self
            .keys
            .iter()
            .map(|key| delete(&space, key))
            .collect::<Result<_, _>>()?;
        propose(scope, mods, RawBatchDeleteResponse::default())
    }
}

impl Write for RawDeleteRangeRequest {
    fn lock(&self) -> Lock {
        Lock::range(&self.start_key, &self.end_key)
    }

    /// Removes what of [start_key, end_key) lies in the region; an empty bound is its edge.
    fn plan(self, scope: &Scope<'_>) -> Result<Proposal<RawDeleteRangeResponse>, Failure> {
        let space = Space::new(*scope, self.context.as_ref(), &self.cf)?;
        let bounds = space.range(0, &self.start_key, &self.end_key)?;
        let mods =
            bounds.map(|bounds| change(ModKind::DeleteRange, space.cf, bounds.start, bounds.end));
        propose(
            scope,
            mods.into_iter().collect(),
            RawDeleteRangeResponse::default(),
        )
    }
}

/// The modification that stores `value` at `user`, for `ttl` seconds or (0) for ever.
pub(super) fn put(
    space: &Space<'_>,
    user: &Bytes,
    value: &Bytes,
    ttl: u64,
) -> Result<Mod, Failure> {
    let bytes = value.len();
    if bytes > VALUE_BYTES_MAX {
        return Err(Refusal::ValueTooLarge { bytes }.into());
    }
    let expiry = (ttl != 0).then(|| space.scope.now.saturating_add(ttl));
    Ok(change(
        ModKind::Put,
        space.cf,
        space.new_key(user)?,
        row::encode(value, expiry),
    ))
}

/// The modification that removes `user`.
pub(super) fn delete(space: &Space<'_>, user: &Bytes) -> Result<Mod, Failure> {
    Ok(change(
        ModKind::Delete,
        space.cf,
        space.new_key(user)?,
        Bytes::new(),
    ))
}

fn change(kind: ModKind, cf: Cf, key: Bytes, value: Bytes) -> Mod {
    Mod {
        kind: kind.into(),
        cf: cf.into(),
        key,
        value,
    }
}

/// The proposal of `mods`, if they fit an entry.
pub(super) fn propose<A>(
    scope: &Scope<'_>,
    mods: Vec<Mod>,
    response: A,
) -> Result<Proposal<A>, Failure> {
    let bytes = ENTRY_OVERHEAD_BYTES + mods.iter().map(framed_bytes).sum::<usize>();
    if bytes > ENTRY_BYTES_MAX {
        return Err(Failure::region(region_error::raft_entry_too_large(
            scope.region.id,
            bytes as u64,
        )));
    }
    Ok(Proposal { mods, response })
}

/// Bytes of a modification inside an entry: its field's tag, its length and itself.
fn framed_bytes(change: &Mod) -> usize {
    let bytes = change.encoded_len();
    1 + prost::length_delimiter_len(bytes) + bytes
}

#[cfg(test)]
mod tests {
    use flotilla_proto::store::{WriteCommand, WritePart};

    use super::*;

    #[test]
    fn the_size_of_an_entry_is_never_told_too_small() {
        for length in [0, 1, 100, 20_000, 3_000_000] {
            let row = vec![7; length];
            let change = change(
                ModKind::Put,
                Cf::CfWrite,
                Bytes::from_static(b"key"),
                row.into(),
            );
            let mods = vec![change; 2];
            let told = ENTRY_OVERHEAD_BYTES + mods.iter().map(framed_bytes).sum::<usize>();
            let part = WritePart {
                epoch_version: u64::MAX,
                mods,
            };
            // Version and kind bytes come first (contracts: C36).
            let entry = 2 + WriteCommand { parts: vec![part] }.encoded_len();
            assert!(
                entry <= told && told <= entry + ENTRY_OVERHEAD_BYTES,
                "{entry} told as {told}"
            );
        }
    }
}
