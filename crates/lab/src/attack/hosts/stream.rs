//! A guest's memory on its way from one hypervisor to another, as QEMU sends it.
//!
//! Invariant: as long as it is not sent as a whole the process at the source has it, and lets it run on when the stream fails, if it ran
//! before; the end of a stream may be seen differently by its two ends. It does not know who may run it.

use super::event::Event;
use super::qemu::{MEMORY, Outgoing, Qemu, Vcpus};
use super::tally::Fault;
use super::world::World;
use vmpath_core::event::{HypervisorReport, RunState};
use vmpath_core::migration::{MigrationState, source};
use vmpath_core::time::Duration;

const STEP: Duration = Duration::from_millis(100);

impl World {
    pub(super) fn migrate(&mut self, host: usize, vm: usize, to: usize) {
        let waiting = self.hosts.get(to).and_then(|there| there.qemus[vm].as_ref());
        let waiting = waiting.filter(|qemu| qemu.vcpus == Vcpus::Incoming).map(|qemu| qemu.instance);
        let Some(qemu) = &mut self.hosts[host].qemus[vm] else { return };
        let can = matches!(qemu.vcpus, Vcpus::Running | Vcpus::Paused);
        let (true, Some(instance)) = (can, waiting) else {
            return self.refuse_start(host, vm, "connection refused".into());
        };
        let ran = qemu.runs();
        qemu.out = Some(Outgoing { to, instance, sent: 0, ran, sent_in_vain: None });
        qemu.migration = MigrationState::Active;
        let own = qemu.instance;
        self.report_migration(host, vm);
        self.at(STEP, Event::Stream { host, vm, instance: own });
    }

    /// The process that waits for what this one sends.
    fn waits_for(&self, qemu: &Qemu, vm: usize) -> Option<usize> {
        let out = qemu.out.as_ref()?;
        let there = self.qemu(out.to, vm)?;
        (there.instance == out.instance && there.vcpus == Vcpus::Incoming).then_some(out.to)
    }

    pub(super) fn stream(&mut self, host: usize, vm: usize, instance: u64) {
        let Some(qemu) = self.qemu(host, vm).filter(|qemu| qemu.instance == instance) else { return };
        if qemu.migration != MigrationState::Active {
            return;
        }
        let Some(to) = self.waits_for(qemu, vm) else {
            return self.migration_fails(host, vm, MigrationState::Failed("the stream was reset".into()));
        };
        let (cut, rate) = (self.net.stream_is_cut(host, to), self.scene.stream_rate[vm]);
        let Some(qemu) = &mut self.hosts[host].qemus[vm] else { return };
        let Some(out) = &mut qemu.out else { return };
        if !cut {
            out.sent += rate / 10;
        }
        if out.sent >= MEMORY {
            out.sent = MEMORY;
            out.ran = qemu.vcpus == Vcpus::Running;
            qemu.vcpus = Vcpus::Switching;
            qemu.migration = MigrationState::PreSwitchover;
            self.report(host, vm, HypervisorReport::State(RunState::Other));
            self.report_migration(host, vm);
            return self.ring_changed(host, vm);
        }
        self.report_migration(host, vm);
        self.at(STEP, Event::Stream { host, vm, instance });
    }

    pub(super) fn migrate_continue(&mut self, host: usize, vm: usize) {
        let Some(qemu) = &mut self.hosts[host].qemus[vm] else { return };
        if qemu.migration != MigrationState::PreSwitchover {
            return;
        }
        qemu.migration = MigrationState::Device;
        let instance = qemu.instance;
        self.report_migration(host, vm);
        self.judge_continue(host, vm);
        let after = self.rng.millis(3..60);
        self.at(after, Event::Device { host, vm, instance });
    }

    /// All of it is sent, or not.
    pub(super) fn device(&mut self, host: usize, vm: usize, instance: u64) {
        let Some(qemu) = self.qemu(host, vm).filter(|qemu| qemu.instance == instance) else { return };
        if qemu.migration != MigrationState::Device {
            return;
        }
        let Some(to) = self.waits_for(qemu, vm) else {
            return self.migration_fails(host, vm, MigrationState::Failed("the stream was reset".into()));
        };
        if self.net.stream_is_cut(host, to) {
            return self.at(Duration::from_millis(500), Event::Device { host, vm, instance });
        }
        let chance = if self.is_calm() { 100 } else { self.rng.below(100) };
        if chance < 4 {
            self.fault(Fault::SourceRunsOn, host);
            self.lands(host, vm, to);
            return self.migration_fails(host, vm, MigrationState::Failed("no answer to the end".into()));
        }
        if chance < 8 {
            self.fault(Fault::DestinationDies, to);
            self.process_ends(to, vm, "it could not load the devices");
            let why = "the other end could not load it".to_owned();
            return self.migration_fails(host, vm, MigrationState::Failed(why));
        }
        if chance < 13 {
            return self.sent_in_vain(host, vm, to);
        }
        self.lands(host, vm, to);
        self.is_sent(host, vm);
    }

