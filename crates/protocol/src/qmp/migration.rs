//! Live migration: the commands of both ends, and what `query-migrate` and the event `MIGRATION` say.
//!
//! Source: `qapi/migration.json`, `qapi/machine.json`; seen with QEMU 7.2: with `pause-before-switchover` the guest is
//! stopped (event STOP) before `pre-switchover` is told, and `downtime-limit` times the measured rate is what may
//! still be sent after `migrate-continue`; an incoming process has no status before the stream begins.
//! Invariant: an unknown state or a missing number is never an error; a reply that is no object is, for it would
//! otherwise read as "no migration". It does not know: when to ask, and whether a state may follow another.

use serde_json::{Value, json};

use super::{QmpError, execute};

/// The capabilities that a migration of ours needs: the stop before the switchover, the event `MIGRATION`, and the way
/// back: without it QEMU says `completed` when the last byte is in its socket, whether or not it can be loaded there; with
/// it when the other end has loaded all of it, and `failed` if that ends without saying so.
pub const MIGRATION_CAPABILITIES: [&str; 3] = ["pause-before-switchover", "events", "return-path"];

/// The most that QEMU takes as `downtime-limit`, in milliseconds.
pub const DOWNTIME_LIMIT_MAX_MS: u64 = 2_000_000;

/// Switches capabilities on; refused by QEMU while a migration runs.
pub fn migrate_set_capabilities(id: u64, names: &[&str]) -> Vec<u8> {
    let on: Vec<Value> = names.iter().map(|name| json!({ "capability": name, "state": true })).collect();
    execute("migrate-set-capabilities", &json!({ "capabilities": on }), id)
}

/// The limits of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MigrationLimits {
    /// Milliseconds, at most [`DOWNTIME_LIMIT_MAX_MS`]: QEMU stops the guest when what is left takes no longer.
    pub downtime_ms: u64,
    /// Bytes per second.
    pub bandwidth: u64,
}

pub fn migrate_set_parameters(id: u64, limits: MigrationLimits) -> Vec<u8> {
    let arguments = json!({
        "downtime-limit": limits.downtime_ms.min(DOWNTIME_LIMIT_MAX_MS),
        "max-bandwidth": limits.bandwidth,
    });
    execute("migrate-set-parameters", &arguments, id)
}

/// Starts sending the guest to `uri`, as in `tcp:10.0.0.2:49152`. It is answered at once; how it goes is asked for.
pub fn migrate(id: u64, uri: &str) -> Vec<u8> {
    execute("migrate", &json!({ "uri": uri }), id)
}

/// Leaves `pre-switchover`; refused in any other state.
pub fn migrate_continue(id: u64) -> Vec<u8> {
    execute("migrate-continue", &json!({ "state": "pre-switchover" }), id)
}

/// Succeeds even if there is nothing to cancel, or no longer.
pub fn migrate_cancel(id: u64) -> Vec<u8> {
    execute("migrate_cancel", &Value::Null, id)
}

/// Lets a process that was started with `-incoming defer` listen.
pub fn migrate_incoming(id: u64, uri: &str) -> Vec<u8> {
    execute("migrate-incoming", &json!({ "uri": uri }), id)
}

/// Its return is read by [`MigrationInfo::from_return`].
pub fn query_migrate(id: u64) -> Vec<u8> {
    execute("query-migrate", &Value::Null, id)
}

/// Its return is read by [`memory_size`].
pub fn query_memory_size_summary(id: u64) -> Vec<u8> {
    execute("query-memory-size-summary", &Value::Null, id)
}

/// Its return is read by [`memory_of_backends`].
pub fn query_memdev(id: u64) -> Vec<u8> {
    execute("query-memdev", &Value::Null, id)
}

/// Bytes of the guest's memory, plugged included.
pub fn memory_size(summary_return: &Value) -> Option<u64> {
    let base = summary_return.get("base-memory")?.as_u64()?;
    base.checked_add(summary_return.get("plugged-memory").and_then(Value::as_u64).unwrap_or(0))
}

/// Bytes of all memory back ends together; none if there are none, or one does not say.
pub fn memory_of_backends(memdev_return: &Value) -> Option<u64> {
    let backends = memdev_return.as_array().filter(|all| !all.is_empty())?;
    backends.iter().try_fold(0_u64, |sum, backend| sum.checked_add(backend.get("size")?.as_u64()?))
}

/// QEMU's states of a migration, at either end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MigrationState {
    None,
    Setup,
    Cancelling,
    Cancelled,
    Active,
    PostcopyActive,
    PostcopyPaused,
    PostcopyRecover,
    Completed,
    Failed,
    Colo,
    PreSwitchover,
    Device,
    WaitUnplug,
    /// A name that this crate does not know.
    Other(String),
}

