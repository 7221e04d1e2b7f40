//! The paths as a tree: target, its units, a row for each path, and under it what is wrong.

use super::text::{ago, bytes, millis, plural, rate};
use crate::api::wire;

/// VMs of a path that are named; the rest is summed up.
const SHARES_MAX: usize = 4;

pub(super) fn paths(reply: &wire::Paths) -> String {
    let mut targets: Vec<&str> = Vec::new();
    for path in &reply.paths {
        if !targets.contains(&path.target.as_str()) {
            targets.push(&path.target);
        }
    }
    let widths = Widths::of(&reply.paths);
    targets
        .into_iter()
        .map(|target| {
            let rows: Vec<_> = reply.paths.iter().filter(|path| path.target == target).collect();
            branch(target, &rows, &widths, reply.at_unix_us)
        })
        .collect()
}

/// Widths of the aligned columns.
struct Widths {
    name: usize,
    health: usize,
    access: usize,
    rate: usize,
    service: usize,
    pending: usize,
}

impl Widths {
    fn of(paths: &[wire::Path]) -> Self {
        let widest = |text: fn(&wire::Path) -> String| paths.iter().map(|p| text(p).len()).max().unwrap_or(0);
        Self {
            name: widest(|path| path.name.clone()),
            health: widest(|path| path.health.clone()),
            access: widest(|path| path.access.clone()),
            rate: widest(|path| rate(path.rate_bytes_per_second)),
            service: widest(|path| millis(path.service_time_us)),
            pending: widest(pending),
        }
    }
}

fn branch(target: &str, paths: &[&wire::Path], widths: &Widths, now: u64) -> String {
    let mut units: Vec<&str> =
        paths.iter().flat_map(|path| &path.links).filter_map(|link| link.unit.split('/').nth(1)).collect();
    units.sort_unstable();
    units.dedup();
    let units = if units.is_empty() {
        "no unit in use".into()
    } else {
        format!("{}: {}", plural(units.len(), "unit"), units.join(", "))
    };
    let mut text = format!("{target}  {units}\n");
    for (index, path) in paths.iter().enumerate() {
        let last = index + 1 == paths.len();
        let (mark, under) = if last { ("`- ", "   ") } else { ("|- ", "|  ") };
        text.push_str(mark);
        text.push_str(&row(path, widths));
        text.push('\n');
        for line in troubles(path, now).into_iter().chain(can(path)).chain(shares(path)) {
            text.push_str(&format!("{under}{:width$}  {line}\n", "", width = widths.name));
        }
    }
    text
}

fn row(path: &wire::Path, widths: &Widths) -> String {
    format!(
        "{:name$}  {:health$}  {:access$}  {}  {:>rate$}  {:>service$}  {:pending$}  {}  {}",
        path.name,
        path.health,
        path.access,
        if path.preferred { "preferred" } else { "standby  " },
        rate(path.rate_bytes_per_second),
        millis(path.service_time_us),
        pending(path),
        plural(path.connections as usize, "connection"),
        path.url,
        name = widths.name,
        health = widths.health,
        access = widths.access,
        rate = widths.rate,
        service = widths.service,
        pending = widths.pending,
    )
}

fn pending(path: &wire::Path) -> String {
    format!(
        "{} pending, {} of {}",
        path.pending_requests,
        bytes(path.pending_bytes),
        bytes(path.window_bytes)
    )
}

/// Why it is not simply up; on a path that works, the links that do not.
fn troubles(path: &wire::Path, now: u64) -> Vec<String> {
    let own_name = format!("path {}/{} ", path.target, path.name);
    let mut lines: Vec<_> = path
        .reason
        .iter()
        .map(|reason| match reason.strip_prefix(&own_name) {
            Some(reason) => reason.to_owned(),
            None => format!("for {}: {reason}", ago(now, path.since_unix_us)),
        })
        .collect();
    if matches!(path.health.as_str(), "up" | "marginal") {
        let faults = path.links.iter().filter_map(|link| Some((link, link.fault.as_ref()?)));
        lines.extend(faults.map(|(link, fault)| format!("to {}: {fault}", link.unit)));
    }
    lines
}

