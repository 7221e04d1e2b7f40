//! Connections and the paths below them: what leaves the host, what a target does with it, and what comes back.
//!
//! What was given to a socket is in the host's kernel until the network takes it; a connection that is closed takes with it
//! what had not left. What has left may be executed until the quiesce bound after the death of the connection: those are the
//! ghosts. It does not know what the worker makes of it.

use super::ledger::Progress;
use super::scene::BLOCK;
use super::tally::Fault as Kind;
use super::world::{Event, World};
use vmpath_core::event::Fault;
use vmpath_core::router::{CloseMode, ConnectionKey, Operation, Support, close_mode};
use vmpath_core::spec::Spec;
use vmpath_core::time::{Duration, Instant};
use vmpath_core::volume::verdict::TargetError;

/// More than this waits in the process when the kernel's buffer does not move.
const SOCKET_BUFFER: usize = 4;
/// What a path's queue holds up for longer than this is not given to the socket yet.
const UNSENT_AFTER: Duration = Duration::from_millis(2);
/// If connections lingered: so long what had not left may be sent after the close.
pub(super) const LINGER_MAX: Duration = Duration::from_secs(8);

#[derive(Clone, Debug, PartialEq)]
pub(super) enum ConnState {
    /// Connecting, or asked and not answered.
    Setup {
        deadline: Instant,
    },
    /// For a comparison with another.
    Waiting {
        deadline: Instant,
    },
    Comparing,
    Active {
        key: ConnectionKey,
    },
    Closing {
        fault: Fault,
        key: Option<ConnectionKey>,
    },
    Dead,
}

/// Its index is never used again.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) worker: usize,
    pub(super) link: usize,
    pub(super) path: usize,
    pub(super) unit: usize,
    /// The unit that really answers there.
    pub(super) shows: usize,
    pub(super) state: ConnState,
    /// When something last came.
    pub(super) heard: Instant,
    /// A ping that was not answered, or a comparison's reads.
    pub(super) own: u32,
    /// Of those, pings that a path does not answer before it is well.
    pub(super) pings: u32,
    /// Since when what was sent has not been acknowledged.
    pub(super) unacked: Option<Instant>,
    pub(super) in_flight: Vec<u32>,
    /// At the target, which executes nothing.
    stuck: Vec<u32>,
    /// On their way back through a network that swallows.
    replies: Vec<u32>,
}

/// How a path is.
#[derive(Debug, Default)]
pub(super) struct PathNet {
    /// Nobody listens.
    pub(super) refuses: bool,
    pub(super) swallows: bool,
    /// The target behind it does nothing.
    pub(super) hangs: bool,
    /// Since when nothing comes from it, whatever the reason.
    pub(super) silent_since: Option<Instant>,
    pub(super) sick: Option<TargetError>,
    /// A unit, and which is shown in its place.
    pub(super) lie: Option<(usize, usize)>,
    busy_until: Instant,
    /// Counts faults, so that an old repair ends no new one.
    pub(super) number: u64,
    pub(super) lies: u64,
}

#[derive(Debug)]
pub(super) struct Network {
    pub(super) paths: Vec<PathNet>,
    /// By unit.
    pub(super) gone: Vec<bool>,
}

impl Network {
    pub(super) fn new(spec: &Spec) -> Self {
        Self {
            paths: spec.paths.iter().map(|_| PathNet::default()).collect(),
            gone: vec![false; spec.units.len()],
        }
    }
}

impl Conn {
    pub(super) fn new(
        (worker, link): (usize, usize),
        (path, unit): (usize, usize),
        deadline: Instant,
        now: Instant,
    ) -> Self {
        Self {
            worker,
            link,
            path,
            unit,
            shows: unit,
            state: ConnState::Setup { deadline },
            heard: now,
            own: 0,
            pings: 0,
            unacked: None,
            in_flight: Vec::new(),
            stuck: Vec::new(),
            replies: Vec::new(),
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        matches!(self.state, ConnState::Closing { .. } | ConnState::Dead)
    }

    /// Something is about to be asked: if nothing was outstanding, its silence begins now.
    pub(super) fn expects(&mut self, now: Instant) {
        if self.in_flight.is_empty() && self.own == 0 {
            self.heard = now;
        }
    }
}

impl World {
    pub(super) fn hand_to_socket(&mut self, attempt: u32, bytes: u64) {
        let now = self.now;
        let index = self.ledger.attempts[attempt as usize].conn as usize;
        let conn = &mut self.conns[index];
        conn.expects(now);
        conn.in_flight.push(attempt);
        let path = conn.path;
        let is_write = self.ledger.attempts[attempt as usize].operation.changes_data();
        if let Some(vm) = self.ambush.take_if(|_| is_write) {
            let after = self.rng.micros(0..2 * self.scene.routes[path].service);
            self.at(after, Event::Strike { path, vm });
        }
        let conn = &self.conns[index];
        let route = &self.scene.routes[conn.path];
        let net = &mut self.net.paths[conn.path];
        let start = net.busy_until.max(now);
        net.busy_until = start + Duration::from_nanos(bytes * 1_000_000_000 / route.rate);
        if start.since(now) > UNSENT_AFTER {
            self.when(start, Event::Send(attempt));
        } else {
            self.send(attempt);
        }
    }

