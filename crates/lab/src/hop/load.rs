//! The loop of the benchmark client: fill, publish, reap, wait.
//!
//! ```text
//! free running   each disk: reap -> fill to the depth -> publish (one kick, if asked for)
//! at a rate      what is due goes to the disks in turn; reaping fills nothing
//! ```
//! Invariant: no allocation once it runs; the clock is read twice for a batch, not for a request.
//! Rejected: a thread for each disk. It does not know: what the figures are compared with.

use super::process::{cpu_us, memory_kib};
use super::{HopArgs, HopReport, LatencyReport, Op, Poll, ProcessCost, Verify};
use crate::vhost::ring::Notify;
use crate::vhost::{BlockRequest, Chains, Client, Done, Operation, Options, SlotId, Status, Waiter, Woken};
use crate::workload::block::{self, BLOCK, Content, Identity, blocks_of};
use crate::workload::mix::Dice;
use crate::workload::stats::Histogram;
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

/// Rounds of polling without news between two looks at the clock and at the connections.
const SPINS: u32 = 256;
/// A sleep ends after this at the latest, to look at the time.
const NAP: Duration = Duration::from_millis(100);
/// At a rate, how often what is due is sent: not more often than this, so that the client's own cost stays low.
const TICK_LEAST: Duration = Duration::from_micros(50);
/// At a rate: how much of it may be made up for after a pause.
const CATCH_UP: Duration = Duration::from_millis(50);
/// How long requests that are open at the end may take.
const DRAIN: Duration = Duration::from_secs(10);
/// A bound for each of the requests that prepare and check the content.
const SINGLE: Duration = Duration::from_secs(10);
/// The generation that all verified blocks have.
const GENERATION: u32 = 2;

/// One disk under load.
struct DiskLoad {
    client: Client,
    who: Identity,
    dice: Dice,
    /// Requests that fit into the span; the next of a sequential load.
    places: u64,
    next: u64,
    open: u16,
    queue: u16,
    /// When each slot's request was submitted, in nanoseconds, by queue and slot.
    started: Vec<Vec<u64>>,
}

#[derive(Default)]
struct Counts {
    requests: u64,
    latency_sum: u64,
    latency: Histogram,
    kicks: u64,
    wakes: u64,
    errors: u64,
    mismatches: u64,
}

pub(super) struct Rig<'a> {
    args: &'a HopArgs,
    disks: Vec<DiskLoad>,
    waiter: Waiter,
    born: Instant,
    counts: Counts,
    /// At a rate: requests that were sent since the beginning, and whose turn it is.
    sent: u64,
    turn: usize,
    done: Vec<Done>,
    woken: Vec<Woken>,
    buffer: Vec<u8>,
}

impl<'a> Rig<'a> {
    /// Connects to all disks and, to verify, writes them.
    pub(super) fn new(args: &'a HopArgs) -> anyhow::Result<Self> {
        let waiter = Waiter::new()?;
        let mut disks = Vec::new();
        for (number, socket) in args.sockets().into_iter().enumerate() {
            let options = Options {
                queues: args.queues,
                slots: args.depth.div_ceil(args.queues),
                slot_bytes: args.block_size as usize,
                segments: 1,
                chains: Chains::Direct,
                ..Options::new(socket.clone())
            };
            let client = Client::connect(options)
                .map_err(|why| anyhow::anyhow!("{}: {why}; is a server running there?", socket.display()))?;
            anyhow::ensure!(
                !(client.is_read_only() && (args.op.is_write() || args.verify == Verify::Yes)),
                "{} is read-only",
                socket.display()
            );
            waiter.add(number, &client)?;
            let places = args.span(client.config().bytes()) / args.block_size;
            anyhow::ensure!(places > 0, "{}: smaller than one request", socket.display());
            let who = Identity { run: 1, disk: number as u32 };
            let slots = usize::from(args.depth.div_ceil(args.queues));
            let started = vec![vec![0; slots]; usize::from(client.queues())];
            let dice = Dice::new(number as u64 + 1);
            disks.push(DiskLoad { client, who, dice, places, next: 0, open: 0, queue: 0, started });
        }
        Ok(Self {
            args,
            disks,
            waiter,
            born: Instant::now(),
            counts: Counts::default(),
            sent: 0,
            turn: 0,
            done: Vec::with_capacity(usize::from(args.depth)),
            woken: Vec::with_capacity(64),
            buffer: vec![0; args.block_size as usize],
        })
    }

