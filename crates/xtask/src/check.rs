//! `cargo xtask prepush` and `cargo xtask test`: the steps, in order, and the table at their end.
//!
//! Every step runs, whatever failed before it, unless it needs what failed; then it is counted as skipped, by name.
//! The last line alone is `N passed, N failed`, so that a machine can read it.

use crate::step;
use crate::tally::{self, Outcome, Tally};
use crate::unit::Runner;
use crate::{e2e, fuzz, packages, tidy};
use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Generous: a cold build on two slow cores.
const BUILD_TIME: Duration = Duration::from_secs(900);
const DEMO_TIME: Duration = Duration::from_secs(150);
const DEMO_QEMU_TIME: Duration = Duration::from_secs(240);
const E2E_TIME: Duration = Duration::from_secs(2400);
const SIMULATE_TIME: Duration = Duration::from_secs(300);
/// A build of its own and some seeds of each mutant.
const MUTANTS_TIME: Duration = Duration::from_secs(1500);
/// Of each run. All mutants are seen within fewer.
const SIMULATE_SEEDS: &str = "2000";
const MUTANT_SEEDS: &str = "400";
/// Of all fuzz targets together.
const FUZZ_SECONDS: &str = "10";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Style and tests: minutes, before each push.
    Prepush,
    /// All that there is: what a newcomer and the CI run.
    Everything,
}

/// Runs the steps and prints the table. True if nothing failed.
///
/// # Errors
/// If a step cannot be started at all.
pub(crate) fn run(root: &Path, extent: Extent) -> Result<bool> {
    let mut run = Run {
        root: root.to_owned(),
        target: target_dir(root)?,
        steps: if extent == Extent::Everything { 14 } else { 5 },
        begun: 0,
        rows: Vec::new(),
        began: Instant::now(),
    };
    if extent == Extent::Everything {
        run.packages()?;
    }
    run.style()?;
    run.tests()?;
    if extent == Extent::Everything {
        run.demo_and_e2e()?;
        run.mutants()?;
        run.fuzz()?;
    }
    Ok(run.finish())
}

struct Run {
    root: PathBuf,
    target: PathBuf,
    steps: usize,
    begun: usize,
    rows: Vec<Row>,
    began: Instant,
}

struct Row {
    name: &'static str,
    tally: Tally,
    /// None where it ran together with the row before.
    took: Option<Duration>,
}

impl Run {
    fn begin(&mut self, name: &str) -> Instant {
        self.begun += 1;
        println!("\n== {}/{} {name}", self.begun, self.steps);
        Instant::now()
    }

    fn end(&mut self, name: &'static str, began: Instant, tally: Tally) {
        let took = began.elapsed();
        println!("== {name}: {tally}, {:.1} s", took.as_secs_f64());
        self.rows.push(Row { name, tally, took: Some(took) });
    }

    /// A step that passes or fails as a whole.
    fn command(&mut self, name: &'static str, command: &mut Command) -> Result<Outcome> {
        let began = self.begin(name);
        println!("   {}", step::shown(command));
        let outcome = Outcome::from(step::run(name, command, BUILD_TIME)?.succeeded);
        self.end(name, began, Tally::one(name, outcome));
        Ok(outcome)
    }

    fn not_run(&mut self, name: &'static str, what: impl IntoIterator<Item = String>) {
        self.rows.push(Row { name, tally: Tally::skipped(what), took: None });
    }

    fn packages(&mut self) -> Result<()> {
        let began = self.begin("packages");
        let lacking = packages::install()?.join(" ");
        let note = if lacking.is_empty() { String::new() } else { format!("lacking: {lacking}") };
        self.end("packages", began, Tally { note, ..Tally::default() });
        Ok(())
    }

    fn style(&mut self) -> Result<()> {
        let began = self.begin("tidy");
        let tidy = Outcome::from(tidy::run(&self.root)?);
        self.end("tidy", began, Tally::one("tidy", tidy));
        self.component("fmt", "rustfmt", &["fmt", "--all", "--check"])?;
        self.component(
            "clippy",
            "clippy",
            &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"],
        )
    }

    /// A check by a part of the Rust tool chain that a minimal installation lacks.
    fn component(&mut self, name: &'static str, component: &str, arguments: &[&str]) -> Result<()> {
        let version = crate::cargo(&self.root).args([name, "--version"]).output();
        if version.is_ok_and(|o| o.status.success()) {
            self.command(name, crate::cargo(&self.root).args(arguments))?;
        } else {
            self.not_run(
                name,
                [format!("{name}: not installed; `rustup component add {component}` adds it")],
            );
        }
        Ok(())
    }

    fn tests(&mut self) -> Result<()> {
        let runner = Runner::find(&self.root);
        if self.command("build tests", &mut runner.build(&self.root))? == Outcome::Failed {
            self.not_run("tests", ["all unit and integration tests: they do not build".to_owned()]);
            return Ok(());
        }
        let began = self.begin("tests");
        let tested = runner.run(&self.root)?;
        self.rows.push(Row { name: "core tests", tally: tested.core, took: None });
        self.end("tests", began, tested.others);
        Ok(())
    }

