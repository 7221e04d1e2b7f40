//! Seeing failures that make no noise: a network that swallows, a target that no longer answers, a setup that hangs.
//!
//! What is a failure is decided by `core::path::vital`; here is what is known of each connection, and the pings.

use super::{Back, Phase, Purpose, Transport, Wire, connect};
use crate::dataplane::Worker;
use crate::sys::tcp;
use vmpath_core::event::Fault;
use vmpath_core::ids::PathId;
use vmpath_core::path::vital::{self, NetworkClock, Waits};
use vmpath_core::time::Duration;

/// How long a unit counts as used after a request.
const USED_FOR: Duration = Duration::from_secs(1);
/// While a timeout of the kernel's stands, an answer, or the time at which it is missing, is near.
const LOOK_CLOSER_EVERY: Duration = Duration::from_millis(10);

impl Worker {
    /// Looks at every connection, and starts what is missing.
    pub(crate) fn inspect_backs(&mut self) {
        self.look_at_routes();
        let indices: Vec<usize> = self.backs.backs.iter().map(|(index, _)| index).collect();
        for index in indices {
            // One that was cut with its path since the list was made is not looked at.
            if self.backs.backs.get(index).is_some_and(|b| !b.is_closing()) {
                self.inspect(index);
            }
        }
        for at in 0..self.its_units.len() {
            self.advance_comparison(self.its_units[at]);
        }
        self.connect_missing();
    }

    fn inspect(&mut self, index: usize) {
        let back = &self.backs.backs[index];
        if connect::deadline(&back.phase).is_some_and(|deadline| self.now > deadline) {
            self.cut(index, Fault::ConnectTimeout);
            return;
        }
        let (path, unit) = (self.backs.links[back.link].path, self.backs.links[back.link].unit);
        let in_flight = back.in_flight;
        if self.plan.paths[path.index()].health.is_out() || self.backs.is_unused(unit) {
            // What is in flight may finish, if the path still answers: so it goes on being watched.
            if in_flight == 0 {
                self.cut(index, Fault::Disabled);
                return;
            }
        }
        let carries = matches!(back.phase, Phase::Active { .. } | Phase::Comparing);
        let outstanding = in_flight > 0 || !back.own.is_empty();
        if (outstanding || !carries)
            && let Some(fault) = self.unacknowledged(index)
        {
            self.cut_swallowed(index, path, fault);
            return;
        }
        let back = &self.backs.backs[index];
        let is_used = self.now.since(self.backs.units[unit.index()].used_at) < USED_FOR;
        let waits = match (outstanding, is_used) {
            (true, _) => Waits::ForAnswers,
            (false, true) => Waits::AmongOthers,
            (false, false) => Waits::Idle,
        };
        let silent = self.now.since(back.heard);
        let budget = self.plan.spec.target(self.plan.spec.path(path).target).ping_budget;
        if let Some(fault) = vital::speechless(waits, silent, budget) {
            self.cut(index, fault);
            return;
        }
        if carries && back.own.is_empty() && silent >= vital::ping_after(waits) {
            let length = back.export.map_or(1, |export| connect::first_block(&export));
            self.read_own(index, Purpose::Ping, 0, length);
        }
    }

    /// What was seen on one connection holds for the path, unless another one proves the opposite.
    fn cut_swallowed(&mut self, index: usize, path: PathId, fault: Fault) {
        let Fault::Blackhole { unacked_for, .. } = fault else {
            self.cut_path(path, &fault);
            return;
        };
        let others = self.backs.backs.iter().filter(|(other, _)| *other != index).map(|(_, back)| back);
        let others = others.filter(|back| self.backs.links[back.link].path == path);
        if vital::is_only_a_flow(unacked_for, others.filter_map(|back| self.sign_of_life(back))) {
            self.cut(index, fault);
        } else {
            self.cut_path(path, &fault);
        }
    }

    /// How long ago the other end of a connection was last heard, if only an acknowledgement of it.
    fn sign_of_life(&self, back: &Back) -> Option<Duration> {
        let Wire::Nbd(nbd) = &back.wire else { return None };
        if back.is_closing()
            || nbd.transport != Transport::Tcp
            || matches!(back.phase, Phase::Connecting { .. })
        {
            return None;
        }
        let acknowledged = tcp::health(nbd.stream.socket()).ok()?.since_last_ack;
        Some(acknowledged.min(self.now.since(back.heard)))
    }

    /// The kernel's word that the network swallows what is sent.
    fn unacknowledged(&mut self, index: usize) -> Option<Fault> {
        let back = &mut self.backs.backs[index];
        let Wire::Nbd(nbd) = &mut back.wire else { return None };
        if nbd.transport != Transport::Tcp || matches!(back.phase, Phase::Connecting { .. }) {
            return None;
        }
        let health = tcp::health(nbd.stream.socket()).ok()?;
        if !health.is_waiting() {
            nbd.unacked_since = None;
            return None;
        }
        let unacked_since = *nbd.unacked_since.get_or_insert(self.now);
        let clock = NetworkClock {
            since_last_ack: health.since_last_ack,
            unacked_for: self.now.since(unacked_since),
            retransmits: health.resent(),
            since_last_sent: health.since_last_sent,
            round_trip: health.round_trip,
            probes: health.probed(),
        };
        if clock.retransmits > 0 || clock.probes > 0 {
            self.next_inspection = self.next_inspection.min(self.now + LOOK_CLOSER_EVERY);
        }
        vital::swallowed(clock)
    }
}
