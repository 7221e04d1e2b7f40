//! `vmpath lab vm`: an honest stand-in for a guest, for load and scale.
//!
//! It drives disks over NBD or vhost-user-blk with a verifying load and answers QMP as QEMU does, so that a daemon suspends and resumes it
//! like a real VM. Invariant: what it reports is what a guest would have seen. It is no guest: no vCPUs, no memory, no
//! page cache; where that matters, real guests are used (`guest`). Rejected: a mock inside the daemon's process.
//! It does not know: paths, the daemon.

mod disk;
mod machine;
mod monitor;
mod session;
#[cfg(test)]
mod tests;
mod vhost_disk;

use crate::child::Termination;
use crate::net::{Address, parse_nbd_url};
use crate::units::parse_duration;
use crate::vhost::Client;
use crate::workload::args::MixArgs;
use crate::workload::block::{BLOCK, Identity};
use crate::workload::engine::Engine;
use crate::workload::talk::LineCommand;
use disk::{Disk, Event, Last, sleep_until};
use machine::{BlockNode, DiskHandle, Machine};
use serde_json::{Value, json};
use session::Session;
use std::io::BufRead;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, timeout};
use vhost_disk::VhostDisk;

/// Orders, events and lines that may wait; each is handled within microseconds.
const WAITING: usize = 256;

/// A stand-in for a guest, with a verifying load.
#[derive(Clone, Debug, clap::Args)]
pub struct VmArgs {
    /// Shown in reports.
    #[arg(long, default_value = "vm")]
    pub name: String,
    /// A disk: NAME=nbd+unix:///EXPORT?socket=PATH, NAME=nbd://ADDR:PORT/EXPORT or NAME=vhost-user:/PATH. Its content is
    /// overwritten. May be repeated.
    #[arg(long, required = true)]
    pub disk: Vec<DiskArg>,
    /// Queues of a vhost-user disk, at most.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub queues: u16,
    /// Answer QMP here, as QEMU does.
    #[arg(long)]
    pub qmp: Option<PathBuf>,
    /// Pause, read everything back, settle, read back again and quit after this time.
    #[arg(long, value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Time between the two read-backs, in which late writes of the storage would show.
    #[arg(long, default_value = "0s", value_parser = parse_duration)]
    pub settle: Duration,
    /// Time between sample lines.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub sample_every: Duration,
    /// How long to try to connect at first.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub connect_for: Duration,
    /// How long to wait at the end for open requests, before they count as lost.
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    pub drain: Duration,
    #[command(flatten)]
    pub mix: MixArgs,
}

/// `NAME=URL`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskArg {
    pub name: String,
    pub url: String,
    place: Place,
}

/// Where a disk is served.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Nbd { address: Address, export: String },
    VhostUser { socket: PathBuf },
}

impl std::str::FromStr for DiskArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || {
            format!(
                "{text:?} is no disk: write NAME=URL, as in vda=nbd+unix:///?socket=/run/vda.sock or \
                 vda=vhost-user:/run/vda.sock"
            )
        };
        let (name, url) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(usage)?;
        let place = match url.strip_prefix("vhost-user:") {
            Some("") => return Err(usage()),
            Some(socket) => Place::VhostUser { socket: PathBuf::from(socket) },
            None => {
                let (address, export) = parse_nbd_url(url)?;
                Place::Nbd { address, export }
            }
        };
        Ok(Self { name: name.to_owned(), url: url.to_owned(), place })
    }
}

