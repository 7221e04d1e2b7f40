//! `vmpath lab array`: a storage array in one process, with portals that fail on command.
//!
//! Units behind any number of portals (NBD servers), each with its own bandwidth; a control socket that switches faults
//! while it runs. Invariant: all portals show the same units, so that a write by one is read by every other.
//! Rejected: nbdkit with filters, which has no ghosts, no RST on command, and dies when a client vanishes.
//! It does not know: vmpath's daemon; any NBD client may use it.

mod alarm;
mod cache;
mod connection;
pub mod control;
pub mod fault;
mod ghost;
pub mod portal;
mod service;
mod session;
#[cfg(test)]
mod tests;
pub mod unit;
pub mod writers;

use crate::clock::unix_micros;
use control::Controlled;
use portal::{PortalArg, PortalHandle};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use unit::{Unit, UnitArg};

/// Threads of the array: its work is mostly copies, and there are guests beside it.
const WORKERS: usize = 2;

/// A storage array that fails on command.
#[derive(Clone, Debug, clap::Args)]
pub struct ArrayArgs {
    /// A storage unit, in memory or in a file: NAME=SIZE[:FILE]. May be repeated.
    #[arg(long, required = true)]
    pub unit: Vec<UnitArg>,
    /// A way to all units: NAME=ADDR:PORT or NAME=unix:PATH, with ,capacity=100MiB/s ,latency=500us ,cache=volatile and
    /// ,host=NAME. May be repeated.
    #[arg(long, required = true)]
    pub portal: Vec<PortalArg>,
    /// Unix socket for `vmpath lab ctl`.
    #[arg(long)]
    pub control: Option<PathBuf>,
    /// Fill the units, each with bytes of its own, before serving them.
    #[arg(long)]
    pub prefill: bool,
}

impl ArrayArgs {
    /// Serves until it is killed or interrupted. The first line on standard output is JSON and says where.
    ///
    /// # Errors
    /// If a unit, a portal or the control socket cannot be opened.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?;
        runtime.block_on(async {
            let mut termination = crate::child::Termination::new()?;
            let array = self.open().await?;
            println!("{}", array.ready_line());
            termination.requested().await;
            Ok(ExitCode::SUCCESS)
        })
    }

    /// Opens everything and serves in the background of the current runtime.
    ///
    /// # Errors
    /// If a unit, a portal or the control socket cannot be opened.
    pub async fn open(&self) -> anyhow::Result<Array> {
        self.check_names()?;
        let cached = self.portal.iter().any(|portal| portal.volatile_cache);
        let open = |arg: &UnitArg| {
            let unit = Unit::open(arg)?;
            anyhow::Ok(Arc::new(if cached { unit.with_caches() } else { unit }))
        };
        let units = self.unit.iter().map(open).collect::<anyhow::Result<Vec<_>>>()?;
        if self.prefill {
            units.iter().try_for_each(|unit| unit.prefill())?;
        }
        let units = Arc::new(units);
        let mut portals = Vec::new();
        for (number, arg) in self.portal.iter().enumerate() {
            portals.push(PortalHandle::open(number, arg, Arc::clone(&units)).await?);
        }
        let controlled = Arc::new(Controlled { portals, units });
        if let Some(path) = &self.control {
            let listener = crate::child::bind_control(path)?;
            tokio::spawn(control::serve(listener, Arc::clone(&controlled)));
        }
        Ok(Array { controlled })
    }

    fn check_names(&self) -> anyhow::Result<()> {
        let twice = |names: Vec<&String>| {
            let mut sorted = names;
            sorted.sort();
            sorted.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone())
        };
        let units = twice(self.unit.iter().map(|u| &u.name).collect());
        let portals = twice(self.portal.iter().map(|p| &p.name).collect());
        match units.or(portals) {
            Some(name) => {
                anyhow::bail!("the name {name:?} is given twice; names of units and of portals differ")
            }
            None => Ok(()),
        }
    }
}

/// A running array.
#[derive(Debug)]
pub struct Array {
    controlled: Arc<Controlled>,
}

impl Array {
    /// Where the portals really are: `{"ready": true, "portals": [{"name", "address", "url"}], …}`.
    #[must_use]
    pub fn ready_line(&self) -> Value {
        let portals: Vec<_> = self.controlled.portals.iter().map(|p| &p.portal).collect();
        let portals: Vec<_> = portals
            .iter()
            .map(
                |p| json!({ "name": p.name, "address": p.address.to_string(), "url": p.address.nbd_url("") }),
            )
            .collect();
        json!({ "ready": true, "pid": std::process::id(), "at_unix_us": unix_micros(), "portals": portals })
    }

    #[must_use]
    pub fn portals(&self) -> &[PortalHandle] {
        &self.controlled.portals
    }
}

/// Asks a running array: switch faults on and off, show its state.
#[derive(Clone, Debug, clap::Args)]
pub struct CtlArgs {
    /// The array's control socket.
    #[arg(long)]
    pub control: PathBuf,
    #[command(subcommand)]
    pub command: CtlCommand,
}

#[derive(Clone, Debug, clap::Subcommand)]
pub enum CtlCommand {
    /// Switch faults on, all at one moment: reset, refuse, hang, stall TIME[/EVERY], error EIO|ENOSPC|ENOMEM|ESHUTDOWN,
    /// slow TIME, late-read TIME, ghost TIME, garbage, cut-reply, unknown-cookie, corrupt-reply, announce-size BYTES,
    /// other-unit, drop-cache. A number is milliseconds.
    Fault {
        /// The portal's name, or all.
        portal: String,
        #[arg(required = true)]
        faults: Vec<String>,
    },
    /// Switch all faults off.
    Clear {
        /// The portal's name, or all.
        portal: String,
    },
    /// Show counters and faults.
    Status,
    /// Show which hosts have written each unit, one after another. Of portals with ,host=NAME.
    Writers,
}

impl CtlArgs {
    /// Prints the answer's JSON.
    ///
    /// # Errors
    /// If there is no array, or it refuses.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let ask = match self.command {
            CtlCommand::Fault { portal, faults } => control::Ask::Fault { portal, faults: faults.join(" ") },
            CtlCommand::Clear { portal } => control::Ask::Clear { portal },
            CtlCommand::Status => control::Ask::Status,
            CtlCommand::Writers => control::Ask::Writers,
        };
        println!("{}", control::ArrayControl::connect(&self.control)?.ask(&ask)?);
        Ok(ExitCode::SUCCESS)
    }
}
