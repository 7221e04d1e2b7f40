//! The command line.
//!
//! Invariant: a command that asks the daemon answers within a second, and what it prints for programs (`-o json`) is
//! what the API said, unchanged. It knows how things look, not what they mean.

mod ask;
mod check;
mod events;
mod explain;
mod follow;
mod hosts;
mod moves;
mod output;
mod show;
#[cfg(test)]
mod testing;
mod text;
mod top;
mod tree;
mod vms;
mod whatif;

use crate::api::client::Client;
use crate::control::{config, lifecycle};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;

const AFTER_HELP: &str = "\
Examples:
  vmpath demo                               see what it does, in under a minute, on nothing but this machine
  vmpath simulate                           1000 VMs on 16 paths in virtual time, half of the paths lost
  vmpath check /etc/vmpath/vmpath.toml      every fault of a configuration at once
  vmpath daemon                             serve the VMs of /etc/vmpath/vmpath.toml
  vmpath show paths                         the paths as a tree, like `multipath -ll`
  vmpath top                                who gets what, over which path, live
  vmpath explain vm db1                     why db1 is where it is, and what it waits for
  vmpath whatif --lose san0/a               what would become of each VM if this path failed
  vmpath vm migrate db1 --to kvm2 --wait    move a running VM to another host
  vmpath path drain --wait san0/a           take a path out before work on its cable, without hurting anybody

Exit status: 0 done, 1 an error or faults, 2 wrong usage.";

/// Storage multipath for virtual machines: whether to route each request, and over which path.
#[derive(Debug, Parser)]
#[command(name = "vmpath", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// Where the daemon answers: `host.api_socket` of its configuration
    ///
    /// [default: the environment's VMPATH_SOCKET, else /run/vmpath/vmpath.sock]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the disks of a host's VMs, until SIGTERM
    ///
    /// Reads FILE and conf.d/*.toml beside it. Starts nothing if they have faults. SIGHUP, or `vmpath reload`, reads
    /// them again. Logs to stderr; RUST_LOG chooses how much.
    Daemon {
        #[arg(short, long, default_value = config::DEFAULT_FILE, value_name = "FILE")]
        config: PathBuf,
    },
    /// Report every fault of a configuration, with file, line and column
    Check {
        /// The main file; conf.d/*.toml beside it is read too
        #[arg(default_value = config::DEFAULT_FILE)]
        file: PathBuf,
    },
    /// Show paths, VMs, units, events, open incidents, other hosts or moves
    Show(ShowArgs),
    /// Watch paths and VMs as they change, once a second
    Top(top::TopArgs),
    /// Say in words why something is where it is
    Explain(ExplainArgs),
    /// Say what would become of each VM if paths were lost, or taken out; nothing is touched
    ///
    /// The daemon asks a copy of its own decisions, in virtual time: hypervisors are supposed to obey at once, and VMs to
    /// use what they have reserved.
    #[command(after_help = whatif::EXAMPLES)]
    Whatif(whatif::WhatIfArgs),
    /// Change a path: drain it, take it out, let it in, set its access state
    Path {
        #[command(subcommand)]
        change: PathChange,
    },
    /// Suspend or resume a VM, move it to another host or back
    Vm {
        #[command(subcommand)]
        change: VmChange,
    },
    /// Take a disk over from a host that is dead
    Disk {
        #[command(subcommand)]
        change: DiskChange,
    },
    /// Move a target's traffic back to its repaired paths now
    Failback { target: String },
    /// Make the daemon read its configuration again; with faults the old one stays in force
    Reload,
    /// Show the main job: a path is lost, a VM is suspended, all comes back, no byte is wrong
    ///
    /// Needs nothing but this machine and less than a minute: a storage array with two portals, three stand-in guests,
    /// and the daemon as it is. Exit status 0 only if every check passed.
    Demo(vmpath_lab::DemoArgs),
    /// Play vmpath in virtual time: a large host that loses half of its paths, or (--seeds) small ones in which everything goes wrong
    #[command(after_help = vmpath_lab::SimulateArgs::EXAMPLES)]
    Simulate(vmpath_lab::SimulateArgs),
    /// The laboratory: a storage array that fails on command, stand-in guests
    Lab {
        #[command(subcommand)]
        command: vmpath_lab::LabCommand,
    },
}

