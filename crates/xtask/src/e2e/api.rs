//! The daemon's API as any program uses it: HTTP on a unix socket, one request a connection.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The daemon answers within a second whatever the state of the paths; that is checked apart.
const ANSWER_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub(crate) struct Api {
    socket: PathBuf,
    /// The longest that an answer has taken.
    pub(crate) slowest: Duration,
}

impl Api {
    pub(crate) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), slowest: Duration::ZERO }
    }

    /// # Errors
    /// Nobody answers, or the answer is an error.
    pub(crate) fn get(&mut self, path: &str) -> Result<Value> {
        let began = Instant::now();
        let answer = exchange(&self.socket, path).with_context(|| format!("GET {path}"))?;
        self.slowest = self.slowest.max(began.elapsed());
        read_answer(&answer).with_context(|| format!("GET {path}"))
    }
}

fn exchange(socket: &Path, path: &str) -> Result<Vec<u8>> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("nobody listens on {}", socket.display()))?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: vmpath\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("no whole answer")?;
    Ok(answer)
}

fn read_answer(answer: &[u8]) -> Result<Value> {
    let text = std::str::from_utf8(answer).context("the answer is not text")?;
    let (head, body) = text.split_once("\r\n\r\n").context("the answer has no body")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        bail!("status {status}: {body}");
    }
    serde_json::from_str(body).with_context(|| format!("the answer is not JSON: {body}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_json_or_its_error() {
        let well = read_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{\"a\": 1}").expect("an answer");
        assert_eq!(well["a"], 1);
        let ill = read_answer(b"HTTP/1.1 404 Not Found\r\n\r\n{\"error\": \"no\"}").expect_err("an error");
        assert!(ill.to_string().contains("404"));
    }
}
