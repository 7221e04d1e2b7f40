//! How often a VM may be resumed, whatever its paths do.
//!
//! Invariant: of three resumes in a row the last comes at least [`RESUMES_WITHIN`] after the first. So what waits is the
//! resume: a VM without a path is never kept running to spare it a suspend, it stands still for longer instead.
//! Rejected: to refuse the third suspend. Its requests would be held while its clocks run on: what a suspend prevents.
//! It does not count what an operator asks for, nor the attempts of one resume.

use crate::time::{Duration, Instant};

/// So many resumes are allowed within [`RESUMES_WITHIN`].
pub const RESUMES_MAX: usize = 2;
pub const RESUMES_WITHIN: Duration = Duration::from_secs(300);
/// A stop that is taken back at once has cost the guest more than it saved: so long it stands still at least.
pub const SUSPENDED_AT_LEAST: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dwell {
    /// The latest resumes, oldest first; at most [`RESUMES_MAX`].
    resumes: Vec<Instant>,
}

impl Dwell {
    /// From what was saved.
    #[must_use]
    pub fn from_parts(mut resumes: Vec<Instant>) -> Self {
        resumes.sort_unstable();
        let extra = resumes.len().saturating_sub(RESUMES_MAX);
        resumes.drain(..extra);
        Self { resumes }
    }

    #[must_use]
    pub fn resumes(&self) -> &[Instant] {
        &self.resumes
    }

    /// It may be resumed again from then on.
    #[must_use]
    pub fn ready_at(&self) -> Instant {
        if self.resumes.len() < RESUMES_MAX {
            return Instant::ZERO;
        }
        self.resumes.first().map_or(Instant::ZERO, |oldest| *oldest + RESUMES_WITHIN)
    }

    pub fn resumed(&mut self, now: Instant) {
        if self.resumes.len() == RESUMES_MAX {
            self.resumes.remove(0);
        }
        self.resumes.push(now);
    }

    /// The latest took effect only now: a `stop` that was taken back came late, and was followed by its `cont`.
    pub fn late(&mut self, now: Instant) {
        if let Some(last) = self.resumes.last_mut() {
            *last = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop, proptest};

    proptest! {
        /// Whenever it is asked, and however late a resume takes effect, three of them span five minutes.
        #[test]
        fn three_resumes_span_five_minutes(asks in prop::collection::vec((0..200u64, any::<bool>(), 0..90u64), 0..200)) {
            let (mut now, mut dwell, mut done) = (Instant::ZERO, Dwell::default(), vec![]);
            for (pause, is_late, by) in asks {
                now += Duration::from_secs(pause);
                if dwell.ready_at() > now {
                    continue;
                }
                dwell.resumed(now);
                if is_late {
                    now += Duration::from_secs(by);
                    dwell.late(now);
                }
                done.push(now);
            }
            for three in done.windows(RESUMES_MAX + 1) {
                assert!(three[RESUMES_MAX] >= three[0] + RESUMES_WITHIN, "{three:?}");
            }
        }
    }

    #[test]
    fn two_are_free_and_the_third_waits() {
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        let mut dwell = Dwell::default();
        dwell.resumed(at(10));
        assert!(dwell.ready_at() <= at(10));
        dwell.resumed(at(20));
        assert_eq!(dwell.ready_at(), at(310));
        dwell.resumed(at(310));
        assert_eq!(dwell.ready_at(), at(320));
        assert_eq!(Dwell::from_parts(vec![at(20), at(310), at(10)]), dwell);
    }
}
