//! What happens, in order.
//!
//! Everything waits for something that can be seen (a line, a row, an event), with a bound; nothing sleeps for luck.
//! Invariant: what does not happen in its time is an error that names it, except what a check asks for: that is
//! noted and the show goes on. Rejected: fixed times, which fail on a slow machine and waste a fast one.
//! It does not know: whether what it saw was good.

use super::api;
use super::checks::{Findings, LOSS, judge};
use super::child::{Child, first_line};
use super::fleet::{Cast, Fleet};
use super::journal::Journal;
use super::load::Phase;
use super::scene::{GHOST_AFTER, LOST, Scene, TARGET};
use super::table::{Table, picture, timeline};
use crate::array::control::ArrayControl;
use crate::clock::unix_micros;
use crate::report::Report;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(50);
/// Reading the daemon's state costs it a little, too.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const START_BOUND: Duration = Duration::from_secs(15);
/// Until caches are warm and rates have settled.
const WARM_UP: Duration = Duration::from_secs(2);
/// From the beginning of ghosts to the loss of the path.
const BRINK: Duration = Duration::from_millis(300);
/// Phases that nothing is asked of.
const UNMEASURED: [&str; 2] = ["warm-up", "brink"];
/// For each thing that the daemon is to do by itself.
const REACT_BOUND: Duration = Duration::from_secs(20);
const READ_BACK_BOUND: Duration = Duration::from_secs(60);
/// After the last ghost, before the second read-back.
const SETTLE: Duration = Duration::from_millis(500);

/// Performs the whole demo and judges it.
pub(super) fn perform(scene: &Scene, cast: Cast, interrupted: &AtomicBool) -> Result<Report> {
    let mut stage = Stage::set(scene, cast, interrupted)?;
    let born = Instant::now();
    let began_unix_us = unix_micros();
    let Told { broken_unix_us, forecast, explanation } = stage.play()?;
    let array = stage.verify()?;
    let took = born.elapsed();
    let Stage { journal, phases, fleet, mut table, .. } = stage;
    let vms = fleet.lines;
    let found = Findings { broken_unix_us, journal, vms, phases, array, took, forecast, explanation };
    let report = judge(scene, &found);
    table.say("\nTimeline, in seconds from the loss of the path:");
    let told: Vec<_> = found
        .journal
        .entries
        .iter()
        .filter(|e| e.at_unix_us >= began_unix_us && !e.kind.starts_with("link-"))
        .cloned()
        .collect();
    table.say(&timeline(&told, broken_unix_us));
    table.say("Checks:");
    table.say(&report.table());
    table.say(if report.passed() { "Every check passed." } else { "NOT every check passed." });
    Ok(report)
}

/// What the play brings beside what is measured.
struct Told {
    broken_unix_us: u64,
    /// The daemon's answer to "what if that path were lost?", a moment before.
    forecast: Value,
    /// Its explanation of the VM that was suspended.
    explanation: Value,
}

struct Stage<'a> {
    scene: &'a Scene,
    interrupted: &'a AtomicBool,
    // Dropped in this order: guests before the daemon that serves them, the array last.
    fleet: Fleet,
    daemon: Child,
    array: Child,
    control: ArrayControl,
    journal: Journal,
    phases: Vec<Phase>,
    phase: &'static str,
    vms: Value,
    paths: Value,
    looking: Looking,
    table: Table,
}

/// When the daemon's state was last read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Looking {
    Never,
    Last(Instant),
    /// It is not read any more.
    Over,
}

impl Looking {
    fn due(self) -> bool {
        match self {
            Self::Never => true,
            Self::Last(at) => at.elapsed() >= LOOK_EVERY,
            Self::Over => false,
        }
    }
}

