//! A device that changes hosts: what its stopped rings leave open, and rings that start with what others have left.
//!
//! Invariant: a ring with requests open that were fetched elsewhere is begun with all of them or not at all, and once: the
//! inflight buffer, which the front end keeps over our death, says whether that has been. Rejected: reading the available ring
//! again from the used index on, since requests complete out of order. It does not know disks, files, or who else may write.

use super::device::{Changes, Device};
use super::queue::Origin;
use super::session::Session;
use super::world::Admission;
use vmpath_core::migration::{Open, OpenRequest, QueueHandOver};
use vmpath_protocol::virtio_blk::request::{Operation, Status};

/// A request that is open and whose ring is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeftOpen {
    pub(crate) head: u16,
    pub(crate) fate: LeftFate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeftFate {
    /// The router has it, under this token.
    Routed(u32),
    /// It ended after the stop. What it has read, if it is a read, is not in the guest's memory.
    Ended(Status, Ending),
    /// Others have left it, and nobody has taken it since.
    Untaken(Open),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Its status is all that the guest is to be told.
    StatusAlone,
    /// It has read data, too.
    WithData,
}

/// One queue as it was left: the next entry to fetch, and what is open, in the order of fetching.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeftQueue {
    pub(crate) queue: u16,
    pub(crate) base: u16,
    pub(crate) open: Vec<LeftOpen>,
}

/// A head that somebody else has fetched, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leftover {
    pub(super) head: u16,
    pub(super) origin: Origin,
    status: Option<Status>,
}

impl Leftover {
    /// By a former process of this host.
    pub(super) fn replayed(head: u16) -> Self {
        Self { head, origin: Origin::Replayed, status: None }
    }

    pub(super) fn handed(request: OpenRequest) -> Self {
        let (origin, status) = match request.state {
            Open::Unsent => (Origin::New, None),
            Open::Unknown => (Origin::Replayed, None),
            Open::Done(code) => (Origin::New, Status::of_code(code)),
        };
        Self { head: request.head, origin, status }
    }

    /// As it is handed on.
    pub(super) fn untaken(self) -> Open {
        match (self.status, self.origin) {
            (Some(status), _) => Open::Done(status.code()),
            (None, Origin::Replayed) => Open::Unknown,
            (None, Origin::New) => Open::Unsent,
        }
    }

    /// What its guest is to be told at once. A read that has ended well is not among it: what it read is not here.
    pub(super) fn finished(self, operation: Operation) -> Option<Status> {
        let has_data = operation == Operation::Read;
        self.status.filter(|status| !(has_data && *status == Status::Ok))
    }
}

impl Device {
    fn admit(&mut self, incoming: Vec<QueueHandOver>) -> vhost::vhost_user::Result<()> {
        self.world.admission = Admission::Now;
        for what in incoming {
            if let Some(queue) = self.queues.get_mut(usize::from(what.queue)) {
                queue.expect(what);
            }
        }
        (0..self.queues.len() as u32).try_for_each(|queue| self.start_if_ready(queue))
    }
}

impl Session {
    /// Rings do not start, though messages are answered, until [`Session::admit`], which says what with. Those that run go on.
    pub(crate) fn hold_starts(&mut self) {
        self.device.world.admission = Admission::Later;
        self.device.queues.iter_mut().for_each(super::queue::Queue::expect_nothing);
    }

    /// Whether a ring would run if it were let.
    #[cfg(test)]
    pub(crate) fn awaits_admission(&self) -> bool {
        let waits = |of: &super::queue::Queue| of.awaits_start(&self.device.world);
        self.device.world.admission == Admission::Later && self.device.queues.iter().any(waits)
    }

    /// Rings start, those named with what another host left of them.
    ///
    /// # Errors
    /// The session is over: guest memory is not known.
    pub(crate) fn admit(&mut self, incoming: Vec<QueueHandOver>) -> Result<Changes, super::SessionEnd> {
        let admitted = self.device.admit(incoming);
        let changes = std::mem::take(&mut self.device.changes);
        match admitted {
            Ok(()) => Ok(changes),
            Err(error) => Err(self.end_with(error)),
        }
    }

    /// A ring runs, or has something to say about why not.
    pub(crate) fn has_running_ring(&self) -> bool {
        self.device.queues.iter().any(super::queue::Queue::is_running)
    }

    /// What each ring that has run here has left, now that it is stopped. None if none has: what is open is not known then.
    pub(crate) fn left(&self) -> Option<Vec<LeftQueue>> {
        let left: Vec<_> = self.device.queues.iter().filter_map(super::queue::Queue::left).collect();
        (!left.is_empty()).then_some(left)
    }
}
