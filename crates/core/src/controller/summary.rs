//! What the other hosts are told of this one, and what an operator is told of moves.
//!
//! Invariant: nothing in a summary changes from second to second, so that a host at rest says nothing.
//! It does not know how it is told.

use super::Controller;
use crate::ids::{PathId, TargetId, UnitId, VmId};
use crate::migration::{Move, MoveId, destination, source};
use crate::path::{Link, PathState};
use crate::placement::{Accepts, HostSummary, TargetSummary, UnitSummary, VmPlace, VmSummary};
use crate::policy::{Place, Run};
use crate::spec::{ClusterSpec, Presence};
use crate::time::{Duration, Instant};
use crate::view::{MoveEnd, MoveSide, MoveView, TransferView};
use std::collections::VecDeque;

/// Moves that are over and can still be shown; the journal knows of more.
const PAST_MAX: usize = 64;

#[derive(Clone, Debug, Default)]
pub(super) struct Past(VecDeque<MoveView>);

impl Past {
    pub(super) fn add(&mut self, over: MoveView) {
        self.0.push_back(over);
        if self.0.len() > PAST_MAX {
            self.0.pop_front();
        }
    }
}

impl Controller {
    /// `size`: of a unit, as its paths tell it.
    #[must_use]
    pub fn summary(&self, cluster: &ClusterSpec, size: impl Fn(UnitId) -> Option<u64>) -> HostSummary {
        let spec = &self.spec;
        let targets = (0..spec.targets.len()).map(TargetId::at);
        HostSummary {
            host: spec.host.name.clone(),
            version: crate::VERSION.into(),
            peer: cluster.peer.address,
            accepts: self.accepts(cluster),
            targets: targets.map(|target| self.target_summary(target, &size)).collect(),
            vms: self.spec.vm_ids().filter_map(|vm| self.vm_summary(vm)).collect(),
        }
    }

    pub(super) fn accepts(&self, cluster: &ClusterSpec) -> Accepts {
        let sheds = |vm: &super::Vm| match &vm.guest.run {
            Run::Suspending { cause, .. } | Run::Suspended { cause, .. } => cause.sheds(),
            Run::Free { .. }
            | Run::Held { .. }
            | Run::Withdrawing { .. }
            | Run::Resuming { .. }
            | Run::Proving { .. } => false,
        };
        let leaves = |vm: &super::Vm| matches!(vm.travel.place, Place::Leaving { .. });
        if self.vms.iter().any(sheds) {
            return Accepts::No("it sheds VMs itself".into());
        }
        if self.vms.iter().any(leaves) {
            return Accepts::No("VMs are just leaving it".into());
        }
        let moving = self.vms.iter().filter(|vm| vm.travel.is_moving()).count();
        if moving >= usize::from(cluster.migration.max) {
            return Accepts::No("as many moves as it takes are under way".into());
        }
        Accepts::Yes
    }

    fn target_summary(&self, target: TargetId, size: impl Fn(UnitId) -> Option<u64>) -> TargetSummary {
        let spec = &self.spec;
        let good = |path: &PathId| matches!(self.network.state(*path), PathState::Active { .. });
        let of_target = |path: &PathId| spec.path(*path).target == target;
        let up: Vec<PathId> = spec.path_ids().filter(of_target).filter(good).collect();
        let lost = |path: &PathId| match self.network.state(*path) {
            PathState::Connecting { .. }
            | PathState::Down { .. }
            | PathState::Probation { .. }
            | PathState::Repaired { .. } => true,
            PathState::Active { .. } | PathState::Draining { .. } | PathState::Disabled { .. } => false,
        };
        let leads = |path: PathId, unit| matches!(self.network.link(path, unit), Some(Link::Up { .. }));
        let unit = |unit: UnitId| UnitSummary {
            unit: spec.unit(unit).name.clone(),
            size: size(unit),
            paths_up: up
                .iter()
                .filter(|path| leads(**path, unit))
                .map(|path| spec.path(*path).name.clone())
                .collect(),
        };
        let served = |vm: &VmId| self.will_be_served(*vm);
        let its = |vm: VmId| crate::placement::room_of(spec, vm).into_iter();
        let name = &spec.target(target).name;
        let reserved = spec.vm_ids().filter(served).flat_map(its).filter(|need| need.target == *name);
        TargetSummary {
            target: name.clone(),
            capacity: self.carried_by(&up),
            reserved: reserved.map(|need| need.rate).sum(),
            lost: spec.path_ids().filter(of_target).filter(lost).count() as u32,
            units: spec.unit_ids().filter(|u| spec.unit(*u).target == target).map(unit).collect(),
        }
    }

    /// Its units are this host's, or will be when it has come.
    pub(super) fn will_be_served(&self, vm: VmId) -> bool {
        self.is_served(vm) || self.arriving_plan(vm).is_some()
    }

    /// Its units are this host's.
    fn is_served(&self, vm: VmId) -> bool {
        self.spec.units_of_vm(vm).any(|unit| self.owner(unit).may_dispatch())
    }

