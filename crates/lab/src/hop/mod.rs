//! `vmpath lab hop`: a lean load over vhost-user-blk, for benchmarks of the layer in between.
//!
//! One thread drives any number of disks, waits on their interrupts or polls their rings, and says how many requests
//! there were, how long they took, and what they cost in CPU time: its own, and that of processes that are named.
//! Invariant: the same client for every back end, far faster than any. Rejected: a guest, whose own cost would hide
//! theirs. It does not know: paths, the daemon.

mod load;
mod process;

pub use process::ProcessCost;

use crate::units::parse_size;
use crate::workload::block::BLOCK;
use clap::ValueEnum;
use load::Rig;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How much of a disk is used when its content is verified, unless said otherwise: it is written first.
const VERIFIED_SPAN: u64 = 64 << 20;

/// A lean benchmark client over vhost-user-blk.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct HopArgs {
    /// The disk's vhost-user socket.
    #[arg(long, required_unless_present = "many")]
    pub socket: Option<PathBuf>,
    /// Several sockets, separated by commas: one thread drives them all.
    #[arg(long, value_delimiter = ',', conflicts_with = "socket")]
    pub many: Vec<PathBuf>,
    #[arg(long, value_enum, default_value_t = Op::Randread)]
    pub op: Op,
    /// Bytes of a request.
    #[arg(long, default_value = "4KiB", value_parser = parse_size)]
    pub block_size: u64,
    /// Requests open on each disk, over all of its queues.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub depth: u16,
    /// How long to measure.
    #[arg(long, default_value = "5", value_parser = parse_seconds)]
    pub seconds: Duration,
    /// How long to run before that.
    #[arg(long, default_value = "0.5", value_parser = parse_seconds)]
    pub warmup: Duration,
    /// Requests per second, over all disks; left out: as fast as it goes.
    #[arg(long)]
    pub rate: Option<u64>,
    /// Queues of each disk.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub queues: u16,
    /// How to wait for completions.
    #[arg(long, value_enum, default_value_t = Poll::Event)]
    pub poll: Poll,
    /// Write the span first, check each block that is read, and read everything back at the end. It overwrites the disk.
    #[arg(long, value_enum, default_value_t = Verify::No)]
    pub verify: Verify,
    /// Use so much of the start of each disk; left out: all of it, with `--verify yes` 64 MiB at most.
    #[arg(long, value_parser = parse_size)]
    pub span: Option<u64>,
    /// Pin the client to this CPU.
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Tell what this process has cost meanwhile, too. May be repeated.
    #[arg(long)]
    pub pid: Vec<u32>,
}

/// What is asked of the disks. Writing overwrites them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    Randread,
    Randwrite,
    Read,
    Write,
}

impl Op {
    #[must_use]
    pub fn is_write(self) -> bool {
        matches!(self, Self::Randwrite | Self::Write)
    }

    #[must_use]
    pub fn is_random(self) -> bool {
        matches!(self, Self::Randread | Self::Randwrite)
    }
}

/// How completions are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Poll {
    /// Looks at the used ring all the time.
    Busy,
    /// Sleeps until the device interrupts, as a guest does.
    Event,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Verify {
    No,
    Yes,
}

/// What was measured. Times in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HopReport {
    pub op: Op,
    pub block_size: u64,
    pub depth: u16,
    pub disks: usize,
    pub queues: u16,
    pub poll: Poll,
    pub seconds: f64,
    pub requests: u64,
    pub iops: f64,
    pub bytes_per_second: f64,
    pub latency_us: LatencyReport,
    /// CPU time of the client's thread.
    pub cpu_us: f64,
    pub cpu_us_per_request: f64,
    /// Kicks that the device has asked for, and returns from sleep.
    pub kicks: u64,
    pub wakes: u64,
    /// Requests that the device failed, blocks that held something else, completions of nothing.
    pub errors: u64,
    pub mismatches: u64,
    pub strays: u64,
    pub processes: Vec<ProcessCost>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LatencyReport {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl HopArgs {
    /// What the command line gives with nothing but these sockets.
    #[must_use]
    pub fn new(sockets: Vec<PathBuf>) -> Self {
        Self {
            socket: None,
            many: sockets,
            op: Op::Randread,
            block_size: 4096,
            depth: 32,
            seconds: Duration::from_secs(5),
            warmup: Duration::from_millis(500),
            rate: None,
            queues: 1,
            poll: Poll::Event,
            verify: Verify::No,
            span: None,
            cpu: None,
            pid: Vec::new(),
        }
    }

    /// Measures and prints the report as one line of JSON. Exit status 1 if anything was wrong.
    ///
    /// # Errors
    /// If a disk cannot be used.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let report = self.measure()?;
        println!("{}", serde_json::to_string(&report)?);
        let wrong = report.errors + report.mismatches + report.strays;
        Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Measures, on the calling thread, which stays pinned if a CPU is named.
    ///
    /// # Errors
    /// If a disk cannot be used, or its back end goes away.
    pub fn measure(&self) -> anyhow::Result<HopReport> {
        let block = BLOCK as u64;
        anyhow::ensure!(
            (512..=8 << 20).contains(&self.block_size) && self.block_size.is_multiple_of(512),
            "block size {}: must be a multiple of 512, at most 8MiB",
            self.block_size
        );
        anyhow::ensure!(
            self.verify == Verify::No || self.block_size.is_multiple_of(block),
            "--verify yes needs a block size that is a multiple of 4KiB"
        );
        if let Some(cpu) = self.cpu {
            let mut only = rustix::thread::CpuSet::new();
            only.set(cpu);
            rustix::thread::sched_setaffinity(None, &only)?;
        }
        Rig::new(self)?.measure()
    }

    /// The disks.
    #[must_use]
    pub fn sockets(&self) -> Vec<PathBuf> {
        self.socket.iter().chain(&self.many).cloned().collect()
    }

    /// How many bytes of a disk of `bytes` are used.
    fn span(&self, bytes: u64) -> u64 {
        let default = if self.verify == Verify::Yes { VERIFIED_SPAN } else { u64::MAX };
        let span = self.span.unwrap_or(default).min(bytes);
        span / self.block_size * self.block_size
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.trim_end_matches('s').parse().ok();
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("{text:?} is no number of seconds: write 5 or 0.5"))
}

#[cfg(test)]
mod tests;
