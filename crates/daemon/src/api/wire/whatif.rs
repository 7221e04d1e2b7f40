//! What `GET /v1/whatif` answers. Times are counted from the loss.

use super::Subject;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhatIf {
    /// Of the state that was asked; none for a configuration.
    pub at_unix_us: Option<u64>,
    pub lose: Vec<String>,
    pub drain: Vec<String>,
    /// What of the question makes no difference, or cannot be.
    pub notes: Vec<String>,
    pub settled_after_ms: u64,
    pub cut_short: bool,
    /// How many VMs, by fate.
    pub fates: BTreeMap<String, usize>,
    /// Right after the loss.
    pub targets: Vec<Capacity>,
    pub vms: Vec<VmFate>,
    /// What the journal would say of all but VMs.
    pub events: Vec<ForecastEvent>,
}

/// What a target carries, and whose reservations fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    pub target: String,
    pub standing: String,
    pub capacity_bytes_per_second: Option<u64>,
    pub left_bytes_per_second: Option<u64>,
    pub reserved_bytes_per_second: u64,
    pub paths_up: Vec<String>,
    /// Those that run and have a reservation, highest priority first.
    pub parties: Vec<Party>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    pub vm: String,
    pub priority: u32,
    pub reserved_bytes_per_second: u64,
    /// It is in the keep set.
    pub kept: bool,
    /// What the keep set leaves it of its reservation.
    pub gets_bytes_per_second: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmFate {
    pub name: String,
    pub priority: u32,
    pub before: String,
    pub fate: String,
    pub stages: Vec<Stage>,
    /// The rule that brought it there, in words.
    pub reason: Option<String>,
    pub until: Option<String>,
    pub paths: Vec<String>,
    pub cut_off_units: Vec<String>,
    pub reservation_bytes_per_second: Option<u64>,
    pub reservation_met: Option<bool>,
    pub gets_of_reservation_bytes_per_second: Option<u64>,
    pub entitled_bytes_per_second: Option<u64>,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    pub after_ms: u64,
    pub fate: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub after_ms: u64,
    pub kind: String,
    pub reason: String,
    pub until: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForecastEvent {
    pub after_ms: u64,
    pub kind: String,
    pub subject: Subject,
    pub reason: String,
    pub until: Option<String>,
}
