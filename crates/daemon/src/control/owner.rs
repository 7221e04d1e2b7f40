//! The control owner: takes one event, applies it to the controller, performs the effects, and nothing else.
//!
//! Invariant: the only task that holds the controller, the journal and the handles of what acts; between two events it
//! holds no half-done change, and it waits for nothing but the next event. Readers get a snapshot, swapped in whole.
//! Rejected: answering reads here, one by one; a reader in a loop would then slow decisions down.

use super::effects::{Answered, Outcome, Performer};
use super::handle::{Fork, Input, Snapshot};
use super::hosts::{Hosts, News, Post};
use super::journal::Bounds;
use super::monitor::Beat;
use super::pulse::Pulse;
use super::rates::RateWindow;
use crate::dataplane::{Dataplane, Standing, UndeadReport, WorkerReport};
use crate::hypervisor::Report;
use crate::store::{Store, Ticket};
use crate::sys::clock;
use arc_swap::ArcSwap;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use vmpath_core::controller::Controller;
use vmpath_core::effect::{CommandError, Effect, JournalEntry, JournalKind, Subject};
use vmpath_core::event::Event;
use vmpath_core::ids::WorkerId;
use vmpath_core::spec::Spec;
use vmpath_core::time::Instant;
use vmpath_core::view::WorkerView;

/// The owner wakes at least this often: the monitor counts on a beat each second.
const WAKE_AT_LEAST: Duration = Duration::from_millis(500);

/// The timer's grain: a deadline that stays due cannot spin the task.
const WAKE_AT_MOST: Duration = Duration::from_millis(1);

/// In a flood of events the snapshot is made this often; else after each.
const SNAPSHOT_EVERY: Duration = Duration::from_millis(100);

/// Events that effects may cause at once, and those theirs, before something is thought to go round in circles.
const FOLLOW_UPS_MAX: usize = 4096;

/// How old the host's part of a snapshot may become while nothing happens to it.
const HOST_VIEW_EVERY: Duration = Duration::from_secs(1);

/// Where the owner's events come from.
#[derive(Debug)]
pub struct Sources {
    pub inputs: mpsc::Receiver<Input>,
    pub hypervisors: mpsc::Receiver<Report>,
    pub dataplane: mpsc::UnboundedReceiver<WorkerReport>,
    /// None without `[cluster]`.
    pub hosts: Option<Post>,
    /// What the store has on its disk.
    pub commits: watch::Receiver<Ticket>,
    /// Fires, or is dropped, when the daemon shall end.
    pub stop: oneshot::Receiver<()>,
}

/// Why the owner has ended.
#[derive(Debug)]
pub enum Ended {
    Asked,
    /// The data plane died; in words.
    DataplaneDead(String),
}

#[derive(Debug)]
pub struct Owner {
    spec: Arc<Spec>,
    controller: Controller,
    performer: Performer,
    /// The latest of each worker.
    views: BTreeMap<WorkerId, Arc<WorkerView>>,
    rates: RateWindow,
    /// Operators that wait for the answer to their command, by ticket.
    waiting: HashMap<u64, oneshot::Sender<Result<String, CommandError>>>,
    last_ticket: u64,
    snapshot: Arc<ArcSwap<Snapshot>>,
    snapshot_at: Instant,
    stale: Stale,
    /// When the host's part of the snapshot was last made.
    host_at: Instant,
    beat: Beat,
}

/// What of the snapshot is out of date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stale {
    Nothing,
    /// What workers measure, several times a second on an idle host too.
    Measures,
    Host,
}

impl Owner {
    #[must_use]
    pub fn new(spec: Arc<Spec>, controller: Controller, performer: Performer, beat: Beat) -> Self {
        let now = clock::now();
        let snapshot = Snapshot {
            host: Arc::new(controller.view(now)),
            worker: None,
            rates: RateWindow::default().rates(),
            last_event_seq: performer.journal.last_seq(),
            hosts: Arc::default(),
            unknown: Arc::clone(performer.dataplane.unknown()),
        };
        Self {
            spec,
            controller,
            performer,
            views: BTreeMap::new(),
            rates: RateWindow::default(),
            waiting: HashMap::new(),
            last_ticket: 0,
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            snapshot_at: now,
            stale: Stale::Nothing,
            host_at: now,
            beat,
        }
    }

    /// Where readers find the newest snapshot.
    #[must_use]
    pub fn snapshots(&self) -> Arc<ArcSwap<Snapshot>> {
        Arc::clone(&self.snapshot)
    }

