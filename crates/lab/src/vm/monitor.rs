//! The stand-in's QMP socket: speaks as QEMU 7.2 does, one client at a time.
//!
//! Invariant: answers come in the order of the commands, and an event that happened before an answer is sent before
//! it. While a command is being carried out no other is read, as QEMU's main loop. Rejected: answering what QEMU
//! would not. It does not know: disks; the machine answers.

use serde_json::{Value, json};
use std::time::SystemTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, mpsc, oneshot};
use vmpath_protocol::qmp::{
    EventTime, QemuVersion, QmpCommand, QmpCommandReader, QmpRequest, encode_error, encode_event,
    encode_greeting, encode_return,
};

/// What a command is answered with: a value, or class and description of an error.
pub(super) type Answer = Result<Value, (&'static str, String)>;

/// A command, and the way back.
pub(super) type Asked = (QmpCommand, oneshot::Sender<Answer>);

/// An event as every client sees it.
#[derive(Clone, Debug)]
pub(super) struct MonitorEvent {
    name: &'static str,
    time: EventTime,
    data: Value,
}

impl MonitorEvent {
    /// It happens now.
    #[must_use]
    pub(super) fn now(name: &'static str, data: Value) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time =
            EventTime { seconds: since.as_secs() as i64, microseconds: i64::from(since.subsec_micros()) };
        Self { name, time, data }
    }
}

/// Serves one client after another.
pub(super) async fn serve(
    listener: UnixListener,
    machine: mpsc::Sender<Asked>,
    events: broadcast::Sender<MonitorEvent>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let mut client = Client { stream, machine: machine.clone(), negotiated: false };
                // A client that goes away is no news.
                let _ = client.converse(events.subscribe()).await;
            }
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

struct Client {
    stream: UnixStream,
    machine: mpsc::Sender<Asked>,
    negotiated: bool,
}

impl Client {
    async fn converse(&mut self, mut events: broadcast::Receiver<MonitorEvent>) -> anyhow::Result<()> {
        let version = QemuVersion { major: 7, minor: 2, micro: 0, package: " (vmpath lab)".to_owned() };
        self.stream.write_all(&encode_greeting(&version)).await?;
        let mut reader = QmpCommandReader::new();
        let (mut held, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let fed = reader.feed(&held)?;
            held.drain(..fed.consumed);
            match fed.event {
                Some(request) => self.answer(request, &mut events).await?,
                None => tokio::select! {
                    event = events.recv() => self.tell(event.ok()).await?,
                    read = self.stream.read(&mut buffer) => match read? {
                        0 => return Ok(()),
                        bytes => held.extend_from_slice(&buffer[..bytes]),
                    }
                },
            }
        }
    }

    async fn answer(
        &mut self,
        request: QmpRequest,
        events: &mut broadcast::Receiver<MonitorEvent>,
    ) -> anyhow::Result<()> {
        let (id, answer) = match request {
            QmpRequest::Malformed { id, desc } => (id, Err(("GenericError", desc))),
            QmpRequest::Command(command) => (command.id.clone(), self.carry_out(command, events).await?),
        };
        let line = match answer {
            Ok(value) => encode_return(id.as_ref(), &value),
            Err((class, desc)) => encode_error(id.as_ref(), class, &desc),
        };
        Ok(self.stream.write_all(&line).await?)
    }

    async fn carry_out(
        &mut self,
        command: QmpCommand,
        events: &mut broadcast::Receiver<MonitorEvent>,
    ) -> anyhow::Result<Answer> {
        match (command.name.as_str(), self.negotiated) {
            ("qmp_capabilities", false) => {
                self.negotiated = true;
                return Ok(Ok(json!({})));
            }
            (name, false) => {
                let why = format!("Expecting capabilities negotiation with 'qmp_capabilities', got {name:?}");
                return Ok(Err(("CommandNotFound", why)));
            }
            (_, true) => {}
        }
        let (to, mut answer) = oneshot::channel();
        self.machine.send((command, to)).await?;
        loop {
            tokio::select! {
                biased;
                event = events.recv() => self.tell(event.ok()).await?,
                answer = &mut answer => return Ok(answer?),
            }
        }
    }

    async fn tell(&mut self, event: Option<MonitorEvent>) -> anyhow::Result<()> {
        if let Some(event) = event.filter(|_| self.negotiated) {
            self.stream.write_all(&encode_event(event.name, event.time, &event.data)).await?;
        }
        Ok(())
    }
}
