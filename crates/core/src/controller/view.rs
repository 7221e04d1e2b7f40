//! What can be shown: rows made from the state, with the sentences of `words`.
//!
//! Invariant: a VM that is held, stopped or on its way has at least one sentence and something that it waits for.
//! It does not know tables or JSON.

use super::shed::Outlook;
use super::{Controller, Reserve};
use crate::ids::{IncidentId, PathId, UnitId, VmId};
use crate::path::{Link, PathState};
use crate::policy::{Lack, Ladder, Loss, Monitor, Run, Why};
use crate::time::Instant;
use crate::view::{
    HostView, IncidentView, LinkState, LinkView, PathView, Standing, UnitView, VmState, VmView,
};

impl Controller {
    /// Everything that is known and decided. `now` only tells how old things are.
    #[must_use]
    pub fn view(&self, now: Instant) -> HostView {
        let look = Outlook::at(now.max(self.now));
        let now = look.now;
        HostView {
            at: now,
            spec: self.spec.clone(),
            generation: self.plan.generation,
            paths: self.spec.path_ids().map(|p| self.path_view(p, &look)).collect(),
            units: self.spec.unit_ids().map(|u| self.unit_view(u)).collect(),
            vms: self.spec.vm_ids().map(|vm| self.vm_view(vm, &look)).collect(),
            disks: self.spec.disk_ids().map(|disk| self.disk_standing(disk)).collect(),
            incidents: self.incidents.open().iter().map(|i| self.incident_view(i)).collect(),
            capacity: self.capacity_view(&look),
            moves: self.move_views(),
        }
    }

