//! `cargo xtask bench`: what vmpath costs, beside what a user would have without it.
//!
//! A benchmark starts everything that it compares, measures the contestants in turn, and judges ratios that were
//! taken within one round, because a shared machine changes from minute to minute. Nothing is pinned.
//! It does not know the daemon's inside: it uses the binary, the configuration and the API.

mod client;
mod contestant;
mod daemon;
mod disks;
mod hop;
mod judge;
mod process;
mod protect;
mod scene;
mod table;
mod workload;

use anyhow::Result;
use std::path::Path;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// One hop between a client and its storage: vmpath, qemu-storage-daemon, and no hop at all
    Hop(hop::Arguments),
    /// Half of the bandwidth lost, and whom it costs: the VM-aware scheduler beside VM-unaware path selectors
    Protect(protect::Arguments),
}

/// Runs a benchmark. True if every number that is asked for is reached.
///
/// # Errors
/// Something could not be measured.
pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<bool> {
    match &arguments.what {
        What::Hop(arguments) => hop::run(root, arguments),
        What::Protect(arguments) => protect::run(root, arguments),
    }
}
