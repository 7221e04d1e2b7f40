//! Reading units over every path on demand: the proof that this host reaches them now.
//!
//! Invariant: what counts was asked after the order came, on connections whose identity was checked. It does not know what the
//! proof is for.

use super::{Phase, Purpose, connect};
use crate::dataplane::{OrderReport, ProbedUnit, Worker, WorkerReport};
use vmpath_core::ids::{PathId, UnitId};
use vmpath_core::time::{Duration, Instant};

/// A path that takes longer does not qualify.
const PROBE_MAX: Duration = Duration::from_secs(2);

/// One order, until all its reads are answered.
#[derive(Debug)]
pub(super) struct Probe {
    number: u64,
    ticket: u64,
    units: Vec<ProbedUnit>,
    deadline: Instant,
}

impl Worker {
    /// Asks for the first block of each unit over each path that is connected.
    pub(crate) fn probe(&mut self, ticket: u64, units: Vec<UnitId>) {
        self.backs.next_probe += 1;
        let number = self.backs.next_probe;
        let mut probe = Probe { number, ticket, units: Vec::new(), deadline: self.now + PROBE_MAX };
        for unit in units {
            let asked = self.ask_first_block(unit, number);
            probe.units.push(ProbedUnit { unit, read: Vec::new(), unread: asked });
        }
        self.backs.probes.push(probe);
    }

    /// One connection of each path; which paths.
    fn ask_first_block(&mut self, unit: UnitId, number: u64) -> Vec<PathId> {
        let mut asked: Vec<(PathId, usize, usize)> = Vec::new();
        for (index, back) in &self.backs.backs {
            let link = &self.backs.links[back.link];
            let is_out = self.plan.paths[link.path.index()].health.is_out();
            let is_up = matches!(back.phase, Phase::Active { .. }) && link.unit == unit && !is_out;
            if is_up && !asked.iter().any(|(path, ..)| *path == link.path) {
                asked.push((link.path, index, back.export.map_or(1, |export| connect::first_block(&export))));
            }
        }
        for (_, index, length) in &asked {
            self.read_own(*index, Purpose::Probe(number), 0, *length);
        }
        asked.into_iter().map(|(path, ..)| path).collect()
    }

    /// One of them was answered.
    pub(super) fn probed(&mut self, index: usize, number: u64, took: Option<Duration>) {
        let link = &self.backs.links[self.backs.backs[index].link];
        let (path, unit) = (link.path, link.unit);
        let Some(probe) = self.backs.probes.iter_mut().find(|probe| probe.number == number) else { return };
        let Some(of) = probe.units.iter_mut().find(|of| of.unit == unit) else { return };
        if let Some(took) = took {
            of.unread.retain(|unread| *unread != path);
            of.read.push((path, took));
        }
    }

    /// Tells those that are over.
    pub(crate) fn conclude_probes(&mut self) {
        let mut at = 0;
        while let Some(probe) = self.backs.probes.get(at) {
            let waits = |b: &super::Back| b.own.iter().any(|own| own.purpose == Purpose::Probe(probe.number));
            if self.now < probe.deadline && self.backs.backs.iter().any(|(_, b)| !b.is_closing() && waits(b))
            {
                at += 1;
                continue;
            }
            let Probe { ticket, units, .. } = self.backs.probes.swap_remove(at);
            let _ = self.reports.send(WorkerReport::Order(OrderReport::Probed { ticket, units }));
        }
    }

    /// When the first of them is over at the latest.
    pub(crate) fn probes_until(&self) -> Instant {
        self.backs.probes.iter().map(|probe| probe.deadline).min().unwrap_or(Instant::FAR_FUTURE)
    }
}
