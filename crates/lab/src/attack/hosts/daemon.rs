//! vmpath's process on one host: one event in, effects out, in order; what it keeps; how it dies and starts again.
//!
//! Invariant: an order or a question leaves only when the state that it follows from is on disk, and what is on disk is behind what is
//! known. It does not know how anything is decided, nor what becomes of a question: see `asks`.

use super::event::{Event, Life};
use super::faults::Route;
use super::plane::Seat;
use super::power::renew;
use super::world::World;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use vmpath_core::cluster::Ask;
use vmpath_core::controller::Controller;
use vmpath_core::effect::Effect;
use vmpath_core::event::Event as Told;
use vmpath_core::ids::VmId;
use vmpath_core::migration::MoveId;
use vmpath_core::ownership::{Keeper, Ownership};
use vmpath_core::placement::HostSummary;
use vmpath_core::plan::Gate;
use vmpath_core::saved::{Before, Saved, SavedMoves};
use vmpath_core::time::Duration;

/// The owner wakes at least this often.
const WAKE_AT_LEAST: Duration = Duration::from_secs(1);

/// What may leave when the state is on disk.
enum Waiting {
    Stop { vm: usize, instance: u64 },
    Continue { vm: usize, instance: u64 },
    Ask(Box<Ask>),
}

pub(super) struct Process {
    pub(super) controller: Controller,
    pub(super) nonce: u64,
    /// By VM.
    pub(super) keepers: Vec<Keeper>,
    /// By unit, as the controller was told.
    pub(super) told_owners: Vec<Ownership>,
    /// By VM.
    pub(super) seats: Vec<Seat>,
    /// By VM: its gate lets requests go.
    pub(super) open_gates: Vec<bool>,
    /// By path: as this process sees it.
    pub(super) routes: Vec<Route>,
    pub(super) session: super::etcd::Session,
    pub(super) known_hosts: BTreeMap<String, Arc<HostSummary>>,
    /// The latest promise of room that it has heard of.
    pub(super) seen: u64,
    /// By VM: the move by which it leaves, or comes, or did last.
    pub(super) leaving: Vec<Option<MoveId>>,
    pub(super) arriving: Vec<Option<MoveId>>,
    waiting: VecDeque<(u64, Waiting)>,
    /// On its way to the disk, with its number.
    saving: Option<(u64, Saved, SavedMoves)>,
    changes: u64,
    on_disk: u64,
    ticks: u64,
}

impl World {
    pub(super) fn process(&mut self, host: usize) -> Option<&mut Process> {
        self.hosts[host].process.as_mut()
    }

    pub(super) fn tell(&mut self, host: usize, told: Told) {
        let now = self.now;
        let Some(process) = self.process(host) else { return };
        let effects = process.controller.handle(now, told);
        self.perform(host, effects);
        self.keep(host);
        self.arm_tick(host);
    }

    pub(super) fn tick(&mut self, host: usize, number: u64) {
        if self.process(host).is_some_and(|process| process.ticks == number) {
            self.tell(host, Told::Tick);
        }
    }

    fn arm_tick(&mut self, host: usize) {
        let (now, Some(life)) = (self.now, self.life(host)) else { return };
        let Some(process) = self.process(host) else { return };
        let latest = now + WAKE_AT_LEAST;
        let due = process.controller.next_deadline().map_or(latest, |at| at.min(latest));
        process.ticks += 1;
        let number = process.ticks;
        self.when(due.max(now + Duration::from_millis(1)), Event::Tick { life, number });
    }

