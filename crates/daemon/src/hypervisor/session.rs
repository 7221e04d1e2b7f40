//! One QMP connection as a state machine without I/O: bytes and orders in, bytes and reports out, `now` told.
//!
//! ```text
//! Greeting ──► Negotiating ──► Probing (query-block, qom-get…, memory, query-migrate, query-status) ──► Ready
//! ```
//! Invariant: a run state is reported only from an answer to `query-status`; events merely make it ask. An order that
//! QEMU is slow to answer (`stop` waits for the disks' open requests) delays nothing but itself. At most one
//! `query-status`, one `stop` and one `cont` are open. It does not know sockets, or why an order was given.

mod migration;

use super::Order;
use migration::Migration;
use std::collections::VecDeque;
use std::time::Duration;
use vmpath_core::event::{HypervisorReport, RunState, StopsOnError};
use vmpath_core::time::Instant;
use vmpath_protocol::qmp::{self, MigrationInfo, QmpMessage, QmpReader, Returned, StatusInfo};

/// Without a greeting in this time, somebody else is likely to be attached: QEMU serves one client.
const GREETING_WAIT: Duration = Duration::from_secs(5);

/// A question that QEMU's main loop answers at once, unless it is stuck.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// `stop` waits until the disks' open requests are answered.
const STOP_WAIT: Duration = Duration::from_secs(30);

const CONTINUE_WAIT: Duration = Duration::from_secs(10);

/// How often the run state is asked for when nothing happens: finds a monitor that has died without closing.
const POLL_EVERY: Duration = Duration::from_secs(5);

/// The events after which the run state may be another.
const STATE_EVENTS: [&str; 8] =
    ["STOP", "RESUME", "BLOCK_IO_ERROR", "SHUTDOWN", "RESET", "SUSPEND", "WAKEUP", "GUEST_PANICKED"];

#[derive(Debug)]
pub(super) struct Session {
    instance: u64,
    /// QEMU's own, from the greeting.
    version: String,
    reader: QmpReader,
    phase: Phase,
    /// Questions without an answer, in the order of asking. At most one of a kind.
    open: Vec<Open>,
    next_id: u64,
    /// Ask again when the open `query-status` is answered, because something happened since it was asked.
    ask_again: bool,
    last_state: Option<RunState>,
    /// The same in QEMU's words.
    qemu_state: Option<qmp::RunState>,
    migration: Migration,
    next_poll: Instant,
    output: Vec<u8>,
    reports: Vec<HypervisorReport>,
}

#[derive(Debug)]
enum Phase {
    Greeting { until: Instant },
    Negotiating,
    Probing(Probe),
    Ready,
}

/// Finding out whether every disk stops the VM on an error.
#[derive(Debug)]
struct Probe {
    /// Property reads still to make, as (QOM path, property).
    to_ask: VecDeque<(String, &'static str)>,
    stops_on_error: StopsOnError,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Capabilities,
    Blocks,
    Property,
    Memory,
    /// Asked where `Memory` is not known.
    MemoryBackends,
    Migration,
    /// Reported even if unchanged, unless it is a mere poll.
    Status {
        poll: bool,
    },
    Stop,
    Continue,
    Capability,
    Parameters,
    Migrate,
    MigrateContinue,
    MigrateCancel,
    Quit,
}

#[derive(Debug)]
struct Open {
    id: u64,
    question: Question,
    /// When an answer was first expected.
    expected: Instant,
    /// None: its lateness was already reported, or does not matter.
    due: Option<Instant>,
}

/// Why the connection is of no more use, in words.
pub(super) type Broken = String;

impl Session {
    pub(super) fn new(instance: u64, now: Instant) -> Self {
        Self {
            instance,
            version: String::new(),
            reader: QmpReader::new(),
            phase: Phase::Greeting { until: now + GREETING_WAIT },
            open: Vec::new(),
            next_id: 1,
            ask_again: false,
            last_state: None,
            qemu_state: None,
            migration: Migration::default(),
            next_poll: Instant::FAR_FUTURE,
            output: Vec::new(),
            reports: Vec::new(),
        }
    }

