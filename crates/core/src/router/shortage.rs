//! Targets that answer "short of resources": since when a disk has been told nothing else.
//!
//! Invariant: a request that is refused so is never failed for it here, by count or by time; control is told how long it
//! has lasted, and says by the VM's gate when refusals reach the guest.
//! Rejected: asking only one request as a probe. Each has its own growing pause, which costs the target little.
//! It does not know what the VM's policy says.

use super::{RequestKey, Router};
use crate::event::Short;
use crate::ids::{UnitId, VmId};
use crate::plan::Gate;
use crate::time::{Duration, Instant};

/// Without a refusal for so long nothing is known any more: what waits is asked for at least each second, if it may go at all.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(5);

/// Refusals with nothing served in between.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shortage {
    since: Instant,
    latest: Instant,
}

impl Router {
    pub(super) fn note_shortage(&mut self, key: RequestKey, now: Instant) {
        let (vm, disk) = (self.entry(key).vm, self.entry(key).request.disk);
        let lane = &mut self.lanes[vm.index()];
        let at = lane.place_of(disk);
        let known = lane.queues[at].shortage.filter(|known| now.since(known.latest) < FORGOTTEN_AFTER);
        let since = known.map_or(now, |known| known.since);
        lane.queues[at].shortage = Some(Shortage { since, latest: now });
    }

    pub(super) fn shortage_ends(&mut self, key: RequestKey) {
        let (vm, disk) = (self.entry(key).vm, self.entry(key).request.disk);
        let lane = &mut self.lanes[vm.index()];
        let at = lane.place_of(disk);
        lane.queues[at].shortage = None;
    }

    /// For the controller: which disks have been refused so, and for how long.
    pub(super) fn shortages(&self, now: Instant) -> Vec<Short> {
        let of_lane = |vm: VmId| {
            let queues = self.lanes[vm.index()].queues.iter();
            queues.filter_map(move |queue| {
                let known = queue.shortage.filter(|known| now.since(known.latest) < FORGOTTEN_AFTER)?;
                Some(Short { disk: queue.disk, lasts: now.since(known.since) })
            })
        };
        self.plan.spec.vm_ids().flat_map(of_lane).collect()
    }

    /// Whether the guest is told what the unit's target refuses.
    pub(super) fn gate_passes_refusals(&self, vm: VmId, unit: UnitId) -> bool {
        match &self.plan.vms[vm.index()].gate {
            Gate::Fail(_, failing) => failing.refused.contains(&unit) && !self.is_moving(vm),
            Gate::Bounce(_) | Gate::Open | Gate::Hold(_) => false,
        }
    }
}
