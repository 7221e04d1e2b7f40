//! From text to TOML tables, as far as the text lets itself be read.
//!
//! Invariant: one fault for one slip. A line says its first fault only, and a value that swallowed what follows it (a
//! bracket that nobody closed) says one for all of that. Rejected: stopping at the first syntax error.
//! It does not know which tables and keys there ought to be.

use super::fault::{Place, Problem, Report, shown};
use super::limits::SOURCE_BYTES_MAX;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub(super) fn root<'s>(report: &mut Report<'_>, source: usize, text: &'s str) -> Spanned<DeTable<'s>> {
    if text.len() > SOURCE_BYTES_MAX {
        let message = format!("this file has more than {SOURCE_BYTES_MAX} bytes: it is no configuration");
        report.syntax_fault(Place { source, offset: 0 }, Problem::new(message));
        report.lose_structure(source);
        return Spanned::new(0..0, DeTable::new());
    }
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut errors: Vec<_> = errors.iter().map(|e| (e.span().unwrap_or(0..0), e.message())).collect();
    errors.sort_by_key(|(span, _)| span.start);
    let mut lists = Vec::new();
    lists_over_lines(text, root.get_ref(), &mut lists);
    for (span, message) in errors {
        let at = Place { source, offset: span.start };
        if message == "duplicate key" {
            let key = shown(text.get(span).unwrap_or_default());
            report.value_fault(at, Problem::new(format!("{key} stands there twice")));
            continue;
        }
        let message = message.strip_suffix(", expected literal string").unwrap_or(message);
        let problem = Problem::new(format!("this is not TOML: {message}"));
        let Some(list) = lists.iter().find(|list| list.start <= at.offset && at.offset <= list.end) else {
            report.syntax_fault(at, problem);
            continue;
        };
        let begin = report.refer(Place { source, offset: list.start }, at);
        report
            .syntax_fault(at, problem.hint(format!("a list begins at {begin}: perhaps its ']' is missing")));
        report.give_up(at, Place { source, offset: list.end });
    }
    root
}

/// The lists that go over several lines. Each may be one whose end is missing.
fn lists_over_lines(text: &str, table: &DeTable<'_>, found: &mut Vec<Range<usize>>) {
    for (_, value) in table {
        value_over_lines(text, value, found);
    }
}

fn value_over_lines(text: &str, value: &Spanned<DeValue<'_>>, found: &mut Vec<Range<usize>>) {
    match value.get_ref() {
        DeValue::Table(table) => lists_over_lines(text, table, found),
        // The span of an array of tables is its first header, on one line.
        DeValue::Array(_) if text.get(value.span()).is_some_and(|t| t.contains('\n')) => {
            found.push(value.span());
        }
        DeValue::Array(items) => items.iter().for_each(|item| value_over_lines(text, item, found)),
        _ => {}
    }
}