    /// Runs until asked to stop, or until the data plane is dead. Gives back the data plane and the store, to be ended.
    pub async fn run(mut self, mut sources: Sources) -> (Ended, Dataplane, Store) {
        let mut pulse = Pulse::new(usize::from(self.spec.host.workers), clock::now());
        let ended = loop {
            self.beat.beat();
            if let Some(worker) = pulse.stuck(clock::now()) {
                break Ended::DataplaneDead(format!("worker {} has reported nothing for 10 s", worker.0));
            }
            self.release();
            self.refresh(sources.are_empty());
            let wake = tokio::time::sleep(self.wait());
            tokio::select! {
                _ = &mut sources.stop => break Ended::Asked,
                Some(report) = sources.dataplane.recv() => {
                    if let WorkerReport::Load(load) = &report {
                        pulse.heard(load.worker, clock::now());
                    }
                    if let Err(why) = self.dataplane(report) {
                        break Ended::DataplaneDead(why);
                    }
                }
                Some(report) = sources.hypervisors.recv() => self.hypervisor(report),
                Some(input) = sources.inputs.recv() => self.input(input),
                news = next(&mut sources.hosts) => self.news(news),
                // The orders that waited for it leave at the top of the loop.
                Ok(()) = sources.commits.changed() => {}
                () = wake => {
                    self.apply(Event::Tick);
                    self.look();
                }
            }
        };
        self.publish();
        (ended, self.performer.dataplane, self.performer.store)
    }

    fn wait(&self) -> Duration {
        let deadlines = self.controller.next_deadline().into_iter().chain(self.performer.deadline());
        let deadline = deadlines.min().unwrap_or(Instant::FAR_FUTURE);
        deadline.since(clock::now()).clamp(WAKE_AT_MOST, WAKE_AT_LEAST)
    }

    fn dataplane(&mut self, report: WorkerReport) -> Result<(), String> {
        match report {
            WorkerReport::Link(link) => self.apply(Event::Link(link)),
            WorkerReport::Load(load) => self.apply(Event::Load(load)),
            WorkerReport::Silent(disk) => self.apply(Event::Silent(disk)),
            WorkerReport::View(worker, view) => {
                self.views.insert(worker, view);
                self.rates.push(Arc::new(WorkerView::merge(self.views.values().map(Arc::as_ref))));
                self.stale = self.stale.max(Stale::Measures);
                self.look();
            }
            WorkerReport::Order(report) => {
                let events = self.performer.hear_order(report, &self.controller);
                self.apply_all(events);
            }
            WorkerReport::Undead(report) => {
                let entry = Effect::Record(undead_entry(&report, &self.spec));
                self.performer.perform(vec![entry], &self.spec, &mut Outcome::default());
            }
            WorkerReport::Dead(why) => return Err(why),
        }
        Ok(())
    }

