//! The rules of the configuration, each as one function from facts to what it asks for.
//!
//! Invariant: what cannot be done is answered with the reason in words, never with silence.
//! It does not know when it is asked, nor what was decided before.

use crate::event::{RunState, StopsOnError};
use crate::policy::{Lack, Monitor, Outstanding};
use crate::spec::{NoPathAction, OnNoPath, OnPathLoss, Rung};
use crate::time::Duration;

/// What `on_path_loss` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLoss {
    /// Its requests fail over, and that is all.
    Stay,
    Suspend(Outstanding),
    /// Leave for another host.
    Migrate(Outstanding),
}

/// Whether a VM can leave for another host now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Migrating {
    Possible,
    /// In a moment that has an end; in words.
    Wait(String),
    Impossible(String),
}

#[must_use]
pub fn on_loss(policy: OnPathLoss) -> OnLoss {
    match policy {
        OnPathLoss::Failover => OnLoss::Stay,
        OnPathLoss::Suspend => OnLoss::Suspend(Outstanding::Held),
        OnPathLoss::FailoverSuspend => OnLoss::Suspend(Outstanding::FailOver),
        OnPathLoss::Migrate => OnLoss::Migrate(Outstanding::Held),
        OnPathLoss::FailoverMigrate => OnLoss::Migrate(Outstanding::FailOver),
    }
}

/// As it is written in the configuration.
#[must_use]
pub fn on_path_loss_word(policy: OnPathLoss) -> &'static str {
    match policy {
        OnPathLoss::Failover => "failover",
        OnPathLoss::Suspend => "suspend",
        OnPathLoss::Migrate => "migrate",
        OnPathLoss::FailoverSuspend => "failover+suspend",
        OnPathLoss::FailoverMigrate => "failover+migrate",
    }
}

pub const NO_OTHER_HOST: &str = "it cannot migrate: no other host is configured";

/// Whether a VM can be stopped now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopping {
    Possible,
    /// It does not run anyway.
    Moot,
    Impossible(String),
}

/// `requests`: whether those that are open can still be answered. If they are held, `stop` hangs in QEMU until they are
/// answered, so the VM must be one that stops on EIO, or that does not wait (vhost-user).
#[must_use]
pub fn stopping(monitor: &Monitor, requests: Outstanding) -> Stopping {
    match (monitor, requests) {
        (Monitor::Unknown, _) => {
            Stopping::Impossible("it cannot be stopped: nothing was heard of its monitor yet".into())
        }
        (Monitor::Absent { why, .. }, _) => {
            Stopping::Impossible(format!("it cannot be stopped: unmanaged, no monitor ({why})"))
        }
        (
            Monitor::Present {
                state: RunState::Paused | RunState::IoError | RunState::Sent | RunState::Other,
                ..
            },
            _,
        ) => Stopping::Moot,
        (
            Monitor::Present { state: RunState::Running, stops_on_error: StopsOnError::No, .. },
            Outstanding::Held,
        ) => Stopping::Impossible(
            "it cannot be stopped with requests open: its disks lack werror=stop,rerror=stop".into(),
        ),
        (
            Monitor::Present {
                state: RunState::Running,
                stops_on_error: StopsOnError::Yes | StopsOnError::NeedNot,
                ..
            },
            Outstanding::Held,
        )
        | (Monitor::Present { state: RunState::Running, .. }, Outstanding::FailOver) => Stopping::Possible,
    }
}

/// How far a VM has come on its ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// It has only begun.
    Start,
    /// On this rung, for so long.
    Rung(NoPathAction, Duration),
    /// Past all that ends by time; what was impossible may have become possible.
    Past,
    /// Suspended, and the bound of that is over.
    AfterSuspend,
}

/// What a VM that lacks paths is to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stand {
    /// Wait on this rung: on `hold`, on a `suspend` that cannot be done, or for its turn to move.
    Wait(NoPathAction),
    Suspend,
    Migrate,
    Fail,
    /// The rung is to stop it, and it does not run anyway.
    Moot,
    /// None; why not, in words.
    Nothing(String),
}

/// What is known of a VM that lacks paths.
#[derive(Clone, Debug)]
pub struct Plight<'a> {
    pub monitor: &'a Monitor,
    pub lack: Lack,
    /// The target says that there is no such unit: waiting is no use.
    pub gone: Gone,
    pub migrating: Migrating,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    No,
    ForGood,
}

