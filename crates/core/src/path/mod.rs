//! Who is well: the links, the paths made of them, and how long a returning one must prove itself.
//!
//! Invariant: after [`Network::settle`] each path's state agrees with its links. Everything else asks here; nobody
//! keeps a second opinion of a path's health.
//! Rejected: a state per link only. Load, capacity, failback and the operator's commands belong to paths, so the path
//! has the state and a link has only what makes one VM's view of the path differ from another's.
//! It does not know VMs' policies, hypervisors, or the journal.

pub mod class;
mod damping;
pub mod identity;
mod links;
mod machine;
mod network;
mod reach;
pub mod remembered;
mod restore;
mod sickness;
mod table;
pub mod vital;

pub use damping::{Damping, REPAIR_AFTER_MAX};
pub use links::{CONNECT_GRACE, Link, LinkEdge, LinkRow};
pub use machine::{Before, Drain, PathChange, PathMachine, PathState, Signal};
pub use network::Network;
pub use reach::{Reach, UnitReach};
pub use sickness::{Ailment, SickEdge, Sickness, WELL_AFTER};
