//! The JSON of `docs/api.md`, both ways. Keys carry their units; names stand for ids; nothing is left out.
//!
//! Invariant: a key, once published, keeps its meaning. Words of states are strings here, so that an older reader
//! survives a newer daemon.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

mod explain;
mod hosts;
mod whatif;
pub use explain::{Explanation, IfLost, IncidentExplanation, PathExplanation, Supposed};
pub use hosts::{HostOfCluster, Hosts, Migration, Migrations, Owner, TargetOfHost, UnitOfHost, VmOfHost};
pub use whatif::{Capacity, ForecastEvent, Party, Stage, Step, VmFate, WhatIf};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Host {
    pub at_unix_us: u64,
    pub name: String,
    pub version: String,
    pub pid: u32,
    pub daemon_started_unix_us: u64,
    pub generation: u64,
    pub api_socket: PathBuf,
    pub admin_group: String,
    pub shed_when: String,
    pub shed_after_ms: u64,
    /// How many, by health.
    pub paths: BTreeMap<String, usize>,
    /// How many, by state.
    pub vms: BTreeMap<String, usize>,
    pub open_incidents: usize,
    pub last_event_seq: u64,
    pub dataplane: Option<DataplaneState>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataplaneState {
    pub generation: u64,
    pub report_age_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Paths {
    pub at_unix_us: u64,
    pub generation: u64,
    /// When the data plane read its counters: differences of counters are over differences of this.
    pub counted_unix_us: Option<u64>,
    pub paths: Vec<Path>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Path {
    pub target: String,
    pub name: String,
    pub url: String,
    pub health: String,
    pub access: String,
    pub preferred: bool,
    pub reason: Option<String>,
    pub since_unix_us: u64,
    pub relapses: u32,
    pub repair_after_ms: u64,
    pub incident: Option<String>,
    pub capacity_bytes_per_second: Option<u64>,
    pub pending_requests: u32,
    pub pending_bytes: u64,
    pub window_bytes: u64,
    pub window_max_bytes: u64,
    pub connections: u32,
    pub service_time_us: u64,
    pub rate_bytes_per_second: u64,
    pub estimate_bytes_per_second: u64,
    /// The largest first; VMs that it lately carried nothing for are left out.
    pub carried: Vec<Carried>,
    pub completed_requests: u64,
    pub completed_bytes: u64,
    pub errors: u64,
    pub links: Vec<LinkOfPath>,
}

/// What a path lately carried for one VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Carried {
    pub vm: String,
    pub bytes_per_second: u64,
    /// Of all that the path carried, rounded to a tenth.
    pub share_percent: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkOfPath {
    pub unit: String,
    pub state: String,
    pub fault: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vms {
    pub at_unix_us: u64,
    pub generation: u64,
    /// As in [`Paths`].
    pub counted_unix_us: Option<u64>,
    pub groups: Vec<Group>,
    pub vms: Vec<Vm>,
}

/// One VM alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OneVm {
    pub at_unix_us: u64,
    pub generation: u64,
    pub counted_unix_us: Option<u64>,
    /// Whose allocation it shares.
    pub group: Option<Group>,
    pub vm: Vm,
}

/// VMs under one allocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub name: String,
    pub shares: u32,
    pub reservation_bytes_per_second: Option<u64>,
    pub limit_bytes_per_second: Option<u64>,
    pub limit_requests_per_second: Option<u64>,
    pub limit_burst_ms: u64,
    /// Of its VMs together.
    pub served_bytes_per_second: u64,
    pub vms: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    pub name: String,
    pub presence: String,
    pub state: String,
    pub since_unix_us: u64,
    pub run_state: Option<String>,
    pub gate: Gate,
    pub priority: u32,
    pub shares: u32,
    pub reservation_bytes_per_second: Option<u64>,
    pub limit_bytes_per_second: Option<u64>,
    pub limit_requests_per_second: Option<u64>,
    pub limit_burst_ms: u64,
    pub group: Option<String>,
    /// Paths that it may not use.
    pub avoid_paths: Vec<String>,
    pub on_path_loss: String,
    pub resume: String,
    pub in_flight: u32,
    pub held: u32,
    pub held_reasons: Vec<HeldReason>,
    pub oldest_held_ms: Option<u64>,
    /// Grows; summed over the requests. The longest first.
    pub held_times: Vec<HeldTime>,
    pub entitled_bytes_per_second: Option<u64>,
    pub served_bytes_per_second: u64,
    pub reservation_unmet_bytes_per_second: u64,
    pub rate_bytes_per_second: u64,
    pub completed_requests: u64,
    pub completed_bytes: u64,
    pub failed_requests: u64,
    pub retried_requests: u64,
    pub because: Vec<String>,
    pub waits_for: Option<String>,
    pub incident: Option<String>,
    /// Where it is or comes from or goes to, if it is `elsewhere` or `migrating`.
    pub other_host: Option<String>,
    /// Where it began, if that is another host.
    pub home: Option<String>,
    /// The host to which it goes back by itself.
    pub returns_to: Option<String>,
    pub disks: Vec<DiskOfVm>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    pub state: String,
    pub reason: Option<String>,
    pub incident: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldReason {
    pub reason: String,
    pub requests: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldTime {
    pub reason: String,
    pub held_us: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskOfVm {
    pub name: String,
    pub presence: String,
    pub unit: String,
    pub nbd_socket: Option<PathBuf>,
    pub nbd_tcp: Option<String>,
    pub vhost_user: Option<PathBuf>,
    pub clients: u32,
    /// None without a cluster, and of a unit with several writers.
    pub owner: Option<Owner>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Units {
    pub at_unix_us: u64,
    pub generation: u64,
    pub units: Vec<Unit>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    pub target: String,
    pub name: String,
    pub export: String,
    pub size_bytes: Option<u64>,
    pub quarantined_ranges: u32,
    pub quarantined_bytes: u64,
    pub quarantined_for_ms: Option<u64>,
    pub remembered_places: u32,
    pub links: Vec<LinkOfUnit>,
    pub disks: Vec<DiskOfUnit>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkOfUnit {
    pub path: String,
    pub state: String,
    pub fault: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskOfUnit {
    pub vm: String,
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    pub daemon_started_unix_us: u64,
    pub first_seq: u64,
    pub last_seq: u64,
    pub next_after: u64,
    pub events: Vec<Event>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub seq: u64,
    pub at_unix_us: u64,
    pub incident: Option<String>,
    pub kind: String,
    pub subject: Subject,
    pub reason: String,
    pub until: Option<String>,
}

/// One event as a line of JSON.
///
/// # Errors
/// None that is known: a row of names and numbers is always JSON.
pub fn event_json(event: &Event) -> serde_json::Result<String> {
    serde_json::to_string(event)
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    #[serde(rename = "type")]
    pub kind: String,
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incidents {
    pub at_unix_us: u64,
    pub incidents: Vec<Incident>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    pub incident: String,
    /// 0 if that has left the journal.
    pub opened_unix_us: u64,
    pub closed_unix_us: Option<u64>,
    pub summary: String,
    pub paths: Vec<String>,
    pub vms_affected: Vec<String>,
}

/// The body of `POST …/access`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetAccess {
    pub access: String,
}

/// A change was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    pub message: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Fault>,
}

/// Every answer that is not a success.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    pub error: String,
    pub help: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub source: Option<String>,
    pub line: Option<u32>,
    pub column: Option<u32>,
    pub message: String,
    pub hint: Option<String>,
}
