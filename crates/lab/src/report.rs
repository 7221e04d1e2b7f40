//! The one shape of every report in this project: end-to-end tests, demo, benchmarks, simulator.
//!
//! A report is a list of checks (one for each number that was asked for) and whatever else helps to understand them.
//! Invariant: `passed` is true only if every check passed and there was at least one: a run that measured nothing is
//! a failure. Rejected: `passed` as a stored field that somebody may set.
//! It does not know: how anything was measured.

use serde::Serialize;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::path::Path;

/// What a measured value is held against. Shown as `<= 50`, `>= 57`, `= 0`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
    Equal(f64),
}

impl Bound {
    /// Whether `value` keeps to it. A value that is not a number never does.
    #[must_use]
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
            Self::Equal(bound) => value == bound,
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::AtMost(_) => "<=",
            Self::AtLeast(_) => ">=",
            Self::Equal(_) => "=",
        }
    }

    fn limit(self) -> f64 {
        match self {
            Self::AtMost(bound) | Self::AtLeast(bound) | Self::Equal(bound) => bound,
        }
    }
}

/// One number that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    pub name: String,
    /// `None` if it could not be measured, which fails the check.
    pub value: Option<f64>,
    pub bound: Bound,
    /// `ms`, `MiB/s`, `requests`, …
    pub unit: String,
    /// What a reader needs to judge the value; empty if nothing.
    pub note: String,
}

impl Check {
    #[must_use]
    pub fn passed(&self) -> bool {
        self.value.is_some_and(|value| self.bound.holds(value))
    }

    fn to_json(&self) -> Value {
        let mut row = json!({
            "name": self.name,
            "passed": self.passed(),
            "value": self.value,
            "bound": format!("{} {}", self.bound.sign(), number(self.bound.limit())),
            "unit": self.unit,
        });
        if !self.note.is_empty() {
            row["note"] = json!(self.note);
        }
        row
    }
}

/// Checks, and a map of anything else (`timeline`, `samples`, …) that is written beside them.
#[derive(Clone, Debug, Default)]
pub struct Report {
    checks: Vec<Check>,
    extra: Map<String, Value>,
}

impl Report {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check of a measured value, or of `None` for one that could not be measured. Returns it, so that a note
    /// can be added.
    pub fn check(
        &mut self,
        name: &str,
        value: impl Into<Option<f64>>,
        bound: Bound,
        unit: &str,
    ) -> &mut Check {
        let check = Check {
            name: name.to_owned(),
            value: value.into(),
            bound,
            unit: unit.to_owned(),
            note: String::new(),
        };
        self.checks.push(check);
        let last = self.checks.len() - 1;
        &mut self.checks[last]
    }

    /// Adds a check of something that is or is not: 1 is asked for. `note` says what was found.
    pub fn check_that(&mut self, name: &str, truth: impl Into<Option<Truth>>, note: impl Into<String>) {
        let value = truth.into().map(|truth| truth.0);
        self.check(name, value, Bound::Equal(1.0), "yes=1").note = note.into();
    }

    /// Attaches data under a key of its own; `checks` and `passed` are taken.
    pub fn attach(&mut self, key: &str, value: &impl Serialize) {
        let value =
            serde_json::to_value(value).unwrap_or_else(|why| json!({ "not serialisable": why.to_string() }));
        self.extra.insert(key.to_owned(), value);
    }

    /// Takes in the checks of another report, each named `prefix: name`, and what is attached to it under `prefix`.
    pub fn absorb(&mut self, prefix: &str, other: Report) {
        let renamed = other.checks.into_iter().map(|c| Check { name: format!("{prefix}: {}", c.name), ..c });
        self.checks.extend(renamed);
        if !other.extra.is_empty() {
            self.extra.insert(prefix.to_owned(), Value::Object(other.extra));
        }
    }

    #[must_use]
    pub fn passed(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(Check::passed)
    }

    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// `{"passed", "checks": [{"name", "passed", "value", "bound", "unit"}], …}`
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        map.insert("passed".to_owned(), json!(self.passed()));
        map.insert("checks".to_owned(), self.checks.iter().map(Check::to_json).collect());
        map.extend(self.extra.clone().into_iter().filter(|(key, _)| key != "passed" && key != "checks"));
        Value::Object(map)
    }

    /// Writes the JSON, with a newline at the end.
    ///
    /// # Errors
    /// If the file cannot be written; the error names it.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(&self.to_json())?;
        text.push('\n');
        std::fs::write(path, text).map_err(|why| {
            anyhow::anyhow!("cannot write the report to {}: {why}; name another file", path.display())
        })
    }

    /// The check list for people: one line a check, failures marked.
    #[must_use]
    pub fn table(&self) -> String {
        let width = self.checks.iter().map(|c| c.name.chars().count()).max().unwrap_or(0);
        let mut out = String::new();
        for check in &self.checks {
            let mark = if check.passed() { "ok    " } else { "FAILED" };
            let value = check.value.map_or_else(|| "not measured".to_owned(), number);
            let bound = format!("{} {} {}", check.bound.sign(), number(check.bound.limit()), check.unit);
            let _ =
                writeln!(out, "  {mark}  {:width$}  {value:>12}  ({bound}) {}", check.name, cut(&check.note));
        }
        out
    }
}

/// A yes or a no as a value of a check: `Truth::from(condition)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Truth(f64);

impl From<bool> for Truth {
    fn from(truth: bool) -> Self {
        Self(f64::from(u8::from(truth)))
    }
}

/// Notes may be long reasons; the JSON has them whole.
const NOTE_CHARS_SHOWN: usize = 100;

fn cut(note: &str) -> String {
    if note.chars().count() <= NOTE_CHARS_SHOWN {
        return note.to_owned();
    }
    note.chars().take(NOTE_CHARS_SHOWN).chain(['…']).collect()
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_without_checks_has_not_passed() {
        assert!(!Report::new().passed());
    }

    #[test]
    fn one_failed_check_fails_the_report() {
        let mut report = Report::new();
        report.check("failover", 41.5, Bound::AtMost(50.0), "ms");
        assert!(report.passed());
        report.check("lost", 1.0, Bound::Equal(0.0), "requests").note = "cookie 7".to_owned();
        assert!(!report.passed());
        let json = report.to_json();
        assert_eq!(json["checks"][0]["value"], 41.5);
        assert_eq!(json["checks"][0]["bound"], "<= 50");
        assert_eq!(json["checks"][1]["passed"], false);
        assert!(report.table().contains("FAILED"));
    }

    #[test]
    fn what_was_not_measured_fails() {
        let mut report = Report::new();
        report.check("gold", None, Bound::AtLeast(57.0), "MiB/s");
        report.check("nan", f64::NAN, Bound::AtLeast(57.0), "MiB/s");
        report.check_that("seen", Truth::from(true), "yes");
        assert_eq!(report.checks().iter().map(Check::passed).collect::<Vec<_>>(), [false, false, true]);
    }
}
