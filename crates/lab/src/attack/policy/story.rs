//! One VM's story: what its hypervisor says and does, and what we have done to it, read from the journal and the orders.
//!
//! Invariant: a VM that really stands still because of us stays ours in here, whatever the controller remembers.
//! It does not know paths or rules.

use super::words::{
    Cause, is_giving_up, is_late_cont, is_path_back, is_retained, is_taken_back, suspended_by,
};
use std::collections::VecDeque;
use vmpath_core::effect::{JournalEntry, JournalKind};
use vmpath_core::event::{RunState, StopsOnError};
use vmpath_core::ids::PathId;
use vmpath_core::plan::Gate;
use vmpath_core::time::{Duration, Instant};
use vmpath_core::view::{VmState, VmView};

/// A VM without a monitor counts as running for so long after its last request.
const ACTIVE_FOR: Duration = Duration::from_secs(60);
/// What was heard may not be on disk for so long; a process that dies meanwhile has not heard it.
pub(super) const SAVED_WITHIN: Duration = Duration::from_secs(2);
/// A `stop` that nobody wants any more may take effect within this.
const LATE: Duration = Duration::from_secs(75);

/// A `cont` that was taken back may take effect within this, by a process that lives.
const CONT_LATE: Duration = Duration::from_secs(60);

/// More suspensions of one VM are never on their way to the disk at once.
const FORMER_MAX: usize = 4;