    /// Its turn on the wire.
    pub(super) fn send(&mut self, attempt: u32) {
        let record = &self.ledger.attempts[attempt as usize];
        let conn = &mut self.conns[record.conn as usize];
        if conn.is_closing() || record.progress != Progress::Unsent {
            return;
        }
        if self.net.paths[conn.path].swallows {
            conn.unacked.get_or_insert(self.now);
            let buffered = |a: &&u32| self.ledger.attempts[**a as usize].progress == Progress::Buffered;
            if conn.in_flight.iter().filter(buffered).count() < SOCKET_BUFFER {
                self.ledger.attempts[attempt as usize].progress = Progress::Buffered;
            }
            return;
        }
        self.leave(attempt);
    }

    /// The network takes it.
    fn leave(&mut self, attempt: u32) {
        let record = &mut self.ledger.attempts[attempt as usize];
        record.progress = Progress::Away;
        let route = &self.scene.routes[self.conns[record.conn as usize].path];
        let after = self.rng.micros(10..route.latency) + self.rng.micros(10..route.service);
        self.at(after, Event::Execute(attempt));
    }

    pub(super) fn execute(&mut self, attempt: u32) {
        let record = &self.ledger.attempts[attempt as usize];
        let conn = &mut self.conns[record.conn as usize];
        if record.progress != Progress::Away || conn.state == ConnState::Dead {
            return;
        }
        let path = conn.path;
        if self.net.paths[path].hangs || self.net.gone[conn.shows] {
            conn.stuck.push(attempt);
            return;
        }
        let result = match self.net.paths[path].sick {
            Some(error) if self.rng.percent(60) => Err(error),
            _ => Ok(()),
        };
        // A write that failed may have done its work.
        if result.is_ok() || (result == Err(TargetError::Io) && self.rng.percent(50)) {
            self.take_effect(attempt);
        }
        self.ledger.attempts[attempt as usize].progress = Progress::Executed(result);
        let after = self.rng.micros(10..self.scene.routes[path].latency);
        self.at(after, Event::Reply(attempt));
    }

    fn take_effect(&mut self, attempt: u32) {
        let record = &self.ledger.attempts[attempt as usize];
        let (number, operation, fua, conn) = (record.op, record.operation, record.fua, record.conn);
        let op = &self.ledger.ops[number as usize];
        let (first, count) = (op.first, op.count);
        // The unit that it reaches is that which answers there.
        let unit = self.conns[conn as usize].shows;
        match operation {
            Operation::Read => {
                for at in 0..count {
                    let value = self.storage.read(unit, first + at);
                    self.ledger.attempts[attempt as usize].values[at] = value;
                }
            }
            Operation::Write | Operation::Trim | Operation::WriteZeroes(_) => {
                let traits = self.scene.traits[unit];
                // Without a flush nothing is promised; then the target has no cache worth the name.
                if (fua && traits.fua == Support::Yes) || traits.flush == Support::No {
                    self.storage.write_through(unit, number, (first, count));
                } else {
                    self.storage.write(unit, number, (first, count), conn);
                }
            }
            Operation::Flush => self.storage.flush(unit, conn),
        }
    }

    pub(super) fn reply(&mut self, attempt: u32) {
        let record = &self.ledger.attempts[attempt as usize];
        let Progress::Executed(result) = record.progress else { return };
        let (index, cookie, now) = (record.conn, record.cookie, self.now);
        let conn = &mut self.conns[index as usize];
        let key = match &conn.state {
            ConnState::Active { key } => *key,
            // After the cut, few of the replies on their way are still heard.
            ConnState::Closing { key: Some(key), .. } if self.rng.percent(30) => *key,
            _ => return,
        };
        if self.net.paths[conn.path].swallows {
            conn.replies.push(attempt);
            return;
        }
        conn.heard = now;
        conn.in_flight.retain(|a| *a != attempt);
        let worker = conn.worker;
        self.ledger.answered(attempt, result);
        if self.workers[worker].router.reply(key, cookie, result, now).is_err() {
            self.ledger.violated("exactly-once", || format!("the reply to attempt {attempt} names nothing"));
        }
        self.poke(worker);
    }

