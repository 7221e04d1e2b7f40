//! A leaky bucket: what has been charged and has not yet drained at a rate.
//!
//! The level is kept in amounts (bytes or requests, times 10^9, so that a nanosecond's drain is a whole number), not in time: a new
//! rate then applies to what is owed. Nothing is rounded but the answer to "when". Rejected: the time at which the bucket is
//! empty, as mClock's tags have it: short of a nanosecond's worth it loses a part of each request, and cannot be rescaled.
//! It does not know whether it limits or reserves: `burst` is the time's worth that may stand in it.

use super::lows::Lows;

/// Per byte or request.
const UNIT: u128 = 1_000_000_000;

#[derive(Clone, Debug)]
pub(super) struct Meter {
    /// Amount per second; at least 1.
    rate: u64,
    /// Nanoseconds.
    burst: u64,
    level: u128,
    /// When the level was that.
    at: u64,
    lows: Lows,
}

impl Meter {
    /// An empty one. What was charged before it existed is not refunded from it.
    pub(super) fn new(rate: u64, burst: u64, number: u64, now: u64) -> Self {
        let mut lows = Lows::default();
        lows.note(number, 0);
        Self { rate: rate.max(1), burst, level: 0, at: now, lows }
    }

    fn drain(&mut self, number: u64, now: u64) {
        let drained = u128::from(self.rate) * u128::from(now.saturating_sub(self.at));
        self.level = self.level.saturating_sub(drained);
        self.at = self.at.max(now);
        self.lows.note(number, self.level);
    }

    /// What may stand in it before it is over.
    fn allowance(&self) -> u128 {
        u128::from(self.rate) * u128::from(self.burst)
    }

    pub(super) fn charge(&mut self, amount: u64, number: u64, now: u64) {
        self.drain(number, now);
        self.level += u128::from(amount) * UNIT;
    }

    pub(super) fn refund(&mut self, amount: u64, number: u64) {
        self.level -= self.lows.take_back(number, u128::from(amount) * UNIT, self.level);
    }

    /// As if no room had been saved up before `now`, but for `credit` nanoseconds' worth.
    pub(super) fn forfeit(&mut self, credit: u64, number: u64, now: u64) {
        self.drain(number, now);
        let floor = self.allowance().saturating_sub(u128::from(self.rate) * u128::from(credit));
        self.lows.note(number, self.level.saturating_sub(floor));
        self.level = self.level.max(floor);
    }

    /// Whether it is over by more than `time` would drain.
    pub(super) fn is_ahead(&self, time: u64, now: u64) -> bool {
        let drained = u128::from(self.rate) * u128::from(now.saturating_sub(self.at));
        self.level.saturating_sub(drained)
            > u128::from(self.rate) * (u128::from(self.burst) + u128::from(time))
    }

    /// When it is no longer over: the past if it is not.
    pub(super) fn free_at(&self) -> u64 {
        let full = match u64::try_from(self.level) {
            Ok(level) => level.div_ceil(self.rate),
            Err(_) => u64::try_from(self.level.div_ceil(u128::from(self.rate))).unwrap_or(u64::MAX / 2),
        };
        self.at.saturating_add(full).min(u64::MAX / 2).saturating_sub(self.burst)
    }

    /// What stands in it stays.
    pub(super) fn set_rate(&mut self, rate: u64, burst: u64, number: u64, now: u64) {
        self.drain(number, now);
        (self.rate, self.burst) = (rate.max(1), burst);
    }

    /// By how much it is over or under its allowance stays.
    pub(super) fn set_rate_around(&mut self, rate: u64, number: u64, now: u64) {
        self.drain(number, now);
        let before = self.allowance();
        self.rate = rate.max(1);
        self.level = (self.level + self.allowance()).saturating_sub(before);
        self.lows.note(number, self.level);
    }
}
