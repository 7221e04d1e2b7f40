//! One disk of the stand-in guest: the task that owns its load and its connection.
//!
//! ```text
//! running -(request fails: kept)-> io error -> stopped -(cont: repeat what was kept)-> running
//! link    Up -(dies: what is open fails)-> Down -(next request)-> Connecting (1, 2, 4, 8, 16 s) -> Up
//! ```
//! As QEMU's NBD client does with `reconnect-delay=0` and `werror=stop,rerror=stop`. Invariant: a request of the load
//! is in exactly one place: on the connection, or kept. Rejected: a lock around the load shared with reports.
//! It does not know: QMP, other disks.

use super::session::{Completion, Sent, Session};
use crate::net::Address;
use crate::workload::engine::{Action, Engine, Outcome, Request, Step};
use crate::workload::talk::LineCommand;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Pauses between attempts to reconnect: QEMU's.
const RECONNECT_FIRST: Duration = Duration::from_secs(1);
const RECONNECT_LAST: Duration = Duration::from_secs(16);

/// What the machine tells a disk.
#[derive(Debug)]
pub(super) enum Order {
    /// Issue nothing more; say when nothing is open.
    Stop,
    /// Go on, after having been stopped for that long; what was kept is repeated first.
    Run {
        stopped: Duration,
    },
    Line(LineCommand),
    Sample(oneshot::Sender<Value>),
    /// The report; what is open then counts as lost if it is the last.
    Report {
        last: Last,
        to: oneshot::Sender<Value>,
    },
}

/// Whether more will happen after a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    No,
    Yes,
}

/// What a disk tells the machine. The number is the disk's. At most a few for each slot between two orders, so the
/// channel needs no bound; and it must have none, because the machine waits for answers of the disk.
#[derive(Debug)]
pub(super) enum Event {
    /// A request failed and is kept; the disk issues nothing more.
    IoError {
        disk: usize,
        write: bool,
        why: String,
    },
    /// A request failed, and the guest has been told.
    GuestError {
        disk: usize,
        write: bool,
        why: String,
    },
    /// After `Stop`: nothing will complete any more. With what there is to tell of it.
    Stopped {
        detail: Option<Value>,
    },
    /// The connection has died, and why; or it is up again.
    Link {
        disk: usize,
        down: Option<String>,
    },
    ReadBack {
        disk: usize,
        blocks: u64,
        mismatches: u64,
    },
}

#[derive(Debug)]
enum Link {
    Up(Box<Session>),
    Connecting(JoinHandle<Session>),
    Down,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moved {
    Nothing,
    Something,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    Running,
    /// It stopped itself on an error; the machine has been told.
    Faulted,
    /// Told to stop: waits for what is open.
    Draining,
    /// As QEMU does, a flush is sent when everything is answered.
    Flushing,
    Stopped,
}

#[derive(Debug)]
pub(super) struct Disk {
    number: usize,
    address: Address,
    export: String,
    engine: Engine,
    link: Link,
    run: Run,
    kept: VecDeque<Request>,
    born: Instant,
    strays: u64,
    events: mpsc::UnboundedSender<Event>,
}

impl Disk {
    /// A running disk over an open connection.
    #[must_use]
    pub(super) fn new(
        number: usize,
        place: (Address, String),
        session: Session,
        engine: Engine,
        events: mpsc::UnboundedSender<Event>,
    ) -> Self {
        let (address, export) = place;
        Self {
            number,
            address,
            export,
            engine,
            link: Link::Up(Box::new(session)),
            run: Run::Running,
            kept: VecDeque::new(),
            born: Instant::now(),
            strays: 0,
            events,
        }
    }

