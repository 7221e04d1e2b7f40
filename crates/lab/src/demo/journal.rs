//! The daemon's journal as the demo has read it, and questions to it.
//!
//! Invariant: events are kept in the order of the journal, each once. Rejected: parsing log lines.
//! It does not know: how the daemon decided.

use super::api;
use anyhow::Result;
use serde_json::{Value, json};
use std::path::Path;

/// One event, as much of it as the demo uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) at_unix_us: u64,
    pub(super) kind: String,
    pub(super) subject: String,
    pub(super) incident: String,
    pub(super) reason: String,
    pub(super) until: String,
}

impl Entry {
    fn read(event: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self {
            at_unix_us: event["at_unix_us"].as_u64().unwrap_or(0),
            kind: text(&event["kind"]),
            subject: text(&event["subject"]["name"]),
            incident: text(&event["incident"]),
            reason: text(&event["reason"]),
            until: text(&event["until"]),
        }
    }

    pub(super) fn to_json(&self, zero_unix_us: u64) -> Value {
        json!({
            "at_s": seconds_since(zero_unix_us, self.at_unix_us),
            "kind": self.kind,
            "subject": self.subject,
            "incident": self.incident,
            "reason": self.reason,
            "until": self.until,
        })
    }
}

/// Seconds from `zero` to `at`, both in microseconds; negative before.
pub(super) fn seconds_since(zero: u64, at: u64) -> f64 {
    (i128::from(at) - i128::from(zero)) as f64 / 1e6
}

#[derive(Clone, Debug, Default)]
pub(super) struct Journal {
    pub(super) entries: Vec<Entry>,
    after: u64,
}

impl Journal {
    /// Reads what is new.
    pub(super) fn follow(&mut self, socket: &Path) -> Result<()> {
        loop {
            let page = api::get(socket, &format!("/v1/events?after={}&limit=1000", self.after))?;
            let events = page["events"].as_array().cloned().unwrap_or_default();
            self.entries.extend(events.iter().map(Entry::read));
            self.after = page["next_after"].as_u64().unwrap_or(self.after);
            if events.len() < 1000 {
                return Ok(());
            }
        }
    }

    #[cfg(test)]
    pub(super) fn of(events: &[Value]) -> Self {
        Self { entries: events.iter().map(Entry::read).collect(), after: 0 }
    }

    /// The first event of the kind about the subject at or after a time.
    pub(super) fn first(&self, kind: &str, subject: &str, from_unix_us: u64) -> Option<&Entry> {
        self.entries.iter().find(|e| e.at_unix_us >= from_unix_us && e.kind == kind && e.subject == subject)
    }

    /// How many events of the kind there are about the subject.
    pub(super) fn count(&self, kind: &str, subject: &str) -> usize {
        self.entries.iter().filter(|e| e.kind == kind && e.subject == subject).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_by_kind_subject_and_time() {
        let event = |at: u64, kind: &str, name: &str| {
            Entry::read(
                &json!({ "at_unix_us": at, "kind": kind, "subject": { "name": name }, "until": null }),
            )
        };
        let entries = vec![event(5, "vm-suspended", "bronze"), event(9, "vm-resumed", "bronze")];
        let journal = Journal { entries, after: 0 };
        assert_eq!(journal.first("vm-resumed", "bronze", 6).map(|e| e.at_unix_us), Some(9));
        assert_eq!(journal.first("vm-suspended", "bronze", 6), None);
        assert_eq!(journal.count("vm-suspended", "bronze"), 1);
    }
}
