//! One TOML table while it is read: typed look-ups that report what is wrong and go on.
//!
//! Invariant: a key that nobody asked for is reported when the table is finished, so a misspelt key is never silently a
//! default. Rejected: serde; it stops at the first fault and knows no second place ("first at line 3").
//! It does not know what the keys mean.

use super::fault::{At, Place, Problem, Report, did_you_mean, shown};
use std::ops::RangeInclusive;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A table and where it stands.
pub(super) type Found<'d> = At<&'d DeTable<'d>>;

pub(super) struct Table<'r, 'a, 'd> {
    pub(super) report: &'r mut Report<'a>,
    at: Place,
    /// As messages call it: `[[target.path]]`.
    header: &'static str,
    entries: &'d DeTable<'d>,
    asked: Vec<&'static str>,
    /// Keys of another version: known, but not to be suggested.
    later: Vec<&'static str>,
}

impl<'r, 'a, 'd> Table<'r, 'a, 'd> {
    pub(super) fn new(report: &'r mut Report<'a>, header: &'static str, found: &Found<'d>) -> Self {
        Self { report, at: found.at, header, entries: found.it, asked: Vec::new(), later: Vec::new() }
    }

    fn place(&self, spanned: &Spanned<DeValue<'d>>) -> Place {
        Place { source: self.at.source, offset: spanned.span().start }
    }

    fn value(&mut self, key: &'static str) -> Option<At<&'d DeValue<'d>>> {
        self.asked.push(key);
        let value = self.entries.get(key)?;
        Some(At { at: self.place(value), it: value.get_ref() })
    }

    fn wrong_type(&mut self, key: &str, value: &At<&DeValue<'_>>, expected: &str) {
        let message = format!("{key}: {expected} is expected, and this is {}", type_of(value.it));
        self.report.value_fault(value.at, Problem::new(message));
    }