impl VmArgs {
    /// Runs until `quit`, the end of standard input, a signal, or the end of the duration. Exit status 1 if anything was
    /// wrong: a mismatch, a lost request, a reply to nothing, an error.
    ///
    /// # Errors
    /// If a disk cannot be connected or the QMP socket not opened.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let report = runtime.block_on(self.work(read_lines(), Box::new(|line| println!("{line}"))))?;
        let wrong =
            ["mismatches", "lost", "completed_twice", "errors"].map(|key| report["report"][key].as_u64());
        // Only vhost-user disks have it.
        let touched = report["report"]["touched_while_stopped"].as_u64().unwrap_or(0);
        Ok(if wrong == [Some(0); 4] && touched == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn work(&self, lines: mpsc::Receiver<String>, say: Out) -> anyhow::Result<Value> {
        let (disk_events, from_disks) = mpsc::unbounded_channel();
        let mut disks = Vec::new();
        let run = self.mix.run_number();
        for (number, arg) in self.disk.iter().enumerate() {
            let who = Identity { run, disk: number as u32 };
            disks.push(self.attach(arg, who, &disk_events, &say).await?);
        }
        let (events, _) = broadcast::channel(WAITING);
        let (asks, asked) = mpsc::channel(1);
        if let Some(path) = &self.qmp {
            tokio::spawn(monitor::serve(crate::child::bind_control(path)?, asks.clone(), events.clone()));
        }
        let machine = Machine::new(self.name.clone(), disks, events);
        let termination = Termination::new()?;
        let host = Host {
            args: self,
            machine,
            asked,
            from_disks,
            lines: Some(lines),
            say,
            termination,
            _asks: asks,
        };
        Ok(host.run().await)
    }

    /// Connects a disk and starts the task that owns it.
    async fn attach(
        &self,
        arg: &DiskArg,
        who: Identity,
        events: &mpsc::UnboundedSender<Event>,
        say: &Out,
    ) -> anyhow::Result<DiskHandle> {
        let whole = |bytes: u64| bytes / BLOCK as u64 * BLOCK as u64;
        let engine = |bytes: u64| {
            say(&json!({ "started": { "vm": self.name, "disk": arg.name, "bytes": bytes, "run": who.run } }));
            Engine::new(who, bytes, self.mix.mix()?).map_err(anyhow::Error::msg)
        };
        let (number, events) = (who.disk as usize, events.clone());
        let (orders, obeyed) = mpsc::channel(WAITING);
        let block = match &arg.place {
            Place::Nbd { address, export } => {
                let session = self.patiently(arg, async || Session::open(address, export).await).await?;
                let engine = engine(whole(session.export.size))?;
                let disk = Disk::new(number, (address.clone(), export.clone()), session, engine, events);
                tokio::spawn(disk.run(obeyed));
                BlockNode::Known
            }
            Place::VhostUser { socket } => {
                let options = vhost_disk::options(socket, self.queues, &self.mix.mix()?);
                let connect = async || Client::connect(options.clone()).map_err(|why| why.to_string());
                let client = self.patiently(arg, connect).await?;
                vhost_disk::is_fit(&client, &self.mix.mix()?)
                    .map_err(|why| anyhow::anyhow!("disk {}: {why}", arg.name))?;
                let engine = engine(whole(client.config().bytes()))?;
                tokio::spawn(VhostDisk::new(number, client, engine, events)?.run(obeyed));
                BlockNode::Unknown
            }
        };
        Ok(DiskHandle { name: arg.name.clone(), url: arg.url.clone(), orders, block })
    }

    /// Tries to connect until the time is up.
    async fn patiently<T>(
        &self,
        arg: &DiskArg,
        connect: impl AsyncFn() -> Result<T, String>,
    ) -> anyhow::Result<T> {
        let end = Instant::now() + self.connect_for;
        loop {
            let why = match timeout(self.connect_for, connect()).await {
                Ok(Ok(connected)) => return Ok(connected),
                Ok(Err(why)) => why,
                Err(_) => "no answer".to_owned(),
            };
            anyhow::ensure!(
                Instant::now() < end,
                "disk {}: {why}; is a server running at {}?",
                arg.name,
                arg.url
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Standard input by a thread of its own, which ends with the process.
fn read_lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(WAITING);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Where lines go.
type Out = Box<dyn Fn(&Value)>;

/// Where everything that happens to the machine comes together.
struct Host<'a> {
    args: &'a VmArgs,
    machine: Machine,
    asked: mpsc::Receiver<monitor::Asked>,
    from_disks: mpsc::UnboundedReceiver<Event>,
    /// None when standard input is at its end.
    lines: Option<mpsc::Receiver<String>>,
    say: Out,
    termination: Termination,
    /// Kept so that `asked` stays open without a QMP socket.
    _asks: mpsc::Sender<monitor::Asked>,
}

async fn next_line(lines: Option<&mut mpsc::Receiver<String>>) -> Option<String> {
    match lines {
        Some(lines) => lines.recv().await,
        None => std::future::pending().await,
    }
}

/// What ends a wait.
enum News {
    Command(LineCommand),
    ReadBack,
    Time,
    End,
}

impl Host<'_> {
    async fn run(mut self) -> Value {
        if !self.args.mix.paused {
            self.machine.line(LineCommand::Go).await;
        }
        let end = self.args.duration.map(|duration| Instant::now() + duration);
        loop {
            match self.news(end).await {
                News::Command(LineCommand::Quit) => {
                    (self.say)(&LineCommand::Quit.answer());
                    return self.finish().await;
                }
                News::End => return self.finish().await,
                News::Time => {
                    self.read_back().await;
                    self.news_until(Instant::now() + self.args.settle).await;
                    if !self.args.settle.is_zero() {
                        self.read_back().await;
                    }
                    return self.finish().await;
                }
                News::Command(command) => {
                    self.machine.line(command).await;
                    (self.say)(&command.answer());
                    if command == LineCommand::Report {
                        (self.say)(&self.machine.report(Last::No).await);
                    }
                }
                News::ReadBack => {}
            }
        }
    }

    /// Serves everybody until something happens that the caller must know.
    async fn news(&mut self, end: Option<Instant>) -> News {
        let mut samples =
            tokio::time::interval_at(Instant::now() + self.args.sample_every, self.args.sample_every);
        loop {
            tokio::select! {
                asked = self.asked.recv(), if self.machine.takes_commands() => {
                    if let Some(asked) = asked {
                        self.machine.command(asked).await;
                    }
                }
                event = self.from_disks.recv() => {
                    let line = match event {
                        Some(event) => self.machine.disk_event(event).await,
                        None => None,
                    };
                    if let Some(line) = line {
                        (self.say)(&line);
                        if line.get("readback").is_some() {
                            return News::ReadBack;
                        }
                    }
                }
                line = next_line(self.lines.as_mut()) => match line.as_deref().map(LineCommand::parse) {
                    Some(Ok(command)) => return News::Command(command),
                    Some(Err(why)) => (self.say)(&json!({ "error": why })),
                    None if self.args.duration.is_none() => return News::End,
                    // Nobody commands; the duration ends it.
                    None => self.lines = None,
                },
                _ = samples.tick() => (self.say)(&self.machine.sample().await),
                () = sleep_until(end) => return News::Time,
                () = self.termination.requested() => return News::End,
            }
        }
    }

    async fn news_until(&mut self, end: Instant) {
        while !matches!(self.news(Some(end)).await, News::Time | News::End) {}
    }

    async fn read_back(&mut self) {
        self.machine.line(LineCommand::ReadBack).await;
        let end = Instant::now() + self.args.drain;
        while !matches!(self.news(Some(end)).await, News::ReadBack | News::Time | News::End) {}
    }

    /// Lets what is open finish, within bounds.
    async fn finish(&mut self) -> Value {
        self.machine.line(LineCommand::Pause).await;
        let end = Instant::now() + self.args.drain;
        loop {
            let report = self.machine.report(Last::No).await;
            if report["report"]["open"].as_u64() == Some(0) || Instant::now() >= end {
                break;
            }
            self.news_until(Instant::now() + Duration::from_millis(20)).await;
        }
        let report = self.machine.report(Last::Yes).await;
        (self.say)(&report);
        report
    }
}
