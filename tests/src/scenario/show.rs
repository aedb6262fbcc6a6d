//! How scenarios write things down. An entry is `term/index`.

use std::fmt::Write as _;

use bytes::Bytes;
use flotilla_engine::{Cf, KeyRange, RaftLog, StateReader, StateStore};
use flotilla_proto::metapb::{Peer as PeerMeta, PeerRole, Region};
use flotilla_proto::raft::{ConfChange, ConfState, Entry, EntryKind, Message, MessageKind};
use flotilla_proto::store::{Mod, ModKind, PeerMessage, PeerState};
use flotilla_raft::Role;
use flotilla_raftstore::peer::Peer;
use flotilla_raftstore::region::conf_state;
use flotilla_raftstore::{Command, RequestError, decode_command};
use prost::Message as _;

use super::network::{Flying, name};

pub(super) fn key(key: &[u8]) -> String {
    /// Longer ones are made of one character.
    const WHOLE_MAX: usize = 100;
    match String::from_utf8_lossy(key) {
        text if text.is_empty() => "\"\"".to_owned(),
        text if text.len() > WHOLE_MAX => format!("{}*{}", &text[..1], text.len()),
        text => text.into_owned(),
    }
}

pub(super) fn list<T>(items: &[T], show: impl Fn(&T) -> String) -> String {
    items.iter().map(show).collect::<Vec<_>>().join(" ")
}

fn role(peer: &PeerMeta) -> &'static str {
    match peer.role() {
        PeerRole::Voter => "",
        PeerRole::Learner => "(learner)",
        PeerRole::IncomingVoter => "(incoming)",
        PeerRole::DemotingVoter => "(demoting)",
    }
}

/// `1=4 2=8 3=12(learner)`: store and peer.
pub(super) fn peers(region: &Region) -> String {
    list(&region.peers, |peer| {
        format!("{}={}{}", peer.store_id, peer.id, role(peer))
    })
}

fn epoch(region: &Region) -> String {
    match region.region_epoch {
        Some(epoch) => format!("version {}, conf {}", epoch.version, epoch.conf_ver),
        None => "blank".to_owned(),
    }
}

/// `"" .. m (version 2, conf 1) on 1=4 2=8`.
pub(super) fn region(region: &Region) -> String {
    if region.region_epoch.is_none() {
        return "blank".to_owned();
    }
    format!(
        "{} .. {} ({}) on {}",
        key(&region.start_key),
        key(&region.end_key),
        epoch(region),
        peers(region)
    )
}

/// What a peer is at the moment, without its region.
pub(super) fn peer(peer: &Peer) -> String {
    let raft = peer.raft();
    let status = raft.status();
    let what = match (status.role.role, status.role.leader) {
        (Role::Leader, _) => "leads".to_owned(),
        (Role::Candidate, _) => "campaigns".to_owned(),
        (Role::PreCandidate, _) => "asks around".to_owned(),
        (Role::Follower, Some(leader)) => format!("follows {leader}"),
        (Role::Follower, None) => "follows nobody".to_owned(),
    };
    let mut text = format!(
        "{} {what} in term {}; log {}..{}, persisted {}, commit {}, applied {}",
        status.id,
        status.role.term,
        status.first_index,
        status.last_index,
        status.persisted,
        status.commit,
        status.applied,
    );
    // The descriptor and the raft group are to say the same.
    if status.conf != conf_state(peer.region()) {
        write!(text, ", counts {}", conf(&status.conf)).expect("a string takes it");
    }
    text
}

pub(super) fn error(error: &RequestError) -> String {
    let mut text = match error {
        RequestError::Undetermined { reason } => return format!("unknown: {reason}"),
        refused => format!("refused: {refused}"),
    };
    match error {
        RequestError::NotLeader {
            leader: Some(leader),
            ..
        } => write!(text, "; peer {} on store {} is", leader.id, leader.store_id),
        RequestError::EpochNotMatch { current } => {
            let now = |region: &Region| format!("{} ({})", region.id, epoch(region));
            write!(text, "; now {}", list(current, now))
        }
        _ => Ok(()),
    }
    .expect("a string takes it");
    text
}

// ---- entries ----

