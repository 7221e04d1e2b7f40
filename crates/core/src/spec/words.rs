//! Settings that are little sentences: `after 30s`, `hold 60s, then suspend, then fail`.
//!
//! Invariant: a ladder for "no path" ends in an action, and nothing stands after an action that always works. Rejected:
//! one key per part of the sentence; half of their combinations would mean nothing.
//! It does not know whether the VM can do what the ladder says.

use super::fault::{Problem, did_you_mean, shown};
use super::limits::{REACTION_MAX, REACTION_MIN};
use super::quantity::{duration_text, parse_duration};
use super::types::{Failback, NoPathAction, OnNoPath, OnPathLoss, ResumeOn, WriteCache, Writers};
use crate::time::Duration;
use std::fmt;

/// A hold longer than this is a decision that a person should have made meanwhile.
const HOLD_MAX: Duration = Duration::from_secs(24 * 3600);

const NAME_CHARS_MAX: usize = 64;

/// Names appear in paths of sockets, in URLs and on the command line: nothing there may need quoting.
pub(super) fn name(text: &str) -> Result<String, Problem> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if let Some(c) = text.chars().find(|c| !allowed(*c)) {
        return Err(Problem::new(format!("{}: {c:?} cannot be part of a name", shown(text)))
            .hint("a name is made of letters, digits, '.', '_' and '-'"));
    }
    match text.len() {
        0 => Err(Problem::new("the name is empty")),
        1..=NAME_CHARS_MAX => Ok(text.to_owned()),
        n => Err(Problem::new(format!("the name has {n} characters, and {NAME_CHARS_MAX} are the most"))),
    }
}

/// `TARGET/NAME`.
pub(super) fn pair(text: &str) -> Result<(String, String), Problem> {
    let (target, name) = text.split_once('/').ok_or_else(|| {
        Problem::new(format!("{} names no target", shown(text))).hint("write it like \"san0/name\"")
    })?;
    Ok((self::name(target)?, self::name(name)?))
}

/// `NAME` or `TARGET/NAME`.
pub(super) fn path_word(text: &str) -> Result<(Option<String>, String), Problem> {
    match text.split_once('/') {
        Some((target, path)) => Ok((Some(name(target)?), name(path)?)),
        None => Ok((None, name(text)?)),
    }
}

pub(super) fn duration_within(text: &str, low: Duration, high: Duration) -> Result<Duration, Problem> {
    let duration = parse_duration(text)?;
    if (low..=high).contains(&duration) {
        Ok(duration)
    } else {
        let (low, high) = (duration_text(low), duration_text(high));
        Err(Problem::new(format!("{} is not from {low} to {high}", shown(text))))
    }
}

/// None at all is for targets that have another fence; whether this one has is checked where its paths are known.
pub(super) fn quiesce(text: &str) -> Result<Duration, Problem> {
    match parse_duration(text)? {
        Duration::ZERO => Ok(Duration::ZERO),
        _ => duration_within(text, REACTION_MIN, REACTION_MAX),
    }
}

pub(super) fn failback(text: &str) -> Result<Failback, Problem> {
    match text {
        "immediate" => return Ok(Failback::Immediate),
        "manual" => return Ok(Failback::Manual),
        "followover" => {
            return Err(Problem::new("followover needs several hosts and is not available yet")
                .hint("write \"immediate\", \"manual\" or \"after 30s\""));
        }
        _ => {}
    }
    match text.strip_prefix("after ") {
        Some(delay) => duration_within(delay, Duration::ZERO, HOLD_MAX).map(Failback::After),
        None => {
            let near = did_you_mean(text, ["immediate", "manual", "after 30s"]);
            Err(Problem::new(format!("{} is none of \"immediate\", \"manual\", \"after 30s\"", shown(text)))
                .maybe_hint(near))
        }
    }
}

pub(super) fn on_no_path(text: &str) -> Result<OnNoPath, Problem> {
    let mut steps = text.split(',').map(str::trim);
    let first = steps.next().unwrap_or_default();
    let mut ladder = OnNoPath { hold: Duration::ZERO, then: Vec::new() };
    match first.split_once(' ').unwrap_or((first, "")) {
        ("hold", "") => {
            return Err(Problem::new("hold: for how long?").hint("write it like \"hold 60s, then suspend\""));
        }
        ("hold", time) => ladder.hold = duration_within(time, Duration::ZERO, HOLD_MAX)?,
        _ => ladder.then.push(action(first)?),
    }
    for step in steps {
        let rung = step.strip_prefix("then ").ok_or_else(|| {
            Problem::new(format!("{}: a step after the first begins with \"then\"", shown(step)))
                .hint("write it like \"hold 60s, then suspend, then fail\"")
        })?;
        let rung = action(rung.trim())?;
        if ladder.then.contains(&rung) {
            return Err(Problem::new(format!("{rung} stands there twice")));
        }
        if ladder.then.last() == Some(&NoPathAction::Fail) {
            return Err(Problem::new("nothing comes after fail: it is always possible"));
        }
        ladder.then.push(rung);
    }
    if ladder.then.is_empty() {
        return Err(Problem::new(format!("{}: and what then?", shown(text)))
            .hint("add \", then suspend\" or \", then fail\": a hold has an end"));
    }
    Ok(ladder)
}