impl<'a> Stage<'a> {
    /// Starts everything; returns when all VMs run over both paths, their loads still paused.
    fn set(scene: &'a Scene, cast: Cast, interrupted: &'a AtomicBool) -> Result<Self> {
        let mut table = Table::new();
        table.say("vmpath demo: an array with two portals, three VMs, one path lost.");
        let (say, lines) = mpsc::channel();
        let mut array =
            Child::start("array", &scene.array_arguments(), &scene.file(""), move |l| say.send(l).is_ok())?;
        let ready: Value = serde_json::from_str(&first_line(&lines, &mut array, START_BOUND)?)?;
        let urls = ready["portals"].as_array().context("the array names no portals")?;
        let url =
            |portal: &Value| portal["url"].as_str().unwrap_or_default().trim_end_matches('/').to_owned();
        let config = scene.file("vmpath.toml");
        std::fs::write(&config, scene.config(&urls.iter().map(url).collect::<Vec<_>>()))?;
        let command = ["daemon", "-c", &config.display().to_string()].map(str::to_owned);
        let mut daemon = Child::start("daemon", &command, &scene.file(""), |_| true)?;
        let end = Instant::now() + START_BOUND;
        while !scene.vms.iter().all(|vm| scene.disk_socket(vm.name).exists())
            || api::get(&scene.api_socket(), "/v1/host").is_err()
        {
            daemon.check_alive()?;
            ensure!(Instant::now() < end, "the daemon does not serve; its log:\n{}", daemon.last_words());
            ensure!(!interrupted.load(Ordering::Relaxed), "interrupted");
            std::thread::sleep(TICK);
        }
        let fleet = Fleet::start(scene, cast, interrupted)?;
        let mut stage = Self {
            scene,
            interrupted,
            fleet,
            daemon,
            array,
            control: ArrayControl::connect(&scene.array_control())?,
            journal: Journal::default(),
            phases: Vec::new(),
            phase: "start",
            vms: Value::Null,
            paths: Value::Null,
            looking: Looking::Never,
            table,
        };
        stage.wait("both paths up and three VMs running", START_BOUND, |s| {
            let up = |row: &Value| row["health"] == "up" && row["preferred"] == true;
            let runs = |row: &Value| row["state"] == "running";
            all(&s.paths["paths"], 2, up)
                && all(&s.vms["vms"], 3, runs)
                && s.fleet.lines.iter().all(|l| l.started)
        })?;
        Ok(stage)
    }

    /// From the first request to the last phase under load.
    fn play(&mut self) -> Result<Told> {
        self.fleet.tell("go")?;
        self.pass("warm-up", WARM_UP)?;
        self.pass("healthy", self.scene.quiet)?;

        let forecast = self.foresee()?;
        let broken = self.lose_path()?;
        let victim =
            self.scene.vms.iter().find(|vm| vm.may_suspend).context("somebody may be suspended")?.name;
        self.until(LOSS, move |s| s.journal.first("vm-suspended", victim, broken).is_some())?;
        self.pass("degraded", self.scene.quiet)?;
        let explanation = self.explain(victim)?;

        let repaired = self.control.clear(LOST)?;
        self.note(&format!("path {TARGET}/{LOST} is repaired"));
        self.until("repaired", move |s| s.journal.first("vm-resumed", victim, repaired).is_some())?;
        self.pass("recovered", self.scene.quiet)?;
        Ok(Told { broken_unix_us: broken, forecast, explanation })
    }

    /// `vmpath whatif --lose` of the path that is lost next.
    fn foresee(&mut self) -> Result<Value> {
        let forecast = api::get(&self.scene.api_socket(), &format!("/v1/whatif?lose={TARGET}/{LOST}"))?;
        self.note(&format!("asked what the loss of {TARGET}/{LOST} would do, the daemon says:"));
        for vm in forecast["vms"].as_array().into_iter().flatten() {
            let text = |key: &str| vm[key].as_str().unwrap_or("?").to_owned();
            let fate = text("fate");
            let since = vm["stages"].as_array().and_then(|stages| stages.last()?["after_ms"].as_u64());
            let since =
                since.map(|ms| format!(" after {ms} ms, until {}", text("until"))).unwrap_or_default();
            self.table.say(&format!("     {}: {fate}{since}", text("name")));
        }
        Ok(forecast)
    }

    /// `vmpath explain vm` of the VM that is suspended.
    fn explain(&mut self, vm: &str) -> Result<Value> {
        let explanation = api::get(&self.scene.api_socket(), &format!("/v1/vms/{vm}/explain"))?;
        self.note(&format!("asked about {vm}, the daemon says:"));
        for sentence in explanation["text"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            self.table.say(&format!("     {sentence}"));
        }
        Ok(explanation)
    }

    /// Breaks a path; says when. A moment before, the array begins to sit on writes, so that there are ghosts.
    fn lose_path(&mut self) -> Result<u64> {
        self.control.fault(LOST, &format!("ghost {}", GHOST_AFTER.as_millis()))?;
        self.pass("brink", BRINK)?;
        let broken = self.control.fault(LOST, "reset refuse")?;
        self.note(&format!("path {TARGET}/{LOST} is reset, and refuses connections from now on"));
        Ok(broken)
    }

