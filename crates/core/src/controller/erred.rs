//! A VM that stopped by itself on an error that its guest was answered: its target's own word, over every path.
//!
//! Nobody decided that it should stand still, and an error that was the storage's for a moment (a controller that fails over
//! inside its array) would leave it so for ever. It is treated as suspended: tried again as any other, and an error that stays
//! ends with the operator. Rejected: continuing whatever stands on an I/O error; it may have a disk that is not of vmpath.
//! It does not know which of its guest's requests it was.

use super::Controller;
use crate::event::{GuestError, LoadReport, RunState};
use crate::ids::{DiskId, VmId};
use crate::mutant::{self, Mutant};
use crate::policy::{Cause, Input, Why};
use crate::time::{Duration, Instant};
use crate::volume::verdict::TargetError;

/// So late it may be heard that a VM runs.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    disk: DiskId,
    error: TargetError,
    at: Instant,
}

impl Controller {
    pub(super) fn take_errors(&mut self, report: &LoadReport) {
        for GuestError { disk, error, ago } in &report.errors {
            if disk.index() >= self.spec.disks.len() {
                continue;
            }
            let (vm, at) = (self.spec.disk(*disk).vm, self.now - *ago);
            let known = &mut self.vms[vm.index()].error;
            if known.is_none_or(|known| known.at < at) {
                *known = Some(Answered { disk: *disk, error: *error, at });
                self.adopt_erred(vm);
            }
        }
    }

    /// The error may be heard of before the hypervisor's stop, or after it; and the stop when everything else that was open is
    /// answered. Whose disks stop it on errors was stopped by the first one since it has run.
    pub(super) fn adopt_erred(&mut self, vm: VmId) {
        let state = &self.vms[vm.index()];
        let monitor = &state.guest.monitor;
        if monitor.run_state() != Some(RunState::IoError) || !monitor.stops_on_error() {
            return;
        }
        let is_since = |answered: &Answered| answered.at + TOLD_WITHIN >= state.running_since;
        let Some(answered) = state.error.filter(is_since) else { return };
        if self.is_away(vm) || self.is_moving(vm) || mutant::active(Mutant::ErredForgotten) {
            return;
        }
        let disk = self.spec.disk(answered.disk);
        let (unit, error) = (self.spec.unit_name(disk.unit), words(answered.error));
        let rule = format!("it stopped by itself: {error} was answered for its disk {} ({unit})", disk.name);
        self.tell(vm, Input::Adopt(Cause { incident: None, why: Why::Erred, rule }));
    }
}

fn words(error: TargetError) -> &'static str {
    match error {
        TargetError::Io => "an I/O error (EIO)",
        TargetError::Busy => "want of resources (ENOMEM)",
        TargetError::NoSpace => "want of space (ENOSPC)",
        TargetError::Invalid => "a refusal (EINVAL)",
        TargetError::NotPermitted => "a refusal (EPERM)",
        TargetError::ShuttingDown => "the end of its service (ESHUTDOWN)",
    }
}
