//! What a process has used, by the kernel's account (proc(5)).

use anyhow::{Context, Result};
use std::fs;
use std::time::Duration;

/// Of `/proc/PID/stat`, on every architecture that Linux has kept.
const TICKS_PER_SECOND: u64 = 100;

/// User and system time of all threads of a process so far, those that have ended included.
///
/// # Errors
/// There is no such process.
pub(super) fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
    parse_stat(&stat).with_context(|| format!("cannot read /proc/{pid}/stat: {stat}"))
}

/// The name in parentheses may contain anything; `utime` and `stime` are the 12th and 13th words behind it.
fn parse_stat(stat: &str) -> Option<Duration> {
    let words: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = words.get(11)?.parse::<u64>().ok()? + words.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// Time that all processors of this machine have worked so far.
///
/// # Errors
/// The kernel does not tell.
pub(super) fn machine_time() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    parse_machine(&stat).with_context(|| format!("cannot read /proc/stat: {stat}"))
}

/// user, nice, system, then idle and iowait, then interrupts of both kinds and what a hypervisor took; guests are in user.
fn parse_machine(stat: &str) -> Option<Duration> {
    let words = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let ticks: Vec<u64> = words.map(|word| word.parse().unwrap_or(0)).collect();
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|&column| ticks.get(column)).sum();
    (ticks.len() > 3).then(|| Duration::from_millis(busy * 1000 / TICKS_PER_SECOND))
}

/// What a reader of any numbers must know of the machine.
pub(super) fn machine() -> serde_json::Value {
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    serde_json::json!({
        "processors": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "kernel": file("/proc/sys/kernel/osrelease"),
        "load_average": file("/proc/loadavg"),
    })
}

/// Memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// All pages in memory, guest memory that it has mapped included.
    pub(super) resident: u64,
    /// What is its own: heap, stacks, buffers.
    pub(super) anonymous: u64,
}

/// # Errors
/// There is no such process.
pub(super) fn memory(pid: u32) -> Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    Ok(Memory { resident: kib(&status, "VmRSS:") << 10, anonymous: kib(&status, "RssAnon:") << 10 })
}

fn kib(status: &str, key: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(key));
    value.and_then(|v| v.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_a_name_that_imitates_them() {
        let stat = "42 (a) b 1 2) S 1 42 0 0 -1 4194560 140 0 1 0 150 50 7 7 20 0 9 0 1 2 3";
        assert_eq!(parse_stat(stat), Some(Duration::from_secs(2)));
        assert_eq!(parse_stat("42 (short) S 1"), None);
    }

    #[test]
    fn a_machine_that_idles_has_not_worked() {
        let stat = "cpu  100 10 40 9000 800 20 30 0 55 0\ncpu0 1 1 1 1\n";
        assert_eq!(parse_machine(stat), Some(Duration::from_secs(2)));
        assert_eq!(parse_machine("intr 5"), None);
    }

    #[test]
    fn memory_is_in_bytes() {
        let status = "Name:\tx\nVmRSS:\t    2048 kB\nRssAnon:\t     512 kB\n";
        assert_eq!((kib(status, "VmRSS:"), kib(status, "RssAnon:"), kib(status, "None:")), (2048, 512, 0));
    }
}
