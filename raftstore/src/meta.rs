//! The meta region as PD's driver uses it: write in a term, know whether one still leads in it.

use flotilla_engine::{RaftLog, StateStore};
use flotilla_proto::clock::Mono;
use flotilla_proto::store::Mod;

use crate::effects::{PeerInput, RaftInput};
use crate::region::META_REGION;
use crate::runtime::Runtime;
use crate::{Answer, Begin, Delegates, ReadContext, RequestError, WriteProposal};

impl Delegates {
    /// Where a request of this store's PD belongs.
    ///
    /// # Errors
    /// The meta region has no peer here.
    pub fn meta_context(&self) -> Result<ReadContext, RequestError> {
        let serving = self.serving(META_REGION)?;
        Ok(ReadContext {
            region: META_REGION,
            peer: serving.peer.id,
            epoch: serving.region.region_epoch,
            term: 0,
            replica: false,
        })
    }

    /// Whether this store leads the meta region in `term` at `now`, by its lease (contracts: C20).
    pub fn leads_meta(&self, term: u64, now: Mono) -> bool {
        let Ok(context) = self.meta_context() else {
            return false;
        };
        matches!(
            self.begin(&context, now),
            Ok(Begin::Local(read)) if read.serving.term == term
        )
    }
}

impl<L: RaftLog, S: StateStore> Runtime<L, S> {
    /// Writes to the meta region if this store still leads it in `term`; refused otherwise. Never held
    /// back: PD bounds the number of its proposals.
    pub fn write_meta(&self, term: u64, mods: Vec<Mod>, answer: Answer<()>) {
        let context = match self.delegates.meta_context() {
            Ok(context) => context,
            Err(error) => return answer.give(Err(error)),
        };
        let proposal = WriteProposal {
            context,
            read_term: Some(term),
            mods,
            answer,
        };
        // A region that is gone answers by the drop.
        let input = RaftInput::Peer(PeerInput::Write(proposal));
        let _ = self.raft.force_send(META_REGION, input);
    }

    /// Asks the meta region's peer to confirm that it leads; its next tick renews the lease.
    pub fn confirm_meta(&self, answer: Answer<crate::ReadPermit>) {
        let context = match self.delegates.meta_context() {
            Ok(context) => context,
            Err(error) => return answer.give(Err(error)),
        };
        let input = RaftInput::Peer(PeerInput::Read { context, answer });
        // A full mailbox answers by the drop.
        let _ = self.raft.send(META_REGION, input);
    }
}
