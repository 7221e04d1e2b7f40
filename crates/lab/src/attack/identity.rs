//! The check of a new connection against one that is up, or against what is remembered, as the daemon's `backend::identity` does it; the verdict is core's.
//!
//! It does not know why a path shows what it shows.

use super::scene::{BLOCK, BLOCKS};
use super::wire::ConnState;
use super::world::{Event, World};
use vmpath_core::event::{Fault, LinkChange};
use vmpath_core::ids::{PathId, UnitId};
use vmpath_core::path::identity::{Blank, Verdict, judge};
use vmpath_core::path::remembered::Ticket;
use vmpath_core::router::Extent;
use vmpath_core::time::{Duration, Instant};

/// How long writes to the sampled blocks are held for one comparison.
const HOLD_MAX: Duration = Duration::from_secs(1);
/// Of the unit's blocks, every so many are compared.
const SAMPLE_EVERY: usize = 5;

#[derive(Debug)]
pub(super) struct Comparison {
    pub(super) new: u32,
    /// None: what is remembered of the unit.
    known: Option<u32>,
    pub(super) ranges: Vec<Extent>,
    /// Read over the new and over the known connection.
    data: [Option<Vec<[u8; 4]>>; 2],
    reading: bool,
    deadline: Instant,
}

/// A place that is read to be remembered; its content from when the target has served it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    ticket: Ticket,
    offset: u64,
    content: Option<[u8; 4]>,
}

impl World {
    /// Takes the next connection that waits to be checked, if none is being checked.
    pub(super) fn next_comparison(&mut self, at: usize, unit: usize) {
        while self.workers[at].comparisons[unit].is_none() {
            let Some(new) = self.workers[at].waiting[unit].pop_front() else { return };
            let known = self.reference(at, new, unit);
            let ranges = match known {
                Some(_) => self.workers[at].router.begin_sampling(UnitId::at(unit), &compared_blocks()),
                None => self.workers[at].router.remembered_samples(UnitId::at(unit)),
            };
            if known.is_none() && ranges.is_empty() {
                if self.conns[new as usize].shows != unit {
                    // Nobody could tell: the world's lies end where nothing is left to compare with.
                    self.cut(new, &Fault::Reset);
                    continue;
                }
                self.activate(new);
                continue;
            }
            self.conns[new as usize].state = ConnState::Comparing;
            self.tally.comparisons += 1;
            self.workers[at].comparisons[unit] = Some(Comparison {
                new,
                known,
                ranges,
                data: [None, None],
                reading: false,
                deadline: self.now + HOLD_MAX,
            });
            self.poke(at);
            self.advance_comparison(at, unit);
        }
    }

    fn reference(&self, at: usize, new: u32, unit: usize) -> Option<u32> {
        let path = self.conns[new as usize].path;
        let up = |c: &&u32| {
            let conn = &self.conns[**c as usize];
            conn.unit == unit && matches!(conn.state, ConnState::Active { .. })
        };
        let live = self.workers[at].live.iter().filter(up);
        live.min_by_key(|c| self.conns[**c as usize].path == path).copied()
    }

    /// Reads, once no write to the sampled ranges is in flight; gives up in time.
    pub(super) fn advance_comparison(&mut self, at: usize, unit: usize) {
        let now = self.now;
        let Some(comparison) = &self.workers[at].comparisons[unit] else { return };
        let (new, known) = (comparison.new, comparison.known);
        if now > comparison.deadline {
            self.cut(new, &Fault::Unproven("its blocks could not be compared in time".into()));
            return;
        }
        if comparison.reading || !self.workers[at].router.sampling_is_quiet(UnitId::at(unit)) {
            return;
        }
        if comparison.ranges.is_empty() {
            self.cut(
                new,
                &Fault::Unproven("no block can be compared before the fence of lost writes".into()),
            );
            return;
        }
        if let Some(comparison) = &mut self.workers[at].comparisons[unit] {
            comparison.reading = true;
        }
        for (side, index) in std::iter::once(new).chain(known).enumerate() {
            let path = self.conns[index as usize].path;
            let after =
                self.rng.micros(50..2 * self.scene.routes[path].latency + self.scene.routes[path].service);
            self.conns[index as usize].expects(now);
            self.conns[index as usize].own += 1;
            self.at(after, Event::Compared { new, side });
        }
    }

