//! What the load consists of: sizes, kinds, rate; and the dice that choose.
//!
//! Invariant: the same seed gives the same sequence of choices. Rejected: a crate for random numbers: the load needs
//! speed and repeatability, not quality. It does not know: what was chosen before.

use super::block::{BLOCK, mix};
use super::model::Extent;
use std::time::Duration;

/// The shape of a load.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix {
    /// Request sizes in blocks, each with its weight.
    pub sizes: Vec<(u32, u32)>,
    /// Of 100 requests, how many are reads.
    pub read_percent: u8,
    /// Of 100 writes, how many write zeroes.
    pub zero_percent: u8,
    /// A flush after that many writes; 0 for never.
    pub flush_every: u32,
    /// Requests open at a time.
    pub slots: usize,
    /// Offered bytes per second; none for as fast as it goes.
    pub rate: Option<u64>,
}

impl Mix {
    /// Blocks of the largest request.
    #[must_use]
    pub fn largest(&self) -> u32 {
        self.sizes.iter().map(|(blocks, _)| *blocks).max().unwrap_or(1)
    }
}

/// `64KiB:3,128KiB:1`: sizes with weights; a weight left out is 1.
///
/// # Errors
/// In words, with what is accepted.
pub fn parse_sizes(text: &str) -> Result<Vec<(u32, u32)>, String> {
    text.split(',').map(parse_weighted).collect()
}

fn parse_weighted(part: &str) -> Result<(u32, u32), String> {
    let (size, weight) = part.split_once(':').unwrap_or((part, "1"));
    let bytes = crate::units::parse_size(size)?;
    let blocks = u32::try_from(bytes / BLOCK as u64).unwrap_or(0);
    if !bytes.is_multiple_of(BLOCK as u64) || !(1..=1024).contains(&blocks) {
        return Err(format!("block size {size}: must be a multiple of 4KiB, at most 4MiB"));
    }
    let weight = weight.parse().ok().filter(|weight| *weight > 0);
    Ok((
        blocks,
        weight.ok_or_else(|| format!("{part:?}: the weight after the colon must be a positive number"))?,
    ))
}

/// A fast repeatable source of choices (splitmix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// 0 to `below - 1`; `below` is not 0.
    pub fn below(&mut self, below: u64) -> u64 {
        ((u128::from(self.throw()) * u128::from(below)) >> 64) as u64
    }

    pub fn percent(&mut self, chance: u8) -> bool {
        self.below(100) < u64::from(chance)
    }

    /// Any extent of one of the sizes on a disk of `blocks` blocks, which is at least as large as the largest.
    pub fn extent(&mut self, sizes: &[(u32, u32)], blocks: u64) -> Extent {
        let total: u32 = sizes.iter().map(|(_, weight)| weight).sum();
        let mut left = self.below(u64::from(total.max(1))) as u32;
        let chosen = sizes.iter().find(|(_, weight)| {
            let here = left < *weight;
            left = left.saturating_sub(*weight);
            here
        });
        let count = chosen.map_or(1, |(blocks, _)| *blocks).min(blocks as u32);
        Extent { first: self.below(blocks - u64::from(count) + 1), count }
    }
}

/// Spreads bytes evenly over time.
#[derive(Clone, Debug, Default)]
pub struct Pacer {
    /// When the next request may start.
    next: Duration,
}

/// How much may be made up for after a pause of the source: more would hide that the storage was slow.
const CATCH_UP: Duration = Duration::from_millis(50);

impl Pacer {
    /// When the next request may start.
    #[must_use]
    pub fn due(&self) -> Duration {
        self.next
    }

    /// Books a request of `bytes` that starts `now` under `rate` bytes per second.
    pub fn book(&mut self, bytes: usize, rate: u64, now: Duration) {
        let takes = Duration::from_nanos((bytes as u128 * 1_000_000_000 / u128::from(rate.max(1))) as u64);
        self.next = self.next.max(now.saturating_sub(CATCH_UP)) + takes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_with_weights() {
        assert_eq!(parse_sizes("64KiB:3,4KiB"), Ok(vec![(16, 3), (1, 1)]));
        for text in ["", "5000", "4KiB:0", "8MiB", "4KiB:x"] {
            assert!(parse_sizes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn extents_stay_on_the_disk_and_keep_the_weights() {
        let mut dice = Dice::new(1);
        let extents: Vec<_> = (0..4000).map(|_| dice.extent(&[(4, 3), (1, 1)], 16)).collect();
        assert!(extents.iter().all(|e| e.first + u64::from(e.count) <= 16));
        let large = extents.iter().filter(|e| e.count == 4).count();
        assert!((2800..3200).contains(&large), "{large}");
        assert!((0..16).all(|block| extents.iter().any(|e| e.first == block && e.count == 1)));
    }

    #[test]
    fn the_pace_is_kept_and_little_is_made_up() {
        let mut pacer = Pacer::default();
        let ms = Duration::from_millis;
        pacer.book(1000, 1_000_000, ms(1000));
        assert_eq!(pacer.due(), ms(951));
        for _ in 0..100 {
            pacer.book(1000, 1_000_000, ms(1000));
        }
        assert_eq!(pacer.due(), ms(1051));
    }
}
