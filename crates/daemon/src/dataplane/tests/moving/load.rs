//! A load on a guest's disks that knows what each block must hold.
//!
//! One request at a time on a block, so that its content is certain; each write has a stamp of its own.

use crate::sys::clock;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use vmpath_lab::vhost::{BlockRequest, Client, Done, Operation, Options, SlotId, Status};

const BLOCK: usize = 4096;
/// Few, so that each is soon written again: over a ghost of itself.
const BLOCKS: u64 = 96;
const DEPTH: u16 = 16;
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(1);

/// One of a guest's disks.
struct Disk {
    client: Client,
    number: u64,
    /// What each block holds; nothing is known of those never written.
    content: BTreeMap<u64, u64>,
    /// Blocks with a request open, and the stamp that it writes.
    open: BTreeMap<SlotId, (u64, Option<u64>)>,
}

pub(super) struct Load {
    disks: Vec<Disk>,
    stamp: u64,
    random: u64,
    done: u64,
    errors: u64,
    mismatches: u64,
}

impl Load {
    pub(super) fn connect(sockets: &[PathBuf]) -> Self {
        let disk = |(number, socket): (usize, &PathBuf)| {
            let options = Options { queues: 2, slots: DEPTH, slot_bytes: BLOCK, ..Options::new(socket) };
            let client = retry(|| Client::connect(options.clone()));
            Disk { client, number: number as u64, content: BTreeMap::new(), open: BTreeMap::new() }
        };
        let disks = sockets.iter().enumerate().map(disk).collect();
        Self { disks, stamp: 0, random: 0x9e37_79b9_7f4a_7c15, done: 0, errors: 0, mismatches: 0 }
    }

    pub(super) fn done(&self) -> u64 {
        self.done
    }

    pub(super) fn mismatches(&self) -> u64 {
        self.mismatches
    }

    pub(super) fn open(&self) -> usize {
        self.disks.iter().map(|disk| disk.client.open()).sum()
    }

    pub(super) fn open_writes(&self) -> usize {
        self.disks.iter().flat_map(|disk| disk.open.values()).filter(|(_, stamp)| stamp.is_some()).count()
    }

    pub(super) fn strays(&self) -> u64 {
        self.disks.iter().map(|disk| disk.client.strays()).sum()
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = clock::now() + time;
        while clock::now() < end {
            self.ask();
            self.reap(PAUSE);
        }
    }

    /// Until nothing is answered any more.
    pub(super) fn run_into_a_wall(&mut self) {
        let begun = clock::now();
        let (mut done, mut since) = (self.done, clock::now());
        while clock::now().since(since) < Duration::from_millis(300) {
            self.run(PAUSE);
            if self.done != done {
                (done, since) = (self.done, clock::now());
            }
            assert!(clock::now().since(begun) < PATIENCE, "there is no wall");
        }
    }

    /// Until everything that was asked is answered.
    pub(super) fn finish(&mut self) {
        let begun = clock::now();
        while self.open() > 0 {
            self.reap(PAUSE);
            assert!(clock::now().since(begun) < PATIENCE, "{} requests are not answered", self.open());
        }
        for number in 0..self.disks.len() {
            self.read_back(number);
        }
    }

    fn read_back(&mut self, number: usize) {
        let disk = &mut self.disks[number];
        for (block, stamp) in disk.content.clone() {
            let mut data = vec![0; BLOCK];
            disk.client.read_at(block * BLOCK as u64, &mut data, PATIENCE).unwrap();
            self.mismatches += u64::from(data != filled(stamp));
        }
    }

    pub(super) fn assert_sound(&self) {
        let touched: u64 = self.disks.iter().map(|disk| disk.client.touched_while_stopped()).sum();
        assert_eq!((self.errors, self.mismatches, self.strays(), touched), (0, 0, 0, 0), "of {}", self.done);
    }

    pub(super) fn stop(&mut self) {
        // What was answered before the stop counts.
        for disk in &mut self.disks {
            assert!(disk.client.stop().unwrap().answered);
        }
    }

    pub(super) fn resume(&mut self) {
        self.disks.iter_mut().for_each(|disk| disk.client.resume().unwrap());
    }

    /// The guest goes on at other back ends.
    pub(super) fn move_to(&mut self, sockets: &[PathBuf]) {
        for (disk, socket) in self.disks.iter_mut().zip(sockets) {
            retry(|| disk.client.move_to(socket));
        }
    }

    /// Their process was replaced by another.
    pub(super) fn reconnect(&mut self) {
        for disk in &mut self.disks {
            disk.client.lost();
            retry(|| disk.client.try_reconnect());
        }
    }

    fn random(&mut self) -> u64 {
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn ask(&mut self) {
        for number in 0..self.disks.len() {
            for queue in 0..self.disks[number].client.queues() {
                while let Some(slot) = self.disks[number].client.acquire(queue) {
                    if !self.ask_one(number, slot) {
                        self.disks[number].client.release(slot);
                        break;
                    }
                }
                self.disks[number].client.publish(queue);
            }
        }
    }

    fn ask_one(&mut self, number: usize, slot: SlotId) -> bool {
        let (block, kind) = (self.random() % BLOCKS, self.random() % 8);
        self.stamp += 1;
        let stamp = self.disks[number].number << 56 | self.stamp;
        let disk = &mut self.disks[number];
        if disk.open.values().any(|(open, _)| *open == block) {
            return false;
        }
        let (operation, stamp) = match kind {
            0..5 => (Operation::Write, Some(stamp)),
            _ => (Operation::Read, None),
        };
        if let Some(stamp) = stamp {
            disk.client.write_data(slot, &filled(stamp));
        }
        disk.client.submit(slot, BlockRequest::new(operation, block * BLOCK as u64, BLOCK as u32));
        disk.open.insert(slot, (block, stamp));
        true
    }

    fn reap(&mut self, limit: Duration) {
        for number in 0..self.disks.len() {
            let mut done = Vec::new();
            self.disks[number].client.wait(limit, &mut done).unwrap();
            for Done { slot, status, .. } in done {
                let disk = &mut self.disks[number];
                let (block, written) = disk.open.remove(&slot).expect("it was asked");
                self.done += 1;
                self.errors += u64::from(status != Status::Ok);
                match written {
                    Some(stamp) => drop(disk.content.insert(block, stamp)),
                    None => {
                        let mut data = vec![0; BLOCK];
                        disk.client.read_data(slot, &mut data);
                        let expected = disk.content.get(&block);
                        self.mismatches += u64::from(expected.is_some_and(|stamp| data != filled(*stamp)));
                    }
                }
                disk.client.release(slot);
            }
        }
    }
}

fn filled(stamp: u64) -> Vec<u8> {
    stamp.to_le_bytes().repeat(BLOCK / 8)
}

/// A disk listens again some moments after its last front end has gone.
fn retry<T, E: std::fmt::Display>(mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let begun = clock::now();
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(why) if clock::now().since(begun) > PATIENCE => panic!("{why}"),
            Err(_) => std::thread::yield_now(),
        }
    }
}
