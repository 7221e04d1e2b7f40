//! `whatif`: from names to a question, from a forecast to its row on the wire. One for the daemon's state and for a file's.
//!
//! Invariant: what is asked is a copy; nothing here can reach the controller that decides. It does not foresee anything
//! itself: see [`vmpath_core::whatif`].

use super::error::ApiError;
use super::show::millis;
use super::{names, wire};
use crate::control::journal;
use std::collections::BTreeMap;
use vmpath_core::controller::Controller;
use vmpath_core::effect::{JournalEntry, JournalKind};
use vmpath_core::ids::PathId;
use vmpath_core::policy::fit::Kept;
use vmpath_core::spec::Spec;
use vmpath_core::time::Instant;
use vmpath_core::view::{CapacityView, PartyView};
use vmpath_core::whatif::{Fate, Forecast, Question, VmForecast, ask};

/// More paths than a host has.
const NAMES_MAX: usize = 1024;

const HELP: &str = "write it like /v1/whatif?lose=san0/a&lose=san0/b, or drain=san0/a; a target's name stands for all its paths, a component's (`via`) for those through it";

/// A question that cannot be asked of this configuration; what is wrong, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}\n  help: {1}")]
pub struct AskError(pub String, pub String);

/// What would become of a host that is now as `controller` says. `lose` and `drain` are `target/path`, `target` for all its
/// paths, or a component (`via`) for all that go through it.
///
/// # Errors
/// A name that is not known, with near ones; nothing named.
pub fn answer(
    (controller, now): (Controller, Instant),
    spec: &Spec,
    lose: &[String],
    drain: &[String],
) -> Result<wire::WhatIf, AskError> {
    let question = question(spec, lose, drain).map_err(|error| {
        let (error, help) = error.into_words();
        AskError(error, help)
    })?;
    Ok(forecast(&ask(controller, now, &question, None), &question))
}

/// The text that the API would have sent.
///
/// # Errors
/// None that is known: a row of names and numbers is always JSON.
pub fn json(row: &wire::WhatIf) -> serde_json::Result<String> {
    serde_json::to_string(row)
}

/// From the pairs of an address's query.
pub(super) fn asked(spec: &Spec, pairs: &[(String, String)]) -> Result<Question, ApiError> {
    let named = |key: &str| -> Vec<String> {
        pairs.iter().filter(|(name, _)| name == key).map(|(_, value)| value.clone()).collect()
    };
    if let Some((key, _)) = pairs.iter().find(|(key, _)| key != "lose" && key != "drain") {
        return Err(ApiError::bad_request(format!("`{key}` is nothing that can be supposed"), HELP));
    }
    question(spec, &named("lose"), &named("drain"))
}

fn question(spec: &Spec, lose: &[String], drain: &[String]) -> Result<Question, ApiError> {
    if lose.is_empty() && drain.is_empty() {
        return Err(ApiError::bad_request("nothing is supposed: name a path to lose or to drain", HELP));
    }
    if lose.len() + drain.len() > NAMES_MAX {
        return Err(ApiError::bad_request(format!("at most {NAMES_MAX} names at once"), HELP));
    }
    let question = Question { lose: paths(spec, lose)?, drain: paths(spec, drain)? };
    match question.lose.iter().find(|path| question.drain.contains(path)) {
        Some(both) => {
            let error = format!("{} cannot be both lost and drained", spec.path_name(*both));
            Err(ApiError::bad_request(error, HELP))
        }
        None => Ok(question),
    }
}

