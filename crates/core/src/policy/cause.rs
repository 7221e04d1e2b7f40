//! Why a VM is held or suspended: fixed when it is decided, so that the operator reads the numbers that decided it.

use crate::ids::{IncidentId, PathId, UnitId};
use crate::policy::Lack;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// None for what the operator asked for.
    pub incident: Option<IncidentId>,
    pub why: Why,
    /// The rule that applied, in words, with its numbers.
    pub rule: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// `on_path_loss`: these paths failed.
    PathLoss { paths: Vec<PathId>, requests: Outstanding },
    /// `on_no_path`: no path led to this unit.
    NoPath { unit: UnitId },
    /// `on_no_path`, because of `min_paths`: too few paths led to this unit.
    FewPaths { unit: UnitId },
    /// The reservations did not fit; these paths were missing.
    Shed { paths: Vec<PathId> },
    /// `vmpath vm suspend`.
    Operator,
    /// Resuming failed too often; the operator has to look.
    GaveUp,
    /// It stopped on an I/O error while vmpath was away.
    Restart,
    /// It stopped by itself on an error that its target had for it.
    Erred,
}

/// What becomes of a VM's requests while it is being suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outstanding {
    /// They are not routed, though another path may be up.
    Held,
    /// They finish over another path.
    FailOver,
}

impl Cause {
    /// The VM's requests may not be routed at all, whatever is up.
    #[must_use]
    pub fn forbids_routing(&self) -> bool {
        match self.why {
            Why::PathLoss { requests: Outstanding::Held, .. } => true,
            Why::PathLoss { requests: Outstanding::FailOver, .. }
            | Why::NoPath { .. }
            | Why::FewPaths { .. }
            | Why::Shed { .. }
            | Why::Operator
            | Why::GaveUp
            | Why::Restart
            | Why::Erred => false,
        }
    }

    /// It makes room for others on paths that are too narrow for all.
    #[must_use]
    pub fn sheds(&self) -> bool {
        match self.why {
            Why::Shed { .. } => true,
            Why::PathLoss { .. }
            | Why::NoPath { .. }
            | Why::FewPaths { .. }
            | Why::Operator
            | Why::GaveUp
            | Why::Restart
            | Why::Erred => false,
        }
    }

    /// The unit for want of paths to which `on_no_path` applied.
    #[must_use]
    pub fn lacks(&self) -> Option<(UnitId, Lack)> {
        match self.why {
            Why::NoPath { unit } => Some((unit, Lack::NoPath)),
            Why::FewPaths { unit } => Some((unit, Lack::FewPaths)),
            Why::PathLoss { .. }
            | Why::Shed { .. }
            | Why::Operator
            | Why::GaveUp
            | Why::Restart
            | Why::Erred => None,
        }
    }
}
