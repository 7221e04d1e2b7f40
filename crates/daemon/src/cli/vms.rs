//! The VMs as a table that fits 80 columns, with what is the matter under each row; and one VM with all its numbers.
//!
//! Rejected: a column for each number. The table would be wider than any terminal, and its reader looks for the VM that
//! suffers, not for one number of all.

use super::text::{ago, bytes, plural, rate, rate_or_dash, span_us, wrap};
use crate::api::{wire, words};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// Columns that hold numbers.
const NUMBERS: std::ops::Range<usize> = 2..8;

/// `width`: of the terminal; none when there is none, and nothing is folded.
pub(super) fn table(reply: &wire::Vms, width: Option<usize>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["VM", "STATE", "PRIO", "RESERVED", "ENTITLED", "SERVED", "OPEN", "HELD"]);
    for vm in &reply.vms {
        table.add_row(row(vm));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if NUMBERS.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut lines = table.lines();
    let mut text = format!("{}\n", lines.next().unwrap_or_default().trim_end());
    for (line, vm) in lines.zip(&reply.vms) {
        text.push_str(&format!("{}\n", line.trim_end()));
        for matter in matters(vm, reply.at_unix_us) {
            text.push_str(&wrap(&matter, "  ", width));
        }
    }
    text
}

fn row(vm: &wire::Vm) -> [String; 8] {
    [
        vm.name.clone(),
        state(vm),
        vm.priority.to_string(),
        rate_or_dash(vm.reservation_bytes_per_second),
        rate_or_dash(vm.entitled_bytes_per_second),
        rate(vm.rate_bytes_per_second),
        vm.in_flight.to_string(),
        vm.held.to_string(),
    ]
}

fn state(vm: &wire::Vm) -> String {
    match vm.presence.as_str() {
        "present" => vm.state.clone(),
        "gone" => "gone".into(),
        presence => format!("{}, {presence}", vm.state),
    }
}

/// What an operator would ask about; nothing of a VM that is well.
fn matters(vm: &wire::Vm, now: u64) -> Vec<String> {
    let mut lines = Vec::new();
    let since = ago(now, vm.since_unix_us);
    let why = vm.gate.reason.as_ref().map(|reason| format!("gate {}: {reason}", vm.gate.state));
    // That it is unmanaged stands in its column; of a host without monitors it would stand under every row.
    let told = |because: &&String| vm.state != "unmanaged" || !because.starts_with("unmanaged");
    if vm.state == "migrating" {
        // Why it moves, and how far it is: the gate's reason is the first of them again.
        let first = vm.because.first().map(|why| format!("for {since}, {why}"));
        lines.extend(first.into_iter().chain(vm.because.get(1).cloned()));
    } else if let Some(why) = why.or_else(|| vm.because.iter().find(told).cloned()) {
        lines.push(format!("for {since}, {why}"));
    }
    lines.extend(vm.waits_for.iter().map(|wait| format!("waits for {wait}")));
    if vm.held > 0 {
        lines.push(format!("held: {}", held(vm)));
    }
    if vm.reservation_unmet_bytes_per_second > 0 {
        lines.push(format!("reservation unmet by {}", rate(vm.reservation_unmet_bytes_per_second)));
    }
    lines
}

/// `3 by its limit, 1 by no path; the oldest for 400 ms`.
fn held(vm: &wire::Vm) -> String {
    let reason = |held: &wire::HeldReason| format!("{} by {}", held.requests, words::held(&held.reason));
    let reasons: Vec<_> = vm.held_reasons.iter().map(reason).collect();
    let oldest = match vm.oldest_held_ms {
        None => String::new(),
        Some(0) => "; the oldest for less than 1 ms".into(),
        Some(ms) => format!("; the oldest for {}", span_us(ms.saturating_mul(1000))),
    };
    format!("{}{oldest}", reasons.join(", "))
}

/// Every number of one VM.
pub(super) fn one(reply: &wire::OneVm, width: Option<usize>) -> String {
    let vm = &reply.vm;
    let mut lines =
        vec![format!("{}  {} for {}", vm.name, state(vm), ago(reply.at_unix_us, vm.since_unix_us))];
    let rows = allocation(reply).into_iter().chain(traffic(vm)).chain(standing(vm));
    for (what, value) in rows {
        let text = wrap(&format!("{what:<14}{value}"), "  ", width);
        lines.push(text.trim_end().to_owned());
    }
    lines.join("\n") + "\n"
}