    /// A string, read by `read`.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Option<At<T>> {
        let value = self.value(key)?;
        let DeValue::String(text) = value.it else {
            self.wrong_type(key, &value, "a string");
            return None;
        };
        self.checked(key, value.at, read(text))
    }

    fn checked<T>(&mut self, key: &str, at: Place, read: Result<T, Problem>) -> Option<At<T>> {
        match read {
            Ok(it) => Some(At { at, it }),
            Err(problem) => {
                self.report.value_fault(at, in_key(key, problem));
                None
            }
        }
    }

    /// A quantity: a string with a unit. A bare number gets told so.
    pub(super) fn quantity<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Option<At<T>> {
        if let Some(DeValue::Integer(_) | DeValue::Float(_)) = self.entries.get(key).map(Spanned::get_ref) {
            let value = self.value(key)?;
            // Read as text, the number gets the same words as a string without a unit; and nothing is ever accepted.
            let problem =
                read(&number_text(value.it)).err().unwrap_or_else(|| Problem::new("a unit is missing"));
            self.report.value_fault(value.at, in_key(key, problem));
            return None;
        }
        self.parsed(key, read)
    }

    /// One of the words.
    pub(super) fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<At<T>> {
        self.parsed(key, |text| one_of(text, words))
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Option<At<bool>> {
        let value = self.value(key)?;
        let DeValue::Boolean(flag) = value.it else {
            self.wrong_type(key, &value, "true or false");
            return None;
        };
        Some(At { at: value.at, it: *flag })
    }

    pub(super) fn integer(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<At<u64>> {
        let value = self.value(key)?;
        let DeValue::Integer(_) = value.it else {
            self.wrong_type(key, &value, "a whole number");
            return None;
        };
        let number = whole_number(value.it).filter(|n| range.contains(n));
        let read = number.ok_or_else(|| {
            let (low, high) = (range.start(), range.end());
            Problem::new(format!("{} is not from {low} to {high}", number_text(value.it)))
        });
        self.checked(key, value.at, read)
    }

    /// A number or a string, each read in its way.
    pub(super) fn number_or_text<T>(
        &mut self,
        key: &'static str,
        number: impl FnOnce(Option<u64>) -> Result<T, Problem>,
        text: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Option<At<T>> {
        let value = self.value(key)?;
        let read = match value.it {
            DeValue::Integer(_) => number(whole_number(value.it)),
            DeValue::String(string) => text(string),
            _ => {
                self.wrong_type(key, &value, "a whole number or a string");
                return None;
            }
        };
        self.checked(key, value.at, read)
    }

    /// Nothing if one of them is no string: what is left of the list would mean something else.
    pub(super) fn texts(&mut self, key: &'static str) -> Option<At<Vec<At<String>>>> {
        let value = self.value(key)?;
        let DeValue::Array(items) = value.it else {
            self.wrong_type(key, &value, "a list of strings");
            return None;
        };
        let mut texts = Vec::new();
        for item in items {
            let found = At { at: self.place(item), it: item.get_ref() };
            match found.it {
                DeValue::String(text) => texts.push(At { at: found.at, it: text.to_string() }),
                _ => self.wrong_type(key, &found, "a string"),
            }
        }
        (texts.len() == items.len()).then_some(At { at: value.at, it: texts })
    }

    /// A list of strings, or one string, which is a list of one.
    pub(super) fn text_or_texts(&mut self, key: &'static str) -> Option<At<Vec<At<String>>>> {
        let value = self.value(key)?;
        if let DeValue::String(text) = value.it {
            return Some(At { at: value.at, it: vec![At { at: value.at, it: text.to_string() }] });
        }
        self.texts(key)
    }

    /// The tables of an array of tables. `header` is how the operator writes it.
    pub(super) fn tables(&mut self, key: &'static str, header: &'static str) -> Vec<Found<'d>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let mut found = Vec::new();
        match value.it {
            DeValue::Array(items) => {
                for item in items {
                    match item.get_ref() {
                        DeValue::Table(table) => found.push(At { at: self.place(item), it: table }),
                        other => self.wrong_type(key, &At { at: self.place(item), it: other }, "a table"),
                    }
                }
            }
            DeValue::Table(table) => {
                let problem = Problem::new(format!("{key}: there may be several, so it is a list of tables"));
                self.report.value_fault(value.at, problem.hint(format!("write {header}")));
                found.push(At { at: value.at, it: table });
            }
            _ => self.wrong_type(key, &value, "a list of tables"),
        }
        found
    }

    pub(super) fn table(&mut self, key: &'static str) -> Option<Found<'d>> {
        let value = self.value(key)?;
        match value.it {
            DeValue::Table(table) => Some(At { at: value.at, it: table }),
            DeValue::Array(_) => {
                let problem = Problem::new(format!("{key}: there is only one, so it is no list of tables"));
                self.report.value_fault(value.at, problem.hint(format!("write [{key}]")));
                None
            }
            _ => {
                self.wrong_type(key, &value, "a table");
                None
            }
        }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Reports the key's absence, if it is absent; a key that is there but wrong has been reported already.
    pub(super) fn require(&mut self, key: &'static str, hint: &str) {
        if !self.has(key) {
            let message = format!("{}: {key} is missing", self.header);
            self.report.fault(self.at, Problem::new(message).hint(hint));
        }
    }

    /// A key whose time has not come.
    pub(super) fn not_yet(&mut self, key: &'static str, instead: &str) {
        self.later.push(key);
        if self.has(key) {
            let at = self.key_place(key);
            self.report.fault(at, Problem::new(format!("{key} is not available yet")).hint(instead));
        }
    }

    /// A key that has another name now: unknown like any other, but with the name that is meant.
    pub(super) fn renamed(&mut self, key: &'static str, instead: &str) {
        self.later.push(key);
        if self.has(key) {
            let message = format!("{} knows no key {}", self.header, shown(key));
            let at = self.key_place(key);
            self.report.fault(at, Problem::new(message).hint(instead));
        }
    }

    /// Where a key stands; the table itself if it is absent.
    fn key_place(&self, key: &str) -> Place {
        let offset = self.entries.get_key_value(key).map_or(self.at.offset, |(k, _)| k.span().start);
        Place { source: self.at.source, offset }
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self) {
        for (key, _) in self.entries {
            let name: &str = key.get_ref();
            if self.asked.contains(&name) || self.later.contains(&name) {
                continue;
            }
            let known = self.asked.iter().copied();
            let hint = did_you_mean(name, known.clone()).unwrap_or_else(|| {
                let mut known: Vec<_> = known.collect();
                known.sort_unstable();
                format!("the keys are {}", known.join(", "))
            });
            let at = Place { source: self.at.source, offset: key.span().start };
            let message = format!("{} knows no key {}", self.header, shown(name));
            self.report.fault(at, Problem::new(message).hint(hint));
        }
    }
}

/// Finds a word in a list; names the nearest, or all, if it is not there.
pub(super) fn one_of<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, Problem> {
    let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
    found.ok_or_else(|| {
        let all = words.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(", ");
        let near = did_you_mean(text, words.iter().map(|(word, _)| *word));
        Problem::new(format!("{} is none of {all}", shown(text))).maybe_hint(near)
    })
}

/// The problem, with the key that it is about in front.
pub(super) fn in_key(key: &str, problem: Problem) -> Problem {
    Problem { message: format!("{key}: {}", problem.message), hint: problem.hint }
}

fn whole_number(value: &DeValue<'_>) -> Option<u64> {
    let DeValue::Integer(number) = value else { return None };
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn number_text(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        _ => String::new(),
    }
}

fn type_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
