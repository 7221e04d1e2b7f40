//! A program that serves while a scenario runs: in a process group of its own, its output in a file, ended with its
//! value.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct Server {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts it; standard output and error go to `NAME.log` in `dir`.
    ///
    /// # Errors
    /// It is not installed, or the log cannot be written.
    pub(crate) fn start(name: &str, command: &mut Command, dir: &Path) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command.process_group(0).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// # Errors
    /// It has ended, or a thread of it has panicked; its log says why.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None if self.log().contains("panicked at") => bail!("{} has panicked and lives on", self.name),
            None => Ok(()),
            Some(status) => bail!("{} has ended ({status})", self.name),
        }
    }

    /// What it wrote so far.
    pub(crate) fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Asks it to end, and says how it did.
    ///
    /// # Errors
    /// It has not ended within `bound`.
    pub(crate) fn terminate(&mut self, bound: Duration) -> Result<ExitStatus> {
        if let Some(pid) = self.pid() {
            kill_process(pid, Signal::TERM).with_context(|| format!("cannot signal {}", self.name))?;
        }
        let end = Instant::now() + bound;
        loop {
            match self.child.try_wait()? {
                Some(status) => return Ok(status),
                None if Instant::now() > end => {
                    bail!("{} does not end on SIGTERM", self.name)
                }
                None => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Ends it by SIGKILL, with all that it has started.
    pub(crate) fn kill(&mut self) {
        if let Some(pid) = self.pid().filter(|_| matches!(self.child.try_wait(), Ok(None))) {
            _ = kill_process_group(pid, Signal::KILL); // it may end by itself meanwhile
        }
        _ = self.child.wait();
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }
}

/// Signals all processes of a group, if there are any left.
pub(crate) fn signal_group(leader: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(leader).ok().and_then(Pid::from_raw) {
        _ = kill_process_group(pid, signal); // it may end by itself meanwhile
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
