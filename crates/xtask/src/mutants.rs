//! `cargo xtask mutants`: each deliberate fault in core, and the rule of the simulator that sees it.
//!
//! One build with the feature `mutants` holds all of them; the binary is told which one to switch on. First it is shown that
//! the same build breaks no rule without one: a checker that always cries proves nothing. A panic is not a checker's finding.
//! Rejected: a run of the unit tests for each fault, which takes a build for each. It does not know what the rules are.

use crate::{check, step};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use vmpath_core::mutant::Mutant;
use vmpath_lab::report::{Bound, Report};

/// In worlds of several hosts each of them must be seen within fewer.
const HOSTS: &str = "3";
const SEEDS_OF_HOSTS: u64 = 400;

/// Of one mutant, or of the build without one: a simulator that is slower than this has another fault.
const RUN_TIME: Duration = Duration::from_secs(600);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Within so many seeds each of them must be seen; those that span hosts within 400
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// So many seeds must break no rule without any of them
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    healthy: u64,
    /// Only these
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    only: Vec<String>,
    /// Show what there is, and run nothing
    #[arg(long)]
    list: bool,
    /// Write the table as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// A vmpath that was built with the feature `mutants`; without it, one is built
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// Where a fault can be seen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Worlds {
    OneHost,
    Hosts,
}

impl Worlds {
    fn of(mutant: Mutant) -> Self {
        if mutant.spans_hosts() { Self::Hosts } else { Self::OneHost }
    }

    fn seeds_max(self) -> u64 {
        match self {
            Self::OneHost => u64::MAX,
            Self::Hosts => SEEDS_OF_HOSTS,
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::OneHost => &[],
            Self::Hosts => &["--hosts", HOSTS],
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::OneHost => "without a mutant",
            Self::Hosts => "hosts without a mutant",
        }
    }
}

/// What became of one mutant.
struct Row {
    mutant: Mutant,
    /// None: it survived.
    caught: Option<Caught>,
    /// Seeds played until then, those under way on other processors included.
    played: u64,
    took: Duration,
}

struct Caught {
    rule: String,
    seed: u64,
    text: String,
}

/// Shows that every fault is seen. True if it is.
///
/// # Errors
/// Nothing could be run.
pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<bool> {
    let chosen = choose(&arguments.only)?;
    if arguments.list {
        chosen.iter().for_each(|mutant| println!("{:24} {}", mutant.word(), what(*mutant)));
        return Ok(true);
    }
    let binary = match &arguments.binary {
        Some(binary) => binary.canonicalize().with_context(|| format!("there is no {}", binary.display()))?,
        None => check::build_mutants(root)?,
    };
    let folder = tempfile::Builder::new().prefix("vmpath-mutants-").tempdir()?;
    let mut report = Report::new();
    for worlds in [Worlds::OneHost, Worlds::Hosts] {
        if chosen.iter().any(|mutant| Worlds::of(*mutant) == worlds) {
            healthy(&binary, folder.path(), (worlds, arguments.healthy), &mut report)?;
        }
    }
    let mut rows = vec![];
    for mutant in chosen {
        let seeds = arguments.seeds.min(Worlds::of(mutant).seeds_max());
        let row = one(&binary, folder.path(), seeds, mutant)?;
        println!("{}", line(&row));
        judge(&mut report, &row, seeds);
        rows.push(row);
    }
    report.attach("mutants", &rows.iter().map(row_json).collect::<Vec<_>>());
    println!("\n{}", table(&rows));
    if let Some(file) = &arguments.report {
        report.write(file)?;
    }
    Ok(report.passed())
}

fn choose(only: &[String]) -> Result<Vec<Mutant>> {
    if only.is_empty() {
        return Ok(Mutant::ALL.to_vec());
    }
    let one = |word: &String| match Mutant::parse(word) {
        Some(mutant) => Ok(mutant),
        None => {
            let all: Vec<_> = Mutant::ALL.iter().map(|mutant| mutant.word()).collect();
            bail!("there is no mutant {word}; there are: {}", all.join(", "))
        }
    };
    only.iter().map(one).collect()
}

/// Without a mutant no rule is broken.
fn healthy(binary: &Path, folder: &Path, (worlds, seeds): (Worlds, u64), report: &mut Report) -> Result<()> {
    let (found, took) = simulate(binary, folder, (worlds, seeds), None)?;
    let (broken, word) = (violations(&found), worlds.word());
    println!("{word}: {seeds} seeds, {} rules broken, {:.1} s", broken.len(), took.as_secs_f64());
    let played = found["counts"]["seeds"].as_f64();
    report.check(&format!("seeds {word}"), played, Bound::AtLeast(seeds as f64), "seeds");
    let check =
        report.check(&format!("rules broken {word}"), broken.len() as f64, Bound::Equal(0.0), "rules");
    check.note = broken
        .iter()
        .map(|c| format!("{} at seed {}: {}", c.rule, c.seed, c.text))
        .collect::<Vec<_>>()
        .join("; ");
    Ok(())
}

fn one(binary: &Path, folder: &Path, seeds: u64, mutant: Mutant) -> Result<Row> {
    let (found, took) = simulate(binary, folder, (Worlds::of(mutant), seeds), Some(mutant))?;
    // It stops at the first seed that sees it; seeds that were under way on other processors may have seen it too.
    let caught = violations(&found).into_iter().filter(|c| c.rule != "panic").min_by_key(|c| c.seed);
    let played = found["counts"]["seeds"].as_u64().unwrap_or(u64::MAX);
    Ok(Row { mutant, caught, played, took })
}

