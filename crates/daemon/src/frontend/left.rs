//! NBD clients that a VM has left behind: what its hypervisor process here still asks is answered with an error.
//!
//! A process that ends flushes its disks first and waits for the answer. They are another host's by then, so the flush would be
//! held for ever, and the process with it. Invariant: only for units that this host does not dispatch for, so that nothing that
//! was ever answered is taken back. Rejected: a gate for the whole VM, which would also answer a guest that is started here anew and
//! shall wait; and to close the connections, since QEMU comes again and asks again.
//! It does not know vhost-user front ends (QEMU closes those without a question), nor who says that the VM has left.

use super::{Body, Head, Name, NbdRequest, Payload, Phase, Worker};
use vmpath_core::ids::{DiskId, UnitId, VmId};
use vmpath_core::time::{Duration, Instant};
use vmpath_protocol::nbd::NbdError;

/// A process that has lost its connection, as over a restart of vmpath, is back within this: QEMU tries every 16 s at least.
const COMES_AGAIN: Duration = Duration::from_secs(30);

/// Whose a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// A guest's, or anybody's.
    Served,
    /// Of a process whose VM runs at another host.
    LeftBehind,
}

/// A VM that has left a process behind, whose clients may still come.
#[derive(Debug)]
pub(super) struct Left {
    vm: VmId,
    until: Instant,
}

impl Worker {
    /// The VM runs at another host, and its process here is to end.
    pub(crate) fn left(&mut self, vm: VmId) {
        if let Some(disk) = self.disks_of(vm).into_iter().find(|disk| self.is_dispatched_for(*disk)) {
            tracing::error!(
                disk = self.disk_name(disk),
                "what its VM has left behind is not answered with errors: the unit is this host's"
            );
            return;
        }
        self.comes_anew(vm);
        self.moves.left.push(Left { vm, until: self.now + COMES_AGAIN });
        let its = |disk: DiskId| self.plan.spec.disk(disk).vm == vm;
        let all = self.fronts.fronts.iter();
        let fronts: Vec<usize> = all.filter(|(_, front)| its(front.disk)).map(|(index, _)| index).collect();
        for index in fronts {
            self.leave_behind(index);
        }
    }

    fn is_dispatched_for(&self, disk: DiskId) -> bool {
        self.router.is_owned(self.plan.spec.disk(disk).unit)
    }

    fn leave_behind(&mut self, index: usize) {
        let front = &mut self.fronts.fronts[index];
        front.standing = Standing::LeftBehind;
        let (disk, open) = (front.disk, front.open.clone());
        tracing::info!(
            disk = self.disk_name(disk),
            open = open.len(),
            "its VM has left: what this client asks is answered with errors"
        );
        for token in open {
            let key = self.requests.table[token as usize].key;
            self.router.abandon(key, token);
        }
    }

    /// Whose a client is that has just connected.
    pub(super) fn standing_of(&self, disk: DiskId) -> Standing {
        let vm = self.plan.spec.disk(disk).vm;
        let is_left = self.moves.left.iter().any(|left| left.vm == vm && self.now < left.until);
        if is_left && !self.is_dispatched_for(disk) { Standing::LeftBehind } else { Standing::Served }
    }

    /// Whoever connects from now on is another process.
    pub(super) fn comes_anew(&mut self, vm: VmId) {
        let now = self.now;
        self.moves.left.retain(|left| left.vm != vm && now < left.until);
    }

    /// The same for VMs whose units are this host's again.
    pub(super) fn come_anew(&mut self, units: &[UnitId]) {
        for at in 0..units.len() {
            let spec = &self.plan.spec;
            let vms: Vec<VmId> = spec
                .disk_ids()
                .filter(|disk| spec.disk(*disk).unit == units[at])
                .map(|disk| spec.disk(disk).vm)
                .collect();
            vms.into_iter().for_each(|vm| self.comes_anew(vm));
        }
    }

    /// Answers a request of a client that was left behind; the router does not see it.
    pub(super) fn refuse(&mut self, index: usize, request: &NbdRequest, payload: Payload) {
        let front = &mut self.fronts.fronts[index];
        if let Payload::Buffer(buffer) = &payload {
            front.open_bytes -= buffer.len();
        }
        if let Phase::Session(session) = &front.phase {
            let head = session.style.status(request.command, request.cookie, Err(NbdError::Shutdown));
            front.stream.push(Name::default(), Head::new(head.as_bytes()), Body::None);
            self.fronts.dirty.push(index);
        }
        self.recycle(payload);
    }
}
