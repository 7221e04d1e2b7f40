//! The router's rows of a [`WorkerView`].

use super::{Entry, Lane, Place, Router};
use crate::time::Instant;
use crate::view::{HoldReason, PathLoadView, UnitLoadView, VmLoadView, WorkerView};

impl Router {
    /// What is happening now. Disks and unit sizes are the worker's to add.
    #[must_use]
    pub fn view(&self, now: Instant) -> WorkerView {
        WorkerView {
            at: now,
            generation: self.plan.generation,
            paths: (0..self.paths.len()).map(|i| self.path_view(i, now)).collect(),
            vms: self.vm_views(now),
            disks: Vec::new(),
            units: (0..self.units.len()).map(|i| self.unit_view(i, now)).collect(),
        }
    }

    fn path_view(&self, index: usize, now: Instant) -> PathLoadView {
        let load = &self.paths[index];
        let connections = self.connections.iter().filter(|(_, c)| c.path.index() == index).count();
        PathLoadView {
            pending_requests: load.pending_requests,
            pending_bytes: load.pending_bytes,
            window_bytes: load.window,
            window_max: self.plan.spec.paths[index].window_max,
            connections: u32::try_from(connections).unwrap_or(u32::MAX),
            service_time: load.service_time,
            rate: load.rate(now),
            carried: Vec::new(),
            completed_requests: load.completed_requests,
            completed_bytes: load.completed_bytes,
            errors: load.errors,
        }
    }

    /// By `VmId`; one pass over the requests for all.
    fn vm_views(&self, now: Instant) -> Vec<VmLoadView> {
        let mut rows: Vec<_> = self.lanes.iter().map(counted).collect();
        for (_, entry) in &self.requests {
            let lane = &self.lanes[entry.vm.index()];
            let halt =
                lane.queues.iter().find(|q| q.disk == entry.request.disk).and_then(|q| q.halt.reason());
            let queued = halt.or(lane.blocked).unwrap_or(HoldReason::Window);
            let Some(reason) = held_for(entry, queued) else { continue };
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

    fn unit_view(&self, index: usize, now: Instant) -> UnitLoadView {
        let volume = &self.units[index].volume;
        let (quarantined_ranges, quarantined_bytes) = volume.quarantined();
        UnitLoadView {
            size: None,
            quarantined_ranges,
            quarantined_bytes,
            quarantined_for: volume.last_fence().map(|until| until.since(now)),
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
        ..VmLoadView::default()
    }
}

fn held_for(entry: &Entry, queued: HoldReason) -> Option<HoldReason> {
    match entry.place {
        Place::Queued => Some(queued),
        Place::Parked(reason) => Some(reason),
        Place::Delayed(_) => Some(HoldReason::RetryLater),
        Place::InFlight { .. } => None,
    }
}
