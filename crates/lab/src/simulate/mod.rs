//! `vmpath simulate`: core's router with a large host's VMs and paths, under a virtual clock.
//!
//! Model: `scene` says who asks for what, `path` how the array serves, `world` what happens when. A router like the
//! daemon's decides; `ledger` keeps, beside it, what became of each request, and `checks` judges. The same seed gives the
//! same bytes. The plan is the simplest true one (lost paths are down): no VM here is to be suspended, so the controller
//! would add nothing. Rejected: a model of the router; what is shown must be what the daemon does.
//! It does not know: sockets, real time (but for what the router costs).

mod checks;
mod ledger;
mod links;
mod path;
mod scene;
mod table;
#[cfg(test)]
mod tests;
mod world;

use crate::attack::{self, Attack};
use crate::report::Report;
use crate::units::{parse_duration, parse_rate, parse_size};
use scene::{Scene, VMS_MIN};
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use vmpath_core::spec::{PATHS_PER_TARGET_MAX, VMS_MAX};
use world::{Outcome, Tamper, World};

/// Phases are judged by their seconds, of which each must have one.
const PHASE_MIN: Duration = Duration::from_millis(1500);

/// Run the router of a large host in virtual time, lose half of its paths, and check what each VM got.
#[derive(Clone, Debug, clap::Args)]
pub struct SimulateArgs {
    /// VMs: of each thousand 10 gold, 90 silver, 300 bronze and 600 noisy ones
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub vms: usize,
    /// Paths to the one target that all VMs use
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub paths: usize,
    /// How many of them are lost
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub lose: usize,
    /// When they are lost
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "TIME")]
    pub at: Duration,
    /// When they come back; left out: never
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub repair_at: Option<Duration>,
    /// How long the run is, in virtual time
    #[arg(long, default_value = "20", value_parser = parse_seconds, value_name = "SECONDS")]
    pub seconds: Duration,
    /// What one path carries
    #[arg(long, default_value = "100MiB/s", value_parser = parse_rate, value_name = "RATE")]
    pub path_capacity: u64,
    /// Bytes of a request of gold, silver and bronze
    #[arg(long, default_value = "16KiB", value_parser = parse_size, value_name = "SIZE")]
    pub size: u64,
    /// Bytes of a noisy VM's request
    #[arg(long, default_value = "32KiB", value_parser = parse_size, value_name = "SIZE")]
    pub noisy_size: u64,
    /// What gold and silver reserve together, in percent of all paths' capacity
    #[arg(long, default_value_t = 30, value_name = "PERCENT", value_parser = clap::value_parser!(u64).range(1..=90))]
    pub reserve: u64,
    /// The same seed gives the same run
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Play so many worlds in which everything goes wrong, from --seed on, and check every rule; the options above are for
    /// the other simulation
    #[arg(long, value_name = "N")]
    pub seeds: Option<u64>,
    /// With --seeds or --trace: worlds of so many whole hosts, between which VMs move
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=5))]
    pub hosts: Option<u8>,
    /// Print all that happens in the one world of --seed
    #[arg(long)]
    pub trace: bool,
    /// Worlds played side by side; left out: one on each processor
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,
    /// A deliberate fault, to see it caught
    #[cfg(feature = "mutants")]
    #[arg(long, hide = true, value_name = "NAME")]
    pub mutant: Option<String>,
    /// Rules that are not checked, to see that others catch the same fault
    #[cfg(feature = "mutants")]
    #[arg(long, hide = true, value_name = "RULE")]
    pub blind: Vec<String>,
    /// Write checks and numbers to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// `table` for people, `json` for programs
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    Table,
    Json,
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let is_number = text.ends_with(|c: char| c.is_ascii_digit());
    parse_duration(&if is_number { format!("{text}s") } else { text.to_owned() })
}

