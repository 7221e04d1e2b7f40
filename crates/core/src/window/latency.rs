//! Latency by size class: what was seen in a step, and the least lately seen, which is the base.
//!
//! A class holds requests within a factor of two in size, so that one base serves all. Invariant: a class's base is never
//! above any latency seen in it for the last half. Rejected: one base and a cost per byte fitted to it; what a byte costs
//! depends on what an array does with it. It does not know windows or time, except when a half ends.

use crate::time::{Duration, Instant};

/// Powers of two of 4 KiB: 4 KiB, 8 KiB, … 1 MiB, and all above.
const CLASSES: usize = 10;
/// A base is the least of this half and the one before. One in which the path was never nearly empty is not over: the bases
/// would be forgotten for what requests take with a queue before them.
const HALF: Duration = Duration::from_secs(5);
/// What a queue in the path may add to the base: half of it, so that a path far away is kept full,
const ALLOWANCE_SHIFT: u32 = 1;
/// but at least this: less could not be told from a host's and an array's hiccups, and protects nobody.
const ALLOWANCE_MIN: u64 = 2_000_000;
/// A base that falls by more than an eighth at once was not the path's: the least of a queue.
const FELL_SHIFT: u32 = 3;
const UNKNOWN: u64 = u64::MAX;

/// Latencies of requests of about one size, in ns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Class {
    base: u64,
    /// The least of the present half, and of the one before.
    half: u64,
    half_before: u64,
    /// The last.
    latest: u64,
    /// Of the present step.
    count: u64,
    took: u64,
    weight: u64,
    least: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Classes {
    all: [Class; CLASSES],
    /// How far latency is above the bases without any queue of ours: an array's own unevenness, other hosts.
    noise: u64,
    noise_max: u64,
    turns_at: Instant,
    ages: Ages,
    largest: u64,
    largest_half: u64,
    largest_half_before: u64,
}

/// One step, as means over what was served, weighed by cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) latency: u64,
    pub(super) base: u64,
    pub(super) target: u64,
    pub(super) pending: u64,
    /// How far above the least of its class.
    pub(super) spread: u64,
    /// By class, to compare another mix with this one.
    took: [u64; CLASSES],
    weight: [u64; CLASSES],
}

/// Whether the present half may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ages {
    Freely,
    OnceEmptied,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    Held,
    Fell,
}

/// Whether any base is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Something,
    Nothing,
}

/// What counts as having stayed where it was.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slack {
    /// Has not fallen below 4/5.
    Fall,
    /// Has not risen above 6/5.
    Rise,
}

pub(super) fn nanos(d: Duration) -> u64 {
    d.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(d.subsec_nanos())).max(1)
}

impl Class {
    const NEW: Self = Self {
        base: UNKNOWN,
        half: UNKNOWN,
        half_before: UNKNOWN,
        latest: 0,
        count: 0,
        took: 0,
        weight: 0,
        least: UNKNOWN,
    };

    /// Takes note of a latency, whatever it tells of. Returns whether the base was far too high.
    #[inline]
    pub(super) fn note(&mut self, took: u64) -> Base {
        self.latest = took;
        self.half = self.half.min(took);
        let before = self.base;
        self.base = before.min(took);
        if took < before - (before >> FELL_SHIFT) && before != UNKNOWN { Base::Fell } else { Base::Held }
    }

    #[inline]
    pub(super) fn add(&mut self, took: u64, weight: u64) {
        self.count += 1;
        self.took = self.took.saturating_add(took);
        self.weight += weight;
        self.least = self.least.min(took);
    }

    fn mean(&self) -> Option<u64> {
        self.took.checked_div(self.count)
    }

    fn set_base(&mut self, base: u64) {
        (self.base, self.half, self.half_before) = (base, base, UNKNOWN);
    }
}

impl Default for Classes {
    fn default() -> Self {
        Self {
            all: [Class::NEW; CLASSES],
            noise: 0,
            noise_max: 0,
            turns_at: Instant::ZERO,
            ages: Ages::OnceEmptied,
            largest: 0,
            largest_half: 0,
            largest_half_before: 0,
        }
    }
}

impl Classes {
    #[inline]
    pub(super) fn of(&mut self, bytes: u64) -> &mut Class {
        let pages = bytes.saturating_sub(1) >> 12;
        let class = (u64::BITS - pages.leading_zeros()) as usize;
        &mut self.all[class.min(CLASSES - 1)]
    }

    /// The largest request lately seen, in device bytes.
    pub(super) const fn largest(&self) -> u64 {
        self.largest
    }

    pub(super) const fn turns_at(&self) -> Instant {
        self.turns_at
    }

    /// The path was nearly empty.
    #[inline]
    pub(super) fn may_age(&mut self) {
        self.ages = Ages::Freely;
    }

    pub(super) fn saw(&mut self, device_bytes: u64) {
        self.largest_half = self.largest_half.max(device_bytes);
        self.largest = self.largest_half.max(self.largest_half_before);
    }

    /// Ends a half, if it is over; after two without a reply nothing is left of what was known.
    pub(super) fn age(&mut self, now: Instant) -> Known {
        if now < self.turns_at {
            return Known::Something;
        }
        if self.ages == Ages::OnceEmptied {
            self.turns_at = now + HALF / 64;
            return Known::Something;
        }
        self.ages = Ages::OnceEmptied;
        let turns = if now >= self.turns_at + HALF { 2 } else { 1 };
        for _ in 0..turns {
            for class in &mut self.all {
                class.half_before = std::mem::replace(&mut class.half, UNKNOWN);
                class.base = class.half_before;
            }
            self.largest_half_before = std::mem::take(&mut self.largest_half);
            self.largest = self.largest_half_before;
        }
        self.turns_at = now + HALF;
        if turns == 1 { Known::Something } else { Known::Nothing }
    }

