//! Compare-and-swap: a read at the leader, under the key's latch, and a write that depends on it.

use flotilla_engine::StateReader;
use flotilla_proto::kvrpcpb::{RawCasRequest, RawCasResponse};

use super::write::{delete, propose, put};
use super::{Space, visible_row};
use crate::command::{Proposal, ReadWrite, View};
use crate::failure::Failure;
use crate::latch::Lock;

impl ReadWrite for RawCasRequest {
    fn lock(&self) -> Lock {
        Lock::exclusive(&self.key)
    }

    /// Absent is not the same as empty. The response tells the state before, whether it was as
    /// expected or not; deleting what is not there succeeds without a write.
    fn decide<R: StateReader + ?Sized>(
        &self,
        view: &View<'_, R>,
    ) -> Result<Proposal<RawCasResponse>, Failure> {
        let space = Space::new(view.scope, self.context.as_ref(), &self.cf)?;
        // Built first: a request that could never be applied is refused whatever it would find.
        let change = if self.delete {
            delete(&space, &self.key)?
        } else {
            put(&space, &self.key, &self.value, self.ttl)?
        };
        let found = visible_row(view, space.cf, &change.key)?.map(|row| row.value);
        let expected = (!self.previous_not_exist).then_some(&self.previous_value);
        let succeed = found.as_ref() == expected;
        let writes = succeed && !(self.delete && found.is_none());
        let response = RawCasResponse {
            succeed,
            previous_not_exist: found.is_none(),
            previous_value: found.unwrap_or_default(),
            ..RawCasResponse::default()
        };
        propose(
            &view.scope,
            if writes { vec![change] } else { Vec::new() },
            response,
        )
    }
}
