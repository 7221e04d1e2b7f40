//! One VM as its hypervisor shows it, joined with what we have done to it.

use crate::event::{RunState, StopsOnError};
use crate::policy::Run;
use crate::time::Instant;
use crate::view::VmState;

/// What is known of a VM's hypervisor process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Monitor {
    /// Nothing heard yet.
    Unknown,
    Absent {
        why: String,
        since: Instant,
    },
    Present {
        /// Tells this process from the next.
        instance: u64,
        state: RunState,
        stops_on_error: StopsOnError,
        /// Of `state`.
        since: Instant,
    },
}

impl Monitor {
    #[must_use]
    pub fn run_state(&self) -> Option<RunState> {
        match self {
            Self::Unknown | Self::Absent { .. } => None,
            Self::Present { state, .. } => Some(*state),
        }
    }

    /// The process that can be spoken to.
    #[must_use]
    pub fn instance(&self) -> Option<u64> {
        match self {
            Self::Unknown | Self::Absent { .. } => None,
            Self::Present { instance, .. } => Some(*instance),
        }
    }

    /// EIO stops this VM instead of reaching its guest: known, not hoped.
    #[must_use]
    pub fn stops_on_error(&self) -> bool {
        match self {
            Self::Present { stops_on_error: StopsOnError::Yes, .. } => true,
            Self::Present { stops_on_error: StopsOnError::No | StopsOnError::NeedNot, .. }
            | Self::Unknown
            | Self::Absent { .. } => false,
        }
    }

    /// The process, if it stands still in a way that `cont` ends.
    #[must_use]
    pub fn continuable(&self) -> Option<u64> {
        match self {
            Self::Present { instance, state: RunState::Paused | RunState::IoError, .. } => Some(*instance),
            Self::Present { state: RunState::Running | RunState::Sent | RunState::Other, .. }
            | Self::Unknown
            | Self::Absent { .. } => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    pub monitor: Monitor,
    pub run: Run,
}

impl Guest {
    /// As an operator names it.
    #[must_use]
    pub fn state(&self) -> VmState {
        match &self.run {
            Run::Suspending { .. } => VmState::Suspending,
            Run::Suspended { .. } => VmState::Suspended,
            Run::Resuming { .. } | Run::Withdrawing { .. } => VmState::Resuming,
            Run::Free { .. } | Run::Held { .. } | Run::Proving { .. } => match &self.monitor {
                Monitor::Unknown | Monitor::Absent { .. } => VmState::Unmanaged,
                Monitor::Present { state: RunState::Running, .. } => VmState::Running,
                Monitor::Present {
                    state: RunState::Paused | RunState::IoError | RunState::Sent | RunState::Other,
                    ..
                } => VmState::StoppedByOther,
            },
        }
    }

    /// Since when it is in that state.
    #[must_use]
    pub fn since(&self) -> Instant {
        match (&self.run, &self.monitor) {
            (Run::Free { since }, Monitor::Absent { since: monitor, .. })
            | (Run::Free { since }, Monitor::Present { since: monitor, .. }) => (*since).max(*monitor),
            _ => self.run.since(),
        }
    }
}
