//! Capacity, keep set and forecasts in sentences.
//!
//! Invariant: a sentence holds only what stands in the rows beside it. It does not know how it was decided or foreseen.

use super::{wire, words};
use vmpath_core::spec::ByteRate;

/// Names that a sentence is willing to list.
const NAMED_MAX: usize = 5;

/// What the targets of a VM carry, who is kept there, and what that means to it.
pub(super) fn of_vm(vm: &wire::Vm, targets: &[wire::Capacity]) -> Vec<String> {
    let mut text = vec![];
    for target in targets {
        text.extend(target_sentence(target));
        text.extend(own(vm, target));
    }
    text
}

/// None where there is nothing to say that would help anybody.
pub(super) fn target_sentence(target: &wire::Capacity) -> Option<String> {
    let name = &target.target;
    let reserved = ByteRate(target.reserved_bytes_per_second);
    let left = ByteRate(target.left_bytes_per_second.unwrap_or(0));
    let text = match target.standing.as_str() {
        "short" => {
            let all = target.capacity_bytes_per_second;
            let of = all.map(|all| format!(" of {}", ByteRate(all))).unwrap_or_default();
            let (paths, kept) = (target.paths_up.join(" and "), kept(target));
            format!("{name} carries {left}{of} now, over {paths}; {reserved} are reserved there{kept}.")
        }
        "whole" => format!("{name} carries {left}; {reserved} are reserved there."),
        "unknown" if target.reserved_bytes_per_second > 0 => format!(
            "The capacity of some path of {name} is not configured, so nobody is shed for the {reserved} that are \
             reserved there."
        ),
        "cut-off" => format!("No path of {name} carries anything."),
        // Not judged yet; or a newer daemon's word.
        _ => return None,
    };
    Some(text)
}

fn kept(target: &wire::Capacity) -> String {
    let claimant = |party: &wire::Party| {
        format!("{} (priority {}, {})", party.vm, party.priority, ByteRate(party.reserved_bytes_per_second))
    };
    let list = |wanted: bool| {
        let parties: Vec<_> = target.parties.iter().filter(|party| party.kept == wanted).collect();
        listed(parties.iter().map(|party| claimant(party)), parties.len())
    };
    let kept = list(true).map(|names| format!("; kept: {names}")).unwrap_or_default();
    let leaves = list(false).map(|names| format!("; no room for {names}")).unwrap_or_default();
    format!("{kept}{leaves}")
}

/// The first few of so many; none of nobody.
pub(super) fn listed(names: impl Iterator<Item = String>, count: usize) -> Option<String> {
    let named: Vec<_> = names.take(NAMED_MAX).collect();
    match count.saturating_sub(NAMED_MAX) {
        _ if count == 0 => None,
        0 => Some(named.join(", ")),
        more => Some(format!("{} and {more} more", named.join(", "))),
    }
}

/// Why this VM is kept there, or not.
fn own(vm: &wire::Vm, target: &wire::Capacity) -> Option<String> {
    let reserved = vm.reservation_bytes_per_second.filter(|_| target.standing == "short")?;
    let needs = ByteRate(reserved);
    match target.parties.iter().find(|party| party.vm == vm.name) {
        Some(party) if party.kept => Some(format!("{} is kept: its {needs} fit.", vm.name)),
        Some(party) => Some(format!(
            "{} is not kept: of its {needs} those before it leave it {}.",
            vm.name,
            ByteRate(party.gets_bytes_per_second)
        )),
        None => {
            let left = target.left_bytes_per_second?;
            let taken: u64 =
                target.parties.iter().filter(|p| p.kept).map(|p| p.reserved_bytes_per_second).sum();
            Some(format!(
                "{} does not run: its {needs} would have to fit into the {} that nobody has reserved.",
                vm.name,
                ByteRate(left.saturating_sub(taken))
            ))
        }
    }
}

/// What would become of a VM.
pub(super) fn supposed(of: &wire::Supposed) -> Option<String> {
    let fate = &of.vm;
    let what = if fate.stages.is_empty() {
        let paths = fate.paths.join(" and ");
        match (fate.fate.as_str(), fate.reservation_met, paths.is_empty()) {
            ("running", Some(false), _) => {
                let gets = ByteRate(fate.gets_of_reservation_bytes_per_second.unwrap_or(0));
                let reserved = ByteRate(fate.reservation_bytes_per_second.unwrap_or(0));
                format!("it would go on over {paths}, with {gets} of the {reserved} that it has reserved")
            }
            ("running", Some(true), _) => format!("it would go on over {paths}, with its whole reservation"),
            ("running", None, _) => format!("it would go on over {paths}"),
            (other, ..) => format!("it would still be {other}"),
        }
    } else {
        let rule = fate.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        format!("it would be {}{rule}", words::stages(fate))
    };
    match of.lose.len() {
        0 if fate.stages.is_empty() => None,
        0 => Some(format!("If nothing else happens: {}.", words::stages(fate))),
        1 => Some(format!("If {} were lost: {what}.", of.lose[0])),
        _ => Some(format!("If {} were lost together: {what}.", of.lose.join(", "))),
    }
}

/// What would become of everybody.
pub(super) fn if_lost(path: &str, lost: &wire::IfLost) -> String {
    let all: usize = lost.fates.values().sum();
    let name = |vm: &wire::VmFate| match vm.stages.is_empty() {
        true => format!("{} below its reservation", vm.name),
        false => format!("{} {}", vm.name, words::stages(vm)),
    };
    match listed(lost.vms.iter().map(name), lost.vms.len()) {
        Some(names) => format!(
            "If {path} were lost, something would happen to {} of {all} VMs: {names}.",
            lost.vms.len()
        ),
        None => {
            format!("If {path} were lost, every VM would go on over other paths, with what it has reserved.")
        }
    }
}
