//! The fleet's loop: reap, send what is due, publish, wait.
//!
//! Invariant: a closed loop is refilled as soon as its completion is seen; an open loop is looked at on every wake-up and
//! at each [`TICK`], so that a request leaves at most that much after its turn. Rejected: polling, which would take one of
//! two processors from those who are measured. It does not know: why an answer takes long.

use super::{Completion, Demand, FleetPlan, Record, VmLoad, VmRecord, WAIT_MAX};
use crate::vhost::ring::Notify;
use crate::vhost::{BlockRequest, Chains, Client, Done, Operation, Options, Status, Waiter, Woken};
use crate::workload::mix::Dice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often an open loop is looked at: at some thousand requests a second one or two are due.
const TICK: Duration = Duration::from_micros(250);
/// A sleep ends after this at the latest, to see whether it is time to stop.
const NAP: Duration = Duration::from_millis(50);
/// How long requests that are open at the end may take.
const DRAIN: Duration = Duration::from_secs(10);
/// Records are kept without growing for this many requests, so that growing does not disturb a measurement.
const ROOM: usize = 1 << 16;
const NANOS: u64 = 1_000_000_000;

#[derive(Clone, Copy, Default)]
struct Started {
    due: u64,
    sent: u64,
}

struct Vm {
    client: Client,
    depth: u16,
    demand: Demand,
    dice: Dice,
    places: u64,
    open: u16,
    /// Requests that were sent or given up so far.
    begun: u64,
    /// By slot.
    started: Vec<Started>,
    record: VmRecord,
}

pub(super) struct Engine {
    vms: Vec<Vm>,
    waiter: Waiter,
    request_bytes: u32,
    stop: Arc<AtomicBool>,
    done: Vec<Done>,
    woken: Vec<Woken>,
}

impl Engine {
    pub(super) fn connect(plan: &FleetPlan, stop: Arc<AtomicBool>) -> anyhow::Result<Self> {
        let mut waiter = Waiter::new()?;
        let mut vms = Vec::new();
        for (number, load) in plan.vms.iter().enumerate() {
            let vm = Vm::connect(load, plan.request_bytes, number as u64 + 1)?;
            waiter.add(number, &vm.client)?;
            vms.push(vm);
        }
        if vms.iter().any(|vm| vm.demand != Demand::Backlog) {
            waiter.tick_every(TICK)?;
        }
        let (done, woken) = (Vec::with_capacity(256), Vec::with_capacity(64));
        Ok(Self { vms, waiter, request_bytes: plan.request_bytes, stop, done, woken })
    }

    pub(super) fn run(mut self, born: Instant) -> anyhow::Result<Record> {
        (0..self.vms.len()).for_each(|vm| self.service_and_arm(vm, born, Refill::Yes));
        while !self.stop.load(Ordering::Relaxed) {
            self.wait(born, Refill::Yes)?;
        }
        let end = Instant::now() + DRAIN;
        while self.vms.iter().any(|vm| vm.open > 0) {
            anyhow::ensure!(Instant::now() < end, "requests are open {} s after the end", DRAIN.as_secs());
            self.wait(born, Refill::No)?;
        }
        let strays: u64 = self.vms.iter().map(|vm| vm.client.strays()).sum();
        anyhow::ensure!(strays == 0, "{strays} completions of no request");
        let vms = self.vms.into_iter().map(|vm| vm.record).collect();
        Ok(Record { request_bytes: self.request_bytes, vms })
    }

    fn wait(&mut self, born: Instant, refill: Refill) -> anyhow::Result<()> {
        self.woken.clear();
        self.waiter.wait(NAP, &mut self.woken)?;
        let woken = std::mem::take(&mut self.woken);
        for what in &woken {
            match *what {
                Woken::Queue { disk, .. } => self.service_and_arm(disk, born, refill),
                Woken::Tick => {}
                Woken::Connection { disk } => {
                    anyhow::bail!("{}: the back end has gone", self.vms[disk].record.name)
                }
            }
        }
        if refill == Refill::Yes {
            let paced = |vm: &&mut Vm| vm.demand != Demand::Backlog;
            self.vms.iter_mut().filter(paced).for_each(|vm| vm.fill(since(born), self.request_bytes));
        }
        self.woken = woken;
        Ok(())
    }