const STATES: [(&str, MigrationState); 14] = [
    ("none", MigrationState::None),
    ("setup", MigrationState::Setup),
    ("cancelling", MigrationState::Cancelling),
    ("cancelled", MigrationState::Cancelled),
    ("active", MigrationState::Active),
    ("postcopy-active", MigrationState::PostcopyActive),
    ("postcopy-paused", MigrationState::PostcopyPaused),
    ("postcopy-recover", MigrationState::PostcopyRecover),
    ("completed", MigrationState::Completed),
    ("failed", MigrationState::Failed),
    ("colo", MigrationState::Colo),
    ("pre-switchover", MigrationState::PreSwitchover),
    ("device", MigrationState::Device),
    ("wait-unplug", MigrationState::WaitUnplug),
];

impl MigrationState {
    pub fn from_name(name: &str) -> MigrationState {
        let known = STATES.into_iter().find(|(known, _)| *known == name);
        known.map_or_else(|| MigrationState::Other(name.to_owned()), |(_, state)| state)
    }

    /// QEMU's name.
    pub fn name(&self) -> &str {
        match self {
            MigrationState::Other(name) => name,
            known => STATES.iter().find(|(_, state)| state == known).map_or("", |(name, _)| name),
        }
    }

    /// Reads the data of the event `MIGRATION`.
    pub fn from_event(data: &Value) -> Option<MigrationState> {
        data.get("status").and_then(Value::as_str).map(MigrationState::from_name)
    }
}

/// How the sending of memory goes; zeroes where QEMU did not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RamInfo {
    /// Bytes.
    pub total: u64,
    /// Bytes; at `pre-switchover` this is still to be sent, with the guest stopped.
    pub remaining: u64,
    /// Bytes on the wire.
    pub transferred: u64,
    /// How often all memory was looked through; 1 at first.
    pub passes: u64,
    /// Bytes per second that the guest dirties; 0 during the first pass.
    pub dirty_rate: u64,
    /// Bytes per second on the wire, as measured.
    pub rate: u64,
}

/// The answer to `query-migrate`. An empty one is [`MigrationState::None`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationInfo {
    pub state: MigrationState,
    /// Why it failed; QEMU does not always say.
    pub error: Option<String>,
    pub ram: Option<RamInfo>,
    /// Milliseconds that the guest stood still, when it is completed.
    pub downtime_ms: Option<u64>,
    /// Milliseconds since it began.
    pub total_time_ms: Option<u64>,
    /// Where an incoming process listens, as `tcp:HOST:PORT` or `unix:PATH`.
    pub listens: Vec<String>,
}

impl MigrationInfo {
    /// # Errors
    /// It is no object, or its status is no text.
    pub fn from_return(value: &Value) -> Result<MigrationInfo, QmpError> {
        let strange = || QmpError::NoMigration(super::line::excerpt(value.to_string().as_bytes()));
        let object = value.as_object().ok_or_else(strange)?;
        let state = match object.get("status") {
            None => MigrationState::None,
            Some(name) => MigrationState::from_name(name.as_str().ok_or_else(strange)?),
        };
        let sockets = object.get("socket-address").and_then(Value::as_array);
        Ok(MigrationInfo {
            state,
            error: object.get("error-desc").and_then(Value::as_str).map(str::to_owned),
            ram: object.get("ram").filter(|ram| ram.is_object()).map(read_ram),
            downtime_ms: object.get("downtime").and_then(Value::as_u64),
            total_time_ms: object.get("total-time").and_then(Value::as_u64),
            listens: sockets.into_iter().flatten().filter_map(read_address).collect(),
        })
    }
}

fn read_ram(ram: &Value) -> RamInfo {
    let number = |name: &str| ram[name].as_u64().unwrap_or(0);
    // Megabits, of a million bits, as a float.
    let megabits = ram["mbps"].as_f64().filter(|mbps| mbps.is_finite()).unwrap_or(0.0).max(0.0);
    RamInfo {
        total: number("total"),
        remaining: number("remaining"),
        transferred: number("transferred"),
        passes: number("dirty-sync-count"),
        dirty_rate: number("dirty-pages-rate").saturating_mul(number("page-size")),
        rate: (megabits * 1e6 / 8.0) as u64,
    }
}

fn read_address(socket: &Value) -> Option<String> {
    match socket["type"].as_str()? {
        "inet" => {
            let (host, port) = (socket["host"].as_str()?, socket["port"].as_str()?);
            Some(if host.contains(':') {
                format!("tcp:[{host}]:{port}")
            } else {
                format!("tcp:{host}:{port}")
            })
        }
        "unix" => Some(format!("unix:{}", socket["path"].as_str()?)),
        _ => None,
    }
}
