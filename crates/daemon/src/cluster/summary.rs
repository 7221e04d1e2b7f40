//! What a host says of itself to the others.
//!
//! Invariant: nothing in it changes from second to second: rates are what is reserved and what paths carry, never what flows.
//! So a cluster at rest says nothing. It does not know who reads it.

use std::net::SocketAddr;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSummary {
    pub host: String,
    /// Of the program.
    pub version: String,
    /// Where its daemon is reached by others.
    pub peer: SocketAddr,
    /// Whether VMs may come.
    pub accepts: bool,
    /// Whether some of its own have to leave.
    pub shedding: bool,
    pub targets: Vec<TargetSummary>,
    /// Those that it runs or may start.
    pub vms: Vec<VmSummary>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSummary {
    pub target: String,
    /// Bytes a second over the paths that are up; none if one of them does not tell.
    pub capacity: Option<u64>,
    /// Bytes a second that its VMs have reserved.
    pub reserved: u64,
    pub units: Vec<UnitSummary>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitSummary {
    /// Its name in the target.
    pub unit: String,
    /// Bytes; none while no path has told.
    pub size: Option<u64>,
    /// The paths over which it is reached now.
    pub paths_up: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmSummary {
    pub name: String,
    pub priority: u32,
    /// Bytes a second.
    pub reservation: Option<u64>,
    /// `running`, `suspended`, `elsewhere`, …
    pub state: String,
}