    fn vm_summary(&self, vm: VmId) -> Option<VmSummary> {
        let its = self.spec.vm(vm);
        let place = match (self.is_served(vm), &its.launch) {
            (true, _) => VmPlace::Here,
            (false, Some(_)) => VmPlace::Launchable,
            (false, None) => VmPlace::Known,
        };
        (its.presence == Presence::Present).then(|| VmSummary {
            name: its.name.clone(),
            priority: its.priority,
            reservation: its.reservation.map(|rate| rate.0),
            place,
        })
    }

    /// It is on its way, and its move decides about its units.
    #[must_use]
    pub fn is_moving(&self, vm: VmId) -> bool {
        match self.vms.get(vm.index()).map(|vm| &vm.travel.place) {
            Some(Place::Leaving { .. } | Place::Arriving(_)) => true,
            Some(Place::Here | Place::Placing { .. } | Place::Elsewhere { .. }) | None => false,
        }
    }

    /// Where its move has given a VM's units to, while this end cannot finish without the other.
    #[must_use]
    pub fn given_to(&self, vm: VmId) -> Option<&str> {
        let Place::Leaving { machine, .. } = &self.vms.get(vm.index())?.travel.place else { return None };
        machine.has_given().then_some(machine.plan().to.as_str())
    }

    /// The VM that comes here by this move.
    #[must_use]
    pub fn arriving(&self, id: &MoveId) -> Option<VmId> {
        self.spec.vm_ids().find(|vm| self.arriving_plan(*vm).is_some_and(|plan| plan.id == *id))
    }

    /// By which move a VM comes here.
    #[must_use]
    pub fn arriving_plan(&self, vm: VmId) -> Option<&Move> {
        match &self.vms.get(vm.index())?.travel.place {
            Place::Arriving(machine) => Some(machine.plan()),
            Place::Here | Place::Placing { .. } | Place::Leaving { .. } | Place::Elsewhere { .. } => None,
        }
    }

    /// By which move a VM leaves.
    #[must_use]
    pub fn leaving_plan(&self, vm: VmId) -> Option<&Move> {
        match &self.vms.get(vm.index())?.travel.place {
            Place::Leaving { machine, .. } => Some(machine.plan()),
            Place::Here | Place::Placing { .. } | Place::Arriving(_) | Place::Elsewhere { .. } => None,
        }
    }

    /// How far it has come, in one word.
    #[must_use]
    pub fn arriving_state(&self, vm: VmId) -> &'static str {
        match self.vms.get(vm.index()).map(|vm| &vm.travel.place) {
            Some(Place::Arriving(machine)) => machine.state().word(),
            Some(Place::Here | Place::Placing { .. } | Place::Leaving { .. } | Place::Elsewhere { .. })
            | None => "not coming",
        }
    }

    /// Those under way first, then those that are over, the latest first.
    pub(super) fn move_views(&self) -> Vec<MoveView> {
        let under_way = self.spec.vm_ids().filter_map(|vm| match &self.vms[vm.index()].travel.place {
            Place::Leaving { machine, .. } => Some(MoveView {
                transfer: machine.transfer().map(|(sent, left)| TransferView { sent, left }),
                ..self.under_way(machine.plan(), MoveSide::Source, machine.began(), machine.state().word())
            }),
            Place::Arriving(machine) => Some(self.under_way(
                machine.plan(),
                MoveSide::Destination,
                machine.began(),
                machine.state().word(),
            )),
            Place::Here | Place::Placing { .. } | Place::Elsewhere { .. } => None,
        });
        under_way.chain(self.past.0.iter().rev().cloned()).collect()
    }

    fn under_way(&self, plan: &Move, side: MoveSide, began: Instant, state: &'static str) -> MoveView {
        MoveView {
            id: plan.id.clone(),
            vm: plan.vm.clone(),
            from: plan.from.clone(),
            to: plan.to.clone(),
            side,
            state,
            began,
            rule: plan.rule.clone(),
            incident: plan.incident.clone(),
            transfer: None,
            end: None,
        }
    }

    /// To be called with each step's outcome, while the machine is still there.
    pub(super) fn remember_left(&mut self, machine: &source::Source, outcome: &source::Outcome) {
        let (why, downtime): (_, Option<Duration>) = match outcome {
            source::Outcome::Stayed { why } => (Some(why.clone()), None),
            source::Outcome::Moved { downtime } => (None, *downtime),
        };
        let view = self.under_way(machine.plan(), MoveSide::Source, machine.began(), machine.state().word());
        self.past.add(MoveView { end: Some(MoveEnd { at: self.now, why, downtime }), ..view });
    }

    pub(super) fn remember_come(
        &mut self,
        machine: &destination::Destination,
        outcome: &destination::Outcome,
    ) {
        let why = match outcome {
            destination::Outcome::Arrived => None,
            destination::Outcome::Discarded { why } | destination::Outcome::GivenBack { why } => {
                Some(why.clone())
            }
        };
        let view =
            self.under_way(machine.plan(), MoveSide::Destination, machine.began(), machine.state().word());
        self.past.add(MoveView { end: Some(MoveEnd { at: self.now, why, downtime: None }), ..view });
    }
}
