//! Starts the hypervisor that waits for a VM on its way here, by the VM's `launch` command, and ends it if the move is given
//! up.
//!
//! Invariant: it ends only what it has started for a move that is being discarded. A guest never dies with this daemon: its
//! process has a session of its own, no pipe to us, and is known again by the daemon that comes next.
//! Rejected: our own idea of a hypervisor's command line; every site has its own.
//! It does not know why a move is made or given up, and speaks to the monitor only until it is ready.

mod log;
mod notes;
mod ports;
mod process;
mod ready;
#[cfg(test)]
mod tests;

use log::Log;
use notes::{Note, Notes};
use ports::{Port, Ports};
use process::Process;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use vmpath_core::migration::MoveId;
use vmpath_core::spec::Spec;

/// A hypervisor is ready in about a second; a host that swaps needs more. Less than what the source waits.
const READY_WAIT: Duration = Duration::from_secs(27);

/// From TERM to KILL. A hypervisor that only waits for a VM has nothing to save.
const TERM_WAIT: Duration = Duration::from_secs(3);

/// From KILL to giving up on a process that the kernel does not let go.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// How often one that is to end is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Of the moves at once; far above `migrations_max`.
const WORDS_MAX: usize = 4;

/// Where and how to launch.
#[derive(Clone, Debug)]
pub struct Places {
    /// Logs and notes lie in `launch` in there.
    pub run_dir: PathBuf,
    /// `migrate_address`: where QEMU takes the stream.
    pub address: IpAddr,
    /// `migrate_ports`.
    pub ports: RangeInclusive<u16>,
}

impl Places {
    /// None without `[cluster]`.
    #[must_use]
    pub fn of(spec: &Spec) -> Option<Self> {
        let migration = &spec.cluster.as_ref()?.migration;
        let ports = migration.ports.clone();
        Some(Self { run_dir: spec.host.run_dir.clone(), address: migration.address, ports })
    }
}

/// One hypervisor to be started.
#[derive(Clone, Debug)]
pub struct Launch {
    pub move_id: MoveId,
    pub vm: String,
    /// The VM's `launch`, for `/bin/sh -c`.
    pub command: String,
    /// The VM's `qmp`. QEMU serves one client: the VM's own task lets go of it until this is ready.
    pub qmp: PathBuf,
    /// Bytes of guest memory at the source; another size is refused.
    pub memory: Option<u64>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentReport {
    pub move_id: MoveId,
    pub event: Event,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It waits for the VM; where the source's QEMU is to send to: `tcp:ADDRESS:PORT`.
    Ready { incoming: String },
    /// It did not become ready; whatever was started has been ended. In words.
    Failed(String),
    /// It ran and runs no more: as it was told to, or by itself; in words.
    Ended(String),
}

/// What a hypervisor's task is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// The VM runs in it: it is nobody's to end any more.
    Keep,
    End,
}

/// The hypervisors that were launched and not kept yet.
#[derive(Debug)]
pub struct Agent {
    ports: Ports,
    notes: Notes,
    reports: mpsc::UnboundedSender<AgentReport>,
    waiting: Arc<Mutex<HashMap<MoveId, Waiting>>>,
    _trimming: Trimming,
}

#[derive(Debug)]
struct Waiting {
    vm: String,
    words: mpsc::Sender<Word>,
}

/// The task that keeps logs short; it ends when this is dropped.
#[derive(Debug)]
struct Trimming(JoinHandle<()>);

