//! What ends a ring, and what ends a session.

use super::note::Forgotten;
use thiserror::Error;
use vmpath_protocol::virtio_blk::chain::ChainFault;

/// What a guest's driver did that it may never do. Its ring is not read any more until the driver resets the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Fault {
    #[error("{0}")]
    Chain(#[from] ChainFault),
    #[error("a buffer outside of the guest's memory")]
    Buffer,
    #[error("a request of too many pieces")]
    Pieces,
    #[error("a request without a whole header")]
    Header,
    #[error("a request whose status byte cannot be written")]
    Status,
    #[error("a request that starts at descriptor {0}, beyond the queue")]
    Head(u16),
    #[error("a request at descriptor {0}, where another is still open")]
    Twice(u16),
    #[error("the available ring's index went from {expected} to {found}, further than the queue is long")]
    Jump { expected: u16, found: u16 },
    #[error("a queue of {0} entries")]
    QueueSize(u32),
    #[error("a ring that is not aligned")]
    Misaligned,
    #[error("a ring outside of the guest's memory")]
    Ring,
    #[error("a queue that is longer than the inflight buffer says")]
    Inflight,
    #[error("{0}")]
    HandOver(#[from] Misfit),
    #[error("a log of dirty pages that does not reach as far as the guest's memory")]
    Log,
}

/// Why a ring that comes from another host is not begun. Nothing of it is executed: its guest waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Misfit {
    #[error(
        "it goes on at {base} and has shown results up to {used}, and nobody has handed over what is open"
    )]
    Nobody { base: u16, used: u16 },
    #[error(
        "what was handed over does not fit: it goes on at {base} and has shown results up to {used}, while {open} are handed \
         over as open before {expected}"
    )]
    Count { base: u16, used: u16, expected: u16, open: u16 },
    #[error("what was handed over names descriptor {0} twice or beyond the queue")]
    Head(u16),
}

/// Why a connection is over. Its open requests are still with the session.
#[derive(Debug, Error)]
pub(crate) enum SessionEnd {
    #[error("the front end closed the connection")]
    Closed,
    #[error("the front end does not read its answers")]
    Deaf,
    #[error("the front end broke the protocol: {0}")]
    Protocol(vhost::vhost_user::Error),
    #[error(
        "it goes on without having told its guest's memory, which cannot be found again: {0}; power the VM off and on, its disk is intact"
    )]
    Forgotten(Forgotten),
    #[error("the connection failed: {0}")]
    Lost(std::io::Error),
}
