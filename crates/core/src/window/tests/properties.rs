//! Whatever the replies.

use super::device::{KIB, MIB};
use crate::time::{Duration, Instant};
use crate::window::{Capacity, FLOOR, Reply, Window};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Served { bytes: u64, took: u64, pending: u64, after: u64 },
    FoundFull,
    Resumed,
    Forget,
    Configure { start: u64, max: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let sizes = prop_oneof![0_u64..16 * KIB, 0..32 * MIB];
    let times = || prop_oneof![0_u64..1_000, 0_u64..100_000, 0_u64..2_000_000, 0_u64..20_000_000];
    let served = (sizes, times(), 0..100 * MIB, times())
        .prop_map(|(bytes, took, pending, after)| Step::Served { bytes, took, pending, after });
    prop_oneof![
        40 => served,
        10 => Just(Step::FoundFull),
        2 => Just(Step::Resumed),
        1 => Just(Step::Forget),
        1 => (0..8 * MIB, 0..80 * MIB).prop_map(|(start, max)| Step::Configure { start, max }),
    ]
}

proptest! {
    #[test]
    fn the_window_is_between_floor_and_cap(steps in prop::collection::vec(step(), 1..150)) {
        let mut max = 64 * MIB;
        let mut now = Instant::from_millis(1_000);
        let mut window = Window::new(4 * MIB, max);
        for step in steps {
            match step {
                Step::Served { bytes, took, pending, after } => {
                    now += Duration::from_micros(after);
                    let device_bytes = bytes + 8 * KIB;
                    window.served(Reply { bytes, device_bytes, took: Duration::from_micros(took), pending, now });
                    let two = 2 * device_bytes;
                    prop_assert!(window.bytes() >= two.min(max), "two of the latest fit");
                }
                Step::FoundFull => window.found_full(),
                Step::Resumed => window.resumed(now),
                Step::Forget => window.forget(now),
                Step::Configure { start, max: cap } => {
                    max = cap;
                    window.configure(start, max);
                }
            }
            prop_assert!(window.bytes() <= max);
            prop_assert!(window.bytes() >= FLOOR.min(max));
            prop_assert!(window.bytes() >= window.floor());
            prop_assert!(window.target() >= window.base());
        }
    }

    /// An estimate lies between what was believed and what was seen.
    #[test]
    fn the_capacity_is_what_was_seen(rate in MIB..1000 * MIB, depth in 4_u32..64) {
        let mut capacity = Capacity::new(100 * MIB);
        let cost = 72 * KIB;
        let every = Duration::from_nanos(cost * 1_000_000_000 / rate);
        let mut now = Instant::from_millis(1_000);
        for at in 0..depth {
            capacity.dispatched(at, now);
        }
        while now < Instant::from_millis(6_000) {
            now += every;
            capacity.ended(depth, now);
            capacity.served(64 * KIB, cost, every * depth);
            capacity.dispatched(depth - 1, now);
        }
        let near = |is: u64, should: u64| is.abs_diff(should) <= should / 20;
        prop_assert!(near(capacity.device_rate(), rate), "{} of {rate}", capacity.device_rate());
        prop_assert!(near(capacity.byte_rate().unwrap(), rate / 9 * 8));
    }
}

#[test]
fn few_requests_in_flight_do_not_lower_the_rate() {
    let mut capacity = Capacity::new(100 * MIB);
    let run = |capacity: &mut Capacity, depth: u32, from: u64| {
        let mut now = Instant::from_millis(from);
        for at in 0..depth {
            capacity.dispatched(at, now);
        }
        for _ in 0..400 {
            now += Duration::from_millis(1);
            capacity.ended(depth, now);
            capacity.served(4 * KIB, 12 * KIB, Duration::from_millis(1) * depth);
            capacity.dispatched(depth - 1, now);
        }
        for at in (1..=depth).rev() {
            capacity.ended(at, now);
        }
        now
    };
    run(&mut capacity, 1, 1_000);
    assert_eq!(capacity.device_rate(), 100 * MIB, "so little was asked");
    let end = run(&mut capacity, 8, 1_500);
    assert!(capacity.device_rate() < 40 * MIB, "{}", capacity.device_rate());
    assert!(capacity.byte_rate().is_some_and(|rate| rate < 40 * MIB));
    assert!(!capacity.is_stale(end + Duration::from_millis(999)));
    assert!(capacity.is_stale(end + Duration::from_secs(1)));
    capacity.dispatched(0, end + Duration::from_secs(1));
    assert_eq!(capacity.device_rate(), 100 * MIB, "a path that was slow gets another chance");
    assert_eq!(capacity.service_time(), Duration::ZERO);
}

#[test]
fn after_a_second_without_requests_the_window_starts_again() {
    let mut window = Window::new(4 * MIB, 64 * MIB);
    let mut now = Instant::from_millis(1_000);
    let flood = |window: &mut Window, now: &mut Instant, took: u64| {
        for _ in 0..4000 {
            *now += Duration::from_micros(100);
            let took = Duration::from_micros(took);
            window.found_full();
            let pending = window.bytes();
            window.served(Reply { bytes: 4 * KIB, device_bytes: 12 * KIB, took, pending, now: *now });
        }
    };
    window.resumed(now);
    flood(&mut window, &mut now, 500);
    let grown = window.bytes();
    assert_eq!(grown, 64 * MIB, "below target and asked for more");
    window.resumed(now + Duration::from_millis(999));
    assert_eq!(window.bytes(), grown);
    now += Duration::from_secs(1);
    window.resumed(now);
    assert_eq!(window.bytes(), 4 * MIB);
    flood(&mut window, &mut now, 500);
    window.forget(now);
    assert_eq!(window.bytes(), 4 * MIB);
}
