//! What more disks cost: the same 20 000 requests a second on 1, 10 and 100 disks of one daemon; then nothing at all.

use super::client::{self, Extent, Fleet, Poll, Seen};
use super::contestant::FrontEnd;
use super::daemon::{self, Disks};
use super::process::{self, Memory};
use super::scene::{self, Scene};
use super::workload::{Pattern, Workload};
use crate::e2e::server::Server;
use anyhow::{Context, Result};
use serde::Serialize;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

/// Requests a second, of all disks together.
const IOPS: u32 = 20_000;
pub(super) const COUNTS: [usize; 3] = [1, 10, 100];
/// How long an idle daemon is watched.
const IDLE: Duration = Duration::from_secs(10);
/// Of each disk; they are many, and all are the same one.
const BYTES: u64 = 64 << 20;
/// Of the target's threads for each of its connections, which are two for each disk and path.
const TARGET: &[&str] = &["--threads", "2"];
/// Requests that may be open, of all disks together; of each disk at least one.
const DEPTH: usize = 32;

fn workload(disks: usize) -> Workload {
    Workload {
        name: "disks",
        about: "4 KiB random read, 20k IOPS in all",
        pattern: Pattern::RandomRead,
        block: 4096,
        depth: u32::try_from(DEPTH / disks).unwrap_or(1).max(1),
    }
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Findings {
    pub(super) rows: Vec<Row>,
    pub(super) daemons: Vec<Quiet>,
}

/// One measurement under load.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Row {
    pub(super) round: u32,
    pub(super) front_end: &'static str,
    pub(super) disks: usize,
    pub(super) iops: f64,
    pub(super) latency_us: f64,
    pub(super) cpu_us: f64,
}

/// One daemon after its load.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Quiet {
    pub(super) front_end: &'static str,
    pub(super) disks: usize,
    /// Part of one core.
    pub(super) idle_cpu: f64,
    pub(super) anonymous_bytes: u64,
}

/// The front ends' names in findings.
pub(super) const NBD: &str = "nbd";
pub(super) const VHOST: &str = "vhost-user";

struct Subject {
    front_end: FrontEnd,
    label: &'static str,
    count: usize,
    sockets: Vec<PathBuf>,
    daemon: Server,
}

/// # Errors
/// A daemon cannot be started or loaded.
pub(super) fn measure(scene: &Scene, rounds: u32, span: Duration) -> Result<Findings> {
    let mut found = Findings::default();
    for (front_end, label) in [(FrontEnd::Nbd, NBD), (FrontEnd::VhostUser, VHOST)] {
        if let Err(why) = measure_front_end(scene, (front_end, label), (rounds, span), &mut found) {
            println!("   disks over {label}: not measured: {why:#}");
        }
    }
    Ok(found)
}

fn measure_front_end(
    scene: &Scene,
    (front_end, label): (FrontEnd, &'static str),
    (rounds, span): (u32, Duration),
    found: &mut Findings,
) -> Result<()> {
    let (target, _storage) = scene::nbdkit(&scene.dir, &format!("many-{label}"), TARGET, BYTES)?;
    let start = |count: usize| -> Result<Subject> {
        let name = format!("disks-{label}-{count}");
        let disks = Disks { count, paths: 2, front_end };
        let daemon = daemon::start(&name, scene, &target, &disks)?;
        let sockets = (0..count).map(|disk| daemon::disk_socket(scene, &name, disk)).collect();
        Ok(Subject { front_end, label, count, sockets, daemon })
    };
    let mut subjects = COUNTS.into_iter().map(start).collect::<Result<Vec<_>>>()?;
    for round in 1..=rounds {
        for subject in &mut subjects {
            let row = Row { round, ..under_load(scene, subject, span)? };
            println!(
                "   [{round}/{rounds}] {:3} disks over {label}: {:.0} IOPS, {:.1} us, {:.2} us of CPU each",
                row.disks, row.iops, row.latency_us, row.cpu_us
            );
            found.rows.push(row);
        }
        subjects.rotate_left(1);
    }
    for subject in subjects {
        found.daemons.push(at_rest(scene, &subject)?);
    }
    Ok(())
}

fn under_load(scene: &Scene, subject: &mut Subject, span: Duration) -> Result<Row> {
    let extent = Extent { bytes: BYTES, span, poll: Poll::Event };
    let workload = workload(subject.count);
    let fleet = Fleet { workload: &workload, extent, iops: IOPS };
    let pid = subject.daemon.id();
    let outcome = match subject.front_end {
        FrontEnd::Nbd => client::fio_fleet(&subject.sockets, &fleet, pid),
        FrontEnd::VhostUser => client::lab_fleet(&scene.binary, &subject.sockets, &fleet, pid),
    };
    let Seen { iops, latency_us, cpu_us } = outcome
        .with_context(|| format!("{} disks; the daemon's log:\n{}", subject.count, subject.daemon.log()))?;
    let cpu_us = cpu_us.context("the client has not told what the daemon costs")?;
    Ok(Row { round: 0, front_end: subject.label, disks: subject.count, iops, latency_us, cpu_us })
}

/// As good as nobody asks anything of the daemon; it looks after its paths.
fn at_rest(scene: &Scene, subject: &Subject) -> Result<Quiet> {
    let pid = subject.daemon.id();
    let idle_cpu = match subject.front_end {
        FrontEnd::Nbd => alone(pid)?,
        FrontEnd::VhostUser => attached(scene, subject, pid)?,
    };
    let Memory { anonymous, .. } = process::memory(pid)?;
    let quiet =
        Quiet { front_end: subject.label, disks: subject.count, idle_cpu, anonymous_bytes: anonymous };
    println!(
        "   {:3} disks over {}, idle: {:.2} % of a core, {:.1} MiB",
        quiet.disks,
        quiet.front_end,
        idle_cpu * 100.0,
        anonymous as f64 / f64::from(1 << 20)
    );
    Ok(quiet)
}

/// Without clients.
fn alone(pid: u32) -> Result<f64> {
    let (before, began) = (process::cpu_time(pid)?, Instant::now());
    thread::sleep(IDLE);
    let used = process::cpu_time(pid)?.saturating_sub(before);
    Ok(used.as_secs_f64() / began.elapsed().as_secs_f64())
}

/// Every disk has its driver, and all of them together send one request a second: what the client says that a request
/// costs is what a second costs.
fn attached(scene: &Scene, subject: &Subject, pid: u32) -> Result<f64> {
    let extent = Extent { bytes: BYTES, span: IDLE, poll: Poll::Event };
    let workload = workload(subject.count);
    let fleet = Fleet { workload: &workload, extent, iops: 1 };
    let seen = client::lab_fleet(&scene.binary, &subject.sockets, &fleet, pid)?;
    let each = seen.cpu_us.context("the client has not told what the daemon costs")?;
    Ok(each * seen.iops / 1e6)
}
