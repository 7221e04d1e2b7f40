//! Hypervisor processes: at home, waiting for a VM, sending one away; and what they are told.
//!
//! Invariant: a process that has failed to send a guest lets it run on by itself if it ran before, as QEMU does, whatever anybody thinks
//! of that. It does not know owners.

use super::guest::Guest;
use super::world::World;
use vmpath_core::event::{HypervisorReport, Machine, MigrationOrder, Role, RunState, StopsOnError};
use vmpath_core::migration::{MigrationState, MigrationStatus, MoveId, destination};
use vmpath_core::time::{Duration, Instant};

pub(super) const MEMORY: u64 = 256 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vcpus {
    Running,
    Paused,
    /// They stand still for the switch-over.
    Switching,
    /// All of it is elsewhere.
    Sent,
    /// It waits for a guest.
    Incoming,
}

/// The memory of a disk's inflight buffer, which the process keeps for whoever serves it.
#[derive(Clone, Debug, Default)]
pub(super) struct Inflight {
    /// Fetched and not answered, in order; none: no back end has begun the ring.
    pub(super) heads: Option<Vec<u8>>,
    /// As the process it came from was told.
    pub(super) base: u16,
}

#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) to: usize,
    pub(super) instance: u64,
    pub(super) sent: u64,
    /// The guest ran when it began.
    pub(super) ran: bool,
    /// Since when all of it is sent, and none of it loaded anywhere.
    pub(super) sent_in_vain: Option<Instant>,
}

#[derive(Clone, Debug)]
pub(super) struct Qemu {
    pub(super) instance: u64,
    pub(super) vcpus: Vcpus,
    pub(super) guest: Option<Guest>,
    /// By the VM's disks.
    pub(super) inflight: Vec<Inflight>,
    pub(super) migration: MigrationState,
    pub(super) out: Option<Outgoing>,
    /// The move that it was launched for.
    pub(super) launched_for: Option<MoveId>,
    pub(super) monitor_broken: u64,
    /// Counts its starts: what its guest would have done before one of them is not done.
    pub(super) chain: u32,
}

/// What a monitor is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Command {
    Stop,
    Continue,
    /// To that host, for this move.
    Migrate {
        to: usize,
    },
    MigrateContinue,
    MigrateCancel,
    Query,
}

impl Qemu {
    pub(super) fn at_home(instance: u64, disks: usize) -> Self {
        let inflight = vec![Inflight { heads: Some(vec![]), base: 0 }; disks];
        Self {
            guest: Some(Guest::new(disks)),
            inflight,
            vcpus: Vcpus::Running,
            ..Self::incoming(instance, disks, None)
        }
    }

    pub(super) fn incoming(instance: u64, disks: usize, launched_for: Option<MoveId>) -> Self {
        Self {
            instance,
            vcpus: Vcpus::Incoming,
            guest: None,
            inflight: vec![Inflight::default(); disks],
            migration: MigrationState::None,
            out: None,
            launched_for,
            monitor_broken: 0,
            chain: 0,
        }
    }

    pub(super) fn runs(&self) -> bool {
        self.vcpus == Vcpus::Running
    }

    pub(super) fn run_state(&self) -> RunState {
        match self.vcpus {
            Vcpus::Running => RunState::Running,
            Vcpus::Paused => RunState::Paused,
            Vcpus::Sent => RunState::Sent,
            Vcpus::Switching | Vcpus::Incoming => RunState::Other,
        }
    }

    fn status(&self) -> MigrationStatus {
        let sent = self.out.as_ref().map_or(0, |out| out.sent);
        let downtime = (self.migration == MigrationState::Completed).then_some(Duration::from_millis(40));
        let ram_total = if self.out.is_some() { MEMORY } else { 0 };
        let ram_remaining = ram_total.saturating_sub(sent);
        // As the daemon's session tells it: a `completed` of the way that the guest has come is none.
        let came = self.migration == MigrationState::Completed && self.vcpus != Vcpus::Sent;
        let state = if came { MigrationState::None } else { self.migration.clone() };
        MigrationStatus { state, ram_total, ram_remaining, transferred: sent, downtime }
    }
}

impl World {
    pub(super) fn qemu(&self, host: usize, vm: usize) -> Option<&Qemu> {
        self.hosts[host].qemus[vm].as_ref()
    }

    /// The process of that number, if it is still there.
    pub(super) fn qemu_of(&mut self, host: usize, vm: usize, instance: u64) -> Option<&mut Qemu> {
        self.hosts[host].qemus[vm].as_mut().filter(|qemu| qemu.instance == instance)
    }

    pub(super) fn next_instance(&mut self) -> u64 {
        self.instances += 1;
        self.instances
    }

    /// A monitor is connected, for the first time or again.
    pub(super) fn announce(&mut self, host: usize, vm: usize) {
        let Some(qemu) = self.qemu(host, vm) else { return };
        let instance = qemu.instance;
        let role = match qemu.vcpus {
            Vcpus::Incoming => Role::Incoming { listens: vec!["tcp:10.0.0.1:49152".into()] },
            Vcpus::Running | Vcpus::Paused | Vcpus::Switching | Vcpus::Sent => Role::Home,
        };
        let state = qemu.run_state();
        let machine = Machine { instance, version: "7.2.22".into(), memory: Some(MEMORY), role };
        self.report(
            host,
            vm,
            HypervisorReport::Connected { instance, state, stops_on_error: StopsOnError::NeedNot },
        );
        self.report(host, vm, HypervisorReport::Machine(machine));
    }