    /// What requests of the slowest size take. A size that does not come any more soon has no say.
    pub(super) fn slowest(&self) -> Duration {
        Duration::from_nanos(self.all.iter().map(|class| class.latest).max().unwrap_or(0))
    }

    pub(super) fn start_step(&mut self) {
        for class in &mut self.all {
            class.latest /= 2;
            (class.count, class.took, class.weight, class.least) = (0, 0, 0, UNKNOWN);
        }
    }

    /// How long the path takes for one of the largest requests, by what is in flight and how long that takes.
    fn time_of_one(&self, pending: u64) -> u64 {
        let (mut took, mut weights) = (0_u128, 0_u128);
        for class in &self.all {
            took += u128::from(class.mean().unwrap_or(0)) * u128::from(class.weight);
            weights += u128::from(class.weight);
        }
        let latency = took / weights.max(1);
        u64::try_from(latency * u128::from(self.largest) / u128::from(pending.max(self.largest))).unwrap_or(0)
    }

    pub(super) fn seen(&self, pending: u64) -> Seen {
        let mut seen = Seen {
            latency: 0,
            base: 0,
            target: 0,
            pending,
            spread: 0,
            took: [0; CLASSES],
            weight: [0; CLASSES],
        };
        let (mut latency, mut base, mut target, mut spread, mut weights) =
            (0_u128, 0_u128, 0_u128, 0_u128, 0_u128);
        let one = self.time_of_one(pending);
        for (at, class) in self.all.iter().enumerate() {
            let Some(took) = class.mean() else { continue };
            (seen.took[at], seen.weight[at]) = (took, class.weight);
            let allowance = (class.base >> ALLOWANCE_SHIFT).max(ALLOWANCE_MIN).max(one);
            let weight = u128::from(class.weight);
            latency += weight * u128::from(took);
            base += weight * u128::from(class.base);
            spread += weight * u128::from(took - class.least);
            target += weight * (u128::from(class.base) + u128::from(allowance) + u128::from(self.noise));
            weights += weight;
        }
        let mean = |sum: u128| u64::try_from(sum / weights.max(1)).unwrap_or(u64::MAX);
        (seen.latency, seen.base, seen.target) = (mean(latency), mean(base), mean(target));
        seen.spread = mean(spread);
        seen
    }

    /// Whether latency stayed where it was, over the classes that were served in both steps, as they are mixed now. True
    /// if there is none: nothing shows that it moved.
    pub(super) fn stays(&self, before: &Seen, now: &Seen, slack: Slack) -> bool {
        let (mut was, mut is) = (0_u128, 0_u128);
        for at in 0..CLASSES {
            if before.weight[at] > 0 && now.weight[at] > 0 {
                was += u128::from(now.weight[at]) * u128::from(before.took[at]);
                is += u128::from(now.weight[at]) * u128::from(now.took[at]);
            }
        }
        match slack {
            Slack::Fall => is * 5 >= was * 4,
            Slack::Rise => is * 5 <= was * 6,
        }
    }

    /// What was seen in this step is the path's own: the least becomes the base, and what the mean is above that, noise.
    pub(super) fn rebase(&mut self) {
        let (mut shift, mut noise, mut weights) = (0_u128, 0_u128, 0_u128);
        for class in &mut self.all {
            let Some(took) = class.mean() else { continue };
            let weight = u128::from(class.weight);
            shift += weight * u128::from(class.least.saturating_sub(class.base));
            noise += weight * u128::from(took - class.least);
            weights += weight;
            class.set_base(class.least);
        }
        let mean = |sum: u128| u64::try_from(sum / weights.max(1)).unwrap_or(u64::MAX);
        for class in self.all.iter_mut().filter(|class| class.count == 0 && class.base != UNKNOWN) {
            // It was not asked, but is as much further away.
            class.set_base(class.base.saturating_add(mean(shift)));
        }
        self.noise = mean(noise);
        self.noise_max = self.noise;
    }

    /// Latency in this step was that far above its least: what noise there is shows in each step. Never more than was found
    /// when it was told from a queue of ours, which may spread latency too.
    pub(super) fn calm(&mut self, spread: u64) {
        self.noise = (self.noise - (self.noise >> 3) + (spread >> 3)).min(self.noise_max);
    }
}

impl Seen {
    /// By Little's law, with a tolerance of a tenth.
    pub(super) fn carries_less_than(&self, before: &Self) -> bool {
        let (is, was) = (
            u128::from(self.pending) * u128::from(before.latency),
            u128::from(before.pending) * u128::from(self.latency),
        );
        is * 10 < was * 9
    }

    /// What would be in flight if nothing waited.
    pub(super) fn without_queue(&self) -> u64 {
        let bytes = u128::from(self.pending) * u128::from(self.base) / u128::from(self.latency.max(1));
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// As much of `bytes` as would bring latency to its target.
    pub(super) fn scaled(&self, bytes: u64) -> u64 {
        let scaled = u128::from(bytes) * u128::from(self.target) / u128::from(self.latency.max(1));
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }
}
