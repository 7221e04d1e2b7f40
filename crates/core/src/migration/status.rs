//! What the machines are told by others: QEMU's view of a migration, and the three ways in which a question ends.

use crate::time::Duration;
use std::fmt;

/// How a question to another host, or to the store that hosts share, ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<T = ()> {
    Done(T),
    /// It was understood and has had no effect; in words.
    Refused(String),
    /// It may have taken effect, now or later; in words why nothing is known.
    Unknown(String),
}

/// `query-migrate`, as far as anybody needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationStatus {
    pub state: MigrationState,
    /// Bytes of guest memory. Zero while QEMU says nothing of it.
    pub ram_total: u64,
    /// Bytes that are still to be sent; grows when the guest writes.
    pub ram_remaining: u64,
    /// Bytes that were sent so far.
    pub transferred: u64,
    /// How long the guest stood still; known when it is completed.
    pub downtime: Option<Duration>,
}

/// QEMU's states of an outgoing migration, less those of the post-copy kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MigrationState {
    /// There has been none in this process.
    None,
    Setup,
    /// Memory is being sent, the guest runs.
    Active,
    /// The guest stands still; QEMU waits for `migrate-continue`.
    PreSwitchover,
    /// The devices' state is being sent.
    Device,
    /// The destination has loaded everything, and has said so. The guest must not be continued here.
    Completed,
    /// The guest runs on here, if it ran before; in QEMU's words.
    Failed(String),
    Cancelling,
    /// The guest runs on here, if it ran before.
    Cancelled,
}

impl fmt::Display for MigrationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Setup => f.write_str("setup"),
            Self::Active => f.write_str("active"),
            Self::PreSwitchover => f.write_str("pre-switchover"),
            Self::Device => f.write_str("device"),
            Self::Completed => f.write_str("completed"),
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::Cancelling => f.write_str("cancelling"),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}
