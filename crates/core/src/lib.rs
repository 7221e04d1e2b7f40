//! What should happen: every decision of vmpath, and nothing that could act on it.
//!
//! Pure. No I/O, no clock, no randomness, no threads: `now` is an argument, so the same code runs in the daemon and,
//! under a virtual clock, in the simulator. Two owners drive it and share nothing but [`plan::RoutePlan`]: the control
//! owner drives [`controller::Controller`], each data-plane worker drives a [`router::Router`].
//!
//! It does not know sockets, protocols, QMP, JSON or files; the daemon translates.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod controller;
pub mod effect;
pub mod event;
pub mod ids;
pub mod migration;
pub mod mutant;
pub mod ownership;
pub mod path;
pub mod placement;
pub mod plan;
pub mod policy;
pub mod router;
pub mod saved;
pub mod schedule;
pub mod select;
pub mod spec;
pub mod spread;
pub mod time;
pub mod view;
pub mod volume;
pub mod whatif;
pub mod window;

/// VMs move between hosts with equal ones only.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

#[cfg(test)]
mod testing;
