//! `vmpath lab verify`: the load on a block device or file, with one blocking thread for each slot.
//!
//! O_DIRECT, so that what is read comes from the device and not from a cache. Invariant: a thread holds the engine's
//! lock only to choose and to check, never while it waits for the device. Rejected: io_uring, which needs `unsafe`;
//! async files, which are threads with more steps. It does not know: that it may run inside a guest.

use super::args::MixArgs;
use super::block::{BLOCK, Identity};
use super::engine::{Action, Engine, Outcome, Request, Step};
use super::talk::LineCommand;
use crate::clock::unix_micros;
use crate::units::{parse_duration, parse_size};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// A verifying load on a block device.
#[derive(Clone, Debug, clap::Args)]
pub struct VerifyArgs {
    /// The device or file. Its content is overwritten.
    #[arg(long)]
    pub device: PathBuf,
    /// How much of it to use; left out: all.
    #[arg(long, value_parser = parse_size)]
    pub size: Option<u64>,
    /// Read commands from here instead of standard input.
    #[arg(long)]
    pub control: Option<PathBuf>,
    /// Write lines here instead of to standard output.
    #[arg(long)]
    pub output: Option<PathBuf>,
    /// Pause, read everything back and quit after this time.
    #[arg(long, value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Time between sample lines.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub sample_every: Duration,
    /// How long to wait at the end for open requests, before they count as lost.
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    pub drain: Duration,
    #[command(flatten)]
    pub mix: MixArgs,
}

impl VerifyArgs {
    /// Runs until `quit`, the end of its input, or the end of the duration. Exit status 1 if anything was wrong.
    ///
    /// # Errors
    /// If the device cannot be used.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let file = open_device(&self.device)?;
        let size = match self.size {
            Some(size) => size,
            None => io::Seek::seek(&mut &file, io::SeekFrom::End(0))?,
        };
        let who = Identity { run: self.mix.run_number(), disk: 0 };
        let engine = Engine::new(who, size / BLOCK as u64 * BLOCK as u64, self.mix.mix()?)
            .map_err(anyhow::Error::msg)?;
        let (finished, read_backs) = mpsc::channel();
        let shared = Arc::new(Shared {
            state: Mutex::new(State { engine, quit: false }),
            wake: Condvar::new(),
            file,
            born: Instant::now(),
            finished: Mutex::new(finished),
        });
        let mut session = Session { shared, read_backs, out: self.open_output()? };
        session.say(&json!({ "started": { "device": self.device, "bytes": size, "run": who.run } }))?;
        for slot in 0..self.mix.slots {
            let shared = Arc::clone(&session.shared);
            thread::Builder::new().name(format!("slot-{slot}")).spawn(move || shared.work())?;
        }
        if !self.mix.paused {
            session.command(LineCommand::Go)?;
        }
        session.converse(&self, &self.lines()?)
    }

    fn open_output(&self) -> anyhow::Result<Box<dyn Write>> {
        Ok(match &self.output {
            Some(path) => {
                Box::new(named(path, OpenOptions::new().write(true).create(true).truncate(false).open(path))?)
            }
            None => Box::new(io::stdout()),
        })
    }

    /// Lines of the input, by a thread of its own, which ends with the process.
    fn lines(&self) -> anyhow::Result<mpsc::Receiver<String>> {
        let input: Box<dyn io::Read + Send> = match &self.control {
            Some(path) => Box::new(named(path, File::open(path))?),
            None => Box::new(io::stdin()),
        };
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(input).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }
}

fn named<T>(path: &Path, result: io::Result<T>) -> anyhow::Result<T> {
    result.map_err(|why| {
        anyhow::anyhow!("cannot use {}: {why}; name one that exists and may be opened", path.display())
    })
}

/// A file system without O_DIRECT (tmpfs) is used without it.
fn open_device(path: &Path) -> anyhow::Result<File> {
    let options = |flags| OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
    let direct = options(libc::O_DIRECT);
    named(
        path,
        direct.or_else(|why| if why.raw_os_error() == Some(libc::EINVAL) { options(0) } else { Err(why) }),
    )
}

struct State {
    engine: Engine,
    quit: bool,
}

/// What the slots' threads share.
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    file: File,
    born: Instant,
    finished: Mutex<mpsc::Sender<Value>>,
}

