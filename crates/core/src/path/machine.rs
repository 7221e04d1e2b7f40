//! One path's state, from the first connection to failback.
//!
//! Invariant: traffic belongs to an `Active` path only; a path that failed gets it back by failback and by nothing else.
//! Rejected: "healthy" and "failed back" as two flags, whose four combinations are three states and a bug.
//! It does not know why its links are up or down, nor what the loss means to any VM.

use crate::event::Fault;
use crate::path::Damping;
use crate::plan::Health;
use crate::spec::{Failback, TargetSpec};
use crate::time::{Duration, Instant};

/// ```text
///                 up                  down
/// Connecting ──────────► Active ──────────────────► Down ◄──────────┐
///   │   ▲                  ▲                         │  ▲           │
///   │   │ enable           │ failback                │up│down       │ down
///   │   │                  │                         ▼  │= relapse  │
///   │ Disabled ◄── any   Repaired ◄───────────── Probation          │
///   │        disable       │      good for long enough              │
///   └──── down ────────────┴────────────────────────────────────────┘
///
///            drain                    leave                    empty
/// any ─────────────────► Shedding ─────────────► Finishing ───────────► Disabled
/// ```
///
/// | state      | Up        | Down(f) | Elapsed                      | Failback | Disable  | Enable     |
/// |------------|-----------|---------|------------------------------|----------|----------|------------|
/// | Connecting | Active    | Down    | -                            | -        | Disabled | -          |
/// | Active     | -         | Down    | -                            | -        | Disabled | -          |
/// | Down       | Probation | -       | -                            | -        | Disabled | -          |
/// | Probation  | -         | Down    | Repaired after `required`    | -        | Disabled | -          |
/// | Repaired   | -         | Down    | Active as the target's failback says | Active | Disabled | -    |
/// | Draining   | -         | -       | -                            | -        | Disabled | Connecting |
/// | Disabled   | -         | -       | -                            | -        | -        | Connecting |
///
/// `Drain` makes any of them but Disabled Draining; `Leave` takes it from shedding to finishing, `Emptied` to Disabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathState {
    /// Not up yet since the start or the operator's enable: what comes up now is used at once.
    Connecting { since: Instant },
    /// Carries the traffic that belongs to it.
    Active { since: Instant },
    /// All its links are down; `fault` is what broke the last of them.
    Down { since: Instant, fault: Fault },
    /// Up again, not yet trusted: used last.
    Probation { since: Instant, required: Duration },
    /// The failure is corrected; traffic is not back yet.
    Repaired { since: Instant },
    /// The operator takes it out without hurting anybody.
    Draining { since: Instant, stage: Drain },
    /// Taken out by the operator.
    Disabled { since: Instant },
}

/// How far a drain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Those who will not fit without it leave first; it is used last meanwhile.
    Shedding,
    /// It gets no new requests; those in flight finish.
    Finishing,
}

/// What a path is told. `Up` and `Down` say what its links are, not that they changed.
#[derive(Clone, Copy, Debug)]
pub enum Signal<'a> {
    /// One of its links is up.
    Up,
    /// None is, and none is still connecting.
    Down(&'a Fault),
    Elapsed,
    Failback,
    Disable,
    Enable,
    Drain,
    /// Whoever does not fit without it has left.
    Leave,
    /// None of its links is up any more.
    Emptied,
}

/// What happened to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// The first connection.
    Connected,
    Failed {
        fault: Fault,
        /// It had never been up since the start or the enable.
        before: Before,
    },
    /// Up again; it must stay good for `required`.
    Back {
        down_for: Duration,
        required: Duration,
        relapses: u32,
    },
    Repaired {
        good_for: Duration,
    },
    FailedBack,
    Disabled,
    Enabled,
    /// It is being drained.
    Draining,
    /// It gets no new requests any more.
    Leaving,
    /// Nothing of it is in flight any more.
    Drained {
        after: Duration,
    },
}

/// What a path was when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    NeverUp,
    Up,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathMachine {
    state: PathState,
    damping: Damping,
}

