//! A vhost-user-blk client: a driver without a guest, for load, benchmarks and tests of what a back end must survive.
//!
//! `memory` the guest's memory, `ring` the driver's side of a virtqueue, `block` what virtio-blk says, `link` the
//! vhost-user messages, `client` all of it: a disk with requests in flight, which can be stopped with requests open,
//! resumed, and reconnected after the back end has died. `waiter` waits for many of them. It does as QEMU 7.2 does.
//! It does not know: the daemon, other than as a back end; what is written.

pub mod block;
mod blocking;
pub mod client;
#[cfg(test)]
pub(crate) mod fake;
pub mod link;
pub mod memory;
mod options;
pub mod ring;
mod slot;
pub mod waiter;

pub use block::{BlockConfig, BlockRequest, Operation, Status, feature, feature_names};
pub use client::{Client, Done, SlotId, Stopped};
pub use options::{Chains, Options};
pub use waiter::{Waiter, Woken};

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why something with a back end did not work. The connection is dead after all but [`VhostError::Unfit`].
#[derive(Debug)]
pub enum VhostError {
    /// Nobody listens there.
    Unreachable { socket: PathBuf, why: io::Error },
    /// It broke off, refused a message, or broke the protocol.
    Exchange { what: &'static str, why: String },
    /// It has said nothing for that long, and was cut off.
    NoAnswer { what: &'static str, patience: Duration },
    /// It cannot do what was asked, or the order makes no sense now.
    Unfit(String),
    /// The system refused something.
    System(io::Error),
}

impl fmt::Display for VhostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { socket, why } => write!(f, "cannot connect to {}: {why}", socket.display()),
            Self::Exchange { what, why } => write!(f, "{what} failed: {why}"),
            Self::NoAnswer { what, patience } => {
                write!(f, "{what}: no answer within {} ms", patience.as_millis())
            }
            Self::Unfit(why) => write!(f, "{why}"),
            Self::System(why) => write!(f, "{why}"),
        }
    }
}

impl std::error::Error for VhostError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreachable { why, .. } | Self::System(why) => Some(why),
            Self::Exchange { .. } | Self::NoAnswer { .. } | Self::Unfit(_) => None,
        }
    }
}

impl From<io::Error> for VhostError {
    fn from(why: io::Error) -> Self {
        Self::System(why)
    }
}
