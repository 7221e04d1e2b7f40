//! What operators and hypervisors say of moves, translated for the machine of the VM's move.
//!
//! It does not know what the machine makes of it.

use super::Controller;
use super::commands::{Answer, conflict};
use crate::cluster::{Ask, Whereto};
use crate::event::{HypervisorReport, Machine, MigrationOrder, Role, RunState};
use crate::ids::VmId;
use crate::migration::{MigrationState, VmCarry, destination, source};
use crate::policy::rules::Migrating;
use crate::policy::{Outstanding, Place, Reason};

impl Controller {
    pub(super) fn migrate(&mut self, vm: VmId, to: Option<String>) -> Answer {
        let name = self.spec.vm(vm).name.clone();
        if let Some(words) = self.away_words(vm) {
            return conflict(words);
        }
        if to.as_ref() == Some(&self.spec.host.name) {
            return conflict(format!("{name} is on {} already", self.spec.host.name));
        }
        let command = to.as_ref().map_or_else(String::new, |to| format!(" --to {to}"));
        let whereto = to.map_or(Whereto::Best, Whereto::Named);
        self.move_by_hand(vm, &format!("`vmpath vm migrate {name}{command}`"), whereto)
    }

    pub(super) fn return_home(&mut self, vm: VmId) -> Answer {
        let name = self.spec.vm(vm).name.clone();
        if let Some(words) = self.away_words(vm) {
            return conflict(words);
        }
        match self.vms[vm.index()].travel.home.clone() {
            None => conflict(format!(
                "{name} has no other home than this host: name a host with `vmpath vm migrate {name} --to HOST`"
            )),
            Some(home) => self.move_by_hand(vm, &format!("`vmpath vm return {name}`"), Whereto::Named(home)),
        }
    }

    /// An operator may try again what has come to nothing, and need not wait for a dwell time.
    fn move_by_hand(&mut self, vm: VmId, command: &str, whereto: Whereto) -> Answer {
        let name = self.spec.vm(vm).name.clone();
        let tried = self.vms[vm.index()].travel.tried.take();
        match self.migrating(vm) {
            Migrating::Possible => {}
            Migrating::Wait(why) | Migrating::Impossible(why) => {
                self.vms[vm.index()].travel.tried = tried;
                return conflict(format!("{name}: {why}"));
            }
        }
        let rule = format!("the operator asked for it: {command}");
        self.wants_move(vm, Reason { incident: None, rule, requests: Outstanding::FailOver }, whereto);
        Ok(format!("a host is looked for {name}; `vmpath show migrations` tells how it goes"))
    }

    pub(super) fn cancel_migration(&mut self, vm: VmId) -> Answer {
        let name = self.spec.vm(vm).name.clone();
        match &self.vms[vm.index()].travel.place {
            Place::Placing { .. } => {
                self.vms[vm.index()].travel.place = Place::Here;
                Ok(format!("{name} stays: no host was found for it yet"))
            }
            Place::Leaving { machine, .. } => {
                let (before, to) = (machine.state().word(), machine.plan().to.clone());
                self.hypervisor_leaving(vm, self.cancelled_by_hand(vm));
                match &self.vms[vm.index()].travel.place {
                    Place::Leaving { machine, .. } if machine.state().word() == before => {
                        conflict(format!("{name} is {before}: its move to {to} cannot be cancelled any more"))
                    }
                    Place::Leaving { .. }
                    | Place::Here
                    | Place::Placing { .. }
                    | Place::Arriving(_)
                    | Place::Elsewhere { .. } => Ok(format!("the move of {name} to {to} is being cancelled")),
                }
            }
            Place::Arriving(machine) => {
                conflict(format!("{name} comes from {}: cancel it there", machine.plan().from))
            }
            Place::Here | Place::Elsewhere { .. } => conflict(format!("{name} is not being moved")),
        }
    }

    /// Where QEMU has been told to cancel and cannot be heard, the operator knows whether it is still there.
    fn cancelled_by_hand(&self, vm: VmId) -> source::Input {
        let state = &self.vms[vm.index()];
        let is_silent = state.guest.monitor.instance().is_none();
        match &state.travel.place {
            Place::Leaving { machine, .. } if is_silent && machine.is_cancelling() => source::Input::Replaced,
            Place::Leaving { .. }
            | Place::Here
            | Place::Placing { .. }
            | Place::Arriving(_)
            | Place::Elsewhere { .. } => source::Input::Cancel("the operator has cancelled it".into()),
        }
    }

    /// Why no other order can be given for it; none if it is here.
    pub(super) fn away_words(&self, vm: VmId) -> Option<String> {
        let name = &self.spec.vm(vm).name;
        match &self.vms[vm.index()].travel.place {
            Place::Here if self.is_away(vm) => {
                Some(format!("{name} is at another host: its disks are owned there"))
            }
            Place::Here => None,
            Place::Placing { .. } => Some(format!("a host is being looked for {name}")),
            Place::Leaving { machine, .. } => Some(format!(
                "{name} is being moved to {} ({}): `vmpath vm migrate {name} --cancel` ends that",
                machine.plan().to,
                machine.state().word()
            )),
            Place::Arriving(machine) => Some(format!(
                "{name} is just coming from {} ({})",
                machine.plan().from,
                machine.state().word()
            )),
            Place::Elsewhere { host } => Some(format!("{name} is at {host}")),
        }
    }

