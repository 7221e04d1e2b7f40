//! From a queue to a connection: the scheduler names the VM, the volume clears the range, the selector takes the path.
//!
//! A round looks only at classes in which something may have changed. In each, VMs go in the scheduler's order until one
//! finds no room: those after it would take what it waits for. Room that is kept for higher priorities shortens their wait
//! when it is their turn; it is not theirs beside their turns. A path that one class waits for is claimed for it against the others.

use super::classes::{ClassAt, Reach};
use super::lanes::{Queue, cost_of};
use super::samples::change_by;
use super::{Action, Charge, ConnectionKey, ConnectionStatus, Durability, Entry, Place, Router};
use super::{RequestKey, Sharing, Stage, Support};
use crate::ids::{PathId, UnitId, VmId};
use crate::schedule::{Phase, Turn};
use crate::select::{Ask, Choice, Level, Spill, has_room, select};
use crate::spec::{OnPathLoss, WriteCache};
use crate::time::{Duration, Instant};
use crate::volume::Clearance;

/// Why it is a VM's turn, and at what level it stands.
#[derive(Clone, Copy, Debug)]
struct Right {
    phase: Phase,
    level: Level,
    /// A VM of lower priority competes.
    outranks: bool,
}

/// Who waits for a fast path is asked again after this.
const PATIENCE_STEP: Duration = Duration::from_millis(5);

/// What came of looking at the head of one queue.
enum Step {
    Dispatched,
    /// It was parked; the next one may go.
    Parked,
    Blocked(Obstacle),
    Empty,
}

/// Why a request that is cleared does not go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Obstacle {
    /// None of the paths that this very request could take is there.
    NoPath,
    /// There is no room on those that it could take; others of its class may go over others.
    OfItsOwn,
    /// There is no room on any path of its class for VMs of this level and those below.
    OfItsClass(Level),
}

impl Router {
    /// Dispatches all that can go; returns when the earliest VM held by its limit, or by its own patience, may go on.
    pub(super) fn dispatch_all(&mut self, now: Instant) -> Option<Instant> {
        let mut changed = self.scheduler.wake().is_some_and(|at| at <= now);
        for competition in &mut self.competitions {
            changed |= competition.pass(now);
        }
        if self.patience_ends.is_some_and(|at| at <= now) {
            self.patience_ends = None;
            changed = true;
        }
        if changed {
            self.classes.all_ready();
        }
        self.scheduler.advance(now);
        for path in self.claimed.drain(..) {
            self.states[path.index()].claim = None;
        }
        self.serve_retries(now);
        let classes = self.classes.begin_round();
        if classes > 0 {
            self.begin_round(classes, now);
            while let Some((class, turn)) = self.next_turn(classes, now) {
                self.serve(class, &turn, now);
            }
            self.end_round();
        }
        self.answer_pathless(now);
        self.scheduler.wake().into_iter().chain(self.patience_ends).min()
    }

    fn begin_round(&mut self, classes: usize, now: Instant) {
        for index in 0..classes {
            let class = self.classes.of(self.classes.in_round(index));
            for path in &class.paths {
                let state = &mut self.states[path.index()];
                if state.pending_requests == 0 {
                    self.paths[path.index()].refresh_idle(state, now);
                }
            }
        }
    }

    /// Of all classes with room, the VM that goes first.
    fn next_turn(&self, classes: usize, now: Instant) -> Option<(ClassAt, Turn)> {
        let mut best: Option<(ClassAt, Turn)> = None;
        for index in 0..classes {
            let at = self.classes.in_round(index);
            let class = self.classes.of(at);
            if class.reach != Reach::All {
                continue;
            }
            let Some(turn) = self.scheduler.pick(class.id, now) else { continue };
            if best.as_ref().is_none_or(|(_, other)| turn.goes_before(other)) {
                best = Some((at, turn));
            }
        }
        best
    }