    fn trouble<'a>(&self, path: PathId, look: &'a Outlook) -> Option<&'a String> {
        let all = || self.spec.path_ids().map(|p| self.path_trouble(p, look.now)).collect();
        look.troubles.get_or_init(all)[path.index()].as_ref()
    }

    fn path_view(&self, path: PathId, look: &Outlook) -> PathView {
        let now = look.now;
        let machine = self.network.machine(path);
        let target = self.spec.path(path).target;
        let base = self.spec.target(target).repair_after;
        let in_incident =
            |i: &&super::incidents::Incident| i.targets.contains(&target) && i.paths().any(|p| p == path);
        PathView {
            path,
            health: self.network.health(path),
            access: self.network.access(path),
            preferred: machine.state().preferred(),
            since: machine.state().since(),
            reason: self.trouble(path, look).cloned(),
            relapses: machine.damping().relapses(now, base),
            repair_after: machine.damping().required_at(now, base),
            incident: self.incidents.open().iter().find(in_incident).map(|i| i.id),
        }
    }

    fn unit_view(&self, unit: UnitId) -> UnitView {
        let link = |path: PathId| LinkView {
            path,
            state: self.network.row(path, unit).map_or(LinkState::Connecting, crate::path::LinkRow::shown),
        };
        UnitView { unit, links: self.spec.paths_of_unit(unit).map(link).collect() }
    }

    fn incident_view(&self, incident: &super::incidents::Incident) -> IncidentView {
        let affected = |vm: &VmId| {
            let reach = self.network.reach(*vm);
            self.vm_incident(*vm) == Some(incident.id) || incident.paths().any(|p| reach.paths.contains(&p))
        };
        IncidentView {
            incident: incident.id,
            opened: incident.opened,
            summary: self.incident_summary(incident),
            paths: incident.paths().collect(),
            vms_affected: self.spec.vm_ids().filter(affected).collect(),
        }
    }

    fn vm_incident(&self, vm: VmId) -> Option<IncidentId> {
        let state = &self.vms[vm.index()];
        let ladder = state.ladder.loss().map(|loss| loss.incident);
        let lost = || {
            let lost = self.network.lost_paths(vm);
            lost.first().and_then(|p| self.incidents.of(self.spec.path(*p).target))
        };
        state.guest.run.incident().or(ladder).or_else(lost)
    }

    fn vm_view(&self, vm: VmId, look: &Outlook) -> VmView {
        let guest = &self.vms[vm.index()].guest;
        let state = self.vm_state(vm);
        VmView {
            vm,
            standing: self.vm_standing(vm),
            state,
            run_state: guest.monitor.run_state(),
            gate: self.gate(vm),
            since: self.since(vm),
            because: self.because(vm, look),
            waits_for: match state {
                VmState::Migrating | VmState::Elsewhere => self.place_wait(vm, look.now),
                VmState::StoppedByOther => {
                    self.any_wait(vm, look).or_else(|| Some("whoever stopped it".into()))
                }
                VmState::Running
                | VmState::Suspending
                | VmState::Suspended
                | VmState::Resuming
                | VmState::Unmanaged => self.any_wait(vm, look),
            },
            incident: self.vm_incident(vm),
            other_host: self.other_host(vm),
            home: self.vms[vm.index()].travel.home.clone(),
            returns_to: self.returns_to(vm).map(|(host, _)| host),
        }
    }

    /// It is here: a host that is looked for it comes before what else it waits for.
    fn any_wait(&self, vm: VmId, look: &Outlook) -> Option<String> {
        let misfit = || self.misfit_wait(vm);
        self.place_wait(vm, look.now).or_else(misfit).or_else(|| self.waits_for(vm, look))
    }

    fn because(&self, vm: VmId, look: &Outlook) -> Vec<String> {
        if self.vm_standing(vm) == Standing::Gone {
            return vec!["it is no longer in the configuration, and none of its disks is served".into()];
        }
        let leaving = self.spec.disks_of_vm(vm).filter(|d| self.disk_standing(*d) == Standing::Leaving);
        let mut because: Vec<_> = leaving.map(|disk| self.leaving_words(disk)).collect();
        self.because_place(vm, look.now, &mut because);
        because.extend(self.misfit_words(vm));
        if !self.is_shown_here(vm) {
            return because;
        }
        because.extend(self.troubled_paths(vm, look));
        self.because_run(vm, &mut because);
        let state = &self.vms[vm.index()];
        match &state.ladder {
            Ladder::Clear => {}
            Ladder::Waiting { loss, .. } => because.push(self.lacking_words(vm, *loss)),
            Ladder::Stranded { loss, why, .. } => because.push(format!(
                "{}, and no rung of on_no_path can be done: {why}",
                self.lacking_words(vm, *loss)
            )),
            // The run state says it.
            Ladder::Suspended { .. } => {}
            Ladder::Failing { rule, .. } => because.push(format!("its requests are failed: {rule}")),
        }
        because.extend(self.cut_off_from(vm).and_then(|unit| self.barred_words(vm, unit)));
        if let Some((incident, text)) = &state.blocked {
            because.push(format!("{text} ({incident})"));
        }
        if let Reserve::Lost { why, .. } = &state.reserve {
            because.push(format!("its reservation is lost: {why}"));
        }
        because
    }

    fn lacking_words(&self, vm: VmId, loss: Loss) -> String {
        match loss.lack {
            Lack::NoPath => format!("its requests are held: no path to {}", self.spec.unit_name(loss.unit)),
            Lack::Short => format!("its requests are held and tried again: {}", self.short_words(loss.unit)),
            Lack::FewPaths => format!("it has too few paths: {}", self.few_words(vm, loss.unit)),
        }
    }

    /// The unit for want of a path to which it is held, failed or suspended.
    fn cut_off_from(&self, vm: VmId) -> Option<UnitId> {
        let state = &self.vms[vm.index()];
        let suspended = || state.guest.run.cause()?.lacks().map(|(unit, _)| unit);
        state.ladder.loss().map(|loss| loss.unit).or_else(suspended)
    }

    fn because_run(&self, vm: VmId, because: &mut Vec<String>) {
        let state = &self.vms[vm.index()];
        let spec = self.spec.vm(vm);
        match &state.guest.run {
            Run::Free { .. } | Run::Proving { .. } => {}
            Run::Held { cause, .. } | Run::Suspending { cause, .. } | Run::Suspended { cause, .. } => {
                because.push(format!("rule: {}", cause.rule));
                match &cause.why {
                    Why::Shed { .. } => because
                        .push(format!("{} has priority {} and may_suspend = true", spec.name, spec.priority)),
                    Why::GaveUp => because.push("resuming it failed too often".into()),
                    Why::PathLoss { .. }
                    | Why::NoPath { .. }
                    | Why::FewPaths { .. }
                    | Why::Operator
                    | Why::Restart
                    | Why::Erred => {}
                }
            }
            Run::Withdrawing { cause, .. } | Run::Resuming { cause, .. } => {
                because.push(format!("it was suspended by the rule: {}", cause.rule));
            }
        }
        match (&state.guest.monitor, self.vm_state(vm)) {
            (Monitor::Absent { why, .. }, _) => because.push(format!("unmanaged: no monitor ({why})")),
            (Monitor::Unknown, _) if self.spec.vm(vm).qmp.is_none() => {
                because.push("unmanaged: no `qmp` is configured for it".into());
            }
            (Monitor::Unknown, _) => because.push("unmanaged: nothing was heard of its monitor yet".into()),
            (Monitor::Present { state, .. }, VmState::StoppedByOther) => because.push(format!(
                "it is {} and vmpath did not stop it, so vmpath does not continue it",
                super::words::run_state_word(*state)
            )),
            (Monitor::Present { .. }, _) => {}
        }
    }

    /// What is the matter with the paths of this VM, its lost links included.
    fn troubled_paths(&self, vm: VmId, look: &Outlook) -> Vec<String> {
        let state = &self.vms[vm.index()];
        let reach = self.network.reach(vm);
        let held = state.guest.run.cause();
        let concerned = |p: &PathId| {
            let waited_for = held.is_some_and(|cause| match &cause.why {
                Why::PathLoss { paths, .. } | Why::Shed { paths } => paths.contains(p),
                Why::NoPath { .. }
                | Why::FewPaths { .. }
                | Why::Operator
                | Why::GaveUp
                | Why::Restart
                | Why::Erred => false,
            });
            let its = reach.units.iter().filter(|u| u.paths.contains(p));
            let mut links = its.map(|u| self.network.link(*p, u.unit));
            // While it is held, a path that is back but does not count yet is part of the reason.
            let not_good = match self.network.state(*p) {
                PathState::Active { .. } => false,
                PathState::Connecting { .. }
                | PathState::Down { .. }
                | PathState::Probation { .. }
                | PathState::Repaired { .. }
                | PathState::Draining { .. }
                | PathState::Disabled { .. } => held.is_some() && reach.paths.contains(p),
            };
            waited_for || not_good || links.any(|link| !matches!(link, Some(Link::Up { .. })))
        };
        self.spec.path_ids().filter(concerned).filter_map(|p| self.trouble(p, look).cloned()).collect()
    }
}
