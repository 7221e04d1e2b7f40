//! `cargo xtask e2e`: real guests, a real storage server, the real daemon, and a network of their own that fails.
//!
//! A scenario measures and checks; it never stops at a failed check, only where it cannot go on. What the daemon says
//! of itself is compared with what the guest saw and what QEMU says.
//! It does not know the daemon's inside: it uses the binary, the configuration and the API.

pub(crate) mod api;
mod cables;
mod ground;
pub(crate) mod host;
mod hosts;
mod isolate;
pub(crate) mod network;
mod rawclient;
mod scenario;
pub(crate) mod server;
pub(crate) mod stage;
pub(crate) mod standin;
pub(crate) mod storage;
pub(crate) mod vm;

use anyhow::{Context, Result, bail};
pub(crate) use ground::{Ground, Subject};
use scenario::{ALL, Scenario};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vmpath_lab::guest::{FrontEnd, Kernel};
use vmpath_lab::report::{Report, Truth};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only these scenarios, by name; `NAME` that is none stands for all that begin with `NAME-`
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    only: Vec<String>,
    /// Run each scenario over these front ends, where it makes sense; without it, over its own choice
    #[arg(long, value_delimiter = ',', value_enum, value_name = "FRONT-END,…")]
    front_end: Vec<FrontEnd>,
    /// Write the checks and the timelines as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Show what there is, and run nothing
    #[arg(long)]
    list: bool,
    /// The vmpath to test; without it, a release build is made
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// The same with deliberate faults compiled in; without it, it is built if a scenario asks for it
    #[arg(long, value_name = "FILE")]
    mutants: Option<PathBuf>,
    /// How long to wait for what must not happen (stall), instead of some seconds
    #[arg(long, value_name = "M")]
    minutes: Option<f64>,
    /// We are in the run's own namespaces
    #[arg(long, hide = true)]
    inside: bool,
}

/// Of those that run without being asked for.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().filter(|s| !s.by_name).map(|s| s.name)
}

/// A scenario over one front end.
#[derive(Clone, Copy)]
struct Part {
    scenario: &'static Scenario,
    front_end: FrontEnd,
}

impl Part {
    /// In reports, and of its folder.
    fn name(self) -> String {
        match self.front_end {
            FrontEnd::Nbd => self.scenario.name.to_owned(),
            FrontEnd::VhostUser => format!("{}-vhost", self.scenario.name),
        }
    }
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
    let chosen = choose(arguments)?;
    if arguments.list {
        chosen.iter().for_each(|part| println!("{:18} {}", part.name(), part.scenario.about));
        return Ok(true);
    }
    let binary = match &arguments.binary {
        Some(binary) => binary.canonicalize().with_context(|| format!("there is no {}", binary.display()))?,
        None => crate::check::build_release(root)?,
    };
    let naive = chosen.iter().any(|part| part.scenario.naive_too);
    let mutants = match &arguments.mutants {
        Some(file) => Some(file.canonicalize().with_context(|| format!("there is no {}", file.display()))?),
        None if naive => Some(crate::check::build_mutants(root)?),
        None => None,
    };
    if !arguments.inside {
        return outside(&binary, mutants.as_deref(), arguments);
    }
    let patience = arguments.minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    inside(Ground::new(root, Subject { binary, mutants, patience })?, &chosen, arguments)
}

/// What is asked for, over the front ends that are asked for.
fn choose(arguments: &Arguments) -> Result<Vec<Part>> {
    let only = &arguments.only;
    if let Some(unknown) = only.iter().find(|word| ALL.iter().all(|s| !is_meant(word, s))) {
        let all: Vec<&str> = ALL.iter().map(|s| s.name).collect();
        bail!("there is no scenario {unknown}; there are: {}", all.join(", "));
    }
    let wanted = |scenario: &&Scenario| {
        let asked = only.iter().any(|word| is_meant(word, scenario));
        asked || only.is_empty() && (!scenario.by_name || arguments.list)
    };
    let over = |scenario: &'static Scenario| {
        let asked = &arguments.front_end;
        let all = if asked.is_empty() { scenario.over.by_default() } else { asked };
        let parts = all.iter().filter(|f| scenario.over.allows(**f));
        parts.map(|front_end| Part { scenario, front_end: *front_end }).collect::<Vec<_>>()
    };
    Ok(ALL.iter().filter(wanted).flat_map(over).collect())
}

