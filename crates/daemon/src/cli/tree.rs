//! The paths as a tree: target, its units, a row for each path, and under it what is wrong.

use super::text::{ago, bytes, millis, plural, rate};
use crate::api::wire;

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
    let units =
        if units.is_empty() { "no unit in use".into() } else { format!("{}: {}", plural(units.len(), "unit"), units.join(", ")) };
    let mut text = format!("{target}  {units}\n");
    for (index, path) in paths.iter().enumerate() {
        let last = index + 1 == paths.len();
        let (mark, under) = if last { ("`- ", "   ") } else { ("|- ", "|  ") };
        text.push_str(mark);
        text.push_str(&row(path, widths));
        text.push('\n');
        for line in troubles(path, now) {
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

/// Why it is not simply up, and the links that have a fault of their own.
fn troubles(path: &wire::Path, now: u64) -> Vec<String> {
    let since = ago(now, path.since_unix_us);
    let incident = path.incident.as_ref().map(|incident| format!(" [{incident}]")).unwrap_or_default();
    let mut lines: Vec<_> = path.reason.iter().map(|reason| format!("for {since}{incident}: {reason}")).collect();
    let own = path.links.iter().filter(|link| link.fault.is_some() && link.fault != path.reason);
    lines.extend(own.map(|link| {
        let fault = link.fault.as_deref().unwrap_or_default();
        format!("to {}: {fault}", link.unit)
    }));
    lines
}
