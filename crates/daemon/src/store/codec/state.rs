//! The controller's saved state as bytes. One function to write and one to read for each type, side by side.

use super::bytes::{Corrupt, Reader, Writer};
use std::time::Duration;
use vmpath_core::event::Fault;
use vmpath_core::ids::{IncidentId, PathId, TargetId, UnitId};
use vmpath_core::path::{Damping, Drain, PathState};
use vmpath_core::policy::{
    Cause, Dwell, Lack, Ladder, LateStop, Loss, Outstanding, Retell, Run, StopOrder, Why,
};
use vmpath_core::saved::{Names, Saved, SavedIncident, SavedLink, SavedPath, SavedVm};
use vmpath_core::spec::{Access, NoPathAction};
use vmpath_core::time::Instant;

pub(super) type Read<T> = Result<T, Corrupt>;

pub(in super::super) fn encode_saved(saved: &Saved) -> Vec<u8> {
    let mut w = Writer::default();
    for names in [&saved.names.targets, &saved.names.paths, &saved.names.units] {
        w.list(names, |w, name| w.text(name));
    }
    w.u64(saved.last_incident);
    w.list(&saved.incidents, write_incident);
    w.list(&saved.paths, write_path);
    w.list(&saved.links, write_link);
    w.list(&saved.vms, write_vm);
    w.done()
}

/// # Errors
/// These bytes are no state of that schema, or of none that is known.
pub(in super::super) fn decode_saved(bytes: &[u8], schema: u64) -> Read<Saved> {
    let mut r = Reader::new(bytes, schema);
    let names = Names { targets: r.list(owned)?, paths: r.list(owned)?, units: r.list(owned)? };
    let saved = Saved {
        names,
        last_incident: r.u64()?,
        incidents: r.list(read_incident)?,
        paths: r.list(read_path)?,
        links: r.list(read_link)?,
        vms: r.list(read_vm)?,
    };
    r.end()?;
    Ok(saved)
}

pub(super) fn owned(r: &mut Reader<'_>) -> Read<String> {
    r.text().map(str::to_owned)
}

pub(super) fn write_time(w: &mut Writer, at: Instant) {
    w.u64(at.as_nanos());
}

pub(super) fn read_time(r: &mut Reader<'_>) -> Read<Instant> {
    r.u64().map(Instant::from_nanos)
}

fn read_path_id(r: &mut Reader<'_>) -> Read<PathId> {
    r.u16().map(PathId)
}

pub(super) fn write_incident_id(w: &mut Writer, id: IncidentId) {
    w.u64(id.0);
}

pub(super) fn read_incident_id(r: &mut Reader<'_>) -> Read<IncidentId> {
    r.u64().map(IncidentId)
}

fn write_incident(w: &mut Writer, incident: &SavedIncident) {
    write_incident_id(w, incident.id);
    w.u16(incident.target.0);
    w.list(&incident.also, |w, target| w.u16(target.0));
    write_time(w, incident.opened);
    w.list(&incident.failures, |w, (path, what)| {
        w.option(*path, |w, path| w.u16(path.0));
        w.text(what);
    });
}

fn read_incident(r: &mut Reader<'_>) -> Read<SavedIncident> {
    Ok(SavedIncident {
        id: read_incident_id(r)?,
        target: TargetId(r.u16()?),
        also: if r.schema() > 1 { r.list(|r| r.u16().map(TargetId))? } else { vec![] },
        opened: read_time(r)?,
        failures: r.list(|r| Ok((r.option(read_path_id)?, owned(r)?)))?,
    })
}

fn write_damping(w: &mut Writer, damping: &Damping) {
    let (relapses, back_since) = damping.parts();
    w.u32(relapses);
    w.option(back_since, write_time);
}

fn read_damping(r: &mut Reader<'_>) -> Read<Damping> {
    Ok(Damping::from_parts(r.u32()?, r.option(read_time)?))
}

fn write_path(w: &mut Writer, path: &SavedPath) {
    w.u16(path.path.0);
    write_path_state(w, &path.state);
    write_damping(w, &path.damping);
    write_access(w, path.access.0);
    write_access(w, path.access.1);
}