/// Whether `--only WORD` asks for it: by its name, or by that of its family.
fn is_meant(word: &str, scenario: &Scenario) -> bool {
    let is_name = ALL.iter().any(|s| s.name == word);
    let of_family = || scenario.name.strip_prefix(word).is_some_and(|rest| rest.starts_with('-'));
    scenario.name == word || !is_name && of_family()
}

/// Starts ourselves again in namespaces of our own.
fn outside(binary: &Path, mutants: Option<&Path>, arguments: &Arguments) -> Result<bool> {
    if let Some(why) = obstacle() {
        bail!(why);
    }
    let mut words: Vec<std::ffi::OsString> = ["e2e", "--inside", "--binary"].map(Into::into).to_vec();
    words.push(binary.into());
    if let Some(mutants) = mutants {
        words.extend(["--mutants".into(), mutants.into()]);
    }
    if let Some(minutes) = arguments.minutes {
        words.extend(["--minutes".into(), minutes.to_string().into()]);
    }
    if !arguments.only.is_empty() {
        words.extend(["--only".into(), arguments.only.join(",").into()]);
    }
    for front_end in arguments.front_end.iter().filter_map(clap::ValueEnum::to_possible_value) {
        words.extend(["--front-end".into(), front_end.get_name().into()]);
    }
    if let Some(report) = &arguments.report {
        words.extend(["--report".into(), std::path::absolute(report)?.into()]);
    }
    in_rooms(&words)
}

/// Starts this program again with `words`, in namespaces of its own. Whether it ended well.
///
/// # Errors
/// Namespaces cannot be made here.
pub(crate) fn in_rooms(words: &[std::ffi::OsString]) -> Result<bool> {
    let words: Vec<&std::ffi::OsStr> = words.iter().map(AsRef::as_ref).collect();
    Ok(isolate::run(&words)?.success())
}

fn inside(ground: Ground, chosen: &[Part], arguments: &Arguments) -> Result<bool> {
    let mut all = Report::new();
    let mut took = Vec::new();
    for (number, &part) in chosen.iter().enumerate() {
        let name = part.name();
        println!("== e2e {}/{} {name}: {}", number + 1, chosen.len(), part.scenario.about);
        let began = Instant::now();
        let report = play(part, &ground);
        print!("{}", report.table());
        println!("== {name}: {}, {:.1} s", word(report.passed()), began.elapsed().as_secs_f64());
        all.absorb(&name, report);
        took.push((name, began.elapsed().as_secs_f64()));
    }
    all.attach("seconds", &took.into_iter().collect::<std::collections::BTreeMap<_, _>>());
    let failed = all.checks().iter().filter(|check| !check.passed()).count();
    println!("e2e: {}, {} checks, {failed} failed", word(all.passed()), all.checks().len());
    if let Some(report) = &arguments.report {
        all.write(report)?;
    }
    if all.passed() {
        ground.leave()?;
    } else {
        ground.leave_logs()?;
    }
    Ok(all.passed())
}

/// One scenario; whatever stops it becomes a failed check.
fn play(part: Part, ground: &Ground) -> Report {
    let Part { scenario, front_end } = part;
    let mut stage = match ground.stage(&part.name(), front_end, scenario.bound) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn chosen(line: &str) -> Vec<String> {
        let command = Command::parse_from(line.split_whitespace());
        choose(&command.arguments).expect("names that are there").into_iter().map(Part::name).collect()
    }

    #[test]
    fn a_scenario_runs_over_its_own_front_ends_or_over_those_that_are_asked_for() {
        assert_eq!(chosen("e2e --only reset,hang,tools"), ["reset", "reset-vhost", "hang", "tools"]);
        assert_eq!(
            chosen("e2e --only reset,hang,tools --front-end vhost-user"),
            ["reset-vhost", "hang-vhost"]
        );
        assert_eq!(chosen("e2e --only restart,suspend-open"), ["restart-vhost", "suspend-open-vhost"]);
        assert!(chosen("e2e --only restart --front-end nbd").is_empty());
    }

    #[test]
    fn a_family_is_asked_for_by_what_its_names_begin_with() {
        assert_eq!(chosen("e2e --only ghost"), ["ghost-vhost"], "a scenario's own name is no family's");
        let family = chosen("e2e --only migrate");
        assert!(family.len() > 5 && family.iter().all(|name| name.starts_with("migrate-")), "{family:?}");
        let rare: Vec<_> = ALL.iter().filter(|s| s.by_name).map(|s| s.name).collect();
        assert!(!rare.is_empty());
        assert!(chosen("e2e").iter().all(|name| rare.iter().all(|rare| !name.starts_with(rare))));
    }
}
