//! The engine against a disk in memory: an honest one, and ones that lie.

use super::*;
use crate::workload::block::BLOCK;

const WHO: Identity = Identity { run: 9, disk: 0 };
const BLOCKS: usize = 256;

fn mix() -> Mix {
    Mix {
        sizes: vec![(1, 3), (8, 1)],
        read_percent: 50,
        zero_percent: 5,
        flush_every: 10,
        slots: 8,
        rate: None,
    }
}

/// What a disk does with a write: how a lie is told.
type Lie = fn(turn: u64, offset: usize, data: &[u8], disk: &mut [u8]);

fn honest(_: u64, offset: usize, data: &[u8], disk: &mut [u8]) {
    disk[offset..offset + data.len()].copy_from_slice(data);
}

struct World {
    engine: Engine,
    disk: Vec<u8>,
    open: Vec<Request>,
    turn: u64,
    lie: Lie,
}

impl World {
    fn new(lie: Lie) -> Self {
        let engine = Engine::new(WHO, (BLOCKS * BLOCK) as u64, mix()).unwrap();
        Self { engine, disk: vec![0; BLOCKS * BLOCK], open: Vec::new(), turn: 0, lie }
    }

    fn now(&self) -> Duration {
        Duration::from_micros(self.turn)
    }

    /// Issues all that may be, then completes one, in an order that is neither first nor last.
    fn turn(&mut self) {
        self.turn += 1;
        while let Step::Issue(request) = self.engine.step(self.now()) {
            self.open.push(request);
        }
        assert!(self.open.len() <= 8);
        if self.open.is_empty() {
            return;
        }
        let mut request = self.open.swap_remove(self.turn as usize * 7 % self.open.len());
        let (offset, len) = request.range();
        let offset = offset as usize;
        match &request.action {
            Action::Read(_) => {
                let buffer = Arc::get_mut(&mut request.buffer).unwrap();
                buffer.copy_from_slice(&self.disk[offset..offset + len]);
            }
            Action::Write(_) => (self.lie)(self.turn, offset, &request.buffer, &mut self.disk),
            Action::Zero(_) => self.disk[offset..offset + len].fill(0),
            Action::Flush => {}
        }
        self.engine.complete(request, Outcome::Done, self.now());
    }

    /// Load, then a full read-back.
    fn run(mut self) -> Stats {
        self.engine.go();
        (0..20_000).for_each(|_| self.turn());
        self.engine.pause();
        while !self.open.is_empty() {
            self.turn();
        }
        self.engine.read_back();
        for _ in 0..1000 {
            self.turn();
        }
        let read_back = self.engine.take_read_back().expect("everything was read back");
        assert_eq!(read_back.blocks, BLOCKS as u64, "all of it had been written");
        self.engine.stats
    }
}

#[test]
fn an_honest_disk_passes() {
    let stats = World::new(honest).run();
    assert_eq!((stats.mismatches, stats.errors, stats.lost), (0, 0, 0), "{:?}", stats.mismatch_details);
    assert!(stats.flushes > 500 && stats.reads > 5000 && stats.writes > 5000);
}

#[test]
fn a_disk_that_loses_one_write_in_a_thousand_fails() {
    let stats = World::new(|turn, offset, data, disk| {
        if turn % 1000 != 0 {
            honest(turn, offset, data, disk);
        }
    })
    .run();
    assert!(stats.mismatches > 0);
}

#[test]
fn a_disk_that_sometimes_writes_one_block_too_far_fails() {
    let stats = World::new(|turn, offset, data, disk| {
        let beyond = offset + BLOCK * usize::from(turn % 500 == 0);
        let offset = if beyond + data.len() <= disk.len() { beyond } else { offset };
        honest(turn, offset, data, disk);
    })
    .run();
    assert!(stats.mismatches > 0);
}

#[test]
fn a_disk_that_tears_fails() {
    let stats = World::new(|turn, offset, data, disk| {
        let len = if turn % 500 == 0 { data.len() - 512 } else { data.len() };
        honest(turn, offset, &data[..len], disk);
    })
    .run();
    assert!(stats.mismatches > 0);
}

#[test]
fn a_failed_write_is_counted_and_stays_in_doubt() {
    let mut world = World::new(honest);
    world.engine.go();
    let mut failed = 0;
    while failed < 20 {
        if let Step::Issue(request) = world.engine.step(Duration::ZERO) {
            failed += u64::from(matches!(request.action, Action::Write(_)));
            world.engine.complete(request, Outcome::Failed, Duration::ZERO);
        }
    }
    assert!(world.engine.stats.errors >= 20);
    assert_eq!(world.engine.stats.bytes, 0);
    world.run();
}

#[test]
fn the_rate_is_kept() {
    let mix = Mix { rate: Some(1_000_000), flush_every: 0, zero_percent: 0, ..mix() };
    let mut engine = Engine::new(WHO, (BLOCKS * BLOCK) as u64, mix).unwrap();
    engine.go();
    let mut now = Duration::ZERO;
    while now < Duration::from_secs(10) {
        match engine.step(now) {
            Step::Issue(request) => engine.complete(request, Outcome::Done, now),
            Step::WaitUntil(then) => now = then,
            Step::Wait => unreachable!("all slots are free"),
        }
    }
    assert!((9_900_000..10_200_000).contains(&engine.stats.bytes), "{}", engine.stats.bytes);
}
