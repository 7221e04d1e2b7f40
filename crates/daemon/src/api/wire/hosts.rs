//! What `GET /v1/hosts` and `GET /v1/migrations` answer.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hosts {
    pub at_unix_us: u64,
    /// `none`, `connecting`, `up`, `down`.
    pub cluster: String,
    /// While it is down.
    pub why: Option<String>,
    pub channel_trouble: Option<String>,
    pub hosts: Vec<HostOfCluster>,
    pub owners: Vec<Owner>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostOfCluster {
    pub name: String,
    pub version: String,
    pub peer: String,
    pub is_self: bool,
    pub accepts: bool,
    /// Why it takes no VM now.
    pub why_not: Option<String>,
    pub targets: Vec<TargetOfHost>,
    pub vms: Vec<VmOfHost>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetOfHost {
    pub name: String,
    pub capacity_bytes_per_second: Option<u64>,
    pub reserved_bytes_per_second: u64,
    pub claimed_bytes_per_second: u64,
    pub lost_paths: u32,
    pub units: Vec<UnitOfHost>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitOfHost {
    pub name: String,
    pub size_bytes: Option<u64>,
    pub paths_up: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmOfHost {
    pub name: String,
    pub priority: u32,
    pub reservation_bytes_per_second: Option<u64>,
    /// `here`, `launchable`, `known`.
    pub place: String,
}

/// Who may write to one unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// `target/unit`.
    pub unit: String,
    pub owner: Option<String>,
    pub epoch: Option<u64>,
    pub words: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migrations {
    pub at_unix_us: u64,
    /// As in [`Hosts`].
    pub cluster: String,
    pub why: Option<String>,
    /// Those under way, then those that are over, the latest first.
    pub migrations: Vec<Migration>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    pub id: String,
    pub vm: String,
    pub from: String,
    pub to: String,
    pub side: String,
    pub state: String,
    pub rule: String,
    pub incident: Option<String>,
    pub began_unix_us: u64,
    /// While it is under way: until now.
    pub took_us: u64,
    /// While memory is being sent.
    pub sent_bytes: Option<u64>,
    pub left_bytes: Option<u64>,
    /// None while it is under way.
    pub ended_unix_us: Option<u64>,
    /// Why the VM was not moved.
    pub why: Option<String>,
    pub downtime_us: Option<u64>,
}
