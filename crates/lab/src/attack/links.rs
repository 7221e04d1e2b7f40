//! Connections set up, watched and cut, as the daemon's `backend` does it; when a silent one is dead is `core::path::vital`'s.
//!
//! Rule of its own: no path is called dead that is not (`false-loss`). It does not know which request goes where.

use super::ledger::require;
use super::wire::{Conn, ConnState};
use super::world::{Event, World};
use vmpath_core::event::{Fault, LinkChange};
use vmpath_core::path::identity::same_size;
use vmpath_core::path::vital::{self, NetworkClock, Waits};
use vmpath_core::plan::Health;
use vmpath_core::router::{Fence, Loss, Sharing};
use vmpath_core::time::{Duration, Instant};

/// How often connections are looked at, by [`World::pace`].
const INSPECT_EVERY: [Duration; 3] =
    [Duration::from_millis(50), Duration::from_millis(500), Duration::from_secs(4)];
const USED_FOR: Duration = Duration::from_secs(1);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
const BACKOFF_IDENTITY_MAX: Duration = Duration::from_secs(30);
/// The kernel's first timeout; each next one takes twice as long.
const RTO_MIN: Duration = Duration::from_millis(200);
const ROUND_TRIP: Duration = Duration::from_millis(1);
/// What a clock may be late by, between its reading and the truth.
const SLACK: Duration = Duration::from_millis(60);

impl World {
    pub(super) fn inspect(&mut self, at: usize) {
        let pace = self.pace();
        self.at(INSPECT_EVERY[pace], Event::Inspect(at));
        let mut next = 0;
        while let Some(index) = self.workers[at].live.get(next).copied() {
            next += 1;
            if !self.conns[index as usize].is_closing() {
                self.inspect_one(at, index);
            }
        }
        for unit in 0..self.scene.spec.units.len() {
            if self.workers[at].comparisons[unit].is_some() {
                self.advance_comparison(at, unit);
            }
        }
        self.refresh_samples(at);
        self.connect_missing(at);
    }

    fn inspect_one(&mut self, at: usize, index: u32) {
        let now = self.now;
        let conn = &self.conns[index as usize];
        let path = conn.path;
        let carries = match &conn.state {
            ConnState::Setup { deadline } | ConnState::Waiting { deadline } if now > *deadline => {
                self.cut(index, &Fault::ConnectTimeout);
                return;
            }
            ConnState::Setup { .. } | ConnState::Waiting { .. } => false,
            ConnState::Comparing | ConnState::Active { .. } => true,
            ConnState::Closing { .. } | ConnState::Dead => return,
        };
        if self.workers[at].plan.paths[path].health == Health::Disabled && conn.in_flight.is_empty() {
            self.cut(index, &Fault::Disabled);
            return;
        }
        let outstanding = !conn.in_flight.is_empty() || conn.own > 0;
        if (outstanding || !carries)
            && let Some(fault) = conn.unacked.and_then(|since| vital::swallowed(network_clock(now, since)))
        {
            self.seen_dead(path, &fault, None);
            self.cut_path(at, path, &fault);
            return;
        }
        let is_used = now.since(self.workers[at].used_at[conn.unit]) < USED_FOR;
        let waits = match (outstanding, is_used) {
            (true, _) => Waits::ForAnswers,
            (false, true) => Waits::AmongOthers,
            (false, false) => Waits::Idle,
        };
        let silent = now.since(conn.heard);
        let budget = self.scene.spec.target(self.scene.spec.paths[path].target).ping_budget;
        if let Some(fault) = vital::speechless(waits, silent, budget) {
            self.seen_dead(path, &fault, Some(budget));
            self.cut(index, &fault);
            return;
        }
        if carries && conn.own == 0 && silent >= vital::ping_after(waits) {
            self.ping(index);
        }
    }

