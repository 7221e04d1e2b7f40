//! Real guests: QEMU with Debian's cloud kernel, and this very program inside as the verifying workload.
//!
//! A guest boots from a shared, read-only kernel and initramfs; its disks come from sockets. Its console goes to
//! a file; a second serial port carries one command in and its lines out. Nothing of it survives its value: QEMU has
//! a process group of its own, which is killed on drop.
//! Rejected: a guest with an operating system image (hundreds of megabytes to fetch, a minute to boot under TCG), and
//! `ssh` into it (a network that the tests would then have to keep apart from the storage's).
//! It does not know: what the command does, paths, the daemon.

mod agent;
mod cpio;
mod image;
mod kernel;
mod load;
mod machine;
mod monitor;

pub use agent::Line;
pub use image::Image;
pub use kernel::Kernel;
pub use load::{Load, LoadEnd};

use agent::Agent;
use anyhow::{Context, Result, bail};
use machine::Machine;
use monitor::Monitor;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a guest needs; QEMU under TCG takes about this, and two seconds of a processor, to boot.
pub const MEMORY_MIB: u32 = 256;

/// How a disk reaches the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum FrontEnd {
    /// QEMU's own NBD client behind a virtio-blk device of QEMU's.
    #[default]
    Nbd,
    /// The device itself is on the other side of the socket, and works in the guest's memory.
    VhostUser,
}

/// What becomes a disk, in order `/dev/vda`, `/dev/vdb`, ….
#[derive(Clone, Debug)]
pub struct GuestDisk {
    pub front_end: FrontEnd,
    /// Unix socket of the server. It must listen when the guest starts. A vhost-user-blk server may come and go later:
    /// QEMU tries again each second.
    pub socket: PathBuf,
}

#[derive(Clone, Debug)]
pub struct GuestConfig {
    /// Shown in messages.
    pub name: String,
    pub disks: Vec<GuestDisk>,
    /// Where QEMU listens for a QMP client, such as the daemon.
    pub qmp: PathBuf,
    pub memory_mib: u32,
    /// Words before QEMU's own command, such as `nsenter` and what it needs; mostly none.
    pub within: Vec<String>,
    /// Existing folder for its console and sockets. At most about 80 characters long: sockets' names are short.
    pub dir: PathBuf,
}

/// A running guest. Dropping it ends it.
#[derive(Debug)]
pub struct Guest {
    name: String,
    dir: PathBuf,
    /// None where somebody else has started QEMU.
    machine: Option<Machine>,
    agent: Agent,
    monitor: Monitor,
}

impl Guest {
    /// Starts QEMU. Returns when it runs, which is before the guest has booted: see [`Guest::wait_ready`].
    ///
    /// # Errors
    /// QEMU is not installed, does not start (its own words are in the error), or cannot reach a disk.
    pub fn start(image: &Image, config: &GuestConfig) -> Result<Self> {
        let listener = Agent::listen(&machine::agent_socket(&config.dir))?;
        let mut machine = Machine::start(image, config)?;
        let agent = listener.accept(|| machine.check_alive()).with_context(|| starting(&config.name))?;
        let monitor = Monitor::connect(&machine::monitor_socket(&config.dir), || machine.check_alive())
            .with_context(|| starting(&config.name))?;
        let (name, dir, machine) = (config.name.clone(), config.dir.clone(), Some(machine));
        Ok(Self { name, dir, machine, agent, monitor })
    }

    /// Goes on with the guest in the QEMU that it has been migrated to. The one that it came from is ended: it has nothing
    /// more to do.
    ///
    /// # Errors
    /// That QEMU does not connect, or has no monitor.
    pub fn follow(&mut self, arrival: Arrival) -> Result<()> {
        self.agent.follow(arrival.listener, || Ok(())).with_context(|| starting(&self.name))?;
        self.end_foreign();
        self.monitor = Monitor::connect(&machine::monitor_socket(&arrival.dir), || Ok(()))
            .with_context(|| starting(&self.name))?;
        self.machine = None;
        self.dir = arrival.dir;
        Ok(())
    }

    /// Waits until the guest has booted and takes commands.
    ///
    /// # Errors
    /// It does not within `bound`, or it died: the end of its console is in the error.
    pub fn wait_ready(&mut self, bound: Duration) -> Result<()> {
        let end = Instant::now() + bound;
        loop {
            match self.next_line(end.saturating_duration_since(Instant::now()))? {
                Some(Line::Ready) => return Ok(()),
                Some(_) => {}
                None => {
                    bail!("guest {} is not up after {} s\n{}", self.name, bound.as_secs(), self.console_end())
                }
            }
        }
    }

