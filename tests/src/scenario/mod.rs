//! Scenarios of a small cluster, as texts: commands, `----`, what happened.
//!
//! Every store is the production runtime on the in-memory engine. Nothing happens by itself: a
//! command does what it says, and `run` does everything that is left to do. Messages take no time;
//! they lie in plain sight until `run` or `deliver` brings them.
//!
//! | setting up | |
//! |---|---|
//! | `region 3 "" .. m on 1=4 2=8 3=12(learner)` | a first region, with the peers of these stores |
//! | `store 4` | a store without regions |
//! | `limits stale-check=5s lag-entries=10` | settings that differ from the defaults |
//! | `start [2]` | the stores named, or all that are down |
//!
//! | going on | |
//! |---|---|
//! | `run [1 2]` · `run without 3` | until nothing is left to do among these stores |
//! | `tick all 2s` · `tick 1 2 300ms` | time passes; every 100 ms these stores notice, and all run |
//! | `tick 1` · `pass 500ms` | a store notices the time · time passes and nobody notices |
//! | `round 2` · `append 2` · `sync 2` · `apply 2` · `work 2` | one step of one part, and what leaves with it |
//! | `pause 2 [apply]` · `resume 2 [apply]` | `run` leaves out the store, or this part of it |
//!
//! | asking | |
//! |---|---|
//! | `put k v` · `delete k` · `get k` | of the leader; or `on 2`, `of 3`, `version 1`, `peer 4`, `term 6`, `replica` |
//! | `put k x*1000` | a long value |
//! | `look k` · `confirm` | the two halves of a read; one that must ask has looked when `run` is over |
//! | `split 3 at m t` | asked of the leader, or `on 2` |
//! | `campaign 3 on 1` · `lead 3 by 1` | it stands for election; is elected, in one line |
//! | `transfer 3 to 8` · `hand over 3` | to that peer · to whomever the leader chooses |
//! | `add voter 20 on 4 to 3` · `add learner ..` | asked of the leader, or `asking 2`; as of `conf 1` |
//! | `promote 20 in 3` · `demote 8 in 3` · `remove 8 from 3` | the same |
//! | `change 3 voter 20 on 4, learner 8, remove 12` | several at once |
//! | `merge 3 into 5` | asked of the leader, or `asking 2`; as its store knows both |
//!
//! | the network | |
//! |---|---|
//! | `cut 1 2` · `cut 1 -> 2` · `cut off 3` · `heal [1 2]` | what is sent there is lost when it leaves |
//! | `hold F` · `release [F]` | such messages wait; F: `[1 -> 2] [append] [of 3]` |
//! | `deliver F` · `drop F` · `duplicate F` · `reorder F` | `first` takes only the oldest |
//! | `hold rows` · `deliver file` | snapshots wait after their offer · one file of each comes |
//! | `messages [F]` | what is under way |
//!
//! | the machines | |
//! |---|---|
//! | `kill 2` · `crash 2 [keeping 1]` | the log keeps all writes · only those synced, and 1 more |
//! | `flush 2` · `durable 2` | the state is flushed · the store looks how far it is |
//! | `fail append 2` · `fail sync 2` · `fail write 2` · `fail files 2` · `full disk 2` | the next such call fails; files are those of snapshots |
//! | `fail read 2` · `fail view 2` | the next read of the log fails · all reads of the next view of the state do |
//! | `rot entry 2 8 of 3` · `rot row 2 k` · `lose files 2` | bytes that no checksum fits · all files of snapshots are gone |
//! | `recover 3 4` | go on with what these stopped stores have |
//! | `PD is away` · `PD is back` · `PD forgets 3` · `PD tells 2 of 3` | |
//!
//! | looking | |
//! |---|---|
//! | `show 3` | what the peers of a region are |
//! | `show state 2 [3]` · `show log 2 3` · `show lease 1 3` · `show PD 3` | rows, entries, a lease |
//! | `show records 2` · `show disk 2` | of each region, now · as a power failure would leave it |
//! | `show waiting` · `show paths` | requests without an answer · rare paths that were reached |
//!
//! `quietly ..` says nothing, and `;` separates commands on a line.

mod asking;
mod cluster;
mod disks;
mod looking;
mod network;
mod pd;
mod recover;
mod show;
mod store;
mod transfer;
mod watch;
mod words;

use flotilla_raftstore::Config;

use crate::probe;
use cluster::Cluster;
use words::Words;

/// Runs the commands of a text and returns it with what happens now.
///
/// # Panics
/// If the text makes no sense, or a machine's own assertion fails.
pub fn play(text: &str) -> String {
    play_with(text, Config::default())
}

/// As [`play`], on stores that are configured so.
///
/// # Panics
/// As [`play`].
pub fn play_with(text: &str, config: Config) -> String {
    tracing::subscriber::with_default(probe::Collector, || {
        let _earlier = probe::take_reached();
        play_lines(text, Cluster::new(config))
    })
}

fn play_lines(text: &str, mut cluster: Cluster) -> String {
    let mut played = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        played.push_str(line);
        played.push('\n');
        if line == "----" {
            for told in cluster.told() {
                played.push_str(&told);
                played.push('\n');
            }
            while lines.next_if(|line| !line.is_empty()).is_some() {}
        } else if !line.is_empty() && !line.starts_with('#') {
            line.split(';').for_each(|command| cluster.obey(command));
        }
    }
    played
}

impl Cluster {
    /// Carries out one command.
    fn obey(&mut self, command: &str) {
        let mut words = Words::of(command);
        if words.starts("quietly") {
            self.quietly(|cluster| cluster.carry_out(&mut words));
        } else {
            self.carry_out(&mut words);
        }
        words.end();
    }

    fn carry_out(&mut self, words: &mut Words<'_>) {
        let name = words.next();
        let known = self.prepare(name, words)
            || self.go_on(name, words)
            || self.ask(name, words)
            || self.disturb(name, words)
            || self.look(name, words);
        if !known {
            words.wrong("there is no such command");
        }
    }
}
