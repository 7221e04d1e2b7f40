//! One move, at the host that the VM goes to: a hypervisor that waits, a hand-over that is kept, and the moment from which
//! this host dispatches.
//!
//! Invariant: nothing is dispatched before this host has read for itself that the units are its own, by this move; what it
//! owns and has not begun it gives back when it cannot go on; nothing is thrown away while a commit may still be on its way.
//! Rejected: to trust the source's word that it has committed. It may have lost the answer, or been taken for another.
//! It does not know whether the VM is welcome here: that is decided before it is begun.

mod late;
mod speech;
mod step;

use super::source::Move;
use super::{HandOver, Pace};
use crate::ownership::UnitEpoch;
use crate::time::{Duration, Instant};

pub use speech::{Act, Input, Withdrawn};

/// Less than the source waits, so that it learns why.
pub const LAUNCH_WITHIN: Duration = Duration::from_secs(28);
/// A transfer that still goes on is given up by its source before.
pub const WAIT_MAX: Duration = Duration::from_secs(3600 + 300);
/// A few kilobytes in a file on tmpfs. Less than the source waits.
pub const STORE_WITHIN: Duration = Duration::from_secs(4);
/// The source asks for the commit as soon as it knows of the store, and finds out about a lost answer in seconds.
pub const COMMIT_MAX: Duration = Duration::from_secs(30);
/// The commit follows the store within milliseconds, and the guest stands still until it has been read. Later more slowly.
const READ_FIRST: Duration = Duration::from_millis(50);
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// ```text
///  Launching ─► Prepared ─► Storing ─► Stored ──► Owned ────► Taken ──► Ended(Arrived)
///      │           │           │         │ gone    │ │ recall     ▲         ▲
///      │           │           │         ▼         │ ▼            │         │
///      │           │           │      Barring ─► (Renewing)    Recalled ────┘ landed
///      │           │           │         │ no commit     its process has ended
///      ▼           ▼           ▼         ▼                ▼  ▼
///     Discarding ──────────────────► Ended(Discarded)    Withdrawing ─► GivingBack ─► Ended(GivenBack)
/// ```
///
/// | state       | its answer                | HandOver    | owners: moved | owners: kept, lost | undecided | Discard    | process ended | Landed  | Taken | Elapsed         |
/// |-------------|---------------------------|-------------|---------------|--------------------|-----------|------------|---------------|---------|-------|-----------------|
/// | Launching   | Prepared, else Discarding | refused     | -             | -                  | -         | Discarding | Discarded     | -       | -     | Discarding      |
/// | Prepared    |                           | Storing     | -             | -                  | -         | Discarding | Discarded     | -       | -     | Discarding      |
/// | Storing     | Stored, else Prepared     | -           | -             | -                  | -         | Discarding | Discarded     | -       | -     | Prepared        |
/// | Stored      |                           | same: stored| Owned         | Discarding         | -         | Barring    | Barring       | noted   | -     | reads, Barring  |
/// | Barring     | Discarding                | refused     | Owned or back | Discarding         | bars again| -          | noted         | noted   | -     | reads           |
/// | Renewing    | Owned                     | refused     | bumps again   | Discarding         | -         | -          | Withdrawing   | noted   | -     | reads           |
/// | Owned       |                           | refused     | -             | -                  | -         | Recalled   | Withdrawing   | Arrived | Taken | asks            |
/// | Recalled    | waiting: ended            | refused     | -             | -                  | -         | -          | Withdrawing   | Arrived | Taken | asks            |
/// | Taken       |                           | refused     | -             | -                  | -         | refused    | Arrived       | Arrived | -     | asks            |
/// | Withdrawing | GivingBack, else Arrived  | refused     | -             | -                  | -         | -          | -             | -       |Arrived| asks            |
/// | GivingBack  | GivenBack                 | refused     | gives again   | GivenBack          | -         | -          | -             | -       | -     | reads           |
/// | Discarding  |                           | refused     | -             | -                  | -         | -          | Discarded     | -       | -     | ends it again   |
/// | Ended       | -                         | refused     | -             | -                  | -         | answered   | -             | -       | -     | -               |
///
/// What does not belong to the state is late, or comes twice: it is ignored. One that has landed before its owners were known is Arrived
/// instead of Owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Its hypervisor is being launched.
    Launching {
        until: Instant,
    },
    /// It waits for the VM's memory, or receives it, at this address.
    Prepared {
        uri: String,
        until: Instant,
    },
    /// The hand-over is being stored.
    Storing {
        uri: String,
        until: Instant,
        hand_over: Box<HandOver>,
    },
    /// It is stored. The owners are read until they have changed.
    Stored {
        hand_over: Box<HandOver>,
        until: Instant,
        pace: Pace,
    },
    /// This end gives the move up, but a commit may be on its way, or have taken effect.
    Barring {
        why: String,
        pace: Pace,
    },
    /// The units are owned by this host since before it was restarted; what the former process sent is made void.
    Renewing {
        units: Vec<UnitEpoch>,
        pace: Pace,
    },
    /// The units are this host's; the rings take the hand-over when they start.
    Owned {
        units: Vec<UnitEpoch>,
        pace: Pace,
    },
    /// The source cannot go on. If the VM has not landed it is given back.
    Recalled {
        units: Vec<UnitEpoch>,
        why: String,
        pace: Pace,
    },
    /// A ring has begun. From now on only this host can go on.
    Taken {
        pace: Pace,
    },
    /// Its process has ended before it began: the data plane is asked to begin nothing more.
    Withdrawing {
        units: Vec<UnitEpoch>,
        why: String,
        pace: Pace,
    },
    /// The units are given back to the source.
    GivingBack {
        units: Vec<UnitEpoch>,
        why: String,
        pace: Pace,
    },
    /// Its hypervisor is being ended.
    Discarding {
        why: String,
        pace: Pace,
    },
    Ended(Outcome),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The VM is this host's.
    Arrived,
    /// It never was; in words why.
    Discarded { why: String },
    /// It was, for a moment, and had not begun; in words why.
    GivenBack { why: String },
}

