//! One vhost-user-blk disk of the stand-in guest: the task that owns its load and its queues.
//!
//! ```text
//! running -(stop: GET_VRING_BASE, requests stay open)-> stopped -(cont: rings start again)-> running
//! link    Up -(dies: requests stay in the ring)-> Down -(each second, as QEMU's reconnect=1)-> Up
//! ```
//! As QEMU's vhost-user-blk: the guest goes on while the back end is away, errors are the guest's, messages hold up the
//! whole machine. Invariant: a request of the load is open in exactly one slot. Rejected: one task for both protocols,
//! which share no state. It does not know: QMP, other disks.

use super::disk::{Event, Order, obey_line, report, sample, sleep_until};
use crate::vhost::{
    BlockRequest, Client, Done, Operation, Options, SlotId, Status, VhostError, Waiter, Woken, feature,
};
use crate::workload::block::BLOCK;
use crate::workload::engine::{Action, Engine, Outcome, Request, Step};
use crate::workload::mix::Mix;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Pause before each attempt to reconnect: QEMU's `reconnect=1`.
const RECONNECT: Duration = Duration::from_secs(1);
/// Bytes of the largest request at least: those of a read-back.
const SLOT_LEAST: usize = 128 << 10;

/// How to connect a disk for a load.
pub(super) fn options(socket: &Path, queues: u16, mix: &Mix) -> Options {
    let slots = mix.slots.div_ceil(usize::from(queues));
    Options {
        queues,
        slots: slots as u16,
        slot_bytes: SLOT_LEAST.max(mix.largest() as usize * BLOCK),
        ..Options::new(socket)
    }
}

/// Whether a load can be put on a disk.
pub(super) fn is_fit(client: &Client, mix: &Mix) -> Result<(), String> {
    if client.is_read_only() {
        return Err("it is read-only".to_owned());
    }
    if mix.zero_percent > 0 && !client.agreed().has(feature::WRITE_ZEROES) {
        return Err("it offers no writing of zeroes: use --zero 0".to_owned());
    }
    let (slots, queues) = (mix.slots, usize::from(client.queues()));
    let room = queues * usize::from(client.slots());
    if room < slots {
        return Err(format!("it has {queues} queues, too few for {slots} slots: use --queues {queues}"));
    }
    Ok(())
}

#[derive(Debug)]
pub(super) struct VhostDisk {
    number: usize,
    client: Client,
    waiter: AsyncFd<Waiter>,
    engine: Engine,
    open: HashMap<SlotId, Request>,
    /// The queue of the next request.
    queue: u16,
    born: Instant,
    /// When to connect again, if the connection is down.
    retry: Option<Instant>,
    events: mpsc::UnboundedSender<Event>,
    done: Vec<Done>,
}

impl VhostDisk {
    /// A running disk.
    pub(super) fn new(
        number: usize,
        client: Client,
        engine: Engine,
        events: mpsc::UnboundedSender<Event>,
    ) -> std::io::Result<Self> {
        let waiter = Waiter::new()?;
        waiter.add(number, &client)?;
        Ok(Self {
            number,
            client,
            waiter: registered(waiter)?,
            engine,
            open: HashMap::new(),
            queue: 0,
            born: Instant::now(),
            retry: None,
            events,
            done: Vec::new(),
        })
    }

