//! From the death of a connection to the fence: what waits for it, and what is told only then.
//!
//! Rule: on a disk with several writers the end of a write that may have a ghost is told after the fence, success and
//! failure alike: by either its guest learns that the write is behind it, lets other hosts write there, and the ghost
//! would come over what they wrote. Only a bounce is told at once: its guest does not hear of it, the hypervisor keeps the
//! request. Rejected: waiting with the resend too; it may go at once, so that the end is known when the fence comes.
//! It does not know how a fence is confirmed.

use super::{Client, FenceKey, Place, RequestKey, Router};
use crate::ids::{PathId, UnitId};
use crate::mutant::{self, Mutant};
use crate::plan::Gate;
use crate::spec::Writers;
use crate::time::{Duration, Instant};
use crate::view::HoldReason;
use crate::volume::verdict::TargetError;
use crate::volume::{Extent, Fence, Quarantined, Standing};

/// How connections to targets are to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseMode {
    /// What has not left the host is discarded, however the process ends (SO_LINGER 0, set before connecting).
    Discard,
    /// The kernel goes on delivering it: the system's default, and a source of ghosts.
    Linger,
}

/// Asked by whoever makes a socket to a target.
#[must_use]
pub fn close_mode() -> CloseMode {
    if mutant::active(Mutant::LingerForgotten) { CloseMode::Linger } else { CloseMode::Discard }
}

/// A range in quarantine as it travels with a suspend or a migration: clocks differ, durations do not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemainingQuarantine {
    pub range: Extent,
    pub remaining: Duration,
    pub standing: Standing,
}

impl Router {
    /// When what a connection carried is fenced by time alone, if it dies now.
    pub(super) fn fence_at(&self, path: PathId, fence: Fence, now: Instant) -> Instant {
        if mutant::active(Mutant::CloseIsFence) {
            return now;
        }
        let quiesce = self.plan.spec.target(self.plan.spec.path(path).target).quiesce;
        match fence {
            Fence::KernelCompletion => now,
            Fence::QuiesceBound => now + quiesce,
            Fence::Promised(bound) => now + bound,
            Fence::Confirmed { at_latest: Some(bound), .. } => now + bound,
            Fence::Confirmed { at_latest: None, .. } => Instant::FAR_FUTURE,
        }
    }

    /// What confirms a fence has happened: nothing of what that connection carried can take effect any more. Its
    /// quarantines end, unless they were lost with another connection too that is not fenced yet.
    ///
    /// Does nothing if the fence's time has come before.
    pub fn fenced(&mut self, fence: FenceKey, now: Instant) {
        self.now = self.now.max(now);
        self.pass_fence(fence, now);
    }

    pub(super) fn release_fences(&mut self, now: Instant) {
        while let Some(fence) = self.fences.due(now) {
            self.pass_fence(fence, now);
        }
    }

    fn pass_fence(&mut self, fence: FenceKey, now: Instant) {
        let Some((unit, writes)) = self.fences.close(fence) else { return };
        let mut is_free = false;
        for write in writes {
            is_free |= self.on_volume(unit, |volume, record| volume.fenced(write, record));
        }
        if is_free {
            self.tell_fenced(unit, now);
            self.unpark(unit, now);
        }
    }

    /// Whether a request whose end is known must keep it for itself until the fence.
    pub(super) fn is_told_later(&self, key: RequestKey, result: Result<(), TargetError>) -> bool {
        let entry = self.entry(key);
        let volume = &self.units[entry.unit.index()].volume;
        let has_ghost = || {
            // After a crash it may be the end of one that is known by its range only.
            let may_be_another =
                || entry.request.operation.changes_data() && volume.is_unsettled(&entry.request.extent());
            entry.write.is_some_and(|write| volume.is_quarantined(write))
                || (result.is_err() && may_be_another())
        };
        let bounces = || matches!(self.plan.vms[entry.vm.index()].gate, Gate::Bounce(_));
        self.plan.spec.disk(entry.request.disk).writers == Writers::Many
            && entry.client == Client::Waiting
            && has_ghost()
            && !(result.is_err() && bounces())
            && !mutant::active(Mutant::AcknowledgeEarly)
    }

    pub(super) fn tell_later(&mut self, key: RequestKey, result: Result<(), TargetError>) {
        let since = self.now;
        let entry = self.entry_mut(key);
        entry.place = Place::Unfenced { result, since };
        let (unit, write) = (entry.unit, entry.write);
        self.units[unit.index()].unfenced.push(key);
        if let Some(write) = write.filter(|_| result.is_err()) {
            self.on_volume(unit, |volume, record| volume.given_up(write, record));
        }
    }

    /// Tells the ends of those that have no ghost any more.
    pub(super) fn tell_fenced(&mut self, unit: UnitId, now: Instant) {
        let mut at = 0;
        while let Some(key) = self.units[unit.index()].unfenced.get(at).copied() {
            let Place::Unfenced { result, since } = self.entry(key).place else {
                unreachable!("{key} is not among those that wait for a fence");
            };
            if self.is_told_later(key, result) {
                at += 1;
                continue;
            }
            self.units[unit.index()].unfenced.remove(at);
            self.waited(key, HoldReason::Acknowledgement, since, now);
            self.end(key, result);
        }
    }

    /// The quarantine of a unit, as it is to be handed to whoever serves it after us: all of the unit while nothing at all goes
    /// to it. Writes in flight are not in it: first let them end, or cut their connections.
    #[must_use]
    pub fn quarantines(&self, unit: UnitId, now: Instant) -> Vec<RemainingQuarantine> {
        let all = self.units[unit.index()].volume.quarantines();
        let remaining = |q: Quarantined| RemainingQuarantine {
            remaining: q.until.since(now),
            range: q.range,
            standing: q.standing,
        };
        let whole =
            |remaining| RemainingQuarantine { remaining, range: 0..u64::MAX, standing: Standing::Ghost };
        all.map(remaining).chain(self.unit_held_for(unit, now).map(whole)).collect()
    }

    /// Takes over what [`Self::quarantines`] gave elsewhere, before anything of the unit is submitted. What is open there may be
    /// claimed by a replayed request of exactly its range.
    pub fn import_quarantine(&mut self, unit: UnitId, ranges: Vec<RemainingQuarantine>, now: Instant) {
        self.now = self.now.max(now);
        for RemainingQuarantine { range, remaining, standing } in ranges {
            self.quarantine(unit, Quarantined { range, until: now + remaining, standing });
        }
    }

    pub(super) fn quarantine(&mut self, unit: UnitId, what: Quarantined) -> FenceKey {
        let until = what.until;
        let write = self.on_volume(unit, |volume, record| volume.restore(what, record));
        self.fences.open(unit, until, vec![write])
    }
}
