//! A hypervisor that stands at the switch-over of a migration, while no move is known that has brought it there: the vmpath that
//! moved it was killed before it could remember that.
//!
//! Invariant: a guest that stands still by nobody's decision is told of, and goes on as soon as the owners say where: here if its
//! units are this host's, there if one of this host's moves has given them away. Rejected: to act at once. Somebody else may be
//! migrating it at another monitor, and goes on in a moment. It does not know how the move was forgotten.

use super::Controller;
use super::words::seconds;
use crate::cluster::Ask;
use crate::effect::{JournalKind, Subject};
use crate::ids::{DiskId, VmId};
use crate::migration::{DiskEpoch, MigrationState, Move, MoveId, Source, VmCarry, source};
use crate::ownership::{Ownership, UnitEpoch};
use crate::policy::{Outstanding, Place, Reason, Run};
use crate::spec::Writers;
use crate::time::{Duration, Instant};

/// Nobody who knows of the migration lets it stand for so long.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// An order may be lost with the monitor.
const AGAIN: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Halt {
    instance: u64,
    since: Instant,
    again: Instant,
    /// What was told of it last.
    told: Option<String>,
}

/// Where such a guest is to go on.
enum Whose {
    Ours,
    Given {
        id: MoveId,
        to: String,
        disks: Vec<DiskEpoch>,
    },
    /// In words.
    Neither(String),
}

impl Controller {
    /// What a VM's hypervisor says of its migration, whether or not there is a move.
    pub(super) fn watch_switchover(&mut self, vm: VmId, state: Option<&MigrationState>) {
        let stands = self.spec.cluster.is_some()
            && matches!(self.vms[vm.index()].travel.place, Place::Here)
            && state == Some(&MigrationState::PreSwitchover);
        let instance = self.vms[vm.index()].guest.monitor.instance().filter(|_| stands);
        let known = self.vms[vm.index()].halt.as_ref();
        let Some(instance) = instance else {
            if known.is_some_and(|halt| halt.told.is_some()) && state.is_some() {
                let reason = "its hypervisor has left the switch-over at which it stood".to_owned();
                self.record(JournalKind::MigrationCancelled, Subject::Vm(vm), None, reason);
            }
            self.vms[vm.index()].halt = None;
            return;
        };
        if known.is_none_or(|halt| halt.instance != instance) {
            let (since, again) = (self.now, self.now + PATIENCE);
            self.vms[vm.index()].halt = Some(Halt { instance, since, again, told: None });
        }
    }

    pub(super) fn halt_deadline(&self, vm: VmId) -> Option<Instant> {
        self.vms[vm.index()].halt.as_ref().map(|halt| halt.again)
    }

    /// Why it stands still, in words; none if it does not, or not for long.
    pub(super) fn halt_words(&self, vm: VmId, now: Instant) -> Option<String> {
        let halt = self.vms[vm.index()].halt.as_ref()?;
        let told = halt.told.as_ref()?;
        Some(format!("{told} (for {} now)", seconds(now.since(halt.since))))
    }

    /// To be called whenever something may have changed.
    pub(super) fn end_halt(&mut self, vm: VmId) {
        let Some(halt) = self.vms[vm.index()].halt.as_mut().filter(|halt| halt.again <= self.now) else {
            return;
        };
        halt.again = self.now + AGAIN;
        let instance = halt.instance;
        let stands =
            "its hypervisor stands at the switch-over of a migration, and of no move is anything remembered";
        match self.whose(vm) {
            Whose::Ours => {
                let reason =
                    format!("{stands}: its units are this host's, so it is cancelled and goes on here");
                let until = "QEMU says that it is cancelled; it is told again and again";
                self.tell_halt(vm, JournalKind::MigrationCancelled, (reason, until));
                // Of no move: those of this process are counted from 1.
                let move_id =
                    MoveId { host: self.spec.host.name.clone(), nonce: self.cluster.nonce(), number: 0 };
                self.out.asks.push(Ask::Leave { vm, move_id, act: source::Act::Cancel { instance } });
            }
            Whose::Given { id, to, disks } => {
                let rule = format!("{stands}, but the move {id} of this host has given its units to {to}");
                self.vms[vm.index()].halt = None;
                let plan = self.plan_of_forgotten(vm, (id, to), disks, (instance, rule));
                self.take_up(vm, plan);
            }
            Whose::Neither(why) => {
                let reason = format!("{stands}: {why}");
                self.tell_halt(
                    vm,
                    JournalKind::MigrationHeld,
                    (reason, "its units are this host's, or were given away by one of its moves"),
                );
            }
        }
    }

