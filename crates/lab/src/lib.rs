//! vmpath's laboratory: what if everything goes wrong.
//!
//! A storage array that fails on command (`array`), a verifying load and a stand-in for a guest (`workload`, `vm`), a
//! driver of vhost-user-blk disks and benchmarks on it (`vhost`, `hop`, `fleet`), the demonstration of the main job
//! (`demo`), the router of a large host under a virtual clock (`simulate`), a real etcd (`etcd`), certificates (`certs`), and the
//! shape of every report (`report`). The lab is never part of a production path. It does not know: the daemon's inside; it sees what
//! an operator sees.
#![forbid(unsafe_code)]

pub mod array;
mod attack;
pub mod certs;
mod child;
pub mod clock;
mod demo;
pub mod etcd;
pub mod fleet;
pub mod guest;
pub mod hop;
pub mod net;
pub mod placement;
pub mod report;
mod rng;
mod simulate;
pub mod units;
pub mod vhost;
pub mod vm;
pub mod workload;

pub use demo::DemoArgs;
pub use simulate::SimulateArgs;
use std::process::ExitCode;

/// `vmpath lab …`
#[derive(Clone, Debug, clap::Subcommand)]
pub enum LabCommand {
    /// A storage array in one process, with portals that fail on command.
    Array(array::ArrayArgs),
    /// Switch a running array's faults on and off.
    Ctl(array::CtlArgs),
    /// A stand-in for a guest: verifying load over NBD, and a QMP socket.
    Vm(vm::VmArgs),
    /// A verifying load on a block device, as it runs inside real guests.
    Verify(workload::device::VerifyArgs),
    /// A lean benchmark client over vhost-user-blk.
    Hop(hop::HopArgs),
    /// Where VMs go in a large cluster: how long that takes to decide, and whether it holds.
    Placement(placement::PlacementArgs),
}

impl LabCommand {
    /// # Errors
    /// In words for the operator.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Array(args) => args.run(),
            Self::Ctl(args) => args.run(),
            Self::Vm(args) => args.run(),
            Self::Verify(args) => args.run(),
            Self::Hop(args) => args.run(),
            Self::Placement(args) => args.run(),
        }
    }
}
