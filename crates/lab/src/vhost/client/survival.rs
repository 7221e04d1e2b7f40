//! Stops with requests open, deaths and the dirty log, against a back end that can be told to hold, die and lie.

use super::*;
use crate::vhost::fake::{Fake, Faults};

const BOUND: Duration = Duration::from_secs(10);
const OPEN: usize = 8;

struct World {
    fake: Fake,
    client: Client,
    _dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("vhost");
        let fake = Fake::start(&socket, 1 << 20);
        let client =
            Client::connect(Options { slots: 16, slot_bytes: 8192, ..Options::new(socket) }).unwrap();
        Self { fake, client, _dir: dir }
    }

    /// Writes of one block each, of which the back end completes none.
    fn with_writes_held() -> Self {
        let mut world = Self::new();
        Faults::set(&world.fake.faults.hold);
        (0..OPEN).for_each(|block| world.write(block, 1));
        world.wait_until(|fake| fake.open() == OPEN);
        world
    }

    fn write(&mut self, block: usize, value: u8) {
        let slot = self.client.acquire(0).unwrap();
        self.client.write_data(slot, &[value; 4096]);
        self.client.submit(slot, BlockRequest::new(Operation::Write, block as u64 * 4096, 4096));
        self.client.publish(0);
    }

    fn wait_until(&self, wanted: impl Fn(&Fake) -> bool) {
        let end = Instant::now() + BOUND;
        while !wanted(&self.fake) {
            assert!(Instant::now() < end, "it comes to that");
            std::thread::yield_now();
        }
    }

    fn restart(self) -> Self {
        let mut world = Self { fake: self.fake.restart(), ..self };
        let mut done = Vec::new();
        while world.client.is_connected() {
            world.client.wait(BOUND, &mut done).unwrap();
        }
        assert_eq!(done, []);
        world
    }

    /// Waits for all that is open; how many were done.
    fn finish(&mut self) -> usize {
        let (mut done, mut count) = (Vec::new(), 0);
        while self.client.open() > 0 {
            self.client.wait(BOUND, &mut done).unwrap();
            assert!(!done.is_empty(), "everything completes");
            count += done.len();
            for done in done.drain(..) {
                assert_eq!(done.status, Status::Ok);
                self.client.release(done.slot);
            }
        }
        count
    }

    fn content(&mut self, block: u64) -> u8 {
        let mut back = [0; 4096];
        self.client.read_at(block * 4096, &mut back, BOUND).unwrap();
        assert!(back.iter().all(|byte| *byte == back[0]));
        back[0]
    }
}

#[test]
fn a_stop_with_requests_open_is_answered_and_they_complete_after_the_resume() {
    let mut world = World::with_writes_held();
    let stopped = world.client.stop().unwrap();
    assert_eq!((stopped.answered, stopped.open), (true, OPEN));
    assert_eq!((stopped.bases, stopped.used), (vec![OPEN as u16], vec![0]));
    world.client.resume().unwrap();
    Faults::clear(&world.fake.faults.hold);
    assert_eq!(world.finish(), OPEN);
    assert_eq!(world.content(OPEN as u64 - 1), 1);
    assert_eq!((world.client.strays(), world.client.touched_while_stopped()), (0, 0));
}

#[test]
fn after_a_death_what_was_open_completes_once_and_so_does_what_came_meanwhile() {
    let mut world = World::with_writes_held();
    world.fake.complete_youngest();
    let mut done = Vec::new();
    world.client.wait(BOUND, &mut done).unwrap();
    assert_eq!(done.len(), 1);
    world.client.release(done[0].slot);
    let mut world = world.restart();
    world.write(20, 2);
    assert_eq!(world.client.open(), OPEN);
    world.client.reconnect(Duration::from_millis(1), BOUND).unwrap();
    assert_eq!(world.finish(), OPEN);
    assert_eq!((world.content(0), world.content(20), world.client.strays()), (1, 2, 0));
}

#[test]
fn a_death_while_stopped_keeps_the_base_that_was_answered() {
    let mut world = World::with_writes_held();
    assert!(world.client.stop().unwrap().answered);
    let mut world = World { fake: world.fake.restart(), ..world };
    world.client.lost();
    world.client.reconnect(Duration::from_millis(1), BOUND).unwrap();
    assert_eq!(world.client.open(), OPEN);
    world.client.resume().unwrap();
    assert_eq!(world.finish(), OPEN);
    assert_eq!((world.content(3), world.client.touched_while_stopped()), (1, 0));
}

#[test]
fn a_death_found_by_the_stop_is_no_error() {
    let world = World::with_writes_held();
    let mut world = World { fake: world.fake.restart(), ..world };
    let stopped = world.client.stop().unwrap();
    assert_eq!((stopped.answered, stopped.bases, stopped.open), (false, vec![0], OPEN));
    world.client.resume().unwrap();
    assert!(!world.client.is_connected());
    world.client.reconnect(Duration::from_millis(1), BOUND).unwrap();
    assert_eq!(world.finish(), OPEN);
}

#[test]
fn a_back_end_that_writes_while_it_is_stopped_is_caught() {
    let mut world = World::with_writes_held();
    world.client.stop().unwrap();
    Faults::set(&world.fake.faults.unstoppable);
    Faults::clear(&world.fake.faults.hold);
    world.wait_until(|fake| fake.open() == 0);
    world.client.resume().unwrap();
    assert_eq!(world.client.touched_while_stopped(), 1);
}

#[test]
fn a_second_completion_is_caught() {
    let mut world = World::with_writes_held();
    Faults::set(&world.fake.faults.twice);
    Faults::clear(&world.fake.faults.hold);
    world.finish();
    world.wait_until(|fake| fake.open() == 0);
    let mut done = Vec::new();
    world.client.reap(0, &mut done);
    assert!(world.client.strays() >= 1 && done.is_empty());
}

#[test]
fn what_the_device_writes_is_in_the_dirty_log_while_it_is_on() {
    let mut world = World::new();
    let client = &mut world.client;
    for _ in 0..2 {
        client.log_start().unwrap();
        let slot = client.acquire(1.min(client.queues() - 1)).unwrap();
        client.submit(slot, BlockRequest::new(Operation::Read, 0, 8192));
        let mut expected = client.pages_written(slot);
        expected.extend(client.used_ring_pages(slot.queue));
        client.publish(slot.queue);
        let mut done = Vec::new();
        client.wait(BOUND, &mut done).unwrap();
        assert_eq!(done.len(), 1);
        client.release(slot);
        let marked = client.log_take();
        assert_eq!(expected.len(), 4, "two pages of data, one of the status, one of the ring: {expected:?}");
        assert!(expected.iter().all(|page| marked.contains(page)), "{expected:?} in {marked:?}");
        client.log_stop().unwrap();
        client.read_at(0, &mut [0; 512], BOUND).unwrap();
        assert!(client.log_take().is_empty(), "it is off");
    }
}
