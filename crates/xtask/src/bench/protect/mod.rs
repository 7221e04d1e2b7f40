//! `cargo xtask bench protect`: whom the loss of half of the bandwidth costs, with the VM-aware scheduler and without.
//!
//! The real daemon before the lab's array with two capped portals; gold, silver, bronze and twenty noisy VMs ([`load`]);
//! five phases ([`phase`]). In each round every contestant plays all phases with a daemon of its own, in turn, so that
//! what the machine does meanwhile falls on all. Nothing is pinned.
//! It does not know the daemon's inside: it uses the binary, the configuration and the API.

mod figures;
mod ground;
mod judge;
mod load;
mod phase;
mod plot;
mod svg;
mod tables;
mod turn;

use anyhow::{Context, Result, bail};
use figures::Turn;
use judge::Findings;
use load::{CONTESTANTS, Contestant};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use turn::Storage;
use vmpath_lab::report::Report;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Arguments {
    /// Write the checks, the load, every figure of every turn and the curves as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write plots as SVG files into this directory
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only these contestants: vmpath, round-robin, queue-length, service-time. What needs another one is then not
    /// measured, which fails its check
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    only: Vec<String>,
    /// Length of each of the five phases; the first second of each is left out of steady figures
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    /// The vmpath to measure; without it, a release build is made
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (2.0..=600.0).contains(&value) { Ok(value) } else { Err("2 to 600".to_owned()) }
}

/// # Errors
/// Something cannot be started, or a file not be written.
pub(super) fn run(root: &Path, arguments: &Arguments) -> Result<bool> {
    let contestants = choose(&arguments.only)?;
    super::hop::obstacle()?;
    let binary = match &arguments.binary {
        Some(binary) => binary.canonicalize().with_context(|| format!("there is no {}", binary.display()))?,
        None => crate::check::build_release(root)?,
    };
    let dir = tempfile::Builder::new().prefix("vmpath-bench-").tempdir()?;
    let outcome = measure(&binary, dir.path(), arguments, &contestants);
    if outcome.as_ref().map_or(true, |found| !found.failures.is_empty()) {
        eprintln!("logs are kept in {}", dir.keep().display());
    }
    let found = outcome?;
    let mut report = Report::new();
    judge::judge(&mut report, &found);
    report.attach("conditions", &conditions(arguments));
    report.attach("ground", &found.ground);
    report.attach("medians", &tables::medians(&found.turns));
    report.attach("turns", &found.turns);
    print!("{}", tables::tables(&found));
    println!("Numbers asked for, of vmpath:");
    print!("{}", report.table());
    if let Some(file) = &arguments.report {
        report.write(file)?;
    }
    if let Some(dir) = &arguments.plots {
        draw(dir, &found.turns)?;
    }
    Ok(report.passed())
}

fn choose(only: &[String]) -> Result<Vec<Contestant>> {
    let names = CONTESTANTS.map(|contestant| contestant.name);
    if let Some(unknown) = only.iter().find(|name| !names.contains(&name.as_str())) {
        bail!("there is no contestant {unknown}; there are {}", names.join(", "));
    }
    let takes = |one: &Contestant| only.is_empty() || only.iter().any(|name| name == one.name);
    Ok(CONTESTANTS.into_iter().filter(takes).collect())
}

/// What a reader of the numbers must know of the load and of the machine.
fn conditions(arguments: &Arguments) -> serde_json::Value {
    let dir = Path::new("DIR");
    let urls = load::PATHS.map(|path| format!("nbd://PORTAL-{path}"));
    let configs = CONTESTANTS.map(|one| (one.name.to_owned(), load::config(one, dir, &urls).into()));
    json!({
        "machine": super::process::machine(),
        "rounds": arguments.rounds,
        "phase_seconds": arguments.seconds,
        "path_capacity_bytes_per_second": load::CAPACITY,
        "request_bytes": load::REQUEST,
        "open_at_most_ms_of_one_path": load::open_ms(),
        "vms": load::vms(),
        "configs": serde_json::Map::from_iter(configs),
    })
}

/// A turn that fails is told, and counts as a failure; the others go on.
fn measure(binary: &Path, dir: &Path, arguments: &Arguments, contestants: &[Contestant]) -> Result<Findings> {
    let began = Instant::now();
    let each = Duration::from_secs_f64(arguments.seconds);
    let mut storage = Storage::start(binary, dir)?;
    let mut found = Findings { ground: ground::measure(&storage)?, ..Findings::default() };
    for ground in &found.ground {
        let [measured, capacity] = [ground.measured, ground.capacity].map(|bytes| bytes / tables::MIB);
        eprintln!("portal {}: {measured:.2} of {capacity:.0} MiB/s", ground.portal);
    }
    let mut order = contestants.to_vec();
    for round in 1..=arguments.rounds {
        for contestant in &order {
            let here = dir.join(format!("{round}-{}", contestant.name));
            let head = format!("[{round}/{}] {:4.0} s", arguments.rounds, began.elapsed().as_secs_f64());
            match turn::play(&mut storage, binary, &here, *contestant, each) {
                Ok(seen) => {
                    let turn = Turn::of(round, contestant.name, seen);
                    eprintln!("{head}  {}", tables::said(&turn));
                    found.turns.push(turn);
                }
                Err(why) => {
                    eprintln!("{head}  {}: {why:#}", contestant.name);
                    found.failures.push(format!("round {round}, {}: {why:#}", contestant.name));
                }
            }
        }
        order.rotate_left(1);
    }
    Ok(found)
}

/// The curves of the first round, and latencies of all.
fn draw(dir: &Path, turns: &[Turn]) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let first = turns.iter().filter(|turn| turn.round == 1);
    let curves = first.map(|turn| (format!("protect-{}.svg", turn.contestant), plot::throughput(turn)));
    for (name, text) in curves.chain([("protect-latency.svg".to_owned(), plot::latency(turns))]) {
        let file = dir.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        eprintln!("{}", file.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_narrows_the_field_and_a_wrong_name_is_told_the_right_ones() {
        assert_eq!(choose(&[]).expect("all").len(), 4);
        assert_eq!(choose(&["vmpath".to_owned(), "round-robin".to_owned()]).expect("two").len(), 2);
        assert!(choose(&["nobody".to_owned()]).expect_err("unknown").to_string().contains("queue-length"));
    }
}
