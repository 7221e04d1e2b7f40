//! What a target carries, beside what is reserved on it.

use crate::ids::{PathId, TargetId, VmId};
use crate::policy::fit::Kept;

/// What a target carries now, and for whose reservations that is enough. Rates are bytes per second.
#[derive(Clone, Debug)]
pub struct CapacityView {
    pub target: TargetId,
    pub standing: CapacityStanding,
    /// Of all its paths; none if that of some is unknown.
    pub configured: Option<u64>,
    /// Of those that are up and trusted; none if that of some is unknown.
    pub left: Option<u64>,
    pub up: Vec<PathId>,
    /// Of the VMs that run and have disks there, each counted whole.
    pub reserved: u64,
    /// Those VMs, highest priority first, ties by name.
    pub parties: Vec<PartyView>,
}

/// What the capacity that is left means to reservations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapacityStanding {
    /// Every path carries its part.
    Whole,
    /// Some path is missing: whoever does not fit may be shed.
    Short,
    /// No path carries anything: `on_no_path` governs.
    CutOff,
    /// Some path is not connected yet: nobody is judged before it is.
    Connecting,
    /// The capacity of a path that is up is not configured: nobody is shed.
    Unknown,
}

impl CapacityStanding {
    /// The word in API and docs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Short => "short",
            Self::CutOff => "cut-off",
            Self::Connecting => "connecting",
            Self::Unknown => "unknown",
        }
    }
}

/// One VM's reservation and what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartyView {
    pub vm: VmId,
    pub reserved: u64,
    /// Whether it is in the keep set.
    pub kept: Kept,
    /// What the keep set leaves it of its reservation, if all who have one use it.
    pub gets: u64,
}