    /// Runs a shell command in the guest. Its output comes as [`Line::Output`], its end as [`Line::Exit`]; further
    /// lines sent meanwhile are its standard input.
    ///
    /// # Errors
    /// The guest is gone.
    pub fn send(&mut self, line: &str) -> Result<()> {
        self.agent.send(line).with_context(|| format!("guest {} is gone\n{}", self.name, self.console_end()))
    }

    /// The next line that the guest says, or none within `bound`.
    ///
    /// # Errors
    /// The guest is gone and has said everything.
    pub fn next_line(&mut self, bound: Duration) -> Result<Option<Line>> {
        self.agent.next(bound).with_context(|| format!("guest {} is gone\n{}", self.name, self.console_end()))
    }

    /// QEMU's run state, in its own words: `running`, `paused`, `io-error`, …; asked on a monitor of our own.
    ///
    /// # Errors
    /// QEMU is gone or does not answer.
    pub fn run_state(&mut self) -> Result<String> {
        self.monitor.run_state().with_context(|| format!("guest {}: its monitor does not answer", self.name))
    }

    /// Stops the machine by hand, as an operator would. Returns how long QEMU took to answer.
    ///
    /// # Errors
    /// QEMU is gone or does not answer.
    pub fn stop(&mut self) -> Result<Duration> {
        self.monitor.timed("stop").with_context(|| format!("guest {} does not stop", self.name))
    }

    /// Lets the machine go on. Returns how long QEMU took to answer.
    ///
    /// # Errors
    /// QEMU is gone, does not answer or refuses.
    pub fn cont(&mut self) -> Result<Duration> {
        self.monitor.timed("cont").with_context(|| format!("guest {} does not go on", self.name))
    }

    /// Any command to QEMU, with arguments (null for none), on a monitor of our own. What it returns.
    ///
    /// # Errors
    /// QEMU is gone, does not answer or refuses; in its own words.
    pub fn command(&mut self, command: &str, arguments: &serde_json::Value) -> Result<serde_json::Value> {
        let name = &self.name;
        self.monitor.execute(command, arguments).with_context(|| format!("guest {name}: {command}"))
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the kernel and the workload's standard error wrote.
    #[must_use]
    pub fn console(&self) -> PathBuf {
        machine::console(&self.dir)
    }

    /// Process id of QEMU; none if somebody else has started it.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.machine.as_ref().map(Machine::pid)
    }

    /// Nobody else ends a QEMU that somebody else has started for a guest of ours.
    fn end_foreign(&mut self) {
        if self.machine.is_none() {
            _ = self.monitor.execute("quit", &serde_json::Value::Null); // it may be gone already
        }
    }

    fn console_end(&self) -> String {
        last_lines(&self.console(), 12)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.end_foreign();
    }
}

/// A QEMU that somebody else is to start with [`launch_script`], and a guest that is to come to it.
#[derive(Debug)]
pub struct Arrival {
    listener: agent::Listener,
    dir: PathBuf,
}

impl Arrival {
    /// Listens for that QEMU's serial port. To be called before it may be started: it looks for the socket only once.
    ///
    /// # Errors
    /// The socket cannot be made in the guest's folder there.
    pub fn expect(config: &GuestConfig) -> Result<Self> {
        let socket = machine::agent_socket(&config.dir);
        _ = std::fs::remove_file(&socket); // of an arrival before this one
        Ok(Self { listener: Agent::listen(&socket)?, dir: config.dir.clone() })
    }
}

/// A shell script that starts QEMU for a guest that comes from elsewhere, from the variables `VMPATH_INCOMING` (where the
/// stream comes, as `-incoming` takes it) and `VMPATH_QMP` (the monitor's socket). Its words end up in the folder's `qemu.log`.
#[must_use]
pub fn launch_script(image: &Image, config: &GuestConfig) -> String {
    machine::launch_script(image, config)
}

fn starting(name: &str) -> String {
    format!("guest {name} does not start")
}

/// The last lines of a log, for an error that must show them.
fn last_lines(path: &Path, count: usize) -> String {
    let text =
        std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    format!("the end of {}:\n{}", path.display(), lines[lines.len().saturating_sub(count)..].join("\n"))
}
