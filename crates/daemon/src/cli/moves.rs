//! `vmpath vm migrate`, `vmpath vm return`, `vmpath disk takeover`: the commands that concern other hosts.
//!
//! It does not know how a move is done; what is waited for is told by [`super::follow`].

use super::{ask, follow, output};
use crate::api::client::{Ask, Client, segment};
use crate::api::wire;
use clap::Args;
use std::process::ExitCode;
use std::time::Duration;
use vmpath_core::spec::parse_duration;

pub(super) const MIGRATE_HELP: &str = "\
Examples:
  vmpath vm migrate db1                      to the host that suits it best
  vmpath vm migrate db1 --to kvm2 --wait     to this one, and come back when it is there
  vmpath vm migrate db1 --wait=60            come back after a minute, whatever has become of it
  vmpath vm migrate db1 --cancel             it stays, if its disks are not given over yet

Run it on the host where the VM is. Until its disks belong to the other host, whatever fails means that it stays and runs \
on. `vmpath show hosts` tells who would take it; `vmpath show migrations` and `vmpath explain vm NAME` how it goes.

Exit status: 0 asked for, or with --wait at the other host; 1 an error, or with --wait it has stayed; 2 wrong usage.";

pub(super) const RETURN_HELP: &str = "\
Run it on the host where the VM is: to the host where it began, before it was first moved. With `return = true` in its \
configuration it goes back by itself when that host has its paths again; this asks for it now.

Exit status: as of `vmpath vm migrate`.";

pub(super) const TAKEOVER_HELP: &str = "\
For one case only: the host that owns the disk is dead, or does not answer and cannot be asked. A VM on a host that \
answers is moved: `vmpath vm migrate`, there.

Two hosts that write to one disk destroy it, and a host that does not answer may still be writing: that its lease in etcd \
has run out proves nothing. So this needs one of two proofs that it writes no more:

  - `fence_command` in [host] of this host's configuration: it is run, and must succeed;
  - your word: turn the host off, see that it is off, and repeat its name:

      vmpath disk takeover db1/root --from kvm2 --confirmed-dead kvm2

Then the disk is this host's after the storage's quiesce bound, in which what that host has sent may still arrive; \
`vmpath show events` tells. All disks of a VM have to be taken over; then start it. vmpath does not.";

#[derive(Debug, Args)]
pub(super) struct MigrateArgs {
    name: String,
    /// This host and no other; `vmpath show hosts` lists them
    #[arg(long, value_name = "HOST")]
    to: Option<String>,
    #[command(flatten)]
    wait: Wait,
    /// End the move that is under way: the VM stays
    #[arg(long, conflicts_with_all = ["to", "wait"])]
    cancel: bool,
}

#[derive(Debug, Args)]
pub(super) struct ReturnArgs {
    name: String,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Debug, Args)]
struct Wait {
    /// Come back when it is there or stays, and tell how it goes; after so many seconds at the latest, if given
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, value_parser = bound)]
    #[allow(clippy::option_option, reason = "how clap tells an option without a value from none")]
    wait: Option<Option<Duration>>,
}

/// `60`, or a duration like `2m`.
fn bound(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => parse_duration(text).map_err(|problem| problem.message),
    }
}

#[derive(Debug, Args)]
pub(super) struct TakeoverArgs {
    /// As `vmpath show disks` names it
    #[arg(value_name = "VM/DISK", value_parser = disk_name)]
    disk: (String, String),
    /// The host that owns it, and is dead
    #[arg(long, value_name = "HOST")]
    from: String,
    /// The same name again: you have seen that this host is off
    #[arg(long, value_name = "HOST")]
    confirmed_dead: Option<String>,
    /// For a VM that a broken move has left stopped here: you know that it never ran on that host, so its memory may go on
    #[arg(long, value_name = "VM")]
    never_ran_there: Option<String>,
}

fn disk_name(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((vm, disk)) if !vm.is_empty() && !disk.is_empty() => Ok((vm.into(), disk.into())),
        _ => Err("a disk is written VM/DISK, like db1/vda; `vmpath show disks` lists them".into()),
    }
}

pub(super) fn migrate(client: &Client, args: &MigrateArgs) -> anyhow::Result<ExitCode> {
    let at = format!("/v1/vms/{}/migrate", segment(&args.name));
    if args.cancel {
        return ask::change_by(client, &Ask::Post(format!("{at}/cancel")));
    }
    let to = args.to.as_ref().map(|to| format!("?to={}", segment(to))).unwrap_or_default();
    asked(client, &args.name, &Ask::Post(at + &to), &args.wait)
}

pub(super) fn return_home(client: &Client, args: &ReturnArgs) -> anyhow::Result<ExitCode> {
    let ask = Ask::Post(format!("/v1/vms/{}/return", segment(&args.name)));
    asked(client, &args.name, &ask, &args.wait)
}

fn asked(client: &Client, vm: &str, ask: &Ask, wait: &Wait) -> anyhow::Result<ExitCode> {
    let Some(bound) = wait.wait else { return ask::change_by(client, ask) };
    let follow = follow::Follow::before(client, vm)?;
    let done: wire::Done = client.call(ask)?.read()?;
    eprintln!("{}", done.message);
    output::print(&format!("{}\n", follow.until_over(client, bound)?))
}

pub(super) fn takeover(client: &Client, args: &TakeoverArgs) -> anyhow::Result<ExitCode> {
    let (vm, disk) = &args.disk;
    let dead = args.confirmed_dead.as_ref().map(|dead| format!("&confirmed_dead={}", segment(dead)));
    let never = args.never_ran_there.as_ref().map(|vm| format!("&never_ran_there={}", segment(vm)));
    let (at, from) = (format!("/v1/disks/{}/{}/takeover", segment(vm), segment(disk)), segment(&args.from));
    let sure = [dead.unwrap_or_default(), never.unwrap_or_default()].concat();
    ask::change_by(client, &Ask::Post(format!("{at}?from={from}{sure}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_seconds_or_a_duration() {
        assert_eq!(bound("60"), Ok(Duration::from_secs(60)));
        assert_eq!(bound("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "-1", "soon", "60 apples"] {
            assert!(bound(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn disks_are_written_with_their_vm() {
        assert_eq!(disk_name("db1/vda"), Ok(("db1".into(), "vda".into())));
        for bad in ["db1", "/vda", "db1/", ""] {
            assert!(disk_name(bad).unwrap_err().contains("VM/DISK"), "{bad}");
        }
    }
}
