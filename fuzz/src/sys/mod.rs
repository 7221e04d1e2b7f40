//! The parts of the daemon's room for `unsafe` that a vhost-user device stands on.
#![allow(dead_code, unreachable_pub)]

#[path = "../../../crates/daemon/src/sys/boot.rs"]
pub mod boot;
#[path = "../../../crates/daemon/src/sys/dirty.rs"]
pub mod dirty;
#[path = "../../../crates/daemon/src/sys/guest.rs"]
pub mod guest;
#[path = "../../../crates/daemon/src/sys/inflight.rs"]
pub mod inflight;
#[path = "../../../crates/daemon/src/sys/socket.rs"]
pub mod socket;
#[path = "../../../crates/daemon/src/sys/vring.rs"]
pub mod vring;
