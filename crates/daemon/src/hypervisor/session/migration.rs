//! The migration that one QEMU sends: started in three steps, asked for every 200 ms, told whenever it has changed.
//!
//! ```text
//! capabilities ──► parameters ──► migrate ──► setup ► active ► pre-switchover ──(migrate-continue)──► device ► completed
//! ```
//! Invariant: `migrate` is sent only after QEMU has taken `pause-before-switchover`: without it the guest would start at
//! the destination before anything is handed over. A state that is over is told from an answer, with its numbers or its
//! reason; one on the way also from the event, because in `device` QEMU 7.2 answers nothing, a cancel least of all.
//! Rejected: to take such silence for a dead monitor. It does not know who else must agree to the move.

use super::{ANSWER_WAIT, Broken, Order, Question, Session};
use std::time::Duration;
use vmpath_core::event::{self, HypervisorReport, Machine, MigrationOrder, Role};
use vmpath_core::migration::{MigrationState, MigrationStatus};
use vmpath_core::time::Instant;
use vmpath_protocol::qmp::{self, MigrationInfo, MigrationLimits, RunState};

/// How often a running migration is asked for.
const POLL_EVERY: Duration = Duration::from_millis(200);

/// A QEMU that migrates and does not answer for so long is told of as deaf.
const DEAF_AFTER: Duration = Duration::from_secs(2);

/// An order is taken at once, except that a cancel stops the sending first (20 to 100 ms were seen).
const ORDER_WAIT: Duration = Duration::from_secs(10);

/// What is left when the guest is stopped takes no longer to send than this: it is sent after `migrate-continue`, and the
/// guest stands still. With QEMU's default, 300 ms, 97 MiB of a 256 MiB guest were left at that point.
const DOWNTIME: Duration = Duration::from_millis(50);

/// Bytes per second: no limit in practice. QEMU's default, 128 MiB/s, is less than a fast network gives.
const BANDWIDTH: u64 = 1 << 40;

#[derive(Debug)]
pub(super) struct Migration {
    /// As last known; `None` until this process has sent one.
    status: MigrationStatus,
    /// Whether this process sends, or has ended to without having told how.
    outgoing: bool,
    /// Where a migration goes whose capabilities or parameters are still being set.
    start: Option<String>,
    /// Ask again when the open question is answered: something has happened since it was asked.
    ask_again: bool,
    /// The next answer is told even if nothing has changed.
    wanted: bool,
    next_poll: Instant,
    /// How it ended after which the process stands in `postmigrate`, from an answer to a question that was asked since it stands
    /// there: what was known before may be of a migration before that.
    ended: Option<MigrationState>,
    memory: Option<u64>,
    /// Where the process listens, if it waits for a VM.
    listens: Vec<String>,
}

impl Default for Migration {
    fn default() -> Self {
        Self {
            status: nothing(MigrationState::None),
            outgoing: false,
            start: None,
            ask_again: false,
            wanted: false,
            next_poll: Instant::FAR_FUTURE,
            ended: None,
            memory: None,
            listens: Vec::new(),
        }
    }
}

impl Migration {
    pub(super) const fn next_poll(&self) -> Instant {
        self.next_poll
    }

    /// Whether it is normal that QEMU answers nothing.
    const fn is_silent(&self) -> bool {
        matches!(self.status.state, MigrationState::Device)
    }

    pub(super) fn set_memory(&mut self, bytes: Option<u64>) {
        self.memory = bytes;
    }

    /// The process stands in this state now. Whether it is to be asked what that means.
    pub(super) fn must_ask_how_it_ended(&mut self, now_in: &RunState) -> bool {
        if *now_in != RunState::PostMigrate {
            self.ended = None;
        }
        *now_in == RunState::PostMigrate && self.ended.is_none()
    }

    /// What a process in `postmigrate` is. No other migration can begin in it.
    pub(super) const fn left_as(&self) -> event::RunState {
        match &self.ended {
            Some(MigrationState::Completed) => event::RunState::Sent,
            Some(MigrationState::Failed(_) | MigrationState::Cancelled) => event::RunState::Paused,
            Some(
                MigrationState::None
                | MigrationState::Setup
                | MigrationState::Active
                | MigrationState::PreSwitchover
                | MigrationState::Device
                | MigrationState::Cancelling,
            )
            | None => event::RunState::Other,
        }
    }

