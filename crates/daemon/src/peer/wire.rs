//! What two daemons say to each other, as JSON.
//!
//! Invariant: what is taken from the wire has its bounds, no field that this version does not know, and a meaning here;
//! anything else is refused as a whole before anybody acts on it. Durations travel, never times: clocks are not compared.
//! Rejected: serde on core's own types, which would make each change inside one of the wire.
//! It does not know HTTP, nor whether what is asked makes sense now.

mod bounded;
mod convert;
#[cfg(test)]
mod tests;

pub use convert::move_id;

use bounded::{list, maybe_words, name, words};
use serde::{Deserialize, Serialize};

/// Of one VM. QEMU has fewer slots.
const DISKS_MAX: usize = 4096;
/// Of one disk; far above what a configuration may ask for.
const QUEUES_MAX: usize = 64;
/// Of one queue: a virtqueue's largest size (virtio 1.2, 2.7).
const OPEN_MAX: usize = 32_768;
/// Of one disk: more than its open requests ever were.
const QUARANTINE_MAX: usize = 65_536;
/// Targets on which a VM has a reservation.
const ROOM_MAX: usize = 256;

/// From which a VM has fled; core keeps fewer.
const HOSTS_MAX: usize = 64;

/// The largest body: a hand-over of all queues of a large VM, a few tens of bytes for each open request.
pub const BODY_BYTES_MAX: usize = 16 << 20;

/// Bodies of everything but a hand-over.
pub const SMALL_BODY_BYTES_MAX: usize = 1 << 20;

/// The answer to who is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    #[serde(deserialize_with = "name")]
    pub host: String,
    #[serde(deserialize_with = "name")]
    pub version: String,
    /// Seconds since 1970, for words only.
    pub clock: u64,
}

/// Why not, or why nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    #[serde(deserialize_with = "words")]
    pub reason: String,
}

/// Read each of these units yourself, now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Each `target/unit`.
    #[serde(deserialize_with = "units")]
    pub units: Vec<String>,
}

/// Be ready to receive a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepare {
    #[serde(deserialize_with = "name")]
    pub id: String,
    #[serde(deserialize_with = "name")]
    pub vm: String,
    #[serde(deserialize_with = "name")]
    pub from: String,
    #[serde(deserialize_with = "name")]
    pub to: String,
    #[serde(deserialize_with = "name")]
    pub home: String,
    /// Hosts.
    #[serde(deserialize_with = "hosts")]
    pub fled: Vec<String>,
    #[serde(deserialize_with = "list::<_, _, DISKS_MAX>")]
    pub disks: Vec<Disk>,
    pub instance: u64,
    /// Bytes of guest memory.
    pub memory: Option<u64>,
    #[serde(deserialize_with = "list::<_, _, ROOM_MAX>")]
    pub room: Vec<Room>,
    pub settle_ms: u64,
    #[serde(default, deserialize_with = "maybe_words")]
    pub incident: Option<String>,
    pub vm_state: VmState,
    #[serde(deserialize_with = "words")]
    pub rule: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    #[serde(deserialize_with = "name")]
    pub disk: String,
    #[serde(deserialize_with = "name")]
    pub unit: String,
    pub epoch: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Room {
    #[serde(deserialize_with = "name")]
    pub target: String,
    /// Bytes per second.
    pub rate: u64,
}

/// Where QEMU is to send the VM's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepared {
    /// `tcp:ADDRESS:PORT`.
    #[serde(deserialize_with = "name")]
    pub incoming: String,
}

/// What QEMU's stream does not carry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandOver {
    #[serde(deserialize_with = "name")]
    pub id: String,
    #[serde(deserialize_with = "name")]
    pub vm: String,
    #[serde(deserialize_with = "name")]
    pub from: String,
    #[serde(deserialize_with = "name")]
    pub to: String,
    #[serde(deserialize_with = "list::<_, _, DISKS_MAX>")]
    pub disks: Vec<DiskHandOver>,
    #[serde(default, deserialize_with = "maybe_words")]
    pub incident: Option<String>,
    pub vm_state: VmState,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum VmState {
    Running,
    Suspended {
        #[serde(deserialize_with = "words")]
        why: String,
    },
    StoppedByOther,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskHandOver {
    #[serde(deserialize_with = "name")]
    pub disk: String,
    #[serde(deserialize_with = "name")]
    pub unit: String,
    pub epoch: u64,
    #[serde(deserialize_with = "list::<_, _, QUEUES_MAX>")]
    pub queues: Vec<Queue>,
    #[serde(deserialize_with = "list::<_, _, QUARANTINE_MAX>")]
    pub quarantine: Vec<Quarantine>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    pub queue: u16,
    pub base: u16,
    #[serde(deserialize_with = "list::<_, _, OPEN_MAX>")]
    pub open: Vec<OpenRequest>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenRequest {
    pub head: u16,
    pub state: Open,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Open {
    Unsent,
    Unknown,
    Done(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quarantine {
    /// Bytes.
    pub offset: u64,
    pub length: u64,
    /// Nanoseconds that remain until the fence.
    pub remaining_ns: u64,
}

/// End what was begun for a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Discard {
    #[serde(deserialize_with = "words")]
    pub why: String,
}

/// What a host knows of a move, in words of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveState {
    #[serde(deserialize_with = "words")]
    pub state: String,
}

/// Reads what another host has sent.
///
/// # Errors
/// What is wrong with it, and where.
pub fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("what was sent cannot be understood: {error}"))
}

/// What another host can read.
///
/// # Errors
/// It is larger than another host takes.
pub fn write<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    let body = serde_json::to_vec(value).map_err(|error| error.to_string())?;
    if body.len() > BODY_BYTES_MAX {
        return Err(format!("it has {} bytes, and another host takes {BODY_BYTES_MAX}", body.len()));
    }
    Ok(body)
}

/// A reason, as short as another host takes it.
#[must_use]
pub fn reason(words: &str) -> Reason {
    Reason { reason: bounded::fit(words) }
}

fn hosts<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let found: Vec<String> = list::<_, _, HOSTS_MAX>(from)?;
    found.into_iter().map(bounded::checked).collect()
}

fn units<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let found: Vec<String> = list::<_, _, DISKS_MAX>(from)?;
    found.into_iter().map(bounded::checked).collect()
}
