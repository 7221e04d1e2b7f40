//! The end of a connection, in two steps: cut, then reaped. Between them nothing that it carried goes anywhere.

use super::{Phase, Wire, block};
use crate::dataplane::{Worker, WorkerReport};
use vmpath_core::event::{Fault, LinkChange, LinkReport};
use vmpath_core::ids::{PathId, UnitId};
use vmpath_core::router::{ConnectionKey, Fence, Loss};
use vmpath_core::time::Duration;

impl Worker {
    /// Nothing more is sent or received on it; what the kernel holds of it is cancelled.
    pub(super) fn cut(&mut self, index: usize, fault: Fault) {
        let back = &mut self.backs.backs[index];
        if back.is_closing() {
            return;
        }
        let key = back.key();
        back.phase = Phase::Closing { fault, key };
        match &mut back.wire {
            Wire::Nbd(nbd) => nbd.stream.shut(&mut self.ring),
            Wire::Block(block) => {
                if let Some(file) = block.file.as_ref().filter(|_| block.submitted > 0) {
                    self.ring.cancel_all(file);
                }
            }
        }
        if let Some(key) = key {
            self.router.connection_closing(key);
        }
        self.backs.closing.push(index);
        self.tell_early(index);
        self.comparison_lost(index);
    }

    /// As [`Self::cut`], by the router's name of it; nothing if it is dead already.
    pub(crate) fn cut_connection(&mut self, key: ConnectionKey, fault: Fault) {
        if let Some(index) = self.backs.by_key.get(key.0 as usize).copied().flatten() {
            self.cut(index, fault);
        }
    }

    /// A device that hangs may stay in the kernel's hands for minutes: its loss is told at once.
    fn tell_early(&mut self, index: usize) {
        let back = &self.backs.backs[index];
        let (Wire::Block(block), Phase::Closing { fault, key: Some(key) }) = (&back.wire, &back.phase) else {
            return;
        };
        let link = &self.backs.links[back.link];
        if block.submitted == 0 || link.active != 1 {
            return;
        }
        let (link, fault, lost) = (back.link, fault.clone(), self.router.in_flight_on(*key));
        let (path, unit) = (self.backs.links[link].path, self.backs.links[link].unit);
        self.tell_down(path, unit, fault.clone(), lost);
        self.backs.links[link].told = Some(fault);
        self.backs.links[link].told_early = Some(self.link_reports);
    }

    /// Cuts all connections of a path: what was seen on one holds for the others, none of which shows the opposite.
    pub(super) fn cut_path(&mut self, path: PathId, fault: &Fault) {
        let of_path = |b: &super::Back| self.backs.links[b.link].path == path && !b.is_closing();
        let indices: Vec<usize> =
            self.backs.backs.iter().filter(|(_, b)| of_path(b)).map(|(i, _)| i).collect();
        for index in indices {
            self.cut(index, fault.clone());
        }
    }

    /// Lets go of the connections of which the kernel holds nothing any more: dropping the stream closes the socket,
    /// and only then may what they carried go elsewhere.
    pub(crate) fn reap_backs(&mut self) {
        if self.backs.closing.is_empty() {
            return;
        }
        for index in std::mem::take(&mut self.backs.closing) {
            if self.backs.backs[index].is_idle() {
                self.reap(index);
            } else {
                self.backs.closing.push(index);
            }
        }
    }

    fn reap(&mut self, index: usize) {
        let back = self.backs.backs.remove(index);
        let Phase::Closing { fault, key } = back.phase else {
            unreachable!("only what was cut is reaped");
        };
        let (unsent, fence): (Vec<u64>, Fence) = match &back.wire {
            Wire::Nbd(nbd) => (nbd.stream.unsent().collect(), Fence::QuiesceBound),
            Wire::Block(device) => (Vec::new(), block::fence(device)),
        };
        drop(back.wire);
        self.forget_reads(self.backs.links[back.link].unit, &back.own);
        self.record.disconnected(index as u32);
        let link = &mut self.backs.links[back.link];
        link.connections -= 1;
        let Some(key) = key else {
            self.attempt_failed(back.link, fault);
            return;
        };
        link.active -= 1;
        link.next_attempt = self.now;
        self.backs.by_key[key.0 as usize] = None;
        let (path, unit, last) = (link.path, link.unit, link.active == 0);
        let outstanding = self.router.in_flight_on(key);
        // The report that follows says that the link is lost; its number lets VMs wait for control's word on it.
        let early = link.told_early.take();
        let report = early.unwrap_or(self.link_reports + 1);
        let loss = if last { Loss::OfLink { report } } else { Loss::OfConnection };
        let _ = self.router.connection_dead(key, &unsent, loss, fence, self.now);
        tracing::info!(
            path = self.plan.spec.path_name(path),
            unit = self.plan.spec.unit_name(unit),
            outstanding,
            "connection lost: {fault}"
        );
        let link = &mut self.backs.links[back.link];
        link.lost_requests += outstanding;
        if last && early.is_none() {
            link.told = Some(fault.clone());
            let lost = std::mem::take(&mut link.lost_requests);
            self.tell_down(path, unit, fault, lost);
        }
    }

    /// Control has begun to look at a unit again: what is connected still will not be told otherwise.
    pub(crate) fn tell_links_up(&mut self, unit: UnitId) {
        for at in 0..self.backs.links.len() {
            let link = &self.backs.links[at];
            if link.unit == unit && link.active > 0 {
                self.tell(link.path, unit, LinkChange::Up);
            }
        }
    }

    pub(super) fn tell_down(&mut self, path: PathId, unit: UnitId, fault: Fault, requests_outstanding: u32) {
        self.tell(path, unit, LinkChange::Down { fault, requests_outstanding });
    }

    pub(super) fn tell(&mut self, path: PathId, unit: UnitId, change: LinkChange) {
        self.link_reports += 1;
        let report = LinkReport { worker: self.id(), path, unit, at: self.now, change };
        let _ = self.reports.send(WorkerReport::Link(report));
    }

    /// The first request lost with a link has completed over another path.
    pub(crate) fn report_failover(&mut self, unit: UnitId, from: PathId, to: PathId, after: Duration) {
        self.tell(from, unit, LinkChange::FailedOver { to, after });
    }
}