    /// Runs until the machine drops the orders.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            let wake = self.work().await;
            if let Some(done) = self.engine.take_read_back() {
                let (blocks, mismatches) = (done.blocks, done.mismatches);
                self.tell(Event::ReadBack { disk: self.number, blocks, mismatches });
            }
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return,
                },
                woken = happened(&mut self.waiter) => self.woken(&woken),
                () = sleep_until(wake) => {}
                () = sleep_until(self.retry) => self.reconnect(),
            }
        }
    }

    fn now(&self) -> Duration {
        self.born.elapsed()
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Stop => {
                let detail = self.stop();
                self.tell(Event::Stopped { detail });
            }
            Order::Run { stopped } => {
                self.engine.resumed(stopped);
                if let Err(why) = self.client.resume() {
                    self.down(&why.to_string());
                }
            }
            Order::Line(command) => obey_line(&mut self.engine, command),
            Order::Sample(to) => {
                let running = self.client.is_running().then(|| self.now());
                drop(to.send(sample(&mut self.engine, running, self.client.strays())));
            }
            Order::Report { last, to } => {
                let mut report = report(&mut self.engine, last, self.client.strays());
                report["touched_while_stopped"] = json!(self.client.touched_while_stopped());
                drop(to.send(report));
            }
        }
    }

    /// Stops the rings with requests open; what there is to tell of it, unless they were stopped before.
    fn stop(&mut self) -> Option<Value> {
        let was_connected = self.client.is_connected();
        let stopped = self.client.stop().ok()?;
        if was_connected && !stopped.answered {
            self.down("it did not answer GET_VRING_BASE");
        }
        Some(json!({
            "disk": self.number,
            "answered": stopped.answered,
            "open": stopped.open,
            "bases": stopped.bases,
            "used": stopped.used,
            "took_us": stopped.took.as_micros() as u64,
        }))
    }

    fn woken(&mut self, woken: &[Woken]) {
        if self.client.is_connected() && woken.contains(&Woken::Connection { disk: self.number }) {
            self.client.lost();
            self.down("the back end closed the connection");
        }
    }

    fn down(&mut self, why: &str) {
        self.retry = Some(Instant::now() + RECONNECT);
        self.tell(Event::Link { disk: self.number, down: Some(why.to_owned()) });
    }

    fn reconnect(&mut self) {
        let connected = self.client.try_reconnect().and_then(|()| {
            self.waiter.get_ref().add_connection(self.number, &self.client).map_err(VhostError::from)
        });
        match connected {
            Ok(()) => {
                self.retry = None;
                self.tell(Event::Link { disk: self.number, down: None });
            }
            Err(VhostError::Unreachable { .. }) => self.retry = Some(Instant::now() + RECONNECT),
            Err(why) => {
                self.client.lost();
                self.down(&why.to_string());
            }
        }
    }

    /// Reaps and issues until neither brings anything; says when there will be more to issue.
    async fn work(&mut self) -> Option<Instant> {
        loop {
            for queue in 0..self.client.queues() {
                self.client.reap(queue, &mut self.done);
            }
            let idle = self.done.is_empty();
            for done in std::mem::take(&mut self.done) {
                self.complete(done);
            }
            let wake = self.issue();
            let mut more = !idle;
            for queue in 0..self.client.queues() {
                self.client.publish(queue);
                more |= self.client.ask_for_interrupt(queue) && self.client.is_running();
            }
            if !more {
                return wake;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Submits what may be; says when there will be more.
    fn issue(&mut self) -> Option<Instant> {
        while self.client.is_running() {
            let now = self.now();
            match self.engine.step(now) {
                Step::Issue(request) => self.submit(request),
                Step::Wait => return None,
                Step::WaitUntil(then) => return Some(self.born + then),
            }
        }
        None
    }

    fn submit(&mut self, request: Request) {
        let (offset, len) = request.range();
        let operation = match &request.action {
            Action::Read(_) => Operation::Read,
            Action::Write(_) => Operation::Write,
            Action::Zero(extent) => Operation::WriteZeroes { unmap: extent.first % 2 == 0 },
            // Without the feature every write is durable when it is done.
            Action::Flush if !self.client.agreed().has(feature::FLUSH) => {
                let now = self.now();
                return self.engine.complete(request, Outcome::Done, now);
            }
            Action::Flush => Operation::Flush,
        };
        let queues = self.client.queues();
        let turns = (0..queues).map(|turn| (self.queue + turn) % queues).collect::<Vec<_>>();
        let slot = turns.into_iter().find_map(|queue| self.client.acquire(queue));
        let slot = slot.expect("as many slots as requests that may be open");
        self.queue = (slot.queue + 1) % queues;
        if operation == Operation::Write {
            self.client.write_data(slot, &request.buffer);
        }
        self.client.submit(slot, BlockRequest::new(operation, offset, len as u32));
        self.open.insert(slot, request);
    }

    fn complete(&mut self, done: Done) {
        let Some(mut request) = self.open.remove(&done.slot) else { return };
        let outcome = if done.status == Status::Ok { Outcome::Done } else { Outcome::Failed };
        if let (Action::Read(_), Some(buffer)) = (&request.action, Arc::get_mut(&mut request.buffer)) {
            self.client.read_data(done.slot, buffer);
        }
        if outcome == Outcome::Failed {
            let write = !matches!(request.action, Action::Read(_));
            self.tell(Event::GuestError { disk: self.number, write, why: done.status.to_string() });
        }
        self.client.release(done.slot);
        let now = self.now();
        self.engine.complete(request, outcome, now);
    }

    fn tell(&self, event: Event) {
        // Without a machine the task is about to end.
        let _ = self.events.send(event);
    }
}

/// The successor of this function is unsafe, since a type may lie about its descriptor; a [`Waiter`] owns its own and
/// keeps it for its life.
#[expect(
    deprecated,
    reason = "the lab forbids unsafe code, and a Waiter keeps the promise that the successor asks for"
)]
fn registered(waiter: Waiter) -> std::io::Result<AsyncFd<Waiter>> {
    AsyncFd::new(waiter)
}

/// What has happened since the last call; waits for something.
async fn happened(waiter: &mut AsyncFd<Waiter>) -> Vec<Woken> {
    let mut woken = Vec::new();
    loop {
        let Ok(mut ready) = waiter.readable_mut().await else { return std::future::pending().await };
        // A failure shows again at the next wait.
        let _ = ready.get_inner_mut().wait(Duration::ZERO, &mut woken);
        if !woken.is_empty() {
            return woken;
        }
        ready.clear_ready();
    }
}