    fn end_round(&mut self) {
        while let Some((vm, class)) = self.aside.pop() {
            if self.lanes[vm.index()].joined.contains(&class) {
                self.scheduler.bring_back(vm, self.classes.of(class).id);
            }
        }
        self.classes.end_round();
    }

    fn right(&self, vm: VmId, class: ClassAt, phase: Phase) -> Right {
        let target = self.classes.of(class).target;
        let outranks = self.competitions[target.index()].outranks(self.scheduler.priority(vm));
        Right { phase, level: self.level(vm, target), outranks }
    }

    /// One request of the VM, from its disks of the class in turn.
    fn serve(&mut self, class: ClassAt, turn: &Turn, now: Instant) {
        let vm = turn.vm;
        let right = self.right(vm, class, turn.phase);
        let queues = self.lanes[vm.index()].queues.len();
        let mut obstacle = Obstacle::NoPath;
        for _ in 0..queues {
            let lane = &mut self.lanes[vm.index()];
            let at = lane.next_queue % queues;
            lane.next_queue = at + 1;
            if lane.queues[at].class != Some(class) {
                continue;
            }
            loop {
                match self.serve_queue(vm, at, right, now) {
                    Step::Dispatched => return,
                    Step::Parked => {}
                    Step::Blocked(by) => {
                        obstacle = obstacle.max(by);
                        break;
                    }
                    Step::Empty => break,
                }
            }
        }
        match obstacle {
            Obstacle::OfItsClass(level) => {
                self.classes.of_mut(class).reach = Reach::Nobody(level);
            }
            Obstacle::OfItsOwn | Obstacle::NoPath => self.put_aside(vm, class),
        }
    }

    /// Nothing of the VM goes in this round, and others may.
    fn put_aside(&mut self, vm: VmId, class: ClassAt) {
        if self.lanes[vm.index()].joined.contains(&class) {
            self.scheduler.set_aside(vm, self.classes.of(class).id);
            self.aside.push((vm, class));
        }
    }

    /// A request that has been charged already waits at the head of a queue.
    pub(super) fn retries_wait(&mut self, vm: VmId, key: RequestKey) {
        if self.entry(key).charge != Charge::Due && !self.retries.contains(&vm) {
            self.retries.push(vm);
        }
    }

    /// What has been charged already (lost, refused, or half done) waits for no limit: or a failover would.
    fn serve_retries(&mut self, now: Instant) {
        let mut at = 0;
        while let Some(vm) = self.retries.get(at).copied() {
            let held = self.lanes[vm.index()].is_held;
            if !held && self.scheduler.allowed_at(vm) > now {
                for queue in 0..self.lanes[vm.index()].queues.len() {
                    let Some(class) = self.lanes[vm.index()].queues[queue].class else { continue };
                    let right = self.right(vm, class, Phase::Weight);
                    while self.has_charged(vm, queue)
                        && let Step::Dispatched | Step::Parked = self.serve_queue(vm, queue, right, now)
                    {
                    }
                }
            }
            let waits = |queue: &Queue| queue.keys.iter().any(|key| self.entry(*key).charge != Charge::Due);
            if self.lanes[vm.index()].queues.iter().any(waits) {
                at += 1;
            } else {
                self.retries.swap_remove(at);
            }
        }
    }

    fn has_charged(&self, vm: VmId, queue: usize) -> bool {
        let front = self.lanes[vm.index()].queues[queue].front();
        front.is_some_and(|key| self.entry(*key).charge != Charge::Due)
    }

    /// Behind a gate that answers, only the second half of a write still waits; without a path it must not wait on.
    fn answer_pathless(&mut self, now: Instant) {
        for index in 0..self.answering.len() {
            let vm = self.answering[index];
            let lane = &self.lanes[vm.index()];
            let pathless = |q: &Queue| {
                q.front().is_some_and(|key| q.class.is_none_or(|class| !self.has_connection(*key, class)))
            };
            let waits = |q: &&Queue| q.front().is_some() && self.gate_answers(vm, q.unit);
            let mut waiting = lane.queues.iter().filter(waits).peekable();
            if lane.queued > 0 && waiting.peek().is_some() && waiting.all(pathless) {
                self.answer_waiting(vm, now);
            }
        }
    }