    /// What was found while connecting; asked when the process was known to be in that state, if it was.
    pub(super) fn found(&mut self, info: &MigrationInfo, known_in: Option<&RunState>) {
        self.status = status(info);
        self.ended = (known_in == Some(&RunState::PostMigrate)).then(|| self.status.state.clone());
        self.listens.clone_from(&info.listens);
    }

    /// The process does not say.
    pub(super) fn not_found(&mut self, known_in: Option<&RunState>) {
        self.ended = (known_in == Some(&RunState::PostMigrate)).then_some(MigrationState::None);
    }
}

impl Session {
    /// The reports that follow `Connected`.
    pub(super) fn tell_machine(&mut self, now: Instant) {
        let incoming = self.qemu_state == Some(RunState::InMigrate);
        let listens = std::mem::take(&mut self.migration.listens);
        let role = if incoming { Role::Incoming { listens } } else { Role::Home };
        let (version, memory) = (self.version.clone(), self.migration.memory);
        let machine = Machine { instance: self.instance, version, memory, role };
        self.reports.push(HypervisorReport::Machine(machine));
        // Found, not sent by us: what an incoming process says is about the VM's way to it.
        let found = std::mem::replace(&mut self.migration.status, nothing(MigrationState::None));
        let sent = !incoming && (found.state != MigrationState::Completed || self.has_sent());
        if sent && found.state != MigrationState::None {
            self.migration.outgoing = true;
            self.migration_stands(found, now);
        }
    }

    /// The process has given its VM away, or was to. A `completed` without it is of the migration that brought the VM here.
    fn has_sent(&self) -> bool {
        self.qemu_state == Some(RunState::PostMigrate)
    }

    /// It is not where a migration that is over leaves it: in `postmigrate`, or running by somebody's `cont`.
    fn is_stopping(&self) -> bool {
        !self.has_sent() && self.qemu_state != Some(RunState::Running)
    }

    pub(super) fn order_migration(&mut self, order: &Order, now: Instant) {
        let state = &self.migration.status.state;
        let why = match order {
            Order::Migrate { .. } if self.qemu_state == Some(RunState::InMigrate) => {
                Some("QEMU itself waits for a VM".to_owned())
            }
            Order::Migrate { .. } if self.migration.start.is_some() || is_running(state) => {
                Some(format!("a migration is on already: {state}"))
            }
            Order::MigrateContinue { .. } if *state != MigrationState::PreSwitchover => {
                Some(format!("the migration is not at its switchover: {state}"))
            }
            _ => None,
        };
        if let Some(why) = why {
            self.reports.push(order.refused(why));
            return;
        }
        let due = now + ORDER_WAIT;
        match order {
            Order::Migrate { uri, .. } => {
                self.migration.start = Some(uri.clone());
                self.ask(Question::Capability, due, |id| {
                    qmp::migrate_set_capabilities(id, &qmp::MIGRATION_CAPABILITIES)
                });
            }
            Order::MigrateContinue { .. } => {
                self.ask_once(Question::MigrateContinue, due, qmp::migrate_continue);
            }
            Order::MigrateCancel { .. } => self.cancel(due),
            Order::QueryMigrate { .. } => {
                self.migration.wanted = true;
                self.ask_migration(now);
            }
            Order::Stop { .. } | Order::Continue { .. } | Order::Quit { .. } => {}
        }
    }

    fn cancel(&mut self, due: Instant) {
        if self.migration.start.take().is_some() {
            self.refuse_migration(MigrationOrder::Start, "it was cancelled before it began".into());
        }
        self.ask_once(Question::MigrateCancel, due, qmp::migrate_cancel);
    }

    fn refuse_migration(&mut self, order: MigrationOrder, why: String) {
        self.reports.push(HypervisorReport::MigrationRefused { order, why });
    }

