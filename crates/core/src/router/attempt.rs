//! The end of an attempt: answered by the target, or lost with its connection. One verdict decides what follows.

use super::{Action, Charge, Client, ConnectionKey, ConnectionStatus, Durability, End, Entry, Place, Router};
use super::{FenceKey, Operation, Request, RequestKey, Stage, Support, UnknownCookie};
use crate::ids::{PathId, UnitId};
use crate::mutant::{self, Mutant};
use crate::select::Rank;
use crate::spec::WriteCache;
use crate::spread::part_of;
use crate::time::{Duration, Instant};
use crate::volume::verdict::{Alternatives, AttemptFault, Presence, TargetError, Verdict, verdict};
use crate::volume::{Answered, Fence};

/// Pause before a request is repeated to a target that was short of resources; twice as long each time.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// Longer would be missed by the guest when the target is well again.
const BUSY_PAUSE_MAX: Duration = Duration::from_secs(1);

impl Router {
    /// The attempt in flight under a cookie, if it is on that connection.
    #[must_use]
    pub fn attempt(&self, connection: ConnectionKey, cookie: u64) -> Option<Request> {
        self.find(connection, cookie).map(|key| self.entry(key).attempt())
    }

    fn find(&self, on: ConnectionKey, named: u64) -> Option<RequestKey> {
        let key = (named & 0xff_ffff) as RequestKey;
        match self.requests.get(key as usize)?.place {
            Place::InFlight { connection, cookie, .. } if connection == on && cookie == named => Some(key),
            Place::InFlight { .. }
            | Place::Queued
            | Place::Parked { .. }
            | Place::Unfenced { .. }
            | Place::Delayed { .. } => None,
        }
    }

    /// An attempt was given up by whoever carried it, with an error that does not prove that it is over: it is judged like
    /// the target's own, but what it would have changed is in quarantine until `fence`, counted from now.
    ///
    /// # Errors
    /// As [`Self::reply`].
    pub fn given_up(
        &mut self,
        connection: ConnectionKey,
        cookie: u64,
        error: TargetError,
        fence: Fence,
        now: Instant,
    ) -> Result<(), UnknownCookie> {
        self.end_with(connection, cookie, Err(error), Some(fence), now)
    }

    /// The target has answered an attempt: it is over.
    ///
    /// # Errors
    /// [`UnknownCookie`] if no such attempt is in flight on the connection: nothing is changed.
    pub fn reply(
        &mut self,
        connection: ConnectionKey,
        cookie: u64,
        result: Result<(), TargetError>,
        now: Instant,
    ) -> Result<(), UnknownCookie> {
        self.end_with(connection, cookie, result, None, now)
    }

    fn end_with(
        &mut self,
        connection: ConnectionKey,
        cookie: u64,
        result: Result<(), TargetError>,
        fence: Option<Fence>,
        now: Instant,
    ) -> Result<(), UnknownCookie> {
        let key = self.find(connection, cookie).ok_or(UnknownCookie)?;
        self.now = self.now.max(now);
        let path = self.connections[connection.0 as usize].path;
        if let Charge::Paid(_) = self.entry(key).charge {
            self.entry_mut(key).charge = Charge::Spent;
        }
        let end = if result.is_ok() { AttemptEnd::Served } else { AttemptEnd::Refused };
        self.end_attempt(key, connection, now, end);
        let attempt = self.entry(key).attempt();
        if let Some(write) = self.entry(key).write.filter(|_| attempt.operation.changes_data()) {
            let unit = self.entry(key).unit;
            let until = fence.map_or(now, |fence| self.fence_at(path, fence, now));
            if until > now {
                self.on_volume(unit, |volume, record| volume.lost(write, until, record));
                self.fences.open(unit, until, vec![write]);
            } else {
                let answered = if result.is_ok() { Answered::Written } else { Answered::Refused };
                self.on_volume(unit, |volume, record| volume.answered(write, answered, record));
            }
            self.tell_fenced(unit, now);
            self.unpark_over(unit, &attempt.extent(), now);
        }
        match result {
            Ok(()) => self.succeeded(key, connection, now),
            Err(error) => {
                self.paths[path.index()].errors += 1;
                let tried = &mut self.entry_mut(key).tried;
                if !tried.contains(&path) {
                    tried.push(path);
                }
                if error == TargetError::Busy {
                    self.note_shortage(key, now);
                }
                self.judge(key, AttemptFault::Target(error), now);
            }
        }
        Ok(())
    }