/// Its report, and how long it took. The exit status says no more than the report.
fn simulate(
    binary: &Path,
    folder: &Path,
    (worlds, seeds): (Worlds, u64),
    mutant: Option<Mutant>,
) -> Result<(Value, Duration)> {
    let file = folder.join(format!("{}.json", mutant.map_or("healthy", Mutant::word)));
    let mut command = Command::new(binary);
    command.arg("simulate").args(worlds.arguments());
    command.args(["--seeds", &seeds.to_string(), "--report"]).arg(&file);
    if let Some(mutant) = mutant {
        command.args(["--mutant", mutant.word()]);
    }
    let began = Instant::now();
    let name = mutant.map_or(worlds.word(), Mutant::word);
    let finished = step::run_quietly(name, &mut command, RUN_TIME)?;
    let text = fs::read_to_string(&file)
        .with_context(|| format!("{name}: the simulator wrote no report\n{}", finished.output))?;
    Ok((serde_json::from_str(&text)?, began.elapsed()))
}

fn violations(report: &Value) -> Vec<Caught> {
    let rows = report["violations"].as_array().into_iter().flatten();
    let one = |row: &Value| {
        Some(Caught {
            rule: row["rule"].as_str()?.to_owned(),
            seed: row["seed"].as_u64()?,
            text: row["text"].as_str().unwrap_or_default().to_owned(),
        })
    };
    rows.filter_map(one).collect()
}

fn judge(report: &mut Report, row: &Row, seeds: u64) {
    // The seeds that once found a fault are played first, so the number of the seed says nothing of how many there were.
    let played = row.caught.as_ref().map(|_| row.played as f64);
    let check = report.check(row.mutant.word(), played, Bound::AtMost(seeds as f64), "seeds");
    check.note = match &row.caught {
        Some(caught) => format!("{}: {}", caught.rule, caught.text),
        None => format!("nobody noticed: {}", what(row.mutant)),
    };
}

fn row_json(row: &Row) -> Value {
    json!({
        "mutant": row.mutant.word(),
        "what": what(row.mutant),
        "rule": row.caught.as_ref().map(|c| &c.rule),
        "seed": row.caught.as_ref().map(|c| c.seed),
        "seeds_played": row.played,
        "text": row.caught.as_ref().map(|c| &c.text),
        "seconds": row.took.as_secs_f64(),
    })
}

fn what(mutant: Mutant) -> &'static str {
    mutant.what().trim()
}

fn line(row: &Row) -> String {
    let seconds = row.took.as_secs_f64();
    match &row.caught {
        Some(c) => {
            format!("  {:24} {} at seed {} ({seconds:.1} s): {}", row.mutant.word(), c.rule, c.seed, c.text)
        }
        None => format!("  {:24} SURVIVED ({seconds:.1} s)", row.mutant.word()),
    }
}

fn table(rows: &[Row]) -> String {
    let mut out =
        format!("{:24} {:18} {:>6} {:>8}  {}\n", "mutant", "caught by", "seed", "seconds", "what is wrong");
    for row in rows {
        let (rule, seed) = match &row.caught {
            Some(caught) => (caught.rule.as_str(), caught.seed.to_string()),
            None => ("SURVIVED", "-".to_owned()),
        };
        let (word, seconds) = (row.mutant.word(), row.took.as_secs_f64());
        out.push_str(&format!("{word:24} {rule:18} {seed:>6} {seconds:>8.1}  {}\n", what(row.mutant)));
    }
    let survived = rows.iter().filter(|row| row.caught.is_none()).count();
    out.push_str(&format!("{} mutants, {survived} survived\n", rows.len()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(violations: &Value) -> Row {
        let report = json!({ "violations": violations });
        let caught =
            super::violations(&report).into_iter().filter(|c| c.rule != "panic").min_by_key(|c| c.seed);
        Row { mutant: Mutant::NoQuarantine, caught, played: 7, took: Duration::from_millis(1500) }
    }

    #[test]
    fn one_that_survives_fails_the_report() {
        let mut report = Report::new();
        judge(&mut report, &row(&json!([{ "rule": "ghost", "seed": 7, "text": "block 3" }])), 1000);
        assert!(report.passed());
        judge(&mut report, &row(&json!([])), 1000);
        assert!(!report.passed());
    }

    #[test]
    fn a_panic_is_no_finding_and_the_first_seed_counts() {
        assert!(row(&json!([{ "rule": "panic", "seed": 1, "text": "" }])).caught.is_none());
        let two = json!([{ "rule": "b", "seed": 9, "text": "" }, { "rule": "a", "seed": 12, "text": "" }]);
        assert_eq!(row(&two).caught.map(|c| (c.rule, c.seed)), Some(("b".to_owned(), 9)));
    }

    #[test]
    fn every_mutant_is_known_by_its_word() {
        for mutant in Mutant::ALL {
            assert_eq!(Mutant::parse(mutant.word()), Some(*mutant));
            assert!(what(*mutant).ends_with('.'), "{}", mutant.word());
        }
        assert!(choose(&["no-such".to_owned()]).is_err());
    }
}
