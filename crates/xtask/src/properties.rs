//! `cargo xtask properties`: the property tests with more cases, from a seed that nobody has tried.
//!
//! The tests that everybody runs start from one seed, [`SEED`]: what passes once passes again, and a change is judged by what it
//! changes. So somebody has to look elsewhere, and this is how. Rejected: a random seed in each run; it finds the same faults, but
//! in the work of whoever comes next. It does not know which tests state properties: the others merely run along.

use crate::{step, unit};
use anyhow::Result;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Read by `proptest`: from where the random numbers start.
const SEED_VARIABLE: &str = "PROPTEST_RNG_SEED";
/// Read by `proptest`: how often each property is tried.
const CASES_VARIABLE: &str = "PROPTEST_CASES";
/// Of the tests that everybody runs, if the environment names no other.
const SEED: &str = "1";
/// A bound for the tests of all packages, and somebody who asks for a great many cases.
const RUN_TIME: Duration = Duration::from_secs(4 * 3600);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How often each property is tried
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    cases: u32,
    /// From where the random numbers start; without it, one that the clock names
    #[arg(long)]
    seed: Option<u64>,
    /// Only the tests of these packages
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    package: Vec<String>,
    /// Only tests whose names have this in them
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// Runs them. True if no property was broken.
///
/// # Errors
/// If the tests cannot be started.
pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<bool> {
    let seed = arguments.seed.unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64)
    });
    let mut command = unit::by_hand(root, &arguments.package);
    command.env(SEED_VARIABLE, seed.to_string()).env(CASES_VARIABLE, arguments.cases.to_string());
    command.args(arguments.only.iter());
    println!("seed {seed}, {} cases of each property", arguments.cases);
    let finished = step::run("properties", &mut command, RUN_TIME)?;
    if !finished.succeeded {
        println!(
            "a case that broke a property is above, and in a file under proptest-regressions; \
             `cargo xtask properties --seed {seed} --cases {}` finds it again",
            arguments.cases
        );
    }
    Ok(finished.succeeded)
}

/// Makes a run of the tests repeatable, unless whoever runs them has chosen a seed.
pub(crate) fn from_one_seed(command: &mut Command) {
    if std::env::var_os(SEED_VARIABLE).is_none() {
        command.env(SEED_VARIABLE, SEED);
    }
}

#[cfg(test)]
mod tests {
    use super::{SEED, SEED_VARIABLE, from_one_seed};
    use std::process::Command;

    #[test]
    fn the_tests_of_a_check_start_from_one_seed() {
        let mut command = Command::new("true");
        from_one_seed(&mut command);
        let set = command.get_envs().find(|(name, _)| *name == SEED_VARIABLE).and_then(|(_, value)| value);
        let expected = std::env::var_os(SEED_VARIABLE).is_none().then(|| SEED.as_ref());
        assert_eq!(set, expected);
    }
}