    fn service_and_arm(&mut self, vm: usize, born: Instant, refill: Refill) {
        let vm = &mut self.vms[vm];
        loop {
            vm.client.reap(0, &mut self.done);
            let now = since(born);
            vm.settle(&mut self.done, now);
            if refill == Refill::Yes {
                vm.fill(now, self.request_bytes);
            }
            if !vm.client.ask_for_interrupt(0) {
                return;
            }
        }
    }
}

/// Whether completed requests are followed by others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refill {
    Yes,
    No,
}

impl Vm {
    fn connect(load: &VmLoad, request_bytes: u32, seed: u64) -> anyhow::Result<Self> {
        let options = Options {
            queues: 1,
            slots: load.depth,
            slot_bytes: request_bytes as usize,
            segments: 1,
            chains: Chains::Direct,
            ..Options::new(load.socket.clone())
        };
        let client = Client::connect(options)
            .map_err(|why| anyhow::anyhow!("{}: {why}; is a server running there?", load.socket.display()))?;
        let places = client.config().bytes() / u64::from(request_bytes);
        anyhow::ensure!(places > 0, "{}: smaller than one request", load.socket.display());
        let record = VmRecord {
            name: load.name.clone(),
            completions: Vec::with_capacity(ROOM),
            ..VmRecord::default()
        };
        let started = vec![Started::default(); usize::from(load.depth)];
        let (depth, demand, dice) = (load.depth, load.demand, Dice::new(seed));
        Ok(Self { client, depth, demand, dice, places, open: 0, begun: 0, started, record })
    }

    fn settle(&mut self, done: &mut Vec<Done>, now: u64) {
        for done in done.drain(..) {
            let Started { due, sent } = self.started[usize::from(done.slot.index)];
            if done.status == Status::Ok {
                self.record.completions.push(Completion {
                    at: now,
                    latency: now - sent,
                    response: now - due,
                });
            } else {
                self.record.errors += 1;
            }
            self.client.release(done.slot);
            self.open -= 1;
        }
    }

    /// Sends what may be sent now.
    fn fill(&mut self, now: u64, request_bytes: u32) {
        let mut sent = false;
        while let Some(due) = self.next(now) {
            let Some(slot) = self.client.acquire(0) else { break };
            let offset = self.dice.below(self.places) * u64::from(request_bytes);
            self.client.submit(slot, BlockRequest::new(Operation::Read, offset, request_bytes));
            self.started[usize::from(slot.index)] = Started { due, sent: now };
            self.open += 1;
            self.begun += 1;
            sent = true;
        }
        if sent {
            // Whether a kick was needed is the ring's affair.
            let _: Notify = self.client.publish(0);
        }
    }

    /// When the turn of the next request came, if it may be sent now.
    fn next(&mut self, now: u64) -> Option<u64> {
        let room = self.open < self.depth;
        let Demand::Paced { requests_per_second: rate } = self.demand else { return room.then_some(now) };
        let lapsed = turns_until(now.saturating_sub(WAIT_MAX.as_nanos() as u64), rate);
        let given_up = lapsed.saturating_sub(self.begun);
        self.begun += given_up;
        self.record.given_up += given_up;
        (room && self.begun < turns_until(now, rate)).then(|| turn(self.begun, rate))
    }
}

/// When the turn with this number, from 0, comes.
fn turn(number: u64, rate: u64) -> u64 {
    (u128::from(number) * u128::from(NANOS)).div_ceil(u128::from(rate.max(1))) as u64
}

/// How many turns have come at this time.
fn turns_until(now: u64, rate: u64) -> u64 {
    (u128::from(now) * u128::from(rate) / u128::from(NANOS)) as u64 + 1
}

fn since(born: Instant) -> u64 {
    born.elapsed().as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_has_come_exactly_from_its_time_on() {
        for rate in [1, 3, 4608, 1_000_000] {
            for number in [0, 1, 2, 4607, 1_000_003] {
                let time = turn(number, rate);
                assert_eq!(turns_until(time, rate), number + 1, "{number} at {rate}/s");
                assert!(number == 0 || turns_until(time - 1, rate) == number);
            }
        }
    }
}
