//! When a connection that makes no noise is dead: two clocks, the network's and the target's.
//!
//! The network's: the kernel has sent, timed out again and again, and seen no acknowledgement. The target's: nothing at
//! all has come for the ping budget while an answer, a ping's at least, was due. Never the age of a request: a slow array
//! is not a dead path. Rejected: one timeout for both; it is either too long for a network that swallows or too short for
//! an array that thinks. It does not know sockets, nor how a ping is sent.

use crate::event::Fault;
use crate::time::Duration;

/// No acknowledgement for this long, with [`TIMEOUTS_MIN`] timeouts in a row, is a blackhole. With the kernel's shortest
/// timeout (200 ms, doubling) the second is due 600 ms after the first byte went unacknowledged.
pub const UNACKED_MIN: Duration = Duration::from_millis(500);
pub const TIMEOUTS_MIN: u32 = 2;
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
    /// Timeouts in a row with something to be acknowledged.
    pub timeouts: u32,
}

/// The network swallows what is sent.
#[must_use]
pub fn swallowed(clock: NetworkClock) -> Option<Fault> {
    (clock.timeouts >= TIMEOUTS_MIN && clock.since_last_ack >= UNACKED_MIN)
        .then_some(Fault::Blackhole { unacked_for: clock.since_last_ack, retransmits: clock.timeouts })
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
