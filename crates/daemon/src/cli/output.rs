//! Writing to stdout: a reader that has enough (`| head`) is no error.

use anyhow::Context;
use std::io::{self, Write};
use std::process::ExitCode;

pub(super) fn print(text: &str) -> anyhow::Result<ExitCode> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to stdout")
        }
        Ok(()) | Err(_) => Ok(ExitCode::SUCCESS),
    }
}
