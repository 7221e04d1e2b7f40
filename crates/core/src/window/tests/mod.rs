//! Rules of the window, on devices in virtual time.

mod device;
mod follow;
mod properties;
mod steady;

use super::Window;
use crate::time::Duration;
use device::{MIB, SLOT, Slot};

/// As a path without a configured capacity starts.
fn window() -> Window {
    Window::new(4 * MIB, 64 * MIB)
}

fn slots(all: &[Slot], from: Duration, until: Duration) -> &[Slot] {
    let at = |d: Duration| (d.as_nanos() / SLOT.as_nanos()) as usize;
    &all[at(from).min(all.len())..at(until).min(all.len())]
}

fn served(slots: &[Slot]) -> u64 {
    slots.iter().map(|slot| slot.served).sum()
}

/// What a request waited in the device for its turn, on average.
fn waited(slots: &[Slot]) -> Duration {
    let replies: u64 = slots.iter().map(|slot| slot.replies).sum();
    Duration::from_nanos(slots.iter().map(|slot| slot.waited).sum::<u64>() / replies.max(1))
}
