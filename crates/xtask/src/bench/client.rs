//! Who asks: fio's nbd engine, and the lab's vhost-user-blk client. Each first warms up, then measures.
//!
//! It does not know whom it asks.

use super::process;
use super::workload::Workload;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const WARM_UP: Duration = Duration::from_millis(500);
/// Beyond what a client was told to take; fio may ignore SIGTERM.
const GRACE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
pub(super) enum Client {
    Fio { uri: String },
    Lab { program: PathBuf, socket: PathBuf },
}

/// What a client saw of one workload.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Seen {
    /// Requests completed a second while it measured.
    pub(super) iops: f64,
    /// Mean time of a request, microseconds.
    pub(super) latency_us: f64,
    /// What each request has cost the hop's process, microseconds of a processor; none without a hop.
    pub(super) cpu_us: Option<f64>,
}

/// How the vhost-user-blk client waits for completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Poll {
    /// It sleeps until the device interrupts, as a guest does.
    Event,
    /// It looks at the ring all the time.
    Busy,
}

/// How much of a workload, and how fast.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// Bytes of the disk.
    pub(super) bytes: u64,
    pub(super) span: Duration,
    pub(super) poll: Poll,
}

impl Client {
    pub(super) fn fio(socket: &Path, export: &str) -> Self {
        Self::Fio { uri: format!("nbd+unix:///{export}?socket={}", socket.display()) }
    }

    pub(super) fn lab(program: &Path, socket: &Path) -> Self {
        Self::Lab { program: program.to_owned(), socket: socket.to_owned() }
    }

    /// Runs a workload through the hop with this process id.
    ///
    /// # Errors
    /// The client is not installed, or one of its requests failed.
    pub(super) fn run(&self, workload: &Workload, extent: Extent, hop: Option<u32>) -> Result<Seen> {
        match self {
            Self::Fio { uri } => run_fio(fio(uri, workload, extent), extent, hop),
            Self::Lab { program, socket } => {
                run_lab(program, lab(std::slice::from_ref(socket), workload, extent), extent, hop)
            }
        }
    }
}

/// The warm-up costs, too, and its requests are counted: cost and requests are of the whole run.
fn run_fio(words: Vec<String>, extent: Extent, hop: Option<u32>) -> Result<Seen> {
    let cpu = || hop.map(process::cpu_time).transpose();
    let before = cpu()?;
    let (seen, requests) = read_fio(&output("fio", words, extent.span)?)?;
    let used = cpu()?.zip(before).map(|(after, before)| after.saturating_sub(before));
    Ok(Seen { cpu_us: used.map(|used| used.as_secs_f64() * 1e6 / requests.max(1) as f64), ..seen })
}

/// The client itself takes the process' account while it measures.
fn run_lab(program: &Path, mut words: Vec<String>, extent: Extent, hop: Option<u32>) -> Result<Seen> {
    words.extend(hop.iter().flat_map(|pid| ["--pid".to_owned(), pid.to_string()]));
    read_lab(&output(program, words, extent.span)?)
}

/// Writes a disk once from end to end, with noise.
///
/// # Errors
/// fio is not installed, or a write failed.
pub(super) fn fill(client: &Client, workload: Workload, bytes: u64) -> Result<()> {
    let Client::Fio { uri } = client else { return Ok(()) };
    let mut words = common(workload.pattern.word(), workload.block, bytes);
    words.push(format!("--iodepth={}", workload.depth));
    words.extend(["--name=fill".to_owned(), format!("--uri={uri}"), "--refill_buffers".to_owned()]);
    output("fio", words, Duration::from_secs(20)).map(drop)
}

/// Many disks at once, at a rate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fleet<'a> {
    pub(super) workload: &'a Workload,
    pub(super) extent: Extent,
    /// Requests a second, of all disks together.
    pub(super) iops: u32,
}

/// Loads several NBD disks from one fio.
///
/// # Errors
/// As [`Client::run`].
pub(super) fn fio_fleet(sockets: &[PathBuf], fleet: &Fleet<'_>, hop: u32) -> Result<Seen> {
    let mut words = common(fleet.workload.pattern.word(), fleet.workload.block, fleet.extent.bytes);
    let each = fleet.iops / u32::try_from(sockets.len()).unwrap_or(u32::MAX).max(1);
    words.extend(["--thread", "--group_reporting", "--time_based"].map(str::to_owned));
    words.push(format!("--iodepth={}", fleet.workload.depth));
    words.push(format!("--runtime={}ms", fleet.extent.span.as_millis()));
    words.push(format!("--rate_iops={each}"));
    for (number, socket) in sockets.iter().enumerate() {
        words.push(format!("--name=disk{number}"));
        words.push(format!("--uri=nbd+unix:///disk?socket={}", socket.display()));
    }
    run_fio(words, fleet.extent, Some(hop))
}

/// Loads several vhost-user-blk disks from one client.
///
/// # Errors
/// As [`Client::run`].
pub(super) fn lab_fleet(program: &Path, sockets: &[PathBuf], fleet: &Fleet<'_>, hop: u32) -> Result<Seen> {
    let mut words = lab(sockets, fleet.workload, fleet.extent);
    words.extend(["--rate".to_owned(), fleet.iops.to_string()]);
    run_lab(program, words, fleet.extent, Some(hop))
}

