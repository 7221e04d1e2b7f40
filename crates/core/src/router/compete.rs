//! Which priorities compete for the paths now, and so at what level a VM stands.
//!
//! A VM competes while it has work, and for a moment after: a paced VM of high priority has none between two requests, and
//! would find the room that is kept for it taken each time. It does not know what the levels are for.

use crate::ids::VmId;
use crate::select::{LEVELS, Level};
use crate::time::{Duration, Instant};
use std::collections::VecDeque;

/// How long a VM is reckoned with after its last request: a few times what a busy disk pauses.
const LINGER: Duration = Duration::from_millis(50);

/// ```text
///        enter            rest               LINGER over
///  Out ────────► Active ────────► Lingering ─────────────► Out
///                  ▲                  │ enter
///                  └──────────────────┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Party {
    Out,
    Active(Line),
    /// Idle since then; it is in line.
    Lingering(Instant),
}

/// Whether a VM stands in the line of those to be looked at: at most once, however often it comes and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    In,
    Out,
}

#[derive(Clone, Debug)]
pub(super) struct Competition {
    /// By `VmId`: its priority, and what it does.
    parties: Vec<(u32, Party)>,
    /// Priorities with the number of VMs that compete with them, the highest first.
    priorities: Vec<(u32, u32)>,
    line: VecDeque<(Instant, VmId)>,
}

impl Competition {
    /// Of VMs with these priorities, by `VmId`.
    pub(super) fn new(priorities: impl Iterator<Item = u32>) -> Self {
        let parties: Vec<_> = priorities.map(|priority| (priority, Party::Out)).collect();
        let (priorities, line) = (Vec::with_capacity(parties.len()), VecDeque::with_capacity(parties.len()));
        Self { parties, priorities, line }
    }

    pub(super) fn configure(&mut self, priorities: impl Iterator<Item = u32>) {
        self.priorities.clear();
        for (index, priority) in priorities.enumerate() {
            self.parties[index].0 = priority;
            if self.parties[index].1 != Party::Out {
                self.count(priority);
            }
        }
    }

    /// The VM has work. True if that changes anybody's level.
    pub(super) fn enter(&mut self, vm: VmId) -> bool {
        let (priority, party) = &mut self.parties[vm.index()];
        match *party {
            Party::Active(_) => false,
            Party::Lingering(_) => {
                *party = Party::Active(Line::In);
                false
            }
            Party::Out => {
                *party = Party::Active(Line::Out);
                let priority = *priority;
                self.count(priority)
            }
        }
    }

    /// The VM has none any more.
    pub(super) fn rest(&mut self, vm: VmId, now: Instant) {
        let party = &mut self.parties[vm.index()].1;
        if let Party::Active(line) = *party {
            *party = Party::Lingering(now);
            if line == Line::Out {
                self.line.push_back((now + LINGER, vm));
            }
        }
    }

    /// Lets those go that have been idle for long enough. True if that changes anybody's level.
    pub(super) fn pass(&mut self, now: Instant) -> bool {
        let mut changed = false;
        while let Some((_, vm)) = self.line.front().copied().filter(|(due, _)| *due <= now) {
            self.line.pop_front();
            let (priority, party) = &mut self.parties[vm.index()];
            match *party {
                Party::Lingering(since) if since + LINGER <= now => {
                    *party = Party::Out;
                    let priority = *priority;
                    changed |= self.discount(priority);
                }
                Party::Lingering(since) => self.line.push_back((since + LINGER, vm)),
                Party::Active(_) => *party = Party::Active(Line::Out),
                Party::Out => {}
            }
        }
        changed
    }

    fn count(&mut self, priority: u32) -> bool {
        let at = self.priorities.partition_point(|(other, _)| *other > priority);
        match self.priorities.get_mut(at).filter(|(other, _)| *other == priority) {
            Some((_, vms)) => {
                *vms += 1;
                false
            }
            None => {
                self.priorities.insert(at, (priority, 1));
                true
            }
        }
    }

    fn discount(&mut self, priority: u32) -> bool {
        let at = self.priorities.partition_point(|(other, _)| *other > priority);
        let (_, vms) = &mut self.priorities[at];
        *vms -= 1;
        let is_last = *vms == 0;
        if is_last {
            self.priorities.remove(at);
        }
        is_last
    }

    /// Whether a lower priority competes.
    pub(super) fn outranks(&self, priority: u32) -> bool {
        self.priorities.last().is_some_and(|(lowest, _)| *lowest < priority)
    }

    /// How many higher priorities compete; all beyond the last level are on it.
    pub(super) fn level(&self, priority: u32) -> Level {
        let above = self.priorities.iter().take(LEVELS - 1).take_while(|(other, _)| *other > priority);
        Level::below(above.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn levels(of: &Competition) -> Vec<usize> {
        [100, 50, 20, 10, 1].map(|priority| of.level(priority).index()).to_vec()
    }

    #[test]
    fn a_level_is_the_number_of_higher_priorities_that_compete() {
        let mut all = Competition::new([100, 50, 50, 20, 10, 1].into_iter());
        assert_eq!(levels(&all), [0; 5]);
        assert!(all.enter(VmId(1)));
        assert!(!all.enter(VmId(2)), "another of the same priority");
        assert_eq!(levels(&all), [0, 0, 1, 1, 1]);
        for vm in [0, 3, 4, 5] {
            all.enter(VmId(vm));
        }
        assert_eq!(levels(&all), [0, 1, 2, 3, 3], "the last level takes all the rest");
    }

    #[test]
    fn who_has_gone_idle_is_reckoned_with_for_a_moment() {
        let mut all = Competition::new([100, 1].into_iter());
        all.enter(VmId(0));
        all.rest(VmId(0), at(1000));
        assert!(!all.pass(at(1049)));
        assert_eq!(all.level(1).index(), 1);
        all.enter(VmId(0));
        all.rest(VmId(0), at(1040));
        assert!(!all.pass(at(1050)), "it was back meanwhile");
        assert!(!all.pass(at(1089)));
        assert!(all.pass(at(1090)));
        assert_eq!(all.level(1).index(), 0);
        assert!(all.line.is_empty());
    }

    #[test]
    fn one_that_comes_and_goes_stands_in_line_once() {
        let mut all = Competition::new([100, 1].into_iter());
        for millis in 0..100 {
            all.enter(VmId(0));
            all.rest(VmId(0), at(millis));
            all.pass(at(millis));
            assert_eq!(all.line.len(), 1);
        }
        all.enter(VmId(0));
        all.pass(at(1000));
        assert_eq!((all.line.len(), all.level(1).index()), (0, 1), "active is not in line");
    }

    #[test]
    fn a_changed_priority_counts_at_once() {
        let mut all = Competition::new([100, 50].into_iter());
        all.enter(VmId(0));
        all.configure([10, 50].into_iter());
        assert_eq!([50, 10, 1].map(|p| all.level(p).index()), [0, 0, 1]);
    }
}
