//! The addresses, and what answers at each.

use super::access::{Caller, Rule, group_id};
use super::error::ApiError;
use super::show::{self, Shown};
use super::{events, explained, moves, names, whatif, wire};
use crate::control::handle::{ControlHandle, Snapshot, Unanswered};
use crate::sys::clock;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use std::sync::Arc;
use tokio::sync::Semaphore;
use vmpath_core::event::{Command, Force};
use vmpath_core::spec::Access;
use vmpath_core::whatif::{Forecast, Question};

/// The largest body is a few words.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Past incidents that are listed at once.
const INCIDENTS_MAX: usize = 1000;

/// What every handler needs.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) control: ControlHandle,
    pub(super) daemon_uid: u32,
    pub(super) started_unix_us: u64,
    /// One forecast at a time: anybody may ask, and each takes milliseconds of a processor.
    pub(super) forecasts: Arc<Semaphore>,
}

pub(super) type Answer<T> = Result<Json<T>, ApiError>;

pub(super) fn router(shared: Shared) -> Router {
    let changes = Router::new()
        .route("/v1/paths/{target}/{path}/disable", post(disable))
        .route("/v1/paths/{target}/{path}/drain", post(drain))
        .route("/v1/paths/{target}/{path}/enable", post(enable))
        .route("/v1/paths/{target}/{path}/access", post(set_access))
        .route("/v1/vms/{name}/suspend", post(suspend))
        .route("/v1/vms/{name}/resume", post(resume))
        .route("/v1/targets/{target}/failback", post(failback))
        .route("/v1/reload", post(reload))
        .merge(moves::changes())
        .route_layer(middleware::from_fn_with_state(shared.clone(), only_who_may));
    Router::new()
        .route("/v1/host", get(host))
        .route("/v1/paths", get(paths))
        .route("/v1/vms", get(vms))
        .route("/v1/vms/{name}", get(vm))
        .route("/v1/units", get(units))
        .route("/v1/hosts", get(hosts))
        .route("/v1/migrations", get(migrations))
        .route("/v1/events", get(events))
        .route("/v1/incidents", get(incidents))
        .route("/v1/vms/{name}/explain", get(explain_vm))
        .route("/v1/paths/{target}/{path}/explain", get(explain_path))
        .route("/v1/incidents/{id}/explain", get(explain_incident))
        .route("/v1/whatif", get(what_if))
        .merge(changes)
        .method_not_allowed_fallback(wrong_method)
        .fallback(wrong_address)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shared)
}

async fn only_who_may(
    State(shared): State<Shared>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let admin_group = shared.control.snapshot().host.spec.host.admin_group.clone();
    let group = admin_group.clone();
    let allowed = tokio::task::spawn_blocking(move || {
        let rule = Rule { daemon_uid: shared.daemon_uid, admin_gid: group_id(&group) };
        rule.allows(&caller.identity())
    });
    if allowed.await.unwrap_or(false) {
        let (method, uri) = (request.method(), request.uri().path());
        tracing::info!("API: uid {} asks {method} {uri}", caller.uid);
        Ok(next.run(request).await)
    } else {
        Err(ApiError::forbidden(&admin_group))
    }
}

pub(super) const fn shown(snapshot: &Snapshot) -> Shown<'_> {
    Shown { snapshot, unix_us: clock::unix_micros }
}

async fn host(State(shared): State<Shared>) -> Json<wire::Host> {
    Json(shown(&shared.control.snapshot()).host(clock::now(), shared.started_unix_us))
}

async fn paths(State(shared): State<Shared>) -> Json<wire::Paths> {
    Json(shown(&shared.control.snapshot()).paths())
}

async fn vms(State(shared): State<Shared>) -> Json<wire::Vms> {
    Json(shown(&shared.control.snapshot()).vms())
}

async fn vm(State(shared): State<Shared>, Path(name): Path<String>) -> Answer<wire::OneVm> {
    let snapshot = shared.control.snapshot();
    let id = names::vm(&snapshot.host.spec, &name)?;
    shown(&snapshot).one_vm(id).map(Json).ok_or_else(|| Unanswered.into())
}

async fn units(State(shared): State<Shared>) -> Json<wire::Units> {
    Json(shown(&shared.control.snapshot()).units())
}

async fn hosts(State(shared): State<Shared>) -> Json<wire::Hosts> {
    Json(shown(&shared.control.snapshot()).hosts())
}

async fn migrations(State(shared): State<Shared>) -> Json<wire::Migrations> {
    Json(shown(&shared.control.snapshot()).migrations(clock::now()))
}

async fn incidents(State(shared): State<Shared>, asked: Pairs) -> Answer<wire::Incidents> {
    let pairs = pairs(asked)?;
    let snapshot = shared.control.snapshot();
    match pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect::<Vec<_>>()[..] {
        [] | [("all", "false")] => Ok(Json(shown(&snapshot).incidents())),
        [("all", "true")] => {
            let past = shared.control.incidents(INCIDENTS_MAX).await?;
            Ok(Json(events::incidents(&shown(&snapshot), past)))
        }
        _ => {
            let help = "write /v1/incidents for the open ones, /v1/incidents?all=true for all that the journal knows";
            Err(ApiError::bad_request("incidents are chosen by `all` alone", help))
        }
    }
}

type Pairs = Result<axum::extract::Query<Vec<(String, String)>>, QueryRejection>;

