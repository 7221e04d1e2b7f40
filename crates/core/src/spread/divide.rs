//! How a path's window is divided between the workers whose VMs use it, by what these ask for.
//!
//! Rule: each worker gets what its VMs would get if one scheduler served all VMs of the host. There, a VM that waits has the
//! larger of its reservation and its shares times a level that is the same for all; one that does not wait has what it asks
//! for, if that is less; the levels add up to what the path carries. In one FIFO path, who has a part of the bytes in flight
//! has that part of the throughput, so parts of the throughput are parts of the window.
//! Rejected: a common counter of bytes in flight (a cache line that every worker writes for every request), and lending
//! between workers (messages on the I/O path, and priorities that end at the borrower).
//! It does not know paths, time or earlier parts: see [`super::Division`].

use super::demand::{Claim, Demand, Wants};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// A part of a window, in 2^-20.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part(u32);

impl Part {
    pub const NONE: Self = Self(0);
    pub const WHOLE: Self = Self(1 << 20);

    /// This part of an amount, rounded down.
    #[must_use]
    pub fn of(self, amount: u64) -> u64 {
        if self == Self::WHOLE {
            return amount;
        }
        let part = u128::from(amount) * u128::from(self.0) / u128::from(Self::WHOLE.0);
        u64::try_from(part).unwrap_or(u64::MAX)
    }

    /// The amount of which `part` is this part; as it is for nothing.
    #[must_use]
    pub fn whole(self, part: u64) -> u64 {
        if self == Self::WHOLE || self == Self::NONE {
            return part;
        }
        u64::try_from(u128::from(part) * u128::from(Self::WHOLE.0) / u128::from(self.0)).unwrap_or(u64::MAX)
    }

    pub(super) fn share(self) -> f64 {
        f64::from(self.0) / f64::from(Self::WHOLE.0)
    }

    /// One of `n` that are equal, as far as they can be.
    #[must_use]
    pub fn one_of(n: u32) -> Self {
        Self(Self::WHOLE.0 / n.max(1))
    }
}

/// A worker without anybody who waits gets this much more than what it carries, so that it may grow before the next report.
const SLACK: f64 = 1.25;
/// The same for those who do not wait beside others who do: with exactly what it carries, one would wait for an instant
/// now and then, and seem to want all.
const JUST_MET: f64 = 1.02;
/// The floors of all workers together, if none has anybody who waits: so that they start at once.
const FLOOR_IDLE: f64 = 1.0 / 8.0;
/// The same, if somebody waits: so that nobody stands still. Less, since it takes from others what is theirs.
const FLOOR_WAITING: f64 = 1.0 / 64.0;

/// The part of each worker, in the order of `demands`; the parts add up to [`Part::WHOLE`]. `capacity` is what the path
/// carries in device bytes per second; without it, or without demands, the parts are equal.
///
/// Slack and floors are added to what each should have, and then all are scaled alike: what is not used of them leaves room in
/// the path, all windows grow into it, and those who wait have what they should.
#[must_use]
pub fn divide(capacity: f64, demands: &[Demand]) -> Vec<Part> {
    if capacity <= 0.0 || demands.iter().all(|demand| demand.claims().is_empty()) {
        return rounded(&vec![1.0; demands.len()]);
    }
    let n = demands.len() as f64;
    let level = level(capacity, demands);
    let mut rates = match level {
        Some(level) => rates(demands, |claim| at_level(claim, level, JUST_MET)),
        None => by_priority(capacity, demands),
    };
    let left = (capacity - rates.iter().sum::<f64>()).max(0.0) / n;
    for (rate, demand) in rates.iter_mut().zip(demands) {
        let floor = if demand.waits() { FLOOR_WAITING } else { FLOOR_IDLE };
        let slack = level
            .filter(|_| !demand.waits())
            .map_or(*rate, |level| demand.claims().iter().map(|claim| at_level(claim, level, SLACK)).sum());
        *rate = (rate.max(slack) + left).max(capacity * floor / n);
    }
    rounded(&rates)
}