    /// Its monitor says something, if it is heard.
    pub(super) fn report(&mut self, host: usize, vm: usize, report: HypervisorReport) {
        let Some(qemu) = self.qemu(host, vm).filter(|qemu| qemu.monitor_broken == 0) else { return };
        let instance = qemu.instance;
        if let Some(life) = self.life(host) {
            // One monitor's words keep their order.
            let due = self.hosts[host].monitor_due[vm].max(self.now) + self.rng.micros(100..4000);
            self.hosts[host].monitor_due[vm] = due;
            let event = super::event::Event::Report { life, vm, instance, report: Box::new(report) };
            self.when(due, event);
        }
    }

    pub(super) fn report_migration(&mut self, host: usize, vm: usize) {
        if let Some(qemu) = self.qemu(host, vm) {
            let status = qemu.status();
            self.report(host, vm, HypervisorReport::Migration(status));
        }
    }

    pub(super) fn command(&mut self, host: usize, vm: usize, instance: u64, command: Command) {
        let Some(qemu) = self.qemu_of(host, vm, instance) else { return };
        if qemu.monitor_broken > 0 {
            if matches!(command, Command::Migrate { .. }) {
                let why = "its monitor is gone".to_owned();
                self.refuse_start(host, vm, why);
            }
            return;
        }
        match command {
            Command::Stop => self.stop(host, vm),
            Command::Continue => {
                if qemu.vcpus == Vcpus::Paused {
                    self.runs_on(host, vm);
                }
            }
            Command::Migrate { to } => self.migrate(host, vm, to),
            Command::MigrateContinue => self.migrate_continue(host, vm),
            Command::MigrateCancel => self.migrate_cancel(host, vm),
            Command::Query => self.report_migration(host, vm),
        }
    }

    /// What the order's sender hears; also if the monitor is gone.
    pub(super) fn refuse_start(&mut self, host: usize, vm: usize, why: String) {
        let Some(life) = self.life(host) else { return };
        let Some(instance) = self.qemu(host, vm).map(|qemu| qemu.instance) else { return };
        let report = HypervisorReport::MigrationRefused { order: MigrationOrder::Start, why };
        let after = self.rng.micros(100..4000);
        self.at(after, super::event::Event::Report { life, vm, instance, report: Box::new(report) });
    }

    fn stop(&mut self, host: usize, vm: usize) {
        let Some(qemu) = &mut self.hosts[host].qemus[vm] else { return };
        match qemu.vcpus {
            Vcpus::Running => {
                qemu.vcpus = Vcpus::Paused;
                self.report(host, vm, HypervisorReport::State(RunState::Paused));
                self.ring_changed(host, vm);
            }
            // It stays stopped if the migration comes to nothing.
            Vcpus::Switching => {
                if let Some(out) = &mut qemu.out {
                    out.ran = false;
                }
            }
            Vcpus::Paused | Vcpus::Sent | Vcpus::Incoming => {}
        }
    }

    /// Its vCPUs run, and its rings.
    pub(super) fn runs_on(&mut self, host: usize, vm: usize) {
        let Some(qemu) = &mut self.hosts[host].qemus[vm] else { return };
        qemu.vcpus = Vcpus::Running;
        qemu.chain += 1;
        let (instance, chain) = (qemu.instance, qemu.chain);
        self.trace.say(self.now, || format!("vm{vm} runs at kvm{}", host + 1));
        self.report(host, vm, HypervisorReport::State(RunState::Running));
        self.ring_changed(host, vm);
        let after = self.rng.millis(1..60);
        self.at(after, super::event::Event::Guest { host, vm, instance, chain });
    }

    /// The process is gone: killed, or by itself.
    pub(super) fn process_ends(&mut self, host: usize, vm: usize, why: &str) {
        let Some(qemu) = self.hosts[host].qemus[vm].take() else { return };
        self.trace.say(self.now, || format!("vm{vm}'s hypervisor at kvm{} ends: {why}", host + 1));
        if matches!(qemu.vcpus, Vcpus::Running | Vcpus::Paused | Vcpus::Switching) {
            self.guest_lost(vm, &qemu);
        }
        self.break_streams(host, vm, &qemu);
        self.detach(host, vm);
        let Some(life) = self.life(host) else { return };
        self.hosts[host].monitor_due[vm] = self.hosts[host].monitor_due[vm].max(self.now);
        let lost = HypervisorReport::Lost { why: why.to_owned() };
        let after = self.rng.millis(1..20);
        let event = super::event::Event::Report { life, vm, instance: qemu.instance, report: Box::new(lost) };
        self.at(after, event);
        if let Some(id) = qemu.launched_for.clone() {
            self.hear_arriving(life, vm, &id, destination::Input::Ended(why.to_owned()));
        }
    }
}
