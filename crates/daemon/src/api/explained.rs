//! The three explanations, put together: rows from the snapshot, lines from the journal, forecasts from a copy.
//!
//! Invariant: two forecasts at most for each, so that a host of a thousand VMs is explained in less than a tenth of a second.

use super::error::ApiError;
use super::events;
use super::explain::{self, Facts};
use super::numbers;
use super::routes::{Shared, shown};
use super::show::{self, Shown};
use super::{names, whatif, wire};
use crate::control::handle::{Fork, Snapshot, Unanswered};
use crate::control::journal::{Filter, Query};
use crate::sys::clock;
use std::collections::BTreeSet;
use vmpath_core::ids::{IncidentId, PathId, VmId};
use vmpath_core::plan::{Gate, Health};
use vmpath_core::view::VmState;
use vmpath_core::whatif::{Forecast, Question, ask};

/// Events shown with an explanation.
const EVENTS_EXPLAINED: usize = 20;
/// Events of a whole incident.
const EVENTS_OF_INCIDENT: usize = 1000;

pub(super) async fn vm(shared: &Shared, name: &str) -> Result<wire::Explanation, ApiError> {
    let snapshot = shared.control.snapshot();
    let shown = shown(&snapshot);
    let id = names::vm(&snapshot.host.spec, name)?;
    let Some(wire::OneVm { vm, group, .. }) = shown.one_vm(id) else { return Err(Unanswered.into()) };
    let filter = Filter { vm: Some(events::of_vm(&snapshot.host, name)), ..Filter::default() };
    let events = newest(shared, filter, EVENTS_EXPLAINED).await?;
    let forecasts = vm_forecasts(shared, &snapshot, id).await?;
    let capacity = vm_capacity(&snapshot, id);
    let paths = shown.paths().paths;
    let facts = Facts {
        at_unix_us: shown.at(),
        vm: &vm,
        group: group.as_ref(),
        paths: &paths,
        capacity: &capacity,
        forecasts: &forecasts,
        unknown: &snapshot.unknown,
    };
    let text = explain::text(&facts);
    let incident = snapshot.host.vms.get(id.index()).and_then(|view| view.incident);
    let incident = incident.and_then(|id| open_incident(&snapshot, id));
    Ok(wire::Explanation { at_unix_us: shown.at(), vm, text, capacity, forecasts, incident, events })
}

async fn newest(shared: &Shared, filter: Filter, limit: usize) -> Result<Vec<wire::Event>, ApiError> {
    let page = shared.control.events(Query { after: None, limit, filter }).await?;
    Ok(page.lines.iter().map(|line| show::event(line)).collect())
}

fn open_incident(snapshot: &Snapshot, id: IncidentId) -> Option<wire::Incident> {
    let open = snapshot.host.incidents.iter().find(|open| open.incident == id)?;
    Some(shown(snapshot).incident(open))
}

fn vm_capacity(snapshot: &Snapshot, vm: VmId) -> Vec<wire::Capacity> {
    let spec = &snapshot.host.spec;
    let is_its = |target| spec.units_of_vm(vm).any(|unit| spec.unit(unit).target == target);
    let targets = snapshot.host.capacity.iter().filter(|view| is_its(view.target));
    targets.map(|view| whatif::capacity(spec, view)).collect()
}

