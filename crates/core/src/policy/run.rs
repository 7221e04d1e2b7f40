//! What we have done to one VM's vCPUs, and what remains to be done.
//!
//! Invariant: a `stop` that was sent is remembered, with its process, until it is confirmed, refused or too old to
//! take effect; so no VM stays stopped because nobody remembers having stopped it.
//! Rejected: setting a wanted state and comparing it with the hypervisor's. It would continue what somebody else
//! stopped, and stop what somebody else continued.
//! It does not know paths, capacity or other VMs.

mod step;

use crate::event::RunState;
use crate::ids::IncidentId;
use crate::policy::Cause;
use crate::time::{Duration, Instant};

/// `stop` answers within this when nothing is wrong: requests on live paths finish in it.
pub const STOP_CONFIRM_WITHIN: Duration = Duration::from_secs(10);
pub const STOP_ATTEMPTS_MAX: u32 = 3;
/// When the attempts are used up it is tried again after this, and after twice as long each time.
const STOP_SLOWLY_AFTER: Duration = Duration::from_secs(60);
/// A monitor that is deaf for so long is somebody's work already.
const STOP_SLOWLY_MAX: Duration = Duration::from_secs(600);
/// Pause after a refused `stop`.
const STOP_RETRY_AFTER: Duration = Duration::from_secs(1);
/// A `stop` that nobody wants any more may still sit in the monitor's queue for so long.
const STOP_MAY_BE_LATE: Duration = Duration::from_secs(60);
/// A VM that runs for so long after `cont` has its disks back: a broken NBD connection stops it within milliseconds.
const PROVE_FOR: Duration = Duration::from_secs(2);
/// A `cont` that was taken back may still sit in the monitor's queue for so long.
pub const CONT_MAY_BE_LATE: Duration = Duration::from_secs(60);
/// Enough for QEMU's NBD client, which reconnects after 1, 2, 4, 8, 16, 16, … seconds.
pub const RESUME_ATTEMPTS_MAX: u32 = 8;
const RESUME_BACKOFF_MAX: Duration = Duration::from_secs(16);

/// ```text
///          suspend                 paused, io-error
///   Free ──────────► Suspending ─────────────────────► Suspended ◄───────┐
///   ▲ │  ▲            ▲   │ release                      │ release       │ revoke,
///   │ │hold           │   ▼            paused            ▼               │ gave up
///   │ ▼  │release     │ Withdrawing ─────────────────► Resuming ─────────┘
///   │ Held ───────────┘   │ too late to matter           │ running   ▲
///   │       suspend       │                              ▼           │ io-error
///   └─────────────────────┴──────────────────────────── Proving ─────┘
///                              good for PROVE_FOR
/// ```
///
/// | state       | Suspend    | Hold | Release     | Paused    | IoError   | Running | Other | Refused | Elapsed        | Replaced |
/// |-------------|------------|------|-------------|-----------|-----------|---------|-------|---------|----------------|----------|
/// | Free        | Suspending | Held | -           | -         | -         | -       | -     | -       | -              | -        |
/// | Held        | Suspending | -    | Free        | -         | -         | -       | -     | -       | -              | -        |
/// | Suspending  | -          | -    | Withdrawing | Suspended | Suspended | -       | Free  | retries | retries        | Free     |
/// | Withdrawing | Suspending | Held | -           | Resuming  | Resuming  | -       | Free  | Free    | Free           | Free     |
/// | Suspended   | -          | -    | Resuming    | -         | -         | Free    | -     | -       | -              | Free     |
/// | Resuming    | -          | -    | -           | -         | -         | Proving | Free  | -       | again, gives up| Free     |
/// | Proving     | Suspending | Held | -           | Free      | Resuming  | -       | Free  | -       | Free           | Free     |
///
/// A Suspending VM whose requests wait though they could be routed becomes Held when its monitor is gone.
/// A Held VM whose former `stop` takes effect at last becomes Suspended, and Withdrawing when it is released before.
/// A Suspended VM that runs again although its `stop` may still come becomes Withdrawing.
/// A Suspended VM that runs by a `cont` of ours that came late (`LateCont`) is Suspending again.
/// `Retain` changes why a Suspending or Suspended VM is stopped, and nothing else.
/// `Adopt` (it stopped on our own EIO) turns Free, Held, Withdrawing and Proving into Suspended; `Revoke` turns Resuming into Suspended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    /// Not touched.
    Free { since: Instant },
    /// Its requests are not routed, but it cannot be stopped.
    Held {
        cause: Cause,
        since: Instant,
        /// A `stop` from before that may still take effect.
        late: Option<LateStop>,
    },
    /// `stop` was sent. `deadline`: it is repeated then, after [`STOP_ATTEMPTS_MAX`] more and more slowly.
    Suspending { cause: Cause, since: Instant, instance: u64, attempt: u32, deadline: Instant },
    /// `stop` was sent and is no longer wanted, but may still take effect.
    Withdrawing { cause: Cause, since: Instant, late: LateStop },
    /// Stopped by us.
    Suspended { cause: Cause, since: Instant, instance: u64, stop: StopOrder },
    /// `cont` was sent; it is repeated at `next_try`.
    Resuming { cause: Cause, since: Instant, instance: u64, attempt: u32, next_try: Instant },
    /// It runs; whether it stays so is seen in a moment.
    Proving { cause: Cause, since: Instant, instance: u64, attempt: u32 },
}

