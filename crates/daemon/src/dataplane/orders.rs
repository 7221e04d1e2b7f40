//! What control asks of the data plane beside the plan: each order once, in order, and each with an answer.
//!
//! A plan says how things are, and a worker may skip one; an order says what is to be done, and none may be lost. The queue is
//! bounded; who finds it full tries again. Rejected: orders in the plan, which would have to be told apart from those of the plan
//! before. It does not know who decides about moves, nor how workers do what they are asked.

use super::{Dataplane, Shared};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use thiserror::Error;
use vmpath_core::ids::{DiskId, PathId, UnitId, VmId, WorkerId};
use vmpath_core::migration::destination::Withdrawn;
use vmpath_core::migration::{DiskHandOver, HandOver, MoveId};
use vmpath_core::spread::spread;
use vmpath_core::time::{Duration, Instant};

/// Orders that one worker may have before it: some for each VM that may move at once, and ownership at a start.
const QUEUED_MAX: usize = 1024;

/// `ticket` is the asker's own name for it, given back in the answer; what has none is not answered.
#[derive(Clone, Debug)]
pub enum WorkerOrder {
    /// Reads the first block of each unit over each of its paths that is connected; begun after this came. Answered by
    /// [`OrderReport::Probed`], from each worker that has some of the units, after two seconds at the latest.
    Probe { ticket: u64, units: Vec<UnitId> },
    /// The VM is about to leave: its rings are stopped, or will be before `by`. What live paths finish until then is finished, the
    /// connections that carry the rest are closed, and all that is left is told by [`OrderReport::Settled`]. From now on
    /// nothing of the VM is dispatched until `Revoke`; if it could not be settled, until that was answered.
    Settle { ticket: u64, vm: VmId, by: Instant },
    /// The VM stays: its requests go on when its rings run.
    Revoke { vm: VmId },
    /// The VM runs at another host: what its hypervisor process here still asks over NBD is answered with an error, so that it can
    /// end. Ignored for a unit that this host owns.
    Left { vm: VmId },
    /// The VM will come by this move: rings of its disks are answered, and not begun before the hand-over is here and the units are
    /// owned.
    Expect { ticket: u64, vm: VmId, move_id: MoveId },
    /// What the source hands over; it is in files before it is answered.
    Offer { ticket: u64, hand_over: Arc<HandOver> },
    /// Nothing of the move is taken from now on, and its files go, unless something was taken already.
    Withdraw { ticket: u64, vm: VmId, move_id: MoveId },
    /// The move is over and nothing of it is here: the VM is not expected any more. Ignored if something is stored.
    Forget { vm: VmId, move_id: MoveId },
    /// This host owns the units.
    Own { units: Vec<UnitId> },
    /// It does not, or that is not known.
    Disown { units: Vec<UnitId> },
}

/// What came of orders.
#[derive(Clone, Debug)]
pub enum OrderReport {
    Probed {
        ticket: u64,
        units: Vec<ProbedUnit>,
    },
    /// All disks of the VM, with epoch 0 (the data plane knows none); or why not, and then its requests go on as if not asked.
    Settled {
        ticket: u64,
        disks: Result<Vec<DiskHandOver>, String>,
    },
    Revoked {
        vm: VmId,
    },
    Expected {
        ticket: u64,
        result: Result<(), String>,
    },
    Stored {
        ticket: u64,
        result: Result<(), String>,
    },
    Withdrawn {
        ticket: u64,
        withdrawn: Withdrawn,
    },
    /// The first ring of the VM has taken its part: only this host can go on.
    Taken {
        vm: VmId,
        move_id: MoveId,
    },
    /// All of what was handed over has been taken; the files are gone.
    Arrived {
        vm: VmId,
        move_id: MoveId,
    },
    /// A ring was not begun: what is open there is not what was handed over, or nothing was. Its guest waits.
    Misfit {
        disk: DiskId,
        why: String,
    },
    /// After a [`OrderReport::Misfit`]: that disk's rings have begun since, or its front end has gone.
    Fits {
        disk: DiskId,
    },
}

/// A unit as it was read by this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbedUnit {
    pub unit: UnitId,
    /// Paths over which it was read, and how long that took.
    pub read: Vec<(PathId, Duration)>,
    /// Paths with a connection over which it was not.
    pub unread: Vec<PathId>,
}

/// Why an order was not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OrderError {
    #[error("the data plane has too many orders before it")]
    Full,
    #[error("no such VM on this host")]
    NoSuchVm,
    #[error("the data plane has ended")]
    Ended,
}

pub(super) fn queue() -> (SyncSender<WorkerOrder>, Receiver<WorkerOrder>) {
    sync_channel(QUEUED_MAX)
}

impl Dataplane {
    /// Gives an order to the workers that it concerns. Returns how many that are: each gives the answer, if there is one.
    ///
    /// # Errors
    /// It was not given, or, if it concerns several workers, not to all.
    pub fn order(&self, order: WorkerOrder) -> Result<usize, OrderError> {
        let spec = Arc::clone(&self.workers[0].0.plan.load().spec);
        let of_vm = spread(&spec);
        let worker_of = |unit: UnitId| {
            let disk = spec.disk_ids().find(|disk| spec.disk(*disk).unit == unit);
            disk.map_or(WorkerId(0), |disk| of_vm[spec.disk(disk).vm.index()])
        };
        let split = |units: &[UnitId]| -> Vec<(WorkerId, Vec<UnitId>)> {
            let its = |worker| units.iter().copied().filter(|unit| worker_of(*unit) == worker).collect();
            let all = (0..self.workers.len()).map(WorkerId::at).map(|worker| (worker, its(worker)));
            all.filter(|(_, units): &(_, Vec<_>)| !units.is_empty()).collect()
        };
        let orders: Vec<(WorkerId, WorkerOrder)> = match &order {
            WorkerOrder::Probe { ticket, units } => split(units)
                .into_iter()
                .map(|(w, units)| (w, WorkerOrder::Probe { ticket: *ticket, units }))
                .collect(),
            WorkerOrder::Own { units } => {
                split(units).into_iter().map(|(w, units)| (w, WorkerOrder::Own { units })).collect()
            }
            WorkerOrder::Disown { units } => {
                split(units).into_iter().map(|(w, units)| (w, WorkerOrder::Disown { units })).collect()
            }
            WorkerOrder::Offer { hand_over, .. } => {
                let vm = spec.vm_ids().find(|vm| spec.vm(*vm).name == hand_over.vm);
                vec![(of_vm[vm.ok_or(OrderError::NoSuchVm)?.index()], order)]
            }
            WorkerOrder::Settle { vm, .. }
            | WorkerOrder::Revoke { vm, .. }
            | WorkerOrder::Left { vm, .. }
            | WorkerOrder::Expect { vm, .. }
            | WorkerOrder::Withdraw { vm, .. }
            | WorkerOrder::Forget { vm, .. } => {
                vec![(*of_vm.get(vm.index()).ok_or(OrderError::NoSuchVm)?, order)]
            }
        };
        let count = orders.len();
        for (worker, order) in orders {
            self.workers[worker.index()].0.give(order)?;
        }
        Ok(count)
    }
}

impl Shared {
    fn give(&self, order: WorkerOrder) -> Result<(), OrderError> {
        self.orders.try_send(order).map_err(|error| match error {
            TrySendError::Full(_) => OrderError::Full,
            TrySendError::Disconnected(_) => OrderError::Ended,
        })?;
        self.ring();
        Ok(())
    }
}
