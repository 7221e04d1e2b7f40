//! When a connection that makes no noise is dead: two clocks, the network's and the target's.
//!
//! The network's: the kernel has sent, timed out again and again, and seen no acknowledgement. The target's: nothing at
//! all has come for the ping budget while an answer, a ping's at least, was due. Never the age of a request: a slow array
//! is not a dead path. Rejected: one timeout for both; it is either too long for a network that swallows or too short for
//! an array that thinks. It does not know sockets, nor how a ping is sent.

use crate::event::Fault;
use crate::time::Duration;

/// Nothing is called swallowed before it has gone unacknowledged for this long. With the kernel's shortest timeout (200 ms)
/// all that was sent has been sent a second time by then.
pub const UNACKED_MIN: Duration = Duration::from_millis(400);
/// So many timeouts in a row need no look at the last of them: the one before has gone unanswered until it came.
const TIMEOUTS_MANY: u32 = 2;
/// How long a peer may keep back its acknowledgement (40 ms on Linux, RFC 9293 allows 500), and a moment for the clocks.
const ACK_DELAY: Duration = Duration::from_millis(50);
/// Silence with requests outstanding after which a ping is sent, so that there is something to be acknowledged.
const PING_WHEN_BUSY: Duration = Duration::from_millis(100);
/// Silence without anything outstanding after which a ping is sent, while the unit is used over other connections: a path
/// that has had no turn for a moment must not be found dead by the requests that come to it next.
const PING_WHEN_USED: Duration = Duration::from_millis(200);
/// The same while nobody uses the unit.
const PING_WHEN_IDLE: Duration = Duration::from_secs(2);

/// What a connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// Requests or a ping are outstanding.
    ForAnswers,
    /// Nothing is, but the unit is used over other connections.
    AmongOthers,
    /// Nobody uses the unit.
    Idle,
}

/// The kernel's view of a connection (`TCP_INFO`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkClock {
    pub since_last_ack: Duration,
    /// For so long something has waited for an acknowledgement, as far as was seen.
    pub unacked_for: Duration,
    /// Timeouts in a row with something to be acknowledged, after each of which it was sent again.
    pub retransmits: u32,
    /// Since the last of those, or since something else was sent.
    pub since_last_sent: Duration,
    /// The time that an answer takes, smoothed.
    pub round_trip: Duration,
    /// Timeouts in a row with something that could not even be sent.
    pub probes: u32,
}

impl NetworkClock {
    /// Something went out again and is late: the time of its answer is over, too. One that is under way proves nothing.
    fn sent_in_vain(&self) -> bool {
        let answered_within = self.round_trip * 2 + ACK_DELAY;
        self.retransmits >= TIMEOUTS_MANY
            || self.retransmits == 1 && self.since_last_sent >= answered_within
            // A live peer whose window is shut answers each probe, and may be about to answer this one.
            || self.probes >= TIMEOUTS_MANY
    }
}

/// The network swallows what is sent.
#[must_use]
pub fn swallowed(clock: NetworkClock) -> Option<Fault> {
    let unacked_for = clock.since_last_ack.min(clock.unacked_for);
    (unacked_for >= UNACKED_MIN && clock.sent_in_vain())
        .then_some(Fault::Blackhole { unacked_for, retransmits: clock.retransmits.max(clock.probes) })
}

/// Whether it is this connection's flow alone that is swallowed, and not the path: another connection of the path has given a
/// sign of life since. A network of several members (a LAG, ECMP) chooses one for each flow, and may have lost only that.
/// `signs`: how long ago each of the others last heard anything, or was acknowledged anything.
#[must_use]
pub fn is_only_a_flow(swallowed_for: Duration, mut signs: impl Iterator<Item = Duration>) -> bool {
    signs.any(|ago| ago < swallowed_for)
}

/// The target behind a live network has stopped answering. `silent_for`: since anything at all came, or since the wait
/// began if that is later.
#[must_use]
pub fn speechless(waits: Waits, silent_for: Duration, ping_budget: Duration) -> Option<Fault> {
    match waits {
        Waits::ForAnswers if silent_for >= ping_budget => Some(Fault::Hang { silent_for }),
        Waits::ForAnswers | Waits::AmongOthers | Waits::Idle => None,
    }
}

/// After how much silence a ping is due.
#[must_use]
pub fn ping_after(waits: Waits) -> Duration {
    match waits {
        Waits::ForAnswers => PING_WHEN_BUSY,
        Waits::AmongOthers => PING_WHEN_USED,
        Waits::Idle => PING_WHEN_IDLE,
    }
}

#[cfg(test)]
mod tests;
