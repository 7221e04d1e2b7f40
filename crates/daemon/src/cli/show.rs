//! `vmpath show`: tables for people, the API's JSON for programs.

use super::text::{ago, bytes, plural, utc};
use super::{Format, Show, ShowArgs, events, output, tree, vms};
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
    let mut table = table(&["DISK", "STATE", "UNIT", "ATTACHED", "VHOST-USER", "NBD", "NBD TCP"]);
    for (vm, disk) in reply.vms.iter().flat_map(|vm| vm.disks.iter().map(move |disk| (vm, disk))) {
        let path = |path: &Option<PathBuf>| or_dash(path.as_ref().map(|p| p.display().to_string()).as_ref());
        table.add_row([
            format!("{}/{}", vm.name, disk.name),
            disk.presence.clone(),
            disk.unit.clone(),
            disk.clients.to_string(),
            path(&disk.vhost_user),
            path(&disk.nbd_socket),
            or_dash(disk.nbd_tcp.as_ref()),
        ]);
    }
    lines(&table)
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
