//! One link: a path's way to one unit.
//!
//! ```text
//!               up                       down
//!  Connecting ◄──────► Up ◄────────────────────────► Down
//!      │   cut on purpose       up (must prove itself)  ▲
//!      └────────── CONNECT_GRACE is over ───────────────┘
//! ```
//!
//! | state      | up                        | down                      | elapsed                | reconnect  | cut on purpose |
//! |------------|---------------------------|---------------------------|------------------------|------------|----------------|
//! | Connecting | Up, proven at once        | stays, keeps the fault    | Down once grace is over| stays      | stays          |
//! | Up         | stays                     | Down                      | stays                  | stays      | Connecting     |
//! | Down       | Up, proven when damped so | stays, keeps latest fault | stays                  | Connecting | stays          |
//!
//! It does not know its path's state: an operator may have taken that out while the link is up.

use crate::event::Fault;
use crate::path::Damping;
use crate::time::{Duration, Instant};
use crate::view::LinkState;

/// How long a first connection may take before the link counts as failed: targets and daemons start together.
pub const CONNECT_GRACE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Never up so far, and not for so long that this is a failure.
    Connecting { until: Instant, last: Option<Fault> },
    /// `proven_at`: from then on it has stayed good for long enough.
    Up { since: Instant, proven_at: Instant },
    Down {
        since: Instant,
        /// What broke it.
        cause: Fault,
        /// What the last attempt to connect met.
        latest: Fault,
        requests_lost: u32,
    },
}

/// What a report changed, for the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEdge {
    Nothing,
    /// Up for the first time.
    Connected,
    /// Up again.
    Back {
        after: Duration,
    },
    Lost,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkRow {
    link: Link,
    damping: Damping,
}

impl LinkRow {
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            link: Link::Connecting { until: now + CONNECT_GRACE, last: None },
            damping: Damping::default(),
        }
    }

    /// As it was before a restart: `down` says since when and why it is. Else it connects, as at a start.
    #[must_use]
    pub fn restored(now: Instant, down: Option<(Instant, Fault)>, damping: Damping) -> Self {
        let link = match down {
            Some((since, cause)) => Link::Down { since, latest: cause.clone(), cause, requests_lost: 0 },
            None => Link::Connecting { until: now + CONNECT_GRACE, last: None },
        };
        Self { link, damping }
    }

    #[must_use]
    pub fn damping(&self) -> &Damping {
        &self.damping
    }

    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// `base` is the target's `repair_after`.
    pub fn up(&mut self, now: Instant, base: Duration) -> LinkEdge {
        match &self.link {
            Link::Connecting { .. } => {
                self.link = Link::Up { since: now, proven_at: now };
                LinkEdge::Connected
            }
            Link::Up { .. } => LinkEdge::Nothing,
            Link::Down { since, .. } => {
                let after = now.since(*since);
                self.damping.came_up(now);
                self.link = Link::Up { since: now, proven_at: now + self.damping.required(base) };
                LinkEdge::Back { after }
            }
        }
    }

    pub fn down(&mut self, now: Instant, base: Duration, fault: Fault, requests_lost: u32) -> LinkEdge {
        match &mut self.link {
            Link::Connecting { last, .. } => {
                *last = Some(fault);
                LinkEdge::Nothing
            }
            Link::Up { .. } => {
                self.damping.went_down(now, base);
                self.link = Link::Down { since: now, cause: fault.clone(), latest: fault, requests_lost };
                LinkEdge::Lost
            }
            Link::Down { latest, .. } => {
                *latest = fault;
                LinkEdge::Nothing
            }
        }
    }

    /// Ends the grace of a first connection.
    pub fn elapsed(&mut self, now: Instant) -> LinkEdge {
        match &self.link {
            Link::Connecting { until, last } if *until <= now => {
                let fault = last.clone().unwrap_or(Fault::ConnectTimeout);
                self.link = Link::Down { since: now, cause: fault.clone(), latest: fault, requests_lost: 0 };
                LinkEdge::Lost
            }
            Link::Connecting { .. } | Link::Up { .. } | Link::Down { .. } => LinkEdge::Nothing,
        }
    }

    /// The operator vouches for the path: the next connection is a first one.
    pub fn reconnect(&mut self, now: Instant) {
        match self.link {
            Link::Connecting { .. } | Link::Down { .. } => *self = Self::new(now),
            Link::Up { since, .. } => self.link = Link::Up { since, proven_at: now },
        }
    }

    /// Cut while the operator had the path disabled, and told after it was enabled again: the next connection is a first
    /// one.
    pub fn cut_on_purpose(&mut self, now: Instant) {
        match self.link {
            Link::Up { .. } => self.link = Link::Connecting { until: now + CONNECT_GRACE, last: None },
            Link::Connecting { .. } | Link::Down { .. } => {}
        }
    }

    /// When [`Self::elapsed`] or being proven changes something next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &self.link {
            Link::Connecting { until, .. } => Some(*until),
            Link::Up { proven_at, .. } => Some(*proven_at),
            Link::Down { .. } => None,
        }
    }

    #[must_use]
    pub fn shown(&self) -> LinkState {
        match &self.link {
            Link::Connecting { last: None, .. } => LinkState::Connecting,
            Link::Connecting { last: Some(fault), .. } => LinkState::Down(fault.clone()),
            Link::Up { .. } => LinkState::Up,
            Link::Down { latest, .. } => LinkState::Down(latest.clone()),
        }
    }
}
