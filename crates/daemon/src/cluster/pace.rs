//! When this host's summary is sent: what changed, at most so often.
//!
//! Invariant: what is kept in etcd becomes what was published last, within [`DRIFT_PAUSE`]; and no two puts begin within
//! [`PUT_PAUSE`]. Rejected: sending at once; a flapping path on a thousand hosts would be a thousand watchers' work each time.
//! It does not know whether a put arrived until it is told.

use super::slice::Slice;
use std::collections::BTreeMap;
use vmpath_core::placement::HostSummary;
use vmpath_core::time::{Duration, Instant};

/// Between puts of one host. Who decides by a summary asks the destination itself before it moves anything.
pub(super) const PUT_PAUSE: Duration = Duration::from_secs(1);

/// For numbers that only drift.
pub(super) const DRIFT_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Pace {
    targets: BTreeMap<String, Kept>,
    last: Option<Instant>,
    /// A put that has not ended yet.
    under_way: bool,
}

#[derive(Debug)]
struct Kept {
    wanted: Slice,
    /// What etcd is known to hold, and since when.
    said: Option<(Slice, Instant)>,
}

/// Values to put together, by target.
pub(super) type Puts = Vec<(String, Slice)>;

impl Pace {
    pub(super) fn publish(&mut self, host: &HostSummary) {
        for target in &host.targets {
            let wanted = Slice::of(host, target);
            match self.targets.get_mut(&target.target) {
                Some(kept) => kept.wanted = wanted,
                None => drop(self.targets.insert(target.target.clone(), Kept { wanted, said: None })),
            }
        }
    }

    /// etcd holds nothing of it any more: the lease is a new one, or somebody deleted it.
    pub(super) fn forget(&mut self, target: Option<&str>) {
        for (name, kept) in &mut self.targets {
            if target.is_none_or(|target| target == name) {
                kept.said = None;
            }
        }
    }

    /// When there will be something to put, if nothing else changes.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.under_way {
            return None;
        }
        let first = self.targets.values().filter_map(Kept::due).min()?;
        Some(self.last.map_or(first, |last| first.max(last + PUT_PAUSE)))
    }

    /// What is to be put now. One put is under way at a time: [`Self::done`] ends it.
    pub(super) fn take(&mut self, now: Instant) -> Puts {
        if self.due().is_none_or(|due| due > now) {
            return vec![];
        }
        // With the one that is due go those that only drift: it is one put either way.
        let changed = self.targets.iter().filter(|(_, kept)| kept.changed());
        let puts: Puts = changed.map(|(name, kept)| (name.clone(), kept.wanted.clone())).collect();
        (self.last, self.under_way) = (Some(now), true);
        puts
    }

    /// A put has ended; `None` for one of which that is not known. It is sent again then.
    pub(super) fn done(&mut self, puts: Option<Puts>, now: Instant) {
        self.under_way = false;
        for (name, slice) in puts.into_iter().flatten() {
            if let Some(kept) = self.targets.get_mut(&name) {
                kept.said = Some((slice, now));
            }
        }
    }
}

impl Kept {
    fn changed(&self) -> bool {
        self.said.as_ref().is_none_or(|(said, _)| *said != self.wanted)
    }

    fn due(&self) -> Option<Instant> {
        match &self.said {
            None => Some(Instant::from_nanos(0)),
            Some((said, _)) if *said == self.wanted => None,
            Some((said, at)) if self.wanted.drifts_from(said) => Some(*at + DRIFT_PAUSE),
            Some(_) => Some(Instant::from_nanos(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::slice::tests::host;
    use super::*;
    use proptest::prelude::*;
    use vmpath_core::placement::Accepts;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    /// Publishes, and puts what is due; whether something was.
    fn step(pace: &mut Pace, host: &HostSummary, now: Instant) -> bool {
        pace.publish(host);
        let puts = pace.take(now);
        let put = !puts.is_empty();
        if put {
            pace.done(Some(puts), now);
        }
        put
    }

    #[test]
    fn a_host_at_rest_says_nothing() {
        let (mut pace, host) = (Pace::default(), host("kvm1", 4));
        assert!(step(&mut pace, &host, at(0)));
        assert!(!step(&mut pace, &host, at(100_000)));
        assert_eq!(pace.due(), None);
        pace.forget(Some("another"));
        assert_eq!(pace.due(), None);
        pace.forget(None);
        assert!(step(&mut pace, &host, at(200_000)), "a new lease needs it all again");
    }

    #[test]
    fn a_change_goes_after_a_second_and_a_drift_after_thirty() {
        let (mut pace, mut host) = (Pace::default(), host("kvm1", 4));
        assert!(step(&mut pace, &host, at(10_000)));
        host.targets[0].capacity = Some(99 << 20);
        assert!(!step(&mut pace, &host, at(20_000)));
        assert_eq!(pace.due(), Some(at(40_000)));
        host.accepts = Accepts::No("shedding".into());
        assert!(step(&mut pace, &host, at(20_001)), "and takes the drift along");
        host.accepts = Accepts::Yes;
        assert!(!step(&mut pace, &host, at(20_500)));
        assert_eq!(pace.due(), Some(at(21_001)));
        assert!(step(&mut pace, &host, at(21_001)));
    }

    #[test]
    fn a_put_that_may_have_failed_is_sent_again() {
        let (mut pace, host) = (Pace::default(), host("kvm1", 4));
        pace.publish(&host);
        assert!(!pace.take(at(0)).is_empty());
        assert_eq!((pace.due(), pace.take(at(5000)).len()), (None, 0), "one at a time");
        pace.done(None, at(5000));
        assert_eq!(pace.due(), Some(at(1000)));
    }

    proptest! {
        /// Whatever flaps: at most a put a second, and in the end etcd holds what was published last.
        #[test]
        fn puts_are_paced_and_nothing_stays_unsaid(steps in prop::collection::vec((1_u64..900, any::<bool>(), 80_u64..120), 1..80)) {
            let (mut pace, mut host, mut now) = (Pace::default(), host("kvm1", 2), 0);
            let mut last: Option<u64> = None;
            for (pause, shedding, capacity) in steps {
                now += pause;
                host.accepts = if shedding { Accepts::No("shedding".into()) } else { Accepts::Yes };
                host.targets[0].capacity = Some(capacity << 20);
                if step(&mut pace, &host, at(now)) {
                    prop_assert!(last.is_none_or(|last| now - last >= 1000));
                    last = Some(now);
                }
            }
            step(&mut pace, &host, at(now + 60_000));
            prop_assert_eq!(pace.due(), None);
        }
    }
}
