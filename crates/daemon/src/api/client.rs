//! The other end of the API, for the commands of this binary: one request, one second, one answer.

use super::wire;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// No command takes longer, whatever the state of the daemon.
const CALL_WAIT: Duration = Duration::from_secs(1);

/// Talks to the daemon behind a socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// What a request asks.
#[derive(Clone, Debug)]
pub enum Ask {
    Get(String),
    Post(String),
    SetAccess { at: String, access: String },
}

/// A success: the JSON as it came.
#[derive(Clone, Debug)]
pub struct Reply {
    body: Bytes,
}

/// Why there is no answer, or what the daemon refused.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error(
        "no vmpath daemon answers at {socket}: {why}\n  help: is it running (`systemctl status vmpath`)? is this its `host.api_socket`? name another with --socket or VMPATH_SOCKET"
    )]
    Nobody { socket: PathBuf, why: String },
    #[error(
        "the daemon at {socket} did not answer within 1 s\n  help: look at its log (`journalctl -u vmpath`); what was asked may still happen"
    )]
    Silent { socket: PathBuf },
    #[error("{}", refusal(.0))]
    Refused(wire::Error),
    #[error(
        "the daemon's answer cannot be understood: {0}\n  help: are daemon and command of the same version?"
    )]
    Garbled(String),
}

fn refusal(error: &wire::Error) -> String {
    let mut text = error.error.clone();
    for fault in &error.faults {
        text.push_str("\n  ");
        text.push_str(&fault_line(fault));
    }
    if !error.help.is_empty() {
        text.push_str("\n  help: ");
        text.push_str(&error.help);
    }
    text
}

/// A fault on one line, with its place and its hint.
#[must_use]
pub fn fault_line(fault: &wire::Fault) -> String {
    let place = match (&fault.source, fault.line, fault.column) {
        (Some(source), Some(line), Some(column)) => format!("{source}:{line}:{column}: "),
        _ => String::new(),
    };
    let hint = fault.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
    format!("{place}{}{hint}", fault.message)
}

impl Reply {
    /// The JSON text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// # Errors
    /// It is not what was expected.
    pub fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, CallError> {
        serde_json::from_slice(&self.body).map_err(|error| CallError::Garbled(error.to_string()))
    }
}

impl Client {
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Asks the daemon. Blocks for at most one second.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call(&self, ask: &Ask) -> Result<Reply, CallError> {
        let nobody =
            |error: &io::Error| CallError::Nobody { socket: self.socket.clone(), why: error.to_string() };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| nobody(&error))?;
        let answer = runtime.block_on(async {
            tokio::time::timeout(CALL_WAIT, async {
                let stream = UnixStream::connect(&self.socket).await.map_err(|error| nobody(&error))?;
                exchange(stream, ask).await
            })
            .await
        });
        answer.unwrap_or_else(|_| Err(CallError::Silent { socket: self.socket.clone() }))
    }

    /// Asks and reads.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn get<T: serde::de::DeserializeOwned>(&self, at: &str) -> Result<T, CallError> {
        self.call(&Ask::Get(at.into()))?.read()
    }
}

async fn exchange(stream: UnixStream, ask: &Ask) -> Result<Reply, CallError> {
    let garbled = |error: hyper::Error| CallError::Garbled(error.to_string());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(garbled)?;
    let carried = tokio::spawn(connection);
    let response = sender.send_request(request(ask)?).await.map_err(garbled)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(garbled)?.to_bytes();
    carried.abort();
    if status.is_success() { Ok(Reply { body }) } else { Err(CallError::Refused(error_in(status, &body))) }
}

fn error_in(status: StatusCode, body: &[u8]) -> wire::Error {
    serde_json::from_slice(body).unwrap_or_else(|_| wire::Error {
        error: format!("the daemon answers {status}"),
        ..wire::Error::default()
    })
}

fn request(ask: &Ask) -> Result<Request<Full<Bytes>>, CallError> {
    let (method, at, body) = match ask {
        Ask::Get(at) => (Method::GET, at, Bytes::new()),
        Ask::Post(at) => (Method::POST, at, Bytes::new()),
        Ask::SetAccess { at, access } => {
            let body = serde_json::to_vec(&wire::SetAccess { access: access.clone() });
            (Method::POST, at, body.map_err(|error| CallError::Garbled(error.to_string()))?.into())
        }
    };
    Request::builder()
        .method(method)
        .uri(at)
        .header("host", "vmpath")
        .header("content-type", "application/json")
        .body(Full::new(body))
        .map_err(|error| CallError::Garbled(error.to_string()))
}

/// One part of an address, with everything escaped that a name of the configuration cannot hold.
#[must_use]
pub fn segment(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    name.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped() {
        assert_eq!(segment("db-1.root_A"), "db-1.root_A");
        assert_eq!(segment("a/b ?é"), "a%2Fb%20%3F%C3%A9");
    }

    #[test]
    fn a_refusal_shows_every_fault_and_the_help() {
        let fault = |line| wire::Fault {
            source: Some("f.toml".into()),
            line,
            column: Some(1),
            message: "bad".into(),
            hint: Some("do so".into()),
        };
        let error =
            wire::Error { error: "no".into(), help: "yes".into(), faults: vec![fault(Some(3)), fault(None)] };
        assert_eq!(refusal(&error), "no\n  f.toml:3:1: bad (do so)\n  bad (do so)\n  help: yes");
    }

    #[test]
    fn an_absent_daemon_is_explained() {
        let error = Client::new(Path::new("/nonexistent/s")).call(&Ask::Get("/v1/host".into())).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("/nonexistent/s") && text.contains("--socket"), "{text}");
    }
}
