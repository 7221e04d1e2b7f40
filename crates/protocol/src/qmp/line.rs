//! Cutting a byte stream into lines of bounded length.
//!
//! Invariant: at most [`LINE_LEN_MAX`] bytes are held, and only bytes that have arrived. Empty lines are skipped.
//! Rejected: finding the end of an object by counting braces, which must understand strings; QEMU ends its messages
//! with CR LF, and so do the clients in use. It does not know: JSON.

use super::{LINE_LEN_MAX, QmpError};

#[derive(Debug, Default)]
pub(crate) struct LineBuffer {
    held: Vec<u8>,
}

impl LineBuffer {
    /// The next non-empty line, without its end; takes from `input` only up to there.
    pub(crate) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, QmpError> {
        loop {
            let Some(end) = input.iter().position(|byte| *byte == b'\n') else {
                self.hold(input)?;
                *input = &[];
                return Ok(None);
            };
            self.hold(&input[..end])?;
            *input = &input[end + 1..];
            let line = std::mem::take(&mut self.held);
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line.trim_ascii().to_vec()));
            }
        }
    }

    fn hold(&mut self, bytes: &[u8]) -> Result<(), QmpError> {
        if self.held.len() + bytes.len() > LINE_LEN_MAX {
            return Err(QmpError::LineTooLong);
        }
        self.held.extend_from_slice(bytes);
        Ok(())
    }
}

/// The beginning of a line, fit for a log.
pub(crate) fn excerpt(line: &[u8]) -> String {
    let shown = String::from_utf8_lossy(&line[..line.len().min(80)]);
    shown.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
