//! The event journal: append-only, numbered, bounded, in memory.
//!
//! Names are resolved when an entry is written, so that it stays readable after a reload that removes them. Each entry
//! is also a log line. It does not know who reads it, nor that it is kept over restarts.

use std::collections::VecDeque;
use std::sync::Arc;
use vmpath_core::effect::{JournalEntry, JournalKind, Subject};
use vmpath_core::ids::IncidentId;
use vmpath_core::spec::Spec;

/// Entries kept: hours of a bad day on a host of hundreds of VMs, some megabytes.
pub const ENTRIES_MAX: usize = 16_384;

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

/// Which lines are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Only lines above this number, the oldest first; none: the newest.
    pub after: Option<u64>,
    pub limit: usize,
    pub about: Option<About>,
}

/// Lines that concern a VM: its own, and those of its incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    pub vm: String,
    pub incident: Option<IncidentId>,
}

/// An answer to a [`Query`]: lines in ascending order, and what the journal holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub first_seq: u64,
    pub last_seq: u64,
    pub lines: Vec<Arc<Line>>,
}

#[derive(Debug)]
pub struct Journal {
    lines: VecDeque<Arc<Line>>,
    last_seq: u64,
    kept_max: usize,
}

impl Journal {
    #[must_use]
    pub fn new(kept_max: usize) -> Self {
        Self { lines: VecDeque::new(), last_seq: 0, kept_max: kept_max.max(1) }
    }

    #[must_use]
    pub const fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Goes on with the lines of the process before, the oldest first, and their numbers.
    #[must_use]
    pub fn restored(kept_max: usize, lines: Vec<Line>) -> Self {
        let mut journal = Self::new(kept_max);
        let too_many = lines.len().saturating_sub(journal.kept_max);
        journal.lines = lines.into_iter().skip(too_many).map(Arc::new).collect();
        journal.last_seq = journal.lines.back().map_or(0, |line| line.seq);
        journal
    }

    /// Appends an entry, under the names of `spec`; the oldest makes room.
    pub fn append(&mut self, entry: JournalEntry, spec: &Spec, at_unix_us: u64) -> Arc<Line> {
        self.last_seq += 1;
        let line = Line {
            seq: self.last_seq,
            at_unix_us,
            incident: entry.incident,
            kind: entry.kind,
            subject: SubjectType::of(entry.subject),
            subject_name: name_of(entry.subject, spec),
            reason: entry.reason,
            until: entry.until,
        };
        log(&line);
        if self.lines.len() == self.kept_max {
            self.lines.pop_front();
        }
        let line = Arc::new(line);
        self.lines.push_back(Arc::clone(&line));
        line
    }

    #[must_use]
    pub fn read(&self, query: &Query) -> Page {
        let wanted = |line: &&Arc<Line>| query.about.as_ref().is_none_or(|about| about.covers(line));
        let lines = match query.after {
            Some(after) => {
                let start = self.lines.partition_point(|line| line.seq <= after);
                self.lines.range(start..).filter(wanted).take(query.limit).cloned().collect()
            }
            None => {
                let mut newest: Vec<_> =
                    self.lines.iter().rev().filter(wanted).take(query.limit).cloned().collect();
                newest.reverse();
                newest
            }
        };
        let first_seq = self.lines.front().map_or(self.last_seq + 1, |line| line.seq);
        Page { first_seq, last_seq: self.last_seq, lines }
    }
}

impl About {
    fn covers(&self, line: &Line) -> bool {
        (self.incident.is_some() && line.incident == self.incident)
            || (line.subject == SubjectType::Vm && line.subject_name == self.vm)
    }
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
        | JournalKind::LinkDown
        | JournalKind::NoPath
        | JournalKind::FewPaths
        | JournalKind::VmHeld
        | JournalKind::VmSuspending
        | JournalKind::VmSuspended
        | JournalKind::VmFailing
        | JournalKind::PolicyBlocked
        | JournalKind::ReservationLost
        | JournalKind::VmUnmanaged
        | JournalKind::IncidentOpened => true,
        JournalKind::PathUp
        | JournalKind::PathRepaired
        | JournalKind::Failback
        | JournalKind::PathDisabled
        | JournalKind::PathEnabled
        | JournalKind::PathDraining
        | JournalKind::PathDrained
        | JournalKind::AccessChanged
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
        | JournalKind::Restarted => false,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use vmpath_core::ids::{PathId, VmId};
    use vmpath_core::time::Instant;

    fn journal(entries: &[(Subject, Option<u64>)]) -> Journal {
        let spec = testing::spec();
        let mut journal = Journal::new(4);
        for (subject, incident) in entries {
            let entry = JournalEntry {
                at: Instant::ZERO,
                incident: incident.map(IncidentId),
                kind: JournalKind::PathDown,
                subject: *subject,
                reason: "why".into(),
                until: None,
            };
            journal.append(entry, &spec, 7);
        }
        journal
    }

    fn seqs(journal: &Journal, after: Option<u64>, limit: usize) -> Vec<u64> {
        journal.read(&Query { after, limit, about: None }).lines.iter().map(|line| line.seq).collect()
    }

    #[test]
    fn the_oldest_make_room_and_numbers_go_on() {
        let journal = journal(&[(Subject::Host, None); 6]);
        assert_eq!(seqs(&journal, None, 10), [3, 4, 5, 6]);
        assert_eq!(seqs(&journal, None, 2), [5, 6]);
        assert_eq!(seqs(&journal, Some(0), 2), [3, 4]);
        assert_eq!(seqs(&journal, Some(4), 10), [5, 6]);
        assert_eq!(seqs(&journal, Some(99), 10), [0; 0]);
        let page = journal.read(&Query { after: None, limit: 0, about: None });
        assert_eq!((page.first_seq, page.last_seq), (3, 6));
    }

    #[test]
    fn a_restored_journal_goes_on_where_it_was() {
        let old = journal(&[(Subject::Host, None); 6]);
        let lines: Vec<_> = old.lines.iter().map(|line| (**line).clone()).collect();
        let mut journal = Journal::restored(3, lines);
        assert_eq!(seqs(&journal, None, 10), [4, 5, 6]);
        let entry = JournalEntry {
            at: Instant::ZERO,
            incident: None,
            kind: JournalKind::PathUp,
            subject: Subject::Host,
            reason: "why".into(),
            until: None,
        };
        assert_eq!(journal.append(entry, &testing::spec(), 7).seq, 7);
        assert_eq!(seqs(&journal, None, 10), [5, 6, 7]);
        assert_eq!(Journal::restored(3, vec![]).last_seq(), 0);
    }

    #[test]
    fn an_empty_journal_says_so() {
        let page = Journal::new(4).read(&Query { after: Some(0), limit: 9, about: None });
        assert_eq!(page, Page { first_seq: 1, last_seq: 0, lines: vec![] });
    }

    #[test]
    fn lines_about_a_vm_are_its_own_and_its_incidents() {
        let journal = journal(&[
            (Subject::Vm(VmId::at(0)), None),
            (Subject::Vm(VmId::at(1)), None),
            (Subject::Path(PathId::at(0)), Some(1)),
            (Subject::Path(PathId::at(0)), Some(2)),
        ]);
        let about = About { vm: testing::spec().vms[0].name.clone(), incident: Some(IncidentId(1)) };
        let page = journal.read(&Query { after: None, limit: 9, about: Some(about) });
        assert_eq!(page.lines.iter().map(|line| line.seq).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(page.lines[1].subject_name, "san0/a");
    }
}
