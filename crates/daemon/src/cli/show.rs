//! `vmpath show`: tables for people, the API's JSON for programs.

use super::text::{ago, bytes, plural, utc};
use super::{Format, Show, ShowArgs, output, tree, vms};
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
        Show::Events { after: Some(after), limit } => format!("/v1/events?after={after}&limit={limit}"),
        Show::Events { after: None, limit } => format!("/v1/events?limit={limit}"),
        Show::Incidents => "/v1/incidents".into(),
    };
    let reply = client.call(&Ask::Get(at))?;
    let text = match (args.output, &args.what) {
        (Format::Json, _) => format!("{}\n", reply.text()),
        (Format::Table, Show::Paths) => tree::paths(&reply.read()?),
        (Format::Table, Show::Vms) => vms::table(&reply.read()?, output::width()),
        (Format::Table, Show::Vm { .. }) => vms::one(&reply.read()?, output::width()),
        (Format::Table, Show::Disks) => disks(&reply.read()?),
        (Format::Table, Show::Units) => units(&reply.read()?),
        (Format::Table, Show::Events { .. }) => events(&reply.read()?),
        (Format::Table, Show::Incidents) => incidents(&reply.read()?),
    };
    output::print(&text)
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.iter().copied());
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

fn lines(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn or_dash(text: Option<&String>) -> String {
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

pub(super) fn events(reply: &wire::Events) -> String {
    let mut table = table(&["SEQ", "TIME (UTC)", "INCIDENT", "KIND", "SUBJECT", "REASON"]);
    for event in &reply.events {
        let until = event.until.as_ref().map(|until| format!("; until {until}")).unwrap_or_default();
        table.add_row([
            event.seq.to_string(),
            utc(event.at_unix_us),
            or_dash(event.incident.as_ref()),
            event.kind.clone(),
            format!("{} {}", event.subject.kind, event.subject.name),
            format!("{}{until}", event.reason),
        ]);
    }
    lines(&table)
}

pub(super) fn incidents(reply: &wire::Incidents) -> String {
    if reply.incidents.is_empty() {
        return "no open incident\n".into();
    }
    let mut table = table(&["INCIDENT", "SINCE (UTC)", "FOR", "PATHS", "VMS", "WHAT"]);
    for incident in &reply.incidents {
        table.add_row([
            incident.incident.clone(),
            utc(incident.opened_unix_us),
            ago(reply.at_unix_us, incident.opened_unix_us),
            incident.paths.join(", "),
            incident.vms_affected.join(", "),
            incident.summary.clone(),
        ]);
    }
    lines(&table)
}