/// What it can carry and how much is let in, of a path that works.
fn can(path: &wire::Path) -> Option<String> {
    if !matches!(path.health.as_str(), "up" | "marginal") {
        return None;
    }
    let estimate = Some(path.estimate_bytes_per_second).filter(|rate| *rate > 0);
    let estimate = estimate.map(|seen| format!("can carry {} as seen", rate(seen)));
    let capacity = path.capacity_bytes_per_second.map(|capacity| format!("capacity {}", rate(capacity)));
    let window = format!("window {} of at most {}", bytes(path.window_bytes), bytes(path.window_max_bytes));
    Some(estimate.into_iter().chain(capacity).chain([window]).collect::<Vec<_>>().join(", "))
}

/// Whose requests it lately carried.
fn shares(path: &wire::Path) -> Option<String> {
    if path.carried.is_empty() {
        return None;
    }
    let one = |share: &wire::Carried| format!("{} {:.1} %", share.vm, share.share_percent);
    // One more name is as short as "1 other".
    let named = if path.carried.len() <= SHARES_MAX + 1 { path.carried.len() } else { SHARES_MAX };
    let mut parts: Vec<_> = path.carried.iter().take(named).map(one).collect();
    let others = &path.carried[named..];
    if !others.is_empty() {
        let percent: f64 = others.iter().map(|share| share.share_percent).sum();
        parts.push(format!("{} others {percent:.1} %", others.len()));
    }
    Some(format!("for {}", parts.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::{self, path};

    #[test]
    fn a_target_is_a_branch_and_troubles_hang_under_their_path() {
        let mut sick = path("a");
        sick.links[1].fault = Some("not this unit".into());
        sick.capacity_bytes_per_second = Some(100 << 20);
        sick.estimate_bytes_per_second = 103 << 20;
        let share = |(index, share_percent): (usize, f64)| wire::Carried {
            vm: format!("vm{index}"),
            bytes_per_second: 1,
            share_percent,
        };
        sick.carried = [40.0, 30.0, 15.5, 10.0, 4.0, 0.5].into_iter().enumerate().map(share).collect();
        let lost = wire::Path {
            health: "down".into(),
            preferred: false,
            reason: Some(
                "path san0/bb has been down for 2.0 s: connection reset by the target (INC-1)".into(),
            ),
            rate_bytes_per_second: 0,
            ..path("bb")
        };
        let other = wire::Path { target: "san1".into(), links: vec![], ..path("a") };
        let reply = testing::paths(vec![sick, lost, other]);
        let expect = "\
san0  2 units: bronze, gold
|- a   up    optimized  preferred  98.0 MiB/s  0.8 ms  3 pending, 192.0 KiB of 2.0 MiB  4 connections  nbd://10.0.0.1:10809
|      to san0/bronze: not this unit
|      can carry 103.0 MiB/s as seen, capacity 100.0 MiB/s, window 2.0 MiB of at most 64.0 MiB
|      for vm0 40.0 %, vm1 30.0 %, vm2 15.5 %, vm3 10.0 %, 2 others 4.5 %
`- bb  down  optimized  standby         0 B/s  0.8 ms  3 pending, 192.0 KiB of 2.0 MiB  4 connections  nbd://10.0.0.2:10809
       has been down for 2.0 s: connection reset by the target (INC-1)
san1  no unit in use
`- a   up    optimized  preferred  98.0 MiB/s  0.8 ms  3 pending, 192.0 KiB of 2.0 MiB  4 connections  nbd://10.0.0.1:10809
       window 2.0 MiB of at most 64.0 MiB
";
        assert_eq!(paths(&reply), expect);
    }
}