    /// Warms up, measures, drains, and checks.
    pub(super) fn measure(mut self) -> anyhow::Result<HopReport> {
        if self.args.verify == Verify::Yes {
            self.write_all()?;
        }
        if let Some(rate) = self.args.rate {
            let pace = Duration::from_secs_f64(1.0 / rate.max(1) as f64).max(TICK_LEAST);
            self.waiter.tick_every(pace)?;
        }
        self.born = Instant::now();
        self.run_until(self.args.warmup)?;
        let (mine, others) = (thread_cpu_us(), self.others_cpu_us()?);
        let began = self.born.elapsed();
        self.counts = Counts::default();
        self.run_until(began + self.args.seconds)?;
        let took = self.born.elapsed() - began;
        let cpu = thread_cpu_us() - mine;
        let processes = self.costs(&others)?;
        let mut counts = std::mem::take(&mut self.counts);
        self.drain()?;
        if self.args.verify == Verify::Yes {
            self.read_all()?;
        }
        counts.errors += self.counts.errors;
        counts.mismatches += self.counts.mismatches;
        Ok(self.report(&counts, took, cpu, processes))
    }

    fn run_until(&mut self, end: Duration) -> anyhow::Result<()> {
        for disk in 0..self.disks.len() {
            self.service(disk);
        }
        match self.args.poll {
            Poll::Busy => self.spin_until(end),
            Poll::Event => self.sleep_until(end),
        }
    }

    fn spin_until(&mut self, end: Duration) -> anyhow::Result<()> {
        for load in &mut self.disks {
            (0..load.client.queues()).for_each(|queue| load.client.want_no_interrupt(queue));
        }
        let mut idle = 0;
        while idle < SPINS || self.born.elapsed() < end {
            if idle >= SPINS {
                idle = 0;
                self.look(Duration::ZERO)?;
            }
            self.send_what_is_due();
            let mut moved = false;
            for disk in 0..self.disks.len() {
                moved |= self.service(disk);
            }
            if moved && self.born.elapsed() >= end {
                return Ok(());
            }
            idle = if moved { 0 } else { idle + 1 };
            std::hint::spin_loop();
        }
        Ok(())
    }

    fn sleep_until(&mut self, end: Duration) -> anyhow::Result<()> {
        for disk in 0..self.disks.len() {
            self.service_and_arm(disk);
        }
        while self.born.elapsed() < end {
            self.look(NAP)?;
            self.counts.wakes += 1;
            let woken = std::mem::take(&mut self.woken);
            for what in &woken {
                match *what {
                    Woken::Queue { disk, .. } => self.service_and_arm(disk),
                    Woken::Tick => self.send_what_is_due(),
                    Woken::Connection { .. } => {}
                }
            }
            self.woken = woken;
        }
        Ok(())
    }

    /// Waits; an end of a connection is an error here.
    fn look(&mut self, limit: Duration) -> anyhow::Result<()> {
        self.woken.clear();
        self.waiter.wait(limit, &mut self.woken)?;
        let gone = self.woken.iter().find_map(|what| match what {
            Woken::Connection { disk } => Some(*disk),
            Woken::Queue { .. } | Woken::Tick => None,
        });
        match gone {
            None => Ok(()),
            Some(disk) => anyhow::bail!("{}: the back end has gone", self.args.sockets()[disk].display()),
        }
    }

    fn service_and_arm(&mut self, disk: usize) {
        loop {
            self.service(disk);
            let client = &mut self.disks[disk].client;
            let more = (0..client.queues()).fold(false, |more, queue| client.ask_for_interrupt(queue) | more);
            if !more {
                return;
            }
        }
    }

