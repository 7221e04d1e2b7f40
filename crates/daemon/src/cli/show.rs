//! `vmpath show`: tables for people, the API's JSON for programs.

use super::text::{ago, bytes, plural, utc};
use super::{Format, Show, ShowArgs, events, hosts, output, tree, vms};
use crate::api::client::{Ask, Client, segment};
use crate::api::wire;
use comfy_table::{ContentArrangement, Table, presets};
use std::path::PathBuf;
use std::process::ExitCode;

pub(super) fn run(client: &Client, args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let at = match &args.what {
        Show::Paths => "/v1/paths".into(),
        Show::Vms | Show::Disks => "/v1/vms".into(),
        Show::Vm { name } => format!("/v1/vms/{}", segment(name)),
        Show::Units => "/v1/units".into(),
        Show::Events(asked) => return events::run(client, asked, args.output),
        Show::Incidents { all: false } => "/v1/incidents".into(),
        Show::Incidents { all: true } => "/v1/incidents?all=true".into(),
        Show::Hosts => "/v1/hosts".into(),
        Show::Migrations => "/v1/migrations".into(),
    };
    let reply = client.call(&Ask::Get(at))?;
    let text = match (args.output, &args.what) {
        (Format::Json, _) => format!("{}\n", reply.text()),
        (Format::Table, Show::Paths) => tree::paths(&reply.read()?),
        (Format::Table, Show::Vms) => vms::table(&reply.read()?, output::width()),
        (Format::Table, Show::Vm { .. }) => vms::one(&reply.read()?, output::width()),
        (Format::Table, Show::Disks) => disks(&reply.read()?),
        (Format::Table, Show::Units) => units(&reply.read()?),
        (Format::Table, Show::Events(_)) => events::table(&reply.read()?),
        (Format::Table, Show::Incidents { .. }) => incidents(&reply.read()?),
        (Format::Table, Show::Hosts) => hosts::hosts(&reply.read()?, output::width()),
        (Format::Table, Show::Migrations) => hosts::migrations(&reply.read()?, output::width()),
    };
    output::print(&text)
}

pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.iter().copied());
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

pub(super) fn lines(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

pub(super) fn or_dash(text: Option<&String>) -> String {
    text.cloned().unwrap_or_else(|| "-".into())
}

pub(super) fn disks(reply: &wire::Vms) -> String {
    const OWNER: usize = 3;
    // Of a host that is alone there is nothing to say of owners.
    let is_owned = reply.vms.iter().flat_map(|vm| &vm.disks).any(|disk| disk.owner.is_some());
    let mut header = vec!["DISK", "STATE", "UNIT", "ATTACHED", "VHOST-USER", "NBD", "NBD TCP"];
    if is_owned {
        header.insert(OWNER, "OWNER");
    }
    let mut table = table(&header);
    for (vm, disk) in reply.vms.iter().flat_map(|vm| vm.disks.iter().map(move |disk| (vm, disk))) {
        let path = |path: &Option<PathBuf>| or_dash(path.as_ref().map(|p| p.display().to_string()).as_ref());
        let mut row = vec![
            format!("{}/{}", vm.name, disk.name),
            disk.presence.clone(),
            disk.unit.clone(),
            disk.clients.to_string(),
            path(&disk.vhost_user),
            path(&disk.nbd_socket),
            or_dash(disk.nbd_tcp.as_ref()),
        ];
        if is_owned {
            row.insert(OWNER, owner(disk.owner.as_ref()));
        }
        table.add_row(row);
    }
    lines(&table)
}

/// A host, or why none is named.
fn owner(owner: Option<&wire::Owner>) -> String {
    owner.map_or_else(|| "-".into(), |row| row.owner.clone().unwrap_or_else(|| row.words.clone()))
}

pub(super) fn units(reply: &wire::Units) -> String {
    let mut table = table(&["UNIT", "SIZE", "PATHS", "QUARANTINE", "USED BY"]);
    for unit in &reply.units {
        let links: Vec<_> = unit
            .links
            .iter()
            .map(|link| format!("{} {}", link.path.rsplit('/').next().unwrap_or_default(), link.state))
            .collect();
        let quarantine = if unit.quarantined_ranges == 0 {
            "-".into()
        } else {
            let left = unit.quarantined_for_ms.map(|ms| format!(", {ms} ms left")).unwrap_or_default();
            let ranges = plural(unit.quarantined_ranges as usize, "range");
            format!("{ranges}, {}{left}", bytes(unit.quarantined_bytes))
        };
        let disks: Vec<_> = unit.disks.iter().map(|disk| format!("{}/{}", disk.vm, disk.name)).collect();
        table.add_row([
            format!("{}/{}", unit.target, unit.name),
            unit.size_bytes.map_or_else(|| "-".into(), bytes),
            links.join(", "),
            quarantine,
            disks.join(", "),
        ]);
    }
    lines(&table)
}

pub(super) fn incidents(reply: &wire::Incidents) -> String {
    if reply.incidents.is_empty() {
        return "no incident\n".into();
    }
    let mut table = table(&["INCIDENT", "SINCE (UTC)", "FOR", "PATHS", "VMS", "WHAT"]);
    for incident in &reply.incidents {
        let (since, lasts) = match (incident.opened_unix_us, incident.closed_unix_us) {
            (0, _) => ("-".into(), "over".into()),
            (from, Some(to)) => (utc(from), format!("{}, over", ago(to, from))),
            (from, None) => (utc(from), ago(reply.at_unix_us, from)),
        };
        table.add_row([
            incident.incident.clone(),
            since,
            lasts,
            incident.paths.join(", "),
            some(&incident.vms_affected),
            incident.summary.clone(),
        ]);
    }
    lines(&table)
}

/// As many names as fit a column.
fn some(names: &[String]) -> String {
    const NAMED_MAX: usize = 4;
    let named = names.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED_MAX) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing;

    fn vms(owner: Option<wire::Owner>) -> wire::Vms {
        let mut vm = testing::vm("gold", 1);
        vm.disks[0].owner = owner;
        let vms = vec![vm, testing::vm("tin", 1)];
        wire::Vms { at_unix_us: 0, generation: 1, counted_unix_us: None, groups: vec![], vms }
    }

    #[test]
    fn owners_are_a_column_in_a_cluster_only() {
        assert!(!disks(&vms(None)).contains("OWNER"));
        let owner = |host: Option<&str>| wire::Owner {
            unit: "san0/gold".into(),
            owner: host.map(str::to_owned),
            epoch: None,
            words: "it has no owner yet".into(),
        };
        let text = disks(&vms(Some(owner(Some("kvm2")))));
        let rows: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!((rows[0][3], rows[1][3], rows[2][3]), ("OWNER", "kvm2", "-"), "{text}");
        assert!(disks(&vms(Some(owner(None)))).contains("it has no owner yet"));
    }
}
