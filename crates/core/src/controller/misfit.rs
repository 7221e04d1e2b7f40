//! Disks whose guest waits because what is open in its rings is not what was handed over.
//!
//! Invariant: such a disk is told of once, and named with what ends its wait for as long as that lasts. Rejected: to suspend the
//! VM; it hangs already, and its other disks may be good. It does not know rings.

use super::Controller;
use crate::effect::{JournalKind, Subject};
use crate::ids::{DiskId, VmId};

/// What ends it: a driver that begins anew has nothing open.
const UNTIL: &str = "its guest to reset that device, or the VM to be restarted";

impl Controller {
    /// `why`: none when it waits no more.
    pub(super) fn misfit(&mut self, disk: DiskId, why: Option<String>) {
        if disk.index() >= self.spec.disks.len() {
            return;
        }
        let vm = self.spec.disk(disk).vm;
        let misfits = &mut self.vms[vm.index()].misfits;
        let known = misfits.iter().position(|(its, _)| *its == disk);
        match (known, why) {
            (None, Some(why)) => {
                misfits.push((disk, why));
                let reason = self.misfit_words(vm).pop().unwrap_or_default();
                let until = Some(UNTIL.to_owned());
                self.record_until(JournalKind::MigrationHeld, Subject::Vm(vm), None, (reason, until));
            }
            (Some(at), None) => drop(misfits.remove(at)),
            // Another of its rings, or told before.
            (Some(_), Some(_)) | (None, None) => {}
        }
    }

    pub(super) fn misfit_words(&self, vm: VmId) -> Vec<String> {
        let words = |(disk, why): &(DiskId, String)| {
            let name = &self.spec.disk(*disk).name;
            format!(
                "its disk {name} has come with other requests than were handed over, and they are held: {why}"
            )
        };
        self.vms[vm.index()].misfits.iter().map(words).collect()
    }

    pub(super) fn misfit_wait(&self, vm: VmId) -> Option<String> {
        (!self.vms[vm.index()].misfits.is_empty()).then(|| UNTIL.to_owned())
    }
}
