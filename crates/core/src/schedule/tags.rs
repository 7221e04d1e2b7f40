//! Where one competitor (a VM, or a group) stands in its allocation: weight, reservation, limits.
//!
//! Invariant: `weight` is below [`WEIGHT_MAX`] plus one request; the scheduler rebases before. Rejected: a weight of 128 bits, which
//! never needs that but halves what a cache line of the trees holds. It does not know classes, nor who else there is.

use super::lows::Lows;
use super::meter::Meter;
use super::tree::NEVER;
use super::turn::{Cost, Phase};
use crate::time::Duration;

/// The most reservation that a backlogged VM can be owed; more would let it starve others after an outage.
const RESERVATION_DEBT: u64 = 500_000_000;
/// What an idle VM may have ahead of its reservation: the unevenness of a paced guest. Without it a request that comes a
/// little early waits for its time behind all who live by their shares.
const RESERVATION_CREDIT: u64 = 2_000_000;
/// How far a group's reservation can be ahead because its members' own are more than it.
const RESERVATION_AHEAD: u64 = 500_000_000;

/// The weight of one page at one share. With 100,000 shares a page still weighs 2684, so shares are rounded by less than
/// one in 2600; with one share it takes 2^34 pages, 64 TiB, to reach [`WEIGHT_MAX`].
const PAGE_WEIGHT: u64 = 1 << 28;
pub(super) const WEIGHT_MAX: u64 = 1 << 62;

/// A class's weights are at most so far from its least as this many pages weigh (64 MiB): one that has used much elsewhere
/// still gets a turn here after the others have had so much.
const LEAD_PAGES: u64 = 16 << 10;
/// How far one may lag that was held by its limit (256 KiB): enough to go at once, too little to be a credit.
const LAG_PAGES: u64 = 64;

/// The numbers of a VM or a group, as they count now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) shares: u32,
    pub(super) reservation: Option<u64>,
    pub(super) limit: Option<u64>,
    pub(super) limit_iops: Option<u64>,
    pub(super) limit_burst: Duration,
}

/// Where the turn was that changed a weight, seen from a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turns {
    Here,
    Elsewhere,
}

#[derive(Clone, Debug)]
pub(super) struct Tags {
    /// Virtual time: pages per share, had so far.
    pub(super) weight: u64,
    page_weight: u64,
    /// Of the last event; receipts and lows are told apart by it.
    number: u64,
    lows: Lows,
    /// Most VMs have none.
    meters: Option<Box<Meters>>,
}

#[derive(Clone, Debug)]
struct Meters {
    reservation: Option<Meter>,
    bytes: Option<Meter>,
    requests: Option<Meter>,
    /// What the meters say, so that it is worked out once.
    due: u64,
    allowed_at: u64,
}

/// One charge to one competitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Paid {
    number: u64,
    weight: u64,
    reserved: bool,
}

impl Tags {
    pub(super) fn new(terms: &Terms, now: u64) -> Self {
        let mut tags = Self { weight: 0, page_weight: 0, number: 0, lows: Lows::default(), meters: None };
        tags.configure(terms, now);
        tags
    }

    /// Takes over changed numbers; what has been used stays used.
    pub(super) fn configure(&mut self, terms: &Terms, now: u64) {
        self.page_weight = PAGE_WEIGHT / u64::from(terms.shares.max(1));
        self.number += 1;
        let number = self.number;
        let burst = u64::try_from(terms.limit_burst.as_nanos()).unwrap_or(u64::MAX);
        let old = self.meters.take().map(|m| *m);
        let (reservation, bytes, requests) =
            old.map_or((None, None, None), |m| (m.reservation, m.bytes, m.requests));
        let limit = |old: Option<Meter>, rate: Option<u64>| {
            rate.map(|rate| {
                let mut meter = old.unwrap_or_else(|| Meter::new(rate, burst, number, now));
                meter.set_rate(rate, burst, number, now);
                meter
            })
        };
        let (bytes, requests) = (limit(bytes, terms.limit), limit(requests, terms.limit_iops));
        let reservation = terms.reservation.map(|rate| match reservation {
            Some(mut meter) => {
                meter.set_rate_around(rate, number, now);
                meter
            }
            None => {
                let mut meter = Meter::new(rate, RESERVATION_DEBT, number, now);
                meter.forfeit(0, number, now);
                meter
            }
        });
        if reservation.is_some() || bytes.is_some() || requests.is_some() {
            self.meters = Some(Box::new(Meters { reservation, bytes, requests, due: 0, allowed_at: 0 }));
            self.read_meters();
        }
    }

