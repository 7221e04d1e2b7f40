//! The transitions of [`Run`], as its table says: one function for each input.

use super::{
    Input, LateStop, Note, RESUME_ATTEMPTS_MAX, RESUME_BACKOFF_MAX, Run, STOP_ATTEMPTS_MAX,
    STOP_CONFIRM_WITHIN, STOP_MAY_BE_LATE, STOP_RETRY_AFTER, STOP_SLOWLY_AFTER, STOP_SLOWLY_MAX, Step,
    StopOrder, StopStage,
};
use crate::event::RunState;
use crate::policy::{Cause, Monitor, Why};
use crate::time::{Duration, Instant};

impl Run {
    /// Applies one input. `monitor` is as it is after the report that the input stands for.
    pub fn step(&mut self, now: Instant, monitor: &Monitor, input: Input) -> Step {
        match input {
            Input::Suspend(cause) => self.suspend(now, monitor, cause),
            Input::Retain(cause) => self.retain(cause),
            Input::Hold(cause) => self.hold(now, cause),
            Input::Adopt(cause) => self.adopt(now, monitor, cause),
            Input::Release => self.release(now, monitor),
            Input::Revoke => self.revoke(now),
            Input::LateCont => self.late_cont(now),
            Input::Report(RunState::Running) => self.running(now),
            Input::Report(RunState::Paused) => self.paused(now, monitor),
            Input::Report(RunState::IoError) => self.io_error(now, monitor),
            Input::Report(RunState::Sent | RunState::Other) => self.not_ours(now),
            Input::Refused => self.refused(now),
            Input::Reconnected => self.reconnected(now, monitor),
            Input::Replaced => self.replaced(now),
            Input::Elapsed => self.elapsed(now, monitor),
        }
    }

    fn hold(&mut self, now: Instant, cause: Cause) -> Step {
        let late = match self {
            Self::Free { .. } | Self::Proving { .. } => None,
            Self::Withdrawing { late, .. } => Some(*late),
            Self::Held { .. } | Self::Suspending { .. } | Self::Suspended { .. } | Self::Resuming { .. } => {
                return Step::default();
            }
        };
        *self = Self::Held { cause, since: now, late };
        Step::note(Note::Held)
    }

    fn suspend(&mut self, now: Instant, monitor: &Monitor, cause: Cause) -> Step {
        let Some(instance) = monitor.instance() else { return Step::default() };
        match self {
            Self::Free { .. } | Self::Held { .. } | Self::Withdrawing { .. } | Self::Proving { .. } => {
                let deadline = now + STOP_CONFIRM_WITHIN;
                *self = Self::Suspending { cause, since: now, instance, attempt: 1, deadline };
                Step::stop(instance, Note::Suspending)
            }
            Self::Suspending { .. } | Self::Suspended { .. } | Self::Resuming { .. } => Step::default(),
        }
    }

    fn retain(&mut self, other: Cause) -> Step {
        match self {
            Self::Suspending { cause, .. } => {
                *cause = other;
                Step::note(Note::Retained(StopStage::Asked))
            }
            Self::Suspended { cause, .. } => {
                *cause = other;
                Step::note(Note::Retained(StopStage::Confirmed))
            }
            Self::Free { .. }
            | Self::Held { .. }
            | Self::Withdrawing { .. }
            | Self::Resuming { .. }
            | Self::Proving { .. } => Step::default(),
        }
    }

    fn adopt(&mut self, now: Instant, monitor: &Monitor, cause: Cause) -> Step {
        let Some(instance) = monitor.continuable() else { return Step::default() };
        match self {
            Self::Free { .. } | Self::Held { .. } | Self::Proving { .. } => {
                *self = Self::Suspended { cause, since: now, instance, stop: StopOrder::Confirmed };
                Step::note(Note::Suspended { after: Duration::ZERO })
            }
            // The `stop` from before may still come.
            Self::Withdrawing { .. } => {
                *self = Self::Suspended { cause, since: now, instance, stop: StopOrder::Sent { at: now } };
                Step::note(Note::Suspended { after: Duration::ZERO })
            }
            Self::Suspending { .. } | Self::Suspended { .. } | Self::Resuming { .. } => Step::default(),
        }
    }

