//! What the three explanations answer: sentences for people, rows for programs.

use super::{Capacity, Event, Incident, Path, Vm, VmFate};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub at_unix_us: u64,
    pub vm: Vm,
    pub text: Vec<String>,
    /// Of the targets of its disks.
    pub capacity: Vec<Capacity>,
    /// Of a VM that is well: what would become of it without the path that it uses most, and without all. Of another: what comes
    /// next by itself.
    pub forecasts: Vec<Supposed>,
    pub incident: Option<Incident>,
    pub events: Vec<Event>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supposed {
    /// Paths supposed to be lost; empty: nothing else happens.
    pub lose: Vec<String>,
    pub vm: VmFate,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathExplanation {
    pub at_unix_us: u64,
    pub path: Path,
    pub text: Vec<String>,
    /// Of its target.
    pub capacity: Option<Capacity>,
    /// The VMs that may use it.
    pub vms: Vec<String>,
    /// If it were lost: how many VMs by fate, and those to whom something would happen. Null while it carries nothing.
    pub if_lost: Option<IfLost>,
    pub incident: Option<Incident>,
    pub events: Vec<Event>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IfLost {
    pub fates: BTreeMap<String, usize>,
    pub vms: Vec<VmFate>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncidentExplanation {
    pub at_unix_us: u64,
    pub incident: Incident,
    pub text: Vec<String>,
    pub events: Vec<Event>,
}