    fn tell_halt(&mut self, vm: VmId, kind: JournalKind, (reason, until): (String, &str)) {
        let Some(halt) = &mut self.vms[vm.index()].halt else { return };
        if halt.told.as_ref() != Some(&reason) {
            halt.told = Some(reason.clone());
            self.record_until(kind, Subject::Vm(vm), None, (reason, Some(until.to_owned())));
        }
    }

    fn whose(&self, vm: VmId) -> Whose {
        let mut given: Option<(&MoveId, &String)> = None;
        let (mut disks, mut ours) = (vec![], 0);
        let owned = |disk: &DiskId| self.spec.disk(*disk).writers == Writers::One;
        for disk in self.spec.disks_of_vm(vm).filter(owned) {
            let (its, unit) = (self.spec.disk(disk), self.spec.disk(disk).unit);
            let name = self.spec.unit_name(unit);
            match self.owner(unit) {
                Ownership::Ours { .. } => ours += 1,
                Ownership::Theirs(owner) => {
                    let of_ours = owner.move_id.as_ref().filter(|id| id.host == self.spec.host.name);
                    let Some(id) = of_ours.filter(|id| given.is_none_or(|known| known == (*id, &owner.host)))
                    else {
                        return Whose::Neither(format!("{name} is owned by {owner}"));
                    };
                    given = Some((id, &owner.host));
                    let unit = UnitEpoch { unit: name, epoch: owner.epoch };
                    disks.push(DiskEpoch { disk: its.name.clone(), unit });
                }
                other @ (Ownership::Unknown | Ownership::Free | Ownership::Uncertain) => {
                    return Whose::Neither(format!("{name}: {}", other.hold_words().unwrap_or_default()));
                }
            }
        }
        match given {
            None => Whose::Ours,
            Some((id, to)) if ours == 0 => Whose::Given { id: id.clone(), to: to.clone(), disks },
            Some((_, to)) => Whose::Neither(format!("some of its units are {to}'s, and some this host's")),
        }
    }

    /// As it is needed after the commit. That it ran is all that can be supposed: a guest that stood still is at no switch-over.
    fn plan_of_forgotten(
        &self,
        vm: VmId,
        (id, to): (MoveId, String),
        disks: Vec<DiskEpoch>,
        (instance, rule): (u64, String),
    ) -> Move {
        let (spec, state) = (&self.spec, &self.vms[vm.index()]);
        let from = spec.host.name.clone();
        let vm_state = match &state.guest.run {
            Run::Suspended { cause, .. } => VmCarry::Suspended { why: cause.rule.clone() },
            Run::Free { .. }
            | Run::Held { .. }
            | Run::Suspending { .. }
            | Run::Withdrawing { .. }
            | Run::Resuming { .. }
            | Run::Proving { .. } => VmCarry::Running,
        };
        Move {
            id,
            vm: spec.vm(vm).name.clone(),
            home: state.travel.home.clone().unwrap_or_else(|| from.clone()),
            fled: state.travel.fled.clone(),
            from,
            to,
            disks,
            instance,
            memory: state.memory,
            room: vec![],
            settle: spec.cluster.as_ref().map_or(Duration::ZERO, |cluster| cluster.migration.settle),
            incident: None,
            vm_state,
            rule,
        }
    }

    /// With a move that is committed.
    fn take_up(&mut self, vm: VmId, plan: Move) {
        let reason = Reason { incident: None, rule: plan.rule.clone(), requests: Outstanding::FailOver };
        self.record(JournalKind::VmMigrating, Subject::Vm(vm), None, plan.rule.clone());
        let saved = source::Saved { plan, began: self.now, reached: source::Reached::Committed };
        let (machine, step) = Source::restore(self.now, saved);
        self.vms[vm.index()].travel.place = Place::Leaving { reason, machine: Box::new(machine) };
        self.leave(vm, step);
    }
}
