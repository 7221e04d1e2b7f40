//! Whether reservations, limits and groups fit together.
//!
//! Invariant: after this no reservation is above a limit that binds it alone. Rejected: cutting a reservation down to the
//! limit; one of the two numbers is a mistake, and only the operator knows which.
//! It does not know what the paths carry: see `check_capacity`.

use super::fault::{At, Problem, Report, near_or_all};
use super::quantity::rate_text;
use super::raw::{RawConfig, RawGroup, RawVm};
use super::types::ByteRate;
use crate::time::Duration;

pub(super) fn all(report: &mut Report<'_>, config: &RawConfig) {
    for vm in &config.vms {
        within(report, vm.reservation.as_ref(), vm.limit.as_ref());
        burst_without_limit(report, vm.limit_burst.as_ref(), vm.limit.is_some() || vm.limit_iops.is_some());
        membership(report, config, vm);
    }
    for group in &config.groups {
        within(report, group.reservation.as_ref(), group.limit.as_ref());
        let limited = group.limit.is_some() || group.limit_iops.is_some();
        burst_without_limit(report, group.limit_burst.as_ref(), limited);
        members(report, config, group);
    }
}

fn within(report: &mut Report<'_>, reservation: Option<&At<ByteRate>>, limit: Option<&At<ByteRate>>) {
    if let (Some(reservation), Some(limit)) = (reservation, limit)
        && reservation.it > limit.it
    {
        let (floor, ceiling) = (rate_text(reservation.it), rate_text(limit.it));
        let place = report.refer(limit.at, reservation.at);
        let message = format!("reservation: {floor} is above the limit of {ceiling} at {place}");
        report.fault(reservation.at, Problem::new(message));
    }
}

fn burst_without_limit(report: &mut Report<'_>, burst: Option<&At<Duration>>, limited: bool) {
    if let (Some(burst), false) = (burst, limited) {
        let message = "limit_burst: there is neither limit nor limit_iops: this has no effect";
        report.warn(burst.at, Problem::new(message));
    }
}

fn group_named<'c>(config: &'c RawConfig, name: &str) -> Option<&'c RawGroup> {
    config.groups.iter().find(|g| g.name.as_ref().is_some_and(|n| n.it == name))
}

fn membership(report: &mut Report<'_>, config: &RawConfig, vm: &RawVm) {
    let Some(name) = &vm.group else { return };
    let Some(group) = group_named(config, &name.it) else {
        if config.groups.iter().all(|g| g.name.is_some()) {
            let known = config.groups.iter().filter_map(|g| g.name.as_ref()).map(|n| n.it.as_str());
            let hint = near_or_all(&name.it, known);
            let hint = hint.unwrap_or_else(|| format!("add [[group]] with name = {:?}", name.it));
            let message = format!("group: no group is named {:?}", name.it);
            report.fault(name.at, Problem::new(message).hint(hint));
        }
        return;
    };
    if let (Some(reservation), Some(limit)) = (&vm.reservation, &group.limit)
        && reservation.it > limit.it
    {
        let (floor, ceiling) = (rate_text(reservation.it), rate_text(limit.it));
        let place = report.refer(limit.at, reservation.at);
        let message = format!(
            "reservation: {floor} is above the limit of {ceiling} of its group {} at {place}",
            name.it
        );
        report.fault(reservation.at, Problem::new(message));
    }
}

fn members(report: &mut Report<'_>, config: &RawConfig, group: &RawGroup) {
    let Some(name) = &group.name else { return };
    let of_group = |vm: &&RawVm| vm.group.as_ref().is_some_and(|g| g.it == name.it);
    let members = || config.vms.iter().filter(of_group);
    if members().next().is_none() {
        let message = format!("no vm is in group {}: this has no effect", group.label());
        report.warn(group.at, Problem::new(message));
    }
    let reserved: u64 = members().filter_map(|vm| vm.reservation.as_ref()).map(|r| r.it.0).sum();
    let each_fits = |limit: &ByteRate| {
        members().all(|vm| vm.reservation.as_ref().is_none_or(|reservation| reservation.it <= *limit))
    };
    if let Some(limit) = group.limit.as_ref().filter(|limit| reserved > limit.it.0 && each_fits(&limit.it)) {
        let (reserved, limit_text) = (rate_text(ByteRate(reserved)), rate_text(limit.it));
        let message = format!(
            "limit: {limit_text} is below what the members of group {} have reserved together, {reserved}",
            group.label()
        );
        report.warn(limit.at, Problem::new(message));
    }
}
