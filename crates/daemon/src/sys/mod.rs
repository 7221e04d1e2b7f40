//! Every `unsafe` of vmpath, and the clock: the one room where the operating system is spoken to directly.
//!
//! Each function here is safe to call; what makes it so is written at its SAFETY line. It knows no VM, path or request.
#![allow(unsafe_code)]

pub mod boot;
pub mod buffer;
#[cfg(feature = "cluster")]
pub mod child;
pub mod clock;
#[cfg(test)]
pub(crate) mod counting;
pub mod diag;
pub mod dirty;
pub mod guest;
pub mod inflight;
pub mod lock;
pub mod mark;
pub mod record;
pub mod rtnetlink;
pub mod socket;
pub mod tcp;
pub mod uring;
pub mod vring;
