//! What of each VM waits, where and for what: its queues, the classes in which the scheduler sees it, the time held.
//!
//! Invariant: a VM has joined a class exactly if one of its queues of that class has something that may go as far as the
//! VM itself is concerned. Every change of a queue goes through here, so that the time that its requests have waited is
//! put down to the reason that held until then. It does not know who goes first.

use super::classes::ClassAt;
use super::halt::Halt;
use super::shortage::Shortage;
use super::{End, Entry, Place, RequestKey, Router};
use crate::ids::{DiskId, TargetId, UnitId, VmId};
use crate::plan::Gate;
use crate::schedule::Cost;
use crate::select::Level;
use crate::time::{Duration, Instant};
use crate::view::HoldReason;
use crate::volume::verdict::TargetError;
use std::collections::VecDeque;

#[derive(Clone, Debug)]
pub(super) struct Lane {
    /// One for each disk of the VM, so that a disk without a path does not block the others.
    pub(super) queues: Vec<Queue>,
    pub(super) next_queue: usize,
    /// In queues that do not stand still.
    pub(super) queued: u32,
    pub(super) in_flight: u32,
    /// The policy holds the VM, or control has not said yet what becomes of it.
    pub(super) is_held: bool,
    /// Of its disks.
    pub(super) targets: Vec<TargetId>,
    /// Where the scheduler sees it.
    pub(super) joined: Vec<ClassAt>,
    /// Nothing goes before the plan that has taken this link report into account.
    pub(super) awaits_plan: Option<u64>,
    pub(super) counters: LaneCounters,
    /// Bytes answered, by `PathId`.
    pub(super) carried: Vec<u64>,
}

#[derive(Clone, Debug)]
pub(super) struct Queue {
    pub(super) disk: DiskId,
    pub(super) unit: UnitId,
    pub(super) keys: VecDeque<RequestKey>,
    pub(super) halt: Halt,
    /// The paths it can go over now; none without any.
    pub(super) class: Option<ClassAt>,
    /// Up to when the waiting of its requests has been put down.
    since: Instant,
    /// Its target refuses what it is sent, for want of resources.
    pub(super) shortage: Option<Shortage>,
    /// The last error that its guest was answered with, and when.
    pub(super) error: Option<(Instant, TargetError)>,
}

#[derive(Clone, Debug)]
pub(super) struct LaneCounters {
    pub(super) completed_requests: u64,
    pub(super) completed_bytes: u64,
    /// What answered attempts cost.
    pub(super) device_bytes: u64,
    pub(super) failed_requests: u64,
    pub(super) retried_requests: u64,
    /// Time in which requests waited for room on a path, each moment once; and up to when that was counted.
    pub(super) starved: Duration,
    starved_to: Instant,
    /// By [`HoldReason`], summed over requests.
    pub(super) held: [Duration; HoldReason::ALL.len()],
}

impl Lane {
    pub(super) fn new(
        disks: impl Iterator<Item = (DiskId, UnitId)>,
        targets: Vec<TargetId>,
        paths: usize,
    ) -> Self {
        let queue = |(disk, unit)| Queue {
            disk,
            unit,
            keys: VecDeque::new(),
            halt: Halt::default(),
            class: None,
            since: Instant::ZERO,
            shortage: None,
            error: None,
        };
        let queues: Vec<_> = disks.map(queue).collect();
        Self {
            next_queue: 0,
            queued: 0,
            in_flight: 0,
            is_held: false,
            targets,
            joined: Vec::with_capacity(queues.len()),
            awaits_plan: None,
            counters: LaneCounters {
                completed_requests: 0,
                completed_bytes: 0,
                device_bytes: 0,
                failed_requests: 0,
                retried_requests: 0,
                starved: Duration::ZERO,
                starved_to: Instant::ZERO,
                held: [Duration::ZERO; HoldReason::ALL.len()],
            },
            carried: vec![0; paths],
            queues,
        }
    }

    pub(super) fn place_of(&self, disk: DiskId) -> usize {
        self.queues.iter().position(|q| q.disk == disk).expect("a VM's lane has all its disks")
    }

    /// Whether something waits that may go over the paths of the class.
    fn waits_in(&self, class: ClassAt) -> bool {
        !self.is_held && self.queues.iter().any(|q| q.class == Some(class) && q.front().is_some())
    }
}

impl Queue {
    /// The next to go. None while it stands still.
    pub(super) fn front(&self) -> Option<&RequestKey> {
        self.keys.front().filter(|_| self.halt.reason().is_none())
    }
}

