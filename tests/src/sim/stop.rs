//! A stop in order: begun here, and gone on with after each step of the store.

use super::Sim;
use crate::store::LifeId;

impl Sim {
    /// Stops the process of a store; it starts again after a while.
    pub(super) fn stop_in_order(&mut self, id: LifeId) {
        let Some(life) = self.life_mut(id.store) else {
            return;
        };
        if life.stopping.is_some() {
            return;
        }
        life.begin_stop();
        let state = life.runtime.state.clone();
        state.force_pressure(None);
        self.note(format_args!("store {} stops in order", id.store));
    }

    pub(super) fn go_on_stopping(&mut self, id: LifeId) {
        let Some(life) = self.life_mut(id.store) else {
            return;
        };
        if life.stopping.is_none() {
            return;
        }
        match life.go_on_stopping() {
            Ok(false) => {}
            Ok(true) => {
                self.probe("stop: in order");
                self.say_what_is_owed(id);
                self.die(id);
            }
            Err(fatal) => self.fatal(id, &fatal),
        }
    }
}
