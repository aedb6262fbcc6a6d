//! How transcripts write things. An entry is `term/index`.

use std::fmt::Write as _;

use flotilla_proto::raft::{ConfState, Entry, EntryKind, HardState, Message, MessageKind};
use flotilla_raft::{Pace, Role, RoleChange, Status};

use crate::common::conf_of;

pub(crate) fn role(id: u64, change: RoleChange) -> String {
    let term = change.term;
    match (change.role, change.leader) {
        (Role::Leader, _) => format!("{id} leads term {term}"),
        (Role::Candidate, _) => format!("{id} campaigns in term {term}"),
        (Role::PreCandidate, _) => format!("{id} asks around in term {term}"),
        (Role::Follower, Some(leader)) => format!("{id} follows {leader} in term {term}"),
        (Role::Follower, None) => format!("{id} follows nobody in term {term}"),
    }
}

/// Runs of one term as `6/7..9`.
pub(crate) fn entries(entries: &[Entry]) -> String {
    let mut text = String::new();
    let mut rest = entries;
    while let Some(first) = rest.first() {
        let alike = |entry: &&Entry| entry.term == first.term && entry.kind == first.kind;
        let run = rest.iter().take_while(alike).count();
        let last = rest[run - 1].index;
        if !text.is_empty() {
            text.push(',');
        }
        write!(text, "{}/{}", first.term, first.index).expect("a string takes it");
        if last > first.index {
            write!(text, "..{last}").expect("a string takes it");
        }
        match EntryKind::try_from(first.kind) {
            Ok(EntryKind::Admin) => text.push_str("(admin)"),
            Ok(EntryKind::ConfChange) => {
                write!(text, "({})", conf(&conf_of(first))).expect("a string takes it");
            }
            _ => {}
        }
        rest = &rest[run..];
    }
    text
}

pub(crate) fn list(ids: &[u64]) -> String {
    ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}

pub(crate) fn conf(conf: &ConfState) -> String {
    let lists = [
        ("voters", &conf.voters),
        ("outgoing", &conf.voters_outgoing),
        ("learners", &conf.learners),
        ("learners-next", &conf.learners_next),
    ];
    let mut words: Vec<String> = lists
        .into_iter()
        .filter(|(_, ids)| !ids.is_empty())
        .map(|(name, ids)| format!("{name}={}", list(ids)))
        .collect();
    if conf.auto_leave {
        words.push("auto-leave".to_owned());
    }
    words.join(" ")
}

pub(crate) fn state(state: HardState) -> String {
    format!(
        "term={} vote={} commit={}",
        state.term, state.vote, state.commit
    )
}

/// `number` gives the small name of a request number.
pub(crate) fn message(message: &Message, number: &mut dyn FnMut(u64) -> String) -> String {
    let kind = MessageKind::try_from(message.kind).unwrap_or_default();
    let mut text = format!("{}->{} ", message.from, message.to);
    let Message {
        index,
        log_term,
        commit,
        round,
        term,
        ..
    } = *message;
    let body = match kind {
        MessageKind::PreVote => format!("pre-vote? last={log_term}/{index}"),
        MessageKind::Vote => format!("vote? last={log_term}/{index}"),
        MessageKind::PreVoteResponse if message.reject => "no pre-vote".to_owned(),
        MessageKind::PreVoteResponse => "pre-vote".to_owned(),
        MessageKind::VoteResponse if message.reject => "no vote".to_owned(),
        MessageKind::VoteResponse => "vote".to_owned(),
        MessageKind::Append => {
            format!(
                "append prev={log_term}/{index} [{}] commit={commit}",
                entries(&message.entries)
            )
        }
        MessageKind::AppendResponse if message.reject => {
            format!(
                "refuses {index}, hint={}/{}",
                message.hint_term, message.hint_index
            )
        }
        MessageKind::AppendResponse => format!("has {index}"),
        MessageKind::Heartbeat if round == 0 => format!("committed {commit}"),
        MessageKind::Heartbeat => {
            format!("round {round}? commit={commit} min={}", message.min_matched)
        }
        MessageKind::HeartbeatResponse => format!("round {round}"),
        MessageKind::Snapshot => snapshot(message),
        MessageKind::TimeoutNow => format!("take over, attempt {}", message.transfer_attempt),
        MessageKind::ReadIndex => format!("read index? {}", number(round)),
        MessageKind::ReadIndexResponse => format!("read index {index} for {}", number(round)),
        MessageKind::TransferLeader => "let me lead".to_owned(),
        MessageKind::Unspecified => "nonsense".to_owned(),
    };
    text.push_str(&body);
    if message.transfer {
        write!(text, " transfer={}", message.transfer_attempt).expect("a string takes it");
    } else if kind == MessageKind::Heartbeat && message.transfer_attempt > 0 {
        write!(text, " void={}", message.transfer_attempt).expect("a string takes it");
    }
    if message.priority != 0 {
        write!(text, " priority={}", message.priority).expect("a string takes it");
    }
    write!(text, " (term {term})").expect("a string takes it");
    text
}

fn snapshot(message: &Message) -> String {
    let meta = message
        .snapshot
        .as_ref()
        .and_then(|snapshot| snapshot.meta.clone())
        .unwrap_or_default();
    format!(
        "snapshot {}/{} {}",
        meta.term,
        meta.index,
        conf(&meta.conf.unwrap_or_default())
    )
}

pub(crate) fn status(status: &Status) -> String {
    let mut text = role(status.id, status.role);
    let Status {
        first_index,
        last_index,
        commit,
        persisted,
        handed_out,
        applied,
        vote,
        ..
    } = status;
    write!(
        text,
        "; vote={vote} first={first_index} last={last_index} commit={commit} persisted={persisted} handed={handed_out} applied={applied}"
    )
    .expect("a string takes it");
    write!(text, "; {}", conf(&status.conf)).expect("a string takes it");
    for peer in status.peers.iter().filter(|peer| peer.id != status.id) {
        let pace = match peer.pace {
            Pace::Probe => "probe".to_owned(),
            Pace::Replicate => "replicate".to_owned(),
            Pace::Snapshot { index } => format!("snapshot({index})"),
        };
        let blocked = if peer.blocked { " blocked" } else { "" };
        let line = format!(
            "\n  {}: {pace} matched={} next={} inflight={}{blocked}",
            peer.id, peer.matched, peer.next, peer.inflight
        );
        text.push_str(&line);
    }
    text
}
