//! What each of several parties would get of a capacity now: for displays, and as a reference for the scheduler.
//!
//! Reservations first, the highest priority whole while they do not fit, equal ones in proportion; then shares, nobody above its
//! limit; what one cannot take goes to the others. All parties are active. Groups are parties, and their members are again parties, to
//! what the group gets. It does not know what anybody asks for.

/// One that competes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    pub priority: u32,
    pub shares: u32,
    /// Per second; counts up to the limit. 0 if there is none.
    pub reservation: u64,
    /// Per second; `u64::MAX` if there is none.
    pub limit: u64,
}

impl Party {
    fn reserved(&self) -> u64 {
        self.reservation.min(self.limit)
    }
}

/// What each gets of `capacity`, in the same unit. Together they get all of it that their limits let them take.
#[must_use]
pub fn entitlements(capacity: u64, parties: &[Party]) -> Vec<u64> {
    let reserved: u128 = parties.iter().map(|p| u128::from(p.reserved())).sum();
    if reserved > u128::from(capacity) {
        by_priority(capacity, parties)
    } else {
        by_shares(capacity, parties)
    }
}

/// Reservations do not fit.
fn by_priority(capacity: u64, parties: &[Party]) -> Vec<u64> {
    let mut got = vec![0; parties.len()];
    let mut order: Vec<usize> = (0..parties.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(parties[*i].priority));
    let mut left = capacity;
    for band in order.chunk_by(|a, b| parties[*a].priority == parties[*b].priority) {
        let mut asked: u128 = band.iter().map(|i| u128::from(parties[*i].reserved())).sum();
        for i in band {
            // In proportion, each of what the former ones left: all of it is given, to the last unit.
            let own = u128::from(parties[*i].reserved());
            let part = if asked <= u128::from(left) { own } else { own * u128::from(left) / asked };
            got[*i] = u64::try_from(part).expect("no more than there is");
            left -= got[*i];
            asked -= own;
        }
    }
    got
}

/// Each gets a level times its shares, but at least its reservation and at most its limit; the highest level that fits.
fn by_shares(capacity: u64, parties: &[Party]) -> Vec<u64> {
    let at = |level: u128, p: &Party| -> u64 {
        let by_shares = (level * u128::from(p.shares.max(1))) >> LEVEL_SHIFT;
        u64::try_from(by_shares).unwrap_or(u64::MAX).clamp(p.reserved(), p.limit)
    };
    let fits =
        |level: u128| parties.iter().map(|p| u128::from(at(level, p))).sum::<u128>() <= capacity.into();
    let (mut low, mut high) = (0_u128, u128::from(capacity) << LEVEL_SHIFT);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    let mut got: Vec<u64> = parties.iter().map(|p| at(low, p)).collect();
    // Less than a unit each is left by rounding, unless limits bind.
    let mut left = capacity - got.iter().sum::<u64>();
    for (got, party) in got.iter_mut().zip(parties) {
        let more = u64::from(left > 0 && *got < party.limit && at(low + 1, party) > *got);
        *got += more;
        left -= more;
    }
    got
}

/// Binary places of the level.
const LEVEL_SHIFT: u32 = 32;
