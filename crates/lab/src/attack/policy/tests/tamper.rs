//! Deliberate faults between the controller and the world.

use vmpath_core::effect::{Effect, JournalKind};
use vmpath_core::ids::{IncidentId, VmId};
use vmpath_core::plan::{Gate, GateReason};
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
    /// Paths count as up as soon as they are back.
    TrustAtOnce,
    CloseNoIncident,
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
        let because = || GateReason { incident: Some(IncidentId(1)), text: "because".into() };
        for effect in &mut *effects {
            match effect {
                Effect::Publish(plan) => {
                    let gate = match self {
                        Self::OpenEveryGate => Gate::Open,
                        Self::ShutEveryGate => Gate::Hold(because()),
                        Self::FailEverybody => Gate::Fail(because()),
                        Self::BounceEverybody => Gate::Bounce(because()),
                        _ => continue,
                    };
                    plan.vms.iter_mut().for_each(|vm| vm.gate = gate.clone());
                }
                Effect::Continue { instance, .. } if self == Self::ContinueAnyProcess => *instance += 1,
                Effect::Record(entry) => match self {
                    Self::ForgetTheEnd => entry.until = None,
                    Self::SameIncident if entry.kind == JournalKind::IncidentOpened => {
                        entry.incident = Some(IncidentId(1));
                    }
                    Self::ShedAnother if entry.reason.starts_with("shedding") => swap(entry, spec),
                    _ => {}
                },
                _ => {}
            }
        }
        match self {
            Self::PublishTwice => {
                if let Some(Effect::Publish(plan)) = effects.first().cloned() {
                    effects.insert(0, Effect::Publish(plan));
                }
            }
            Self::ContinueUnasked => effects.push(Effect::Continue { vm: VmId(0), instance: 1 }),
            Self::StopUntold => {
                effects.retain(|e| !matches!(e, Effect::Record(r) if r.kind == JournalKind::VmSuspending));
            }
            Self::NeverContinue => effects.retain(|e| {
                let is_told = matches!(e, Effect::Record(r) if r.kind == JournalKind::VmResuming);
                !is_told && !matches!(e, Effect::Continue { .. })
            }),
            Self::TrustAtOnce => {
                if let Some(Effect::Publish(plan)) = effects.first_mut() {
                    for path in &mut plan.paths {
                        if path.health == vmpath_core::plan::Health::Marginal {
                            path.health = vmpath_core::plan::Health::Up;
                        }
                    }
                }
            }
            Self::CloseNoIncident => {
                effects.retain(|e| !matches!(e, Effect::Record(r) if r.kind == JournalKind::IncidentOpened));
            }
            _ => {}
        }
    }
}

/// The record names the VM that is first in the order of priority instead.
fn swap(entry: &mut vmpath_core::effect::JournalEntry, spec: &Spec) {
    let best = spec.vm_ids().filter(|vm| spec.vm(*vm).reservation.is_some());
    if let Some(vm) = best.max_by_key(|vm| spec.vm(*vm).priority) {
        entry.subject = vmpath_core::effect::Subject::Vm(vm);
    }
}
