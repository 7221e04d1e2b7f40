//! `cargo xtask bench hop`: round after round, every contestant in turn on every workload.
//!
//! The contestants stand ready all the time, idle but for the one that is measured. The turn begins with another one in
//! each round, so that none is always the first after a change of the workload.

use super::client::{Extent, Poll, Seen};
use super::contestant::{self, Contestant, Ready};
use super::process::{self, Memory};
use super::scene::Scene;
use super::workload::{self, Workload};
use super::{disks, judge};
use crate::e2e::server::Server;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use vmpath_lab::report::Report;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Arguments {
    /// Write the checks and all measurements as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only these contestants, workloads, or `disks`, by name; a wrong name lists them
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    only: Vec<String>,
    /// Length of each measurement, after half a second of warm-up
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// How the vhost-user-blk client waits for completions
    #[arg(long, value_enum, default_value_t = Poll::Event)]
    poll: Poll,
    /// The vmpath to measure; without it, a release build is made
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// The cost of more disks, as `--only` names it.
const DISKS: &str = "disks";

fn seconds(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.2..=600.0).contains(&value) { Ok(value) } else { Err("0.2 to 600".to_owned()) }
}

/// One measurement.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Row {
    pub(super) round: u32,
    pub(super) workload: &'static str,
    pub(super) contestant: &'static str,
    pub(super) iops: f64,
    pub(super) latency_us: f64,
    /// Of the hop's process, for each request; none without a hop.
    pub(super) cpu_us: Option<f64>,
}

/// A hop's memory when everything has been measured.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Footprint {
    pub(super) contestant: &'static str,
    pub(super) resident_bytes: u64,
    pub(super) anonymous_bytes: u64,
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) rows: Vec<Row>,
    pub(super) footprints: Vec<Footprint>,
    /// Contestants that did not start, or failed under load, and why.
    pub(super) failures: Vec<String>,
    pub(super) disks: Option<disks::Findings>,
}

/// What `--only` leaves.
struct Choice {
    contestants: Vec<Contestant>,
    workloads: Vec<Workload>,
    disks: bool,
}

/// # Errors
/// Something cannot be started or measured.
pub(super) fn run(root: &Path, arguments: &Arguments) -> Result<bool> {
    let choice = choose(&arguments.only)?;
    obstacle()?;
    let binary = match &arguments.binary {
        Some(binary) => binary.canonicalize().with_context(|| format!("there is no {}", binary.display()))?,
        None => crate::check::build_release(root)?,
    };
    let dir = tempfile::Builder::new().prefix("vmpath-bench-").tempdir()?;
    let outcome = measure(&binary, dir.path(), arguments, &choice);
    if outcome.is_err() {
        println!("logs and sockets are kept in {}", dir.keep().display());
    }
    let found = outcome?;
    let mut report = Report::new();
    judge::judge(&mut report, &found);
    report.attach("conditions", &conditions(arguments));
    print!("{}", judge::tables(&found));
    println!("Numbers asked for:");
    print!("{}", report.table());
    if let Some(file) = &arguments.report {
        report.write(file)?;
    }
    Ok(report.passed())
}

/// What a reader of the numbers must know of the machine. The load is of the last minutes, ours included: above the
/// number of contestants that run at a time, which is a client, a hop and a target, others have disturbed.
fn conditions(arguments: &Arguments) -> serde_json::Value {
    let peer = Command::new("qemu-storage-daemon").arg("--version").output();
    let peer = peer.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let mut conditions = process::machine();
    conditions["peer"] = peer.lines().next().unwrap_or_default().into();
    conditions["rounds"] = arguments.rounds.into();
    conditions["seconds"] = arguments.seconds.into();
    conditions["vhost_user_client_waits"] = format!("{:?}", arguments.poll).to_lowercase().into();
    conditions
}

/// # Errors
/// Packages are lacking.
pub(super) fn obstacle() -> Result<()> {
    let lacking = crate::packages::lacking();
    if !lacking.is_empty() {
        bail!("packages are lacking; `{}` adds them", crate::packages::line(&lacking));
    }
    Ok(())
}

fn choose(only: &[String]) -> Result<Choice> {
    let contestants: Vec<&str> = contestant::ALL.iter().map(|c| c.name).collect();
    let workloads: Vec<&str> = workload::ALL.iter().map(|w| w.name).collect();
    let known = |name: &&String| {
        name.as_str() == DISKS || contestants.contains(&name.as_str()) || workloads.contains(&name.as_str())
    };
    if let Some(unknown) = only.iter().find(|name| !known(name)) {
        bail!(
            "there is no {unknown}; there are the contestants {}, the workloads {}, and {DISKS}",
            contestants.join(", "),
            workloads.join(", ")
        );
    }
    let names = |all: &[&str]| only.iter().any(|name| all.contains(&name.as_str()));
    let named = |name: &str| only.iter().any(|n| n == name);
    let rounds = only.is_empty() || names(&contestants) || names(&workloads);
    let takes = |all: &[&str], name: &str| rounds && (!names(all) || named(name));
    Ok(Choice {
        contestants: contestant::ALL.iter().copied().filter(|c| takes(&contestants, c.name)).collect(),
        workloads: workload::ALL.iter().copied().filter(|w| takes(&workloads, w.name)).collect(),
        disks: only.is_empty() || named(DISKS),
    })
}

