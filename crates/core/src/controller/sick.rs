//! What is told of sick paths.
//!
//! It does not know what makes a path sick: [`crate::path::Sickness`] does.

use super::Controller;
use super::words::seconds;
use crate::effect::{JournalKind, Subject};
use crate::ids::PathId;
use crate::path::{Ailment, SickEdge};
use crate::time::{Duration, Instant};

impl Controller {
    pub(super) fn tell_sickness(&mut self, path: PathId, edge: SickEdge) {
        let (kind, reason, until) = match edge {
            SickEdge::Sick { ailment, required, relapses } => {
                let relapses = match relapses {
                    0 => String::new(),
                    1 => " (1 relapse)".into(),
                    more => format!(" ({more} relapses: each doubles that time)"),
                };
                let until = format!("it has looked well for {}{relapses}", seconds(required));
                (JournalKind::PathSick, format!("{}: used last", ailment_words(ailment)), Some(until))
            }
            SickEdge::Well { sick_for, good_for } => {
                let reason = format!(
                    "well again: as good as its siblings for {}, after {} of sickness",
                    seconds(good_for),
                    seconds(sick_for)
                );
                (JournalKind::PathWell, reason, None)
            }
        };
        let incident = self.incidents.of(self.spec.path(path).target);
        self.record_until(kind, Subject::Path(path), incident, (reason, until));
    }

    /// Why a path that is up is marginal.
    pub(super) fn sick_words(&self, path: PathId, now: Instant) -> Option<String> {
        let (ailment, since) = self.network.ailment(path)?;
        Some(format!(
            "path {} has been sick for {}: {}; it is used last until it has looked well for {}",
            self.spec.path_name(path),
            seconds(now.since(since)),
            ailment_words(ailment),
            seconds(self.network.well_after(path))
        ))
    }
}

fn ailment_words(ailment: Ailment) -> String {
    let millis = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    match ailment {
        Ailment::Slow { takes, siblings } => format!(
            "its requests take {} without queueing, those of its siblings {}",
            millis(takes),
            millis(siblings)
        ),
        Ailment::Errors { failed, of } => {
            format!("{failed} of its last {of} requests failed here and succeeded over another path")
        }
    }
}
