//! Whether what paths go through (`via`) leaves a way when it fails.
//!
//! Invariant: nothing here is a fault: the paths work as they are. Rejected: asking that each component leaves a path; a
//! host with one network card is none the less a host. It does not know what a component is.

use super::fault::{At, Problem, Report};
use super::raw::{RawConfig, RawPath, RawTarget, RawVm};

pub(super) fn all(report: &mut Report<'_>, config: &RawConfig) {
    for target in &config.targets {
        of_target(report, target);
    }
    for vm in &config.vms {
        let mut seen: Vec<&str> = Vec::new();
        for name in vm.targets() {
            if !seen.contains(&name) {
                seen.push(name);
                of_vm(report, vm, config.targets.iter().find(|t| t.label() == name));
            }
        }
    }
}

/// What all of them go through, where there are several.
fn common<'p>(mut paths: impl Iterator<Item = &'p RawPath> + Clone) -> Option<&'p At<String>> {
    let rest = paths.clone().skip(1);
    let first = paths.next()?;
    let in_all = |name: &&At<String>| rest.clone().all(|p| p.via.iter().any(|other| other.it == name.it));
    rest.clone().next()?;
    first.via.iter().find(in_all)
}

fn of_target(report: &mut Report<'_>, target: &RawTarget) {
    if let Some(name) = common(target.paths.iter()) {
        let (component, target) = (&name.it, target.label());
        let message = format!("via: all paths of {target} go via {component}: a single point of failure");
        let hint = format!(
            "when {component} fails, no path to {target} is left, and on_no_path decides for its VMs"
        );
        report.warn(name.at, Problem::new(message).hint(hint));
    }
}

/// A VM that may not use all the paths may be worse off than its target.
fn of_vm(report: &mut Report<'_>, vm: &RawVm, target: Option<&RawTarget>) {
    let Some(target) = target.filter(|target| common(target.paths.iter()).is_none()) else { return };
    let may_use = |path: &&RawPath| path.name.as_ref().is_some_and(|n| vm.may_use(target.label(), &n.it));
    if let Some(name) = common(target.paths.iter().filter(may_use)) {
        let (component, target) = (&name.it, target.label());
        let message = format!(
            "vm {}: all paths to {target} that it may use go via {component}: a single point of failure",
            vm.label()
        );
        let hint = format!("when {component} fails, no path is left to it, though {target} has others");
        report.warn(vm.at, Problem::new(message).hint(hint));
    }
}
