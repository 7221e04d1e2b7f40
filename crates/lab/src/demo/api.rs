//! Asking the daemon, as any HTTP client would: one GET, one connection.
//!
//! Blocking and small, because three reads a second need no more. Invariant: an answer that is not a 200 with JSON is
//! an error that shows what came. Rejected: hyper here: it would bring a runtime into the script.
//! It does not know: what the answers mean.

use anyhow::{Context, Result};
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The daemon promises answers within a second.
const BOUND: Duration = Duration::from_secs(2);

/// # Errors
/// If the daemon does not answer, or not with success.
pub(super) fn get(socket: &Path, path: &str) -> Result<Value> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("no daemon at {}", socket.display()))?;
    stream.set_read_timeout(Some(BOUND))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: vmpath\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).with_context(|| format!("the daemon does not answer GET {path}"))?;
    parse(&answer).with_context(|| format!("GET {path}"))
}

fn parse(answer: &[u8]) -> Result<Value> {
    let text = std::str::from_utf8(answer)?;
    let (head, body) = text.split_once("\r\n\r\n").context("the answer is no HTTP")?;
    let ok = head.split_whitespace().nth(1) == Some("200");
    anyhow::ensure!(ok, "the daemon answers: {}\n{body}", head.lines().next().unwrap_or_default());
    serde_json::from_str(body).context("the answer is no JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_success_with_json_is_taken() {
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap(), serde_json::json!({}));
        for bad in ["HTTP/1.1 503 Busy\r\n\r\n{}", "HTTP/1.1 200 OK\r\n\r\nno", "garbage"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
