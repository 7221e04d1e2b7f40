//! `vmpath show hosts` and `vmpath show migrations`: a row for each, and under it what a column cannot hold.

use super::show::{lines, table};
use super::text::{bytes, plural, rate, rate_or_dash, span_us, utc, wrap};
use crate::api::wire;

/// Units without a path that are named.
const NAMES_MAX: usize = 4;

const ALONE: &str = "\
this host belongs to no cluster: its VMs stay where they are
  help: [cluster] in the configuration makes it one of several hosts; docs/cluster.md tells how
";

/// What is said before the rows; none where there is nothing to add.
fn store(cluster: &str, why: Option<&String>) -> Option<String> {
    match cluster {
        "connecting" => {
            Some("etcd was not heard yet: nothing is known of other hosts, and no VM is moved\n".into())
        }
        "down" => {
            let why = why.map_or("for no reason that is known", String::as_str);
            Some(format!(
                "etcd does not answer: {why}; the rows are as it was heard last, and no VM is moved\n"
            ))
        }
        _ => None,
    }
}

pub(super) fn hosts(reply: &wire::Hosts, width: Option<usize>) -> String {
    if reply.cluster == "none" {
        return ALONE.into();
    }
    let mut text = store(&reply.cluster, reply.why.as_ref()).unwrap_or_default();
    if let Some(trouble) = &reply.channel_trouble {
        text.push_str(&wrap(&format!("this host cannot speak to the others: {trouble}"), "", width));
    }
    let mut rows = table(&["HOST", "VERSION", "PEER", "TAKES VMS", "VMS HERE", "COULD COME"]);
    for host in &reply.hosts {
        let count = |place: &str| host.vms.iter().filter(|vm| vm.place == place).count().to_string();
        let name = if host.is_self { format!("{} (this host)", host.name) } else { host.name.clone() };
        let takes = if host.accepts { "yes" } else { "no" };
        rows.add_row([
            name,
            host.version.clone(),
            host.peer.clone(),
            takes.into(),
            count("here"),
            count("launchable"),
        ]);
    }
    let shown = lines(&rows);
    let mut shown = shown.lines();
    text.extend(shown.next().map(|header| format!("{header}\n")));
    for (row, host) in shown.zip(&reply.hosts) {
        text.push_str(&format!("{row}\n"));
        let why_not = host.why_not.iter().map(|why| format!("takes no VM: {why}"));
        for line in why_not.chain(host.targets.iter().map(target)) {
            text.push_str(&wrap(&line, "  ", width));
        }
    }
    text
}

