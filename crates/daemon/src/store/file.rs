//! The database file: opened alone, read once, written in whole commits.
//!
//! Invariant: a commit is there as a whole or not at all, also when the process is killed in the middle of it. What
//! cannot be read is kept beside, under a name that is told; what a newer vmpath wrote is not touched.
//! It does not know threads, nor when it is written.

use super::codec::{self, Corrupt};
use super::{Left, OpenError, State};
use crate::control::journal::Line;
use crate::sys::boot::BootId;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition, TableError,
};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use vmpath_core::saved::{Saved, SavedMoves};
use vmpath_core::time::Instant;

pub(super) const FILE: &str = "vmpath.redb";
/// Of what the tables hold. A file with a higher one is refused, one with a lower one is read and written anew.
pub(crate) const SCHEMA: u64 = 4;
/// The oldest that is still read.
const SCHEMA_OLDEST: u64 = 1;
/// The first that keeps moves.
const MOVES_SINCE: u64 = 3;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const STATE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("state");
const JOURNAL: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("journal");

const META_SCHEMA: &str = "schema";
const META_BOOT: &str = "boot";
const META_CLEAN: &str = "clean";
/// The boot in which a process last opened this, whether or not it came to write a state.
const META_RAN: &str = "ran-in";
/// When the state was handed over, and the sum of its rows: a vmpath that does not know of this changes only those.
const META_STATE_AT: &str = "state-at";
const STATE_CONTROLLER: &str = "controller";
const STATE_MOVES: &str = "moves";

/// A process that was killed a moment ago may still hold the file.
const IN_USE_TRIES: u32 = 20;
const IN_USE_PAUSE: Duration = Duration::from_millis(50);

/// More than the state of the largest host.
const CACHE_BYTES: usize = 4 << 20;

/// What is to be written at once.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) lines: Vec<Arc<Line>>,
    /// Older lines have left the journal.
    pub(super) first_seq: u64,
    /// With when it was handed over.
    pub(super) state: Option<(State, Instant)>,
    /// The process ends as asked: there is nothing more to come.
    pub(super) clean: bool,
}

#[derive(Debug)]
pub(super) struct StateFile {
    database: Database,
    path: PathBuf,
    boot: BootId,
}

/// Why a file could not be read.
enum Trouble {
    /// Not ours, or not whole; in words.
    Unreadable(String),
    Open(OpenError),
}