type Row = (&'static str, String);

fn allocation(reply: &wire::OneVm) -> Vec<Row> {
    let vm = &reply.vm;
    let unmet = Some(vm.reservation_unmet_bytes_per_second).filter(|unmet| *unmet > 0);
    let unmet = unmet.map(|unmet| format!(", unmet by {}", rate(unmet))).unwrap_or_default();
    let mut rows = vec![
        ("priority", vm.priority.to_string()),
        ("shares", vm.shares.to_string()),
        ("reservation", format!("{}{unmet}", rate_or_dash(vm.reservation_bytes_per_second))),
        ("limit", limit(vm.limit_bytes_per_second, vm.limit_requests_per_second, vm.limit_burst_ms)),
    ];
    if let Some(group) = &reply.group {
        let limit =
            limit(group.limit_bytes_per_second, group.limit_requests_per_second, group.limit_burst_ms);
        let reserved = rate_or_dash(group.reservation_bytes_per_second);
        let (count, served) = (plural(group.vms.len(), "VM"), rate(group.served_bytes_per_second));
        rows.push((
            "group",
            format!(
                "{}: {count}, shares {}, reservation {reserved}, limit {limit}, served {served}",
                group.name, group.shares
            ),
        ));
    }
    rows.push(("entitled", rate_or_dash(vm.entitled_bytes_per_second)));
    rows
}

/// `400.0 MiB/s and 1000 IO/s, 5 ms ahead`.
fn limit(bytes: Option<u64>, requests: Option<u64>, burst_ms: u64) -> String {
    let parts: Vec<_> =
        bytes.map(rate).into_iter().chain(requests.map(|requests| format!("{requests} IO/s"))).collect();
    if parts.is_empty() { "-".into() } else { format!("{}, {burst_ms} ms ahead", parts.join(" and ")) }
}

fn traffic(vm: &wire::Vm) -> Vec<Row> {
    let so_far: Vec<_> = vm
        .held_times
        .iter()
        .map(|time| format!("{} by {}", span_us(time.held_us), words::held(&time.reason)))
        .collect();
    vec![
        ("served", rate(vm.rate_bytes_per_second)),
        ("in flight", vm.in_flight.to_string()),
        ("held", if vm.held == 0 { "0".into() } else { format!("{}: {}", vm.held, held(vm)) }),
        ("held so far", if so_far.is_empty() { "-".into() } else { so_far.join(", ") }),
        (
            "completed",
            format!(
                "{}, {}; {} failed, {} retried",
                plural(usize::try_from(vm.completed_requests).unwrap_or(usize::MAX), "request"),
                bytes(vm.completed_bytes),
                vm.failed_requests,
                vm.retried_requests
            ),
        ),
    ]
}

fn standing(vm: &wire::Vm) -> Vec<Row> {
    let mut rows = vec![("on path loss", format!("{}, resume on {}", vm.on_path_loss, vm.resume))];
    if !vm.avoid_paths.is_empty() {
        rows.push(("may not use", vm.avoid_paths.join(", ")));
    }
    rows.extend(vm.disks.iter().map(|disk| {
        let clients = plural(disk.clients as usize, "client");
        let owner = disk.owner.as_ref().map(|owner| format!(", {}", owner.words)).unwrap_or_default();
        ("disk", format!("{} = {}, {}, {clients}{owner}", disk.name, disk.unit, disk.presence))
    }));
    rows.extend(vm.other_host.iter().map(|host| ("other host", host.clone())));
    let back = |home: &String| match &vm.returns_to {
        Some(host) if host == home => format!("{home}, and goes back there by itself"),
        Some(host) => format!("{home}, and goes back to {host} by itself"),
        None => home.clone(),
    };
    rows.extend(vm.home.iter().map(|home| ("home", back(home))));
    let gate = vm.gate.reason.as_ref().map(|reason| format!("{}: {reason}", vm.gate.state));
    rows.extend(gate.map(|gate| ("gate", gate)));
    rows.extend(vm.because.iter().map(|why| ("because", why.clone())));
    rows.extend(vm.waits_for.iter().map(|wait| ("waits for", wait.clone())));
    rows.extend(vm.incident.iter().map(|incident| ("incident", incident.clone())));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing;

    fn reply() -> wire::Vms {
        let mut suffering = testing::vm("silver", 90);
        suffering.reservation_bytes_per_second = Some(1023 << 20);
        suffering.entitled_bytes_per_second = Some(512 << 20);
        suffering.reservation_unmet_bytes_per_second = 12 << 20;
        suffering.held = 40;
        let reason = |reason: &str, requests| wire::HeldReason { reason: reason.into(), requests };
        suffering.held_reasons = vec![reason("headroom", 39), reason("limit", 1)];
        suffering.oldest_held_ms = Some(1234);
        suffering.held_times = vec![wire::HeldTime { reason: "headroom".into(), held_us: 2_500_000 }];
        let mut unmanaged = testing::vm("iron", 40);
        unmanaged.state = "unmanaged".into();
        unmanaged.because = vec!["unmanaged: nothing was heard of its monitor yet".into()];
        let mut stopped = testing::vm("bronze", 50);
        stopped.state = "suspended".into();
        stopped.gate =
            wire::Gate { state: "hold".into(), reason: Some("110.0 MiB/s reserved".into()), incident: None };
        stopped.waits_for = Some("san0/a up and good for 1 s, which is said at some length".into());
        let vms = vec![testing::vm("gold", 100), suffering, stopped, unmanaged];
        wire::Vms { at_unix_us: 12_000_000, generation: 1, counted_unix_us: None, groups: vec![], vms }
    }

    #[test]
    fn a_vm_that_is_well_is_one_line_and_what_is_the_matter_stands_below() {
        let expect = "\
VM      STATE      PRIO      RESERVED     ENTITLED      SERVED  OPEN  HELD
gold    running     100             -            -  60.0 MiB/s     2     0
silver  running      90  1023.0 MiB/s  512.0 MiB/s  60.0 MiB/s     2    40
  held: 39 by headroom kept for a higher priority, 1 by its limit; the oldest
    for 1.2 s
  reservation unmet by 12.0 MiB/s
bronze  suspended    50             -            -  60.0 MiB/s     2     0
  for 12 s, gate hold: 110.0 MiB/s reserved
  waits for san0/a up and good for 1 s, which is said at some length
iron    unmanaged    40             -            -  60.0 MiB/s     2     0
";
        assert_eq!(table(&reply(), Some(78)), expect);
        assert!(expect.lines().all(|line| line.len() <= 78));
        assert!(
            table(&reply(), None).contains("; the oldest for 1.2 s\n"),
            "nothing is folded without a terminal"
        );
    }

    #[test]
    fn one_that_is_on_its_way_says_why_and_how_far() {
        let mut reply = reply();
        let vm = &mut reply.vms[0];
        vm.state = "migrating".into();
        vm.gate = wire::Gate { state: "hold".into(), reason: Some("it moves".into()), incident: None };
        vm.because = vec!["it is being moved to kvm2: why".into(), "its memory is being sent".into()];
        let text = table(&reply, None);
        assert!(text.contains(" it is being moved to kvm2: why\n  its memory is being sent\n"), "{text}");
        assert!(!text.contains("gate hold: it moves"), "{text}");
    }

    #[test]
    fn one_vm_shows_every_number() {
        let mut vm = reply().vms.swap_remove(1);
        vm.limit_bytes_per_second = Some(400 << 20);
        vm.limit_requests_per_second = Some(1000);
        vm.group = Some("tenant".into());
        vm.avoid_paths = vec!["san0/b".into()];
        let group = wire::Group {
            name: "tenant".into(),
            shares: 500,
            reservation_bytes_per_second: None,
            limit_bytes_per_second: Some(800 << 20),
            limit_requests_per_second: None,
            limit_burst_ms: 20,
            served_bytes_per_second: 120 << 20,
            vms: vec!["silver".into(), "other".into()],
        };
        let reply = wire::OneVm {
            at_unix_us: 12_000_000,
            generation: 1,
            counted_unix_us: None,
            group: Some(group),
            vm,
        };
        let expect = "\
silver  running for 12 s
  priority      90
  shares        1000
  reservation   1023.0 MiB/s, unmet by 12.0 MiB/s
  limit         400.0 MiB/s and 1000 IO/s, 5 ms ahead
  group         tenant: 2 VMs, shares 500, reservation -, limit 800.0 MiB/s, 20 ms ahead, served 120.0 MiB/s
  entitled      512.0 MiB/s
  served        60.0 MiB/s
  in flight     2
  held          40: 39 by headroom kept for a higher priority, 1 by its limit; the oldest for 1.2 s
  held so far   2.5 s by headroom kept for a higher priority
  completed     100 requests, 400.0 KiB; 0 failed, 0 retried
  on path loss  failover, resume on repair
  may not use   san0/b
  disk          vda = san0/silver, present, 1 client
";
        assert_eq!(one(&reply, None), expect);
    }
}
