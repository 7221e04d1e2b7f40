//! From a queue to a connection: the scheduler names the VM, the volume clears the range, the selector takes the path.

use super::{
    Action, Charge, Connection, ConnectionKey, ConnectionStatus, Durability, Entry, Lane, Place, Router,
};
use super::{RequestKey, Sharing, Stage, Support};
use crate::ids::{PathId, UnitId, VmId};
use crate::plan::Gate;
use crate::schedule::{Cost, Phase};
use crate::select::{Candidate, Choice, Standing, Tried, has_room, rank, select};
use crate::spec::{OnPathLoss, WriteCache};
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

/// The paths that a request may take, each with the connection that it would take there. Two lists side by side: the
/// selector knows no connections.
#[derive(Debug, Default)]
pub(super) struct Shortlist {
    connections: Vec<ConnectionKey>,
    candidates: Vec<Candidate>,
}

impl Shortlist {
    fn clear(&mut self) {
        self.connections.clear();
        self.candidates.clear();
    }

    /// Leaves one candidate, by way of `connection`.
    fn keep(&mut self, at: usize, connection: ConnectionKey) {
        let candidate = self.candidates[at];
        self.clear();
        self.connections.push(connection);
        self.candidates.push(candidate);
    }
}

impl Router {
    /// Dispatches all that can go; returns when the earliest VM held by its limit may go on.
    pub(super) fn dispatch_all(&mut self, now: Instant) -> Option<Instant> {
        let top_priority = self.begin_round(now);
        self.serve_charged(top_priority, now);
        loop {
            let may_go = |lane: &Lane| lane.queued > 0 && lane.blocked.is_none();
            let ready = self.busy.iter().map(|vm| vm.index()).filter(|i| may_go(&self.lanes[*i]));
            let Some((index, phase)) = self.scheduler.pick(ready, now) else { break };
            let standing = self.standing(index, top_priority);
            self.serve_lane(VmId::at(index), phase, standing, now);
        }
        self.answer_pathless();
        self.note_waiting(now)
    }

    fn standing(&self, vm: usize, top_priority: u32) -> Standing {
        if self.scheduler.tags(vm).priority() < top_priority {
            Standing::Outranked
        } else {
            Standing::Highest
        }
    }

    /// What has been charged already (lost, refused, or half done) waits for no limit: or a failover would.
    fn serve_charged(&mut self, top_priority: u32, now: Instant) {
        for at in 0..self.busy.len() {
            let index = self.busy[at].index();
            let lane = &self.lanes[index];
            let is_over_limit = self.scheduler.tags(index).allowed_at() > now;
            if lane.queued == 0 || lane.blocked.is_some() || !is_over_limit {
                continue;
            }
            let turn = (Phase::Weight, self.standing(index, top_priority));
            for queue in 0..self.lanes[index].queues.len() {
                let is_charged = |router: &Self| {
                    let front = router.lanes[index].queues[queue].front();
                    front.is_some_and(|key| router.entry(*key).charge == Charge::Paid)
                };
                while is_charged(self) {
                    match self.serve_queue(VmId::at(index), queue, turn, now) {
                        Step::Dispatched | Step::Parked => {}
                        Step::Blocked(_) | Step::Empty => break,
                    }
                }
            }
        }
    }

    /// Forgets the last round's findings; returns the highest priority that competes now.
    fn begin_round(&mut self, now: Instant) -> u32 {
        let mut top_priority = 0;
        for path in self.claimed.drain(..) {
            self.paths[path.index()].claimed_by = None;
        }
        for at in 0..self.busy.len() {
            let index = self.busy[at].index();
            let gate_holds = matches!(self.plan.vms[index].gate, Gate::Hold(_));
            let held = gate_holds || self.awaits_word(VmId::at(index));
            let lane = &mut self.lanes[index];
            lane.blocked = held.then_some(HoldReason::Gate);
            if lane.in_flight > 0 || (lane.queued > 0 && !held) {
                top_priority = top_priority.max(self.scheduler.tags(index).priority());
            }
            if lane.queued > 0 && !held {
                self.scheduler.backlogged(index, now);
            }
        }
        top_priority
    }

    /// Behind a gate that answers, only the second half of a write still waits; without a path it must not wait on.
    fn answer_pathless(&mut self) {
        for at in 0..self.busy.len() {
            let vm = self.busy[at];
            let lane = &self.lanes[vm.index()];
            let pathless = lane.queued > 0 && lane.blocked == Some(HoldReason::NoPath);
            if pathless && self.gate_answers(vm) {
                self.answer_waiting(vm);
            }
        }
    }