/// `san0: 60.0 MiB/s of 200.0 MiB/s reserved, 10.0 MiB/s claimed, 12 units over a, b; no path to gold`.
fn target(target: &wire::TargetOfHost) -> String {
    let mut paths: Vec<&str> =
        target.units.iter().flat_map(|unit| &unit.paths_up).map(String::as_str).collect();
    paths.sort_unstable();
    paths.dedup();
    let over = if paths.is_empty() { "no path".into() } else { paths.join(", ") };
    let capacity = target.capacity_bytes_per_second;
    let of =
        capacity.map_or_else(|| " (capacity not known)".into(), |rate| format!(" of {}", self::rate(rate)));
    let cut_off: Vec<_> = target.units.iter().filter(|unit| unit.paths_up.is_empty()).collect();
    let named: Vec<_> = cut_off.iter().take(NAMES_MAX).map(|unit| unit.name.as_str()).collect();
    let more = match cut_off.len().saturating_sub(NAMES_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let cut_off =
        if named.is_empty() { String::new() } else { format!("; no path to {}{more}", named.join(", ")) };
    let lost = match target.lost_paths as usize {
        0 => String::new(),
        lost => format!(", {} lost", plural(lost, "path")),
    };
    format!(
        "{}: {}{of} reserved, {} claimed, {} over {over}{lost}{cut_off}",
        target.name,
        rate_or_dash(Some(target.reserved_bytes_per_second)),
        rate(target.claimed_bytes_per_second),
        plural(target.units.len(), "unit"),
    )
}

pub(super) fn migrations(reply: &wire::Migrations, width: Option<usize>) -> String {
    if reply.cluster == "none" && reply.migrations.is_empty() {
        return ALONE.into();
    }
    let mut text = store(&reply.cluster, reply.why.as_ref()).unwrap_or_default();
    if reply.migrations.is_empty() {
        return text + "no VM is being moved, and none was since the daemon's start\n";
    }
    let mut rows = table(&["VM", "FROM", "TO", "SIDE", "STATE", "BEGAN (UTC)", "TOOK", "DOWNTIME"]);
    for row in &reply.migrations {
        rows.add_row([
            row.vm.clone(),
            row.from.clone(),
            row.to.clone(),
            row.side.clone(),
            row.state.clone(),
            utc(row.began_unix_us),
            span_us(row.took_us),
            row.downtime_us.map_or_else(|| "-".into(), span_us),
        ]);
    }
    let shown = lines(&rows);
    let mut shown = shown.lines();
    text.extend(shown.next().map(|header| format!("{header}\n")));
    for (line, row) in shown.zip(&reply.migrations) {
        text.push_str(&format!("{line}\n"));
        for matter in matters(row) {
            text.push_str(&wrap(&matter, "  ", width));
        }
    }
    text
}

fn matters(row: &wire::Migration) -> Vec<String> {
    let memory = row.sent_bytes.zip(row.left_bytes);
    let memory = memory.map(|(sent, left)| format!("{} sent, {} left", bytes(sent), bytes(left)));
    let incident = row.incident.as_ref().map(|incident| format!(" ({incident})")).unwrap_or_default();
    let why = row.why.as_ref().map(|why| format!("not moved: {why}"));
    memory.into_iter().chain(why).chain([format!("because {}{incident}", row.rule)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing;

    fn host(name: &str) -> wire::HostOfCluster {
        let unit = |name: &str, paths: &[&str]| wire::UnitOfHost {
            name: name.into(),
            size_bytes: Some(1 << 30),
            paths_up: paths.iter().map(|path| (*path).to_owned()).collect(),
        };
        let vm = |name: &str, place: &str| wire::VmOfHost {
            name: name.into(),
            priority: 1,
            reservation_bytes_per_second: None,
            place: place.into(),
        };
        wire::HostOfCluster {
            name: name.into(),
            version: "0.1.0".into(),
            peer: "10.0.0.1:7420".into(),
            is_self: name == "kvm1",
            accepts: name == "kvm1",
            why_not: (name != "kvm1").then(|| "it sheds VMs itself".into()),
            targets: vec![wire::TargetOfHost {
                name: "san0".into(),
                capacity_bytes_per_second: Some(200 << 20),
                reserved_bytes_per_second: 60 << 20,
                claimed_bytes_per_second: 10 << 20,
                lost_paths: u32::from(name == "kvm2"),
                units: vec![unit("gold", &["a", "b"]), unit("tin", &[])],
            }],
            vms: vec![vm("gold", "here"), vm("tin", "launchable"), vm("lead", "launchable")],
        }
    }

    fn reply(cluster: &str) -> wire::Hosts {
        wire::Hosts {
            at_unix_us: 0,
            cluster: cluster.into(),
            why: None,
            channel_trouble: None,
            hosts: vec![host("kvm1"), host("kvm2")],
            owners: vec![],
        }
    }

    #[test]
    fn hosts_are_rows_with_their_targets_under_them() {
        let expect = "\
HOST              VERSION  PEER           TAKES VMS  VMS HERE  COULD COME
kvm1 (this host)  0.1.0    10.0.0.1:7420  yes        1         2
  san0: 60.0 MiB/s of 200.0 MiB/s reserved, 10.0 MiB/s claimed, 2 units over a, b; no path to tin
kvm2              0.1.0    10.0.0.1:7420  no         1         2
  takes no VM: it sheds VMs itself
  san0: 60.0 MiB/s of 200.0 MiB/s reserved, 10.0 MiB/s claimed, 2 units over a, b, 1 path lost; no path to tin
";
        assert_eq!(hosts(&reply("up"), None), expect);
    }

    #[test]
    fn trouble_with_the_others_stands_in_front() {
        let mut down = reply("down");
        down.why = Some("no quorum".into());
        down.channel_trouble = Some("its certificate has expired".into());
        let text = hosts(&down, None);
        let mut lines = text.lines();
        assert!(lines.next().is_some_and(|line| line.contains("no quorum")), "{text}");
        assert!(lines.next().is_some_and(|line| line.contains("certificate has expired")), "{text}");
        for alone in [hosts(&reply("none"), None), migrations(&without_cluster(), None)] {
            assert!(alone.contains("belongs to no cluster") && alone.contains("[cluster]"), "{alone}");
        }
    }

    fn without_cluster() -> wire::Migrations {
        wire::Migrations { cluster: "none".into(), ..testing::migrations(vec![]) }
    }

    #[test]
    fn moves_are_rows_with_progress_and_reason_under_them() {
        let stayed = wire::Migration {
            state: "stayed".into(),
            ended_unix_us: Some(1),
            sent_bytes: None,
            why: Some("kvm2 refuses it".into()),
            incident: Some("INC-3".into()),
            ..testing::migration("kvm1.1.2", "db2")
        };
        let expect = "\
VM   FROM  TO    SIDE    STATE         BEGAN (UTC)              TOOK   DOWNTIME
db1  kvm1  kvm2  source  transferring  1970-01-01 00:00:01.000  2.3 s  -
  120.0 MiB sent, 30.0 MiB left
  because the operator asked for it
db2  kvm1  kvm2  source  stayed        1970-01-01 00:00:01.000  2.3 s  -
  not moved: kvm2 refuses it
  because the operator asked for it (INC-3)
";
        let rows = testing::migrations(vec![testing::migration("kvm1.1.1", "db1"), stayed]);
        assert_eq!(migrations(&rows, None), expect);
        let none = migrations(&testing::migrations(vec![]), None);
        assert!(none.starts_with("no VM is being moved"), "{none}");
    }
}
