//! Saved state and journal lines as bytes: fields in order, little endian, strings and lists with their length.
//!
//! Invariant: what was written is read back equal, except that the fault of a path becomes its words; anything else is
//! an error, never a panic. A change of the format is a new [`super::SCHEMA`].
//! Rejected: a serialisation framework; the types are core's, which has none.

mod bytes;
mod moves;
mod state;
#[cfg(test)]
mod tests;

use crate::control::journal::{Line, SubjectType};
use bytes::{Reader, Writer};
use vmpath_core::effect::JournalKind;
use vmpath_core::ids::IncidentId;

pub(super) use bytes::Corrupt;
pub(super) use moves::{decode_moves, encode_moves};
pub(super) use state::{decode_saved, encode_saved};

/// The bytes of a state as the first schema wrote them, and the state.
#[cfg(test)]
pub(super) use tests::of_the_first_schema;

#[cfg(test)]
pub(super) use moves::tests::known as known_moves;
#[cfg(test)]
use tests::bytes_of;

pub(super) fn encode_line(line: &Line) -> Vec<u8> {
    let mut w = Writer::default();
    w.u64(line.at_unix_us);
    w.option(line.incident, |w, id| w.u64(id.0));
    w.text(line.kind.as_str());
    w.text(line.subject.as_str());
    w.text(&line.subject_name);
    w.text(&line.reason);
    w.option(line.until.as_deref(), Writer::text);
    w.done()
}

/// # Errors
/// These bytes are no line of this version.
pub(super) fn decode_line(seq: u64, bytes: &[u8]) -> Result<Line, Corrupt> {
    let mut r = Reader::new(bytes, super::file::SCHEMA);
    let line = Line {
        seq,
        at_unix_us: r.u64()?,
        incident: r.option(|r| r.u64().map(IncidentId))?,
        kind: JournalKind::parse(r.text()?).ok_or(Corrupt)?,
        subject: SubjectType::parse(r.text()?).ok_or(Corrupt)?,
        subject_name: r.text()?.to_owned(),
        reason: r.text()?.to_owned(),
        until: r.option(|r| r.text().map(str::to_owned))?,
    };
    r.end()?;
    Ok(line)
}