fn rates(demands: &[Demand], rate: impl Fn(&Claim) -> f64) -> Vec<f64> {
    demands.iter().map(|demand| demand.claims().iter().map(&rate).sum()).collect()
}

/// The most that it takes, in device bytes per second.
fn most(claim: &Claim) -> f64 {
    match claim.wants {
        Wants::Room => f64::INFINITY,
        Wants::Carried(carried) => carried,
    }
}

/// What it gets when each share is worth `level` device bytes per second.
fn at_level(claim: &Claim, level: f64, slack: f64) -> f64 {
    claim.reserved().max(claim.shares() * level).min(most(claim) * slack)
}

/// The level at which all together get the capacity, infinite if that is more than they take; none if not even the
/// reservations fit.
fn level(capacity: f64, demands: &[Demand]) -> Option<f64> {
    let claims = || demands.iter().flat_map(Demand::claims);
    let reserved: f64 = claims().map(|claim| claim.reserved().min(most(claim))).sum();
    let takers =
        claims().map(|claim| Taker { least: claim.reserved(), weight: claim.shares(), most: most(claim) });
    (reserved <= capacity).then(|| fill(capacity, takers))
}

/// Gets its weight times the level, within its bounds.
struct Taker {
    least: f64,
    weight: f64,
    most: f64,
}

/// The level at which what all get adds up to `amount`, infinite if they take less. What they get grows with the level in
/// straight pieces: the corners are visited in order.
fn fill(amount: f64, takers: impl Iterator<Item = Taker>) -> f64 {
    let (mut got, mut level, mut slope) = (0.0, 0.0, 0.0);
    let mut corners: Vec<(f64, f64)> = Vec::new();
    for Taker { least, weight, most } in takers {
        got += least.min(most);
        if least < most && weight > 0.0 {
            corners.push((least / weight, weight));
            corners.push((most / weight, -weight));
        }
    }
    corners.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (corner, more) in corners {
        if slope > 0.0 {
            let there = got + slope * (corner - level);
            if there >= amount {
                return level + (amount - got) / slope;
            }
            got = there;
        }
        (level, slope) = (corner, slope + more);
    }
    f64::INFINITY
}

/// The reservations do not fit: the highest priority first; where it does not suffice, all get the same part of theirs.
fn by_priority(capacity: f64, demands: &[Demand]) -> Vec<f64> {
    let claims = || demands.iter().flat_map(Demand::claims);
    let mut met: BTreeMap<u32, f64> = claims().map(|claim| (claim.priority, 0.0)).collect();
    let at = |claim: &Claim, met: f64| (claim.reserved() * met).min(most(claim));
    let mut left = capacity;
    for (priority, met) in met.iter_mut().rev() {
        let equals = || claims().filter(|claim| claim.priority == *priority);
        let takers = equals().map(|claim| Taker { least: 0.0, weight: claim.reserved(), most: most(claim) });
        *met = fill(left, takers).min(1.0);
        left = (left - equals().map(|claim| at(claim, *met)).sum::<f64>()).max(0.0);
    }
    rates(demands, |claim| (claim.reserved() * met[&claim.priority]).min(most(claim) * JUST_MET))
}

/// In fixed point, with the same sum for all: the largest remainders are rounded up.
fn rounded(shares: &[f64]) -> Vec<Part> {
    let sum: f64 = shares.iter().sum();
    let whole = f64::from(Part::WHOLE.0);
    let exact: Vec<f64> = shares.iter().map(|share| share / sum * whole).collect();
    let mut parts: Vec<Part> = exact.iter().map(|exact| Part(exact.floor() as u32)).collect();
    let given: u32 = parts.iter().map(|part| part.0).sum();
    let remainder = |at: &usize| exact[*at] - exact[*at].floor();
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by(|a, b| remainder(b).partial_cmp(&remainder(a)).unwrap_or(Ordering::Equal).then(a.cmp(b)));
    for at in order.into_iter().cycle().take(Part::WHOLE.0.saturating_sub(given) as usize) {
        parts[at].0 += 1;
    }
    parts
}

#[cfg(test)]
mod tests;
