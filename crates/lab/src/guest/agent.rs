//! The second serial port: a unix socket on this side. Commands go in, lines come out.
//!
//! We listen and QEMU connects, so that no line is lost before somebody reads.

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// QEMU connects before it starts the machine.
const ACCEPT_MAX: Duration = Duration::from_secs(20);
/// How soon it is seen that the last stream has closed.
const LOOK_AT_STREAMS: Duration = Duration::from_millis(50);
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
    bytes: mpsc::Receiver<Vec<u8>>,
    /// Gives each further stream's bytes into `bytes`. A guest that moves to another QEMU goes on there in the middle of a line.
    from_guest: mpsc::Sender<Vec<u8>>,
    /// What has come and is not yet taken, from the beginning of a line.
    held: Vec<u8>,
    /// The streams from which more may come.
    open: Arc<AtomicUsize>,
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
        let end = Instant::now() + bound;
        loop {
            if let Some(length) = self.held.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.held.drain(..=length).collect();
                let line = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
                return Ok(Some(Line::read(&line)));
            }
            // Looked at before the queue: what a stream has said is in the queue before it counts as closed.
            let closed = self.open.load(Ordering::Acquire) == 0;
            let wait = if closed { Duration::ZERO } else { end.saturating_duration_since(Instant::now()) };
            match self.bytes.recv_timeout(wait.min(LOOK_AT_STREAMS)) {
                Ok(more) => self.held.extend(more),
                Err(_) if closed => bail!("its serial port is closed"),
                Err(_) if Instant::now() >= end => return Ok(None),
                Err(_) => {}
            }
        }
    }

    /// Goes on with the guest where it has moved to.
    pub(super) fn follow(&mut self, listener: Listener, alive: impl FnMut() -> Result<()>) -> Result<()> {
        self.to_guest = listener.connection(alive)?;
        self.read_from(&self.to_guest)
    }

    fn read_from(&self, stream: &UnixStream) -> Result<()> {
        let (mut stream, to, open) = (stream.try_clone()?, self.from_guest.clone(), Arc::clone(&self.open));
        open.fetch_add(1, Ordering::AcqRel);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut bytes) {
                if to.send(bytes[..length].to_vec()).is_err() {
                    break;
                }
            }
            open.fetch_sub(1, Ordering::AcqRel);
        });
        Ok(())
    }
}

impl Listener {
    /// Waits for QEMU, as long as `alive` says that it may still come.
    pub(super) fn accept(self, alive: impl FnMut() -> Result<()>) -> Result<Agent> {
        let to_guest = self.connection(alive)?;
        let (from_guest, bytes) = mpsc::channel();
        let (held, open) = (Vec::new(), Arc::new(AtomicUsize::new(0)));
        let agent = Agent { to_guest, bytes, from_guest, held, open };
        agent.read_from(&agent.to_guest)?;
        Ok(agent)
    }

    fn connection(self, mut alive: impl FnMut() -> Result<()>) -> Result<UnixStream> {
        let end = Instant::now() + ACCEPT_MAX;
        while poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&LOOK_AGAIN))? == 0 {
            alive()?;
            if Instant::now() > end {
                bail!("QEMU does not connect its serial port");
            }
        }
        let mut newest = self.0.accept()?.0;
        // Others before it waited for a guest that did not come.
        self.0.set_nonblocking(true)?;
        while let Ok((newer, _)) = self.0.accept() {
            newest = newer;
        }
        Ok(newest)
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
    fn a_line_that_is_cut_by_a_move_is_whole() {
        let dir = tempfile::tempdir().expect("a folder");
        let qemu = |name: &str| {
            let listener = Agent::listen(&dir.path().join(name)).expect("a socket");
            (listener, UnixStream::connect(dir.path().join(name)).expect("the listener"))
        };
        let (here, mut source) = qemu("a");
        let mut agent = here.accept(|| Ok(())).expect("a stream");
        source.write_all(b"ready\n{\"half\": ").expect("the agent");
        let bound = Duration::from_secs(10);
        assert_eq!(agent.next(bound).expect("a line"), Some(Line::Ready));
        assert_eq!(agent.next(Duration::ZERO).expect("nothing yet"), None);
        let (there, mut destination) = qemu("b");
        agent.follow(there, || Ok(())).expect("a stream");
        drop(source);
        destination.write_all(b"1}\r\n").expect("the agent");
        assert_eq!(agent.next(bound).expect("a line"), Some(Line::Output("{\"half\": 1}".to_owned())));
        agent.send("go").expect("the destination");
        let mut heard = [0; 3];
        destination.read_exact(&mut heard).expect("a line");
        assert_eq!(&heard, b"go\n");
        drop(destination);
        assert!(agent.next(bound).is_err(), "nobody is left who could say anything");
    }

    #[test]
    fn of_several_that_have_come_the_last_one_speaks_for_the_guest() {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("a");
        let listener = Agent::listen(&socket).expect("a socket");
        drop(UnixStream::connect(&socket).expect("the listener"));
        let mut last = UnixStream::connect(&socket).expect("the listener");
        last.write_all(b"ready\n").expect("the agent");
        let mut agent = listener.accept(|| Ok(())).expect("a stream");
        assert_eq!(agent.next(Duration::from_secs(10)).expect("a line"), Some(Line::Ready));
    }

    #[test]
    fn the_guest_s_own_words_are_told_from_a_command_s() {
        assert_eq!(Line::read("ready"), Line::Ready);
        assert_eq!(Line::read("exit 3"), Line::Exit(3));
        assert_eq!(Line::read("exit is near"), Line::Output("exit is near".to_owned()));
        assert_eq!(Line::read("{\"exit\": 3}"), Line::Output("{\"exit\": 3}".to_owned()));
    }
}
