//! Gates: shut for whom a rule forbids routing, open for whom nothing does.
//!
//! It does not know when a gate has to change: a plan comes with the decision, so there is nothing to wait for.

use super::facts::Facts;
use super::story::Ours;
use super::words::Cause;
use super::{Verdict, broken};
use vmpath_core::event::StopsOnError;
use vmpath_core::ids::VmId;
use vmpath_core::plan::Gate;
use vmpath_core::spec::{OnPathLoss, Presence};
use vmpath_core::time::{Duration, Instant};

/// A VM that stopped on an EIO may still be draining for our `stop`.
const SETTLES_WITHIN: Duration = Duration::from_secs(5);

/// At the end of a batch, for each VM of the plan in force.
pub(super) fn settled(facts: &Facts, now: Instant) -> Verdict {
    for vm in facts.spec.vm_ids().take(facts.gates.len()) {
        if facts.spec.vm(vm).presence == Presence::Present {
            reason(facts, vm)?;
            shut(facts, vm, now)?;
            open(facts, vm)?;
        }
    }
    Ok(())
}

fn reason(facts: &Facts, vm: VmId) -> Verdict {
    let (gate, name) = (&facts.gates[vm.index()], facts.vm_name(vm));
    match gate {
        Gate::Open => Ok(()),
        Gate::Hold(reason) | Gate::Fail(reason, _) | Gate::Bounce(reason) if reason.text.is_empty() => {
            broken("gate", format!("{name}'s gate is shut without a reason"))
        }
        Gate::Hold(_) | Gate::Fail(..) => Ok(()),
        Gate::Bounce(_) => {
            let stops = facts.story(vm).monitor.is_some_and(|m| m.stops == StopsOnError::Yes);
            if stops { Ok(()) } else { broken("gate", format!("EIO for {name}, which may not stop on it")) }
        }
    }
}

fn shut(facts: &Facts, vm: VmId, now: Instant) -> Verdict {
    let (story, name) = (facts.story(vm), facts.vm_name(vm));
    let is_shut = match &facts.gates[vm.index()] {
        Gate::Hold(_) | Gate::Bounce(_) => true,
        Gate::Open | Gate::Fail(..) => false,
    };
    let forbids =
        facts.spec.vm(vm).on_path_loss == OnPathLoss::Suspend && story.cause == Some(Cause::PathLoss);
    // After a restart that has forgotten it, `forgotten` is the rule.
    let is_known = story.ours_since >= facts.fresh_since;
    let must = match story.ours {
        // Without any path its ladder governs.
        Ours::Held => forbids && is_known && facts.network.serves(&facts.spec, vm),
        Ours::Stopping => forbids && is_known,
        Ours::Stopped { since } => is_known && now.since(since) > SETTLES_WITHIN,
        Ours::Nothing | Ours::Withdrawn { .. } | Ours::Continuing | Ours::Proving { .. } => false,
    };
    if must && !is_shut {
        let text = format!("{name} is {:?} for {:?}, and its gate is open", story.ours, story.cause);
        return broken("gate", text);
    }
    Ok(())
}

fn open(facts: &Facts, vm: VmId) -> Verdict {
    let story = facts.story(vm);
    let is_free = story.is_free() || story.ours == Ours::Continuing;
    let gate = &facts.gates[vm.index()];
    // A target that refuses everything is another lack than that of a path: see `hold`.
    let refuses =
        matches!(gate, Gate::Fail(_, failing) if failing.cut_off.is_empty() && !failing.refused.is_empty());
    if is_free && !refuses && facts.network.serves(&facts.spec, vm) && *gate != Gate::Open {
        let text = format!("{} has its paths, nothing holds it, and its gate is {gate:?}", facts.vm_name(vm));
        return broken("gate", text);
    }
    Ok(())
}
