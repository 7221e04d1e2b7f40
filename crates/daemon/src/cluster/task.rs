//! The task: a session after the other, over all members of etcd, for as long as the control owner lives.
//!
//! ```text
//!            opened                        the session ended
//!   Away ────────────▶ Up: orders are carried out ────────────▶ Away: orders are refused
//!     └─ a member after the other; after each round a pause that doubles ─┘
//! ```
//!
//! Invariant: it waits for whatever comes next, never for one call: calls run beside it, outlive a session, and each is answered.
//! Rejected: a task for each thing that is kept; they would have to agree on when a session is over.

use super::call::{self, Reading};
use super::change::Change;
use super::kept::Kept;
use super::keys::Keys;
use super::name::{self, Rival};
use super::outbox::Outbox;
use super::pace::{Pace, Puts};
use super::past::{self, Revisions};
use super::process::Process;
use super::session::{self, Ground, Opened, Session};
use super::view::{self, View};
use super::{ClusterOrder, ClusterReport, Outcome, Refusal, Ticket};
use crate::sys::clock;
use etcd_client::Client;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use vmpath_core::ownership::Found;
use vmpath_core::spec::{ClusterSpec, Spec};
use vmpath_core::time::{Duration, Instant};

/// Calls at one time. More orders wait, and then are given back.
const CALLS_MAX: usize = 64;

/// Connecting, reading everything, and the beginning of the watch.
const OPEN_TIMEOUT: Duration = Duration::from_secs(8);

/// Pauses after a round over all members: doubling from the first to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_LAST: Duration = Duration::from_secs(5);

/// A session that was shorter counts as an attempt that failed.
const SESSION_MIN: Duration = Duration::from_secs(5);

/// Without a wake-up of its own.
const IDLE: Duration = Duration::from_secs(3600);

/// Claims of room that this process may still give up. Older ones run out.
const ROOMS_MAX: usize = 1024;

pub(super) struct Task {
    ground: Arc<Ground>,
    orders: mpsc::Receiver<ClusterOrder>,
    reports: mpsc::Sender<ClusterReport>,
    outbox: Outbox,
    calls: JoinSet<Ended>,
    /// Readings that something newer was heard of meanwhile. Each was a call before.
    again: Vec<ClusterOrder>,
    view: View,
    pace: Pace,
    lease: Option<i64>,
    /// Leases of claimed room, by its id.
    rooms: BTreeMap<String, i64>,
    /// Counts sessions, so that what a call of an old one says is not taken for the new one's.
    session: u64,
    /// The session with which revisions began anew: what a call of an older one says is of a store that is no more.
    era: u64,
    rival: Rival,
    kept: Kept,
}

/// A call that has ended.
enum Ended {
    Read { session: u64, ticket: Ticket, outcome: Outcome, reading: Reading },
    Changed { session: u64, ticket: Ticket, outcome: Outcome, reading: Reading },
    Room { session: u64, ticket: Ticket, id: String, outcome: Outcome, lease: Option<i64> },
    Published { session: u64, result: Result<Puts, String> },
    Nothing,
}

/// The control owner is gone.
type Gone = Option<Infallible>;

impl Task {
    pub(super) fn new(
        (spec, cluster): (&Spec, &ClusterSpec),
        process: Process,
        reports: mpsc::Sender<ClusterReport>,
        orders: mpsc::Receiver<ClusterOrder>,
    ) -> Self {
        let keys = Keys::new(&cluster.etcd.prefix);
        let ground = Arc::new(Ground {
            host: spec.host.name.clone(),
            process,
            etcd: cluster.etcd.clone(),
            keys: keys.clone(),
            targets: spec.targets.iter().map(|target| target.name.clone()).collect(),
            units: spec.unit_ids().map(|id| spec.unit_name(id)).collect(),
        });
        let view = View::new(keys, ground.units.iter().cloned());
        Self {
            ground,
            orders,
            reports,
            outbox: Outbox::default(),
            calls: JoinSet::new(),
            again: vec![],
            view,
            pace: Pace::default(),
            lease: None,
            rooms: BTreeMap::new(),
            session: 0,
            era: 0,
            rival: Rival::default(),
            kept: Kept::new(&spec.host.state_dir, &cluster.etcd.prefix),
        }
    }

    /// Until the control owner drops its end.
    pub(super) async fn run(mut self) {
        let _: Gone = self.serve().await;
    }