    /// A side's blocks have been read.
    pub(super) fn compared(&mut self, new: u32, side: usize) {
        let (at, unit) = (self.conns[new as usize].worker, self.conns[new as usize].unit);
        let Some(comparison) =
            self.workers[at].comparisons[unit].as_ref().filter(|c| c.new == new && c.reading)
        else {
            return;
        };
        let Some(index) = [Some(comparison.new), comparison.known][side] else { return };
        let index = index as usize;
        let net = &self.net.paths[self.conns[index].path];
        if net.swallows || net.hangs {
            // Its answer comes when the path works again, if the deadline has not.
            self.at(Duration::from_millis(50), Event::Compared { new, side });
            return;
        }
        let shows = self.conns[index].shows;
        let data = comparison.ranges.iter().map(|range| self.sample(shows, range.start)).collect();
        let conn = &mut self.conns[index];
        (conn.heard, conn.own) = (self.now, conn.own.saturating_sub(1));
        let Some(comparison) = &mut self.workers[at].comparisons[unit] else { return };
        comparison.data[side] = Some(data);
        let sides = if comparison.known.is_some() { 2 } else { 1 };
        if comparison.data[..sides].iter().all(Option::is_some) {
            self.conclude(at, unit);
        }
    }

    fn conclude(&mut self, at: usize, unit: usize) {
        let Some(comparison) = self.workers[at].comparisons[unit].take() else { return };
        let (id, now) = (UnitId::at(unit), self.now);
        let Comparison { new, known, ranges, data: [Some(read), reference], deadline, .. } = comparison
        else {
            return;
        };
        let (Some(known), Some(reference)) = (known, reference) else {
            self.recall(at, new, ranges.iter().zip(&read));
            self.next_comparison(at, unit);
            return;
        };
        let spoilt = self.workers[at].router.sampling_is_spoilt(id);
        self.workers[at].router.end_sampling(id, now);
        self.poke(at);
        if spoilt {
            self.conns[new as usize].state = ConnState::Waiting { deadline };
            self.workers[at].waiting[unit].push_back(new);
        } else {
            let same_path = self.conns[new as usize].path == self.conns[known as usize].path;
            let blank = if same_path { Blank::IsFine } else { Blank::ProvesNothing };
            let samples = read.iter().zip(&reference).map(|(a, b)| (Some(&a[..]), Some(&b[..])));
            match judge(samples, blank) {
                Verdict::Same => self.activate(new),
                other => {
                    self.tally.refused_units += 1;
                    self.cut(new, &Fault::Identity(format!("{other:?}")));
                }
            }
        }
        self.next_comparison(at, unit);
    }

