//! A monitor of our own, apart from the daemon's: asks QEMU for its run state, so that a test can see what the daemon
//! claims, and stops and continues the machine as an operator would.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

const CONNECT_MAX: Duration = Duration::from_secs(10);
/// QEMU's main loop may be busy for that long.
const ANSWER_MAX: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Waits until QEMU listens, as long as `alive` says that it may still.
    pub(super) fn connect(socket: &Path, mut alive: impl FnMut() -> Result<()>) -> Result<Self> {
        let end = Instant::now() + CONNECT_MAX;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(why) if Instant::now() > end => {
                    bail!("QEMU has no monitor at {}: {why}", socket.display())
                }
                Err(_) => {
                    alive()?;
                    thread::sleep(Duration::from_millis(10));
                }
            }
        };
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        let mut monitor = Self { stream: BufReader::new(stream) };
        monitor.execute("qmp_capabilities", &Value::Null)?;
        Ok(monitor)
    }

    pub(super) fn run_state(&mut self) -> Result<String> {
        let answer = self.execute("query-status", &Value::Null)?;
        Ok(answer["status"].as_str().context("no status in the answer")?.to_owned())
    }

    /// Executes a command; how long its answer took.
    pub(super) fn timed(&mut self, command: &str) -> Result<Duration> {
        let began = Instant::now();
        self.execute(command, &Value::Null)?;
        Ok(began.elapsed())
    }

    /// Sends a command and returns what it returns; the greeting and events that come before are passed over.
    pub(super) fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let mut line = json!({ "execute": command });
        if !arguments.is_null() {
            line["arguments"] = arguments.clone();
        }
        self.stream.get_mut().write_all(line.to_string().as_bytes())?;
        let mut line = String::new();
        loop {
            line.clear();
            if self.stream.read_line(&mut line).context("no answer")? == 0 {
                bail!("closed");
            }
            let mut message: Value = serde_json::from_str(&line)?;
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
            if let Some(error) = message.get("error") {
                bail!("{command}: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn events_before_an_answer_are_passed_over() {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("m");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let lines = [
                r#"{"QMP": {}}"#,
                r#"{"return": {}}"#,
                r#"{"event": "STOP"}"#,
                r#"{"return": {"status": "paused"}}"#,
            ];
            stream.write_all((lines.join("\n") + "\n").as_bytes()).expect("a client");
            stream
        });
        let mut monitor = Monitor::connect(&socket, || Ok(())).expect("a monitor");
        assert_eq!(monitor.run_state().expect("a status"), "paused");
        drop(server.join());
    }
}
