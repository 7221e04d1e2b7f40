//! The model of a target: what each block holds, and what of it would survive.
//!
//! A value is the token of the write that left it; 0 is what was there at first. A write without FUA sits in a cache
//! until a flush. Where the cache survives the loss of a path it is one for the unit; where it does not, each connection
//! has its own, a flush covers no other, and the death of the connection may take what is in it.

use crate::spec::WriteCache;

pub(super) const BLOCK: u64 = 4096;

#[derive(Clone, Debug, Default)]
struct Block {
    stable: u32,
    /// Oldest first, each with the connection that brought it.
    cached: Vec<(u32, usize)>,
}

pub(super) struct Storage {
    cache: WriteCache,
    units: Vec<Vec<Block>>,
    /// By token: one bit for each block of the write that is on stable storage, or overwritten by what is.
    settled: Vec<u64>,
    firsts: Vec<usize>,
}

/// Where a write goes: `blocks` of `unit`, by way of `link`.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    pub(super) unit: usize,
    pub(super) blocks: std::ops::Range<usize>,
    pub(super) link: usize,
}

impl Storage {
    pub(super) fn new(units: usize, blocks: usize, cache: WriteCache) -> Self {
        Self { cache, units: vec![vec![Block::default(); blocks]; units], settled: vec![0], firsts: vec![0] }
    }

    /// A request with the next token, whose range begins at block `first`.
    pub(super) fn enroll(&mut self, first: usize) {
        self.settled.push(0);
        self.firsts.push(first);
    }

    pub(super) fn read(&self, unit: usize, block: usize) -> u32 {
        let block = &self.units[unit][block];
        block.cached.last().map_or(block.stable, |(token, _)| *token)
    }

    pub(super) fn write_cached(&mut self, token: u32, spot: &Spot) {
        for at in spot.blocks.clone() {
            self.units[spot.unit][at].cached.push((token, spot.link));
        }
    }

    pub(super) fn write_through(&mut self, token: u32, spot: &Spot) {
        for at in spot.blocks.clone() {
            self.units[spot.unit][at].cached.push((token, spot.link));
            self.settle(spot.unit, at, usize::MAX);
        }
    }

    pub(super) fn flush(&mut self, unit: usize, link: usize) {
        for at in 0..self.units[unit].len() {
            let cached = &self.units[unit][at].cached;
            let covered = match self.cache {
                WriteCache::SurvivesPathLoss => cached.len(),
                WriteCache::Volatile => cached.iter().rposition(|(_, l)| *l == link).map_or(0, |i| i + 1),
            };
            self.settle(unit, at, covered);
        }
    }

    /// A connection is dead; what only its cache holds is gone if `takes` says so.
    pub(super) fn link_dead(&mut self, unit: usize, link: usize, mut takes: impl FnMut() -> bool) {
        if self.cache == WriteCache::SurvivesPathLoss {
            return;
        }
        for block in &mut self.units[unit] {
            block.cached.retain(|(_, l)| *l != link || !takes());
        }
    }

    /// Whether a write of `blocks` blocks would survive now.
    pub(super) fn is_durable(&self, token: u32, blocks: usize) -> bool {
        self.settled[token as usize] == u64::MAX >> (64 - blocks)
    }

    /// The first `covered` cached values of a block reach stable storage, one over the other.
    fn settle(&mut self, unit: usize, at: usize, covered: usize) {
        let block = &mut self.units[unit][at];
        let covered = covered.min(block.cached.len());
        for (token, _) in block.cached.drain(..covered) {
            block.stable = token;
            self.settled[token as usize] |= 1 << (at - self.firsts[token as usize]);
        }
    }
}
