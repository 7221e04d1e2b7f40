//! The router's rows of a [`WorkerView`].

use super::lanes::Lane;
use super::{Entry, Place, Router};
use crate::ids::{PathId, UnitId, VmId};
use crate::time::Instant;
use crate::view::{HoldReason, PathLoadView, UnitLoadView, VmLoadView, WorkerView};

impl Router {
    /// What is happening now. Disks and unit sizes are the worker's to add.
    #[must_use]
    pub fn view(&self, now: Instant) -> WorkerView {
        WorkerView {
            at: now,
            generation: self.plan.generation,
            paths: (0..self.paths.len()).map(|i| self.path_view(i)).collect(),
            vms: self.vm_views(now),
            disks: Vec::new(),
            units: (0..self.units.len()).map(|i| self.unit_view(i, now)).collect(),
        }
    }

    fn path_view(&self, index: usize) -> PathLoadView {
        let (load, state) = (&self.paths[index], &self.states[index]);
        let connections = self.connections.iter().filter(|(_, c)| c.path.index() == index).count();
        PathLoadView {
            pending_requests: state.pending_requests,
            pending_bytes: state.pending(),
            window_bytes: state.window,
            window_max: self.plan.spec.paths[index].window_max,
            connections: u32::try_from(connections).unwrap_or(u32::MAX),
            service_time: load.service_time,
            rate: load.capacity.byte_rate().unwrap_or(0),
            carried: self.carried_on(PathId::at(index)),
            completed_requests: load.completed_requests,
            completed_bytes: load.completed_bytes,
            errors: load.errors,
        }
    }

    /// By `VmId`; one pass over the requests for all.
    fn vm_views(&self, now: Instant) -> Vec<VmLoadView> {
        let mut rows: Vec<_> = self.lanes.iter().map(counted).collect();
        for (vm, row) in rows.iter_mut().enumerate() {
            let recent = self.last_report.recent(vm);
            (row.served, row.reservation_unmet) = (recent.served, recent.unmet);
        }
        self.add_entitlements(&mut rows);
        for (_, entry) in &self.requests {
            let Some(reason) = self.held_for(entry, now) else { continue };
            let row = &mut rows[entry.vm.index()];
            row.held += 1;
            let age = now.since(entry.submitted);
            row.oldest_held = Some(row.oldest_held.map_or(age, |o| o.max(age)));
            row.hold(reason, 1);
        }
        for row in &mut rows {
            row.sort_reasons();
        }
        rows
    }

    fn held_for(&self, entry: &Entry, now: Instant) -> Option<HoldReason> {
        match entry.place {
            Place::Queued => {
                let at = self.lanes[entry.vm.index()].place_of(entry.request.disk);
                Some(self.queue_reason(entry.vm, at, now))
            }
            Place::Parked { reason, .. } => Some(reason),
            Place::Unfenced { .. } => Some(HoldReason::Acknowledgement),
            Place::Delayed { .. } => Some(HoldReason::RetryLater),
            Place::InFlight { .. } => None,
        }
    }

    fn carried_on(&self, path: PathId) -> Vec<(VmId, u64)> {
        let of = |vm: VmId| (vm, self.last_report.recent(vm.index()).carried[path.index()]);
        self.plan.spec.vm_ids().map(of).filter(|(_, rate)| *rate > 0).collect()
    }

    fn unit_view(&self, index: usize, now: Instant) -> UnitLoadView {
        let volume = &self.units[index].volume;
        let ranges = volume.quarantines().map(|q| q.range.end - q.range.start);
        let (quarantined_ranges, quarantined_bytes) =
            ranges.fold((0, 0), |(n, sum): (u32, u64), bytes| (n + 1, sum.saturating_add(bytes)));
        // Of what no record tells there is no range, and it may still take effect: the unit is in use.
        let held = self.unit_held_for(UnitId::at(index), now);
        UnitLoadView {
            size: None,
            quarantined_ranges: quarantined_ranges + u32::from(held.is_some()),
            quarantined_bytes,
            quarantined_for: volume
                .last_fence()
                .filter(|until| *until < Instant::FAR_FUTURE)
                .map(|until| until.since(now))
                .max(held),
            remembered_places: self.units[index].samples.known() as u32,
        }
    }
}

/// What the lane itself counts; nothing held.
fn counted(lane: &Lane) -> VmLoadView {
    VmLoadView {
        in_flight: lane.in_flight,
        completed_requests: lane.counters.completed_requests,
        completed_bytes: lane.counters.completed_bytes,
        failed_requests: lane.counters.failed_requests,
        retried_requests: lane.counters.retried_requests,
        held_time: HoldReason::ALL
            .into_iter()
            .map(|reason| (reason, lane.counters.held[reason as usize]))
            .filter(|(_, time)| !time.is_zero())
            .collect(),
        ..VmLoadView::default()
    }
}
