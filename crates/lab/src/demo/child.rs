//! Child processes: started in a group of their own, heard line by line, and gone when their value is.
//!
//! Invariant: no child outlives its [`Child`]: first SIGTERM, after a while SIGKILL, to the whole group.
//! Rejected: threads instead of processes: the demo must be the real daemon, and a signal must really hit one of them.
//! It does not know: what a line means.

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long a child may take to end by itself.
const TERM_BOUND: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) struct Child {
    name: String,
    process: std::process::Child,
    stdin: Option<ChildStdin>,
    log: PathBuf,
}

impl Child {
    /// Starts this very program with other arguments. Its lines go to `lines`; what it says to people goes to a log.
    pub(super) fn start(
        name: &str,
        arguments: &[String],
        dir: &Path,
        lines: impl Fn(String) -> bool + Send + 'static,
    ) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let log = dir.join(format!("{name}.log"));
        let mut process = Command::new(program)
            .args(arguments)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let stdin = process.stdin.take();
        if let Some(stdout) = process.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if !lines(line) {
                        return;
                    }
                }
            });
        }
        Ok(Self { name: name.to_owned(), process, stdin, log })
    }

    /// Writes a line to its standard input.
    pub(super) fn tell(&mut self, line: &str) -> Result<()> {
        let Some(stdin) = &mut self.stdin else { anyhow::bail!("{} takes no input", self.name) };
        let said = writeln!(stdin, "{line}").and_then(|()| stdin.flush());
        said.with_context(|| format!("{} is gone; its last words:\n{}", self.name, self.last_words()))
    }

    /// # Errors
    /// If it has ended; with the end of its log.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => {
                anyhow::bail!("{} has ended ({status}); its last words:\n{}", self.name, self.last_words())
            }
        }
    }

    /// Waits for its end, within a bound; says whether it came.
    pub(super) fn wait(&mut self, bound: Duration) -> Result<bool> {
        let end = Instant::now() + bound;
        while self.process.try_wait()?.is_none() {
            if Instant::now() >= end {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(true)
    }

    pub(super) fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = Pid::from_raw(self.process.id().cast_signed()) {
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stdin = None;
        self.signal(Signal::TERM);
        if !self.wait(TERM_BOUND).unwrap_or(false) {
            self.signal(Signal::KILL);
        }
        let _ = self.process.wait();
    }
}

/// The first line that a child says, within a bound.
pub(super) fn first_line(
    lines: &mpsc::Receiver<String>,
    child: &mut Child,
    bound: Duration,
) -> Result<String> {
    let end = Instant::now() + bound;
    loop {
        match lines.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => return Ok(line),
            Err(_) => child.check_alive()?,
        }
        anyhow::ensure!(
            Instant::now() < end,
            "{} says nothing; its log:\n{}",
            child.name,
            child.last_words()
        );
    }
}
