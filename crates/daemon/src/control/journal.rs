//! The event journal: append-only, numbered, bounded in lines, bytes and age, in memory.
//!
//! Names are resolved when an entry is written, so that it stays readable after a reload that removes them. Each entry
//! is also a log line. Invariant: the lines are the newest of all that were written, in order, and the oldest leave first.
//! It does not know who reads it, nor that it is kept over restarts.

mod index;
mod query;
#[cfg(test)]
mod tests;

pub use query::{Filter, OfVm, Page, Past, Query};

use index::Index;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use vmpath_core::effect::{JournalEntry, JournalKind, Subject};
use vmpath_core::ids::IncidentId;
use vmpath_core::spec::{HostSpec, Spec};

/// Lines kept at most, whatever the configuration lets them weigh: a dozen incidents of a thousand VMs.
pub const LINES_MAX: usize = 65_536;

/// What a line weighs beside its texts: itself, its places in lists, and in the file.
const LINE_BYTES: u64 = 256;

/// How much is kept; whichever is reached first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub lines: usize,
    pub bytes: u64,
    pub age: Duration,
}

impl Bounds {
    #[must_use]
    pub const fn of(host: &HostSpec) -> Self {
        Self { lines: LINES_MAX, bytes: host.journal_max, age: host.journal_age }
    }
}

/// One entry, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub seq: u64,
    pub at_unix_us: u64,
    pub incident: Option<IncidentId>,
    pub kind: JournalKind,
    pub subject: SubjectType,
    pub subject_name: String,
    pub reason: String,
    pub until: Option<String>,
}

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubjectType {
    Host,
    Target,
    Path,
    Unit,
    Vm,
}

impl SubjectType {
    const ALL: [Self; 5] = [Self::Host, Self::Target, Self::Path, Self::Unit, Self::Vm];

    const fn of(subject: Subject) -> Self {
        match subject {
            Subject::Host => Self::Host,
            Subject::Target(_) => Self::Target,
            Subject::Path(_) => Self::Path,
            Subject::Unit(_) => Self::Unit,
            Subject::Vm(_) => Self::Vm,
        }
    }

    /// The word in logs and API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Target => "target",
            Self::Path => "path",
            Self::Unit => "unit",
            Self::Vm => "vm",
        }
    }

    /// The type that a word stands for.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|of| of.as_str() == word)
    }
}

impl Line {
    fn weight(&self) -> u64 {
        let texts = [Some(&self.subject_name), Some(&self.reason), self.until.as_ref()];
        LINE_BYTES + texts.into_iter().flatten().map(|text| text.len() as u64).sum::<u64>()
    }
}

#[derive(Debug)]
pub struct Journal {
    lines: VecDeque<Arc<Line>>,
    index: Index,
    /// Of the lines together.
    bytes: u64,
    last_seq: u64,
    bounds: Bounds,
}

impl Journal {
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self { lines: VecDeque::new(), index: Index::default(), bytes: 0, last_seq: 0, bounds }
    }

    #[must_use]
    pub const fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Of the oldest line that is kept; the next one's if there is none.
    #[must_use]
    pub fn first_seq(&self) -> u64 {
        self.lines.front().map_or(self.last_seq + 1, |line| line.seq)
    }

    /// Goes on with the lines of the process before, the oldest first, and their numbers.
    #[must_use]
    pub fn restored(bounds: Bounds, lines: Vec<Line>, now_unix_us: u64) -> Self {
        let mut journal = Self::new(bounds);
        for line in lines {
            journal.last_seq = line.seq;
            journal.push(Arc::new(line));
        }
        journal.forget(now_unix_us);
        journal
    }

    /// Appends an entry, under the names of `spec`; the oldest make room.
    pub fn append(&mut self, entry: JournalEntry, spec: &Spec, at_unix_us: u64) -> Arc<Line> {
        self.last_seq += 1;
        let line = Arc::new(Line {
            seq: self.last_seq,
            at_unix_us,
            incident: entry.incident,
            kind: entry.kind,
            subject: SubjectType::of(entry.subject),
            subject_name: name_of(entry.subject, spec),
            reason: entry.reason,
            until: entry.until,
        });
        log(&line);
        self.push(Arc::clone(&line));
        self.forget(at_unix_us);
        line
    }

    fn push(&mut self, line: Arc<Line>) {
        self.index.enter(&line);
        self.bytes += line.weight();
        self.lines.push_back(line);
    }

    /// Other bounds from now on.
    pub fn bound(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// The oldest leave until the rest is within the bounds. The newest stays whatever it weighs: it carries the number.
    pub fn forget(&mut self, now_unix_us: u64) {
        let age = u64::try_from(self.bounds.age.as_micros()).unwrap_or(u64::MAX);
        while let Some(oldest) = self.lines.front().filter(|_| self.lines.len() > 1) {
            let is_old = now_unix_us.saturating_sub(oldest.at_unix_us) > age;
            if !is_old && self.lines.len() <= self.bounds.lines && self.bytes <= self.bounds.bytes {
                return;
            }
            self.bytes -= oldest.weight();
            self.index.leave(oldest);
            self.lines.pop_front();
        }
    }
}

