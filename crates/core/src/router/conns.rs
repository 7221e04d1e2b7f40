//! Connections as the router knows them: up, closing, dead; and the sampling of a unit for an identity check.

use super::{Connection, ConnectionKey, ConnectionStatus, Extent, Fence, FenceKey, Loss, Router, Traits};
use crate::ids::{PathId, UnitId, VmId};
use crate::mutant::{self, Mutant};
use crate::spec::OnPathLoss;
use crate::time::Instant;

impl Router {
    /// A connection is established and what answers there has been checked to be the unit.
    pub fn connection_up(&mut self, path: PathId, unit: UnitId, traits: Traits) -> ConnectionKey {
        let connection = Connection {
            path,
            unit,
            traits,
            status: ConnectionStatus::Open,
            in_flight: 0,
            in_flight_bytes: 0,
        };
        let key =
            ConnectionKey(u32::try_from(self.connections.insert(connection)).expect("fewer connections"));
        self.units[unit.index()].connections.push(key);
        self.connections_changed(unit);
        key
    }

    /// No more requests on it. What it carries stays in flight until it is dead.
    ///
    /// If the link has no other that is open, VMs with `on_path_loss = "suspend"` wait from now on: see
    /// [`Self::awaits_word`].
    pub fn connection_closing(&mut self, key: ConnectionKey) {
        let connection = &mut self.connections[key.0 as usize];
        if connection.status == ConnectionStatus::Closing {
            return;
        }
        connection.status = ConnectionStatus::Closing;
        self.closing.push(key);
        let unit = &mut self.units[connection.unit.index()];
        unit.connections.retain(|k| *k != key);
        let unit = connection.unit;
        self.connections_changed(unit);
        if mutant::active(Mutant::BuriedAlive) {
            self.lose_all(key, &[], Fence::QuiesceBound, self.now);
        }
    }

    /// Queues of the unit may go elsewhere now, or must wait.
    fn connections_changed(&mut self, unit: UnitId) {
        let now = self.now;
        self.note_sharing(unit);
        self.reclass_unit(unit, now);
        for index in 0..self.units[unit.index()].disks.len() {
            let disk = self.units[unit.index()].disks[index];
            self.hold_or_free(self.plan.spec.disk(disk).vm, now);
        }
        self.classes.all_ready();
    }

    /// Its socket is closed and every submission on it reaped: only now may what it carried go elsewhere.
    /// `unsent` names the attempts of which not one byte was given to the socket, or which were never begun. Of the other
    /// writes the outcome is unknown, and their ranges are in quarantine until `fence`. What comes back names what is to be
    /// confirmed by [`Router::fenced`], if the fence is of that kind; none if nothing of the connection may come any more.
    ///
    /// A VM with `on_path_loss = "suspend"` must not be routed over an alternate: if the whole link is lost, nothing of it is
    /// dispatched until the plan that knows of the loss has said what becomes of it.
    pub fn connection_dead(
        &mut self,
        key: ConnectionKey,
        unsent: &[u64],
        loss: Loss,
        fence: Fence,
        now: Instant,
    ) -> Option<FenceKey> {
        self.now = self.now.max(now);
        self.connection_closing(key);
        let fence = self.lose_all(key, unsent, fence, now);
        if let Loss::OfLink { report } = loss {
            let unit = self.connections[key.0 as usize].unit;
            for disk in self.plan.spec.disks.iter().filter(|d| d.unit == unit) {
                if self.plan.spec.vm(disk.vm).on_path_loss == OnPathLoss::Suspend {
                    self.lanes[disk.vm.index()].awaits_plan = Some(report);
                }
            }
        }
        self.closing.retain(|k| *k != key);
        let connection = self.connections.remove(key.0 as usize);
        let unit = &mut self.units[connection.unit.index()];
        if unit.data_connection == Some(key) {
            unit.data_connection = None;
        }
        self.connections_changed(connection.unit);
        fence
    }

    /// Nothing of the VM may be dispatched: it must not fail over, and a link to one of its units is lost or about to be,
    /// and control has not said what becomes of it. About to be is what has connections, none of them open; worked out
    /// from them each time, so that it ends with the last of them or when the link connects again, and cannot be left
    /// standing.
    pub(super) fn awaits_word(&self, vm: VmId) -> bool {
        if self.lanes[vm.index()].awaits_plan.is_some() {
            return true;
        }
        if self.closing.is_empty() || self.plan.spec.vm(vm).on_path_loss != OnPathLoss::Suspend {
            return false;
        }
        let reaches = |unit: UnitId| self.plan.spec.disks.iter().any(|d| d.vm == vm && d.unit == unit);
        self.closing.iter().map(|key| &self.connections[key.0 as usize]).any(|cut| {
            let mut open = self.units[cut.unit.index()].connections.iter();
            reaches(cut.unit) && !open.any(|k| self.connections[k.0 as usize].path == cut.path)
        })
    }

    /// Requests in flight on it.
    #[must_use]
    pub fn in_flight_on(&self, key: ConnectionKey) -> u32 {
        self.connections[key.0 as usize].in_flight
    }

    /// Holds writes to the ranges of a unit while two paths are compared; returns those that can be compared.
    pub fn begin_sampling(&mut self, unit: UnitId, ranges: &[Extent]) -> Vec<Extent> {
        self.units[unit.index()].volume.begin_sampling(ranges)
    }

    /// Every write to the sampled ranges has been answered.
    #[must_use]
    pub fn sampling_is_quiet(&self, unit: UnitId) -> bool {
        self.units[unit.index()].volume.sampling_is_quiet()
    }

    /// A write to a sampled range was lost meanwhile: start again.
    #[must_use]
    pub fn sampling_is_spoilt(&self, unit: UnitId) -> bool {
        self.units[unit.index()].volume.sampling_is_spoilt()
    }

    pub fn end_sampling(&mut self, unit: UnitId, now: Instant) {
        self.units[unit.index()].volume.end_sampling();
        self.unpark(unit, now);
    }
}