/// A `stop` that nobody waits for any more, and that may take effect all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LateStop {
    pub instance: u64,
    /// Later than this it cannot, if the monitor is there to see it; without a monitor it is waited for.
    pub until: Instant,
}

/// What became of the `stop` for a VM that stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopOrder {
    /// It took effect, or none was needed.
    Confirmed,
    /// The VM stopped by itself on an EIO; our `stop` may still be draining its disks.
    Sent { at: Instant },
}

#[derive(Clone, Debug)]
pub enum Input {
    /// The policy wants it stopped, and it can be.
    Suspend(Cause),
    /// Stopped already or about to be, it is to stay so for this cause instead.
    Retain(Cause),
    /// The policy wants it not routed, and it cannot be stopped.
    Hold(Cause),
    /// It stopped on an EIO that we answered.
    Adopt(Cause),
    /// The cause is over.
    Release,
    /// A `cont` that did not take effect is not repeated: the conditions for it are gone.
    Revoke,
    /// It runs by a `cont` of ours that was taken back, or given up, and has come late.
    LateCont,
    Report(RunState),
    /// A `stop` or `cont` was answered with an error.
    Refused,
    /// The monitor of the same process is back: what was sent may have been lost.
    Reconnected,
    /// Another process is there now.
    Replaced,
    Elapsed,
}

/// What to send to the hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Stop { instance: u64 },
    Continue { instance: u64 },
}

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopStage {
    Asked,
    Confirmed,
}

/// What happened, for the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    Held,
    Released {
        after: Duration,
    },
    Suspending,
    StopRepeated {
        attempt: u32,
    },
    /// The attempts are used up: it goes on being tried, slowly.
    StopUnanswered {
        next_in: Duration,
    },
    Suspended {
        after: Duration,
    },
    /// What it was stopped for no longer lets it go on: another cause keeps it.
    Retained(StopStage),
    Withdrawn,
    Resuming,
    ContinueRepeated {
        attempt: u32,
    },
    StoppedAgain {
        attempt: u32,
        next_in: Duration,
    },
    Resumed {
        after: Duration,
        attempt: u32,
    },
    ResumeRevoked,
    ResumeGaveUp,
    ContinuedByOther,
    /// A `cont` of ours that nobody wanted any more.
    ContinuedLate,
    /// Its hypervisor is in a state that is not ours to end, or another process is there.
    Forgotten,
}

/// What one input leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    pub act: Option<Act>,
    pub note: Option<Note>,
}

impl Step {
    fn note(note: Note) -> Self {
        Self { act: None, note: Some(note) }
    }

    fn stop(instance: u64, note: Note) -> Self {
        Self { act: Some(Act::Stop { instance }), note: Some(note) }
    }

    fn cont(instance: u64, note: Note) -> Self {
        Self { act: Some(Act::Continue { instance }), note: Some(note) }
    }
}

impl Run {
    /// When time alone moves it next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Suspending { deadline, .. } => Some(*deadline),
            Self::Withdrawing { late, .. } | Self::Held { late: Some(late), .. } => Some(late.until),
            Self::Resuming { next_try, .. } => Some(*next_try),
            Self::Proving { since, .. } => Some(*since + PROVE_FOR),
            Self::Free { .. } | Self::Held { late: None, .. } | Self::Suspended { .. } => None,
        }
    }

    #[must_use]
    pub fn since(&self) -> Instant {
        match self {
            Self::Free { since }
            | Self::Held { since, .. }
            | Self::Suspending { since, .. }
            | Self::Withdrawing { since, .. }
            | Self::Suspended { since, .. }
            | Self::Resuming { since, .. }
            | Self::Proving { since, .. } => *since,
        }
    }

    /// Why it is held, stopped or about to be; none once it may run.
    #[must_use]
    pub fn cause(&self) -> Option<&Cause> {
        match self {
            Self::Held { cause, .. }
            | Self::Suspending { cause, .. }
            | Self::Suspended { cause, .. }
            | Self::Resuming { cause, .. } => Some(cause),
            Self::Free { .. } | Self::Withdrawing { .. } | Self::Proving { .. } => None,
        }
    }

    /// The process that we have stopped, or asked to stop or to go on.
    #[must_use]
    pub fn instance(&self) -> Option<u64> {
        match self {
            Self::Free { .. } | Self::Held { late: None, .. } => None,
            Self::Held { late: Some(late), .. } | Self::Withdrawing { late, .. } => Some(late.instance),
            Self::Suspending { instance, .. }
            | Self::Suspended { instance, .. }
            | Self::Resuming { instance, .. }
            | Self::Proving { instance, .. } => Some(*instance),
        }
    }

    /// The policy may still decide about it: it is not being stopped, nor stopped, nor being continued.
    #[must_use]
    pub fn undecided(&self) -> bool {
        match self {
            Self::Free { .. } | Self::Held { .. } | Self::Withdrawing { .. } | Self::Proving { .. } => true,
            Self::Suspending { .. } | Self::Suspended { .. } | Self::Resuming { .. } => false,
        }
    }

    /// The incident that it belongs to, also while it is on its way back.
    #[must_use]
    pub fn incident(&self) -> Option<IncidentId> {
        match self {
            Self::Free { .. } => None,
            Self::Held { cause, .. }
            | Self::Suspending { cause, .. }
            | Self::Withdrawing { cause, .. }
            | Self::Suspended { cause, .. }
            | Self::Resuming { cause, .. }
            | Self::Proving { cause, .. } => cause.incident,
        }
    }
}

#[cfg(test)]
mod tests;
