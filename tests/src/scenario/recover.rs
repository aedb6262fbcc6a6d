//! What `flotilla recover` does, on the stopped stores of a scenario.

use flotilla_proto::clock::Mono;
use flotilla_raftstore::boot::{self, Boot};
use flotilla_raftstore::recover::{self, Damage, Plan, Survivor};
use flotilla_raftstore::{Config, StartError};

use super::cluster::Cluster;
use super::show;
use super::store::Store;
use super::words::Words;

/// All stores of a scenario are of this cluster.
const CLUSTER: u64 = 1;

impl Cluster {
    /// From what these stores hold, all of them stopped.
    pub(super) fn recover(&mut self, words: &mut Words<'_>) {
        let ids = words.numbers();
        match self.recover_from(&ids) {
            Ok(plan) => self.show_plan(&plan),
            Err(error) => self.say(format!("not recovered: {error}")),
        }
    }

    fn recover_from(&mut self, ids: &[u64]) -> Result<Plan, Box<dyn std::error::Error>> {
        let (config, now) = (self.config.clone(), self.now);
        let mut survivors = Vec::new();
        for id in ids {
            let store = self.store(*id);
            assert!(store.process.is_none(), "store {id} must be stopped first");
            survivors.push(Survivor {
                store: *id,
                cluster: CLUSTER,
                replicas: recover::inventory(&store.open(&config, now)?, *id),
            });
        }
        let plan = recover::plan(&survivors)?;
        for id in ids {
            let store = self.store(*id);
            let boot = store.open(&config, now)?;
            recover::settle(&boot, *id, &plan.forced, &*store.log)?;
            let boot = store.open(&config, now)?;
            recover::force(&boot, *id, &plan.forced, &*store.state)?;
        }
        Ok(plan)
    }

    fn show_plan(&mut self, plan: &Plan) {
        self.say(format!(
            "recovered without stores {}",
            show::list(&plan.lost, u64::to_string)
        ));
        for choice in &plan.forced {
            self.say(format!(
                "region {}: {} goes on from {}/{}, commit {}, {} undecided, in term {}",
                choice.region.id,
                choice.peer.id,
                choice.last.term,
                choice.last.index,
                choice.commit,
                choice.undecided,
                choice.term
            ));
        }
        for damage in &plan.damage {
            match damage {
                // Of every region that is forced.
                Damage::MayMissWrites { .. } => {}
                Damage::Keys {
                    start,
                    end,
                    taken_by,
                } => {
                    let (start, end) = (show::key(start), show::key(end));
                    let taken = taken_by.map_or_else(String::new, |id| format!(", empty in {id}"));
                    self.say(format!("lost: keys {start} .. {end}{taken}"));
                }
                Damage::Outdated { region } => self.say(format!("lost: region {region}")),
            }
        }
    }
}

impl Store {
    fn open(&self, config: &Config, now: Mono) -> Result<Boot, StartError> {
        boot::open(
            config.clone(),
            self.id,
            &*self.log,
            &*self.state,
            &*self.files,
            now,
        )
    }
}
