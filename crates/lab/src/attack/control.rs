//! The control owner around its controller: one event in, effects out, in order and with delays; and what it keeps.
//!
//! As in the daemon, an order to a hypervisor leaves only when the state that it follows from is on disk, and what is on disk
//! is behind what is known. It does not know how a decision is made; `policy` judges that.

use super::world::{Event, World};
use std::sync::Arc;
use vmpath_core::controller::Controller;
use vmpath_core::effect::{Effect, Wanted};
use vmpath_core::event::{Event as Told, RunState};
use vmpath_core::plan::RoutePlan;
use vmpath_core::saved::{Before, Saved};
use vmpath_core::time::{Duration, Instant};

/// The owner wakes at least this often.
const WAKE_AT_LEAST: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(5)];

struct Order {
    vm: usize,
    instance: u64,
    wanted: RunState,
    /// May leave when this much is on disk.
    needs: u64,
}

#[derive(Default)]
pub(super) struct Control {
    pub(super) spec_plan: Option<Arc<RoutePlan>>,
    /// On disk.
    pub(super) saved: Saved,
    /// By how many boots it was preceded, and how many there have been.
    saved_in: u64,
    boots: u64,
    /// On its way there, with its number.
    saving: Option<(u64, Saved)>,
    on_disk: u64,
    changes: u64,
    orders: Vec<Order>,
    ticks: u64,
    tick_at: Instant,
    ticket: u64,
}

impl Control {
    /// The process is gone: what had not left or was not on disk is lost.
    pub(super) fn died(&mut self) {
        (self.saving, self.on_disk, self.changes) = (None, 0, 0);
        self.orders.clear();
    }

    pub(super) fn next_ticket(&mut self) -> u64 {
        self.ticket += 1;
        self.ticket
    }
}

impl World {
    pub(super) fn tell_control(&mut self, told: Told) {
        let Some(controller) = &mut self.controller else { return };
        self.policy.event(self.now, &told);
        // As in the daemon: what was heard is worth remembering even if nothing follows from it; a measurement is not.
        let is_measure = matches!(told, Told::Load(_) | Told::Tick);
        let effects = controller.handle(self.now, told);
        let is_quiet = effects.is_empty();
        self.perform_effects(&effects);
        if is_quiet && !is_measure {
            self.control.changes += 1;
            self.save();
        }
        self.arm_tick();
    }

    pub(super) fn tick(&mut self, number: u64) {
        if number == self.control.ticks {
            self.tell_control(Told::Tick);
        }
    }

    fn arm_tick(&mut self) {
        let Some(controller) = &self.controller else { return };
        let latest = self.now + WAKE_AT_LEAST[usize::from(self.is_calm())];
        let due = controller.next_deadline().map_or(latest, |at| at.min(latest));
        let due = due.max(self.now + Duration::from_millis(1));
        self.control.ticks += 1;
        self.control.tick_at = due;
        let number = self.control.ticks;
        self.when(due, Event::Tick(number));
    }

    pub(super) fn perform_effects(&mut self, effects: &[Effect]) {
        let Some(controller) = &self.controller else { return };
        let verdict = self.policy.effects(self.now, controller, effects);
        self.check(verdict);
        if effects.is_empty() {
            return;
        }
        self.control.changes += 1;
        for effect in effects {
            self.trace.say(self.now, || format!("    {}", shown(effect)));
            match effect {
                Effect::Publish(plan) => self.publish(Arc::new(plan.clone())),
                Effect::Stop { vm, instance } => self.order_later(vm.index(), *instance, RunState::Paused),
                Effect::Continue { vm, instance } => {
                    self.order_later(vm.index(), *instance, RunState::Running);
                }
                Effect::Monitor { vm, wanted } => self.processes[vm.index()].wanted = *wanted == Wanted::Yes,
                Effect::Record(entry) => self.trace.mix(entry.kind as u64),
                Effect::Answer { ticket, .. } => self.trace.mix(*ticket),
                // This world has one host.
                Effect::Cluster(_) => {}
            }
        }
        self.save();
    }

    fn order_later(&mut self, vm: usize, instance: u64, wanted: RunState) {
        self.trace.mix(vm as u64 ^ instance << 8 ^ (wanted as u64) << 16);
        let needs = self.control.changes;
        self.control.orders.push(Order { vm, instance, wanted, needs });
    }

