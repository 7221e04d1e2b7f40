//! The daemon under test, and what its API says.

use super::api::Api;
use super::server::Server;
use super::stage::Stage;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use vmpath_lab::report::Bound;

const START_MAX: Duration = Duration::from_secs(10);
const STOP_MAX: Duration = Duration::from_secs(10);

/// Where a daemon runs.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Before the names of its logs; "" where there is one host.
    pub(crate) name: String,
    /// Of its sockets and state.
    pub(crate) dir: PathBuf,
    pub(crate) config: PathBuf,
    /// Words before the daemon's own, such as `ip netns exec h1`.
    pub(crate) within: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) api: Api,
    socket: PathBuf,
    binary: PathBuf,
    place: Place,
    daemon: Server,
    /// How often it was started.
    starts: u32,
}

/// A line of the journal.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) at_unix_us: u64,
    pub(crate) kind: String,
    pub(crate) subject: String,
    pub(crate) reason: String,
    pub(crate) incident: Option<String>,
}

impl Host {
    /// Starts the daemon and waits until every path leads to every unit.
    ///
    /// # Errors
    /// It does not start, or a path does not come up.
    pub(crate) fn start(stage: &mut Stage, config: &str) -> Result<Self> {
        let config = stage.config(config)?;
        let place = Place { name: String::new(), dir: stage.dir.clone(), config, within: Vec::new() };
        let mut host = Self::begin(stage, place)?;
        host.wait_ready(stage)?;
        Ok(host)
    }

    /// Starts a daemon in its place. Returns before it answers: see [`Host::wait_ready`].
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn begin(stage: &Stage, place: Place) -> Result<Self> {
        let daemon = daemon(stage, &place, 1)?;
        let socket = place.dir.join("api.sock");
        let binary = stage.binary().to_owned();
        Ok(Self { api: Api::new(&socket), socket, binary, place, daemon, starts: 1 })
    }

    /// Waits until the daemon answers and every path leads to every unit.
    ///
    /// # Errors
    /// It does not start, or a path does not come up.
    pub(crate) fn wait_ready(&mut self, stage: &mut Stage) -> Result<()> {
        self.wait_api(stage)?;
        stage.say(format!("the daemon {}runs", self.of_host()));
        self.wait_all_up(stage, START_MAX)
    }

    /// `of h1 `, or nothing where there is one host.
    fn of_host(&self) -> String {
        let name = &self.place.name;
        if name.is_empty() { String::new() } else { format!("of {name} ") }
    }

    /// Kills the daemon as a crash would, and starts it again at once. Returns before it answers.
    ///
    /// # Errors
    /// It had died before, or cannot be started.
    pub(crate) fn crash(&mut self, stage: &Stage) -> Result<()> {
        self.daemon.check_alive()?;
        self.daemon.kill();
        self.start_again(stage)
    }