    /// Whether any connection could take the request, room or not.
    fn has_connection(&self, key: RequestKey, class: ClassAt) -> bool {
        let entry = self.entry(key);
        let bound = self.bound_to(entry);
        self.units[entry.unit.index()].connections.iter().any(|k| {
            let path = self.connections[k.0 as usize].path;
            let is_usable = self.classes.of(class).paths.contains(&path);
            is_usable && bound.is_none_or(|to| to == path) && self.may_take(entry, *k)
        })
    }

    fn serve_queue(&mut self, vm: VmId, queue: usize, right: Right, now: Instant) -> Step {
        let lane = &self.lanes[vm.index()];
        let Some(key) = lane.queues[queue].front().copied() else { return Step::Empty };
        let Some(class) = lane.queues[queue].class else { return Step::Blocked(Obstacle::NoPath) };
        if let Clearance::Wait(reason) = self.clearance(key) {
            self.pop_front(vm, queue, now);
            self.park(key, reason, now);
            return Step::Parked;
        }
        match self.choose(key, class, right, now) {
            Ok(connection) => {
                self.account_all(vm, now);
                // While it is in its queue: whose turn it was is part of what the scheduler learns.
                self.charge(key, class, right.phase, now);
                self.pop_front(vm, queue, now);
                self.dispatch(key, connection, right.level, now);
                Step::Dispatched
            }
            Err(obstacle) => Step::Blocked(obstacle),
        }
    }

    /// The connection for a request, or why there is none now.
    fn choose(
        &mut self,
        key: RequestKey,
        class: ClassAt,
        right: Right,
        now: Instant,
    ) -> Result<ConnectionKey, Obstacle> {
        let bound = self.bound(key)?;
        let entry = &self.requests[key as usize];
        let cost = cost_of(entry).device_bytes();
        let class = self.classes.of(class);
        // What is reserved is not bound by headroom: it was promised.
        let level = match right.phase {
            Phase::Reservation => Level::TOP,
            Phase::Weight => right.level,
        };
        let only = bound.map(|to| to.path);
        let is_top = right.level == Level::TOP && only.is_none();
        let patience = (is_top && right.outranks).then(|| nanos(now.since(entry.submitted)));
        let ask = Ask { cost, level, tried: &entry.tried, only, patience };
        match select(class.selector, &self.states, &class.paths, &ask) {
            Choice::Path(path) => match bound.and_then(|to| to.connection) {
                Some(connection) => Ok(connection),
                None => self.least_loaded(entry, path).ok_or(Obstacle::NoPath),
            },
            Choice::Full(full) => {
                let is_free = (bound.is_none() && entry.tried.is_empty()) || class.paths.len() == 1;
                // Those who stand lower may find room where it would not go itself.
                let takes_others = |path: &PathId| {
                    let state = &self.states[path.index()];
                    (state.spill == Spill::Allowed || patience.is_some()) && has_room(state, &ask).is_ok()
                };
                let leaves_room = full == Level::TOP && class.paths.iter().any(takes_others);
                let is_of_all = is_free && !leaves_room;
                if leaves_room && patience.is_some() {
                    // No reply may come from the path that it waits for.
                    self.patience_ends.get_or_insert(now + PATIENCE_STEP);
                }
                self.note_full(key, &Ask { cost, level, tried: &[], only, patience: None }, now);
                Err(if is_of_all { Obstacle::OfItsClass(full) } else { Obstacle::OfItsOwn })
            }
            Choice::None => Err(Obstacle::NoPath),
        }
    }

