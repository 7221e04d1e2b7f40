//! Seeing failures that make no noise: a network that swallows, a target that no longer answers, a setup that hangs.
//!
//! A connection is dead when the kernel says so (sent, not acknowledged, retransmitted) or when nothing at all has come
//! for the ping budget while something, a ping at least, was outstanding. Never by the age of a request: a slow array
//! is not a dead path.

use super::{Back, Phase, Purpose, Transport, Wire, connect};
use crate::dataplane::Worker;
use crate::sys::tcp;
use vmpath_core::event::Fault;
use vmpath_core::plan::Health;
use vmpath_core::time::Duration;

/// Silence with requests outstanding after which a ping is sent, so that there is something to be acknowledged.
const PING_WHEN_BUSY: Duration = Duration::from_millis(100);
/// Silence without anything outstanding after which a ping is sent, while the unit is used over other connections: a path that
/// has had no turn for a moment must not be found dead by the requests that come to it next.
const PING_WHEN_USED: Duration = Duration::from_millis(200);
/// The same while nobody uses the unit.
const PING_WHEN_IDLE: Duration = Duration::from_secs(2);
/// How long a unit counts as used after a request.
const USED_FOR: Duration = Duration::from_secs(1);
/// No acknowledgement for this long, with `TIMEOUTS_MIN` timeouts in a row, is a blackhole. With the kernel's shortest
/// timeout (200 ms, doubling) the second is due 600 ms after the first byte went unacknowledged.
const UNACKED_MIN: Duration = Duration::from_millis(500);
const TIMEOUTS_MIN: u32 = 2;

impl Worker {
    /// Looks at every connection, and starts what is missing.
    pub(crate) fn inspect_backs(&mut self) {
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
        if self.plan.paths[path.index()].health == Health::Disabled || self.backs.is_unused(unit) {
            // What is in flight may finish, if the path still answers: so it goes on being watched.
            if in_flight == 0 {
                self.cut(index, Fault::Disabled);
                return;
            }
        }
        let carries = matches!(back.phase, Phase::Active { .. } | Phase::Comparing);
        let outstanding = in_flight > 0 || !back.own.is_empty();
        if (outstanding || !carries)
            && let Some(fault) = unacknowledged(back)
        {
            self.cut_path(path, &fault);
            return;
        }
        let silent = self.now.since(back.heard);
        let budget = self.plan.spec.target(self.plan.spec.path(path).target).ping_budget;
        if outstanding && silent >= budget {
            self.cut(index, Fault::Hang { silent_for: silent });
            return;
        }
        let unit = self.backs.links[back.link].unit;
        let is_used = self.now.since(self.backs.units[unit.index()].used_at) < USED_FOR;
        let patience = match (outstanding, is_used) {
            (true, _) => PING_WHEN_BUSY,
            (false, true) => PING_WHEN_USED,
            (false, false) => PING_WHEN_IDLE,
        };
        if carries && back.own.is_empty() && silent >= patience {
            let length = back.export.map_or(1, |export| connect::first_block(&export));
            self.read_own(index, Purpose::Ping, 0, length);
        }
    }
}

/// The kernel's word that the network swallows what is sent.
fn unacknowledged(back: &Back) -> Option<Fault> {
    let Wire::Nbd(nbd) = &back.wire else { return None };
    if nbd.transport != Transport::Tcp || matches!(back.phase, Phase::Connecting { .. }) {
        return None;
    }
    let health = tcp::health(nbd.stream.socket()).ok()?;
    let timeouts = health.timeouts();
    (timeouts >= TIMEOUTS_MIN && health.since_last_ack >= UNACKED_MIN)
        .then_some(Fault::Blackhole { unacked_for: health.since_last_ack, retransmits: timeouts })
}
