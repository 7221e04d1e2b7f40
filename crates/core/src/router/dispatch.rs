//! From a queue to a connection: the scheduler names the VM, the volume clears the range, the selector takes the path.

use super::{Action, Charge, Connection, ConnectionKey, ConnectionStatus, Durability, Operation, Place, Router};
use super::{RequestKey, Sharing, Support};
use crate::ids::{UnitId, VmId};
use crate::plan::Gate;
use crate::schedule::{Cost, Phase};
use crate::select::{Candidate, Choice, Standing, Tried, rank, select};
use crate::spec::WriteCache;
use crate::time::Instant;
use crate::view::HoldReason;
use crate::volume::Clearance;

/// What came of looking at the head of one queue.
enum Step {
    Dispatched,
    /// It was parked; the next one may go.
    Parked,
    Blocked(HoldReason),
    Empty,
}

impl Router {
    /// Dispatches all that can go; returns when the earliest VM held by its limit may go on.
    pub(super) fn dispatch_all(&mut self, now: Instant) -> Option<Instant> {
        let mut top_priority = 0;
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            lane.blocked = None;
            if lane.queued + lane.in_flight > 0 {
                top_priority = top_priority.max(self.scheduler.tags(index).priority());
            }
            if matches!(self.plan.vms[index].gate, Gate::Hold(_)) {
                lane.blocked = Some(HoldReason::Gate);
            }
        }
        loop {
            let ready = (0..self.lanes.len()).filter(|i| self.lanes[*i].queued > 0 && self.lanes[*i].blocked.is_none());
            let Some((index, phase)) = self.scheduler.pick(ready, now) else { break };
            let standing = if self.scheduler.tags(index).priority() < top_priority {
                Standing::Outranked
            } else {
                Standing::Highest
            };
            self.serve_lane(VmId::at(index), phase, standing, now);
        }
        self.note_waiting(now)
    }

    /// Marks who waits for its limit and who for room, and finds the next limit's end.
    fn note_waiting(&mut self, now: Instant) -> Option<Instant> {
        let mut wake = None;
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            if lane.queued > 0 && lane.blocked.is_none() {
                lane.blocked = Some(HoldReason::Limit);
                let at = self.scheduler.tags(index).allowed_at();
                wake = Some(wake.map_or(at, |w: Instant| w.min(at)));
            }
            let starved = lane.queued > 0 && lane.blocked == Some(HoldReason::Window);
            match (starved, lane.starved_since) {
                (true, None) => lane.starved_since = Some(now),
                (false, Some(since)) => {
                    lane.counters.starved += now.since(since);
                    lane.starved_since = None;
                }
                (true, Some(_)) | (false, None) => {}
            }
        }
        wake
    }

    /// One request of the VM, from its disks in turn; marks the lane blocked if none can go.
    fn serve_lane(&mut self, vm: VmId, phase: Phase, standing: Standing, now: Instant) {
        let queues = self.lanes[vm.index()].queues.len();
        let mut blocked = None;
        for _ in 0..queues {
            let lane = &mut self.lanes[vm.index()];
            let at = lane.next_queue % queues;
            lane.next_queue = at + 1;
            loop {
                match self.serve_queue(vm, at, (phase, standing), now) {
                    Step::Dispatched => return,
                    Step::Parked => {}
                    Step::Blocked(reason) => {
                        blocked = Some(reason);
                        break;
                    }
                    Step::Empty => break,
                }
            }
        }
        // With nothing queued any more the reason is moot, but the lane must not be picked again.
        self.lanes[vm.index()].blocked = Some(blocked.unwrap_or(HoldReason::Quarantine));
    }

    fn serve_queue(&mut self, vm: VmId, queue: usize, turn: (Phase, Standing), now: Instant) -> Step {
        let Some(key) = self.lanes[vm.index()].queues[queue].1.front().copied() else {
            return Step::Empty;
        };
        if let Clearance::Wait(reason) = self.clearance(key) {
            self.pop_front(vm, queue);
            self.park(key, reason);
            return Step::Parked;
        }
        let (phase, standing) = turn;
        match self.choose(key, standing, now) {
            Ok(connection) => {
                self.pop_front(vm, queue);
                self.dispatch(key, connection, phase, now);
                Step::Dispatched
            }
            Err(reason) => Step::Blocked(reason),
        }
    }

    fn pop_front(&mut self, vm: VmId, queue: usize) {
        let lane = &mut self.lanes[vm.index()];
        lane.queues[queue].1.pop_front();
        lane.queued -= 1;
        if lane.queued == 0 {
            self.scheduler.idle(vm.index());
        }
    }

    /// The connection for a request, or why there is none now.
    fn choose(&mut self, key: RequestKey, standing: Standing, now: Instant) -> Result<ConnectionKey, HoldReason> {
        let (unit, vm, cost) = {
            let e = self.entry(key);
            (e.unit, e.vm, e.attempt().cost().device_bytes())
        };
        let mut candidates = std::mem::take(&mut self.candidates);
        self.collect_candidates(key, unit, vm, &mut candidates);
        let choice = self.settle_on_one(unit, &mut candidates).and_then(|()| {
            // The selector sees plain candidates; a small copy on the stack of the common two to eight paths.
            let plain: Vec<Candidate> = candidates.iter().map(|(_, c)| *c).collect();
            match select(&plain, cost, standing) {
                Choice::Path(at) => Ok(candidates[at].0),
                Choice::Full => {
                    for (connection, _) in &candidates {
                        let path = self.connections[connection.0 as usize].path;
                        self.paths[path.index()].saturated(now);
                    }
                    Err(HoldReason::Window)
                }
                Choice::None => Err(HoldReason::NoPath),
            }
        });
        candidates.clear();
        self.candidates = candidates;
        choice
    }

    /// One candidate for each path with an open connection to the unit: its least loaded connection.
    fn collect_candidates(
        &self,
        key: RequestKey,
        unit: UnitId,
        vm: VmId,
        into: &mut Vec<(ConnectionKey, Candidate)>,
    ) {
        let tried = &self.entry(key).tried;
        let avoid = &self.plan.spec.vm(vm).avoid_paths;
        for connection_key in &self.units[unit.index()].connections {
            let connection = &self.connections[connection_key.0 as usize];
            if connection.status != ConnectionStatus::Open || avoid.contains(&connection.path) {
                continue;
            }
            let same_path = |other: &&mut (ConnectionKey, Candidate)| {
                self.connections[other.0.0 as usize].path == connection.path
            };
            if let Some(other) = into.iter_mut().find(same_path) {
                let present: &Connection = &self.connections[other.0.0 as usize];
                if connection.in_flight_bytes < present.in_flight_bytes {
                    other.0 = *connection_key;
                }
                continue;
            }
            let load = &self.paths[connection.path.index()];
            let candidate = Candidate {
                route: self.plan.paths[connection.path.index()],
                pending: load.pending_bytes,
                window: load.window,
                rate: load.rate(),
                tried: if tried.contains(&connection.path) { Tried::Yes } else { Tried::No },
            };
            into.push((*connection_key, candidate));
        }
    }

    /// Where the export allows one connection for data at a time: keeps to it, and leaves it for a better path only
    /// when it has nothing in flight.
    fn settle_on_one(
        &mut self,
        unit: UnitId,
        candidates: &mut Vec<(ConnectionKey, Candidate)>,
    ) -> Result<(), HoldReason> {
        let alone = |(key, _): &(ConnectionKey, Candidate)| {
            self.connections[key.0 as usize].traits.sharing == Sharing::OneConnection
        };
        if !candidates.iter().any(alone) {
            return Ok(());
        }
        let best = candidates.iter().filter_map(|(_, c)| rank(c.route).map(|r| (r, c.tried))).min();
        if let Some(present) = self.units[unit.index()].data_connection {
            let connection = &self.connections[present.0 as usize];
            let here = candidates.iter().find(|(k, _)| self.connections[k.0 as usize].path == connection.path);
            let still_best = here.is_some_and(|(_, c)| rank(c.route).map(|r| (r, c.tried)) == best);
            if still_best && connection.status == ConnectionStatus::Open {
                let candidate = here.expect("checked above").1;
                *candidates = vec![(present, candidate)];
                return Ok(());
            }
            if connection.in_flight > 0 {
                return Err(HoldReason::Window);
            }
        }
        // A new home: the best ranked, least loaded one.
        let key = |(_, c): &(ConnectionKey, Candidate)| (rank(c.route).unwrap_or(u8::MAX), c.tried, c.pending);
        if let Some(chosen) = candidates.iter().min_by_key(|c| key(c)).copied() {
            self.units[unit.index()].data_connection = Some(chosen.0);
            *candidates = vec![chosen];
        }
        Ok(())
    }

    fn dispatch(&mut self, key: RequestKey, connection_key: ConnectionKey, phase: Phase, now: Instant) {
        self.attempts += 1;
        // Low bits find the entry, high bits tell this attempt from any other of the same entry.
        let cookie = self.attempts << 24 | u64::from(key);
        let entry = &mut self.requests[key as usize];
        entry.place = Place::InFlight { connection: connection_key, cookie, since: now };
        let mut attempt = entry.attempt();
        let (vm, unit) = (entry.vm, entry.unit);
        let charge = std::mem::replace(&mut entry.charge, Charge::Paid);
        let cost: Cost = attempt.cost();
        if charge == Charge::Due {
            self.scheduler.charge(vm.index(), phase, cost, now);
        }
        if attempt.operation.changes_data() {
            self.units[unit.index()].volume.dispatched(key, attempt.extent());
        }
        let connection = &mut self.connections[connection_key.0 as usize];
        connection.in_flight += 1;
        connection.in_flight_bytes += cost.device_bytes();
        self.paths[connection.path.index()].dispatched(cost.device_bytes(), now);
        self.lanes[vm.index()].in_flight += 1;
        let path_target = self.plan.spec.path(connection.path).target;
        if self.plan.spec.target(path_target).write_cache == WriteCache::Volatile
            && attempt.operation != Operation::Flush
            && attempt.operation.changes_data()
        {
            attempt.durability = Durability::Stable;
        }
        if connection.traits.fua == Support::No {
            // The flush that stands in for it follows when the write has been answered.
            attempt.durability = Durability::Volatile;
        }
        self.actions.push(Action::Dispatch { connection: connection_key, cookie, request: attempt });
    }
}
