//! A load that verifies everything it reads: shared by the stand-in guest and by the tool inside real guests.
//!
//! `block` what a block holds, `model` which values it may have, `mix` what is asked for, `engine` the load without I/O,
//! `stats` what it saw, `talk` how it is commanded, `device` the driver over a block device.

pub mod args;
pub mod block;
pub mod buffer;
pub mod device;
pub mod engine;
pub mod mix;
pub mod model;
pub mod stats;
pub mod talk;