    pub(super) const fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready)
    }

    /// Bytes to be sent; the caller drains what it has sent.
    pub(super) const fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    pub(super) fn take_reports(&mut self) -> Vec<HypervisorReport> {
        std::mem::take(&mut self.reports)
    }

    /// When [`Self::tick`] has something to do.
    pub(super) fn deadline(&self) -> Instant {
        let greeting = match self.phase {
            Phase::Greeting { until } => until,
            Phase::Negotiating | Phase::Probing(_) | Phase::Ready => Instant::FAR_FUTURE,
        };
        let due = self.open.iter().filter_map(|open| open.due).min().unwrap_or(Instant::FAR_FUTURE);
        greeting.min(due).min(self.next_poll).min(self.migration.next_poll())
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Broken> {
        loop {
            let fed = self.reader.feed(bytes).map_err(|error| format!("this is not QMP: {error}"))?;
            bytes = &bytes[fed.consumed..];
            match fed.event {
                Some(message) => self.message(message, now)?,
                None => return Ok(()),
            }
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "an order is carried out once")]
    pub(super) fn order(&mut self, order: Order, now: Instant) {
        let why = if order.instance() != self.instance {
            Some("another QEMU process is connected than the one that was meant".to_owned())
        } else if !self.is_ready() {
            Some("the monitor is only just being connected".to_owned())
        } else if matches!(order, Order::Continue { .. }) {
            self.belongs_elsewhere()
        } else {
            None
        };
        if let Some(why) = why {
            self.reports.push(order.refused(why));
            return;
        }
        match order {
            Order::Stop { .. } => self.ask_once(Question::Stop, now + STOP_WAIT, qmp::stop),
            Order::Continue { .. } => self.ask_once(Question::Continue, now + CONTINUE_WAIT, qmp::cont),
            Order::Quit { .. } if self.run_state() == RunState::Sent => {
                self.ask_once(Question::Quit, now + CONTINUE_WAIT, qmp::quit);
            }
            Order::Quit { .. } => {}
            Order::Migrate { .. }
            | Order::MigrateContinue { .. }
            | Order::MigrateCancel { .. }
            | Order::QueryMigrate { .. } => self.order_migration(&order, now),
        }
    }

    /// Why `cont` must not be sent. QEMU would obey after a migration that is complete, too, and the VM would run twice.
    fn belongs_elsewhere(&self) -> Option<String> {
        let state = self.qemu_state.as_ref()?;
        let elsewhere = match state {
            qmp::RunState::FinishMigrate | qmp::RunState::InMigrate => true,
            qmp::RunState::PostMigrate => self.run_state() != RunState::Paused,
            _ => false,
        };
        elsewhere.then(|| format!("QEMU is in {state}: the VM is, or may be, elsewhere"))
    }

    pub(super) fn tick(&mut self, now: Instant) -> Result<(), Broken> {
        if let Phase::Greeting { until } = self.phase
            && now >= until
        {
            return Err(
                "it accepts and says nothing: is another client attached? QEMU serves one at a time".into()
            );
        }
        let excused = self.silence_is_normal() || self.open.iter().any(|open| open.question.is_order());
        let mut late = Vec::new();
        for open in self.open.iter_mut().filter(|open| open.due.is_some_and(|due| now >= due)) {
            open.due = None;
            late.push(open.question);
        }
        for question in late {
            self.late(question, excused, now)?;
        }
        if now >= self.next_poll {
            self.next_poll = now + POLL_EVERY;
            self.ask_status(true, now);
        }
        self.migration_tick(now);
        Ok(())
    }

    /// `excused`: answers come in the order of asking, and behind an order silence says nothing.
    fn late(&mut self, question: Question, excused: bool, now: Instant) -> Result<(), Broken> {
        match question {
            Question::Stop => self.refuse(format!(
                "no answer to `stop` for {} s: QEMU waits for open requests of its disks",
                STOP_WAIT.as_secs()
            )),
            Question::Continue => {
                self.refuse(format!("no answer to `cont` for {} s", CONTINUE_WAIT.as_secs()));
            }
            Question::Quit => return Err("QEMU does not end although the VM has left it".into()),
            Question::Capability
            | Question::Parameters
            | Question::Migrate
            | Question::MigrateContinue
            | Question::MigrateCancel => {
                let why = format!("no answer to `{}`", question.name());
                self.migration_order_failed(question, why, now);
            }
            Question::Migration => return self.migration_late(now),
            Question::Status { .. } if excused => {}
            Question::Capabilities
            | Question::Blocks
            | Question::Property
            | Question::Memory
            | Question::MemoryBackends
            | Question::Status { .. } => {
                return Err(format!("QEMU's monitor has not answered for {} s", ANSWER_WAIT.as_secs()));
            }
        }
        Ok(())
    }

    fn message(&mut self, message: QmpMessage, now: Instant) -> Result<(), Broken> {
        match message {
            QmpMessage::Greeting(version) => {
                if matches!(self.phase, Phase::Greeting { .. }) {
                    self.version = version.to_string();
                    self.phase = Phase::Negotiating;
                    self.ask(Question::Capabilities, now + ANSWER_WAIT, qmp::qmp_capabilities);
                }
                Ok(())
            }
            QmpMessage::Event { name, data, .. } => {
                match name.as_str() {
                    "MIGRATION" => self.migration_event(qmp::MigrationState::from_event(&data), now),
                    "MIGRATION_PASS" => self.migration_event(None, now),
                    name if STATE_EVENTS.contains(&name) => self.ask_status(false, now),
                    _ => {}
                }
                Ok(())
            }
            QmpMessage::Return { id, value } => match self.close(id, now) {
                Some(question) => self.answer(question, &value, now),
                None => Ok(()),
            },
            QmpMessage::Error { id, desc, .. } => self.error(id, &desc, now),
            QmpMessage::Other(_) => Ok(()),
        }
    }

    fn answer(&mut self, question: Question, value: &Returned, now: Instant) -> Result<(), Broken> {
        match question {
            Question::Capabilities => {
                self.ask(Question::Blocks, now + ANSWER_WAIT, qmp::query_block);
                self.phase = Phase::Probing(Probe::default());
            }
            Question::Blocks => self.probe(qmp::disks_that_count(value), now),
            Question::Property => self.probed(qmp::is_stop(value), now),
            Question::Memory => self.probed_memory(qmp::memory_size(value), now),
            Question::MemoryBackends => self.probed_memory(qmp::memory_of_backends(value), now),
            Question::Migration => {
                let info = MigrationInfo::from_return(value).map_err(|error| error.to_string())?;
                if self.is_ready() {
                    self.migration_answer(&info, now);
                } else {
                    self.migration.found(&info, self.qemu_state.as_ref());
                    self.ask(Question::Status { poll: false }, now + ANSWER_WAIT, qmp::query_status);
                }
            }
            Question::Status { poll } => {
                let status = StatusInfo::from_return(value).map_err(|error| error.to_string())?.status;
                let must_ask = self.migration.must_ask_how_it_ended(&status);
                self.qemu_state = Some(status);
                if must_ask && !self.is_ready() {
                    self.ask(Question::Migration, now + ANSWER_WAIT, qmp::query_migrate);
                    return Ok(());
                }
                self.state(self.run_state(), poll, now);
                if must_ask {
                    self.ask_migration(now);
                }
            }
            Question::Stop | Question::Continue => self.ask_status(false, now),
            // Its monitor is gone next.
            Question::Quit => {}
            Question::Capability
            | Question::Parameters
            | Question::Migrate
            | Question::MigrateContinue
            | Question::MigrateCancel => self.migration_order_done(question, now),
        }
        Ok(())
    }

    fn error(&mut self, id: Option<u64>, desc: &str, now: Instant) -> Result<(), Broken> {
        let Some(question) = self.close(id, now) else { return Ok(()) };
        let refused = || format!("QEMU refused `{}`: {desc}", question.name());
        match question {
            Question::Quit => tracing::warn!("{}", refused()),
            Question::Stop | Question::Continue => {
                self.refuse(refused());
                self.ask_status(false, now);
            }
            // A monitor without these commands manages a VM all the same; it just does not stop on errors.
            Question::Blocks => self.probe(None, now),
            Question::Property => self.probed(false, now),
            Question::Memory => self.ask(Question::MemoryBackends, now + ANSWER_WAIT, qmp::query_memdev),
            Question::MemoryBackends => self.probed_memory(None, now),
            Question::Migration if !self.is_ready() => {
                self.migration.not_found(self.qemu_state.as_ref());
                self.ask(Question::Status { poll: false }, now + ANSWER_WAIT, qmp::query_status);
            }
            Question::Capability
            | Question::Parameters
            | Question::Migrate
            | Question::MigrateContinue
            | Question::MigrateCancel => self.migration_order_failed(question, refused(), now),
            Question::Capabilities | Question::Status { .. } | Question::Migration => return Err(refused()),
        }
        Ok(())
    }

    fn probe(&mut self, disks: Option<Vec<String>>, now: Instant) {
        let disks = disks.unwrap_or_default();
        let reads =
            disks.iter().flat_map(|disk| qmp::ERROR_POLICIES.map(|property| (disk.clone(), property)));
        let to_ask: VecDeque<_> = reads.collect();
        let stops_on_error = if to_ask.is_empty() { StopsOnError::No } else { StopsOnError::Yes };
        self.phase = Phase::Probing(Probe { to_ask, stops_on_error });
        self.probe_next(now);
    }

    fn probed(&mut self, stops: bool, now: Instant) {
        if let Phase::Probing(probe) = &mut self.phase
            && !stops
        {
            probe.stops_on_error = StopsOnError::No;
            probe.to_ask.clear();
        }
        self.probe_next(now);
    }

    fn probe_next(&mut self, now: Instant) {
        let Phase::Probing(probe) = &mut self.phase else { return };
        match probe.to_ask.pop_front() {
            Some((path, property)) => {
                let line = |id| qmp::qom_get(id, &path, property);
                self.ask(Question::Property, now + ANSWER_WAIT, line);
            }
            // The state is asked last, so that what is reported of the beginning is not older than the probe.
            None => self.ask(Question::Memory, now + ANSWER_WAIT, qmp::query_memory_size_summary),
        }
    }

    fn probed_memory(&mut self, bytes: Option<u64>, now: Instant) {
        self.migration.set_memory(bytes);
        self.ask(Question::Migration, now + ANSWER_WAIT, qmp::query_migrate);
    }

    fn state(&mut self, state: RunState, poll: bool, now: Instant) {
        if let Phase::Probing(probe) = &self.phase {
            let stops_on_error = probe.stops_on_error;
            self.phase = Phase::Ready;
            self.reports.push(HypervisorReport::Connected { instance: self.instance, state, stops_on_error });
            self.tell_machine(now);
        } else if !poll || self.last_state != Some(state) {
            self.reports.push(HypervisorReport::State(state));
        }
        self.last_state = Some(state);
        self.next_poll = now + POLL_EVERY;
        if std::mem::take(&mut self.ask_again) {
            self.ask_status(false, now);
        }
    }

    /// A process that stands in `postmigrate` has sent its VM away, or has not and was stopped before: how its migration ended tells.
    fn run_state(&self) -> RunState {
        match &self.qemu_state {
            Some(qmp::RunState::Running) => RunState::Running,
            Some(qmp::RunState::Paused) => RunState::Paused,
            Some(qmp::RunState::IoError) => RunState::IoError,
            Some(qmp::RunState::PostMigrate) => self.migration.left_as(),
            Some(
                qmp::RunState::InMigrate
                | qmp::RunState::PreLaunch
                | qmp::RunState::FinishMigrate
                | qmp::RunState::SaveVm
                | qmp::RunState::InternalError
                | qmp::RunState::Shutdown
                | qmp::RunState::Suspended
                | qmp::RunState::Watchdog
                | qmp::RunState::GuestPanicked
                | qmp::RunState::RestoreVm
                | qmp::RunState::Colo
                | qmp::RunState::Debug
                | qmp::RunState::Other(_),
            )
            | None => RunState::Other,
        }
    }

    fn ask_status(&mut self, poll: bool, now: Instant) {
        let open = self.open.iter().any(|open| matches!(open.question, Question::Status { .. }));
        if open {
            self.ask_again |= !poll;
        } else if self.is_ready() {
            self.ask(Question::Status { poll }, now + ANSWER_WAIT, qmp::query_status);
        }
    }

    /// Sends a question; `line` writes it with its id.
    fn ask(&mut self, question: Question, due: Instant, line: impl FnOnce(u64) -> Vec<u8>) {
        let id = self.next_id;
        self.next_id += 1;
        self.open.push(Open { id, question, expected: due, due: Some(due) });
        self.output.extend(line(id));
    }

    /// Sends an order, unless it was sent and is not answered: QEMU would do it twice. Only the patience starts anew.
    fn ask_once(&mut self, question: Question, due: Instant, line: impl FnOnce(u64) -> Vec<u8>) {
        match self.open.iter_mut().find(|open| open.question == question) {
            Some(open) => open.due = Some(due),
            None => self.ask(question, due, line),
        }
    }

    /// The question that an answer belongs to; none for answers to nothing.
    fn close(&mut self, id: Option<u64>, now: Instant) -> Option<Question> {
        let index = self.open.iter().position(|open| Some(open.id) == id)?;
        let question = self.open.remove(index).question;
        if question.is_order() || question == Question::Migration {
            // What waited behind it is answered from now on.
            for open in self.open.iter_mut().filter(|open| open.due.is_none()) {
                open.due = Some(now + ANSWER_WAIT);
            }
        }
        Some(question)
    }

    fn refuse(&mut self, why: String) {
        self.reports.push(HypervisorReport::Refused { why });
    }
}

