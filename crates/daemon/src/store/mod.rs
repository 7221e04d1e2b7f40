//! vmpath's own state, kept over restarts: journal, incidents, suspended VMs and why, moves, what operators have set.
//!
//! A [`Store`] is the control owner's end: it hands over what has changed and never waits. A thread behind it commits, and
//! coalesces what came meanwhile. Invariant: a state that is known as committed survives a kill; so does, on tmpfs, one that something
//! left without ([`Store::note`]); a disk that hangs or fails costs the rest of what has happened since (told in the log), and nothing
//! else: memory is bounded, the owner goes on.
//! Rejected: commits by the owner (an fsync on a sick disk would stop every decision).

mod codec;
mod file;
mod note;
#[cfg(test)]
mod tests;
mod writer;

use crate::control::journal::Line;
use crate::sys::boot::BootId;
use crate::sys::clock;
use file::{FILE, StateFile};
use note::Note;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use vmpath_core::migration::destination::WAIT_MAX;
use vmpath_core::saved::{Saved, SavedMoves};
use vmpath_core::time::Instant;
use writer::Writer;

#[cfg(test)]
pub(crate) use file::SCHEMA;

/// A file that does not open within this is on a disk that hangs.
const OPEN_WAIT: Duration = Duration::from_secs(3);

/// Something that is not written after this is worth a line in the log.
const LATE_AFTER: Duration = Duration::from_secs(5);

/// What the process before has left.
#[derive(Debug, Default)]
pub struct Left {
    /// In which boot of the host its state was written; none if it wrote none.
    pub boot: Option<BootId>,
    /// In which boot of the host it ran; none if there was none, or it is not known.
    pub ran: Option<BootId>,
    /// It ended as asked.
    pub clean: bool,
    pub saved: Saved,
    /// When that was handed over, in its boot; none if that is not known.
    pub saved_at: Option<Instant>,
    /// Also those of another boot: another host may still wait for how they end. What means nothing after a boot is replaced:
    /// times by the present moment (a VM that arrived dwells anew), the hypervisor process that was to leave by none that
    /// there is.
    pub moves: SavedMoves,
    /// The journal, the oldest first.
    pub lines: Vec<Line>,
    /// What it left, if anything, could not be read; in words.
    pub unreadable: Option<String>,
}

/// Why there is no store; in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The daemon must not start: another one runs, or the operator has to decide.
    Refused(String),
    /// The disk is sick. Guests need their disks all the same.
    Sick(String),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(why) | Self::Sick(why) => f.write_str(why),
        }
    }
}

/// All that the controller leaves to the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    saved: Saved,
    moves: SavedMoves,
}

/// Counts what was handed over: the state of a ticket is on the disk when [`Store::committed`] has reached it.
pub type Ticket = u64;

/// The owner's end.
#[derive(Debug)]
pub struct Store {
    /// None: nothing is kept in this run.
    writer: Option<Writer>,
    committed: watch::Receiver<Ticket>,
    /// What this boot has kept last; none if that was another one.
    last: Option<State>,
    last_at: Instant,
    /// None: what leaves before its state is kept leaves no trace.
    note: Option<Note>,
    /// The state in the note, or one that replaces it; none if there is no note.
    noted: Option<Ticket>,
    ticket: Ticket,
    /// Of the last state.
    state_ticket: Ticket,
    /// Since when something has been waiting to be written.
    waiting_since: Option<Instant>,
    told_late: bool,
}

impl Store {
    /// Opens `vmpath.redb` in a directory, which is made if need be, and reads what is in it. Blocks: not for the owner.
    ///
    /// # Errors
    /// See [`OpenError`]; a disk that hangs is given up after 3 s.
    pub fn open(dir: &Path, boot: &BootId) -> Result<(Self, Left), OpenError> {
        let (done, opened) = std::sync::mpsc::sync_channel(1);
        let (theirs, boot) = (dir.to_owned(), *boot);
        std::thread::Builder::new()
            .name("store-open".into())
            // Whoever asked may have given up: the file is closed again then.
            .spawn(move || drop(done.send(StateFile::open(&theirs, &boot))))
            .map_err(|error| OpenError::Sick(format!("cannot start a thread: {error}")))?;
        let path = dir.join(FILE);
        let (file, mut left) = opened.recv_timeout(OPEN_WAIT).map_err(|error| match error {
            std::sync::mpsc::RecvTimeoutError::Timeout => OpenError::Sick(format!(
                "{} does not open within {} s: its disk hangs",
                path.display(),
                OPEN_WAIT.as_secs()
            )),
            std::sync::mpsc::RecvTimeoutError::Disconnected => {
                OpenError::Sick(format!("{}: reading it has failed", path.display()))
            }
        })??;
        // After a boot the same state is worth writing again: from then on it is of this one.
        let last =
            (left.boot == Some(boot)).then(|| State { saved: left.saved.clone(), moves: left.moves.clone() });
        if last.is_none() {
            renew(&mut left.moves, clock::now());
        }
        Ok((Self::over(dir.to_owned(), boot, file, last)?, left))
    }

    fn over(dir: PathBuf, boot: BootId, file: StateFile, last: Option<State>) -> Result<Self, OpenError> {
        let (commits, committed) = watch::channel(0);
        let writer = Writer::start(dir, boot, file, commits)
            .map_err(|error| OpenError::Sick(format!("cannot start the store's thread: {error}")))?;
        Ok(Self { writer: Some(writer), committed, last, ..Self::none() })
    }