impl Drop for Trimming {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Its tasks end with it, and what they have started does not: they hold the table, and it their ends.
impl Drop for Agent {
    fn drop(&mut self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Agent {
    /// Makes its folder, and takes charge of what the daemon before has launched and neither kept nor ended: of these
    /// [`Agent::waiting`] tells.
    ///
    /// # Errors
    /// The folder cannot be made, in words.
    pub fn start(places: &Places, reports: mpsc::UnboundedSender<AgentReport>) -> Result<Self, String> {
        let dir = places.run_dir.join("launch");
        let notes = Notes::open(&dir)?;
        let agent = Self {
            ports: Ports::new(places.address, places.ports.clone()),
            notes,
            reports,
            waiting: Arc::default(),
            _trimming: Trimming(tokio::spawn(log::keep_short(dir))),
        };
        for note in agent.notes.all() {
            agent.adopt(note);
        }
        Ok(agent)
    }

    /// Starts a hypervisor. Never waits: [`Event::Ready`] or [`Event::Failed`] comes, and later [`Event::Ended`] unless
    /// it is kept.
    ///
    /// # Errors
    /// Why it cannot even be tried, in words; then no report comes.
    pub fn launch(&self, launch: Launch) -> Result<(), String> {
        notes::usable(&launch.vm)?;
        let port = self.ports.take()?;
        let words = self.expect(&launch.move_id, &launch.vm)?;
        let task = Task {
            move_id: launch.move_id.clone(),
            incoming: incoming(port.address()),
            log: Log::of(&self.notes, &launch.vm),
            notes: self.notes.clone(),
            reports: self.reports.clone(),
            waiting: Arc::clone(&self.waiting),
            words,
        };
        tokio::spawn(task.run(launch, port));
        Ok(())
    }

    /// The VM runs in it: from now on it is left alone, also by the daemon that comes next, which finds no note of it.
    pub fn keep(&self, move_id: &MoveId) {
        if let Some(one) = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).get(move_id) {
            self.notes.remove(&one.vm);
        }
        self.tell(move_id, Word::Keep);
    }

    /// Ends it, with all that it has started. Answered by [`Event::Ended`], or by [`Event::Failed`] if it was not ready yet.
    /// False: there is nothing (any more) that could be ended.
    #[must_use]
    pub fn end(&self, move_id: &MoveId) -> bool {
        self.tell(move_id, Word::End)
    }

    /// The moves whose hypervisors are in its charge.
    #[must_use]
    pub fn waiting(&self) -> Vec<MoveId> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    fn tell(&self, move_id: &MoveId, word: Word) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Full of the same word: it is being done.
        waiting.get(move_id).is_some_and(|one| one.words.try_send(word).is_ok() || !one.words.is_closed())
    }

    fn expect(&self, move_id: &MoveId, vm: &str) -> Result<mpsc::Receiver<Word>, String> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((other, _)) = waiting.iter().find(|(id, one)| *id == move_id || one.vm == vm) {
            return Err(format!("a hypervisor of VM {vm} already waits here, for the move {other}"));
        }
        let (words, heard) = mpsc::channel(WORDS_MAX);
        waiting.insert(move_id.clone(), Waiting { vm: vm.to_owned(), words });
        Ok(heard)
    }

    fn adopt(&self, note: Note) {
        let Ok(words) = self.expect(&note.move_id, &note.vm) else { return };
        let task = Task {
            move_id: note.move_id.clone(),
            incoming: note.incoming,
            log: Log::of(&self.notes, &note.vm),
            notes: self.notes.clone(),
            reports: self.reports.clone(),
            waiting: Arc::clone(&self.waiting),
            words,
        };
        tokio::spawn(task.wait(Process::found(note.group, &note.move_id), note.vm));
    }
}

/// As QEMU's `-incoming` takes it.
fn incoming(address: SocketAddr) -> String {
    format!("tcp:{address}")
}

/// One hypervisor's life in our charge.
struct Task {
    move_id: MoveId,
    incoming: String,
    log: Log,
    notes: Notes,
    reports: mpsc::UnboundedSender<AgentReport>,
    waiting: Arc<Mutex<HashMap<MoveId, Waiting>>>,
    words: mpsc::Receiver<Word>,
}

impl Task {
    async fn run(mut self, launch: Launch, port: Port) {
        let mut process = match self.begin(&launch).await {
            Ok(process) => process,
            Err(why) => return self.over(&launch.vm, Event::Failed(why)),
        };
        if let Err(why) = self.become_ready(&launch, &mut process).await {
            let left = self.end(&mut process).await.err().unwrap_or_default();
            return self.over(&launch.vm, Event::Failed(format!("{why}{left}")));
        }
        tracing::info!("VM {}: its hypervisor waits at {} ({})", launch.vm, self.incoming, launch.move_id);
        self.report(Event::Ready { incoming: self.incoming.clone() });
        self.wait(process, launch.vm).await;
        // QEMU has it until the VM is there; until then no other launch may get it.
        drop(port);
    }

