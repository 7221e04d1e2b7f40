//! The model of the targets' disks: what each block holds, and what of it would survive.
//!
//! A value is the number of the guest's request that left it; each unit begins with a value of its own, so that a block tells
//! which unit it belongs to. A write without FUA sits in a cache until a flush. Where caches survive the loss of a path there
//! is one for the unit; where they do not, each connection has its own, and may take it to the grave.
//! It does not know connections' states, nor what anybody was told.

use vmpath_core::spec::WriteCache;

#[derive(Clone, Debug)]
struct Block {
    stable: u32,
    /// Oldest first, each with the connection that brought it.
    cached: Vec<(u32, u32)>,
}

#[derive(Debug)]
struct Unit {
    cache: WriteCache,
    blocks: Vec<Block>,
    /// Blocks with something cached, perhaps more than once.
    dirty: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct Storage {
    units: Vec<Unit>,
    /// By request: one bit for each of its blocks that is on stable storage, or was overwritten by what is.
    settled: Vec<(u16, u16)>,
}

impl Storage {
    /// One unit for each cache kind; unit `n` begins with value `n` in all blocks.
    pub(super) fn new(caches: &[WriteCache], blocks: usize) -> Self {
        let unit = |(at, cache): (usize, &WriteCache)| Unit {
            cache: *cache,
            blocks: vec![Block { stable: at as u32, cached: Vec::new() }; blocks],
            dirty: Vec::new(),
        };
        Self { units: caches.iter().enumerate().map(unit).collect(), settled: vec![(0, 0); caches.len()] }
    }

    /// The next request, with the block at which it begins.
    pub(super) fn enroll(&mut self, first: usize) {
        self.settled.push((0, first as u16));
    }

    pub(super) fn read(&self, unit: usize, block: usize) -> u32 {
        let block = &self.units[unit].blocks[block];
        block.cached.last().map_or(block.stable, |(value, _)| *value)
    }

    pub(super) fn write(&mut self, unit: usize, value: u32, (first, count): (usize, usize), conn: u32) {
        let unit = &mut self.units[unit];
        for at in first..first + count {
            unit.blocks[at].cached.push((value, conn));
            unit.dirty.push(at);
        }
    }

    pub(super) fn write_through(&mut self, unit: usize, value: u32, (first, count): (usize, usize)) {
        for at in first..first + count {
            self.units[unit].blocks[at].cached.push((value, u32::MAX));
            self.settle(unit, at, usize::MAX);
        }
    }

    pub(super) fn flush(&mut self, unit: usize, conn: u32) {
        let survives = self.units[unit].cache == WriteCache::SurvivesPathLoss;
        for at in std::mem::take(&mut self.units[unit].dirty) {
            let cached = &self.units[unit].blocks[at].cached;
            let covered = if survives {
                cached.len()
            } else {
                cached.iter().rposition(|(_, c)| *c == conn).map_or(0, |i| i + 1)
            };
            self.settle(unit, at, covered);
            if !self.units[unit].blocks[at].cached.is_empty() {
                self.units[unit].dirty.push(at);
            }
        }
    }

    /// A connection is dead; what only its cache holds is gone. True if anything was.
    pub(super) fn conn_dead(&mut self, unit: usize, conn: u32) -> bool {
        let unit = &mut self.units[unit];
        if unit.cache == WriteCache::SurvivesPathLoss {
            return false;
        }
        let mut lost = false;
        for at in &unit.dirty {
            let cached = &mut unit.blocks[*at].cached;
            let before = cached.len();
            cached.retain(|(_, c)| *c != conn);
            lost |= cached.len() < before;
        }
        lost
    }

    /// Whether a write of `blocks` blocks would survive now.
    pub(super) fn is_durable(&self, value: u32, blocks: usize) -> bool {
        self.settled[value as usize].0 == u16::MAX >> (16 - blocks)
    }

    /// The first `covered` cached values of a block reach stable storage, one over the other.
    fn settle(&mut self, unit: usize, at: usize, covered: usize) {
        let block = &mut self.units[unit].blocks[at];
        let covered = covered.min(block.cached.len());
        for (value, _) in block.cached.drain(..covered) {
            block.stable = value;
            let (bits, first) = &mut self.settled[value as usize];
            *bits |= 1 << (at - usize::from(*first));
        }
    }
}