    fn release(&mut self, now: Instant, monitor: &Monitor) -> Step {
        match self {
            Self::Held { cause, since, late } => {
                let after = now.since(*since);
                *self = match late {
                    Some(late) => Self::Withdrawing { cause: cause.clone(), since: now, late: *late },
                    None => Self::Free { since: now },
                };
                Step::note(Note::Released { after })
            }
            Self::Suspending { cause, instance, .. } => {
                let late = LateStop { instance: *instance, until: now + STOP_MAY_BE_LATE };
                *self = Self::Withdrawing { cause: cause.clone(), since: now, late };
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
                let (cause, instance) = (cause.clone(), *instance);
                *self = Self::Suspended { cause, since: now, instance, stop: StopOrder::Confirmed };
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

    fn late_cont(&mut self, now: Instant) -> Step {
        match self {
            Self::Suspended { cause, instance, .. } => {
                let (cause, instance, deadline) = (cause.clone(), *instance, now + STOP_CONFIRM_WITHIN);
                *self = Self::Suspending { cause, since: now, instance, attempt: 1, deadline };
                Step::stop(instance, Note::ContinuedLate)
            }
            Self::Free { .. }
            | Self::Held { .. }
            | Self::Suspending { .. }
            | Self::Withdrawing { .. }
            | Self::Resuming { .. }
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
            Self::Suspended { stop: StopOrder::Confirmed, .. } => {
                *self = Self::Free { since: now };
                Step::note(Note::ContinuedByOther)
            }
            Self::Suspended { cause, instance, stop: StopOrder::Sent { at }, .. } => {
                let late = LateStop { instance: *instance, until: *at + STOP_MAY_BE_LATE };
                *self = Self::Withdrawing { cause: cause.clone(), since: now, late };
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
            Self::Suspended { stop, .. } => {
                *stop = StopOrder::Confirmed;
                Step::default()
            }
            Self::Suspending { .. } | Self::Withdrawing { .. } | Self::Held { .. } => {
                self.stopped(now, monitor, StopOrder::Confirmed)
            }
            Self::Free { .. } | Self::Resuming { .. } => Step::default(),
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
            Self::Suspending { .. } | Self::Withdrawing { .. } | Self::Held { .. } => {
                self.stopped(now, monitor, StopOrder::Sent { at: now })
            }
            Self::Free { .. } | Self::Suspended { .. } | Self::Resuming { .. } => Step::default(),
        }
    }

    /// Our `stop` has taken effect, or our EIO has.
    fn stopped(&mut self, now: Instant, monitor: &Monitor, stop: StopOrder) -> Step {
        match self {
            Self::Suspending { cause, since, instance, .. } => {
                let after = now.since(*since);
                let (cause, instance) = (cause.clone(), *instance);
                *self = Self::Suspended { cause, since: now, instance, stop };
                Step::note(Note::Suspended { after })
            }
            Self::Withdrawing { cause, late, .. } if monitor.continuable() == Some(late.instance) => {
                let (cause, instance) = (cause.clone(), late.instance);
                self.send_cont(now, cause, instance)
            }
            Self::Held { cause, since, late: Some(late) } => {
                let after = now.since(*since);
                *self = Self::Suspended { cause: cause.clone(), since: now, instance: late.instance, stop };
                Step::note(Note::Suspended { after })
            }
            Self::Withdrawing { .. }
            | Self::Free { .. }
            | Self::Held { late: None, .. }
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
                let is_soon = *attempt < STOP_ATTEMPTS_MAX;
                *deadline = now + if is_soon { STOP_RETRY_AFTER } else { patience(*attempt + 1) };
                Step::default()
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
                *deadline = now + STOP_CONFIRM_WITHIN;
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
            Self::Free { .. } => Step::default(),
            Self::Held { late, .. } => {
                *late = None;
                Step::default()
            }
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
            // Its requests wait though they could be routed: that has the bound of a VM that cannot be stopped.
            Self::Suspending { cause, instance, .. }
                if monitor.instance().is_none() && cause.forbids_routing() =>
            {
                let late = Some(LateStop { instance: *instance, until: now + STOP_MAY_BE_LATE });
                *self = Self::Held { cause: cause.clone(), since: now, late };
                Step::note(Note::Held)
            }
            Self::Suspending { instance, attempt, deadline, .. } => {
                if monitor.instance().is_none() {
                    // Nobody to ask: the attempt does not count.
                    *deadline = now + STOP_CONFIRM_WITHIN;
                    return Step::default();
                }
                *attempt += 1;
                let next_in = patience(*attempt);
                *deadline = now + next_in;
                let note = if *attempt == STOP_ATTEMPTS_MAX + 1 {
                    Note::StopUnanswered { next_in }
                } else {
                    Note::StopRepeated { attempt: *attempt }
                };
                Step::stop(*instance, note)
            }
            Self::Withdrawing { late, .. } | Self::Held { late: Some(late), .. }
                if monitor.instance().is_none() =>
            {
                late.until = now + STOP_MAY_BE_LATE;
                Step::default()
            }
            Self::Held { late, .. } => {
                *late = None;
                Step::default()
            }
            Self::Withdrawing { .. } | Self::Proving { .. } => {
                *self = Self::Free { since: now };
                Step::default()
            }
            Self::Resuming { .. } => self.cont_again(now, monitor),
            Self::Free { .. } | Self::Suspended { .. } => Step::default(),
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
            let (instance, stop) = (*instance, StopOrder::Confirmed);
            *self = Self::Suspended { cause, since: now, instance, stop };
            return Step::note(Note::ResumeGaveUp);
        }
        *attempt += 1;
        *next_try = now + backoff(*attempt);
        Step::cont(*instance, Note::ContinueRepeated { attempt: *attempt })
    }
}

/// How long this attempt of a `stop` is waited for before the next.
fn patience(attempt: u32) -> Duration {
    match attempt.checked_sub(STOP_ATTEMPTS_MAX + 1) {
        None => STOP_CONFIRM_WITHIN,
        Some(beyond) => (STOP_SLOWLY_AFTER * (1 << beyond.min(8))).min(STOP_SLOWLY_MAX),
    }
}

fn backoff(attempt: u32) -> Duration {
    Duration::from_secs(1 << attempt.saturating_sub(1).min(10)).min(RESUME_BACKOFF_MAX)
}
