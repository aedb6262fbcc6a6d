//! What people ask of the group: writes, reads, changes of members, transfers.

use flotilla_proto::raft::EntryKind;
use flotilla_raft::{ConfRequest, MemberChange, Transition};

use crate::world::{PEERS, Place, World};

impl World {
    /// Those who think that they lead: (term, id).
    pub(crate) fn leaders(&self) -> Vec<(u64, u64)> {
        let raft = |place: &Place| {
            place
                .node
                .raft
                .as_ref()
                .filter(|raft| raft.is_leader())
                .map(|raft| (raft.term(), raft.id()))
        };
        self.places.values().filter_map(raft).collect()
    }

    /// Somebody who thinks that it leads, most of the time; else anybody.
    pub(crate) fn some_leader(&mut self) -> Option<u64> {
        let leaders = self.leaders();
        if leaders.is_empty() || self.rng.percent(10) {
            return self.anybody();
        }
        Some(self.rng.pick(&leaders).1)
    }

    pub(crate) fn anybody(&mut self) -> Option<u64> {
        let up = |place: &&Place| place.node.raft.is_some();
        let all: Vec<u64> = self
            .places
            .values()
            .filter(up)
            .map(|place| place.node.id)
            .collect();
        (!all.is_empty()).then(|| self.rng.pick(&all))
    }

    pub(crate) fn propose(&mut self) {
        let Some(id) = self.some_leader() else { return };
        for _ in 0..self.rng.pick(&[1, 1, 1, 3, 10]) {
            let kind = if self.rng.percent(10) {
                EntryKind::Admin
            } else {
                EntryKind::Data
            };
            let data = self.rng.next().to_le_bytes()[..self.rng.range(0, 9) as usize].to_vec();
            let place = self.place(id);
            let now = place.clock;
            let raft = place.node.raft.as_mut().expect("it runs");
            if let Ok(log_id) = raft.propose(now, kind, data.into()) {
                place.proposed.insert(log_id.index, log_id.term);
                self.trace
                    .add(|| format!("{id} proposes {kind:?} at {}/{}", log_id.term, log_id.index));
            }
            self.look(id);
        }
        self.pump(id);
    }

    pub(crate) fn read(&mut self) {
        let leader = self.rng.percent(50);
        let Some(id) = (if leader {
            self.some_leader()
        } else {
            self.anybody()
        }) else {
            return;
        };
        self.next_token += 1;
        let (token, floor) = (self.next_token, self.check.acknowledged());
        let place = self.place(id);
        let now = place.clock;
        if place
            .node
            .raft
            .as_mut()
            .expect("it runs")
            .read_index(now, token)
            .is_ok()
        {
            place.reads.insert(token, floor);
        }
        self.look(id);
        self.pump(id);
    }

    pub(crate) fn change_members(&mut self) {
        let Some(id) = self.some_leader() else { return };
        let mut changes = Vec::new();
        for _ in 0..self.rng.pick(&[0, 1, 1, 1, 2, 3]) {
            let peer = self.rng.range(1, PEERS + 1);
            changes.push(match self.rng.range(0, 3) {
                0 => MemberChange::AddVoter(peer),
                1 => MemberChange::AddLearner(peer),
                _ => MemberChange::Remove(peer),
            });
        }
        let transition = self.rng.pick(&[
            Transition::Auto,
            Transition::Simple,
            Transition::Joint { auto_leave: true },
            Transition::Joint { auto_leave: false },
        ]);
        let request = ConfRequest {
            changes,
            transition,
            context: "context".into(),
        };
        let shown = format!("{request:?}");
        let place = self.place(id);
        let now = place.clock;
        let raft = place.node.raft.as_mut().expect("it runs");
        if let Ok(log_id) = raft.propose_conf_change(now, request) {
            place.proposed.insert(log_id.index, log_id.term);
            self.trace
                .add(|| format!("{id} proposes {shown} at {}/{}", log_id.term, log_id.index));
        }
        self.look(id);
        self.pump(id);
    }

    pub(crate) fn transfer(&mut self) {
        let Some(id) = self.some_leader() else { return };
        let to = self.rng.range(1, PEERS + 1);
        let place = self.place(id);
        let now = place.clock;
        if place
            .node
            .raft
            .as_mut()
            .expect("it runs")
            .transfer_leader(now, to)
            .is_ok()
        {
            self.trace.add(|| format!("{id} hands over to {to}"));
        }
        self.look(id);
        self.pump(id);
    }
}
