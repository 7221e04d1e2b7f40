//! One turn: a fresh daemon of one contestant, the whole fleet on it, and all phases.
//!
//! The array stands from the first turn to the last; everything else is new in each, so that no contestant inherits what
//! another has learnt. It does not know: what the figures should be.

use super::load::{self, Contestant, VICTIM};
use super::phase::{Mark, Phase};
use crate::bench::{process, scene};
use crate::e2e::api::Api;
use crate::e2e::host;
use crate::e2e::server::Server;
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use vmpath_lab::array::control::ArrayControl;
use vmpath_lab::fleet::{Fleet, Record};

/// The first part of each phase, which figures of a steady state leave out.
const UNSTEADY: Duration = Duration::from_secs(1);
/// How often the daemon is asked what it sees.
const ASK_EVERY: Duration = Duration::from_millis(200);
const REPAIR_MAX: Duration = Duration::from_secs(20);
const STOP_MAX: Duration = Duration::from_secs(10);

/// The storage, which outlives the turns.
#[derive(Debug)]
pub(super) struct Storage {
    server: Server,
    control: ArrayControl,
    pub(super) urls: Vec<String>,
}

impl Storage {
    /// # Errors
    /// The array does not start.
    pub(super) fn start(binary: &Path, dir: &Path) -> Result<Self> {
        let control = dir.join("array.sock");
        let mut command = Command::new(binary);
        let mut server = Server::start("array", command.args(load::array_arguments(&control)), dir)?;
        scene::wait("the array to be ready", || {
            server.check_alive().with_context(|| server.log())?;
            Ok(load::portal_urls(&server).is_ok())
        })?;
        let urls = load::portal_urls(&server)?;
        Ok(Self { control: ArrayControl::connect(&control)?, server, urls })
    }
}

/// What the daemon says of itself, every now and then.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Sample {
    /// Seconds since the load began.
    pub(super) at: f64,
    /// VMs whose reservation is unmet, and by how many bytes a second.
    pub(super) unmet: Vec<(String, u64)>,
    pub(super) paths: Vec<PathSample>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct PathSample {
    pub(super) name: String,
    pub(super) health: String,
    pub(super) window_bytes: u64,
    pub(super) pending_bytes: u64,
}

/// Processors in use during a phase: 1.0 is one of them.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Cpu {
    pub(super) phase: Phase,
    pub(super) daemon: f64,
    pub(super) array: f64,
    pub(super) fleet: f64,
    /// Everything on this machine, ours and others'.
    pub(super) machine: f64,
}

impl Cpu {
    /// What has nothing to do with the benchmark.
    pub(super) fn others(&self) -> f64 {
        (self.machine - self.daemon - self.array - self.fleet).max(0.0)
    }
}

/// What one turn has brought.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) record: Record,
    pub(super) marks: Vec<Mark>,
    pub(super) samples: Vec<Sample>,
    pub(super) cpu: Vec<Cpu>,
}

/// Plays all phases before one contestant.
///
/// # Errors
/// A process does not start or ends early, or a path does not come back.
pub(super) fn play(
    storage: &mut Storage,
    binary: &Path,
    dir: &Path,
    contestant: Contestant,
    each: Duration,
) -> Result<Seen> {
    fs::create_dir(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    storage.control.clear("all")?;
    let mut daemon = start(binary, dir, contestant, &storage.urls)?;
    let fleet = Fleet::start(&load::fleet(dir));
    let fleet = fleet.with_context(|| format!("the daemon's log:\n{}", daemon.log()))?;
    let api = Api::new(&dir.join("api.sock"));
    let pids = [daemon.id(), storage.server.id()];
    let mut turn = Turn { storage, fleet: &fleet, api, pids, marks: vec![], samples: vec![], cpu: vec![] };
    for phase in Phase::ALL {
        turn.play(phase, each)?;
        daemon.check_alive().with_context(|| daemon.log())?;
    }
    let Turn { marks, samples, cpu, .. } = turn;
    let record = fleet.stop()?;
    daemon.terminate(STOP_MAX)?;
    Ok(Seen { record, marks, samples, cpu })
}

fn start(binary: &Path, dir: &Path, contestant: Contestant, urls: &[String]) -> Result<Server> {
    let file = dir.join("vmpath.toml");
    fs::write(&file, load::config(contestant, dir, urls))?;
    let mut daemon = Server::start("daemon", Command::new(binary).arg("daemon").arg("-c").arg(&file), dir)?;
    let mut api = Api::new(&dir.join("api.sock"));
    let sockets: Vec<PathBuf> = load::vms().iter().map(|vm| load::disk_socket(dir, &vm.name)).collect();
    let ready = scene::wait("the paths to be up and the disks to be served", || {
        daemon.check_alive()?;
        let up = api.get("/v1/paths").is_ok_and(|answer| host::all_up(&answer).unwrap_or(false));
        Ok(up && sockets.iter().all(|socket| socket.exists()))
    });
    ready.with_context(|| format!("the daemon's log:\n{}", daemon.log()))?;
    Ok(daemon)
}

struct Turn<'a> {
    storage: &'a mut Storage,
    fleet: &'a Fleet,
    api: Api,
    /// The daemon's and the array's.
    pids: [u32; 2],
    marks: Vec<Mark>,
    samples: Vec<Sample>,
    cpu: Vec<Cpu>,
}

