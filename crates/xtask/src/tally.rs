//! Counting: what each step passed, failed and could not run, read from what the tools print.
//!
//! Invariant: nothing is lost in silence. A tool whose result cannot be read counts as one failure, and what was not
//! run keeps its name to the last lines.
//! It does not know how anything is run.

use serde_json::Value;
use std::fmt;
use std::time::Duration;

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: Vec<String>,
    pub(crate) skipped: Vec<String>,
    /// What a reader wants to see beside the counts.
    pub(crate) note: String,
}

impl Tally {
    /// One check with one result.
    pub(crate) fn one(name: &str, succeeded: Outcome) -> Self {
        match succeeded {
            Outcome::Passed => Self { passed: 1, ..Self::default() },
            Outcome::Failed => Self { failed: vec![name.to_owned()], ..Self::default() },
        }
    }

    pub(crate) fn skipped(what: impl IntoIterator<Item = String>) -> Self {
        Self { skipped: what.into_iter().collect(), ..Self::default() }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.skipped.extend(other.skipped);
    }

    /// A step that must succeed as a whole: its failure counts even if it could name nothing that failed.
    pub(crate) fn or_failed(mut self, name: &str, outcome: Outcome) -> Self {
        if outcome == Outcome::Failed && self.failed.is_empty() {
            self.failed.push(format!("{name} (see its output above)"));
        }
        self
    }
}

/// `N passed, N failed`, with the skipped only if there are any.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed.len())?;
        match self.skipped.len() {
            0 => Ok(()),
            n => write!(f, ", {n} skipped"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed,
}

impl From<bool> for Outcome {
    fn from(succeeded: bool) -> Self {
        if succeeded { Self::Passed } else { Self::Failed }
    }
}

/// What one run of a test tool says, and how long its tests themselves took.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct TestRun {
    pub(crate) tally: Tally,
    pub(crate) took: Duration,
}

/// Reads `cargo nextest run`'s summary; none if there is none (nothing was built).
pub(crate) fn read_nextest(output: &str) -> Option<TestRun> {
    let lines: Vec<&str> = output.lines().map(str::trim).collect();
    let at = lines.iter().rposition(|line| line.starts_with("Summary ["))?;
    let (took, counts) = lines[at].strip_prefix("Summary [")?.split_once(']')?;
    let count = |word: &str| number_before(counts, word).unwrap_or(0);
    let mut failed: Vec<String> = lines[at + 1..].iter().filter_map(|line| failed_name(line)).collect();
    failed.sort();
    failed.dedup();
    let expected = count("failed") + count("timed out") + count("exec failed");
    while failed.len() < expected {
        failed.push("a test that nextest did not name".to_owned());
    }
    let tally = Tally { passed: count("passed"), failed, ..Tally::default() };
    Some(TestRun { tally, took: seconds(took)? })
}

/// `FAIL [   0.003s] (1/9) vmpath-core path::tests::relapse` gives the last two words.
fn failed_name(line: &str) -> Option<String> {
    let (status, rest) = line.split_once('[')?;
    let (_, name) = rest.split_once(']')?;
    let failing = ["FAIL", "SIG", "ABORT", "TIMEOUT", "XFAIL", "LEAK-FAIL"];
    let name = name.trim();
    let name =
        name.split_once(") ").filter(|(n, _)| n.starts_with('(')).map_or(name, |(_, name)| name.trim());
    failing.iter().any(|word| status.starts_with(word)).then(|| name.to_owned())
}

/// Reads the result lines of `cargo test`, of the binaries that are `wanted`: it is given what stands behind `Running`.
pub(crate) fn read_cargo_test(output: &str, wanted_binary: impl Fn(&str) -> bool) -> Option<TestRun> {
    let mut run = TestRun::default();
    let mut wanted = false;
    let mut results = 0;
    for line in output.lines().map(str::trim) {
        if let Some(started) = line.strip_prefix("Running ").or_else(|| line.strip_prefix("Doc-tests ")) {
            wanted = wanted_binary(started);
        } else if !wanted {
            continue;
        } else if let Some(result) = line.strip_prefix("test result:") {
            results += 1;
            run.tally.passed += number_before(result, "passed").unwrap_or(0);
            run.took += result.split("finished in ").nth(1).and_then(seconds).unwrap_or_default();
        } else if let Some(test) = line.strip_prefix("test ") {
            if let Some((name, "FAILED")) = test.rsplit_once(" ... ") {
                run.tally.failed.push(name.to_owned());
            } else if let Some((name, why)) = test.rsplit_once(" ... ignored") {
                run.tally.skipped.push(format!("{name}: ignored{why}"));
            }
        }
    }
    (results > 0).then_some(run)
}