    /// Runs until the machine drops the orders.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            let wake = self.work().await;
            self.settle();
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return,
                },
                connected = link_event(&mut self.link) => if let Some(session) = connected {
                    self.link = Link::Up(Box::new(session));
                },
                () = sleep_until(wake) => {}
            }
        }
    }

    fn now(&self) -> Duration {
        self.born.elapsed()
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Stop => self.run = Run::Draining,
            Order::Run { stopped } => {
                self.run = Run::Running;
                self.engine.resumed(stopped);
            }
            Order::Line(command) => obey_line(&mut self.engine, command),
            Order::Sample(to) => {
                let running = (self.run == Run::Running).then(|| self.now());
                let strays = self.strays();
                drop(to.send(sample(&mut self.engine, running, strays)));
            }
            Order::Report { last, to } => {
                let strays = self.strays();
                drop(to.send(report(&mut self.engine, last, strays)));
            }
        }
    }

    /// Sends and receives until neither brings anything; says when there will be more to send.
    async fn work(&mut self) -> Option<Instant> {
        loop {
            let wake = self.issue();
            if self.exchange() == Moved::Nothing {
                return wake;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Queues what may be sent; says when there will be more.
    fn issue(&mut self) -> Option<Instant> {
        while self.run == Run::Running {
            let now = self.now();
            let request = match self.kept.pop_front() {
                Some(kept) => kept,
                None => match self.engine.step(now) {
                    Step::Issue(request) => request,
                    Step::Wait => return None,
                    Step::WaitUntil(then) => return Some(self.born + then),
                },
            };
            match &mut self.link {
                Link::Up(session) => session.send(Sent::Load(request)),
                Link::Connecting(_) => self.keep(request, "the server is not connected"),
                Link::Down => {
                    self.link =
                        Link::Connecting(tokio::spawn(reconnect(self.address.clone(), self.export.clone())));
                    self.keep(request, "the server is not connected");
                }
            }
        }
        None
    }

    /// Moves bytes, and takes completions and the connection's death. Says whether the load has changed.
    fn exchange(&mut self) -> Moved {
        let Link::Up(session) = &mut self.link else { return Moved::Nothing };
        let mut completions = Vec::new();
        let pumped = session.pump(&mut completions);
        let moved = if completions.is_empty() { Moved::Nothing } else { Moved::Something };
        for completion in completions {
            self.complete(completion);
        }
        match pumped {
            Ok(()) => moved,
            Err(why) => {
                self.lose(&why);
                Moved::Something
            }
        }
    }

    fn complete(&mut self, (sent, result): Completion) {
        match (sent, result) {
            (Sent::Load(request), Ok(())) => {
                let now = self.now();
                self.engine.complete(request, Outcome::Done, now);
            }
            (Sent::Load(request), Err(why)) => self.keep(request, &why.to_string()),
            // QEMU does not mind either if it fails.
            (Sent::Sync, _) => self.stopped(),
        }
    }

    fn lose(&mut self, why: &str) {
        let Link::Up(session) = std::mem::replace(&mut self.link, Link::Down) else { return };
        self.strays += session.strays;
        for sent in session.into_open() {
            match sent {
                Sent::Load(request) => self.keep(request, why),
                Sent::Sync => self.stopped(),
            }
        }
    }

    /// Keeps a failed request for `cont`, and stops.
    fn keep(&mut self, request: Request, why: &str) {
        let write = !matches!(request.action, Action::Read(_));
        self.kept.push_back(request);
        self.engine.stats.io_errors_kept += 1;
        if self.run == Run::Running {
            self.run = Run::Faulted;
        }
        self.tell(Event::IoError { disk: self.number, write, why: why.to_owned() });
    }

    /// Notices that everything is answered.
    fn settle(&mut self) {
        if self.run == Run::Draining {
            match &mut self.link {
                Link::Up(session) if session.open_requests() > 0 => {}
                Link::Up(session) if session.export.flags.can_flush() => {
                    session.send(Sent::Sync);
                    self.run = Run::Flushing;
                    self.exchange();
                }
                Link::Up(_) | Link::Connecting(_) | Link::Down => self.stopped(),
            }
        }
        if let Some(done) = self.engine.take_read_back() {
            self.tell(Event::ReadBack {
                disk: self.number,
                blocks: done.blocks,
                mismatches: done.mismatches,
            });
        }
    }

    fn stopped(&mut self) {
        if matches!(self.run, Run::Draining | Run::Flushing) {
            self.run = Run::Stopped;
            self.tell(Event::Stopped { detail: None });
        }
    }

    fn tell(&self, event: Event) {
        // Without a machine the task is about to end.
        let _ = self.events.send(event);
    }

    fn strays(&self) -> u64 {
        self.strays + if let Link::Up(session) = &self.link { session.strays } else { 0 }
    }
}

/// Carries a command of the load out.
pub(super) fn obey_line(engine: &mut Engine, command: LineCommand) {
    match command {
        LineCommand::Go => engine.go(),
        LineCommand::Pause | LineCommand::Quit => engine.pause(),
        LineCommand::Rate(rate) => engine.set_rate(rate),
        LineCommand::ReadBack => engine.read_back(),
        LineCommand::Report => {}
    }
}

/// The counters of a disk. The gap that is open counts while the guest runs: then the time is given.
pub(super) fn sample(engine: &mut Engine, running: Option<Duration>, strays: u64) -> Value {
    if let Some(now) = running {
        engine.stats.look(now);
    }
    engine.stats.completed_twice = strays;
    let mut sample = engine.stats.sample();
    sample["open"] = json!(engine.open());
    sample["state"] = json!(engine.state());
    sample
}

/// Everything about a disk; what is open is lost if it is the last report.
pub(super) fn report(engine: &mut Engine, last: Last, strays: u64) -> Value {
    engine.stats.completed_twice = strays;
    if last == Last::Yes {
        engine.stats.lost += engine.open() as u64;
    }
    let mut report = engine.stats.to_json();
    report["open"] = json!(engine.open());
    report
}

/// The next thing that the link has: a connection that is up again, or readiness (none).
async fn link_event(link: &mut Link) -> Option<Session> {
    match link {
        Link::Up(session) => {
            // An error shows at the next pump.
            let _ = session.ready().await;
            None
        }
        Link::Connecting(task) => match task.await {
            Ok(session) => Some(session),
            Err(_) => std::future::pending().await,
        },
        Link::Down => std::future::pending().await,
    }
}

async fn reconnect(address: Address, export: String) -> Session {
    let mut pause = RECONNECT_FIRST;
    loop {
        if let Ok(session) = Session::open(&address, &export).await {
            return session;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RECONNECT_LAST);
    }
}

pub(super) async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}