    fn publish(&mut self, plan: Arc<RoutePlan>) {
        self.trace.mix(plan.generation);
        for at in 0..self.workers.len() {
            let slow = self.rng.percent(4);
            let after = if slow { self.rng.millis(20..200) } else { self.rng.micros(10..1500) };
            let worker = &mut self.workers[at];
            worker.plans.push_back(Arc::clone(&plan));
            worker.plan_due = worker.plan_due.max(self.now + after);
            let due = worker.plan_due;
            self.when(due, Event::Plan { worker: at });
        }
        self.control.spec_plan = Some(plan);
    }

    /// Begins to write what is known now, unless a write is on its way.
    fn save(&mut self) {
        let Some(controller) = self.controller.as_ref().filter(|_| self.control.saving.is_none()) else {
            return;
        };
        self.control.saving = Some((self.control.changes, controller.save()));
        let after = if self.rng.percent(5) { self.rng.millis(50..600) } else { self.rng.millis(1..15) };
        self.at(after, Event::Committed);
    }

    pub(super) fn committed(&mut self) {
        let Some((number, saved)) = self.control.saving.take() else { return };
        (self.control.on_disk, self.control.saved) = (number, saved);
        self.control.saved_in = self.control.boots;
        let (ready, later) =
            std::mem::take(&mut self.control.orders).into_iter().partition(|o: &Order| o.needs <= number);
        self.control.orders = later;
        let ready: Vec<Order> = ready;
        for Order { vm, instance, wanted, .. } in ready {
            let after = self.rng.micros(100..5000);
            self.at(after, Event::Order { vm, instance, wanted });
        }
        if self.control.changes > number {
            self.save();
        }
    }

    /// The process starts, or starts again from what the one before has left.
    pub(super) fn start(&mut self, before: Option<Before>) {
        let (spec, now) = (self.scene.spec.clone(), self.now);
        self.control.boots += u64::from(before == Some(Before::Booted));
        // A process that died before it had saved anything of this boot has left the state of another one.
        let is_of_this_boot = self.control.saved_in == self.control.boots;
        let left = before.map(|before| if is_of_this_boot { before } else { Before::Booted });
        let (controller, effects) = match left {
            None => Controller::new(spec.clone(), now),
            Some(before) => {
                let saved = std::mem::take(&mut self.control.saved);
                self.control.saved = saved.clone();
                Controller::restore(spec.clone(), saved, before, now)
            }
        };
        let plan = effects.iter().find_map(|effect| match effect {
            Effect::Publish(plan) => Some(Arc::new(plan.clone())),
            Effect::Stop { .. }
            | Effect::Continue { .. }
            | Effect::Monitor { .. }
            | Effect::Cluster(_)
            | Effect::Record(_)
            | Effect::Answer { .. } => None,
        });
        let Some(plan) = plan else {
            self.violated("plan", "a controller starts without a plan".into());
            return;
        };
        if left == Some(Before::Booted) {
            // No hypervisor of then is left: what its VMs went through is over.
            self.policy = super::policy::PolicyChecks::new(spec.clone(), now);
        }
        if before.is_some() {
            self.policy.restarted(now, &controller);
        }
        self.controller = Some(controller);
        self.start_workers(&plan, before);
        self.perform_effects(&effects);
        self.arm_tick();
        for vm in 0..self.processes.len() {
            let after = self.rng.millis(1..if before.is_some() { 400 } else { 50 });
            self.at(after, Event::Announce(vm));
        }
        for disk in 0..spec.disks.len() {
            let after = self.rng.millis(1..500);
            self.at(after, Event::Attach { disk });
        }
    }
}

fn shown(effect: &Effect) -> String {
    match effect {
        Effect::Publish(plan) => {
            let health: Vec<_> = plan.paths.iter().map(|p| p.health.to_string()).collect();
            let gates: Vec<_> = plan.vms.iter().map(|vm| word(&vm.gate)).collect();
            format!("plan {}: {} / {}", plan.generation, health.join(" "), gates.join(" "))
        }
        Effect::Record(entry) => {
            format!("{} {:?} {:?}: {}", entry.kind.as_str(), entry.subject, entry.incident, entry.reason)
        }
        Effect::Stop { .. }
        | Effect::Continue { .. }
        | Effect::Monitor { .. }
        | Effect::Cluster(_)
        | Effect::Answer { .. } => {
            format!("{effect:?}")
        }
    }
}

fn word(gate: &vmpath_core::plan::Gate) -> &'static str {
    use vmpath_core::plan::Gate;
    match gate {
        Gate::Open => "open",
        Gate::Hold(_) => "hold",
        Gate::Bounce(_) => "bounce",
        Gate::Fail(..) => "fail",
    }
}