impl SimulateArgs {
    /// Shown below the options.
    pub const EXAMPLES: &str = "\
Gold VMs (priority 100, reservation) ask for 90 % of what they reserve; silver (50, reservation) and noisy ones (10) always
have requests waiting; bronze ones (10) run into their limits. A table shows what each tier got before and after the loss;
below it stand the rules, each with what was measured: ok or FAILED. Progress goes to stderr.

Examples:
  vmpath simulate                            1000 VMs on 16 paths, 8 of them lost after 10 of 20 seconds
  vmpath simulate --vms 60 --paths 8 --lose 4 --path-capacity 25MiB/s
  vmpath simulate --lose 12                  what is left cannot carry the reservations: the higher priority is met
  vmpath simulate --at 5s --repair-at 12s    the paths come back
  vmpath simulate --seed 7 -o json           another run of the same kind, for programs

With --seeds it is the other simulator (docs/simulate.md): small worlds in which connections are lost, targets execute late, the process
is killed, hypervisors do not obey; a model checks every read, every answer and every decision.
  vmpath simulate --seeds 2000               the worlds 1 to 2000
  vmpath simulate --trace --seed 42          all that happens in world 42

With --hosts they are worlds of several whole hosts with an etcd, of which everything may be cut off, late, lost or killed in the middle of moves;
a checker on the array knows each writer.
  vmpath simulate --hosts 3 --seeds 20000 --report out.json
  vmpath simulate --hosts 3 --trace --seed 7

Exit status: 0 if every rule held, 1 if not, 2 wrong usage.";

    /// # Errors
    /// If the numbers make no scene, or the report cannot be written; findings are in the report, not here.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if self.seeds.is_some() || self.trace {
            return self.attack();
        }
        anyhow::ensure!(
            self.hosts.is_none(),
            "--hosts is for worlds in which everything goes wrong: add --seeds N, or --trace with --seed"
        );
        let scene = self.scene()?;
        let outcome = World::new(&scene, Tamper::NONE)?.run(progress());
        let mut report = checks::judge(&outcome);
        attach(&mut report, &outcome);
        match self.output {
            Output::Table => print!("{}", table::text(&outcome, &report)),
            Output::Json => println!("{}", serde_json::to_string_pretty(&report.to_json())?),
        }
        eprintln!("{}", speed_line(&outcome));
        if let Some(path) = &self.report {
            report.write(path)?;
        }
        Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Worlds in which everything goes wrong.
    fn attack(&self) -> anyhow::Result<ExitCode> {
        let has_mutant = self.set_mutant()?;
        let hosts = self.hosts.map(usize::from);
        if self.trace {
            anyhow::ensure!(self.seeds.is_none(), "--trace prints one world: give --seed, not --seeds");
            return Ok(match attack::print(self.seed, hosts, &self.blind()) {
                None => ExitCode::SUCCESS,
                Some(broken) => {
                    println!("FAILED {broken}");
                    ExitCode::FAILURE
                }
            });
        }
        let jobs = self.jobs.map_or_else(
            || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
            usize::from,
        );
        let seeds = self.seeds.unwrap_or(1);
        let attack =
            Attack { first: self.seed, seeds, jobs, stop_at_first: has_mutant, blind: self.blind(), hosts };
        let report = attack.run();
        match self.output {
            Output::Table => print!("{}", attack::table(&report)),
            Output::Json => println!("{}", serde_json::to_string_pretty(&report.to_json())?),
        }
        if let Some(seed) = report.to_json()["violations"][0]["seed"].as_u64().filter(|_| !has_mutant) {
            eprintln!("the end of seed {seed}:");
            attack::tail(seed, hosts).iter().for_each(|line| eprintln!("  {line}"));
        }
        if let Some(path) = &self.report {
            report.write(path)?;
        }
        Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Switches on the fault asked for. True if there is one.
    #[cfg(feature = "mutants")]
    fn set_mutant(&self) -> anyhow::Result<bool> {
        use vmpath_core::mutant::{self, Mutant};
        let Some(name) = &self.mutant else { return Ok(false) };
        let known = || Mutant::ALL.iter().map(|m| m.word()).collect::<Vec<_>>().join(", ");
        let mutant =
            Mutant::parse(name).ok_or_else(|| anyhow::anyhow!("no mutant {name}; there are: {}", known()))?;
        mutant::set(Some(mutant));
        Ok(true)
    }

    #[cfg(feature = "mutants")]
    fn blind(&self) -> Vec<&'static str> {
        self.blind.iter().map(|rule| &*rule.clone().leak()).collect()
    }

    #[cfg(not(feature = "mutants"))]
    #[expect(clippy::unused_self, reason = "with the feature it looks for some")]
    fn blind(&self) -> Vec<&'static str> {
        Vec::new()
    }

    #[cfg(not(feature = "mutants"))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "with the feature it looks for one")]
    fn set_mutant(&self) -> anyhow::Result<bool> {
        Ok(false)
    }

    fn scene(&self) -> anyhow::Result<Scene> {
        let vms = VMS_MIN..=VMS_MAX;
        anyhow::ensure!(vms.contains(&self.vms), "--vms must be {} to {}", vms.start(), vms.end());
        let paths = 2..=PATHS_PER_TARGET_MAX;
        anyhow::ensure!(paths.contains(&self.paths), "--paths must be {} to {}", paths.start(), paths.end());
        let lose = 1..self.paths;
        anyhow::ensure!(
            lose.contains(&self.lose),
            "--lose must be 1 to {}: a path must be left",
            self.paths - 1
        );
        let size = (4 << 10)..=(256 << 10);
        for (option, given) in [("--size", self.size), ("--noisy-size", self.noisy_size)] {
            anyhow::ensure!(size.contains(&given), "{option} must be 4KiB to 256KiB");
        }
        anyhow::ensure!(self.path_capacity >= 1 << 20, "--path-capacity must be at least 1MiB/s");
        self.check_times()?;
        Ok(Scene {
            seed: self.seed,
            vms: self.vms,
            paths: self.paths,
            lose: self.lose,
            lost_at: self.at,
            repaired_at: self.repair_at,
            ends_at: self.seconds,
            capacity: self.path_capacity,
            size: self.size as u32,
            noisy_size: self.noisy_size as u32,
            reserved: self.reserve,
        })
    }

    fn check_times(&self) -> anyhow::Result<()> {
        let whole = |time: Duration| time.as_nanos().is_multiple_of(ledger::STEP.as_nanos());
        let times = [Some(self.at), self.repair_at, Some(self.seconds)];
        anyhow::ensure!(times.iter().flatten().all(|t| whole(*t)), "times must be whole tenths of a second");
        let least = PHASE_MIN.as_secs_f64();
        // The first second is not judged.
        let begins = [Some(Duration::from_secs(1)), Some(self.at), self.repair_at];
        let ends = [Some(self.at), Some(self.repair_at.unwrap_or(self.seconds)), Some(self.seconds)];
        for (begin, end) in begins.into_iter().zip(ends) {
            let (Some(begin), Some(end)) = (begin, end) else { continue };
            anyhow::ensure!(
                end >= begin + PHASE_MIN,
                "between {:.1} s and {:.1} s there is no time to judge: leave {least} s between 1 s, --at, --repair-at and --seconds",
                begin.as_secs_f64(),
                end.as_secs_f64(),
            );
        }
        Ok(())
    }
}

