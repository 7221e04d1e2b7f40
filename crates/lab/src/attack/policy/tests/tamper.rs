//! Deliberate faults between the controller and the world.

use vmpath_core::effect::{Effect, JournalEntry, JournalKind, Subject};
use vmpath_core::ids::{IncidentId, VmId};
use vmpath_core::plan::{Failing, Gate, GateReason, Health, RoutePlan};
use vmpath_core::saved::Saved;
use vmpath_core::spec::Spec;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Tamper {
    Nothing,
    /// Two plans for one event.
    PublishTwice,
    /// A `cont` for a process that nobody stopped.
    ContinueUnasked,
    ContinueAnyProcess,
    /// A `stop` that nobody is told of.
    StopUntold,
    /// The journal does not say what ends a hold.
    ForgetTheEnd,
    /// Every gate is open, whatever was decided.
    OpenEveryGate,
    /// Every gate stays shut.
    ShutEveryGate,
    FailEverybody,
    BounceEverybody,
    /// An incident's number is used again.
    SameIncident,
    /// No VM is ever continued, and nobody is told so.
    NeverContinue,
    ForgetVmsOverRestart,
    ForgetNumbersOverRestart,
    /// Somebody else is shed than was decided.
    ShedAnother,
    ShedNobody,
    /// No VM is stopped for want of a path.
    NeverStop,
    /// Paths count as up as soon as they are back.
    TrustAtOnce,
    /// Traffic belongs to every path that is up.
    FailBackAtOnce,
    /// Nobody is told of incidents.
    NoIncident,
    /// Each incident is closed in the moment of the failure.
    CloseAtOnce,
}

impl Tamper {
    pub(super) fn apply_to_saved(self, saved: &mut Saved) {
        if self == Self::ForgetVmsOverRestart {
            saved.vms.clear();
        }
        if self == Self::ForgetNumbersOverRestart {
            (saved.last_incident, saved.incidents) = (0, vec![]);
        }
    }

    pub(super) fn apply(self, effects: &mut Vec<Effect>, spec: &Spec) {
        for effect in &mut *effects {
            match effect {
                Effect::Publish(plan) => self.bend_plan(plan),
                Effect::Continue { instance, .. } if self == Self::ContinueAnyProcess => *instance += 1,
                Effect::Record(entry) => self.bend_record(entry, spec),
                Effect::Stop { .. }
                | Effect::Continue { .. }
                | Effect::Monitor { .. }
                | Effect::Cluster(_)
                | Effect::Answer { .. } => {}
            }
        }
        self.drop_some(effects);
        self.add_some(effects);
    }

    fn bend_plan(self, plan: &mut RoutePlan) {
        let because = || GateReason { incident: Some(IncidentId(1)), text: "because".into() };
        let gate = match self {
            Self::OpenEveryGate => Some(Gate::Open),
            Self::ShutEveryGate => Some(Gate::Hold(because())),
            Self::FailEverybody => Some(Gate::Fail(
                because(),
                Failing { cut_off: plan.spec.unit_ids().collect(), refused: vec![] },
            )),
            Self::BounceEverybody => Some(Gate::Bounce(because())),
            _ => None,
        };
        for vm in &mut plan.vms {
            vm.gate = gate.clone().unwrap_or_else(|| vm.gate.clone());
        }
        for path in &mut plan.paths {
            if self == Self::TrustAtOnce && path.health == Health::Marginal {
                path.health = Health::Up;
            }
            path.preferred |= self == Self::FailBackAtOnce && path.health == Health::Up;
        }
    }

    fn bend_record(self, entry: &mut JournalEntry, spec: &Spec) {
        if self == Self::ForgetTheEnd {
            entry.until = None;
        }
        if self == Self::SameIncident && entry.kind == JournalKind::IncidentOpened {
            entry.incident = Some(IncidentId(1));
        }
        if self == Self::ShedAnother && entry.reason.starts_with("shedding") {
            name_the_first(entry, spec);
        }
    }

    fn drop_some(self, effects: &mut Vec<Effect>) {
        let of = |effects: &[Effect], words: &str| -> Vec<VmId> {
            let told = effects.iter().filter_map(|effect| match effect {
                Effect::Record(entry) if entry.reason.contains(words) => Some(entry.subject),
                _ => None,
            });
            let vm = |subject| match subject {
                Subject::Vm(vm) => Some(vm),
                Subject::Host | Subject::Target(_) | Subject::Path(_) | Subject::Unit(_) => None,
            };
            told.filter_map(vm).collect()
        };
        let spared = match self {
            Self::ShedNobody => of(effects, "shedding, "),
            Self::NeverStop => of(effects, "on_no_path = "),
            _ => vec![],
        };
        effects.retain(|effect| match effect {
            Effect::Stop { vm, .. } => !spared.contains(vm),
            Effect::Continue { .. } => self != Self::NeverContinue,
            Effect::Record(entry) => {
                let is_spared = matches!(entry.subject, Subject::Vm(vm) if spared.contains(&vm));
                let is_dropped = match self {
                    Self::StopUntold => entry.kind == JournalKind::VmSuspending,
                    Self::NeverContinue => entry.kind == JournalKind::VmResuming,
                    Self::NoIncident => entry.kind == JournalKind::IncidentOpened,
                    _ => false,
                };
                !is_spared && !is_dropped
            }
            Effect::Publish(_) | Effect::Monitor { .. } | Effect::Cluster(_) | Effect::Answer { .. } => true,
        });
    }

    fn add_some(self, effects: &mut Vec<Effect>) {
        if self == Self::PublishTwice
            && let Some(Effect::Publish(plan)) = effects.first().cloned()
        {
            effects.insert(0, Effect::Publish(plan));
        }
        if self == Self::ContinueUnasked {
            effects.push(Effect::Continue { vm: VmId(0), instance: 1 });
        }
        let lost = effects.iter().find_map(|effect| match effect {
            Effect::Record(entry) if entry.kind == JournalKind::PathDown => Some(entry.clone()),
            _ => None,
        });
        if let (Self::CloseAtOnce, Some(mut entry)) = (self, lost) {
            entry.kind = JournalKind::IncidentClosed;
            effects.push(Effect::Record(entry));
        }
    }
}

/// The record names the VM of the highest priority instead.
fn name_the_first(entry: &mut JournalEntry, spec: &Spec) {
    let reserved = spec.vm_ids().filter(|vm| spec.vm(*vm).reservation.is_some());
    if let Some(vm) = reserved.max_by_key(|vm| spec.vm(*vm).priority) {
        entry.subject = Subject::Vm(vm);
    }
}
