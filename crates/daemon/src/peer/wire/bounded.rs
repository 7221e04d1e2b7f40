//! Pieces of what another host sends, each within bounds while it is read and not afterwards.
//!
//! Invariant: nothing is reserved on a length that was only announced, and no text holds characters that could forge a line
//! of a log. It does not know what the pieces mean.

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// Names of hosts, VMs, disks, targets and units, `target/unit` at the longest.
pub(super) const NAME_BYTES_MAX: usize = 512;

/// A reason. Longer ones are cut off by whoever sends them.
pub(super) const WORDS_BYTES_MAX: usize = 2048;

/// Room to begin with; more only when it has really come.
const FIRST: usize = 64;

struct List<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for List<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        let mut found = Vec::with_capacity(items.size_hint().unwrap_or(0).min(MAX).min(FIRST));
        while let Some(item) = items.next_element()? {
            if found.len() == MAX {
                return Err(Error::custom(format_args!("more than {MAX} in a list")));
            }
            found.push(item);
        }
        Ok(found)
    }
}

/// A list of at most `MAX`.
pub(super) fn list<'de, D, T, const MAX: usize>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    from.deserialize_seq(List::<T, MAX>(PhantomData))
}

/// A name: not empty, not long, nothing that cannot be seen.
pub(super) fn name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    checked(String::deserialize(from)?)
}

pub(super) fn checked<E: Error>(text: String) -> Result<String, E> {
    match text.len() {
        0 => Err(Error::custom("an empty name")),
        1..=NAME_BYTES_MAX if !text.chars().any(char::is_control) => Ok(text),
        1..=NAME_BYTES_MAX => Err(Error::custom("a name with control characters")),
        _ => Err(Error::custom(format_args!("a name of more than {NAME_BYTES_MAX} bytes"))),
    }
}

/// A reason: not long; what cannot be seen becomes a space.
pub(super) fn words<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    if text.len() > WORDS_BYTES_MAX {
        return Err(Error::custom(format_args!("a reason of more than {WORDS_BYTES_MAX} bytes")));
    }
    Ok(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
}

/// As [`words`], or nothing.
pub(super) fn maybe_words<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    #[derive(serde::Deserialize)]
    struct Words(#[serde(deserialize_with = "words")] String);
    Ok(Option::<Words>::deserialize(from)?.map(|words| words.0))
}

/// Cuts a reason so that the other side takes it.
pub(super) fn fit(text: &str) -> String {
    let end = (0..=text.len().min(WORDS_BYTES_MAX)).rev().find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or(0)].to_owned()
}