    /// Kills the daemon as a crash would, and leaves it so until [`Host::begin_again`].
    ///
    /// # Errors
    /// It had died before.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.daemon.check_alive()?;
        self.daemon.kill();
        Ok(())
    }

    /// What the daemon has logged since its last start.
    pub(crate) fn log(&self) -> String {
        self.daemon.log()
    }

    /// The daemon's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.id()
    }

    /// Stops the daemon where it is, or lets it go on.
    ///
    /// # Errors
    /// It has died before.
    pub(crate) fn signal(&mut self, signal: Signal) -> Result<()> {
        self.daemon.check_alive()?;
        let pid = i32::try_from(self.daemon.id()).ok().and_then(Pid::from_raw).context("a process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Starts the daemon again after [`Host::kill`], or after somebody else has killed it. Returns before it answers.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn begin_again(&mut self, stage: &Stage) -> Result<()> {
        self.start_again(stage)
    }

    /// Writes something else into its configuration, for the next start.
    ///
    /// # Errors
    /// There is no such text in it.
    pub(crate) fn edit(&self, from: &str, to: &str) -> Result<()> {
        let text = fs::read_to_string(&self.place.config)?;
        anyhow::ensure!(text.contains(from), "the configuration has no {from}");
        Ok(fs::write(&self.place.config, text.replace(from, to))?)
    }

    /// From its next start on the daemon's wall clock is that much off, such as `+10m`; how long things take stays as it is.
    ///
    /// # Errors
    /// Debian's `libfaketime` is not installed.
    pub(crate) fn set_clock(&mut self, off: &str) -> Result<()> {
        let mut places = fs::read_dir("/usr/lib")?.filter_map(|entry| Some(entry.ok()?.path()));
        let library = places.find_map(|place| {
            let library = place.join("faketime/libfaketimeMT.so.1");
            library.exists().then_some(library)
        });
        let library = library.context("no libfaketime; `apt-get install faketime` gives it")?;
        let preload = format!("LD_PRELOAD={}", library.display());
        let words =
            ["env".into(), preload, format!("FAKETIME={off}"), "FAKETIME_DONT_FAKE_MONOTONIC=1".into()];
        self.place.within.extend(words);
        Ok(())
    }

    /// Ends the daemon as an update would, by SIGTERM, and starts it again. Returns before it answers.
    ///
    /// # Errors
    /// It had died before, does not end well, or cannot be started.
    pub(crate) fn restart(&mut self, stage: &Stage) -> Result<()> {
        self.daemon.check_alive()?;
        let status = self.daemon.terminate(STOP_MAX)?;
        if !status.success() {
            bail!("the daemon ends with {status} on SIGTERM");
        }
        self.start_again(stage)
    }

    fn start_again(&mut self, stage: &Stage) -> Result<()> {
        self.starts += 1;
        self.daemon = daemon(stage, &self.place, self.starts)?;
        Ok(())
    }

    /// Waits until the daemon answers.
    ///
    /// # Errors
    /// It does not in time, or has ended.
    pub(crate) fn wait_api(&mut self, stage: &mut Stage) -> Result<()> {
        stage.wait("the daemon's API", START_MAX, |_| {
            self.daemon.check_alive()?;
            Ok(self.api.get("/v1/host").ok().map(drop))
        })
    }

    /// Waits until every path leads to every unit.
    ///
    /// # Errors
    /// One does not within `bound`.
    pub(crate) fn wait_all_up(&mut self, stage: &mut Stage, bound: Duration) -> Result<()> {
        stage.wait("all paths to be up", bound, |_| {
            self.daemon.check_alive()?;
            all_up(&self.api.get("/v1/paths")?).map(|up| up.then_some(()))
        })?;
        stage.say("all paths are up");
        Ok(())
    }

    /// # Errors
    /// The daemon has ended, or a thread of it has panicked.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        self.daemon.check_alive()
    }

    /// `target/path`'s row.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn path(&mut self, name: &str) -> Result<Value> {
        let answer = self.api.get("/v1/paths")?;
        let is =
            |row: &&Value| name.split_once('/').is_some_and(|(t, p)| row["target"] == t && row["name"] == p);
        rows(&answer, "paths")?.iter().find(is).cloned().with_context(|| format!("no path {name}"))
    }

    /// A number of `target/path`'s row, such as `completed_requests`.
    ///
    /// # Errors
    /// There is no such path or number.
    pub(crate) fn path_number(&mut self, name: &str, key: &str) -> Result<f64> {
        self.path(name)?[key].as_f64().with_context(|| format!("path {name} has no number {key}"))
    }

    /// # Errors
    /// There is none.
    pub(crate) fn vm(&mut self, name: &str) -> Result<Value> {
        let answer = self.api.get("/v1/vms")?;
        rows(&answer, "vms")?
            .iter()
            .find(|row| row["name"] == name)
            .cloned()
            .with_context(|| format!("no VM {name}"))
    }

    /// Ranges of all units in which the outcome of a write is unknown.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub(crate) fn quarantined_ranges(&mut self) -> Result<u64> {
        let answer = self.api.get("/v1/units")?;
        Ok(rows(&answer, "units")?.iter().filter_map(|unit| unit["quarantined_ranges"].as_u64()).sum())
    }

    /// Places by which a unit (`target/name`) would be known again.
    ///
    /// # Errors
    /// The daemon does not answer, or has no such unit.
    pub(crate) fn remembered_places(&mut self, unit: &str) -> Result<u64> {
        let answer = self.api.get("/v1/units")?;
        let is_it = |row: &&Value| unit.split_once('/') == row["target"].as_str().zip(row["name"].as_str());
        let places =
            rows(&answer, "units")?.iter().find(is_it).and_then(|row| row["remembered_places"].as_u64());
        places.with_context(|| format!("no number of remembered places of unit {unit}"))
    }

    /// A VM's state, as `vmpath show vms` names it.
    ///
    /// # Errors
    /// There is no such VM.
    pub(crate) fn vm_state(&mut self, name: &str) -> Result<String> {
        Ok(self.vm(name)?["state"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until a VM is in a state.
    ///
    /// # Errors
    /// It is not within `bound`.
    pub(crate) fn wait_vm(
        &mut self,
        stage: &mut Stage,
        vm: &str,
        state: &str,
        bound: Duration,
    ) -> Result<()> {
        stage.wait(&format!("{vm} to be {state}"), bound, |_| {
            self.daemon.check_alive()?;
            Ok((self.vm_state(vm)? == state).then_some(()))
        })?;
        stage.say(format!("{vm} is {state}"));
        Ok(())
    }

    /// Waits until a path has a health.
    ///
    /// # Errors
    /// It has not within `bound`.
    pub(crate) fn wait_path(
        &mut self,
        stage: &mut Stage,
        path: &str,
        health: &str,
        bound: Duration,
    ) -> Result<()> {
        stage.wait(&format!("{path} to be {health}"), bound, |_| {
            self.daemon.check_alive()?;
            Ok((self.path(path)?["health"] == health).then_some(()))
        })?;
        stage.say(format!("path {path} is {health}"));
        Ok(())
    }

    /// The whole journal.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub(crate) fn events(&mut self) -> Result<Vec<Event>> {
        let mut all = Vec::new();
        let mut after = 0;
        loop {
            let answer = self.api.get(&format!("/v1/events?after={after}&limit=1000"))?;
            let page = rows(&answer, "events")?;
            all.extend(page.iter().map(Event::read));
            let next = answer["next_after"].as_u64().unwrap_or(after);
            if page.is_empty() || next == after {
                return Ok(all);
            }
            after = next;
        }
    }

    /// The first event of a kind since a moment.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub(crate) fn find(&mut self, kind: &str, subject: &str, since_unix_us: u64) -> Result<Option<Event>> {
        let is = |e: &Event| {
            e.kind == kind && e.at_unix_us >= since_unix_us && (subject == "*" || e.subject == subject)
        };
        Ok(self.events()?.into_iter().find(is))
    }

    /// Waits for the first event of a kind since a moment; `*` is any subject.
    ///
    /// # Errors
    /// There is none within `bound`.
    pub(crate) fn wait_event(&mut self, stage: &mut Stage, wanted: &Wanted<'_>) -> Result<Event> {
        let Wanted { kind, subject, since_unix_us, bound } = *wanted;
        let event = stage.wait(&format!("{kind} of {subject}"), bound, |_| {
            self.daemon.check_alive()?;
            self.find(kind, subject, since_unix_us)
        })?;
        let after = event.at_unix_us.saturating_sub(since_unix_us) as f64 / 1e3;
        stage.say(format!("{kind} {} after {after:.1} ms: {}", event.subject, event.reason));
        Ok(event)
    }

    /// Runs `vmpath` as an operator would.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn operator(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("--socket").arg(&self.socket).output().context("cannot run vmpath")
    }

    /// Runs everything that an operator would ask in trouble, and checks how long it takes.
    ///
    /// # Errors
    /// A command cannot be started.
    pub(crate) fn check_commands(&self, stage: &mut Stage, vm: &str) -> Result<()> {
        let commands: [&[&str]; 7] = [
            &["show", "paths"],
            &["show", "vms"],
            &["show", "units"],
            &["show", "events"],
            &["show", "incidents"],
            &["show", "vms", "-o", "json"],
            &["explain", "vm", vm],
        ];
        let mut slowest = Duration::ZERO;
        for command in commands {
            let began = Instant::now();
            let output = self.operator(command)?;
            slowest = slowest.max(began.elapsed());
            if !output.status.success() {
                bail!("vmpath {}: {}", command.join(" "), String::from_utf8_lossy(&output.stderr).trim());
            }
        }
        let slowest = slowest.as_secs_f64() * 1e3;
        stage.report.check("slowest command of an operator", slowest, Bound::AtMost(1000.0), "ms");
        Ok(())
    }

    /// Ends the daemon by SIGTERM and gives its journal to the report.
    ///
    /// # Errors
    /// It has died before, or does not end.
    pub(crate) fn finish(mut self, stage: &mut Stage) -> Result<()> {
        self.daemon.check_alive()?;
        let journal = self.api.get("/v1/events?after=0&limit=1000")?;
        stage.report.attach(&format!("timeline{}", dashed(&self.place.name)), &journal["events"]);
        let slowest = self.api.slowest.as_secs_f64() * 1e3;
        let name = format!("slowest answer of the API{}", dashed(&self.place.name));
        stage.report.check(&name, slowest, Bound::AtMost(1000.0), "ms");
        let status = self.daemon.terminate(STOP_MAX)?;
        if !status.success() {
            bail!("the daemon ends with {status} on SIGTERM");
        }
        Ok(())
    }
}

