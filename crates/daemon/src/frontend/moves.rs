//! VMs on their way to another host or from one, as far as a worker is concerned; and which units are this host's.
//!
//! It decides nothing: control says who moves, who owns, and what is given up. What leaves is in [`super::depart`], what comes
//! in [`super::arrive`].

use super::arrive::Arrival;
use super::depart::Departure;
use super::left::Left;
use crate::dataplane::{OrderReport, Worker, WorkerReport};
use vmpath_core::ids::{DiskId, UnitId, VmId};
use vmpath_core::time::Instant;

/// A worker's moves: nearly always none.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    pub(super) departures: Vec<Departure>,
    pub(super) arrivals: Vec<Arrival>,
    pub(super) left: Vec<Left>,
}

impl Worker {
    /// Among several hosts nothing is ours before control has said so.
    pub(crate) fn begin_ownership(&mut self) {
        if self.plan.spec.cluster.is_some() {
            let units = self.its_units.clone();
            self.disown(&units);
        }
    }

    pub(crate) fn own(&mut self, units: &[UnitId]) {
        for unit in units {
            self.router.own_unit(*unit, self.now);
        }
        self.come_anew(units);
        self.release_arrivals();
    }

    pub(crate) fn disown(&mut self, units: &[UnitId]) {
        for unit in units {
            self.router.disown_unit(*unit, self.now);
        }
    }

    /// What is due of orders that take their time. True if something has changed for the router.
    pub(crate) fn advance_moves(&mut self) -> bool {
        self.conclude_probes();
        let any = !self.moves.departures.is_empty() || !self.moves.arrivals.is_empty();
        if !any {
            return false;
        }
        let mut changed = self.advance_departures();
        while self.advance_arrivals() {
            changed = true;
        }
        changed
    }

    /// When to look again at the latest.
    pub(crate) fn moves_until(&self) -> Instant {
        let departures = self.moves.departures.iter().map(|departure| departure.until(self.now));
        departures.chain(std::iter::once(self.probes_until())).min().unwrap_or(Instant::FAR_FUTURE)
    }

    pub(super) fn tell_order(&self, report: OrderReport) {
        let _ = self.reports.send(WorkerReport::Order(report));
    }

    pub(super) fn disks_of(&self, vm: VmId) -> Vec<DiskId> {
        self.plan.spec.disks_of_vm(vm).collect()
    }

    /// The session of a disk's front end.
    pub(super) fn session_of(&self, disk: DiskId) -> Option<usize> {
        self.requests.guests.open_session(disk)
    }
}