    async fn serve(&mut self) -> Gone {
        self.kept.read().await;
        let members = self.ground.etcd.endpoints.clone();
        // Hosts begin with different members, so that no member has them all.
        let mut turn = usize::try_from(self.chance(0) % 1024).unwrap_or_default();
        let mut whys = vec![String::new(); members.len()];
        let (mut failed, mut why) = (0_u32, "not connected yet".to_owned());
        loop {
            let at = turn % members.len();
            turn += 1;
            let open = session::open(
                Arc::clone(&self.ground),
                members[at].clone(),
                self.lease,
                self.kept.add_to(self.view.past().clone()),
            );
            let open = tokio::time::timeout(OPEN_TIMEOUT, open);
            let opened = self.meanwhile(&why, open).await?;
            let opened = opened.unwrap_or_else(|_| Err("etcd has not answered".into()));
            whys[at] = match opened.and_then(|opened| self.welcome(opened)) {
                Ok(opened) => {
                    let began = clock::now();
                    let ended = self.up(opened).await?;
                    failed = if clock::now().since(began) < SESSION_MIN { failed + 1 } else { 0 };
                    why = format!("{}: {ended}", members[at]);
                    self.outbox.state(ClusterReport::Down { why: why.clone() });
                    ended
                }
                Err(error) => {
                    failed += 1;
                    if past::is_gone_back(&error) && whys[at] != error {
                        tracing::error!("{}: {error}", members[at]);
                    }
                    error
                }
            };
            if failed > 0 && failed.is_multiple_of(u32::try_from(members.len()).unwrap_or(1)) {
                why = self.told(&whys);
                if name::is_in_use(&why) {
                    why = self.stands_back(&why).await?;
                } else {
                    self.outbox.state(ClusterReport::Down { why: why.clone() });
                }
                let round = failed / u32::try_from(members.len()).unwrap_or(1);
                let pause = self.pause(round);
                self.meanwhile(&why, tokio::time::sleep(pause)).await?;
            }
        }
    }

    /// Goes on with an etcd whose revisions may have begun anew. Calls of before were answered meanwhile: then they count, too.
    fn welcome(&mut self, opened: Opened) -> Result<Opened, String> {
        match opened.revisions {
            Revisions::Continued => {}
            Revisions::Anew => {
                let _: Revisions = self.view.past().compare(&opened.present, &self.ground.keys)?;
                self.era = self.session + 1;
                tracing::warn!("etcd's revisions have begun anew; it says of owners what was known");
            }
        }
        self.view.go_on(&opened.present, opened.revisions);
        Ok(opened)
    }

    /// Another process has this host's name. Whoever has had a session waits until it is free again; any other one for as long as
    /// a process of before may be in etcd, and for ever if it is none.
    async fn stands_back(&mut self, why: &str) -> Option<String> {
        let lease = self.ground.etcd.lease;
        let said = self.rival.words(clock::now(), lease, (&self.ground.host, why));
        let is_another = said.is_err() && self.session == 0;
        let why = said.unwrap_or_else(|another| another);
        tracing::error!("{why}");
        self.outbox.state(ClusterReport::NameInUse { why: why.clone() });
        if is_another {
            let _: Infallible = self.meanwhile(&why, std::future::pending()).await?;
        }
        Some(why)
    }

    /// What each member was last said to suffer from.
    fn told(&self, whys: &[String]) -> String {
        let members = self.ground.etcd.endpoints.iter().zip(whys).filter(|(_, why)| !why.is_empty());
        let words: Vec<String> = members.map(|(member, why)| format!("{member}: {why}")).collect();
        words.join("; ")
    }

    /// Doubles, and differs from host to host by up to a half, so that a thousand of them do not come at once.
    fn pause(&self, round: u32) -> Duration {
        let doubled =
            PAUSE_FIRST.saturating_mul(1_u32.checked_shl(round - 1).unwrap_or(u32::MAX)).min(PAUSE_LAST);
        let share = u32::try_from(self.chance(round) % 512).unwrap_or_default();
        doubled - doubled * share / 1024
    }

