//! Where VMs go in a large cluster: the lab's own run, by an optimised binary.
//!
//! It does not know what is decided: it starts `vmpath lab placement` and passes on how that ended.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The vmpath to be run; default: built now, optimised
    #[arg(long)]
    binary: Option<PathBuf>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the numbers to this file, as JSON
    #[arg(long)]
    report: Option<PathBuf>,
}

/// # Errors
/// It cannot be built or started.
pub(super) fn run(root: &Path, arguments: &Arguments) -> Result<bool> {
    let binary = match &arguments.binary {
        Some(binary) => binary.canonicalize().with_context(|| format!("there is no {}", binary.display()))?,
        None => crate::check::build_release(root)?,
    };
    let mut command = Command::new(&binary);
    command.args(["lab", "placement", "--seed", &arguments.seed.to_string()]);
    if let Some(report) = &arguments.report {
        command.arg("--report").arg(report);
    }
    let status = command.status().with_context(|| format!("cannot start {}", binary.display()))?;
    Ok(status.success())
}
