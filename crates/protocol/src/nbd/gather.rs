//! Collecting a header that arrives in pieces, and reading big-endian fields without panics.
//!
//! Invariant: a [`Gather`] holds only bytes that have arrived, whatever length was announced for them.
//! Rejected: leaving the incomplete rest with the caller, which puts the growing buffer in every owner instead.
//! It does not know: what the bytes mean, or which length is too long (its users check that first).

use super::wire::STRING_MAX;

/// Bytes of one incomplete message.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    held: Vec<u8>,
}

impl Gather {
    /// Moves bytes from `input` until `need` are held; whether they are.
    pub(crate) fn fill(&mut self, input: &mut &[u8], need: usize) -> bool {
        let missing = need.saturating_sub(self.held.len());
        let (taken, rest) = input.split_at(missing.min(input.len()));
        self.held.extend_from_slice(taken);
        *input = rest;
        self.held.len() >= need
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.held
    }

    pub(crate) fn clear(&mut self) {
        self.held.clear();
    }
}

/// Reads fields from the front of a slice; `None` when it is too short.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}

/// A peer's text made fit for a terminal and a log: at most `TEXT_CHARS_MAX` characters, control characters replaced.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(4 * TEXT_CHARS_MAX)];
    let text = String::from_utf8_lossy(shown);
    text.chars().take(TEXT_CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Enough for any honest message; what is beyond is not worth a line of log.
const TEXT_CHARS_MAX: usize = 1024;

/// The longest part of `text` that the protocol allows in a string.
pub(crate) fn cut(text: &str) -> &str {
    let mut end = text.len().min(STRING_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
