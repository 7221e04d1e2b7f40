//! `min_paths`: whoever has fewer is suspended when its holds are over, and nobody is suspended for want of paths who has them.
//!
//! Invariant: a path that is only connecting may count or not, so it never makes a rule speak.
//! It does not know VMs without any path, nor those whose target refuses everything: see `hold`.

use super::facts::Facts;
use super::hold;
use super::network::{Link, Path, allowed};
use super::{Verdict, broken};
use std::collections::BTreeMap;
use vmpath_core::event::{LoadReport, RunState};
use vmpath_core::ids::{UnitId, VmId, WorkerId};
use vmpath_core::spec::Presence;
use vmpath_core::time::{Duration, Instant};

/// Decisions may take turns.
const SLACK: Duration = Duration::from_secs(1);
/// Nothing is done so soon after a start because something is missing.
const SETTLE: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(super) struct Few {
    /// By `VmId`: since when it surely has too few, and at least one.
    since: Vec<Option<Instant>>,
    /// By `VmId`: somebody has let it run, which holds for as long as the incident, and nothing is asked any more.
    let_run: Vec<bool>,
    /// Whose target refuses everything for want of resources, and which worker says so: that goes before a lack of paths.
    short: BTreeMap<VmId, WorkerId>,
}

impl Few {
    /// A VM is suspended by `on_no_path`.
    pub(super) fn suspended(facts: &Facts, vm: VmId) -> Verdict {
        let min = facts.spec.vm(vm).min_paths.max(1) as usize;
        let usable = |unit| allowed(&facts.spec, vm, unit).filter(|p| facts.network.usable(*p, unit)).count();
        if facts.spec.units_of_vm(vm).any(|unit| usable(unit) < min) {
            return Ok(());
        }
        let text = format!("{} is suspended for want of paths, and each disk has {min}", facts.vm_name(vm));
        broken("min-paths", text)
    }

    pub(super) fn load(&mut self, facts: &Facts, report: &LoadReport) {
        self.short.retain(|_, worker| *worker != report.worker);
        self.short.extend(report.short.iter().map(|short| (facts.spec.disk(short.disk).vm, report.worker)));
    }

    /// Another process of ours goes on, and nobody has reported to it.
    pub(super) fn restarted(&mut self) {
        self.short.clear();
        self.since.clear();
    }

    /// Somebody else than a rule has let it run.
    pub(super) fn pardon(&mut self, vm: VmId) {
        self.let_run.resize(self.let_run.len().max(vm.index() + 1), false);
        self.let_run[vm.index()] = true;
    }

    /// At the end of a batch.
    pub(super) fn settled(&mut self, facts: &Facts, now: Instant) -> Verdict {
        self.since.resize(facts.spec.vms.len(), None);
        self.let_run.resize(facts.spec.vms.len(), false);
        for vm in facts.spec.vm_ids() {
            let is_few = lacks(facts, vm) && !self.let_run[vm.index()] && !self.short.contains_key(&vm);
            let since = &mut self.since[vm.index()];
            *since = if is_few { since.or(Some(now)) } else { None };
            if let Some(since) = *since {
                never_late(facts, vm, since, now)?;
            }
        }
        Ok(())
    }
}

/// It is served, and one of its units surely has fewer paths than it wants.
fn lacks(facts: &Facts, vm: VmId) -> bool {
    let spec = &facts.spec;
    let min = spec.vm(vm).min_paths as usize;
    let may_count = |path, unit: UnitId| {
        let is_open = match facts.network.link(path, unit) {
            Some(Link::Up { .. } | Link::Waiting { .. }) => true,
            Some(Link::Down { .. }) | None => false,
        };
        is_open && facts.network.path(path) != Path::Disabled
    };
    let count = |unit| allowed(spec, vm, unit).filter(|path| may_count(*path, unit)).count();
    min > 1
        && spec.vm(vm).presence == Presence::Present
        && facts.draining.is_empty()
        && facts.network.serves(spec, vm)
        && spec.units_of_vm(vm).any(|unit| count(unit) < min)
}

fn never_late(facts: &Facts, vm: VmId, since: Instant, now: Instant) -> Verdict {
    let story = facts.story(vm);
    let Some(hold) = hold::suspends_after(&facts.spec.vm(vm).on_no_path) else { return Ok(()) };
    let runs = story.monitor.is_some_and(|monitor| monitor.state == RunState::Running);
    if !runs || !story.is_free() {
        return Ok(());
    }
    let from = since.max(story.free_since).max(story.monitor_since).max(facts.fresh_since + SETTLE);
    if now > from + hold + SLACK {
        let text = format!(
            "{} has fewer paths than its min_paths for {:?}, its holds are over after {hold:?}, and it is not suspended",
            facts.vm_name(vm),
            now.since(since)
        );
        return broken("min-paths", text);
    }
    Ok(())
}
