//! What the selector knows of a path: one flat record, kept by the router and read in place.
//!
//! Invariant: [`PathState::from_level`] never grows from one level to the next, because what a level sent is part of what all
//! above it are told. Rejected: building a list of candidates for each request; copying cost more than choosing.
//! It does not know which connections, units or VMs use the path.

use crate::plan::{Health, PathRoute};
use crate::spec::Access;

/// VMs are told apart by how many priorities above theirs compete: none, one, two, or more.
pub const LEVELS: usize = 4;

/// How many distinct higher priorities compete for the same paths now: 0 for the highest, at most `LEVELS - 1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(u8);

impl Level {
    /// Nobody of a higher priority competes.
    pub const TOP: Self = Self(0);

    /// With that many higher priorities competing; three and more are one level.
    #[must_use]
    pub const fn below(higher_priorities: usize) -> Self {
        Self(if higher_priorities < LEVELS { higher_priorities as u8 } else { LEVELS as u8 - 1 })
    }

    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// How good a path is before any load: lower is better. Up before marginal and standby, then optimized before
/// non-optimized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(u8);

impl Rank {
    /// None if the path must not be used.
    #[must_use]
    pub const fn of(route: PathRoute) -> Option<Self> {
        let base = match (route.health, route.preferred) {
            (Health::Up, true) => 0,
            // A live connection on a path that the plan still calls down has just come back: as good as marginal.
            (Health::Up, false) | (Health::Marginal | Health::Down, _) => 2,
            (Health::Draining | Health::Disabled, _) => return None,
        };
        Some(Self(match route.access {
            Access::Optimized => base,
            Access::NonOptimized => base + 1,
        }))
    }

    pub(super) const fn value(self) -> u8 {
        self.0
    }
}

/// Whether requests that find no room on better paths may come here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spill {
    Allowed,
    /// A standby that waits for its failback, a path that has just come back, or one that is nobody's second choice.
    Refused,
}

impl Spill {
    #[must_use]
    pub const fn of(route: PathRoute) -> Self {
        match (route.preferred, route.health, route.access) {
            (true, Health::Marginal, Access::Optimized | Access::NonOptimized)
            | (true, Health::Up, Access::NonOptimized) => Self::Allowed,
            (true, Health::Up, Access::Optimized)
            | (true, Health::Down | Health::Draining | Health::Disabled, _)
            | (false, ..) => Self::Refused,
        }
    }
}

/// Whether anything has come back on the path of late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    Lately,
    /// What is believed of it is old: one request goes first.
    LongAgo,
}

/// Time per device byte: the inverse of a rate, so that the choice multiplies only. 1/256 ns per KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pace(u32);

impl Pace {
    const FRACTION_BITS: u32 = 8;

    /// Of a path that carries that many device bytes per second. Below 60 KiB/s all are as slow.
    #[must_use]
    pub fn of(rate: u64) -> Self {
        let pace = (1_000_000_000_u64 << (Self::FRACTION_BITS + 10)) / rate.max(1);
        Self(u32::try_from(pace).unwrap_or(u32::MAX).max(1))
    }

    /// How long that many device bytes take, in ns. Exact to a KiB; does not overflow below 4 TiB.
    #[must_use]
    pub const fn nanos(self, device_bytes: u64) -> u64 {
        ((device_bytes >> 10) * self.0 as u64) >> Self::FRACTION_BITS
    }
}

/// One path of a worker. All amounts are the worker's own: its part of the window, what it has in flight.
#[derive(Clone, Copy, Debug)]
pub struct PathState {
    /// None: must not be used.
    pub rank: Option<Rank>,
    pub spill: Spill,
    pub heard: Heard,
    pub pace: Pace,
    /// Device bytes in flight that VMs of level `i` or lower priority (a level of `i` or more) sent. The first is all.
    pub from_level: [u64; LEVELS],
    pub pending_requests: u32,
    /// Requests that may be in flight.
    pub window_requests: u32,
    /// Device bytes that may be in flight.
    pub window: u64,
    /// A request waits here for room that VMs of this level and those below share: these leave it what comes free.
    pub claim: Option<Level>,
    /// What requests lately took, in ns; 0 if that is not known. A path far away is slow without any queue.
    pub service: u64,
    /// Grows with each dispatch on any path: the path with the lowest has not had one for longest.
    pub last_dispatch: u64,
}

impl PathState {
    /// Idle, and not used yet. `rate` is in device bytes per second.
    #[must_use]
    pub fn new(route: PathRoute, window: u64, rate: u64) -> Self {
        Self {
            rank: Rank::of(route),
            spill: Spill::of(route),
            heard: Heard::Lately,
            pace: Pace::of(rate),
            from_level: [0; LEVELS],
            pending_requests: 0,
            window_requests: u32::MAX,
            window,
            claim: None,
            service: 0,
            last_dispatch: 0,
        }
    }

    /// Takes over what a new plan says.
    pub fn route(&mut self, route: PathRoute) {
        self.rank = Rank::of(route);
        self.spill = Spill::of(route);
    }

    /// What is believed of it is old, and one request is on its way to find out.
    #[must_use]
    pub fn is_probed(&self) -> bool {
        self.heard == Heard::LongAgo && self.pending_requests > 0
    }

    /// Device bytes in flight.
    #[must_use]
    pub const fn pending(&self) -> u64 {
        self.from_level[0]
    }

    /// A request of `cost` device bytes was sent. `turn` grows with each dispatch on any path.
    pub fn dispatched(&mut self, cost: u64, level: Level, turn: u64) {
        self.last_dispatch = turn;
        self.pending_requests += 1;
        for pending in &mut self.from_level[..=level.index()] {
            *pending += cost;
        }
    }

    /// It is over, however it ended. `level` is the one that it was sent with, whoever competes now.
    ///
    /// # Panics
    /// If it was never sent.
    pub fn ended(&mut self, cost: u64, level: Level) {
        self.pending_requests =
            self.pending_requests.checked_sub(1).expect("it was counted when it was sent");
        for pending in &mut self.from_level[..=level.index()] {
            *pending = pending.checked_sub(cost).expect("it was counted when it was sent");
        }
    }
}
