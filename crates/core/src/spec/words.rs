//! Settings that are little sentences: `after 30s`, `hold 60s, then suspend, then fail`.
//!
//! Invariant: a ladder for "no path" ends in something that is not a hold, and nothing stands after what always works. Rejected:
//! one key per part of the sentence; half of their combinations would mean nothing.
//! It does not know whether the VM can do what the ladder says.

use super::fault::{Problem, did_you_mean, shown};
use super::limits::{REACTION_MAX, REACTION_MIN};
use super::quantity::{duration_text, parse_duration, parse_size, size_text};
use super::types::{Failback, NoPathAction, OnNoPath, OnPathLoss, ResumeOn, Rung, WriteCache, Writers};
use crate::time::Duration;
use std::fmt;
use std::str::FromStr;

/// A hold longer than this is a decision that a person should have made meanwhile.
const HOLD_MAX: Duration = Duration::from_secs(24 * 3600);
/// Shorter, and a VM would be given up while its `stop` is still on the way.
const SUSPEND_MIN: Duration = Duration::from_secs(10);
/// A longer one is as good as none.
const SUSPEND_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

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

/// A line for a shell.
pub(super) fn command(text: &str) -> Result<String, Problem> {
    match text.trim() {
        "" => Err(Problem::new("the command is empty").hint("leave the key out if there is none")),
        _ if text.contains('\0') => Err(Problem::new("a command cannot hold a NUL")),
        command => Ok(command.to_owned()),
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

pub(super) fn size_within(text: &str, low: u64, high: u64) -> Result<u64, Problem> {
    let bytes = parse_size(text)?;
    if (low..=high).contains(&bytes) {
        Ok(bytes)
    } else {
        let (low, high) = (size_text(low), size_text(high));
        Err(Problem::new(format!("{} is not from {low} to {high}", shown(text))))
    }
}

pub(super) fn failback(text: &str) -> Result<Failback, Problem> {
    match text {
        "immediate" => return Ok(Failback::Immediate),
        "manual" => return Ok(Failback::Manual),
        "followover" => return Ok(Failback::Followover),
        _ => {}
    }
    match text.strip_prefix("after ") {
        Some(delay) => duration_within(delay, Duration::ZERO, HOLD_MAX).map(Failback::After),
        None => {
            let near = did_you_mean(text, ["immediate", "manual", "after 30s", "followover"]);
            let all = "\"immediate\", \"manual\", \"after 30s\", \"followover\"";
            Err(Problem::new(format!("{} is none of {all}", shown(text))).maybe_hint(near))
        }
    }
}

const LADDER_HINT: &str = "write it like \"hold 60s, then suspend 10m, then fail\"";

pub(super) fn on_no_path(text: &str) -> Result<OnNoPath, Problem> {
    let mut rungs: Vec<Rung> = Vec::new();
    for (at, step) in text.split(',').map(str::trim).enumerate() {
        let words = if at == 0 {
            step
        } else {
            step.strip_prefix("then ").map(str::trim).ok_or_else(|| {
                Problem::new(format!("{}: a step after the first begins with \"then\"", shown(step)))
                    .hint(LADDER_HINT)
            })?
        };
        let rung = rung(words)?;
        may_follow(&rungs, rung)?;
        rungs.push(rung);
    }
    match rungs.last() {
        Some(Rung { action: NoPathAction::Hold, .. }) => {
            let more = format!("add \"{text}, then suspend\" or \"{text}, then fail\": a hold has an end");
            Err(Problem::new(format!("{}: and what then?", shown(text))).hint(more))
        }
        Some(_) | None => Ok(OnNoPath { rungs }),
    }
}

/// One step: an action, and for `hold` and `suspend` its time.
fn rung(words: &str) -> Result<Rung, Problem> {
    let (word, time) = words.split_once(' ').map_or((words, ""), |(word, time)| (word, time.trim()));
    let action = action(word)?;
    let bound = match (action, time) {
        (NoPathAction::Hold, "") => {
            return Err(Problem::new("hold: for how long?").hint(LADDER_HINT));
        }
        (NoPathAction::Hold, time) => Some(duration_within(time, Duration::ZERO, HOLD_MAX)?),
        (NoPathAction::Suspend | NoPathAction::Migrate | NoPathAction::Fail, "") => None,
        (NoPathAction::Suspend, time) => Some(duration_within(time, SUSPEND_MIN, SUSPEND_MAX)?),
        (NoPathAction::Migrate | NoPathAction::Fail, _) => {
            return Err(Problem::new(format!("{action} takes no time: only hold and suspend end by time"))
                .hint(format!("write \"{action}\"")));
        }
    };
    Ok(Rung { action, bound })
}

/// Whether a rung may stand after those before it.
fn may_follow(before: &[Rung], rung: Rung) -> Result<(), Problem> {
    let action = rung.action;
    let has = |action| before.iter().any(|rung: &Rung| rung.action == action);
    if has(action) {
        return Err(Problem::new(format!("{action} stands there twice"))
            .hint(format!("leave the second {action} out: what has not helped is not done again")));
    }
    if has(NoPathAction::Fail) {
        return Err(Problem::new("nothing comes after fail: it is always possible").hint("put fail last"));
    }
    if action == NoPathAction::Hold && has(NoPathAction::Suspend) {
        return Err(Problem::new("hold stands after suspend: a stopped VM has nothing more to hold")
            .hint("put hold before suspend, like \"hold 60s, then suspend\""));
    }
    Ok(())
}

fn action(word: &str) -> Result<NoPathAction, Problem> {
    match word {
        "hold" => Ok(NoPathAction::Hold),
        "suspend" => Ok(NoPathAction::Suspend),
        "migrate" => Ok(NoPathAction::Migrate),
        "fail" => Ok(NoPathAction::Fail),
        _ => Err(Problem::new(format!("{} is none of hold, suspend, migrate, fail", shown(word)))
            .maybe_hint(did_you_mean(word, ["hold", "suspend", "migrate", "fail"]))),
    }
}

/// As the configuration writes it.
impl fmt::Display for NoPathAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hold => "hold",
            Self::Suspend => "suspend",
            Self::Migrate => "migrate",
            Self::Fail => "fail",
        })
    }
}