#[derive(Debug, Args)]
struct ShowArgs {
    #[command(subcommand)]
    what: Show,
    /// `table` for people, `json` for programs (docs/api.md)
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
enum Show {
    /// The paths of each target, as a tree
    Paths,
    /// The VMs: state, what each is entitled to and gets, and what is the matter
    Vms,
    /// One VM with every number of it
    Vm { name: String },
    /// The VMs' disks: unit, sockets, who is attached, which are leaving; in a cluster, who owns each
    Disks,
    /// The storage units: size, paths, quarantine, who uses them
    Units,
    /// The journal: what was seen and decided, oldest first
    #[command(after_help = events::EXAMPLES)]
    Events(events::EventsArgs),
    /// Failures that are not yet repaired
    Incidents {
        /// And the past ones, as far as the journal knows them
        #[arg(short, long)]
        all: bool,
    },
    /// The hosts of the cluster: who takes VMs, what each reaches, and how much room it has
    Hosts,
    /// The moves of VMs from and to this host: those under way, and the last that are over
    Migrations,
}

#[derive(Debug, Args)]
struct ExplainArgs {
    #[command(subcommand)]
    what: Explain,
    /// `table` for people, `json` for programs (docs/api.md)
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Explain {
    /// Which failure, which rule, which numbers, what the VM waits for, and what would come next
    Vm { name: String },
    /// Why a path is what it is, whom it serves, and what its loss would do
    Path {
        #[arg(value_name = "TARGET/PATH")]
        path: PathName,
    },
    /// One failure, open or past: what failed, whom it touched, what was decided
    Incident {
        #[arg(value_name = "INC-N")]
        incident: String,
    },
}

#[derive(Debug, Subcommand)]
enum PathChange {
    /// Take a path out: its traffic moves to the others
    Disable {
        #[arg(value_name = "TARGET/PATH")]
        path: PathName,
    },
    /// Take a path out for maintenance: who does not fit without it leaves first, what is in flight on it finishes
    ///
    /// Refused if some VM could not do without the path.
    Drain {
        #[arg(value_name = "TARGET/PATH")]
        path: PathName,
        /// Also if VMs need it: they then follow their `on_no_path`
        #[arg(long)]
        force: bool,
        /// Come back when nothing of it is in flight any more
        #[arg(long)]
        wait: bool,
    },
    /// Let a disabled or draining path be used again
    Enable {
        #[arg(value_name = "TARGET/PATH")]
        path: PathName,
    },
    /// Set a path's access state: a non-optimized path is used when no optimized one is left
    SetAccess {
        #[arg(value_name = "TARGET/PATH")]
        path: PathName,
        #[arg(value_enum)]
        access: Access,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Access {
    Optimized,
    NonOptimized,
}

#[derive(Debug, Subcommand)]
enum VmChange {
    /// Stop a VM's vCPUs; it stays so until `vmpath vm resume`
    Suspend { name: String },
    /// Let a suspended VM run again
    Resume { name: String },
    /// Move a running VM to another host; its guest sees a pause, and no error
    #[command(after_help = moves::MIGRATE_HELP)]
    Migrate(moves::MigrateArgs),
    /// Move a VM back to the host where it began
    #[command(after_help = moves::RETURN_HELP)]
    Return(moves::ReturnArgs),
}

#[derive(Debug, Subcommand)]
enum DiskChange {
    /// Make a disk this host's although the host that owns it does not answer: only if that host is surely off
    #[command(after_help = moves::TAKEOVER_HELP)]
    Takeover(moves::TakeoverArgs),
}

/// `target/path` as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PathName {
    target: String,
    path: String,
}

impl std::fmt::Display for PathName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.target, self.path)
    }
}

impl std::str::FromStr for PathName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((target, path)) if !target.is_empty() && !path.is_empty() => {
                Ok(Self { target: target.into(), path: path.into() })
            }
            _ => Err("a path is written TARGET/PATH, like san0/a; `vmpath show paths` lists them".into()),
        }
    }
}

fn default_socket() -> PathBuf {
    std::env::var_os("VMPATH_SOCKET").map_or_else(|| "/run/vmpath/vmpath.sock".into(), PathBuf::from)
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// In words, with what to do.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let client = Client::new(&self.socket.unwrap_or_else(default_socket));
        match self.command {
            Command::Daemon { config } => lifecycle::run(&config),
            Command::Check { file } => check::run(&file),
            Command::Show(args) => show::run(&client, &args),
            Command::Top(args) => top::run(client, &args),
            Command::Explain(args) => explain::run(&client, &args),
            Command::Whatif(args) => whatif::run(&client, &args),
            Command::Path { change } => ask::change_path(&client, change),
            Command::Vm { change } => ask::change_vm(&client, change),
            Command::Disk { change } => ask::change_disk(&client, &change),
            Command::Failback { target } => ask::failback(&client, &target),
            Command::Reload => ask::reload(&client),
            Command::Demo(args) => args.run(),
            Command::Simulate(args) => args.run(),
            Command::Lab { command } => command.run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn paths_are_written_with_their_target() {
        let name = |text: &str| text.parse::<PathName>();
        assert_eq!(name("san0/a").unwrap(), PathName { target: "san0".into(), path: "a".into() });
        for bad in ["san0", "/a", "san0/", ""] {
            assert!(name(bad).unwrap_err().contains("TARGET/PATH"), "{bad}");
        }
    }
}
