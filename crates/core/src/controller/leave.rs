//! What left the configuration while it was in use: served on until its last front end lets go, then forgotten.
//!
//! Invariant: as long as one front end is attached to a disk of a VM, the VM's policy goes on as it was; a VM of which
//! nothing is served any more is nobody's business: no monitor, no place in the keep set, no order to its hypervisor.
//! It does not know how a front end attaches: a worker says who is there, and when it has stopped listening.

use super::{Controller, Vm, order};
use crate::effect::{Effect, JournalKind, Subject, Wanted};
use crate::event::{DiskFront, LoadReport};
use crate::ids::{DiskId, VmId};
use crate::policy::Ladder;
use crate::spec::{Presence, Spec};
use crate::view::Standing;
use std::collections::BTreeSet;

impl Controller {
    /// One sentence for each disk that is leaving and still served.
    #[must_use]
    pub fn leaving(&self) -> Vec<String> {
        let leaving = self.spec.disk_ids().filter(|disk| self.disk_standing(*disk) == Standing::Leaving);
        leaving.map(|disk| self.leaving_words(disk)).collect()
    }

    pub(super) fn leaving_words(&self, disk: DiskId) -> String {
        let name = self.spec.disk_name(disk);
        let served = match self.fronts[disk.index()] {
            DiskFront::Open { attached: 0 } | DiskFront::Closed => {
                "nobody is attached, so it is served no more".into()
            }
            DiskFront::Open { attached } => {
                format!("it is served until its front end lets go ({attached} attached)")
            }
        };
        format!("disk {name} is no longer in the configuration; {served}")
    }

    pub(super) fn disk_standing(&self, disk: DiskId) -> Standing {
        match (self.spec.disk(disk).presence, self.fronts[disk.index()]) {
            (Presence::Present, _) => Standing::Present,
            (Presence::Leaving, DiskFront::Open { .. }) => Standing::Leaving,
            (Presence::Leaving, DiskFront::Closed) => Standing::Gone,
        }
    }

    pub(super) fn vm_standing(&self, vm: VmId) -> Standing {
        let is_served = || self.spec.disks_of_vm(vm).any(|disk| self.disk_standing(disk) != Standing::Gone);
        match self.spec.vm(vm).presence {
            Presence::Present => Standing::Present,
            Presence::Leaving if is_served() => Standing::Leaving,
            Presence::Leaving => Standing::Gone,
        }
    }

    /// Who is attached to a worker's disks. What it says of an older configuration than this is not about what is leaving.
    pub(super) fn take_fronts(&mut self, report: &LoadReport) {
        let is_current = report.generation >= self.reloaded_at;
        let mut gone = vec![];
        for (disk, front) in &report.fronts {
            if disk.index() >= self.fronts.len() {
                continue;
            }
            let leaving = self.spec.disk(*disk).presence == Presence::Leaving;
            let known = &mut self.fronts[disk.index()];
            match front {
                DiskFront::Open { .. } if *known != DiskFront::Closed || is_current => *known = *front,
                DiskFront::Closed if leaving && is_current && *known != DiskFront::Closed => {
                    *known = DiskFront::Closed;
                    gone.push(*disk);
                }
                DiskFront::Open { .. } | DiskFront::Closed => {}
            }
        }
        if !gone.is_empty() {
            self.let_go(&gone);
        }
    }

    /// Nobody is served these disks any more.
    fn let_go(&mut self, disks: &[DiskId]) {
        for disk in disks {
            let vm = self.spec.disk(*disk).vm;
            let name = self.spec.disk_name(*disk);
            let reason =
                format!("disk {name} has left: nobody is attached, and nobody listens for it any more");
            self.record(JournalKind::DiskGone, Subject::Vm(vm), None, reason);
        }
        self.forget_gone();
        let vms: BTreeSet<VmId> = disks.iter().map(|disk| self.spec.disk(*disk).vm).collect();
        let spec = self.spec.clone();
        for vm in vms {
            if self.vm_standing(vm) != Standing::Gone {
                continue;
            }
            let gone = std::mem::replace(&mut self.vms[vm.index()], Vm::new(self.now));
            self.tell_released(&spec.vm(vm).name, Subject::Vm(vm), &gone);
            if spec.vm(vm).qmp.is_some() {
                self.out.acts.push(Effect::Monitor { vm, wanted: Wanted::No });
            }
        }
    }

    /// What is gone counts for no path, no unit and no decision.
    pub(super) fn forget_gone(&mut self) {
        let spec = self.spec.clone();
        let gone = spec.disk_ids().filter(|disk| self.disk_standing(*disk) == Standing::Gone).collect();
        self.network.leave(&spec, gone, self.now);
        self.order = order(&spec);
        let served: Vec<bool> = spec.vm_ids().map(|vm| self.vm_standing(vm) != Standing::Gone).collect();
        self.order.retain(|vm| served[vm.index()]);
        for vm in spec.vm_ids() {
            let lost = self.vms[vm.index()].ladder.loss().map(|loss| loss.unit);
            let is_its_own = |unit| self.network.reach(vm).units.iter().any(|u| u.unit == unit);
            if lost.is_some_and(|unit| !is_its_own(unit)) {
                self.vms[vm.index()].ladder = Ladder::Clear;
            }
        }
    }

    /// After a reload: which disks have begun to leave, and which have come back.
    pub(super) fn tell_presence(&mut self, old: &Spec, back: &[VmId]) {
        let spec = self.spec.clone();
        for disk in spec.disk_ids().filter(|disk| disk.index() < old.disks.len()) {
            let subject = Subject::Vm(spec.disk(disk).vm);
            match (old.disk(disk).presence, spec.disk(disk).presence) {
                (Presence::Present, Presence::Leaving) => {
                    let reason = self.leaving_words(disk);
                    self.record(JournalKind::DiskLeaving, subject, None, reason);
                }
                (Presence::Leaving, Presence::Present) => {
                    let reason = format!("disk {} is in the configuration again", spec.disk_name(disk));
                    self.record(JournalKind::DiskReturned, subject, None, reason);
                }
                (Presence::Present, Presence::Present) | (Presence::Leaving, Presence::Leaving) => {}
            }
        }
        for vm in back.iter().filter(|vm| spec.vm(**vm).qmp.is_some()) {
            self.out.acts.push(Effect::Monitor { vm: *vm, wanted: Wanted::Yes });
        }
    }
}