    /// Marks who waits for its limit and who for room, and finds the next limit's end.
    fn note_waiting(&mut self, now: Instant) -> Option<Instant> {
        let mut wake = None;
        for vm in &self.busy {
            let index = vm.index();
            let lane = &mut self.lanes[index];
            if lane.queued > 0 && lane.blocked.is_none() {
                lane.blocked = Some(HoldReason::Limit);
                let at = self.scheduler.tags(index).allowed_at();
                wake = Some(wake.map_or(at, |w: Instant| w.min(at)));
            }
            if let Some(HoldReason::Gate | HoldReason::NoPath) = lane.blocked {
                // What the others get meanwhile is not owed to it.
                self.scheduler.idle(index);
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
        self.busy.retain(|vm| {
            let lane = &mut self.lanes[vm.index()];
            lane.is_busy = lane.queued > 0 || lane.in_flight > 0;
            lane.is_busy
        });
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
        let Some(key) = self.lanes[vm.index()].queues[queue].front().copied() else {
            return Step::Empty;
        };
        if let Clearance::Wait(reason) = self.clearance(key) {
            self.pop_front(vm, queue);
            self.park(key, reason);
            return Step::Parked;
        }
        match self.choose(key, turn, now) {
            Ok(connection) => {
                self.pop_front(vm, queue);
                self.dispatch(key, connection, turn, now);
                Step::Dispatched
            }
            Err(reason) => Step::Blocked(reason),
        }
    }

    fn pop_front(&mut self, vm: VmId, queue: usize) {
        self.lanes[vm.index()].queues[queue].keys.pop_front();
        self.unready(vm, 1);
    }

    /// The connection for a request, or why there is none now.
    fn choose(
        &mut self,
        key: RequestKey,
        turn: (Phase, Standing),
        now: Instant,
    ) -> Result<ConnectionKey, HoldReason> {
        let (unit, vm, cost) = {
            let e = self.entry(key);
            (e.unit, e.vm, e.attempt().cost().device_bytes())
        };
        let mut list = std::mem::take(&mut self.shortlist);
        self.collect_candidates(key, turn.0, &mut list, now);
        let choice =
            self.settle_on_one(unit, &mut list).and_then(|()| match select(&list.candidates, cost, turn.1) {
                Choice::Path(at) => Ok(list.connections[at]),
                Choice::Full => {
                    self.note_full(vm, &list, (cost, turn), now);
                    Err(HoldReason::Window)
                }
                Choice::None => Err(HoldReason::NoPath),
            });
        list.clear();
        self.shortlist = list;
        choice
    }

    /// The VM waits for room on the paths that have none. An idle standby that it may not use yet is not among them.
    fn note_full(&mut self, vm: VmId, list: &Shortlist, needs: (u64, (Phase, Standing)), now: Instant) {
        let (cost, (phase, standing)) = needs;
        let priority = self.scheduler.tags(vm.index()).priority();
        for (connection, candidate) in list.connections.iter().zip(&list.candidates) {
            if !has_room(candidate, cost, standing) {
                let path = self.connections[connection.0 as usize].path;
                let load = &mut self.paths[path.index()];
                if !has_room(candidate, cost, Standing::Highest) {
                    load.saturated(now);
                }
                if load.claimed_by.is_none() {
                    self.claimed.push(path);
                }
                load.claimed_by = load.claimed_by.max(Some((phase, priority)));
            }
        }
    }

    /// The path that a lost request of a VM with `on_path_loss = "suspend"` must be repeated on while it has connections:
    /// one dead connection is not a lost path, and if the path is lost, the request is not routed. (While it has none
    /// open and some not dead yet, the whole VM waits: [`Self::awaits_word`].)
    fn bound_to(&self, entry: &Entry) -> Option<PathId> {
        let (path, _) = entry.lost?;
        let waits = self.plan.spec.vm(entry.vm).on_path_loss == OnPathLoss::Suspend;
        let mut open = self.units[entry.unit.index()].connections.iter();
        (waits && open.any(|k| self.connections[k.0 as usize].path == path)).then_some(path)
    }

    /// One candidate for each path with an open connection to the unit: its least loaded connection.
    fn collect_candidates(&self, key: RequestKey, phase: Phase, list: &mut Shortlist, now: Instant) {
        let entry = self.entry(key);
        let avoid = &self.plan.spec.vm(entry.vm).avoid_paths;
        let priority = self.scheduler.tags(entry.vm.index()).priority();
        let bound = self.bound_to(entry);
        for connection_key in &self.units[entry.unit.index()].connections {
            let connection = &self.connections[connection_key.0 as usize];
            let path = connection.path;
            let elsewhere = bound.is_some_and(|to| to != path);
            if connection.status != ConnectionStatus::Open || avoid.contains(&path) || elsewhere {
                continue;
            }
            if let Stage::FlushAfterWrite(on) = entry.stage
                && on != *connection_key
                && self.write_cache(entry.unit) == WriteCache::Volatile
            {
                continue;
            }
            let same_path = |other: &&mut ConnectionKey| self.connections[other.0 as usize].path == path;
            if let Some(other) = list.connections.iter_mut().find(same_path) {
                let present: &Connection = &self.connections[other.0 as usize];
                let settled = self.units[entry.unit.index()].data_connection;
                let better = connection.in_flight_bytes < present.in_flight_bytes && settled != Some(*other);
                if better || settled == Some(*connection_key) {
                    *other = *connection_key;
                }
                continue;
            }
            let load = &self.paths[path.index()];
            list.connections.push(*connection_key);
            list.candidates.push(Candidate {
                route: self.plan.paths[path.index()],
                pending: load.pending_bytes,
                pending_outranked: load.outranked_bytes,
                window: if load.claimed_by >= Some((phase, priority)) { 0 } else { load.window },
                rate: load.rate(now),
                service_time: load.recent_service_time(now),
                last_dispatch: load.last_dispatch,
                tried: if entry.tried.contains(&path) { Tried::Yes } else { Tried::No },
            });
        }
    }

    /// Where the export allows one connection for data at a time: keeps to it, and leaves it for a better path only
    /// when it has nothing in flight.
    fn settle_on_one(&mut self, unit: UnitId, list: &mut Shortlist) -> Result<(), HoldReason> {
        let connection = |key: &ConnectionKey| &self.connections[key.0 as usize];
        if !list.connections.iter().any(|k| connection(k).traits.sharing == Sharing::OneConnection) {
            return Ok(());
        }
        // As the selector ranks, or a request that failed here would never get to a worse path.
        let order = |c: &Candidate| (c.tried, rank(c.route).unwrap_or(u8::MAX));
        let best = list.candidates.iter().map(order).min();
        let state = &self.units[unit.index()];
        if let Some(present) = state.data_connection {
            let here = list.connections.iter().position(|k| *k == present);
            if let Some(at) = here
                && Some(order(&list.candidates[at])) == best
                && connection(&present).status == ConnectionStatus::Open
            {
                list.keep(at, present);
                return Ok(());
            }
        }
        let carries = |k: &ConnectionKey| connection(k).in_flight > 0;
        if state.data_connection.iter().chain(&state.connections).any(carries) {
            return Err(HoldReason::Window);
        }
        // A new home: the best ranked, least loaded one.
        let cheapest = |at: &usize| (order(&list.candidates[*at]), list.candidates[*at].pending);
        if let Some(at) = (0..list.candidates.len()).min_by_key(cheapest) {
            let chosen = list.connections[at];
            self.units[unit.index()].data_connection = Some(chosen);
            list.keep(at, chosen);
        }
        Ok(())
    }

    fn dispatch(
        &mut self,
        key: RequestKey,
        connection_key: ConnectionKey,
        (phase, standing): (Phase, Standing),
        now: Instant,
    ) {
        self.attempts += 1;
        let cookie = cookie(self.attempts, key);
        let entry = &mut self.requests[key as usize];
        entry.place = Place::InFlight { connection: connection_key, cookie, since: now, standing };
        let mut attempt = entry.attempt();
        let (vm, unit) = (entry.vm, entry.unit);
        let charge = std::mem::replace(&mut entry.charge, Charge::Paid);
        let cost: Cost = attempt.cost();
        if charge == Charge::Due {
            self.scheduler.charge(vm.index(), phase, cost, now);
        }
        if attempt.operation.changes_data() {
            self.on_volume(unit, |volume, record| volume.dispatched(key, attempt.extent(), record));
        }
        let connection = &mut self.connections[connection_key.0 as usize];
        connection.in_flight += 1;
        connection.in_flight_bytes += cost.device_bytes();
        let load = &mut self.paths[connection.path.index()];
        load.last_dispatch = self.attempts;
        load.dispatched(cost.device_bytes(), standing, now);
        self.lanes[vm.index()].in_flight += 1;
        self.in_flight += 1;
        let fua = connection.traits.fua;
        if attempt.operation.changes_data() && self.write_cache(unit) == WriteCache::Volatile {
            attempt.durability = Durability::Stable;
        }
        if fua == Support::No {
            // The flush that stands in for it follows when the write has been answered.
            attempt.durability = Durability::Volatile;
        }
        self.actions.push(Action::Dispatch { connection: connection_key, cookie, request: attempt });
    }
}

/// Low bits find the entry, high bits tell this attempt from any other of the same entry. The topmost is not ours: the
/// worker marks its own requests with it.
fn cookie(attempts: u64, key: RequestKey) -> u64 {
    (attempts & ((1 << 39) - 1)) << 24 | u64::from(key)
}

#[cfg(test)]
mod tests {
    use super::cookie;

    #[test]
    fn a_cookie_leaves_the_topmost_bit_to_the_worker() {
        let last = cookie((1 << 39) - 1, 0xff_ffff);
        assert_eq!(last, u64::MAX >> 1);
        assert_eq!(cookie(1 << 39, 7), 7, "it starts again");
        assert_eq!(cookie((1 << 39) + 1, 7), 1 << 24 | 7);
    }
}
