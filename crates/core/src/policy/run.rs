//! What we have done to one VM's vCPUs, and what remains to be done.
//!
//! Invariant: a `stop` that was sent is remembered, with its process, until it is confirmed, refused or too old to
//! take effect; so no VM stays stopped because nobody remembers having stopped it.
//! Rejected: setting a wanted state and comparing it with the hypervisor's. It would continue what somebody else
//! stopped, and stop what somebody else continued.
//! It does not know paths, capacity or other VMs.

use crate::event::RunState;
use crate::ids::IncidentId;
use crate::policy::{Cause, Monitor, Why};
use crate::time::{Duration, Instant};

/// `stop` answers within this when nothing is wrong: requests on live paths finish in it.
pub const STOP_CONFIRM_WITHIN: Duration = Duration::from_secs(10);
pub const STOP_ATTEMPTS_MAX: u32 = 3;
/// Pause after a refused `stop`.
const STOP_RETRY_AFTER: Duration = Duration::from_secs(1);
/// A `stop` that nobody wants any more may still sit in the monitor's queue for so long.
const STOP_MAY_BE_LATE: Duration = Duration::from_secs(60);
/// A VM that runs for so long after `cont` has its disks back: a broken NBD connection stops it within milliseconds.
const PROVE_FOR: Duration = Duration::from_secs(2);
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
/// | Withdrawing | Suspending | -    | -           | Resuming  | Resuming  | -       | Free  | Free    | Free           | Free     |
/// | Suspended   | -          | -    | Resuming    | -         | -         | Free    | -     | -       | -              | Free     |
/// | Resuming    | -          | -    | -           | -         | -         | Proving | Free  | -       | again, gives up| Free     |
/// | Proving     | Suspending | -    | -           | Free      | Resuming  | -       | Free  | -       | Free           | Free     |
///
/// `Adopt` (it stopped on our own EIO) turns Free and Held into Suspended; `Revoke` turns Resuming into Suspended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    /// Not touched.
    Free {
        since: Instant,
    },
    /// Its requests are not routed, but it cannot be stopped.
    Held {
        cause: Cause,
        since: Instant,
    },
    /// `stop` was sent. `deadline`: it is repeated then; none when the attempts are used up.
    Suspending {
        cause: Cause,
        since: Instant,
        instance: u64,
        attempt: u32,
        deadline: Option<Instant>,
    },
    /// `stop` was sent and is no longer wanted, but may still take effect.
    Withdrawing {
        cause: Cause,
        since: Instant,
        instance: u64,
    },
    /// Stopped by us.
    Suspended {
        cause: Cause,
        since: Instant,
        instance: u64,
    },
    /// `cont` was sent; it is repeated at `next_try`.
    Resuming {
        cause: Cause,
        since: Instant,
        instance: u64,
        attempt: u32,
        next_try: Instant,
    },
    /// It runs; whether it stays so is seen in a moment.
    Proving {
        cause: Cause,
        since: Instant,
        instance: u64,
        attempt: u32,
    },
}

