//! Moves, as a forecast sees them: hosts are as they say, and each step of a move succeeds at once.
//!
//! It does not know how long a guest's memory takes, nor what may fail on the way.

use crate::cluster::{Chosen, Heard, Whereto};
use crate::event::Event;
use crate::ids::{UnitId, VmId};
use crate::migration::source::{Act, Input};
use crate::migration::{Answer, DiskHandOver, MigrationState, MigrationStatus, Move, MoveId};
use crate::placement::{Claim, ClusterView, Need, place};
use crate::spec::Spec;
use std::sync::Arc;

/// The other hosts, as they describe themselves.
#[derive(Clone, Debug, Default)]
pub struct Others {
    pub view: Arc<ClusterView>,
    /// By `UnitId`, as this host's paths tell them.
    pub sizes: Vec<Option<u64>>,
}

impl Others {
    /// The best host, where it then counts for whoever comes next.
    pub(super) fn placed(&mut self, spec: &Spec, vm: VmId, whereto: &Whereto) -> Result<Chosen, String> {
        let size = |unit: UnitId| self.sizes.get(unit.index()).copied().flatten();
        let need = Need::of(spec, vm, whereto, size)?;
        let ranking = place(&need, &self.view);
        let Some(chosen) = ranking.chosen(&need, &self.view) else {
            return Err(ranking.words(&need, &self.view));
        };
        let view = Arc::make_mut(&mut self.view);
        for (target, rate) in &need.room {
            let (vm, target) = (need.vm.clone(), target.clone());
            view.claim(&Claim { vm, host: chosen.host.clone(), target, rate: *rate });
        }
        Ok(chosen)
    }
}

/// What the machine hears of an act that succeeds; none for what has no answer.
pub(super) fn obeyed(vm: VmId, move_id: MoveId, act: Act, plan: Option<&Move>) -> Option<Event> {
    let stands = |state| {
        let (ram_total, ram_remaining, transferred) = (0, 0, 0);
        Input::Hypervisor(MigrationStatus { state, ram_total, ram_remaining, transferred, downtime: None })
    };
    let input = match act {
        Act::Probe { .. } => Input::Probed(Answer::Done(())),
        Act::Claim { .. } => Input::Claimed(Answer::Done(())),
        Act::Prepare(plan) => Input::Prepared(Answer::Done(format!("a hypervisor at {}", plan.to))),
        Act::Migrate { .. } => stands(MigrationState::PreSwitchover),
        Act::Settle { .. } => Input::Settled(Ok(handed_over(plan?))),
        Act::HandOver(_) => Input::HandedOver(Answer::Done(())),
        Act::Commit { .. } => Input::Committed(Answer::Done(())),
        Act::Continue { .. } => stands(MigrationState::Completed),
        Act::Cancel { .. } => stands(MigrationState::Cancelled),
        Act::Discard { .. } => Input::Discarded(Answer::Done(())),
        Act::Unclaim
        | Act::ReadOwners { .. }
        | Act::Bump { .. }
        | Act::Own { .. }
        | Act::Disown { .. }
        | Act::Query { .. }
        | Act::Stop { .. }
        | Act::Resume { .. }
        | Act::Revoke => return None,
    };
    Some(Event::Cluster(Heard::Leaving { vm, move_id, input }))
}

fn handed_over(plan: &Move) -> Vec<DiskHandOver> {
    let disk = |disk: &crate::migration::DiskEpoch| DiskHandOver {
        disk: disk.disk.clone(),
        unit: disk.unit.unit.clone(),
        epoch: disk.unit.epoch,
        queues: vec![],
        quarantine: vec![],
    };
    plan.disks.iter().map(disk).collect()
}