/// As the configuration writes it.
impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bound {
            Some(bound) => write!(f, "{} {}", self.action, duration_text(bound)),
            None => write!(f, "{}", self.action),
        }
    }
}

impl FromStr for OnNoPath {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        on_no_path(text)
    }
}

/// As the configuration writes it.
impl fmt::Display for OnNoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, rung) in self.rungs.iter().enumerate() {
            let then = if at == 0 { "" } else { ", then " };
            write!(f, "{then}{rung}")?;
        }
        Ok(())
    }
}

/// As the configuration writes it.
impl fmt::Display for Failback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Immediate => f.write_str("immediate"),
            Self::Manual => f.write_str("manual"),
            Self::After(delay) => write!(f, "after {}", duration_text(*delay)),
            Self::Followover => f.write_str("followover"),
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
    use NoPathAction::{Fail, Hold, Migrate, Suspend};

    /// Actions, each with its seconds.
    type Rungs = &'static [(NoPathAction, Option<u64>)];

    #[test]
    fn ladders_are_read_and_written_back() {
        let ladders: [(&str, Rungs); 8] = [
            ("suspend", &[(Suspend, None)]),
            ("fail", &[(Fail, None)]),
            ("hold 60s, then suspend", &[(Hold, Some(60)), (Suspend, None)]),
            (
                "hold 60s, then suspend 10m, then fail",
                &[(Hold, Some(60)), (Suspend, Some(600)), (Fail, None)],
            ),
            ("migrate, then hold 60s, then suspend", &[(Migrate, None), (Hold, Some(60)), (Suspend, None)]),
            ("migrate, then suspend, then fail", &[(Migrate, None), (Suspend, None), (Fail, None)]),
            ("hold 60s, then migrate", &[(Hold, Some(60)), (Migrate, None)]),
            ("suspend 30m, then migrate, then fail", &[(Suspend, Some(1800)), (Migrate, None), (Fail, None)]),
        ];
        for (text, rungs) in ladders {
            let rung =
                |&(action, secs): &(_, Option<u64>)| Rung { action, bound: secs.map(Duration::from_secs) };
            let ladder: OnNoPath = text.parse().expect(text);
            assert_eq!(ladder, OnNoPath { rungs: rungs.iter().map(rung).collect() });
            assert_eq!(ladder.to_string(), text);
        }
        let spaced = on_no_path("hold  120s,then  fail").map(|ladder| ladder.to_string());
        assert_eq!(spaced, Ok("hold 2m, then fail".to_owned()));
    }

    #[test]
    fn bad_ladders_are_explained() {
        let bad = [
            ("", "is none of hold"),
            ("hold", "for how long?"),
            ("hold 60s", "\"hold 60s, then suspend\" or"),
            ("suspend, then hold", "for how long?"),
            ("migrate, then hold 5s", "and what then?"),
            ("hold 60", "has no unit"),
            ("hold 25h, then fail", "is not from 0ms to 24h"),
            ("suspend 2s, then fail", "is not from 10s to"),
            ("hold 60s, suspend", "begins with \"then\""),
            ("hold 60s then suspend", "is not a unit of a duration"),
            ("suspnd", "did you mean \"suspend\"?"),
            ("suspend, then hold 60s", "put hold before suspend"),
            ("fail, then suspend", "nothing comes after fail"),
            ("hold 5s, then fail, then hold 6s", "stands there twice"),
            ("suspend, then suspend", "twice"),
            ("suspend 10m, then suspend 20m", "twice"),
            ("fail 10s", "fail takes no time"),
            ("migrate 10s, then fail", "migrate takes no time"),
            ("hold 60s,", "begins with \"then\""),
        ];
        for (text, expected) in bad {
            let said = on_no_path(text).expect_err(text).to_string();
            assert!(said.contains(expected), "{text}: {said}");
        }
    }

    #[test]
    fn failback_and_names() {
        for text in ["immediate", "manual", "after 30s", "after 500ms", "followover"] {
            assert_eq!(failback(text).map(|f| f.to_string()), Ok(text.to_owned()));
        }
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