    fn succeeded(&mut self, key: RequestKey, connection: ConnectionKey, now: Instant) {
        let (path, traits) = {
            let c = &self.connections[connection.0 as usize];
            (c.path, c.traits)
        };
        let cache = self.write_cache(self.entry(key).unit);
        self.shortage_ends(key);
        let entry = self.entry_mut(key);
        let must_be_stable = entry.request.durability == Durability::Stable || cache == WriteCache::Volatile;
        if entry.stage == Stage::Whole
            && entry.request.operation.changes_data()
            && must_be_stable
            && traits.fua == Support::No
            && traits.flush == Support::Yes
        {
            if entry.client == Client::Gone {
                self.finish(key, Err(TargetError::ShuttingDown));
            } else {
                entry.stage = Stage::FlushAfterWrite(connection);
                self.enqueue(key, End::Front, now);
            }
            return;
        }
        // A path on which it failed, where another could serve it, is what was wrong with it.
        for failed in self.requests[key as usize].tried.iter().filter(|failed| **failed != path) {
            self.paths[failed.index()].blamed();
        }
        let entry = &self.requests[key as usize];
        if let Some((from, at)) = entry.lost
            && from != path
        {
            let unit = entry.unit;
            let losses = &mut self.units[unit.index()].losses;
            if let Some(known) = losses.iter().position(|(p, _)| *p == from) {
                losses.swap_remove(known);
                self.actions.push(Action::FailedOver { unit, from, to: path, after: now.since(at) });
            }
        }
        self.finish(key, Ok(()));
    }

    /// A connection is dead: every attempt on it ends here.
    /// Those named in `unsent` leave nothing; for the others there is the fence that is returned, if any of them needs one.
    pub(super) fn lose_all(
        &mut self,
        dead: ConnectionKey,
        unsent: &[u64],
        fence: Fence,
        now: Instant,
    ) -> Option<FenceKey> {
        let on_it = |e: &Entry| matches!(e.place, Place::InFlight { connection, .. } if connection == dead);
        let mut keys: Vec<_> =
            self.requests.iter().filter(|(_, e)| on_it(e)).map(|(k, _)| k as RequestKey).collect();
        // Requeued at the front one by one: the youngest first keeps their order.
        keys.sort_by_key(|key| std::cmp::Reverse(cookie_of(self.entry(*key))));
        let (path, unit) = {
            let c = &self.connections[dead.0 as usize];
            (c.path, c.unit)
        };
        let until = self.fence_at(path, fence, now);
        let mut haunted = Vec::new();
        if !keys.is_empty() && !self.units[unit.index()].losses.iter().any(|(p, _)| *p == path) {
            self.units[unit.index()].losses.push((path, now));
        }
        // First all ranges go into quarantine, then requests are judged: none may slip between two lost ones.
        for key in &keys {
            let sent = !unsent.contains(&cookie_of(self.entry(*key)));
            self.end_attempt(*key, dead, now, AttemptEnd::Lost);
            let attempt = self.entry(*key).attempt();
            if let Some(write) = self.entry(*key).write.filter(|_| attempt.operation.changes_data()) {
                if sent && until > now {
                    self.on_volume(unit, |volume, record| volume.lost(write, until, record));
                    haunted.push(write);
                } else {
                    self.on_volume(unit, |volume, record| volume.unsent(write, record));
                }
            }
            let entry = self.entry_mut(*key);
            entry.lost.get_or_insert((path, now));
        }
        let fence = (!haunted.is_empty()).then(|| self.fences.open(unit, until, haunted));
        for key in keys {
            self.judge(key, AttemptFault::ConnectionLost, now);
        }
        self.redo_unflushed(dead, now);
        self.tell_fenced(unit, now);
        if !self.units[unit.index()].parked.is_empty() {
            self.unpark(unit, now);
        }
        fence
    }

    /// Writes that only the cache behind a dead connection may have held are due again.
    fn redo_unflushed(&mut self, dead: ConnectionKey, now: Instant) {
        if self.write_cache(self.connections[dead.0 as usize].unit) == WriteCache::SurvivesPathLoss {
            return;
        }
        let waits = |e: &Entry| {
            e.stage == Stage::FlushAfterWrite(dead)
                && !matches!(e.place, Place::InFlight { .. } | Place::Unfenced { .. })
        };
        let due: Vec<_> =
            self.requests.iter().filter(|(_, e)| waits(e)).map(|(k, _)| k as RequestKey).collect();
        for key in due {
            self.due_again(key);
            if self.gate_answers(self.entry(key).vm, self.entry(key).unit) {
                self.take_out(key, now);
                self.finish(key, Err(TargetError::Io));
            }
        }
    }

    pub(super) fn write_cache(&self, unit: UnitId) -> WriteCache {
        if mutant::active(Mutant::FlushElsewhere) {
            return WriteCache::SurvivesPathLoss;
        }
        self.plan.spec.target(self.plan.spec.unit(unit).target).write_cache
    }

