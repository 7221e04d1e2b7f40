//! What other processes cost: CPU time and memory, as the kernel counts them.
//!
//! Invariant: a process that is gone is an error, never zero. Rejected: perf events, which need rights.
//! It does not know: what the process does.

use serde::Serialize;
use std::fs;

/// CPU time is counted in hundredths of a second, on every Linux.
const TICK_US: f64 = 10_000.0;

/// One process, over the time of a measurement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProcessCost {
    pub pid: u32,
    /// User and system time of all of its threads, to 10 ms.
    pub cpu_us: f64,
    pub cpu_us_per_request: f64,
    /// Memory at the end: all, and without files and what is shared (so without guests' memory).
    pub rss_kib: u64,
    pub anonymous_kib: u64,
}

/// CPU time of a process since it began, in microseconds.
pub(super) fn cpu_us(pid: u32) -> anyhow::Result<f64> {
    let stat = read(pid, "stat")?;
    ticks(&stat).map(|ticks| ticks as f64 * TICK_US).ok_or_else(|| anyhow::anyhow!("process {pid}: odd stat"))
}

/// Resident memory in KiB: all of it, and the anonymous part.
pub(super) fn memory_kib(pid: u32) -> anyhow::Result<(u64, u64)> {
    let status = read(pid, "status")?;
    let row = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next()?.parse().ok())
    };
    row("VmRSS").zip(row("RssAnon")).ok_or_else(|| anyhow::anyhow!("process {pid}: odd status"))
}

/// utime and stime, the 14th and 15th field; the second, the name in parentheses, may contain anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

fn read(pid: u32, file: &str) -> anyhow::Result<String> {
    fs::read_to_string(format!("/proc/{pid}/{file}")).map_err(|why| anyhow::anyhow!("process {pid}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a b) c) S 1 2 3 4 5 6 7 8 9 10 30 12 13 14 15";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (x) S 1"), None);
    }

    #[test]
    fn this_process_has_memory_and_a_missing_one_is_an_error() {
        let (rss, anonymous) = memory_kib(std::process::id()).unwrap();
        assert!(rss > 100 && anonymous > 0 && anonymous <= rss);
        assert!(cpu_us(std::process::id()).is_ok() && cpu_us(u32::MAX).is_err());
    }
}
