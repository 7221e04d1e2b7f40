//! HTTP and JSON on a unix socket: the only room that knows either.
//!
//! Invariant: reads are answered from a snapshot and wait for nothing; changes are for root, the daemon's user and the
//! admin group, by what the kernel says of the caller. What is on the wire ([`wire`]) is not what is inside: names for
//! ids, units in keys. Rejected: serde on domain types, which would freeze them. It decides nothing.

pub mod access;
pub mod client;
mod error;
mod events;
mod explain;
mod explained;
mod held;
mod hosts;
mod listener;
mod moves;
mod names;
mod numbers;
mod routes;
mod server;
mod show;
#[cfg(test)]
mod tests;
pub mod whatif;
pub mod wire;
pub mod words;

pub use listener::Listener;
pub use server::Server;
