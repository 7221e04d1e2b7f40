//! What an outsider knows of a host: every event that went in, every effect that came out, and what hypervisors really do.
//!
//! Invariant: nothing here is asked of the controller but, after a restart, what it still remembers; each rule is worked out
//! from these facts.
//! It does not know any rule.

use super::network::{Network, Proof};
use super::story::{Monitor, Story};
use super::words::Cause;
use std::collections::BTreeMap;
use std::sync::Arc;
use vmpath_core::controller::Controller;
use vmpath_core::effect::{Effect, JournalKind, Subject};
use vmpath_core::event::{Command, Event, HypervisorReport, RunState, StopsOnError};
use vmpath_core::ids::{PathId, VmId};
use vmpath_core::plan::{Gate, Health, PathRoute, RoutePlan};
use vmpath_core::spec::{Presence, Spec};
use vmpath_core::time::Instant;

#[derive(Debug)]
pub(super) struct Facts {
    pub(super) spec: Arc<Spec>,
    pub(super) network: Network,
    /// By `VmId`.
    pub(super) stories: Vec<Story>,
    /// By `PathId`, as last published.
    pub(super) routes: Vec<PathRoute>,
    /// By `VmId`, as last published.
    pub(super) gates: Vec<Gate>,
    /// Of this process of ours or its configuration.
    pub(super) fresh_since: Instant,
    /// On their way out, by the operator's word.
    pub(super) draining: Vec<PathId>,
    commands: BTreeMap<u64, Command>,
    /// When this process of ours was last told anything.
    pub(super) heard: Instant,
    /// What operators were told has been done by this batch of effects.
    pub(super) done: Vec<Command>,
}

impl Facts {
    pub(super) fn new(spec: Arc<Spec>, now: Instant) -> Self {
        Self {
            network: Network::new(&spec, now),
            stories: spec.vms.iter().map(|_| Story::default()).collect(),
            routes: vec![],
            gates: vec![],
            fresh_since: now,
            draining: vec![],
            commands: BTreeMap::new(),
            heard: now,
            done: vec![],
            spec,
        }
    }

    pub(super) fn vm_name(&self, vm: VmId) -> &str {
        &self.spec.vm(vm).name
    }

    /// VMs that are in the configuration, highest priority first, ties by name.
    pub(super) fn by_priority(&self) -> Vec<VmId> {
        let mut order: Vec<VmId> =
            self.spec.vm_ids().filter(|vm| self.spec.vm(*vm).presence == Presence::Present).collect();
        order.sort_by_key(|vm| (std::cmp::Reverse(self.spec.vm(*vm).priority), self.vm_name(*vm)));
        order
    }

    pub(super) fn story(&self, vm: VmId) -> &Story {
        &self.stories[vm.index()]
    }

    pub(super) fn gate(&self, vm: VmId) -> Option<&Gate> {
        self.gates.get(vm.index())
    }

    /// It counts as up, though it may be sick; none if that cannot be told from outside.
    pub(super) fn carries(&self, path: PathId, now: Instant) -> Option<bool> {
        let route = self.routes.get(path.index())?;
        let proven = |proof| self.network.proven_path(&self.spec, path, proof, now);
        match route.health {
            _ if self.draining.contains(&path) => Some(false),
            Health::Up => Some(true),
            Health::Marginal if route.preferred || proven(Proof::Most) => Some(true),
            Health::Marginal if proven(Proof::Least) => None,
            Health::Marginal | Health::Down | Health::Draining | Health::Disabled => Some(false),
        }
    }

    /// Up, and its traffic is on it, as published.
    pub(super) fn at_work(&self, path: PathId) -> bool {
        self.routes.get(path.index()).is_some_and(|r| r.health == Health::Up && r.preferred)
    }

    pub(super) fn event(&mut self, now: Instant, event: &Event) {
        self.heard = now;
        match event {
            Event::Link(report) => self.network.report(now, report),
            Event::Hypervisor { vm, report } => self.hypervisor(now, *vm, report),
            Event::Command { ticket, command } => {
                self.commands.insert(*ticket, command.clone());
            }
            Event::Reload(spec) => {
                self.spec = spec.clone();
                self.network.fill(spec, now);
                self.stories.resize_with(spec.vms.len(), Story::default);
                self.fresh_since = now;
            }
            Event::Load(report) => {
                for (story, load) in self.stories.iter_mut().zip(&report.vms) {
                    if load.is_active() {
                        story.last_io = Some(now);
                    }
                }
                for error in &report.errors {
                    let vm = self.spec.disk(error.disk).vm;
                    self.stories[vm.index()].erred(now - error.ago);
                }
            }
            Event::Silent(_) | Event::Cluster(_) | Event::Tick => {}
        }
    }

