//! A path as the simulated array serves it: first in, first out.
//!
//! A request begins when one of `PARALLEL` places is free, takes `DELAY` and a part of it at random there, then goes over
//! the wire, which carries `rate` bytes per second, one request after the other in the order in which they came. So the
//! path's capacity is exactly `rate`, and a request alone on it takes `DELAY` and its own length. The outcome is known
//! when the request comes in: a lost path only has to forget. It does not know: requests, VMs.

use crate::workload::mix::Dice;
use std::collections::VecDeque;
use vmpath_core::time::{Duration, Instant};

/// Of the array, before the first byte moves; up to a half more at random.
const DELAY: Duration = Duration::from_micros(300);
/// Requests that an array works on at a time, on one path.
const PARALLEL: usize = 128;

#[derive(Clone, Debug)]
pub(super) struct Path {
    rate: u64,
    wire_free: Instant,
    /// When those before this one are done, the latest last.
    done: VecDeque<Instant>,
}

impl Path {
    pub(super) fn new(rate: u64) -> Self {
        Self { rate, wire_free: Instant::ZERO, done: VecDeque::with_capacity(PARALLEL) }
    }

    /// When a request that comes now will have been answered.
    pub(super) fn serve(&mut self, now: Instant, bytes: u32, dice: &mut Dice) -> Instant {
        let begins = if self.done.len() == PARALLEL {
            self.done.pop_front().map_or(now, |at| at.max(now))
        } else {
            now
        };
        let jitter = Duration::from_nanos(dice.below(DELAY.as_nanos() as u64 / 2));
        let on_wire = Duration::from_nanos(u64::from(bytes) * 1_000_000_000 / self.rate);
        let done = self.wire_free.max(begins + DELAY + jitter) + on_wire;
        self.wire_free = done;
        self.done.push_back(done);
        done
    }

    /// What it worked on is gone.
    pub(super) fn lose(&mut self, now: Instant) {
        self.wire_free = now;
        self.done.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_carries_its_rate_and_no_more() {
        let mut dice = Dice::new(1);
        let mut path = Path::new(100 << 20);
        let alone = path.serve(Instant::ZERO, 16 << 10, &mut dice).since(Instant::ZERO);
        assert!((DELAY..DELAY * 2).contains(&alone), "{alone:?}");
        let mut last = Instant::ZERO;
        for _ in 0..6400 {
            let done = path.serve(Instant::ZERO, 16 << 10, &mut dice);
            assert!(done > last, "in order");
            last = done;
        }
        let took = last.since(Instant::ZERO).as_secs_f64();
        assert!((1.0..1.01).contains(&took), "100 MiB in {took} s");
    }

    #[test]
    fn only_so_many_are_worked_on_at_a_time() {
        let mut dice = Dice::new(1);
        let mut path = Path::new(1 << 40);
        let mut last = Instant::ZERO;
        for _ in 0..PARALLEL * 10 {
            last = path.serve(Instant::ZERO, 1, &mut dice);
        }
        assert!(last.since(Instant::ZERO) >= DELAY * 9, "ten rounds, none shorter than the delay");
    }
}
