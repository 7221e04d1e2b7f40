//! `cargo xtask e2e`: real guests, a real storage server, the real daemon, and a network of their own that fails.
//!
//! A scenario measures and checks; it never stops at a failed check, only where it cannot go on. What the daemon says
//! of itself is compared with what the guest saw and what QEMU says.
//! It does not know the daemon's inside: it uses the binary, the configuration and the API.

mod api;
mod host;
mod isolate;
mod network;
mod rawclient;
mod scenario;
mod server;
mod stage;
mod storage;
mod vm;

use anyhow::{Context, Result, bail};
use scenario::{ALL, Scenario};
use stage::{Stage, Tools};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;
use vmpath_lab::guest::Kernel;
use vmpath_lab::report::{Report, Truth};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only these scenarios, by name
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    only: Vec<String>,
    /// Write the checks and the timelines as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Show what there is, and run nothing
    #[arg(long)]
    list: bool,
    /// The vmpath to test; without it, a release build is made
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// We are in the run's own namespaces
    #[arg(long, hide = true)]
    inside: bool,
}

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|s| s.name)
}

/// Why nothing can be run on this machine, with what to do about it. Fetches the guests' kernel if need be: inside the
/// run's own network there is nowhere to fetch it from.
pub(crate) fn obstacle() -> Option<String> {
    let lacking = crate::packages::lacking();
    if !lacking.is_empty() {
        return Some(format!("packages are lacking; `{}` adds them", crate::packages::line(&lacking)));
    }
    let kernel = Kernel::find_or_fetch().map(drop);
    kernel.and_then(|()| isolate::check()).err().map(|why| format!("{why:#}"))
}

/// Runs the scenarios. True if every check passed.
///
/// # Errors
/// Nothing could be run.
pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<bool> {
    let chosen = choose(&arguments.only)?;
    if arguments.list {
        chosen.iter().for_each(|s| println!("{:18} {}", s.name, s.about));
        return Ok(true);
    }
    let binary = match &arguments.binary {
        Some(binary) => binary.canonicalize().with_context(|| format!("there is no {}", binary.display()))?,
        None => crate::check::build_release(root)?,
    };
    if arguments.inside { inside(root, &chosen, &binary, arguments) } else { outside(&binary, arguments) }
}

fn choose(only: &[String]) -> Result<Vec<&'static Scenario>> {
    if let Some(unknown) = only.iter().find(|name| names().all(|n| n != name.as_str())) {
        bail!("there is no scenario {unknown}; there are: {}", names().collect::<Vec<_>>().join(", "));
    }
    Ok(ALL.iter().filter(|s| only.is_empty() || only.iter().any(|name| name == s.name)).collect())
}

/// Starts ourselves again in namespaces of our own.
fn outside(binary: &Path, arguments: &Arguments) -> Result<bool> {
    if let Some(why) = obstacle() {
        bail!(why);
    }
    let mut words: Vec<std::ffi::OsString> = ["e2e", "--inside", "--binary"].map(Into::into).to_vec();
    words.push(binary.into());
    if !arguments.only.is_empty() {
        words.extend(["--only".into(), arguments.only.join(",").into()]);
    }
    if let Some(report) = &arguments.report {
        words.extend(["--report".into(), std::path::absolute(report)?.into()]);
    }
    let words: Vec<&std::ffi::OsStr> = words.iter().map(AsRef::as_ref).collect();
    Ok(isolate::run(&words)?.success())
}

fn inside(root: &Path, chosen: &[&Scenario], binary: &Path, arguments: &Arguments) -> Result<bool> {
    isolate::prepare()?;
    let dir = tempfile::Builder::new().prefix("vmpath-e2e-").tempdir()?;
    let tools = Rc::new(Tools::new(root, binary, dir.path())?);
    let mut all = Report::new();
    let mut took = Vec::new();
    for (number, scenario) in chosen.iter().enumerate() {
        println!("== e2e {}/{} {}: {}", number + 1, chosen.len(), scenario.name, scenario.about);
        let began = Instant::now();
        let report = play(scenario, &tools);
        took.push((scenario.name, began.elapsed().as_secs_f64()));
        print!("{}", report.table());
        println!("== {}: {}, {:.1} s", scenario.name, word(report.passed()), began.elapsed().as_secs_f64());
        all.absorb(scenario.name, report);
    }
    all.attach("seconds", &took.into_iter().collect::<std::collections::BTreeMap<_, _>>());
    let failed = all.checks().iter().filter(|check| !check.passed()).count();
    println!("e2e: {}, {} checks, {failed} failed", word(all.passed()), all.checks().len());
    if let Some(report) = &arguments.report {
        all.write(report)?;
    }
    isolate::forget_memory(dir.path())?;
    if !all.passed() {
        println!("logs, sockets and consoles are kept in {}", dir.keep().display());
    }
    Ok(all.passed())
}

/// One scenario; whatever stops it becomes a failed check.
fn play(scenario: &Scenario, tools: &Rc<Tools>) -> Report {
    let mut stage = match Stage::new(scenario.name, tools, scenario.bound) {
        Ok(stage) => stage,
        Err(why) => {
            let mut report = Report::new();
            report.check_that("it can begin", Truth::from(false), format!("{why:#}"));
            return report;
        }
    };
    let outcome = (scenario.run)(&mut stage);
    let why = outcome.as_ref().err().map(|why| format!("{why:#}")).unwrap_or_default();
    if !why.is_empty() {
        stage.say(format!("stopped: {why}"));
        stage.show_logs();
    }
    stage.report.check_that("it came to its end", Truth::from(outcome.is_ok()), why);
    _ = network::heal(); // whatever state it was left in
    std::mem::take(&mut stage.report)
}

const fn word(passed: bool) -> &'static str {
    if passed { "passed" } else { "FAILED" }
}

/// The last lines of a log.
fn end_of(path: &Path, lines: usize) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