impl Router {
    pub(super) fn enqueue(&mut self, key: RequestKey, end: End, now: Instant) {
        let entry = self.entry_mut(key);
        entry.place = Place::Queued;
        let (vm, disk) = (entry.vm, entry.request.disk);
        let at = self.lanes[vm.index()].place_of(disk);
        self.account(vm, at, now);
        if end == End::Front {
            self.retries_wait(vm, key);
        }
        let queue = &mut self.lanes[vm.index()].queues[at];
        match end {
            End::Front => queue.keys.push_front(key),
            End::Back => queue.keys.push_back(key),
        }
        if queue.halt.reason().is_none() {
            let class = queue.class;
            self.lanes[vm.index()].queued += 1;
            self.woken(vm, at, now);
            if let (End::Front, Some(class)) = (end, class) {
                self.classes.ready(class);
            }
        }
    }

    /// The queue has something to go.
    fn woken(&mut self, vm: VmId, at: usize, now: Instant) {
        let lane = &mut self.lanes[vm.index()];
        if lane.is_held {
            return;
        }
        if let Some(class) = lane.queues[at].class {
            if self.competitions[self.classes.of(class).target.index()].enter(vm) {
                self.classes.all_ready();
            }
            if lane.joined.contains(&class) {
                // What waits there waits for room, unless it is the first.
                if lane.queues[at].keys.len() == 1 {
                    self.classes.ready(class);
                }
            } else {
                lane.joined.push(class);
                self.classes.joined(class);
                self.scheduler.join(vm, self.classes.of(class).id, now);
            }
        }
    }

    /// Takes the first of a queue.
    pub(super) fn pop_front(&mut self, vm: VmId, at: usize, now: Instant) {
        self.account(vm, at, now);
        let lane = &mut self.lanes[vm.index()];
        lane.queues[at].keys.pop_front();
        lane.queued -= 1;
        self.emptied(vm, at, now);
    }

    /// Something has left the queue: has the VM anything left in its class, and anything at all?
    fn emptied(&mut self, vm: VmId, at: usize, now: Instant) {
        let lane = &mut self.lanes[vm.index()];
        if !lane.queues[at].keys.is_empty() {
            return;
        }
        if let Some(class) = lane.queues[at].class
            && !lane.waits_in(class)
            && let Some(place) = lane.joined.iter().position(|c| *c == class)
        {
            lane.joined.swap_remove(place);
            self.classes.left(class);
            self.scheduler.leave(vm, self.classes.of(class).id);
        }
        self.rest_if_idle(vm, now);
    }

    pub(super) fn rest_if_idle(&mut self, vm: VmId, now: Instant) {
        let lane = &self.lanes[vm.index()];
        if lane.in_flight == 0 && (lane.queued == 0 || lane.is_held) {
            for target in &lane.targets {
                self.competitions[target.index()].rest(vm, now);
            }
        }
    }

    /// Tells the scheduler anew where the VM waits: after whatever changes that, other than a request that comes or goes.
    pub(super) fn rejoin(&mut self, vm: VmId, now: Instant) {
        // First where it waits now: who moves has not been idle.
        for at in 0..self.lanes[vm.index()].queues.len() {
            if self.lanes[vm.index()].queues[at].front().is_some() {
                self.woken(vm, at, now);
            }
        }
        let lane = &mut self.lanes[vm.index()];
        let mut at = 0;
        while let Some(class) = lane.joined.get(at).copied() {
            if lane.waits_in(class) {
                at += 1;
            } else {
                lane.joined.swap_remove(at);
                self.classes.left(class);
                self.scheduler.leave(vm, self.classes.of(class).id);
            }
        }
        self.look_again(vm);
        self.rest_if_idle(vm, now);
    }

    /// What waits of the VM, or behind what waited of it, may go now.
    pub(super) fn look_again(&mut self, vm: VmId) {
        for at in 0..self.lanes[vm.index()].queues.len() {
            if let Some(class) = self.lanes[vm.index()].queues[at].class {
                self.classes.look_at(class);
            }
        }
    }

    /// Whether the VM is held as a whole, worked out anew.
    pub(super) fn hold_or_free(&mut self, vm: VmId, now: Instant) {
        let gate_holds = matches!(self.plan.vms[vm.index()].gate, Gate::Hold(_));
        let held = gate_holds || self.awaits_word(vm);
        if self.lanes[vm.index()].is_held != held {
            self.account_all(vm, now);
            self.lanes[vm.index()].is_held = held;
            self.rejoin(vm, now);
        }
    }

    /// Puts down what the requests of a queue have waited for since the last time.
    pub(super) fn account(&mut self, vm: VmId, at: usize, now: Instant) {
        let lane = &self.lanes[vm.index()];
        let queue = &lane.queues[at];
        let waiting = u32::try_from(queue.keys.len()).unwrap_or(u32::MAX);
        let since = queue.since;
        if waiting > 0 && now > since {
            let allowed = self.scheduler.allowed_at(vm).clamp(since, now);
            let (limited, rest) = match self.queue_reason(vm, at, now) {
                HoldReason::Limit => (now.since(since), Duration::ZERO),
                HoldReason::Window | HoldReason::Headroom => (allowed.since(since), now.since(allowed)),
                _ => (Duration::ZERO, now.since(since)),
            };
            let reason = self.queue_reason(vm, at, now);
            let counters = &mut self.lanes[vm.index()].counters;
            counters.held[HoldReason::Limit as usize] += limited * waiting;
            counters.held[reason as usize] += rest * waiting;
            if matches!(reason, HoldReason::Window | HoldReason::Headroom) {
                let from = allowed.max(counters.starved_to);
                counters.starved += now.since(from.min(now));
                counters.starved_to = now;
            }
        }
        self.lanes[vm.index()].queues[at].since = now.max(since);
    }

