//! What the VMs say while they run, and how much each got in any span of time.
//!
//! Invariant: a rate is computed from the guest's own cumulative count of completed bytes, never from the daemon's.
//! Rejected: averaging over phases, which would hide a bad second. It does not know: which rates are good.

use serde_json::Value;

/// A VM's growing count of completed bytes, by wall-clock microsecond.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    points: Vec<(u64, u64)>,
}

/// One span of the script, in wall-clock microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Phase {
    pub(super) name: &'static str,
    pub(super) from: u64,
    pub(super) to: u64,
}

const SECOND_US: u64 = 1_000_000;

impl Progress {
    /// Adds a point; time and bytes grow.
    pub(super) fn add(&mut self, at_unix_us: u64, bytes: u64) {
        if self.points.last().is_none_or(|(at, _)| *at < at_unix_us) {
            self.points.push((at_unix_us, bytes));
        }
    }

    /// Completed by `at`, between points in proportion; none before the first and after the last.
    fn bytes_at(&self, at: u64) -> Option<f64> {
        let next = self.points.partition_point(|(time, _)| *time < at);
        let (to, more) = *self.points.get(next)?;
        if to == at {
            return Some(more as f64);
        }
        let (from, less) = *self.points.get(next.checked_sub(1)?)?;
        let part = (at - from) as f64 / (to - from) as f64;
        Some(less as f64 + part * (more - less) as f64)
    }

    /// Bytes per second in each whole second of the phase, counted from its start.
    pub(super) fn by_second(&self, phase: &Phase) -> Vec<f64> {
        let seconds = (phase.to.saturating_sub(phase.from)) / SECOND_US;
        let rate = |i: u64| {
            let from = phase.from + i * SECOND_US;
            Some(self.bytes_at(from + SECOND_US)? - self.bytes_at(from)?)
        };
        (0..seconds).map_while(rate).collect()
    }

    /// Bytes per second in the second before `now`, for people to look at.
    pub(super) fn recent(&self, now_unix_us: u64) -> f64 {
        let Some((last, more)) = self.points.last() else { return 0.0 };
        let from = self.points.partition_point(|(at, _)| at + SECOND_US <= now_unix_us);
        let Some((at, less)) = self.points.get(from) else { return 0.0 };
        // What is missing at the end is a sample that has not come yet, unless it is long overdue.
        let to = if now_unix_us > last + SECOND_US / 2 { now_unix_us } else { *last };
        if to > *at { (more - less) as f64 * SECOND_US as f64 / (to - at) as f64 } else { 0.0 }
    }
}

/// Whose clock the samples of a VM are stamped by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Clock {
    /// The VM's: it is a process of this machine.
    #[default]
    Own,
    /// Ours, when the line comes: a real guest's clock is its own affair, and stands still while it is stopped.
    Ours,
}

/// What one VM has said: the last of some kinds of line, all of others.
#[derive(Clone, Debug, Default)]
pub(super) struct VmLines {
    pub(super) clock: Clock,
    pub(super) progress: Progress,
    pub(super) started: bool,
    pub(super) sample: Value,
    pub(super) read_backs: Vec<Value>,
    pub(super) report: Option<Value>,
    /// Errors and I/O errors that it told of.
    pub(super) complaints: Vec<Value>,
}

impl VmLines {
    /// Takes one line, which came at `came_unix_us`.
    pub(super) fn take(&mut self, line: &str, came_unix_us: u64) {
        let Ok(value) = serde_json::from_str::<Value>(line) else { return };
        if value.get("started").is_some() {
            self.started = true;
        } else if let Some(sample) = value.get("sample") {
            let own = sample["at_unix_us"].as_u64().filter(|_| self.clock == Clock::Own);
            self.progress.add(own.unwrap_or(came_unix_us), sample["bytes"].as_u64().unwrap_or(0));
            self.sample = sample.clone();
        } else if let Some(done) = value.get("readback") {
            self.read_backs.push(done.clone());
        } else if let Some(report) = value.get("report") {
            self.report = Some(report.clone());
        } else if value.get("answer").is_none() {
            self.complaints.push(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_counted_from_the_phase_s_start() {
        let mut progress = Progress::default();
        for tenth in 0..40u64 {
            let bytes = if tenth < 20 { tenth * 10 } else { 200 + (tenth - 20) * 5 };
            progress.add(tenth * 100_000, bytes);
        }
        let phase = Phase { name: "p", from: 50_000, to: 3_500_000 };
        assert_eq!(progress.by_second(&phase), [100.0, 97.5, 50.0]);
        assert_eq!(progress.recent(3_900_000), 50.0);
        assert_eq!(progress.recent(5_000_000), 0.0, "nothing for a second");
    }

    #[test]
    fn what_was_not_seen_is_not_invented() {
        let mut progress = Progress::default();
        progress.add(1_000_000, 0);
        let phase = Phase { name: "p", from: 0, to: 5_000_000 };
        assert_eq!(progress.by_second(&phase), Vec::<f64>::new());
    }

    #[test]
    fn lines_are_sorted_by_their_key() {
        let mut lines = VmLines::default();
        for line in [
            "no json",
            "{\"started\":{}}",
            "{\"answer\":\"go\"}",
            "{\"error\":\"x\"}",
            "{\"sample\":{\"bytes\":5}}",
        ] {
            lines.take(line, 7);
        }
        assert!(lines.started && lines.complaints.len() == 1 && lines.sample["bytes"] == 5);
    }
}
