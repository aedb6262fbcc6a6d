//! What a store asks of the world, and what it answers to it: both wait here for the simulator.

use std::sync::Arc;

use flotilla_proto::metapb::Region;
use flotilla_raftstore::effects::{Fetch, MetaRole, PdTask, SizeCheck};
use flotilla_raftstore::runtime::World;
use flotilla_raftstore::{Answer, ReadPermit, RequestError, SnapshotTask};
use parking_lot::Mutex;

use crate::checkers::answers::{OpId, Said};

/// What a store asked for.
#[derive(Debug)]
pub enum Asked {
    /// To read entries.
    Fetch(Fetch),
    /// To work on a snapshot.
    Snapshot(SnapshotTask),
    /// Nothing: it answers to the offer of a snapshot.
    Offered(TransferId, bool),
    /// To measure a region.
    SizeCheck(SizeCheck),
    /// Of PD.
    Pd(PdTask),
    /// It became PD, or is not any more.
    MetaRole(MetaRole),
}

/// An answer that a store gave.
#[derive(Clone, Debug)]
pub enum Answered {
    /// To a write.
    Write(OpId, Result<(), RequestError>),
    /// To a question for a read index.
    Read(OpId, Result<ReadPermit, RequestError>),
    /// To a split.
    Split(OpId, Result<Vec<Region>, RequestError>),
    /// To a change of the members.
    Members(OpId, Result<Region, RequestError>),
}

impl Answered {
    /// Which operation it answers, and what that means for it.
    pub fn said(&self) -> (OpId, Said) {
        match self {
            Self::Write(op, result) => (*op, Said::of(result)),
            Self::Read(op, result) => (*op, Said::of(result)),
            Self::Split(op, result) => (*op, Said::of(result)),
            Self::Members(op, result) => (*op, Said::of(result)),
        }
    }
}

/// Answers of one life of a store. After a crash nobody hears them.
#[derive(Clone, Debug, Default)]
pub struct Inbox(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    dead: bool,
    /// Everything is said twice: a planted bug.
    twice: bool,
    answers: Vec<Answered>,
}

impl Inbox {
    /// One in which everything is said once, or twice.
    pub fn new(twice: bool) -> Self {
        let inbox = Self::default();
        inbox.0.lock().twice = twice;
        inbox
    }

    /// The process is gone: what it would still say is not said.
    pub fn kill(&self) {
        self.0.lock().dead = true;
    }

    /// What was said since the last call.
    pub fn take(&self) -> Vec<Answered> {
        std::mem::take(&mut self.0.lock().answers)
    }

    fn say(&self, answer: Answered) {
        let mut waiting = self.0.lock();
        if waiting.twice && !waiting.dead {
            waiting.answers.push(answer.clone());
        }
        if !waiting.dead {
            waiting.answers.push(answer);
        }
    }

    /// An answer to a write.
    pub fn write(&self, op: OpId) -> Answer<()> {
        let inbox = self.clone();
        Answer::new(move |result| inbox.say(Answered::Write(op, result)))
    }

    /// An answer to a question for a read index.
    pub fn read(&self, op: OpId) -> Answer<ReadPermit> {
        let inbox = self.clone();
        Answer::new(move |result| inbox.say(Answered::Read(op, result)))
    }

    /// An answer to a change of the members.
    pub fn members(&self, op: OpId) -> Answer<Region> {
        let inbox = self.clone();
        Answer::new(move |result| inbox.say(Answered::Members(op, result)))
    }

    /// An answer to a split.
    pub fn split(&self, op: OpId) -> Answer<Vec<Region>> {
        let inbox = self.clone();
        Answer::new(move |result| inbox.say(Answered::Split(op, result)))
    }
}

/// The world as a store sees it.
#[derive(Clone, Debug, Default)]
pub struct Outside(Arc<Mutex<Vec<Asked>>>);

impl Outside {
    /// What was asked since the last call.
    pub fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut self.0.lock())
    }
}

/// Counts the snapshots that stores send each other.
pub type TransferId = u64;

impl Outside {
    /// An answer to the offer of a snapshot.
    pub fn offer(&self, transfer: TransferId) -> Answer<()> {
        let asked = Arc::clone(&self.0);
        Answer::new(move |result: Result<(), RequestError>| {
            asked.lock().push(Asked::Offered(transfer, result.is_ok()));
        })
    }
}

impl World for Outside {
    fn fetch(&mut self, fetch: Fetch) {
        self.0.lock().push(Asked::Fetch(fetch));
    }

    fn snapshot(&mut self, task: SnapshotTask) {
        self.0.lock().push(Asked::Snapshot(task));
    }

    fn size_check(&mut self, check: SizeCheck) {
        self.0.lock().push(Asked::SizeCheck(check));
    }

    fn pd(&mut self, task: PdTask) {
        self.0.lock().push(Asked::Pd(task));
    }

    fn meta_role(&mut self, role: MetaRole) {
        self.0.lock().push(Asked::MetaRole(role));
    }
}
