//! Why a VM is where it is, in sentences an operator can act on.
//!
//! Invariant: it only words what the rows say; the reasons themselves were given by the decisions. The numbers behind
//! them are in the VM's row.

use super::{held, numbers, wire, words};
use vmpath_core::spec::ByteRate;

/// What the sentences are made from.
pub(super) struct Facts<'a> {
    pub(super) at_unix_us: u64,
    pub(super) vm: &'a wire::Vm,
    /// Whose allocation it shares.
    pub(super) group: Option<&'a wire::Group>,
    /// All paths of the host.
    pub(super) paths: &'a [wire::Path],
    /// Of the targets of its disks.
    pub(super) capacity: &'a [wire::Capacity],
    pub(super) forecasts: &'a [wire::Supposed],
    /// As in the snapshot.
    pub(super) unknown: &'a [String],
}

impl Facts<'_> {
    /// The paths that lead to its disks.
    fn mine(&self) -> impl Iterator<Item = &wire::Path> {
        let target_of = |disk: &wire::DiskOfVm| disk.unit.split('/').next().unwrap_or_default().to_owned();
        let targets: Vec<_> = self.vm.disks.iter().map(target_of).collect();
        self.paths.iter().filter(move |path| targets.contains(&path.target))
    }

    fn avoids(&self, path: &wire::Path) -> bool {
        self.vm.avoid_paths.contains(&format!("{}/{}", path.target, path.name))
    }

    /// Those that it may use.
    pub(super) fn usable(&self) -> impl Iterator<Item = &wire::Path> {
        self.mine().filter(|path| !self.avoids(path))
    }

    /// Those that its affinity forbids.
    pub(super) fn avoided(&self) -> impl Iterator<Item = &wire::Path> {
        self.mine().filter(|path| self.avoids(path))
    }
}

pub(super) fn text(facts: &Facts<'_>) -> Vec<String> {
    let vm = facts.vm;
    let mut text = vec![state(facts)];
    if let Some(reason) = &vm.gate.reason {
        let what = match vm.gate.state.as_str() {
            "hold" => "Its requests are kept queued",
            "bounce" => {
                "Its requests are answered with an error on which the hypervisor stops it and keeps them"
            }
            _ => "Its requests fail",
        };
        text.push(format!("{what}: {reason}."));
    }
    if let Some(incident) = &vm.incident {
        text.push(format!("It belongs to incident {incident}."));
    }
    text.extend(vm.because.iter().map(|why| format!("Why: {}.", why.trim_end_matches('.'))));
    if vm.held > 0 {
        text.push(count_of_held(vm));
    }
    text.extend(held::sentences(facts));
    // What it gets at another host, and by which paths, is told there.
    if vm.state != "elsewhere" {
        text.push(rates(vm));
        text.extend(numbers::of_vm(vm, facts.capacity));
        text.extend(paths(facts));
    }
    text.extend(home(vm));
    if let Some(wait) = &vm.waits_for {
        text.push(format!("It waits for: {}.", wait.trim_end_matches('.')));
    }
    text.extend(facts.forecasts.iter().filter_map(numbers::supposed));
    text
}

/// Where it began.
fn home(vm: &wire::Vm) -> Option<String> {
    let home = vm.home.as_ref()?;
    let by_hand = format!("`vmpath vm return {}` sends it back", vm.name);
    Some(match &vm.returns_to {
        Some(host) if host == home => format!(
            "Its home is {home}; it goes back by itself when that host has its paths again (return = true)."
        ),
        Some(host) => format!(
            "Its home is {home}; {by_hand}. By itself it goes back to {host} when that host has its paths again \
             (return = true)."
        ),
        None => format!("Its home is {home}; {by_hand}."),
    })
}

/// Requests wait a moment for their turn on a busy path; longer than this they wait for something.
const HELD_MATTERS_MS: u64 = 1000;

