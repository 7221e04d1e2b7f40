//! Questions to the journal: which lines, how many, from which end.
//!
//! Invariant: all conditions hold for each line that is answered, and what is about one VM, path or incident is found by the
//! index. It does not know who asks.

use super::{Journal, Line, SubjectType};
use std::collections::BTreeSet;
use std::sync::Arc;
use vmpath_core::effect::JournalKind;
use vmpath_core::ids::IncidentId;

/// Which lines are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Only lines above this number, the oldest first; none: the newest.
    pub after: Option<u64>,
    pub limit: usize,
    pub filter: Filter,
}

/// What a line must be; all that is said holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub vm: Option<OfVm>,
    /// `target/path`: lines about it.
    pub path: Option<String>,
    pub incident: Option<IncidentId>,
    /// Any of these; empty: any at all.
    pub kinds: Vec<JournalKind>,
    /// Not older.
    pub since_unix_us: Option<u64>,
}

/// Lines that concern a VM: its own, and all those of incidents in which it has any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfVm {
    pub name: String,
    /// An incident that counts as its own though no line of it is about the VM: it only lost a path.
    pub incident: Option<IncidentId>,
}

/// An answer to a [`Query`]: lines in ascending order, and what the journal holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub first_seq: u64,
    pub last_seq: u64,
    pub lines: Vec<Arc<Line>>,
    /// The number below which everything that was asked for has been answered: the last line's, or, if there was room for
    /// more, the journal's.
    pub answered_to: u64,
}

/// An incident as its lines tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    pub incident: IncidentId,
    /// None if the line of its beginning has left the journal.
    pub opened_unix_us: Option<u64>,
    pub closed_unix_us: Option<u64>,
    /// What failed, in words.
    pub summary: String,
    pub lines: usize,
    /// Of which lines there are, by name.
    pub paths: BTreeSet<String>,
    pub vms: BTreeSet<String>,
}

impl Journal {
    #[must_use]
    pub fn read(&self, query: &Query) -> Page {
        let filter = &query.filter;
        let incidents = filter.vm.as_ref().map(|vm| self.incidents_of(vm)).unwrap_or_default();
        let wanted = |line: &&Arc<Line>| filter.covers(line, &incidents);
        let lines = match self.candidates(filter, &incidents) {
            Some(seqs) => {
                let start = query.after.map_or(0, |after| seqs.partition_point(|seq| *seq <= after));
                picked(query, seqs[start..].iter().filter_map(|seq| self.line(*seq)).filter(wanted))
            }
            None => {
                let start = query.after.map_or(0, |after| self.lines.partition_point(|l| l.seq <= after));
                picked(query, self.lines.range(start..).filter(wanted))
            }
        };
        let is_full = lines.len() == query.limit;
        let last =
            lines.last().map(|line| line.seq).or(query.after).filter(|_| is_full && query.after.is_some());
        Page {
            first_seq: self.first_seq(),
            last_seq: self.last_seq,
            lines,
            answered_to: last.unwrap_or(self.last_seq),
        }
    }

    /// Numbers of lines among which all that are wanted are, ascending; none: all lines.
    fn candidates(&self, filter: &Filter, incidents: &BTreeSet<IncidentId>) -> Option<Vec<u64>> {
        if let Some(path) = &filter.path {
            return Some(self.index.path(path).collect());
        }
        if let Some(incident) = filter.incident {
            return Some(self.index.incident(incident).collect());
        }
        filter.vm.as_ref().map(|vm| self.index.vm_and_incidents(&vm.name, incidents))
    }

    fn incidents_of(&self, vm: &OfVm) -> BTreeSet<IncidentId> {
        let own = self.index.vm(&vm.name).filter_map(|seq| self.line(seq)?.incident);
        own.chain(vm.incident).collect()
    }

    fn line(&self, seq: u64) -> Option<&Arc<Line>> {
        let at = self.lines.partition_point(|line| line.seq < seq);
        self.lines.get(at).filter(|line| line.seq == seq)
    }

    /// The newest incidents that the journal knows of, the newest first.
    #[must_use]
    pub fn incidents(&self, limit: usize) -> Vec<Past> {
        self.index.incidents().rev().take(limit).map(|id| self.past(id)).collect()
    }

    /// What the journal knows of one; none if no line is left of it.
    #[must_use]
    pub fn incident(&self, id: IncidentId) -> Option<Past> {
        self.index.incident(id).next().map(|_| self.past(id))
    }

    fn past(&self, incident: IncidentId) -> Past {
        let lines = || self.index.incident(incident).filter_map(|seq| self.line(seq));
        let at = |kind: JournalKind| lines().find(|line| line.kind == kind).map(|line| line.at_unix_us);
        let first = |kind: JournalKind| lines().find(|line| line.kind == kind);
        let beginning = first(JournalKind::IncidentOpened).or_else(|| lines().next());
        let named = |subject: SubjectType| {
            lines().filter(|line| line.subject == subject).map(|line| line.subject_name.clone()).collect()
        };
        Past {
            incident,
            opened_unix_us: at(JournalKind::IncidentOpened),
            closed_unix_us: at(JournalKind::IncidentClosed),
            summary: beginning.map(|line| line.reason.clone()).unwrap_or_default(),
            lines: lines().count(),
            paths: named(SubjectType::Path),
            vms: named(SubjectType::Vm),
        }
    }
}

impl Filter {
    fn covers(&self, line: &Line, incidents: &BTreeSet<IncidentId>) -> bool {
        let is = |subject: SubjectType, name: &str| line.subject == subject && line.subject_name == name;
        let of_vm = |vm: &OfVm| {
            is(SubjectType::Vm, &vm.name) || line.incident.is_some_and(|id| incidents.contains(&id))
        };
        self.vm.as_ref().is_none_or(of_vm)
            && self.path.as_ref().is_none_or(|path| is(SubjectType::Path, path))
            && self.incident.is_none_or(|id| line.incident == Some(id))
            && (self.kinds.is_empty() || self.kinds.contains(&line.kind))
            && self.since_unix_us.is_none_or(|since| line.at_unix_us >= since)
    }
}

/// The oldest after a number, or the newest.
fn picked<'a>(query: &Query, lines: impl DoubleEndedIterator<Item = &'a Arc<Line>>) -> Vec<Arc<Line>> {
    if query.after.is_some() {
        return lines.take(query.limit).cloned().collect();
    }
    let mut newest: Vec<_> = lines.rev().take(query.limit).cloned().collect();
    newest.reverse();
    newest
}