    /// A store that keeps nothing, for a run without a disk for it.
    #[must_use]
    pub fn none() -> Self {
        let (_, committed) = watch::channel(Ticket::MAX);
        Self {
            writer: None,
            committed,
            last: None,
            last_at: Instant::ZERO,
            note: None,
            noted: None,
            ticket: 0,
            state_ticket: 0,
            waiting_since: None,
            told_late: false,
        }
    }

    /// Keeps a line of the journal, and forgets those below `first_seq`. Never waits.
    pub fn append(&mut self, line: &Arc<Line>, first_seq: u64, now: Instant) {
        if let Some(writer) = &self.writer {
            self.ticket += 1;
            self.waiting_since.get_or_insert(now);
            writer.append(Arc::clone(line), first_seq, self.ticket);
        }
    }

    /// Keeps a state, both parts of it in one commit, if it differs from the last one. Never waits.
    pub fn save(&mut self, saved: Saved, moves: SavedMoves, now: Instant) {
        let state = State { saved, moves };
        if self.last.as_ref() == Some(&state) {
            return;
        }
        if self.writer.is_none() && self.note.is_none() {
            return;
        }
        self.ticket += 1;
        self.state_ticket = self.ticket;
        if let Some(writer) = &self.writer {
            self.waiting_since.get_or_insert(now);
            writer.save(state.clone(), now, self.ticket);
        }
        (self.last, self.last_at) = (Some(state), now);
    }

    /// Notes on tmpfs, from now on, what leaves before the disk has it; and gives back what the process before has noted so, if that
    /// is newer than what it left on the disk.
    #[must_use]
    pub fn noting(mut self, run_dir: &Path, boot: BootId, left: Left) -> (Self, Left) {
        let note = Note::new(run_dir, boot);
        let newer = note.newer_than(&left);
        let left = match newer {
            None => {
                note.remove();
                left
            }
            Some((State { saved, moves }, at)) => {
                tracing::warn!(
                    "the vmpath before was killed while its state could not be written: what it has noted in {} counts",
                    run_dir.display()
                );
                // Whatever comes first replaces it.
                (self.last, self.noted) = (None, Some(self.state_ticket + 1));
                Left { boot: Some(boot), clean: false, saved, moves, saved_at: Some(at), ..left }
            }
        };
        self.note = Some(note);
        (self, left)
    }

    /// Something leaves that needs the state of this ticket, whether or not the disk has it.
    pub fn note(&mut self, needs: Ticket) {
        let is_on_disk = self.writer.is_some() && needs <= self.committed();
        if is_on_disk || self.noted.is_some_and(|noted| noted >= needs && noted <= self.state_ticket) {
            return;
        }
        if let (Some(note), Some(state)) = (&mut self.note, &self.last) {
            note.write(state, self.last_at);
            self.noted = Some(self.state_ticket);
        }
    }

    /// Of everything that was handed over so far.
    #[cfg(test)]
    const fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Of the last state that was handed over: lines of the journal that came after it need not be waited for.
    #[must_use]
    pub const fn state_ticket(&self) -> Ticket {
        self.state_ticket
    }

    /// What is on the disk.
    #[must_use]
    pub fn committed(&self) -> Ticket {
        *self.committed.borrow()
    }

    /// Changes with each commit.
    #[must_use]
    pub fn commits(&self) -> watch::Receiver<Ticket> {
        self.committed.clone()
    }

    /// Tells when the disk does not keep up; to be called now and then.
    pub fn look(&mut self, now: Instant) {
        if self.writer.is_some() && self.noted.is_some_and(|noted| noted <= self.committed()) {
            self.forget_note();
        }
        if self.committed() >= self.ticket {
            if std::mem::take(&mut self.told_late) {
                tracing::info!("vmpath's own state is written again");
            }
            self.waiting_since = None;
        } else if !self.told_late && self.waiting_since.is_some_and(|since| now.since(since) >= LATE_AFTER) {
            self.told_late = true;
            tracing::error!(
                "vmpath's own state has not been written for {} s (state_dir): if vmpath is killed now, the next one does \
                 not know what has happened since, among it which VMs were suspended or being moved; guests' disks are not concerned",
                LATE_AFTER.as_secs()
            );
        }
    }

    /// The state disk is known not to answer: waiting for it would be in vain.
    #[must_use]
    pub const fn is_late(&self) -> bool {
        self.told_late
    }

    /// Writes what is left and marks the end as asked for; blocks for at most `wait`. False if it did not come to that.
    #[must_use]
    pub fn close(mut self, wait: Duration) -> bool {
        let Some(writer) = self.writer.take() else { return true };
        let is_whole = writer.close(wait);
        if is_whole {
            self.forget_note();
        }
        is_whole
    }

    fn forget_note(&mut self) {
        if let (Some(note), Some(_)) = (&self.note, self.noted.take()) {
            note.remove();
        }
    }
}

/// Of bytes, to know them again (FNV-1a).
fn sum(parts: &[&[u8]]) -> u64 {
    let mix = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    parts.iter().flat_map(|part| part.iter()).fold(0xcbf2_9ce4_8422_2325, mix)
}

/// No process has this number: it holds a pid and a time.
const NO_INSTANCE: u64 = 0;

/// What another boot has kept, as this one may use it.
fn renew(moves: &mut SavedMoves, now: Instant) {
    for leaving in &mut moves.leaving {
        leaving.machine.began = now;
        leaving.machine.plan.instance = NO_INSTANCE;
    }
    for arriving in &mut moves.arriving {
        // The process in its plan is the source's, whose host may not have been booted.
        arriving.began = now;
    }
    for discard in &mut moves.discards {
        discard.until = now + WAIT_MAX;
    }
    for travel in &mut moves.travels {
        travel.arrived = travel.arrived.map(|_| now);
    }
}
