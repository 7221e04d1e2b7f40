//! Moving a running VM to another host: one state machine at each end, and what passes between them.
//!
//! Invariant: at no moment may both ends dispatch for a unit of the VM. What decides is the owner in the store that all
//! hosts share: the source stops before it asks for the change, the destination begins after it has read it.
//! Rejected: to let the destination's vCPUs decide, whose start neither end can see at the moment at which it happens.
//! It does not know which host is best ([`crate::policy`] asks, placement answers), nor how anything is sent.

pub mod destination;
mod hand_over;
mod id;
mod note;
mod pace;
pub mod source;
mod status;

pub use destination::Destination;
pub use hand_over::{DiskHandOver, HandOver, Open, OpenRequest, QuarantineHandOver, QueueHandOver, VmCarry};
pub use id::MoveId;
pub use note::{Note, Step};
pub use pace::Pace;
pub use source::{DiskEpoch, Move, RoomNeed, Source};
pub use status::{Answer, MigrationState, MigrationStatus};

#[cfg(test)]
mod tests;
