//! The thread that commits.
//!
//! Invariant: the lock is held to hand something over or to take it, never over I/O. What waits is bounded: one state
//! (the newest), and as many lines as the journal keeps. After an error the file is opened anew, for ever.

use super::file::{Batch, StateFile};
use super::{State, Ticket};
use crate::control::journal::Line;
use crate::sys::boot::BootId;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;
use vmpath_core::time::Instant;

/// Pause after an error.
const RETRY_AFTER: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    ended: Receiver<bool>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    batch: Batch,
    ticket: Ticket,
    end: bool,
}

impl Shared {
    /// A panic of the other side leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    pub(super) fn start(
        dir: PathBuf,
        boot: BootId,
        file: StateFile,
        commits: watch::Sender<Ticket>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (tell, ended) = sync_channel(1);
        let theirs = Arc::clone(&shared);
        let commit = Committer { dir, boot, file: Some(file), last: None, shared: theirs, commits };
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || commit.run(&tell))?;
        Ok(Self { shared, ended, thread })
    }

    /// `first_seq`: lines below it have left the journal.
    pub(super) fn append(&self, line: Arc<Line>, first_seq: u64, ticket: Ticket) {
        let mut waiting = self.shared.lock();
        waiting.batch.lines.push(line);
        waiting.batch.first_seq = first_seq;
        bound(&mut waiting.batch);
        waiting.ticket = ticket;
        self.shared.wake.notify_one();
    }

    pub(super) fn save(&self, state: State, at: Instant, ticket: Ticket) {
        let mut waiting = self.shared.lock();
        waiting.batch.state = Some((state, at));
        waiting.ticket = ticket;
        self.shared.wake.notify_one();
    }

    /// False if not everything was written in time; the thread is then left behind.
    pub(super) fn close(self, wait: Duration) -> bool {
        self.shared.lock().end = true;
        self.shared.wake.notify_one();
        let clean = self.ended.recv_timeout(wait).unwrap_or(false);
        if clean {
            // It has nothing more to do.
            let _ = self.thread.join();
        }
        clean
    }
}

/// What has left the journal need not be written any more. Seldom, so that it costs little.
fn bound(batch: &mut Batch) {
    let left = batch.lines.partition_point(|line| line.seq < batch.first_seq);
    if left > batch.lines.len() / 2 {
        batch.lines.drain(..left);
    }
}

struct Committer {
    dir: PathBuf,
    boot: BootId,
    /// None after an error.
    file: Option<StateFile>,
    /// What the file holds, should it have to be made anew.
    last: Option<(State, Instant)>,
    shared: Arc<Shared>,
    commits: watch::Sender<Ticket>,
}

impl Committer {
    fn run(mut self, ended: &SyncSender<bool>) {
        let mut unwritten = Batch::default();
        let mut told = None;
        loop {
            let (ticket, end) = self.take(&mut unwritten);
            unwritten.clean = end;
            match self.commit(&mut unwritten) {
                Ok(()) => {
                    if told.take().is_some() {
                        tracing::info!("vmpath's own state can be written again");
                    }
                    self.last = unwritten.state.take().or(self.last.take());
                    unwritten = Batch::default();
                    self.commits.send_replace(ticket);
                    if end {
                        self.file = None;
                        let _ = ended.send(true);
                        return;
                    }
                }
                Err(why) if end => {
                    tracing::error!("vmpath's own state could not be written at the end: {why}");
                    let _ = ended.send(false);
                    return;
                }
                Err(why) => {
                    if told.as_ref() != Some(&why) {
                        tracing::error!("vmpath's own state cannot be written, and is tried again: {why}");
                        told = Some(why);
                    }
                    self.pause();
                }
            }
        }
    }

    /// Waits until there is something to do, and takes all of it. What could not be written before is kept in front.
    fn take(&self, unwritten: &mut Batch) -> (Ticket, bool) {
        let mut waiting = self.shared.lock();
        let idle = |w: &Waiting| w.batch.lines.is_empty() && w.batch.state.is_none() && !w.end;
        while idle(&waiting) && unwritten.lines.is_empty() && unwritten.state.is_none() {
            waiting = self.shared.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        let new = std::mem::take(&mut waiting.batch);
        unwritten.lines.extend(new.lines);
        unwritten.first_seq = unwritten.first_seq.max(new.first_seq);
        bound(unwritten);
        unwritten.state = new.state.or(unwritten.state.take());
        (waiting.ticket, waiting.end)
    }

    fn commit(&mut self, batch: &mut Batch) -> Result<(), String> {
        if self.file.is_none() {
            let (file, left) = StateFile::open(&self.dir, &self.boot).map_err(|error| error.to_string())?;
            if let Some(unreadable) = left.unreadable {
                tracing::error!("{unreadable}");
            }
            self.file = Some(file);
            batch.state = batch.state.take().or_else(|| self.last.clone());
        }
        let Some(file) = &self.file else { return Ok(()) };
        let done = file.commit(batch);
        if done.is_err() {
            // The database takes nothing more after an error.
            self.file = None;
        }
        done.map_err(|error| error.to_string())
    }

    fn pause(&self) {
        let waiting = self.shared.lock();
        drop(self.shared.wake.wait_timeout_while(waiting, RETRY_AFTER, |w| !w.end));
    }
}
