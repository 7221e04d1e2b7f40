//! What must hold at every moment, and who has seen that it does not.
//!
//! Invariant: the checkers know the store, the array and the journal, and share no code with what decides; each rule has a word.
//! It does not know how anything came about.

use super::array::{Attempt, Flight};
use super::power::Power;
use super::scene::BLOCK;
use super::store::Change;
use super::world::World;
use std::collections::BTreeMap;
use vmpath_core::cluster::Ask;
use vmpath_core::effect::{JournalEntry, JournalKind, Subject};
use vmpath_core::ids::VmId;
use vmpath_core::migration::source::Act;
use vmpath_core::migration::{Move, MoveId, QuarantineHandOver};
use vmpath_core::time::{Duration, Instant};

/// From the answer of a destination that has read the units to the next step of its move, and all that has to be on disk for it.
const DECIDED_WITHIN: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
struct Known {
    began: Instant,
    /// When its destination's answer to the probe came.
    probed: Option<Instant>,
    commits: u32,
}

#[derive(Debug)]
pub(super) struct Rules {
    moves: BTreeMap<String, Known>,
    /// By host and VM: when it came there, and the last thing that the journal says of its moves.
    arrived: Vec<Vec<Option<Instant>>>,
    /// The same: when a host was looked for, it had a path to each of its units.
    served: Vec<Vec<bool>>,
    pub(super) last_word: Vec<Vec<Option<(JournalKind, String)>>>,
}

impl Rules {
    pub(super) fn new(hosts: usize, vms: usize) -> Self {
        Self {
            moves: BTreeMap::new(),
            arrived: vec![vec![None; vms]; hosts],
            served: vec![vec![false; vms]; hosts],
            last_word: vec![vec![None; vms]; hosts],
        }
    }

    fn of(&mut self, id: &MoveId) -> &mut Known {
        self.moves.entry(id.to_string()).or_default()
    }

    /// Another guest begins anew.
    pub(super) fn forget_stay(&mut self, vm: usize) {
        self.arrived.iter_mut().for_each(|of_host| of_host[vm] = None);
    }

    pub(super) fn probed(&mut self, id: &MoveId, now: Instant) {
        self.of(id).probed = Some(now);
    }
}

impl World {
    /// A request is being sent.
    pub(super) fn judge_sent(&mut self, host: usize, vm: usize, unit: usize) {
        if self.store.owner(unit) != Some(host) {
            let text = format!(
                "kvm{} sends a request of vm{vm} to {}, which belongs to {}",
                host + 1,
                self.unit_name(unit),
                self.owner_word(unit)
            );
            self.violated("two-writers", text);
        }
    }

    fn owner_word(&self, unit: usize) -> String {
        self.store.owner(unit).map_or_else(|| "nobody".to_owned(), super::scene::host_name)
    }

    /// A request reaches the array: its writer is the owner, or everybody who may write knows that it may come.
    pub(super) fn judge_writer(&mut self, attempt: u32) {
        let Attempt { host, flight, request, .. } = self.array.attempts[attempt as usize];
        let its = self.array.requests[request as usize];
        let owner = self.store.owner(its.unit);
        if !its.write || owner == Some(host) {
            return;
        }
        let guarded =
            flight == Flight::Lost && owner.is_some_and(|owner| self.guards(owner, its.unit, its.block));
        if !guarded {
            let text = format!(
                "write {request} of kvm{} reaches block {} of {}, which belongs to {}, {}",
                host + 1,
                its.block,
                self.unit_name(its.unit),
                self.owner_word(its.unit),
                if flight == Flight::Lost {
                    "and it is in nobody's quarantine"
                } else {
                    "from a live connection"
                }
            );
            self.violated("two-writers", text);
        }
    }

