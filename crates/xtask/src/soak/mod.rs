//! `cargo xtask soak`: real guests and stand-ins on the real daemon, while things go wrong by chance, for as long as one likes.
//!
//! Invariant: every block that is read is checked, nobody waits longer than [`stand::WAIT_MAX`] (nor than vmpath's limit on
//! resumes, where vmpath says that it is that), and at the end everybody runs by itself. What
//! goes wrong comes from the seed; when exactly it hits what does not, so a seed repeats a failure often and not always.
//! It does not know the daemon's inside.

mod plan;
mod stand;

use crate::e2e::{Ground, Subject};
use anyhow::{Result, bail};
use plan::{Random, episode};
use stand::Stand;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use vmpath_lab::guest::FrontEnd;
use vmpath_lab::report::{Bound, Truth};

/// Beyond the minutes asked for: boots, the end with a VM at the limit on resumes, and reading all back.
const OVERTIME: Duration = Duration::from_secs(600);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How long things go wrong
    #[arg(long, value_name = "M", default_value_t = 10.0)]
    minutes: f64,
    /// What goes wrong; without it, something new
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Write the checks and what went wrong as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The vmpath to test; without it, a release build is made
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// We are in the run's own namespaces
    #[arg(long, hide = true)]
    inside: bool,
}

/// Runs the soak. True if nothing was wrong.
///
/// # Errors
/// It could not be run.
pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<bool> {
    let binary = match &arguments.binary {
        Some(binary) => binary.canonicalize()?,
        None => crate::check::build_release(root)?,
    };
    let seed = arguments.seed.unwrap_or_else(from_the_clock);
    if arguments.inside {
        return inside(root, &binary, seed, arguments);
    }
    if let Some(why) = crate::e2e::obstacle() {
        bail!(why);
    }
    let mut words: Vec<std::ffi::OsString> = ["soak", "--inside", "--binary"].map(Into::into).to_vec();
    words.push(binary.into());
    for (option, value) in [("--seed", seed.to_string()), ("--minutes", arguments.minutes.to_string())] {
        words.extend([option.into(), value.into()]);
    }
    if let Some(report) = &arguments.report {
        words.extend(["--report".into(), std::path::absolute(report)?.into()]);
    }
    crate::e2e::in_rooms(&words)
}

fn from_the_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::from(since.subsec_micros())
}

fn inside(root: &Path, binary: &Path, seed: u64, arguments: &Arguments) -> Result<bool> {
    let span = Duration::from_secs_f64(arguments.minutes * 60.0);
    let subject = Subject { binary: binary.to_owned(), ..Subject::default() };
    let ground = Ground::new(root, subject)?;
    let mut stage = ground.stage("soak", FrontEnd::VhostUser, span + OVERTIME)?;
    println!("== soak: seed {seed}, {} minutes", arguments.minutes);
    let mut did = Vec::new();
    let outcome = Stand::new(&mut stage).and_then(|stand| play(stand, seed, span, &mut did));
    let why = outcome.as_ref().err().map(|why| format!("{why:#}")).unwrap_or_default();
    if !why.is_empty() {
        stage.say(format!("stopped: {why}"));
        stage.show_logs();
    }
    stage.report.check_that("it came to its end", Truth::from(outcome.is_ok()), why);
    stage.report.check("things that went wrong", did.len() as f64, Bound::AtLeast(1.0), "acts");
    stage.report.attach("seed", &seed);
    stage.report.attach("went_wrong", &did);
    let report = std::mem::take(&mut stage.report);
    print!("{}", report.table());
    let passed = report.passed();
    if !passed {
        println!("seed {seed}; what went wrong until then:\n  {}", did.join("\n  "));
    }
    if let Some(file) = &arguments.report {
        report.write(file)?;
    }
    drop(stage);
    if passed {
        ground.leave()?;
    } else {
        ground.leave_logs()?;
    }
    Ok(passed)
}

/// Episodes until the time is over, and the end.
fn play(mut stand: Stand<'_>, seed: u64, span: Duration, did: &mut Vec<String>) -> Result<()> {
    let mut random = Random::new(seed);
    let began = Instant::now();
    for number in 0.. {
        if began.elapsed() >= span {
            break;
        }
        let next = episode(&mut random, number, &stand::NAMES);
        stand.play(number, &next, did)?;
    }
    stand.end()
}