    /// Reads everything back, twice, the second time when no ghost can come any more; says what the array counted.
    fn verify(&mut self) -> Result<Value> {
        self.phase = "verify";
        self.note("every block is read back and verified");
        for turn in 1..=2 {
            self.fleet.tell("readback")?;
            self.wait("the read-back", READ_BACK_BOUND, |s| {
                s.fleet.lines.iter().all(|l| l.read_backs.len() >= turn)
            })?;
            if turn == 1 {
                self.wait_for_ghosts()?;
            }
        }
        let status = self.control.status()?;
        // What happens when the VMs end is no part of the story.
        self.look()?;
        self.looking = Looking::Over;
        self.fleet.tell("quit")?;
        self.wait("the VMs' reports", READ_BACK_BOUND, |s| s.fleet.lines.iter().all(|l| l.report.is_some()))?;
        self.fleet.wait(START_BOUND)?;
        Ok(status)
    }

    fn wait_for_ghosts(&mut self) -> Result<()> {
        let end = Instant::now() + REACT_BOUND;
        loop {
            let status = self.control.status()?;
            let pending = |portal: &Value| portal["ghosts_pending"].as_u64().unwrap_or(0);
            let portals = status["portals"].as_array().cloned().unwrap_or_default();
            if portals.iter().map(pending).sum::<u64>() == 0 {
                let settled = Instant::now() + SETTLE;
                return self.run_until(|_| Instant::now() >= settled).map(drop);
            }
            ensure!(Instant::now() < end, "the array's ghosts do not come: {status}");
            self.tick()?;
        }
    }

    /// A phase of a fixed length.
    fn pass(&mut self, name: &'static str, length: Duration) -> Result<()> {
        let end = Instant::now() + length;
        self.record(name, |stage| stage.run_until(|_| Instant::now() >= end).map(drop))
    }

    /// A phase that ends when something has happened, or when it has taken too long: checks will tell.
    fn until(&mut self, name: &'static str, happened: impl Fn(&Self) -> bool) -> Result<()> {
        let end = Instant::now() + REACT_BOUND;
        self.record(name, |stage| stage.run_until(|s| happened(s) || Instant::now() >= end).map(drop))
    }

    fn record(&mut self, name: &'static str, act: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.phase = name;
        let from = unix_micros();
        act(self)?;
        if !UNMEASURED.contains(&name) {
            self.phases.push(Phase { name, from, to: unix_micros() });
        }
        Ok(())
    }

    fn wait(&mut self, what: &str, bound: Duration, happened: impl Fn(&Self) -> bool) -> Result<()> {
        let end = Instant::now() + bound;
        self.run_until(|s| happened(s) || Instant::now() >= end)?;
        if happened(self) {
            return Ok(());
        }
        bail!(
            "waited {} s in vain for {what}\npaths: {}\nVMs: {}\nthe daemon's log:\n{}",
            bound.as_secs(),
            self.paths,
            self.vms,
            self.daemon.last_words()
        )
    }

    fn run_until(&mut self, over: impl Fn(&Self) -> bool) -> Result<()> {
        loop {
            self.tick()?;
            if over(self) {
                return Ok(());
            }
            std::thread::sleep(TICK);
        }
    }

    /// One round: hear the VMs, look at the daemon, show it.
    fn tick(&mut self) -> Result<()> {
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        self.daemon.check_alive()?;
        self.array.check_alive()?;
        self.fleet.listen()?;
        if self.looking.due() {
            self.look()?;
        }
        let now = unix_micros();
        let rates: Vec<f64> = self.fleet.lines.iter().map(|l| l.progress.recent(now)).collect();
        let picture = picture(self.scene, self.phase, &self.vms, &self.paths, &rates);
        self.table.show(self.scene, &picture);
        Ok(())
    }

    fn look(&mut self) -> Result<()> {
        self.looking = Looking::Last(Instant::now());
        let socket = self.scene.api_socket();
        self.vms = api::get(&socket, "/v1/vms")?;
        self.paths = api::get(&socket, "/v1/paths")?;
        self.journal.follow(&socket)
    }

    fn note(&mut self, text: &str) {
        self.table.say(&format!("-- {text}"));
    }
}

fn all(rows: &Value, count: usize, is: impl Fn(&Value) -> bool) -> bool {
    rows.as_array().is_some_and(|rows| rows.len() == count && rows.iter().all(is))
}