    /// Reaps one disk and, free running, fills it up again. Says whether anything has moved.
    fn service(&mut self, disk: usize) -> bool {
        let reaped = self.reap(disk);
        if self.args.rate.is_some() {
            return reaped;
        }
        let now = self.born.elapsed().as_nanos() as u64;
        let mut filled = false;
        while self.disks[disk].open < self.args.depth {
            if !self.submit(disk, now) {
                break;
            }
            filled = true;
        }
        if filled {
            self.publish(disk);
        }
        reaped || filled
    }

    fn send_what_is_due(&mut self) {
        let Some(rate) = self.args.rate else { return };
        let now = self.born.elapsed().as_nanos() as u64;
        let due = (u128::from(now) * u128::from(rate) / 1_000_000_000) as u64;
        let mut full = 0;
        while self.sent < due && full < self.disks.len() {
            let disk = self.turn;
            self.turn = (disk + 1) % self.disks.len();
            if self.disks[disk].open < self.args.depth && self.submit(disk, now) {
                self.publish(disk);
                self.sent += 1;
                full = 0;
            } else {
                full += 1;
            }
        }
        // Only a little of what no disk had room for is made up for.
        let owed = (rate as f64 * CATCH_UP.as_secs_f64()) as u64;
        self.sent = self.sent.max(due.saturating_sub(owed));
    }

    /// Submits one request. False if no slot is free.
    fn submit(&mut self, disk: usize, now: u64) -> bool {
        let load = &mut self.disks[disk];
        let Some(slot) = load.acquire() else { return false };
        let place = if self.args.op.is_random() {
            load.dice.below(load.places)
        } else {
            let place = load.next;
            load.next = (place + 1) % load.places;
            place
        };
        let (offset, len) = (place * self.args.block_size, self.args.block_size as u32);
        let operation = match self.args.op {
            Op::Randread | Op::Read => Operation::Read,
            Op::Randwrite | Op::Write => Operation::Write,
        };
        if operation == Operation::Write && self.args.verify == Verify::Yes {
            fill(load.who, offset, &mut self.buffer);
            load.client.write_data(slot, &self.buffer);
        }
        load.client.submit(slot, BlockRequest::new(operation, offset, len));
        load.started[usize::from(slot.queue)][usize::from(slot.index)] = now;
        load.open += 1;
        true
    }

    fn publish(&mut self, disk: usize) {
        let client = &mut self.disks[disk].client;
        for queue in 0..client.queues() {
            self.counts.kicks += u64::from(client.publish(queue) == Notify::Needed);
        }
    }

    fn reap(&mut self, disk: usize) -> bool {
        let load = &mut self.disks[disk];
        for queue in 0..load.client.queues() {
            load.client.reap(queue, &mut self.done);
        }
        if self.done.is_empty() {
            return false;
        }
        let now = self.born.elapsed().as_nanos() as u64;
        for done in self.done.drain(..) {
            let slot = done.slot;
            let latency = now - load.started[usize::from(slot.queue)][usize::from(slot.index)];
            self.counts.requests += 1;
            self.counts.latency_sum += latency;
            self.counts.latency.add_raw(latency);
            self.counts.errors += u64::from(done.status != Status::Ok);
            if self.args.verify == Verify::Yes && done.request.operation == Operation::Read {
                load.client.read_data(slot, &mut self.buffer);
                self.counts.mismatches += wrong_blocks(load.who, done.request.offset, &self.buffer);
            }
            load.client.release(slot);
            load.open -= 1;
        }
        true
    }

    fn drain(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + DRAIN;
        for disk in 0..self.disks.len() {
            while self.disks[disk].open > 0 {
                anyhow::ensure!(
                    Instant::now() < end,
                    "requests are open {} s after the end",
                    DRAIN.as_secs()
                );
                self.reap(disk);
                std::thread::yield_now();
            }
        }
        Ok(())
    }