/// What an entry is about, and its name.
#[must_use]
pub fn subject(subject: Subject, spec: &Spec) -> (SubjectType, String) {
    (SubjectType::of(subject), name_of(subject, spec))
}

fn name_of(subject: Subject, spec: &Spec) -> String {
    match subject {
        Subject::Host => spec.host.name.clone(),
        Subject::Target(id) => spec.target(id).name.clone(),
        Subject::Path(id) => spec.path_name(id),
        Subject::Unit(id) => spec.unit_name(id),
        Subject::Vm(id) => spec.vm(id).name.clone(),
    }
}

const fn is_trouble(kind: JournalKind) -> bool {
    match kind {
        JournalKind::PathDown
        | JournalKind::PathSick
        | JournalKind::ComponentDown
        | JournalKind::LinkDown
        | JournalKind::NoPath
        | JournalKind::FewPaths
        | JournalKind::TargetShort
        | JournalKind::VmHeld
        | JournalKind::VmSuspending
        | JournalKind::VmSuspended
        | JournalKind::VmFailing
        | JournalKind::PolicyBlocked
        | JournalKind::ReservationLost
        | JournalKind::VmUnmanaged
        | JournalKind::MigrationHeld
        | JournalKind::IncidentOpened => true,
        JournalKind::PathUp
        | JournalKind::PathRepaired
        | JournalKind::Failback
        | JournalKind::PathDisabled
        | JournalKind::PathEnabled
        | JournalKind::PathDraining
        | JournalKind::PathDrained
        | JournalKind::AccessChanged
        | JournalKind::PathWell
        | JournalKind::LinkUp
        | JournalKind::FailedOver
        | JournalKind::VmReleased
        | JournalKind::VmResuming
        | JournalKind::VmResumed
        | JournalKind::ReservationMet
        | JournalKind::VmManaged
        | JournalKind::IncidentClosed
        | JournalKind::Reloaded
        | JournalKind::DiskLeaving
        | JournalKind::DiskGone
        | JournalKind::DiskReturned
        | JournalKind::DiskTakeover
        | JournalKind::Restarted
        | JournalKind::VmMigrating
        | JournalKind::VmMigrated
        | JournalKind::MigrationCancelled
        | JournalKind::VmArriving
        | JournalKind::VmArrived
        | JournalKind::ArrivalCancelled => false,
    }
}

fn log(line: &Line) {
    let Line { seq, subject_name, reason, .. } = line;
    let kind = line.kind.as_str();
    let of = line.subject.as_str();
    let incident = line.incident.map(|id| format!(" [{id}]")).unwrap_or_default();
    let until = line.until.as_ref().map(|until| format!("; until {until}")).unwrap_or_default();
    if is_trouble(line.kind) {
        tracing::warn!("#{seq}{incident} {kind} {of} {subject_name}: {reason}{until}");
    } else {
        tracing::info!("#{seq}{incident} {kind} {of} {subject_name}: {reason}{until}");
    }
}