    async fn begin(&self, launch: &Launch) -> Result<Process, String> {
        if ready::is_answered(&launch.qmp).await {
            let qmp = launch.qmp.display();
            return Err(format!("a hypervisor of VM {} runs here already: it answers at {qmp}", launch.vm));
        }
        let process = Process::start(launch, &self.incoming, &self.log)?;
        let note = Note {
            move_id: launch.move_id.clone(),
            vm: launch.vm.clone(),
            incoming: self.incoming.clone(),
            group: process.group(),
        };
        if let Err(why) = self.notes.write(&note) {
            tracing::warn!("VM {}: a daemon after this one will not know its hypervisor: {why}", launch.vm);
        }
        Ok(process)
    }

    async fn become_ready(&mut self, launch: &Launch, process: &mut Process) -> Result<(), String> {
        let memory = tokio::select! {
            ready = timeout(READY_WAIT, ready::incoming(&launch.qmp)) => ready.unwrap_or_else(|_| {
                let (qmp, seconds) = (launch.qmp.display(), READY_WAIT.as_secs());
                Err(format!("the hypervisor does not wait for a VM at {qmp} after {seconds} s{}", self.log.end()))
            })?,
            how = process.ended() => return Err(format!("the launch command has ended ({how}){}", self.log.end())),
            seen = seen(&mut self.words) => seen?,
        };
        match (launch.memory, memory) {
            (Some(there), Some(here)) if there != here => Err(format!(
                "the guest has {there} bytes of memory, and the hypervisor that the launch command starts has {here}"
            )),
            _ => Ok(()),
        }
    }

    /// Until it is kept, or ends.
    async fn wait(mut self, mut process: Process, vm: String) {
        let end = tokio::select! {
            how = process.ended() => Some(format!("the hypervisor has ended ({how}){}", self.log.end())),
            word = decided(&mut self.words) => match word {
                // The agent is gone: the daemon ends, and the guest does not.
                None => return,
                Some(Decided::Keep) => None,
                Some(Decided::End) => Some(match self.end(&mut process).await {
                    Ok(()) => "it was ended, as the move is given up".to_owned(),
                    Err(why) => format!("the move is given up{why}"),
                }),
            },
        };
        if let Some(how) = end {
            return self.over(&vm, Event::Ended(how));
        }
        self.forget();
        process.reap().await;
    }

    /// # Errors
    /// What is still there, in words that go on a sentence.
    async fn end(&self, process: &mut Process) -> Result<(), String> {
        for (signal, wait) in
            [(rustix::process::Signal::TERM, TERM_WAIT), (rustix::process::Signal::KILL, KILL_WAIT)]
        {
            process.signal(signal).await;
            if timeout(wait, process.gone(LOOK_EVERY)).await.is_ok() {
                return Ok(());
            }
        }
        Err("; its hypervisor cannot be ended: the kernel holds one of its processes".to_owned())
    }

    fn over(&self, vm: &str, event: Event) {
        self.notes.remove(vm);
        self.forget();
        self.report(event);
    }

    fn forget(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.move_id);
    }

    fn report(&self, event: Event) {
        // The owner has gone: nobody waits for a report.
        let _ = self.reports.send(AgentReport { move_id: self.move_id.clone(), event });
    }
}

/// Until somebody else has seen that it is ready.
///
/// # Errors
/// It is not wanted any more, in words.
async fn seen(words: &mut mpsc::Receiver<Word>) -> Result<Option<u64>, String> {
    loop {
        match words.recv().await {
            Some(Word::End) => return Err("the move was given up".to_owned()),
            // No VM can be in it yet.
            Some(Word::Keep) => {}
            // The daemon ends; whoever comes next decides.
            None => std::future::pending().await,
        }
    }
}

/// What ends the waiting.
enum Decided {
    Keep,
    End,
}

/// None: nobody can decide any more.
async fn decided(words: &mut mpsc::Receiver<Word>) -> Option<Decided> {
    Some(match words.recv().await? {
        Word::Keep => Decided::Keep,
        Word::End => Decided::End,
    })
}