    fn hypervisor(&mut self, report: Report) {
        let Report { vm, report } = report;
        if let Some(hosts) = &mut self.performer.hosts {
            hosts.see(vm, &report);
        }
        self.apply(Event::Hypervisor { vm, report });
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Command { command, reply } => {
                self.waiting.retain(|_, reply| !reply.is_closed());
                self.last_ticket += 1;
                self.waiting.insert(self.last_ticket, reply);
                self.apply(Event::Command { ticket: self.last_ticket, command });
            }
            Input::Reload { spec, applied } => {
                self.reload(spec);
                // The reloader waits for this unless the daemon is ending.
                let _ = applied.send(self.controller.leaving());
            }
            Input::Events { query, reply } => {
                // Whoever asked may have given up.
                let _ = reply.send(self.performer.journal.read(&query));
            }
            Input::Incidents { limit, reply } => {
                let _ = reply.send(self.performer.journal.incidents(limit));
            }
            Input::Incident { incident, reply } => {
                let _ = reply.send(self.performer.journal.incident(incident));
            }
            Input::Fork { reply } => {
                let others = self.performer.hosts.as_ref().map(Hosts::forecast);
                let _ = reply.send(Fork { controller: Box::new(self.controller.clone()), others });
            }
            Input::TakeOver { disk, from, confirmed, begun, reply } => {
                let sure = (confirmed, begun);
                let (answer, events) = self.performer.take_over((disk, &from), sure, &self.controller);
                self.apply_all(events);
                let _ = reply.send(answer);
            }
        }
    }

    fn reload(&mut self, spec: Arc<Spec>) {
        self.spec = Arc::clone(&spec);
        self.performer.journal.bound(Bounds::of(&spec.host));
        let of_hosts = match &mut self.performer.hosts {
            Some(hosts) => hosts.reload(&spec, clock::now()),
            None => vec![],
        };
        self.apply(Event::Reload(spec));
        self.apply_all(of_hosts);
        self.publish();
    }

    /// Orders and answers whose state is kept now; and what becomes of those that cannot be sent.
    fn release(&mut self) {
        let now = clock::now();
        self.performer.store.look(now);
        let mut outcome = Outcome::default();
        self.performer.release(now, &mut outcome);
        self.answer(outcome.answers);
        self.apply_all(outcome.events);
    }

    fn apply_all(&mut self, events: Vec<Event>) {
        for event in events {
            self.apply(event);
        }
    }

    /// What other hosts, etcd or launched hypervisors say.
    fn news(&mut self, news: News) {
        self.stale = Stale::Host;
        let events = self.performer.hear(news, &self.controller);
        self.apply_all(events);
        self.look();
    }

    /// What this host owns follows who uses it.
    fn look(&mut self) {
        let view = self.rates.latest().cloned();
        let events = self.performer.look(&self.controller, view.as_deref());
        self.apply_all(events);
    }

    /// One event, and what its effects lead to at once.
    fn apply(&mut self, event: Event) {
        let is_measure = matches!(event, Event::Load(_) | Event::Tick);
        let mut events = VecDeque::from([event]);
        let mut outcome = Outcome::default();
        let mut acted = false;
        for _ in 0..FOLLOW_UPS_MAX {
            let Some(event) = events.pop_front() else { break };
            let effects = self.controller.handle(clock::now(), event);
            acted |= !effects.is_empty();
            if Performer::must_be_kept(&effects) {
                self.performer.store.save(self.controller.save(), self.controller.save_moves(), clock::now());
            }
            self.performer.perform(effects, &self.spec, &mut outcome);
            events.extend(outcome.events.drain(..));
        }
        if !events.is_empty() {
            tracing::error!("decisions go round in circles; {} refusals are dropped", events.len());
        }
        self.stale = self.stale.max(if acted || !is_measure { Stale::Host } else { Stale::Measures });
        self.answer(outcome.answers);
    }

    fn answer(&mut self, answers: Vec<Answered>) {
        if answers.is_empty() {
            return;
        }
        // First the snapshot: who was told that it is done must see it done.
        self.publish();
        for Answered { ticket, result } in answers {
            if let Some(reply) = self.waiting.remove(&ticket) {
                // Whoever asked may have given up; it is done all the same.
                let _ = reply.send(result);
            }
        }
    }

    fn refresh(&mut self, idle: bool) {
        if self.stale > Stale::Nothing && (idle || clock::now().since(self.snapshot_at) >= SNAPSHOT_EVERY) {
            self.publish();
        }
    }

    fn publish(&mut self) {
        let now = clock::now();
        // Its sentences tell times, so it grows old by itself, too.
        let hosts = match &self.performer.hosts {
            Some(hosts) if self.stale == Stale::Host => Arc::new(hosts.view()),
            Some(_) | None => Arc::clone(&self.snapshot.load().hosts),
        };
        let host = if self.stale == Stale::Host || now.since(self.host_at) >= HOST_VIEW_EVERY {
            self.host_at = now;
            self.performer.store.save(self.controller.save(), self.controller.save_moves(), now);
            self.performer.journal.forget(clock::unix_micros(now));
            if let Some(hosts) = &mut self.performer.hosts {
                hosts.publish(&self.controller);
            }
            Arc::new(self.controller.view(now))
        } else {
            Arc::clone(&self.snapshot.load().host)
        };
        self.snapshot.store(Arc::new(Snapshot {
            host,
            worker: self.rates.latest().cloned(),
            rates: self.rates.rates(),
            last_event_seq: self.performer.journal.last_seq(),
            hosts,
            unknown: Arc::clone(self.performer.dataplane.unknown()),
        }));
        self.snapshot_at = now;
        self.stale = Stale::Nothing;
    }
}

fn undead_entry(report: &UndeadReport, spec: &Spec) -> JournalEntry {
    let UndeadReport { unit, waited, standing } = *report;
    let quiesce = spec.target(spec.unit(unit).target).quiesce.as_secs_f64();
    let waited = waited.as_secs_f64();
    let (reason, until) = match standing {
        Standing::Waiting => (
            format!(
                "the kernel still carries out what the vmpath before asked of a block device, {waited:.1} s after the start; \
                 different writes to the same ranges wait (all requests, if it is not known what was asked)"
            ),
            Some(format!("{quiesce} s after the kernel has given all of it back")),
        ),
        Standing::Over => (
            format!(
                "the kernel has given back what the vmpath before had asked of a block device, {waited:.1} s after the start"
            ),
            Some(format!("{quiesce} s from now, the target's quiesce bound")),
        ),
        Standing::Unseen => (
            "it can no longer be seen whether the kernel still carries out what the vmpath before asked of a block device"
                .to_owned(),
            Some(format!("{quiesce} s from now, the target's quiesce bound")),
        ),
    };
    let (kind, subject) = (JournalKind::Restarted, Subject::Unit(unit));
    JournalEntry { at: clock::now(), incident: None, kind, subject, reason, until }
}

/// Never, without `[cluster]`.
async fn next(post: &mut Option<Post>) -> News {
    match post {
        Some(post) => post.next().await,
        None => std::future::pending().await,
    }
}

impl Sources {
    fn are_empty(&self) -> bool {
        self.inputs.is_empty() && self.hypervisors.is_empty() && self.dataplane.is_empty()
    }
}