fn read_path(r: &mut Reader<'_>) -> Read<SavedPath> {
    Ok(SavedPath {
        path: read_path_id(r)?,
        state: read_path_state(r)?,
        damping: read_damping(r)?,
        access: (read_access(r)?, read_access(r)?),
    })
}

fn write_access(w: &mut Writer, access: Access) {
    w.u8(match access {
        Access::Optimized => 0,
        Access::NonOptimized => 1,
    });
}

fn read_access(r: &mut Reader<'_>) -> Read<Access> {
    match r.u8()? {
        0 => Ok(Access::Optimized),
        1 => Ok(Access::NonOptimized),
        _ => Err(Corrupt),
    }
}

fn write_path_state(w: &mut Writer, state: &PathState) {
    match state {
        PathState::Connecting { .. } => w.u8(0),
        PathState::Active { .. } => w.u8(1),
        PathState::Down { .. } => w.u8(2),
        PathState::Probation { .. } => w.u8(3),
        PathState::Repaired { .. } => w.u8(4),
        PathState::Disabled { .. } => w.u8(5),
        PathState::Draining { stage: Drain::Shedding, .. } => w.u8(6),
        PathState::Draining { stage: Drain::Finishing, .. } => w.u8(7),
    }
    write_time(w, state.since());
    match state {
        PathState::Down { fault, .. } => w.text(&fault.to_string()),
        PathState::Probation { required, .. } => w.u64(nanos(*required)),
        PathState::Connecting { .. }
        | PathState::Active { .. }
        | PathState::Repaired { .. }
        | PathState::Draining { .. }
        | PathState::Disabled { .. } => {}
    }
}

