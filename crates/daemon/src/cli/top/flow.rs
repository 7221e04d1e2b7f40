//! Rates, from the differences of counters that only grow.
//!
//! Invariant: a rate is over the time between the data plane's own countings, not between our looks: a late answer
//! changes nothing. Counters of another daemon, or that went back, give no rate, never a wrong or negative one.
//! Rejected: the API's `rate_bytes_per_second`, which knows bytes only and its own second, not the interval.

use super::look::Look;
use std::collections::HashMap;

/// Two countings closer than this are the same one: the wall clock of an instant is told to a few microseconds.
const SAME_US: u64 = 1_000;

/// What flowed between two countings, per second; of `errors`, how many were new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) bytes: u64,
    pub(super) requests: u64,
    pub(super) errors: u64,
}

/// By name; nothing before the second look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Flows {
    /// `target/path`.
    pub(super) paths: HashMap<String, Flow>,
    pub(super) vms: HashMap<String, Flow>,
}

/// Counters of one kind of thing, by name.
#[derive(Clone, Debug, Default)]
struct Counted {
    at_unix_us: Option<u64>,
    rows: HashMap<String, Flow>,
}

/// Remembers the last counting.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    /// Which daemon: its process and start.
    daemon: Option<(u32, u64)>,
    paths: Counted,
    vms: Counted,
    flows: Flows,
}

impl Meter {
    pub(super) fn measure(&mut self, look: &Look) -> Flows {
        let daemon = Some((look.host.pid, look.host.daemon_started_unix_us));
        if self.daemon != daemon {
            *self = Self { daemon, ..Self::default() };
        }
        let paths = look.paths.paths.iter().map(|path| {
            let name = format!("{}/{}", path.target, path.name);
            let counters =
                Flow { bytes: path.completed_bytes, requests: path.completed_requests, errors: path.errors };
            (name, counters)
        });
        let vms = look.vms.vms.iter().map(|vm| {
            let counters = Flow {
                bytes: vm.completed_bytes,
                requests: vm.completed_requests,
                errors: vm.failed_requests,
            };
            (vm.name.clone(), counters)
        });
        let paths = Counted { at_unix_us: look.paths.counted_unix_us, rows: paths.collect() };
        let vms = Counted { at_unix_us: look.vms.counted_unix_us, rows: vms.collect() };
        self.paths.advance(paths, &mut self.flows.paths);
        self.vms.advance(vms, &mut self.flows.vms);
        self.flows.clone()
    }
}

impl Counted {
    fn advance(&mut self, new: Self, flows: &mut HashMap<String, Flow>) {
        let elapsed = match (self.at_unix_us, new.at_unix_us) {
            (Some(old), Some(new)) if new.abs_diff(old) < SAME_US => return,
            (Some(old), Some(new)) => new.checked_sub(old),
            _ => None,
        };
        // Without a time in between (the first counting, a clock set back) nothing is known.
        flows.clear();
        if let Some(elapsed) = elapsed {
            flows.extend(new.rows.iter().filter_map(|(name, row)| {
                let old = self.rows.get(name)?;
                Some((name.clone(), row.since(old, elapsed)))
            }));
        }
        *self = new;
    }
}

impl Flow {
    fn since(&self, old: &Self, elapsed_us: u64) -> Self {
        let per_second = |new: u64, old: u64| {
            let grown = u128::from(new.saturating_sub(old)) * 1_000_000;
            u64::try_from(grown / u128::from(elapsed_us.max(1))).unwrap_or(u64::MAX)
        };
        Self {
            bytes: per_second(self.bytes, old.bytes),
            requests: per_second(self.requests, old.requests),
            errors: self.errors.saturating_sub(old.errors),
        }
    }
}
