use super::*;
use crate::sys::guest::Place;
use proptest::prelude::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::fs::File;
use std::os::unix::fs::FileExt;

const AREAS: Areas = Areas { size: 8, descriptors: 0, available: 0x1000, used: 0x2000 };
const AVAIL_EVENT: u64 = 0x2000 + 4 + 8 * 8;
const USED_EVENT: u64 = 0x1000 + 4 + 2 * 8;

fn memory() -> (File, GuestMemory) {
    let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, 0x3000).unwrap();
    let file = File::from(fd);
    let mut memory = GuestMemory::default();
    memory.add(Place { gpa: 0, user: 0, bytes: 0x3000, offset: 0 }, &file).unwrap();
    (file, memory)
}

fn word(file: &File, at: u64) -> u16 {
    let mut bytes = [0; 2];
    file.read_exact_at(&mut bytes, at).unwrap();
    u16::from_le_bytes(bytes)
}

fn put(file: &File, at: u64, value: u16) {
    file.write_all_at(&value.to_le_bytes(), at).unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    Offer(u16),
    Fetch,
    Fill,
    Show,
    Sleep,
    Listen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0u16..8).prop_map(Step::Offer),
        3 => Just(Step::Fetch),
        3 => Just(Step::Fill),
        2 => Just(Step::Show),
        1 => Just(Step::Sleep),
        1 => Just(Step::Listen),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    /// Against a driver that keeps the rules, from any index on: heads come out in order, results go in in order, no kick is
    /// missed while the device sleeps, and no call while the driver listens.
    #[test]
    fn both_sides_hear_of_everything(start: u16, steps in steps()) {
        let (file, memory) = memory();
        put(&file, 0x1002, start);
        put(&file, 0x2002, start);
        let mut ring = Ring::new(&memory, AREAS, EventIdx::Negotiated).unwrap();
        let (mut made, mut heads) = (start, std::collections::VecDeque::new());
        let mut out: Vec<u16> = Vec::new();
        let (mut filled, mut shown, mut listened) = (start, start, start);
        let (mut sleeps, mut listens) = (false, false);
        for step in steps {
            match step {
                Step::Offer(head) if made.wrapping_sub(shown) < 8 => {
                    put(&file, 0x1004 + 2 * u64::from(made % 8), head);
                    let kicks = event_idx::is_due(word(&file, AVAIL_EVENT), made.wrapping_add(1), made);
                    made = made.wrapping_add(1);
                    put(&file, 0x1002, made);
                    heads.push_back(head);
                    prop_assert!(kicks || !sleeps, "a kick for a device that sleeps");
                    sleeps = false;
                }
                Step::Fetch => {
                    let head = ring.fetch().unwrap();
                    prop_assert_eq!(head, heads.pop_front());
                    out.extend(head);
                    sleeps = false;
                }
                Step::Fill if !out.is_empty() => {
                    let head = out.remove(0);
                    let at = 0x2004 + 8 * u64::from(filled % 8);
                    prop_assert_eq!(ring.fill(head, 1), (at - 0x2000, 8));
                    prop_assert_eq!(word(&file, at), head);
                    filled = filled.wrapping_add(1);
                }
                Step::Show => {
                    prop_assert_eq!(word(&file, 0x2002), shown, "nothing before");
                    let batch = ring.show().map(|(batch, _)| batch);
                    prop_assert_eq!(batch.unwrap_or(0), filled.wrapping_sub(shown));
                    if let Some(batch) = batch {
                        prop_assert!(ring.wants_call(batch) || !listens || listened != shown);
                        listens = false;
                    }
                    shown = filled;
                    prop_assert_eq!(word(&file, 0x2002), shown);
                }
                Step::Sleep => {
                    ring.enable_kicks();
                    sleeps = !ring.has_more();
                    prop_assert_eq!(ring.has_more(), !heads.is_empty());
                }
                Step::Listen => {
                    put(&file, USED_EVENT, shown);
                    (listens, listened) = (true, shown);
                }
                Step::Offer(_) | Step::Fill => {}
            }
        }
    }

    /// Whatever is in the areas, a fetch gives a head or an error.
    #[test]
    fn a_driver_may_write_anything(bytes in prop::collection::vec(any::<u8>(), 64), next: u16) {
        let (file, memory) = memory();
        file.write_all_at(&bytes, 0x1000).unwrap();
        let mut ring = Ring::new(&memory, AREAS, EventIdx::NotNegotiated).unwrap();
        ring.resume(next);
        let index = u16::from_le_bytes([bytes[2], bytes[3]]);
        let ahead = index.wrapping_sub(next);
        for _ in 0..ahead.min(8) {
            prop_assert_eq!(ring.fetch().is_ok(), ahead <= 8);
        }
        if ahead > 8 {
            prop_assert_eq!(ring.fetch(), Err(Jump { expected: next, found: index }));
        } else {
            prop_assert_eq!(ring.fetch(), Ok(None));
        }
    }
}

#[test]
fn flags_serve_where_events_were_not_negotiated() {
    let (file, memory) = memory();
    let mut ring = Ring::new(&memory, AREAS, EventIdx::NotNegotiated).unwrap();
    assert!(ring.suppress_kicks().is_some());
    assert_eq!(word(&file, 0x2000), NO_NOTIFY);
    ring.enable_kicks();
    assert_eq!(word(&file, 0x2000), 0);
    ring.fill(1, 1);
    ring.show();
    assert!(ring.wants_call(1));
    put(&file, 0x1000, NO_INTERRUPT);
    assert!(!ring.wants_call(1));
}

#[test]
fn areas_outside_of_memory_are_no_ring() {
    let (_file, memory) = memory();
    for bad in [
        Areas { used: 0x3000 - 64, ..AREAS },
        Areas { descriptors: 8, ..AREAS },
        Areas { available: 1, ..AREAS },
        Areas { used: 2, ..AREAS },
        Areas { descriptors: u64::MAX - 15, ..AREAS },
    ] {
        assert!(Ring::new(&memory, bad, EventIdx::Negotiated).is_none(), "{bad:?}");
    }
}
