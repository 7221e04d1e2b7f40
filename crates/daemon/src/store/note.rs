//! A state that could not wait for its disk, in a file on tmpfs: what leaves without it being on the disk leaves a trace all the same.
//!
//! Invariant: the file is there as a whole or not at all, and counts only if it is of this boot and newer than what the disk holds.
//! It is removed when the disk has caught up. Written by the owner: memory does not hang. Rejected: a list of the orders alone; what an
//! order means to the next process is the whole state. It does not know what left, nor why the disk is late.

use super::codec::{self, Corrupt};
use super::file::SCHEMA;
use super::{Left, State};
use crate::sys::boot::BootId;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use vmpath_core::time::Instant;

const FILE: &str = "state-note";
const UNFINISHED: &str = "state-note.new";
const MAGIC: &[u8; 8] = b"vmpnote\n";
/// Magic, schema, boot, time, and the length of the first part.
const HEAD_BYTES: usize = 8 + 8 + 16 + 8 + 8;

#[derive(Debug)]
pub(super) struct Note {
    folder: PathBuf,
    boot: BootId,
    told: bool,
}

impl Note {
    pub(super) fn new(run_dir: &Path, boot: BootId) -> Self {
        Self { folder: run_dir.to_owned(), boot, told: false }
    }

    /// What the process before has noted, if that is newer than what it left on the disk.
    pub(super) fn newer_than(&self, left: &Left) -> Option<(State, Instant)> {
        let bytes = fs::read(self.folder.join(FILE)).ok()?;
        let (state, at) = match parse(&bytes, &self.boot) {
            Ok(found) => found?,
            Err(Corrupt) => {
                tracing::error!(
                    "{} cannot be read; it would have told which VMs were suspended while vmpath's own state could not be written",
                    self.folder.join(FILE).display()
                );
                return None;
            }
        };
        match left.saved_at {
            Some(known) if left.boot == Some(self.boot) => (at > known).then_some((state, at)),
            // The disk holds another boot's state, or nothing that could be read.
            Some(_) => Some((state, at)),
            None if left.boot.is_none() => Some((state, at)),
            // A vmpath that knows of no notes has written there since.
            None => None,
        }
    }

    /// Told once, if it cannot be written.
    pub(super) fn write(&mut self, state: &State, at: Instant) {
        if let Err(error) = self.try_write(state, at)
            && !std::mem::replace(&mut self.told, true)
        {
            tracing::error!(
                "{}: {error}: if vmpath is killed before its state is on the disk, the next one does not know which VMs were suspended",
                self.folder.join(FILE).display()
            );
        }
    }

    fn try_write(&self, state: &State, at: Instant) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let beside = self.folder.join(UNFINISHED);
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&beside)?.write_all(&encode(state, at, &self.boot))?;
        fs::rename(beside, self.folder.join(FILE))
    }

    pub(super) fn remove(&self) {
        match fs::remove_file(self.folder.join(FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("cannot remove {}: {error}", self.folder.join(FILE).display());
            }
            Ok(()) | Err(_) => {}
        }
    }
}

fn encode(state: &State, at: Instant, boot: &BootId) -> Vec<u8> {
    let (saved, moves) = (codec::encode_saved(&state.saved), codec::encode_moves(&state.moves));
    let mut bytes = MAGIC.to_vec();
    bytes.extend(SCHEMA.to_le_bytes());
    bytes.extend(boot.as_bytes());
    bytes.extend(at.as_nanos().to_le_bytes());
    bytes.extend((saved.len() as u64).to_le_bytes());
    bytes.extend(saved);
    bytes.extend(moves);
    bytes.extend(super::sum(&[&bytes]).to_le_bytes());
    bytes
}

/// None if it is of another boot.
fn parse(bytes: &[u8], boot: &BootId) -> Result<Option<(State, Instant)>, Corrupt> {
    let (body, told) = bytes.split_last_chunk::<8>().ok_or(Corrupt)?;
    if u64::from_le_bytes(*told) != super::sum(&[body]) || body.len() < HEAD_BYTES || !body.starts_with(MAGIC)
    {
        return Err(Corrupt);
    }
    let number = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes"));
    if body[16..32] != boot.as_bytes()[..] {
        return Ok(None);
    }
    let (schema, at) = (number(8), Instant::from_nanos(number(32)));
    if schema > SCHEMA {
        return Err(Corrupt);
    }
    let length = usize::try_from(number(40)).map_err(|_| Corrupt)?;
    let (saved, moves) = body[HEAD_BYTES..].split_at_checked(length).ok_or(Corrupt)?;
    let saved = codec::decode_saved(saved, schema)?;
    Ok(Some((State { saved, moves: codec::decode_moves(moves, schema)? }, at)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::codec::known_moves;
    use vmpath_core::saved::Saved;

    const BOOT: BootId = BootId::from_bytes([7; 16]);

    #[test]
    fn what_is_spoilt_is_no_note_and_another_boot_s_counts_for_nothing() {
        let state = State { saved: Saved { last_incident: 4, ..Saved::default() }, moves: known_moves() };
        let bytes = encode(&state, Instant::from_millis(5), &BOOT);
        assert_eq!(parse(&bytes, &BOOT), Ok(Some((state, Instant::from_millis(5)))));
        assert_eq!(parse(&bytes, &BootId::from_bytes([8; 16])), Ok(None));
        for length in 0..bytes.len() {
            assert_eq!(parse(&bytes[..length], &BOOT), Err(Corrupt), "{length} bytes of it");
        }
        for at in 0..bytes.len() {
            let mut spoilt = bytes.clone();
            spoilt[at] ^= 0x10;
            assert_eq!(parse(&spoilt, &BOOT), Err(Corrupt), "byte {at}");
        }
    }
}