    /// A path is called dead: is it?
    fn seen_dead(&mut self, path: usize, fault: &Fault, budget: Option<Duration>) {
        let net = &self.net.paths[path];
        let silent = net.silent_since.map(|since| self.now.since(since));
        let holds = match budget {
            None => net.swallows,
            Some(budget) => {
                silent.is_some_and(|silent| silent + SLACK + Duration::from_millis(300) >= budget)
            }
        };
        require!(
            self.ledger,
            holds,
            "false-loss",
            "path {path} is called dead ({fault}); really silent for {silent:?}"
        );
    }

    fn ping(&mut self, index: u32) {
        let now = self.now;
        let conn = &mut self.conns[index as usize];
        conn.expects(now);
        let net = &self.net.paths[conn.path];
        if net.swallows {
            (conn.own, conn.pings) = (conn.own + 1, conn.pings + 1);
            conn.unacked.get_or_insert(now);
        } else if net.hangs {
            (conn.own, conn.pings) = (conn.own + 1, conn.pings + 1);
        } else {
            let route = &self.scene.routes[conn.path];
            conn.heard = now + Duration::from_micros(route.latency + route.service / 2);
        }
    }

    fn connect_missing(&mut self, at: usize) {
        for index in 0..self.workers[at].links.len() {
            let link = &self.workers[at].links[index];
            let disabled = self.workers[at].plan.paths[link.path].health == Health::Disabled;
            if disabled || link.next_attempt > self.now || link.conns > link.active {
                continue;
            }
            let many = self.workers[at].known[link.unit]
                && self.scene.traits[link.unit].sharing == Sharing::ManyConnections;
            let target = self.scene.spec.target(self.scene.spec.paths[link.path].target);
            let wanted = if many { u32::from(target.connections) } else { 1 };
            if link.active < wanted {
                self.connect(at, index, target.ping_budget);
            }
        }
    }

    fn connect(&mut self, at: usize, link: usize, budget: Duration) {
        let row = &mut self.workers[at].links[link];
        row.conns += 1;
        let (path, unit) = (row.path, row.unit);
        let index = self.conns.len() as u32;
        let mut conn = Conn::new((at, link), (path, unit), self.now + budget, self.now);
        let net = &self.net.paths[path];
        let (refuses, swallows, lie) = (net.refuses, net.swallows, net.lie);
        let latency = self.scene.routes[path].latency;
        let after = self.rng.micros(latency..4 * latency + 1);
        if refuses {
            self.at(after, Event::Refused(index));
        } else if !swallows {
            // A target that hangs accepts, and answers no handshake.
            self.at(after, Event::Answers(index));
        }
        if let Some((_, shown)) = lie.filter(|(of, _)| *of == unit) {
            conn.shows = shown;
        }
        self.conns.push(conn);
        self.workers[at].live.push(index);
    }

    pub(super) fn refused(&mut self, index: u32) {
        if matches!(self.conns[index as usize].state, ConnState::Setup { .. }) {
            self.cut(index, &Fault::Refused("connection refused".into()));
        }
    }

    /// The handshake is over and a first block has been read.
    pub(super) fn answers(&mut self, index: u32) {
        let conn = &self.conns[index as usize];
        let ConnState::Setup { deadline } = conn.state else { return };
        let (at, unit, shows) = (conn.worker, conn.unit, conn.shows);
        let net = &self.net.paths[conn.path];
        if net.swallows || net.hangs {
            return;
        }
        if self.net.gone[shows] {
            self.cut(index, &Fault::UnitGone("no such export".into()));
            return;
        }
        // Every third unit is larger than the others.
        let size = |unit: usize| if unit.is_multiple_of(3) { 2 } else { 1 };
        if self.workers[at].known[unit] && !same_size(size(unit), size(shows)) {
            self.tally.refused_units += 1;
            self.cut(index, &Fault::Identity("it announces another size".into()));
            return;
        }
        let conn = &mut self.conns[index as usize];
        conn.heard = self.now;
        conn.state = ConnState::Waiting { deadline };
        self.workers[at].waiting[unit].push_back(index);
        self.next_comparison(at, unit);
    }

