//! Completed bytes per second, from the worker's growing counters: the difference over about the last second.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use vmpath_core::view::WorkerView;

/// How far back a rate looks: long enough to be calm, short enough to see a failure.
const LOOKS_BACK: Duration = Duration::from_secs(1);

/// Views kept, whatever their pace.
const VIEWS_MAX: usize = 32;

/// Bytes per second, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    pub paths: Vec<u64>,
    pub vms: Vec<u64>,
}

/// The latest views of one worker, the oldest first.
#[derive(Debug, Default)]
pub struct RateWindow {
    views: VecDeque<Arc<WorkerView>>,
}

impl RateWindow {
    pub fn push(&mut self, view: Arc<WorkerView>) {
        // Keep one view that is at least a full window old, as the other end of the difference.
        while self.views.len() > 1 && view.at.since(self.views[1].at) >= LOOKS_BACK
            || self.views.len() >= VIEWS_MAX
        {
            self.views.pop_front();
        }
        self.views.push_back(view);
    }

    #[must_use]
    pub fn latest(&self) -> Option<&Arc<WorkerView>> {
        self.views.back()
    }

    #[must_use]
    pub fn rates(&self) -> Rates {
        let (Some(old), Some(new)) = (self.views.front(), self.views.back()) else { return Rates::default() };
        let elapsed = new.at.since(old.at);
        let rate = |old: Option<u64>, new: u64| per_second(new.saturating_sub(old.unwrap_or(0)), elapsed);
        let paths = new.paths.iter().enumerate();
        let vms = new.vms.iter().enumerate();
        Rates {
            paths: paths
                .map(|(i, row)| rate(old.paths.get(i).map(|o| o.completed_bytes), row.completed_bytes))
                .collect(),
            vms: vms
                .map(|(i, row)| rate(old.vms.get(i).map(|o| o.completed_bytes), row.completed_bytes))
                .collect(),
        }
    }
}

fn per_second(bytes: u64, elapsed: Duration) -> u64 {
    let nanos = elapsed.as_nanos();
    if nanos == 0 {
        return 0;
    }
    u64::try_from(u128::from(bytes) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmpath_core::time::Instant;
    use vmpath_core::view::{PathLoadView, VmLoadView};

    fn view(at_ms: u64, bytes: u64) -> Arc<WorkerView> {
        Arc::new(WorkerView {
            at: Instant::from_millis(at_ms),
            paths: vec![PathLoadView { completed_bytes: bytes, ..PathLoadView::default() }],
            vms: vec![VmLoadView { completed_bytes: bytes, ..VmLoadView::default() }],
            ..WorkerView::default()
        })
    }

    fn check(views: &[(u64, u64)], expect: &[u64]) {
        let mut window = RateWindow::default();
        for (at_ms, bytes) in views {
            window.push(view(*at_ms, *bytes));
        }
        assert_eq!(window.rates(), Rates { paths: expect.to_vec(), vms: expect.to_vec() }, "{views:?}");
    }

    #[test]
    fn a_rate_is_the_difference_over_the_last_second() {
        check(&[], &[]);
        check(&[(0, 500)], &[0]);
        check(&[(0, 0), (500, 500)], &[1000]);
        check(&[(0, 0), (500, 500), (1000, 1000), (1500, 1000), (2000, 1000)], &[0]);
        check(&[(0, 0), (1000, 1000), (1500, 1000)], &[666]);
        check(&[(0, 1000), (1000, 0)], &[0]);
    }
}