/// Each once, in the order of the configuration.
fn paths(spec: &Spec, names: &[String]) -> Result<Vec<PathId>, ApiError> {
    let mut found = vec![];
    for name in names {
        match name.split_once('/') {
            Some((target, path)) => found.push(names::path(spec, target, path)?),
            None => found.extend(names::paths_through(spec, name)?),
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The row on the wire.
pub(super) fn forecast(forecast: &Forecast, question: &Question) -> wire::WhatIf {
    let spec = &*forecast.spec;
    let mut fates: BTreeMap<String, usize> = Fate::ALL.iter().map(|fate| (fate.as_str().into(), 0)).collect();
    for vm in &forecast.vms {
        *fates.entry(vm.fate.as_str().into()).or_default() += 1;
    }
    let named = |paths: &[PathId]| paths.iter().map(|path| spec.path_name(*path)).collect();
    let from = forecast.before.at;
    wire::WhatIf {
        at_unix_us: None,
        lose: named(&question.lose),
        drain: named(&question.drain),
        notes: notes(forecast),
        settled_after_ms: millis(forecast.settled_after),
        cut_short: forecast.cut_short,
        fates,
        targets: forecast.capacity.iter().map(|target| capacity(spec, target)).collect(),
        vms: forecast.vms.iter().map(|vm| vm_fate(spec, vm)).collect(),
        events: forecast.events.iter().map(|entry| event(spec, entry, from)).collect(),
    }
}

fn notes(forecast: &Forecast) -> Vec<String> {
    let spec = &*forecast.spec;
    let down = forecast.already_down.iter().map(|path| {
        let trouble = forecast.before.paths[path.index()].reason.clone();
        let trouble = trouble.unwrap_or_else(|| format!("path {} carries nothing", spec.path_name(*path)));
        format!("nothing more is lost with {}: {trouble}", spec.path_name(*path))
    });
    let refused = forecast.refused.iter().map(|(path, why)| {
        format!("draining {} would be refused, so it is left as it is: {why}", spec.path_name(*path))
    });
    let cut = "it is not known how this ends: more happens than was looked ahead".to_owned();
    down.chain(refused).chain(forecast.cut_short.then_some(cut)).collect()
}

/// A target's numbers, also for `explain`.
pub(super) fn capacity(spec: &Spec, view: &CapacityView) -> wire::Capacity {
    let party = |party: &PartyView| wire::Party {
        vm: spec.vm(party.vm).name.clone(),
        priority: spec.vm(party.vm).priority,
        reserved_bytes_per_second: party.reserved,
        kept: match party.kept {
            Kept::Stays => true,
            Kept::Leaves => false,
        },
        gets_bytes_per_second: party.gets,
    };
    wire::Capacity {
        target: spec.target(view.target).name.clone(),
        standing: view.standing.as_str().into(),
        capacity_bytes_per_second: view.configured,
        left_bytes_per_second: view.left,
        reserved_bytes_per_second: view.reserved,
        paths_up: view.up.iter().map(|path| spec.path_name(*path)).collect(),
        parties: view.parties.iter().map(party).collect(),
    }
}

pub(super) fn vm_fate(spec: &Spec, vm: &VmForecast) -> wire::VmFate {
    let row = spec.vm(vm.vm);
    let stage = |stage: &vmpath_core::whatif::Stage| wire::Stage {
        after_ms: millis(stage.after),
        fate: stage.fate.as_str().into(),
    };
    let step = |step: &vmpath_core::whatif::Step| wire::Step {
        after_ms: millis(step.after),
        kind: step.kind.as_str().into(),
        reason: step.reason.clone(),
        until: step.until.clone(),
    };
    // An order's confirmation says only how long it took: the rule stands where it was given.
    let decided = vm.stages.last().and_then(|last| vm.steps.iter().find(|step| step.after >= last.after));
    let decided = decided.or_else(|| vm.steps.last());
    // What of its policy cannot be done is the last word, if it came to that.
    let blocked = vm.steps.last().filter(|step| step.kind == JournalKind::PolicyBlocked);
    let decided = blocked.or(decided);
    wire::VmFate {
        name: row.name.clone(),
        priority: row.priority,
        before: vm.before.as_str().into(),
        fate: vm.fate.as_str().into(),
        stages: vm.stages.iter().map(stage).collect(),
        reason: decided.map(|step| step.reason.clone()),
        until: vm.waits_for.clone(),
        paths: vm.paths.iter().map(|path| spec.path_name(*path)).collect(),
        cut_off_units: vm.cut_off.iter().map(|unit| spec.unit_name(*unit)).collect(),
        reservation_bytes_per_second: vm.floor.map(|floor| floor.reserved),
        reservation_met: vm.floor.map(|floor| floor.gets >= floor.reserved),
        gets_of_reservation_bytes_per_second: vm.floor.map(|floor| floor.gets),
        entitled_bytes_per_second: vm.entitled,
        steps: vm.steps.iter().map(step).collect(),
    }
}

fn event(spec: &Spec, entry: &JournalEntry, from: Instant) -> wire::ForecastEvent {
    let (kind, name) = journal::subject(entry.subject, spec);
    wire::ForecastEvent {
        after_ms: millis(entry.at.since(from)),
        kind: entry.kind.as_str().into(),
        subject: wire::Subject { kind: kind.as_str().into(), name },
        reason: entry.reason.clone(),
        until: entry.until.clone(),
    }
}
