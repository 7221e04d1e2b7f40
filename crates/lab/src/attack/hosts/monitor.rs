//! What reaches control of hypervisors: reports in their order, and that a process is gone.
//!
//! It does not know what control makes of it.

use super::event::Event;
use super::qemu::{Qemu, Vcpus};
use super::world::World;
use vmpath_core::effect::{JournalEntry, JournalKind, Subject};
use vmpath_core::event::{Event as Told, HypervisorReport};
use vmpath_core::ids::VmId;
use vmpath_core::time::Duration;

impl World {
    pub(super) fn report_arrives(&mut self, host: usize, vm: usize, instance: u64, report: HypervisorReport) {
        let is_there = self.qemu(host, vm).is_some_and(|qemu| qemu.instance == instance);
        let is_loss = matches!(report, HypervisorReport::Lost { .. });
        let is_of_another = self.qemu(host, vm).is_some_and(|qemu| qemu.instance != instance);
        if (is_there && !is_loss) || (is_loss && !is_of_another) {
            self.tell(host, Told::Hypervisor { vm: VmId::at(vm), report });
        }
    }

    /// A guest has gone with its process, unless a copy of it lives elsewhere.
    pub(super) fn guest_lost(&mut self, vm: usize, gone: &Qemu) {
        if self.lives_at(vm).is_some() {
            return;
        }
        for request in gone.guest.iter().flat_map(|guest| &guest.disks).flat_map(|ring| ring.open).flatten() {
            self.array.forgets(request);
        }
        self.tally.guests_lost += 1;
        self.rules.forget_stay(vm);
        self.lost[vm] = Some(self.now);
        // Its units are given up about ten seconds after it has gone.
        let late = self.rng.percent(40);
        let after = if late { self.rng.millis(8500..12_500) } else { self.rng.millis(1500..6000) };
        self.at(after, Event::Relaunch(vm));
    }

    /// A host at which a copy of the guest is, that runs or may.
    pub(super) fn lives_at(&self, vm: usize) -> Option<usize> {
        let lives = |qemu: &Qemu| match qemu.vcpus {
            Vcpus::Running | Vcpus::Paused | Vcpus::Switching => true,
            Vcpus::Sent | Vcpus::Incoming => false,
        };
        (0..self.hosts.len()).find(|host| self.qemu(*host, vm).is_some_and(lives))
    }

    /// Who manages hypervisors ends one whose VM has moved.
    pub(super) fn tidy_up(&mut self, host: usize, entry: &JournalEntry) {
        let (Subject::Vm(vm), JournalKind::VmMigrated) = (entry.subject, entry.kind) else { return };
        let Some(instance) = self.qemu(host, vm.index()).map(|qemu| qemu.instance) else { return };
        let after = self.rng.millis(500..4000);
        self.at(after, Event::Ends { host, vm: vm.index(), instance, why: "its guest has moved" });
    }

    /// Somebody starts the VM again, where its units are.
    pub(super) fn relaunch(&mut self, vm: usize) {
        if self.lives_at(vm).is_some() {
            self.lost[vm] = None;
            return;
        }
        let owner = self.disks_of(vm).into_iter().find_map(|unit| self.store.owner(unit));
        let free = |host: &usize| self.qemu(*host, vm).is_none() && self.life(*host).is_some();
        let Some(host) = owner.or_else(|| (0..self.hosts.len()).find(free)) else {
            let after = self.rng.millis(800..2500);
            return self.at(after, Event::Relaunch(vm));
        };
        let moving = self.hosts.iter().any(|host| {
            host.process.as_ref().is_none_or(|process| process.controller.is_moving(VmId::at(vm)))
        });
        let is_free = self.qemu(host, vm).is_none() && !self.is_off(host);
        let waits_long = self.lost[vm].is_some_and(|since| self.now.since(since) > Duration::from_secs(20));
        if !is_free || (moving && !waits_long) {
            let after = self.rng.millis(800..2500);
            return self.at(after, Event::Relaunch(vm));
        }
        let (instance, disks) = (self.next_instance(), self.disks_of(vm).len());
        self.hosts[host].qemus[vm] = Some(Qemu::at_home(instance, disks));
        self.lost[vm] = None;
        self.trace.say(self.now, || format!("vm{vm} is started again at kvm{}", host + 1));
        self.attach_later(host, vm);
        self.runs_on(host, vm);
    }
}
