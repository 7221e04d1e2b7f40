//! What a controller asks of the cluster, and who does it.
//!
//! It does not know what becomes of it.

use super::event::Event;
use super::peers::Kind;
use super::qemu::Vcpus;
use super::world::World;
use vmpath_core::cluster::Ask;
use vmpath_core::migration::{Answer, MoveId};

impl World {
    pub(super) fn ask(&mut self, host: usize, ask: Ask) {
        match ask {
            Ask::Place { vm, whereto } => self.look_for_place(host, vm, &whereto),
            Ask::Leave { vm, move_id, act } => {
                let other = self.leave(host, vm.index(), (&move_id, act));
                self.ambush(host, (vm.index(), other), &move_id);
            }
            Ask::Arrive { vm, move_id, act } => {
                self.arrive(host, vm.index(), (&move_id, act));
                self.ambush(host, (vm.index(), None), &move_id);
            }
            Ask::EndLeft { vm, instance } => {
                let left = self.qemu_of(host, vm.index(), instance);
                if left.is_some_and(|qemu| qemu.vcpus == Vcpus::Sent) {
                    self.judge_left(host, vm.index());
                    self.process_ends(host, vm.index(), "the VM has left it");
                }
            }
            Ask::Decline { move_id, why } => {
                self.answer_calls(host, (&move_id, Kind::Prepare), &Answer::Refused(why));
            }
        }
    }

    /// What goes wrong goes wrong in the middle of something.
    fn ambush(&mut self, host: usize, (vm, other): (usize, Option<usize>), id: &MoveId) {
        if self.is_calm() || !self.rng.percent(4) {
            return;
        }
        let other = other.unwrap_or_else(|| self.host_number(&id.host));
        let after = if self.rng.percent(40) { self.rng.micros(1..3000) } else { self.rng.millis(1..400) };
        self.at(after, Event::Strike { host, other, vm });
    }
}