impl Shared {
    fn now(&self) -> Duration {
        self.born.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One slot: choose, do, check, until the end.
    fn work(&self) {
        let mut state = self.lock();
        while !state.quit {
            match state.engine.step(self.now()) {
                Step::Issue(mut request) => {
                    drop(state);
                    let outcome = perform(&self.file, &mut request);
                    state = self.lock();
                    state.engine.complete(request, outcome, self.now());
                    self.wake.notify_all();
                }
                Step::Wait => state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                Step::WaitUntil(then) => {
                    let wait = then.saturating_sub(self.now());
                    state = self.wake.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
            if let Some(done) = state.engine.take_read_back() {
                let line = json!({ "readback": { "blocks": done.blocks, "mismatches": done.mismatches } });
                let _ = self.finished.lock().unwrap_or_else(PoisonError::into_inner).send(line);
            }
        }
    }
}

fn perform(file: &File, request: &mut Request) -> Outcome {
    let (offset, len) = request.range();
    let done = match &request.action {
        Action::Read(_) => match Arc::get_mut(&mut request.buffer) {
            Some(buffer) => file.read_exact_at(buffer, offset),
            None => Err(io::ErrorKind::ResourceBusy.into()),
        },
        Action::Write(_) => file.write_all_at(&request.buffer, offset),
        Action::Zero(_) => {
            let flags = rustix::fs::FallocateFlags::ZERO_RANGE | rustix::fs::FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(file, flags, offset, len as u64).map_err(io::Error::from)
        }
        Action::Flush => file.sync_data(),
    };
    if done.is_ok() { Outcome::Done } else { Outcome::Failed }
}

/// The conversation with whoever commands the load.
struct Session {
    shared: Arc<Shared>,
    read_backs: mpsc::Receiver<Value>,
    out: Box<dyn Write>,
}

impl Session {
    fn converse(&mut self, args: &VerifyArgs, lines: &mpsc::Receiver<String>) -> anyhow::Result<ExitCode> {
        let mut sample_at = args.sample_every;
        loop {
            let now = self.shared.now();
            if args.duration.is_some_and(|end| now >= end) {
                self.read_back_and_wait(args.drain)?;
                return self.quit(args.drain);
            }
            if now >= sample_at {
                sample_at += args.sample_every;
                self.sample()?;
            }
            while let Ok(line) = self.read_backs.try_recv() {
                self.say(&line)?;
            }
            let next = sample_at.min(args.duration.unwrap_or(Duration::MAX)).min(now + TICK);
            match lines.recv_timeout(next.saturating_sub(now)) {
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                // With a duration, nobody need be there to command.
                Err(mpsc::RecvTimeoutError::Disconnected) if args.duration.is_some() => thread::sleep(TICK),
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.quit(args.drain),
                Ok(line) if line.trim().is_empty() => {}
                Ok(line) => match LineCommand::parse(&line) {
                    Ok(LineCommand::Quit) => return self.quit(args.drain),
                    Ok(command) => self.command(command)?,
                    Err(why) => self.say(&json!({ "error": why }))?,
                },
            }
        }
    }

    fn command(&mut self, command: LineCommand) -> anyhow::Result<()> {
        let mut state = self.shared.lock();
        match command {
            LineCommand::Go => state.engine.go(),
            LineCommand::Pause | LineCommand::Quit => state.engine.pause(),
            LineCommand::Rate(rate) => state.engine.set_rate(rate),
            LineCommand::ReadBack => state.engine.read_back(),
            LineCommand::Report => {}
        }
        drop(state);
        self.shared.wake.notify_all();
        self.say(&command.answer())?;
        if command == LineCommand::Report { self.report() } else { Ok(()) }
    }

    fn sample(&mut self) -> anyhow::Result<()> {
        let now = self.shared.now();
        let mut state = self.shared.lock();
        state.engine.stats.look(now);
        let mut sample = state.engine.stats.sample();
        sample["state"] = json!(state.engine.state());
        sample["open"] = json!(state.engine.open());
        drop(state);
        sample["at_unix_us"] = json!(unix_micros());
        self.say(&json!({ "sample": sample }))
    }

    fn read_back_and_wait(&mut self, bound: Duration) -> anyhow::Result<()> {
        self.command(LineCommand::ReadBack)?;
        let line = self
            .read_backs
            .recv_timeout(bound)
            .unwrap_or_else(|_| json!({ "error": "the read-back did not end" }));
        self.say(&line)
    }

    fn report(&mut self) -> anyhow::Result<()> {
        let report = self.shared.lock().engine.stats.to_json();
        self.say(&json!({ "report": report }))
    }

    fn quit(&mut self, bound: Duration) -> anyhow::Result<ExitCode> {
        self.command(LineCommand::Quit)?;
        let end = Instant::now() + bound;
        let mut state = self.shared.lock();
        while state.engine.open() > 0 && Instant::now() < end {
            state = self.shared.wake.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.engine.stats.lost += state.engine.open() as u64;
        state.quit = true;
        let stats = &state.engine.stats;
        let good = stats.mismatches + stats.lost + stats.errors == 0;
        drop(state);
        self.shared.wake.notify_all();
        self.report()?;
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn say(&mut self, line: &Value) -> anyhow::Result<()> {
        writeln!(self.out, "{line}")?;
        Ok(self.out.flush()?)
    }
}

/// How soon a command, a sample or a result is noticed.
const TICK: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: VerifyArgs,
    }

    /// Runs a load on a file, commanded by these lines; its exit status is good, and its output comes back.
    fn run(options: &str, commands: &str) -> Vec<Value> {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(at("control"), commands).unwrap();
        File::create(at("disk")).unwrap().set_len(2 << 20).unwrap();
        let line = format!(
            "verify --device {} --control {} --output {} --slots 4 --sizes 4KiB,64KiB {options}",
            at("disk"),
            at("control"),
            at("out")
        );
        let status = Command::parse_from(line.split_whitespace()).args.run().unwrap();
        assert_eq!(status, ExitCode::SUCCESS);
        let out = std::fs::read_to_string(at("out")).unwrap();
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_load_on_a_file_verifies_and_reads_back() {
        let lines = run("--duration 300ms --sample-every 100ms --zero 5", "");
        let read_back = lines.iter().find(|line| line.get("readback").is_some()).unwrap();
        assert_eq!(read_back["readback"]["mismatches"], 0);
        let report = &lines.last().unwrap()["report"];
        assert!(report["blocks_verified"].as_u64() > Some(100) && report["errors"] == 0, "{report}");
        assert!(lines.iter().any(|line| line.get("sample").is_some()));
    }

    #[test]
    fn commands_are_answered_in_order() {
        let lines = run("--paused", "go\nrate 1MiB/s\nnonsense\npause\nreport\nquit\n");
        let heads: Vec<&str> = lines
            .iter()
            .map(|line| line["answer"].as_str().unwrap_or(line.as_object().unwrap().keys().next().unwrap()))
            .collect();
        assert_eq!(heads, ["started", "go", "rate", "error", "pause", "report", "report", "quit", "report"]);
    }
}