fn action(word: &str) -> Result<NoPathAction, Problem> {
    match word {
        "suspend" => Ok(NoPathAction::Suspend),
        "migrate" => Ok(NoPathAction::Migrate),
        "fail" => Ok(NoPathAction::Fail),
        _ if word == "hold" || word.starts_with("hold ") => {
            Err(Problem::new("hold can only come first").hint("write it like \"hold 60s, then suspend\""))
        }
        _ => Err(Problem::new(format!("{} is none of suspend, migrate, fail", shown(word)))
            .maybe_hint(did_you_mean(word, ["suspend", "migrate", "fail"]))),
    }
}

/// As the configuration writes it.
impl fmt::Display for NoPathAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Suspend => "suspend",
            Self::Migrate => "migrate",
            Self::Fail => "fail",
        })
    }
}

/// As the configuration writes it.
impl fmt::Display for OnNoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rungs = self.then.iter().map(ToString::to_string).collect::<Vec<_>>().join(", then ");
        if self.hold.is_zero() {
            f.write_str(&rungs)
        } else {
            write!(f, "hold {}, then {rungs}", duration_text(self.hold))
        }
    }
}

/// As the configuration writes it.
impl fmt::Display for Failback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Immediate => f.write_str("immediate"),
            Self::Manual => f.write_str("manual"),
            Self::After(delay) => write!(f, "after {}", duration_text(*delay)),
        }
    }
}

/// As the configuration writes it.
impl fmt::Display for WriteCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SurvivesPathLoss => "survives-path-loss",
            Self::Volatile => "volatile",
        })
    }
}

/// As the configuration writes it.
impl fmt::Display for Writers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One => "one",
            Self::Many => "many",
        })
    }
}

/// As the configuration writes it.
impl fmt::Display for OnPathLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Failover => "failover",
            Self::Suspend => "suspend",
            Self::Migrate => "migrate",
            Self::FailoverSuspend => "failover+suspend",
            Self::FailoverMigrate => "failover+migrate",
        })
    }
}

/// As the configuration writes it.
impl fmt::Display for ResumeOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Repair => "repair",
            Self::Failback => "failback",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use NoPathAction::{Fail, Migrate, Suspend};

    #[test]
    fn ladders_are_read_and_written_back() {
        let ladders: [(&str, u64, &[NoPathAction]); 5] = [
            ("suspend", 0, &[Suspend]),
            ("fail", 0, &[Fail]),
            ("hold 60s, then suspend", 60, &[Suspend]),
            ("hold 60s, then suspend, then fail", 60, &[Suspend, Fail]),
            ("migrate, then suspend, then fail", 0, &[Migrate, Suspend, Fail]),
        ];
        for (text, hold, then) in ladders {
            let ladder = on_no_path(text).expect(text);
            assert_eq!(ladder, OnNoPath { hold: Duration::from_secs(hold), then: then.to_vec() });
            assert_eq!(ladder.to_string(), text);
        }
        let spaced = on_no_path("hold 120s,then  fail").map(|ladder| ladder.to_string());
        assert_eq!(spaced, Ok("hold 2m, then fail".to_owned()));
    }

    #[test]
    fn bad_ladders_are_explained() {
        let bad = [
            ("", "is none of suspend"),
            ("hold", "for how long?"),
            ("hold 60s", "and what then?"),
            ("hold 60", "has no unit"),
            ("hold 25h, then fail", "is not from 0ms to 24h"),
            ("hold 60s, suspend", "begins with \"then\""),
            ("hold 60s then suspend", "is not a unit of a duration"),
            ("suspnd", "did you mean \"suspend\"?"),
            ("suspend, then hold 60s", "hold can only come first"),
            ("fail, then suspend", "nothing comes after fail"),
            ("suspend, then suspend", "twice"),
            ("hold 60s,", "begins with \"then\""),
        ];
        for (text, expected) in bad {
            let said = on_no_path(text).expect_err(text).to_string();
            assert!(said.contains(expected), "{text}: {said}");
        }
    }

    #[test]
    fn failback_and_names() {
        for text in ["immediate", "manual", "after 30s", "after 500ms"] {
            assert_eq!(failback(text).map(|f| f.to_string()), Ok(text.to_owned()));
        }
        assert!(failback("followover").unwrap_err().message.contains("several hosts"));
        assert!(failback("after 30").unwrap_err().message.contains("no unit"));
        assert!(failback("manuall").unwrap_err().to_string().contains("did you mean \"manual\"?"));
        assert!(name("db-1.root_A").is_ok());
        for bad in ["", "a b", "a/b", "é", &"x".repeat(65)] {
            assert!(name(bad).is_err(), "{bad}");
        }
        assert!(pair("san0/a").is_ok());
        assert!(pair("san0").unwrap_err().message.contains("names no target"));
        assert!(pair("san0/a/b").is_err());
    }
}
