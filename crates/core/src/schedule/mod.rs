//! Which VM goes next: reservation, limit and weight tags per VM, after mClock (Gulati et al., OSDI 2010).
//!
//! A VM behind on its reservation goes first, the highest priority among several; then, of those under their limits,
//! the one that has had least for its shares. Work-conserving; an idle VM banks no credit; a request is charged once,
//! at its first dispatch, however often it is resent. It does not know paths, windows, queues or what a request is.

use crate::spec::{ByteRate, VmSpec};
use crate::time::{Duration, Instant};

/// How far a VM's tags may run ahead of its limit: bursts shorter than this are not smoothed.
const LIMIT_BURST: Duration = Duration::from_millis(20);
/// The most reservation that a backlogged VM can be owed; more would let it starve others after an outage.
const RESERVATION_DEBT_MAX: Duration = Duration::from_millis(500);
/// Device time that every request costs, expressed in bytes, so that small requests are not free.
const BASE_COST_BYTES: u64 = 8 * 1024;

/// What one request costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Bytes moved; counted against limit and reservation.
    pub bytes: u64,
}

impl Cost {
    /// Bytes plus a base: what a path's window and the shares are charged.
    #[must_use]
    pub const fn device_bytes(self) -> u64 {
        self.bytes + BASE_COST_BYTES
    }
}

/// One VM's allocation and where it stands in it.
#[derive(Clone, Debug)]
pub struct Tags {
    priority: u32,
    shares: u64,
    reservation: Option<ByteRate>,
    limit: Option<ByteRate>,
    limit_iops: Option<u64>,
    /// When the next request is due under the reservation.
    reservation_due: Instant,
    /// When the bytes, and the requests, dispatched so far would have been used up at exactly the limit.
    bytes_due: Instant,
    requests_due: Instant,
    /// Virtual time: device bytes per share, had so far.
    weight: u128,
    active: Activity,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    Idle,
    Backlogged,
}

/// Why a VM is the one to go; what is reserved is more than what is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Weight,
    Reservation,
}

impl Tags {
    #[must_use]
    pub fn new(vm: &VmSpec) -> Self {
        let mut tags = Self {
            priority: 0,
            shares: 1,
            reservation: None,
            limit: None,
            limit_iops: None,
            reservation_due: Instant::ZERO,
            bytes_due: Instant::ZERO,
            requests_due: Instant::ZERO,
            weight: 0,
            active: Activity::Idle,
        };
        tags.configure(vm);
        tags
    }

    /// Takes over changed settings; what has been used stays used.
    pub fn configure(&mut self, vm: &VmSpec) {
        self.priority = vm.priority;
        self.shares = u64::from(vm.shares.max(1));
        self.reservation = vm.reservation;
        self.limit = vm.limit;
        self.limit_iops = vm.limit_iops;
    }

    #[must_use]
    pub const fn priority(&self) -> u32 {
        self.priority
    }

    /// When the limit lets the next request go; not after `now` if it may go at once.
    #[must_use]
    pub fn allowed_at(&self) -> Instant {
        self.bytes_due.max(self.requests_due) - LIMIT_BURST
    }

    fn behind_reservation(&self, now: Instant) -> bool {
        self.reservation.is_some() && self.reservation_due <= now
    }
}

/// All VMs of one data-plane worker, by `VmId`.
#[derive(Clone, Debug)]
pub struct Scheduler {
    vms: Vec<Tags>,
    /// Those that are backlogged, in no order.
    backlogged: Vec<usize>,
    /// The weight of the VM last picked for its shares: where one that was idle joins.
    virtual_time: u128,
}

impl Scheduler {
    pub fn new<'a>(vms: impl IntoIterator<Item = &'a VmSpec>) -> Self {
        Self { vms: vms.into_iter().map(Tags::new).collect(), backlogged: Vec::new(), virtual_time: 0 }
    }

    pub fn configure<'a>(&mut self, vms: impl IntoIterator<Item = &'a VmSpec>) {
        for (tags, vm) in self.vms.iter_mut().zip(vms) {
            tags.configure(vm);
        }
    }

    #[must_use]
    pub fn tags(&self, vm: usize) -> &Tags {
        &self.vms[vm]
    }

    /// A request of `vm` waits. An idle VM starts level with the others: no credit for having been idle.
    pub fn backlogged(&mut self, vm: usize, now: Instant) {
        if self.vms[vm].active == Activity::Backlogged {
            return;
        }
        let floor = self.backlogged.iter().map(|vm| self.vms[*vm].weight).min();
        self.backlogged.push(vm);
        let floor = floor.unwrap_or(0).max(self.virtual_time);
        let tags = &mut self.vms[vm];
        tags.active = Activity::Backlogged;
        tags.weight = tags.weight.max(floor);
        tags.reservation_due = tags.reservation_due.max(now);
    }

    /// Nothing of `vm` waits any more.
    pub fn idle(&mut self, vm: usize) {
        if self.vms[vm].active == Activity::Idle {
            return;
        }
        self.vms[vm].active = Activity::Idle;
        let at = self.backlogged.iter().position(|other| *other == vm).expect("it is among them");
        self.backlogged.swap_remove(at);
    }

    /// Of the candidates that are within their limits, the one to go next.
    pub fn pick(&self, candidates: impl Iterator<Item = usize>, now: Instant) -> Option<(usize, Phase)> {
        let mut best: Option<(Phase, usize)> = None;
        for vm in candidates {
            let tags = &self.vms[vm];
            if tags.allowed_at() > now {
                continue;
            }
            let phase = if tags.behind_reservation(now) { Phase::Reservation } else { Phase::Weight };
            let better = match best {
                None => true,
                Some((Phase::Reservation, _)) if phase == Phase::Weight => false,
                Some((Phase::Weight, _)) if phase == Phase::Reservation => true,
                Some((Phase::Reservation, other)) => {
                    let other = &self.vms[other];
                    (other.priority, tags.reservation_due) < (tags.priority, other.reservation_due)
                }
                Some((Phase::Weight, other)) => tags.weight < self.vms[other].weight,
            };
            if better {
                best = Some((phase, vm));
            }
        }
        best.map(|(phase, vm)| (vm, phase))
    }

    /// Charges the first dispatch of a request.
    pub fn charge(&mut self, vm: usize, phase: Phase, cost: Cost, now: Instant) {
        let tags = &mut self.vms[vm];
        if phase == Phase::Weight {
            self.virtual_time = self.virtual_time.max(tags.weight);
        }
        tags.weight += u128::from(cost.device_bytes()) * 1000 / u128::from(tags.shares);
        if let Some(limit) = tags.limit {
            tags.bytes_due = tags.bytes_due.max(now) + time_for(cost.bytes, limit.0);
        }
        if let Some(iops) = tags.limit_iops {
            tags.requests_due = tags.requests_due.max(now) + time_for(1, iops);
        }
        if let (Phase::Reservation, Some(reservation)) = (phase, tags.reservation) {
            let floor = now - RESERVATION_DEBT_MAX;
            tags.reservation_due = tags.reservation_due.max(floor) + time_for(cost.bytes, reservation.0);
        }
    }
}

/// How long `amount` takes at `per_second`.
fn time_for(amount: u64, per_second: u64) -> Duration {
    let nanos = u128::from(amount) * 1_000_000_000 / u128::from(per_second.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