    /// That host keeps everything else off the block: by its record, or by what it was handed and has not begun with.
    fn guards(&self, host: usize, unit: usize, block: usize) -> bool {
        // What has not begun again after its host's death waits longer than for all that came before.
        if matches!(self.hosts[host].power, Power::Off | Power::Booted(_)) {
            return true;
        }
        let of_record = self.hosts[host].record[unit].iter().any(|q| q.block == block && q.until >= self.now)
            || self.hosts[host].held[unit] >= self.now;
        let name = self.unit_name(unit);
        let file = self.hosts[host].files[self.vm_of_unit(unit)].as_ref();
        let of_file = file.is_some_and(|file| {
            let disks = file.hand_over.disks.iter().filter(|disk| disk.unit == name);
            let ranges = disks.flat_map(|disk| &disk.quarantine);
            let at = block as u64 * BLOCK;
            let over = |q: &&QuarantineHandOver| q.offset <= at && at < q.offset + q.length;
            ranges.filter(over).any(|q| file.since + q.remaining >= self.now)
        });
        of_record || of_file
    }

    /// Whoever would send is the owner.
    pub(super) fn judge_owners(&mut self, host: usize, vm: usize) {
        for unit in self.disks_of(vm) {
            if self.may_dispatch(host, vm, unit) && self.store.owner(unit) != Some(host) {
                let text = format!(
                    "kvm{} would send what vm{vm} asks of {}, which belongs to {}",
                    host + 1,
                    self.unit_name(unit),
                    self.owner_word(unit)
                );
                self.violated("false-owner", text);
            }
        }
    }

    pub(super) fn owners_changed(&mut self, by: usize, units: &[(usize, Option<u64>)], change: &Change) {
        self.tally.owners_changed += 1;
        match change {
            Change::Commit { id, .. } => {
                self.tally.commits += 1;
                let known = self.rules.of(id);
                known.commits += 1;
                if known.commits > 1 {
                    self.violated("commit-twice", format!("{id} is committed twice"));
                }
            }
            Change::GiveBack { .. } => self.tally.moves_given_back += 1,
            Change::Claim | Change::Release | Change::Bump | Change::Bar { .. } | Change::TakeOver { .. } => {
            }
        }
        self.tell_watchers(units);
        for (unit, _) in units {
            let vm = self.vm_of_unit(*unit);
            self.judge_owners(by, vm);
        }
    }

    /// Something is asked for, as the controller has decided it.
    pub(super) fn judge_ask(&mut self, host: usize, ask: &Ask) {
        if let Ask::Place { vm, .. } = ask {
            self.rules.served[host][vm.index()] = self.has_paths(host, vm.index());
        }
        let Ask::Leave { vm, move_id, act } = ask else { return };
        match act {
            Act::Probe { .. } => {
                self.tally.moves_begun += 1;
                let now = self.now;
                self.rules.of(move_id).began = now;
                self.judge_dwell(host, vm.index(), move_id);
            }
            Act::Claim { .. } => {
                let now = self.now;
                let probed = self.rules.of(move_id).probed;
                if let Some(late) = probed.map(|at| now.since(at)).filter(|late| *late > DECIDED_WITHIN) {
                    let text =
                        format!("{move_id} goes on {} ms after its destination qualified", late.as_millis());
                    self.violated("late-decision", text);
                }
            }
            Act::Prepare(plan) => {
                self.tally.moves_prepared += 1;
                self.judge_prepare(vm.index(), plan);
            }
            Act::Unclaim
            | Act::Migrate { .. }
            | Act::Settle { .. }
            | Act::HandOver(_)
            | Act::Commit { .. }
            | Act::ReadOwners { .. }
            | Act::Bump { .. }
            | Act::Own { .. }
            | Act::Disown { .. }
            | Act::Continue { .. }
            | Act::Cancel { .. }
            | Act::Query { .. }
            | Act::Stop { .. }
            | Act::Resume { .. }
            | Act::Discard { .. }
            | Act::Revoke => {}
        }
    }

    /// A move that began when no host reached the array comes to nothing before anything is launched.
    fn judge_prepare(&mut self, vm: usize, plan: &Move) {
        let began = self.rules.of(&plan.id).began;
        for unit in self.disks_of(vm) {
            let target = self.spec().units[unit].target.index();
            if self.net.array_since[target].is_some_and(|since| since < began) {
                let text = format!("{} goes on, and no host reaches {}", plan.id, self.unit_name(unit));
                self.violated("array-fault", text);
            }
        }
    }

