//! A new configuration, taken over without touching what runs.
//!
//! Invariant: the same names keep their ids and their state; what is new starts as at the start; what is leaving goes on
//! (see `leave`); what has no row any more is forgotten, and a VM that is left suspended is named in the journal.
//! It does not know what changed: every rule is looked at again anyway.

use super::{Controller, Vm};
use crate::effect::{JournalKind, Subject};
use crate::event::DiskFront;
use crate::ids::{PathId, TargetId, VmId};
use crate::mutant::{self, Mutant};
use crate::policy::{Floor, Ladder, Run};
use crate::spec::{NoPathAction, Presence, Spec};
use std::sync::Arc;

impl Controller {
    pub(super) fn take_reload(&mut self, spec: Arc<Spec>) {
        let old = std::mem::replace(&mut self.spec, spec);
        let new = self.spec.clone();
        // Its plan is published when this event is over.
        self.reloaded_at = self.plan.generation + 1;
        let back = self.rebase_fronts(&old, &new);
        self.network.rebase(&old, &new, self.now);
        self.division.configure(&new);
        self.incidents.retain(
            |t: TargetId| new.targets.get(t.index()).is_some_and(|n| n.name == old.target(t).name),
            |p: PathId| p.index() < new.paths.len() && new.path_name(p) == old.path_name(p),
        );
        self.rebase_vms(&old, &new);
        self.forget_gone();
        let reason = format!(
            "{} targets, {} paths, {} VMs, {} disks",
            new.targets.len(),
            new.paths.len(),
            new.vms.iter().filter(|vm| vm.presence == Presence::Present).count(),
            new.disks.iter().filter(|disk| disk.presence == Presence::Present).count()
        );
        self.record(JournalKind::Reloaded, Subject::Host, None, reason);
        self.tell_presence(&old, &back);
    }

    /// Who was gone and is in the configuration again.
    fn rebase_fronts(&mut self, old: &Spec, new: &Spec) -> Vec<VmId> {
        let shown = |spec: &Spec, fronts: &[DiskFront], vm: VmId| {
            spec.vm(vm).presence == Presence::Present
                || spec.disks_of_vm(vm).any(|disk| fronts[disk.index()] != DiskFront::Closed)
        };
        let stay = old.vm_ids().take(new.vms.len());
        let gone: Vec<VmId> = stay.filter(|vm| !shown(old, &self.fronts, *vm)).collect();
        self.fronts.resize(new.disks.len(), DiskFront::Open { attached: 0 });
        for (front, disk) in self.fronts.iter_mut().zip(&new.disks) {
            if disk.presence == Presence::Present && *front == DiskFront::Closed {
                *front = DiskFront::Open { attached: 0 };
            }
        }
        gone.into_iter().filter(|vm| shown(new, &self.fronts, *vm)).collect()
    }

    /// A VM that vmpath has stopped, and will not continue because it is no longer its own.
    pub(super) fn tell_released(&mut self, name: &str, subject: Subject, gone: &Vm) {
        let left = match gone.guest.run {
            Run::Suspending { .. } | Run::Suspended { .. } | Run::Resuming { .. } => true,
            Run::Free { .. } | Run::Held { .. } | Run::Withdrawing { .. } | Run::Proving { .. } => false,
        };
        if left {
            let reason =
                format!("{name} left the configuration while it was suspended: vmpath will not continue it");
            self.record(JournalKind::VmReleased, subject, gone.guest.run.incident(), reason);
        }
    }

    fn rebase_vms(&mut self, old: &Spec, new: &Spec) {
        let stays = |vm: VmId| new.vms.get(vm.index()).is_some_and(|n| n.name == old.vm(vm).name);
        for vm in old.vm_ids().filter(|vm| !stays(*vm)) {
            let gone = std::mem::replace(&mut self.vms[vm.index()], Vm::new(self.now));
            self.tell_released(&old.vm(vm).name, Subject::Host, &gone);
        }
        let now = self.now;
        self.vms.resize_with(new.vms.len(), || Vm::new(now));
        let units = new.units.len();
        for (index, vm) in self.vms.iter_mut().enumerate() {
            if vm.ladder.loss().is_some_and(|loss| loss.unit.index() >= units) {
                vm.ladder = Ladder::Clear;
            }
            if let Ladder::Stranded { loss, .. } = vm.ladder
                && old.vms.get(index).is_some_and(|was| was.on_no_path != new.vms[index].on_no_path)
            {
                // It was past the rungs of that one: those of another may be before it.
                vm.ladder = Ladder::Waiting { loss, rung: NoPathAction::Hold, since: loss.since };
            }
            vm.floor = Floor::Met;
            if mutant::active(Mutant::ReloadForgets) {
                vm.guest.run = Run::Free { since: now };
            }
        }
    }
}
