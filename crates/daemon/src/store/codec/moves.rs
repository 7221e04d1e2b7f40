//! What is kept of moves as bytes. One function to write and one to read for each type, side by side.
//!
//! The third schema was the first to have them; the fourth knows from which hosts a VM
//! has fled, and which destinations have not answered.

use super::Corrupt;
use super::bytes::{Reader, Writer};
use super::state::{
    Read, nanos, owned, read_incident_id, read_outstanding, read_time, write_incident_id, write_outstanding,
    write_time,
};
use std::time::Duration;
use vmpath_core::migration::source::{Reached, RoomNeed};
use vmpath_core::migration::{DiskEpoch, Move, MoveId, VmCarry, destination, source};
use vmpath_core::ownership::UnitEpoch;
use vmpath_core::policy::Reason;
use vmpath_core::saved::{SavedDiscard, SavedLeaving, SavedMoves, SavedTravel};

pub(in super::super) fn encode_moves(moves: &SavedMoves) -> Vec<u8> {
    let mut w = Writer::default();
    w.list(&moves.leaving, write_leaving);
    w.list(&moves.arriving, write_arriving);
    w.list(&moves.travels, write_travel);
    w.list(&moves.discards, write_discard);
    w.done()
}

/// # Errors
/// These bytes are no moves of that schema, or of none that is known.
pub(in super::super) fn decode_moves(bytes: &[u8], schema: u64) -> Read<SavedMoves> {
    let mut r = Reader::new(bytes, schema);
    let moves = SavedMoves {
        leaving: r.list(read_leaving)?,
        arriving: r.list(read_arriving)?,
        travels: r.list(read_travel)?,
        discards: if schema > 3 { r.list(read_discard)? } else { vec![] },
    };
    r.end()?;
    Ok(moves)
}

fn write_leaving(w: &mut Writer, SavedLeaving { reason, machine }: &SavedLeaving) {
    let Reason { incident, rule, requests } = reason;
    w.option(*incident, write_incident_id);
    w.text(rule);
    write_outstanding(w, *requests);
    let source::Saved { plan, began, reached } = machine;
    write_move(w, plan);
    write_time(w, *began);
    w.u8(match reached {
        Reached::Begun => 0,
        Reached::Committed => 1,
    });
}

fn read_leaving(r: &mut Reader<'_>) -> Read<SavedLeaving> {
    let incident = r.option(read_incident_id)?;
    let reason = Reason { incident, rule: owned(r)?, requests: read_outstanding(r)? };
    let (plan, began) = (read_move(r)?, read_time(r)?);
    let reached = match r.u8()? {
        0 => Reached::Begun,
        1 => Reached::Committed,
        _ => return Err(Corrupt),
    };
    Ok(SavedLeaving { reason, machine: source::Saved { plan, began, reached } })
}

fn write_arriving(w: &mut Writer, destination::Saved { plan, began }: &destination::Saved) {
    write_move(w, plan);
    write_time(w, *began);
}

fn read_arriving(r: &mut Reader<'_>) -> Read<destination::Saved> {
    Ok(destination::Saved { plan: read_move(r)?, began: read_time(r)? })
}

fn write_travel(w: &mut Writer, SavedTravel { vm, elsewhere, arrived, home, fled }: &SavedTravel) {
    w.text(vm);
    w.option(elsewhere.as_deref(), Writer::text);
    w.option(*arrived, write_time);
    w.option(home.as_deref(), Writer::text);
    write_hosts(w, fled);
}

fn read_travel(r: &mut Reader<'_>) -> Read<SavedTravel> {
    let (vm, elsewhere, arrived) = (owned(r)?, r.option(owned)?, r.option(read_time)?);
    let home: Option<String> = r.option(owned)?;
    // Before, whoever had a home went back to it.
    let fled = if r.schema() > 3 { r.list(owned)? } else { home.iter().cloned().collect() };
    Ok(SavedTravel { vm, elsewhere, arrived, home, fled })
}

fn write_discard(w: &mut Writer, SavedDiscard { vm, move_id, to, why, until }: &SavedDiscard) {
    w.text(vm);
    write_id(w, move_id);
    w.text(to);
    w.text(why);
    write_time(w, *until);
}

fn read_discard(r: &mut Reader<'_>) -> Read<SavedDiscard> {
    Ok(SavedDiscard {
        vm: owned(r)?,
        move_id: read_id(r)?,
        to: owned(r)?,
        why: owned(r)?,
        until: read_time(r)?,
    })
}

fn write_id(w: &mut Writer, id: &MoveId) {
    w.text(&id.host);
    w.u64(id.nonce);
    w.u64(id.number);
}

fn read_id(r: &mut Reader<'_>) -> Read<MoveId> {
    Ok(MoveId { host: owned(r)?, nonce: r.u64()?, number: r.u64()? })
}

fn write_hosts(w: &mut Writer, hosts: &[String]) {
    w.list(hosts, |w, host| w.text(host));
}

fn write_move(w: &mut Writer, plan: &Move) {
    let Move {
        id,
        vm,
        from,
        to,
        home,
        fled,
        disks,
        instance,
        memory,
        room,
        settle,
        incident,
        vm_state,
        rule,
    } = plan;
    write_id(w, id);
    for name in [vm, from, to, home] {
        w.text(name);
    }
    write_hosts(w, fled);
    w.list(disks, |w, DiskEpoch { disk, unit: UnitEpoch { unit, epoch } }| {
        w.text(disk);
        w.text(unit);
        w.u64(*epoch);
    });
    w.u64(*instance);
    w.option(*memory, Writer::u64);
    w.list(room, |w, RoomNeed { target, rate }| {
        w.text(target);
        w.u64(*rate);
    });
    w.u64(nanos(*settle));
    w.option(incident.as_deref(), Writer::text);
    match vm_state {
        VmCarry::Running => w.u8(0),
        VmCarry::Suspended { why } => {
            w.u8(1);
            w.text(why);
        }
        VmCarry::StoppedByOther => w.u8(2),
    }
    w.text(rule);
}

fn read_move(r: &mut Reader<'_>) -> Read<Move> {
    let id = read_id(r)?;
    let (vm, from, to, home): (_, _, _, String) = (owned(r)?, owned(r)?, owned(r)?, owned(r)?);
    let fled = if r.schema() > 3 { r.list(owned)? } else { vec![home.clone()] };
    Ok(Move {
        id,
        vm,
        from,
        to,
        home,
        fled,
        disks: r.list(|r| {
            Ok(DiskEpoch { disk: owned(r)?, unit: UnitEpoch { unit: owned(r)?, epoch: r.u64()? } })
        })?,
        instance: r.u64()?,
        memory: r.option(Reader::u64)?,
        room: r.list(|r| Ok(RoomNeed { target: owned(r)?, rate: r.u64()? }))?,
        settle: Duration::from_nanos(r.u64()?),
        incident: r.option(owned)?,
        vm_state: match r.u8()? {
            0 => VmCarry::Running,
            1 => VmCarry::Suspended { why: owned(r)? },
            2 => VmCarry::StoppedByOther,
            _ => return Err(Corrupt),
        },
        rule: owned(r)?,
    })
}

#[cfg(test)]
pub(in super::super) mod tests;
