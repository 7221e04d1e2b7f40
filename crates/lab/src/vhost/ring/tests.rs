//! The ring against a device written here in a few lines, over arbitrary interleavings.

use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

const SIZE: u16 = 8;

/// The device's side: fetches heads, completes them in any order.
struct Device {
    memory: Arc<GuestMemory>,
    places: RingPlaces,
    fetched: u16,
    used: u16,
    open: Vec<u16>,
}

impl Device {
    fn fetch(&mut self) {
        let available = self.memory.u16_at(self.places.available + 2).load(Ordering::Acquire);
        while self.fetched != available {
            let at = self.places.available + 4 + 2 * usize::from(self.fetched % SIZE);
            self.open.push(self.memory.u16_at(at).load(Ordering::Relaxed));
            self.fetched = self.fetched.wrapping_add(1);
        }
        // Kick me at the next one.
        let at = self.places.used + 4 + 8 * usize::from(SIZE);
        self.memory.u16_at(at).store(self.fetched, Ordering::Relaxed);
    }

    /// True if the driver has asked for an interrupt at what was completed.
    fn complete(&mut self, which: usize) -> bool {
        if self.open.is_empty() {
            return false;
        }
        let head = self.open.swap_remove(which % self.open.len());
        let at = self.places.used + 4 + 8 * usize::from(self.used % SIZE);
        self.memory.u32_at(at).store(u32::from(head), Ordering::Relaxed);
        self.memory.u32_at(at + 4).store(u32::from(head) + 100, Ordering::Relaxed);
        let old = self.used;
        self.used = old.wrapping_add(1);
        self.memory.u16_at(self.places.used + 2).store(self.used, Ordering::Release);
        let event = self.memory.u16_at(self.places.available + 4 + 2 * usize::from(SIZE));
        passes(event.load(Ordering::Relaxed), old, self.used)
    }
}

fn world(start: u16) -> (Ring, Device) {
    let (places, end) = RingPlaces::lay_out(0, SIZE);
    let memory = Arc::new(GuestMemory::new([end, 4096]).unwrap());
    let mut ring = Ring::new(Arc::clone(&memory), places, SIZE, Suppression::EventIdx);
    (ring.next, ring.published, ring.taken) = (start, start, start);
    for at in [places.available + 2, places.used + 2] {
        memory.u16_at(at).store(start, Ordering::Relaxed);
    }
    (ring, Device { memory, places, fetched: start, used: start, open: Vec::new() })
}

proptest! {
    /// Whatever the interleaving, also over the wrap of the indices: each head comes back once; a device that sleeps is
    /// kicked, and a driver that sleeps is interrupted.
    #[test]
    fn nothing_is_lost_or_repeated(start in prop_oneof![Just(0), Just(u16::MAX - 5)], steps in prop::collection::vec((0u8..4, 0usize..8), 1..400)) {
        let (mut ring, mut device) = world(start);
        let mut free: VecDeque<u16> = (0..SIZE).collect();
        let (mut device_sleeps, mut driver_sleeps, mut interrupted) = (false, false, false);
        for (step, which) in steps {
            match step {
                0 => if let Some(head) = free.pop_front() { ring.push(head) },
                1 => if ring.publish() == Notify::Needed { device_sleeps = false },
                2 => interrupted |= device.complete(which),
                _ => {
                    device.fetch();
                    device_sleeps = true;
                }
            }
            if step == 1 && device_sleeps {
                prop_assert_eq!(device.fetched, ring.available_index(), "a device that sleeps has seen all");
            }
            if driver_sleeps && ring.has_used() {
                prop_assert!(interrupted, "a driver that sleeps is woken");
            }
            if !driver_sleeps || interrupted {
                while let Some(used) = ring.pop() {
                    prop_assert_eq!(used.len, used.id + 100);
                    prop_assert!(!free.contains(&(used.id as u16)), "it was open");
                    free.push_back(used.id as u16);
                }
                interrupted = false;
                driver_sleeps = !ring.ask_for_interrupt();
            }
        }
        ring.publish();
        device.fetch();
        while !device.open.is_empty() { device.complete(0); }
        while let Some(used) = ring.pop() { free.push_back(used.id as u16); }
        let mut all: Vec<u16> = free.into();
        all.sort_unstable();
        prop_assert_eq!(all, (0..SIZE).collect::<Vec<_>>());
    }
}

#[test]
fn the_event_is_passed_only_on_the_way_over_it() {
    assert!(passes(4, 4, 5) && passes(4, 3, 5) && passes(u16::MAX, u16::MAX, 0));
    assert!(!passes(5, 4, 5) && !passes(3, 4, 5) && !passes(4, 5, 5));
}

#[test]
fn without_event_idx_the_flags_decide() {
    let (mut ring, device) = world(0);
    ring.suppression = Suppression::Flags;
    ring.push(1);
    assert_eq!(ring.publish(), Notify::Needed);
    device.memory.u16_at(device.places.used).store(NO_NOTIFICATION, Ordering::Relaxed);
    ring.push(2);
    assert_eq!(ring.publish(), Notify::NotNeeded);
    ring.want_no_interrupt();
    assert_eq!(device.memory.u16_at(device.places.available).load(Ordering::Relaxed), 1);
    assert!(!ring.ask_for_interrupt());
    assert_eq!(device.memory.u16_at(device.places.available).load(Ordering::Relaxed), 0);
}