/// Reads a report of the one shape: `{"passed", "checks": [{"name", "passed", "note"}], "skipped": ["…"]}`.
pub(crate) fn read_report(name: &str, json: &str) -> Option<Tally> {
    let report: Value = serde_json::from_str(json).ok()?;
    let mut tally = Tally::default();
    for check in report.get("checks")?.as_array()? {
        let what = check.get("name")?.as_str()?;
        if check.get("passed")?.as_bool()? {
            tally.passed += 1;
        } else {
            let text = |key| check.get(key).map(shown).unwrap_or_default();
            tally.failed.push(format!(
                "{name}: {what}: {} {} (asked: {}) {}",
                text("value"),
                text("unit"),
                text("bound"),
                text("note")
            ));
        }
    }
    if let Some(skipped) = report.get("skipped").and_then(Value::as_array) {
        tally.skipped.extend(skipped.iter().map(|s| format!("{name}: {}", shown(s))));
    }
    if !report.get("passed")?.as_bool()? && tally.failed.is_empty() && tally.skipped.is_empty() {
        tally.failed.push(format!("{name}: its report says that it did not pass"));
    }
    Some(tally)
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

/// The number that stands right before `word`.
fn number_before(text: &str, word: &str) -> Option<usize> {
    let (before, _) = text.split_once(&format!(" {word}"))?;
    before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// `   0.021s` as a duration.
fn seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(text.trim().strip_suffix('s')?.trim().parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nextest_s_summary_is_read() {
        let text = "   PASS [ 0.1s] a b\n     Summary [   1.250s] 12 tests run: 10 passed (1 slow), 2 failed, 30 skipped\n\
                    \x20       FAIL [   0.003s] ( 3/12) vmpath-core path::tests::relapse\n\
                    \x20    SIGABRT [   0.003s] vmpath-core path::tests::other\nerror: test run failed\n";
        let run = read_nextest(text).expect("a summary");
        assert_eq!(run.tally.passed, 10);
        assert_eq!(run.tally.failed, ["vmpath-core path::tests::other", "vmpath-core path::tests::relapse"]);
        assert_eq!(run.took, Duration::from_millis(1250));
    }

    #[test]
    fn a_build_failure_has_no_summary() {
        assert_eq!(read_nextest("error[E0433]: failed to resolve\n"), None);
        assert_eq!(read_cargo_test("error: could not compile\n", |_| true), None);
    }

    #[test]
    fn failures_that_nextest_does_not_name_still_count() {
        let run = read_nextest("Summary [   1.0s] 3 tests run: 1 passed, 2 failed, 0 skipped\n")
            .expect("a summary");
        assert_eq!(run.tally.failed.len(), 2);
    }

    #[test]
    fn cargo_test_is_read_whole_or_for_one_binary() {
        let text = "     Running unittests src/lib.rs (target/debug/deps/vmpath_core-12ab)\n\
                    test a ... ok\ntest b ... FAILED\ntest c ... ignored, needs root\n\
                    test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.50s\n\
                    \x20    Running unittests src/lib.rs (target/debug/deps/vmpath_lab-34cd)\ntest d ... ok\n\
                    test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.25s\n";
        let all = read_cargo_test(text, |_| true).expect("results");
        assert_eq!(all.tally.to_string(), "2 passed, 1 failed, 1 skipped");
        assert_eq!(all.tally.skipped, ["c: ignored, needs root"]);
        let core = read_cargo_test(text, |b| b.contains("/vmpath_core-")).expect("results");
        assert_eq!((core.tally.passed, core.took), (1, Duration::from_millis(500)));
    }

    #[test]
    fn a_report_s_checks_are_counted_one_by_one() {
        let json = r#"{"passed": false, "checks": [{"name": "reset", "passed": true, "value": 12, "bound": "<= 50", "unit": "ms"},
            {"name": "hang", "passed": false, "value": null, "bound": "<= 5200", "unit": "ms"}], "skipped": ["shed: no guest"]}"#;
        let tally = read_report("e2e", json).expect("a report");
        assert_eq!(tally.to_string(), "1 passed, 1 failed, 1 skipped");
        assert!(tally.failed[0].starts_with("e2e: hang: null ms (asked: <= 5200)"));
    }

    #[test]
    fn a_report_that_did_not_pass_never_counts_as_passed() {
        let tally = read_report("demo", r#"{"passed": false, "checks": []}"#).expect("a report");
        assert_eq!(tally.failed.len(), 1);
        assert_eq!(read_report("demo", "{}"), None);
    }

    #[test]
    fn a_failed_step_counts_even_if_it_names_nothing() {
        let tally = Tally { passed: 3, ..Tally::default() }.or_failed("demo", Outcome::Failed);
        assert_eq!(tally.to_string(), "3 passed, 1 failed");
    }
}
