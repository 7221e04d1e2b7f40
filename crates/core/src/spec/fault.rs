//! What is wrong with a configuration, and where.
//!
//! Invariant: every fault and warning points into a source that was given, and they come out sorted by source, line and
//! column. A [`Place`] is kept as a byte offset and becomes line and column only when the report is closed. Rejected:
//! stopping at the first fault; an operator mends a file once, not once per fault.
//! It does not know what a valid configuration is.

use std::collections::BTreeSet;
use std::fmt;

/// One text of the configuration: the main file or a file of `conf.d`.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// As faults shall call it, usually the file's path.
    pub name: &'a str,
    pub text: &'a str,
}

/// One thing that is wrong (or, as a warning, suspicious) in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Name of the [`Source`].
    pub source: String,
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.source, self.line, self.column, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  help: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}

/// What is wrong with one value, before it is known where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub message: String,
    pub hint: Option<String>,
}

impl Problem {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hint {
            Some(hint) => write!(f, "{} ({hint})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Problem {}

/// Where something stands: a source and a byte offset in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) source: usize,
    pub(super) offset: usize,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) at: Place,
    pub(super) it: T,
}

/// Collects faults and warnings while the sources are read.
pub(super) struct Report<'a> {
    sources: &'a [Source<'a>],
    /// Per source, the offset at which each line starts.
    line_starts: Vec<Vec<usize>>,
    /// Per source, the lines that are no TOML. What recovery made of them is not worth another word.
    broken_lines: Vec<BTreeSet<usize>>,
    /// Per source, whether what follows a broken line may belong elsewhere.
    structure_lost: Vec<bool>,
    faults: Vec<At<Problem>>,
    warnings: Vec<At<Problem>>,
}

impl<'a> Report<'a> {
    pub(super) fn new(sources: &'a [Source<'a>]) -> Self {
        let line_starts = sources.iter().map(|s| line_starts(s.text)).collect();
        Self {
            sources,
            line_starts,
            broken_lines: vec![BTreeSet::new(); sources.len()],
            structure_lost: vec![false; sources.len()],
            faults: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// A value is wrong in itself, wherever it belongs.
    pub(super) fn value_fault(&mut self, at: Place, problem: Problem) {
        if !self.broken_lines[at.source].contains(&self.line_index(at)) {
            self.faults.push(At { at, it: problem });
        }
    }

    /// Something is wrong with what stands where, or is missing. Not said of a source whose structure is lost.
    pub(super) fn fault(&mut self, at: Place, problem: Problem) {
        if !self.structure_lost[at.source] {
            self.value_fault(at, problem);
        }
    }

    pub(super) fn warn(&mut self, at: Place, problem: Problem) {
        self.warnings.push(At { at, it: problem });
    }

    /// A line is no TOML. Only its first fault is said: the rest is usually the reader losing its way.
    pub(super) fn syntax_fault(&mut self, at: Place, problem: Problem) {
        let line = self.line_index(at);
        if self.broken_lines[at.source].insert(line) {
            self.faults.push(At { at, it: problem });
        }
        let text = &self.sources[at.source].text[self.line_starts[at.source][line]..];
        if text.trim_start().starts_with('[') {
            self.lose_structure(at.source);
        }
    }

    pub(super) fn lose_structure(&mut self, source: usize) {
        self.structure_lost[source] = true;
    }

    /// Says nothing more of the lines from one place to the other.
    pub(super) fn give_up(&mut self, from: Place, to: Place) {
        let lines = self.line_index(from)..=self.line_index(to);
        self.broken_lines[from.source].extend(lines);
        self.lose_structure(from.source);
    }

    pub(super) fn is_good(&self) -> bool {
        self.faults.is_empty()
    }

    /// Whether what is missing is really missing, so that one table can be compared with another.
    pub(super) fn knows_structure(&self) -> bool {
        !self.structure_lost.contains(&true)
    }

    /// `line 12`, with the file when it is another than that of `seen_from`.
    pub(super) fn refer(&self, at: Place, seen_from: Place) -> String {
        let line = self.line_index(at) + 1;
        if at.source == seen_from.source {
            format!("line {line}")
        } else {
            format!("{} line {line}", self.sources[at.source].name)
        }
    }

    /// Closes the report: the warnings, or all faults.
    pub(super) fn close(mut self) -> Result<Vec<Fault>, Vec<Fault>> {
        if self.faults.is_empty() {
            let warnings = std::mem::take(&mut self.warnings);
            Ok(self.located(warnings))
        } else {
            let faults = std::mem::take(&mut self.faults);
            Err(self.located(faults))
        }
    }

    fn located(&self, mut found: Vec<At<Problem>>) -> Vec<Fault> {
        found.sort_by_key(|p| p.at);
        let faults = found.into_iter().map(|At { at, it }| {
            let line = self.line_index(at);
            let source = &self.sources[at.source];
            let before = &source.text[self.line_starts[at.source][line]..floor(source.text, at.offset)];
            Fault {
                source: source.name.to_owned(),
                line: bounded(line + 1),
                column: bounded(before.chars().count() + 1),
                message: it.message,
                hint: it.hint,
            }
        });
        faults.collect()
    }

    fn line_index(&self, at: Place) -> usize {
        let offset = floor(self.sources[at.source].text, at.offset);
        self.line_starts[at.source].partition_point(|start| *start <= offset).saturating_sub(1)
    }
}

fn line_starts(text: &str) -> Vec<usize> {
    let after_newlines = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1);
    std::iter::once(0).chain(after_newlines).collect()
}

