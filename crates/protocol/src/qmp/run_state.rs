//! The states of a VM as QEMU names them.
//!
//! Source: `RunState` and `StatusInfo` in QEMU's `qapi/run-state.json`. Invariant: every name survives a round trip,
//! known or not. Rejected: an error for unknown names: a newer QEMU must not become unmanageable.
//! It does not know: which states `cont` may leave; that is the daemon's rule.

use std::fmt;

use serde_json::Value;

use super::QmpError;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RunState {
    Running,
    Paused,
    IoError,
    PostMigrate,
    InMigrate,
    PreLaunch,
    FinishMigrate,
    SaveVm,
    InternalError,
    Shutdown,
    Suspended,
    Watchdog,
    GuestPanicked,
    RestoreVm,
    Colo,
    Debug,
    /// A name that this crate does not know.
    Other(String),
}

impl RunState {
    pub fn from_name(name: &str) -> RunState {
        match name {
            "running" => RunState::Running,
            "paused" => RunState::Paused,
            "io-error" => RunState::IoError,
            "postmigrate" => RunState::PostMigrate,
            "inmigrate" => RunState::InMigrate,
            "prelaunch" => RunState::PreLaunch,
            "finish-migrate" => RunState::FinishMigrate,
            "save-vm" => RunState::SaveVm,
            "internal-error" => RunState::InternalError,
            "shutdown" => RunState::Shutdown,
            "suspended" => RunState::Suspended,
            "watchdog" => RunState::Watchdog,
            "guest-panicked" => RunState::GuestPanicked,
            "restore-vm" => RunState::RestoreVm,
            "colo" => RunState::Colo,
            "debug" => RunState::Debug,
            other => RunState::Other(other.to_owned()),
        }
    }

    /// QEMU's name.
    pub fn name(&self) -> &str {
        match self {
            RunState::Running => "running",
            RunState::Paused => "paused",
            RunState::IoError => "io-error",
            RunState::PostMigrate => "postmigrate",
            RunState::InMigrate => "inmigrate",
            RunState::PreLaunch => "prelaunch",
            RunState::FinishMigrate => "finish-migrate",
            RunState::SaveVm => "save-vm",
            RunState::InternalError => "internal-error",
            RunState::Shutdown => "shutdown",
            RunState::Suspended => "suspended",
            RunState::Watchdog => "watchdog",
            RunState::GuestPanicked => "guest-panicked",
            RunState::RestoreVm => "restore-vm",
            RunState::Colo => "colo",
            RunState::Debug => "debug",
            RunState::Other(name) => name,
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The answer to `query-status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusInfo {
    /// Whether the vCPUs run.
    pub running: bool,
    pub status: RunState,
}

impl StatusInfo {
    /// Reads the value of a `query-status` return. A missing `running` is taken from the status.
    pub fn from_return(value: &Value) -> Result<StatusInfo, QmpError> {
        let Some(name) = value.get("status").and_then(Value::as_str) else {
            return Err(QmpError::NoStatus(super::line::excerpt(value.to_string().as_bytes())));
        };
        let status = RunState::from_name(name);
        let running = value.get("running").and_then(Value::as_bool).unwrap_or(status == RunState::Running);
        Ok(StatusInfo { running, status })
    }

    /// The value that a guest returns to `query-status`.
    pub fn to_return(&self) -> Value {
        serde_json::json!({ "running": self.running, "singlestep": false, "status": self.status.name() })
    }
}
