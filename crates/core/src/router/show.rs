//! The router's rows of a [`WorkerView`].

use super::{Entry, Place, Router};
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
            vms: (0..self.lanes.len()).map(|i| self.vm_view(i, now)).collect(),
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
            connections: u32::try_from(connections).unwrap_or(u32::MAX),
            service_time: load.service_time,
            rate: load.rate(now),
            completed_requests: load.completed_requests,
            completed_bytes: load.completed_bytes,
            errors: load.errors,
        }
    }

    fn vm_view(&self, index: usize, now: Instant) -> VmLoadView {
        let lane = &self.lanes[index];
        let mut view = VmLoadView {
            in_flight: lane.in_flight,
            completed_requests: lane.counters.completed_requests,
            completed_bytes: lane.counters.completed_bytes,
            failed_requests: lane.counters.failed_requests,
            retried_requests: lane.counters.retried_requests,
            ..VmLoadView::default()
        };
        let queued = lane.blocked.unwrap_or(HoldReason::Window);
        for (_, entry) in self.requests.iter().filter(|(_, e)| e.vm.index() == index) {
            let Some(reason) = held_for(entry, queued) else { continue };
            view.held += 1;
            let age = now.since(entry.submitted);
            view.oldest_held = Some(view.oldest_held.map_or(age, |o| o.max(age)));
            match view.held_reasons.iter_mut().find(|(r, _)| *r == reason) {
                Some((_, count)) => *count += 1,
                None => view.held_reasons.push((reason, 1)),
            }
        }
        view.held_reasons.sort_by_key(|(reason, count)| (std::cmp::Reverse(*count), *reason));
        view
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

fn held_for(entry: &Entry, queued: HoldReason) -> Option<HoldReason> {
    match entry.place {
        Place::Queued => Some(queued),
        Place::Parked(reason) => Some(reason),
        Place::Delayed(_) => Some(HoldReason::RetryLater),
        Place::InFlight { .. } => None,
    }
}