    /// As it is where QEMU has no way back: it says that it is done, whatever becomes of it at the other end.
    fn sent_in_vain(&mut self, host: usize, vm: usize, to: usize) {
        self.fault(Fault::SentInVain, to);
        self.is_sent(host, vm);
        self.process_ends(to, vm, "it could not load the devices, and nobody is told");
        let now = self.now;
        let Some(qemu) = &mut self.hosts[host].qemus[vm] else { return };
        if let Some(out) = &mut qemu.out {
            out.sent_in_vain = Some(now);
        }
        // What is left in memory is nobody's to continue here.
        let gone = qemu.clone();
        self.guest_lost(vm, &gone);
    }

    /// The VM is told to have moved, or what it has left is ended: then it must not be the only one that there is.
    pub(super) fn judge_left(&mut self, host: usize, vm: usize) {
        let out = self.qemu(host, vm).and_then(|qemu| qemu.out.as_ref());
        let in_vain = out.and_then(|out| out.sent_in_vain);
        // Where the other host is silent for long, QEMU's word has to do.
        if in_vain.is_some_and(|since| self.now < since + source::CONTINUE_WITHIN) {
            let text = format!("vm{vm} is given up at kvm{}, and no other host has it", host + 1);
            self.violated("guest-lost", text);
        }
    }

    fn lands(&mut self, host: usize, vm: usize, to: usize) {
        let Some(source) = self.qemu(host, vm) else { return };
        let (guest, ran) = (source.guest.clone(), source.out.as_ref().is_some_and(|out| out.ran));
        let Some(qemu) = &mut self.hosts[to].qemus[vm] else { return };
        qemu.guest = guest;
        qemu.vcpus = Vcpus::Paused;
        qemu.migration = MigrationState::Completed;
        self.trace.say(self.now, || format!("vm{vm} lands at kvm{}", to + 1));
        if ran {
            self.runs_on(to, vm);
        } else {
            self.report(to, vm, HypervisorReport::State(RunState::Paused));
        }
    }

    fn is_sent(&mut self, host: usize, vm: usize) {
        let Some(qemu) = &mut self.hosts[host].qemus[vm] else { return };
        qemu.vcpus = Vcpus::Sent;
        qemu.migration = MigrationState::Completed;
        let instance = qemu.instance;
        self.report_migration(host, vm);
        self.report(host, vm, HypervisorReport::State(RunState::Sent));
        // Who manages it ends what is of no use any more.
        let after = self.rng.millis(200..3000);
        self.at(after, Event::Ends { host, vm, instance, why: "its guest was sent away" });
    }

    /// It runs on here if it ran before.
    pub(super) fn migration_fails(&mut self, host: usize, vm: usize, how: MigrationState) {
        let Some(qemu) = &mut self.hosts[host].qemus[vm] else { return };
        let stood = qemu.vcpus == Vcpus::Switching;
        qemu.migration = how;
        let Some(out) = &qemu.out else { return };
        let (to, instance, ran) = (out.to, out.instance, out.ran);
        self.report_migration(host, vm);
        if stood && ran {
            self.runs_on(host, vm);
        } else if stood {
            qemu_paused(&mut self.hosts[host].qemus[vm]);
            self.report(host, vm, HypervisorReport::State(RunState::Paused));
        }
        self.end_waiting(to, vm, instance);
    }

    /// A process whose stream has ended too early ends.
    fn end_waiting(&mut self, to: usize, vm: usize, instance: u64) {
        if self.qemu_of(to, vm, instance).is_some_and(|qemu| qemu.vcpus == Vcpus::Incoming) {
            let after = self.rng.millis(1..50);
            self.at(after, Event::Ends { host: to, vm, instance, why: "its stream has ended too early" });
        }
    }

    pub(super) fn migrate_cancel(&mut self, host: usize, vm: usize) {
        let Some(qemu) = self.qemu(host, vm) else { return };
        let obeys = match qemu.migration {
            MigrationState::Setup | MigrationState::Active | MigrationState::PreSwitchover => true,
            MigrationState::Device => self.rng.percent(50),
            MigrationState::None
            | MigrationState::Completed
            | MigrationState::Failed(_)
            | MigrationState::Cancelling
            | MigrationState::Cancelled => false,
        };
        if obeys {
            self.migration_fails(host, vm, MigrationState::Cancelled);
        }
    }

    /// A process is gone, and with it both ends of what it sent or was sent.
    pub(super) fn break_streams(&mut self, host: usize, vm: usize, gone: &Qemu) {
        if let Some(out) = &gone.out {
            self.end_waiting(out.to, vm, gone.instance_of_other());
        }
        for other in 0..self.hosts.len() {
            let Some(qemu) = self.qemu(other, vm) else { continue };
            let is_its = qemu.out.as_ref().is_some_and(|out| out.to == host && out.instance == gone.instance);
            let waits = qemu.migration == MigrationState::PreSwitchover;
            // Others find out when they send the next byte; one that waits may see it or not.
            if is_its && waits && self.rng.percent(50) {
                self.migration_fails(other, vm, MigrationState::Failed("the stream was reset".into()));
            }
        }
    }
}

impl Qemu {
    fn instance_of_other(&self) -> u64 {
        self.out.as_ref().map_or(0, |out| out.instance)
    }
}

fn qemu_paused(qemu: &mut Option<Qemu>) {
    if let Some(qemu) = qemu {
        qemu.vcpus = Vcpus::Paused;
    }
}
