//! A stand-in guest (`vmpath lab vm`) under the verifying load: always busy, and not slowed down by emulation.
//!
//! What is measured with it is the daemon and not TCG; that a real guest fares as well is checked with real guests.
//! Invariant: it is gone when its value is. It does not judge: [`Seen`] is what it found, and a naive build is meant to fail.

use super::server::signal_group;
use super::stage::Stage;
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use vmpath_lab::guest::FrontEnd;
use vmpath_lab::report::Bound;

const START_MAX: Duration = Duration::from_secs(15);
const PROGRESS_MAX: Duration = Duration::from_secs(20);
/// What is open at the end may wait for a quarantine.
const FINISH_MAX: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct StandIn {
    name: String,
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    sample: Value,
    /// Milliseconds, of all samples since it was asked for.
    longest_gap: f64,
    read_backs: Vec<Value>,
    report: Value,
    complaints: Vec<Value>,
}

/// What a stand-in has seen, at its end.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) name: String,
    pub(crate) status: i32,
    pub(crate) report: Value,
    /// Each `{"blocks", "mismatches"}`.
    pub(crate) read_backs: Vec<Value>,
    pub(crate) complaints: Vec<Value>,
}

impl StandIn {
    /// Starts it on `NAME.sock` and waits until requests complete. `load` is further arguments of `vmpath lab vm`.
    ///
    /// # Errors
    /// It does not connect, or nothing completes.
    pub(crate) fn start(stage: &Stage, name: &str, load: &str) -> Result<Self> {
        let socket = stage.dir.join(format!("{name}.sock"));
        let disk = match stage.front_end {
            FrontEnd::Nbd => format!("vda=nbd+unix:///vda?socket={}", socket.display()),
            FrontEnd::VhostUser => format!("vda=vhost-user:{}", socket.display()),
        };
        let log = File::create(stage.dir.join(format!("{name}.log")))?;
        let mut command = Command::new(stage.binary());
        command.args(["lab", "vm", "--name", name, "--disk", &disk, "--qmp"]);
        command.arg(stage.dir.join(format!("{name}.qmp"))).args(load.split_whitespace());
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().with_context(|| format!("cannot start the stand-in {name}"))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the stand-in {name} has no pipes")
        };
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let all = BufReader::new(stdout).lines().map_while(Result::ok);
            for line in all {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut vm = Self {
            name: name.to_owned(),
            child,
            stdin,
            lines,
            sample: Value::Null,
            longest_gap: 0.0,
            read_backs: Vec::new(),
            report: Value::Null,
            complaints: Vec::new(),
        };
        vm.progress_within(START_MAX)?;
        stage.say(format!("stand-in {name} is under load"));
        Ok(vm)
    }

    /// Waits until requests complete that had not when this was called. Returns how many have in all.
    ///
    /// # Errors
    /// None does in time, or it has ended.
    pub(crate) fn wait_progress(&mut self) -> Result<u64> {
        self.progress_within(PROGRESS_MAX)
    }

    /// The newest sample: `requests`, `open`, `errors`, `mismatches`, ….
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn sample(&mut self) -> Result<Value> {
        self.hear(Duration::ZERO)?;
        Ok(self.sample.clone())
    }

