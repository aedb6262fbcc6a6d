//! Looking at the cluster.

use std::fmt::Write as _;

use bytes::Bytes;
use flotilla_proto::metapb::Region;

use super::cluster::Cluster;
use super::network::Filter;
use super::show;
use super::transfer::Transfer;
use super::words::Words;
use crate::probe;

impl Cluster {
    pub(super) fn look(&mut self, name: &str, words: &mut Words<'_>) -> bool {
        match name {
            "messages" => {
                let filter = Filter::read(words);
                let flying = self
                    .network
                    .flying
                    .iter()
                    .filter(|flying| filter.fits(flying));
                let mut lines: Vec<String> = flying.map(show::message).collect();
                lines.extend(self.transfers.iter().map(Transfer::show));
                self.say_all(lines, "nothing is under way");
            }
            "show" => self.show(words),
            _ => return false,
        }
        true
    }

    fn say_all(&mut self, lines: Vec<String>, nothing: &str) {
        if lines.is_empty() {
            self.say(nothing);
        }
        lines.into_iter().for_each(|line| self.say(line));
    }

    fn show(&mut self, words: &mut Words<'_>) {
        match words.next() {
            "state" => {
                let id = words.number();
                let (start, end) = match words.any() {
                    Some(region) => self.range_of(id, region, words),
                    None => (Bytes::new(), Bytes::new()),
                };
                let rows = show::rows(&*self.store(id).state, &start, &end);
                self.say_of(id, format!("holds {rows}"));
            }
            "log" => {
                let (id, region) = (words.number(), words.number());
                let log = show::log(&*self.store(id).log, region);
                self.say_of(id, format!("log of region {region}: {log}"));
            }
            "records" => {
                let id = words.number();
                let store = self.store(id);
                let lines = show::records(&*store.state, &*store.log);
                self.say_records(id, lines);
            }
            "disk" => {
                let id = words.number();
                let store = self.store(id);
                let (state, log) = (store.state.crash(), store.log.crash(|_| 0));
                let lines = show::records(&state, &log);
                self.say_records(id, lines);
            }
            "lease" => {
                let (id, region) = (words.number(), words.number());
                let lease = self.lease(id, region);
                self.say_of(id, lease);
            }
            "PD" => {
                let region = words.number();
                let known = self.pd.known(region).map(show::region);
                let known = known.unwrap_or_else(|| "nothing".to_owned());
                self.say(format!("PD knows of region {region}: {known}"));
            }
            "waiting" => {
                let waiting = self.requests.waiting();
                self.say_all(waiting, "nobody waits for an answer");
            }
            "paths" => self.say_all(reached(), "no rare path was reached"),
            region => match region.parse() {
                Ok(region) => self.show_region(region),
                Err(_) => words.wrong("show what?"),
            },
        }
    }

    fn say_records(&mut self, id: u64, lines: Vec<String>) {
        if lines.is_empty() {
            self.say_of(id, "no region");
        }
        for line in lines {
            self.say_of(id, line);
        }
    }

    fn range_of(&mut self, id: u64, region: &str, words: &Words<'_>) -> (Bytes, Bytes) {
        let region = region
            .parse()
            .unwrap_or_else(|_| words.wrong("of which region?"));
        let found = self.process(id).look(region, |peer| peer.region().clone());
        let found = found.unwrap_or_else(|| words.wrong("it has no peer there"));
        (found.start_key, found.end_key)
    }

    fn lease(&mut self, id: u64, region: u64) -> String {
        let now = self.now;
        let lease = self
            .process(id)
            .look(region, |peer| peer.raft().lease_until());
        match lease.flatten() {
            Some(until) if until > now => format!("may read region {region} for {:?}", until - now),
            Some(_) => format!("the lease of region {region} has run out"),
            None => format!("has no lease of region {region}"),
        }
    }

    /// The newest descriptor, and how its peers stand; those that know an older one say so.
    fn show_region(&mut self, region: u64) {
        let mut found: Vec<(u64, Region, String)> = Vec::new();
        for store in self.stores.values() {
            let Some(process) = &store.process else {
                continue;
            };
            let seen = process.look(region, |peer| (peer.region().clone(), show::peer(peer)));
            if let Some((descriptor, peer)) = seen {
                found.push((store.id, descriptor, peer));
            }
        }
        let age = |region: &Region| {
            let epoch = region.region_epoch.unwrap_or_default();
            (epoch.version, epoch.conf_ver)
        };
        let newest = found
            .iter()
            .map(|(_, descriptor, _)| descriptor)
            .max_by_key(|d| age(d));
        let Some(newest) = newest.cloned() else {
            return self.say(format!("region {region} is nowhere"));
        };
        self.say(format!("region {region}: {}", show::region(&newest)));
        for (store, descriptor, peer) in found {
            let mut line = format!("  store {store}: {peer}");
            if descriptor != newest {
                write!(line, "; knows {}", show::region(&descriptor)).expect("a string takes it");
            }
            self.say(line);
        }
    }
}

/// Each once, in the order in which they were reached first.
fn reached() -> Vec<String> {
    let mut paths: Vec<String> = Vec::new();
    for path in probe::take_reached() {
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths
}
