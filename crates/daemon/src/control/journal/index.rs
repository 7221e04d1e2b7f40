//! Which lines are about what, so that a question about one VM does not walk over everybody's lines.
//!
//! Invariant: it holds exactly the lines that the journal holds: a line is entered when it is appended and taken out when it
//! leaves, and it leaves as the oldest. It does not know what lines say.

use super::{Line, SubjectType};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use vmpath_core::ids::IncidentId;

/// Numbers of lines, ascending.
type Seqs = VecDeque<u64>;

#[derive(Debug, Default)]
pub(super) struct Index {
    vms: HashMap<String, Seqs>,
    paths: HashMap<String, Seqs>,
    incidents: BTreeMap<IncidentId, Seqs>,
}

impl Index {
    pub(super) fn enter(&mut self, line: &Line) {
        if let Some(names) = self.of_subject(line.subject) {
            names.entry(line.subject_name.clone()).or_default().push_back(line.seq);
        }
        if let Some(incident) = line.incident {
            self.incidents.entry(incident).or_default().push_back(line.seq);
        }
    }

    /// Takes out the oldest line.
    pub(super) fn leave(&mut self, line: &Line) {
        if let Some(names) = self.of_subject(line.subject)
            && let Some(seqs) = names.get_mut(&line.subject_name)
        {
            seqs.pop_front();
            if seqs.is_empty() {
                names.remove(&line.subject_name);
            }
        }
        if let Some(incident) = line.incident
            && let Some(seqs) = self.incidents.get_mut(&incident)
        {
            seqs.pop_front();
            if seqs.is_empty() {
                self.incidents.remove(&incident);
            }
        }
    }

    fn of_subject(&mut self, subject: SubjectType) -> Option<&mut HashMap<String, Seqs>> {
        match subject {
            SubjectType::Vm => Some(&mut self.vms),
            SubjectType::Path => Some(&mut self.paths),
            SubjectType::Host | SubjectType::Target | SubjectType::Unit => None,
        }
    }

    pub(super) fn vm(&self, name: &str) -> impl Iterator<Item = u64> + '_ {
        self.vms.get(name).into_iter().flatten().copied()
    }

    pub(super) fn path(&self, name: &str) -> impl Iterator<Item = u64> + '_ {
        self.paths.get(name).into_iter().flatten().copied()
    }

    pub(super) fn incident(&self, id: IncidentId) -> impl Iterator<Item = u64> + '_ {
        self.incidents.get(&id).into_iter().flatten().copied()
    }

    /// Those of which there are lines.
    pub(super) fn incidents(&self) -> impl DoubleEndedIterator<Item = IncidentId> + '_ {
        self.incidents.keys().copied()
    }

    /// A VM's own lines and those of these incidents, ascending, each once.
    pub(super) fn vm_and_incidents(&self, name: &str, incidents: &BTreeSet<IncidentId>) -> Vec<u64> {
        let theirs = incidents.iter().flat_map(|id| self.incident(*id));
        let mut seqs: Vec<u64> = self.vm(name).chain(theirs).collect();
        seqs.sort_unstable();
        seqs.dedup();
        seqs
    }
}