fn state(facts: &Facts<'_>) -> String {
    let vm = facts.vm;
    let since = span(facts.at_unix_us.saturating_sub(vm.since_unix_us));
    let other = vm.other_host.as_deref().unwrap_or("another host");
    let state = match vm.state.as_str() {
        "elsewhere" => &format!("at {other}: nothing of it is served here"),
        "migrating" => &format!("on its way (the other end is {other})"),
        "suspended" => "suspended by vmpath",
        "stopped-by-other" => "stopped, but not by vmpath, which will leave it so",
        "unmanaged" if vm.gate.reason.is_none() && vm.waits_for.is_none() => {
            "unmanaged: no hypervisor monitor, so its I/O is served and it cannot be suspended"
        }
        "unmanaged" => "unmanaged: no hypervisor monitor, so it cannot be suspended or resumed",
        state => state,
    };
    let met = vm.reservation_unmet_bytes_per_second == 0;
    let calm = met
        && vm.oldest_held_ms.is_none_or(|ms| ms < HELD_MATTERS_MS)
        && vm.because.is_empty()
        && vm.gate.reason.is_none()
        && vm.waits_for.is_none();
    let matter = if calm && vm.state == "running" { "; nothing is the matter" } else { "" };
    format!("{} is {state}, for {since}{matter}.", vm.name)
}

fn count_of_held(vm: &wire::Vm) -> String {
    let reason = |held: &wire::HeldReason| format!("{} by {}", held.requests, words::held(&held.reason));
    let reasons: Vec<_> = vm.held_reasons.iter().map(reason).collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    let oldest = vm.oldest_held_ms.map(|ms| format!(", the oldest for {ms} ms")).unwrap_or_default();
    let (requests, are) = if vm.held == 1 { ("request", "is") } else { ("requests", "are") };
    let flies = if vm.in_flight == 1 { "is" } else { "are" };
    format!("{} {requests} {are} held{reasons}{oldest}; {} {flies} in flight.", vm.held, vm.in_flight)
}

fn rates(vm: &wire::Vm) -> String {
    let none = || "none".into();
    let entitled = vm.entitled_bytes_per_second;
    let entitled = entitled.map(|rate| format!(" and is entitled to {} now", ByteRate(rate)));
    let group = vm.group.as_ref().map(|group| format!(", group {group}"));
    format!(
        "It gets {}{}; reservation {}, limit {}, priority {}, shares {}{}.",
        ByteRate(vm.rate_bytes_per_second),
        entitled.unwrap_or_default(),
        vm.reservation_bytes_per_second.map_or_else(none, |rate| ByteRate(rate).to_string()),
        held::limits(vm.limit_bytes_per_second, vm.limit_requests_per_second).unwrap_or_else(none),
        vm.priority,
        vm.shares,
        group.unwrap_or_default()
    )
}

/// The paths that lead to its disks, each with what is wrong with it.
fn paths(facts: &Facts<'_>) -> Vec<String> {
    let row = |path: &wire::Path| {
        let place = match (facts.avoids(path), path.preferred) {
            (true, _) => "not for this VM (affinity)",
            (false, true) => "preferred",
            // Of a path that carries nothing it is not said what it would be for.
            (false, false) if path.health != "up" && path.health != "marginal" => "not used",
            (false, false) => "standby",
        };
        let name = format!("{}/{}", path.target, path.name);
        let reason = path.reason.as_deref().unwrap_or_default();
        // A reason that begins with the path's own name need not say it twice.
        let reason = reason
            .strip_prefix(&format!("path {name} "))
            .map_or_else(|| reason.into(), |rest| format!("it {rest}"));
        let reason = if reason.is_empty() { reason } else { format!(": {reason}") };
        format!("Path {name} is {}, {}, {place}{reason}.", path.health, path.access)
    };
    facts.mine().map(row).collect()
}

pub(super) fn span(micros: u64) -> String {
    match micros / 1_000_000 {
        0 => format!("{} ms", micros / 1000),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}
