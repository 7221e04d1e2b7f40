//! `cargo xtask fuzz`: every target for its share of the time, from the committed corpus.
//!
//! libFuzzer, with the compiler's own coverage counters: the tool chain that builds everything else is enough, and
//! memory errors, which its sanitizers would find, are not to be expected of crates that forbid `unsafe`.
//! Rejected: `cargo fuzz`, which asks for a nightly compiler; it can still be used on the same folder.
//! It does not know what the targets check.

mod output;

use crate::step;
use anyhow::{Context, Result, bail};
use output::Progress;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const BUILD_TIME: Duration = Duration::from_secs(600);
/// Beyond what the target was told to take.
const GRACE: Duration = Duration::from_secs(30);
/// Longer inputs reach nothing new, and slow everything down.
const INPUT_BYTES_MAX: &str = "4096";
/// An input that takes longer is a finding.
const INPUT_SECONDS_MAX: &str = "5";
const MEMORY_MIB_MAX: &str = "1024";

/// Of a target that has failed: the panic, its place and the input.
const LAST_LINES: usize = 60;

/// Edges are counted, and what comparisons compare is told to the fuzzer.
const COVERAGE: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "--cfg=fuzzing",
];

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Time of all targets together, without building
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Only these targets
    #[arg(long, value_delimiter = ',', value_name = "TARGET,…")]
    target: Vec<String>,
    /// Show the targets, and run nothing
    #[arg(long)]
    list: bool,
    /// Add what was found to reach further to the committed corpus, and drop from it what reaches nothing of its own
    #[arg(long)]
    keep: bool,
}

/// Where everything is.
struct Places {
    /// The package of the targets.
    package: PathBuf,
    /// What the build writes.
    build: PathBuf,
    /// The platform's name: named in the build, so that build scripts are left alone.
    host: String,
}

/// What one target did.
struct Played {
    target: String,
    progress: Progress,
    /// The input that broke a rule.
    reproducer: Option<PathBuf>,
}

/// Fuzzes. True if nothing was found.
///
/// # Errors
/// The targets cannot be built or run.
pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<bool> {
    let places = Places::of(root)?;
    let targets = places.targets(&arguments.target)?;
    if arguments.list {
        targets.iter().for_each(|target| println!("{target}"));
        return Ok(true);
    }
    places.build(&targets)?;
    let share = Duration::from_secs_f64(arguments.seconds as f64 / targets.len() as f64);
    let mut all = Vec::new();
    for target in targets {
        println!("== fuzz {target}: {:.1} s", share.as_secs_f64());
        let played = places.play(&target, share)?;
        if arguments.keep && played.reproducer.is_none() {
            places.merge(&target)?;
        }
        all.push(played);
    }
    print!("{}", table(&all));
    for Played { target, reproducer, .. } in &all {
        if let Some(file) = reproducer {
            println!(
                "{target} breaks a rule; again with:\n  {} {}",
                places.binary(target).display(),
                file.display()
            );
        }
    }
    Ok(all.iter().all(|played| played.reproducer.is_none()))
}

/// The targets' names, and why they cannot be run, if so.
///
/// # Errors
/// The package cannot be read.
pub(crate) fn names(root: &Path) -> Result<Vec<String>> {
    Places::of(root)?.targets(&[])
}

impl Places {
    fn of(root: &Path) -> Result<Self> {
        let output = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let host =
            text.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
        let build = crate::check::target_dir(root)?.join("fuzz");
        Ok(Self { package: root.join("fuzz"), build, host: host.to_owned() })
    }

