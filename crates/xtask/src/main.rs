//! How we work on vmpath: `cargo xtask tidy|prepush|test|e2e|soak|bench|fuzz|mutants|properties`.

mod bench;
mod check;
mod e2e;
mod fuzz;
mod mutants;
mod packages;
mod properties;
mod soak;
mod step;
mod tally;
mod tidy;
mod unit;

use anyhow::{Context, Result};
use check::Extent;
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "How we work on vmpath")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Check the rules of style that a machine can check
    Tidy,
    /// Tidy, formatting, clippy and all unit and integration tests: before each push
    Prepush,
    /// Everything: what prepush does, the demo, and real guests on real storage. Installs the Debian packages that it
    /// lacks if it may, and otherwise says how. What cannot run is counted and named
    Test,
    /// Real QEMU guests and a real storage server, in namespaces of their own, while paths fail
    E2e(e2e::Arguments),
    /// Real guests and stand-ins while things go wrong by chance, for as long as one likes
    Soak(soak::Arguments),
    /// What vmpath costs, beside what one would have without it
    Bench(bench::Arguments),
    /// What strangers may send, made up by a fuzzer that sees which code it reaches
    Fuzz(fuzz::Arguments),
    /// Faults put into core on purpose, one after the other: the simulator must see each
    Mutants(mutants::Arguments),
    /// The property tests, further than in a check: more cases, from a seed that nobody has tried
    Properties(properties::Arguments),
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let root = root()?;
    let well = match arguments.task {
        Task::Tidy => tidy::run(&root)?,
        Task::Prepush => check::run(&root, Extent::Prepush)?,
        Task::Test => check::run(&root, Extent::Everything)?,
        Task::E2e(arguments) => e2e::run(&root, &arguments)?,
        Task::Soak(arguments) => soak::run(&root, &arguments)?,
        Task::Bench(arguments) => bench::run(&root, &arguments)?,
        Task::Fuzz(arguments) => fuzz::run(&root, &arguments)?,
        Task::Mutants(arguments) => mutants::run(&root, &arguments)?,
        Task::Properties(arguments) => properties::run(&root, &arguments)?,
    };
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The folder of the workspace: the nearest one above with this very file in it.
fn root() -> Result<PathBuf> {
    let here = std::env::current_dir()?;
    let root = here.ancestors().find(|folder| folder.join(tidy::LIST).exists());
    Ok(root.context("run it inside the vmpath workspace")?.to_path_buf())
}

/// Cargo in the workspace.
fn cargo(root: &Path) -> Command {
    let mut command = Command::new("cargo");
    // Tests that need a program which is not there fail then, instead of saying so and passing.
    command.current_dir(root).env("CARGO_TERM_COLOR", "never").env("VMPATH_TESTS", "all");
    command
}
