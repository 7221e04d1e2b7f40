//! Why requests are held and a reservation unmet, in sentences with the numbers.
//!
//! Invariant: a sentence holds only numbers of the rows, so that what is said can be looked up. What can be done about
//! it is for the operator to decide; nothing here advises.

use super::explain::Facts;
use super::{wire, words};
use vmpath_core::spec::ByteRate;

/// One for each reason that needs more than its name, then the reservation, then what waiting has cost so far.
pub(super) fn sentences(facts: &Facts<'_>) -> Vec<String> {
    let mut text: Vec<_> = facts
        .vm
        .held_reasons
        .iter()
        .filter_map(|held| sentence(facts, &held.reason, held.requests))
        .collect();
    text.extend(unmet(facts.vm));
    text.extend(so_far(facts.vm));
    text
}

fn sentence(facts: &Facts<'_>, reason: &str, requests: u32) -> Option<String> {
    let wait = format!("{requests} wait{}", if requests == 1 { "s" } else { "" });
    let text = match reason {
        "limit" => format!("{wait} for the limit: {}.", limit(facts)),
        "window" => format!("{wait} for room: every path that it may use is full ({}).", fill(facts)),
        "headroom" => format!(
            "{wait} because the room that is left is kept for VMs of higher priority than its {} ({}).",
            facts.vm.priority,
            fill(facts)
        ),
        "no-path" => format!("{wait} for a path: {}.", no_path(facts)),
        "quarantine" => {
            format!("{wait} behind a write whose outcome on a lost path is unknown, until the fence.")
        }
        "retry-later" => format!("{wait} to be tried again: the target was short of resources."),
        "stopped" => format!("{wait} because the guest or its hypervisor has stopped the disk's ring."),
        "owner" => {
            format!(
                "{wait} because this host does not own the disk's unit now: another host may write to it."
            )
        }
        "fence" => {
            let why: String = facts.unknown.iter().map(|why| format!(": {why}")).collect();
            format!(
                "{wait} until nothing that a former daemon or boot has sent to the unit can still arrive{why}."
            )
        }
        "identity-check" => {
            format!("{wait} while two paths are compared, to prove that they lead to one unit.")
        }
        "acknowledgement" => {
            format!(
                "{wait} with the end known: on a disk with several writers it is told after the fence of the lost path."
            )
        }
        // The gate's own sentence says why; of a newer daemon's reason there is no more to say than its name.
        _ => return None,
    };
    Some(text)
}

/// Whose limit, and what is got.
fn limit(facts: &Facts<'_>) -> String {
    let vm = facts.vm;
    let own = limits(vm.limit_bytes_per_second, vm.limit_requests_per_second);
    let gets = ByteRate(vm.rate_bytes_per_second);
    let of_group = facts.group.and_then(|group| {
        let limit = limits(group.limit_bytes_per_second, group.limit_requests_per_second)?;
        let served = ByteRate(group.served_bytes_per_second);
        Some(format!("its group {} may have {limit} and gets {served}", group.name))
    });
    match (own, of_group) {
        (Some(own), None) => format!("it may have {own} and gets {gets}"),
        (None, Some(group)) => group,
        (Some(own), Some(group)) => format!("it may have {own} and gets {gets}, {group}"),
        (None, None) => format!("it gets {gets}; the limit has just been taken away"),
    }
}

/// Both limits in words; none if there is none.
pub(super) fn limits(bytes: Option<u64>, requests: Option<u64>) -> Option<String> {
    match (bytes, requests) {
        (Some(bytes), Some(requests)) => Some(format!("{} and {requests} IO/s", ByteRate(bytes))),
        (Some(bytes), None) => Some(ByteRate(bytes).to_string()),
        (None, Some(requests)) => Some(format!("{requests} IO/s")),
        (None, None) => None,
    }
}

/// How full each path is that it may use and that works.
fn fill(facts: &Facts<'_>) -> String {
    let works = |path: &&wire::Path| matches!(path.health.as_str(), "up" | "marginal");
    let fill = |path: &wire::Path| {
        let kib = |bytes: u64| bytes.div_ceil(1024);
        format!(
            "{}/{} has {} of {} KiB in flight",
            path.target,
            path.name,
            kib(path.pending_bytes),
            kib(path.window_bytes)
        )
    };
    let fills: Vec<_> = facts.usable().filter(works).map(fill).collect();
    if fills.is_empty() { "none of them is up now".into() } else { fills.join(", ") }
}

fn no_path(facts: &Facts<'_>) -> String {
    let up: Vec<_> = facts
        .avoided()
        .filter(|path| matches!(path.health.as_str(), "up" | "marginal"))
        .map(|path| format!("{}/{}", path.target, path.name))
        .collect();
    let none = "none that it may use works";
    if up.is_empty() {
        none.into()
    } else {
        format!("{none}; {} would, and its affinity forbids it", up.join(", "))
    }
}

fn unmet(vm: &wire::Vm) -> Option<String> {
    let unmet = Some(vm.reservation_unmet_bytes_per_second).filter(|unmet| *unmet > 0)?;
    let reservation = ByteRate(vm.reservation_bytes_per_second.unwrap_or(0));
    let served = ByteRate(vm.served_bytes_per_second);
    Some(format!(
        "Its reservation of {reservation} is not met: {served} served, {} missing.",
        ByteRate(unmet)
    ))
}

fn so_far(vm: &wire::Vm) -> Option<String> {
    let told: Vec<_> = vm
        .held_times
        .iter()
        .filter(|time| time.held_us >= 1000)
        .map(|time| format!("{} by {}", seconds(time.held_us), words::held(&time.reason)))
        .collect();
    (!told.is_empty()).then(|| {
        format!(
            "Added up over all its requests since the data plane's start, they were held for {}.",
            told.join(", ")
        )
    })
}

fn seconds(micros: u64) -> String {
    if micros < 1_000_000 {
        format!("{} ms", micros / 1000)
    } else {
        format!("{:.1} s", micros as f64 / 1_000_000.0)
    }
}