impl StateFile {
    /// Opens the file in `dir`, or makes it, and says what the process before has left.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(super) fn open(dir: &Path, boot: &BootId) -> Result<(Self, Left), OpenError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| of_io(dir, "cannot make the state directory", &error))?;
        let path = dir.join(FILE);
        match Self::open_whole(&path, boot) {
            Ok(opened) => Ok(opened),
            Err(Trouble::Open(error)) => Err(error),
            Err(Trouble::Unreadable(why)) => {
                let aside = move_aside(&path)?;
                let (file, left) = Self::open_whole(&path, boot).map_err(|trouble| match trouble {
                    Trouble::Open(error) => error,
                    Trouble::Unreadable(why) => OpenError::Sick(format!("{}: {why}", path.display())),
                })?;
                let told = format!(
                    "the saved state {} cannot be read: {why}; it is kept as {}. Which VMs vmpath had suspended is not \
                     known: those are shown as stopped-by-other and wait for you. A VM that was just being moved stays as it is: look \
                     on both hosts where it runs",
                    path.display(),
                    aside.display()
                );
                Ok((file, Left { unreadable: Some(told), ..left }))
            }
        }
    }

    fn open_whole(path: &Path, boot: &BootId) -> Result<(Self, Left), Trouble> {
        let database = open_database(path)?;
        let file = Self { database, path: path.to_owned(), boot: *boot };
        let left = file.read().map_err(|error| match error {
            redb::Error::Corrupted(why) => Trouble::Unreadable(why),
            redb::Error::TableTypeMismatch { .. } | redb::Error::TypeDefinitionChanged { .. } => {
                Trouble::Unreadable(error.to_string())
            }
            redb::Error::Io(error) => Trouble::Open(of_io(path, "cannot read the saved state", &error)),
            other => Trouble::Open(OpenError::Sick(format!("{}: {other}", path.display()))),
        })?;
        let left = left?;
        file.begin(&left)
            .map_err(|error| Trouble::Open(OpenError::Sick(format!("{}: {error}", path.display()))))?;
        Ok((file, left))
    }

    /// What is in it. The inner error says that it is not for this version.
    fn read(&self) -> Result<Result<Left, Trouble>, redb::Error> {
        let reading = self.database.begin_read()?;
        let meta = match reading.open_table(META) {
            Ok(meta) => meta,
            Err(TableError::TableDoesNotExist(_)) => return Ok(Ok(Left::default())),
            Err(error) => return Err(error.into()),
        };
        let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_le_bytes);
        let schema = match meta.get(META_SCHEMA)?.and_then(|bytes| number(bytes.value())) {
            Some(schema @ SCHEMA_OLDEST..=SCHEMA) => schema,
            Some(newer) if newer > SCHEMA => {
                return Ok(Err(Trouble::Open(OpenError::Refused(format!(
                    "the saved state {} was written by a newer vmpath (schema {newer}, this one knows {SCHEMA}): run \
                     that one, or move the file away (what it knows of suspended VMs is lost then)",
                    self.path.display()
                )))));
            }
            Some(_) | None => return Ok(Err(Trouble::Unreadable("it names no schema".into()))),
        };
        let boot_of = |bytes: &[u8]| bytes.try_into().ok().map(BootId::from_bytes);
        let boot = meta.get(META_BOOT)?.and_then(|bytes| boot_of(bytes.value()));
        let ran = meta.get(META_RAN)?.and_then(|bytes| boot_of(bytes.value())).or(boot);
        let clean = meta.get(META_CLEAN)?.is_some_and(|bytes| bytes.value() == [1]);
        let told = meta.get(META_STATE_AT)?.map(|bytes| bytes.value().to_vec());
        drop(meta);
        let rows = reading.open_table(STATE)?;
        let saved_at = state_at(told.as_deref(), &rows)?;
        let state = decode(&rows, schema)?;
        let mut lines = Vec::new();
        for row in reading.open_table(JOURNAL)?.iter()? {
            let (seq, bytes) = row?;
            lines.push(codec::decode_line(seq.value(), bytes.value()));
        }
        let lines: Result<Vec<_>, Corrupt> = lines.into_iter().collect();
        Ok(match (state, lines) {
            (Ok(State { saved, moves }), Ok(lines)) => {
                Ok(Left { boot, ran, clean, saved, saved_at, moves, lines, unreadable: None })
            }
            (Err(error), _) | (_, Err(error)) => Err(Trouble::Unreadable(error.to_string())),
        })
    }

    /// From here on an end that nobody marks is a death. What was read is written anew with it: a kill must not leave the
    /// state of an older schema under this one's number. It is still of its own boot.
    fn begin(&self, left: &Left) -> Result<(), redb::Error> {
        let writing = self.write()?;
        {
            let mut meta = writing.open_table(META)?;
            meta.insert(META_SCHEMA, SCHEMA.to_le_bytes().as_slice())?;
            meta.insert(META_CLEAN, [0].as_slice())?;
            meta.insert(META_RAN, self.boot.as_bytes().as_slice())?;
            // From here on it is as old as it is known to be, or older than anything that comes.
            let at = left.saved_at.unwrap_or(Instant::ZERO);
            write_state(&writing, &mut meta, (&left.saved, &left.moves), at)?;
            writing.open_table(JOURNAL)?;
        }
        writing.commit()?;
        Ok(())
    }

    /// Writes a batch as one commit, on the disk when this returns.
    pub(super) fn commit(&self, batch: &Batch) -> Result<(), redb::Error> {
        let writing = self.write()?;
        {
            if let Some((State { saved, moves }, at)) = &batch.state {
                let mut meta = writing.open_table(META)?;
                write_state(&writing, &mut meta, (saved, moves), *at)?;
                meta.insert(META_BOOT, self.boot.as_bytes().as_slice())?;
            }
            let mut journal = writing.open_table(JOURNAL)?;
            for line in &batch.lines {
                journal.insert(line.seq, codec::encode_line(line).as_slice())?;
            }
            while journal.first()?.is_some_and(|(seq, _)| seq.value() < batch.first_seq) {
                journal.pop_first()?;
            }
            if batch.clean {
                writing.open_table(META)?.insert(META_CLEAN, [1].as_slice())?;
            }
        }
        writing.commit()?;
        Ok(())
    }

    /// Quick repair: after a kill the file opens at once, however large it is.
    fn write(&self) -> Result<redb::WriteTransaction, redb::Error> {
        let mut writing = self.database.begin_write()?;
        writing.set_quick_repair(true);
        Ok(writing)
    }
}