    fn perform(&mut self, host: usize, effects: Vec<Effect>) {
        for effect in effects {
            let Some(process) = self.process(host) else { return };
            process.changes += 1;
            let number = process.changes;
            match effect {
                Effect::Publish(plan) => {
                    process.open_gates = plan.vms.iter().map(|vm| vm.gate == Gate::Open).collect();
                    for vm in 0..plan.vms.len() {
                        self.pump_soon(host, vm);
                    }
                }
                Effect::Stop { vm, instance } => {
                    self.tally.suspends += 1;
                    self.wait(host, number, Waiting::Stop { vm: vm.index(), instance });
                }
                Effect::Continue { vm, instance } => {
                    self.wait(host, number, Waiting::Continue { vm: vm.index(), instance });
                }
                Effect::Cluster(ask) => {
                    self.trace.say(self.now, || format!("    kvm{} asks {}", host + 1, brief(&ask)));
                    self.judge_ask(host, &ask);
                    self.wait(host, number, Waiting::Ask(Box::new(ask)));
                }
                Effect::Record(entry) => {
                    self.trace.mix(entry.kind as u64);
                    self.trace.say(self.now, || {
                        format!(
                            "    kvm{} {} {:?}: {}",
                            host + 1,
                            entry.kind.as_str(),
                            entry.subject,
                            entry.reason
                        )
                    });
                    self.judge_record(host, &entry);
                    self.tidy_up(host, &entry);
                }
                Effect::Answer { result, .. } => {
                    self.trace.say(self.now, || format!("    kvm{} answers {result:?}", host + 1));
                }
                Effect::Monitor { .. } => {}
            }
        }
        self.save(host);
        self.judge_host(host);
    }

    /// What follows from what a keeper has found; the keepers look again when they are asked.
    pub(super) fn perform_of_keeper(&mut self, host: usize, effects: Vec<Effect>) {
        self.perform(host, effects);
        self.arm_tick(host);
    }

    fn wait(&mut self, host: usize, number: u64, waiting: Waiting) {
        if let Some(process) = self.process(host) {
            process.waiting.push_back((number, waiting));
        }
    }

    /// Begins to write what is known now, unless a write is on its way.
    fn save(&mut self, host: usize) {
        let Some(life) = self.life(host) else { return };
        let slow = self.net.is_slow(host);
        let Some(process) = self.process(host) else { return };
        if process.saving.is_some() || process.changes == process.on_disk {
            return;
        }
        let (saved, moves) = (process.controller.save(), process.controller.save_moves());
        process.saving = Some((process.changes, saved, moves));
        let after = if slow { self.rng.millis(20..400) } else { self.rng.millis(1..8) };
        self.at(after, Event::Saved(life));
    }

    pub(super) fn saved(&mut self, host: usize) {
        let Some(process) = self.process(host) else { return };
        let Some((number, saved, moves)) = process.saving.take() else { return };
        let mut ready = vec![];
        while process.waiting.front().is_some_and(|(needs, _)| *needs <= number) {
            ready.extend(process.waiting.pop_front().map(|(_, waiting)| waiting));
        }
        process.on_disk = number;
        let is_behind = process.changes > number;
        self.hosts[host].saved = Some((saved, moves));
        for waiting in ready {
            match waiting {
                Waiting::Stop { vm, instance } => {
                    self.send_command(host, vm, (instance, super::qemu::Command::Stop));
                }
                Waiting::Continue { vm, instance } => {
                    self.send_command(host, vm, (instance, super::qemu::Command::Continue));
                }
                Waiting::Ask(ask) => self.ask(host, *ask),
            }
        }
        if is_behind {
            self.save(host);
        }
    }

    pub(super) fn send_command(
        &mut self,
        host: usize,
        vm: usize,
        (instance, command): (u64, super::qemu::Command),
    ) {
        let after = self.rng.micros(100..4000);
        self.at(after, Event::Command { host, vm, instance, command });
    }

    /// It is killed at any moment, and another takes its place later.
    pub(super) fn crash(&mut self, host: usize) {
        if self.hosts[host].process.is_none() {
            return;
        }
        self.tally.fault(super::tally::Fault::Crash);
        self.trace.say(self.now, || format!("FAULT vmpath on kvm{} is killed", host + 1));
        self.process_dies(host);
        let slow = self.rng.percent(15);
        let after = if slow { self.rng.millis(5000..25_000) } else { self.rng.millis(30..2000) };
        self.at(after, Event::Start(host));
    }

    pub(super) fn process_dies(&mut self, host: usize) {
        self.connections_die(host);
        self.calls_die(host);
        self.hosts[host].process = None;
    }