    /// One for each file of `fuzz_targets`.
    fn targets(&self, only: &[String]) -> Result<Vec<String>> {
        let folder = self.package.join("fuzz_targets");
        let mut all = Vec::new();
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            all.extend(entry?.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
        all.sort();
        if let Some(unknown) = only.iter().find(|name| !all.contains(name)) {
            bail!("there is no target {unknown}; there are: {}", all.join(", "));
        }
        all.retain(|name| only.is_empty() || only.contains(name));
        Ok(all)
    }

    fn build(&self, targets: &[String]) -> Result<()> {
        let mut command = Command::new("cargo");
        command.current_dir(&self.package).env("RUSTFLAGS", COVERAGE.join(" "));
        command.args(["build", "--release", "--locked", "--target", &self.host, "--target-dir"]);
        command.arg(&self.build).args(targets.iter().flat_map(|target| ["--bin", target]));
        let finished = step::run("fuzz build", &mut command, BUILD_TIME)?;
        if !finished.succeeded {
            bail!("the fuzz targets do not build; libFuzzer needs a C++ compiler (Debian: g++)");
        }
        Ok(())
    }

    fn binary(&self, target: &str) -> PathBuf {
        self.build.join(&self.host).join("release").join(target)
    }

    fn corpus(&self, target: &str) -> PathBuf {
        self.package.join("corpus").join(target)
    }

    /// Inputs that were found to reach further; from one run to the next.
    fn grown(&self, target: &str) -> PathBuf {
        self.build.join("grown").join(target)
    }

    fn play(&self, target: &str, share: Duration) -> Result<Played> {
        let findings = self.build.join("findings").join(target);
        let grown = self.grown(target);
        for folder in [&findings, &grown, &self.corpus(target)] {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let mut command = Command::new(self.binary(target));
        command.arg(&grown).arg(self.corpus(target));
        command.arg(format!("-max_total_time={}", share.as_secs().max(1)));
        command.arg(format!("-max_len={INPUT_BYTES_MAX}")).arg(format!("-timeout={INPUT_SECONDS_MAX}"));
        command.arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}")).arg("-print_final_stats=1");
        command.arg(format!("-artifact_prefix={}/", findings.display()));
        let finished = step::run_quietly(target, &mut command, share + GRACE)?;
        if !finished.succeeded {
            let lines: Vec<&str> = finished.output.lines().collect();
            println!("{}", lines[lines.len().saturating_sub(LAST_LINES)..].join("\n"));
        }
        let progress = Progress::read(&finished.output);
        let reproducer = output::reproducer(&finished.output);
        if !finished.succeeded && reproducer.is_none() {
            bail!("{target} has failed without a reproducer");
        }
        Ok(Played { target: target.to_owned(), progress, reproducer })
    }

    /// The fewest inputs that reach all that the corpus and the grown inputs reach.
    fn merge(&self, target: &str) -> Result<()> {
        let corpus = self.corpus(target);
        let merged = self.build.join("merged").join(target);
        _ = fs::remove_dir_all(&merged); // of an earlier run
        fs::create_dir_all(&merged)?;
        let mut command = Command::new(self.binary(target));
        // By edges alone: how often each is taken would keep hundreds of inputs.
        command.args(["-set_cover_merge=1", "-use_counters=0"]).arg(format!("-max_len={INPUT_BYTES_MAX}"));
        command.args([&merged, &corpus, &self.grown(target)]);
        let finished = step::run_quietly(target, &mut command, BUILD_TIME)?;
        if !finished.succeeded {
            bail!("the corpus of {target} cannot be merged");
        }
        for entry in fs::read_dir(&corpus)? {
            fs::remove_file(entry?.path())?;
        }
        for entry in fs::read_dir(&merged)? {
            let entry = entry?;
            fs::copy(entry.path(), corpus.join(entry.file_name()))?;
        }
        Ok(())
    }
}

fn table(all: &[Played]) -> String {
    let mut text = format!(
        "\n{:14} {:>12} {:>12} {:>18} {:>8}  found\n",
        "target", "executions", "a second", "edges", "inputs"
    );
    for Played { target, progress, reproducer } in all {
        let Progress { executions, per_second, edges_first, edges_last, inputs } = progress;
        let found = reproducer.as_ref().map_or("nothing".to_owned(), |file| file.display().to_string());
        let edges = format!("{edges_first} -> {edges_last}");
        text.push_str(&format!(
            "{target:14} {executions:>12} {per_second:>12} {edges:>18} {inputs:>8}  {found}\n"
        ));
    }
    text
}