/// The hypervisor that was launched for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Process {
    /// Or may live.
    Lives,
    /// It lives and has all of the VM, though the owners are not known yet.
    Landed,
    /// It was told to end.
    Ending,
    Gone,
}

/// Whether a process of vmpath before this one may have asked for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Begun,
    Restored,
}

/// One move; see [`State`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    plan: Move,
    began: Instant,
    origin: Origin,
    process: Process,
    state: State,
}

/// What the next process needs to end it well: the owners say how far it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    pub plan: Move,
    pub began: Instant,
}

impl Destination {
    #[must_use]
    pub fn plan(&self) -> &Move {
        &self.plan
    }

    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// When it was begun.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.began
    }

    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.state {
            State::Ended(outcome) => Some(outcome),
            State::Launching { .. }
            | State::Prepared { .. }
            | State::Storing { .. }
            | State::Stored { .. }
            | State::Barring { .. }
            | State::Renewing { .. }
            | State::Owned { .. }
            | State::Recalled { .. }
            | State::Taken { .. }
            | State::Withdrawing { .. }
            | State::GivingBack { .. }
            | State::Discarding { .. } => None,
        }
    }

    /// As far as this move is concerned, the VM's requests may go to its units from here.
    #[must_use]
    pub fn may_dispatch(&self) -> bool {
        match &self.state {
            State::Owned { .. }
            | State::Recalled { .. }
            | State::Taken { .. }
            | State::Withdrawing { .. }
            | State::Ended(Outcome::Arrived) => true,
            State::Launching { .. }
            | State::Prepared { .. }
            | State::Storing { .. }
            | State::Stored { .. }
            | State::Barring { .. }
            | State::Renewing { .. }
            | State::GivingBack { .. }
            | State::Discarding { .. }
            | State::Ended(Outcome::Discarded { .. } | Outcome::GivenBack { .. }) => false,
        }
    }

    /// When [`Input::Elapsed`] is due. None once it has ended.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Launching { until } | State::Prepared { until, .. } | State::Storing { until, .. } => {
                Some(*until)
            }
            State::Stored { until, pace, .. } => Some((*until).min(pace.at)),
            State::Barring { pace, .. }
            | State::Renewing { pace, .. }
            | State::Owned { pace, .. }
            | State::Recalled { pace, .. }
            | State::Taken { pace }
            | State::Withdrawing { pace, .. }
            | State::GivingBack { pace, .. }
            | State::Discarding { pace, .. } => Some(pace.at),
            State::Ended(_) => None,
        }
    }

    /// None once it has ended: then nothing is left to be done.
    #[must_use]
    pub fn save(&self) -> Option<Saved> {
        let open = self.outcome().is_none();
        open.then(|| Saved { plan: self.plan.clone(), began: self.began })
    }
}

impl State {
    /// One word for views.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Launching { .. } => "launching",
            Self::Prepared { .. } => "prepared",
            Self::Storing { .. } => "storing",
            Self::Stored { .. } => "stored",
            Self::Barring { .. } => "barring",
            Self::Renewing { .. } => "renewing",
            Self::Owned { .. } => "owned",
            Self::Recalled { .. } => "recalled",
            Self::Taken { .. } => "taken",
            Self::Withdrawing { .. } => "withdrawing",
            Self::GivingBack { .. } => "giving-back",
            Self::Discarding { .. } => "discarding",
            Self::Ended(Outcome::Arrived) => "arrived",
            Self::Ended(Outcome::Discarded { .. }) => "discarded",
            Self::Ended(Outcome::GivenBack { .. }) => "given-back",
        }
    }
}

#[cfg(test)]
mod tests;