    /// The request waits for room on the paths that have none. An idle standby that it may not use yet is not among them.
    fn note_full(&mut self, key: RequestKey, ask: &Ask<'_>, now: Instant) {
        let entry = &self.requests[key as usize];
        let at = self.lanes[entry.vm.index()].place_of(entry.request.disk);
        let Some(class) = self.lanes[entry.vm.index()].queues[at].class else { return };
        for path in &self.classes.of(class).paths {
            let state = &mut self.states[path.index()];
            if ask.only.is_some_and(|only| only != *path) {
                continue;
            }
            let Err(level) = has_room(state, ask) else { continue };
            let load = &mut self.paths[path.index()];
            load.window.found_full();
            if level == Level::TOP {
                load.saturated_from(now);
            }
            if state.claim.is_none() {
                self.claimed.push(*path);
            }
            state.claim = Some(state.claim.map_or(level, |known| known.min(level)));
        }
    }

    /// Of the connections that lead over a path, the least loaded that may take the request.
    fn least_loaded(&self, entry: &Entry, path: PathId) -> Option<ConnectionKey> {
        let connections = &self.units[entry.unit.index()].connections;
        let on_path = connections.iter().copied().filter(|k| self.connections[k.0 as usize].path == path);
        on_path
            .filter(|k| self.connections[k.0 as usize].status == ConnectionStatus::Open)
            .min_by_key(|k| self.connections[k.0 as usize].in_flight_bytes)
    }

    /// Whether rules of the request itself let it go over a connection.
    fn may_take(&self, entry: &Entry, key: ConnectionKey) -> bool {
        let connection = &self.connections[key.0 as usize];
        if connection.status != ConnectionStatus::Open
            || self.plan.spec.vm(entry.vm).avoid_paths.contains(&connection.path)
        {
            return false;
        }
        match entry.stage {
            Stage::FlushAfterWrite(on) => {
                on == key || self.write_cache(entry.unit) == WriteCache::SurvivesPathLoss
            }
            Stage::Whole => true,
        }
    }