/// What to suppose of a VM: nothing if something is the matter already; else the loss of the path that it uses most, and of all.
fn questions(snapshot: &Snapshot, vm: VmId) -> Vec<Question> {
    let host = &snapshot.host;
    let Some(view) = host.vms.get(vm.index()) else { return vec![] };
    // What becomes of it is decided by two hosts, or by another one: a copy of this one's decisions does not know.
    if matches!(view.state, VmState::Migrating | VmState::Elsewhere) {
        return vec![];
    }
    if view.incident.is_some() || view.waits_for.is_some() || view.gate != Gate::Open {
        return vec![Question::default()];
    }
    let works = |path: &PathId| match host.paths[path.index()].health {
        Health::Up | Health::Marginal => true,
        Health::Draining | Health::Down | Health::Disabled => false,
    };
    let all: Vec<_> = host.spec.paths_of_vm(vm).filter(works).collect();
    let carries = |path: &PathId| {
        let load = snapshot.worker.as_ref().and_then(|worker| worker.paths.get(path.index()));
        load.and_then(|load| load.carried.iter().find(|(of, _)| *of == vm)).map_or(0, |(_, rate)| *rate)
    };
    // The first of those that carry the same.
    let busiest = all.iter().copied().rev().max_by_key(carries);
    let one = busiest.filter(|_| all.len() > 1).map(|path| vec![path]);
    one.into_iter().chain(Some(all).filter(|all| !all.is_empty())).map(losing).collect()
}

fn losing(lose: Vec<PathId>) -> Question {
    Question { lose, drain: vec![] }
}

async fn vm_forecasts(
    shared: &Shared,
    snapshot: &Snapshot,
    vm: VmId,
) -> Result<Vec<wire::Supposed>, ApiError> {
    let row = move |forecast: &Forecast, question: &Question| wire::Supposed {
        lose: question.lose.iter().map(|path| forecast.spec.path_name(*path)).collect(),
        vm: whatif::vm_fate(&forecast.spec, &forecast.vms[vm.index()]),
    };
    foreseen(shared, questions(snapshot, vm), row).await
}

/// Asks one copy several questions, on a thread of its own: the owner only makes the copy.
pub(super) async fn foreseen<T: Send + 'static>(
    shared: &Shared,
    questions: Vec<Question>,
    row: impl Fn(&Forecast, &Question) -> T + Send + 'static,
) -> Result<Vec<T>, ApiError> {
    if questions.is_empty() {
        return Ok(vec![]);
    }
    let _turn = shared.forecasts.acquire().await.map_err(|_| Unanswered)?;
    let Fork { controller, others } = shared.control.fork().await?;
    let now = clock::now();
    let asked = move || {
        let forecast = |question| ask((*controller).clone(), now, question, others.clone());
        questions.iter().map(|question| row(&forecast(question), question)).collect()
    };
    Ok(tokio::task::spawn_blocking(asked).await.map_err(|_| Unanswered)?)
}

pub(super) async fn path(
    shared: &Shared,
    target: &str,
    path: &str,
) -> Result<wire::PathExplanation, ApiError> {
    let snapshot = shared.control.snapshot();
    let (shown, spec) = (shown(&snapshot), &snapshot.host.spec);
    let id = names::path(spec, target, path)?;
    let name = spec.path_name(id);
    let Some(row) = shown.path(id) else { return Err(Unanswered.into()) };
    let view = &snapshot.host.paths[id.index()];
    let carries = match view.health {
        Health::Up | Health::Marginal => vec![losing(vec![id])],
        Health::Draining | Health::Down | Health::Disabled => vec![],
    };
    let lost = foreseen(shared, carries, |forecast, question| {
        let all = whatif::forecast(forecast, question);
        let vms = all.vms.into_iter().filter(|vm| !vm.stages.is_empty() || vm.reservation_met == Some(false));
        wire::IfLost { fates: all.fates, vms: vms.collect() }
    });
    let if_lost = lost.await?.pop();
    let events =
        newest(shared, Filter { path: Some(name.clone()), ..Filter::default() }, EVENTS_EXPLAINED).await?;
    let capacity = snapshot.host.capacity.iter().find(|view| view.target == spec.path(id).target);
    let capacity = capacity.map(|view| whatif::capacity(spec, view));
    let target = spec.path(id).target;
    let there = spec.disks.iter().filter(|disk| spec.unit(disk.unit).target == target).map(|disk| disk.vm);
    let users: BTreeSet<VmId> = there.filter(|vm| !spec.vm(*vm).avoid_paths.contains(&id)).collect();
    let vms: Vec<_> = users.into_iter().map(|vm| spec.vm(vm).name.clone()).collect();
    let mut text = path_text(&name, &row, &shown);
    text.extend(
        numbers::listed(vms.iter().cloned(), vms.len()).map(|names| format!("It may be used by {names}.")),
    );
    text.extend(capacity.as_ref().and_then(numbers::target_sentence));
    text.extend(if_lost.as_ref().map(|lost| numbers::if_lost(&name, lost)));
    let incident = view.incident.and_then(|id| open_incident(&snapshot, id));
    Ok(wire::PathExplanation {
        at_unix_us: shown.at(),
        path: row,
        text,
        capacity,
        vms,
        if_lost,
        incident,
        events,
    })
}

