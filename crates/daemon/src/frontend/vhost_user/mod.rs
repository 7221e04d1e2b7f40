//! A virtual machine's disk as a vhost-user-blk device.
//!
//! Source: "Vhost-user Protocol" of QEMU's documentation. A [`Session`] is one front end's connection and lives on one worker: no
//! lock, no thread, nothing that waits. Invariants: GET_VRING_BASE is answered at once, requests open or not; guest memory and
//! rings are touched only while a request is open and its ring runs; a guest that breaks the rules loses its own ring and nothing else.
//! Rejected: a crate that runs devices on threads of its own and knows no inflight buffer.
//! It does not know: the router, paths, which VM this is.

mod device;
mod doorbell;
mod fault;
mod handler;
mod moving;
mod note;
mod parse;
mod queue;
mod session;
mod slot;
mod world;

#[cfg(test)]
mod tests;

pub(crate) use device::{Abandoned, Changes, QueueSet};
pub(crate) use fault::{Fault, SessionEnd};
pub(crate) use moving::{Ending, LeftFate, LeftOpen, LeftQueue};
pub(crate) use queue::{Fetched, GuestRequest, Origin};
pub(crate) use session::{Handled, Session};
pub(crate) use world::Shape;
