//! What a host tells the others of itself, and what a VM asks of a host.
//!
//! By names, because each host numbers things differently. Rates are bytes per second, sizes bytes. Nothing here carries a
//! time of day: hosts' clocks are never compared. A summary is a hint: it sums paths up, and a VM that may not use all of them is
//! judged exactly by the destination, when it is asked.

use std::net::SocketAddr;

/// One host, as it describes itself in the store that hosts share. Nothing in it changes from second to second: rates are what is
/// reserved and what paths carry, never what flows; so a cluster at rest says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSummary {
    pub host: String,
    /// Of its vmpath: VMs move between equal ones only.
    pub version: String,
    /// Where its daemon is asked by others.
    pub peer: SocketAddr,
    pub accepts: Accepts,
    pub targets: Vec<TargetSummary>,
    /// The VMs of its configuration.
    pub vms: Vec<VmSummary>,
}

/// Whether VMs may come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepts {
    Yes,
    /// It is shedding VMs itself, or has as many moves under way as it may; in words.
    No(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSummary {
    pub target: String,
    /// Over the paths that are up and trusted; none if one of them does not tell.
    pub capacity: Option<u64>,
    /// By the VMs that it serves.
    pub reserved: u64,
    /// Paths that are not up or not trusted yet, less those that an operator has taken out.
    pub lost: u32,
    pub units: Vec<UnitSummary>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitSummary {
    /// Its name in the target.
    pub unit: String,
    /// None: no path has told it yet.
    pub size: Option<u64>,
    /// The paths that lead to it, are up and trusted.
    pub paths_up: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmSummary {
    pub name: String,
    pub priority: u32,
    pub reservation: Option<u64>,
    pub place: VmPlace,
}

/// What a VM is to a host that has it in its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmPlace {
    /// It is served here.
    Here,
    /// It could be started here: there is a `launch` command.
    Launchable,
    /// It is known and cannot be started here.
    Known,
}

/// What one VM asks of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    pub vm: String,
    /// The host that it leaves.
    pub from: String,
    pub version: String,
    /// Of all its disks.
    pub units: Vec<UnitNeed>,
    /// What its reservation needs of each target; none for a VM without one.
    pub room: Vec<(String, u64)>,
    pub paths: PathNeed,
    /// Every path of its targets there must be up and trusted: it goes home because they are.
    pub whole: bool,
    /// This host and no other.
    pub only: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitNeed {
    pub target: String,
    pub unit: String,
    pub size: u64,
}

/// Which paths count for a VM, and how many of them each of its units must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathNeed {
    /// `target/path`; empty: all.
    pub only: Vec<String>,
    /// `target/path`.
    pub avoid: Vec<String>,
    /// At least 1.
    pub at_least: u32,
}

/// Room that is promised to a VM on its way, so that others do not count on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub vm: String,
    pub host: String,
    pub target: String,
    pub rate: u64,
}
