//! Which VM goes next: reservation, limit and weight tags, after mClock (Gulati et al., OSDI 2010), in O(log n) steps.
//!
//! Who is behind on a reservation goes first, the highest priority among several; then, of those under their limits, the one that
//! has had least for its shares. Work-conserving; an idle VM banks no credit; a request is charged once, at its first
//! dispatch, and can be refunded. All arithmetic is on integers and exact; only the reciprocal of shares is rounded, by less than
//! one in 2600. Rejected: heaps with lazy deletion (docs/decisions/0014-scheduler.md).
//! It does not know paths, windows, queues or what a request is.

mod class;
mod configure;
mod entitlement;
mod lows;
mod meter;
mod scheduler;
mod seats;
mod tags;
mod tree;
mod turn;

pub use entitlement::{Party, entitlements};
pub use scheduler::Scheduler;
pub use turn::{ClassId, Cost, Phase, Receipt, Turn};

#[cfg(test)]
mod tests;