    fn read_meters(&mut self) {
        if let Some(m) = &mut self.meters {
            m.due = m.reservation.as_ref().map_or(u64::MAX, Meter::free_at);
            let allowed = |meter: &Option<Meter>| meter.as_ref().map_or(0, Meter::free_at);
            m.allowed_at = allowed(&m.bytes).max(allowed(&m.requests));
        }
    }

    pub(super) fn has_meters(&self) -> bool {
        self.meters.is_some()
    }

    /// When the next request is due under the reservation.
    pub(super) fn due(&self) -> u64 {
        self.meters.as_ref().map_or(u64::MAX, |m| m.due)
    }

    /// When the limits let the next request go.
    pub(super) fn allowed_at(&self) -> u64 {
        self.meters.as_ref().map_or(0, |m| m.allowed_at)
    }

    /// The weight as it counts where the least is `least`: no further ahead of it than the lead that is allowed. One that is
    /// held back to that keeps the `place` that it has, or use elsewhere would push it on and on; a turn here moves it.
    #[inline]
    pub(super) fn weight_against(&self, least: u64, place: u64, turn: Turns) -> u64 {
        let bound = least.saturating_add(LEAD_PAGES * self.page_weight);
        match turn {
            _ if self.weight <= bound => self.weight,
            Turns::Elsewhere if place != NEVER => place,
            Turns::Elsewhere | Turns::Here => bound,
        }
    }

    /// Something waits again: no reservation is owed for the time before, but for a moment.
    pub(super) fn arrive(&mut self, now: u64) {
        let Some(meters) = &mut self.meters else { return };
        if let Some(meter) = &mut meters.reservation {
            self.number += 1;
            meter.forfeit(RESERVATION_CREDIT, self.number, now);
        }
        self.read_meters();
    }

    /// No further back than the virtual time at which it joins.
    pub(super) fn catch_up(&mut self, time: u64) {
        self.number += 1;
        self.lows.note(self.number, u128::from(self.weight.saturating_sub(time)));
        self.weight = self.weight.max(time);
    }

    /// As [`Self::catch_up`], for one that was held by its limit.
    pub(super) fn catch_up_nearly(&mut self, time: u64) {
        self.catch_up(time.saturating_sub(LAG_PAGES * self.page_weight));
    }

    /// It is among others now: its weight begins anew, and what was charged to it before is not refunded.
    pub(super) fn restart(&mut self) {
        self.number += 1;
        self.lows.note(self.number, 0);
        self.weight = 0;
    }

    pub(super) fn rebase(&mut self, by: u64) {
        self.weight = self.weight.saturating_sub(by);
    }

    pub(super) fn charge(&mut self, cost: Cost, phase: Phase, now: u64) -> Paid {
        self.number += 1;
        let weight = cost.pages() * self.page_weight;
        self.weight += weight;
        let mut paid = Paid { number: self.number, weight, reserved: false };
        if let Some(meters) = &mut self.meters {
            if let Some(meter) = &mut meters.bytes {
                meter.charge(cost.bytes, paid.number, now);
            }
            if let Some(meter) = &mut meters.requests {
                meter.charge(1, paid.number, now);
            }
            if let (Phase::Reservation, Some(meter)) = (phase, &mut meters.reservation)
                && !meter.is_ahead(RESERVATION_AHEAD, now)
            {
                meter.charge(cost.bytes, paid.number, now);
                paid.reserved = true;
            }
            self.read_meters();
        }
        paid
    }

    pub(super) fn refund(&mut self, paid: Paid, bytes: u64) {
        let back = self.lows.take_back(paid.number, paid.weight.into(), self.weight.into());
        self.weight -= u64::try_from(back).expect("no more than was charged");
        if let Some(meters) = &mut self.meters {
            if let Some(meter) = &mut meters.bytes {
                meter.refund(bytes, paid.number);
            }
            if let Some(meter) = &mut meters.requests {
                meter.refund(1, paid.number);
            }
            if let (true, Some(meter)) = (paid.reserved, &mut meters.reservation) {
                meter.refund(bytes, paid.number);
            }
            self.read_meters();
        }
    }
}