    fn write_all(&mut self) -> anyhow::Result<()> {
        for load in &mut self.disks {
            for place in 0..load.places {
                let offset = place * self.args.block_size;
                fill(load.who, offset, &mut self.buffer);
                load.client.write_at(offset, &self.buffer, SINGLE)?;
            }
            load.client.flush(SINGLE)?;
        }
        Ok(())
    }

    fn read_all(&mut self) -> anyhow::Result<()> {
        for load in &mut self.disks {
            for place in 0..load.places {
                let offset = place * self.args.block_size;
                load.client.read_at(offset, &mut self.buffer, SINGLE)?;
                self.counts.mismatches += wrong_blocks(load.who, offset, &self.buffer);
            }
        }
        Ok(())
    }

    fn others_cpu_us(&self) -> anyhow::Result<Vec<f64>> {
        self.args.pid.iter().map(|pid| cpu_us(*pid)).collect()
    }

    fn costs(&self, before: &[f64]) -> anyhow::Result<Vec<ProcessCost>> {
        let after = self.others_cpu_us()?;
        let requests = self.counts.requests.max(1) as f64;
        let spent = after.iter().zip(before).map(|(after, before)| after - before);
        let cost = |(pid, cpu_us): (&u32, f64)| {
            let (rss_kib, anonymous_kib) = memory_kib(*pid)?;
            let cpu_us_per_request = cpu_us / requests;
            Ok(ProcessCost { pid: *pid, cpu_us, cpu_us_per_request, rss_kib, anonymous_kib })
        };
        self.args.pid.iter().zip(spent).map(cost).collect()
    }

    fn report(&self, counts: &Counts, took: Duration, cpu_us: f64, processes: Vec<ProcessCost>) -> HopReport {
        let (requests, seconds) = (counts.requests, took.as_secs_f64());
        let each = requests.max(1) as f64;
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        let part = |q: f64| micros(counts.latency.quantile_raw(q));
        HopReport {
            op: self.args.op,
            block_size: self.args.block_size,
            depth: self.args.depth,
            disks: self.disks.len(),
            queues: self.disks.iter().map(|disk| disk.client.queues()).min().unwrap_or(0),
            poll: self.args.poll,
            seconds,
            requests,
            iops: requests as f64 / seconds,
            bytes_per_second: (requests * self.args.block_size) as f64 / seconds,
            latency_us: LatencyReport {
                mean: counts.latency_sum as f64 / each / 1000.0,
                p50: part(0.5),
                p90: part(0.9),
                p99: part(0.99),
                p999: part(0.999),
                max: part(1.0),
            },
            cpu_us,
            cpu_us_per_request: cpu_us / each,
            kicks: counts.kicks,
            wakes: counts.wakes,
            errors: counts.errors,
            mismatches: counts.mismatches,
            strays: self.disks.iter().map(|disk| disk.client.strays()).sum(),
            processes,
        }
    }
}

impl DiskLoad {
    /// A free slot, of the queues in turn.
    fn acquire(&mut self) -> Option<SlotId> {
        for _ in 0..self.client.queues() {
            let queue = self.queue;
            self.queue = (queue + 1) % self.client.queues();
            if let Some(slot) = self.client.acquire(queue) {
                return Some(slot);
            }
        }
        None
    }
}

fn fill(who: Identity, offset: u64, data: &mut [u8]) {
    let numbers = blocks_of(offset, data.len());
    for (number, piece) in numbers.zip(data.chunks_exact_mut(BLOCK)) {
        block::fill(who, number, GENERATION, piece);
    }
}

fn wrong_blocks(who: Identity, offset: u64, data: &[u8]) -> u64 {
    let blocks = blocks_of(offset, data.len()).zip(data.chunks_exact(BLOCK));
    let wrong = |(number, piece): &(u64, &[u8])| {
        block::inspect(who, *number, piece) != Content::Generation(GENERATION)
    };
    blocks.filter(wrong).count() as u64
}

fn thread_cpu_us() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}