/// What helps to understand the checks.
fn attach(report: &mut Report, outcome: &Outcome) {
    let scene = &outcome.scene;
    let seconds = |time: Duration| time.as_secs_f64();
    report.attach(
        "scene",
        &json!({
            "seed": scene.seed, "vms": scene.vms, "paths": scene.paths, "lose": scene.lose,
            "lost_at": seconds(scene.lost_at), "repaired_at": scene.repaired_at.map(seconds),
            "seconds": seconds(scene.ends_at), "path_capacity": scene.capacity, "size": scene.size, "noisy_size": scene.noisy_size,
            "reserve_percent": scene.reserved,
        }),
    );
    report.attach("tiers", &table::rows(outcome));
    report.attach("requests", &outcome.ledger.completed);
    report.attach("attempts", &outcome.ledger.attempts);
    let (per_request, virtual_per_real) = speed(outcome);
    report.attach(
        "speed",
        &json!({ "router_ns_per_request": per_request, "virtual_seconds_per_second": virtual_per_real }),
    );
}

/// Nanoseconds of the router for each request, and virtual seconds for each real one.
fn speed(outcome: &Outcome) -> (f64, f64) {
    let nanos = outcome.speed.router.as_nanos() as f64 / (outcome.ledger.completed.max(1)) as f64;
    (nanos, outcome.scene.ends_at.as_secs_f64() / outcome.speed.whole.as_secs_f64().max(1e-9))
}

fn speed_line(outcome: &Outcome) -> String {
    let (nanos, virtual_per_real) = speed(outcome);
    format!(
        "router: {nanos:.0} ns a request; {virtual_per_real:.2} virtual seconds a second ({:.1} s in all)",
        outcome.speed.whole.as_secs_f64()
    )
}

/// One line that is written over on a terminal, else a line each second of virtual time.
fn progress() -> impl FnMut(vmpath_core::time::Instant, u64) {
    let mut err = std::io::stderr();
    let end = if err.is_terminal() { '\r' } else { '\n' };
    move |at, requests| {
        // Nobody to read it is no reason to stop.
        let _ = write!(err, "  {at} of virtual time, {requests} requests {end}").and_then(|()| err.flush());
    }
}
