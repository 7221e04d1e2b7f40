//! Whether each VM may use a path for each of its disks, and whether what `paths` and `avoid` name is there.
//!
//! Invariant: a VM that passes here has at least one path for every disk. A word that names nothing is one fault, and what
//! would follow from it is not said. Rejected: ignoring such words; a path that a VM must avoid would be used after a slip
//! of the finger.
//! It does not know whether a path works.

use super::check::{no_such_target, target_named};
use super::fault::{At, Problem, Report, near_or_all};
use super::raw::{PathList, PathWord, RawConfig, RawTarget, RawVm};
use super::types::NoPathAction;
use std::collections::BTreeSet;

pub(super) fn all(report: &mut Report<'_>, config: &RawConfig) {
    for vm in &config.vms {
        let lists = [("paths", &vm.paths), ("avoid", &vm.avoid)];
        let mut good = true;
        for (key, list) in lists.iter().filter_map(|(key, list)| Some((key, list.as_ref()?))) {
            good &= twice(report, key, list);
            for word in &list.it {
                good &= names_a_path(report, config, (vm, word));
            }
        }
        if good {
            disks_keep_a_path(report, config, vm);
            disks_have_min_paths(report, config, vm);
        }
    }
}

/// A VM that asks for more paths than it may use would be on its `on_no_path` ladder for ever.
fn disks_have_min_paths(report: &mut Report<'_>, config: &RawConfig, vm: &RawVm) {
    let Some(min) = vm.min_paths.as_ref().filter(|min| min.it > 1) else { return };
    for disk in &vm.disks {
        let Some(target) = disk.unit.as_ref().and_then(|u| target_named(config, &u.it.target)) else {
            continue;
        };
        let (name, label) = (target.label(), vm.label());
        let may = |path: &&super::raw::RawPath| path.name.as_ref().is_none_or(|n| vm.may_use(name, &n.it));
        let paths = target.paths.iter().filter(may).count();
        if paths < min.it as usize && paths > 0 {
            let disk = disk.name.as_ref().map_or("?", |n| n.it.as_str());
            let message = format!(
                "min_paths: disk {disk} of vm {label} has {paths} of the {} paths that are asked for: it would follow \
                 on_no_path from the start",
                min.it
            );
            let hint = format!("write min_paths = {paths}, or add a path to target {name}");
            report.fault(min.at, Problem::new(message).hint(hint));
            return;
        }
    }
    if vm.qmp.is_none() {
        let message = format!(
            "min_paths: without qmp vm {} cannot be suspended: too few paths are told, and nothing follows",
            vm.label()
        );
        report.warn(min.at, Problem::new(message));
    } else if vm
        .on_no_path
        .as_ref()
        .is_some_and(|ladder| !ladder.it.has(NoPathAction::Suspend) && !ladder.it.has(NoPathAction::Migrate))
    {
        let message = format!(
            "min_paths: on_no_path of vm {} has neither `suspend` nor `migrate`, and nothing fails while a path is up: too few paths are told, and nothing follows",
            vm.label()
        );
        report.warn(min.at, Problem::new(message));
    }
}

fn twice(report: &mut Report<'_>, key: &str, list: &PathList) -> bool {
    let mut seen: Vec<&PathWord> = Vec::new();
    let mut good = true;
    for word in &list.it {
        if seen.contains(&&word.it) {
            report.fault(word.at, Problem::new(format!("{key}: {} stands there twice", word.it)));
            good = false;
        }
        seen.push(&word.it);
    }
    good
}

/// Returns whether it does, as far as can be known.
fn names_a_path(report: &mut Report<'_>, config: &RawConfig, (vm, word): (&RawVm, &At<PathWord>)) -> bool {
    let Some(name) = &word.it.target else {
        return names_a_path_of_its_targets(report, config, (vm, word));
    };
    let Some(target) = target_named(config, name) else {
        no_such_target(report, config, &At { at: word.at, it: name });
        return false;
    };
    if target.paths.iter().all(|p| p.name.is_some()) && !names_of(target).any(|n| n == word.it.name) {
        let message = format!("target {name} has no path named {:?}", word.it.name);
        let hint = near_or_all(&word.it.name, names_of(target));
        report.fault(word.at, Problem::new(message).maybe_hint(hint));
        return false;
    }
    if vm.disks.iter().all(|d| d.unit.as_ref().is_some_and(|u| u.it.target != *name)) {
        let message = format!("vm {} has no disk on {name}: this has no effect", vm.label());
        report.warn(word.at, Problem::new(message));
    }
    true
}

fn names_a_path_of_its_targets(
    report: &mut Report<'_>,
    config: &RawConfig,
    (vm, word): (&RawVm, &At<PathWord>),
) -> bool {
    let used: BTreeSet<&str> = vm.targets().collect();
    let targets: Vec<_> = used.iter().filter_map(|name| target_named(config, name)).collect();
    let paths = || targets.iter().flat_map(|t| &t.paths);
    let all_known = targets.len() == used.len()
        && vm.disks.iter().all(|d| d.unit.is_some())
        && paths().all(|p| p.name.is_some());
    let names: BTreeSet<&str> = targets.iter().flat_map(|t| names_of(t)).collect();
    if !all_known || names.contains(word.it.name.as_str()) {
        return true;
    }
    let used = used.into_iter().collect::<Vec<_>>().join(", ");
    let message = if used.is_empty() {
        format!("vm {} has no disk, and so no path named {:?}", vm.label(), word.it.name)
    } else {
        format!("vm {} has disks on {used}, and there is no path named {:?}", vm.label(), word.it.name)
    };
    let hint = near_or_all(&word.it.name, names.iter().copied());
    report.fault(word.at, Problem::new(message).maybe_hint(hint));
    false
}

fn names_of(target: &RawTarget) -> impl Iterator<Item = &str> + Clone {
    target.paths.iter().filter_map(|p| p.name.as_ref()).map(|n| n.it.as_str())
}

fn disks_keep_a_path(report: &mut Report<'_>, config: &RawConfig, vm: &RawVm) {
    let (key, at) = match (&vm.paths, &vm.avoid) {
        (_, Some(avoid)) => ("avoid", avoid.at),
        (Some(paths), None) => ("paths", paths.at),
        (None, None) => return,
    };
    for disk in &vm.disks {
        let Some(target) = disk.unit.as_ref().and_then(|u| target_named(config, &u.it.target)) else {
            continue;
        };
        let name = target.label();
        let barred = target.paths.iter().all(|p| p.name.as_ref().is_some_and(|n| !vm.may_use(name, &n.it)));
        if barred && !target.paths.is_empty() {
            let disk = disk.name.as_ref().map_or("?", |n| n.it.as_str());
            let message = format!(
                "{key}: this leaves disk {disk} of vm {} no path: it may use none of target {name}",
                vm.label()
            );
            report.fault(at, Problem::new(message).maybe_hint(near_or_all("", names_of(target))));
        }
    }
}