/// Each start has a log of its own.
fn daemon(stage: &Stage, place: &Place, start: u32) -> Result<Server> {
    let number = if start == 1 { String::new() } else { start.to_string() };
    let name = format!("daemon{}{}", dashed(&place.name), dashed(&number));
    let mut command = stage.daemon_within(&place.within);
    Server::start(&name, command.arg("daemon").arg("-c").arg(&place.config), &stage.dir)
}

fn dashed(word: &str) -> String {
    if word.is_empty() { String::new() } else { format!("-{word}") }
}

/// Whether every path of an answer to `/v1/paths` leads to every unit.
///
/// # Errors
/// It is no such answer.
pub(crate) fn all_up(answer: &Value) -> Result<bool> {
    let paths = rows(answer, "paths")?;
    let link_up = |link: &Value| link["state"] == "up";
    let well = |path: &Value| {
        path["health"] == "up" && path["links"].as_array().is_some_and(|l| l.iter().all(link_up))
    };
    Ok(!paths.is_empty() && paths.iter().all(well))
}

/// An event to wait for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) kind: &'a str,
    pub(crate) subject: &'a str,
    pub(crate) since_unix_us: u64,
    pub(crate) bound: Duration,
}

impl Event {
    fn read(row: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self {
            at_unix_us: row["at_unix_us"].as_u64().unwrap_or_default(),
            kind: text(&row["kind"]),
            subject: text(&row["subject"]["name"]),
            reason: text(&row["reason"]),
            incident: row["incident"].as_str().map(ToOwned::to_owned),
        }
    }
}

fn rows<'a>(answer: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    answer[key].as_array().with_context(|| format!("the answer has no {key}"))
}
