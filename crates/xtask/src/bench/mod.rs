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
mod placement;
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
    ///
    /// Two portals of 64 MiB/s; gold (priority 100, asks for 32 MiB/s of the 36 that it has reserved), silver and bronze
    /// (priorities 50 and 20, shares 2000 and 500, always backlogged; silver has reserved 16 MiB/s) and twenty noisy VMs, one
    /// of them with a limit of 8 MiB/s. Everybody reads 8 KiB at random places over vhost-user-blk.
    ///
    /// Each contestant plays: healthy, one path lost, repaired, one path 20 ms slower, restored. The contestants are the
    /// VM-aware scheduler and path choice (`vmpath`), and round-robin, queue-length and service-time without any scheduler.
    ///
    /// The exit status is 0 only if every number that is asked for is reached in the median of the rounds.
    Protect(protect::Arguments),
    /// A cluster of 1,000 hosts and 10,000 VMs: how long it takes to decide where VMs go, and whether it holds
    ///
    /// Every fifth host loses half of its paths. Timed are single decisions, for a VM that 32 hosts know and for one that all know, and 500
    /// at once. Counted anew are the sums of every host. The exit status is 0 only if every number that is asked for is reached.
    Placement(placement::Arguments),
}

/// Runs a benchmark. True if every number that is asked for is reached.
///
/// # Errors
/// Something could not be measured.
pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<bool> {
    match &arguments.what {
        What::Hop(arguments) => hop::run(root, arguments),
        What::Protect(arguments) => protect::run(root, arguments),
        What::Placement(arguments) => placement::run(root, arguments),
    }
}
