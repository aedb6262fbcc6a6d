//! Clients that want timestamps.

use flotilla_pd::TSO_BATCH_MAX;

use super::calls::{Ask, Asker, Purpose, Said};
use super::{Event, Phase, Sim};

/// Clients that do, at most.
const CLIENTS_MAX: u64 = 2;

impl Sim {
    pub(super) fn first_timestamps(&mut self) {
        for client in 0..self.world.workload.clients.min(CLIENTS_MAX) {
            self.timestamps_later(client);
        }
    }

    fn timestamps_later(&mut self, client: u64) {
        if self.phase == Phase::Run {
            let wait = self.rng.micros(1_000..=1_000_000);
            self.events
                .at(self.now() + wait, Event::Timestamps { client });
        }
    }

    /// A client asks for timestamps: mostly a few, now and then for as many as there are.
    pub(super) fn want_timestamps(&mut self, client: u64) {
        if self.phase != Phase::Run {
            return;
        }
        let most = match self.rng.chance(200) {
            true => u64::from(TSO_BATCH_MAX),
            false => 8,
        };
        let count = self.rng.log_range(1..=most) as u32;
        let known = self.oracle.lock().timestamps_known();
        let purpose = Purpose::Timestamps(known);
        self.ask_pd(Asker::Client(client), Ask::Timestamps(count), purpose);
    }

    pub(super) fn timestamps_heard(&mut self, asker: Asker, known: u64, said: Option<Said>) {
        if let Some(Said::Timestamps(first, last)) = said {
            self.oracle.lock().timestamps_heard(known, first, last);
            self.note(format_args!("{asker:?} has timestamps {first} to {last}"));
        }
        if let Asker::Client(client) = asker {
            self.timestamps_later(client);
        }
    }
}