    /// The controller there knows of a path to each of its units.
    fn has_paths(&self, host: usize, vm: usize) -> bool {
        let Some(process) = &self.hosts[host].process else { return false };
        let paths = || self.spec().paths.iter().zip(&process.routes);
        let leads = |unit: usize| {
            let target = self.spec().units[unit].target;
            paths().any(|(path, route)| path.target == target && route.told_up)
        };
        self.disks_of(vm).into_iter().all(leads)
    }

    fn judge_dwell(&mut self, host: usize, vm: usize, id: &MoveId) {
        let Some(arrived) = self.rules.arrived[host][vm] else { return };
        let (stayed, dwell) = (self.now.since(arrived), self.spec().vms[vm].move_dwell);
        if stayed >= dwell {
            return;
        }
        let Some(process) = &self.hosts[host].process else { return };
        let moves = process.controller.view(self.now).moves;
        let by_rule = moves.iter().any(|view| view.id == *id && view.incident.is_some());
        if self.rules.served[host][vm] && by_rule {
            let text = format!(
                "vm{vm} came to kvm{} {} ms ago, has a path, and leaves again before {} ms",
                host + 1,
                stayed.as_millis(),
                dwell.as_millis()
            );
            self.violated("dwell", text);
        }
    }

    /// After each event of a host.
    pub(super) fn judge_host(&mut self, host: usize) {
        let max =
            self.scene.specs[host].cluster.as_ref().map_or(0, |cluster| usize::from(cluster.migration.max));
        let Some(process) = &self.hosts[host].process else { return };
        let vms = 0..self.spec().vms.len();
        let moving = vms.filter(|vm| process.controller.is_moving(VmId::at(*vm))).count();
        if moving > max {
            self.violated(
                "migrations-max",
                format!("{moving} moves at kvm{}, of {max} that may be", host + 1),
            );
        }
    }

    pub(super) fn judge_record(&mut self, host: usize, entry: &JournalEntry) {
        let Subject::Vm(vm) = entry.subject else { return };
        match entry.kind {
            JournalKind::VmMigrated => {
                self.tally.moves_done += 1;
                self.rules.arrived[host][vm.index()] = None;
                self.judge_left(host, vm.index());
            }
            JournalKind::VmArrived => self.rules.arrived[host][vm.index()] = Some(self.now),
            JournalKind::MigrationCancelled => self.tally.moves_cancelled += 1,
            JournalKind::MigrationHeld => self.tally.moves_held += 1,
            _ => {}
        }
        let of_moves = matches!(
            entry.kind,
            JournalKind::VmMigrating
                | JournalKind::VmMigrated
                | JournalKind::MigrationCancelled
                | JournalKind::MigrationHeld
                | JournalKind::VmArriving
                | JournalKind::VmArrived
                | JournalKind::ArrivalCancelled
        );
        if of_moves {
            self.rules.last_word[host][vm.index()] = Some((entry.kind, entry.reason.clone()));
        }
        let needs_end = matches!(
            entry.kind,
            JournalKind::VmHeld
                | JournalKind::VmSuspending
                | JournalKind::MigrationHeld
                | JournalKind::VmMigrating
        );
        if needs_end && entry.until.is_none() {
            self.violated("no-end", format!("{}: {} has no end", entry.kind.as_str(), entry.reason));
        }
    }

    /// QEMU is told to send the rest.
    pub(super) fn judge_continue(&mut self, host: usize, vm: usize) {
        let Some(process) = &self.hosts[host].process else { return };
        let Some(id) = process.leaving[vm].clone() else { return };
        if self.rules.of(&id).commits == 0 {
            self.violated(
                "continue-early",
                format!("{id}: QEMU sends the rest, and its units have not gone"),
            );
        }
    }
}