#[derive(Clone, Debug)]
pub enum Input {
    /// The policy wants it stopped, and it can be.
    Suspend(Cause),
    /// The policy wants it not routed, and it cannot be stopped.
    Hold(Cause),
    /// It stopped on an EIO that we answered.
    Adopt(Cause),
    /// The cause is over.
    Release,
    /// A `cont` that did not take effect is not repeated: the conditions for it are gone.
    Revoke,
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

/// What happened, for the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    Held,
    Released { after: Duration },
    Suspending,
    StopRepeated { attempt: u32 },
    StopGaveUp,
    Suspended { after: Duration },
    Withdrawn,
    Resuming,
    ContinueRepeated { attempt: u32 },
    StoppedAgain { attempt: u32, next_in: Duration },
    Resumed { after: Duration, attempt: u32 },
    ResumeRevoked,
    ResumeGaveUp,
    ContinuedByOther,
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
    /// Applies one input. `monitor` is as it is after the report that the input stands for.
    pub fn step(&mut self, now: Instant, monitor: &Monitor, input: Input) -> Step {
        match input {
            Input::Suspend(cause) => self.suspend(now, monitor, cause),
            Input::Hold(cause) => match self {
                Self::Free { .. } => {
                    *self = Self::Held { cause, since: now };
                    Step::note(Note::Held)
                }
                Self::Held { .. }
                | Self::Suspending { .. }
                | Self::Withdrawing { .. }
                | Self::Suspended { .. }
                | Self::Resuming { .. }
                | Self::Proving { .. } => Step::default(),
            },
            Input::Adopt(cause) => self.adopt(now, monitor, cause),
            Input::Release => self.release(now, monitor),
            Input::Revoke => self.revoke(now),
            Input::Report(RunState::Running) => self.running(now),
            Input::Report(RunState::Paused) => self.paused(now, monitor),
            Input::Report(RunState::IoError) => self.io_error(now, monitor),
            Input::Report(RunState::Other) => self.not_ours(now),
            Input::Refused => self.refused(now),
            Input::Reconnected => self.reconnected(now, monitor),
            Input::Replaced => self.replaced(now),
            Input::Elapsed => self.elapsed(now, monitor),
        }
    }

    fn suspend(&mut self, now: Instant, monitor: &Monitor, cause: Cause) -> Step {
        let Some(instance) = monitor.instance() else { return Step::default() };
        match self {
            Self::Free { .. } | Self::Held { .. } | Self::Withdrawing { .. } | Self::Proving { .. } => {
                let deadline = Some(now + STOP_CONFIRM_WITHIN);
                *self = Self::Suspending { cause, since: now, instance, attempt: 1, deadline };
                Step::stop(instance, Note::Suspending)
            }
            Self::Suspending { .. } | Self::Suspended { .. } | Self::Resuming { .. } => Step::default(),
        }
    }

    fn adopt(&mut self, now: Instant, monitor: &Monitor, cause: Cause) -> Step {
        let Some(instance) = monitor.continuable() else { return Step::default() };
        match self {
            Self::Free { .. } | Self::Held { .. } => {
                *self = Self::Suspended { cause, since: now, instance };
                Step::note(Note::Suspended { after: Duration::ZERO })
            }
            Self::Suspending { .. }
            | Self::Withdrawing { .. }
            | Self::Suspended { .. }
            | Self::Resuming { .. }
            | Self::Proving { .. } => Step::default(),
        }
    }

    fn release(&mut self, now: Instant, monitor: &Monitor) -> Step {
        match self {
            Self::Held { since, .. } => {
                let after = now.since(*since);
                *self = Self::Free { since: now };
                Step::note(Note::Released { after })
            }
            Self::Suspending { cause, instance, .. } => {
                *self = Self::Withdrawing { cause: cause.clone(), since: now, instance: *instance };
                Step::note(Note::Withdrawn)
            }
            Self::Suspended { cause, instance, .. } if monitor.continuable() == Some(*instance) => {
                let (cause, instance) = (cause.clone(), *instance);
                self.send_cont(now, cause, instance)
            }
            Self::Free { .. }
            | Self::Withdrawing { .. }
            | Self::Suspended { .. }
            | Self::Resuming { .. }
            | Self::Proving { .. } => Step::default(),
        }
    }

    fn send_cont(&mut self, now: Instant, cause: Cause, instance: u64) -> Step {
        *self = Self::Resuming { cause, since: now, instance, attempt: 1, next_try: now + backoff(1) };
        Step::cont(instance, Note::Resuming)
    }

    fn revoke(&mut self, now: Instant) -> Step {
        match self {
            Self::Resuming { cause, instance, .. } => {
                *self = Self::Suspended { cause: cause.clone(), since: now, instance: *instance };
                Step::note(Note::ResumeRevoked)
            }
            Self::Free { .. }
            | Self::Held { .. }
            | Self::Suspending { .. }
            | Self::Withdrawing { .. }
            | Self::Suspended { .. }
            | Self::Proving { .. } => Step::default(),
        }
    }