fn read_path_state(r: &mut Reader<'_>) -> Read<PathState> {
    let (word, since) = (r.u8()?, read_time(r)?);
    Ok(match word {
        0 => PathState::Connecting { since },
        1 => PathState::Active { since },
        2 => PathState::Down { since, fault: Fault::Before(owned(r)?) },
        3 => PathState::Probation { since, required: Duration::from_nanos(r.u64()?) },
        4 => PathState::Repaired { since },
        5 => PathState::Disabled { since },
        6 => PathState::Draining { since, stage: Drain::Shedding },
        7 => PathState::Draining { since, stage: Drain::Finishing },
        _ => return Err(Corrupt),
    })
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn write_link(w: &mut Writer, link: &SavedLink) {
    w.u16(link.path.0);
    w.u16(link.unit.0);
    w.option(link.down.as_ref(), |w, (since, fault)| {
        write_time(w, *since);
        w.text(fault);
    });
    write_damping(w, &link.damping);
}

fn read_link(r: &mut Reader<'_>) -> Read<SavedLink> {
    Ok(SavedLink {
        path: read_path_id(r)?,
        unit: UnitId(r.u16()?),
        down: r.option(|r| Ok((read_time(r)?, owned(r)?)))?,
        damping: read_damping(r)?,
    })
}

fn write_vm(w: &mut Writer, vm: &SavedVm) {
    w.text(&vm.name);
    write_run(w, &vm.run);
    write_ladder(w, &vm.ladder);
    w.option(vm.pardon, write_incident_id);
    w.option(vm.blocked.as_ref(), |w, (incident, text)| {
        write_incident_id(w, *incident);
        w.text(text);
    });
    w.option(vm.ran, Writer::u64);
    w.option(vm.hold_spent, write_incident_id);
    w.list(vm.dwell.resumes(), |w, at| write_time(w, *at));
}

fn read_vm(r: &mut Reader<'_>) -> Read<SavedVm> {
    Ok(SavedVm {
        name: owned(r)?,
        run: read_run(r)?,
        ladder: read_ladder(r)?,
        pardon: r.option(read_incident_id)?,
        blocked: r.option(|r| Ok((read_incident_id(r)?, owned(r)?)))?,
        ran: r.option(Reader::u64)?,
        hold_spent: if r.schema() > 1 { r.option(read_incident_id)? } else { None },
        dwell: if r.schema() > 1 { Dwell::from_parts(r.list(read_time)?) } else { Dwell::default() },
    })
}

fn write_run(w: &mut Writer, run: &Run) {
    match run {
        Run::Free { since } => {
            w.u8(0);
            write_time(w, *since);
        }
        Run::Held { cause, since, late } => {
            write_caused(w, 1, cause, *since);
            w.option(*late, write_late);
        }
        Run::Suspending { cause, since, instance, attempt, deadline } => {
            write_caused(w, 2, cause, *since);
            w.u64(*instance);
            w.u32(*attempt);
            w.option(Some(*deadline), write_time);
        }
        Run::Withdrawing { cause, since, late } => {
            write_caused(w, 3, cause, *since);
            write_late(w, *late);
        }
        Run::Suspended { cause, since, instance, stop } => {
            write_caused(w, 4, cause, *since);
            w.u64(*instance);
            let sent = match stop {
                StopOrder::Confirmed => None,
                StopOrder::Sent { at } => Some(*at),
            };
            w.option(sent, write_time);
        }
        Run::Resuming { cause, since, instance, attempt, next_try } => {
            write_caused(w, 5, cause, *since);
            w.u64(*instance);
            w.u32(*attempt);
            write_time(w, *next_try);
        }
        Run::Proving { cause, since, instance, attempt } => {
            write_caused(w, 6, cause, *since);
            w.u64(*instance);
            w.u32(*attempt);
        }
    }
}

fn write_caused(w: &mut Writer, word: u8, cause: &Cause, since: Instant) {
    w.u8(word);
    write_time(w, since);
    write_cause(w, cause);
}

fn read_run(r: &mut Reader<'_>) -> Read<Run> {
    let (word, since) = (r.u8()?, read_time(r)?);
    if word == 0 {
        return Ok(Run::Free { since });
    }
    let cause = read_cause(r)?;
    Ok(match word {
        1 => Run::Held { cause, since, late: r.option(read_late)? },
        2 => {
            let (instance, attempt) = (r.u64()?, r.u32()?);
            // There was none when the attempts of the first schema were used up.
            let deadline = r.option(read_time)?.unwrap_or(since);
            Run::Suspending { cause, since, instance, attempt, deadline }
        }
        3 => Run::Withdrawing { cause, since, late: read_late(r)? },
        4 => {
            let (instance, sent) = (r.u64()?, r.option(read_time)?);
            let stop = sent.map_or(StopOrder::Confirmed, |at| StopOrder::Sent { at });
            Run::Suspended { cause, since, instance, stop }
        }
        5 => {
            let (instance, attempt, next_try) = (r.u64()?, r.u32()?, read_time(r)?);
            Run::Resuming { cause, since, instance, attempt, next_try }
        }
        6 => Run::Proving { cause, since, instance: r.u64()?, attempt: r.u32()? },
        _ => return Err(Corrupt),
    })
}

fn write_late(w: &mut Writer, late: LateStop) {
    w.u64(late.instance);
    write_time(w, late.until);
}

fn read_late(r: &mut Reader<'_>) -> Read<LateStop> {
    Ok(LateStop { instance: r.u64()?, until: read_time(r)? })
}

fn write_cause(w: &mut Writer, cause: &Cause) {
    w.option(cause.incident, write_incident_id);
    match &cause.why {
        Why::PathLoss { paths, requests } => {
            write_outstanding(w, *requests);
            w.list(paths, |w, path| w.u16(path.0));
        }
        Why::NoPath { unit } => {
            w.u8(2);
            w.u16(unit.0);
        }
        Why::Shed { paths } => {
            w.u8(3);
            w.list(paths, |w, path| w.u16(path.0));
        }
        Why::Operator => w.u8(4),
        Why::GaveUp => w.u8(5),
        Why::Restart => w.u8(6),
        Why::FewPaths { unit } => {
            w.u8(7);
            w.u16(unit.0);
        }
        Why::Erred => w.u8(8),
    }
    w.text(&cause.rule);
}

fn read_cause(r: &mut Reader<'_>) -> Read<Cause> {
    let incident = r.option(read_incident_id)?;
    let why = match r.u8()? {
        0 => Why::PathLoss { paths: r.list(read_path_id)?, requests: Outstanding::Held },
        1 => Why::PathLoss { paths: r.list(read_path_id)?, requests: Outstanding::FailOver },
        2 => Why::NoPath { unit: UnitId(r.u16()?) },
        3 => Why::Shed { paths: r.list(read_path_id)? },
        4 => Why::Operator,
        5 => Why::GaveUp,
        6 => Why::Restart,
        7 => Why::FewPaths { unit: UnitId(r.u16()?) },
        8 => Why::Erred,
        _ => return Err(Corrupt),
    };
    Ok(Cause { incident, why, rule: owned(r)? })
}

/// Also the first two words of a cause.
pub(super) fn write_outstanding(w: &mut Writer, requests: Outstanding) {
    w.u8(match requests {
        Outstanding::Held => 0,
        Outstanding::FailOver => 1,
    });
}

pub(super) fn read_outstanding(r: &mut Reader<'_>) -> Read<Outstanding> {
    match r.u8()? {
        0 => Ok(Outstanding::Held),
        1 => Ok(Outstanding::FailOver),
        _ => Err(Corrupt),
    }
}

fn write_loss(w: &mut Writer, loss: Loss) {
    write_time(w, loss.since);
    w.u16(loss.unit.0);
    write_incident_id(w, loss.incident);
    w.u8(match loss.lack {
        Lack::NoPath => 0,
        Lack::FewPaths => 1,
        Lack::Short => 2,
    });
}

/// Before the second schema there was only one lack.
fn read_loss(r: &mut Reader<'_>) -> Read<Loss> {
    let (since, unit, incident) = (read_time(r)?, UnitId(r.u16()?), read_incident_id(r)?);
    let lack = match if r.schema() > 1 { r.u8()? } else { 0 } {
        0 => Lack::NoPath,
        1 => Lack::FewPaths,
        2 => Lack::Short,
        _ => return Err(Corrupt),
    };
    Ok(Loss { since, unit, incident, lack })
}

fn write_action(w: &mut Writer, action: NoPathAction) {
    w.u8(match action {
        NoPathAction::Hold => 0,
        NoPathAction::Suspend => 1,
        NoPathAction::Migrate => 2,
        NoPathAction::Fail => 3,
    });
}

fn read_action(r: &mut Reader<'_>) -> Read<NoPathAction> {
    Ok(match r.u8()? {
        0 => NoPathAction::Hold,
        1 => NoPathAction::Suspend,
        2 => NoPathAction::Migrate,
        3 => NoPathAction::Fail,
        _ => return Err(Corrupt),
    })
}

fn write_ladder(w: &mut Writer, ladder: &Ladder) {
    w.u8(match ladder {
        Ladder::Clear => 0,
        Ladder::Waiting { .. } => 1,
        Ladder::Stranded { .. } => 2,
        Ladder::Failing { .. } => 3,
        Ladder::Suspended { .. } => 4,
    });
    if let Some(loss) = ladder.loss() {
        write_loss(w, loss);
    }
    match ladder {
        Ladder::Clear => {}
        Ladder::Waiting { rung, since, .. } => {
            write_action(w, *rung);
            write_time(w, *since);
        }
        Ladder::Suspended { since, .. } => write_time(w, *since),
        Ladder::Stranded { why, retell, .. } => {
            w.text(why);
            write_time(w, retell.at);
            w.u64(nanos(retell.every));
        }
        Ladder::Failing { rule, .. } => w.text(rule),
    }
}

fn read_ladder(r: &mut Reader<'_>) -> Read<Ladder> {
    let (word, is_first) = (r.u8()?, r.schema() == 1);
    if word == 0 {
        return Ok(Ladder::Clear);
    }
    let loss = read_loss(r)?;
    Ok(match word {
        1 if is_first => Ladder::Waiting { loss, rung: NoPathAction::Hold, since: loss.since },
        1 => Ladder::Waiting { loss, rung: read_action(r)?, since: read_time(r)? },
        2 if is_first => Ladder::Stranded { loss, why: owned(r)?, retell: Retell::first(loss.since) },
        2 => {
            let (why, at) = (owned(r)?, read_time(r)?);
            Ladder::Stranded { loss, why, retell: Retell { at, every: Duration::from_nanos(r.u64()?) } }
        }
        3 => Ladder::Failing { loss, rule: owned(r)? },
        4 if !is_first => Ladder::Suspended { loss, since: read_time(r)? },
        _ => return Err(Corrupt),
    })
}
