//! What each fuzz target does with a string of bytes, and what must hold whatever they are.
//!
//! A target takes its own choices (which limits, where the stream is cut) from the first bytes, the rest is what a
//! stranger sends. A rule that does not hold is a panic. What has been allocated is counted, so that an announced
//! length that is believed too early is a finding, too.
//! The daemon is a program and no library: its device is compiled in here from its own files.

#[path = "../../crates/daemon/src/frontend/vhost_user/mod.rs"]
#[allow(dead_code, unused_imports)]
mod device;
pub mod input;
pub mod meter;
pub mod nbd_client;
pub mod nbd_server;
mod sys;
pub mod vhost_user;
pub mod virtio_blk;