    /// The process starts, or starts again from what the one before has left.
    pub(super) fn start(&mut self, host: usize) {
        if self.hosts[host].process.is_some() || self.is_off(host) {
            return;
        }
        let before = self.ended(host);
        let (spec, now) = (self.scene.specs[host].clone(), self.now);
        let is_first = self.hosts[host].lives == 0;
        self.hosts[host].lives += 1;
        self.nonces += 1;
        let (mut controller, mut effects, moves) = match self.hosts[host].saved.clone() {
            Some((saved, mut moves)) if !is_first => {
                if before == Before::Booted {
                    renew(&mut moves, now);
                }
                let (controller, effects) = Controller::restore(spec.clone(), saved, before, now);
                (controller, effects, moves)
            }
            Some(_) | None => {
                let (controller, effects) = Controller::new(spec.clone(), now);
                (controller, effects, SavedMoves::default())
            }
        };
        let leaving = moves_of(&spec, moves.leaving.iter().map(|m| &m.machine.plan));
        let arriving = moves_of(&spec, moves.arriving.iter().map(|m| &m.plan));
        // Before anything is kept: what is kept then knows of them.
        effects.extend(controller.restore_moves(now, moves));
        let vms = spec.vms.len();
        let names = |vm: VmId| spec.units_of_vm(vm).map(|unit| spec.unit_name(unit)).collect::<Vec<_>>();
        let left = &self.hosts[host].left;
        let keeper = |vm| {
            let mut keeper = Keeper::new(&spec.host.name, names(vm), now);
            keeper.inherit(|unit| left.get(unit).copied());
            keeper
        };
        let keepers = spec.vm_ids().map(keeper).collect();
        let process = Process {
            controller,
            nonce: self.nonces,
            keepers,
            told_owners: vec![Ownership::Unknown; spec.units.len()],
            seats: (0..vms).map(|_| Seat::default()).collect(),
            open_gates: vec![false; vms],
            routes: vec![Route::default(); spec.paths.len()],
            session: super::etcd::Session::default(),
            known_hosts: BTreeMap::new(),
            seen: 0,
            leaving,
            arriving,
            waiting: VecDeque::new(),
            saving: None,
            changes: 0,
            on_disk: 0,
            ticks: 0,
        };
        self.hosts[host].process = Some(process);
        self.recall_files(host);
        self.hold_after_boot(host);
        self.perform(host, effects);
        self.surroundings(host, if is_first { 30 } else { 600 });
        self.keep(host);
        self.arm_tick(host);
    }

    /// What a new process finds by and by.
    fn surroundings(&mut self, host: usize, longest: u64) {
        let Some(life) = self.life(host) else { return };
        for path in 0..self.spec().paths.len() {
            self.see_path(host, path, longest);
        }
        for vm in 0..self.spec().vms.len() {
            let after = self.rng.millis(1..longest + 1);
            self.at(after, Event::Attach { life, vm });
            let after = self.rng.millis(1..longest + 1);
            self.at(after, Event::Announce { life, vm });
            self.missing_process(life, vm);
        }
        let after = self.rng.millis(5..longest + 5);
        self.session_changes(host, after);
        self.at(after + Duration::from_millis(50), Event::Publish(life));
    }

    pub(super) fn hear(&mut self, life: Life, after: Duration, heard: vmpath_core::cluster::Heard) {
        self.at(after, Event::Hear { life, heard: Box::new(heard) });
    }
}

fn moves_of<'a>(
    spec: &vmpath_core::spec::Spec,
    plans: impl Iterator<Item = &'a vmpath_core::migration::Move>,
) -> Vec<Option<MoveId>> {
    let mut moves = vec![None; spec.vms.len()];
    for plan in plans {
        if let Some(vm) = spec.vm_by_name(&plan.vm) {
            moves[vm.index()] = Some(plan.id.clone());
        }
    }
    moves
}

fn brief(ask: &Ask) -> String {
    let text = format!("{ask:?}");
    text.chars().take(160).collect()
}