    /// `question` was answered with success; it is one of the orders.
    pub(super) fn migration_order_done(&mut self, question: Question, now: Instant) {
        let due = now + ORDER_WAIT;
        match (question, self.migration.start.is_some()) {
            (Question::Capability, true) => {
                let downtime_ms = u64::try_from(DOWNTIME.as_millis()).unwrap_or(u64::MAX);
                let limits = MigrationLimits { downtime_ms, bandwidth: BANDWIDTH };
                self.ask(Question::Parameters, due, |id| qmp::migrate_set_parameters(id, limits));
            }
            (Question::Parameters, true) => {
                let uri = self.migration.start.take().unwrap_or_default();
                self.ask(Question::Migrate, due, |id| qmp::migrate(id, &uri));
            }
            // Cancelled, or given up, meanwhile.
            (Question::Capability | Question::Parameters, false) => {}
            (Question::Migrate, _) => {
                self.migration.outgoing = true;
                if !is_running(&self.migration.status.state) {
                    // How the one before ended is not to be taken for how this one does.
                    self.migration.status = nothing(MigrationState::None);
                }
                self.ask_migration(now);
            }
            _ => self.ask_migration(now),
        }
    }

    pub(super) fn migration_order_failed(&mut self, question: Question, why: String, now: Instant) {
        let order = match question {
            Question::MigrateContinue => MigrationOrder::Continue,
            Question::MigrateCancel => MigrationOrder::Cancel,
            _ => {
                self.migration.start = None;
                MigrationOrder::Start
            }
        };
        self.refuse_migration(order, why);
        self.ask_migration(now);
    }

    /// The event `MIGRATION`, or that another pass over the memory begins.
    pub(super) fn migration_event(&mut self, told: Option<qmp::MigrationState>, now: Instant) {
        if self.qemu_state == Some(RunState::InMigrate) || !self.is_ready() {
            return;
        }
        if let Some(state) = told.map(|state| state_of(&state, None)).filter(is_running) {
            let begins = state == MigrationState::Setup && self.migration.status.state != state;
            let known = if begins {
                nothing(state)
            } else {
                MigrationStatus { state, ..self.migration.status.clone() }
            };
            self.migration.outgoing = true;
            self.migration_stands(known, now);
        }
        self.ask_migration(now);
    }

    /// An answer to `query-migrate`.
    pub(super) fn migration_answer(&mut self, info: &MigrationInfo, now: Instant) {
        let mut status = status(info);
        if !self.migration.ask_again && self.has_sent() && self.migration.ended.is_none() {
            self.migration.ended = Some(status.state.clone());
            self.ask_status(false, now);
        }
        if is_running(&status.state) && self.qemu_state != Some(RunState::InMigrate) {
            self.migration.outgoing = true;
        }
        let completed = MigrationState::Completed;
        if self.migration.outgoing && status.state == completed && self.is_stopping() {
            // QEMU says so a moment before it stands in `postmigrate`, and until then not how long that took.
            status.state = MigrationState::Device;
            self.ask_status(false, now);
        }
        let known = self.migration.status.state == completed || self.has_sent();
        if !self.migration.outgoing && status.state == completed && !known {
            status = nothing(MigrationState::None);
        }
        let wanted = !self.migration.ask_again && std::mem::take(&mut self.migration.wanted);
        if self.migration.outgoing {
            self.migration_stands(status.clone(), now);
        }
        if wanted && self.reports.last() != Some(&HypervisorReport::Migration(status.clone())) {
            self.reports.push(HypervisorReport::Migration(status));
        }
        if std::mem::take(&mut self.migration.ask_again) {
            self.ask_migration(now);
        }
    }

    fn migration_stands(&mut self, status: MigrationStatus, now: Instant) {
        let migration = &mut self.migration;
        let running = is_running(&status.state);
        migration.outgoing = running;
        migration.next_poll = if running { now + POLL_EVERY } else { Instant::FAR_FUTURE };
        if migration.status != status {
            migration.status = status.clone();
            self.reports.push(HypervisorReport::Migration(status));
        }
        if !running {
            // Who is away, and who goes on, is to be known as soon.
            self.ask_status(false, now);
        }
    }

