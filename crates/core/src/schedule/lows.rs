//! How near an account has come to its floor since a charge: what makes a later refund exact.
//!
//! An account that cannot fall below a floor forgets what it would have fallen further. A charge refunded long after must
//! therefore give back no more than the least height above the floor that the account has had since: without the charge, the rest
//! would have been cut off. Kept are the lows that no later one undercuts, so a row that rises. Rejected: giving back the
//! whole charge, which would be credit that nobody had. It does not know what the account counts.

/// Beyond so many nested lows the oldest are taken for as low as the lowest of them: a refund then gives too little.
const LOWS_MAX: usize = 64;

#[derive(Clone, Debug, Default)]
pub(super) struct Lows {
    /// (number of the event, height), both rising.
    rows: Vec<(u64, u128)>,
}

impl Lows {
    /// At event `number` the account stood `height` above its floor.
    pub(super) fn note(&mut self, number: u64, height: u128) {
        while self.rows.last().is_some_and(|(_, low)| *low >= height) {
            self.rows.pop();
        }
        if self.rows.len() == LOWS_MAX {
            self.rows[1].1 = self.rows[0].1;
            self.rows.remove(0);
        }
        self.rows.push((number, height));
    }

    /// Takes back a charge of `amount` made at event `number` from an account that now stands at `height`; returns by how much
    /// the account falls.
    pub(super) fn take_back(&mut self, number: u64, amount: u128, height: u128) -> u128 {
        let first = self.rows.partition_point(|(at, _)| *at <= number);
        let least = self.rows.get(first).map_or(height, |(_, low)| (*low).min(height));
        let part = amount.min(least);
        for (_, low) in &mut self.rows[first..] {
            *low -= part;
        }
        if let Some((_, lowest)) = self.rows.get(first).copied() {
            let keep = self.rows[..first].partition_point(|(_, low)| *low < lowest);
            self.rows.drain(keep..first);
        }
        part
    }
}
