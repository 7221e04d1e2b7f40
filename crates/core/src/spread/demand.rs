//! What one worker's VMs asked of one path: the report from which control divides the path's window.
//!
//! Invariant: it adds up. What is said of several allocations with the same numbers is one claim, so a report is as long as
//! there are different settings among the VMs that are at work, and not as long as there are VMs.
//! Rejected: sums over the worker. Of a reservation and of shares a VM gets the larger, and a sum of larger ones cannot be
//! told from two sums: a half and more of a part would be wrong. It does not know other workers, nor windows.

use std::fmt::Debug;

/// Over one interval, at one path. Rates are in device bytes per second, as windows are: see
/// [`crate::schedule::Cost::device_bytes`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Demand {
    claims: Vec<Claim>,
    carried: f64,
}

/// What a lone VM, or a group, asked for in the interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Asked {
    /// Of the VM; of a group, the highest of its members that were at work.
    pub priority: u32,
    pub shares: u32,
    /// Its reservation in device bytes per second: the configured one, times device bytes per byte of what it sent.
    pub reserved: u64,
    /// Paths that it may use and that are usable now: what it has is reckoned as spread evenly over them. At least 1.
    pub paths: u32,
    /// Device bytes per second that this path carried for it.
    pub carried: u64,
    /// Part of the interval (0 to 1) in which a request of it waited for room here, and not for its own limit.
    pub waited: f64,
}

/// Allocations with the same numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Claim {
    pub(super) priority: u32,
    shares: u32,
    reserved: u64,
    paths: u32,
    /// How many, each for the part of the interval in which this was so.
    pub(super) number: f64,
    pub(super) wants: Wants,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wants {
    /// It waited: all that it can get.
    Room,
    /// It did not wait, and was carried this much, all together.
    Carried(f64),
}

impl Demand {
    /// Adds what one allocation asked for.
    pub fn add(&mut self, asked: &Asked) {
        let waited = asked.waited.clamp(0.0, 1.0);
        let carried = asked.carried as f64;
        self.carried += carried;
        let claim = |number: f64, wants: Wants| Claim {
            priority: asked.priority,
            shares: asked.shares.max(1),
            reserved: asked.reserved,
            paths: asked.paths.max(1),
            number,
            wants,
        };
        if waited > 0.0 {
            self.merge(claim(waited, Wants::Room));
        }
        if waited < 1.0 && carried > 0.0 {
            self.merge(claim(1.0 - waited, Wants::Carried(carried * (1.0 - waited))));
        }
    }

    fn merge(&mut self, claim: Claim) {
        match self.claims.iter_mut().find(|known| known.is_like(&claim)) {
            Some(known) => {
                known.number += claim.number;
                if let (Wants::Carried(sum), Wants::Carried(more)) = (&mut known.wants, claim.wants) {
                    *sum += more;
                }
            }
            None => self.claims.push(claim),
        }
    }

    /// Device bytes per second, for all.
    #[must_use]
    pub fn carried(&self) -> f64 {
        self.carried
    }

    /// Somebody waited for room.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.claims.iter().any(|claim| claim.wants == Wants::Room)
    }

    /// As if both had lasted half as long, one after the other.
    #[must_use]
    pub fn mean(&self, other: &Self) -> Self {
        let mut mean = Self { claims: Vec::new(), carried: (self.carried + other.carried) / 2.0 };
        for claim in self.claims.iter().chain(&other.claims) {
            let wants = match claim.wants {
                Wants::Room => Wants::Room,
                Wants::Carried(sum) => Wants::Carried(sum / 2.0),
            };
            mean.merge(Claim { number: claim.number / 2.0, wants, ..*claim });
        }
        mean
    }

    pub(super) fn claims(&self) -> &[Claim] {
        &self.claims
    }
}

impl Claim {
    fn is_like(&self, other: &Self) -> bool {
        let numbers = |c: &Self| (c.priority, c.shares, c.reserved, c.paths);
        numbers(self) == numbers(other)
            && std::mem::discriminant(&self.wants) == std::mem::discriminant(&other.wants)
    }

    /// Device bytes per second that are reserved for them on this path.
    pub(super) fn reserved(&self) -> f64 {
        self.number * self.reserved as f64 / f64::from(self.paths)
    }

    /// Their weight on this path.
    pub(super) fn shares(&self) -> f64 {
        self.number * f64::from(self.shares) / f64::from(self.paths)
    }
}