    /// Cuts all connections of a path that a worker has: what was seen on one holds for the others.
    pub(super) fn cut_path(&mut self, at: usize, path: usize, fault: &Fault) {
        let mut next = 0;
        while let Some(index) = self.workers[at].live.get(next).copied() {
            next += 1;
            if self.conns[index as usize].path == path {
                self.cut(index, fault);
            }
        }
    }

    /// Nothing more is sent on it. It is dead when the kernel has let go of it.
    pub(super) fn cut(&mut self, index: u32, fault: &Fault) {
        let conn = &mut self.conns[index as usize];
        let key = match &conn.state {
            ConnState::Closing { .. } | ConnState::Dead => return,
            ConnState::Active { key } => Some(*key),
            ConnState::Setup { .. } | ConnState::Waiting { .. } | ConnState::Comparing => None,
        };
        let at = conn.worker;
        conn.state = ConnState::Closing { fault: fault.clone(), key };
        self.trace.say(self.now, || format!("connection {index} is cut: {fault}"));
        if let Some(key) = key {
            self.workers[at].router.connection_closing(key);
            self.poke(at);
        }
        let after = self.rng.micros(0..3000);
        self.at(after, Event::Reap(index));
        self.comparison_lost(index);
    }

    pub(super) fn reap(&mut self, index: u32) {
        let ConnState::Closing { fault, key } = self.conns[index as usize].state.clone() else { return };
        let conn = &self.conns[index as usize];
        let (at, row, path, unit) = (conn.worker, conn.link, conn.path, conn.unit);
        let outstanding = conn.in_flight.len() as u32;
        let unsent = self.bury(index);
        self.workers[at].live.retain(|c| *c != index);
        let now = self.now;
        let worker = &mut self.workers[at];
        let link = &mut worker.links[row];
        link.conns -= 1;
        let Some(key) = key else {
            link.next_attempt = now + backoff(link.failures, &fault);
            link.failures += 1;
            if link.active == 0 && link.told.as_ref() != Some(&fault) {
                link.told = Some(fault.clone());
                self.tell_link(at, (path, unit), LinkChange::Down { fault, requests_outstanding: 0 });
            }
            return;
        };
        link.active -= 1;
        link.next_attempt = now;
        let last = link.active == 0;
        // The report that follows says that the link is lost.
        let loss = if last { Loss::OfLink { report: worker.link_reports + 1 } } else { Loss::OfConnection };
        let _ = worker.router.connection_dead(key, &unsent, loss, Fence::QuiesceBound, now);
        self.poke(at);
        if last {
            self.workers[at].links[row].told = Some(fault.clone());
            self.tell_link(at, (path, unit), LinkChange::Down { fault, requests_outstanding: outstanding });
        }
    }
}

fn backoff(failures: u32, fault: &Fault) -> Duration {
    let longest = if matches!(fault, Fault::Identity(_)) { BACKOFF_IDENTITY_MAX } else { BACKOFF_MAX };
    (BACKOFF_MIN * 2u32.saturating_pow(failures.min(10))).min(longest)
}

/// What the kernel would say of a connection on which something has gone unacknowledged since then.
fn network_clock(now: Instant, since: Instant) -> NetworkClock {
    let unacked = now.since(since);
    let sent_again_after = |times: u32| RTO_MIN * ((1 << times) - 1);
    let mut retransmits = 0;
    while sent_again_after(retransmits + 1) <= unacked && retransmits < 16 {
        retransmits += 1;
    }
    NetworkClock {
        since_last_ack: unacked,
        unacked_for: unacked,
        retransmits,
        since_last_sent: unacked - sent_again_after(retransmits),
        round_trip: ROUND_TRIP,
        probes: 0,
    }
}
