//! Components that several paths go through (`via`): what an incident says of them.
//!
//! It does not know whether the component failed: that all its paths did is what is told.

use super::Controller;
use super::incidents::Incident;
use crate::effect::{JournalKind, Subject};
use crate::ids::{IncidentId, PathId, TargetId};

/// How many of a component's paths failed in an incident, and how many it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    lost: usize,
    of: usize,
}

impl Controller {
    fn share(&self, incident: &Incident, component: &str) -> Share {
        let via = |path: &PathId| self.spec.path(*path).via.iter().any(|name| name == component);
        Share { lost: incident.paths().filter(via).count(), of: self.spec.path_ids().filter(via).count() }
    }

    /// What failed, in words: components that several of its paths go through first.
    pub(super) fn incident_summary(&self, incident: &Incident) -> String {
        let mut components: Vec<&str> = Vec::new();
        for name in incident.paths().flat_map(|path| &self.spec.path(path).via) {
            if !components.contains(&name.as_str()) && self.share(incident, name).lost > 1 {
                components.push(name);
            }
        }
        let words = |name: &&str| {
            let Share { lost, of } = self.share(incident, name);
            format!("{name}: {lost} of {of} paths")
        };
        let mut parts: Vec<_> = components.iter().map(words).collect();
        parts.push(incident.summary());
        parts.join("; ")
    }

    /// A path has failed in an incident that was open. When it is the second of a component, and when it is the last, the
    /// journal says so.
    pub(super) fn tell_component(&mut self, target: TargetId, path: Option<PathId>, id: IncidentId) {
        let Some(incident) = self.incidents.open().iter().find(|incident| incident.id == id) else { return };
        let mut told = Vec::new();
        for name in path.iter().flat_map(|path| &self.spec.path(*path).via) {
            let Share { lost, of } = self.share(incident, name);
            if lost == 2 || (lost == of && lost > 1) {
                told.push(format!("{name}: {lost} of {of} paths are lost: one failure of what they share"));
            }
        }
        for words in told {
            self.record(JournalKind::ComponentDown, Subject::Target(target), Some(id), words);
        }
    }
}
