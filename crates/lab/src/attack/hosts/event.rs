//! What happens by itself, and the order in which it does.
//!
//! Invariant: events of one moment come in the order in which they were made. What belongs to a host's process names its life, and is
//! dropped when that is over. It does not know what anything means.

use super::etcd::Order;
use super::qemu::Command;
use super::takeover::Taking;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use vmpath_core::cluster::Heard;
use vmpath_core::event::HypervisorReport;
use vmpath_core::migration::{HandOver, MoveId};
use vmpath_core::ownership::Found;
use vmpath_core::time::Instant;

/// One process of vmpath on one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) host: usize,
    pub(super) number: u32,
}

#[derive(Debug)]
pub(super) enum Event {
    // Of a process: over when that is.
    Link { life: Life, path: usize, number: u64 },
    Tick { life: Life, number: u64 },
    Saved(Life),
    Session { life: Life, number: u64 },
    Watched { life: Life, unit: usize, found: Found },
    Publish(Life),
    Hear { life: Life, heard: Box<Heard> },
    Answered { life: Life, order: u32 },
    Report { life: Life, vm: usize, instance: u64, report: Box<HypervisorReport> },
    Attach { life: Life, vm: usize },
    Announce { life: Life, vm: usize },
    Settling { life: Life, vm: usize },
    Cut { life: Life, attempt: u32 },
    Stored { life: Life, vm: usize, hand_over: Box<HandOver> },
    Launch { life: Life, vm: usize, id: MoveId },
    Pump { life: Life, vm: usize },
    Reply { life: Life, attempt: u32 },
    Call { life: Life, call: u32 },
    Taking { life: Life, taking: Box<Taking> },

    // Of the world.
    Start(usize),
    PowerOn(usize),
    FenceHits(usize),
    StoreTakes(Box<Order>),
    CallArrives(u32),
    CallAnswered(u32),
    Command { host: usize, vm: usize, instance: u64, command: Command },
    Stream { host: usize, vm: usize, instance: u64 },
    Device { host: usize, vm: usize, instance: u64 },
    Ends { host: usize, vm: usize, instance: u64, why: &'static str },
    Guest { host: usize, vm: usize, instance: u64, chain: u32 },
    Execute(u32),
    Ghost(u32),
    Relaunch(usize),
    Trouble,
    HostTrouble,
    Strike { host: usize, other: usize, vm: usize },
    Heal(Broken),
    MonitorBack { host: usize, vm: usize },
    Look,
}

/// What can be broken for a while, and is repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    Path { host: usize, path: usize },
    Hang { host: usize, path: usize },
    Array { target: usize },
    Peers { a: usize, b: usize },
    Stream { a: usize, b: usize },
    Etcd { host: usize },
    Quorum,
    Slow { host: usize },
}

impl Event {
    /// The process that it belongs to.
    pub(super) fn life(&self) -> Option<Life> {
        match self {
            Self::Link { life, .. }
            | Self::Tick { life, .. }
            | Self::Saved(life)
            | Self::Session { life, .. }
            | Self::Watched { life, .. }
            | Self::Publish(life)
            | Self::Hear { life, .. }
            | Self::Answered { life, .. }
            | Self::Report { life, .. }
            | Self::Attach { life, .. }
            | Self::Announce { life, .. }
            | Self::Settling { life, .. }
            | Self::Cut { life, .. }
            | Self::Stored { life, .. }
            | Self::Launch { life, .. }
            | Self::Pump { life, .. }
            | Self::Reply { life, .. }
            | Self::Call { life, .. }
            | Self::Taking { life, .. } => Some(*life),
            Self::Start(_)
            | Self::PowerOn(_)
            | Self::FenceHits(_)
            | Self::HostTrouble
            | Self::StoreTakes(_)
            | Self::CallArrives(_)
            | Self::CallAnswered(_)
            | Self::Command { .. }
            | Self::Stream { .. }
            | Self::Device { .. }
            | Self::Ends { .. }
            | Self::Guest { .. }
            | Self::Execute(_)
            | Self::Ghost(_)
            | Self::Relaunch(_)
            | Self::Trouble
            | Self::Strike { .. }
            | Self::Heal(_)
            | Self::MonitorBack { .. }
            | Self::Look => None,
        }
    }

    /// Too frequent to be read.
    pub(super) fn is_dull(&self) -> bool {
        matches!(
            self,
            Self::Tick { .. }
                | Self::Saved(_)
                | Self::Publish(_)
                | Self::Pump { .. }
                | Self::Reply { .. }
                | Self::Guest { .. }
                | Self::Execute(_)
                | Self::Look
        )
    }
}

struct Due {
    at: Instant,
    serial: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

#[derive(Default)]
pub(super) struct Agenda {
    heap: BinaryHeap<Reverse<Due>>,
    serial: u64,
}

impl Agenda {
    pub(super) fn push(&mut self, at: Instant, event: Event) {
        self.serial += 1;
        self.heap.push(Reverse(Due { at, serial: self.serial, event }));
    }

    pub(super) fn pop(&mut self) -> Option<(Instant, Event)> {
        self.heap.pop().map(|Reverse(due)| (due.at, due.event))
    }
}
