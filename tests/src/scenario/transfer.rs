//! Snapshots between stores, as the transport carries them: offered, then row by row, then whole.

use std::sync::Arc;

use flotilla_engine::memory::MemorySnapshots;
use flotilla_engine::{Cf, SnapshotError, SnapshotFiles, SnapshotKey, SnapshotResult};
use flotilla_proto::store::SnapshotManifest;
use flotilla_raftstore::{Answer, PeerInput, RequestError, StoreInput};
use parking_lot::Mutex;
use prost::Message as _;

use super::cluster::Cluster;
use super::network::Flying;

type Verdict = Arc<Mutex<Option<Result<(), RequestError>>>>;

/// A snapshot between two stores.
pub(super) struct Transfer {
    pub(super) flying: Flying,
    manifest: SnapshotManifest,
    /// What the receiver says to the offer.
    verdict: Verdict,
    /// How many of its files have come.
    files: usize,
}

impl Transfer {
    /// As it stands in a list of messages.
    pub(super) fn show(&self) -> String {
        let Flying { from, to, message } = &self.flying;
        let (index, term) = (self.manifest.index, self.manifest.term);
        let come = match &*self.verdict.lock() {
            None => "offered".to_owned(),
            Some(Ok(())) => format!("{} of {} files", self.files, self.manifest.files.len()),
            Some(Err(_)) => "refused".to_owned(),
        };
        let region = message.region_id;
        format!("{from} -> {to}, region {region}, rows of snapshot {term}/{index}: {come}")
    }
}

impl Cluster {
    /// A snapshot message arrives: the store is asked whether it wants what comes with it.
    pub(super) fn offer(&mut self, flying: Flying) {
        let inner = flying.message.message.as_ref();
        let snapshot = inner.and_then(|inner| inner.snapshot.as_ref());
        let manifest = snapshot.map(|snapshot| snapshot.manifest.clone());
        let manifest = SnapshotManifest::decode(manifest.unwrap_or_default());
        let verdict = Verdict::default();
        let said = Arc::clone(&verdict);
        let answer = Answer::new(move |result| *said.lock() = Some(result));
        let input = StoreInput::SnapshotOffer {
            message: Box::new(flying.message.clone()),
            answer,
        };
        match self
            .stores
            .get(&flying.to)
            .and_then(|store| store.process.as_ref())
        {
            Some(process) => process.runtime.to_store(input),
            None => drop(input),
        }
        self.transfers.push(Transfer {
            flying,
            manifest: manifest.expect("made by a store of this test"),
            verdict,
            files: 0,
        });
    }

    /// Whatever may go on goes on, as far as it can. Answers whether anything did.
    pub(super) fn carry_rows(&mut self, among: impl Fn(u64) -> bool) -> bool {
        let mut moved = false;
        for mut transfer in std::mem::take(&mut self.transfers) {
            let Flying { from, to, .. } = transfer.flying;
            let answered = transfer.verdict.lock().is_some();
            let open = among(from) && among(to) && !self.network.is_held(&transfer.flying, "rows");
            if !answered || !open {
                self.transfers.push(transfer);
                continue;
            }
            moved = true;
            while self.carry_file(&mut transfer) {}
        }
        moved
    }

    /// The next file of each comes, and no more.
    pub(super) fn carry_one_file(&mut self) {
        for mut transfer in std::mem::take(&mut self.transfers) {
            if self.carry_file(&mut transfer) {
                self.transfers.push(transfer);
            }
        }
    }

    /// One more file. `false`: the transfer is over, one way or the other.
    fn carry_file(&mut self, transfer: &mut Transfer) -> bool {
        let verdict = transfer.verdict.lock().clone();
        let (from, to) = (transfer.flying.from, transfer.flying.to);
        let both_run = [from, to].iter().all(|id| self.runs(*id));
        match verdict {
            None => true,
            Some(Err(error)) => {
                self.say_of(to, format!("snapshot not taken: {error}"));
                self.tell_sender(transfer, false);
                false
            }
            Some(Ok(())) if !both_run || self.network.is_cut(from, to) => {
                self.abandon(transfer);
                false
            }
            Some(Ok(())) => {
                let (sent, received) = (&self.stores[&from].files, &self.stores[&to].files);
                let file = copy_file(sent, received, &transfer.manifest, transfer.files);
                transfer.files += 1;
                match file {
                    Ok(false) => true,
                    Ok(true) => {
                        let message = Box::new(transfer.flying.message.clone());
                        let whole = StoreInput::SnapshotReceived { message };
                        self.process(to).runtime.to_store(whole);
                        self.tell_sender(transfer, true);
                        false
                    }
                    Err(error) => {
                        if matches!(error, SnapshotError::Exists { .. }) {
                            // Nothing was begun.
                            transfer.files = 0;
                        }
                        self.say_of(to, format!("the snapshot does not arrive: {error}"));
                        self.abandon(transfer);
                        false
                    }
                }
            }
        }
    }

    fn abandon(&mut self, transfer: &Transfer) {
        let to = transfer.flying.to;
        if self.runs(to) {
            let key = SnapshotKey::incoming(&transfer.manifest);
            let begun = transfer.files > 0;
            let gone = !begun || self.stores[&to].files.discard(&key).is_ok();
            let input = StoreInput::SnapshotUnused { key, gone };
            self.process(to).runtime.to_store(input);
        }
        self.tell_sender(transfer, false);
    }

    fn tell_sender(&mut self, transfer: &Transfer, ok: bool) {
        let Flying { from, message, .. } = &transfer.flying;
        if self.runs(*from) {
            let peer = message.to_peer.map_or(0, |to| to.id);
            let input = PeerInput::SnapshotSent { peer, ok };
            self.process(*from).to_peer(message.region_id, input);
        }
    }

    fn runs(&self, id: u64) -> bool {
        self.stores
            .get(&id)
            .is_some_and(|store| store.process.is_some())
    }
}

/// Copies one file whole, the first with the beginning and the last with the end of receiving.
/// Answers whether it was the last.
fn copy_file(
    from: &MemorySnapshots,
    to: &MemorySnapshots,
    manifest: &SnapshotManifest,
    nth: usize,
) -> SnapshotResult<bool> {
    let (sent, key) = (
        SnapshotKey::outgoing(manifest),
        SnapshotKey::incoming(manifest),
    );
    if nth == 0 {
        to.receive(manifest, u64::MAX)?;
    }
    let file = &manifest.files[nth];
    let cf: Cf = file.cf();
    let rows = from.read_chunk(&sent, cf, 0, file.bytes)?;
    to.write_chunk(&key, cf, 0, &rows)?;
    let last = nth + 1 == manifest.files.len();
    if last {
        to.finish_receive(&key)?;
    }
    Ok(last)
}
