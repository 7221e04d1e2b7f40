//! Whether the hypervisor waits for its VM: asked at its monitor until it says so.
//!
//! It speaks just enough QMP for two questions, and lets go of the monitor, which the VM's own task then takes.

use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};
use vmpath_protocol::qmp::{QmpMessage, QmpReader, execute, qmp_capabilities, query_status};

/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(25);

/// For an answer on one connection: who has another client serves that one first.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// The run state of a QEMU that was started with `-incoming`.
const WAITS: &str = "inmigrate";

/// Whether somebody listens there at all.
pub(super) async fn is_answered(qmp: &Path) -> bool {
    matches!(timeout(ANSWER_WAIT, UnixStream::connect(qmp)).await, Ok(Ok(_)))
}

/// Asks until it waits for a VM, for ever; the bytes of memory that its guest will have, if it says so.
///
/// # Errors
/// It runs, but does not wait for a VM; in words.
pub(super) async fn incoming(qmp: &Path) -> Result<Option<u64>, String> {
    loop {
        if let Ok(Ok((state, memory))) = timeout(ANSWER_WAIT, ask(qmp)).await {
            if state == WAITS {
                return Ok(memory);
            }
            return Err(format!(
                "the hypervisor that the launch command starts is {state}, and does not wait for a VM: it must be given \
                 -incoming \"$VMPATH_INCOMING\""
            ));
        }
        sleep(AGAIN).await;
    }
}

async fn ask(qmp: &Path) -> io::Result<(String, Option<u64>)> {
    let mut monitor = Monitor { stream: UnixStream::connect(qmp).await?, reader: QmpReader::new() };
    monitor.exchange(1, qmp_capabilities(1)).await?;
    let status = monitor.exchange(2, query_status(2)).await?;
    let sizes = execute("query-memory-size-summary", &serde_json::Value::Null, 3);
    // One that does not know the question has some memory all the same.
    let memory = monitor.exchange(3, sizes).await.unwrap_or_default();
    let state = status["status"].as_str().unwrap_or("in no state that it names");
    Ok((state.to_owned(), memory["base-memory"].as_u64()))
}

struct Monitor {
    stream: UnixStream,
    reader: QmpReader,
}

impl Monitor {
    /// Asks, and passes over all that is not the answer.
    async fn exchange(&mut self, id: u64, question: Vec<u8>) -> io::Result<serde_json::Value> {
        self.stream.write_all(&question).await?;
        let mut bytes = [0; 4096];
        loop {
            let length = self.stream.read(&mut bytes).await?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(answer) = self.answer(id, &bytes[..length])? {
                return Ok(answer);
            }
        }
    }

    fn answer(&mut self, wanted: u64, mut bytes: &[u8]) -> io::Result<Option<serde_json::Value>> {
        let mut found = None;
        loop {
            let fed = self.reader.feed(bytes).map_err(io::Error::other)?;
            bytes = &bytes[fed.consumed..];
            match fed.event {
                Some(QmpMessage::Return { id: Some(id), value }) if id == wanted => found = Some(value),
                Some(QmpMessage::Error { id: Some(id), desc, .. }) if id == wanted => {
                    return Err(io::Error::other(desc));
                }
                Some(_) => {}
                None => return Ok(found),
            }
        }
    }
}
