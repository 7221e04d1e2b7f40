//! From the names in an address to ids, and from a wrong name to the near ones.

use super::error::ApiError;
use crate::control::hosts_view::HostsView;
use std::collections::BTreeSet;
use vmpath_core::ids::{DiskId, PathId, TargetId, VmId};
use vmpath_core::spec::Spec;

/// Near names that help is willing to list.
const NEAR_MAX: usize = 3;
/// Hosts that help is willing to list.
const HOSTS_MAX: usize = 16;

pub(super) fn path(spec: &Spec, target: &str, path: &str) -> Result<PathId, ApiError> {
    let name = format!("{target}/{path}");
    let known = || spec.path_ids().map(|id| spec.path_name(id));
    spec.path_by_name(&name).ok_or_else(|| unknown("path", &name, known(), "vmpath show paths"))
}

pub(super) fn vm(spec: &Spec, name: &str) -> Result<VmId, ApiError> {
    let known = || spec.vms.iter().map(|vm| vm.name.clone());
    spec.vm_by_name(name).ok_or_else(|| unknown("VM", name, known(), "vmpath show vms"))
}

pub(super) fn target(spec: &Spec, name: &str) -> Result<TargetId, ApiError> {
    let known = || spec.targets.iter().map(|target| target.name.clone());
    spec.target_by_name(name).ok_or_else(|| unknown("target", name, known(), "vmpath show paths"))
}

/// A target's paths, or those that go through a component of this name. A target of that name goes first.
pub(super) fn paths_through(spec: &Spec, name: &str) -> Result<Vec<PathId>, ApiError> {
    let of = |is: &dyn Fn(PathId) -> bool| spec.path_ids().filter(|path| is(*path)).collect::<Vec<_>>();
    if let Some(target) = spec.target_by_name(name) {
        return Ok(of(&|path| spec.path(path).target == target));
    }
    let found = of(&|path| spec.path(path).via.iter().any(|component| component == name));
    if found.is_empty() {
        let components = spec.paths.iter().flat_map(|path| path.via.iter().cloned());
        let known: BTreeSet<_> =
            spec.targets.iter().map(|target| target.name.clone()).chain(components).collect();
        return Err(unknown("target or `via` component", name, known.into_iter(), "vmpath show paths"));
    }
    Ok(found)
}

pub(super) fn disk(spec: &Spec, vm: &str, disk: &str) -> Result<DiskId, ApiError> {
    let name = format!("{vm}/{disk}");
    let known = || spec.disk_ids().map(|id| spec.disk_name(id));
    let found = spec.disk_ids().find(|id| spec.disk_name(*id) == name);
    found.ok_or_else(|| unknown("disk", &name, known(), "vmpath show disks"))
}

/// Whether a host is heard of. While nobody is, that cannot be told, and any name passes.
pub(super) fn host(hosts: &HostsView, name: &str) -> Result<(), ApiError> {
    if hosts.hosts.is_empty() || hosts.host(name).is_some() {
        return Ok(());
    }
    let known: Vec<_> = hosts.hosts.iter().map(|host| host.name.as_str()).take(HOSTS_MAX).collect();
    let more = hosts.hosts.len() - known.len();
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let near: Vec<_> = near(name, hosts.hosts.iter().map(|host| host.name.clone()))
        .into_iter()
        .map(|name| format!("`{name}`"))
        .collect();
    let near = if near.is_empty() { String::new() } else { format!("did you mean {}? ", near.join(" or ")) };
    let help =
        format!("{near}those heard of are {}{more}; `vmpath show hosts` tells all of them", known.join(", "));
    Err(ApiError::not_found(format!("no host `{name}` is heard of"), help))
}

fn unknown(what: &str, name: &str, known: impl Iterator<Item = String>, show: &str) -> ApiError {
    let near: Vec<_> = near(name, known).into_iter().map(|name| format!("`{name}`")).collect();
    let list = format!("`{show}` lists them all");
    let help = if near.is_empty() { list } else { format!("did you mean {}? {list}", near.join(" or ")) };
    ApiError::not_found(format!("there is no {what} `{name}`"), help)
}

/// Known names that few slips of the finger make of `name`, the nearest first.
pub(super) fn near(name: &str, known: impl Iterator<Item = String>) -> Vec<String> {
    let slips_max = (name.chars().count() / 3).clamp(1, 3);
    let mut near: Vec<_> = known
        .map(|candidate| (slips(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(slips, _)| *slips <= slips_max)
        .collect();
    near.sort();
    near.into_iter().take(NEAR_MAX).map(|(_, name)| name).collect()
}

/// Letters inserted, removed or replaced between two words.
fn slips(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for j in 0..b.len() {
            let replaced = diagonal + usize::from(b[j] != letter);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expect: &[&str]) {
        let known = ["gold", "silver", "bronze", "gold2"].map(String::from);
        assert_eq!(near(name, known.into_iter()), expect, "{name}");
    }

    #[test]
    fn near_names_are_nearest_first() {
        check("gald", &["gold"]);
        check("gold1", &["gold", "gold2"]);
        check("GOLD", &["gold", "gold2"]);
        check("broze", &["bronze"]);
        check("platinum", &[]);
        check("", &[]);
    }

    #[test]
    fn slips_are_counted() {
        assert_eq!(slips("", "abc"), 3);
        assert_eq!(slips("kitten", "sitting"), 3);
        assert_eq!(slips("same", "same"), 0);
    }
}
