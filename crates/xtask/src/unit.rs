//! The workspace's unit and integration tests, by nextest if it is there, else by `cargo test`.
//!
//! The tests of `core` are told apart, because their own duration was asked for. Both tools run them from the same
//! build as all others: choosing the package alone would compile its dependencies again with other features.

use crate::properties;
use crate::step::{self, Finished};
use crate::tally::{self, Outcome, Tally, TestRun};
use crate::tidy;
use anyhow::Result;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What the tests of `core` may take by themselves: six hundred take 9 s on two quiet processors, half of that to start a
/// process for each, and twice that on busy ones. The bound is for what waits or goes round in circles.
const CORE_TESTS_MAX: Duration = Duration::from_secs(60);
/// All tests together.
const TESTS_MAX: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runner {
    Nextest,
    CargoTest,
}

/// The tests of `core`, and all others.
#[derive(Debug)]
pub(crate) struct Tested {
    pub(crate) core: Tally,
    pub(crate) others: Tally,
}

impl Runner {
    pub(crate) fn find(root: &Path) -> Self {
        let nextest = crate::cargo(root).args(["nextest", "--version"]).output();
        if nextest.is_ok_and(|o| o.status.success()) { Self::Nextest } else { Self::CargoTest }
    }

    /// Compiles the tests without running them.
    pub(crate) fn build(self, root: &Path) -> Command {
        let mut command = crate::cargo(root);
        match self {
            Self::Nextest => command.args(["nextest", "run", "--workspace", "--no-run"]),
            Self::CargoTest => {
                command.args(["test", "--workspace", "--lib", "--bins", "--tests", "--no-run"])
            }
        };
        command
    }

    /// Runs all tests.
    ///
    /// # Errors
    /// If the tool cannot be started.
    pub(crate) fn run(self, root: &Path) -> Result<Tested> {
        match self {
            Self::Nextest => by_nextest(root),
            Self::CargoTest => by_cargo_test(root),
        }
    }
}

fn by_nextest(root: &Path) -> Result<Tested> {
    let run = |filter: &str| -> Result<Finished> {
        let mut command = crate::cargo(root);
        command.args(["nextest", "run", "--workspace", "--no-fail-fast", "--no-tests=pass", "-E", filter]);
        properties::from_one_seed(&mut command);
        step::run("tests", &mut command, TESTS_MAX)
    };
    let core = run("package(vmpath-core)")?;
    let others = run("not package(vmpath-core)")?;
    let core_run = tally::read_nextest(&core.output);
    let others_run = tally::read_nextest(&others.output);
    let mut tested =
        Tested { core: judge_core(core_run, &core), others: judge("tests", others_run, &others) };
    // What nextest calls skipped includes what a filter left out, or does not, from version to version.
    tested.others.skipped.extend(tidy::ignored_tests(root)?);
    Ok(tested)
}

fn by_cargo_test(root: &Path) -> Result<Tested> {
    let mut command = by_hand(root, &[]);
    command.arg("--tests");
    properties::from_one_seed(&mut command);
    let finished = step::run("tests", &mut command, TESTS_MAX)?;
    let core = tally::read_cargo_test(&finished.output, is_core);
    let others = tally::read_cargo_test(&finished.output, |binary| !is_core(binary));
    // Both come from one run: its failure is the core's only if a test of the core failed.
    let core_finished = Finished { succeeded: true, output: String::new() };
    let core = judge_core(core, &core_finished);
    let succeeded = finished.succeeded || !core.failed.is_empty();
    let finished = Finished { succeeded, output: finished.output };
    Ok(Tested { core, others: judge("tests", others, &finished) })
}

/// The unit tests of these packages, or of all, by `cargo test`.
pub(crate) fn by_hand(root: &Path, packages: &[String]) -> Command {
    let mut command = crate::cargo(root);
    command.args(["test", "--lib", "--bins", "--no-fail-fast"]);
    if packages.is_empty() {
        command.arg("--workspace");
    }
    for package in packages {
        command.args(["--package", package]);
    }
    command
}

fn is_core(binary: &str) -> bool {
    binary.contains("/vmpath_core-") || binary.starts_with("crates/core/")
}

fn judge_core(run: Option<TestRun>, finished: &Finished) -> Tally {
    let Some(took) = run.as_ref().map(|r| r.took) else { return judge("core tests", run, finished) };
    let mut tally = judge("core tests", run, finished);
    let asked = CORE_TESTS_MAX.as_secs();
    tally.note = format!("{:.2} s by themselves (asked: under {asked} s)", took.as_secs_f64());
    let name = format!("core tests take {:.2} s by themselves, asked: under {asked} s", took.as_secs_f64());
    tally.add(Tally::one(&name, Outcome::from(took < CORE_TESTS_MAX)));
    tally
}

fn judge(name: &str, run: Option<TestRun>, finished: &Finished) -> Tally {
    match run {
        Some(run) => run.tally.or_failed(name, Outcome::from(finished.succeeded)),
        None => Tally::one(&format!("{name}: no result could be read"), Outcome::Failed),
    }
}