    /// The one path, and perhaps the one connection, that the request may take; none if it may take any.
    ///
    /// # Errors
    /// It must wait, or there is no such connection.
    fn bound(&mut self, key: RequestKey) -> Result<Option<Bound>, Obstacle> {
        let entry = self.entry(key);
        if let Stage::FlushAfterWrite(on) = entry.stage
            && self.write_cache(entry.unit) == WriteCache::Volatile
        {
            let path = self.connections.get(on.0 as usize).map(|c| c.path).ok_or(Obstacle::NoPath)?;
            if !self.may_take(entry, on) {
                return Err(Obstacle::NoPath);
            }
            return self.go_home(entry.unit, on).map(|()| Some(Bound { path, connection: Some(on) }));
        }
        let lost = self.bound_to(entry);
        let unit = entry.unit;
        if self.units[unit.index()].is_single {
            return self.settle_on_one(key, lost).map(Some);
        }
        Ok(lost.map(|path| Bound { path, connection: None }))
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

    /// The unit's data go over this connection now, if that had to be agreed on and another one is done.
    ///
    /// # Errors
    /// Another one is not: a request that failed here went there, between a write and the flush that belongs to it.
    fn go_home(&mut self, unit: UnitId, home: ConnectionKey) -> Result<(), Obstacle> {
        let unit = &mut self.units[unit.index()];
        if !unit.is_single {
            return Ok(());
        }
        let busy = |key: &ConnectionKey| *key != home && self.connections[key.0 as usize].in_flight > 0;
        if unit.connections.iter().any(busy) {
            return Err(Obstacle::OfItsOwn);
        }
        unit.data_connection = Some(home);
        Ok(())
    }

    /// Where the export allows one connection for data at a time: keeps to it, and leaves it for a better path only
    /// when it has nothing in flight.
    fn settle_on_one(&mut self, key: RequestKey, only: Option<PathId>) -> Result<Bound, Obstacle> {
        let entry = &self.requests[key as usize];
        let unit = entry.unit;
        let connection = |key: ConnectionKey| &self.connections[key.0 as usize];
        // As the selector ranks, or a request that failed here would never get to a worse path.
        let order = |key: ConnectionKey| {
            let path = connection(key).path;
            (entry.tried.contains(&path), self.states[path.index()].rank)
        };
        let fits = |key: &ConnectionKey| {
            let path = connection(*key).path;
            self.may_take(entry, *key)
                && only.is_none_or(|only| only == path)
                && self.states[path.index()].rank.is_some()
        };
        let usable = || self.units[unit.index()].connections.iter().copied().filter(fits);
        let best = usable().map(order).min().ok_or(Obstacle::NoPath)?;
        let present = self.units[unit.index()].data_connection;
        if let Some(present) = present.filter(|p| usable().any(|k| k == *p) && order(*p) == best) {
            return Ok(Bound { path: connection(present).path, connection: Some(present) });
        }
        let carries = |k: &ConnectionKey| connection(*k).in_flight > 0;
        if present.iter().chain(&self.units[unit.index()].connections).any(carries) {
            return Err(Obstacle::OfItsOwn);
        }
        // A new home: the best ranked, least loaded one.
        let cheapest = |k: &ConnectionKey| (order(*k), self.states[connection(*k).path.index()].pending());
        let chosen = usable().min_by_key(cheapest).ok_or(Obstacle::NoPath)?;
        let path = connection(chosen).path;
        self.units[unit.index()].data_connection = Some(chosen);
        Ok(Bound { path, connection: Some(chosen) })
    }

    /// Charges the first dispatch of a request.
    fn charge(&mut self, key: RequestKey, class: ClassAt, phase: Phase, now: Instant) {
        let entry = &self.requests[key as usize];
        if entry.charge == Charge::Due {
            let (vm, cost) = (entry.vm, cost_of(entry));
            let receipt = self.scheduler.charge(vm, self.classes.of(class).id, phase, cost, now);
            self.requests[key as usize].charge = Charge::Paid(receipt);
        }
    }

    fn dispatch(&mut self, key: RequestKey, connection_key: ConnectionKey, level: Level, now: Instant) {
        self.attempts += 1;
        let cookie = cookie(self.attempts, key);
        let connection = &mut self.connections[connection_key.0 as usize];
        let path = connection.path;
        let state = &mut self.states[path.index()];
        let entry = &mut self.requests[key as usize];
        let mut attempt = entry.attempt();
        let cost = attempt.cost();
        entry.place = Place::InFlight { connection: connection_key, cookie, since: now, level };
        connection.in_flight += 1;
        connection.in_flight_bytes += cost.device_bytes();
        let fua = connection.traits.fua;
        self.paths[path.index()].dispatched(state, now);
        let was_empty = state.pending_requests == 0;
        state.dispatched(cost.device_bytes(), level, self.attempts);
        let (vm, unit) = (entry.vm, entry.unit);
        if attempt.operation.changes_data() {
            let write = entry.write;
            let write =
                self.on_volume(unit, |volume, record| volume.dispatched(write, attempt.extent(), record));
            self.requests[key as usize].write = Some(write);
            self.note_change(unit, &attempt, change_by(attempt.operation), now);
        }
        self.lanes[vm.index()].in_flight += 1;
        self.in_flight += 1;
        if was_empty {
            // The window may have begun anew.
            self.fit_window(path);
        }
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

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Where alone a request may go.
#[derive(Clone, Copy, Debug)]
struct Bound {
    path: PathId,
    connection: Option<ConnectionKey>,
}

impl Router {
    /// Whether the export of a unit allows but one connection for data: some open connection says so.
    pub(super) fn note_sharing(&mut self, unit: UnitId) {
        let connections = &self.connections;
        let state = &mut self.units[unit.index()];
        let single = |k: &ConnectionKey| connections[k.0 as usize].traits.sharing == Sharing::OneConnection;
        state.is_single = state.connections.iter().any(single);
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
