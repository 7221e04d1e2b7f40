//! The commands that ask the daemon for a change.

use super::{Access, PathChange, PathName, VmChange, output};
use crate::api::client::{Ask, Client, fault_line, segment};
use crate::api::wire;
use std::process::ExitCode;

pub(super) fn change_path(client: &Client, change: PathChange) -> anyhow::Result<ExitCode> {
    let at =
        |path: &PathName, what| format!("/v1/paths/{}/{}/{what}", segment(&path.target), segment(&path.path));
    let ask = match change {
        PathChange::Disable { path } => Ask::Post(at(&path, "disable")),
        PathChange::Enable { path } => Ask::Post(at(&path, "enable")),
        PathChange::SetAccess { path, access } => {
            let access = match access {
                Access::Optimized => "optimized",
                Access::NonOptimized => "non-optimized",
            };
            Ask::SetAccess { at: at(&path, "access"), access: access.into() }
        }
    };
    change_by(client, &ask)
}

pub(super) fn change_vm(client: &Client, change: VmChange) -> anyhow::Result<ExitCode> {
    let at = match change {
        VmChange::Suspend { name } => format!("/v1/vms/{}/suspend", segment(&name)),
        VmChange::Resume { name } => format!("/v1/vms/{}/resume", segment(&name)),
    };
    change_by(client, &Ask::Post(at))
}

pub(super) fn failback(client: &Client, target: &str) -> anyhow::Result<ExitCode> {
    change_by(client, &Ask::Post(format!("/v1/targets/{}/failback", segment(target))))
}

pub(super) fn reload(client: &Client) -> anyhow::Result<ExitCode> {
    change_by(client, &Ask::Post("/v1/reload".into()))
}

fn change_by(client: &Client, ask: &Ask) -> anyhow::Result<ExitCode> {
    let done: wire::Done = client.call(ask)?.read()?;
    let warnings = done.warnings.iter().map(|fault| format!("warning: {}\n", fault_line(fault)));
    output::print(&format!("{}{}\n", warnings.collect::<String>(), done.message))
}