fn write_state(
    writing: &redb::WriteTransaction,
    meta: &mut redb::Table<'_, &'static str, &'static [u8]>,
    (saved, moves): (&Saved, &SavedMoves),
    at: Instant,
) -> Result<(), redb::Error> {
    let (saved, moves) = (codec::encode_saved(saved), codec::encode_moves(moves));
    let mut table = writing.open_table(STATE)?;
    table.insert(STATE_CONTROLLER, saved.as_slice())?;
    table.insert(STATE_MOVES, moves.as_slice())?;
    let told = [at.as_nanos(), super::sum(&[&saved, &moves])].map(u64::to_le_bytes).concat();
    meta.insert(META_STATE_AT, told.as_slice())?;
    Ok(())
}

/// None if the rows are not those of which it was told.
fn state_at(
    told: Option<&[u8]>,
    rows: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<Option<Instant>, StorageError> {
    let Some((at, sum)) = told.and_then(|told| told.split_first_chunk::<8>()) else { return Ok(None) };
    let (saved, moves) = (rows.get(STATE_CONTROLLER)?, rows.get(STATE_MOVES)?);
    let (Some(saved), Some(moves)) = (saved, moves) else { return Ok(None) };
    let is_its = super::sum(&[saved.value(), moves.value()]).to_le_bytes() == *sum;
    Ok(is_its.then(|| Instant::from_nanos(u64::from_le_bytes(*at))))
}

/// The rows of the state; a row that is not there was never written. The inner error says that it is not for this version.
fn decode(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    schema: u64,
) -> Result<Result<State, Corrupt>, StorageError> {
    let (saved, moves) = (table.get(STATE_CONTROLLER)?, table.get(STATE_MOVES)?);
    let saved = saved.map_or(Ok(Saved::default()), |bytes| codec::decode_saved(bytes.value(), schema));
    // Before, there were none: such a row is of a version that was begun with and given up again.
    let moves = moves
        .filter(|_| schema >= MOVES_SINCE)
        .map_or(Ok(SavedMoves::default()), |bytes| codec::decode_moves(bytes.value(), schema));
    Ok(saved.and_then(|saved| Ok(State { saved, moves: moves? })))
}

fn open_database(path: &Path) -> Result<Database, Trouble> {
    for attempt in 1.. {
        let opened = Database::builder().set_cache_size(CACHE_BYTES).create(path);
        let error = match opened {
            Ok(database) => {
                // It names every VM of the host. If that cannot be set, the directory still keeps others out.
                let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o600));
                return Ok(database);
            }
            Err(DatabaseError::DatabaseAlreadyOpen) if attempt < IN_USE_TRIES => {
                std::thread::sleep(IN_USE_PAUSE);
                continue;
            }
            Err(error) => error,
        };
        return Err(match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
                Trouble::Open(OpenError::Refused(format!(
                    "another vmpath daemon uses {}: each needs a `state_dir` of its own",
                    path.display()
                )))
            }
            DatabaseError::Storage(StorageError::Io(error)) if error.kind() != io::ErrorKind::InvalidData => {
                Trouble::Open(of_io(path, "cannot open the saved state", &error))
            }
            other => Trouble::Unreadable(other.to_string()),
        });
    }
    unreachable!("the last attempt returns")
}

/// An error of the operating system: what an operator has to mend, or a disk that is sick.
fn of_io(path: &Path, what: &str, error: &io::Error) -> OpenError {
    let text = format!("{what} {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::AlreadyExists => {
            OpenError::Refused(format!("{text}; name a directory for it with `state_dir` under [host]"))
        }
        _ => OpenError::Sick(text),
    }
}

/// Never over an older one.
fn move_aside(path: &Path) -> Result<PathBuf, OpenError> {
    let name = |n: u32| PathBuf::from(format!("{}.unreadable-{n}", path.display()));
    let aside = (1..).map(name).find(|aside| !aside.exists()).unwrap_or_else(|| name(0));
    fs::rename(path, &aside).map_err(|error| of_io(path, "cannot move away the unreadable", &error))?;
    Ok(aside)
}