    /// The same for the same host and round; without order between hosts.
    fn chance(&self, round: u32) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.ground.host, round).hash(&mut hasher);
        hasher.finish()
    }

    /// Does something that needs no session, and refuses orders for `why`.
    async fn meanwhile<T>(&mut self, why: &str, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        loop {
            for order in std::mem::take(&mut self.again) {
                self.refuse(order, why);
            }
            let now = clock::now();
            let tell = self.outbox.due(&self.view);
            let wait = tell.map_or(IDLE, |due| due.since(now));
            tokio::select! {
                done = &mut work => return Some(done),
                order = self.orders.recv() => self.refuse(order?, why),
                Some(ended) = self.calls.join_next(), if !self.calls.is_empty() => drop(self.ended(ended)),
                permit = self.reports.clone().reserve_owned(), if tell.is_some_and(|due| due <= now) => {
                    let permit = permit.ok()?;
                    if let Some(report) = self.outbox.next(&mut self.view, now) {
                        permit.send(report);
                    }
                }
                () = tokio::time::sleep(wait), if !wait.is_zero() => {}
            }
        }
    }

    fn refuse(&mut self, order: ClusterOrder, why: &str) {
        if let Some(ticket) = order.ticket() {
            let why = format!("etcd is away ({why})");
            self.outbox.answer(ticket, Outcome::Refused(Refusal::NotAsked(why)));
        }
        match order {
            // What is to be said is said when there is somebody to hear it.
            ClusterOrder::Publish(host) => self.pace.publish(&host),
            // It runs out.
            ClusterOrder::DropRoom { id } => drop(self.rooms.remove(&id)),
            ClusterOrder::ReadOwners { .. }
            | ClusterOrder::Claim { .. }
            | ClusterOrder::Release { .. }
            | ClusterOrder::Bump { .. }
            | ClusterOrder::Commit { .. }
            | ClusterOrder::TakeOver { .. }
            | ClusterOrder::Bar { .. }
            | ClusterOrder::GiveBack { .. }
            | ClusterOrder::ClaimRoom { .. } => {}
        }
    }

    /// Serves a session until it is of no more use; returns why.
    async fn up(&mut self, opened: Opened) -> Option<String> {
        let mut session = self.begin(opened);
        loop {
            let now = clock::now();
            self.publish(&session, now);
            self.kept.write(self.view.version(), self.view.past()).await;
            for order in std::mem::take(&mut self.again) {
                self.order(order, &session.client);
            }
            let tell = self.outbox.due(&self.view);
            let wait = self.next_wake(&session, tell).since(now);
            let ended = tokio::select! {
                order = self.orders.recv(), if self.calls.len() < CALLS_MAX => {
                    self.order(order?, &session.client);
                    Ok(())
                }
                Some(ended) = self.calls.join_next(), if !self.calls.is_empty() => self.ended(ended),
                answer = session.watch.message() => self.watched(answer),
                answer = session.beats.message() => session.heard(answer),
                permit = self.reports.clone().reserve_owned(), if tell.is_some_and(|due| due <= now) => {
                    let permit = permit.ok()?;
                    if let Some(report) = self.outbox.next(&mut self.view, now) {
                        permit.send(report);
                    }
                    Ok(())
                }
                () = tokio::time::sleep(wait) => session.beat(clock::now()).await,
            };
            if let Err(why) = ended {
                return Some(why);
            }
        }
    }

    fn next_wake(&self, session: &Session, tell: Option<Instant>) -> Instant {
        // What is due already waits for room in the reports, not for time.
        let tell = tell.filter(|due| *due > clock::now());
        let dues = [Some(session.due()), self.pace.due(), self.kept.due(self.view.version()), tell];
        dues.into_iter().flatten().min().unwrap_or_else(|| session.due())
    }

    fn begin(&mut self, opened: Opened) -> Session {
        let Opened { session, facts, new_lease, .. } = opened;
        self.session += 1;
        self.lease = Some(session.lease);
        self.rival = Rival::default();
        self.view.forget_others();
        for fact in &facts {
            let change = self.view.learn(fact.as_fact());
            self.heed(change);
        }
        for target in &self.ground.targets {
            if new_lease || !self.view.has(&self.ground.host, target) {
                self.pace.forget(Some(target));
            }
        }
        self.outbox.state(ClusterReport::Up);
        session
    }

    fn heed(&mut self, change: Option<view::Change>) {
        match change {
            Some(view::Change::Owner(found)) => self.outbox.owner(found),
            Some(view::Change::HostGone { target, host }) if host == self.ground.host => {
                self.pace.forget(Some(&target));
            }
            Some(view::Change::HostGone { .. }) | None => {}
        }
    }

    fn watched(
        &mut self,
        answer: Result<Option<etcd_client::WatchResponse>, etcd_client::Error>,
    ) -> Result<(), String> {
        for change in session::watched(&mut self.view, answer)? {
            self.heed(Some(change));
        }
        Ok(())
    }

    fn publish(&mut self, session: &Session, now: Instant) {
        let puts = self.pace.take(now);
        if !puts.is_empty() {
            let (client, keys, me) =
                (session.client.clone(), self.ground.keys.clone(), self.ground.host.clone());
            let (lease, session) = (session.lease, self.session);
            self.calls.spawn(async move {
                Ended::Published { session, result: call::publish(client, keys, me, lease, puts).await }
            });
        }
    }

    fn order(&mut self, order: ClusterOrder, client: &Client) {
        let (client, keys, session) = (client.clone(), self.ground.keys.clone(), self.session);
        let known = self.view.past().revision;
        if let Some(change) = Change::of(&order) {
            let (ticket, me) = (change.ticket, self.ground.host.clone());
            self.calls.spawn(async move {
                let (outcome, reading) = call::change(client, keys, me, change, known).await;
                Ended::Changed { session, ticket, outcome, reading }
            });
            return;
        }
        match order {
            ClusterOrder::Publish(host) => self.pace.publish(&host),
            ClusterOrder::ReadOwners { ticket, units } => drop(self.calls.spawn(async move {
                let (outcome, reading) = call::read_owners(client, keys, units, known).await;
                Ended::Read { session, ticket, outcome, reading }
            })),
            ClusterOrder::ClaimRoom { ticket, room, seen, ttl } => drop(self.calls.spawn(async move {
                let id = room.id.clone();
                let (outcome, lease) = call::claim_room(client, keys, room, seen, ttl).await;
                Ended::Room { session, ticket, id, outcome, lease }
            })),
            ClusterOrder::DropRoom { id } => {
                if let Some(lease) = self.rooms.remove(&id) {
                    self.calls.spawn(async move {
                        call::drop_lease(client, lease).await;
                        Ended::Nothing
                    });
                }
            }
            ClusterOrder::Claim { .. }
            | ClusterOrder::Release { .. }
            | ClusterOrder::Bump { .. }
            | ClusterOrder::Commit { .. }
            | ClusterOrder::TakeOver { .. }
            | ClusterOrder::Bar { .. }
            | ClusterOrder::GiveBack { .. } => {}
        }
    }

    /// Returns what is known to be later than what was read.
    fn learn(&mut self, reading: &Reading) -> Vec<Found> {
        let (told, later) = self.view.read(reading);
        told.into_iter().for_each(|found| self.outbox.owner(found));
        later
    }

    /// # Errors
    /// The call has shown that its session, which is the present one, is of no more use.
    fn ended(&mut self, ended: Result<Ended, JoinError>) -> Result<(), String> {
        // A call that panicked has a ticket that nobody would answer: no going on as if nothing were.
        let ended = ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        let (session, ticket, outcome) = match ended {
            Ended::Nothing => return Ok(()),
            Ended::Published { session, result } => {
                let failed = result.as_ref().err().cloned();
                // Of a put under another lease nothing is left.
                let puts = result.ok().filter(|_| session == self.session);
                self.pace.done(puts, clock::now());
                return failed.filter(|_| session == self.session).map_or(Ok(()), Err);
            }
            Ended::Room { session, ticket, id, outcome, lease } => {
                if let Some(lease) = lease {
                    if self.rooms.len() >= ROOMS_MAX {
                        self.rooms.pop_first();
                    }
                    self.rooms.insert(id, lease);
                }
                (session, ticket, outcome)
            }
            Ended::Read { session, ticket, .. } if session < self.era => {
                let why = "etcd's revisions have begun anew since it was asked".to_owned();
                (session, ticket, Outcome::Refused(Refusal::NotAsked(why)))
            }
            Ended::Changed { session, ticket, .. } if session < self.era => {
                let why = "etcd's revisions have begun anew since it was sent".to_owned();
                (session, ticket, Outcome::Unknown { why })
            }
            Ended::Read { session, ticket, outcome, reading } => {
                if !self.learn(&reading).is_empty() {
                    // All at one revision, and none older than what was told: it is read again, and then is.
                    let units = reading.entries.into_iter().map(|entry| entry.unit).collect();
                    self.again.push(ClusterOrder::ReadOwners { ticket, units });
                    return Ok(());
                }
                (session, ticket, outcome)
            }
            Ended::Changed { session, ticket, outcome, reading } => {
                let later = self.learn(&reading);
                (session, ticket, outcome.with(&later))
            }
        };
        let lost = match &outcome {
            Outcome::Unknown { why } if session == self.session => Err(why.clone()),
            // Its streams go on, but the password was changed: the next session reads it again.
            Outcome::Refused(Refusal::NotAsked(why))
                if session == self.session && (call::is_shut_out(why) || past::is_gone_back(why)) =>
            {
                Err(why.clone())
            }
            Outcome::Unknown { .. } | Outcome::Done { .. } | Outcome::Refused(_) => Ok(()),
        };
        self.outbox.answer(ticket, outcome);
        lost
    }
}