fn measure(binary: &Path, dir: &Path, arguments: &Arguments, choice: &Choice) -> Result<Findings> {
    let mut found = Findings::default();
    let span = Duration::from_secs_f64(arguments.seconds);
    let mut scene = Scene::set(binary, dir)?;
    if !choice.contestants.is_empty() {
        let extent = Extent { bytes: scene.bytes, span, poll: arguments.poll };
        rounds(&mut scene, (arguments.rounds, extent), choice, &mut found)?;
    }
    if choice.disks {
        found.disks = Some(disks::measure(&scene, arguments.rounds, span)?);
    }
    Ok(found)
}

/// A contestant that fails leaves the field; the others go on.
fn rounds(
    scene: &mut Scene,
    (rounds, extent): (u32, Extent),
    choice: &Choice,
    found: &mut Findings,
) -> Result<()> {
    let mut ready = Vec::new();
    for contestant in &choice.contestants {
        match contestant.start(scene) {
            Ok(one) => ready.push(one),
            Err(why) => fail(found, format!("{} does not start: {why:#}", contestant.name)),
        }
    }
    println!("{} contestants are ready", ready.len());
    for round in 1..=rounds {
        for workload in &choice.workloads {
            ready.retain_mut(|one| match one_measurement(one, workload, extent) {
                Ok(row) => {
                    found.rows.push(Row { round, ..row });
                    println!("   {}", said(found.rows.last(), rounds));
                    true
                }
                Err(why) => {
                    fail(found, format!("{why:#}"));
                    false
                }
            });
            scene.check_alive()?;
        }
        if !ready.is_empty() {
            ready.rotate_left(1);
        }
    }
    found.footprints = ready.iter().filter_map(footprint).collect();
    Ok(())
}

fn fail(found: &mut Findings, why: String) {
    println!("   {why}");
    found.failures.push(why);
}

fn one_measurement(one: &mut Ready, workload: &Workload, extent: Extent) -> Result<Row> {
    let contestant = one.contestant.name;
    let pid = one.hop.as_ref().map(Server::id);
    let outcome = one.client.run(workload, extent, pid);
    if let Some(hop) = &mut one.hop {
        hop.check_alive().with_context(|| format!("{contestant}; its log:\n{}", hop.log()))?;
    }
    let Seen { iops, latency_us, cpu_us } =
        outcome.with_context(|| format!("{contestant}, {}", workload.about))?;
    Ok(Row { round: 0, workload: workload.name, contestant, iops, latency_us, cpu_us })
}

fn said(row: Option<&Row>, rounds: u32) -> String {
    let Some(row) = row else { return String::new() };
    let cpu = row.cpu_us.map(|us| format!(", {us:.2} us of the hop's CPU each")).unwrap_or_default();
    format!(
        "[{}/{rounds}] {:12} {:14} {:8.0} IOPS, {:.1} us{cpu}",
        row.round, row.workload, row.contestant, row.iops, row.latency_us
    )
}

fn footprint(ready: &Ready) -> Option<Footprint> {
    let Memory { resident, anonymous } = process::memory(ready.hop.as_ref()?.id()).ok()?;
    Some(Footprint {
        contestant: ready.contestant.name,
        resident_bytes: resident,
        anonymous_bytes: anonymous,
    })
}

#[cfg(test)]
mod tests {
    use super::super::contestant::{FrontEnd, Hop};
    use super::*;

    fn chosen(only: &[&str]) -> (usize, usize, bool) {
        let only: Vec<String> = only.iter().map(|&name| name.to_owned()).collect();
        let choice = choose(&only).expect("names that are there");
        (choice.contestants.len(), choice.workloads.len(), choice.disks)
    }

    #[test]
    fn only_narrows_what_it_names_and_leaves_the_rest_whole() {
        let (contestants, workloads) = (contestant::ALL.len(), workload::ALL.len());
        assert_eq!(chosen(&[]), (contestants, workloads, true));
        assert_eq!(chosen(&["peer-nbd"]), (1, workloads, false));
        assert_eq!(chosen(&["4k-read-1", "4k-read-32"]), (contestants, 2, false));
        assert_eq!(chosen(&["direct", "4k-read-1", "disks"]), (1, 1, true));
        assert_eq!(chosen(&["disks"]), (0, 0, true));
        assert!(choose(&["nobody".to_owned()]).is_err());
    }

    #[test]
    fn every_front_end_has_a_peer_ours_and_a_ceiling() {
        for front_end in [FrontEnd::Nbd, FrontEnd::VhostUser] {
            for hop in [Hop::Peer, Hop::Null, Hop::Vmpath { paths: 1 }, Hop::Vmpath { paths: 2 }] {
                assert!(contestant::ALL.iter().any(|c| (c.front_end, c.hop) == (front_end, hop)));
            }
        }
    }
}