    /// What the VM's own hypervisor says, for its move; told after the VM's other state has taken it in.
    pub(super) fn hypervisor_of_move(&mut self, vm: VmId, report: &HypervisorReport) {
        match report {
            HypervisorReport::Connected { instance, state, .. } => {
                debug_assert_eq!(self.vms[vm.index()].guest.monitor.instance(), Some(*instance));
                self.watch_switchover(vm, None);
                if self.is_replaced(vm) {
                    self.hypervisor_leaving(vm, source::Input::Replaced);
                }
                self.may_have_landed(vm, *state);
                self.may_be_left(vm, *state);
            }
            HypervisorReport::Lost { why } => {
                self.watch_switchover(vm, None);
                self.hypervisor_leaving(vm, source::Input::MonitorLost(why.clone()));
            }
            HypervisorReport::State(state) => {
                self.may_have_landed(vm, *state);
                self.may_be_left(vm, *state);
            }
            HypervisorReport::Machine(machine) => self.machine_of_move(vm, machine),
            HypervisorReport::Migration(status) => {
                self.watch_switchover(vm, Some(&status.state));
                self.hypervisor_leaving(vm, source::Input::Hypervisor(status.clone()));
                // Of a VM that comes: its own end of the stream. One that stands or runs has come, whatever is said of the way.
                let answer = match status.state {
                    _ if self.stands_as_landed(vm) => destination::Input::Landed,
                    MigrationState::Completed => destination::Input::Landed,
                    // Nothing has come yet, or all of it has: its run state tells.
                    MigrationState::None => return,
                    MigrationState::Setup
                    | MigrationState::Active
                    | MigrationState::PreSwitchover
                    | MigrationState::Device
                    | MigrationState::Failed(_)
                    | MigrationState::Cancelling
                    | MigrationState::Cancelled => destination::Input::Waiting,
                };
                self.hypervisor_arriving(vm, answer);
            }
            HypervisorReport::MigrationRefused { order, why } => match order {
                MigrationOrder::Start => {
                    self.hypervisor_leaving(vm, source::Input::MigrateRefused(why.clone()));
                }
                // They are given again until their effect is seen; but not to a process that has ended.
                MigrationOrder::Continue | MigrationOrder::Cancel | MigrationOrder::Query => {
                    if self.is_replaced(vm) {
                        self.hypervisor_leaving(vm, source::Input::Replaced);
                    }
                }
            },
            // A transfer that nothing is heard of stands still, and is given up for that.
            HypervisorReport::Refused { .. } | HypervisorReport::Deaf { .. } => {}
        }
    }

    /// The process that its move is about has ended: another one is there.
    fn is_replaced(&self, vm: VmId) -> bool {
        let planned = match &self.vms[vm.index()].travel.place {
            Place::Leaving { machine, .. } => Some(machine.plan().instance),
            Place::Here | Place::Placing { .. } | Place::Arriving(_) | Place::Elsewhere { .. } => None,
        };
        let present = self.vms[vm.index()].guest.monitor.instance();
        planned.zip(present).is_some_and(|(planned, present)| planned != present)
    }

    /// What is left of a VM that has moved is ended, so that it can come back; never before the move is over.
    pub(super) fn may_be_left(&mut self, vm: VmId, state: RunState) {
        let of = &self.vms[vm.index()];
        let ours = self.spec.units_of_vm(vm).any(|unit| self.owner(unit).may_dispatch());
        if let (Place::Elsewhere { .. }, RunState::Sent, Some(instance), false) =
            (&of.travel.place, state, of.guest.monitor.instance(), ours)
        {
            self.out.asks.push(Ask::EndLeft { vm, instance });
        }
    }

    fn may_have_landed(&mut self, vm: VmId, state: RunState) {
        let Place::Arriving(machine) = &self.vms[vm.index()].travel.place else { return };
        if has_landed(state, &machine.plan().vm_state) {
            self.hypervisor_arriving(vm, destination::Input::Landed);
        }
    }

    /// As its monitor said last. It may have said so before the units were known to be this host's.
    fn stands_as_landed(&self, vm: VmId) -> bool {
        let Place::Arriving(machine) = &self.vms[vm.index()].travel.place else { return false };
        let state = self.vms[vm.index()].guest.monitor.run_state();
        state.is_some_and(|state| has_landed(state, &machine.plan().vm_state))
    }

    fn machine_of_move(&mut self, vm: VmId, machine: &Machine) {
        self.vms[vm.index()].memory = machine.memory;
        let Place::Arriving(coming) = &self.vms[vm.index()].travel.place else { return };
        match (&machine.role, coming.plan().memory, machine.memory) {
            (Role::Incoming { .. }, Some(there), Some(here)) if there != here => {
                let why = format!(
                    "its guest has {} MiB of memory at {}, and {} MiB here",
                    there >> 20,
                    coming.plan().from,
                    here >> 20
                );
                self.hypervisor_arriving(vm, destination::Input::Discard(why));
            }
            (Role::Incoming { .. }, _, _) => {}
            (Role::Home, _, _) => self.hypervisor_arriving(vm, destination::Input::Landed),
        }
    }
}

fn has_landed(state: RunState, carried: &VmCarry) -> bool {
    match (state, carried) {
        (RunState::Running, _)
        | (RunState::Paused | RunState::IoError, VmCarry::Suspended { .. } | VmCarry::StoppedByOther) => true,
        (RunState::Paused | RunState::IoError, VmCarry::Running) | (RunState::Sent | RunState::Other, _) => {
            false
        }
    }
}
