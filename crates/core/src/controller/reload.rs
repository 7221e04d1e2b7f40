//! A new configuration, taken over without touching what runs.
//!
//! Invariant: the same names keep their ids and their state; what is new starts as at the start; what is gone is
//! forgotten, and a VM that is left suspended is named in the journal.
//! It does not know what changed: every rule is looked at again anyway.

use super::{Controller, Vm, order};
use crate::effect::{JournalKind, Subject};
use crate::ids::{PathId, TargetId, VmId};
use crate::policy::{Floor, Ladder, Run};
use crate::spec::Spec;
use std::sync::Arc;

impl Controller {
    pub(super) fn take_reload(&mut self, spec: Arc<Spec>) {
        let old = std::mem::replace(&mut self.spec, spec);
        let new = self.spec.clone();
        self.network.rebase(&old, &new, self.now);
        self.incidents.retain(
            |t: TargetId| new.targets.get(t.index()).is_some_and(|n| n.name == old.target(t).name),
            |p: PathId| p.index() < new.paths.len() && new.path_name(p) == old.path_name(p),
        );
        self.rebase_vms(&old, &new);
        self.order = order(&new);
        let reason = format!(
            "{} targets, {} paths, {} VMs, {} disks",
            new.targets.len(),
            new.paths.len(),
            new.vms.len(),
            new.disks.len()
        );
        self.record(JournalKind::Reloaded, Subject::Host, None, reason);
    }

    fn rebase_vms(&mut self, old: &Spec, new: &Spec) {
        let stays = |vm: VmId| new.vms.get(vm.index()).is_some_and(|n| n.name == old.vm(vm).name);
        for vm in old.vm_ids().filter(|vm| !stays(*vm)) {
            let gone = std::mem::replace(&mut self.vms[vm.index()], Vm::new(self.now));
            let left = match gone.guest.run {
                Run::Suspending { .. } | Run::Suspended { .. } | Run::Resuming { .. } => true,
                Run::Free { .. } | Run::Held { .. } | Run::Withdrawing { .. } | Run::Proving { .. } => false,
            };
            if left {
                let reason = format!(
                    "{} left the configuration while it was suspended: vmpath will not continue it",
                    old.vm(vm).name
                );
                self.record(JournalKind::VmReleased, Subject::Host, gone.guest.run.incident(), reason);
            }
        }
        let now = self.now;
        self.vms.resize_with(new.vms.len(), || Vm::new(now));
        let units = new.units.len();
        for vm in &mut self.vms {
            if vm.ladder.loss().is_some_and(|(_, unit, _)| unit.index() >= units) {
                vm.ladder = Ladder::Clear;
            }
            vm.floor = Floor::Met;
        }
    }
}
