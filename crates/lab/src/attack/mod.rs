//! `vmpath simulate --seeds N`: many small worlds in which everything that may go wrong does, and every rule is checked.
//!
//! Each seed is one host with its targets, VMs and guests on a virtual clock; core's own controller and routers run in it, and
//! checkers that share no code with them see every read, every answer and every decision. The fault model is written down in
//! `docs/simulate.md`. Rejected: example tests of each failure; the bugs are in the orders that nobody thinks of.
//! It does not know: sockets, real time, how the daemon wires the same parts (that is for the end-to-end tests).

mod control;
mod crash;
mod faults;
mod guests;
mod hosts;
mod hypervisor;
mod identity;
mod ledger;
mod links;
mod policy;
mod registers;
use crate::rng;
mod runner;
mod scene;
mod settings;
mod storage;
mod tally;
#[cfg(test)]
mod tests;
mod trace;
mod violation;
mod wire;
mod worker;
mod world;

pub(crate) use runner::{Attack, print, table, tail};