    fn hypervisor(&mut self, now: Instant, vm: VmId, report: &HypervisorReport) {
        let answers_eio = matches!(self.gate(vm), Some(Gate::Bounce(_) | Gate::Fail(..)));
        let vhost_user = self.spec.is_vhost_user(vm);
        let Some(story) = self.stories.get_mut(vm.index()) else { return };
        match report {
            HypervisorReport::Connected { instance, state, stops_on_error } => {
                let stops = if vhost_user { StopsOnError::NeedNot } else { *stops_on_error };
                let monitor = Monitor { instance: *instance, state: *state, stops };
                story.connected(now, monitor);
            }
            HypervisorReport::Lost { .. } => story.monitor_lost(now),
            HypervisorReport::State(state) => {
                let adopts = *state == RunState::IoError && answers_eio;
                story.reported(now, *state);
                if adopts {
                    story.adopted();
                }
            }
            HypervisorReport::Refused { .. }
            | HypervisorReport::Machine(_)
            | HypervisorReport::Migration(_)
            | HypervisorReport::MigrationRefused { .. }
            | HypervisorReport::Deaf { .. } => {}
        }
    }

    /// Takes in the plan and the answers of a batch, before its records are looked at.
    pub(super) fn begin(&mut self, now: Instant, effects: &[Effect]) {
        self.done.clear();
        self.network.expire(now);
        for effect in effects {
            match effect {
                Effect::Publish(plan) => self.publish(now, plan),
                Effect::Answer { ticket, result } => {
                    let command = self.commands.remove(ticket);
                    self.done.extend(command.filter(|_| result.is_ok()));
                }
                Effect::Stop { .. }
                | Effect::Continue { .. }
                | Effect::Monitor { .. }
                | Effect::Cluster(_)
                | Effect::Record(_) => {}
            }
        }
        for command in &self.done {
            if let Command::SuspendVm(vm) | Command::ResumeVm(vm) = command {
                self.stories[vm.index()].operator = *command == Command::SuspendVm(*vm);
            }
            if let Command::DrainPath(path, _) | Command::EnablePath(path) = command {
                self.draining.retain(|p| p != path);
                if *command == Command::EnablePath(*path) {
                    self.network.enabled(now, *path);
                } else {
                    self.draining.push(*path);
                }
            }
        }
    }

    fn publish(&mut self, now: Instant, plan: &RoutePlan) {
        self.network.planned(now, &plan.paths);
        self.routes.clone_from(&plan.paths);
        self.gates = plan.vms.iter().map(|route| route.gate.clone()).collect();
    }

    /// Another process of ours goes on. What it does not remember of what never happened is forgotten here too; a VM that
    /// really stands still because we stopped it is not.
    pub(super) fn restarted(&mut self, now: Instant, controller: &Controller) {
        let view = controller.view(now);
        self.spec = view.spec.clone();
        self.network.fill(&view.spec, now);
        self.network.restarted(now, controller);
        self.stories.resize_with(view.vms.len(), Story::default);
        for row in &view.vms {
            self.stories[row.vm.index()].restarted(now, self.heard, row);
        }
        self.gates.clear();
        self.draining.clear();
        self.commands.clear();
        self.fresh_since = now;
    }

    /// It runs, as far as can be known, and is not about to stop.
    pub(super) fn runs(&self, vm: VmId, now: Instant) -> bool {
        self.story(vm).runs(now)
    }

    /// The cause that a record names, if it is one of a VM.
    pub(super) fn told(entry: &vmpath_core::effect::JournalEntry) -> Option<(VmId, JournalKind, Cause)> {
        match entry.subject {
            Subject::Vm(vm) => Some((vm, entry.kind, Cause::of(&entry.reason))),
            Subject::Host | Subject::Target(_) | Subject::Path(_) | Subject::Unit(_) => None,
        }
    }
}
