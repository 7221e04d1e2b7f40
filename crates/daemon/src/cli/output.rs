//! Writing to stdout: a reader that has enough (`| head`) is no error.

use anyhow::Context;
use ratatui::crossterm::terminal;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

/// Columns of the terminal that stdout is, if it is one.
pub(super) fn width() -> Option<usize> {
    let size = if io::stdout().is_terminal() { terminal::size().ok() } else { None };
    size.map(|(columns, _)| usize::from(columns)).filter(|columns| *columns > 0)
}

/// Prints, and says whether anybody still reads.
pub(super) fn still_read(text: &str) -> anyhow::Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot write to stdout"),
        Ok(()) => Ok(true),
    }
}

pub(super) fn print(text: &str) -> anyhow::Result<ExitCode> {
    still_read(text).map(|_| ExitCode::SUCCESS)
}