    fn demo_and_e2e(&mut self) -> Result<()> {
        let mut build = crate::cargo(&self.root);
        if self.command("release build", build.args(["build", "--release", "-p", "vmpath"]))?
            == Outcome::Failed
        {
            for name in ["simulate", "simulate, hosts", "demo", "demo, guests"] {
                self.not_run(name, [format!("{name}: there is no binary")]);
            }
            self.not_run("e2e", e2e::names().map(|name| format!("e2e: {name}: there is no binary")));
            return Ok(());
        }
        let binary = self.target.join("release/vmpath");
        let mut simulate = Command::new(&binary);
        simulate.args(["simulate", "--seeds", SIMULATE_SEEDS]);
        self.reported("simulate", &mut simulate, SIMULATE_TIME)?;
        let mut hosts = Command::new(&binary);
        hosts.args(["simulate", "--hosts", "3", "--seeds", SIMULATE_SEEDS]);
        self.reported("simulate, hosts", &mut hosts, SIMULATE_TIME)?;
        self.reported("demo", Command::new(&binary).arg("demo"), DEMO_TIME)?;
        if let Some(why) = e2e::obstacle() {
            self.not_run("demo, guests", [format!("demo with guests: {why}")]);
            self.not_run("e2e", e2e::names().map(|name| format!("e2e: {name}: {why}")));
            return Ok(());
        }
        // The stand-ins have used NBD.
        let mut guests = Command::new(&binary);
        guests.args(["demo", "--qemu", "--front-end", "vhost-user"]);
        self.reported("demo, guests", &mut guests, DEMO_QEMU_TIME)?;
        let mut e2e = Command::new(std::env::current_exe()?);
        self.reported("e2e", e2e.arg("e2e").arg("--binary").arg(&binary), E2E_TIME)
    }

    /// Every deliberate fault is seen.
    fn mutants(&mut self) -> Result<()> {
        let mut mutants = Command::new(std::env::current_exe()?);
        mutants.args(["mutants", "--seeds", MUTANT_SEEDS]);
        self.reported("mutants", &mut mutants, MUTANTS_TIME)
    }

    /// A short look of the fuzzer at everything that it has found before, and a little further.
    fn fuzz(&mut self) -> Result<()> {
        if packages::lacking().contains(&"g++") {
            let targets = fuzz::names(&self.root)?;
            self.not_run("fuzz", targets.into_iter().map(|target| format!("fuzz: {target}: g++ is lacking")));
            return Ok(());
        }
        let mut fuzz = Command::new(std::env::current_exe()?);
        fuzz.current_dir(&self.root).args(["fuzz", "--seconds", FUZZ_SECONDS]);
        self.command("fuzz", &mut fuzz).map(drop)
    }

    /// Runs something that takes `--report FILE`, and counts the checks of the report that it writes.
    fn reported(&mut self, name: &'static str, command: &mut Command, bound: Duration) -> Result<()> {
        let began = self.begin(name);
        let folder = self.target.join("reports");
        fs::create_dir_all(&folder)?;
        let report = folder.join(format!("{}.json", name.replace(", ", "-")));
        if report.exists() {
            fs::remove_file(&report)?; // so that it cannot be mistaken for this run's
        }
        let finished = step::run(name, command.current_dir(&self.root).arg("--report").arg(&report), bound)?;
        let tally = fs::read_to_string(&report).ok().and_then(|json| tally::read_report(name, &json));
        let tally =
            tally.unwrap_or_else(|| Tally::one(&format!("{name}: it wrote no report"), Outcome::Failed));
        self.end(name, began, tally.or_failed(name, Outcome::from(finished.succeeded)));
        Ok(())
    }

    fn finish(self) -> bool {
        let mut all = Tally::default();
        println!("\n{:14} {:32} {:>10}", "step", "result", "took");
        for row in self.rows {
            let took = row.took.map(|t| format!("{:.1} s", t.as_secs_f64())).unwrap_or_default();
            println!("{:14} {:32} {took:>10}  {}", row.name, row.tally.to_string(), row.tally.note);
            all.add(row.tally);
        }
        println!("{:14} {:32} {:>8.1} s\n", "all", "", self.began.elapsed().as_secs_f64());
        for name in &all.failed {
            println!("failed: {name}");
        }
        for name in &all.skipped {
            println!("not run: {name}");
        }
        println!("{all}");
        all.failed.is_empty()
    }
}

/// The release binary, built if need be.
///
/// # Errors
/// It does not build.
pub(crate) fn build_release(root: &Path) -> Result<PathBuf> {
    let mut build = crate::cargo(root);
    let finished =
        step::run("release build", build.args(["build", "--release", "-p", "vmpath"]), BUILD_TIME)?;
    anyhow::ensure!(finished.succeeded, "the release binary does not build");
    Ok(target_dir(root)?.join("release/vmpath"))
}

/// The release binary with its deliberate faults compiled in; `VMPATH_MUTANT` chooses the fault. It shares what the other
/// build has built, and lies beside it under a name of its own.
///
/// # Errors
/// One of the two does not build.
pub(crate) fn build_mutants(root: &Path) -> Result<PathBuf> {
    let mut build = crate::cargo(root);
    build.args(["build", "--release", "-p", "vmpath", "--features", "mutants"]);
    let finished = step::run("build with deliberate faults", &mut build, BUILD_TIME)?;
    anyhow::ensure!(finished.succeeded, "the binary with deliberate faults does not build");
    let folder = target_dir(root)?.join("release");
    let mutants = folder.join("vmpath-mutants");
    // Cargo has put it in the other one's place, which is put back.
    fs::rename(folder.join("vmpath"), &mutants)?;
    build_release(root)?;
    Ok(mutants)
}

/// Where cargo builds.
///
/// # Errors
/// Cargo cannot be run.
pub(crate) fn target_dir(root: &Path) -> Result<PathBuf> {
    let output = crate::cargo(root).args(["metadata", "--format-version=1", "--no-deps"]).output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let target = metadata["target_directory"].as_str().map(PathBuf::from);
    Ok(target.unwrap_or_else(|| root.join("target")))
}