    pub(super) fn migration_tick(&mut self, now: Instant) {
        if now >= self.migration.next_poll {
            self.migration.next_poll = now + POLL_EVERY;
            self.ask_migration_as(Asked::Poll, now);
        }
    }

    pub(super) fn ask_migration(&mut self, now: Instant) {
        self.ask_migration_as(Asked::Anew, now);
    }

    fn ask_migration_as(&mut self, asked: Asked, now: Instant) {
        if self.open.iter().any(|open| open.question == Question::Migration) {
            self.migration.ask_again |= asked == Asked::Anew;
        } else if self.is_ready() {
            self.ask(Question::Migration, now + DEAF_AFTER, qmp::query_migrate);
        }
    }

    /// `query-migrate` has been open for longer than it should. Behind an order, or in `device`, that is no death.
    pub(super) fn migration_late(&mut self, now: Instant) -> Result<(), Broken> {
        let behind = self.open.iter().any(|open| open.question.is_order());
        let silent = self.migration.is_silent();
        let Some(open) = self.open.iter_mut().find(|open| open.question == Question::Migration) else {
            return Ok(());
        };
        let waited = now.since(open.expected) + DEAF_AFTER;
        if waited >= ANSWER_WAIT && !silent && !behind {
            return Err(format!("QEMU's monitor has not answered for {} s", waited.as_secs()));
        }
        open.due = Some(now + DEAF_AFTER);
        let state = &self.migration.status.state;
        let why =
            format!("QEMU has answered nothing for {} s; its migration was last {state}", waited.as_secs());
        self.reports.push(HypervisorReport::Deaf { why });
        Ok(())
    }

    /// Whether silence says nothing of the monitor.
    pub(super) fn silence_is_normal(&self) -> bool {
        self.migration.is_silent()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Poll,
    /// Because something has happened: an answer to an older question will not do.
    Anew,
}

const fn nothing(state: MigrationState) -> MigrationStatus {
    MigrationStatus { state, ram_total: 0, ram_remaining: 0, transferred: 0, downtime: None }
}

const fn is_running(state: &MigrationState) -> bool {
    match state {
        MigrationState::Setup
        | MigrationState::Active
        | MigrationState::PreSwitchover
        | MigrationState::Device
        | MigrationState::Cancelling => true,
        MigrationState::None
        | MigrationState::Completed
        | MigrationState::Failed(_)
        | MigrationState::Cancelled => false,
    }
}

fn status(info: &MigrationInfo) -> MigrationStatus {
    let ram = info.ram.unwrap_or_default();
    MigrationStatus {
        state: state_of(&info.state, info.error.as_deref()),
        ram_total: ram.total,
        ram_remaining: ram.remaining,
        transferred: ram.transferred,
        downtime: info.downtime_ms.map(Duration::from_millis),
    }
}

/// States that we never ask for, or do not know, count as being on the way: nothing may be concluded from them.
fn state_of(state: &qmp::MigrationState, error: Option<&str>) -> MigrationState {
    match state {
        qmp::MigrationState::None => MigrationState::None,
        qmp::MigrationState::Setup | qmp::MigrationState::WaitUnplug => MigrationState::Setup,
        qmp::MigrationState::Active
        | qmp::MigrationState::PostcopyActive
        | qmp::MigrationState::PostcopyPaused
        | qmp::MigrationState::PostcopyRecover
        | qmp::MigrationState::Colo
        | qmp::MigrationState::Other(_) => MigrationState::Active,
        qmp::MigrationState::PreSwitchover => MigrationState::PreSwitchover,
        qmp::MigrationState::Device => MigrationState::Device,
        qmp::MigrationState::Completed => MigrationState::Completed,
        qmp::MigrationState::Failed => {
            MigrationState::Failed(error.unwrap_or("QEMU gives no reason").to_owned())
        }
        qmp::MigrationState::Cancelling => MigrationState::Cancelling,
        qmp::MigrationState::Cancelled => MigrationState::Cancelled,
    }
}