/// The largest character boundary at or before `offset`.
fn floor(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

fn bounded(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// A piece of the operator's text as messages show it: quoted, control characters escaped, not too long.
pub(super) fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    if text.chars().count() <= CHARS_MAX {
        format!("{text:?}")
    } else {
        let cut: String = text.chars().take(CHARS_MAX).collect();
        format!("{:?}", cut + "…")
    }
}

/// `did you mean "x"?` for the known word nearest to `word`, if one is near enough to be a slip of the finger.
pub(super) fn did_you_mean<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<String> {
    /// Longer words are no slip; and the bound keeps the comparison cheap whatever the file holds.
    const CHARS_MAX: usize = 64;
    let chars = |w: &str| w.chars().flat_map(char::to_lowercase).take(CHARS_MAX).collect::<Vec<_>>();
    let word = chars(word);
    let near = known.into_iter().map(|k| (edit_distance(&word, &chars(k)), k));
    let (distance, best) = near.min_by_key(|(distance, _)| *distance)?;
    let slip = distance <= (word.len() / 3).clamp(1, 3) && distance < word.len();
    slip.then(|| format!("did you mean {best:?}?"))
}

/// The nearest of the known names, or, if none is near, all of them while they are few.
pub(super) fn near_or_all<'k>(word: &str, known: impl Iterator<Item = &'k str> + Clone) -> Option<String> {
    const NAMES_MAX: usize = 12;
    did_you_mean(word, known.clone()).or_else(|| {
        let names: Vec<_> = known.take(NAMES_MAX + 1).collect();
        (1..=NAMES_MAX).contains(&names.len()).then(|| format!("there is {}", names.join(", ")))
    })
}

/// Insertions, deletions, replacements and swaps of neighbours that lead from `a` to `b`.
fn edit_distance(a: &[char], b: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let known = ["priority", "shares", "reservation", "limit"];
        let suggest = |word| did_you_mean(word, known);
        assert_eq!(suggest("prioriy").as_deref(), Some("did you mean \"priority\"?"));
        assert_eq!(suggest("sahres").as_deref(), Some("did you mean \"shares\"?"));
        assert_eq!(suggest("LIMIT").as_deref(), Some("did you mean \"limit\"?"));
        assert_eq!(suggest("colour"), None);
        assert_eq!(suggest(""), None);
    }

    #[test]
    fn places_count_characters_from_one() {
        let sources = [Source { name: "x", text: "é = 1\nöö = 2" }];
        let mut report = Report::new(&sources);
        let at = sources[0].text.find('2').unwrap_or(0);
        report.fault(Place { source: 0, offset: at }, Problem::new("m").hint("h"));
        let faults = report.close().unwrap_err();
        assert_eq!(faults[0].to_string(), "x:2:6: m\n  help: h");
    }
}