    /// The longest time without a completion while requests were open, in milliseconds, since the last call.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn take_gap(&mut self) -> Result<f64> {
        self.hear(Duration::ZERO)?;
        Ok(std::mem::take(&mut self.longest_gap))
    }

    /// Gives it one of its commands.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn tell(&mut self, command: &str) -> Result<()> {
        writeln!(self.stdin, "{command}").with_context(|| format!("the stand-in {} is gone", self.name))
    }

    /// Stops the load, reads all back, again after `settle`, and ends it.
    ///
    /// # Errors
    /// It does not end.
    pub(crate) fn end(mut self, settle: Duration) -> Result<Seen> {
        let end = Instant::now() + FINISH_MAX + settle;
        for pause in [Duration::ZERO, settle] {
            std::thread::sleep(pause);
            let before = self.read_backs.len();
            self.tell("readback")?;
            while self.read_backs.len() == before {
                self.hear_before(end, "reading back")?;
            }
        }
        self.tell("quit")?;
        while self.report.is_null() {
            self.hear_before(end, "the last report")?;
        }
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status.code().unwrap_or(-1),
                None if Instant::now() > end => bail!("the stand-in {} does not end", self.name),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let take = std::mem::take::<Vec<Value>>;
        Ok(Seen {
            name: self.name.clone(),
            status,
            report: self.report.take(),
            read_backs: take(&mut self.read_backs),
            complaints: take(&mut self.complaints),
        })
    }

    fn progress_within(&mut self, bound: Duration) -> Result<u64> {
        self.hear(Duration::ZERO)?;
        let (before, end) = (self.completed(), Instant::now() + bound);
        while self.completed() <= before {
            self.hear_before(end, "a completed request")?;
        }
        Ok(self.completed())
    }

    fn completed(&self) -> u64 {
        self.sample["requests"].as_u64().unwrap_or(0)
    }

    fn hear_before(&mut self, end: Instant, what: &str) -> Result<()> {
        if Instant::now() > end {
            bail!("the stand-in {} does not come to {what}; last sample: {}", self.name, self.sample);
        }
        self.hear(Duration::from_millis(20))
    }

    /// Takes what it has said, waiting at most `bound` for the first line.
    fn hear(&mut self, bound: Duration) -> Result<()> {
        let mut wait = bound;
        loop {
            match self.lines.recv_timeout(wait) {
                Ok(line) => self.take(&line)?,
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) if self.report.is_null() => {
                    bail!("the stand-in {} has ended: {:?}", self.name, self.complaints)
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            wait = Duration::ZERO;
        }
    }

    fn take(&mut self, line: &str) -> Result<()> {
        let mut value: Value =
            serde_json::from_str(line).with_context(|| format!("the stand-in {} says: {line}", self.name))?;
        if let Some(sample) = value.get_mut("sample") {
            self.sample = sample.take();
            let gap = self.sample["longest_gap_ms"].as_f64().unwrap_or(0.0);
            self.longest_gap = self.longest_gap.max(gap);
        } else if let Some(read_back) = value.get_mut("readback") {
            self.read_backs.push(read_back.take());
        } else if let Some(report) = value.get_mut("report") {
            self.report = report.take();
        } else if value.get("error").is_some() || value.get("io_error").is_some() {
            self.complaints.push(value);
        }
        Ok(())
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            signal_group(self.child.id(), Signal::KILL);
        }
        _ = self.child.wait();
    }
}

impl Seen {
    /// Wrong blocks that it read, while it ran and when it read all back.
    pub(crate) fn wrong_blocks(&self) -> u64 {
        self.report["mismatches"].as_u64().unwrap_or(0)
    }

    /// The first wrong block in words; empty if there is none.
    pub(crate) fn first_wrong(&self) -> String {
        let all = self.report["disks"].as_array().into_iter().flatten();
        let first = all.map(|disk| &disk["report"]["mismatch_details"][0]).find(|detail| !detail.is_null());
        first.map(ToString::to_string).unwrap_or_default()
    }

    /// All that a guest has a right to, as checks: nothing failed, lost, doubled or wrong.
    pub(crate) fn check(&self, stage: &mut Stage) {
        let (name, seen) = (&self.name, &self.report);
        for (what, key) in [
            ("requests failed", "errors"),
            ("requests lost", "lost"),
            ("requests completed twice", "completed_twice"),
            ("wrong blocks", "mismatches"),
        ] {
            let found = seen[key].as_u64().map(|n| n as f64);
            let check = stage.report.check(&format!("{name}: {what}"), found, Bound::Equal(0.0), "");
            check.note = if key == "mismatches" { self.first_wrong() } else { String::new() };
        }
        let read_back = self.read_backs.iter().filter_map(|r| r["blocks"].as_u64()).sum::<u64>() as f64;
        for (what, found) in [
            ("verified", seen["blocks_verified"].as_u64().map(|n| n as f64)),
            ("read back at the end", Some(read_back)),
        ] {
            let check = format!("{name}: blocks {what}");
            stage.report.check(&check, found, Bound::AtLeast(1.0), "blocks");
        }
        let status = f64::from(self.status);
        let check = format!("{name}: exit status of its load");
        stage.report.check(&check, status, Bound::Equal(0.0), "status").note =
            self.complaints.first().map(ToString::to_string).unwrap_or_default();
    }
}