impl Default for Probe {
    fn default() -> Self {
        Self { to_ask: VecDeque::new(), stops_on_error: StopsOnError::No }
    }
}

impl Question {
    /// Whether QEMU may take its time, and what is asked after it must wait.
    const fn is_order(self) -> bool {
        match self {
            Self::Stop
            | Self::Continue
            | Self::Capability
            | Self::Parameters
            | Self::Migrate
            | Self::MigrateContinue
            | Self::MigrateCancel
            | Self::Quit => true,
            Self::Capabilities
            | Self::Blocks
            | Self::Property
            | Self::Memory
            | Self::MemoryBackends
            | Self::Migration
            | Self::Status { .. } => false,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Capabilities => "qmp_capabilities",
            Self::Blocks => "query-block",
            Self::Property => "qom-get",
            Self::Memory => "query-memory-size-summary",
            Self::MemoryBackends => "query-memdev",
            Self::Migration => "query-migrate",
            Self::Status { .. } => "query-status",
            Self::Stop => "stop",
            Self::Continue => "cont",
            Self::Capability => "migrate-set-capabilities",
            Self::Parameters => "migrate-set-parameters",
            Self::Migrate => "migrate",
            Self::MigrateContinue => "migrate-continue",
            Self::MigrateCancel => "migrate_cancel",
            Self::Quit => "quit",
        }
    }
}
