//! `vmpath demo`: the main job in under a minute, on nothing but this machine.
//!
//! ```text
//! healthy -(path a reset, then refused)-> loss -(bronze suspended)-> degraded -(a repaired)-> repaired
//!         -(failback, bronze resumed)-> recovered -> everything read back, twice
//! ```
//! The real daemon, an array and three VMs as child processes. Invariant: every child is gone when it returns, and
//! the exit status is 0 only if every check passed. Rejected: a scripted recording, which proves nothing.
//! It does not know: how the daemon does it.

mod api;
mod checks;
mod child;
mod fleet;
mod journal;
mod load;
mod scene;
mod script;
mod table;

use crate::guest::FrontEnd;
use fleet::Cast;
use scene::Scene;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Real guests under emulation drive this part of the rates.
const GUESTS_PART: u64 = 4;

/// See the main job: a path lost under load, VMs suspended and resumed by priority, every block verified.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// Write what was measured to this file, as JSON.
    #[arg(long)]
    pub report: Option<PathBuf>,
    /// Use real QEMU guests instead of stand-ins; slower, and at lower rates.
    #[arg(long)]
    pub qemu: bool,
    /// How the VMs reach their disks.
    #[arg(long, value_enum, default_value_t)]
    pub front_end: FrontEnd,
    /// Keep the folder with the configuration and the logs.
    #[arg(long)]
    pub keep: bool,
}

impl DemoArgs {
    /// # Errors
    /// If something could not be started or did not happen in time; findings are in the report, not here.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let dir = tempfile::Builder::new().prefix("vmpath-demo-").tempdir()?;
        let (cast, part) = if self.qemu { (Cast::Guests, GUESTS_PART) } else { (Cast::StandIns, 1) };
        let scene = Scene::new(dir.path(), part, self.front_end);
        let interrupted = interrupted()?;
        let outcome = script::perform(&scene, cast, &interrupted);
        let ended_early = interrupted.load(Ordering::Relaxed);
        if self.keep || (outcome.is_err() && !ended_early) {
            println!("\nconfiguration and logs: {}", dir.keep().display());
        }
        let report = outcome?;
        if let Some(path) = &self.report {
            report.write(path)?;
        }
        Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Becomes true when the demo is to end early. The script looks at it often, so that children are ended in order.
fn interrupted() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let raise = Arc::clone(&flag);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut termination = {
        let _inside = runtime.enter();
        crate::child::Termination::new()?
    };
    std::thread::spawn(move || {
        runtime.block_on(termination.requested());
        raise.store(true, Ordering::Relaxed);
    });
    Ok(flag)
}