    fn running(&mut self, now: Instant) -> Step {
        match self {
            Self::Resuming { cause, since, instance, attempt, .. } => {
                let (after, attempt) = (now.since(*since), *attempt);
                *self = Self::Proving { cause: cause.clone(), since: now, instance: *instance, attempt };
                Step::note(Note::Resumed { after, attempt })
            }
            Self::Suspended { .. } => {
                *self = Self::Free { since: now };
                Step::note(Note::ContinuedByOther)
            }
            Self::Free { .. }
            | Self::Held { .. }
            | Self::Suspending { .. }
            | Self::Withdrawing { .. }
            | Self::Proving { .. } => Step::default(),
        }
    }

    fn paused(&mut self, now: Instant, monitor: &Monitor) -> Step {
        match self {
            Self::Proving { .. } => {
                *self = Self::Free { since: now };
                Step::default()
            }
            Self::Suspending { .. } | Self::Withdrawing { .. } => self.stopped(now, monitor),
            Self::Free { .. } | Self::Held { .. } | Self::Suspended { .. } | Self::Resuming { .. } => {
                Step::default()
            }
        }
    }

    fn io_error(&mut self, now: Instant, monitor: &Monitor) -> Step {
        match self {
            Self::Proving { cause, since: _, instance, attempt } => {
                let (attempt, next_in) = (*attempt, backoff(*attempt));
                *self = Self::Resuming {
                    cause: cause.clone(),
                    since: now,
                    instance: *instance,
                    attempt,
                    next_try: now + next_in,
                };
                Step::note(Note::StoppedAgain { attempt, next_in })
            }
            Self::Suspending { .. } | Self::Withdrawing { .. } => self.stopped(now, monitor),
            Self::Free { .. } | Self::Held { .. } | Self::Suspended { .. } | Self::Resuming { .. } => {
                Step::default()
            }
        }
    }

    /// Our `stop` has taken effect, or our EIO has.
    fn stopped(&mut self, now: Instant, monitor: &Monitor) -> Step {
        match self {
            Self::Suspending { cause, since, instance, .. } => {
                let after = now.since(*since);
                *self = Self::Suspended { cause: cause.clone(), since: now, instance: *instance };
                Step::note(Note::Suspended { after })
            }
            Self::Withdrawing { cause, instance, .. } if monitor.continuable() == Some(*instance) => {
                let (cause, instance) = (cause.clone(), *instance);
                self.send_cont(now, cause, instance)
            }
            Self::Withdrawing { .. }
            | Self::Free { .. }
            | Self::Held { .. }
            | Self::Suspended { .. }
            | Self::Resuming { .. }
            | Self::Proving { .. } => Step::default(),
        }
    }

    fn not_ours(&mut self, now: Instant) -> Step {
        match self {
            Self::Suspending { .. }
            | Self::Withdrawing { .. }
            | Self::Resuming { .. }
            | Self::Proving { .. } => {
                *self = Self::Free { since: now };
                Step::note(Note::Forgotten)
            }
            // A migration of a suspended VM passes through such states and may come back.
            Self::Suspended { .. } | Self::Free { .. } | Self::Held { .. } => Step::default(),
        }
    }

    fn refused(&mut self, now: Instant) -> Step {
        match self {
            Self::Suspending { attempt, deadline, .. } => {
                if *attempt < STOP_ATTEMPTS_MAX {
                    *deadline = Some(now + STOP_RETRY_AFTER);
                    return Step::default();
                }
                *deadline = None;
                Step::note(Note::StopGaveUp)
            }
            Self::Withdrawing { .. } => {
                *self = Self::Free { since: now };
                Step::default()
            }
            Self::Free { .. }
            | Self::Held { .. }
            | Self::Suspended { .. }
            | Self::Resuming { .. }
            | Self::Proving { .. } => Step::default(),
        }
    }

