//! One step of a check run: a command whose output is shown as it comes, kept, and bounded in time.
//!
//! Invariant: when a step returns, nothing that it started in its process group runs any more.
//! Rejected: inheriting our own output, which is simpler but leaves nothing to count tests in.

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// Silence after which a line says that the step still runs.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// What a step left behind.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) succeeded: bool,
    /// Standard output and error, in the order in which lines came.
    pub(crate) output: String,
}

/// Runs `command` for at most `bound`, showing its output.
///
/// # Errors
/// If the command cannot be started.
pub(crate) fn run(name: &str, command: &mut Command, bound: Duration) -> Result<Finished> {
    run_and(|line| println!("{line}"), name, command, bound)
}

/// The same for a command that says too much: only signs of life are shown.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_quietly(name: &str, command: &mut Command, bound: Duration) -> Result<Finished> {
    run_and(|_| (), name, command, bound)
}

fn run_and(show: impl Fn(&str), name: &str, command: &mut Command, bound: Duration) -> Result<Finished> {
    let began = Instant::now();
    let mut group = Group::spawn(command).with_context(|| format!("cannot start {}", shown(command)))?;
    let (send, lines) = mpsc::channel();
    let readers = [group.read_stdout(send.clone()), group.read_stderr(send)];
    let mut output = String::new();
    let mut timed_out = false;
    loop {
        let left = bound.saturating_sub(began.elapsed());
        match lines.recv_timeout(HEARTBEAT.min(left)) {
            Ok(line) => {
                show(&line);
                output.push_str(&line);
                output.push('\n');
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                println!("   {name}: ended after {} s, its time is over", bound.as_secs());
                timed_out = true;
                break;
            }
            Err(RecvTimeoutError::Timeout) => {
                println!("   {name} still runs: {} s", began.elapsed().as_secs());
            }
        }
    }
    let succeeded = group.end(if timed_out { Patience::None } else { Patience::UntilItEnds }) && !timed_out;
    for reader in readers.into_iter().flatten() {
        _ = reader.join();
    }
    Ok(Finished { succeeded, output })
}

/// The command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    UntilItEnds,
    None,
}

/// A child in a process group of its own, which ends with this value.
struct Group {
    child: Child,
}

impl Group {
    fn spawn(command: &mut Command) -> Result<Self> {
        let command =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        Ok(Self { child: command.spawn()? })
    }

    fn read_stdout(&mut self, to: mpsc::Sender<String>) -> Option<thread::JoinHandle<()>> {
        self.child.stdout.take().map(|stream| read_lines(stream, to))
    }

    fn read_stderr(&mut self, to: mpsc::Sender<String>) -> Option<thread::JoinHandle<()>> {
        self.child.stderr.take().map(|stream| read_lines(stream, to))
    }

    /// Waits for the child if asked to, ends what is left of the group, and says whether the child succeeded.
    fn end(&mut self, patience: Patience) -> bool {
        let waited = (patience == Patience::UntilItEnds).then(|| self.child.wait());
        self.kill();
        let status = waited.unwrap_or_else(|| self.child.wait());
        status.is_ok_and(|s| s.success())
    }

    fn kill(&self) {
        if let Ok(id) = i32::try_from(self.child.id())
            && let Some(pid) = Pid::from_raw(id)
        {
            _ = kill_process_group(pid, Signal::KILL); // gone already is what we want
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

fn read_lines(stream: impl Read + Send + 'static, to: mpsc::Sender<String>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(n) if n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if to.send(text).is_err() {
                return;
            }
            line.clear();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, bound: Duration) -> Finished {
        run("test", Command::new("sh").args(["-c", script]), bound).expect("sh is there")
    }

    #[test]
    fn output_and_status_are_kept() {
        let finished = shell("echo one; echo two >&2; exit 3", Duration::from_secs(10));
        assert!(!finished.succeeded);
        assert!(finished.output.contains("one\n") && finished.output.contains("two\n"));
        assert!(shell("true", Duration::from_secs(10)).succeeded);
    }

    #[test]
    fn a_step_that_takes_too_long_is_ended_with_its_children() {
        let began = Instant::now();
        assert!(!shell("sleep 100 & wait", Duration::from_millis(200)).succeeded);
        assert!(began.elapsed() < Duration::from_secs(50));
    }
}
