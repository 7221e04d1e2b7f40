//! Under a load that does not change the path is as busy as without a window, and its queue is short.

use super::device::{Device, KIB, Load, MIB, Way, run};
use super::{served, slots, waited, window};
use crate::schedule::Cost;
use crate::time::Duration;
use crate::window::FLOOR;

const SECONDS: u64 = 8;
const SECOND: Duration = Duration::from_secs(1);
const END: Duration = Duration::from_secs(SECONDS);

/// Enough of each to fill any of the devices far beyond its need.
fn flood(sizes: &[u64]) -> Load {
    let mean = sizes.iter().sum::<u64>() / sizes.len() as u64;
    Load::closed(sizes, usize::try_from((48 * MIB / (mean + 8 * KIB)).min(4000)).unwrap())
}

/// The part of what the device carries unscheduled, once the window has had a second and eight latencies, and the wait in
/// it for a turn.
fn utilisation(device: Device, loads: &[Load]) -> (f64, Duration) {
    let largest = loads.iter().flat_map(|load| &load.sizes).max().unwrap();
    let from = SECOND + device.service(Cost { bytes: *largest }.device_bytes()) * 8;
    let free = run(None, device, &[], loads, SECONDS);
    let steered = run(Some(window()), device, &[], loads, SECONDS);
    let part = served(slots(&steered, from, END)) as f64 / served(slots(&free, from, END)) as f64;
    (part, waited(slots(&steered, from, END)))
}

/// The longest queue that is meant to stand: the allowance and the tolerance of a step, or the floor, as time.
fn queue_meant(device: &Device, largest: u64) -> Duration {
    let cost = Cost { bytes: largest }.device_bytes();
    let base = device.delay + device.service(cost);
    let allowance = (base / 2).max(Duration::from_millis(2));
    let floor = FLOOR.max(2 * cost);
    let at_floor = device.service(floor) / u32::try_from(device.servers).unwrap();
    allowance * 5 / 4 + at_floor
}

#[test]
fn the_path_stays_busy_and_the_queue_in_it_short() {
    let mixed = [4 * KIB, 64 * KIB, 4 * KIB, MIB];
    let sizes: [&[u64]; 3] = [&[4 * KIB], &[MIB], &mixed];
    let mut bad = String::new();
    for servers in [1, 8] {
        for rate in [20, 100, 1000] {
            for delay in [100, 2000, 20_000] {
                for sizes in sizes {
                    let device = Device { servers, ..Device::new(rate, delay) };
                    let (part, wait) = utilisation(device, &[flood(sizes)]);
                    let meant = queue_meant(&device, *sizes.iter().max().unwrap());
                    let line = format!(
                        "{servers} x {rate} MiB/s, {delay} us, {sizes:?}: {part:.3}, queue {wait:?} of {meant:?}\n"
                    );
                    if part < 0.97 || wait > meant {
                        bad += &line;
                    }
                }
            }
        }
    }
    assert!(bad.is_empty(), "\n{bad}");
}

#[test]
fn latency_that_varies_by_itself_is_no_queue() {
    for jitter in [1, 5, 20] {
        let device = Device { jitter: Duration::from_millis(jitter), ..Device::new(100, 500) };
        let (part, wait) = utilisation(device, &[flood(&[64 * KIB])]);
        assert!(part >= 0.97, "{jitter} ms: {part}");
        assert!(wait < Duration::from_millis(4 + 2 * jitter), "{jitter} ms: {wait:?}");
    }
}

#[test]
fn an_open_loop_that_fits_is_not_held_back() {
    let device = Device::new(100, 500);
    // 80 MiB/s.
    let load = Load::of(&[64 * KIB], Way::Open(Duration::from_micros(878)));
    let (part, wait) = utilisation(device, &[load]);
    assert!(part > 0.999, "{part}");
    assert!(wait < Duration::from_millis(1), "{wait:?}");
}