    fn reconnected(&mut self, now: Instant, monitor: &Monitor) -> Step {
        match self {
            Self::Suspending { instance, attempt, deadline, .. } => {
                if monitor.run_state() != Some(RunState::Running) {
                    return Step::default();
                }
                *attempt = 1;
                *deadline = Some(now + STOP_CONFIRM_WITHIN);
                Step::stop(*instance, Note::StopRepeated { attempt: 1 })
            }
            Self::Free { .. }
            | Self::Held { .. }
            | Self::Withdrawing { .. }
            | Self::Suspended { .. }
            | Self::Resuming { .. }
            | Self::Proving { .. } => Step::default(),
        }
    }

    fn replaced(&mut self, now: Instant) -> Step {
        match self {
            Self::Free { .. } | Self::Held { .. } => Step::default(),
            Self::Suspending { .. }
            | Self::Withdrawing { .. }
            | Self::Suspended { .. }
            | Self::Resuming { .. }
            | Self::Proving { .. } => {
                *self = Self::Free { since: now };
                Step::note(Note::Forgotten)
            }
        }
    }

    fn elapsed(&mut self, now: Instant, monitor: &Monitor) -> Step {
        if self.deadline().is_none_or(|at| at > now) {
            return Step::default();
        }
        match self {
            Self::Suspending { instance, attempt, deadline, .. } => {
                if monitor.instance().is_none() {
                    // Nobody to ask: the attempt does not count.
                    *deadline = Some(now + STOP_CONFIRM_WITHIN);
                    return Step::default();
                }
                if *attempt >= STOP_ATTEMPTS_MAX {
                    *deadline = None;
                    return Step::note(Note::StopGaveUp);
                }
                *attempt += 1;
                *deadline = Some(now + STOP_CONFIRM_WITHIN);
                Step::stop(*instance, Note::StopRepeated { attempt: *attempt })
            }
            Self::Withdrawing { .. } | Self::Proving { .. } => {
                *self = Self::Free { since: now };
                Step::default()
            }
            Self::Resuming { .. } => self.cont_again(now, monitor),
            Self::Free { .. } | Self::Held { .. } | Self::Suspended { .. } => Step::default(),
        }
    }

    fn cont_again(&mut self, now: Instant, monitor: &Monitor) -> Step {
        let Self::Resuming { cause, instance, attempt, next_try, .. } = self else { return Step::default() };
        if monitor.continuable() != Some(*instance) {
            *next_try = now + backoff(*attempt);
            return Step::default();
        }
        if *attempt >= RESUME_ATTEMPTS_MAX {
            let cause = Cause { why: Why::GaveUp, ..cause.clone() };
            *self = Self::Suspended { cause, since: now, instance: *instance };
            return Step::note(Note::ResumeGaveUp);
        }
        *attempt += 1;
        *next_try = now + backoff(*attempt);
        Step::cont(*instance, Note::ContinueRepeated { attempt: *attempt })
    }

    /// When time alone moves it next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Suspending { deadline, .. } => *deadline,
            Self::Withdrawing { since, .. } => Some(*since + STOP_MAY_BE_LATE),
            Self::Resuming { next_try, .. } => Some(*next_try),
            Self::Proving { since, .. } => Some(*since + PROVE_FOR),
            Self::Free { .. } | Self::Held { .. } | Self::Suspended { .. } => None,
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
            Self::Free { .. } | Self::Held { .. } => None,
            Self::Suspending { instance, .. }
            | Self::Withdrawing { instance, .. }
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

fn backoff(attempt: u32) -> Duration {
    Duration::from_secs(1 << attempt.saturating_sub(1).min(10)).min(RESUME_BACKOFF_MAX)
}

#[cfg(test)]
mod tests;