impl Turn<'_> {
    fn play(&mut self, phase: Phase, each: Duration) -> Result<()> {
        let began = self.elapsed();
        match phase {
            Phase::Healthy => {}
            Phase::Lost => drop(self.storage.control.fault(VICTIM, "reset refuse")?),
            Phase::Slower => drop(self.storage.control.fault(VICTIM, &format!("slow {}", load::SLOWER))?),
            Phase::Repaired | Phase::Restored => drop(self.storage.control.clear(VICTIM)?),
        }
        if phase == Phase::Repaired {
            self.wait_repaired()?;
        }
        let in_force = self.elapsed();
        let before = Used::read(self.pids)?;
        self.watch(Instant::now() + each)?;
        let spent = self.elapsed() - in_force;
        self.cpu.push(Used::read(self.pids)?.since(&before, phase, spent));
        let steady = in_force + UNSTEADY.as_secs_f64();
        self.marks.push(Mark { phase, began, in_force, steady, ended: self.elapsed() });
        Ok(())
    }

    fn elapsed(&self) -> f64 {
        self.fleet.began().elapsed().as_secs_f64()
    }

    fn wait_repaired(&mut self) -> Result<()> {
        let end = Instant::now() + REPAIR_MAX;
        while !host::all_up(&self.api.get("/v1/paths")?)? {
            ensure!(Instant::now() < end, "path {VICTIM} is not up again {} s later", REPAIR_MAX.as_secs());
            thread::sleep(ASK_EVERY / 4);
        }
        Ok(())
    }

    fn watch(&mut self, end: Instant) -> Result<()> {
        let mut next = Instant::now();
        while next < end {
            ensure!(self.fleet.is_running(), "the load has ended early");
            let (vms, paths) = (self.api.get("/v1/vms")?, self.api.get("/v1/paths")?);
            self.samples.push(Sample { at: self.elapsed(), unmet: unmet(&vms), paths: path_samples(&paths) });
            next += ASK_EVERY;
            thread::sleep(next.min(end).saturating_duration_since(Instant::now()));
        }
        Ok(())
    }
}

fn rows<'a>(answer: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    answer[key].as_array().into_iter().flatten()
}

fn name(row: &Value) -> String {
    row["name"].as_str().unwrap_or_default().to_owned()
}

fn unmet(answer: &Value) -> Vec<(String, u64)> {
    let by = |row: &Value| row["reservation_unmet_bytes_per_second"].as_u64().filter(|by| *by > 0);
    rows(answer, "vms").filter_map(|row| Some((name(row), by(row)?))).collect()
}

fn path_samples(answer: &Value) -> Vec<PathSample> {
    let sample = |row: &Value| PathSample {
        name: name(row),
        health: row["health"].as_str().unwrap_or_default().to_owned(),
        window_bytes: row["window_bytes"].as_u64().unwrap_or(0),
        pending_bytes: row["pending_bytes"].as_u64().unwrap_or(0),
    };
    rows(answer, "paths").map(sample).collect()
}

/// Processor time so far: the daemon's, the array's, our own, and the machine's.
struct Used([Duration; 4]);

impl Used {
    fn read([daemon, array]: [u32; 2]) -> Result<Self> {
        let own = process::cpu_time(std::process::id())?;
        Ok(Self([process::cpu_time(daemon)?, process::cpu_time(array)?, own, process::machine_time()?]))
    }

    fn since(&self, before: &Self, phase: Phase, seconds: f64) -> Cpu {
        let used = |which: usize| (self.0[which].saturating_sub(before.0[which])).as_secs_f64() / seconds;
        Cpu { phase, daemon: used(0), array: used(1), fleet: used(2), machine: used(3) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_daemons_answers_become_samples() {
        let vms = json!({"vms": [
            {"name": "gold", "reservation_unmet_bytes_per_second": 4096},
            {"name": "silver", "reservation_unmet_bytes_per_second": 0},
            {"name": "bronze"},
        ]});
        assert_eq!(unmet(&vms), [("gold".to_owned(), 4096)]);
        let paths = json!({"paths": [{"name": "a", "health": "up", "window_bytes": 5, "pending_bytes": 3}]});
        let sample = &path_samples(&paths)[0];
        assert_eq!((sample.health.as_str(), sample.window_bytes, sample.pending_bytes), ("up", 5, 3));
    }

    #[test]
    fn processors_in_use_are_time_by_time() {
        let at = |ms| Used([ms, 2 * ms, 3 * ms, 4 * ms].map(Duration::from_millis));
        let cpu = at(1500).since(&at(500), Phase::Lost, 2.0);
        assert_eq!((cpu.daemon, cpu.array, cpu.fleet, cpu.machine), (0.5, 1.0, 1.5, 2.0));
    }
}
