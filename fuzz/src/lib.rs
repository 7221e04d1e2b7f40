//! What each fuzz target does with a string of bytes, and what must hold whatever they are.
//!
//! A target takes its own choices (which limits, where the stream is cut) from the first bytes, the rest is what a
//! stranger sends. A rule that does not hold is a panic. What has been allocated is counted, so that an announced
//! length that is believed too early is a finding, too.

pub mod input;
pub mod meter;
pub mod nbd_client;
pub mod nbd_server;
pub mod virtio_blk;
