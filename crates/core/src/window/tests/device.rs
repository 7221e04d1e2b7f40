//! A storage device in virtual time, and VMs that send to it through a window or without one.
//!
//! The device: requests are taken in the order they come, by whichever of its servers is free first; all servers together
//! carry `rate` device bytes per second. An answer is on its way for `delay`, and up to `jitter` more.

use crate::schedule::Cost;
use crate::time::{Duration, Instant};
use crate::window::{Reply, Window};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const SLOT: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug)]
pub(super) struct Device {
    pub(super) rate: u64,
    pub(super) delay: Duration,
    pub(super) jitter: Duration,
    pub(super) servers: usize,
}

impl Device {
    pub(super) fn new(mib_per_second: u64, delay_micros: u64) -> Self {
        let delay = Duration::from_micros(delay_micros);
        Self { rate: mib_per_second * MIB, delay, jitter: Duration::ZERO, servers: 1 }
    }

    /// How long one server takes.
    pub(super) fn service(&self, cost: u64) -> Duration {
        let nanos = u128::from(cost) * self.servers as u128 * 1_000_000_000 / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap())
    }
}

/// Who sends: `sizes` in turn.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) sizes: Vec<u64>,
    pub(super) way: Way,
    pub(super) from: Duration,
    pub(super) until: Duration,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// So many at a time, the next when one is answered.
    Closed(usize),
    /// One each so long, answered or not.
    Open(Duration),
    /// As closed, but of another host: past the window.
    Foreign(usize),
}

impl Load {
    pub(super) fn closed(sizes: &[u64], depth: usize) -> Self {
        Self::of(sizes, Way::Closed(depth))
    }

    pub(super) fn of(sizes: &[u64], way: Way) -> Self {
        Self { sizes: sizes.to_vec(), way, from: Duration::ZERO, until: Duration::MAX }
    }
}

/// What happened in 100 ms. All is of our own requests only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) served: u64,
    pub(super) replies: u64,
    /// The sum of what each waited in the device for its turn, in ns.
    pub(super) waited: u64,
    /// At its end; zero without one.
    pub(super) window: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Change(usize),
    Begin(usize),
    Arrive(usize),
    Answer { load: usize, bytes: u64, sent: Instant, waited: u64 },
}

pub(super) struct World {
    device: Device,
    changes: Vec<(Duration, Device)>,
    loads: Vec<Load>,
    window: Option<Window>,
    now: Instant,
    events: BinaryHeap<Reverse<(Instant, u64, Happening)>>,
    sequence: u64,
    free_at: Vec<Instant>,
    next_size: Vec<usize>,
    queue: VecDeque<(usize, u64)>,
    pending: u64,
    in_flight: u32,
    random: u64,
    slots: Vec<Slot>,
}

/// Runs for `seconds`; the device becomes another at each of the changes.
pub(super) fn run(
    window: Option<Window>,
    device: Device,
    changes: &[(Duration, Device)],
    loads: &[Load],
    seconds: u64,
) -> Vec<Slot> {
    let mut world = World {
        device,
        changes: changes.to_vec(),
        loads: loads.to_vec(),
        window,
        now: Instant::ZERO,
        events: BinaryHeap::new(),
        sequence: 0,
        free_at: vec![Instant::ZERO; device.servers],
        next_size: (0..loads.len()).collect(),
        queue: VecDeque::new(),
        pending: 0,
        in_flight: 0,
        random: 0x9e37_79b9_7f4a_7c15,
        slots: Vec::new(),
    };
    for (at, change) in changes.iter().enumerate() {
        world.at(Instant::ZERO + change.0, Happening::Change(at));
    }
    for (at, load) in loads.iter().enumerate() {
        world.at(Instant::ZERO + load.from, Happening::Begin(at));
    }
    world.go(Instant::ZERO + Duration::from_secs(seconds));
    world.slots
}

impl World {
    fn at(&mut self, at: Instant, happening: Happening) {
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence, happening)));
    }

    fn go(&mut self, end: Instant) {
        while let Some(Reverse((at, _, happening))) = self.events.pop() {
            if at >= end {
                break;
            }
            self.now = at;
            let slot = usize::try_from(at.as_nanos() / SLOT.as_nanos() as u64).unwrap();
            let window = self.window.as_ref().map_or(0, Window::bytes);
            self.slots.resize(slot + 1, Slot { window, ..Slot::default() });
            self.happen(happening);
            self.slots[slot].window = self.window.as_ref().map_or(0, Window::bytes);
            self.send();
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Change(at) => self.device = self.changes[at].1,
            Happening::Begin(load) => match self.loads[load].way {
                Way::Closed(depth) | Way::Foreign(depth) => (0..depth).for_each(|_| self.want(load)),
                Way::Open(_) => self.happen(Happening::Arrive(load)),
            },
            Happening::Arrive(load) => {
                self.want(load);
                if let Way::Open(every) = self.loads[load].way {
                    self.at(self.now + every, Happening::Arrive(load));
                }
            }
            Happening::Answer { load, bytes, sent, waited } => self.answered(load, bytes, sent, waited),
        }
    }

    fn want(&mut self, load: usize) {
        if self.now >= Instant::ZERO + self.loads[load].until {
            return;
        }
        let sizes = &self.loads[load].sizes;
        let bytes = sizes[self.next_size[load] % sizes.len()];
        self.next_size[load] += 1;
        match self.loads[load].way {
            Way::Foreign(_) => self.reach_device(load, bytes),
            Way::Closed(_) | Way::Open(_) => self.queue.push_back((load, bytes)),
        }
    }

    /// Sends what the window lets go.
    fn send(&mut self) {
        while let Some((load, bytes)) = self.queue.front().copied() {
            let cost = Cost { bytes }.device_bytes();
            if let Some(window) = &mut self.window {
                let fits = self.pending + cost <= window.bytes() && self.in_flight < window.requests();
                if self.in_flight > 0 && !fits {
                    window.found_full();
                    return;
                }
                if self.in_flight == 0 {
                    window.resumed(self.now);
                }
            }
            self.queue.pop_front();
            self.pending += cost;
            self.in_flight += 1;
            self.reach_device(load, bytes);
        }
    }

    fn reach_device(&mut self, load: usize, bytes: u64) {
        let service = self.device.service(Cost { bytes }.device_bytes());
        let server = self.free_at.iter_mut().min().unwrap();
        let start = self.now.max(*server);
        *server = start + service;
        let jitter = self.device.jitter.as_nanos() as u64;
        let late = if jitter == 0 { 0 } else { self.random() % jitter };
        let done = start + service + self.device.delay + Duration::from_nanos(late);
        let waited = start.since(self.now).as_nanos() as u64;
        self.at(done, Happening::Answer { load, bytes, sent: self.now, waited });
    }

    fn answered(&mut self, load: usize, bytes: u64, sent: Instant, waited: u64) {
        if let Way::Closed(_) | Way::Open(_) = self.loads[load].way {
            let device_bytes = Cost { bytes }.device_bytes();
            if let Some(window) = &mut self.window {
                let took = self.now.since(sent);
                window.served(Reply { bytes, device_bytes, took, pending: self.pending, now: self.now });
            }
            self.pending -= device_bytes;
            self.in_flight -= 1;
            let slot = self.slots.last_mut().unwrap();
            slot.served += device_bytes;
            slot.replies += 1;
            slot.waited += waited;
        }
        if !matches!(self.loads[load].way, Way::Open(_)) {
            self.want(load);
        }
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}
