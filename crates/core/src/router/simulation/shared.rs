//! Disks with several writers, and fences that are confirmed: what a cluster on a better transport than NBD would see.
//!
//! Its dice are its own, so that worlds without it stay as they are.

use super::ledger::{Rule, require};
use super::rng::Rng;
use super::world::{Event, World};
use crate::plan::Gate;
use crate::router::FenceKey;
use crate::spec::Writers;
use crate::time::Duration;
use crate::volume::verdict::TargetError;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How this world differs.
#[derive(Default)]
pub(super) struct Shared {
    rng: Option<Rng>,
    /// By link that has died: what its confirmation names. Of the present process.
    fences: BTreeMap<usize, FenceKey>,
}

impl World {
    /// A world in which each disk may have several writers, and dead connections are fenced before their time.
    pub(super) fn with_several_writers(mut self, seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5aa5_ed00);
        let spec = Arc::make_mut(&mut self.scene.spec);
        for disk in &mut spec.disks {
            disk.writers = if rng.percent(70) { Writers::Many } else { Writers::One };
        }
        self.shared.rng = Some(rng);
        self.plan = self.scene.plan(1);
        self.driver.plan(self.plan.clone());
        self
    }

    pub(super) fn is_shared(&self, token: u32) -> bool {
        let disk = self.ledger.tokens[token as usize].request.disk;
        self.scene.spec.disk(disk).writers == Writers::Many
    }

    /// How long after its death a connection's ghosts can come, and when that is confirmed, if it is.
    pub(super) fn reach(&mut self) -> (Duration, bool) {
        let quiesce = self.scene.quiesce;
        let micros = u64::try_from(quiesce.as_micros()).expect("under a second");
        let confirmed =
            self.shared.rng.as_mut().and_then(|rng| rng.percent(60).then(|| rng.micros(1..micros)));
        confirmed.map_or((quiesce, false), |reach| (reach, true))
    }

    pub(super) fn await_confirmation(&mut self, link: usize, fence: Option<FenceKey>, after: Duration) {
        if let Some(fence) = fence {
            self.shared.fences.insert(link, fence);
            self.schedule(after, Event::Confirm(link));
        }
    }

    pub(super) fn confirm(&mut self, link: usize) -> bool {
        let Some(fence) = self.shared.fences.remove(&link) else { return false };
        self.tally.confirmed += 1;
        self.driver.router.fenced(fence, self.now);
        true
    }

    /// The next process has fences of its own.
    pub(super) fn forget_confirmations(&mut self) {
        self.shared.fences.clear();
    }

    /// Nobody hears of a write that may yet take effect, where others write too.
    pub(super) fn check_told_after_fence(&mut self, token: u32, result: Result<(), TargetError>) {
        let (vm, abandoned) = {
            let token = &self.ledger.tokens[token as usize];
            (token.vm, token.abandoned)
        };
        // Its hypervisor keeps what a bounce answers.
        let is_kept = result.is_err() && matches!(self.plan.vms[vm].gate, Gate::Bounce(_));
        if self.is_shared(token) && !abandoned && !is_kept {
            let haunted = self.ledger.is_haunted(token, self.now);
            let now = self.now;
            require!(self.ledger, !haunted, Rule::Unfenced, || format!(
                "write {token} of several writers ends at {now}, before its fence"
            ));
        }
    }
}
