//! The event journal: append-only, numbered, bounded, in memory.
//!
//! Names are resolved when an entry is written, so that it stays readable after a reload that removes them. Each entry
//! is also a log line, which is how it outlives the process. It does not know who reads it.

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
    pub subject: Subject,
    pub subject_name: String,
    pub reason: String,
    pub until: Option<String>,
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

    /// Appends an entry, under the names of `spec`; the oldest makes room.
    pub fn append(&mut self, entry: JournalEntry, spec: &Spec, at_unix_us: u64) {
        self.last_seq += 1;
        let line = Line {
            seq: self.last_seq,
            at_unix_us,
            incident: entry.incident,
            kind: entry.kind,
            subject: entry.subject,
            subject_name: name_of(entry.subject, spec),
            reason: entry.reason,
            until: entry.until,
        };
        log(&line);
        if self.lines.len() == self.kept_max {
            self.lines.pop_front();
        }
        self.lines.push_back(Arc::new(line));
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
            || (matches!(line.subject, Subject::Vm(_)) && line.subject_name == self.vm)
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

/// The word for a subject's type in logs and API.
#[must_use]
pub const fn subject_type(subject: Subject) -> &'static str {
    match subject {
        Subject::Host => "host",
        Subject::Target(_) => "target",
        Subject::Path(_) => "path",
        Subject::Unit(_) => "unit",
        Subject::Vm(_) => "vm",
    }
}

const fn is_trouble(kind: JournalKind) -> bool {
    match kind {
        JournalKind::PathDown
        | JournalKind::LinkDown
        | JournalKind::NoPath
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
        | JournalKind::AccessChanged
        | JournalKind::LinkUp
        | JournalKind::FailedOver
        | JournalKind::VmReleased
        | JournalKind::VmResuming
        | JournalKind::VmResumed
        | JournalKind::ReservationMet
        | JournalKind::VmManaged
        | JournalKind::IncidentClosed
        | JournalKind::Reloaded => false,
    }
}

fn log(line: &Line) {
    let Line { seq, subject_name, reason, .. } = line;
    let kind = line.kind.as_str();
    let of = subject_type(line.subject);
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
