//! The changes that concern other hosts: a VM is moved, sent home, or kept; a dead host's disk is taken over.
//!
//! Invariant: what cannot be meant is refused here, before anything is asked: a host that nobody knows, a disk that is not that
//! host's, a host that is alive. Whether it can be done now is for the owner to say.

use super::error::ApiError;
use super::routes::{Answer, Shared, command};
use super::{names, wire};
use crate::control::handle::{Begun, Confirmed, Snapshot};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use vmpath_core::event::Command;
use vmpath_core::ids::DiskId;
use vmpath_core::spec::Writers;

pub(super) fn changes() -> Router<Shared> {
    Router::new()
        .route("/v1/vms/{name}/migrate", post(migrate))
        .route("/v1/vms/{name}/migrate/cancel", post(cancel))
        .route("/v1/vms/{name}/return", post(return_home))
        .route("/v1/disks/{vm}/{disk}/takeover", post(takeover))
}

type Asked<T> = Result<Query<T>, QueryRejection>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MigrateAsked {
    to: Option<String>,
}

async fn migrate(
    state: State<Shared>,
    Path(name): Path<String>,
    asked: Asked<MigrateAsked>,
) -> Answer<wire::Done> {
    let asked = asked.map_err(|error| {
        ApiError::bad_request(error.body_text(), "write it like …/migrate?to=kvm2; it may be left out")
    })?;
    let snapshot = state.control.snapshot();
    let vm = names::vm(&snapshot.host.spec, &name)?;
    in_a_cluster(&snapshot)?;
    let Query(MigrateAsked { to }) = asked;
    if let Some(to) = &to {
        names::host(&snapshot.hosts, to)?;
    }
    command(state, Command::MigrateVm { vm, to }).await
}

async fn return_home(state: State<Shared>, Path(name): Path<String>) -> Answer<wire::Done> {
    let snapshot = state.control.snapshot();
    let vm = names::vm(&snapshot.host.spec, &name)?;
    in_a_cluster(&snapshot)?;
    command(state, Command::ReturnVm(vm)).await
}

async fn cancel(state: State<Shared>, Path(name): Path<String>) -> Answer<wire::Done> {
    let vm = names::vm(&state.control.snapshot().host.spec, &name)?;
    command(state, Command::CancelMigration(vm)).await
}

/// Of a take-over.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TakeoverAsked {
    pub(super) from: String,
    pub(super) confirmed_dead: Option<String>,
    /// The VM's name, if it is known not to have begun where its move has given it.
    pub(super) never_ran_there: Option<String>,
}

async fn takeover(
    State(shared): State<Shared>,
    Path((vm, disk)): Path<(String, String)>,
    asked: Asked<TakeoverAsked>,
) -> Answer<wire::Done> {
    let Query(asked) = asked.map_err(|error| {
        ApiError::bad_request(error.body_text(), "write it like …/takeover?from=kvm2&confirmed_dead=kvm2")
    })?;
    let snapshot = shared.control.snapshot();
    let begun = begun(&vm, asked.never_ran_there.as_deref())?;
    let disk = names::disk(&snapshot.host.spec, &vm, &disk)?;
    let confirmed = confirmed(&snapshot, disk, &asked)?;
    let message = shared.control.take_over(disk, asked.from, (confirmed, begun)).await??;
    Ok(Json(wire::Done { message, warnings: Vec::new() }))
}

fn begun(vm: &str, never: Option<&str>) -> Result<Begun, ApiError> {
    match never {
        None => Ok(Begun::Perhaps),
        Some(name) if name == vm => Ok(Begun::Never),
        Some(name) => Err(ApiError::bad_request(
            format!("a disk of {vm} is to be taken, and {name} is said never to have run there"),
            "--never-ran-there repeats the VM's name, when you have seen that it cannot have run on the dead host",
        )),
    }
}

fn conflict(error: impl Into<String>, help: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, error, help)
}

fn in_a_cluster(snapshot: &Snapshot) -> Result<(), ApiError> {
    let help = "[cluster] in its configuration makes it one of several: see docs/cluster.md";
    let is_alone = snapshot.host.spec.cluster.is_none();
    if is_alone { Err(conflict("this host belongs to no cluster", help)) } else { Ok(()) }
}

/// What will make sure that `from` writes no more.
///
/// # Errors
/// Nothing would; or the disk cannot be taken from that host.
pub(super) fn confirmed(
    snapshot: &Snapshot,
    disk: DiskId,
    asked: &TakeoverAsked,
) -> Result<Confirmed, ApiError> {
    in_a_cluster(snapshot)?;
    let spec = &snapshot.host.spec;
    let (from, name) = (&asked.from, spec.disk_name(disk));
    let unit = spec.unit_name(spec.disk(disk).unit);
    let show = "`vmpath show disks` tells who owns each disk, `vmpath show hosts` who is alive";
    if spec.disk(disk).writers == Writers::Many {
        return Err(conflict(format!("{name} has several writers, and so no owner"), show));
    }
    if *from == spec.host.name {
        return Err(conflict(format!("{from} is this host: nothing is taken over from oneself"), show));
    }
    match snapshot.hosts.owner(&unit).and_then(|row| row.owner.as_ref()) {
        Some(owner) if owner == from => {}
        Some(owner) => {
            return Err(conflict(format!("{name} ({unit}) is owned by {owner}, and not by {from}"), show));
        }
        // It is read again before anything is changed.
        None => {}
    }
    let is_alive = snapshot.hosts.host(from).is_some();
    match (&asked.confirmed_dead, &spec.host.fence_command) {
        (Some(dead), _) if dead != from => Err(ApiError::bad_request(
            format!("the disk is to be taken from {from}, and {dead} is said to be dead"),
            "--confirmed-dead repeats the name of --from, when you have seen that this host is off",
        )),
        (Some(_), _) if is_alive => Err(conflict(
            format!("{from} is not dead: its daemon has been heard within its lease"),
            "if it has just been turned off, try again when its lease is over (10 s unless configured); if it is sick, turn \
             it off; if it is well, move the VM: `vmpath vm migrate` there",
        )),
        (Some(_), _) => Ok(Confirmed::ByOperator),
        (None, Some(_)) => Ok(Confirmed::ByFenceCommand),
        (None, None) => Err(conflict(
            format!("nothing makes sure that {from} writes no more"),
            format!(
                "a host that does not answer may be cut off and still write, and two writers destroy the disk. Turn {from} \
                 off, see that it is off, and say so: --confirmed-dead {from}; or configure `fence_command` in [host]"
            ),
        )),
    }
}