/// The rung of `on_no_path` that is to be done now: the first that is neither over nor impossible, not above the one it is on.
/// A `suspend` that cannot be done is waited on for its bound, so that a guest sees no error before the time that the
/// configuration names; without a bound it is passed over. The text says why each rung was that was passed over.
#[must_use]
pub fn stand(policy: &OnNoPath, plight: &Plight<'_>, on: On) -> (Stand, String) {
    let mut passed = vec![];
    let stand = first_possible(policy, plight, on, &mut passed);
    let words = passed.join("; ");
    match stand {
        Some(stand) => (stand, words),
        None if words.is_empty() => (Stand::Nothing("no further rung is configured".into()), words),
        None => (Stand::Nothing(words.clone()), words),
    }
}

fn first_possible(
    policy: &OnNoPath,
    plight: &Plight<'_>,
    on: On,
    impossible: &mut Vec<String>,
) -> Option<Stand> {
    for rung in from(policy, on) {
        let (spent, waits) = match on {
            On::Rung(action, spent) if action == rung.action => (spent, plight.gone == Gone::No),
            On::Start | On::Rung(..) => (Duration::ZERO, plight.gone == Gone::No),
            On::Past | On::AfterSuspend => (Duration::ZERO, false),
        };
        let lasts = rung.bound.is_some_and(|bound| spent < bound);
        match rung.action {
            NoPathAction::Hold if waits && lasts => return Some(Stand::Wait(NoPathAction::Hold)),
            NoPathAction::Hold => {}
            NoPathAction::Suspend if rung.bound.is_some() && !lasts => {
                impossible.push("the time for which it would be suspended is over".into());
            }
            NoPathAction::Suspend => match suspending(plight) {
                Stopping::Possible => return Some(Stand::Suspend),
                Stopping::Moot => return Some(Stand::Moot),
                Stopping::Impossible(_) if waits && lasts => return Some(Stand::Wait(NoPathAction::Suspend)),
                Stopping::Impossible(why) => impossible.push(why),
            },
            NoPathAction::Migrate => match &plight.migrating {
                Migrating::Possible => return Some(Stand::Migrate),
                Migrating::Wait(_) if waits => return Some(Stand::Wait(NoPathAction::Migrate)),
                Migrating::Wait(why) | Migrating::Impossible(why) => impossible.push(why.clone()),
            },
            NoPathAction::Fail => match cannot_fail(plight, on) {
                None => return Some(Stand::Fail),
                Some(why) => impossible.push(why),
            },
        }
    }
    None
}

/// Whether the rung `suspend` can be done.
fn suspending(plight: &Plight<'_>) -> Stopping {
    match plight.lack {
        Lack::NoPath | Lack::FewPaths => stopping(plight.monitor, requests(plight.lack)),
        Lack::Short => Stopping::Impossible(
            "it is not suspended for that: only its own requests tell when the target has resources again"
                .into(),
        ),
    }
}

/// The rungs that are not behind it.
fn from(policy: &OnNoPath, on: On) -> &[Rung] {
    let place = |action| policy.rungs.iter().position(|rung| rung.action == action);
    let at = match on {
        On::Start | On::Past => 0,
        On::Rung(action, _) => place(action).unwrap_or(0),
        On::AfterSuspend => place(NoPathAction::Suspend).map_or(policy.rungs.len(), |at| at + 1),
    };
    &policy.rungs[at..]
}

/// What becomes of the requests of a VM that is suspended for this lack.
#[must_use]
pub fn requests(lack: Lack) -> Outstanding {
    match lack {
        Lack::NoPath | Lack::Short => Outstanding::Held,
        Lack::FewPaths => Outstanding::FailOver,
    }
}

fn cannot_fail(plight: &Plight<'_>, on: On) -> Option<String> {
    match (plight.lack, on) {
        (Lack::FewPaths, _) => Some("no request fails while a path is up".into()),
        // Continued for its errors, it would stop at the first: nothing but a suspend again.
        (Lack::NoPath | Lack::Short, On::AfterSuspend) if plight.monitor.stops_on_error() => Some(
            "no error can reach its guest: its disks have werror=stop,rerror=stop, which only stops it again"
                .into(),
        ),
        (Lack::NoPath | Lack::Short, On::Start | On::Rung(..) | On::Past | On::AfterSuspend) => None,
    }
}

/// What comes after a rung, as it is written in the configuration; from the beginning if it is not there.
#[must_use]
pub fn rungs_after(policy: &OnNoPath, action: NoPathAction) -> String {
    let at = policy.rungs.iter().position(|rung| rung.action == action).map_or(0, |at| at + 1);
    policy.rungs[at..].iter().map(ToString::to_string).collect::<Vec<_>>().join(", then ")
}

#[cfg(test)]
mod tests;