/// What we have done to its vCPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Ours {
    #[default]
    Nothing,
    /// Not routed, and it cannot be stopped.
    Held,
    Stopping,
    Stopped {
        since: Instant,
    },
    /// `stop` was sent, and is no longer wanted.
    Withdrawn {
        at: Instant,
    },
    Continuing,
    /// It runs after a `cont`, and may stop again at once.
    Proving {
        since: Instant,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Monitor {
    pub(super) instance: u64,
    pub(super) state: RunState,
    pub(super) stops: StopsOnError,
}

/// What an earlier suspension was for.
#[derive(Clone, Debug)]
struct Former {
    rule: String,
    cause: Option<Cause>,
    lost: Vec<PathId>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Story {
    pub(super) monitor: Option<Monitor>,
    /// When the monitor came, went, or said something new.
    pub(super) monitor_since: Instant,
    /// What its hypervisor really does; none until it is known.
    pub(super) truth: Option<RunState>,
    /// When it really began to run.
    runs_since: Instant,
    pub(super) ours: Ours,
    /// Of that, as far as this process of ours is concerned.
    pub(super) ours_since: Instant,
    pub(super) cause: Option<Cause>,
    /// The paths for which the suspension waits, where it is for paths.
    pub(super) lost: Vec<PathId>,
    /// The sentence that it was suspended with.
    rule: String,
    /// The suspensions before this one, the latest last: a crash may bring one of them back.
    former: VecDeque<Former>,
    /// Suspended by the operator's word.
    pub(super) operator: bool,
    /// The process that was told to stop, or stopped on our EIO.
    pub(super) stopped: Option<u64>,
    /// The process that was last heard to run, and when that was no longer so.
    running: Option<(u64, Option<Instant>)>,
    /// The process that ran when it was last heard of, before a restart of ours.
    ran: Option<u64>,
    pub(super) attempts: u32,
    /// The last `cont` was the first of its resume.
    pub(super) is_first_attempt: bool,
    pub(super) gave_up: bool,
    /// Its `cont` did not take effect in time and is no longer wanted.
    is_taken_back: bool,
    /// When that was, while it may take effect all the same.
    taken_back_at: Option<Instant>,
    /// Its resume counts against the rule of bounded flapping.
    pub(super) is_counted: bool,
    /// Since when nothing of ours concerns its vCPUs.
    pub(super) free_since: Instant,
    /// The process that was last heard of.
    process: Option<u64>,
    /// When a process that was suspended was let go, or any was replaced: its ladder begins anew with the next lack.
    pub(super) anew_since: Instant,
    pub(super) suspended_at: Instant,
    pub(super) last_io: Option<Instant>,
    /// When its guest was last answered with an error.
    erred_at: Option<Instant>,
}

impl Story {
    pub(super) fn connected(&mut self, now: Instant, monitor: Monitor) {
        let is_other = self.stopped.is_some_and(|known| known != monitor.instance);
        if is_other || self.monitor.is_some_and(|known| known.instance != monitor.instance) {
            (self.stopped, self.operator, self.free_since) = (None, false, now);
            if self.ours != Ours::Held {
                self.ours = Ours::Nothing;
            }
        }
        if self.process.replace(monitor.instance).is_some_and(|known| known != monitor.instance) {
            self.anew_since = now;
        }
        if self.ran.take() == Some(monitor.instance) && monitor.state == RunState::IoError {
            self.stopped = Some(monitor.instance);
        }
        if self.monitor != Some(monitor) {
            self.monitor_since = now;
        }
        self.monitor = Some(monitor);
        self.stands_on_an_error();
        self.heard(now);
    }

    pub(super) fn is_really(&mut self, now: Instant, state: RunState) {
        if self.truth != Some(state) && state == RunState::Running {
            self.runs_since = now;
        }
        self.truth = Some(state);
    }

    pub(super) fn monitor_lost(&mut self, now: Instant) {
        (self.monitor, self.monitor_since) = (None, now);
        self.heard(now);
    }

    fn heard(&mut self, now: Instant) {
        match (self.monitor, &mut self.running) {
            (Some(monitor), running) if monitor.state == RunState::Running => {
                *running = Some((monitor.instance, None));
            }
            (Some(_) | None, Some((_, until))) => *until = until.or(Some(now)),
            (Some(_) | None, None) => {}
        }
    }

    pub(super) fn reported(&mut self, now: Instant, state: RunState) {
        let Some(monitor) = &mut self.monitor else { return };
        if monitor.state != state {
            self.monitor_since = now;
        }
        monitor.state = state;
        self.stands_on_an_error();
        self.heard(now);
    }

    /// Its guest was answered with an error.
    pub(super) fn erred(&mut self, at: Instant) {
        self.erred_at = self.erred_at.max(Some(at));
        self.stands_on_an_error();
    }

    /// A process that was answered an error since it has run was stopped by us.
    fn stands_on_an_error(&mut self) {
        let is_near = self.erred_at.is_some_and(|at| at >= self.runs_since);
        if is_near && self.monitor.is_some_and(|monitor| monitor.state == RunState::IoError) {
            self.adopted();
        }
    }

    /// It stopped on an EIO that we answer.
    pub(super) fn adopted(&mut self) {
        self.stopped = self.monitor.map(|monitor| monitor.instance).or(self.stopped);
    }

    /// `heard`: when the process before heard something last.
    pub(super) fn restarted(&mut self, now: Instant, heard: Instant, row: &VmView) {
        let (remembered, gate) = (row.state, &row.gate);
        // That a VM without a monitor is alive is known by its requests, which the next process has to hear of itself.
        (self.monitor, self.last_io, self.taken_back_at) = (None, None, None);
        if let Some((instance, until)) = self.running.take() {
            let is_fresh = until.is_none_or(|until| heard.since(until) < SAVED_WITHIN);
            self.ran = is_fresh.then_some(instance);
        }
        self.monitor_since = now;
        let remembers = match remembered {
            VmState::Suspending | VmState::Suspended | VmState::Resuming => true,
            VmState::Running
            | VmState::StoppedByOther
            | VmState::Unmanaged
            | VmState::Migrating
            | VmState::Elsewhere => false,
        };
        // What is on disk is behind what was known: until it is decided anew, or its monitor is heard, a VM that was let go
        // meanwhile is once more what it was.
        let was_let_go = self.is_free() || self.ours == Ours::Continuing;
        if remembered == VmState::Suspended && was_let_go {
            (self.ours, self.ours_since) = (Ours::Stopped { since: now }, now);
        } else if remembered == VmState::Suspending && was_let_go {
            (self.ours, self.ours_since) = (Ours::Stopping, now);
        } else if remembered == VmState::Resuming && matches!(self.ours, Ours::Proving { .. }) {
            (self.ours, self.ours_since) = (Ours::Continuing, now);
        }
        // That a `cont` was taken back, or what suspended it again, may be lost, not that it was sent: the attempts of that resume
        // go on.
        let is_fresh = heard.since(self.ours_since) < SAVED_WITHIN;
        let is_new = heard.since(self.suspended_at) < SAVED_WITHIN;
        let is_lost = match self.ours {
            Ours::Stopped { .. } => self.is_taken_back || is_new,
            Ours::Stopping => is_new,
            Ours::Nothing | Ours::Held | Ours::Withdrawn { .. } | Ours::Continuing | Ours::Proving { .. } => {
                false
            }
        };
        if remembered == VmState::Resuming && is_lost && is_fresh {
            (self.ours, self.ours_since) = (Ours::Continuing, now);
        }
        if remembers {
            if let Some(rule) = row.because.iter().find_map(|words| suspended_by(words)) {
                self.is_of_rule(heard, rule);
                // An operator's `resume` that was not on disk has not been answered either.
                let is_his = remembered != VmState::Resuming && Cause::of(rule) == Cause::Operator;
                self.operator |= is_his;
            }
            return;
        }
        // The hold is on disk, and perhaps not the `stop` that followed: then that has not left either.
        if let (Gate::Hold(reason), false) = (gate, self.stands_still_by_us()) {
            (self.ours, self.ours_since, self.cause) = (Ours::Held, now, Some(Cause::of(&reason.text)));
            self.operator = false;
            return;
        }
        if self.stands_still_by_us() {
            // Nobody remembers it: the rule that none is forgotten goes on from here, but what it waited for is not known.
            (self.ours, self.cause) = (Ours::Stopped { since: now }, Some(Cause::Other));
            self.operator &= !is_new;
            self.lost.clear();
        } else if self.ours != Ours::Held {
            (self.ours, self.operator, self.free_since) = (Ours::Nothing, false, now);
        }
    }

    /// A `cont` was decided, and has not taken effect.
    pub(super) fn awaits_cont(&self) -> bool {
        self.ours == Ours::Continuing && self.truth != Some(RunState::Running)
    }

    /// Our `stop` or EIO has really stopped it, and no `cont` has ended that.
    fn stands_still_by_us(&self) -> bool {
        let is_still = matches!(self.truth, Some(RunState::Paused | RunState::IoError));
        let is_ours = match self.ours {
            Ours::Stopping | Ours::Stopped { .. } | Ours::Continuing => true,
            Ours::Nothing | Ours::Held | Ours::Withdrawn { .. } | Ours::Proving { .. } => false,
        };
        is_still && is_ours
    }

    pub(super) fn runs(&self, now: Instant) -> bool {
        match (self.ours, self.monitor) {
            (Ours::Stopping | Ours::Stopped { .. }, _) => false,
            (Ours::Continuing, _) => true,
            (Ours::Nothing | Ours::Held | Ours::Withdrawn { .. } | Ours::Proving { .. }, Some(monitor)) => {
                monitor.state == RunState::Running
            }
            (Ours::Nothing | Ours::Held | Ours::Withdrawn { .. } | Ours::Proving { .. }, None) => {
                self.last_io.is_some_and(|at| now.since(at) < ACTIVE_FOR)
            }
        }
    }

    /// Its gate is open: what held it is over, or was lost with a process of ours.
    pub(super) fn is_routed(&mut self, now: Instant) {
        if self.ours == Ours::Held {
            (self.ours, self.free_since) = (Ours::Nothing, now);
        }
    }

    /// Nothing of ours concerns its vCPUs, nor is about to.
    pub(super) fn is_free(&self) -> bool {
        match self.ours {
            Ours::Nothing | Ours::Withdrawn { .. } | Ours::Proving { .. } => true,
            Ours::Held | Ours::Stopping | Ours::Stopped { .. } | Ours::Continuing => false,
        }
    }

    /// Its process stands still in a way that a `cont` of ours may end.
    pub(super) fn is_continuable(&self) -> bool {
        self.monitor.is_some_and(|m| {
            self.stopped == Some(m.instance) && matches!(m.state, RunState::Paused | RunState::IoError)
        })
    }

    /// Whether this `cont` of it is the first of a resume, and not one for a `stop` that came too late.
    pub(super) fn is_first_cont(&self) -> bool {
        match self.ours {
            Ours::Stopping | Ours::Stopped { .. } => true,
            Ours::Withdrawn { .. } | Ours::Continuing | Ours::Proving { .. } | Ours::Nothing | Ours::Held => {
                false
            }
        }
    }

    /// Takes in what the journal says of it, in order. `order`: the process that this batch stops or continues.
    pub(super) fn told(&mut self, now: Instant, entry: &JournalEntry, order: Option<u64>) {
        let (before, kind) = (self.ours, entry.kind);
        if kind == JournalKind::VmHeld {
            (self.ours, self.cause) = (Ours::Held, Some(Cause::of(&entry.reason)));
            self.ours_since = now;
        } else if kind == JournalKind::VmSuspending {
            self.suspending(now, entry, order);
        } else if kind == JournalKind::VmSuspended {
            self.suspended(now, entry);
        } else if kind == JournalKind::VmResuming {
            self.resuming(now, order);
        } else if kind == JournalKind::VmResumed {
            self.resumed(now);
        } else if kind == JournalKind::VmReleased && !is_path_back(&entry.reason) {
            self.released();
        } else if kind == JournalKind::PolicyBlocked && is_giving_up(&entry.reason) {
            (self.ours, self.gave_up) = (Ours::Stopped { since: now }, true);
        }
        if before != self.ours {
            self.ours_since = now;
        }
        if before != self.ours && self.is_free() {
            self.free_since = now;
            if matches!(before, Ours::Stopping | Ours::Stopped { .. } | Ours::Continuing) {
                self.anew_since = now;
            }
        }
    }

    fn resumed(&mut self, now: Instant) {
        match self.ours {
            Ours::Continuing => self.ours = Ours::Proving { since: now },
            // Somebody else continued it.
            Ours::Nothing
            | Ours::Held
            | Ours::Stopping
            | Ours::Stopped { .. }
            | Ours::Withdrawn { .. }
            | Ours::Proving { .. } => (self.ours, self.operator) = (Ours::Withdrawn { at: now }, false),
        }
    }

    fn released(&mut self) {
        match self.ours {
            Ours::Held => self.ours = Ours::Nothing,
            Ours::Stopping | Ours::Stopped { .. } | Ours::Continuing => {
                (self.ours, self.operator) = (Ours::Nothing, false);
            }
            Ours::Nothing | Ours::Withdrawn { .. } | Ours::Proving { .. } => {}
        }
    }

    /// A `cont` that we have taken back may still be on its way to its process.
    pub(super) fn may_continue_late(&self, now: Instant) -> bool {
        self.taken_back_at.is_some_and(|at| now.since(at) < CONT_LATE)
    }

    fn suspending(&mut self, now: Instant, entry: &JournalEntry, order: Option<u64>) {
        self.stopped = order.or(self.stopped);
        self.taken_back_at = None;
        if is_late_cont(&entry.reason) {
            self.ours = Ours::Stopping;
            return;
        }
        if self.ours != Ours::Stopping || is_retained(&entry.reason) {
            self.begins(now, entry);
        }
        self.ours = Ours::Stopping;
    }

    /// Another suspension.
    fn begins(&mut self, now: Instant, entry: &JournalEntry) {
        let rule = std::mem::replace(&mut self.rule, entry.reason.clone());
        self.former.push_back(Former { rule, cause: self.cause, lost: std::mem::take(&mut self.lost) });
        if self.former.len() > FORMER_MAX {
            self.former.pop_front();
        }
        self.cause = Some(Cause::of(&entry.reason));
        (self.suspended_at, self.attempts) = (now, 0);
        (self.gave_up, self.is_counted) = (false, false);
    }

    /// A process of ours that died before this suspension was on disk has left the one before: the VM waits for what that one was
    /// for. One that had the time to save it must know it.
    fn is_of_rule(&mut self, heard: Instant, rule: &str) {
        if self.rule.ends_with(rule) || heard.since(self.suspended_at) >= SAVED_WITHIN {
            return;
        }
        if let Some(at) = self.former.iter().rposition(|former| former.rule.ends_with(rule)) {
            let Former { rule, cause, lost } = self.former[at].clone();
            // An operator's `suspend` that was not on disk has not been answered either.
            self.operator &= cause == Some(Cause::Operator);
            (self.rule, self.cause, self.lost) = (rule, cause, lost);
            self.former.truncate(at);
        }
    }

    fn suspended(&mut self, now: Instant, entry: &JournalEntry) {
        self.is_taken_back = is_taken_back(&entry.reason);
        self.taken_back_at = self.is_taken_back.then_some(now);
        let is_adopted = match self.ours {
            Ours::Nothing | Ours::Held | Ours::Withdrawn { .. } | Ours::Proving { .. } => true,
            Ours::Stopping | Ours::Stopped { .. } | Ours::Continuing => false,
        };
        if is_adopted && !self.is_taken_back || is_retained(&entry.reason) {
            self.begins(now, entry);
        }
        self.ours = Ours::Stopped { since: now };
    }

    fn resuming(&mut self, now: Instant, order: Option<u64>) {
        (self.is_taken_back, self.taken_back_at) = (false, None);
        match (order, self.ours) {
            (Some(_), _) => {
                self.attempts += 1;
                self.is_first_attempt = self.is_first_cont();
                self.ours = Ours::Continuing;
            }
            // It stopped again by itself; `cont` follows.
            (None, Ours::Proving { .. } | Ours::Continuing) => self.ours = Ours::Continuing,
            (
                None,
                Ours::Nothing | Ours::Held | Ours::Stopping | Ours::Stopped { .. } | Ours::Withdrawn { .. },
            ) => {
                (self.ours, self.operator) = (Ours::Withdrawn { at: now }, false);
            }
        }
    }

    /// What time alone ends.
    pub(super) fn elapsed(&mut self, now: Instant) {
        match self.ours {
            Ours::Withdrawn { at } if now.since(at) > LATE && self.monitor.is_some() => {
                self.ours = Ours::Nothing;
            }
            Ours::Proving { since } if now.since(since) > Duration::from_secs(5) => self.ours = Ours::Nothing,
            Ours::Nothing
            | Ours::Held
            | Ours::Stopping
            | Ours::Stopped { .. }
            | Ours::Withdrawn { .. }
            | Ours::Continuing
            | Ours::Proving { .. } => {}
        }
    }
}
