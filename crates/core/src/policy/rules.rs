//! The rules of the configuration, each as one function from facts to what it asks for.
//!
//! Invariant: what cannot be done is answered with the reason in words, never with silence.
//! It does not know when it is asked, nor what was decided before.

use crate::event::{RunState, StopsOnError};
use crate::policy::{Monitor, Outstanding};
use crate::spec::{NoPathAction, OnNoPath, OnPathLoss};

/// What `on_path_loss` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLoss {
    /// Its requests fail over, and that is all.
    Stay,
    Suspend(Outstanding),
    /// Leave for another host.
    Migrate,
}

#[must_use]
pub fn on_loss(policy: OnPathLoss) -> OnLoss {
    match policy {
        OnPathLoss::Failover => OnLoss::Stay,
        OnPathLoss::Suspend => OnLoss::Suspend(Outstanding::Held),
        OnPathLoss::FailoverSuspend => OnLoss::Suspend(Outstanding::FailOver),
        OnPathLoss::Migrate | OnPathLoss::FailoverMigrate => OnLoss::Migrate,
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
        (Monitor::Present { state: RunState::Paused | RunState::IoError | RunState::Other, .. }, _) => {
            Stopping::Moot
        }
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

/// The rung of `on_no_path` that can be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rung {
    Suspend,
    Fail,
    /// The rung is to stop it, and it does not run anyway.
    Moot,
    /// None; why not, in words.
    Nothing(String),
}

#[must_use]
pub fn rung(policy: &OnNoPath, monitor: &Monitor) -> Rung {
    let mut impossible = vec![];
    for rung in &policy.rungs {
        match rung.action {
            NoPathAction::Hold => {}
            NoPathAction::Suspend => match stopping(monitor, Outstanding::Held) {
                Stopping::Possible => return Rung::Suspend,
                Stopping::Moot => return Rung::Moot,
                Stopping::Impossible(why) => impossible.push(why),
            },
            NoPathAction::Migrate => impossible.push(NO_OTHER_HOST.into()),
            NoPathAction::Fail => return Rung::Fail,
        }
    }
    Rung::Nothing(impossible.join("; "))
}

/// The rungs as they are written in the configuration.
#[must_use]
pub fn rungs_words(policy: &OnNoPath) -> String {
    let after = policy.rungs.iter().filter(|rung| rung.action != NoPathAction::Hold);
    after.map(ToString::to_string).collect::<Vec<_>>().join(", then ")
}
