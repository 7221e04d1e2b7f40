//! The second serial port: a unix socket on this side. Commands go in, lines come out.
//!
//! We listen and QEMU connects, so that no line is lost before somebody reads.

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// QEMU connects before it starts the machine.
const ACCEPT_MAX: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// What a guest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// It has booted and takes a command.
    Ready,
    /// A line of the running command's standard output.
    Output(String),
    /// The command ended with this status; the guest takes the next one.
    Exit(i32),
}

#[derive(Debug)]
pub(super) struct Listener(UnixListener);

#[derive(Debug)]
pub(super) struct Agent {
    to_guest: UnixStream,
    lines: mpsc::Receiver<String>,
}

impl Agent {
    pub(super) fn listen(socket: &Path) -> Result<Listener> {
        let listener = UnixListener::bind(socket);
        Ok(Listener(listener.with_context(|| format!("cannot listen on {}", socket.display()))?))
    }

    pub(super) fn send(&mut self, line: &str) -> Result<()> {
        Ok(self.to_guest.write_all(format!("{line}\n").as_bytes())?)
    }

    pub(super) fn next(&mut self, bound: Duration) -> Result<Option<Line>> {
        match self.lines.recv_timeout(bound) {
            Ok(line) => Ok(Some(Line::read(&line))),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("its serial port is closed"),
        }
    }
}

impl Listener {
    /// Waits for QEMU, as long as `alive` says that it may still come.
    pub(super) fn accept(self, mut alive: impl FnMut() -> Result<()>) -> Result<Agent> {
        let end = Instant::now() + ACCEPT_MAX;
        while poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&LOOK_AGAIN))? == 0 {
            alive()?;
            if Instant::now() > end {
                bail!("QEMU does not connect its serial port");
            }
        }
        let (stream, _) = self.0.accept()?;
        let (send, lines) = mpsc::channel();
        let from_guest = BufReader::new(stream.try_clone()?);
        thread::spawn(move || {
            for line in from_guest.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Agent { to_guest: stream, lines })
    }
}

impl Line {
    fn read(line: &str) -> Self {
        match line.strip_prefix("exit ").map(str::parse) {
            Some(Ok(status)) => Self::Exit(status),
            _ if line == "ready" => Self::Ready,
            _ => Self::Output(line.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_s_own_words_are_told_from_a_command_s() {
        assert_eq!(Line::read("ready"), Line::Ready);
        assert_eq!(Line::read("exit 3"), Line::Exit(3));
        assert_eq!(Line::read("exit is near"), Line::Output("exit is near".to_owned()));
        assert_eq!(Line::read("{\"exit\": 3}"), Line::Output("{\"exit\": 3}".to_owned()));
    }
}
