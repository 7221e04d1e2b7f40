//! Whether one VM really gets its reservation, judged from what the data plane measured.
//!
//! Unmet means: it had work that waited for room on a path for more than half of the time, and yet completed less than
//! 95 % of its reservation, without a better report for `shed_after`.
//! Rejected: a moving average. It says neither when the shortage began nor when it ended.
//! It does not know paths, nor what is done about it.

use crate::event::VmLoad;
use crate::spec::ByteRate;
use crate::time::{Duration, Instant};

/// Below this part of the reservation it counts as unmet: measuring intervals are cut off in the middle of requests.
const MET_FROM: f64 = 0.95;
/// A VM that waits less than this part of the time has no more work to give.
const BACKLOGGED_FROM: f64 = 0.5;
/// Without a further bad report within this, a shortage is over: the VM may have gone idle, or another worker reports.
const STALE_AFTER: Duration = Duration::from_secs(1);

/// ```text
///        bad report            bad for `after`
///  Met ────────────► Short ───────────────────► Unmet
///   ▲    good report   │                          │
///   └──────────────────┴──────────────────────────┘  good for `after`, or stale
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Floor {
    Met,
    Short {
        since: Instant,
        last: Instant,
        got: ByteRate,
    },
    Unmet {
        since: Instant,
        /// Of the last bad report.
        last: Instant,
        /// What it got in that report's interval.
        got: ByteRate,
    },
}

impl Floor {
    /// Takes in one report. A row of zeros says nothing: the VM is idle, or lives on another worker.
    pub fn measured(&mut self, now: Instant, reservation: ByteRate, interval: Duration, load: &VmLoad) {
        let silent = load.requests_completed == 0 && load.bytes_completed == 0 && load.backlogged <= 0.0;
        if interval.is_zero() || silent {
            return;
        }
        let rate = load.bytes_completed as f64 / interval.as_secs_f64();
        let bad = load.backlogged > BACKLOGGED_FROM && rate < MET_FROM * reservation.0 as f64;
        match (&mut *self, bad) {
            (Self::Met, true) => {
                *self = Self::Short { since: now - interval, last: now, got: ByteRate(rate as u64) };
            }
            (Self::Short { last, got, .. } | Self::Unmet { last, got, .. }, true) => {
                (*last, *got) = (now, ByteRate(rate as u64));
            }
            (Self::Short { .. }, false) => *self = Self::Met,
            (Self::Met | Self::Unmet { .. }, false) => {}
        }
    }

    /// `after` is the host's `shed_after`.
    pub fn elapsed(&mut self, now: Instant, after: Duration) {
        match self {
            Self::Met => {}
            Self::Short { last, .. } if now.since(*last) > STALE_AFTER => *self = Self::Met,
            Self::Short { since, last, got } if now.since(*since) >= after => {
                *self = Self::Unmet { since: *since, last: *last, got: *got };
            }
            Self::Short { .. } => {}
            Self::Unmet { last, .. } if now.since(*last) > after.max(STALE_AFTER) => *self = Self::Met,
            Self::Unmet { .. } => {}
        }
    }

    /// Since when it is unmet, and what it gets instead.
    #[must_use]
    pub fn unmet(&self) -> Option<(Instant, ByteRate)> {
        match self {
            Self::Unmet { since, got, .. } => Some((*since, *got)),
            Self::Met | Self::Short { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds a report of `(got MiB/s, backlogged)` each 200 ms and tells when it is unmet.
    fn walk(reports: &[(u64, f64)]) -> String {
        let mut floor = Floor::Met;
        let step = Duration::from_millis(200);
        let mut now = Instant::from_millis(1000);
        let mut shown = String::new();
        for (mib, backlogged) in reports {
            now += step;
            let load = VmLoad {
                bytes_completed: mib * (1 << 20) / 5,
                requests_completed: *mib,
                backlogged: *backlogged,
                open: 1,
            };
            floor.measured(now, ByteRate(100 << 20), step, &load);
            floor.elapsed(now, Duration::from_secs(1));
            shown.push(match floor {
                Floor::Met => '.',
                Floor::Short { .. } => 's',
                Floor::Unmet { .. } => 'U',
            });
        }
        shown
    }

    #[test]
    fn unmet_needs_a_whole_second_of_backlog_below_the_floor() {
        assert_eq!(walk(&[(50, 1.0); 6]), "ssssUU");
        assert_eq!(walk(&[(96, 1.0); 6]), "......");
        assert_eq!(walk(&[(50, 0.4); 6]), "......");
        assert_eq!(walk(&[(50, 1.0), (50, 1.0), (100, 1.0), (50, 1.0), (50, 1.0)]), "ss.ss");
    }

    #[test]
    fn it_ends_only_after_as_long_a_good_time() {
        let mut reports = vec![(50, 1.0); 5];
        reports.extend([(100, 1.0); 4]);
        reports.push((50, 1.0));
        reports.extend([(100, 1.0); 7]);
        assert_eq!(walk(&reports), "ssssUUUUUUUUUUU..");
    }

    #[test]
    fn rows_of_zeros_say_nothing_but_a_shortage_does_not_outlive_them() {
        let mut reports = vec![(50, 1.0); 5];
        reports.extend([(0, 0.0); 7]);
        assert_eq!(walk(&reports), "ssssUUUUUU..");
        assert_eq!(walk(&[(50, 1.0), (0, 0.0), (50, 1.0), (0, 0.0), (50, 1.0)]), "ssssU");
    }
}