fn pairs(asked: Pairs) -> Result<Vec<(String, String)>, ApiError> {
    let help = "write it like /v1/events?after=57&limit=100";
    asked.map(|pairs| pairs.0).map_err(|error| ApiError::bad_request(error.body_text(), help))
}

async fn events(State(shared): State<Shared>, asked: Pairs) -> Answer<wire::Events> {
    let snapshot = shared.control.snapshot();
    let query = events::query(&snapshot.host, &pairs(asked)?)?;
    let page = shared.control.events(query.clone()).await?;
    events::known(&snapshot.host.spec, &query, &page)?;
    Ok(Json(show::events(&page, shared.started_unix_us)))
}

async fn explain_vm(State(shared): State<Shared>, Path(name): Path<String>) -> Answer<wire::Explanation> {
    explained::vm(&shared, &name).await.map(Json)
}

async fn explain_path(
    State(shared): State<Shared>,
    Path((target, path)): Path<(String, String)>,
) -> Answer<wire::PathExplanation> {
    explained::path(&shared, &target, &path).await.map(Json)
}

async fn explain_incident(
    State(shared): State<Shared>,
    Path(id): Path<String>,
) -> Answer<wire::IncidentExplanation> {
    explained::incident(&shared, &id).await.map(Json)
}

async fn what_if(State(shared): State<Shared>, asked: Pairs) -> Answer<wire::WhatIf> {
    let question = whatif::asked(&shared.control.snapshot().host.spec, &pairs(asked)?)?;
    let at = clock::unix_micros(clock::now());
    let row = move |forecast: &Forecast, question: &Question| wire::WhatIf {
        at_unix_us: Some(at),
        ..whatif::forecast(forecast, question)
    };
    let answer = explained::foreseen(&shared, vec![question], row).await?;
    answer.into_iter().next().map(Json).ok_or_else(|| Unanswered.into())
}

async fn disable(state: State<Shared>, Path((target, path)): Path<(String, String)>) -> Answer<wire::Done> {
    let id = names::path(&spec(&state), &target, &path)?;
    command(state, Command::DisablePath(id)).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DrainAsked {
    #[serde(default)]
    force: bool,
}

async fn drain(
    state: State<Shared>,
    Path((target, path)): Path<(String, String)>,
    asked: Result<axum::extract::Query<DrainAsked>, QueryRejection>,
) -> Answer<wire::Done> {
    let asked = asked.map_err(|error| {
        ApiError::bad_request(error.body_text(), "write it like …/drain?force=true; it may be left out")
    })?;
    let id = names::path(&spec(&state), &target, &path)?;
    let force = if asked.force { Force::Yes } else { Force::No };
    command(state, Command::DrainPath(id, force)).await
}

async fn enable(state: State<Shared>, Path((target, path)): Path<(String, String)>) -> Answer<wire::Done> {
    let id = names::path(&spec(&state), &target, &path)?;
    command(state, Command::EnablePath(id)).await
}

async fn set_access(
    state: State<Shared>,
    Path((target, path)): Path<(String, String)>,
    body: Bytes,
) -> Answer<wire::Done> {
    let id = names::path(&spec(&state), &target, &path)?;
    command(state, Command::SetAccess(id, access_in(&body)?)).await
}

pub(super) fn access_in(body: &[u8]) -> Result<Access, ApiError> {
    let help = r#"send {"access": "optimized"} or {"access": "non-optimized"}"#;
    let asked: wire::SetAccess = serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("the body cannot be understood: {error}"), help))?;
    [Access::Optimized, Access::NonOptimized]
        .into_iter()
        .find(|access| access.to_string() == asked.access)
        .ok_or_else(|| ApiError::bad_request(format!("`{}` is no access state", asked.access), help))
}

async fn suspend(state: State<Shared>, Path(name): Path<String>) -> Answer<wire::Done> {
    let id = names::vm(&spec(&state), &name)?;
    command(state, Command::SuspendVm(id)).await
}

async fn resume(state: State<Shared>, Path(name): Path<String>) -> Answer<wire::Done> {
    let id = names::vm(&spec(&state), &name)?;
    command(state, Command::ResumeVm(id)).await
}

async fn failback(state: State<Shared>, Path(target): Path<String>) -> Answer<wire::Done> {
    let id = names::target(&spec(&state), &target)?;
    command(state, Command::Failback(id)).await
}

fn spec(state: &State<Shared>) -> Arc<vmpath_core::spec::Spec> {
    Arc::clone(&state.control.snapshot().host.spec)
}

pub(super) async fn command(State(shared): State<Shared>, command: Command) -> Answer<wire::Done> {
    let message = shared.control.command(command).await??;
    Ok(Json(wire::Done { message, warnings: Vec::new() }))
}

async fn reload(State(shared): State<Shared>) -> Answer<wire::Done> {
    let done = shared.control.reload().await??;
    let leaving = done.leaving.into_iter().map(show::plain_fault);
    let warnings = done.warnings.into_iter().map(show::fault).chain(leaving).collect();
    Ok(Json(wire::Done { message: "the configuration is reloaded".into(), warnings }))
}

async fn wrong_address(request: Request) -> ApiError {
    ApiError::not_found(format!("nothing is at {}", request.uri().path()), "docs/api.md lists every address")
}

async fn wrong_method(request: Request) -> ApiError {
    let error = format!("{} cannot be used at {}", request.method(), request.uri().path());
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        error,
        "GET reads, POST changes; docs/api.md lists every address",
    )
}
