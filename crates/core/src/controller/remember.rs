//! The way of the moves over a restart.
//!
//! Invariant: a move that had begun is in what is kept before anything of it is asked of another host, so that the next
//! process can end it; how far it had come is read from the owners, and not believed.
//! It does not know how it is kept.

use super::Controller;
use crate::effect::{Effect, JournalKind, Subject};
use crate::migration::{Destination, Source};
use crate::mutant::{self, Mutant};
use crate::policy::{Place, Travel};
use crate::saved::{SavedLeaving, SavedMoves, SavedTravel};
use crate::time::Instant;

impl Controller {
    /// What the next process needs to end or to go on with the moves of this one.
    #[must_use]
    pub fn save_moves(&self) -> SavedMoves {
        let mut saved = SavedMoves { discards: self.save_discards(), ..SavedMoves::default() };
        for vm in self.spec.vm_ids() {
            let travel = &self.vms[vm.index()].travel;
            let elsewhere = match &travel.place {
                Place::Leaving { reason, machine } => {
                    let leaving =
                        machine.save().map(|machine| SavedLeaving { reason: reason.clone(), machine });
                    saved.leaving.extend(leaving);
                    None
                }
                Place::Arriving(machine) => {
                    saved.arriving.extend(machine.save());
                    None
                }
                Place::Elsewhere { host } => Some(host.clone()),
                // What was only looked for is looked for again.
                Place::Here | Place::Placing { .. } => None,
            };
            if elsewhere.is_some() || travel.arrived.is_some() || travel.home.is_some() {
                saved.travels.push(SavedTravel {
                    vm: self.spec.vm(vm).name.clone(),
                    elsewhere,
                    arrived: travel.arrived,
                    home: travel.home.clone(),
                    fled: travel.fled.clone(),
                });
            }
        }
        saved
    }

    /// Goes on with them: to be called once, before anything else is heard. The effects are those of the first steps.
    pub fn restore_moves(&mut self, now: Instant, mut saved: SavedMoves) -> Vec<Effect> {
        self.now = self.now.max(now);
        if mutant::active(Mutant::MovesForgotten) {
            (saved.leaving, saved.arriving) = (vec![], vec![]);
        }
        for SavedTravel { vm, elsewhere, arrived, home, fled } in saved.travels {
            let Some(vm) = self.spec.vm_by_name(&vm) else { continue };
            let place = elsewhere.map_or(Place::Here, |host| Place::Elsewhere { host });
            let travel = Travel { place, arrived, home, fled, ..Travel::new(self.now) };
            self.vms[vm.index()].travel = travel;
        }
        for SavedLeaving { reason, machine } in saved.leaving {
            let name = machine.plan.vm.clone();
            let Some(vm) = self.spec.vm_by_name(&name) else {
                self.forgotten(&name);
                continue;
            };
            let (machine, step) = Source::restore(self.now, machine);
            self.vms[vm.index()].travel.place = Place::Leaving { reason, machine: Box::new(machine) };
            self.leave(vm, step);
        }
        for machine in saved.arriving {
            let name = machine.plan.vm.clone();
            let Some(vm) = self.spec.vm_by_name(&name) else {
                self.forgotten(&name);
                continue;
            };
            let (machine, step) = Destination::restore(self.now, machine);
            self.vms[vm.index()].travel.place = Place::Arriving(Box::new(machine));
            self.arrive(vm, step);
        }
        self.restore_discards(saved.discards);
        self.decide();
        self.finish()
    }

    fn forgotten(&mut self, name: &str) {
        let reason = format!(
            "{name} left the configuration while it was being moved: vmpath does not go on with it, and its units stay \
             where they are"
        );
        self.record(JournalKind::MigrationHeld, Subject::Host, None, reason);
    }
}
