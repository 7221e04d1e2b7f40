//! The commands that ask the daemon for a change.

use super::{Access, DiskChange, PathChange, PathName, VmChange, moves, output};
use crate::api::client::{Ask, Client, fault_line, segment};
use crate::api::wire;
use std::process::ExitCode;
use std::time::Duration;

pub(super) fn change_path(client: &Client, change: PathChange) -> anyhow::Result<ExitCode> {
    let at =
        |path: &PathName, what| format!("/v1/paths/{}/{}/{what}", segment(&path.target), segment(&path.path));
    let ask = match change {
        PathChange::Disable { path } => Ask::Post(at(&path, "disable")),
        PathChange::Drain { path, force, wait } => {
            let query = if force { "drain?force=true" } else { "drain" };
            let done = change_by(client, &Ask::Post(at(&path, query)))?;
            return if wait { wait_until_drained(client, &path) } else { Ok(done) };
        }
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

/// How often it is looked whether a path is empty.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Tells what it waits for, whenever that changes.
fn wait_until_drained(client: &Client, path: &PathName) -> anyhow::Result<ExitCode> {
    let mut told = String::new();
    loop {
        let paths: wire::Paths = client.get("/v1/paths")?;
        let row = paths.paths.into_iter().find(|row| row.target == path.target && row.name == path.path);
        let row = row.ok_or_else(|| anyhow::anyhow!("{path} is no longer in the configuration"))?;
        match drained(&row) {
            Drained::Yes => {
                return output::print(&format!("{path} is drained: nothing of it is in flight any more\n"));
            }
            Drained::NotYet(doing) => {
                if doing != told {
                    eprintln!("{path}: {doing}");
                    told = doing;
                }
            }
            Drained::TakenBack => anyhow::bail!("{path} is {}: somebody has put it back", row.health),
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Drained {
    Yes,
    NotYet(String),
    TakenBack,
}

fn drained(row: &wire::Path) -> Drained {
    let reason = row.reason.as_deref().unwrap_or_default();
    match row.health.as_str() {
        "disabled" => Drained::Yes,
        "draining" | "marginal" if reason.contains("being drained") => {
            Drained::NotYet(match reason.split_once("s: ") {
                Some((_, doing)) => doing.to_owned(),
                None => reason.to_owned(),
            })
        }
        _ => Drained::TakenBack,
    }
}

pub(super) fn change_vm(client: &Client, change: VmChange) -> anyhow::Result<ExitCode> {
    let at = match change {
        VmChange::Suspend { name } => format!("/v1/vms/{}/suspend", segment(&name)),
        VmChange::Resume { name } => format!("/v1/vms/{}/resume", segment(&name)),
        VmChange::Migrate(args) => return moves::migrate(client, &args),
        VmChange::Return(args) => return moves::return_home(client, &args),
    };
    change_by(client, &Ask::Post(at))
}

pub(super) fn change_disk(client: &Client, change: &DiskChange) -> anyhow::Result<ExitCode> {
    match change {
        DiskChange::Takeover(args) => moves::takeover(client, args),
    }
}

pub(super) fn failback(client: &Client, target: &str) -> anyhow::Result<ExitCode> {
    change_by(client, &Ask::Post(format!("/v1/targets/{}/failback", segment(target))))
}

pub(super) fn reload(client: &Client) -> anyhow::Result<ExitCode> {
    change_by(client, &Ask::Post("/v1/reload".into()))
}

pub(super) fn change_by(client: &Client, ask: &Ask) -> anyhow::Result<ExitCode> {
    let done: wire::Done = client.call(ask)?.read()?;
    let warnings = done.warnings.iter().map(|fault| format!("warning: {}\n", fault_line(fault)));
    output::print(&format!("{}{}\n", warnings.collect::<String>(), done.message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing;

    #[test]
    fn a_drain_is_waited_for_until_the_path_is_out_or_back() {
        let row = |health: &str, reason: Option<&str>| {
            let mut row = testing::path("a");
            (row.health, row.reason) = (health.into(), reason.map(str::to_owned));
            drained(&row)
        };
        let doing = "path san0/a is being drained by the operator for 1.2 s: it gets no new requests";
        assert_eq!(row("draining", Some(doing)), Drained::NotYet("it gets no new requests".into()));
        assert_eq!(row("marginal", Some(doing)), Drained::NotYet("it gets no new requests".into()));
        assert_eq!(row("disabled", Some("path san0/a has been disabled")), Drained::Yes);
        assert_eq!(row("up", None), Drained::TakenBack);
        assert_eq!(row("marginal", Some("it must stay good")), Drained::TakenBack);
    }
}
