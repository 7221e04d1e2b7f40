//! Bounded flapping: whatever paths do, no VM is suspended and resumed more than twice in five minutes.
//!
//! A round is one suspension by a failure and the resume that ends it. What an operator asks for does not count, nor what
//! QEMU's own reconnects need.
//! It does not know paths.

use super::{Verdict, broken};
use std::collections::VecDeque;
use vmpath_core::ids::VmId;
use vmpath_core::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(300);
const ROUNDS: usize = 2;

#[derive(Debug, Default)]
pub(super) struct Flapping {
    /// By `VmId`: the last rounds, as (suspended, resumed).
    rounds: Vec<VecDeque<(Instant, Instant)>>,
    /// By `VmId`: the last times that it went on, for whatever reason.
    went_on: Vec<VecDeque<Instant>>,
}

impl Flapping {
    fn fill(&mut self, vm: VmId) {
        if self.rounds.len() <= vm.index() {
            self.rounds.resize(vm.index() + 1, VecDeque::new());
            self.went_on.resize(vm.index() + 1, VecDeque::new());
        }
    }

    /// It is continued, or its `stop` is no longer wanted, whether or not that takes effect.
    pub(super) fn went_on(&mut self, vm: VmId, now: Instant) {
        self.fill(vm);
        let times = &mut self.went_on[vm.index()];
        times.push_back(now);
        if times.len() > ROUNDS {
            times.pop_front();
        }
    }

    /// The resume of a VM that a failure had suspended at `since`.
    pub(super) fn resumed(&mut self, vm: VmId, name: &str, since: Instant, now: Instant) -> Verdict {
        self.fill(vm);
        let rounds = &mut self.rounds[vm.index()];
        rounds.push_back((since, now));
        if rounds.len() <= ROUNDS {
            return Ok(());
        }
        match rounds.pop_front() {
            Some((first, _)) if now.since(first) < WINDOW => {
                let text =
                    format!("{name} is suspended and resumed {} times in {:?}", ROUNDS + 1, now.since(first));
                broken("flapping", text)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The resume that was counted last never happened.
    pub(super) fn not_resumed(&mut self, vm: VmId) {
        self.fill(vm);
        self.rounds[vm.index()].pop_back();
    }

    /// It may have to wait for the sake of this rule.
    pub(super) fn is_restless(&self, vm: VmId, now: Instant) -> bool {
        let Some(times) = self.went_on.get(vm.index()) else { return false };
        let lately = |at: &&Instant| now.since(**at) < WINDOW + WINDOW / 10;
        times.iter().filter(lately).count() >= ROUNDS
    }
}