fn path_text(name: &str, row: &wire::Path, shown: &Shown<'_>) -> Vec<String> {
    let place = if row.preferred { "traffic belongs here" } else { "traffic does not belong here now" };
    let since = explain::span(shown.at().saturating_sub(row.since_unix_us));
    let mut text = vec![format!("Path {name} is {}, {}, for {since}; {place}.", row.health, row.access)];
    text.extend(row.reason.as_ref().map(|reason| format!("Why: {}.", reason.trim_end_matches('.'))));
    text.extend(row.incident.as_ref().map(|incident| format!("It belongs to incident {incident}.")));
    if row.relapses > 0 {
        text.push(format!(
            "It has relapsed {} times lately, so it must stay good for {} ms before it counts again.",
            row.relapses, row.repair_after_ms
        ));
    }
    text
}

pub(super) async fn incident(shared: &Shared, id: &str) -> Result<wire::IncidentExplanation, ApiError> {
    let id = events::incident(id)?;
    let snapshot = shared.control.snapshot();
    let events =
        newest(shared, Filter { incident: Some(id), ..Filter::default() }, EVENTS_OF_INCIDENT).await?;
    let row = match open_incident(&snapshot, id) {
        Some(open) => open,
        None => {
            let past = shared.control.past(id).await?;
            let unknown = || {
                let help = "`vmpath show incidents --all` lists those that the journal knows";
                ApiError::not_found(format!("nothing is known of incident {id}"), help)
            };
            past.map(|past| events::row(&past)).ok_or_else(unknown)?
        }
    };
    let text = incident_text(&row, &snapshot);
    Ok(wire::IncidentExplanation { at_unix_us: shown(&snapshot).at(), incident: row, text, events })
}

fn incident_text(row: &wire::Incident, snapshot: &Snapshot) -> Vec<String> {
    let shown = shown(snapshot);
    let lasted = |to: u64| explain::span(to.saturating_sub(row.opened_unix_us));
    let state = match row.closed_unix_us {
        Some(closed) if row.opened_unix_us > 0 => format!("is over; it lasted {}", lasted(closed)),
        Some(_) => "is over".into(),
        None => format!("is open, for {}", lasted(shown.at())),
    };
    let mut text = vec![format!("{} {state}: {}.", row.incident, row.summary.trim_end_matches('.'))];
    let list = |names: &[String]| numbers::listed(names.iter().cloned(), names.len());
    text.extend(list(&row.paths).map(|paths| format!("Paths: {paths}.")));
    text.extend(list(&row.vms_affected).map(|vms| format!("VMs: {vms}.")));
    let waiting = snapshot
        .host
        .vms
        .iter()
        .filter(|view| view.incident.is_some_and(|id| id.to_string() == row.incident));
    let waiting: Vec<_> = waiting
        .filter_map(|view| {
            Some(format!("{} for {}", snapshot.host.spec.vm(view.vm).name, view.waits_for.as_ref()?))
        })
        .collect();
    text.extend(list(&waiting).map(|waits| format!("Waiting: {waits}.")));
    text
}
