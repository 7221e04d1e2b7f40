//! The control owner: one task that holds all host state, and the things that feed it.
//!
//! Invariant: state changes in one place only, one event at a time, and nothing there ever waits for a file, a socket
//! or a hypervisor; those are other tasks, and they talk to it by bounded channels. Rejected: a shared, locked state,
//! which a slow reader could hold. It knows no HTTP, no QMP and no bytes of storage protocols.

pub mod config;
pub mod effects;
pub mod handle;
#[cfg(feature = "cluster")]
pub mod hosts;
#[cfg(not(feature = "cluster"))]
#[path = "no_hosts.rs"]
pub mod hosts;
pub mod hosts_view;
pub mod journal;
pub mod lifecycle;
pub mod monitor;
pub mod owner;
mod pulse;
pub mod rates;
pub mod reload;
mod run_dir;