fn common(pattern: &str, block: u32, bytes: u64) -> Vec<String> {
    let named = [
        format!("--rw={pattern}"),
        format!("--bs={block}"),
        format!("--size={bytes}"),
        "--ioengine=nbd".to_owned(),
        "--output-format=json".to_owned(),
        "--norandommap".to_owned(),
        "--randrepeat=0".to_owned(),
    ];
    named.to_vec()
}

/// The same job twice, one after the other: only the second counts.
fn fio(uri: &str, workload: &Workload, extent: Extent) -> Vec<String> {
    let mut words = common(workload.pattern.word(), workload.block, extent.bytes);
    words.extend([
        format!("--uri={uri}"),
        format!("--iodepth={}", workload.depth),
        "--time_based".to_owned(),
        "--name=warm-up".to_owned(),
        format!("--runtime={}ms", WARM_UP.as_millis()),
        "--name=measured".to_owned(),
        "--stonewall".to_owned(),
        format!("--runtime={}ms", extent.span.as_millis()),
    ]);
    words
}

fn lab(sockets: &[PathBuf], workload: &Workload, extent: Extent) -> Vec<String> {
    let sockets: Vec<String> = sockets.iter().map(|socket| socket.display().to_string()).collect();
    let poll = match extent.poll {
        Poll::Event => "event",
        Poll::Busy => "busy",
    };
    let named = [
        ("--many", sockets.join(",")),
        ("--op", workload.pattern.word().to_owned()),
        ("--block-size", workload.block.to_string()),
        ("--depth", workload.depth.to_string()),
        ("--warmup", WARM_UP.as_secs_f64().to_string()),
        ("--seconds", extent.span.as_secs_f64().to_string()),
        ("--span", extent.bytes.to_string()),
        ("--poll", poll.to_owned()),
    ];
    let words = named.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
    ["lab", "hop"].map(str::to_owned).into_iter().chain(words).collect()
}

/// Standard output of a client that has ended well, in time.
fn output(program: impl Into<OsString>, words: Vec<String>, span: Duration) -> Result<String> {
    let program = program.into();
    let bound = (WARM_UP + span + GRACE).as_secs().to_string();
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", &bound]).arg(&program).args(words);
    let output = command.output().context("cannot run timeout")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let shown = program.to_string_lossy();
    ensure!(output.status.success(), "{shown} has ended with {}: {}", output.status, said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What the last job measured, and the requests of all. fio's own words come before its JSON.
fn read_fio(text: &str) -> Result<(Seen, u64)> {
    let json = text.find('{').map(|at| &text[at..]).context("fio has written no JSON")?;
    let answer: Value = serde_json::from_str(json).context("fio's JSON")?;
    let jobs = answer["jobs"].as_array().context("fio has no jobs")?;
    let sides = |job: &Value| {
        let side = if job["read"]["total_ios"].as_u64() > Some(0) { "read" } else { "write" };
        job[side].clone()
    };
    for job in jobs {
        ensure!(job["error"] == 0, "fio: error {}", job["error"]);
    }
    let measured = sides(jobs.last().context("fio has no jobs")?);
    let requests = jobs.iter().map(|job| sides(job)["total_ios"].as_u64().unwrap_or(0)).sum();
    let iops = measured["iops"].as_f64().context("fio counts no requests")?;
    let latency_us = measured["clat_ns"]["mean"].as_f64().unwrap_or(f64::NAN) / 1e3;
    Ok((Seen { iops, latency_us, cpu_us: None }, requests))
}

fn read_lab(text: &str) -> Result<Seen> {
    let line = text.lines().rfind(|line| line.starts_with('{')).context("the client has written no JSON")?;
    let answer: Value = serde_json::from_str(line).context("the client's JSON")?;
    ensure!(answer["errors"] == 0, "the client saw {} errors", answer["errors"]);
    Ok(Seen {
        iops: answer["iops"].as_f64().context("the client counts no requests")?,
        latency_us: answer["latency_us"]["mean"].as_f64().unwrap_or(f64::NAN),
        cpu_us: answer["processes"][0]["cpu_us_per_request"].as_f64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_jobs_the_second_is_measured_and_all_requests_count() {
        let text = r#"fio: connected to NBD server
            {"jobs": [
              {"error": 0, "read": {"total_ios": 10, "iops": 1.0, "clat_ns": {"mean": 9}}, "write": {"total_ios": 0}},
              {"error": 0, "read": {"total_ios": 90, "iops": 45.5, "clat_ns": {"mean": 2000}}, "write": {"total_ios": 0}}
            ]}"#;
        let seen = read_fio(text).expect("it is fio's form");
        assert_eq!(seen, (Seen { iops: 45.5, latency_us: 2.0, cpu_us: None }, 100));
        assert!(read_fio(&text.replacen("\"error\": 0", "\"error\": 5", 1)).is_err());
    }

    #[test]
    fn the_labs_line_is_read_and_its_errors_count() {
        let text = r#"{"iops": 5.0, "latency_us": {"mean": 7.5}, "errors": 0, "processes": [{"cpu_us_per_request": 1.5}]}"#;
        let seen = read_lab(text).expect("it is the lab's form");
        assert_eq!(seen, Seen { iops: 5.0, latency_us: 7.5, cpu_us: Some(1.5) });
        assert!(read_lab(&text.replace("\"errors\": 0", "\"errors\": 1")).is_err());
    }
}