    /// What its connection took to the grave reaches the target's disks after all.
    pub(super) fn haunt(&mut self, attempt: u32) {
        self.tally.ghosts += 1;
        let op = self.ledger.attempts[attempt as usize].op;
        self.trace.say(self.now, || format!("the ghost of op {op} is executed"));
        self.take_effect(attempt);
    }

    /// The socket is closed. What was received may be executed until the quiesce bound; what had not left is gone. Returns the
    /// attempts of which no byte had been given to the socket.
    pub(super) fn bury(&mut self, index: u32) -> Vec<u64> {
        let conn = &mut self.conns[index as usize];
        conn.state = ConnState::Dead;
        let (path, unit, shows) = (conn.path, conn.unit, conn.shows);
        let carried = std::mem::take(&mut conn.in_flight);
        let quiesce = self.scene.spec.target(self.scene.spec.paths[path].target).quiesce;
        let mut unsent = Vec::new();
        for attempt in carried {
            let record = &self.ledger.attempts[attempt as usize];
            let (progress, cookie, is_write) =
                (record.progress, record.cookie, record.operation.changes_data());
            // A worker that does not know how far a send has come calls it sent.
            let named = progress == Progress::Unsent && self.rng.percent(80);
            if named {
                unsent.push(cookie);
            }
            self.ledger.lost(attempt, (!named).then_some(self.now + quiesce));
            self.tally.lost_writes += u64::from(is_write && !named);
            if is_write && progress == Progress::Away && self.rng.percent(75) {
                let after = self.rng.within(quiesce);
                self.at(after, Event::Ghost(attempt));
            }
            if is_write && progress == Progress::Buffered && close_mode() == CloseMode::Linger {
                let after = self.rng.within(LINGER_MAX);
                self.at(after, Event::Ghost(attempt));
            }
        }
        debug_assert!(shows == unit || self.conns[index as usize].path == path);
        if self.storage.conn_dead(shows, index) {
            self.tally.fault(Kind::CacheLost);
        }
        unsent
    }

    /// The network or the target behind a path works again.
    pub(super) fn path_healed(&mut self, path: usize, number: u64) {
        if self.net.paths[path].number == number {
            self.heal_path(path);
        }
    }

    pub(super) fn heal_path(&mut self, path: usize) {
        let net = &mut self.net.paths[path];
        net.number += 1;
        let swallowed = std::mem::take(&mut net.swallows);
        let hung = std::mem::take(&mut net.hangs);
        (net.refuses, net.silent_since, net.sick) = (false, None, None);
        self.trace.say(self.now, || format!("path {path} is well"));
        for index in 0..self.conns.len() {
            if self.conns[index].path == path && !self.conns[index].is_closing() && (swallowed || hung) {
                self.revive(index);
            }
        }
    }

    /// What was stuck goes on.
    fn revive(&mut self, index: usize) {
        let now = self.now;
        let conn = &mut self.conns[index];
        conn.unacked = None;
        let (stuck, replies) = (std::mem::take(&mut conn.stuck), std::mem::take(&mut conn.replies));
        let in_flight = conn.in_flight.clone();
        conn.heard = now;
        conn.own = match conn.state {
            ConnState::Active { .. } => 0,
            // What is read to compare has an answer of its own.
            ConnState::Setup { .. }
            | ConnState::Waiting { .. }
            | ConnState::Comparing
            | ConnState::Closing { .. }
            | ConnState::Dead => conn.own.saturating_sub(conn.pings),
        };
        conn.pings = 0;
        for attempt in in_flight {
            match self.ledger.attempts[attempt as usize].progress {
                Progress::Unsent | Progress::Buffered => self.leave(attempt),
                Progress::Away | Progress::Executed(_) | Progress::Answered | Progress::Lost => {}
            }
        }
        for attempt in stuck {
            let after = self.rng.micros(10..3000);
            self.at(after, Event::Execute(attempt));
        }
        for attempt in replies {
            let after = self.rng.micros(10..3000);
            self.at(after, Event::Reply(attempt));
        }
    }

    pub(super) fn path_tells_the_truth(&mut self, path: usize, number: u64) {
        if self.net.paths[path].lies == number {
            self.net.paths[path].lie = None;
        }
    }

    pub(super) fn unit_back(&mut self, unit: usize) {
        self.net.gone[unit] = false;
        for index in 0..self.conns.len() {
            if self.conns[index].shows == unit && !self.conns[index].is_closing() {
                self.revive(index);
            }
        }
    }

    /// Bytes of a block of a unit, as a comparison sees them: never blank.
    pub(super) fn sample(&self, unit: usize, offset: u64) -> [u8; 4] {
        (self.storage.read(unit, (offset / BLOCK) as usize) + 1).to_le_bytes()
    }
}