    /// Takes the attempt off its connection, path and VM.
    fn end_attempt(&mut self, key: RequestKey, connection: ConnectionKey, now: Instant, end: AttemptEnd) {
        let entry = &mut self.requests[key as usize];
        let Place::InFlight { since, level, .. } = entry.place else {
            unreachable!("only an attempt in flight ends");
        };
        entry.place = Place::Queued;
        let cost = entry.attempt().cost();
        let (vm, unit) = (entry.vm, entry.unit);
        let lane = &mut self.lanes[vm.index()];
        lane.in_flight -= 1;
        self.in_flight -= 1;
        let connection = &mut self.connections[connection.0 as usize];
        connection.in_flight -= 1;
        connection.in_flight_bytes -= cost.device_bytes();
        let path = connection.path;
        let (load, state) = (&mut self.paths[path.index()], &mut self.states[path.index()]);
        load.ending(state, now);
        let pending = part_of(&self.plan, path, self.worker).whole(state.pending());
        state.ended(cost.device_bytes(), level);
        match end {
            AttemptEnd::Served => {
                lane.carried[path.index()] += cost.bytes;
                lane.counters.device_bytes += cost.device_bytes();
                load.served(state, (cost, now.since(since)), pending, now);
            }
            // Nothing was moved: or a path that fails fast would look like a fast one.
            AttemptEnd::Refused => {}
            AttemptEnd::Lost => load.forget(state, now),
        }
        self.fit_window(path);
        self.classes.ready_on(path);
        if self.units[unit.index()].is_single {
            // What waits for this connection to be empty may have to go over other paths.
            for at in 0..self.units[unit.index()].disks.len() {
                let disk = self.units[unit.index()].disks[at];
                self.look_again(self.plan.spec.disk(disk).vm);
            }
        }
        self.rest_if_idle(vm, now);
    }

    /// What becomes of a request whose attempt has failed. It is in no queue when this is called.
    fn judge(&mut self, key: RequestKey, fault: AttemptFault, now: Instant) {
        let left = Alternatives { untried_path: self.untried_path(key) };
        let (vm, unit) = (self.entry(key).vm, self.entry(key).unit);
        if self.entry(key).client == Client::Gone {
            self.finish(key, Err(TargetError::ShuttingDown));
            return;
        }
        match verdict(fault, left) {
            Verdict::Fail(error) => self.finish(key, Err(error)),
            Verdict::Retry | Verdict::RetryLater if self.gate_answers(vm, unit) => {
                self.finish(key, Err(TargetError::Io));
            }
            Verdict::RetryLater if self.gate_passes_refusals(vm, unit) => {
                self.finish(key, Err(TargetError::Io));
            }
            Verdict::RetryLater if mutant::active(Mutant::BusyFails) && self.entry(key).pauses > 1 => {
                self.finish(key, Err(TargetError::Io));
            }
            Verdict::Retry => {
                self.lanes[vm.index()].counters.retried_requests += 1;
                self.retry_whole(key, fault);
                self.enqueue(key, End::Front, now);
            }
            Verdict::RetryLater => {
                let is_left = self.fresh_path(key) == Presence::Present;
                let entry = self.entry_mut(key);
                let pause = (BUSY_PAUSE * (1 << entry.pauses.min(8))).min(BUSY_PAUSE_MAX);
                entry.pauses = entry.pauses.saturating_add(1);
                // A flush that one path refused goes to another after the pause.
                if !is_left {
                    entry.tried.clear();
                }
                entry.place = Place::Delayed { since: now, until: now + pause };
                self.delayed.push(key);
            }
        }
    }

    /// A durable write whose flush has failed goes again with it, on whatever path: a target tells of lost data once,
    /// and another flush would succeed falsely. A flush that was only lost is repeated alone, unless the cache is gone.
    fn retry_whole(&mut self, key: RequestKey, fault: AttemptFault) {
        let is_due_again = match fault {
            AttemptFault::Target(_) => true,
            AttemptFault::ConnectionLost => self.write_cache(self.entry(key).unit) == WriteCache::Volatile,
        };
        if is_due_again {
            self.due_again(key);
        }
    }

    /// The write itself must be sent again. If it was a resend, it is one again: the same bytes.
    fn due_again(&mut self, key: RequestKey) {
        let entry = self.entry_mut(key);
        entry.stage = Stage::Whole;
        let (unit, write) = (entry.unit, entry.write);
        if let Some(write) = write {
            self.on_volume(unit, |volume, record| volume.again(write, record));
        }
    }

    /// A path that the selector would take before one on which the request has failed. None for a guest's flush: a target tells
    /// of lost data once, and the same flush on another path would succeed falsely.
    fn untried_path(&self, key: RequestKey) -> Presence {
        match self.entry(key).request.operation {
            Operation::Flush => Presence::Absent,
            Operation::Read | Operation::Write | Operation::Trim | Operation::WriteZeroes(_) => {
                self.fresh_path(key)
            }
        }
    }

    /// A path on which the request has not failed, and that the selector would take.
    fn fresh_path(&self, key: RequestKey) -> Presence {
        let entry = self.entry(key);
        let avoid = &self.plan.spec.vm(entry.vm).avoid_paths;
        let usable = |path: PathId| Rank::of(self.plan.paths[path.index()]).is_some();
        let fresh = |path: PathId| !entry.tried.contains(&path) && !avoid.contains(&path) && usable(path);
        let open = self.units[entry.unit.index()].connections.iter().any(|k| {
            let c = &self.connections[k.0 as usize];
            c.status == ConnectionStatus::Open && fresh(c.path)
        });
        if open { Presence::Present } else { Presence::Absent }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AttemptEnd {
    Served,
    Refused,
    Lost,
}

fn cookie_of(entry: &Entry) -> u64 {
    match entry.place {
        Place::InFlight { cookie, .. } => cookie,
        Place::Queued | Place::Parked { .. } | Place::Unfenced { .. } | Place::Delayed { .. } => 0,
    }
}
