//! A path that changes is followed within a second.

use super::device::{Device, KIB, Load, MIB, Slot, Way, run};
use super::{served, slots, waited, window};
use crate::time::Duration;

const SIZES: [u64; 3] = [4 * KIB, 64 * KIB, 128 * KIB];
const END: u64 = 8;

fn seconds(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

fn flood() -> Load {
    Load::closed(&SIZES, 600)
}

/// The device becomes another at 3 s. From 4 s on it is as busy as without a window, and its queue is short.
fn followed(before: Device, after: Device, queue_max: Duration, busy: f64) {
    let changes = [(seconds(3.0), after)];
    let free = run(None, before, &changes, &[flood()], END);
    let steered = run(Some(window()), before, &changes, &[flood()], END);
    for from in [4.0, 5.0, 6.0] {
        let (from, until) = (seconds(from), seconds(from + 1.0));
        let part = served(slots(&steered, from, until)) as f64 / served(slots(&free, from, until)) as f64;
        let wait = waited(slots(&steered, from, until));
        assert!(part >= busy, "{before:?} to {after:?}: {part} from {from:?}");
        assert!(wait <= queue_max, "{before:?} to {after:?}: queue {wait:?} from {from:?}");
    }
}

#[test]
fn a_path_that_slows_to_a_quarter_and_recovers_is_followed() {
    for delay in [100, 2000] {
        let (fast, slow) = (Device::new(200, delay), Device::new(50, delay));
        // The floor is 6 ms of the slow one. Its large requests honestly take longer, which the bases do not know before they
        // have aged: until then a little is lost.
        followed(fast, slow, Duration::from_millis(12), 0.93);
        followed(slow, fast, Duration::from_millis(4), 0.97);
    }
}

#[test]
fn a_path_that_becomes_longer_or_shorter_is_followed() {
    for delay in [100, 2000] {
        let (near, far) = (Device::new(200, delay), Device::new(200, delay + 20_000));
        followed(near, far, Duration::from_millis(16), 0.97);
        followed(far, near, Duration::from_millis(4), 0.97);
    }
}

/// Two cuts show that latency does not fall with the window: it is not cut on down to the floor.
#[test]
fn a_path_that_becomes_longer_is_told_from_a_queue() {
    let (near, far) = (Device::new(1000, 100), Device::new(1000, 20_100));
    let load = Load::closed(&SIZES, 2000);
    let steered = run(Some(window()), near, &[(seconds(3.0), far)], &[load], 5);
    let window_of = |s: f64| slots(&steered, seconds(s), seconds(s + 0.1))[0].window;
    let least = slots(&steered, seconds(3.0), seconds(5.0)).iter().map(|slot| slot.window).min().unwrap();
    assert!(least >= window_of(2.9) / 5, "{} of {} KiB", least / KIB, window_of(2.9) / KIB);
}

/// Another host keeps 32 requests of 128 KiB in the device: 42 ms of queue that no cut of ours can shorten.
#[test]
fn load_of_others_does_not_push_us_to_the_floor() {
    let device = Device::new(100, 500);
    let foreign =
        Load { from: seconds(3.0), until: seconds(7.0), ..Load::of(&[128 * KIB], Way::Foreign(32)) };
    let steered = run(Some(window()), device, &[], &[Load::closed(&[64 * KIB], 600), foreign], 12);
    let rate = |from, until| served(slots(&steered, seconds(from), seconds(until))) as f64 / (until - from);
    let alone = rate(1.0, 3.0);
    // At the floor we would have 1/17 of it, with a short queue of our own a bit more; without a window 9/10.
    let shared = rate(5.0, 7.0);
    assert!(shared > alone / 10.0, "{} of {} MiB/s", shared / MIB as f64, alone / MIB as f64);
    assert!(rate(8.0, 9.0) > alone * 0.97, "it is ours again");
    // What was taken for noise is found to be none at the next drain at the latest.
    let wait = waited(slots(&steered, seconds(11.0), seconds(12.0)));
    assert!(wait < Duration::from_millis(6), "{wait:?}");
}

#[test]
fn large_requests_do_not_make_the_window_collapse() {
    let device = Device { servers: 4, ..Device::new(200, 500) };
    let large = Load { from: seconds(3.0), until: seconds(6.0), ..Load::of(&[MIB], Way::Closed(40)) };
    let steered = run(Some(window()), device, &[], &[Load::closed(&[4 * KIB], 600), large], 26);
    let window_of = |from, until| {
        let slots = slots(&steered, seconds(from), seconds(until));
        slots.iter().map(|slot| slot.window).sum::<u64>() / slots.len() as u64
    };
    let small = window_of(2.0, 3.0);
    // Room for one in each of the four servers.
    assert!(window_of(4.0, 6.0) >= 4 * MIB, "{} KiB", window_of(4.0, 6.0) / KIB);
    // What small requests took between large ones is forgotten once these no longer count as lately seen.
    assert!(
        window_of(25.0, 26.0) <= small * 2,
        "{} KiB, before {}",
        window_of(25.0, 26.0) / KIB,
        small / KIB
    );
    let rate = |from, until| served(slots(&steered, seconds(from), seconds(until))) as f64 / (until - from);
    assert!(rate(4.0, 6.0) > rate(1.0, 3.0) * 0.97);
}

#[test]
fn the_bases_are_measured_anew_at_a_small_cost() {
    let device = Device::new(100, 20_000);
    let steered = run(Some(window()), device, &[], &[flood()], 60);
    let rate = |from, until| served(slots(&steered, seconds(from), seconds(until))) as f64 / (until - from);
    assert!(rate(2.0, 60.0) > 0.99 * 100.0 * MIB as f64, "{}", rate(2.0, 60.0) / MIB as f64);
    let wait = waited(slots(&steered, seconds(50.0), seconds(60.0)));
    assert!(wait < Duration::from_millis(13), "the bases have not drifted: {wait:?}");
}

#[test]
fn the_same_run_gives_the_same_windows() {
    let device = Device { jitter: Duration::from_millis(3), ..Device::new(100, 500) };
    let once = || -> Vec<Slot> { run(Some(window()), device, &[], &[flood()], 3) };
    assert_eq!(once(), once());
}