/// `6/6 empty, 6/7 put k=v`.
pub(super) fn entries(entries: &[Entry]) -> String {
    let shown = entries.iter().map(|entry| {
        let Entry { term, index, .. } = entry;
        format!("{term}/{index} {}", payload(entry))
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn payload(entry: &Entry) -> String {
    if entry.kind() == EntryKind::ConfChange {
        let change = ConfChange::decode(entry.data.clone()).expect("an entry of this test");
        return format!("members {}", conf(&change.resulting.unwrap_or_default()));
    }
    match decode_command(entry).expect("an entry of this test") {
        Command::Empty => "empty".to_owned(),
        Command::Write(command) => {
            let mods = command.parts.iter().flat_map(|part| &part.mods);
            list(&mods.collect::<Vec<_>>(), |change| write(change))
        }
        Command::PrepareMerge(command) => {
            let target = command.target.unwrap_or_default();
            format!("prepare-merge into {} ({})", target.id, epoch(&target))
        }
        Command::CommitMerge(command) => {
            let source = command.source.unwrap_or_default();
            let entries = command.entries.len();
            format!(
                "commit-merge of {} at {}, {entries} entries",
                source.id, command.commit
            )
        }
        Command::RollbackMerge(command) => format!("rollback-merge of {}", command.commit),
        Command::Split(command) => list(&command.parts, |part| {
            format!("split at {} off {}", key(&part.split_key), part.region_id)
        }),
    }
}

fn write(change: &Mod) -> String {
    let first = key(&change.key);
    match change.kind() {
        ModKind::Put => format!("put {first}={}", key(&change.value)),
        ModKind::Delete => format!("delete {first}"),
        ModKind::DeleteRange => format!("delete {first} .. {}", key(&change.value)),
    }
}

/// `4,8 learners 12`, or for a joint one `4,20 from 4,8`.
pub(super) fn conf(conf: &ConfState) -> String {
    let ids = |ids: &[u64]| ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let mut text = ids(&conf.voters);
    for (name, list) in [
        ("from", &conf.voters_outgoing),
        ("learners", &conf.learners),
        ("learners next", &conf.learners_next),
    ] {
        if !list.is_empty() {
            write!(text, " {name} {}", ids(list)).expect("a string takes it");
        }
    }
    text
}

// ---- messages ----

pub(super) fn message(flying: &Flying) -> String {
    let Flying { from, to, message } = flying;
    let region = message.region_id;
    let id = |peer: Option<PeerMeta>| peer.map_or(0, |peer| peer.id);
    let (sender, receiver) = (id(message.from_peer), id(message.to_peer));
    let mut text = format!("{from} -> {to}, region {region}, {sender} to {receiver}: ");
    text.push_str(&body(message));
    text
}

fn body(message: &PeerMessage) -> String {
    let conf_ver = message.region_epoch.map_or(0, |epoch| epoch.conf_ver);
    let Some(inner) = &message.message else {
        return format!("farewell (conf {conf_ver})");
    };
    let Message {
        index,
        log_term,
        commit,
        round,
        term,
        ..
    } = *inner;
    let kind = name(message);
    let no = if inner.reject { "no " } else { "" };
    let body = match inner.kind() {
        MessageKind::PreVote | MessageKind::Vote => format!("{kind}, last {log_term}/{index}"),
        MessageKind::Append if inner.entries.is_empty() => {
            format!("{kind} after {log_term}/{index}: nothing, commit {commit}")
        }
        MessageKind::Append => {
            let entries = entries(&inner.entries);
            format!("{kind} after {log_term}/{index}: {entries}, commit {commit}")
        }
        MessageKind::AppendResponse if inner.reject => format!("{kind}: not after {index}"),
        MessageKind::AppendResponse => format!("{kind}: has {index}"),
        MessageKind::Heartbeat if round == 0 => format!("{kind}: commit {commit}"),
        MessageKind::Heartbeat => format!("{kind} {round}, commit {commit}"),
        MessageKind::HeartbeatResponse => format!("{kind} {round}"),
        MessageKind::ReadIndexResponse => format!("{kind}: {index}"),
        _ => format!("{no}{kind}"),
    };
    format!("{body} (term {term})")
}

// ---- what lies on a disk ----

/// The rows of a range.
pub(super) fn rows(state: &impl StateReader, start: &Bytes, end: &Bytes) -> String {
    let mut rows = Vec::new();
    let range = KeyRange { start, end };
    state
        .scan(Cf::CfDefault, range, false, &mut |row, value| {
            rows.push(format!("{}={}", key(row), key(value)));
            true
        })
        .expect("reads do not fail here");
    if rows.is_empty() {
        return "nothing".to_owned();
    }
    rows.join(" ")
}

/// What the log holds of a region.
pub(super) fn log(log: &impl RaftLog, region: u64) -> String {
    let logs = log.load().expect("reads do not fail here");
    let Some(found) = logs.get(&region) else {
        return "nothing".to_owned();
    };
    let mut text = match found.truncation {
        Some(at) => format!("truncated at {}/{}, ", at.term, at.index),
        None => String::new(),
    };
    match found.span {
        Some(span) => {
            let held = log.entries(region, span.first, span.last + 1, u64::MAX);
            text.push_str(&entries(&held.expect("reads do not fail here")));
        }
        None => text.push_str("no entries"),
    }
    text
}

/// One line per region that the state or the log knows.
pub(super) fn records(state: &impl StateStore, log: &impl RaftLog) -> Vec<String> {
    let mut logs = log.load().expect("reads do not fail here");
    let mut lines = Vec::new();
    for stored in state.regions().expect("reads do not fail here") {
        let record = &stored.record;
        let descriptor = record.region.clone().unwrap_or_default();
        let id = descriptor.id;
        let mut line = format!("region {id}: ");
        if record.state() == PeerState::Tombstone {
            let highest = record.highest_peer_id;
            write!(line, "tombstone up to peer {highest}").expect("a string takes it");
        } else {
            let applied = match stored.applied {
                Some(applied) => format!("applied {}", applied.index),
                None => "as it was born".to_owned(),
            };
            let shown = region(&descriptor);
            write!(line, "{shown}, {applied}").expect("a string takes it");
        }
        line.push_str(&of_log(logs.remove(&id).as_ref()));
        lines.push(line);
    }
    for (id, found) in &logs {
        lines.push(format!("region {id}: no state{}", of_log(Some(found))));
    }
    lines
}

fn of_log(found: Option<&flotilla_engine::RegionLog>) -> String {
    let Some(found) = found else {
        return "; no log".to_owned();
    };
    let mut text = "; log".to_owned();
    if let Some(record) = found.record {
        let hard_state = record.hard_state.unwrap_or_default();
        let (peer, commit) = (record.peer_id, hard_state.commit);
        let (term, vote) = (hard_state.term, hard_state.vote);
        write!(
            text,
            " of peer {peer}: term {term} vote {vote} commit {commit}"
        )
        .expect("a string takes it");
    }
    if let Some(at) = found.truncation {
        write!(text, ", truncated at {}/{}", at.term, at.index).expect("a string takes it");
    }
    if let Some(span) = found.span {
        write!(text, ", {}..{}", span.first, span.last).expect("a string takes it");
    }
    if found.intent.is_some() {
        write!(text, ", intent {}", found.intent_index()).expect("a string takes it");
    }
    text
}