    pub(super) fn account_all(&mut self, vm: VmId, now: Instant) {
        for at in 0..self.lanes[vm.index()].queues.len() {
            self.account(vm, at, now);
        }
    }

    /// Why the requests of a queue wait now.
    pub(super) fn queue_reason(&self, vm: VmId, at: usize, now: Instant) -> HoldReason {
        let lane = &self.lanes[vm.index()];
        let queue = &lane.queues[at];
        if let Some(reason) = queue.halt.reason() {
            return reason;
        }
        if lane.is_held {
            return HoldReason::Gate;
        }
        let Some(class) = queue.class else { return HoldReason::NoPath };
        if self.scheduler.allowed_at(vm) > now {
            return HoldReason::Limit;
        }
        let class = self.classes.of(class);
        class.reason(self.level(vm, class.target))
    }

    /// A request's own waiting, outside of a queue.
    pub(super) fn waited(&mut self, key: RequestKey, reason: HoldReason, since: Instant, now: Instant) {
        let vm = self.entry(key).vm;
        self.lanes[vm.index()].counters.held[reason as usize] += now.since(since);
    }

    /// Takes a request that waits out of where it waits.
    pub(super) fn take_out(&mut self, key: RequestKey, now: Instant) {
        let (vm, unit, disk, place) = {
            let e = self.entry(key);
            (e.vm, e.unit, e.request.disk, e.place)
        };
        match place {
            Place::Queued => {
                let at = self.lanes[vm.index()].place_of(disk);
                self.account(vm, at, now);
                let lane = &mut self.lanes[vm.index()];
                let queue = &mut lane.queues[at];
                queue.keys.retain(|k| *k != key);
                if queue.halt.reason().is_none() {
                    lane.queued -= 1;
                    self.emptied(vm, at, now);
                    self.look_again(vm);
                }
            }
            Place::Parked { .. } => self.units[unit.index()].parked.retain(|k| *k != key),
            Place::Delayed { .. } => self.delayed.retain(|k| *k != key),
            Place::Unfenced { .. } => self.units[unit.index()].unfenced.retain(|k| *k != key),
            Place::InFlight { .. } => unreachable!("what is in flight does not wait"),
        }
    }

    /// Takes the requests of the VM that wait, and that its gate answers, out of where they wait: its queues, its units, the
    /// busy targets.
    pub(super) fn take_out_answered(&mut self, vm: VmId, now: Instant) -> Vec<RequestKey> {
        self.account_all(vm, now);
        let mut keys = vec![];
        for at in 0..self.lanes[vm.index()].queues.len() {
            if !self.gate_answers(vm, self.lanes[vm.index()].queues[at].unit) {
                continue;
            }
            let lane = &mut self.lanes[vm.index()];
            let queue = &mut lane.queues[at];
            if queue.halt.reason().is_none() {
                lane.queued -= queue.keys.len() as u32;
            }
            keys.extend(queue.keys.drain(..));
        }
        self.rejoin(vm, now);
        for disk in self.plan.spec.disks_of_vm(vm) {
            let unit = self.plan.spec.disk(disk).unit;
            if self.gate_answers(vm, unit) {
                let is_its = |key: &mut RequestKey| self.requests[*key as usize].vm == vm;
                keys.extend(self.units[unit.index()].parked.extract_if(.., is_its));
            }
        }
        let answered: Vec<_> = self.units_answered(vm);
        let is_its = |key: &mut RequestKey| {
            let entry = &self.requests[*key as usize];
            entry.vm == vm && answered.contains(&entry.unit)
        };
        keys.extend(self.delayed.extract_if(.., is_its));
        keys
    }

    fn units_answered(&self, vm: VmId) -> Vec<UnitId> {
        self.plan.spec.units_of_vm(vm).filter(|unit| self.gate_answers(vm, *unit)).collect()
    }
}

impl Router {
    /// At what level the VM stands among those that compete on a target now.
    pub(super) fn level(&self, vm: VmId, target: TargetId) -> Level {
        self.competitions[target.index()].level(self.scheduler.priority(vm))
    }
}

/// What of an entry counts against its VM's allocation.
pub(super) fn cost_of(entry: &Entry) -> Cost {
    entry.attempt().cost()
}
