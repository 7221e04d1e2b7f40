//! Several whole hosts in one virtual time: `vmpath simulate --hosts N --seeds M`.
//!
//! Each host runs core's own controller, with the keepers of its VMs' units and the placement of core; the store that they share, the
//! wires between them, hypervisors, data planes and the array are the world's, and fail in every way that they can. The fault
//! model is written down in `docs/simulate.md`. Rejected: routers in it; a host's own requests are the other simulator's matter, and here
//! every request is one block that one host writes. It does not know: sockets, etcd's client, TLS, QEMU.

mod array;
mod arrive;
mod asks;
mod daemon;
mod end;
mod etcd;
mod event;
mod faults;
mod guest;
mod io;
mod keeping;
mod leave;
mod monitor;
mod peers;
mod plane;
mod power;
mod qemu;
mod rules;
mod scene;
mod settle;
mod store;
mod stream;
mod takeover;
mod tally;
#[cfg(test)]
mod tests;
mod world;

pub(super) use tally::Tally;

use super::trace::Trace;
use super::violation::Violation;
use world::World;

/// Seeds that found something, since mended, and what: played before all others, with however many hosts are asked for.
pub(super) const REGRESSIONS: &[(u64, &str)] = &[
    (235, "the checker: a host that boots waits for what others had sent before, too"),
    (
        1648,
        "a host that boots while its units are being taken over went on with what the machine of its move read as its own",
    ),
    (1414, "a guest begins at a host that is just giving up its units: seldom met elsewhere"),
    (1107, "a VM whose paths were back before a host was found for it left all the same"),
];

/// One seed with so many hosts, to its end. `blind`: rules that are not checked.
pub(super) fn play(
    seed: u64,
    hosts: usize,
    trace: Trace,
    blind: &[&'static str],
) -> (Tally, Trace, Option<Violation>) {
    World::new(seed, hosts, (trace, blind)).run()
}