impl PathMachine {
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { state: PathState::Connecting { since: now }, damping: Damping::default() }
    }

    #[must_use]
    pub fn restored(state: PathState, damping: Damping) -> Self {
        Self { state, damping }
    }

    #[must_use]
    pub fn state(&self) -> &PathState {
        &self.state
    }

    #[must_use]
    pub fn damping(&self) -> &Damping {
        &self.damping
    }

    /// Applies one signal; none if it changes nothing. `rules` are the target's.
    pub fn step(&mut self, now: Instant, signal: Signal<'_>, rules: &TargetSpec) -> Option<PathChange> {
        match signal {
            Signal::Up => self.up(now, rules),
            Signal::Down(fault) => self.down(now, fault, rules),
            Signal::Elapsed => self.elapsed(now, rules),
            Signal::Failback => match self.state {
                PathState::Repaired { .. } => Some(self.fail_back(now)),
                PathState::Connecting { .. }
                | PathState::Active { .. }
                | PathState::Down { .. }
                | PathState::Probation { .. }
                | PathState::Draining { .. }
                | PathState::Disabled { .. } => None,
            },
            Signal::Drain => self.drain(now),
            Signal::Leave => self.leave(),
            Signal::Emptied => self.emptied(now),
            Signal::Disable => match self.state {
                PathState::Disabled { .. } => None,
                PathState::Connecting { .. }
                | PathState::Active { .. }
                | PathState::Down { .. }
                | PathState::Probation { .. }
                | PathState::Repaired { .. }
                | PathState::Draining { .. } => {
                    self.state = PathState::Disabled { since: now };
                    Some(PathChange::Disabled)
                }
            },
            Signal::Enable => match self.state {
                PathState::Disabled { .. } | PathState::Draining { .. } => {
                    *self = Self::new(now);
                    Some(PathChange::Enabled)
                }
                PathState::Connecting { .. }
                | PathState::Active { .. }
                | PathState::Down { .. }
                | PathState::Probation { .. }
                | PathState::Repaired { .. } => None,
            },
        }
    }

    fn drain(&mut self, now: Instant) -> Option<PathChange> {
        if matches!(self.state, PathState::Draining { .. } | PathState::Disabled { .. }) {
            return None;
        }
        self.state = PathState::Draining { since: now, stage: Drain::Shedding };
        Some(PathChange::Draining)
    }

    fn leave(&mut self) -> Option<PathChange> {
        let PathState::Draining { since, stage: Drain::Shedding } = self.state else { return None };
        self.state = PathState::Draining { since, stage: Drain::Finishing };
        Some(PathChange::Leaving)
    }

    fn emptied(&mut self, now: Instant) -> Option<PathChange> {
        let PathState::Draining { since, .. } = self.state else { return None };
        self.state = PathState::Disabled { since: now };
        Some(PathChange::Drained { after: now.since(since) })
    }

    fn up(&mut self, now: Instant, rules: &TargetSpec) -> Option<PathChange> {
        match self.state {
            PathState::Connecting { .. } => {
                self.state = PathState::Active { since: now };
                Some(PathChange::Connected)
            }
            PathState::Down { since, .. } => {
                self.damping.came_up(now);
                let required = self.damping.required(rules.repair_after);
                let relapses = self.damping.relapses(now, rules.repair_after);
                self.state = PathState::Probation { since: now, required };
                Some(PathChange::Back { down_for: now.since(since), required, relapses })
            }
            PathState::Active { .. }
            | PathState::Probation { .. }
            | PathState::Repaired { .. }
            | PathState::Draining { .. }
            | PathState::Disabled { .. } => None,
        }
    }

    fn down(&mut self, now: Instant, fault: &Fault, rules: &TargetSpec) -> Option<PathChange> {
        let before = match self.state {
            PathState::Connecting { .. } => Before::NeverUp,
            PathState::Active { .. } | PathState::Probation { .. } | PathState::Repaired { .. } => Before::Up,
            PathState::Down { .. } | PathState::Draining { .. } | PathState::Disabled { .. } => return None,
        };
        self.damping.went_down(now, rules.repair_after);
        self.state = PathState::Down { since: now, fault: fault.clone() };
        Some(PathChange::Failed { fault: fault.clone(), before })
    }

    fn elapsed(&mut self, now: Instant, rules: &TargetSpec) -> Option<PathChange> {
        match self.state {
            PathState::Probation { since, required } if now.since(since) >= required => {
                self.state = PathState::Repaired { since: now };
                Some(PathChange::Repaired { good_for: now.since(since) })
            }
            PathState::Repaired { since } => {
                let due = failback_at(since, rules.failback).is_some_and(|at| at <= now);
                due.then(|| self.fail_back(now))
            }
            PathState::Connecting { .. }
            | PathState::Active { .. }
            | PathState::Down { .. }
            | PathState::Probation { .. }
            | PathState::Draining { .. }
            | PathState::Disabled { .. } => None,
        }
    }

    fn fail_back(&mut self, now: Instant) -> PathChange {
        self.state = PathState::Active { since: now };
        PathChange::FailedBack
    }

    /// When time alone moves it next.
    #[must_use]
    pub fn deadline(&self, rules: &TargetSpec) -> Option<Instant> {
        match self.state {
            PathState::Probation { since, required } => Some(since + required),
            PathState::Repaired { since } => failback_at(since, rules.failback),
            PathState::Connecting { .. }
            | PathState::Active { .. }
            | PathState::Down { .. }
            | PathState::Draining { .. }
            | PathState::Disabled { .. } => None,
        }
    }
}

fn failback_at(repaired: Instant, failback: Failback) -> Option<Instant> {
    match failback {
        // What moves traffic off a path here is this host; from host to host it makes a difference.
        Failback::Immediate | Failback::Followover => Some(repaired),
        Failback::After(wait) => Some(repaired + wait),
        Failback::Manual => None,
    }
}

impl PathState {
    /// As the data plane ranks it.
    #[must_use]
    pub fn health(&self) -> Health {
        match self {
            Self::Active { .. } | Self::Repaired { .. } => Health::Up,
            Self::Probation { .. } | Self::Draining { stage: Drain::Shedding, .. } => Health::Marginal,
            Self::Draining { stage: Drain::Finishing, .. } => Health::Draining,
            Self::Connecting { .. } | Self::Down { .. } => Health::Down,
            Self::Disabled { .. } => Health::Disabled,
        }
    }

    /// Whether traffic belongs there.
    #[must_use]
    pub fn preferred(&self) -> bool {
        match self {
            Self::Connecting { .. } | Self::Active { .. } => true,
            Self::Down { .. }
            | Self::Probation { .. }
            | Self::Repaired { .. }
            | Self::Draining { .. }
            | Self::Disabled { .. } => false,
        }
    }

    #[must_use]
    pub fn since(&self) -> Instant {
        match self {
            Self::Connecting { since }
            | Self::Active { since }
            | Self::Down { since, .. }
            | Self::Probation { since, .. }
            | Self::Repaired { since }
            | Self::Draining { since, .. }
            | Self::Disabled { since } => *since,
        }
    }
}

#[cfg(test)]
mod tests;