    /// No path is up: the verdict by what is remembered of the unit.
    fn recall<'a>(&mut self, at: usize, new: u32, read: impl Iterator<Item = (&'a Extent, &'a [u8; 4])>) {
        let unit = UnitId::at(self.conns[new as usize].unit);
        let read = read.map(|(range, content)| (range, Some(&content[..])));
        let verdict = self.workers[at].router.judge_samples(unit, read);
        self.tally.recalls += 1;
        match verdict {
            Verdict::Same | Verdict::Blank => self.activate(new),
            Verdict::Differs { .. } | Verdict::Unreadable => {
                self.tally.recalls_refused += 1;
                self.cut(new, &Fault::Identity(format!("{verdict:?}, by what is remembered")));
            }
        }
    }

    /// Reads a place of each unit that has been written since it was last read.
    pub(super) fn refresh_samples(&mut self, at: usize) {
        for unit in 0..self.scene.spec.units.len() {
            let is_up = |c: &&u32| {
                let conn = &self.conns[**c as usize];
                conn.unit == unit && matches!(conn.state, ConnState::Active { .. })
            };
            let Some(conn) = self.workers[at].live.iter().find(is_up).copied() else { continue };
            let router = &mut self.workers[at].router;
            router.lay_out_samples(UnitId::at(unit), BLOCKS as u64 * BLOCK, BLOCK);
            let Some((ticket, range)) = router.sample_due(UnitId::at(unit), self.now) else { continue };
            let route = &self.scene.routes[self.conns[conn as usize].path];
            let after = Duration::from_micros(route.latency + route.service / 2);
            let sample = Sample { ticket, offset: range.start, content: None };
            self.at(after, Event::Sampled { conn, sample });
        }
    }

    /// The target serves the read, or its answer has come. A path that does not work loses it.
    pub(super) fn sampled(&mut self, index: u32, sample: Sample) {
        let conn = &self.conns[index as usize];
        let net = &self.net.paths[conn.path];
        if !matches!(conn.state, ConnState::Active { .. }) || net.swallows || net.hangs {
            return;
        }
        let (at, unit) = (conn.worker, UnitId::at(conn.unit));
        if let Some(content) = sample.content {
            self.workers[at].router.sample_read(unit, sample.ticket, Some(&content), self.now);
            return;
        }
        let content = Some(self.sample(conn.shows, sample.offset));
        let after = Duration::from_micros(self.scene.routes[conn.path].latency);
        self.at(after, Event::Sampled { conn: index, sample: Sample { content, ..sample } });
    }

    /// A connection is cut: if it was being compared, the comparison ends; what was compared with it waits again.
    pub(super) fn comparison_lost(&mut self, index: u32) {
        let (at, unit) = (self.conns[index as usize].worker, self.conns[index as usize].unit);
        self.workers[at].waiting[unit].retain(|c| *c != index);
        let Some(comparison) =
            self.workers[at].comparisons[unit].take_if(|c| c.new == index || c.known == Some(index))
        else {
            return;
        };
        let now = self.now;
        let Some(known) = comparison.known else {
            self.next_comparison(at, unit);
            return;
        };
        self.workers[at].router.end_sampling(UnitId::at(unit), now);
        self.poke(at);
        let other = if comparison.new == index { known } else { comparison.new };
        let conn = &mut self.conns[other as usize];
        conn.own = conn.own.saturating_sub(1);
        if comparison.new != index && !conn.is_closing() {
            conn.state = ConnState::Waiting { deadline: comparison.deadline };
            self.workers[at].waiting[unit].push_back(other);
        }
        self.next_comparison(at, unit);
    }

    /// It is the unit: requests may go over it.
    fn activate(&mut self, index: u32) {
        let conn = &self.conns[index as usize];
        let (at, link, path, unit) = (conn.worker, conn.link, conn.path, conn.unit);
        let traits = self.scene.traits[unit];
        let worker = &mut self.workers[at];
        let key = worker.router.connection_up(PathId::at(path), UnitId::at(unit), traits);
        let slot = key.0 as usize;
        if worker.by_key.len() <= slot {
            worker.by_key.resize(slot + 1, u32::MAX);
        }
        worker.by_key[slot] = index;
        worker.known[unit] = true;
        let link = &mut worker.links[link];
        (link.active, link.failures, link.told) = (link.active + 1, 0, None);
        let first = link.active == 1;
        self.conns[index as usize].state = ConnState::Active { key };
        if first {
            self.tell_link(at, (path, unit), LinkChange::Up);
        }
        self.poke(at);
    }
}

/// Blocks that two paths are compared by.
fn compared_blocks() -> Vec<Extent> {
    let block = |block: usize| block as u64 * BLOCK..(block as u64 + 1) * BLOCK;
    (0..BLOCKS).step_by(SAMPLE_EVERY).map(block).collect()
}
